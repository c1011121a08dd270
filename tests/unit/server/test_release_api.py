"""Models and decisions over HTTPS: who may look, who may decide, and what each refusal is called."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from moonflower.crypto.identity import PublicKey
from moonflower.protocol.model_version import TensorSpec, build, marked, parse
from moonflower.server.door.api import Api
from moonflower.server.records import history
from support.approvers import MEMBERS, Shelf, cards, signed
from support.circles import begin, heart_recipe
from support.gateway import Door, run

READERS = ("fl:run", "fl:audit", "fl:approve")


class Shop(Door):
    """A door to a shelf; version 1 has a file."""

    def __init__(self, folder: Path) -> None:
        self.shelf = Shelf(folder, 3)
        self.version = build((TensorSpec("w", (2,)),), np.ones(2, np.float32), {"package": "0.1.0"})
        self.shelf.entry("promoted", 9, sha=self.version.sha256)
        super().__init__(folder)
        self.state.models.write(self.version)

    def post(self, name: str, body: Any, scope: str = "fl:approve") -> Any:
        sent = body if isinstance(body, bytes) else json.dumps(body).encode()
        return run(self.desked("POST", f"/api/models/{name}/decisions", sent, scope))

    def get(self, path: str, scope: str = "fl:approve") -> Any:
        return run(self.desked("GET", path, scope=scope))

    def release(self, sha256: str) -> None:
        for name in MEMBERS[:2]:
            assert self.post(sha256, signed("approve", sha256, self.shelf.after, name).as_dict()).status == 201


@pytest.fixture
def shop(tmp_path: Path) -> Iterator[Shop]:
    made = Shop(tmp_path)
    yield made
    made.shelf.close()
    made.state.close()


def test_two_members_approvers_release_a_version(shop: Shop) -> None:
    sha256 = shop.shelf.sha(2)
    first = shop.post(sha256, signed("approve", sha256).as_dict())
    assert (first.status, first.json) == (
        201,
        {"event": "approved", "sha256": sha256, "version": 2, "approvals": 1, "required": 2, "missing": 1},
    )
    release = shop.get(f"/api/models/{sha256}").json["card"]["release"]
    assert (release["status"], release["step"], release["missing"], release["after"]) == ("promoted", "approve", 1, -1)
    assert [(one["member"], one["approver"]) for one in release["approvals"]] == [("anna", "board")]
    second = shop.post("2", signed("approve", sha256, by="bert").as_dict())
    assert (second.json["event"], second.json["missing"]) == ("released", 0)
    listing = shop.get("/api/models").json
    assert listing["released"] == {"version": 2, "sha256": sha256}
    assert listing["after"] == shop.shelf.after > 0
    assert {(one["version"], one["status"]) for one in listing["versions"]} == {
        *{(0, "start"), (1, "promoted"), (2, "released"), (3, "promoted"), (9, "promoted")},
        *{(None, "refused"), (None, "kept")},
    }


@pytest.mark.parametrize("scope", READERS)
def test_who_may_look(shop: Shop, scope: str) -> None:
    assert shop.get("/api/models", scope).status == 200
    shown = shop.get("/api/models/1", scope).json
    assert shown["lineage"]["sha256"] == shop.shelf.sha(1)
    assert shown["card"]["members"] == list(MEMBERS)
    pin = PublicKey(cards()["bert"].approvers[1].key.public).pin
    assert {"member": "bert", "approver": "ethics", "key": pin} in shown["approvers"]


@pytest.mark.parametrize("path", ["/api/models", "/api/models/1", "/api/models/1/file"])
def test_a_nodes_token_does_not_look(shop: Shop, path: str) -> None:
    assert shop.get(path, "fl:train").verdict == (403, "auth.scope")
    assert run(shop.ask("GET", path)).verdict == (401, "auth.no_token")


@pytest.mark.parametrize("scope", ["fl:train", "fl:run", "fl:audit", "fl:run fl:audit"])
def test_only_the_scope_of_approvers_lets_a_decision_in(shop: Shop, scope: str) -> None:
    sha256 = shop.shelf.sha(2)
    assert shop.post(sha256, signed("approve", sha256).as_dict(), scope).verdict == (403, "auth.scope")
    assert shop.shelf.events("approved") == []


def test_the_scope_alone_decides_nothing(shop: Shop) -> None:
    sha256 = shop.shelf.sha(2)
    made = signed("approve", sha256, key="eve")
    assert shop.post(sha256, made.as_dict()).verdict == (403, "release.signature")


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/api/models"), ("POST", "/api/models/1"), ("GET", "/api/models/1/decisions"),
        ("DELETE", "/api/models/1"),
        ("GET", "/api/models/"), ("GET", "/api/models/x"), ("GET", "/api/models/../runs"), ("GET", "/api/models/1/"),
        ("GET", "/api/models/1/files"), ("POST", "/api/models/1/file"), ("GET", "/api/models/ABCDEF"),
        ("GET", f"/api/models/{'a' * 65}"), ("GET", "/api/modelsx"), ("POST", "/api/models/1/decisions/"),
    ],
)  # fmt: skip
def test_there_are_no_other_routes(shop: Shop, method: str, path: str) -> None:
    assert run(shop.desked(method, path, scope="fl:approve")).verdict == (404, "http.not_found")
    assert shop.ours.reached == []


def about(number: int, **changes: Any) -> Callable[[Shop], Any]:
    return lambda shop: signed(**{"action": "approve", "sha256": shop.shelf.sha(number), **changes}).as_dict()


@pytest.mark.parametrize(
    ("name", "body", "verdict"),
    [
        ("2", lambda _: b"", (400, "release.malformed")),
        ("2", lambda _: b"{", (400, "release.malformed")),
        ("2", lambda _: b"[" * 100_000, (400, "release.malformed")),
        ("2", lambda _: b"\xff", (400, "release.malformed")),
        ("2", lambda _: [], (400, "release.malformed")),
        ("2", lambda _: {}, (400, "release.malformed")),
        ("2", lambda shop: {**about(2)(shop), "more": 1}, (400, "release.malformed")),
        ("2", lambda shop: {**about(2)(shop), "decision": "{}"}, (400, "release.malformed")),
        ("2", about(2, action="reject", reason=""), (400, "release.reason")),
        ("2", about(2, action="reject", reason="patient 123456"), (400, "release.reason")),
        ("2", about(2, by="eve"), (403, "release.unknown_approver")),
        ("2", about(2, key="eve"), (403, "release.signature")),
        ("3", about(2), (404, "release.digest")),
        ("0", lambda _: signed("approve", "0" * 64).as_dict(), (404, "release.digest")),
        ("7", about(2), (404, "data.model")),
        ("2", about(2, after=7), (409, "release.outdated")),
        ("2", about(2, action="rollback"), (409, "release.state")),
    ],
)  # fmt: skip
def test_a_decision_that_is_not_right_is_refused_by_name(
    shop: Shop, name: str, body: Callable[[Shop], Any], verdict: tuple[int, str]
) -> None:
    before = shop.shelf.log
    reply = shop.post(name, body(shop))
    assert reply.verdict == verdict
    assert shop.shelf.log == before
    assert "123456" not in reply.body.decode()


def test_twice_and_rejected_are_conflicts(shop: Shop) -> None:
    sha256 = shop.shelf.sha(2)
    assert shop.post(sha256, signed("approve", sha256).as_dict()).status == 201
    twice = signed("approve", sha256, role="ethics").as_dict()
    assert shop.post(sha256, twice).verdict == (409, "release.twice")
    rejected = shop.post(sha256, signed("reject", sha256, by="cleo").as_dict())
    assert (rejected.status, rejected.json["event"]) == (201, "rejected")
    assert shop.post(sha256, signed("approve", sha256, by="bert").as_dict()).verdict == (409, "release.rejected")
    shown = shop.get(f"/api/models/{sha256}").json["card"]["release"]
    assert (shown["status"], shown["rejected"]["member"]) == ("rejected", "cleo")


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
)


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.binary(max_size=60)
    | json_values.map(lambda value: json.dumps(value).encode())
    | st.fixed_dictionaries({"decision": json_values, "signature": json_values}).map(
        lambda one: json.dumps(one).encode()
    )
)
def test_junk_is_refused_and_leaves_no_trace(shop: Shop, body: bytes) -> None:
    reply = shop.post("2", body)
    assert reply.verdict == (400, "release.malformed")
    assert shop.shelf.events("approved") == []


def test_the_file_of_a_released_version_is_what_members_signed(shop: Shop) -> None:
    sha256 = shop.version.sha256
    assert shop.get(f"/api/models/{sha256}/file").verdict == (409, "release.unreleased")
    copy = shop.get(f"/api/models/{sha256}/file?unreleased=yes")
    assert (copy.status, copy.body) == (200, marked(shop.version).data)
    assert parse(copy.body).unreleased
    shop.release(sha256)
    for scope in READERS:
        assert shop.get(f"/api/models/{sha256}/file", scope).body == shop.version.data
    assert shop.get("/api/models/1/file?unreleased=yes").verdict == (404, "data.model")
    refused = shop.get(f"/api/models/{'f' * 64}/file?unreleased=yes")
    assert (refused.verdict, "was refused (gate.step)" in refused.json["detail"]) == ((404, "data.model"), True)
    kept = shop.get(f"/api/models/{'e' * 64}/file?unreleased=yes")
    assert (kept.verdict, "was kept, no better" in kept.json["detail"]) == ((404, "data.model"), True)


@pytest.mark.parametrize(
    ("gate", "least", "status"),
    [
        ("gate.approvals_required=1", 1, 201), ("gate.approvals_required=1", 2, 400),
        ("gate.approvals_required=2", 2, 201), ("gate.release=automatic", 1, 400), ("gate.release=automatic", 0, 201),
    ],
)  # fmt: skip
def test_whoever_submits_runs_cannot_ask_for_fewer_approvals_than_the_server(
    shop: Shop, gate: str, least: int, status: int
) -> None:
    api = Api(shop.state, "heart", lambda: None, least)
    shop.ours.app = api.app
    with shop.state.store.transaction() as db:
        history.end_run(db, "run-1", "done", "")
    recipe = heart_recipe(gate)
    begin(shop.state, recipe)
    reply = run(shop.desked("POST", "/api/runs", recipe.as_dict()))
    assert reply.status == status
    if status == 400:
        assert reply.code == "config.value"
        assert f"expected at least {least} at this server" in reply.json["detail"]


def test_a_run_whose_settings_would_not_fit_into_the_log_is_not_taken(shop: Shop) -> None:
    with shop.state.store.transaction() as db:
        history.end_run(db, "run-1", "done", "")
    recipe = heart_recipe().as_dict()
    recipe["task"]["options"] = {"note": "x" * (1 << 18)}
    reply = run(shop.desked("POST", "/api/runs", recipe))
    assert reply.status == 400
    assert "expected at most 262144, because it goes into the log" in reply.json["detail"]
