"""Taking seats: every member agrees to a run and holds the circle's key, which the coordinator relays."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import closing
from typing import TypeVar

from ..canonical import digest
from ..crypto import planner
from ..crypto.identity import Roster, parse_roster
from ..errors import Refused
from ..protocol.context import Terms, template
from ..protocol.messages import (
    ENROL,
    MAKE_KEY,
    TAKE_SEAT,
    Body,
    Enrol,
    Enrolled,
    KeyMade,
    MakeKey,
    Route,
    SeatTaken,
    TakeSeat,
)
from ..protocol.purposes import UPDATE
from .records import contexts, history
from .records import members as roster
from .rules import Odd, agree
from .run import Run, Seats

Q = TypeVar("Q", bound=Body)
A = TypeVar("A", bound=Body)


def take_seats(run: Run) -> Seats:
    """Return the seats of all members: at a run's start, and after the coordinator was started again.

    Members that are away are waited for. If a sum is not over, members are shown the log as it was when the sum began.
    Otherwise a member that has not sealed yet would be asked to seal in a context whose checkpoint it never saw.

    Raises:
        Refused: a member refused or differs from the others; the code is the first one's.
    """
    with run.state.store.read() as db:
        at = contexts.bound_to(db, run.id)
    answers = _enrol(run, at)
    cards = [answers[member].card for member in run.circle.names]
    seated = parse_roster(cards, run.circle.pins)
    some = answers[run.circle.first]
    plan = planner.plan(len(cards), run.offer.crypto.value_bits, some.sizes[UPDATE.name])
    key, signatures = _key(run, seated, answers, at)
    terms = Terms(run.circle, seated, plan, key, digest(some.frozen))
    about = template(run.id, run.offer, run.raw_offer, terms)
    with run.state.store.transaction() as db:
        history.keep_plan(db, run.id, plan.as_dict())
        run.log(
            db,
            "seats_taken",
            circle=run.circle.digest,
            roster=seated.digest,
            members=list(seated.names),
            crypto=plan.as_dict(),
            key=key,
            signatures=signatures,
        )
    return Seats(seated, plan, some.sizes, about)


def _enrol(run: Run, at: str) -> Mapping[str, Enrolled]:
    """Return what every member said. A disagreement names member and field.

    Raises:
        Refused: a member did not enrol.
    """
    chosen, start = run.offer.training, run.offer.start
    request = Enrol(
        run=run.id,
        circle=run.signed.as_dict(),
        seed=chosen.seed,
        rounds=chosen.rounds,
        start="" if start == run.circle.starts_at else start,
        choice=run.offer.choice,
    )
    answers: dict[str, Enrolled] = {}
    odd: dict[str, Odd] = {}
    wait = run.wait("enrol")
    for came in run.ask(ENROL, dict.fromkeys(run.circle.names, request), wait, at):
        try:
            answer = came.body()
            parse_roster([answer.card], {came.member: run.circle.pins.get(came.member, "")})
            answers[came.member] = answer
        except Refused as error:
            odd[came.member] = Odd(error.code)
            wait.give_up()
    odd |= agree(answers, run.circle.digest, run.purposes)
    with run.state.store.transaction() as db:
        for member, problem in sorted(odd.items()):
            run.log(
                db,
                "refused_member",
                member=member,
                code=problem.code,
                **({"what": problem.what} if problem.what else {}),
            )
        for member in run.circle.names:
            if member in answers.keys() - odd.keys():
                card, agreed = answers[member].card, dict(answers[member].agreed)
                roster.keep_card(db, card)
                run.log(db, "enrolled", member=member, pin=run.circle.pins[member], card=card, agreed=agreed)
    if odd:
        problems = ", ".join(f"{member}: {problem}" for member, problem in sorted(odd.items()))
        raise Refused(
            next(problem.code for _, problem in sorted(odd.items())),
            f"{len(answers.keys() - odd.keys())} of {len(run.circle.names)} members enrolled, all are needed "
            f"({problems})",
        )
    return answers


def _key(run: Run, seated: Roster, answers: Mapping[str, Enrolled], at: str) -> tuple[str, dict[str, str]]:
    """Let every member take a seat under the circle's key; return the key's digest and the members' signatures on it.

    Raises:
        Refused: ``circle.key``: the first member gave no key, or different ones; or a member refused.
    """
    first, cards = run.circle.first, seated.as_list()
    keys = {member: answer.key for member, answer in answers.items()}
    lacking = [member for member in seated.names if keys[member] != keys[first] or not keys[member]]
    key_made = KeyMade(ciphertexts={}, signatures={})
    if lacking:
        key_made = _ask_all(run, MAKE_KEY, {first: MakeKey(run=run.id, roster=cards)}, "key", at)[first]
        if not {*key_made.ciphertexts} == {*key_made.signatures} == {*seated.names}:
            raise Refused("circle.key", f"{first!r} did not make the circle's key for every member")
    requests = {
        member: TakeSeat(
            run=run.id,
            roster=cards,
            ciphertext=key_made.ciphertexts[member] if member in lacking else b"",
            signature=key_made.signatures[member] if member in lacking else b"",
        )
        for member in seated.names
    }
    taken: dict[str, SeatTaken] = _ask_all(run, TAKE_SEAT, requests, "seat", at)
    key = taken[first].key
    if any(seat.key != key for seat in taken.values()):
        run.note("refused_member", member=first, code="circle.key")
        raise Refused("circle.key", f"{first!r} gave the members different keys of the circle")
    return key, {member: taken[member].signature for member in seated.names}


def _ask_all(run: Run, route: Route[Q, A], requests: Mapping[str, Q], step: str, at: str) -> dict[str, A]:
    """Return every member's answer. The error names a member that refused."""
    answered: dict[str, A] = {}
    with closing(run.ask(route, requests, run.wait(step), at)) as answers:
        for came in answers:
            try:
                answered[came.member] = came.body()
            except Refused as error:
                run.note("refused_member", member=came.member, code=error.code)
                raise Refused(error.code, f"{came.member!r} did not take part in {route.name}") from None
    return answered
