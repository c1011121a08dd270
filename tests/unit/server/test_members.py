"""The roster: adding, revoking, what stays taken; each is an entry of the log."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from moonflower.cli import member as member_command
from moonflower.client.keyring import identity_of
from moonflower.configs.roles import ClientConfig, load_config
from moonflower.errors import InputError
from moonflower.server.records import members as roster
from moonflower.server.records.members import RosterMember
from moonflower.server.records.state import State
from support import CONFIGS
from support.approvers import card
from support.superlink import client_config

ISSUER = "https://idp.example.org"
A = RosterMember("a", ISSUER, "client-a", "A" * 43)
B = RosterMember("b", ISSUER, "client-b", "B" * 43)


@pytest.fixture
def state(tmp_path: Path) -> Iterator[State]:
    opened = State(tmp_path, "heart")
    with opened.store.transaction() as db:
        assert roster.add(db, opened.log, A)
        assert roster.add(db, opened.log, B)
    yield opened
    opened.close()


def events(state: State) -> list[tuple[str, str]]:
    return [(entry["event"], entry["member"]) for entry in state.log.entries()]


def test_members_are_found_by_their_client(state: State) -> None:
    with state.store.read() as db:
        assert roster.by_client(db, ISSUER, "client-a") == A
        assert roster.by_client(db, "https://other.example.org", "client-a") is None
        assert roster.pins(db) == {"a": A.pin, "b": B.pin}
    assert events(state) == [("member_added", "a"), ("member_added", "b")]


def test_adding_the_same_member_again_changes_nothing(state: State) -> None:
    with state.store.transaction() as db:
        assert not roster.add(db, state.log, A)
    assert len(events(state)) == 2


def test_a_card_that_came_by_hand_is_logged_where_it_changes_who_may_approve(state: State) -> None:
    first, second = (card("a", board=person).as_dict() for person in ("anna", "bert"))
    for came in (first, first, second, first):
        with state.store.transaction() as db:
            roster.take_card(db, state.log, came)
            (kept,) = roster.cards(db).values()
            assert kept.as_dict() == came
    taken = [entry["details"]["card"] for entry in state.log.entries() if entry["event"] == "card_taken"]
    assert taken == [first, second, first], "an old card that comes back is a change, too"


@pytest.mark.parametrize(
    ("new", "field"),
    [
        (RosterMember("a", ISSUER, "client-c", "C" * 43), "name of 'a'"),
        (RosterMember("c", ISSUER, "client-a", "C" * 43), "client_id of 'c'"),
        (RosterMember("c", ISSUER, "client-c", A.pin), "pin of 'c'"),
    ],
)
def test_nothing_of_a_member_can_be_anothers(state: State, new: RosterMember, field: str) -> None:
    with pytest.raises(InputError, match=field), state.store.transaction() as db:
        roster.add(db, state.log, new)
    assert len(events(state)) == 2


def test_a_revoked_member_is_out_until_it_is_let_in_again(state: State) -> None:
    with state.store.transaction() as db:
        roster.revoke(db, state.log, "a", "left the federation")
        assert roster.pins(db) == {"b": B.pin}
        assert roster.revoked(db) == {"a"}
        found = roster.by_client(db, ISSUER, "client-a")
        assert found is not None
        assert found.revoked
    assert events(state)[-1] == ("member_revoked", "a")
    with (
        pytest.raises(InputError, match=r"belonged to member .*, now revoked; expected a new one"),
        state.store.transaction() as db,
    ):
        roster.add(db, state.log, replace(A, name="c"))
    for again in (A, replace(A, pin="P" * 43)):  # the second has new keys
        with state.store.transaction() as db:
            assert roster.add(db, state.log, again)
            assert roster.pins(db) == {"a": again.pin, "b": B.pin}
            roster.revoke(db, state.log, "a", "again")


@pytest.mark.parametrize(("name", "said"), [("c", "is not on the roster"), ("a", "is already revoked")])
def test_only_a_member_can_be_revoked(state: State, name: str, said: str) -> None:
    with state.store.transaction() as db:
        roster.revoke(db, state.log, "a", "gone")
    with pytest.raises(InputError, match=said), state.store.transaction() as db:
        roster.revoke(db, state.log, name, "gone")


SERVER = """
[server]
federation = "heart"
state = "coordinator"
tls_cert = "server.pem"
tls_key = "server.key"
[oauth]
issuer = "http://127.0.0.1:1"
audience = "https://fl.example.org/"
"""


def test_the_first_command_makes_the_state_for_its_own_user_only(tmp_path: Path) -> None:
    """A roster is made before the server runs, which has its files for itself."""
    home = tmp_path / "member"
    home.mkdir()
    own = identity_of(load_config(ClientConfig, client_config(home, CONFIGS / "data")))
    (tmp_path / "card.json").write_text(json.dumps(own.card.as_dict()))
    (tmp_path / "server.toml").write_text(SERVER)
    member_command.add([tmp_path / "card.json"], tmp_path / "server.toml")
    made = tmp_path / "coordinator"
    shown = {one.name: one.stat().st_mode & 0o077 for one in (made, made / "moonflower.db", made / "log.key")}
    assert shown == dict.fromkeys(shown, 0)
