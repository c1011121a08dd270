"""The tutorials, run as a reader would: every shell block in order, and what the page shows is in what comes out."""

from __future__ import annotations

import json
import os
import re
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path

import pytest
from moonflower.federation.stage import free_ports
from moonflower.server.records.verify import verify
from support import ROOT
from support.live import everywhere, family, send

BLOCK = re.compile(r"^```(\w+)\n(.*?)^```", flags=re.M | re.S)
CLONE = ("Makefile", "pyproject.toml", "constraints.txt", "configs")


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
    proxies = dict.fromkeys(("HTTPS_PROXY", "HTTP_PROXY"), "http://192.0.2.1:1")  # nothing is there, nobody asks it
    for commands, shown in done:
        printed = re.sub(r" +", " ", run(commands, clone, **proxies, NO_PROXY="", no_proxy=""))
        for line in shown:
            assert re.sub(r" +", " ", line) in printed, f"{commands}\ndid not print\n{line}\nbut\n{printed}"
    real, simulated = (json.loads((clone / f"runs/{name}/result.json").read_text()) for name in ("real", "first"))
    assert real["model"]["sha256"] == simulated["model"]["sha256"]
    assert real["rounds"] == simulated["rounds"]
    counted, exact = (result["overall"]["federated"] for result in (real, simulated))
    for metric in ("loss", "accuracy"):
        assert counted[metric] == pytest.approx(exact[metric], abs=1e-4), "from sealed counts, and from all rows"
    check_left(clone / "runs/real")


def check_left(out: Path) -> None:
    """Check that ``up`` left what it promises, every secret for its owner only, and no process."""
    assert {"report.html", "result.json", "moonflower.db", "log.pub", "models"} <= {path.name for path in out.iterdir()}
    assert verify(out / "moonflower.db", (out / "log.pub").read_text(), None).ok
    secret = [*out.rglob("*.key"), *out.rglob("ledger.db"), *out.rglob("issuer.key.json")]
    assert len(secret) >= 4 * 4 + 3
    assert {path.stat().st_mode & 0o077 for path in secret} == {0}
    time.sleep(1)
    assert everywhere("moonflower", out) == []


def test_the_worked_task(clone: Path) -> None:
    (commands, _), *more = steps("docs/tasks.md")
    assert not more
    assert "verified" in run(commands.replace("digits.toml", "digits.toml --set training.rounds=1"), clone)


@pytest.fixture
def apart(clone: Path) -> Iterator[Path]:
    """A clone whose background processes are ended, however the tutorial ends."""
    yield clone
    for file in clone.glob("*.pid"):
        with suppress(ProcessLookupError, ValueError):
            for pid in reversed(family(int(file.read_text()))):
                send(pid, signal.SIGKILL)


def test_the_first_live_federation(apart: Path) -> None:
    """Three hospitals from nothing to a released model, a fourth joins, one loses its disk, one goes without a word."""
    page = (ROOT / "docs/live-federation.md").read_text(encoding="utf-8")
    ports = dict(zip(("9400", "8443"), map(str, free_ports(2)), strict=True))

    def here(text: str) -> str:
        return re.sub(r"127\.0\.0\.1:(9400|8443)", lambda found: f"127.0.0.1:{ports[found[1]]}", text)

    for kind, text in BLOCK.findall(page):
        if kind == "toml":
            file = apart / text.partition("\n")[0].removeprefix("# ")
            file.parent.mkdir(exist_ok=True)
            file.write_text(here(text), encoding="utf-8")
    for commands, shown in steps("docs/live-federation.md"):
        if "circle show" in commands:
            for name in ("cleveland", "switzerland", "long-beach"):
                two_weeks_pass(apart / name / "state" / "ledger.db")
        printed = re.sub(r"\s+", " ", run(here(commands), apart))
        for line in shown:
            assert re.sub(r"\s+", " ", line.strip()) in printed, f"{commands}\ndid not print\n{line}\nbut\n{printed}"
    report = verify(apart / "server/state", (apart / "server/state/log.pub").read_text())
    assert report.ok


def test_fifteen_commands_lead_to_the_first_live_round() -> None:
    """Of three hospitals and a desk; issuer and server are there, and the fourth hospital comes later."""
    page = (ROOT / "docs/live-federation.md").read_text(encoding="utf-8")
    until = page.index("moonflower run ")
    blocks = "".join(text for kind, text in BLOCK.findall(page[: page.index("```", until) + 4]) if kind == "sh")
    lines = [line for line in blocks.splitlines() if "moonflower " in line]
    typed = [line for line in lines if not re.search("long-beach.card|moonflower (issuer|server) ", line)]
    assert sum(3 if line.startswith("for name in cleveland hungary") else 1 for line in typed) <= 15, typed


def two_weeks_pass(ledger: Path) -> None:
    """Let a node have seen every circle two weeks ago."""
    with closing(sqlite3.connect(ledger)) as db:
        db.execute("update circles set seen_s = seen_s - 14.1 * 86400")
        db.commit()


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
