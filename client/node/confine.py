"""Limits for a child process of the node: a clean environment, no network, and no life after its parent.

Some limits exist only on Linux. On other systems the functions do what they can, and report what they could not do.
"""

from __future__ import annotations

import ctypes
import gc
import os
import signal
import sys
import threading
import time
from collections.abc import Mapping
from pathlib import Path

ALLOWED = (
    "CUDA_*",
    "FLWR_DISABLE_UPDATE_CHECK",
    "FLWR_TELEMETRY_ENABLED",
    "HIP_VISIBLE_DEVICES",
    "HOME",
    "LANG",
    "LC_*",
    "LD_LIBRARY_PATH",
    "OMP_NUM_THREADS",
    "PATH",
    "PYTHONPATH",
    "ROCR_VISIBLE_DEVICES",
    "TMPDIR",
    "TZ",
    "VIRTUAL_ENV",
)
"""Variables that the worker may see; ``*`` fits any ending. Tokens, proxies and cloud keys are not among them."""

_CLONE_NEWUSER, _CLONE_NEWNET, _PR_SET_PDEATHSIG = 0x10000000, 0x40000000, 1
_M_MMAP_THRESHOLD, _LARGE_BLOCK = -3, 4 << 20


def environment(variables: Mapping[str, str]) -> dict[str, str]:
    """Return the variables that a worker may see.

    >>> environment({"LC_ALL": "C", "AWS_SECRET_ACCESS_KEY": "x", "LANGUAGE": "de"})
    {'LC_ALL': 'C'}
    """
    families = tuple(name[:-1] for name in ALLOWED if name.endswith("*"))
    return {name: value for name, value in variables.items() if name in ALLOWED or name.startswith(families)}


def die_with(parent: int) -> None:
    """Arrange that this process is killed when its parent, process ``parent``, ends.

    Call this again after anything that changes credentials, because Linux drops the arrangement then.
    """
    if sys.platform != "linux" or ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0) != 0:
        threading.Thread(target=_watch, args=(parent,), daemon=True).start()
    if os.getppid() != parent:  # the parent ended before we asked
        os._exit(0)


def _watch(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(0.5)
    os._exit(0)


def take_network_away() -> bool:
    """Move this process into an empty network namespace; return whether a check finds it there.

    Call this before the first thread starts. Root needs nothing else. Other users also enter a new user namespace, in
    which they keep their user and group.
    """
    if sys.platform != "linux":
        return False
    user, group = os.getuid(), os.getgid()
    libc = ctypes.CDLL(None)
    if libc.unshare(_CLONE_NEWNET) != 0:
        if libc.unshare(_CLONE_NEWUSER | _CLONE_NEWNET) != 0:
            return False
        try:
            Path("/proc/self/setgroups").write_text("deny")
            Path("/proc/self/uid_map").write_text(f"{user} {user} 1")
            Path("/proc/self/gid_map").write_text(f"{group} {group} 1")
        except OSError:
            pass  # the namespace works anyway; only the names of users are lost
    return interfaces() == {"lo"}


def give_back_memory() -> None:
    """Give a job's memory back to the machine: cycles of objects, and memory that glibc would keep for later.

    Otherwise a worker stays as large as it ever was. Later calls ignore the objects that exist at the first call.
    """
    gc.collect()
    if not gc.get_freeze_count():
        gc.freeze()
    libc = ctypes.CDLL(None)
    if hasattr(libc, "mallopt") and hasattr(libc, "malloc_trim"):
        libc.mallopt(_M_MMAP_THRESHOLD, _LARGE_BLOCK)
        libc.malloc_trim(0)


def interfaces() -> set[str]:
    """Return the network interfaces that this process sees; an empty set if the kernel does not say."""
    try:
        lines = Path("/proc/self/net/dev").read_text().splitlines()[2:]
    except OSError:
        return set()
    return {line.partition(":")[0].strip() for line in lines}
