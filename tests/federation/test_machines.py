"""State machines: any program of crashes, restarts, late and doubled messages, and what must hold all the while.

Each machine is a module of its own: the log, the life of runs and rounds, a member that faces any coordinator. They
try the same random programs in every run of the suite; a failing one is made small and printed. And every machine has
to find what it is for: each of its ``WEAKENED`` takes one check out of the code. A program of ``programs.json`` finds
that; the code as it is passes the same program.

As a script it tries more and longer programs (``make soak``); with ``--find`` it searches a program for every
weakening that the file's no longer finds. No weakening is only for the run in trouble: ``test_resume.py`` finds that
failures in a row do not end a run, ``test_rules.py`` that somebody is missing.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from functools import cache
from typing import Any

import pytest
from support.machines import audit_log as log
from support.machines import member, programs, run
from support.machines.programs import Machine
from support.weakened import Weaken

Bounds = dict[Machine, tuple[int, int]]  # examples, steps
FAST: Bounds = {log.TheLog: (15, 20), member.TheMember: (5, 16), run.TheRun: (3, 6), run.TheTroubledRun: (3, 6)}
LONG: Bounds = {log.TheLog: (200, 40), member.TheMember: (200, 40), run.TheRun: (40, 12), run.TheTroubledRun: (60, 12)}
OFTEN = 6
SEARCHED: Bounds = {log.TheLog: (200, 20), member.TheMember: (200, 20), run.TheRun: (30, 8)}
WEAKENED: dict[Machine, tuple[Weaken, ...]] = {
    log.TheLog: log.WEAKENED,
    member.TheMember: member.WEAKENED,
    run.TheRun: run.WEAKENED,
}
EACH = [(machine, one) for machine, all_ in WEAKENED.items() for one in all_]


def named(value: Any) -> str:
    return str(value.__name__)


def key(machine: Machine, weaken: Weaken) -> str:
    """Return the name of a weakening in the file of programs."""
    return f"{machine.__name__} {weaken.__name__}"


def again(machine: Machine, program: bytes) -> None:
    """Carry a program out again; raises what it raises."""
    programs.again(machine, program, SEARCHED[machine][1])


def again_and_again(machine: Machine, first: bytes) -> None:
    """Carry programs out that the code as it is passes, this one first: chance lets it miss what another one finds."""
    others = {program for name, program in programs.load().items() if name.startswith(f"{named(machine)} ")}
    for program in (first, first, *sorted(others - {first}, key=len)):
        again(machine, program)


@cache
def passes(machine: Machine, program: bytes) -> bool:
    """Return whether the code as it is passes a program."""
    if machine is run.TheRun:
        run.undisturbed()  # what runs are compared with comes from code that is whole
    again(machine, program)
    return True


@pytest.mark.parametrize("machine", FAST, ids=named)
def test_what_is_promised_holds_in_any_program(machine: Machine) -> None:
    examples, steps = FAST[machine]
    programs.carry_out(machine, examples, steps, derandomize=True, database=None)


@pytest.mark.parametrize(("machine", "weaken"), EACH, ids=named)
def test_a_check_that_is_weakened_is_missed(machine: Machine, weaken: Weaken, monkeypatch: pytest.MonkeyPatch) -> None:
    own = programs.load()[key(machine, weaken)]
    assert passes(machine, own)
    weaken(monkeypatch)
    with pytest.raises((Exception, pytest.fail.Exception)) as found:
        again_and_again(machine, own)
    print(f"{weaken.__name__}: {type(found.value).__name__}: {found.value}")


def finds(machine: Machine, weaken: Weaken, program: bytes) -> bool:
    """Return whether a program notices a weakening, and passes without it."""
    try:
        passes(machine, program)
    except BaseException:
        return False
    with pytest.MonkeyPatch.context() as patch:
        weaken(patch)
        try:
            again(machine, program)
        except BaseException:
            return True
    return False


def find(machine: Machine, weaken: Weaken, known: Iterable[bytes]) -> bytes | None:
    """Return a known program that notices a weakening every time, or search one.

    Few programs are carried out on the code as it is, so weakenings share them. Keys that signatures are made of differ
    between processes, so a program that found a weakening once may miss it another time.
    """
    for program in known:
        if all(finds(machine, weaken, program) for _ in range(OFTEN)):
            return program
    if machine is run.TheRun:
        run.undisturbed()
    with pytest.MonkeyPatch.context() as patch:
        weaken(patch)
        return programs.search(machine, *SEARCHED[machine])


def find_all(word: str) -> None:
    """Look for a program for every weakening whose own finds it no longer; write the file."""
    known = programs.load() if programs.FILE.exists() else {}
    known = {key(*one): known[key(*one)] for one in EACH if key(*one) in known}
    for machine, weaken in EACH:
        name = key(machine, weaken)
        if word not in name or (name in known and finds(machine, weaken, known[name])):
            continue
        same = {program: None for other, program in known.items() if other.startswith(f"{named(machine)} ")}
        program = find(machine, weaken, same)
        if program is None or not finds(machine, weaken, program):
            print(f"{name}: NOT FOUND", flush=True)
        else:
            known[name] = program
            programs.store(known)
            print(f"{name}: {len(program)} bytes{', known' if program in same else ''}", flush=True)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--find"]:
        find_all("".join(sys.argv[2:]))
    else:
        for one, (most, long) in LONG.items():
            programs.carry_out(one, most, long, derandomize=True, database=None)
            print(f"{named(one)}: {most} programs of up to {long} steps")
