"""The round certificate: one file that shows a third party, offline, who summed what and who signed the result.

It holds the log's entries that it relies on, each with its Merkle path to one signed checkpoint, and repeats their
content in plain fields. This module is pure: it takes the log's records and touches no file. Checks, in order:

1. the checkpoint is signed by the log's key, and every entry is under it;
2. the circle: every member of it signed its digest, and the run's offer is its recipe; each card of the roster carries
   the pin that the circle has for it, and the pin that the caller gives for it, if any;
3. the list: the context is of this run, circle, roster, plan and offer, and the list holds one envelope of every
   member; the checkpoint that the context names, which its members had witnessed, is an earlier one of this log;
4. the statement is about this context and exactly these envelopes, and all members signed it;
5. the verdict follows from the votes, and every vote is signed;
6. the plain fields equal the content of the entries.

A certificate does not prove the sum, which is the coordinator's claim. Members check it with their functionals, and
auditors with ``recompute``.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from ...canonical import canonical, digest, parse_canonical, parse_stored
from ...configs.settings import Offer, parse
from ...crypto import merkle
from ...crypto.identity import Roster, parse_roster
from ...crypto.note import Checkpoint, Verifier, open_checkpoint
from ...errors import InputError, Refused
from ...protocol import gate
from ...protocol.answer import list_digest
from ...protocol.circle import Circle, SignedCircle
from ...protocol.context import checkpoint_label, context_digest
from ...protocol.purposes import UPDATE
from ...protocol.statement import Proof, Statement
from ..records.source import Record
from .gather import ENDS, ODD, OF_CIRCLE, OF_RUN, STEPS, LogEntry, bad, gather, named, only, purpose_of

VERSION = 2


@dataclass(frozen=True)
class ClosedSet:
    """A list as it is in the log.

    Attributes:
        offer: what the run carries.
        context: the RoundContext's fields, as its version of moonflower wrote them.
        roster: the cards of all members of the circle.
        headers: member → digest of its envelope's header.
        sum: SHA-256 of the sealed sum's residues.
    """

    offer: Offer
    context: Mapping[str, Any]
    roster: Roster
    headers: Mapping[str, str]
    sum: str

    @property
    def members(self) -> tuple[str, ...]:
        """All members in the sum, sorted."""
        return tuple(sorted(self.headers))


@dataclass(frozen=True)
class LoggedVerdict:
    """How an update's round ended.

    Attributes:
        status: ``promoted``, ``kept``, ``refused`` or ``failed``.
        code: why, or "".
        votes: member → its vote, one of ``gate.VOTES``; empty if the round failed.
    """

    status: str
    code: str
    votes: Mapping[str, str]


@dataclass(frozen=True)
class Certified:
    """What a certificate proves.

    Attributes:
        closed: the list and its context.
        statement: what the openers signed.
        proof: its bytes, with every signature and vote.
        verdict: of the gate; None for statistics and tallies, and if the log has none yet.
        witnessed: entries of the log that its members had witnessed when they sealed.
        checkpoint: of the log.
    """

    closed: ClosedSet
    statement: Statement
    proof: Proof
    verdict: LoggedVerdict | None
    witnessed: int
    checkpoint: Checkpoint

    def as_dict(self) -> dict[str, Any]:
        """The plain fields of the certificate."""
        context = self.closed.context
        return {
            "version": VERSION,
            "federation": context["federation"],
            "run": context["run"],
            "number": context["number"],
            "purpose": context["purpose"],
            "circle": context["circle"],
            "context": context,
            "roster": {card.name: card.node.pin for card in self.closed.roster.cards},
            "members": list(self.closed.members),
            "headers": self.closed.headers,
            "sum": self.closed.sum,
            "statement": parse_canonical(self.proof.statement),
            "signatures": self.proof.as_dict()["signatures"],
            "verdict": None if self.verdict is None else vars(self.verdict),
        }


def build_certificate(
    records: Iterable[Record], number: int, purpose: str, verifier: Verifier, run: str = ""
) -> dict[str, Any]:
    """Return a valid certificate of a sum that was opened, as JSON-able values.

    Args:
        records: of the whole log.
        number: of the round; 0 for statistics.
        purpose: of the sum: a round may have an update and tallies.
        verifier: the log's key.
        run: needed if several runs have such a sum. Every run has statistics, for example.

    Raises:
        InputError: ``config.round``: no such sum, or several.
        AuditError: an entry cannot be read.
        Refused: ``audit.*``: the log contradicts itself.
    """
    evidence = gather(records, number, purpose, run)
    certified = _certified(evidence, verifier)
    return {**certified.as_dict(), **evidence}


def verify_certificate(certificate: Any, verifier: Verifier, pins: Mapping[str, str] | None = None) -> Certified:
    """Return what a certificate proves, after all checks. It may come from an adversary.

    Args:
        certificate: as parsed from JSON.
        verifier: the log's key.
        pins: member → pin, at least for all members in the sum; None trusts the log for who they are.

    Raises:
        Refused: ``audit.certificate``: of another form, or its parts do not belong together; ``audit.signature``: not
            signed by this log; ``audit.entry``: an entry is not in the log; ``audit.fork``: the log is not the one that
            the members witnessed; ``audit.openers``: a signature is missing or wrong; ``audit.pin``: a member has no
            pin, or another one.
    """
    if not isinstance(certificate, dict) or certificate.get("version") != VERSION:
        raise bad(f"expected a certificate of version {VERSION}")
    certified = _certified(certificate, verifier)
    evidence = {name: certificate[name] for name in ("entries", "growth", "checkpoint")}
    if canonical({**certified.as_dict(), **evidence}) != canonical(certificate):
        raise bad("its plain fields differ from its entries")
    if pins is not None:
        _check_pins(certified.closed, pins)
    return certified


def proved_set(evidence: Any, verifier: Verifier) -> ClosedSet:
    """Return the list that entries from :func:`gather` are about, after checking that they are in the log.

    Raises:
        Refused: ``audit.*``, as for a certificate.
    """
    return _closed(*_proved(evidence, verifier), verifier)[0]


def _certified(evidence: Mapping[str, Any], verifier: Verifier) -> Certified:
    entries, checkpoint, growth = _proved(evidence, verifier)
    closed, witnessed = _closed(entries, checkpoint, growth, verifier)
    try:
        opened = named(entries, "opened")
        proof = Proof.from_dict(opened.details)
        statement = Statement.parse(proof.statement)
        _check_statement(statement, opened, closed)
        _check_openers(proof, closed)
        ends = [entry for entry in entries if entry.event in ("judged", *ENDS)]
        verdict = _verdict(ends, closed, statement, proof) if ends else None
    except ODD:
        raise bad("an entry has an unexpected form") from None
    except Refused as error:
        raise error if error.code.startswith("audit.") else bad(str(error)) from None
    return Certified(closed, statement, proof, verdict, witnessed, checkpoint)


def _proved(evidence: Any, verifier: Verifier) -> tuple[list[LogEntry], Checkpoint, list[bytes]]:
    """Return the entries, checked to be under the checkpoint, in the log's order; the checkpoint; the growth proof."""
    try:
        note, listed = evidence["checkpoint"], evidence["entries"]
        claimed = [(item["index"], item["entry"].encode(), _hashes(item["proof"])) for item in listed if len(item) == 3]
        growth = _hashes(evidence["growth"])
        if len(claimed) != len(listed) or not isinstance(note, str):
            raise ValueError("another form")
        entries = [LogEntry(index, data, parse_stored(data)) for index, data, _ in claimed]
        if any(type(entry.index) is not int or entry.value["index"] != entry.index for entry in entries):
            raise ValueError("another index")
        steps = [STEPS.index(entry.event) for entry in entries]
    except ODD:
        raise bad("expected a checkpoint, and entries each with its index and Merkle path") from None
    checkpoint = open_checkpoint(note, verifier)
    for index, data, path in claimed:
        merkle.verify_inclusion(merkle.leaf_hash(data), index, checkpoint.size, path, checkpoint.root)
    if any(earlier.index >= later.index for earlier, later in pairwise(entries)) or steps != sorted(steps):
        raise bad("its entries are not in the order of a round")
    return entries, checkpoint, growth


def _closed(
    entries: Sequence[LogEntry], checkpoint: Checkpoint, growth: Sequence[bytes], verifier: Verifier
) -> tuple[ClosedSet, int]:
    """Return the list, and how much of the log its members had witnessed."""
    try:
        run_began, began, closing = (named(entries, name) for name in ("run_began", "seats_taken", "set_closed"))
        context, headers = closing.details["context"], closing.details["headers"]
        raw_offer = run_began.details["offer"]
        of_circle = [entry for entry in entries if entry.event in OF_CIRCLE]
        if len({str(entry.value["run"]) for entry in entries if entry not in of_circle} | {context["run"]}) != 1:
            raise bad("its entries belong to several runs")
        enrolled = [entry for entry in entries if entry.event == "enrolled"]
        circle = _circle(of_circle)
        roster = parse_roster([entry.details["card"] for entry in enrolled], circle.pins)
        if {entry.value["member"]: entry.details["pin"] for entry in enrolled} != circle.pins:
            raise bad("the pins of its members differ from those of the circle")
        if not roster.digest == began.details["roster"] == context["roster"]:
            raise bad("the cards differ from the roster of the context")
        seats = tuple(began.details[name] for name in ("circle", "crypto", "key"))
        if tuple(context[name] for name in ("circle", "crypto", "key")) != seats:
            raise bad("circle, plan or key of the context differ from those under which members took their seats")
        offer = parse(Offer, raw_offer, where="the run's offer")
        chosen = circle.offer(offer.training.seed, offer.training.rounds, offer.start, offer.choice)
        agreed = circle.federation, circle.digest, digest(raw_offer)
        if agreed != (context["federation"], context["circle"], context["offer"]) or digest(chosen) != digest(
            raw_offer
        ):
            raise bad("the context differs from the run's offer or circle")
        numbers = {entry.value["number"] for entry in entries if entry.event not in (*OF_CIRCLE, *OF_RUN)}
        if numbers != {context["number"]} or purpose_of(closing) != context["purpose"]:
            raise bad("its entries are about several sums")
        if not {*headers} == {*roster.names} == {*circle.names}:
            raise bad("the list does not hold one envelope of every member of the circle")
        witnessed = _witnessed(context["checkpoint"], checkpoint, growth, verifier)
        if not began.index < witnessed <= closing.index:
            raise bad("the checkpoint that its members witnessed is not from between seats and list")
        _hashes([closing.details["sum"], *headers.values()])
    except ODD:
        raise bad("an entry has an unexpected form") from None
    except (InputError, Refused) as error:
        raise error if error.code.startswith("audit.") else bad(str(error)) from None
    return ClosedSet(offer, context, roster, headers, closing.details["sum"]), witnessed


def _circle(entries: Sequence[LogEntry]) -> Circle:
    """Return the circle, after checking that every member of it signed it."""
    proposed = named(entries, "circle_proposed")
    signed = SignedCircle.parse(
        {
            "circle": proposed.details["document"],
            "signatures": {
                entry.value["member"]: {name: entry.details[name] for name in ("key", "signature")}
                for entry in entries
                if entry.event == "circle_signed"
            },
        }
    )
    if signed.missing or {entry.details["circle"] for entry in entries} != {signed.circle.digest}:
        raise bad("not every member of the circle signed it")
    return signed.circle


def _witnessed(label: str, checkpoint: Checkpoint, growth: Sequence[bytes], verifier: Verifier) -> int:
    """Return the size of the tree that a context names, after checking that it is an earlier state of this log."""
    size_text, root_text, key = label.split(" ", 2)
    size, (root,) = int(size_text), _hashes([root_text])
    if key != verifier.text():
        raise Refused("audit.signature", f"its members witnessed the log of key {key}; expected {verifier.text()}")
    if label != checkpoint_label(key, size, root):
        raise ValueError("another spelling")
    merkle.verify_consistency(size, checkpoint.size, growth, root, checkpoint.root)
    return size


def _check_pins(closed: ClosedSet, pins: Mapping[str, str]) -> None:
    for member in closed.members:
        pin = closed.roster.card(member).node.pin
        if pins.get(member) != pin:
            expected = f"expected {pins[member]}" if member in pins else "no pin was given for it"
            raise Refused("audit.pin", f"{member!r} is in the sum with the pin {pin}; {expected}")


def _check_statement(statement: Statement, opened: LogEntry, closed: ClosedSet) -> None:
    context, headers = closed.context, closed.headers
    if statement.context != context_digest(context) or purpose_of(opened) != context["purpose"]:
        raise bad("the statement is about another context")
    clear = statement.federation, statement.run, statement.number, statement.purpose, statement.base
    if clear != tuple(context[name] for name in ("federation", "run", "number", "purpose", "base")):
        raise bad("the statement's plain fields differ from its context")
    if statement.members != closed.members or statement.headers != list_digest(headers.values()):
        raise bad("the statement is about other envelopes than those of the list")


def _check_openers(proof: Proof, closed: ClosedSet) -> None:
    try:
        proof.verify(closed.roster)
    except Refused as error:
        raise Refused("audit.openers", str(error)) from None


def _verdict(entries: Sequence[LogEntry], closed: ClosedSet, statement: Statement, proof: Proof) -> LoggedVerdict:
    """Return how the round ended, after checking that this follows from signed votes."""
    end = only([entry for entry in entries if entry.event in ENDS], "one end of the round")
    code = end.value.get("code", "")
    if statement.purpose != UPDATE.name:
        raise bad("only an update has a verdict")
    if end.event == "failed":
        if len(entries) != 1 or not code:
            raise bad("a failed round must have a code and no votes")
        return LoggedVerdict("failed", code, {})
    judged = only([entry for entry in entries if entry.event == "judged"], "votes")
    votes = judged.details["votes"]
    if (votes, judged.details["best"]) != (proof.votes, proof.best):
        raise bad("the votes differ from those that the members signed")
    counted = gate.judge(
        votes,
        statement.norm,
        (),  # earlier norms are in other certificates: a verdict because of them is the coordinator's claim here
        in_range=statement.in_range,
        settings=closed.offer.gate,
    )
    if (end.event, code) not in ((counted.status, counted.code), ("refused", "gate.step")):
        raise bad(f"{end.event} {code or 'without a code'} does not follow from the votes")
    if judged.value.get("code", "") != code or end.details["sha256"] != statement.sha256:
        raise bad("votes and verdict are about different candidates")
    return LoggedVerdict(end.event, code, votes)


def _hashes(texts: Iterable[str]) -> list[bytes]:
    """Return 32-byte hashes from lower-case hexadecimal.

    Raises:
        ValueError: another form.
    """
    hashes = [bytes.fromhex(text) for text in texts]
    if any(len(node) != merkle.HASH_BYTES for node in hashes) or [node.hex() for node in hashes] != list(texts):
        raise ValueError("not SHA-256 hashes in lower-case hexadecimal")
    return hashes
