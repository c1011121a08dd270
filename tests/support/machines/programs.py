"""Programs of the state machines that find what is weakened: found once by a search, kept in a file, tried again.

Hypothesis writes a program as the choices that it drew, and carries the same choices out again. They mean another
program once a machine's rules have changed; then a weakening is not found any more, and ``python
tests/federation/test_machines.py --find`` searches again.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Iterable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, Phase, core, settings, stateful
from hypothesis.database import ExampleDatabase
from hypothesis.internal.conjecture import engine
from hypothesis.stateful import RuleBasedStateMachine, run_state_machine_as_test

SHRINKING_S = 15
FILE = Path(__file__).with_name("programs.json")
Machine = type[RuleBasedStateMachine]


class Choices(ExampleDatabase):
    """The choices of one program to begin with, and of the last one that failed.

    Attributes:
        failed: choices of the smallest program that failed, or None.
    """

    def __init__(self, program: bytes | None = None) -> None:
        super().__init__()
        self._program, self._key = program, b""
        self.failed: bytes | None = None

    def fetch(self, key: bytes) -> Iterable[bytes]:
        given, self._program = self._program, None
        return () if given is None else (given,)

    def save(self, key: bytes, value: bytes) -> None:
        self._key = self._key or key
        if key == self._key:
            self.failed = bytes(value)

    def delete(self, key: bytes, value: bytes) -> None:
        """Keep what is there: it belongs to the file."""


def carry_out(machine: Machine, examples: int, steps: int, **more: object) -> None:
    """Try programs of a machine."""
    limits = settings(
        max_examples=examples,
        stateful_step_count=steps,
        deadline=None,
        suppress_health_check=list(HealthCheck),
        **more,  # type: ignore[arg-type]
    )
    run_state_machine_as_test(machine, settings=limits)


def again(machine: Machine, program: bytes, steps: int) -> None:
    """Carry one program out again; raises what it raises."""
    with pytest.MonkeyPatch.context() as patch:
        for module in (core, stateful):  # the digest of a machine's source finds programs in a database; ours has one
            patch.setattr(module, "function_digest", lambda _: b"machine")
        carry_out(machine, 1, steps, database=Choices(program), phases=(Phase.reuse,))


def search(machine: Machine, examples: int, steps: int) -> bytes | None:
    """Return a program that fails, made small, or None."""
    found = Choices()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(engine, "MAX_SHRINKING_SECONDS", SHRINKING_S)
        try:
            carry_out(machine, examples, steps, database=found, phases=(Phase.generate, Phase.shrink))
        except BaseException as error:
            if isinstance(error, KeyboardInterrupt):
                raise
    return found.failed


def load() -> dict[str, bytes]:
    """Return the programs of the file by machine and weakening."""
    return {name: base64.b64decode(text) for name, text in json.loads(FILE.read_text()).items()}


def store(programs: dict[str, bytes]) -> None:
    """Write the file anew."""
    FILE.write_text(
        json.dumps({name: base64.b64encode(one).decode() for name, one in programs.items()}, indent=1) + "\n"
    )
