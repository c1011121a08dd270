"""What is happening now, in one sentence, and what else a person wants to see first.

Rules:
1. :func:`sentence` is a pure function of a :class:`Scene`: it changes when something happens, not every second.
2. The progress of a round is read from the log, each entry once and in order (:class:`Course`), so that only new
   entries cost time.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any

from sqlalchemy import Connection

from ...protocol.purposes import TALLIES, UPDATE
from ...protocol.words import WHY
from ..records import circles, history
from ..records import members as roster
from ..records.history import CONVERGED, RunRow
from ..records.models import Models
from ..records.waiting import WaitedFor, waited_for
from ..releases.board import Board, Standing
from .follow import Follower

ENDED = {
    "done": "ended well",
    "policy": "was ended by its own rules",
    "stopped": "was stopped",
    "failed": "failed",
}


@dataclass(frozen=True)
class Progress:
    """The progress of a run, according to the log.

    Attributes:
        run: identifier, or "" before the first.
        round: which of the planned rounds; 0 before the first.
        number: of that round in the whole federation.
        members: all members of the circle.
        sent: members whose update is in the round's sum; ``left_out``: members whose update will not be in it.
        step: ``enrol``, ``statistics``, ``collect``, ``open``, ``judge``, ``report``, ``between``, ``over``.
        since_s: when the step began; seconds since 1970.
        goes_on: the step at which the coordinator's process died, until the members have their seats again; else "".
    """

    run: str = ""
    round: int = 0
    number: int = 0
    members: tuple[str, ...] = ()
    sent: tuple[str, ...] = ()
    left_out: tuple[str, ...] = ()
    step: str = "over"
    since_s: float = 0.0
    goes_on: str = ""

    def after(self, entry: Mapping[str, Any]) -> Progress:
        """Return the progress after one more entry of the log."""
        event, details = entry["event"], entry.get("details", {})
        if event == "run_began" or (event == "run_resumed" and entry["run"] != self.run):
            return Progress(run=entry["run"], step="enrol", since_s=_seconds(entry))
        if not self.run or entry.get("run") != self.run:
            return self  # about another run or about none, such as a member that was added
        member, purpose = entry.get("member", ""), details.get("purpose", UPDATE.name)
        now = replace(self, since_s=_seconds(entry))
        match event:
            case "run_resumed":
                goes_on = self.step if self.step in ("collect", "open") else ""
                return replace(now, step="enrol", goes_on="open" if self.step == "judge" else goes_on)
            case "seats_taken":
                step = self.goes_on or ("between" if self.round else "statistics")
                return replace(now, members=tuple(details["members"]), step=step, goes_on="")
            case "round_began":
                fresh: dict[str, Any] = {"sent": (), "left_out": (), "step": "collect"}
                return replace(now, round=details["round"], number=entry["number"], **fresh)
            case "envelope_accepted" if purpose == UPDATE.name and self.step == "collect":
                return replace(self, sent=(*self.sent, member))
            case "envelope_refused" if purpose == UPDATE.name and self.step == "collect":
                return replace(self, left_out=(*self.left_out, member))
            case "set_closed" if purpose == UPDATE.name:
                return replace(now, step="open")
            case "opened" if self.step == "open":
                return replace(now, step="judge")
            case "set_closed" if purpose == TALLIES.name:
                return replace(now, step="report")
            case "promoted" | "kept" | "refused" | "failed" | "tallies_opened" | "statistics_opened":
                return replace(now, step="between")
            case "run_ended":
                return replace(now, step="over")
        return self


class Course:
    """The progress according to the log; thread-safe."""

    def __init__(self, follower: Follower) -> None:
        self._follower, self._newest = follower, (-1, Progress())
        follower.join(self._take)

    def now(self) -> tuple[int, Progress]:
        """Return the newest entry's index, and the progress after it."""
        self._follower.read_on()
        return self._newest

    def _take(self, entry: dict[str, Any]) -> None:
        self._newest = entry["index"], self._newest[1].after(entry)


@dataclass(frozen=True)
class Waiting:
    """A model version that waits for people's decision.

    Attributes:
        version: its number.
        step: ``approve`` or ``rollback``.
        approvals, required: how many have signed, and how many must.
        open_to: members with an approver who may still sign.
    """

    version: int
    step: str
    approvals: int
    required: int
    open_to: tuple[str, ...]


@dataclass(frozen=True)
class Scene:
    """Everything that :func:`sentence` looks at.

    Attributes:
        run: the newest run, or None.
        progress: of the newest run in the log.
        rounds: planned rounds of the newest run.
        promoted: how many of its rounds were.
        waiting: the version that people should decide about, or None.
        released: number of the released version, or None.
        members: that may take part; ``online``: those that are connected, or None where that is not known.
        away: members that the run has waited for for long.
        signing: number of the circle that waits for signatures, and the members that have not signed; or None.
    """

    run: RunRow | None = None
    progress: Progress = field(default_factory=Progress)
    rounds: int = 0
    promoted: int = 0
    waiting: Waiting | None = None
    released: int | None = None
    members: tuple[str, ...] = ()
    online: tuple[str, ...] | None = None
    away: tuple[WaitedFor, ...] = ()
    signing: tuple[int, tuple[str, ...]] | None = None


def sentence(scene: Scene) -> str:
    """Return what is happening now.

    >>> sentence(Scene())
    'No run yet, and no member on the roster.'
    >>> sentence(Scene(signing=(1, ("anna", "bert"))))
    'No run yet, and no member on the roster. Circle 1 waits for the signatures of anna and bert.'
    """
    signing = scene.signing
    waits = f" Circle {signing[0]} waits for the signatures of {_listed(signing[1])}." if signing else ""
    return _of_runs(scene).rstrip() + waits


def _of_runs(scene: Scene) -> str:
    run = scene.run
    if run is None:
        if not scene.members:
            return "No run yet, and no member on the roster."
        return f"No run yet. {_here(scene)}"
    if run.status == "queued":
        return f"A run of {_many(scene.rounds, 'round')} was accepted and is being started. {_here(scene)}"
    if run.status == "running":
        return _running(scene)
    how = ENDED.get(run.status, run.status) + (f" ({run.code})" if run.code else "")
    if run.code == CONVERGED:
        how = "converged, with nothing more to gain"
    rounds = f"{scene.promoted} of {_many(scene.rounds, 'round')} gave a better version"
    if not scene.promoted:
        rounds = "no version was promoted"
    return f"No run now. The last one {how}: {rounds}. {_decision(scene)}"


def _running(scene: Scene) -> str:
    run, progress = scene.run, scene.progress
    assert run is not None
    if run.run != progress.run:
        return f"A run of {_many(scene.rounds, 'round')} is being started. {_here(scene)}"
    stopping = " A stop was requested; the run ends before the next exchange." if run.stop else ""
    head = f"Round {progress.round} of {scene.rounds}: "
    many = len(progress.members)
    match progress.step:
        case "enrol":
            text = f"A run of {_many(scene.rounds, 'round')} begins: members enrol."
        case "statistics":
            text = f"{_many(many, 'member')} add up sealed statistics before the first round."
        case "collect":
            text = head + _collected(progress)
        case "open":
            text = head + f"the sum of {_many(len(progress.sent), 'update')} is being opened and judged by its members."
        case "judge":
            text = head + "the members' votes are being counted."
        case "report":
            text = head + "done; the members measure how good the model is."
        case _ if not progress.round:
            text = "The first round is about to begin."
        case _:
            text = f"Round {progress.round} of {scene.rounds} is over; the next step is being prepared."
    return text + _waits(scene.away) + stopping


def _waits(away: Sequence[WaitedFor]) -> str:
    """Return whom a run waits for, since when and why.

    >>> _waits([WaitedFor("anna", "r", 3, "seal", "2026-11-29T10:05:00Z", "absent", 0)])
    ' It waits for anna (not connected), since 10:05 UTC.'
    """
    if not away:
        return ""
    who = [f"{member.member} ({WHY[member.why]})" for member in away]
    since = min(member.since for member in away)
    return f" It waits for {_listed(who)}, since {since[11:16]} UTC."


def _collected(progress: Progress) -> str:
    sent, many = len(progress.sent), len(progress.members)
    missing = [name for name in progress.members if name not in (*progress.sent, *progress.left_out)]
    text = f"{sent} of {_many(many, 'member')} {'has sent its' if sent == 1 else 'have sent their'} update"
    if not sent:
        text = f"{_many(many, 'member')} train, and none has sent its update yet"
    if 0 < len(missing) <= 2 and sent:
        text += f"; {_listed(missing)} {'is' if len(missing) == 1 else 'are'} still training"
    if progress.left_out:
        text += f"; {_listed(progress.left_out)} {'is' if len(progress.left_out) == 1 else 'are'} missing, so"
        text += " the round is repeated"
    return text + "."


def _decision(scene: Scene) -> str:
    """Return what people have to decide, or what they decided."""
    waiting = scene.waiting
    if waiting is None:
        if scene.released is None:
            return "No version is released."
        return f"Version {scene.released} is released."
    missing = waiting.required - waiting.approvals
    what, end = ("waits for", "") if waiting.step == "approve" else ("needs", " for a roll-back")
    more = "more " if waiting.approvals else ""
    who = f", from {_listed(waiting.open_to, 'or')}" if waiting.open_to else ", but no other member has one"
    many = "one" if missing == 1 else str(missing)
    return f"Version {waiting.version} {what} {many} {more}approver{'s' if missing > 1 else ''}{end}{who}."


def _here(scene: Scene) -> str:
    many = len(scene.members)
    if scene.online is None:
        return f"The roster has {_many(many, 'member')}."
    if len(scene.online) == many:
        return f"All {_many(many, 'member')} are connected." if many > 1 else "Its one member is connected."
    if not scene.online:
        return f"None of {_many(many, 'member')} is connected."
    away = [name for name in scene.members if name not in scene.online]
    named = f"; {_listed(away)} {'is' if len(away) == 1 else 'are'} not" if len(away) <= 3 else ""
    verb = "is" if len(scene.online) == 1 else "are"
    return f"{len(scene.online)} of {_many(many, 'member')} {verb} connected{named}."


def _many(count: int, what: str) -> str:
    return f"{count} {what}{'' if count == 1 else 's'}"


def _listed(names: Sequence[str], word: str = "and") -> str:
    """Return names as a list in prose.

    >>> _listed(["a", "b", "c"]), _listed(["a"])
    ('a, b and c', 'a')
    """
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} {word} {names[-1]}" if names else ""


def _seconds(entry: Mapping[str, Any]) -> float:
    return datetime.fromisoformat(entry["time"]).timestamp()


# From the records


def scene(db: Connection, models: Models, progress: Progress, online: frozenset[str] | None) -> Scene:
    """Return the scene of this moment.

    Args:
        db: connection.
        models: the registry.
        progress: as the log tells it.
        online: pins of the nodes that are connected; None where that is not known.
    """
    run = history.newest_run(db)
    here = [member for member in roster.members(db) if not member.revoked]
    rounds = history.rounds(db, run.run) if run else []
    board = Board(db, models)
    current = board.releases.current
    return Scene(
        run=run,
        progress=progress,
        rounds=run.offer["training"]["rounds"] if run else 0,
        promoted=sum(outcome["status"] == "promoted" for outcome in rounds),
        waiting=waiting(db, models, board),
        released=current.version if current else None,
        members=tuple(member.name for member in here),
        online=None if online is None else tuple(member.name for member in here if member.pin in online),
        away=tuple(waited_for(db)),
        signing=_signing(db),
    )


def _signing(db: Connection) -> tuple[int, tuple[str, ...]] | None:
    proposed = circles.board(db, time.time()).proposed
    return (proposed[-1].circle.number, proposed[-1].missing) if proposed else None


def waiting(db: Connection, models: Models, board: Board) -> Waiting | None:
    """Return the version to decide about first: one that some have signed already, or else the newest."""
    chosen: Waiting | None = None
    for entry in models.entries(db):
        if entry.version is None:
            continue
        standing = board.standing(entry)
        if standing.step is None or (standing.step == "rollback" and not standing.approvals):
            continue
        candidate = Waiting(
            entry.version, standing.step, len(standing.approvals), standing.required, open_to(board, standing)
        )
        if chosen is None or bool(candidate.approvals) >= bool(chosen.approvals):
            chosen = candidate
    return chosen


def open_to(board: Board, standing: Standing) -> tuple[str, ...]:
    """Return the members with an approver who can still add an approval that counts."""
    signed = {approval.decision.member for approval in standing.approvals}
    keys = {approval.key for approval in standing.approvals}
    return tuple(
        member
        for member, card in sorted(board.cards.items())
        if member not in signed and any(approver.key.pin not in keys for approver in card.approvers)
    )
