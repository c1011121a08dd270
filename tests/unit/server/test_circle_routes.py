"""Circles at the server: what it keeps, what it refuses, what it shows; and which tokens open these routes."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from moonflower.crypto.identity import Identity
from moonflower.protocol.circle import Circle, say_farewell, sign
from moonflower.protocol.circle_board import CircleBoard
from moonflower.server.door.api import Api
from moonflower.server.door.circle_routes import CircleRoutes
from moonflower.server.records import members as roster
from moonflower.server.records.circles import JUMP, MAX_PROPOSED
from moonflower.server.records.members import RosterMember
from moonflower.server.records.state import State
from moonflower.server.watch.views import Views
from starlette.applications import Starlette
from support.circles import heart_recipe, pins_of

NAMES = ("anna", "bert", "cleo")
DAY_S = 86400.0


class Desk:
    """The routes over a state with three members at its door."""

    def __init__(self, folder: Path) -> None:
        self.state, self.now = State(folder, "heart"), 1e9
        self.app = Starlette(routes=CircleRoutes(self.state, lambda: self.now).routes)
        self.identities = {name: Identity.generate(name) for name in (*NAMES, "dora")}
        with self.state.store.transaction() as db:
            for name in NAMES:
                pin = self.identities[name].card.node.pin
                roster.add(db, self.state.log, RosterMember(name, "https://idp.example.org", name, pin))

    def circle(self, number: int = 1, *overrides: str, names: tuple[str, ...] = NAMES, **more: Any) -> Circle:
        return Circle.of(
            heart_recipe(*overrides), pins_of(self.identities[one] for one in names), number=number, **more
        )

    def ask(self, method: str, path: str, body: Any = None, raw: bytes | None = None) -> httpx.Response:
        async def asked() -> httpx.Response:
            async with httpx.AsyncClient(transport=httpx.ASGITransport(self.app), base_url="https://here") as client:
                return await client.request(method, path, content=json.dumps(body) if raw is None else raw)

        return asyncio.run(asked())

    def propose(self, made: Circle) -> httpx.Response:
        return self.ask("POST", "/api/circle", made.as_dict())

    def sign(self, made: Circle, name: str, by: str = "", **changed: Any) -> httpx.Response:
        given = sign(self.identities[by or name], made).as_dict()
        body = {"circle": made.digest, "member": name, **given, **changed}
        return self.ask("POST", "/api/circle/signatures", body)

    @property
    def board(self) -> CircleBoard:
        return CircleBoard.parse(self.ask("GET", "/api/circle").json())

    def events(self) -> list[str]:
        return [entry["event"] for entry in self.state.log.entries() if entry["event"] != "member_added"]


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    made = Desk(tmp_path)
    yield made
    made.state.close()


def refused(reply: httpx.Response, code: str = "circle.differs", status: int = 409) -> str:
    assert (reply.status_code, reply.json()["code"]) == (status, code), reply.text
    return str(reply.json()["detail"])


def test_a_circle_begins_with_the_last_signature(desk: Desk) -> None:
    made = desk.circle()
    assert desk.propose(made).status_code == desk.propose(made).status_code == 201, "the same again changes nothing"
    for name in NAMES:
        assert desk.board.living is None
        assert desk.sign(made, name).json() == {"begins": name == "cleo"}
        assert desk.sign(made, name).json() == {"begins": False}
    assert desk.board.living is not None
    assert desk.board.living.circle == made
    assert desk.board.proposed == ()
    assert desk.events() == ["circle_proposed", *["circle_signed"] * 3, "circle_began"]


def test_what_no_member_would_believe_is_not_kept(desk: Desk) -> None:
    made = desk.circle()
    desk.propose(made)
    assert "a key that the circle does not name" in refused(desk.sign(made, "anna", by="bert"))
    assert "a key that the circle does not name" in refused(desk.sign(made, "dora"))
    assert "does not match circle 1" in refused(
        desk.sign(made, "anna", signature=sign_of(desk, desk.circle(2), "anna"))
    )
    assert "no circle" in refused(desk.sign(desk.circle(9), "anna"))
    for junk in ({}, [], "x", 7, {"circle": 1, "member": "anna"}, {"circle": made.digest, "member": ["anna"]}):
        refused(desk.ask("POST", "/api/circle/signatures", junk))
        refused(desk.ask("POST", "/api/circle", junk))
        refused(desk.ask("POST", "/api/circle/farewells", junk))
    refused(desk.ask("POST", "/api/circle", raw=b"\xff{"), "config.value", 400)
    refused(desk.ask("POST", "/api/circle", raw=b"[" * 100_000), "config.value", 400)
    for place in (lambda raw: raw["members"][0], lambda raw: raw["recipe"]["task"]):
        raw = desk.circle().as_dict()
        found = place(raw)
        found[0 if isinstance(found, list) else "note"] = "\ud800"
        refused(desk.ask("POST", "/api/circle", raw=json.dumps(raw).encode()), "config.value", 400)
    assert desk.events() == ["circle_proposed"]


def sign_of(desk: Desk, made: Circle, name: str) -> str:
    return str(sign(desk.identities[name], made).as_dict()["signature"])


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda raw: raw["recipe"]["training"].pop("lr"), "training.lr: missing"),
        (lambda raw: raw["recipe"]["training"].update(momentum=1), "unknown key 'training.momentum'"),
        (lambda raw: raw["recipe"].pop("gate"), "gate is missing"),
        (lambda raw: raw["recipe"]["schema"].pop("label"), "has no 'label'"),
        (lambda raw: raw.update(number=0), "circle 0"),
        (lambda raw: raw.update(number=2**31 + 1), "circle 2147483649"),
        (lambda raw: raw.update(counted=2), "rows counted in circle 2"),
        (lambda raw: raw.update(new_ledgers=["dora"]), "not in the circle"),
        (lambda raw: raw.update(more=1), "malformed circle: "),
        (lambda raw: raw["members"].reverse(), "malformed circle: "),
        (lambda raw: raw["members"].pop(), "a circle of 2 members; expected 3"),
        (lambda raw: raw["members"][0].reverse(), "malformed circle: "),
        (lambda raw: raw["members"][0].__setitem__(0, "an\x1b[2Jna"), "malformed circle: "),
    ],
)
def test_a_circle_that_is_none_is_refused_in_one_sentence(desk: Desk, change: Any, said: str) -> None:
    raw = desk.circle().as_dict()
    change(raw)
    assert said in refused(desk.ask("POST", "/api/circle", raw))
    assert desk.events() == []


def test_who_is_not_let_in_is_in_no_circle(desk: Desk) -> None:
    assert "'dora' is not on this server's roster" in refused(desk.propose(desk.circle(names=(*NAMES, "dora"))))
    desk.identities["cleo"] = Identity.generate("cleo")
    assert "'cleo' has the pin" in refused(desk.propose(desk.circle()))
    with desk.state.store.transaction() as db:
        roster.revoke(db, desk.state.log, "bert", "gone")
    assert "was revoked" in refused(desk.propose(desk.circle(names=("anna", "bert", "dora"))))


def test_numbers_are_taken_once_and_cannot_be_used_up(desk: Desk) -> None:
    desk.propose(desk.circle())
    assert "expected a number from 2 to" in refused(desk.propose(desk.circle(1, "training.lr=0.2")), "circle.changed")
    assert "expected a number from 2 to 102" in refused(desk.propose(desk.circle(3 + JUMP)), "circle.changed")
    for number in range(2, MAX_PROPOSED + 1):
        assert desk.propose(desk.circle(number)).status_code == 201
    assert "wait for signatures" in refused(desk.propose(desk.circle(MAX_PROPOSED + 1)), "circle.changed")
    desk.now += 31 * DAY_S  # nobody signed them
    assert desk.board.proposed == ()
    assert desk.board.newest == 0
    fresh = desk.circle(1, "training.lr=0.3")
    assert desk.propose(fresh).status_code == 201, "and the numbers are free again"


def test_signatures_that_hold_no_more_begin_nothing(desk: Desk) -> None:
    """A member that signed a higher number would not believe the lower one any more; nor one after 30 days."""
    low, high = desk.circle(), desk.circle(2, "training.lr=0.2")
    desk.propose(low)
    desk.propose(high)
    assert desk.sign(low, "anna").status_code == desk.sign(high, "anna").status_code == 201
    assert [one.circle.number for one in desk.board.proposed] == [2]
    assert "can no longer begin" in refused(desk.sign(low, "bert"))
    assert desk.sign(high, "bert").status_code == 201
    desk.now += 31 * DAY_S
    assert "can no longer begin" in refused(desk.sign(high, "cleo"))
    assert desk.board.living is None
    third = desk.circle(desk.board.newest + 1)
    desk.propose(third)
    assert [desk.sign(third, name).json()["begins"] for name in NAMES] == [False, False, True]


def test_a_farewell_is_its_members_own_and_to_one_circle(desk: Desk) -> None:
    made = desk.circle()
    desk.propose(made)
    for name in NAMES:
        desk.sign(made, name)
    said = say_farewell(desk.identities["cleo"], made.digest).as_dict()
    assert "not signed by a member" in refused(desk.ask("POST", "/api/circle/farewells", {**said, "name": "anna"}))
    refused(desk.ask("POST", "/api/circle/farewells", {**said, "circle": "0" * 64}))
    for _ in range(2):
        assert desk.ask("POST", "/api/circle/farewells", said).status_code == 201
    (found,) = desk.board.farewells
    assert found.is_from("cleo", made.pins["cleo"], made.digest)
    assert not found.is_from("cleo", made.pins["anna"], made.digest)
    assert not found.is_from("cleo", made.pins["cleo"], "0" * 64)
    assert desk.events().count("farewell") == 1


def test_which_tokens_open_what(desk: Desk) -> None:
    scopes = Api(desk.state, "heart", lambda: None).scopes
    assert set(scopes("GET", "/api/circle") or ()) == {"fl:run", "fl:train", "fl:audit", "fl:approve"}
    assert scopes("POST", "/api/circle") == ("fl:run",)
    assert scopes("POST", "/api/circle/signatures") == scopes("POST", "/api/circle/farewells") == ("fl:train",)
    for method, path in (("PUT", "/api/circle"), ("GET", "/api/circle/signatures"), ("GET", "/api/circle/1")):
        assert scopes(method, path) is None


def test_pages_show_who_has_not_signed_and_what_an_act_changes(desk: Desk) -> None:
    first, views = desk.circle(), Views(desk.state)
    desk.now = time.time()
    assert views.members()["circles"] == []
    desk.propose(first)
    desk.sign(first, "anna")
    assert views.overview()["sentence"].endswith("Circle 1 waits for the signatures of bert and cleo.")
    for name in NAMES:
        desk.sign(first, name)
    desk.propose(desk.circle(2, "training.lr=0.2", "training.init_seed=8", counted=1))
    begun, proposed = views.members()["circles"]
    assert (begun["number"], begun["begun"], begun["act"]) == (1, True, [])
    assert (proposed["number"], proposed["begun"]) == (2, False)
    assert "training.lr: 0.1 becomes 0.2." in proposed["act"]
    assert [one["signed"] for one in proposed["members"]] == [False] * 3
    assert any("learning rate of 0.2" in line for line in proposed["recipe"]["What is trained"])
