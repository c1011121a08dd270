"""What stays with a member: personal tensors, its own whole model of Ditto, and where its ledger keeps them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from moonflower.client.learning.learner import DITTO
from moonflower.client.learning.predict import open_version
from moonflower.client.learning.rows import Split
from moonflower.client.learning.torch import TorchLearner
from moonflower.client.ledger.ledger import Ledger
from moonflower.client.ledger.own_parts import PROMOTED
from moonflower.client.own_model import whole
from moonflower.client.purposes import private_of_version
from moonflower.client.tasks.tabular import Tabular
from moonflower.configs.training import TrainingSettings
from moonflower.errors import InputError
from moonflower.protocol.model_version import Version, build
from support.learners import SCHEMA, TRAINING, rows, secret_of

HEAD = ("2.*",)


def made(patterns: tuple[str, ...] = HEAD, personalise: str = "none") -> TorchLearner:
    parts = Split(rows(40), rows(10, 2), rows(20, 3))
    task = Tabular(hidden=(4,), personalise=personalise)
    one = TorchLearner(task, parts, SCHEMA, seed=7, secret=secret_of("a"), personal=patterns)
    one.prepare(one.scaling(one.summary().tolist()))
    return one


def test_personal_tensors_are_trained_and_do_not_travel() -> None:
    one = made()
    assert [spec.name for spec in one.layout] == ["0.weight", "0.bias"]
    assert one.personal == ("2.weight", "2.bias")
    assert {*one.frozen} == {*one.personal}  # their start values: they are the same at every member
    base = one.start()
    first = one.train(base, TRAINING, 1)
    assert (first.personal["2.weight"] != one.frozen["2.weight"]).any()
    again = one.train(base, TRAINING, 1)
    assert again.vector.tobytes() == first.vector.tobytes()  # no call depends on an earlier one
    further = one.train(first.vector, TRAINING, 2, first.personal)
    forgotten = one.train(first.vector, TRAINING, 2)
    assert not np.array_equal(further.vector, forgotten.vector)
    own, start = (one.evaluate(first.vector, "train", personal)["loss"] for personal in (first.personal, {}))
    assert own < start  # type: ignore[operator]
    assert one.personalised(first.vector, first.personal) is not None
    with pytest.raises(InputError, match=r"this member's own tensor '2.bias' has another shape"):
        one.evaluate(base, "test", {"2.bias": np.zeros(3)})


def test_a_pattern_that_fits_no_tensor_or_all_is_refused() -> None:
    with pytest.raises(InputError, match=r"no tensor fits 'head.\*'; the model has 0.weight, 0.bias"):
        made(("head.*",))
    with pytest.raises(InputError, match=r"training.personal fits all tensors of the model; expected one or more"):
        made(("*",))


def test_ditto_changes_no_update_and_its_model_is_pulled_to_the_common_one() -> None:
    one = made(())
    base = one.start()
    plain = one.train(base, TRAINING, 1)
    loose, tight = (one.train(base, TRAINING.model_copy(update={"ditto": pull}), 1) for pull in (0.01, 9.0))
    assert loose.vector.tobytes() == tight.vector.tobytes() == plain.vector.tobytes()
    assert plain.personal == {}

    def far(found: Any) -> float:
        own = np.concatenate([found.personal[DITTO + spec.name].reshape(-1) for spec in one.layout])
        return float(np.linalg.norm(own - base))

    assert far(tight) < far(loose) / 2
    assert one.evaluate(base, "test", loose.personal) == one.evaluate(base, "test")  # votes are about the common model
    assert one.personalised(base, loose.personal) != one.evaluate(base, "test")
    after = one.train(base, TRAINING.model_copy(update={"ditto": 0.01}), 2, loose.personal)
    assert far(after) > far(loose)  # it goes on from where it was


def test_a_ledger_keeps_them_by_version_and_a_repeated_round_begins_where_it_began() -> None:
    ledger = Ledger(None)
    parts = ledger.own_parts

    def tensors(value: float) -> dict[str, Any]:
        return {"head": np.full(2, value, dtype=np.float32)}

    def of(version: str) -> float | None:
        found = parts.of(version)
        return float(found["head"][0]) if found else None

    assert of("0") is None
    parts.note("0", False, "context 1", tensors(1))
    parts.note("0", False, "context 1 again", tensors(1.5))  # the number failed, and was repeated
    parts.adopt("context 1 again", "1")
    assert (of("0"), of("1")) == (None, 1.5)
    parts.note("1", True, "context 2", tensors(2))
    parts.adopt("context 2", "2")  # refused: round 3 begins at version 1 again
    assert of("1") == 1.5
    parts.note("1", True, "context 3", tensors(3))
    assert of("2") is None
    for number in range(3, 9):
        parts.adopt(f"context {number}", str(number))
        parts.note(str(number), True, f"context {number + 1}", tensors(number + 1))
    kept = [number for number in range(9) if of(str(number)) is not None]
    assert kept == list(range(9 - PROMOTED, 9))
    parts.adopt("context 9", "9")
    parts.note("9", True, "report", {})  # the last version of the run: only its report says that it was promoted
    parts.note("0", False, "context of the next run", tensors(10))
    assert of("9") == 9
    parts.adopt("context of another run", "x")
    assert of("x") is None
    ledger.close()


def version_of(one: TorchLearner, vector: Any) -> Version:
    manifest = {
        "format": 1, "federation": "t", "schema": SCHEMA.to_dict(), "scaling": one._scaling, "package": "0",
        "task": {"ref": "moonflower.client.tasks.tabular:task", "hidden": [4], "personalise": "intercept"},
        **({"personal": list(one.personal)} if one.personal else {}),
    }  # fmt: skip
    return build(one.layout, vector, manifest, frozen=one.frozen)


@pytest.mark.parametrize("ditto", [0.0, 0.05])
@pytest.mark.parametrize("patterns", [HEAD, ()])
def test_a_members_own_file_scores_as_it_does_at_the_member(
    patterns: tuple[str, ...], ditto: float, caplog: pytest.LogCaptureFixture
) -> None:
    one, ledger = made(patterns, "intercept"), Ledger(None)
    trained = one.train(one.start(), TRAINING.model_copy(update={"ditto": ditto}), 1)
    version = version_of(one, trained.vector)
    if trained.personal:
        ledger.own_parts.note("base", False, "context", trained.personal)
        ledger.own_parts.adopt("context", version.identity)
    ledger.fact_once(private_of_version(version), one.private(trained.vector, trained.personal))
    own = whole(ledger, version, "a")
    judged = open_version(own)
    test = one._raw.test
    ready = judged.task.prepare(test, SCHEMA, judged.scaling)
    found = judged.task.metrics(judged._outputs(ready), ready.targets)
    assert found["loss"] == pytest.approx(one.personalised(trained.vector, trained.personal)["loss"], abs=1e-6)  # type: ignore[index]
    assert not caplog.records
    open_version(version)
    assert bool(patterns) == ("are each member's own, and have their start values here" in caplog.text)
    ledger.close()


def test_without_its_own_tensors_a_node_says_so() -> None:
    one, ledger = made(), Ledger(None)
    with pytest.raises(InputError, match="this node has no tensors of its own for version"):
        whole(ledger, version_of(one, one.start()), "a")
    ledger.close()


def test_a_model_file_that_lies_about_personal_tensors_is_refused() -> None:
    one = made()
    good = version_of(one, one.start())
    for names in ("2.weight", ["nothing"], [3], ["0.weight"]):
        bad = build(one.layout, good.vector, {**good.manifest, "personal": names}, frozen=one.frozen)
        with pytest.raises(InputError, match="not a usable moonflower model version"):
            open_version(bad)
    lies = build(one.layout, good.vector, {**good.manifest, "private": "a", "member": "a"}, frozen=one.frozen)
    with pytest.raises(InputError, match="the private part of the model is not a finite number"):
        open_version(lies)._outputs(one._part("test"))


def test_alone_a_member_trains_its_own_tensors_too() -> None:
    one = made()
    vector, personal = one.fit(TrainingSettings(rounds=3, ditto=0.1))
    assert {*personal} == {"2.weight", "2.bias"}
    assert torch.isfinite(torch.from_numpy(vector)).all()
