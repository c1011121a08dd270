"""What the state machines share: where an example works, and how a check is taken out to see that it is missed."""

from __future__ import annotations

import inspect
import sys
import tempfile
import textwrap
from collections.abc import Callable
from typing import Any

import pytest

from support import memory

Weaken = Callable[[pytest.MonkeyPatch], None]


def in_memory() -> tempfile.TemporaryDirectory[str]:
    """Return a folder of an example's own."""
    memory.use()
    return tempfile.TemporaryDirectory(prefix="machine-")


def without(owner: Any, name: str, check: str, instead: str) -> Weaken:
    """Return what replaces a piece of a function of a module or a class."""

    def weaken(patch: pytest.MonkeyPatch) -> None:
        source = textwrap.dedent(inspect.getsource(getattr(owner, name)))
        assert check in source, f"{name} has no {check!r} any more"
        scope = dict(vars(sys.modules[getattr(owner, "__module__", owner.__name__)]))
        exec(source.replace(check, instead), scope)
        patch.setattr(owner, name, scope[name])

    weaken.__name__ = f"{name}: {check}"[:60]
    return weaken
