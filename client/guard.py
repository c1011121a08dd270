"""The member's rules, without IO: what it agrees to, what it trains from, what it seals, what it helps to open.

The twin of ``server/rules.py``. Every function looks at what came from the coordinator and at what the ledger
remembers, and returns only if all is well; the caller writes to the ledger next, and acts last. The rules are those
of docs/protocol.md:

1. one context: a member opens only a sum all of whose headers carry the context that it sealed under itself;
2. one set per base: what was opened once is opened again for the same members only, less those that this node's
   operator no longer pins;
3. a base is proved: the agreed start vector, or a version that a quorum of its openers signed, in this epoch or in an
   earlier one;
7. seal once: a retry sends the same bytes, lost bytes mean sitting the round out; a round is bound to a checkpoint
   of the log that this member has witnessed;
9. the node's floor: a run can only be stricter than the node's own settings.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from ..configs.settings import FloorSettings, Offer, parse
from ..crypto import merkle
from ..crypto.identity import Card, Roster
from ..crypto.note import Verifier, open_checkpoint
from ..errors import InputError, OtherHistory, Refused
from ..protocol.context import RoundContext, checkpoint_label
from ..protocol.envelope import SignedHeader
from ..protocol.messages import Open, RoundRequest, Seal, Shown
from ..protocol.purposes import Purposes
from ..protocol.statement import Proof, quorum


@dataclass(frozen=True)
class SetA:
    """The members whose envelopes are in a sum that this member may open: header digests and MAC tags by name."""

    digests: Mapping[str, str]
    tags: Mapping[str, list[int]]


@dataclass(frozen=True)
class Remembered:
    """What the ledger holds about one (purpose, run, epoch, number): the context sealed under and the envelope.

    Attributes:
        context: digest of the RoundContext.
        header: digest of the envelope's header.
        clipped_share: what was reported beside it.
        envelope: its bytes; None when they were lost or deleted.
    """

    context: str
    header: str
    clipped_share: float
    envelope: bytes | None


@dataclass(frozen=True)
class HeldCheckpoint:
    """A checkpoint of the coordinator's log that this member has witnessed.

    Attributes:
        size: number of entries.
        root: 32-byte Merkle root over them.
        key: text of the key that signed it.
        note: the signed checkpoint.
    """

    size: int
    root: bytes
    key: str
    note: str

    @property
    def label(self) -> str:
        """How a RoundContext names it."""
        return checkpoint_label(self.key, self.size, self.root)

    @property
    def verifier(self) -> Verifier:
        """The log's key."""
        return Verifier.parse(self.key)


_LINES = 5  # of a checkpoint: origin, size, root, a blank one, the log's signature


def check_log(
    shown: Shown, newest: HeldCheckpoint | None, held_at: Callable[[int], HeldCheckpoint | None], log_key: str | None
) -> HeldCheckpoint | None:
    """Return the checkpoint that a message shows, if it only appends to the history that this member witnessed.

    Args:
        shown: as it came.
        newest: the newest checkpoint that this member holds; None takes the first that comes.
        held_at: an earlier one that it held, by its size.
        log_key: the key that this node's config pins; else the first one that signed is the only one from then on.

    Returns:
        None where the message shows an earlier checkpoint that is known here.

    Raises:
        OtherHistory: ``audit.fork``: another history, or one that was rolled back.
        Refused: ``audit.signature``: not signed by the log's key; ``audit.behind``: its proof begins elsewhere than at
            what this member holds.
    """
    key = log_key or (newest.key if newest else shown.key)
    if shown.key != key or (newest is not None and newest.key != key):
        raise Refused("audit.signature", f"the log is signed by {shown.key}, expected {key}")
    try:
        checkpoint = open_checkpoint(shown.checkpoint, Verifier.parse(key))
    except InputError as error:
        raise Refused("audit.signature", f"the log's key is none: {error}") from None
    if len(shown.checkpoint.splitlines()) != _LINES:
        raise Refused("audit.signature", "the checkpoint is not signed by the log alone")
    found = HeldCheckpoint(checkpoint.size, checkpoint.root, key, checkpoint.note)
    if newest is None:
        return found
    if found.size <= newest.size:
        known = newest if found.size == newest.size else held_at(found.size)
        if known is not None and known.root == found.root:
            return None
        what = "is not the one that was witnessed" if known else "is an earlier one that this member never saw"
        entries = f"the log of {found.size} entries, root {found.root.hex()}"
        raise _other(known or newest, f"{entries}, {what}", proved=known is not None)
    if shown.since != newest.size:
        raise Refused("audit.behind", f"expected a proof of growth from {newest.size} entries, got {shown.since}")
    try:
        proof = [bytes.fromhex(node) for node in shown.proof]
    except ValueError:
        raise _other(newest, "the proof of the log's growth is not hexadecimal") from None
    try:
        merkle.verify_consistency(newest.size, found.size, proof, newest.root, found.root)
    except Refused as error:
        raise _other(newest, str(error)) from None
    return found


def _other(held: HeldCheckpoint, message: str, *, proved: bool = False) -> OtherHistory:
    return OtherHistory(held.note, held.size, held.root, message, proved=proved)


def check_witnessed(request: Seal, witnessed: bool) -> None:
    """Check that a round is bound to a checkpoint that this member has witnessed (rule 7).

    Raises:
        Refused: ``audit.fork``.
    """
    if not witnessed:
        raise Refused("audit.fork", f"the round is bound to a checkpoint that was not shown here: {request.checkpoint}")


def admit(offer: Mapping[str, Any], floor: FloorSettings, schema_digest: str) -> Offer:
    """Return the run's offer if this node takes part in it (rule 9).

    Raises:
        Refused: ``task.refused``, ``config.schema``, ``config.min_members``, ``config.rounds``,
            ``config.local_epochs``, ``config.train_timeout_s``, ``config.min_approvals`` or ``config.value``.
    """
    try:
        checked = parse(Offer, offer, where="the run's offer")
    except InputError as error:
        raise Refused(error.code, str(error)) from None
    if checked.task.ref not in floor.tasks:
        raise Refused("task.refused", f"task {checked.task.ref!r} is not on this node's list")
    if checked.schema_digest != schema_digest:
        raise Refused("config.schema", "the run is for another schema than this node's")
    limits = (
        ("min_members", checked.federation.min_members >= floor.min_members),
        ("rounds", checked.training.rounds <= floor.max_rounds),
        ("local_epochs", checked.training.local_epochs <= floor.max_local_epochs),
        ("train_timeout_s", checked.training.train_timeout_s <= floor.max_train_s),
        ("min_approvals", checked.gate.approvals >= floor.min_approvals),
    )
    for name, kept in limits:
        if not kept:
            raise Refused(f"config.{name}", f"the run's {name} passes this node's limit")
    return checked


def round_context(template: RoundContext, request: RoundRequest, purposes: Purposes) -> RoundContext:
    """Return the context that a request is about: its own fields, everything else as agreed at enrolment.

    Raises:
        Refused: ``envelope.context``, ``envelope.epoch``.
    """
    if request.run != template.run or request.purpose not in purposes or min(request.number, request.round) < 0:
        raise Refused("envelope.context", "the request is not about the run that was agreed to")
    if request.epoch != template.epoch:
        raise Refused("envelope.epoch", f"the request is for epoch {request.epoch}, expected {template.epoch}")
    return template.at(request.number, request.round, request.purpose, request.base, request.clip, request.checkpoint)


def check_base(
    context: RoundContext,
    proof: Mapping[str, Any],
    roster: Roster,
    wanted_quorum: int,
    floor: FloorSettings,
    purposes: Purposes,
    remembered: Iterable[Card] = (),
) -> None:
    """Check that the context's base and clip are what a quorum of openers signed (rules 3 and 6).

    Version 0, the start, is proved like any other: by the members that opened the statistics and computed it.

    Args:
        context: the round's.
        proof: as it came.
        roster: the epoch's members.
        wanted_quorum: of the run.
        floor: the node's own limits.
        purposes: that this member knows.
        remembered: cards of the epochs that this member confirmed; all of them were pinned here then.

    Raises:
        Refused: ``base.unproved``.
    """
    statement = Proof.from_dict(proof).verify(roster, wanted_quorum, remembered)
    problems = (
        (statement.federation != context.federation, "is of another federation"),
        (not (made := purposes.get(statement.purpose)) or not made.makes_version, "is no model's"),
        (statement.sha256 != context.base, "is of another version"),
        (not statement.in_range, "is of a sum that was out of range"),
        (len(statement.members) < max(context.min_members, floor.min_members), "has too few members"),
        (quorum(statement.members, wanted_quorum) < floor.min_quorum, "has too few signatures for this node"),
        (purposes[context.purpose].trained and statement.clip != context.clip, "states another clip"),
    )
    for wrong, what in problems:
        if wrong:
            raise Refused("base.unproved", f"the base's proof {what}")


def check_seal(context: RoundContext, remembered: Remembered | None) -> None:
    """Check that this round is still to be sealed, or that the same envelope can be sent again (rule 7).

    Raises:
        Refused: ``seal.already``: sealed under another context, or its bytes are lost.
    """
    if remembered is None:
        return
    if remembered.context != context.digest:
        raise Refused("seal.already", f"{context.purpose} {context.number} was sealed under another context")
    if remembered.envelope is None:
        raise Refused("seal.already", f"{context.purpose} {context.number} was sealed and its bytes are gone")


def check_opening(
    context: RoundContext,
    request: Open,
    own: Remembered | None,
    opened_before: Collection[str] | None,
    roster: Roster,
    pinned: Collection[str],
    floor: FloorSettings,
) -> SetA:
    """Return set A, if this member may open its sum (rules 1 and 2).

    Args:
        context: built from the request and what was agreed.
        request: headers and signatures of set A.
        own: what this member sealed for this round.
        opened_before: the members of the set for which this base was opened already, or None.
        roster: the epoch's members.
        pinned: whom this node pins today: who is not among them was evicted by this node's own operator.
        floor: the node's own limits.

    Raises:
        Refused: ``open.set``, ``envelope.signature``, ``envelope.member``, ``envelope.context``, ``open.cohort`` or
            ``open.overlap``.
    """
    members = request.members
    named = ({*request.headers}, {*request.signatures}, {*request.seeds})
    if members != sorted(set(members)) or any(names != {*members} for names in named):
        raise Refused("open.set", "the set, its headers, signatures and seeds do not name the same members")
    if own is None:
        raise Refused("open.set", "this member sealed nothing for this round")
    digests, tags = {}, {}
    for member in members:
        signed = SignedHeader(request.headers[member], request.signatures[member])
        header = signed.verify(roster.card(member))
        if header.context != own.context:
            raise Refused("envelope.context", f"{member!r} sealed under another context than this member")
        if header.seeds != hashlib.sha256(request.seeds[member]).hexdigest():
            raise Refused("open.set", f"the seeds that came for {member!r} are not the ones its header signs")
        digests[member], tags[member] = signed.digest, list(header.tags)
    if own.context != context.digest:
        raise Refused("envelope.context", "the opening is for another context than the one sealed under")
    if own.header not in digests.values():
        raise Refused("open.set", "this member's own envelope is not in the sum")
    if len(members) < max(context.min_members, floor.min_members):
        raise Refused("open.cohort", f"a sum over {len(members)} members is never opened here")
    if opened_before is not None and {*members} not in ({*opened_before}, {*opened_before} & {*pinned}):
        what = "this base was" if context.base else f"{context.purpose} of these rows were"
        before = ", ".join(sorted(opened_before))
        raise Refused("open.overlap", f"{what} opened before, for another set of members: {before}")
    return SetA(digests, tags)
