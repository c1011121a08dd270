"""Real processes: two members' approvers release a model over HTTPS, and somebody far away checks the file."""

from __future__ import annotations

import json
import subprocess
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import tomli_w
from moonflower.canonical import canonical
from moonflower.client.keyring import load_keys
from moonflower.configs.roles import OperatorConfig, load_config
from moonflower.errors import InputError, Refused
from moonflower.federation import processes
from moonflower.federation import stage as staging
from moonflower.federation.remote import Remote
from moonflower.protocol.model_version import parse
from moonflower.server.records.verify import verify
from support import PATIENCE_S
from support.live import Live

pytestmark = pytest.mark.slow
CLEVELAND, HUNGARY = "Cleveland", "Hungary"


@dataclass(frozen=True)
class Office:
    """Two people at desks of their own, each with a key and an OAuth client, and their federation."""

    live: Live
    folder: Path

    def moonflower(self, *arguments: object) -> subprocess.CompletedProcess[str]:
        line = processes.command(*(one if isinstance(one, Path) else str(one) for one in arguments))
        return subprocess.run(line, capture_output=True, text=True, timeout=PATIENCE_S, cwd=self.folder)

    def model(self, member: str, *arguments: object) -> subprocess.CompletedProcess[str]:
        return self.moonflower("model", *arguments, "--as", self.folder / member / "operator.toml")

    def decide(self, member: str, *arguments: object, role: str = "board") -> subprocess.CompletedProcess[str]:
        return self.model(member, *arguments, "--key", self.folder / member / f"{role}.jwk", "--yes", "--json")


def changed(path: Path, change: Any) -> None:
    tables = tomllib.loads(path.read_text())
    change(tables)
    path.write_text(tomli_w.dumps(tables))


@pytest.fixture(scope="module")
def office(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Office]:
    folder = tmp_path_factory.mktemp("release")
    whole = Live(folder / "up", "training.rounds=2")
    made = Office(whole, folder)
    for member in (CLEVELAND, HUNGARY):
        desk = folder / member
        desk.mkdir()
        approvers = []
        for role in ("board", "ethics") if member == CLEVELAND else ("board",):
            printed = made.moonflower("keys", "approver", desk / f"{role}.jwk")
            assert printed.returncode == 0, printed.stderr
            approvers.append({"name": role, "key": tomllib.loads(printed.stdout)["key"]})
        changed(whole.stage.clients[member], lambda tables, approvers=approvers: tables.update(approver=approvers))
        public = staging.client_key(desk)
        client = {"client_id": f"approver:{member}", "key": str(public), "scopes": ["fl:approve"]}
        changed(whole.stage.issuer, lambda tables, client=client: tables["client"].append(client))
        login = tomllib.loads(whole.stage.operator.read_text())
        login["operator"]["ca"] = str(whole.stage.folder / "ca.pem")
        login["oauth"] |= {"client_id": client["client_id"], "key": "oauth.key"}
        (desk / "operator.toml").write_text(tomli_w.dumps(login))
    with whole:
        yield made


def test_two_members_approvers_release_a_model_over_the_network(office: Office) -> None:
    live, folder = office.live, office.folder
    shown = live.run("training.rounds=2")
    assert shown["status"] == "done"
    sha256 = shown["result"]["model"]["sha256"]
    number = shown["result"]["model"]["version"]

    early = office.model(CLEVELAND, "export", number, "--out", folder / "early")
    assert (early.returncode, "not released" in early.stderr, "hint: --unreleased" in early.stderr) == (1, True, True)
    marked = office.model(CLEVELAND, "export", number, "--out", folder / "early", "--unreleased")
    assert marked.returncode == 0, marked.stderr
    assert parse((folder / "early").read_bytes()).unreleased

    first = office.decide(CLEVELAND, "approve", sha256)
    assert first.returncode == 0, first.stderr
    assert json.loads(first.stdout)["missing"] == 1
    again = office.decide(CLEVELAND, "approve", sha256, role="ethics")
    assert (again.returncode, "another member's" in again.stderr) == (1, True), "two approvers of one member"
    serve_another(office, number - 1)
    second = office.decide(HUNGARY, "approve", number)
    assert json.loads(second.stdout)["event"] == "released", second.stderr

    listing = json.loads(office.model(HUNGARY, "list", "--json").stdout)
    assert listing["released"] == {"version": number, "sha256": sha256}
    out = office.model(HUNGARY, "export", number, "--out", folder / "heart.safetensors")
    assert out.returncode == 0, out.stderr
    assert parse((folder / "heart.safetensors").read_bytes()).sha256 == sha256

    config = live.stage.clients[CLEVELAND]
    verified = office.moonflower("model", "verify", folder / "heart.safetensors", "--config", config, "--approvals", 2)
    assert verified.returncode == 0, verified.stderr
    assert "approved by Cleveland (board), Hungary (board)" in verified.stdout
    pin = load_keys(config.parent / "state").pin
    alone = office.moonflower("model", "verify", folder / "heart.safetensors", "--pin", f"{CLEVELAND}={pin}")
    assert alone.returncode == 1, "one pin proves too little"

    late = office.decide(HUNGARY, "reject", number, "--reason", "too late")
    assert (late.returncode, "is the released one" in late.stderr) == (1, True)
    assert [entry["member"] for entry in live.events("approved")] == [CLEVELAND, HUNGARY]
    assert len(live.events("released")) == 1
    assert verify(live.state / "moonflower.db", (live.state / "log.pub").read_text(), None).ok


def serve_another(office: Office, number: int) -> None:
    """Try to have an approval that was given serve another version: as it is, and with its digest changed."""
    (given,) = (
        {name: e["details"][name] for name in ("decision", "signature")} for e in office.live.events("approved")
    )
    with approver_of(office) as approver:
        other = approver.shown(str(number))["lineage"]["sha256"]
        moved = canonical({**json.loads(given["decision"]), "sha256": other}).decode()
        for decision, code in ((given["decision"], "release.digest"), (moved, "release.signature")):
            with pytest.raises((Refused, InputError)) as refusal:
                approver.decide(other, {**given, "decision": decision})
            assert refusal.value.code == code
        assert approver.listing()["released"] is None


@contextmanager
def approver_of(office: Office) -> Iterator[Remote]:
    remote = Remote(load_config(OperatorConfig, office.folder / CLEVELAND / "operator.toml"), "fl:approve")
    try:
        yield remote
    finally:
        remote.close()


def test_a_desk_that_submits_runs_decides_nothing(office: Office) -> None:
    live = office.live
    with pytest.raises(Refused) as refusal:
        live.remote.decide("1", {"decision": "", "signature": ""})
    assert refusal.value.code == "auth.scope"
    assert live.remote.listing()["versions"], "but it may look"
    with approver_of(office) as approver:
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


def test_a_run_below_the_floor_of_the_server_is_not_taken(office: Office) -> None:
    with pytest.raises(InputError, match="expected at least 2 at this server") as refusal:
        office.live.submit("gate.approvals_required=1")
    assert refusal.value.code == "config.value"
