"""A federation under the flags of configs/deploy/, without an engine (``cell.py``), by the steps of the documents.

Each process is the first of its container: user 10001 without a name, no capability and no way to get one, a root that
is read-only, a /tmp of its own, the paths that the manifests mount. The four are confined in four ways: the server as
by its unit, one node as in compose, one as by its unit, one as on Kubernetes, where it cannot take its worker's network
away.
"""

from __future__ import annotations

import json
import os
import platform
import re
import shutil
import subprocess
import time
import tomllib
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import tomli_w
from moonflower.federation import processes
from moonflower.federation import stage as staging
from moonflower.federation.certificates import for_loopback
from support import CONFIGS, PATIENCE_S, cell, filters
from support.cell import USER, Cell
from support.deployment import DEPLOY, unit
from support.live import family
from support.peers import missing

MOONFLOWER = "/opt/moonflower/bin/moonflower"
PROFILE = DEPLOY / "container" / "client.seccomp.json"
STATES = {"server": "/var/lib/moonflower-server", "issuer": "/var/lib/issuer"}
CLIENT_STATE = "/var/lib/moonflower-client"
FEWEST = {"server": 2, "issuer": 1}
SITES = {"cleveland": "Cleveland", "hungary": "Hungary", "switzerland": "Switzerland"}


def confinements() -> dict[str, dict[str, Any]]:
    """Return what holds each process, beside what holds all of them."""
    return {
        "server": {"seccomp": filters.of_unit(unit("server")), "mdwe": True},
        "cleveland": {"seccomp": filters.of_profile(PROFILE)},
        "hungary": {"seccomp": filters.of_unit(unit("client"))},
        "switzerland": {"seccomp": filters.of_profile(PROFILE, without=("unshare",))},
    }


class Deployed:
    """A federation of cells, laid out as the manifests mount it.

    Args:
        folder: empty.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        issuer, server = staging.free_ports(2)
        self.issuer_url, self.server_url = f"http://127.0.0.1:{issuer}", f"https://127.0.0.1:{server}"
        made = for_loopback(datetime.now(UTC))
        for name, data in (("ca.pem", made.ca), ("server.pem", made.certificate), ("server.key", made.key)):
            (folder / name).write_bytes(data)
        (folder / "server.key").chmod(0o400)
        os.chown(folder / "server.key", USER, USER)
        self.cells: dict[str, Cell] = {}
        self._server(f"127.0.0.1:{server}")
        for name in SITES:
            self._client(name)

    def _server(self, listen: str) -> None:
        config = tomllib.loads((DEPLOY / "config/server.toml").read_text())
        config["server"] |= {"listen": listen, "url": self.server_url}
        config["oauth"] |= {"issuer": self.issuer_url}
        read_only = {
            "/etc/moonflower/server.toml": self._written("server.toml", config),
            "/run/secrets/server.pem": self.folder / "server.pem",
            "/run/secrets/server.key": self.folder / "server.key",
        }
        self._cell("server", read_only, "/var/lib/moonflower-server")

    def _client(self, name: str) -> None:
        rows = pd.read_csv(CONFIGS / "data/heart.csv.gz")
        data = self.folder / f"{name}.data"
        data.mkdir()
        rows[rows["site"] == SITES[name]].drop(columns="site").to_csv(data / "rows.csv", index=False)
        config = tomllib.loads((DEPLOY / "config/client.toml").read_text())
        config["client"] |= {"member": name, "server": self.server_url, "ca": "/etc/moonflower/ca.pem"}
        config["client"] |= {"idle_poll_s": 0.5, "isolate": name != "switzerland"}
        config["oauth"] |= {"issuer": self.issuer_url, "client_id": name}
        read_only = {
            "/etc/moonflower/client.toml": self._written(f"{name}.toml", config),
            "/etc/moonflower/ca.pem": self.folder / "ca.pem",
            "/data": data,
        }
        self._cell(name, read_only, "/var/lib/moonflower-client")

    def _cell(self, name: str, read_only: dict[str, Path], state: str) -> None:
        writable = {state: self.folder / f"{name}.state"}
        more = confinements()[name]
        self.cells[name] = Cell(name, self.folder / "cells", read_only=read_only, writable=writable, **more)

    def _written(self, name: str, config: dict[str, Any]) -> Path:
        file = self.folder / name
        file.write_text(tomli_w.dumps(config))
        return file

    def enrol(self) -> None:
        """Make keys, and put the members on the roster; start the issuer with the clients' keys."""
        public = {}
        for name in SITES:
            said = done(self.cells[name].run(MOONFLOWER, "keys", "new", "/etc/moonflower/client.toml"))
            public[name] = found(r"public key of .*?: (\{.*\})", said)
        for name in SITES:
            said = done(self.cells[name].run(MOONFLOWER, "member", "card", "/etc/moonflower/client.toml"))
            card = self.folder / f"{name}.card.json"
            card.write_text(said.splitlines()[0])
            self.cells["server"]._spec["read_only"][f"/cards/{card.name}"] = str(card)
            add = ("member", "add", f"/cards/{card.name}", "--config", "/etc/moonflower/server.toml")
            done(self.cells["server"].run(MOONFLOWER, *add))
        operator = {"operator": {"server": self.server_url, "ca": "ca.pem"}}
        operator["oauth"] = {"issuer": self.issuer_url, "client_id": "desk", "key": "desk.jwk"}
        desk = self._written("operator.toml", operator)
        said = done(subprocess.run(processes.command("keys", "new", desk), capture_output=True, text=True, check=False))
        public["desk"] = found(r"public key of .*?: (\{.*\})", said)
        self._issue(public)

    def _issue(self, public: dict[str, str]) -> None:
        clients, read_only = [], {}
        for name, key in public.items():
            (self.folder / f"{name}.pub").write_text(key)
            read_only[f"/etc/moonflower/{name}.pub"] = self.folder / f"{name}.pub"
            scopes = ["fl:run", "fl:audit"] if name == "desk" else ["fl:train"]
            clients.append({"client_id": name, "key": f"{name}.pub", "scopes": scopes})
        listen = self.issuer_url.removeprefix("http://")
        own = {"listen": listen, "audience": "https://fl.example.org/", "state": "/var/lib/issuer/state"}
        read_only["/etc/moonflower/issuer.toml"] = self._written("issuer.toml", {"issuer": own, "client": clients})
        state = {"/var/lib/issuer": self.folder / "issuer.state"}
        issuer = Cell("issuer", self.folder / "cells", read_only=read_only, writable=state)
        self.cells["issuer"] = issuer.start(MOONFLOWER, "issuer", "/etc/moonflower/issuer.toml")

    def start(self, name: str) -> None:
        kind = "server" if name == "server" else "client"
        self.cells[name].start(MOONFLOWER, kind, f"/etc/moonflower/{kind}.toml")

    def health(self, name: str) -> subprocess.CompletedProcess[str]:
        """Run the health check of the image in the cell."""
        kind = "server" if name == "server" else "client"
        return self.cells[name].inside(MOONFLOWER, "health", f"/etc/moonflower/{kind}.toml")

    def await_health(self, name: str, within_s: float = PATIENCE_S) -> str:
        deadline = time.monotonic() + within_s
        while (said := self.health(name)).returncode != 0:
            assert self.cells[name].running(), self.cells[name].said()
            assert time.monotonic() < deadline, said.stdout + self.cells[name].said()
            time.sleep(3)  # a check costs most of a second itself
        return said.stdout

    def end(self) -> None:
        for one in self.cells.values():
            one.kill()


def done(said: subprocess.CompletedProcess[str]) -> str:
    assert said.returncode == 0, said.stderr
    return said.stdout + said.stderr


def found(pattern: str, text: str) -> str:
    match = re.search(pattern, text)
    assert match, text
    return match.group(1)


@pytest.fixture
def deployed(tmp_path: Path) -> Iterator[Deployed]:
    if why := cell.possible():
        missing(f"no containers here: {why}")
    if platform.machine() != "x86_64" or not filters.NUMBERS.is_file():
        missing("no numbers of system calls here")
    if shutil.which("systemd-analyze") is None:
        missing("systemd-analyze is not installed here")
    tmp_path.chmod(0o755)
    federation = Deployed(tmp_path)
    try:
        yield federation
    finally:
        federation.end()


def status(pid: int) -> dict[str, str]:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return {name: value.strip() for name, _, value in (line.partition(":") for line in lines)}


def writable(pid: int) -> set[str]:
    """Return the mount points of a process's root that may be written to."""
    found = set()
    for line in Path(f"/proc/{pid}/mounts").read_text().splitlines():
        _, point, kind, options, *_ = line.split()
        if kind != "proc" and "rw" in options.split(",") and not point.startswith("/dev/"):
            found.add(point)
    return found


def left_in(pid: int, folder: str) -> list[str]:
    """Return what a cell wrote to one of its folders; what is mounted there does not count."""
    top = Path(f"/proc/{pid}/root/{folder}")
    device, files = top.stat().st_dev, []
    for here, folders, names in os.walk(top):
        folders[:] = [name for name in folders if Path(here, name).lstat().st_dev == device]
        files += [str(Path(here, name)) for name in names]
    return files


def check_confined(pid: int, name: str) -> None:
    """Check what the kernel says of a process."""
    known = status(pid)
    assert (known["Uid"].split(), known["Groups"]) == ([str(USER)] * 4, "")
    assert known["NoNewPrivs"] == "1"
    assert (known["Seccomp"] == "2") == (name != "issuer")
    own = Path(f"/proc/{pid}/ns/user").readlink() != Path("/proc/self/ns/user").readlink()
    if not own:  # a worker's rights in a user namespace of its own are over its empty network
        assert {known[kind] for kind in ("CapPrm", "CapEff", "CapBnd", "CapAmb")} == {"0" * 16}
    assert own <= (name in ("cleveland", "hungary"))


def check_logs(deployed: Deployed, run: str) -> None:
    """Check that each line is an object, and that a request can be followed from the server to the worker and back."""
    logs = {
        name: [json.loads(line) for line in deployed.cells[name].said().splitlines()] for name in ("server", *SITES)
    }
    for name in SITES:
        asked = [one for one in logs["server"] if one["process"] == "serverapp" and one["member"] == name]
        sealed = next(one for one in asked if (one["route"], one.get("round")) == ("train.seal", 2))
        assert sealed["run"] == run
        followed = {one["process"]: one for one in logs[name] if one.get("request") == sealed["request"]}
        assert {*followed} == {"worker", "node"}
        assert (followed["worker"]["run"], followed["worker"]["round"]) == (run, 2)


def test_a_federation_under_the_flags_of_the_deployment_files(deployed: Deployed) -> None:
    deployed.enrol()
    for name in ("server", *SITES):
        deployed.start(name)
    assert "answers" in deployed.await_health("server")
    for name in SITES:
        assert "last heard from the node" in deployed.await_health(name)

    shorter = ["training.rounds=2", "training.local_epochs=1", "training.report_every=0"]
    settings = [CONFIGS / "heart.toml", "--as", deployed.folder / "operator.toml", "--json"]
    settings += [word for one in shorter for word in ("--set", one)]
    cards = [word for name in SITES for word in ("--with", deployed.folder / f"{name}.card.json")]
    proposing = processes.command("circle", "propose", *settings, *cards)
    done(subprocess.run(proposing, capture_output=True, text=True, timeout=PATIENCE_S, check=False))
    for name in SITES:
        done(deployed.cells[name].inside(MOONFLOWER, "circle", "sign", "/etc/moonflower/client.toml", "--yes"))
    line = processes.command("run", *settings)
    said = subprocess.run(line, capture_output=True, text=True, timeout=PATIENCE_S, check=False)
    assert said.returncode == 0, said.stderr + deployed.cells["server"].said()
    result = json.loads(said.stdout)
    statuses = [one["status"] for one in result["rounds"]]
    assert {*statuses} <= {"promoted", "kept"}, "the nodes' secrets are drawn anew, and so are the votes"
    assert len(statuses) == 2
    assert (result["model"] is None) == ("promoted" not in statuses)
    assert all(one["members"] == sorted(SITES) for one in result["rounds"])

    for name, one in deployed.cells.items():
        found = family(one.pid)
        assert len(found) >= FEWEST.get(name, 3)
        for pid in found:
            check_confined(pid, name)
        assert writable(one.pid) == {STATES.get(name, CLIENT_STATE), "/tmp"}
        assert left_in(one.pid, "tmp") == left_in(one.pid, "dev/shm") == []
        assert one.inside("/usr/bin/touch", "/opt/moonflower/x").returncode == 1
    for name in SITES:
        assert ("the worker has a network" in deployed.cells[name].said()) == (name == "switzerland")

    check_logs(deployed, result["run"])
    for name in SITES:
        assert deployed.cells[name].stop() == 0
        gone = deployed.cells[name].run(MOONFLOWER, "health", "/etc/moonflower/client.toml")
        assert (gone.returncode, gone.stdout) == (1, f"{name}: the node is not connected\n")
    assert deployed.cells["server"].stop() == 0  # the first process of a container does not end by a signal
    assert deployed.cells["server"].run(MOONFLOWER, "health", "/etc/moonflower/server.toml").returncode == 1


def test_where_the_worker_cannot_leave_its_network_the_node_ends_with_2(deployed: Deployed) -> None:
    """Docker's own seccomp profile, or Kubernetes' RuntimeDefault, with isolate left at its default."""
    file = deployed.folder / "switzerland.toml"
    file.write_text(file.read_text().replace("isolate = false", "isolate = true"))
    one = deployed.cells["switzerland"]
    done(one.run(MOONFLOWER, "keys", "new", "/etc/moonflower/client.toml"))
    deployed.start("switzerland")
    assert one.wait() == 2
    assert "the worker's network cannot be taken away here" in one.said()
