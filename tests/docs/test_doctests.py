"""Examples in docstrings do what they show."""

from __future__ import annotations

import doctest
from importlib import import_module

import pytest
from support import ROOT
from support.pages import ROOMS

FILES = [*ROOT.glob("*.py"), *(file for room in ROOMS for file in (ROOT / room).rglob("*.py"))]
SHOWING = sorted(file.relative_to(ROOT).with_suffix("") for file in FILES if ">>> " in file.read_text(encoding="utf-8"))


@pytest.mark.parametrize("module", [".".join(file.parts) for file in SHOWING])
def test_what_a_docstring_shows_is_what_comes_out(module: str) -> None:
    ran = doctest.testmod(import_module(f"moonflower.{module}"))
    assert (ran.failed, ran.attempted > 0) == (0, True)
