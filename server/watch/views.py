"""Views of the records for people, the same for API and pages: overview, rounds, members, pages of the log, proofs.

Views change nothing and add nothing to the records.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from ...configs.sentences import sentences
from ...protocol.act import Act, pin_words
from ...protocol.circle_board import CircleBoard
from ..records import circles, history
from ..records import countersigned as witnessed
from ..records import members as roster
from ..records.log import EVENTS
from ..records.state import State
from ..records.waiting import waited_for
from .follow import Follower
from .overview import Course, scene, sentence

MAX_PAGE = 200
Online = Callable[[], frozenset[str]]


class Views:
    """Views of one state.

    Args:
        state: the coordinator's records.
        online: returns the pins of the nodes that are connected now; None if that is not known.
        follower: of the log; None for a new one.
    """

    def __init__(self, state: State, online: Online | None = None, follower: Follower | None = None) -> None:
        self._state, self._online, self._follower = state, online, follower or Follower(state.log)
        self._course = Course(self._follower)

    def mark(self) -> tuple[Any, ...]:
        """Return a value that changes whenever the overview does. This is cheap."""
        entries = self._follower.read_on()
        with self._state.store.read() as db:
            run, away = history.newest_run(db), waited_for(db)
        about = (run.run, run.status, run.stop) if run else ()
        return (entries, *about, self._connected(), *away)

    def overview(self) -> dict[str, Any]:
        """Return what is happening now: the sentence, and the facts behind it."""
        index, progress = self._course.now()
        with self._state.store.read() as db:
            now = scene(db, self._state.models, progress, self._connected())
        run = now.run
        return {
            "sentence": sentence(now),
            "index": index,
            "run": None
            if run is None
            else {"run": run.run, "status": run.status, "code": run.code, "stop": run.stop, "of": now.rounds},
            "progress": {**vars(progress), "members": list(progress.members)},
            "promoted": now.promoted,
            "released": now.released,
            "waiting": None if now.waiting is None else vars(now.waiting),
            "members": list(now.members),
            "online": None if now.online is None else list(now.online),
            "away": [vars(member) for member in now.away],
        }

    def rounds(self, run: str = "") -> dict[str, Any] | None:
        """Return the rounds of a run, by default the newest, and its gate's metric; None if there is no such run."""
        with self._state.store.read() as db:
            row = history.run_row(db, run) if run else history.newest_run(db)
            if row is None:
                return None
            rounds = history.rounds(db, row.run)
            names = [row.run for row in history.runs(db)]
        return {
            "run": row.run,
            "status": row.status,
            "code": row.code,
            "stop": row.stop,
            "of": row.offer["training"]["rounds"],
            "metric": row.offer["gate"]["metric"],
            "federation": row.offer["federation"]["name"],
            "rounds": rounds,
            "runs": names,
        }

    def members(self) -> dict[str, Any]:
        """Return the roster, who is connected, how much of the log each member has witnessed, and the circles."""
        connected = self._connected()
        with self._state.store.read() as db:
            listed, cards, seen = roster.members(db), roster.cards(db, of_all=True), witnessed.witnesses(db)
            shown = _circles(circles.board(db, time.time()))
        checkpoint = self._state.log.checkpoint()
        members = []
        for member in listed:
            witness, card = seen.get(member.name), cards.get(member.name)
            members.append(
                {
                    "name": member.name,
                    "pin": member.pin,
                    "revoked": member.revoked,
                    "online": None if connected is None else member.pin in connected,
                    "witness": None if witness is None else {"size": witness.size, "time_s": witness.time_s},
                    "approvers": [{"name": who.name, "key": who.key.pin} for who in card.approvers] if card else [],
                }
            )
        return {"members": members, "circles": shown, "size": checkpoint.size if checkpoint else 0}

    def page(self, before: int | None, limit: int, event: str, run: str, member: str) -> dict[str, Any]:
        """Return a page of the log, newest entry first, and the events to filter by."""
        checkpoint = self._state.log.checkpoint()
        size = checkpoint.size if checkpoint else 0
        entries = self._state.log.before(
            size if before is None else before, min(limit, MAX_PAGE), event=event, run=run, member=member
        )
        return {"entries": entries, "size": size, "events": dict(EVENTS)}

    def proof(self, index: int, size: int | None = None) -> dict[str, Any]:
        """Return an entry's bytes, with the proof that it is in the log.

        Raises:
            ValueError: there is no such entry, or the log never had that size.
        """
        entry, proof = self._state.log.raw(index), self._state.log.inclusion(index, size)
        return {
            "index": index,
            "entry": entry,
            "size": proof.checkpoint.size,
            "checkpoint": proof.checkpoint.note,
            "key": self._state.log.verifier.text(),
            "proof": [node.hex() for node in proof.hashes],
        }

    def grown(self, since: int) -> dict[str, Any]:
        """Return the newest checkpoint, with the proof that the log only grew since it had ``since`` entries.

        Raises:
            ValueError: it never had so many.
        """
        proof = self._state.log.consistency(since)
        return {
            "since": since,
            "size": proof.checkpoint.size,
            "checkpoint": proof.checkpoint.note,
            "key": self._state.log.verifier.text(),
            "proof": [node.hex() for node in proof.hashes],
        }

    def _connected(self) -> frozenset[str] | None:
        return None if self._online is None else self._online()


def _circles(board: CircleBoard) -> list[dict[str, Any]]:
    """Return all circles in the form that people read."""
    living = board.living.circle if board.living else None
    return [
        {
            "circle": signed.circle.digest,
            "number": signed.circle.number,
            "begun": signed.circle is living,
            "members": [
                {"name": name, "pin": pin, "words": pin_words(pin), "signed": name in signed.signatures}
                for name, pin in signed.circle.members
            ],
            "act": [] if signed.circle is living else Act.between(living, signed.circle).words(),
            "recipe": sentences(signed.circle.recipe, len(signed.circle.names)),
        }
        for signed in board.all
    ]
