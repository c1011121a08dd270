"""Seccomp filters as a container engine and systemd would make them, for tests that run without either. x86-64 only.

A profile in Docker's format, or a unit's SystemCallFilter=, RestrictNamespaces= and RestrictAddressFamilies=, becomes a
BPF program (seccomp(2)).
"""

from __future__ import annotations

import json
import re
import struct
import subprocess
from dataclasses import dataclass
from functools import cache
from pathlib import Path

NUMBERS = Path("/usr/include/x86_64-linux-gnu/asm/unistd_64.h")
X86_64 = 0xC000003E  # AUDIT_ARCH_X86_64
ALLOW, ERRNO, KILL = 0x7FFF0000, 0x00050000, 0x80000000
EPERM, ENOSYS, EAFNOSUPPORT = 1, 38, 97
NAMESPACES = {"net": 0x40000000, "user": 0x10000000, "mnt": 0x20000, "pid": 0x20000000, "uts": 0x4000000}
ALL_NAMESPACES = sum(NAMESPACES.values()) | 0x8000000 | 0x2000000  # and ipc, cgroup
FAMILIES = {"AF_UNIX": 1, "AF_INET": 2, "AF_INET6": 10}


@dataclass(frozen=True)
class Rule:
    """One system call: allowed if its first argument, masked, is one of ``values``; else it fails with ``errno``."""

    name: str
    mask: int = 0
    values: tuple[int, ...] = (0,)
    errno: int = EPERM


@cache
def numbers() -> dict[str, int]:
    """Return the numbers of this machine's system calls by name."""
    return {name: int(number) for name, number in re.findall(r"#define __NR_(\w+) (\d+)", NUMBERS.read_text())}


def of_profile(file: Path, *, without: tuple[str, ...] = ()) -> bytes:
    """Return the program of a profile in Docker's format (of its grammar, what ours uses), less some system calls."""
    profile = json.loads(file.read_text())
    assert profile["defaultAction"] == "SCMP_ACT_ERRNO"
    assert "SCMP_ARCH_X86_64" in profile["architectures"]
    rules = []
    for given in profile["syscalls"]:
        assert set(given) <= {"comment", "names", "action", "args", "errnoRet"}
        for name in given["names"]:
            if given["action"] == "SCMP_ACT_ERRNO":
                rules.append(Rule(name, values=(), errno=given["errnoRet"]))
                continue
            assert given["action"] == "SCMP_ACT_ALLOW"
            for one in given.get("args", [{"index": 0, "value": 0, "valueTwo": 0, "op": "SCMP_CMP_MASKED_EQ"}]):
                assert one["op"] == "SCMP_CMP_MASKED_EQ"
                assert one["index"] == 0
                rules.append(Rule(name, one["value"], (one["valueTwo"],)))
    return program([rule for rule in rules if rule.name not in without], profile["defaultErrnoRet"])


def of_unit(settings: dict[str, list[str]]) -> bytes:
    """Return the program of a unit's settings (name → values)."""
    allowed: set[str] = set()
    for line in settings["SystemCallFilter"]:
        found = set().union(*(group(name) for name in line.lstrip("~").split()))
        allowed = allowed - found if line.startswith("~") else allowed | found
    may = " ".join(settings["RestrictNamespaces"]).split()
    forbidden = ALL_NAMESPACES & ~sum(NAMESPACES[name] for name in may if name != "yes")
    families = tuple(FAMILIES[name] for name in " ".join(settings["RestrictAddressFamilies"]).split())
    special = [
        Rule("unshare", forbidden),
        Rule("clone", forbidden),
        Rule("clone3", values=(), errno=ENOSYS),
        Rule("setns", values=()),
        Rule("socket", 0xFFFFFFFF, families, EAFNOSUPPORT),
    ]
    names = {rule.name for rule in special}
    return program([*special, *(Rule(name) for name in sorted(allowed - names))], EPERM)


@cache
def group(name: str) -> frozenset[str]:
    """Return the system calls of a group of systemd's."""
    if not name.startswith("@"):
        return frozenset([name])
    said = subprocess.run(["systemd-analyze", "syscall-filter", name], capture_output=True, text=True, check=True)
    words = [line.strip() for line in said.stdout.splitlines()[1:] if line.strip() and not line.strip().startswith("#")]
    return frozenset().union(*(group(word) for word in words))


def program(rules: list[Rule], default: int) -> bytes:
    """Return the BPF program of some rules; any other system call fails with ``default``."""
    load, equal, masked, done = 0x20, 0x15, 0x54, 0x06  # LD W ABS, JMP JEQ K, ALU AND K, RET K
    lines = [(load, 0, 0, 4), (equal, 1, 0, X86_64), (done, 0, 0, KILL), (load, 0, 0, 0)]
    for rule in rules:
        number = numbers().get(rule.name)
        if number is None:  # of another machine
            continue
        if rule.mask == 0 and rule.values == (0,):
            lines += [(equal, 0, 1, number), (done, 0, 0, ALLOW)]
            continue
        body = [(load, 0, 0, 16), (masked, 0, 0, rule.mask)] if rule.values else []
        for value in rule.values:
            body += [(equal, 0, 1, value), (done, 0, 0, ALLOW)]
        body.append((done, 0, 0, ERRNO | rule.errno))
        lines += [(equal, 0, len(body), number), *body]
    lines.append((done, 0, 0, ERRNO | default))
    return b"".join(struct.pack("HBBI", *line) for line in lines)
