"""The tutorials, run as a reader would: every shell block in order, and what the page shows is in what comes out."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```", flags=re.M | re.S)
CLONE = ("Makefile", "pyproject.toml", "constraints.txt", "configs")

pytestmark = pytest.mark.slow


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    """Return a folder that looks like a clone in which the environment of these tests was installed just now."""
    for name in CLONE:
        (tmp_path / name).symlink_to(ROOT / name)
    (tmp_path / ".venv").mkdir()
    (tmp_path / ".venv/bin").symlink_to(Path(sys.prefix) / "bin")
    (tmp_path / ".venv/.installed").touch()
    return tmp_path


def steps(page: str) -> list[tuple[str, list[str]]]:
    """Return the shell blocks of a page, each with the lines that the page shows after it."""
    found: list[tuple[str, list[str]]] = []
    for kind, text in BLOCK.findall((ROOT / page).read_text(encoding="utf-8")):
        if kind == "sh":
            found.append((text, []))
        elif kind == "text" and found:
            found[-1][1].extend(text.splitlines())
    return found


def run(commands: str, folder: Path, **environment: str) -> str:
    """Run a block in a fresh shell, with the commands of the environment at hand; return all that it printed."""
    path = f"{Path(sys.prefix) / 'bin'}:{os.environ['PATH']}"
    said = subprocess.run(
        ["/bin/sh", "-ec", commands],
        cwd=folder,
        env={**os.environ, "PATH": path, "COLUMNS": "80", "NO_COLOR": "1", **environment},
        capture_output=True,
        text=True,
        timeout=900,
    )
    assert said.returncode == 0, f"{commands}\n{said.stdout}\n{said.stderr}"
    return said.stdout + said.stderr


def test_the_first_federation(clone: Path) -> None:
    done = steps("docs/first-federation.md")
    assert len(done) >= 8
    for commands, shown in done:
        printed = re.sub(r" +", " ", run(commands, clone))
        for line in shown:
            assert re.sub(r" +", " ", line) in printed, f"{commands}\ndid not print\n{line}\nbut\n{printed}"


def test_the_worked_task(clone: Path) -> None:
    (commands, _), *more = steps("docs/tasks.md")
    assert not more
    assert "verified" in run(commands.replace("digits.toml", "digits.toml --set training.rounds=1"), clone)


def test_running_step_by_step(clone: Path) -> None:
    """The commands of a member and of the coordinator that need no live server, with the files that the page shows."""
    page = (ROOT / "docs/running.md").read_text(encoding="utf-8")
    client, server, operator = (
        _toml(page, mark) for mark in ('member = "cleveland"\nserver', "# server", "# operator")
    )
    for name, text in (("client.toml", client), ("server.toml", server), ("operator.toml", operator)):
        (clone / name).write_text(text, encoding="utf-8")
    by_text = {commands.splitlines()[0]: commands for commands, _ in steps("docs/running.md")}
    run(
        """openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 1 \\
        -keyout server.key -out server.pem -subj /CN=fl.example.org 2>/dev/null""",
        clone,
    )
    made = run(by_text["moonflower keys new client.toml"], clone)
    assert '"crv":"P-256"' in made.replace(" ", "")
    assert (clone / "cleveland.card.json").is_file()
    roster = by_text["moonflower member add cleveland.card.json --config server.toml"]
    listed = run(roster.replace("moonflower server server.toml\n", ""), clone)
    assert "cleveland" in listed
    run(by_text["moonflower keys new operator.toml"].splitlines()[0], clone)
    assert "revoked" in run(
        by_text['moonflower member revoke cleveland --reason "left the federation" --config server.toml'], clone
    )


def _toml(page: str, mark: str) -> str:
    """Return the one TOML block of a page that holds ``mark``."""
    (found,) = (text for kind, text in BLOCK.findall(page) if kind == "toml" and mark in text)
    return str(found)
