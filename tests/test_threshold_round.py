"""Whole rounds under scheme ``threshold``: the same models as under ``shared``, drop-outs, liars, kills, secrets."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import CONFIGS
from federation import NAMES, Federation
from live import Live, undisturbed
from moonflower import simulate
from moonflower.client.app import Member
from moonflower.client.epochs import Shareholder
from moonflower.client.ledger import Ledger
from moonflower.configs.settings import RunSettings, parse
from moonflower.crypto import bits, dealing, envelope, masks, quantise, shamir
from moonflower.crypto.dealing import EpochShares
from moonflower.crypto.flood import Answered, ThresholdPlan
from moonflower.crypto.threshold import add, read
from moonflower.errors import Ended, InputError, Refused
from moonflower.messages import Deals, MakeDeals, Open, Partial, Sealed, TakeDeal
from moonflower.server import model_card
from moonflower.server.exchange import Exchange
from moonflower.server.grid import LocalGrid
from moonflower.simulation import Simulation

pytestmark = pytest.mark.slow

THRESHOLD = 'crypto.scheme="threshold"'
COMBINING = (THRESHOLD, 'crypto.combiner="coordinator"')
HEART, FOUR = CONFIGS / "heart.toml", ("training.rounds=4", "training.local_epochs=2")
HUNGARY, DORA = "Hungary", "VA Long Beach"


@pytest.fixture
def federation(tmp_path: Path) -> Iterator[Callable[..., Federation]]:
    opened: list[Federation] = []

    def make(*overrides: str) -> Federation:
        opened.append(Federation(tmp_path / str(len(opened)), *(overrides or (THRESHOLD,))))
        opened[-1].queue()
        return opened[-1]

    yield make
    for one in opened:
        one.close()


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The model of a run under scheme shared that nothing happened to."""
    one = Federation(tmp_path_factory.mktemp("shared") / "0")
    one.queue()
    assert one.carry_out() == "done"
    sha256 = str(one.model().sha256)
    one.close()
    return sha256


def refused(code: str, call: Any, *arguments: Any) -> str:
    with pytest.raises(Refused) as refusal:
        call(*arguments)
    assert refusal.value.code == code, str(refusal.value)
    return str(refusal.value)


# What comes out


def test_a_run_gives_the_same_model_as_under_shared_to_the_bit(
    federation: Callable[..., Federation], expected: str
) -> None:
    one = federation()
    assert one.carry_out() == "done"
    assert one.model().sha256 == expected
    one.check_log()
    began = one.events("epoch_began")
    assert [entry["details"]["crypto"]["scheme"] for entry in began] == ["threshold"]
    assert (began[0]["details"]["crypto"]["threshold"], began[0]["details"]["crypto"]["members"]) == (3, 4)
    given = [[note["event"] for note in one.members[name].ledger.journal()].count("partial") for name in NAMES]
    assert sum(given) == 3 * 5, "three openers for each of five sums"


def test_a_new_key_epoch_after_so_many_rounds_changes_nothing_else(
    federation: Callable[..., Federation], expected: str
) -> None:
    one = federation(THRESHOLD, "crypto.epoch_rounds=1")
    assert one.carry_out() == "done"
    assert one.model().sha256 == expected
    assert len(one.events("epoch_began")) >= 3
    last = one.members[DORA].ledger.newest_epoch()
    kept = [one.members[DORA].ledger.epoch(epoch) for epoch in range(1, last + 1)]
    assert [isinstance(epoch.key, EpochShares) for epoch in kept if epoch] == [False] * (last - 1) + [True]
    two = federation("crypto.epoch_rounds=2")
    assert two.carry_out() == "done"
    assert two.model().sha256 == expected


def test_a_coordinator_that_combines_sees_sums_and_gives_the_same_model(
    federation: Callable[..., Federation],
    expected: str,
    asked: list[tuple[Member, Partial, Any]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Its partials come in clear; members still open nothing but what fits their check."""
    opened: list[tuple[Member, Open]] = []
    real = Member.open
    monkeypatch.setattr(Member, "open", lambda self, request: opened.append((self, request)) or real(self, request))
    one = federation(*COMBINING)
    assert one.carry_out() == "done"
    assert one.model().sha256 == expected
    crypto = one.events("epoch_began")[0]["details"]["crypto"]
    assert crypto["combiner"] == "coordinator"
    assert model_card.COMBINED in model_card._exposed([crypto])
    assert model_card.COMBINED not in model_card._exposed([{**crypto, "combiner": "members"}])
    member, request = next(item for item in opened if item[1].purpose == "update" and item[1].number == 2)
    assert (request.partials, request.wrapped) == ({}, {})
    partials = {m.identity.name: r.ciphertext for m, q, r in asked if (q.purpose, q.number) == ("update", 2)}
    epoch = member.ledger.epoch(1)
    assert epoch is not None
    plan, size = epoch.key.held.plan, 24  # type: ignore[union-attr]
    lanes = size + plan.limbs
    seen = read(plan, add(plan, request.total, partials, lanes), lanes, None)
    weights = quantise.OpenedSum(seen.blocks(), size, 1, len(request.members), plan).counters
    assert weights[0] > 0, "the coordinator reads the total weight"
    for combined in (bytes(len(request.combined)), request.combined[:-1], b""):
        with pytest.raises(Refused) as refusal:
            real(member, request.model_copy(update={"combined": combined}))
        assert refusal.value.code == ("open.partial" if len(combined) == len(request.combined) else "open.set")
    relayed = {"partials": partials, "openers": list(partials)}
    refused("open.set", member.open, request.model_copy(update=relayed))


def test_partials_for_the_wrong_combiner_are_the_openers_fault(
    federation: Callable[..., Federation], expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In clear where members combine, or wrapped where the coordinator does."""
    real = Shareholder.wrap
    for crypto, wrong in ((COMBINING, masks.wrap), ((THRESHOLD,), masks.bare)):

        def wrapping(self: Shareholder, about: Any, partial: bytes, wrong: Any = wrong) -> Any:
            if self._identity.name != HUNGARY:
                return real(self, about, partial)
            more = (self._roster, about.members) if wrong is masks.wrap else ()
            return wrong(self._identity, about, partial, *more)

        monkeypatch.setattr(Shareholder, "wrap", wrapping)
        one = federation(*crypto)
        assert one.carry_out() == "done"
        assert one.model().sha256 == expected
        assert {(e["member"], e["code"]) for e in one.events("opening_refused")} == {(HUNGARY, "envelope.malformed")}


@pytest.mark.parametrize(
    "crypto",
    [
        {"scheme": "shared", "threshold": 3},
        {"scheme": "shared", "faulty": 1},
        {"scheme": "shared", "combiner": "coordinator"},
        {"scheme": "threshold", "combiner": "somebody"},
        {"scheme": "other"},
        {"scheme": "threshold", "threshold": -1},
    ],
)
def test_settings_that_make_no_sense_are_refused(crypto: dict[str, Any]) -> None:
    raw = {"federation": {"name": "f"}, "task": {"ref": "a:b"}, "crypto": crypto}
    with pytest.raises(InputError) as error:
        parse(RunSettings, raw, where="test")
    assert error.value.code == "config.value"


@pytest.mark.parametrize("more", ["crypto.threshold=2", "crypto.threshold=5", "crypto.faulty=4"])
def test_a_threshold_that_does_not_fit_the_members_is_refused_before_anything_is_written(
    more: str, tmp_path: Path
) -> None:
    with pytest.raises(InputError) as error:
        simulate(HEART, out=tmp_path / "out", overrides=(THRESHOLD, more))
    assert error.value.code == "config.value"
    assert not (tmp_path / "out").exists()


def test_a_drill_of_partial_openings_needs_the_scheme_that_has_them(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="threshold"):
        simulate(HEART, out=tmp_path / "out", drills=["garble@2:1"])


# Drop-outs, liars


def test_an_opener_that_drops_out_at_the_opening_is_replaced_and_not_waited_for(
    federation: Callable[..., Federation], expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, waited, real = federation(), list[float](), LocalGrid.wait

    def waiting(grid: LocalGrid, until: float) -> None:
        began = grid.now()
        real(grid, until)
        waited.append(grid.now() - began)

    monkeypatch.setattr(LocalGrid, "wait", waiting)

    def seen(entry: dict[str, Any]) -> bool:
        if entry["event"] == "set_closed" and entry["number"] == 2:
            one.away.add("Cleveland")
        if entry["event"] == "opened" and entry["number"] == 2:
            one.away.clear()
        return False

    one.kill_at = seen
    assert one.carry_out() == "done"
    assert one.model().sha256 == expected
    late = [(e["member"], e["number"], e["code"]) for e in one.events("opening_refused")]
    assert late == [("Cleveland", 2, "envelope.late")] * 2, "as an opener, and then as one that judges"
    assert 0 < sum(waited) < 20, "open_timeout_s is 120"


def test_a_slow_opener_is_asked_again_where_nobody_is_left_to_take_its_place(
    federation: Callable[..., Federation], expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, begin = Member._partial, LocalGrid.__init__

    def breaking(self: Member, held: Any, context: Any, *more: Any) -> bytes:
        if self.identity.name == DORA:
            raise RuntimeError("no memory left")
        return real(self, held, context, *more)

    def delay(member: str, message: Any) -> float:
        return 60.0 if (member, message.metadata.message_type) == ("Cleveland", "evaluate.partial") else 0.0

    monkeypatch.setattr(Member, "_partial", breaking)
    monkeypatch.setattr(LocalGrid, "__init__", lambda self, app, members: begin(self, app, members, delay))
    one = federation()
    assert one.carry_out() == "done"
    assert one.model().sha256 == expected
    codes = Counter((e["member"], e["code"]) for e in one.events("opening_refused"))
    assert codes == {("Cleveland", "envelope.late"): 5, (DORA, "update.failed"): 5}, "once each for every sum"


def test_an_opener_that_breaks_is_replaced(
    federation: Callable[..., Federation], expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = Member._partial

    def breaking(self: Member, held: Any, context: Any, *more: Any) -> bytes:
        if self.identity.name == "Cleveland":
            raise RuntimeError("no memory left")
        return real(self, held, context, *more)

    monkeypatch.setattr(Member, "_partial", breaking)
    one = federation()
    assert one.carry_out() == "done"
    assert one.model().sha256 == expected
    codes = Counter((e["member"], e["code"]) for e in one.events("opening_refused"))
    assert codes == {("Cleveland", "update.failed"): 5}, "once for every sum"


def test_a_partial_that_is_not_signed_for_all_of_a_is_the_openers_fault(
    federation: Callable[..., Federation], expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = Shareholder.wrap

    def wrapping(self: Shareholder, about: Any, partial: bytes) -> Any:
        wrapped = real(self, about, partial)
        if wrapped.opener == HUNGARY:
            return type(wrapped)(wrapped.opener, wrapped.ciphertext[:-1] + b"x", wrapped.keys, wrapped.signature)
        return wrapped

    monkeypatch.setattr(Shareholder, "wrap", wrapping)
    one = federation()
    assert one.carry_out() == "done"
    assert one.model().sha256 == expected
    assert {(e["member"], e["code"]) for e in one.events("opening_refused")} == {(HUNGARY, "envelope.signature")}


def test_too_few_openers_fail_the_round_and_the_next_one_goes_on(
    federation: Callable[..., Federation], expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = Member._partial

    def breaking(self: Member, held: Any, context: Any, *more: Any) -> bytes:
        if context.number == 2 and self.identity.name != DORA:
            raise RuntimeError("no memory left")
        return real(self, held, context, *more)

    monkeypatch.setattr(Member, "_partial", breaking)
    one = federation(THRESHOLD)
    assert one.carry_out() == "done"
    assert [(r["status"], r["code"]) for r in one.rounds()] == [
        ("promoted", ""),
        ("failed", "update.failed"),
        ("promoted", ""),
    ]


def test_a_set_that_is_smaller_than_the_threshold_is_not_closed(federation: Callable[..., Federation]) -> None:
    one = federation(THRESHOLD, "crypto.threshold=4")

    def seen(entry: dict[str, Any]) -> bool:
        if entry["event"] == "round_began" and entry["number"] == 2:
            one.away.add(HUNGARY)
        if entry["event"] == "failed":
            one.away.clear()
        return False

    one.kill_at = seen
    assert one.carry_out() == "done"
    assert [(r["status"], r["code"]) for r in one.rounds()] == [
        ("promoted", ""),
        ("failed", "round.too_few"),
        ("promoted", ""),
    ]


# Members leave and come back: a new epoch each, in one training


def seats(one: Federation) -> list[tuple[int, int, int]]:
    """(epoch, n, t) of every epoch in the log."""
    plans = [(e["details"]["epoch"], e["details"]["crypto"]) for e in one.events("epoch_began")]
    return [(epoch, crypto["members"], crypto["threshold"]) for epoch, crypto in plans]


def test_a_member_that_is_revoked_is_gone_with_the_next_epoch_and_the_rest_hold_new_shares(
    federation: Callable[..., Federation],
) -> None:
    one = federation(THRESHOLD, "training.rounds=4")
    before: list[dict[str, Any]] = []

    def seen(entry: dict[str, Any]) -> bool:
        if entry["event"] == "promoted" and entry["number"] == 1:
            one.revoked.add(DORA)
            before.extend({"key": held(one, name, 1).key, "shares": held(one, name, 1).shares} for name in NAMES)
        return False

    one.kill_at = seen
    assert one.carry_out() == "done"
    assert [r["members"] for r in one.rounds()] == [list(NAMES), *[[n for n in NAMES if n != DORA]] * 3]
    assert [r["status"] for r in one.rounds()] == ["promoted"] * 4
    assert seats(one) == [(1, 4, 3), (2, 3, 2)]
    for name, was in zip(NAMES, before, strict=True):
        if name != DORA:
            now = held(one, name, 2)
            assert (now.key != was["key"]).mean() > 0.9
            assert (now.shares[HUNGARY] != was["shares"][HUNGARY]).mean() > 0.9
            old = one.members[name].ledger.epoch(1)
            assert old is not None
            assert not isinstance(old.key, EpochShares)
    one.check_log()


def test_a_member_that_was_away_takes_a_seat_in_the_next_epoch(federation: Callable[..., Federation]) -> None:
    one = federation(THRESHOLD, "training.rounds=4", "crypto.epoch_rounds=1")

    def seen(entry: dict[str, Any]) -> bool:
        if entry["event"] == "promoted":
            (one.away.add if entry["number"] == 1 else one.away.discard)(HUNGARY)
        return False

    one.kill_at = seen
    assert one.carry_out() == "done"
    assert [len(r["members"]) for r in one.rounds()] == [4, 3, 4, 4]
    assert [(n, t) for _, n, t in seats(one)][:3] == [(4, 3), (3, 2), (4, 3)]
    one.check_log()


def held(one: Federation, name: str, epoch: int) -> shamir.EpochShare:
    kept = one.members[name].ledger.epoch(epoch)
    assert kept is not None
    assert isinstance(kept.key, EpochShares)
    return kept.key.held


# What must not be given twice


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Member, Partial, Any]]:
    """Every request for a partial opening that was granted: who, what, and the reply."""
    found: list[tuple[Member, Partial, Any]] = []
    real = Member.partial

    def noting(self: Member, request: Partial) -> Any:
        found.append((self, request, reply := real(self, request)))
        return reply

    monkeypatch.setattr(Member, "partial", noting)
    return found


def test_one_set_for_a_context_and_the_same_bytes_for_a_retry(
    federation: Callable[..., Federation], asked: list[tuple[Member, Partial, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    one = federation()
    assert one.carry_out() == "done"
    member, request, _ = next(item for item in asked if item[1].purpose == "update" and item[1].number == 2)
    given: list[bytes] = []
    real = Member._partial
    monkeypatch.setattr(Member, "_partial", lambda *all_: given.append(real(*all_)) or given[-1])

    def spent() -> int:
        with member.ledger._store.read() as db:
            return int(db.exec_driver_sql("select spent from flood").scalar_one())

    before = spent()
    for _ in range(2):
        member.partial(request)
    one.start(member.identity.name)
    member = one.members[member.identity.name]
    member.partial(request)
    assert len(set(given)) == 1, "a retry gives the same bytes, also after a restart"
    assert spent() == before, "and costs nothing"
    other = next(name for name in NAMES if name not in request.openers)
    swapped = sorted({*request.openers} - {next(n for n in request.openers if n != member.identity.name)} | {other})
    refused("open.set", member.partial, request.model_copy(update={"openers": swapped}))
    member.partial(request.model_copy(update={"openers": swapped, "attempt": 7}))
    assert len(set(given)) == 2
    assert spent() == before + 8192

    left_out = next(name for name in NAMES if name not in (member.identity.name, *request.openers))
    rest = [name for name in NAMES if name != left_out]
    smaller = request.model_copy(
        update={
            "members": rest,
            "headers": {name: request.headers[name] for name in rest},
            "signatures": {name: request.signatures[name] for name in rest},
            "attempt": 8,
        }
    )
    refused("open.overlap", member.partial, smaller)
    monkeypatch.setattr(Ledger, "opened", lambda *_: None)
    assert "another set" in refused("open.overlap", member.partial, smaller), "also without rule 2's table"
    assert spent() == before + 8192


def test_flooding_that_is_used_up_takes_new_keys(
    federation: Callable[..., Federation], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ThresholdPlan, "capacity", 2 * 8192)
    monkeypatch.setattr(ThresholdPlan, "rounds", lambda *_: 1)
    one = federation()
    assert one.carry_out() == "done"
    assert [(r["status"], r["code"]) for r in one.rounds()] == [
        ("promoted", ""),
        ("failed", "open.flood"),
        ("promoted", ""),
    ]
    assert len(one.events("epoch_began")) == 2
    refusals = {(e["code"], e["number"], e["details"]["purpose"]) for e in one.events("opening_refused")}
    assert ("open.flood", 2, "update") in refusals
    assert {code for code, *_ in refusals} == {"open.flood"}


def test_scheme_shared_gives_no_partials(federation: Callable[..., Federation]) -> None:
    one = federation("crypto.epoch_rounds=0")
    requests: list[tuple[Member, Open]] = []
    real = Member.open
    one.handled = lambda name, handle: handle()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Member, "open", lambda self, request: requests.append((self, request)) or real(self, request))
        assert one.carry_out() == "done"
    member, request = next(item for item in requests if item[1].purpose == "update")
    fields = {name: getattr(request, name) for name in Partial.model_fields if name not in ("openers", "attempt")}
    asked = Partial(**fields, openers=list(NAMES[:3]), attempt=0)
    refused("open.set", member.partial, asked)


# Deals


def dealt(one: Federation) -> tuple[dict[str, Deals], Callable[..., TakeDeal]]:
    """All members' deals for epoch 1 of a run, and how they are delivered."""
    roster = [member.identity.card.as_dict() for member in one.members.values()]
    for member in one.members.values():
        member.enrol(epochs_enrol(one))
    deals = {n: m.make_deals(MakeDeals(run="r", epoch=1, roster=roster)) for n, m in one.members.items()}

    def deliver(name: str, **changes: Any) -> TakeDeal:
        fields = {
            "ciphertexts": {dealer: d.ciphertexts[name] for dealer, d in deals.items()},
            "signatures": {dealer: d.signatures[name] for dealer, d in deals.items()},
            "commitments": {dealer: d.commitments for dealer, d in deals.items()},
        }
        return TakeDeal(run="r", epoch=1, roster=roster, **{**fields, **changes})

    return deals, deliver


def epochs_enrol(one: Federation) -> Any:
    from moonflower.messages import Enrol

    return Enrol(run="r", offer=dict(one.row().offer))


def test_deals_are_delivered_whole_and_unchanged_or_not_taken(federation: Callable[..., Federation]) -> None:
    one = federation()
    deals, deliver = dealt(one)
    member = one.members[DORA]
    good = deliver(DORA)
    swapped = {**good.ciphertexts, "Cleveland": deals[HUNGARY].ciphertexts[DORA]}
    less = {name: value for name, value in good.ciphertexts.items() if name != "Cleveland"}
    for_other = {**good.ciphertexts, "Cleveland": deals["Cleveland"].ciphertexts[HUNGARY]}
    forged = {**good.commitments, "Cleveland": {**good.commitments["Cleveland"], HUNGARY: "0" * 64}}
    own = {**good.commitments, DORA: {**good.commitments[DORA], HUNGARY: "0" * 64}}
    refused("deal.signature", member.take_deal, deliver(DORA, ciphertexts=swapped))
    refused("deal.signature", member.take_deal, deliver(DORA, ciphertexts=less))
    refused("deal.signature", member.take_deal, deliver(DORA, ciphertexts=for_other))
    refused("deal.signature", member.take_deal, deliver(DORA, commitments=forged))
    refused("deal.signature", member.take_deal, deliver(HUNGARY))
    refused("deal.epoch", member.take_deal, deliver(DORA, commitments=own))
    again = member.make_deals(MakeDeals(run="r", epoch=1, roster=good.roster))
    assert again.commitments == deals[DORA].commitments, "asked again, a member deals the same"
    first = member.take_deal(good)
    one.start(DORA)
    assert one.members[DORA].take_deal(good) == first or first.answer == one.members[DORA].take_deal(good).answer


def test_a_dealer_whose_shares_do_not_fit_is_named(
    federation: Callable[..., Federation], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    real_deal, real_make = shamir.deal, Member.make_deals
    cheating: list[str] = []

    def dealing_junk(plan: Any, names: Any) -> Any:
        good = real_deal(plan, names)
        if cheating != [HUNGARY]:
            return good
        other = real_deal(plan, names)
        keep = 2 * shamir.KEY_BYTES
        payloads = dict(good.payloads)
        payloads[DORA] = good.payloads[DORA][:keep] + other.payloads[DORA][keep:]
        commitments = {**good.commitments, DORA: shamir.hashlib.sha256(payloads[DORA]).hexdigest()}
        return shamir.Dealt(good.own, payloads, commitments)

    def making(self: Member, request: MakeDeals) -> Deals:
        cheating[:] = [self.identity.name]
        return real_make(self, request)

    monkeypatch.setattr(Member, "make_deals", making)
    monkeypatch.setattr(shamir, "deal", dealing_junk)
    one = federation()
    assert one.carry_out() == "failed deal.disagree"
    assert f"dealt by '{HUNGARY}'" in caplog.text
    assert not one.events("envelope_accepted")


# A coordinator that is killed


@pytest.mark.parametrize(
    ("event", "number", "times"),
    [
        ("epoch_began", None, 1),
        ("deal_answered", None, 1),
        ("set_closed", 0, 1),
        ("envelope_accepted", 2, 3),
        ("set_closed", 2, 1),
        ("opened", 2, 1),
        ("judged", 2, 1),
        ("set_closed", 3, 2),
    ],
)
def test_a_coordinator_that_is_killed_goes_on(
    federation: Callable[..., Federation], expected: str, event: str, number: int | None, times: int
) -> None:
    one, left = federation(), [times]

    def here(entry: dict[str, Any]) -> bool:
        if entry["event"] == event and (number is None or entry.get("number") == number):
            left[0] -= 1
            return left[0] == 0
        return False

    one.kill_at = here
    assert one.carry_out() == "killed"
    for name in NAMES:
        one.start(name)
    assert one.carry_out() == "done"
    one.check_log()
    assert one.model().sha256 == expected


def test_a_coordinator_that_is_killed_between_partials_and_opening_goes_on(
    federation: Callable[..., Federation], expected: str, asked: list[tuple[Member, Partial, Any]]
) -> None:
    from federation import Killed

    one = federation()
    done: list[int] = []

    def dying(name: str, handle: Callable[[], Any]) -> Any:
        reply = handle()
        if len([1 for _, request, _ in asked if request.number == 2]) == 2 and not done:
            done.append(1)
            raise Killed
        return reply

    one.handled = dying
    assert one.carry_out() == "killed"
    for name in NAMES:
        one.start(name)
    assert one.carry_out() == "done"
    assert one.model().sha256 == expected


# Secrets


def test_the_coordinator_never_sees_a_share_a_secret_or_a_partial(
    federation: Callable[..., Federation], monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[bytes] = []
    secrets: list[bytes] = []
    real_ask, real_receive, real_partial = Exchange.ask, dealing.receive, Member._partial

    def spying(self: Exchange, route: str, requests: Any, *more: Any) -> Any:
        seen.extend(_bytes(request.to_records()) for request in requests.values())
        for member, reply in real_ask(self, route, requests, *more):
            if not isinstance(reply, str):
                seen.append(_bytes(reply))
            yield member, reply

    def receiving(*arguments: Any) -> EpochShares:
        shares = real_receive(*arguments)
        held = shares.held
        secrets.extend([held.secret, held.flood_key, *held.pairs.values(), shares.own[:32], shares.own[5000:5064]])
        for payload in shares.payloads.values():
            secrets.extend([payload[:32], payload[32:64], payload[5000:5064]])
        return shares

    def partial(*arguments: Any) -> bytes:
        found = real_partial(*arguments)
        secrets.append(found[1000:1064])
        return found

    monkeypatch.setattr(Exchange, "ask", spying)
    monkeypatch.setattr(dealing, "receive", receiving)
    monkeypatch.setattr(Member, "_partial", partial)
    one = federation()
    assert one.carry_out() == "done"
    one.state.close()
    files = [path.read_bytes() for path in one.folder.rglob("*") if path.is_file() and "members" not in path.parts]
    everything = b"|".join(seen + files)
    assert len(secrets) > 80
    for needle in {*secrets}:
        assert needle not in everything
        assert needle.hex().encode() not in everything
    mine = (one.folder / "members" / f"{DORA}.db").read_bytes() + _wal(one.folder / "members" / f"{DORA}.db")
    assert any(needle in mine for needle in secrets), "the needles are what lies in a ledger"


def _wal(path: Path) -> bytes:
    beside = path.with_name(path.name + "-wal")
    return beside.read_bytes() if beside.exists() else b""


def _bytes(records: Any) -> bytes:
    arrays = [array.data for record in records.array_records.values() for array in record.values()]
    values = [value for record in records.config_records.values() for value in record.values()]
    return b"|".join([*arrays, *(value if isinstance(value, bytes) else str(value).encode() for value in values)])


def test_fewer_ledgers_than_the_threshold_do_not_open_an_envelope(
    federation: Callable[..., Federation], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What t - 1 members keep, and all that the coordinator saw: noise; t ledgers: the vector, to the bit."""
    bodies: dict[str, tuple[envelope.Header, bytes]] = {}
    plain: dict[str, Any] = {}
    real_ask, real_blocks = Exchange.ask, Member._blocks

    def spying(self: Exchange, route: str, requests: Any, *more: Any) -> Any:
        for member, reply in real_ask(self, route, requests, *more):
            if route == "train.seal" and not isinstance(reply, str):
                signed, body = envelope.split(Sealed.from_records(reply).envelope)
                bodies[member] = envelope._parse_header(signed.data), bytes(body)
            yield member, reply

    def blocks(self: Member, *arguments: Any) -> Any:
        plain[self.identity.name] = np.concatenate(list(real_blocks(self, *arguments)))
        yield plain[self.identity.name]

    monkeypatch.setattr(Exchange, "ask", spying)
    monkeypatch.setattr(Member, "_blocks", blocks)
    one = federation()
    assert one.carry_out() == "done"
    held: dict[str, Any] = {}
    for name in NAMES:
        epoch = one.members[name].ledger.epoch(1)
        assert epoch is not None
        assert isinstance(epoch.key, EpochShares)
        held[name] = epoch.key.held
    plan = held[DORA].plan
    header, body = bodies[DORA]

    def opened_with(*coalition: str) -> float:
        points = {NAMES.index(name) + 1: held[name].shares[DORA] for name in coalition}
        key = shamir.combine(points, plan.ring.primes)
        label = b"moonflower.public.v1\x00" + header.context.encode()
        mask = plan.ring.switch(plan.ring.times(key, label, range(len(plain[DORA]))))
        packed = np.frombuffer(body, np.uint8).reshape(-1, plan.chunk_bytes)
        words = bits.unpack(packed, plan.degree, plan.modulus_bits).view(np.int64)
        found = plan.ring.wire.reduce(words + mask + plan.scaling // 2) // plan.scaling
        good = found[:, : -plan.check_points] == plain[DORA][:, : -plan.check_points]
        return float(good.mean())

    assert opened_with("Cleveland", HUNGARY, "Switzerland") == 1.0
    assert opened_with("Cleveland", HUNGARY) < 0.01
    assert opened_with(HUNGARY, "Switzerland") < 0.01
    assert quantise.lanes_of(plain[DORA], plan).any()


def test_a_record_of_answers_survives_a_restart(federation: Callable[..., Federation]) -> None:
    one = federation()
    assert one.carry_out() == "done"
    one.start("Cleveland")
    from moonflower.client import shares

    with one.members["Cleveland"].ledger._store.read() as db:
        contexts = db.exec_driver_sql("select context from answered").scalars().all()
        records = [shares.answered(db, context) for context in contexts]
        assert shares.answered(db, "0" * 64) is None
    assert len(records) == 5
    assert all(isinstance(one, Answered) and one.members == NAMES and len(one.attempts) == 1 for one in records)


# Simulations with drills, and live


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Any:
    @cache
    def simulated(*drills: str, scheme: str = THRESHOLD) -> Simulation:
        return simulate(HEART, out=tmp_path_factory.mktemp("runs") / "out", overrides=(*FOUR, scheme), drills=drills)

    return simulated


def entries(done: Simulation, event: str) -> list[dict[str, Any]]:
    import json
    import sqlite3
    from contextlib import closing

    with closing(sqlite3.connect(done.out / "moonflower.db")) as db:
        found = [json.loads(row[0]) for row in db.execute("select entry from log order by idx")]
    return [entry for entry in found if entry["event"] == event]


def sha(done: Simulation) -> str:
    return str(done.result["model"]["sha256"])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "code"),
    [
        ("nan", "update.nonfinite"),
        ("drop", "envelope.late"),
        ("slow", "envelope.late"),
        ("tamper", "envelope.signature"),
        ("replay", "envelope.replay"),
        ("plaintext", "envelope.plaintext"),
        ("wrong-params", "envelope.params"),
        ("wrong-key", "envelope.epoch"),
        ("crash", "update.failed"),
    ],
)
def test_drills_of_members_end_as_under_shared(run: Any, kind: str, code: str) -> None:
    done = run(f"{kind}@2:Hungary")
    assert done.result["rounds"][1]["excluded"] == [{"member": HUNGARY, "code": code}]
    assert done.result["rounds"][1]["status"] == "promoted"
    assert sha(done) == sha(run("drop@2:Hungary", scheme='crypto.scheme="shared"'))


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "code"), [("split-base", "envelope.context"), ("reopen", "open.overlap")])
def test_a_dishonest_coordinator_is_refused_before_any_partial_is_given(run: Any, kind: str, code: str) -> None:
    done = run(f"{kind}@3:Hungary")
    assert isinstance(done.error, Ended)
    assert done.error.code == code
    assert {e["code"] for e in entries(done, "opening_refused")} == {code}
    assert not [e for e in entries(done, "opened") if e["number"] == 3]


@pytest.mark.slow
def test_a_garbled_partial_is_found_named_and_replaced(run: Any) -> None:
    done = run("garble@2:Hungary")
    assert sha(done) == sha(run()) == sha(run(scheme='crypto.scheme="shared"'))
    assert [(e["member"], e["number"], e["code"]) for e in entries(done, "opening_refused")] == [
        (HUNGARY, 2, "open.partial")
    ]
    warned = [e["details"] for e in entries(done, "warned") if e["code"] == "open.partial"]
    assert warned
    assert all(HUNGARY in details["openers"] for details in warned)


@pytest.mark.slow
@pytest.mark.parametrize("combiner", ["members", "coordinator"])
@pytest.mark.parametrize("culprit", [1, 2, 3])
def test_one_of_three_openers_that_garbles_is_named_also_where_two_others_can_take_its_place(
    tmp_path: Path, culprit: int, combiner: str
) -> None:
    """Five members, three openers: the second opening clears one or two of the first; a further one tells the rest."""
    few = ("simulate.members=5", "training.rounds=2", "training.local_epochs=1", "task.channels=2")
    who = f'crypto.combiner="{combiner}"'
    done = simulate(
        CONFIGS / "digits.toml",
        out=tmp_path / "out",
        overrides=(THRESHOLD, who, *few),
        drills=[f"garble@2:{culprit}"],
    )
    assert [r["status"] for r in done.result["rounds"]] == ["promoted", "promoted"]
    garbled = sorted(done.result["rounds"][1]["members"])[culprit - 1]
    assert [(e["member"], e["number"], e["code"]) for e in entries(done, "opening_refused")] == [
        (garbled, 2, "open.partial")
    ]


@pytest.mark.slow
def test_two_of_five_that_garble_are_both_named_and_the_other_three_open(tmp_path: Path) -> None:
    few = ("simulate.members=5", "training.rounds=2", "training.local_epochs=1", "task.channels=2")
    drills = ["garble@2:1", "garble@2:4"]
    done = simulate(CONFIGS / "digits.toml", out=tmp_path / "out", overrides=(THRESHOLD, *few), drills=drills)
    assert [r["status"] for r in done.result["rounds"]] == ["promoted", "promoted"]
    members = sorted(done.result["rounds"][1]["members"])
    named = [(e["member"], e["number"], e["code"]) for e in entries(done, "opening_refused")]
    assert named == [(members[0], 2, "open.partial"), (members[3], 2, "open.partial")]


@pytest.mark.slow
def test_a_spoilt_envelope_fails_the_round_and_not_the_run(run: Any) -> None:
    done = run("overflow@2:1")
    assert [(r["status"], r["code"]) for r in done.result["rounds"]] == [
        ("promoted", ""),
        ("failed", "open.partial"),
        ("promoted", ""),
        ("promoted", ""),
    ]
    assert not entries(done, "opening_refused"), "nobody is blamed for another's envelope"


@pytest.mark.slow
def test_scale_and_flip_are_the_gates(run: Any) -> None:
    for kind in ("scale", "flip"):
        ours, theirs = run(f"{kind}@2:1"), run(f"{kind}@2:1", scheme='crypto.scheme="shared"')
        assert ours.result["rounds"] == theirs.result["rounds"]
        assert sha(ours) == sha(theirs)


@pytest.mark.slow
def test_live_and_simulated_give_the_same_model(tmp_path: Path) -> None:
    with Live(tmp_path / "up", THRESHOLD) as live:
        shown = live.run()
        assert (shown["status"], shown["code"]) == ("done", ""), shown
        assert shown["result"]["model"]["sha256"] == undisturbed(live)
        assert shown["result"]["scheme"] == "threshold"
        live.check_log()
