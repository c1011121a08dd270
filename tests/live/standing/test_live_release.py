"""Real processes: two members' approvers release a model over HTTPS, and somebody far away checks the file."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from moonflower.canonical import canonical
from moonflower.client.keyring import load_keys
from moonflower.configs.roles import OperatorConfig, load_config
from moonflower.errors import InputError, Refused
from moonflower.federation.remote import Remote
from moonflower.protocol.model_version import parse
from moonflower.server.records.verify import verify
from support.approving import CLEVELAND, HUNGARY, Approvers


def test_two_members_approvers_release_a_model_over_the_network(approvers: Approvers) -> None:
    live, folder = approvers.live, approvers.folder
    shown = live.run("training.rounds=2")
    assert shown["status"] == "done"
    sha256 = shown["result"]["model"]["sha256"]
    number = shown["result"]["model"]["version"]

    early = approvers.model(CLEVELAND, "export", number, "--out", folder / "early")
    assert (early.returncode, "not released" in early.stderr, "hint: --unreleased" in early.stderr) == (1, True, True)
    marked = approvers.model(CLEVELAND, "export", number, "--out", folder / "early", "--unreleased")
    assert marked.returncode == 0, marked.stderr
    assert parse((folder / "early").read_bytes()).unreleased

    first = approvers.decide(CLEVELAND, "approve", sha256)
    assert first.returncode == 0, first.stderr
    assert json.loads(first.stdout)["missing"] == 1
    again = approvers.decide(CLEVELAND, "approve", sha256, role="ethics")
    assert (again.returncode, "expected an approver of another member" in again.stderr) == (1, True), (
        "two approvers of one member"
    )
    serve_another(approvers, number - 1)
    second = approvers.decide(HUNGARY, "approve", number)
    assert json.loads(second.stdout)["event"] == "released", second.stderr

    listing = json.loads(approvers.model(HUNGARY, "list", "--json").stdout)
    assert listing["released"] == {"version": number, "sha256": sha256}
    out = approvers.model(HUNGARY, "export", number, "--out", folder / "heart.safetensors")
    assert out.returncode == 0, out.stderr
    assert parse((folder / "heart.safetensors").read_bytes()).sha256 == sha256

    config = live.stage.clients[CLEVELAND]
    verified = approvers.moonflower(
        "model", "verify", folder / "heart.safetensors", "--config", config, "--approvals", 2
    )
    assert verified.returncode == 0, verified.stderr
    assert "approved by Cleveland (board), Hungary (board)" in verified.stdout
    pin = load_keys(config.parent / "state").pin
    alone = approvers.moonflower("model", "verify", folder / "heart.safetensors", "--pin", f"{CLEVELAND}={pin}")
    assert alone.returncode == 1, "one pin proves too little"

    late = approvers.decide(HUNGARY, "reject", number, "--reason", "too late")
    assert (late.returncode, "is the released one" in late.stderr) == (1, True)
    assert [entry["member"] for entry in live.events("approved")] == [CLEVELAND, HUNGARY]
    assert len(live.events("released")) == 1
    assert verify(live.state / "moonflower.db", (live.state / "log.pub").read_text(), None).ok


def serve_another(approvers: Approvers, number: int) -> None:
    """Try to have an approval that was given serve another version: as it is, and with its digest changed."""
    (given,) = (
        {name: e["details"][name] for name in ("decision", "signature")} for e in approvers.live.events("approved")
    )
    with approver_of(approvers) as approver:
        other = approver.shown(str(number))["lineage"]["sha256"]
        moved = canonical({**json.loads(given["decision"]), "sha256": other}).decode()
        for decision, code in ((given["decision"], "release.digest"), (moved, "release.signature")):
            with pytest.raises((Refused, InputError)) as refusal:
                approver.decide(other, {**given, "decision": decision})
            assert refusal.value.code == code
        assert approver.listing()["released"] is None


@contextmanager
def approver_of(approvers: Approvers) -> Iterator[Remote]:
    remote = Remote(load_config(OperatorConfig, approvers.folder / CLEVELAND / "operator.toml"), "fl:approve")
    try:
        yield remote
    finally:
        remote.close()


def test_a_desk_that_submits_runs_decides_nothing(approvers: Approvers) -> None:
    live = approvers.live
    with pytest.raises(Refused) as refusal:
        live.remote.decide("1", {"decision": "", "signature": ""})
    assert refusal.value.code == "auth.scope"
    assert live.remote.listing()["versions"], "but it may look"
    with approver_of(approvers) as approver:
        with pytest.raises(Refused) as refusal:
            approver.runs()
        assert refusal.value.code == "auth.scope"
        for wrong in ("../runs", "x", ""):
            with pytest.raises(InputError) as odd:
                approver.shown(wrong)
            assert odd.value.code == "data.model"
        with pytest.raises(InputError) as odd:
            approver.decide("1", {"decision": "{}", "signature": ""})
        assert odd.value.code == "release.malformed"


def test_a_run_below_the_floor_of_the_server_is_not_taken(approvers: Approvers) -> None:
    with pytest.raises(InputError, match="expected at least 2 at this server") as refusal:
        approvers.live.submit("gate.approvals_required=1")
    assert refusal.value.code == "config.value"
