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
from moonflower import simulate
from moonflower.client import app, seat
from moonflower.client.learning.torch import TorchLearner
from moonflower.client.purposes import Kit
from moonflower.client.secret import NodeSecret
from moonflower.configs.settings import load_run
from moonflower.crypto import answers, bits, pairs
from moonflower.crypto.answer_plan import answer_plan
from moonflower.crypto.identity import Identity
from moonflower.crypto.planner import Plan
from moonflower.crypto.sealed import Secrets, Sum
from moonflower.errors import Ended, Refused
from moonflower.federation import simulate as simulation
from moonflower.federation.baselines import Baselines
from moonflower.federation.drills.kinds import KINDS
from moonflower.federation.grid import LocalGrid
from moonflower.federation.outcome import Simulation
from moonflower.protocol.circle import Circle
from moonflower.protocol.messages import Enrol
from moonflower.protocol.model_version import parse
from moonflower.server import sums
from support import CONFIGS
from support.circles import enrolment, live_in, pins_of, signed_by
from support.plain import fedavg, learners_of

NAMES = ("Cleveland", "Hungary", "Switzerland", "VA Long Beach")
CANARY = "CANARY-4711"
HEART, SBA = CONFIGS / "heart.toml", CONFIGS / "sba.toml"
FOUR = ("training.rounds=4", "training.local_epochs=2")


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    return lambda name: tmp_path_factory.mktemp("runs") / name


@pytest.fixture(scope="module")
def run(folders: Any) -> Any:
    """Simulate heart with these drills, for four rounds or others; each combination once."""

    @cache
    def simulated(*drills: str, rounds: int = 4) -> Simulation:
        name = f"{rounds} rounds {' '.join(drills)[:100].replace(':', '_')}"
        return simulate(HEART, out=folders(name), overrides=(*FOUR, f"training.rounds={rounds}"), drills=drills)

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
    assert [member["name"] for member in done.result["members"]] == list(NAMES)
    assert sum(member["rows"] for member in done.result["members"]) == 920


def test_the_same_config_gives_the_same_model_to_the_bit(run: Any, folders: Any) -> None:
    again = simulate(HEART, out=folders("again"), overrides=FOUR)
    assert sha(again) == sha(run())


def test_the_opened_overall_equals_what_the_rows_say(run: Any) -> None:
    """Sealed tallies against the members' own rows: loss and accuracy to fixed point."""
    done = run()
    learners = learners_of(HEART, FOUR)
    vector = _vector(done)
    outputs = [learner.evaluate(vector, "test") for learner in learners.values()]
    sizes = [len(learner._raw.test) for learner in learners.values()]
    overall = done.result["overall"]["federated"]
    for name in ("loss", "accuracy"):
        assert overall[name] == pytest.approx(np.average([o[name] for o in outputs], weights=sizes), abs=1e-4)


def test_the_result_has_the_settings_and_says_how_sure_its_numbers_are(run: Any) -> None:
    done = run()
    config, found = done.result["config"], done.result["evidence"]
    assert (config["training"]["rounds"], config["simulate"]["partition"]) == (4, "site")
    assert {"training.rounds", "crypto.clip", "task.hidden"} <= {*done.result["changed"]}
    assert not {"training.lr", "gate.metric", "simulate.partition", "task.ref"} & {*done.result["changed"]}
    assert sum(one["rows"] for one in found["members"]) == found["overall"]["rows"] == 189
    area = done.result["overall"]["federated"]["auc"]
    low, high = found["overall"]["intervals"]["federated"]["auc"]
    assert low < area < high < area + 0.1
    for member, one in zip(done.result["members"], found["members"], strict=True):
        gap = one["difference"]["loss"]
        assert gap["value"] == pytest.approx(member["federated"]["loss"] - member["alone"]["loss"], abs=1e-6)
        assert gap["low"] < gap["value"] < gap["high"]
    assert done.result["problems"] == []
    assert done.frame()["validation_loss"].tolist() == [loss for _, loss in found["validation"]["by_round"]]
    assert found["validation"]["by_round"][-1] == [4, pytest.approx(found["validation"]["loss"])]
    measured = [learner.evaluate(_vector(done), "validation") for learner in learners_of(HEART, FOUR).values()]
    sizes = [len(learner._raw.validation) for learner in learners_of(HEART, FOUR).values()]
    assert found["validation"]["loss"] == pytest.approx(np.average([one["loss"] for one in measured], weights=sizes))


def test_a_task_that_raises_where_one_member_is_alone_costs_no_report(
    folders: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = TorchLearner.fit

    def fit(self: TorchLearner, training: Any, *more: Any) -> Any:
        if self.secret == NodeSecret.for_practice(training.seed, "Hungary"):
            raise ValueError("expected more than 1 value per channel\nand a second line")
        return real(self, training, *more)

    monkeypatch.setattr(TorchLearner, "fit", fit)
    monkeypatch.setattr(simulation, "proposal", lambda *_: 1 / 0)
    done = simulate(HEART, out=folders("raises"), overrides=(*FOUR, "training.rounds=1"))
    alone = {member["name"]: member["alone"] for member in done.result["members"]}
    assert [name for name, metrics in alone.items() if metrics is None] == ["Hungary"]
    assert (done.result["overall"]["alone"], done.result["proposal"]) == (None, None)
    assert done.result["overall"]["pooled"]["loss"] > 0
    assert done.result["problems"] == [
        "training Hungary alone raised ValueError: expected more than 1 value per channel",
        "proposing a recipe raised ZeroDivisionError: division by zero",
    ]
    assert "training Hungary alone raised ValueError" in (done.out / "report.html").read_text()
    differences = {one["name"]: one["difference"]["loss"] for one in done.result["evidence"]["members"]}
    assert [name for name, gap in differences.items() if gap is None] == ["Hungary"]


# Encrypted equals plain


class PlainKey:
    """A "key" that encrypts nothing: lives in the tests, no config reaches it."""

    def __init__(self, plan: Plan, key: bytes) -> None:
        self.outer, self.plan = plan, answer_plan(plan)

    def seal(self, answer: Any) -> bytes:
        rows = answers._rows(answer.astype(np.int64), self.plan).astype(np.uint64)
        return bytes(self.plan.seed_bytes) + bits.pack(rows, self.plan.modulus_bits).tobytes()

    def open(self, total: bytes, seeds: Any) -> Any:
        packed = np.frombuffer(total, np.uint8).reshape(self.plan.chunks, self.plan.chunk_bytes)
        rows = bits.unpack(packed, self.plan.degree, self.plan.modulus_bits) % np.uint64(self.plan.plain_modulus)
        return pairs.key_sum(self.outer, answers._numbers(rows.astype(np.int64), self.plan))


def in_clear(patch: pytest.MonkeyPatch) -> None:
    """Leave nothing of sealing but its form: no key, no noise, answers as they are."""
    patch.setattr(Secrets, "key", lambda _, plan: np.zeros(plan.degree, dtype=np.int64))
    patch.setattr(Secrets, "errors", lambda _, plan, chunks: np.zeros((len(chunks), plan.degree), dtype=np.int64))
    patch.setattr(seat, "AnswerKey", PlainKey)


@pytest.mark.parametrize("config", [HEART, SBA], ids=lambda path: path.stem)
def test_encryption_changes_no_bit_of_the_model(config: Path, folders: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    few = ("training.rounds=2", "training.local_epochs=1")
    sealed = simulate(config, out=folders(f"sealed-{config.stem}"), overrides=few)
    in_clear(monkeypatch)
    plain = simulate(config, out=folders(f"plain-{config.stem}"), overrides=few)
    assert sha(plain) == sha(sealed)
    assert plain.result["rounds"] == sealed.result["rounds"]


ADAMW = (
    "task.hidden=[8]",
    "training.optimizer=adamw",
    "training.lr=0.003",
    "training.optimizer_options.weight_decay=0.1",
)


@pytest.mark.parametrize(
    ("config", "rounds", "more"), [(HEART, 12, ()), (SBA, 6, ()), (HEART, 4, ADAMW)], ids=["heart", "sba", "adamw"]
)
def test_it_is_fedavg_in_plain_torch(config: Path, rounds: int, more: tuple[str, ...], folders: Any) -> None:
    """Quantising costs next to nothing, and the loop takes the steps of torch's own optimisers."""
    name = f"quantised-{config.stem}-{len(more)}"
    done = simulate(config, out=folders(name), overrides=[f"training.rounds={rounds}", *more], baselines=False)
    best = max(one["round"] for one in done.result["rounds"] if one["status"] == "promoted")
    plain = fedavg(config, [f"training.rounds={best}", *more])
    for metric, within in {"auc": 0.001, "loss": 0.0005, "average_precision": 0.001, "accuracy": 0.003}.items():
        assert done.result["overall"]["federated"][metric] == pytest.approx(plain[metric], abs=within)


def _vector(done: Simulation) -> Any:
    return parse(Path(done.result["model"]["path"]).read_bytes()).vector


# Drills: every row of the protocol's table

NAMED = {
    "nan": "update.failed",
    "scale": "update.failed",
    "tamper": "envelope.signature",
    "replay": "envelope.replay",
    "plaintext": "envelope.plaintext",
    "wrong-params": "envelope.params",
    "crash": "update.failed",
    "split-base": "base.unknown",
    "nudge": "base.unknown",
}


GONE = {"away": [(2, "seal"), (3, "seal")], "flap": []}  # kind → what is waited for
POISONED = ("overflow", "rare", "trap")
TURNED = ("flip", "inner-product")


def test_every_drill_is_tried_here() -> None:
    """``rows`` in a test of its own."""
    assert {*NAMED, *GONE, *POISONED, *TURNED, *UNOPENED, "rows"} == {*KINDS}


def said(rounds: list[dict[str, Any]]) -> list[tuple[int, int, str, str]]:
    return [(r["round"], r["number"], r["status"], r["code"]) for r in rounds]


@pytest.fixture(scope="module")
def drilled(run: Any) -> tuple[Simulation, Simulation]:
    """A run with a drill in every round but the first, and the same run without any."""
    drills = (*NAMED, *UNOPENED)
    rounds = 1 + len(drills)
    return run(*(f"{kind}@{number}:Hungary" for number, kind in enumerate(drills, 2)), rounds=rounds), run(
        rounds=rounds
    )


def failed_at(done: Simulation, kind: str) -> int:
    """Return the number under which the round of a drill failed, and check that the next number repeats it."""
    planned = 2 + [*NAMED, *UNOPENED].index(kind)
    (bad, number, *what), (good, again, *_) = [one for one in said(done.result["rounds"]) if one[0] == planned]
    assert (bad, good, again) == (planned, planned, number + 1)
    assert what == ["failed", "round.too_few" if kind in NAMED else UNOPENED[kind][0]]
    return number


def test_a_round_that_failed_is_repeated_with_everybody_and_changes_nothing(drilled: Any) -> None:
    done, plain = drilled
    assert done.error is None
    assert done.result["audit"]["verified"] is True
    rest = [r for r in done.result["rounds"] if r["status"] != "failed"]
    assert [(r["round"], r["status"]) for r in rest] == [(r["round"], r["status"]) for r in plain.result["rounds"]]
    assert rest[3]["status"] == "promoted"
    assert all(r["members"] == list(NAMES) for r in rest)
    assert sha(done) == sha(plain), "differs from a run to which nothing happened"


@pytest.mark.parametrize(("kind", "code"), NAMED.items())
def test_a_member_without_an_envelope_is_named(drilled: Any, kind: str, code: str) -> None:
    done, _ = drilled
    number = failed_at(done, kind)
    assert round_(done, number)["named"] == [{"member": "Hungary", "code": code}]
    refused = [e for e in entries(done) if e["event"] == "envelope_refused" and e["number"] == number]
    assert [(e["member"], e["code"]) for e in refused] == [("Hungary", code)]
    assert not any(e["event"] in ("set_closed", "answered", "opened") and e["number"] == number for e in entries(done))


@pytest.mark.parametrize(("kind", "named"), GONE.items())
def test_a_node_that_goes_is_waited_for_and_nothing_is_repeated(
    run: Any, kind: str, named: list[tuple[int, str]]
) -> None:
    done = run(f"{kind}@2:Hungary")
    assert said(done.result["rounds"]) == [(n, n, "promoted", "") for n in (1, 2, 3, 4)]
    assert sha(done) == sha(run()), "differs from a run to which nothing happened"
    waits = [(e["number"], e["details"]["step"]) for e in entries(done) if e["event"] == "waited_for"]
    assert waits == named
    back = [(e["member"], e["details"]["returns"]) for e in entries(done) if e["event"] == "came_back"]
    assert back == [("Hungary", 1)] * len(named)
    given = [(e["number"], e["member"], e["details"]["purpose"]) for e in entries(done) if e["event"] == "answered"]
    assert len(given) == len(set(given))


@pytest.mark.parametrize("kind", ["replay", "tamper"])
def test_the_first_round_can_be_drilled_too(run: Any, kind: str) -> None:
    assert round_(run(f"{kind}@1:1", rounds=1), 1)["named"] == [{"member": "Cleveland", "code": NAMED[kind]}]


@pytest.mark.parametrize("kind", POISONED)
def test_a_poisoned_sum_is_refused_and_the_last_good_model_stays(run: Any, kind: str) -> None:
    done = run(f"{kind}@3:1")
    bad, after = round_(done, 3), round_(done, 4)
    assert (bad["status"], bad["code"]) == ("refused", "gate.step")
    assert sum(bad["votes"].values()) == 4, "everybody said a word all the same"
    assert (bad["members"], after["round"]) == (after["members"], 4)
    began = {e["number"]: e["details"]["base"] for e in entries(done) if e["event"] == "round_began"}
    assert began[4] == began[3], "the next round starts from the last good model"
    assert after["status"] == "promoted"
    assert done.result["model"]["version"] == 3


@pytest.mark.parametrize("kind", POISONED)
def test_the_first_round_has_a_longest_step_too(run: Any, kind: str) -> None:
    assert round_(run(f"{kind}@1:1", rounds=1), 1)["code"] == "gate.step"


def test_an_update_that_does_not_fit_is_told_to_its_own_member_alone(
    folders: Any, caplog: pytest.LogCaptureFixture
) -> None:
    done = simulate(HEART, out=folders("scaled"), overrides=FOUR, drills=["scale@1:Hungary"])
    (why,) = [one.getMessage() for one in caplog.records if "above the clip" in one.getMessage()]
    assert "crypto.clip = " in why
    assert "ask the proposer of the recipe" in why
    assert not any("above the clip" in json.dumps(entry) for entry in entries(done))


@pytest.mark.parametrize("kind", TURNED)
def test_an_update_that_leads_back_is_not_promoted(run: Any, kind: str) -> None:
    turned = round_(run(f"{kind}@4:Cleveland"), 4)
    assert turned["status"] in ("kept", "refused"), turned
    assert turned["votes"]["better"] < round_(run(), 4)["votes"]["better"]


def test_rows_that_nobody_can_have_end_the_run_before_its_first_version(folders: Any) -> None:
    """Whatever round the drill is for: four members with at most 250 rows each have no 2^38."""
    done = simulate(HEART, out=folders("rows"), overrides=FOUR, drills=["rows@3:Hungary"])
    assert done.error is not None
    assert (done.error.code, done.result["rounds"], done.result["model"]) == ("stats.impossible", [], None)
    (said,) = [e["details"] for e in entries(done) if e["event"] == "opened"]
    statement = json.loads(said["statement"])
    assert (statement["sha256"], statement["in_range"]) == ("", False)
    (ended,) = [e for e in entries(done) if e["event"] == "run_ended"]
    assert (ended["code"], ended["details"]["status"]) == ("stats.impossible", "failed")
    assert not any(e["event"] == "statistics_opened" for e in entries(done))
    assert done.result["audit"]["verified"] is True


OTHERS = ("Cleveland", "Switzerland", "VA Long Beach")
UNOPENED = {  # kind → code, who does not answer, who does not open
    "fork-list": ("open.list", (), (*OTHERS, "Hungary")),  # Hungary answered another total than all others
    "leave-out": ("open.list", ("Hungary",), ()),
    "shift": ("open.tau", (), (*OTHERS, "Hungary")),
    "rushing": ("open.list", (), ("Hungary",)),
    "junk": ("open.key", (), (*OTHERS, "Hungary") * 2),  # again, with the answers themselves
}


@pytest.mark.parametrize("kind", UNOPENED)
def test_what_not_all_answered_or_opened_is_not_opened(drilled: Any, kind: str) -> None:
    (done, _), (code, silent, blind) = drilled, UNOPENED[kind]
    number = failed_at(done, kind)

    def refusals(event: str) -> list[tuple[str, str]]:
        about = (e for e in entries(done) if e["event"] == event and e["number"] == number)
        return sorted((e["member"], e["code"]) for e in about)

    assert refusals("answer_refused") == [(member, code) for member in sorted(silent)]
    assert refusals("opening_refused") == [(member, code) for member in sorted(blind)]
    assert not any(e["event"] == "opened" and e["number"] == number for e in entries(done))


def test_answers_that_open_nothing_twice_end_the_run(run: Any) -> None:
    done = run("junk@2:Hungary", "junk@3:1")
    assert isinstance(done.error, Ended)
    assert (done.error.code, done.error.exit_status) == ("circle.junk", 3)
    assert said(done.result["rounds"]) == [
        (1, 1, "promoted", ""),
        (2, 2, "failed", "open.key"),
        (2, 3, "promoted", ""),
        (3, 4, "failed", "open.key"),
    ]
    assert done.result["model"]["version"] == 2


@pytest.mark.parametrize("cheat", ["one member alone", "one member twice", "one residue off"])
def test_members_open_nothing_but_the_exact_sum(folders: Any, monkeypatch: pytest.MonkeyPatch, cheat: str) -> None:
    """A coordinator that hands out another total than the sum of the listed envelopes is refused by all."""

    class Cheating(Sum):
        def add(self, body: Any) -> None:
            super().add(body)
            if self.count == 1:
                self.first = [one.copy() for one in self._totals]

        def dump(self) -> bytes:
            if begun:
                if cheat == "one member alone":
                    self._totals = self.first
                elif cheat == "one member twice":
                    self._totals = [total + first for total, first in zip(self._totals, self.first, strict=True)]
                else:
                    self._totals[0][0] += np.uint64(1)
            return super().dump()

    begun: list[str] = []
    monkeypatch.setattr(sums, "Sum", Cheating)
    done = simulate(
        HEART,
        out=folders(f"cheat-{cheat}".replace(" ", "-")),
        overrides=(*FOUR, "gate.max_failed=2"),
        on_event=lambda entry: begun.extend([entry["event"]] * (entry["event"] == "round_began")),
    )
    assert done.error is not None
    assert (done.error.code, done.error.exit_status) == ("run.max_failed", 3)
    assert [(r["status"], r["code"]) for r in done.result["rounds"]] == [("failed", "open.tau")] * 2
    refusals = [e["code"] for e in entries(done) if e["event"] == "opening_refused"]
    assert refusals == ["open.tau"] * 8
    assert done.result["model"] is None


def test_an_offer_cannot_change_after_it_was_agreed_to() -> None:
    """Rule 1: the same run with another seed for all but one member would give that member's batches away."""
    cast = simulation.prepare(HEART, (*FOUR, "federation.practice=true"))
    member = next(iter(simulation._members(cast, (), {}, Kit()).values()))
    identity = member.identity
    others = [Identity.generate(name) for name in cast.names if name != identity.name]
    signed = signed_by(Circle.of(cast.recipe, pins_of([identity, *others])), [identity, *others])
    live_in(member.circles, signed)
    asked = enrolment("r", signed)
    first = member.enrol(Enrol(**asked))
    assert member.enrol(Enrol(**asked)) == first
    with pytest.raises(Refused, match="another offer") as refusal:
        member.enrol(Enrol(**{**asked, "seed": asked["seed"] + 1}))
    assert refusal.value.code == "envelope.context"
    with pytest.raises(Refused, match="1 to") as refusal:
        member.enrol(Enrol(**{**asked, "run": "s", "rounds": asked["rounds"] + 1}))
    assert refusal.value.code == "circle.differs"
    member.ledger.close()


def test_a_member_that_fails_again_and_again_ends_the_run_but_not_the_model(
    folders: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    failing_at(monkeypatch, "Hungary", from_round=2)
    done = simulate(HEART, out=folders("failing"), overrides=(*FOUR, "gate.max_failed=2"))
    assert said(done.result["rounds"]) == [
        (1, 1, "promoted", ""),
        (2, 2, "failed", "round.too_few"),
        (2, 3, "failed", "round.too_few"),
    ]
    assert done.error is not None
    assert (done.error.code, done.error.exit_status) == ("run.max_failed", 3)
    assert done.result["model"]["version"] == 1


def failing_at(patch: pytest.MonkeyPatch, name: str, from_round: int) -> None:
    """Have a member's training fail in a round and all after it."""
    its, real_train = NodeSecret.for_practice(load_run(HEART).training.seed, name), TorchLearner.train

    def failing(self: TorchLearner, base: Any, training: Any, number: int, *own: Any) -> Any:
        if self.secret == its and number >= from_round:
            raise ValueError(f"cannot train on patient {CANARY}")
        return real_train(self, base, training, number, *own)

    patch.setattr(TorchLearner, "train", failing)
    patch.setattr(simulation, "proposal", lambda *_: {})
    patch.setattr(simulation, "baselines", lambda _: Baselines(*[dict.fromkeys(NAMES)] * 2, None, None))


def test_a_round_that_fails_after_one_that_was_refused_starts_from_the_same_base(folders: Any) -> None:
    """Rule 3: the refused candidate is shown to have been refused, the first time and in the repetition."""
    done = simulate(HEART, out=folders("retry"), overrides=FOUR, drills=["overflow@2:1", "crash@3:2"])
    assert said(done.result["rounds"]) == [
        (1, 1, "promoted", ""),
        (2, 2, "refused", "gate.step"),
        (3, 3, "failed", "round.too_few"),
        (3, 4, "promoted", ""),
        (4, 5, "promoted", ""),
    ]
    began = {e["number"]: e["details"]["base"] for e in entries(done) if e["event"] == "round_began"}
    assert began[2] == began[3] == began[4]


def reported(done: Simulation, number: int) -> None:
    """Check that a run's last words are about the metrics of the version of this round, and then about its end."""
    last, end = entries(done)[-2:]
    assert (last["event"], last["number"], end["event"]) == ("tallies_opened", number, "run_ended")
    assert last["details"]["sha256"] == done.result["model"]["sha256"]
    assert round_(done, number)["metrics"] == last["details"]["metrics"]
    assert last["details"]["metrics"]["loss"] > 0


def test_patience_ends_the_run(folders: Any) -> None:
    drills = [f"overflow@{number}:1" for number in (2, 3)]
    bounds = (*FOUR, "gate.patience=2")
    done = simulate(HEART, out=folders("patience"), overrides=bounds, drills=drills, baselines=False)
    assert done.error is not None
    assert (done.error.code, done.error.exit_status) == ("run.patience", 3)
    assert [r["status"] for r in done.result["rounds"]] == ["promoted", "refused", "refused"]
    assert done.result["model"]["version"] == 1
    reported(done, 1)
    for one in (*done.result["members"], done.result["overall"]):
        assert (one["alone"], one["pooled"]) == (None, None), "without baselines"
        assert one["federated"]["loss"] > 0


def test_a_member_that_says_two_words_of_one_candidate_ends_the_run(
    folders: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Hungary does not open number 3, so everybody is asked again for the same candidate under number 4."""
    its, real, said_before = NodeSecret.for_practice(load_run(HEART).training.seed, "Cleveland"), app.vote, set()

    def fickle(at: Any, candidate: Any, best: str) -> Any:
        word, measured = real(at, candidate, best)
        again = candidate.sha256 in said_before and at.learner.secret == its
        said_before.add(candidate.sha256)
        return ("worse" if again else word), measured

    monkeypatch.setattr(app, "vote", fickle)
    monkeypatch.setattr(simulation, "baselines", lambda _: Baselines(*[dict.fromkeys(NAMES)] * 2, None, None))
    done = simulate(HEART, out=folders("forked"), overrides=FOUR, drills=["rushing@3:Hungary"])
    assert done.error is not None
    assert (done.error.code, done.error.exit_status) == ("gate.forked", 3)
    assert "'Cleveland' voted 'better', then 'worse', on candidate" in str(done.error)
    assert [one[2:] for one in said(done.result["rounds"])[2:]] == [("failed", "open.list"), ("failed", "gate.forked")]
    assert (done.result["ended"], done.result["model"]["version"]) == ("forked", 2)
    reported(done, 2)


# What the server's side sees


def test_the_coordinator_never_sees_a_key(folders: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every message and every file of the server's side, against the circle's key and all that seals came from."""
    seen = overheard(monkeypatch)
    keys: list[bytes] = []
    made: list[Secrets] = []
    real_generate, real_fresh = answers.generate, Secrets.fresh

    def generating(plan: Any) -> bytes:
        keys.append(real_generate(plan))
        return keys[-1]

    def fresh(*arguments: Any) -> Secrets:
        made.append(real_fresh(*arguments))
        return made[-1]

    monkeypatch.setattr(answers, "generate", generating)
    monkeypatch.setattr(Secrets, "fresh", fresh)
    done = simulate(HEART, out=folders("spied"), overrides=(*FOUR, "training.rounds=2", "training.report_every=0"))
    everything = seen + [path.read_bytes() for path in done.out.rglob("*") if path.is_file()]
    assert len(keys) == 1
    assert len(made) == 4 * 4, "statistics, two updates, tallies"
    assert len(seen) > 50
    middle = len(keys[0]) // 2
    needles = [keys[0][middle : middle + 64]]  # somewhere in the key
    for one in made:
        needles += [one.seed, one.seed.hex().encode(), one.mask_key, one.mask_key.hex().encode()]
    for blob in everything:
        for needle in needles:
            assert needle not in blob
    public = pairs.public_mask(made[0].mask_key).hex().encode()
    assert any(public in blob for blob in seen), "the spy sees what passes"


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
    seen = overheard(monkeypatch)
    failing_at(monkeypatch, "Hungary", from_round=1)
    done = simulate(HEART, out=folders("canary"), overrides=("training.rounds=1",))
    assert done.result["rounds"][0]["named"] == [{"member": "Hungary", "code": "update.failed"}]
    for blob in seen + [path.read_bytes() for path in done.out.rglob("*") if path.is_file()]:
        assert CANARY.encode() not in blob


def test_row_counts_stay_with_the_members(run: Any) -> None:
    """The coordinator's files hold no member's training rows and not their total."""
    done = run()
    counts = {str(learner.rows) for learner in learners_of(HEART, FOUR).values()}
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
