"""Taking seats: who takes part, what all share, and a new epoch's keys, which the coordinator only relays."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from ..crypto import planner
from ..crypto.identity import Roster, parse_roster
from ..errors import Refused
from ..protocol.context import template
from ..protocol.messages import (
    CONFIRM,
    ENROL,
    MAKE_DEALS,
    TAKE_DEAL,
    Body,
    Confirm,
    Deals,
    Enrol,
    Enrolled,
    MakeDeals,
    Route,
    TakeDeal,
)
from ..protocol.purposes import UPDATE
from .exchange import Answer
from .records import history
from .records import members as roster
from .rules import Agreement, agree
from .run import Run, Seats

Q = TypeVar("Q", bound=Body)
A = TypeVar("A", bound=Body)


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
    for came in run.ask(ENROL, dict.fromkeys(everyone, request), timeout_s):
        try:
            answer = came.body()
            parse_roster([answer.card], {came.member: run.pins.get(came.member, "")})
            if answer.epoch >= upcoming + EPOCHS_AHEAD:
                raise Refused("deal.epoch", "the member knows of an epoch that cannot be")
            answers[came.member] = answer
        except Refused as error:
            odd[came.member] = error.code
    digests = {member: dict[str, str](answer.agreed.items()) for member, answer in answers.items()}
    agreement, differing = agree(digests, {member: one.sizes for member, one in answers.items()}, run.purposes)
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


def _deal(run: Run, enrolment: _Enrolment) -> Seats:
    """Let a member deal the epoch's keys, have every member confirm them (rule 8), and return the epoch.

    Raises:
        Refused: a member refused or stayed away, or the members hold different keys (``deal.*``).
    """
    cards, agreement = enrolment.cards, enrolment.agreement
    listed = [cards[member] for member in sorted(cards)]
    seated = parse_roster(listed, run.pins)
    plan = planner.plan(len(listed), run.offer.crypto.value_bits, agreement.sizes[UPDATE.name])
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
    answers = {member: answer.model_dump() for member, answer in _ask_all(run, TAKE_DEAL, requests).items()}
    _ask_all(run, CONFIRM, dict.fromkeys(seated.names, Confirm(run=run.id, epoch=epoch, answers=answers)))
    with run.state.store.transaction() as db:
        for member in seated.names:
            run.log(db, "deal_answered", member=member, epoch=epoch)
    about = template(run.id, run.offer, run.raw_offer, epoch, seated, plan)
    return Seats(epoch, seated, plan, agreement.sizes, about)


def _one_deals(run: Run, roster: Roster, epoch: int, listed: list[dict[str, Any]]) -> dict[str, Deals]:
    """Return one member's deals, by dealer: the first's in roster order that answers as it should."""
    request = MakeDeals(run=run.id, epoch=epoch, roster=listed)
    for dealer in roster.names:
        for came in run.ask(MAKE_DEALS, {dealer: request}, run.exchange.answer_timeout_s):
            try:
                deals = came.body()
                if not {*deals.ciphertexts} == {*deals.signatures} == {*roster.names}:
                    raise Refused("deal.signature", "the deals are not for the members of the roster")
            except Refused as error:
                run.note("refused_member", member=dealer, code=error.code)
                continue
            return {dealer: deals}
    raise Refused("deal.signature", "no member of the roster dealt keys")


def _ask_all(run: Run, route: Route[Q, A], requests: Mapping[str, Q]) -> dict[str, A]:
    """Return every member's answer; one that refuses or stays away is named, and the run ends."""
    came = {answer.member: answer for answer in run.ask(route, requests, run.exchange.answer_timeout_s)}
    late = Refused("envelope.late", "no answer came in time")
    found: dict[str, A] = {}
    for member in sorted(requests):
        try:
            found[member] = came.get(member, Answer[A](member, late)).body()
        except Refused as error:
            run.note("refused_member", member=member, code=error.code)
            raise Refused(error.code, f"{member!r} did not take part in {route.name}") from None
    return found
