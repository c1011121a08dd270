"""A container without an engine: the flags of our deployment files, made with what the kernel and util-linux offer.

``python cell.py SPEC`` runs in a mount and pid namespace of its own (``unshare``) and becomes the command: as an
unprivileged user without capabilities and without a way to get any, on a root that is read-only and has nothing of the
machine but Python, the checkout and what the spec names, under the spec's seccomp filter. ``--inside`` is what ``docker
exec`` is: the same, for a process in the namespaces of one that runs. Root only; the network is the machine's.
"""

from __future__ import annotations

import ctypes
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

USER = 10001
PATIENCE_S = 600.0  # as in conftest, which this file cannot import where it runs as a script
ROOT = Path(__file__).parents[2]
DEVICES = ("null", "zero", "full", "random", "urandom")
NO_NEW_PRIVS, SECCOMP, FILTER, DROP, MDWE = 38, 22, 2, 24, 65


class Cell:
    """A process in a container of its own.

    Args:
        name: for its files.
        folder: for them.
        read_only, writable: where in the cell → what of this machine.
        environment: all that it has beside the image's.
        seccomp: BPF program, or None.
        mdwe: forbid memory that is writable and executable (systemd's MemoryDenyWriteExecute).
        proc: options of its /proc.
    """

    def __init__(
        self,
        name: str,
        folder: Path,
        *,
        read_only: Mapping[str, Path],
        writable: Mapping[str, Path],
        environment: Mapping[str, str] | None = None,
        seccomp: bytes | None = None,
        mdwe: bool = False,
        proc: str = "",
    ) -> None:
        self.name, self._folder = name, folder / name
        self._folder.mkdir(parents=True)
        self.log = self._folder / "log"
        for where in writable.values():
            where.mkdir(parents=True, exist_ok=True)
            where.chmod(0o700)
            os.chown(where, USER, USER)
        image = {"HOME": "/tmp", "PATH": "/opt/moonflower/bin:/usr/bin:/bin", "PYTHONDONTWRITEBYTECODE": "1"}
        self._spec: dict[str, Any] = {
            "root": str(self._folder / "root"),
            "read_only": {to: str(of) for to, of in read_only.items()},
            "writable": {to: str(of) for to, of in writable.items()},
            "environment": {**image, **(environment or {})},
            "seccomp": seccomp.hex() if seccomp else "",
            "mdwe": mdwe,
            "proc": proc,
        }
        self._process: subprocess.Popen[bytes] | None = None

    def start(self, *command: str) -> Cell:
        """Start the cell's one process."""
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(self._line(command), stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        return self

    def run(self, *command: str) -> subprocess.CompletedProcess[str]:
        """Run a command to its end in a new cell of this kind, as ``docker run --rm`` does."""
        return subprocess.run(self._line(command), capture_output=True, text=True, timeout=PATIENCE_S, check=False)

    def inside(self, *command: str) -> subprocess.CompletedProcess[str]:
        """Run a command in the cell that was started, as ``docker exec`` and health checks do."""
        line = [
            *("nsenter", "--target", str(self.pid), "--mount", "--pid", "--"),
            *(sys.executable, "-I", str(Path(__file__)), "--inside", *self._written(command)),
        ]
        return subprocess.run(line, capture_output=True, text=True, timeout=PATIENCE_S, check=False)

    @property
    def pid(self) -> int:
        """The process as this machine numbers it; in the cell it is 1."""
        assert self._process is not None
        children = Path(f"/proc/{self._process.pid}/task/{self._process.pid}/children")
        deadline = time.monotonic() + PATIENCE_S
        while not (found := children.read_text().split()) and time.monotonic() < deadline:
            time.sleep(0.05)
        return int(found[0])

    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def stop(self, within_s: float = PATIENCE_S) -> int:
        """Ask the process to end, as engines do; return its exit status."""
        assert self._process is not None
        if self.running():
            os.kill(self.pid, signal.SIGTERM)
        return self._process.wait(within_s)

    def wait(self, within_s: float = PATIENCE_S) -> int:
        assert self._process is not None
        return self._process.wait(within_s)

    def kill(self) -> None:
        """End everything in the cell."""
        if self._process is not None and self._process.poll() is None:
            os.kill(self.pid, signal.SIGKILL)  # the first of its namespace: the kernel ends the rest, and unshare
            self._process.wait()

    def said(self) -> str:
        return self.log.read_text(errors="replace")

    def _line(self, command: Sequence[str]) -> list[str]:
        line = ["unshare", "--mount", "--propagation", "private", "--pid", "--fork", "--kill-child", "--"]
        return [*line, sys.executable, "-I", str(Path(__file__)), *self._written(command)]

    def _written(self, command: Sequence[str]) -> list[str]:
        return [json.dumps({**self._spec, "command": list(command)})]


def build(spec: Mapping[str, Any]) -> None:
    """Make the cell's root and move into it."""
    os.umask(0o022)  # whoever starts this may have closed its own files to others
    root = Path(spec["root"])
    root.mkdir(exist_ok=True)
    mount("-t", "tmpfs", "-o", "mode=0755", "cell", root)
    for place in ("tmp", "dev", "proc", "old"):
        (root / place).mkdir()
    mount("-t", "tmpfs", "-o", "mode=1777,noexec,nosuid,nodev,size=64m", "tmp", root / "tmp")
    mount("-t", "tmpfs", "-o", "mode=0755", "dev", root / "dev")
    for device in DEVICES:
        (root / "dev" / device).touch()
        mount("--bind", f"/dev/{device}", root / "dev" / device)
    (root / "dev/shm").mkdir()
    mount("-t", "tmpfs", "-o", "mode=1777,noexec,nosuid,nodev,size=64m", "shm", root / "dev/shm")
    for place in ("bin", "sbin", "lib", "lib64"):
        if Path("/", place).is_symlink():
            (root / place).symlink_to(Path("/", place).readlink())
        elif Path("/", place).is_dir():
            bind(f"/{place}", root, f"/{place}")
    python = {place: place for place in ("/usr", sys.base_prefix, sys.prefix, str(ROOT))}
    for to, of in {**python, "/opt/moonflower": sys.prefix}.items():
        show(Path(of), root, to)
    for to, of in spec["read_only"].items():
        bind(of, root, to)
    for to, of in spec["writable"].items():
        bind(of, root, to, "nosuid,nodev")
    options = ["-o", spec["proc"]] if spec["proc"] else []
    mount("-t", "proc", *options, "proc", root / "proc")
    os.chdir(root)
    pivot = shutil.which("pivot_root", path="/usr/sbin:/sbin:/usr/bin") or "pivot_root"
    subprocess.run([pivot, ".", "old"], check=True)
    os.chdir("/")
    subprocess.run(["umount", "--lazy", "/old"], check=True)
    os.rmdir("/old")
    for place in ("/dev", "/"):
        mount("-o", "remount,ro", place)


def show(of: Path, root: Path, to: str) -> None:
    """Bind a folder of code; one whose top is closed to other users, as a checkout's may be, entry by entry."""
    if of.stat().st_mode & 0o005 == 0o005:
        return bind(str(of), root, to)
    for entry in of.iterdir():
        bind(str(entry), root, f"{to}/{entry.name}")


def bind(of: str, root: Path, to: str, options: str = "ro,nosuid,nodev") -> None:
    target = root / to.lstrip("/")
    if Path(of).is_dir():
        target.mkdir(parents=True, exist_ok=True)
    else:
        target.parent.mkdir(parents=True, exist_ok=True)
        target.touch()
    mount("--bind", of, target)
    mount("-o", f"remount,bind,{options}", target)


def mount(*arguments: str | Path) -> None:
    subprocess.run(["mount", *map(str, arguments)], check=True)


def become(spec: Mapping[str, Any]) -> None:
    """Give up every right and become the command."""
    libc = ctypes.CDLL(None, use_errno=True)
    last = int(Path("/proc/sys/kernel/cap_last_cap").read_text()) if Path("/proc/sys").is_dir() else 40
    for capability in range(last + 1):
        demand(libc.prctl(DROP, capability, 0, 0, 0))
    os.setgroups([])
    os.setresgid(USER, USER, USER)
    os.setresuid(USER, USER, USER)
    demand(libc.prctl(NO_NEW_PRIVS, 1, 0, 0, 0))
    if spec["mdwe"]:
        demand(libc.prctl(MDWE, 1, 0, 0, 0))
    if spec["seccomp"]:
        code = bytes.fromhex(spec["seccomp"])
        held = ctypes.create_string_buffer(code, len(code))

        class Program(ctypes.Structure):
            _fields_ = (("length", ctypes.c_ushort), ("filter", ctypes.c_void_p))

        given = Program(len(code) // 8, ctypes.addressof(held))
        demand(libc.prctl(SECCOMP, FILTER, ctypes.byref(given), 0, 0))
    os.execve(spec["command"][0], spec["command"], spec["environment"])


def demand(result: int) -> None:
    if result != 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


def possible() -> str:
    """Return why there can be no cells here, or ""."""
    if sys.platform != "linux" or os.geteuid() != 0:
        return "needs Linux and root, to make namespaces and mounts"
    closed = [file for file in (Path(__file__), Path(sys.prefix, "pyvenv.cfg")) if not file.stat().st_mode & 0o004]
    if closed:
        return f"a cell's user may not read this checkout ({closed[0]}): it was made under a umask like 077"
    said = subprocess.run(
        ["unshare", "--mount", "--pid", "--fork", "mount", "-t", "tmpfs", "none", "/mnt"], check=False
    )
    return "" if said.returncode == 0 else "this machine lets nobody make namespaces and mounts"


if __name__ == "__main__":
    if sys.argv[1] == "--inside":
        become(json.loads(sys.argv[2]))
    given = json.loads(sys.argv[1])
    build(given)
    become(given)
