"""Kept envelopes: off unless it is asked for, gone in time, and adding them up again finds whatever was changed."""

from __future__ import annotations

import json
import os
import shutil
import stat
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from moonflower.cli.audit import audit
from moonflower.configs.roles import ServerSettings
from moonflower.configs.settings import parse
from moonflower.crypto.pairs import public_mask
from moonflower.errors import InputError, MoonflowerError, Refused
from moonflower.protocol.context import RoundContext
from moonflower.protocol.envelope import RawEnvelope, seal, split
from moonflower.protocol.records import ENVELOPE
from moonflower.server.evidence.certificate import ClosedSet, proved_set
from moonflower.server.evidence.gather import gather
from moonflower.server.evidence.recompute import recompute
from moonflower.server.records.envelopes import Envelopes
from moonflower.server.records.log_key import open_signer
from moonflower.server.records.source import opened
from moonflower.server.records.state import State
from moonflower.server.watch.narrator import sentence
from support.federation import NAMES, Federation, identities
from support.protocol import context, sealed
from typer.testing import CliRunner

HOURS = 24


@pytest.fixture
def federation(tmp_path: Path) -> Iterator[Callable[..., Federation]]:
    made: list[Federation] = []

    def make(hours: int = HOURS, *overrides: str) -> Federation:
        made.append(Federation(tmp_path / str(len(made)), "training.rounds=2", *overrides))
        made[-1].state.envelopes.hours = hours
        made[-1].queue()
        return made[-1]

    yield make
    for one in made:
        one.close()


def kept(one: Federation) -> dict[str, list[str]]:
    folder = one.folder / "envelopes"
    return {inner.name: sorted(file.name for file in inner.iterdir()) for inner in sorted(folder.glob("*"))}


def closed_set(one: Federation, number: int) -> ClosedSet:
    with opened(one.folder) as history:
        evidence = gather(history.records, number, "update", last="set_closed")
    return proved_set(evidence, open_signer(one.folder, "moonflower/heart").verifier)


def place(one: Federation, number: int, member: str) -> Path:
    return one.state.envelopes.path(number, closed_set(one, number).headers[member])


def again(one: Federation, number: int) -> str:
    return recompute(closed_set(one, number), lambda header: one.state.envelopes.read(number, header))


def refused(code: str, said: str, one: Federation, number: int = 1) -> None:
    with pytest.raises(Refused) as refusal:
        again(one, number)
    assert (refusal.value.code, said in str(refusal.value)) == (code, True), str(refusal.value)


# Keeping


def test_nothing_is_kept_unless_it_is_asked_for(federation: Callable[..., Federation]) -> None:
    one = federation(0)
    assert State(one.folder / "other", "heart").envelopes.hours == 0
    assert one.carry_out() == "done"
    assert not (one.folder / "envelopes").exists()
    assert not one.events("warned")
    refused("audit.envelope", "the envelope of 'Cleveland': the envelope", one)


def test_envelopes_of_updates_are_kept_for_their_owner_only_and_the_run_says_so(
    federation: Callable[..., Federation],
) -> None:
    one = federation()
    assert one.carry_out() == "done"
    assert kept(one) == {str(number): sorted(closed_set(one, number).headers.values()) for number in (1, 2)}
    for inner in [one.folder / "envelopes", *(one.folder / "envelopes").rglob("*")]:
        wanted = 0o700 if inner.is_dir() else 0o600
        assert stat.S_IMODE(inner.stat().st_mode) == wanted
    (warned,) = one.events("warned")
    assert warned["details"] == {"what": "retention", "hours": HOURS}
    assert sentence(warned) == "warning (retention)"
    began = one.events("run_began")[0]["index"]
    assert warned["index"] == began + 1


def test_a_coordinator_that_is_started_again_warns_again(federation: Callable[..., Federation]) -> None:
    one = federation()
    one.kill_at = lambda entry: entry["event"] == "round_began"
    assert one.carry_out() == "killed"
    one.kill_at = lambda entry: False
    assert one.carry_out() == "done"
    assert [entry["details"]["what"] for entry in one.events("warned")] == ["retention"] * 2


def test_what_a_set_names_is_kept_before_the_set_is_closed(federation: Callable[..., Federation]) -> None:
    one, seen = federation(), []

    def look(entry: dict[str, Any]) -> bool:
        if entry["event"] == "set_closed" and entry["details"]["purpose"] == "update":
            seen.append(kept(one)[str(entry["number"])] == sorted(entry["details"]["headers"].values()))
        return False

    one.kill_at = look
    assert one.carry_out() == "done"
    assert seen == [True, True]


def test_a_refused_envelope_is_not_kept(federation: Callable[..., Federation]) -> None:
    one = federation(HOURS, "gate.max_failed=2")

    def damage(member: str, handle: Callable[[], Any]) -> Any:
        reply = handle()
        message = reply.content.config_records["message"]
        if member == "Hungary" and message["kind"] == "sealed" and b'"purpose":"update"' in message[ENVELOPE]:
            message[ENVELOPE] = message[ENVELOPE][:-1] + bytes([message[ENVELOPE][-1] ^ 1])
        return reply

    one.handled = damage
    assert one.carry_out() == "policy run.max_failed"
    refusals = [(e["member"], e["code"]) for e in one.events("envelope_refused")]
    assert refusals == [("Hungary", "envelope.signature")] * 2
    accepted = {number: [e["details"]["header"] for e in envelopes_of(one, number)] for number in (1, 2)}
    assert kept(one) == {str(number): sorted(headers) for number, headers in accepted.items()}
    assert {number: len(headers) for number, headers in accepted.items()} == {1: 3, 2: 3}


def envelopes_of(one: Federation, number: int) -> list[dict[str, Any]]:
    return [entry for entry in one.events("envelope_accepted") if entry["number"] == number]


# Forgetting


def test_envelopes_are_deleted_when_their_time_is_over(tmp_path: Path) -> None:
    now = [1_000_000.0]
    store = Envelopes(tmp_path / "envelopes", 2, lambda: now[0])
    files = []
    for number, name in ((1, "anna"), (1, "bert"), (2, "cleo")):
        raw = sealed(name, context(number=number))
        store.keep(number, split(raw)[0], raw)
        files.append(store.path(number, split(raw)[0].digest))
        assert store.read(number, files[-1].name).data == raw.data
    for at, file in enumerate(files):
        os.utime(file, (now[0] + 60 * at,) * 2)
    left_over = files[0].with_name(f"{files[0].name}.tmp-1-00000000")  # of a process that was killed
    left_over.write_bytes(b"half")
    os.utime(left_over, (now[0],) * 2)
    for folder in (files[0].parent, files[2].parent):
        os.utime(folder, (now[0],) * 2)
    now[0] += 2 * 3600 - 1
    assert (store.expire(()), all(file.exists() for file in files)) == (0, True)
    now[0] += 1
    assert (store.expire(()), [file.exists() for file in files]) == (2, [False, True, True])
    assert not left_over.exists()
    now[0] += 60
    assert (store.expire(()), [file.exists() for file in files]) == (1, [False, False, True])
    os.utime(files[0].parent, (now[0] - 7200,) * 2)
    assert (store.expire(()), files[0].parent.exists()) == (0, False)
    assert Envelopes(store.folder, 0, lambda: 0.0).expire(()) == 1, "who keeps none any more keeps none of before"
    assert not store.folder.exists()
    assert Envelopes(tmp_path / "absent", 0, lambda: 0.0).expire(()) == 0


def test_what_a_sum_still_needs_stays_and_so_does_what_another_process_may_need(tmp_path: Path) -> None:
    store = Envelopes(tmp_path / "envelopes", 0, lambda: 1_000_000.0)
    raw = sealed("anna", context(number=1))
    header = split(raw)[0].digest
    store.keep(1, split(raw)[0], raw)
    os.utime(store.path(1, header), (999_000.0,) * 2)
    assert store.expire({header}) == 0
    assert store.expire((), young_s=3600) == 0, "its row may come in a moment"
    assert store.read(1, header).data == raw.data
    assert store.expire((), young_s=900) == 1


def test_every_round_deletes_what_is_over(federation: Callable[..., Federation]) -> None:
    one = federation()
    old = one.folder / "envelopes" / "7" / ("0" * 64)
    old.parent.mkdir(parents=True)
    old.write_bytes(b"old")
    os.utime(old, (0, 0))
    one.kill_at = lambda entry: entry["event"] == "round_began"
    assert one.carry_out() == "killed"
    assert not old.exists()


@pytest.mark.parametrize("hours", [-1, 721, 1.5, "24", True])
def test_only_so_many_whole_hours_can_be_asked_for(hours: Any) -> None:
    honest: dict[str, Any] = {"tls_cert": "x", "tls_key": "x", "federation": "heart"}
    assert parse(ServerSettings, honest, where="").keep_envelopes_h == 0
    assert parse(ServerSettings, {**honest, "keep_envelopes_h": 720}, where="").keep_envelopes_h == 720
    with pytest.raises(InputError, match="keep_envelopes_h"):
        parse(ServerSettings, {**honest, "keep_envelopes_h": hours}, where="server.toml")


# Adding up again


def test_kept_envelopes_add_up_to_the_logged_sum(federation: Callable[..., Federation]) -> None:
    one = federation()
    assert one.carry_out() == "done"
    logged = [e["details"]["sum"] for e in one.events("set_closed") if e["details"]["purpose"] == "update"]
    assert [again(one, 1), again(one, 2)] == logged


def test_whatever_was_changed_is_found_and_named(federation: Callable[..., Federation]) -> None:
    one = federation()
    assert one.carry_out() == "done"
    file = place(one, 1, "Hungary")
    honest = file.read_bytes()
    header = 8 + int.from_bytes(honest[4:8], "little")
    for at, said in (
        (0, "not an envelope: "),
        (header - 2, "its header's digest is"),
        (header, "not signed by the node key of 'Hungary'"),
        (header + 96, "the body does not have the digest in the signed header"),
        (len(honest) - 1, "the body does not have the digest in the signed header"),
    ):
        file.write_bytes(honest[:at] + bytes([honest[at] ^ 1]) + honest[at + 1 :])
        refused("audit.envelope", "the envelope of 'Hungary'", one)
        refused("audit.envelope", said, one)
    file.write_bytes(honest[:-1])
    refused("audit.envelope", " bytes, the signed header says ", one)
    file.write_bytes(place(one, 1, "Cleveland").read_bytes())
    refused("audit.envelope", "the envelope of 'Hungary': its header's digest is", one)
    file.write_bytes(place(one, 2, "Hungary").read_bytes())
    refused("audit.envelope", "the envelope of 'Hungary': its header's digest is", one)
    file.unlink()
    refused("audit.envelope", f"the envelope of 'Hungary': the envelope {file.name} is not kept here", one)
    assert again(one, 2)
    file.write_bytes(honest)
    assert again(one, 1)


def test_the_first_envelope_that_is_wrong_is_named(federation: Callable[..., Federation]) -> None:
    one = federation()
    assert one.carry_out() == "done"
    for member in ("VA Long Beach", "Switzerland", "Cleveland"):
        place(one, 1, member).write_bytes(b"MFE2")
        refused("audit.envelope", f"the envelope of {member!r}: not an envelope: 4 bytes, expected MFE2, ", one)


def test_a_sum_that_is_not_that_of_the_envelopes_is_found(federation: Callable[..., Federation]) -> None:
    one = federation()
    assert one.carry_out() == "done"
    closed = closed_set(one, 1)
    for wrong in (
        ClosedSet(closed.offer, closed.context, closed.roster, closed.headers, "0" * 64),
        ClosedSet(closed.offer, closed.context, closed.roster, {n: closed.headers[n] for n in NAMES[:3]}, closed.sum),
    ):
        with pytest.raises(Refused) as refusal:
            recompute(wrong, lambda header: one.state.envelopes.read(1, header))
        assert refusal.value.code == "audit.sum"


def test_an_envelope_of_another_context_is_not_added(federation: Callable[..., Federation]) -> None:
    """Whoever writes the log anew may list an envelope of another round: its header does not say so."""
    one = federation()
    assert one.carry_out() == "done"
    first, second = closed_set(one, 1), closed_set(one, 2)
    mixed = {**first.headers, "Hungary": second.headers["Hungary"]}
    files = {first.headers[name]: 1 for name in NAMES} | {second.headers["Hungary"]: 2}
    wrong = ClosedSet(first.offer, first.context, first.roster, mixed, first.sum)
    with pytest.raises(Refused, match="the envelope of 'Hungary': sealed for update 2, expected update 1"):
        recompute(wrong, lambda header: one.state.envelopes.read(files[header], header))
    strange = ClosedSet(first.offer, {**first.context, "new": 1}, first.roster, first.headers, first.sum)
    with pytest.raises(Refused, match="another version of moonflower"):
        recompute(strange, lambda header: RawEnvelope(b""))


def test_what_a_coordinator_must_refuse_is_not_added_either(federation: Callable[..., Federation]) -> None:
    """A header that its member signed, with a body of another size, a residue out of range, or a key of low order."""
    one = federation()
    assert one.carry_out() == "done"
    closed = closed_set(one, 1)
    body = bytes(split(one.state.envelopes.read(1, closed.headers["Cleveland"]))[1])
    mask, size = public_mask(b"m" * 32), len(body)
    for changed, public, member, said in (
        (body, bytes(32), "Cleveland", "the public mask key of .* is not a key, or is of low order"),
        (b"\xff" * size, mask, "Cleveland", "a residue is not below its prime"),
        (body + body, mask, "Hungary", f"{2 * size} bytes, expected {size}"),
        (body + b"x", mask, "Cleveland", f"{size + 1} bytes, expected"),
        (b"", mask, "Cleveland", "body of 0 bytes, expected"),
    ):
        raw = seal(identities()[member], RoundContext(**closed.context), changed, public)
        header = split(raw)[0].digest
        wrong = replace(closed, headers={**closed.headers, member: header})
        kept_ = {header: raw} | {h: one.state.envelopes.read(1, h) for h in closed.headers.values()}
        with pytest.raises(Refused, match=f"the envelope of {member!r}: .*{said}"):
            recompute(wrong, kept_.__getitem__)


def test_the_command_says_it_in_one_line(federation: Callable[..., Federation]) -> None:
    one = federation()
    assert one.carry_out() == "done"
    found = closed_set(one, 1).sum

    def call(*arguments: str) -> Any:
        return CliRunner().invoke(audit, ["recompute", *arguments, "--state", str(one.folder)])

    said = call("1")
    assert said.exit_code == 0
    assert said.stdout == f"the sum of 4 envelopes equals the logged sum, bit for bit: {found}\n"
    assert json.loads(call("1", "--json").stdout) == {"ok": True, "number": 1, "members": [*NAMES], "sum": found}
    place(one, 1, "Switzerland").unlink()
    wrong = call("1")
    assert isinstance(wrong.exception, MoonflowerError)
    assert (wrong.exception.code, wrong.exception.exit_status, wrong.stdout) == ("audit.envelope", 1, "")
    assert "the envelope of 'Switzerland'" in str(wrong.exception)
    for arguments, code in ((("9",), "config.round"), (("1", "--run", "x"), "config.round")):
        error = call(*arguments).exception
        assert isinstance(error, MoonflowerError)
        assert (error.code, error.exit_status) == (code, 2)
    shutil.rmtree(place(one, 1, "Hungary").parent)
    never = call("1").exception
    assert isinstance(never, MoonflowerError)
    assert (never.code, "keep_envelopes_h" in never.hint) == ("audit.envelope", True)


def test_a_log_that_was_edited_is_not_compared_with(federation: Callable[..., Federation]) -> None:
    one = federation()
    assert one.carry_out() == "done"
    with one.state.store.transaction() as db:
        db.exec_driver_sql(
            "UPDATE log SET entry = replace(entry, '\"sum\":\"', '\"sum\":\"0') WHERE entry LIKE '%sum%'"
        )
    error = CliRunner().invoke(audit, ["recompute", "1", "--state", str(one.folder)]).exception
    assert isinstance(error, MoonflowerError)
    assert error.code.startswith("audit.")
