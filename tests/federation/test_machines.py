"""State machines: any program of crashes, restarts, late and doubled messages, and what must hold all the while.

Each machine is a module of its own: the log, the life of runs and rounds, a member that faces any coordinator. They
try the same programs in every run of the suite; a failing one is made small and printed. And every machine has to find
what it is for: each of its ``WEAKENED`` takes one check out of the code, and ``ENOUGH`` programs find that. So many are
tried of the code as it is, too; the fast tests try fewer, and miss some of that. As a script it tries more and longer
programs (``make soak``).
"""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis.stateful import RuleBasedStateMachine, run_state_machine_as_test
from support.machines import audit_log as log
from support.machines import member, run
from support.weakened import Weaken

Machine = type[RuleBasedStateMachine]
Bounds = dict[Machine, tuple[int, int]]  # examples, steps
FAST: Bounds = {log.TheLog: (25, 20), member.TheMember: (8, 16), run.TheRun: (3, 6), run.TheTroubledRun: (4, 6)}
LONG: Bounds = {log.TheLog: (200, 40), member.TheMember: (200, 40), run.TheRun: (40, 12), run.TheTroubledRun: (60, 12)}
ENOUGH: Bounds = {log.TheLog: (25, 20), member.TheMember: (30, 20), run.TheRun: (7, 6), run.TheTroubledRun: (18, 6)}
WEAKENED: dict[Machine, tuple[Weaken, ...]] = {
    log.TheLog: log.WEAKENED,
    member.TheMember: member.WEAKENED,
    run.TheRun: run.WEAKENED,
    run.TheTroubledRun: run.IN_TROUBLE,
}


MORE = {  # what takes other programs than these to be found
    '_words: "total"': (50, 20),
    '_words: "list"': (50, 20),
    "context: checkpoint": (12, 8),
}
"""Begin of a weakening's name → examples, steps."""


def carry_out(machine: Machine, bounds: tuple[int, int], **more: Any) -> None:
    """Try programs; which ones depends on the machine and the bounds alone."""
    examples, steps = bounds
    limits = settings(
        max_examples=examples,
        stateful_step_count=steps,
        derandomize=True,
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
        **more,
    )
    run_state_machine_as_test(machine, settings=limits)


def named(value: Any) -> str:
    return str(value.__name__)


@pytest.mark.parametrize("machine", FAST, ids=named)
def test_what_is_promised_holds_in_any_program(machine: Machine) -> None:
    carry_out(machine, FAST[machine])


@pytest.mark.slow
@pytest.mark.parametrize("machine", ENOUGH, ids=named)
def test_what_is_promised_holds_in_as_many_programs_as_find_what_is_weakened(machine: Machine) -> None:
    carry_out(machine, ENOUGH[machine])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("machine", "weaken"), [(machine, one) for machine, all_ in WEAKENED.items() for one in all_], ids=named
)
def test_a_check_that_is_weakened_is_missed(machine: Machine, weaken: Weaken, monkeypatch: pytest.MonkeyPatch) -> None:
    run.undisturbed()  # what it is compared with comes from code that is whole
    weaken(monkeypatch)
    bounds = next((more for name, more in MORE.items() if named(weaken).startswith(name)), ENOUGH[machine])
    with pytest.raises((Exception, pytest.fail.Exception)) as found:
        carry_out(machine, bounds, phases=(Phase.generate,))
    print(f"{weaken.__name__}: {type(found.value).__name__}: {found.value}")


if __name__ == "__main__":
    for one, bounds in LONG.items():
        carry_out(one, bounds)
        print(f"{named(one)}: {bounds[0]} programs of up to {bounds[1]} steps")
