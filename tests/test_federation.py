"""Whole federations on real data: what comes out, that drills end as the table says, and that they leave no trace."""

from __future__ import annotations

import contextlib
import json
import sqlite3
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import flwr.app
import numpy as np
import pytest
from conftest import CONFIGS
from moonflower import simulate
from moonflower.client import epochs
from moonflower.client.learning.splits import partition, split
from moonflower.client.learning.torch import TorchLearner
from moonflower.client.purposes import Kit
from moonflower.client.secret import NodeSecret
from moonflower.client.tasks import load_task, schema_for
from moonflower.configs.settings import load_run
from moonflower.crypto.planner import SEED_BYTES, Plan
from moonflower.crypto.schemes import deal
from moonflower.errors import Ended, Refused
from moonflower.federation import simulate as simulation
from moonflower.federation.baselines import Baselines
from moonflower.federation.grid import LocalGrid
from moonflower.federation.simulate import Simulation
from moonflower.protocol.messages import Enrol
from moonflower.protocol.model_version import parse
from moonflower.server import sums
from moonflower.server.aggregate import RunningSum

pytestmark = pytest.mark.slow

HEART, SBA = CONFIGS / "heart.toml", CONFIGS / "sba.toml"
FOUR = ("training.rounds=4", "training.local_epochs=2")


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    return lambda name: tmp_path_factory.mktemp("runs") / name


@pytest.fixture(scope="module")
def run(folders: Any) -> Any:
    """Simulate heart for four rounds with these drills; each combination once."""

    @cache
    def simulated(*drills: str) -> Simulation:
        return simulate(
            HEART, out=folders("-".join(drills).replace(":", "_") or "plain"), overrides=FOUR, drills=drills
        )

    return simulated


def round_(simulation: Simulation, number: int) -> dict[str, Any]:
    return next(r for r in simulation.result["rounds"] if r["number"] == number)


def sha(simulation: Simulation) -> str:
    return str(simulation.result["model"]["sha256"])


# What comes out


def test_a_run_leaves_what_is_promised(run: Any) -> None:
    done = run()
    assert done.error is None
    assert sorted(p.name for p in done.out.iterdir() if not p.name.startswith("moonflower.db-")) == [
        "log.key",
        "log.pub",
        "models",
        "moonflower.db",
        "report.html",
        "result.json",
    ]
    assert json.loads((done.out / "result.json").read_text()) == done.result
    assert len(list((done.out / "models").iterdir())) == 5
    assert done.result["audit"]["verified"] is True
    assert [r["status"] for r in done.result["rounds"]] == ["promoted"] * 4
    assert [r["number"] for r in done.result["rounds"]] == [1, 2, 3, 4]
    assert [member["name"] for member in done.result["members"]] == [
        "Cleveland",
        "Hungary",
        "Switzerland",
        "VA Long Beach",
    ]
    assert sum(member["rows"] for member in done.result["members"]) == 920


def test_the_same_config_gives_the_same_model_to_the_bit(run: Any, folders: Any) -> None:
    again = simulate(HEART, out=folders("again"), overrides=FOUR)
    assert sha(again) == sha(run())


def test_the_opened_overall_equals_what_the_rows_say(run: Any) -> None:
    """Sealed tallies against the members' own rows: loss and accuracy to fixed point."""
    done = run()
    settings = load_run(HEART, FOUR)
    learners = learners_of(settings)
    vector = _vector(done)
    outputs = [learner.evaluate(vector, "test") for learner in learners.values()]
    sizes = [len(learner._raw.test) for learner in learners.values()]
    overall = done.result["overall"]["federated"]
    for name in ("loss", "accuracy"):
        assert overall[name] == pytest.approx(np.average([o[name] for o in outputs], weights=sizes), abs=1e-4)


# Encrypted equals plain


class PlainKey:
    """A "key" that encrypts nothing: lives in the tests, no config reaches it."""

    def __init__(self, plan: Plan, key: bytes) -> None:
        self.plan = plan

    def seal(self, rows: Any) -> Any:
        return rows.astype(np.uint64), np.zeros((len(rows), SEED_BYTES), dtype=np.uint8)

    def open(self, totals: Any, seeds: Any) -> Any:
        return totals.astype(np.int64)


@pytest.mark.parametrize("config", [HEART, SBA], ids=lambda path: path.stem)
def test_encryption_changes_no_bit_of_the_model(config: Path, folders: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    sealed = simulate(config, out=folders(f"sealed-{config.stem}"), overrides=FOUR)
    monkeypatch.setattr(epochs, "SecretKey", PlainKey)
    plain = simulate(config, out=folders(f"plain-{config.stem}"), overrides=FOUR)
    assert sha(plain) == sha(sealed)
    assert plain.result["rounds"] == sealed.result["rounds"]


def learners_of(settings: Any) -> dict[str, TorchLearner]:
    task = load_task(settings.task.ref, settings.task.options)
    schema = schema_for(task, settings.data)
    seed = settings.training.seed
    members = partition(task.data(settings.data, schema), settings.data, settings.simulate, seed)
    made = {}
    for name, rows in members.items():
        secret = NodeSecret.for_practice(seed, name)
        parts = split(rows, settings.data, secret=secret, member=name)
        made[name] = TorchLearner(task, parts, schema, seed=seed, secret=secret)
    totals = sum(learner.summary() for learner in made.values())
    for learner in made.values():
        learner.prepare(learner.scaling(totals.tolist()))
    return made


def fedavg(settings: Any) -> dict[str, Any]:
    """Plain FedAvg in floats, and its metrics over all test rows from unsealed tallies."""
    learners = learners_of(settings)
    vector = next(iter(learners.values())).start()
    rows = [learner.rows for learner in learners.values()]
    for number in range(1, settings.training.rounds + 1):
        trained = [learner.train(vector, settings.training, number) for learner in learners.values()]
        vector = np.average(np.array(trained, dtype=np.float64), axis=0, weights=rows).astype(np.float32)
    totals = sum(learner.tally(vector) for learner in learners.values())
    return next(iter(learners.values())).overall(totals.tolist())


@pytest.mark.parametrize(("config", "rounds"), [(HEART, 20), (SBA, 12)], ids=["heart", "sba"])
def test_quantising_costs_next_to_nothing(config: Path, rounds: int, folders: Any) -> None:
    overrides = [f"training.rounds={rounds}"]
    done = simulate(config, out=folders(f"quantised-{config.stem}"), overrides=overrides)
    plain = fedavg(load_run(config, overrides))
    assert done.result["overall"]["federated"]["auc"] == pytest.approx(plain["auc"], abs=0.002)
    assert done.result["overall"]["federated"]["loss"] == pytest.approx(plain["loss"], abs=0.002)


def _vector(done: Simulation) -> Any:
    return parse(Path(done.result["model"]["path"]).read_bytes()).vector


# Drills: every row of the protocol's table

EXCLUDED = {
    "nan": "update.nonfinite",
    "drop": "envelope.late",
    "slow": "envelope.late",
    "tamper": "envelope.signature",
    "replay": "envelope.replay",
    "plaintext": "envelope.plaintext",
    "wrong-params": "envelope.params",
    "wrong-key": "envelope.epoch",
    "crash": "update.failed",
}


@pytest.mark.parametrize(("kind", "code"), EXCLUDED.items())
def test_an_excluded_envelope_has_its_code_and_leaves_no_trace(run: Any, kind: str, code: str) -> None:
    done = run(f"{kind}@2:Hungary")
    bad = round_(done, 2)
    assert bad["excluded"] == [{"member": "Hungary", "code": code}]
    assert bad["members"] == ["Cleveland", "Switzerland", "VA Long Beach"]
    assert bad["status"] == "promoted"
    assert sha(done) == sha(run("drop@2:Hungary")), "differs from a run in which the member was absent"
    assert sha(done) != sha(run())
    logged = [e for e in entries(done) if e["event"] == "envelope_refused"]
    assert [(e["member"], e["number"], e["code"]) for e in logged] == [("Hungary", 2, code)]


@pytest.mark.parametrize("kind", ["replay", "tamper"])
def test_the_first_round_can_be_drilled_too(run: Any, kind: str) -> None:
    assert round_(run(f"{kind}@1:1"), 1)["excluded"] == [{"member": "Cleveland", "code": EXCLUDED[kind]}]


@pytest.mark.parametrize("kind", ["overflow", "scale"])
def test_a_poisoned_sum_is_refused_and_the_last_good_model_stays(run: Any, kind: str) -> None:
    done = run(f"{kind}@3:1")
    bad, after = round_(done, 3), round_(done, 4)
    assert (bad["status"], bad["code"][:5]) == ("refused", "gate.")
    assert bad["members"] == after["members"], "the retry from the same base is with the same set"
    began = {e["number"]: e["details"]["base"] for e in entries(done) if e["event"] == "round_began"}
    assert began[4] == began[3], "the next round starts from the last good model"
    assert after["status"] == "promoted"
    assert done.result["model"]["version"] == 3


def test_an_overflow_is_seen_as_what_it_is(run: Any) -> None:
    assert round_(run("overflow@1:1"), 1)["code"] == "gate.norm"


def test_a_scaled_update_reports_a_clipped_share_near_one(run: Any) -> None:
    assert round_(run("scale@3:1"), 3)["clipped_share"] > 0.8
    assert round_(run(), 3)["clipped_share"] == 0.0


def test_a_flipped_update_is_refused_or_promoted_with_its_minority_named(run: Any) -> None:
    flipped = round_(run("flip@2:Cleveland"), 2)
    assert flipped["status"] in ("promoted", "refused")
    if flipped["status"] == "refused":
        assert flipped["code"].startswith("gate.")
    else:
        assert flipped["gate"]["median"] > round_(run(), 2)["gate"]["median"]


@pytest.mark.parametrize(("kind", "code"), [("split-base", "envelope.context"), ("reopen", "open.overlap")])
def test_a_dishonest_coordinator_is_refused_by_every_member(run: Any, kind: str, code: str) -> None:
    done = run(f"{kind}@3:Hungary")
    assert isinstance(done.error, Ended)
    assert (done.error.code, done.error.exit_status) == (code, 3)
    last = done.result["rounds"][-1]
    assert (last["round"], last["status"], last["code"]) == (3, "failed", code)
    refusals = {e["member"]: e["code"] for e in entries(done) if e["event"] == "opening_refused"}
    expected = {"Cleveland", "Switzerland", "VA Long Beach"} | ({"Hungary"} if kind == "split-base" else set())
    assert refusals == dict.fromkeys(expected, code)
    assert not any(e["event"] == "opened" and e["number"] == 3 for e in entries(done))
    assert done.result["model"]["version"] == 2
    assert done.result["audit"]["verified"] is True


@pytest.mark.parametrize("cheat", ["one member alone", "one member twice", "one residue off"])
def test_members_open_nothing_but_the_exact_sum(folders: Any, monkeypatch: pytest.MonkeyPatch, cheat: str) -> None:
    """A coordinator that hands out another total than the sum of the listed envelopes is refused by all."""

    class Cheating(RunningSum):
        def add(self, body: Any) -> bytes:
            seeds = super().add(body)
            if self.count == 1:
                self.first = self._total.copy()
            return seeds

        def dump(self) -> bytes:
            if begun:
                if cheat == "one member alone":
                    self._total = self.first
                elif cheat == "one member twice":
                    self._total += self.first
                else:
                    self._total[0, 0] += np.uint64(1)
            return super().dump()

    begun: list[str] = []
    monkeypatch.setattr(sums, "RunningSum", Cheating)
    done = simulate(
        HEART,
        out=folders(f"cheat-{cheat}".replace(" ", "-")),
        overrides=FOUR,
        on_event=lambda entry: begun.extend([entry["event"]] * (entry["event"] == "round_began")),
    )
    assert done.error is not None
    assert (done.error.code, done.error.exit_status) == ("envelope.tag", 3)
    assert [(r["status"], r["code"]) for r in done.result["rounds"]] == [("failed", "envelope.tag")]
    refusals = [e["code"] for e in entries(done) if e["event"] == "opening_refused"]
    assert refusals == ["envelope.tag"] * 4
    assert done.result["model"]["version"] == 0


def test_an_offer_cannot_change_after_it_was_agreed_to() -> None:
    """Rule 1: the same run with lr next to 0 for all but one member would make the sum that member's update."""
    cast = simulation.prepare(HEART, FOUR)
    member = next(iter(simulation._members(cast, (), {}, Kit()).values()))
    offer = cast.settings.offer(cast.schema.digest())
    first = member.enrol(Enrol(run="r", offer=offer))
    assert member.enrol(Enrol(run="r", offer=offer)) == first
    changed = {**offer, "training": {**offer["training"], "lr": 1e-12}}
    with pytest.raises(Refused, match="another offer") as refusal:
        member.enrol(Enrol(run="r", offer=changed))
    assert refusal.value.code == "envelope.context"
    assert member._agreed["r"].offer.training.lr == offer["training"]["lr"]
    member.ledger.close()


def test_members_that_stay_away_end_the_run_but_not_the_model(folders: Any) -> None:
    drills = [f"drop@{number}:{member}" for number in (2, 3) for member in (1, 2)]
    overrides = (*FOUR, "gate.max_failed=2")
    done = simulate(HEART, out=folders("away"), overrides=overrides, drills=drills)
    assert [(r["status"], r["code"]) for r in done.result["rounds"]] == [
        ("promoted", ""),
        ("failed", "round.too_few"),
        ("failed", "round.too_few"),
    ]
    assert done.error is not None
    assert (done.error.code, done.error.exit_status) == ("run.max_failed", 3)
    assert done.result["model"]["version"] == 1


def test_a_member_missing_from_a_retry_is_waited_for(folders: Any) -> None:
    """Rule 2: after a refused round the base is opened for the same set only."""
    done = simulate(HEART, out=folders("retry"), overrides=FOUR, drills=["overflow@2:1", "drop@3:2"])
    assert [(r["status"], r["code"]) for r in done.result["rounds"]] == [
        ("promoted", ""),
        ("refused", "gate.norm"),
        ("failed", "round.too_few"),
        ("promoted", ""),
    ]


def test_patience_ends_the_run(folders: Any) -> None:
    drills = [f"overflow@{number}:1" for number in (2, 3)]
    done = simulate(HEART, out=folders("patience"), overrides=(*FOUR, "gate.patience=2"), drills=drills)
    assert done.error is not None
    assert (done.error.code, done.error.exit_status) == ("run.patience", 3)
    assert [r["status"] for r in done.result["rounds"]] == ["promoted", "refused", "refused"]
    assert done.result["model"]["version"] == 1


# What the server's side sees


def test_the_coordinator_never_sees_a_key(folders: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every message and every file of the server's side, against the epoch's HE key and secret."""
    seen = overheard(monkeypatch)
    held: list[deal.EpochKey] = []
    real_receive = deal.receive

    def receiving(*arguments: Any) -> deal.EpochKey:
        held.append(real_receive(*arguments))
        return held[-1]

    monkeypatch.setattr(deal, "receive", receiving)
    done = simulate(HEART, out=folders("spied"), overrides=("training.rounds=2", "training.local_epochs=1"))
    everything = seen + [path.read_bytes() for path in done.out.rglob("*") if path.is_file()]
    assert len(held) == 4
    assert len(seen) > 50
    secret, he_key = held[0].secret, held[0].he_key
    inner = he_key[len(he_key) // 2 :][:64]  # somewhere in the serialised keys
    for blob in everything:
        for needle in (secret, secret.hex().encode(), inner):
            assert needle not in blob
    assert any(held[0].answer().encode() in blob for blob in seen), "the spy sees what passes"


def overheard(monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """Return what passes between coordinator and members from now on, either way; it fills as they talk."""
    seen: list[bytes] = []
    push, pull = LocalGrid.push_messages, LocalGrid.pull_messages

    def pushing(self: LocalGrid, messages: Any) -> Any:
        asked = list(messages)
        seen.extend(map(_bytes, asked))
        return push(self, asked)

    def pulling(self: LocalGrid, identifiers: Any) -> Any:
        replies = list(pull(self, identifiers))
        seen.extend(map(_bytes, replies))
        return replies

    monkeypatch.setattr(LocalGrid, "push_messages", pushing)
    monkeypatch.setattr(LocalGrid, "pull_messages", pulling)
    return seen


def _bytes(message: flwr.app.Message) -> bytes:
    if not message.has_content():
        return str(message.error.reason).encode()
    records = message.content
    arrays = [array.data for record in records.array_records.values() for array in record.values()]
    values = [value for record in records.config_records.values() for value in record.values()]
    return b"|".join([*arrays, *(value if isinstance(value, bytes) else str(value).encode() for value in values)])


def test_a_value_from_a_row_never_leaves_a_member(folders: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rule 12: an exception's text may hold a row; only its code goes out."""
    canary = "CANARY-4711"
    hungary = NodeSecret.for_practice(load_run(HEART).training.seed, "Hungary")
    real_train = TorchLearner.train

    def leaking(self: TorchLearner, *arguments: Any) -> Any:
        if self.secret == hungary:
            raise ValueError(f"cannot train on patient {canary}")
        return real_train(self, *arguments)

    seen = overheard(monkeypatch)
    monkeypatch.setattr(TorchLearner, "train", leaking)
    monkeypatch.setattr(simulation, "baselines", lambda _: Baselines(*[dict.fromkeys(NAMES)] * 2, None, None))
    done = simulate(HEART, out=folders("canary"), overrides=("training.rounds=1",))
    assert done.result["rounds"][0]["excluded"] == [{"member": "Hungary", "code": "update.failed"}]
    for blob in seen + [path.read_bytes() for path in done.out.rglob("*") if path.is_file()]:
        assert canary.encode() not in blob


NAMES = ("Cleveland", "Hungary", "Switzerland", "VA Long Beach")


def test_row_counts_stay_with_the_members(run: Any) -> None:
    """The coordinator's files hold no member's training rows and not their total."""
    done = run()
    settings = load_run(HEART, FOUR)
    counts = {str(learner.rows) for learner in learners_of(settings).values()}
    counts.add(str(sum(int(count) for count in counts)))
    found = [{key: value for key, value in entry.items() if key != "index"} for entry in entries(done)]
    numbers = {str(value) for entry in found for value in _leaves(entry)}
    assert not counts & numbers


def _leaves(value: Any) -> Iterator[Any]:
    if isinstance(value, dict):
        for item in value.values():
            yield from _leaves(item)
    elif isinstance(value, list):
        for item in value:
            yield from _leaves(item)
    else:
        yield value


def entries(done: Simulation) -> list[dict[str, Any]]:
    """Return the audit log's entries, read from the file."""
    with contextlib.closing(sqlite3.connect(done.out / "moonflower.db")) as db:
        rows = db.execute("select entry from log order by idx").fetchall()
    return [json.loads(row[0]) for row in rows]
