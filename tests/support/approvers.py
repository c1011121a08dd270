"""People who release models, and a small registry for them to decide about, for tests."""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric import ec
from moonflower.canonical import canonical
from moonflower.crypto.identity import Approver, Card, Identity, PublicKey
from moonflower.protocol.approval import Action, Decision, SignedDecision
from moonflower.server.records import history
from moonflower.server.records import members as roster
from moonflower.server.records.members import RosterMember
from moonflower.server.records.models import Entry
from moonflower.server.records.state import State
from moonflower.server.releases.board import Board, Outcome

from support.circles import heart_offer

FEDERATION, RUN = "heart", "run-1"
MEMBERS = ("anna", "bert", "cleo")
ROLES = ("board", "ethics")


@lru_cache
def person(name: str) -> ec.EllipticCurvePrivateKey:
    """A person's key."""
    return ec.generate_private_key(ec.SECP384R1())


@lru_cache
def member(name: str) -> Identity:
    """A member without approvers."""
    return Identity.generate(name)


def with_approvers(identity: Identity, **people: str) -> Card:
    """The card of a member whose approvers, by role, have these persons' keys; its own keys stay as they are."""
    listed = [Approver(role, PublicKey(person(who).public_key())) for role, who in sorted(people.items())]
    unsigned = replace(identity.card, approvers=tuple(listed))
    return replace(unsigned, signature=identity.sign("card", canonical(unsigned.body())))


def card(name: str, **people: str) -> Card:
    """A member's card; without ``people``, with a board and an ethics committee of its own."""
    return with_approvers(member(name), **(people or {role: f"{name}'s {role}" for role in ROLES}))


def cards() -> dict[str, Card]:
    return {name: card(name) for name in MEMBERS}


def signed(
    action: Action = "approve",
    sha256: str = "a" * 64,
    after: int = -1,
    by: str = "anna",
    role: str = "board",
    **other: Any,
) -> SignedDecision:
    """A decision, signed; ``key`` names another person, other words change the decision."""
    key = other.pop("key", f"{by}'s {role}")
    said = {"reason": "" if action == "approve" else "AUC fell in two hospitals", **other}
    decision = Decision(said.pop("federation", FEDERATION), action, sha256, after, by, role, **said)
    return SignedDecision.by(person(key), decision)


class Shelf:
    """A coordinator's records with promoted versions of one run; version n is ``sha(n)``."""

    def __init__(self, folder: Path, versions: int = 4, *gate: str) -> None:
        self.state = State(folder, FEDERATION)
        with self.state.store.transaction() as db:
            for name in MEMBERS:
                pin = member(name).card.node.pin
                roster.add(db, self.state.log, RosterMember(name, "https://idp.invalid", f"client-{name}", pin))
        for name in MEMBERS:
            self.keep(card(name))
        self.run(RUN, *gate)
        self.entry("start", 0, sha="0" * 64)
        for number in range(1, versions + 1):
            self.entry("promoted", number)
        self.entry("refused", versions + 1, sha="f" * 64)
        self.entry("kept", versions + 2, sha="e" * 64)

    @staticmethod
    def sha(number: int) -> str:
        return f"{number:064x}"

    def run(self, run: str, *gate: str) -> None:
        offer = heart_offer(*gate)
        with self.state.store.transaction() as db:
            history.queue_run(db, run, offer)

    def entry(self, verdict: str, number: int, *, sha: str = "", run: str = RUN) -> None:
        made = Entry(
            sha256=sha or self.sha(number),
            version=None if verdict in ("refused", "kept") else number,
            verdict=verdict,
            code="gate.step" if verdict == "refused" else "",
            run=run,
            number=number,
            base=self.sha(number - 1) if number else "",
            members=MEMBERS,
            proof={"statement": "", "signatures": {}},
            norm=0.1,
            votes={"better": 3, "same": 1, "worse": 0, "abstain": 0} if number else {},
            metrics=None,
            created="2026-11-24T00:00:00.000+00:00",
        )
        with self.state.store.transaction() as db:
            self.state.models.record(db, made)

    def keep(self, kept: Card) -> None:
        with self.state.store.transaction() as db:
            roster.keep_card(db, kept.as_dict())

    def revoke(self, name: str) -> None:
        with self.state.store.transaction() as db:
            roster.revoke(db, self.state.log, name, "test")

    def board(self) -> Board:
        with self.state.store.read() as db:
            return Board(db, self.state.models)

    @property
    def after(self) -> int:
        return self.board().releases.after

    def standing(self, number: int, run: str = RUN) -> Any:
        with self.state.store.read() as db:
            entries = [one for one in self.state.models.entries(db, run) if one.sha256 == self.sha(number)]
            return Board(db, self.state.models).standing(entries[-1])

    def status(self, number: int) -> str:
        return str(self.standing(number).status)

    @property
    def released(self) -> int | None:
        current = self.board().releases.current
        return None if current is None else current.version

    def give(self, decision: SignedDecision) -> Outcome:
        with self.state.store.transaction() as db:
            return Board(db, self.state.models).decide(decision, self.state.log)

    def decide(self, action: Action, number: int, by: str, role: str = "board", **other: Any) -> Outcome:
        """A decision about what is there now."""
        return self.give(signed(action, self.sha(number), other.pop("after", self.after), by, role, **other))

    def release(self, number: int, *members: str) -> None:
        for name in members or MEMBERS[:2]:
            self.decide("approve", number, name)

    @property
    def log(self) -> list[dict[str, Any]]:
        return list(self.state.log.entries())

    def events(self, event: str) -> list[dict[str, Any]]:
        return [entry for entry in self.log if entry["event"] == event]

    def close(self) -> None:
        self.state.close()
