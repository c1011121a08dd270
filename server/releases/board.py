"""Who may release a model, and when: the rules, and the transaction that carries out a decision.

``promoted`` means better than the best version before it, ``released`` means good enough to use. The rules:

1. a decision is made by a person: signed with the key of an approver on the card of a member that may take part;
2. it names a promoted version by the digest of its file, and it comes after the present release: once another version
   is released, everything that was signed before counts no longer;
3. ``approve`` is for a version newer than the released one, ``rollback`` for an older one that was released before.
   Both take effect with the last required approval, each from a different member and with a different key;
4. ``reject`` takes one approver and a reason, and cannot be undone: the file is never released, or released again. The
   released version cannot be rejected; only a newer release or a roll-back replaces it;
5. nothing is released automatically unless the run has ``release = "automatic"``. Then its last good version is
   released at its planned end, if rules 3 and 4 allow it.

The run that made the version sets the number of approvals. If several runs made the same file, the strictest counts.
A roll-back also needs as many approvals as the release that it takes back. Releases do not affect what rounds start
from: that is the last version that was not refused, whatever approvers decide.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import Connection

from ...configs.settings import GateSettings, Offer, parse
from ...crypto.identity import Card
from ...errors import Refused
from ...protocol.approval import Action, Decision, SignedDecision, counted
from ..records import decisions, history
from ..records import members as roster
from ..records.decisions import Change, Releases, Taken
from ..records.log import Log
from ..records.models import Entry, Models

LOGGED: dict[Action, str] = {"approve": "approved", "reject": "rejected", "rollback": "approved"}
CHANGED: dict[str, str] = {"approve": "released", "rollback": "rolled_back"}
OLD = "the released version changed after this was signed; look at the version again, and sign again"


@dataclass(frozen=True)
class Candidate:
    """A promoted version, with what these rules need of it.

    Attributes:
        sha256: digest of its file.
        version: its number; the newest if several runs made the same file.
        run: that made it.
        federation: the federation's name.
        required: approvals that a release takes.
        automatic: whether every run that made it releases automatically.
    """

    sha256: str
    version: int
    run: str
    federation: str
    required: int
    automatic: bool


@dataclass(frozen=True)
class Standing:
    """A version's status with the approvers.

    Attributes:
        status: ``start``, ``refused``, ``kept``, ``promoted``, ``rejected``, ``released`` (now), ``replaced`` (it was).
        step: what approvers can do to have it released: ``approve``, ``rollback``, or "" for nothing.
        after: the index that a decision must name as ``after``.
        required: approvals that the step takes.
        approvals: those that count towards it.
        change: the change that released it last, or None.
        rejection: the decision that rejected it, or None.
    """

    status: str
    step: Action | None
    after: int
    required: int
    approvals: tuple[Taken, ...]
    change: Change | None
    rejection: Taken | None


@dataclass(frozen=True)
class Outcome:
    """The effect of a decision.

    Attributes:
        event: ``approved``, ``rejected``, ``released`` or ``rolled_back``.
        sha256, version: of the version.
        approvals: how many count so far; 0 for a rejection.
        required: how many are needed.
    """

    event: str
    sha256: str
    version: int
    approvals: int
    required: int


class Board:
    """The rules, applied to one state of the records inside a transaction or a read.

    Args:
        db: connection.
        models: the registry.
    """

    def __init__(self, db: Connection, models: Models) -> None:
        self.db = db
        self._promoted: dict[str, list[Entry]] = {}
        for entry in models.entries(db):
            if entry.verdict == "promoted":
                self._promoted.setdefault(entry.sha256, []).append(entry)
        self.releases: Releases = decisions.read(db)
        self.cards: Mapping[str, Card] = roster.cards(db)
        self._gates: dict[str, tuple[str, GateSettings]] = {}

    def candidate(self, sha256: str) -> Candidate | None:
        """Return a promoted version, or None if no run promoted this file."""
        entries = self._promoted.get(sha256)
        if not entries:
            return None
        rules = [self.rules(entry.run) for entry in entries]
        newest = max(entries, key=_number)
        return Candidate(
            sha256,
            _number(newest),
            newest.run,
            self.federation(newest.run),
            max(rule.approvals_required for rule in rules),
            all(rule.release == "automatic" for rule in rules),
        )

    def rules(self, run: str) -> GateSettings:
        """Return the [gate] of a run."""
        return self._offered(run)[1]

    def federation(self, run: str) -> str:
        """Return the federation's name in a run's offer."""
        return self._offered(run)[0]

    def _offered(self, run: str) -> tuple[str, GateSettings]:
        if run not in self._gates:
            row = history.run_row(self.db, run)
            assert row is not None
            offer = parse(Offer, row.offer, where="the run's offer")
            self._gates[run] = offer.federation.name, offer.gate
        return self._gates[run]

    def standing(self, entry: Entry) -> Standing:
        """Return the status of a version of the registry."""
        candidate, after = self.candidate(entry.sha256), self.releases.after
        if candidate is None or entry.verdict != "promoted":
            return Standing(entry.verdict, None, after, 0, (), None, None)
        rejection, change = self.releases.rejection(entry.sha256), self.releases.newest(entry.sha256)
        status = "promoted" if change is None else "replaced"
        if self._is_current(entry.sha256):
            status = "released"
        elif rejection is not None:
            status = "rejected"
        step, required = self._step(candidate)
        approvals = self._counted(candidate, step, ()) if step else ()
        return Standing(status, step, after, required, approvals, change, rejection)

    def decide(self, signed: SignedDecision, log: Log) -> Outcome:
        """Take a decision in the open transaction, and release or roll back if it is the last approval needed.

        Raises:
            Refused: ``release.malformed``, ``release.reason``, ``release.unknown_approver``, ``release.signature``;
                ``release.digest``: no version of this federation has that digest; ``release.outdated``;
                ``release.rejected``: it was rejected; ``release.state``: this cannot be decided about it now;
                ``release.twice``: this member, or this key, has approved it already. Nothing changes then.
        """
        decision, approver = signed.verify(self.cards)
        candidate = self._checked(decision)
        entry: dict[str, Any] = {
            "action": decision.action,
            "sha256": decision.sha256,
            "version": candidate.version,
            "approver": decision.approver,
            "key": approver.key.pin,
            **signed.as_dict(),
            "card": self.cards[decision.member].as_dict(),  # so an auditor finds the key here
        }
        now, required = _now(), self._step(candidate)[1]
        before: tuple[SignedDecision, ...] = ()
        if decision.action != "reject":
            before = self._counted(candidate, decision.action, ())
            if len(self._counted(candidate, decision.action, (signed,))) == len(before):
                raise Refused(
                    "release.twice",
                    f"an approver of {decision.member!r}, or the same key, has approved this already; expected an "
                    "approver of another member",
                )
        index = log.append(self.db, LOGGED[decision.action], run=candidate.run, member=decision.member, **entry)
        taken = Taken(signed.data, signed.signature, index, now, approver.key.pin)
        decisions.keep(self.db, taken)
        if decision.action == "reject":
            return Outcome("rejected", candidate.sha256, candidate.version, 0, required)
        approvals = self._counted(candidate, decision.action, (taken,))
        if len(approvals) < required:
            return Outcome("approved", candidate.sha256, candidate.version, len(approvals), required)
        event = CHANGED[decision.action]
        self._change(log, event, candidate, required, [approval.index for approval in approvals])
        return Outcome(event, candidate.sha256, candidate.version, len(approvals), required)

    def release_automatically(self, entry: Entry, log: Log) -> None:
        """Release a run's last good version at its planned end, if every run that made this file says so (rule 5).

        A version that rules 3 and 4 do not allow stays unreleased, with a warning in the log.
        """
        candidate = self.candidate(entry.sha256)
        if candidate is None or self.rules(entry.run).release != "automatic" or self._is_current(entry.sha256):
            return
        code = ""
        if self.releases.rejection(entry.sha256) is not None:
            code = "release.rejected"
        elif not candidate.automatic or self._step(candidate)[0] != "approve":
            code = "release.state"
        if code:
            log.append(self.db, "warned", run=entry.run, code=code, what="release", sha256=entry.sha256)
        else:
            self._change(log, "released", candidate, 0, [])

    def _checked(self, decision: Decision) -> Candidate:
        """Return the version that a decision is about, if rules 2 to 4 allow this decision now.

        Raises:
            Refused: ``release.digest``, ``release.outdated``, ``release.rejected``, ``release.state``.
        """
        candidate = self.candidate(decision.sha256)
        if candidate is None or candidate.federation != decision.federation:
            raise Refused(
                "release.digest",
                f"no promoted version of this federation has the SHA-256 {decision.sha256}; only promoted versions "
                "can be released",
            )
        if decision.after != self.releases.after:
            raise Refused("release.outdated", OLD)
        if self.releases.rejection(decision.sha256) is not None:
            raise Refused("release.rejected", f"version {candidate.version} was rejected and can never be released")
        if self._is_current(decision.sha256):
            raise Refused("release.state", f"version {candidate.version} is the released one")
        if decision.action != "reject" and self._step(candidate)[0] != decision.action:
            what = {
                "approve": "is older than the released one; roll back to it, if it was released before",
                "rollback": "cannot be rolled back to; expected an older version that was released before",
            }
            raise Refused("release.state", f"version {candidate.version} {what[decision.action]}")
        return candidate

    def _step(self, candidate: Candidate) -> tuple[Action | None, int]:
        """Return the step that releases a version, and how many approvals it takes (rule 3)."""
        current = self.releases.current
        if self._is_current(candidate.sha256) or self.releases.rejection(candidate.sha256) is not None:
            return None, candidate.required
        if current is None or candidate.version > self._current_number(current):
            return "approve", candidate.required
        if self.releases.newest(candidate.sha256) is not None:
            left = self.candidate(current.sha256)
            return "rollback", max(candidate.required, current.required, left.required if left else 0)
        return None, candidate.required

    def _current_number(self, current: Change) -> int:
        """Return the number of the released version. Another run may have made its file again later."""
        candidate = self.candidate(current.sha256)
        return current.version if candidate is None else candidate.version

    def _is_current(self, sha256: str) -> bool:
        return self.releases.current is not None and self.releases.current.sha256 == sha256

    def _counted(self, candidate: Candidate, action: Action, more: tuple[Any, ...]) -> tuple[Any, ...]:
        """Return the approvals that count now, of those on record and then ``more``. Signatures are checked again."""
        return counted(
            (*(taken for taken in self.releases.decisions if taken.decision.sha256 == candidate.sha256), *more),
            self.cards,
            federation=candidate.federation,
            action=action,
            sha256=candidate.sha256,
            after=self.releases.after,
        )

    def _change(self, log: Log, event: str, candidate: Candidate, required: int, approvals: list[int]) -> None:
        current = self.releases.current
        index = log.append(
            self.db,
            event,
            run=candidate.run,
            sha256=candidate.sha256,
            version=candidate.version,
            required=required,
            approvals=approvals,
            after=self.releases.after,
            replaces=current.sha256 if current else None,
            automatic=not approvals,
        )
        change = Change(
            index, _now(), event, candidate.sha256, candidate.version, required, self.releases.after, tuple(approvals)
        )
        decisions.change(self.db, change)


def _number(entry: Entry) -> int:
    assert entry.version is not None
    return entry.version


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")
