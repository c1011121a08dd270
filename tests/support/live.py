"""A federation of real processes for tests: issuer, server and four clients on loopback, over TLS, with OAuth."""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import subprocess
import tempfile
import tomllib
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import Any

import pandas as pd
import tomli_w
from moonflower.client.code import code_of
from moonflower.configs.names import slug
from moonflower.configs.recipe import Recipe, recipe_of
from moonflower.configs.roles import OperatorConfig, load_config
from moonflower.configs.settings import RunSettings, load_run
from moonflower.errors import MoonflowerError
from moonflower.federation import processes
from moonflower.federation import stage as staging
from moonflower.federation.remote import Remote, await_ready
from moonflower.federation.simulate import prepare
from moonflower.server.records.verify import verify
from moonflower.version import NUMERICS

from support import CONFIGS, PATIENCE_S

Entry = dict[str, Any]
FAST = (
    *("training.rounds=2", "training.local_epochs=2", "training.report_every=0", "training.train_timeout_s=60"),
    *("task.hidden=[4]", 'training.personal=["2.*"]', 'training.server_optimizer="adam"', "training.ditto=0.1"),
)
"""Short runs. Every member has tensors and a model of its own, and versions have a state."""
MOST_ROUNDS = 100  # of the recipe that all members signed; a run takes fewer
QUICK = {"away_after_s": 10.0}


def three_hospitals(folder: Path) -> Path:
    """Write the heart preset without Switzerland, for tests to which it does not matter; return the config."""
    tables = tomllib.loads((CONFIGS / "heart.toml").read_text())
    table = pd.read_csv(CONFIGS / "data/heart.csv.gz")
    table[table.site != "Switzerland"].to_csv(folder / "heart.csv", index=False)
    tables["data"] |= {"path": str(folder / "heart.csv"), "schema": str(CONFIGS / "data/heart.schema.toml")}
    (folder / "heart.toml").write_text(tomli_w.dumps(tables))
    return folder / "heart.toml"


class Live:
    """Everything of one federation.

    Args:
        folder: empty.
        overrides: of configs/heart.toml, as the nodes' floors see it; a run may override them further.
        server, oauth, issuer: settings that differ, as :func:`staging.stage` takes them.
        config: another run config.
    """

    def __init__(
        self,
        folder: Path,
        *overrides: str,
        config: Path = CONFIGS / "heart.toml",
        environment: Mapping[str, str] | None = None,
        **differs: Any,
    ) -> None:
        self.config, self.overrides, self._environment = config, (*FAST, *overrides), environment
        self._foreign = bool(differs.get("issuer_url"))
        self.cast = prepare(config, self.overrides)
        differs["server"] = {**QUICK, **differs.get("server", {})}
        self.state = folder / differs["server"].get("state", "")
        most = max(MOST_ROUNDS, self.cast.settings.training.rounds)
        recipe = self.recipe(f"training.rounds={most}")
        self.stage = staging.stage(self.cast.settings.in_practice(), self.cast.names, folder, recipe=recipe, **differs)
        self.processes = processes.Processes(folder / "logs")

    @property
    def names(self) -> tuple[str, ...]:
        return self.cast.names

    def __enter__(self) -> Live:
        try:
            if not self._foreign:
                self.start("issuer")
            self.start("server")
            for name in self.names:
                self.start(name)
            await_ready(lambda: processes.is_up(self.stage, self.processes), "the server", PATIENCE_S)
        except BaseException:
            self.processes.end()
            raise
        self.remote = Remote(load_config(OperatorConfig, self.stage.operator))
        return self

    def __exit__(self, *_: object) -> None:
        self.remote.close()
        self.processes.end()

    def start(self, name: str) -> None:
        """Start issuer, server or a member's client."""
        command = name if name in ("issuer", "server") else "client"
        config = {"issuer": self.stage.issuer, "server": self.stage.server, **self.stage.clients}[name]
        self.processes.start(name, processes.command(command, config), self._environment)

    def kill(self, name: str) -> None:
        """kill -9 a process and everything that it started."""
        process = self.processes.running.pop(name)
        for pid in reversed(family(process.pid)):
            send(pid, signal.SIGKILL)
        process.wait()

    def settings(self, *overrides: str) -> RunSettings:
        return load_run(self.config, (*self.overrides, *overrides)).in_practice()

    def submit(self, *overrides: str) -> str:
        return self.remote.submit(self.recipe(*overrides))

    def recipe(self, *overrides: str) -> Recipe:
        settings = self.settings(*overrides)
        return recipe_of(settings, self.cast.schema, code_of(settings.task.ref), NUMERICS)

    def run(
        self,
        *overrides: str,
        at: Mapping[tuple[str, int], Callable[[Entry], None]] | None = None,
        within_s: float = PATIENCE_S,
    ) -> dict[str, Any]:
        """Submit a run and follow it to its end; ``at`` (event, n-th) something is done.

        A run that does not end is stopped, so that it fails this test and not every later one.
        """
        hooks, seen = dict(at or {}), {}
        run = self.submit(*overrides)
        try:
            with within(within_s):
                for entry in self.remote.follow(run):
                    seen[entry["event"]] = seen.get(entry["event"], 0) + 1
                    action = hooks.pop((entry["event"], seen[entry["event"]]), None)
                    if action is not None:
                        action(entry)
        except BaseException:
            self._give_up(run)
            raise
        assert not hooks, f"never came: {list(hooks)}"
        return self.remote.show(run)

    def _give_up(self, run: str) -> None:
        with suppress(MoonflowerError, TimeoutError), within(PATIENCE_S):
            self.remote.stop(run)
            for _ in self.remote.follow(run):
                pass

    def log(self) -> list[Entry]:
        """Return the audit log."""
        with closing(sqlite3.connect(f"file:{self.state / 'moonflower.db'}?mode=ro", uri=True)) as db:
            return [json.loads(row[0]) for row in db.execute("select entry from log order by idx")]

    def events(self, event: str, since: int = 0) -> list[Entry]:
        return [entry for entry in self.log()[since:] if entry["event"] == event]

    def check_log(self) -> None:
        """Check that the log verifies and that no round number was used twice."""
        found = verify(self.state / "moonflower.db", (self.state / "log.pub").read_text(), None)
        assert found.ok, found
        numbers = [entry["number"] for entry in self.events("round_began")]
        assert len(numbers) == len(set(numbers))

    def output(self, name: str) -> str:
        """Return what a process said."""
        return (self.stage.folder / "logs" / f"{slug(name)}.log").read_text(errors="replace")


@contextmanager
def within(seconds: float) -> Iterator[None]:
    """End what takes longer: a run that hangs says nothing that could be looked at."""

    def late(*_: object) -> None:
        raise TimeoutError(f"the run hangs: it has not ended after {seconds:.0f} s")

    before = signal.signal(signal.SIGALRM, late)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def undisturbed(live: Live, *overrides: str) -> str:
    """Return the digest of the model that a simulation of the same run makes."""
    return _simulated(live.config, (*live.overrides, *overrides))


@cache
def _simulated(config: Path, overrides: tuple[str, ...]) -> str:
    from moonflower import simulate

    with tempfile.TemporaryDirectory() as folder:
        done = simulate(config, out=Path(folder) / "simulated", overrides=overrides, baselines=False)
    assert done.error is None
    return str(done.result["model"]["sha256"])


def family(pid: int) -> list[int]:
    """Return a process and all that it started, parents first."""
    found = [pid]
    for parent in found:
        try:
            children = Path(f"/proc/{parent}/task/{parent}/children").read_text().split()
        except OSError:
            children = []
        found += [int(child) for child in children]
    return found


def named(pid: int, word: str) -> list[int]:
    """Return those of a process's family whose command line has ``word``."""
    return [one for one in family(pid) if word in command_line(one)]


def command_line(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    except OSError:
        return ""


def everywhere(word: str, folder: Path) -> list[int]:
    """Return processes whose command line has ``word`` and whose home is this federation's."""
    marked = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and word in command_line(int(entry.name)):
            try:
                environment = (entry / "environ").read_bytes()
            except OSError:
                continue
            if str(folder).encode() in environment:
                marked.append(int(entry.name))
    return marked


def send(pid: int, number: int) -> None:
    with suppress(ProcessLookupError):
        os.kill(pid, number)


def ended(process: subprocess.Popen[bytes], within_s: float = PATIENCE_S) -> int:
    """Return the exit status of a process that ends by itself."""
    return process.wait(within_s)
