"""Taking seats: who takes part, what all share, and a new epoch's keys, which the coordinator only relays."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from flwr.app import RecordDict

from .. import __version__
from ..canonical import digest
from ..crypto import planner
from ..crypto.context import RoundContext
from ..crypto.identity import Roster, parse_roster
from ..errors import Refused
from ..messages import Body, Confirm, DealAnswer, Deals, Done, Enrol, Enrolled, MakeDeals, TakeDeal
from .records import members as roster
from .records import rounds as history
from .rounds import Agreement, agree
from .run import Run, Seats


def take_seats(run: Run, members: Iterable[str]) -> Seats:
    """Return a new epoch of those of ``members`` that take part: enrol them and deal its keys.

    At a run's start, after the coordinator was started again, and after a member was revoked. A member that is revoked
    on the way is left out, and the others take seats again.

    Raises:
        Refused: too few members enrolled, or one of them did not take part in the deal.
    """
    while True:
        revoked = run.exchange.revoked()
        try:
            return _deal(run, _enrol(run, sorted({*members} - revoked)))
        except Refused:
            if run.exchange.revoked() == revoked:
                raise


EPOCHS_AHEAD = 10_000  # that a member may be, where the coordinator was restored from an older copy


@dataclass(frozen=True)
class _Enrolment:
    """Who takes part: each one's card, what all agree on, and the newest epoch that one of them knows."""

    cards: Mapping[str, Any]
    agreement: Agreement
    epoch: int


def _enrol(run: Run, everyone: Sequence[str]) -> _Enrolment:
    """Return who takes part; a disagreement names member and field.

    Raises:
        Refused: fewer than ``min_members`` enrolled; the code is the first member's.
    """
    with run.state.store.read() as db:
        upcoming = history.next_epoch(db)
    request = Enrol(run=run.id, offer=dict(run.raw_offer))
    answers: dict[str, Enrolled] = {}
    odd: dict[str, str] = {}
    timeout_s = run.exchange.answer_timeout_s
    for member, reply in run.ask("query.enrol", dict.fromkeys(everyone, request), timeout_s):
        try:
            if isinstance(reply, str):
                raise Refused(reply, "the member did not enrol")
            answer = Enrolled.from_records(reply)
            parse_roster([answer.card], {member: run.pins.get(member, "")})
            if answer.epoch >= upcoming + EPOCHS_AHEAD:
                raise Refused("deal.epoch", "the member knows of an epoch that cannot be")
            answers[member] = answer
        except Refused as error:
            odd[member] = error.code
    agreement, differing = agree({member: _fields(answer) for member, answer in answers.items()})
    odd |= {member: f"config.{name}" for member, name in differing.items()}
    odd |= dict.fromkeys(set(everyone) - answers.keys() - odd.keys(), "envelope.late")
    cards = {member: answers[member].card for member in sorted(answers.keys() - odd.keys())}
    with run.state.store.transaction() as db:
        for member, code in sorted(odd.items()):
            run.log(db, "refused_member", member=member, code=code)
        for member, card in cards.items():
            roster.keep_card(db, card)
            run.log(db, "enrolled", member=member, pin=run.pins[member], card=card, agreed=dict(agreement.agreed))
    if len(cards) < run.offer.federation.min_members:
        said = ", ".join(f"{member}: {code}" for member, code in sorted(odd.items())) or "no other member is known"
        raise Refused(
            next(iter(sorted(odd.values())), "round.too_few"),
            f"{len(cards)} members enrolled, {run.offer.federation.min_members} are needed ({said})",
        )
    return _Enrolment(cards, agreement, max(answers[member].epoch for member in cards))


def _fields(answer: Enrolled) -> dict[str, str | int]:
    fields: dict[str, str | int] = {}
    for name, value in answer.agreed.items():
        fields[name] = value
    for size, count in answer.sizes.items():
        fields[size] = count
    return fields


def _deal(run: Run, enrolment: _Enrolment) -> Seats:
    """Let a member deal the epoch's keys, have every member confirm them (rule 8), and return the epoch.

    Raises:
        Refused: a member refused or stayed away, or the members hold different keys (``deal.*``).
    """
    cards, agreement = enrolment.cards, enrolment.agreement
    listed = [cards[member] for member in sorted(cards)]
    seated = parse_roster(listed, run.pins)
    plan = planner.plan(len(listed), run.offer.crypto.value_bits, agreement.sizes["update"])
    with run.state.store.transaction() as db:
        epoch = max(history.next_epoch(db), enrolment.epoch + 1)
        history.begin_epoch(db, epoch, run.id, listed, plan.as_dict())
        began = {"roster": seated.digest, "members": list(seated.names), "crypto": plan.as_dict()}
        run.log(db, "epoch_began", epoch=epoch, **began)
    deals = _one_deals(run, seated, epoch, listed)
    requests = {
        member: TakeDeal(
            run=run.id,
            epoch=epoch,
            roster=listed,
            ciphertexts={dealer: one.ciphertexts[member] for dealer, one in deals.items()},
            signatures={dealer: one.signatures[member] for dealer, one in deals.items()},
        )
        for member in seated.names
    }
    answers = {
        member: DealAnswer.from_records(reply).model_dump()
        for member, reply in _ask_all(run, "query.take_deal", requests)
    }
    confirm = Confirm(run=run.id, epoch=epoch, answers=answers)
    for _, reply in _ask_all(run, "query.confirm", dict.fromkeys(seated.names, confirm)):
        Done.from_records(reply)
    with run.state.store.transaction() as db:
        for member in seated.names:
            run.log(db, "deal_answered", member=member, epoch=epoch)
    template = RoundContext(
        federation=run.offer.federation.name,
        run=run.id,
        number=0,
        round=0,
        purpose="statistics",
        base="",
        clip=0.0,
        training=run.offer.training.model_dump(mode="json"),
        schema=run.offer.schema_digest,
        task=run.offer.task.model_dump(mode="json"),
        package=__version__,
        crypto=plan.as_dict(),
        epoch=epoch,
        roster=seated.digest,
        min_members=run.offer.federation.min_members,
        offer=digest(run.raw_offer),
        checkpoint="",
    )
    return Seats(epoch, seated, plan, agreement.sizes, template)


def _one_deals(run: Run, roster: Roster, epoch: int, listed: list[dict[str, Any]]) -> dict[str, Deals]:
    """Return one member's deals, by dealer: the first's in roster order that answers as it should."""
    request = MakeDeals(run=run.id, epoch=epoch, roster=listed)
    for dealer in roster.names:
        for _, reply in run.ask("query.make_deals", {dealer: request}, run.exchange.answer_timeout_s):
            try:
                if isinstance(reply, str):
                    raise Refused(reply, "the member did not deal")
                deals = Deals.from_records(reply)
                if not {*deals.ciphertexts} == {*deals.signatures} == {*roster.names}:
                    raise Refused("deal.signature", "the deals are not for the members of the roster")
            except Refused as error:
                run.note("refused_member", member=dealer, code=error.code)
                continue
            return {dealer: deals}
    raise Refused("deal.signature", "no member of the roster dealt keys")


def _ask_all(run: Run, route: str, requests: Mapping[str, Body]) -> list[tuple[str, RecordDict]]:
    """Return every member's reply; one that refuses or stays away is named, and the run ends."""
    replies = dict(run.ask(route, requests, run.exchange.answer_timeout_s))
    came = []
    for member in sorted(requests):
        reply = replies.get(member, "envelope.late")
        if isinstance(reply, str):
            run.note("refused_member", member=member, code=reply)
            raise Refused(reply, f"{member!r} did not take part in {route}")
        came.append((member, reply))
    return came
