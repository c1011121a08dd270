"""Signed notes, checkpoints and cosignatures: published examples, round trips, and every refusal."""

from __future__ import annotations

import base64
import hashlib
import struct
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st
from moonflower.crypto.note import (
    MAX_NOTE_BYTES,
    MAX_SIGNATURES,
    Checkpoint,
    Cosignature,
    Signer,
    Verifier,
    Witness,
    WitnessSigner,
    check_cosignature,
    cosignatures,
    open_checkpoint,
    open_note,
    sign_checkpoint,
    with_cosignatures,
)
from moonflower.errors import InputError, Refused

# From the documentation of golang.org/x/mod/sumdb/note, the format's reference implementation.
PETER_KEY = "PeterNeumann+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW"
PETER_SECRET = "PRIVATE+KEY+PeterNeumann+c74f20a3+AYEKFALVFGyNhPJEMzD1QIDr+Y7hfZx09iUvxdXHKDFz"
TEXT = "If you think cryptography is the answer to your problem,\nthen you don't know what your problem is.\n"
PETER = "— PeterNeumann x08go/ZJkuBS9UG/SffcvIAQxVBtiFupLLr8pAcElZInNIuGUgYN1FFYC2pZSNXgKvqfqdngotpRZb6KE6RyyBwJnAM=\n"
ENOCH_KEY = "EnochRoot+af0cfe78+ATtqJ7zOtqQtYqOo0CpvDXNlMhV3HeJDpjrASKGLWdop"
ENOCH = "— EnochRoot rwz+eBzmZa0SO3NbfRGzPCpDckykFXSdeX+MNtCOXm2/5n2tiOHp+vAF1aGrQ5ovTG01oOTGwnWLox33WWd1RvMc+QQ=\n"
REMORA_KEY = "remora.n621.de+da77ade7+BOvN63jn/bLvkieywe8R6UYAtVtNbZpXh34x7onlmtw2"  # a witness, see below
# The example of c2sp.org/signed-note.
EXAMPLE_KEY = "example.com/foo+530d903a+AekyeRrm56hApGFkyQR4ZCbV54Id2LKaANYcrnKv3U2k"
EXAMPLE = (
    "This is an example message.\n\n"
    "— example.com/foo "
    "Uw2QOkn8srV1yJGh2VYRlL1Tnagv1YEq6TfXppzi2ONncAlTgK7Ztg1ERYNZXsYjOBH3mFXmRKuwHjG1Yu72IneyaQM=\n"
)

SIGNER = Signer("moonflower/heart", bytes(range(32)))
ROOT = bytes(range(100, 132))


def test_published_key_and_note() -> None:
    signer = Signer.parse(PETER_SECRET)
    assert signer.text() == PETER_SECRET
    assert signer.verifier.text() == PETER_KEY
    assert signer.sign(TEXT) == f"{TEXT}\n{PETER}"


@pytest.mark.parametrize(
    ("key", "note", "text"),
    [
        (PETER_KEY, f"{TEXT}\n{PETER}", TEXT),
        (PETER_KEY, f"{TEXT}\n{ENOCH}{PETER}", TEXT),
        (ENOCH_KEY, f"{TEXT}\n{PETER}{ENOCH}", TEXT),
        (EXAMPLE_KEY, EXAMPLE, "This is an example message.\n"),
    ],
)
def test_published_notes_verify(key: str, note: str, text: str) -> None:
    verifier = Verifier.parse(key)
    assert verifier.text() == key
    assert open_note(note, verifier) == text


def test_generated_keys_round_trip_and_keep_their_secret() -> None:
    signer = Signer.generate("moonflower/heart")
    assert Signer.parse(signer.text()) == signer
    assert Verifier.parse(signer.verifier.text()) == signer.verifier
    assert signer != Signer.generate("moonflower/heart")
    assert repr(signer) == "Signer(name='moonflower/heart')"
    assert open_note(signer.sign("hello\n"), signer.verifier) == "hello\n"


@pytest.mark.parametrize("name", ["", "two words", "a+b", "a\tb", "a\u2003b", "a\nb"])
def test_names_that_a_note_cannot_hold(name: str) -> None:
    signer = Signer(name, bytes(32))
    for use, text in (
        (Signer.generate, name),
        (Verifier.parse, signer.verifier.text()),
        (Signer.parse, signer.text()),
    ):
        with pytest.raises(InputError) as refusal:
            use(text)
        assert refusal.value.code == "config.key"


@pytest.mark.parametrize(
    ("parse", "text"),
    [(Verifier.parse, PETER_KEY), (Signer.parse, PETER_SECRET), (Witness.parse, REMORA_KEY)],
)
def test_no_other_spelling_of_a_key_is_a_key(parse: Callable[[str], object], text: str) -> None:
    others = [text[:at] + chr(ord(text[at]) + 1) + text[at + 1 :] for at in range(len(text))]
    others += [text[start:] for start in range(1, len(text))] + [text[:end] for end in range(len(text))]
    others += [f"{text}\n", f" {text}", text.upper()]
    for other in others:
        with pytest.raises(InputError) as refusal:
            parse(other)
        assert refusal.value.code == "config.key"


@pytest.mark.parametrize(
    "text",
    [
        # Longer key and unknown type, both with the hash that would belong to them.
        "PeterNeumann+cc469956+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TWBADKEY==",
        "PeterNeumann+173116ae+ZRpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW",
    ],
)
def test_keys_of_another_kind(text: str) -> None:
    with pytest.raises(InputError, match="expected name\\+hash\\+base64 of an Ed25519 key"):
        Verifier.parse(text)


@given(st.integers(0, 2**63 - 1), st.binary(min_size=32, max_size=32))
def test_checkpoints_round_trip(size: int, root: bytes) -> None:
    signed = sign_checkpoint(SIGNER, size, root)
    assert open_checkpoint(signed.note, SIGNER.verifier) == signed
    assert signed.note.startswith(f"moonflower/heart\n{size}\n{base64.b64encode(root).decode()}\n\n— moonflower/heart ")


def test_a_checkpoint_is_not_signed_over_nonsense() -> None:
    for size, root in ((-1, ROOT), (1, ROOT[:31])):
        with pytest.raises(ValueError, match="expected a size and a root"):
            sign_checkpoint(SIGNER, size, root)
    for text in ("no newline", "a\tb\n", "\ud800\n"):
        with pytest.raises(ValueError, match="ends in a newline"):
            SIGNER.sign(text)


@given(st.data())
def test_a_changed_character_does_not_verify(data: st.DataObject) -> None:
    note = sign_checkpoint(SIGNER, 123, ROOT).note
    at = data.draw(st.integers(0, len(note) - 1))
    other = data.draw(st.characters(codec="utf-8").filter(lambda c: c != note[at]))
    _refused(note[:at] + other + note[at + 1 :])


@given(st.text(max_size=300))
def test_junk_raises_only_its_own_error(text: str) -> None:
    _refused(text)
    _refused(f"{text}\n\n— moonflower/heart {text}\n")


ENCODED = base64.b64encode(ROOT).decode()


@pytest.mark.parametrize(
    "text",
    [
        f"moonflower/heart\n05\n{ENCODED}\n",
        f"moonflower/heart\n+5\n{ENCODED}\n",
        f"moonflower/heart\n-0\n{ENCODED}\n",
        f"moonflower/heart\n5 \n{ENCODED}\n",
        f"moonflower/heart\n\u0665\n{ENCODED}\n",
        f"moonflower/heart\n{10**19}\n{ENCODED}\n",
        f"moonflower/heart\n\n{ENCODED}\n",
        f"moonflower/heart\n5\n{base64.b64encode(ROOT[:31]).decode()}\n",
        f"moonflower/heart\n5\n{base64.b64encode(ROOT + b'x').decode()}\n",
        f"moonflower/heart\n5\n{ENCODED[:-1]}\n",
        f"moonflower/heart\n5\n{ENCODED[:-2]}B=\n",  # the same bytes, other spare bits
        f"moonflower/heart\n5\n{ROOT.hex()}\n",
        f"moonflower/heart\n5\n{ENCODED}\nextension\n",
        "moonflower/heart\n5\n",
        f"moonflower/liver\n5\n{ENCODED}\n",
        f"\n5\n{ENCODED}\n",
    ],
)
def test_well_signed_texts_that_are_no_checkpoints(text: str) -> None:
    _refused(SIGNER.sign(text))


def test_signatures_by_unknown_keys_are_ignored_but_never_enough() -> None:
    note = sign_checkpoint(SIGNER, 5, ROOT).note
    text, line = note.split("\n\n")
    same_name = Signer("moonflower/heart", bytes(32)).sign(text + "\n").split("\n\n")[1]
    witness = Signer("witness", bytes(32)).sign(text + "\n").split("\n\n")[1]
    later_kind = "— witness/pq " + base64.b64encode(bytes(3000)).decode() + "\n"
    assert open_checkpoint(f"{text}\n\n{witness}{line}{same_name}{later_kind}", SIGNER.verifier).size == 5
    _refused(f"{text}\n\n{witness}{same_name}", "expected one signature by moonflower/heart")
    _refused(f"{text}\n\n{line}{line}", "got 2")


def test_another_key_under_our_name_and_id_does_not_pass() -> None:
    text, line = sign_checkpoint(SIGNER, 5, ROOT).note.split("\n\n")
    forged = base64.b64decode(line.split(" ")[2])[:4] + Signer("x", bytes(32))._key.sign(f"{text}\n".encode())
    _refused(f"{text}\n\n— moonflower/heart {base64.b64encode(forged).decode()}\n", "is not over this text")


def test_notes_are_bounded() -> None:
    note = sign_checkpoint(SIGNER, 5, ROOT).note
    witness = "— w " + base64.b64encode(bytes(68)).decode() + "\n"
    assert open_checkpoint(note + witness * (MAX_SIGNATURES - 1), SIGNER.verifier).size == 5
    _refused(note + witness * MAX_SIGNATURES, "1 to 64 signature lines")
    long = "— w " + base64.b64encode(bytes(MAX_NOTE_BYTES * 3 // 4)).decode() + "\n"
    _refused(note + long, f"at most {MAX_NOTE_BYTES} bytes")
    _refused("—" * (MAX_NOTE_BYTES // 2) + "\n\n" + note, f"at most {MAX_NOTE_BYTES} bytes")


@pytest.mark.parametrize("change", ["\t", "\r", "\x00", "\x7f\x1b", "\ud800"])
def test_control_characters_are_refused(change: str) -> None:
    _refused(sign_checkpoint(SIGNER, 5, ROOT).note + f"— w{change} {base64.b64encode(bytes(68)).decode()}\n")


@pytest.mark.parametrize(
    "tail",
    [
        "",
        "— moonflower/heart\n",
        "- w AAAAAAAA\n",
        "—  AAAAAAAA\n",
        "— w AAAAAA==\n",
        "— w A\n",
        "— a+b AAAAAAAA\n",
    ],
)
def test_malformed_signature_lines_are_refused(tail: str) -> None:
    text, line = sign_checkpoint(SIGNER, 5, ROOT).note.split("\n\n")
    _refused(f"{text}\n\n{tail}" if not tail else f"{text}\n\n{line}{tail}")
    _refused(f"{text}\n\n{line}"[:-1])
    _refused(f"{text}\n\n{line}— w AAAAAAAA")


def _refused(note: str, match: str | None = None) -> None:
    with pytest.raises(Refused, match=match) as refusal:
        open_checkpoint(note, SIGNER.verifier)
    assert refusal.value.code == "audit.signature"


# --- cosignatures

# A checkpoint of a staging log for certificates with the cosignatures of four public witnesses, as kept in the tests
# of github.com/florolf/tlog-scales; the witnesses' keys are those that transparency.dev/witnesses publishes, that of
# remora.n621.de stands in the tests of github.com/transparency-dev/formats too.
ARCHE_KEY = "arche2025h1.staging.ct.transparency.dev+ba2f06c0+AU0vHmlGCS/PdN8b2OaGmKprLI8HKM+dJ472xgFYh15f"
ARCHE_TIME_S = 1779573024
ARCHE_TEXT = "arche2025h1.staging.ct.transparency.dev\n1432088532\nU7WM79jrzyhGZ5/GUBTpM7NzwdyfFx61t3RovgcC4Ro=\n"
ARCHE_OWN = (
    "— arche2025h1.staging.ct.transparency.dev "
    "zTM8sQAAAZ5W0WdjBAMARjBEAiBjW5IQf9pvsYLfQFX6hoGREPMHbdQ3urbllzalApkptQIgIpwtEroeW2BXaHAI4kJXFbon5Ch9MNL5zRNZ55lv"
    "Gt0=\n"
    "— arche2025h1.staging.ct.transparency.dev "
    "ui8GwCF1+kWqZrxGdhj4aX3gcw7XUlXQQabg/27lefwhUkzbC3NygNI75MdhL1bfTW9g8Ei59RA23oHP7Ry1k3ZFWwQ=\n"
)
ARCHE_WITNESSES = {
    "transparency.dev/DEV:witness-little-garden+d8042a87+BCtusOxINQNUTN5Oj8HObRkh2yHf/MwYaGX4CPdiVEPM": (
        "— transparency.dev/DEV:witness-little-garden "
        "2AQqhwAAAABqEiEgzgFIqqhbUoDwjMWE6UP8nd8/KYTzwZ2rhIgcqoXHAwVkjZr4AscylP3v7sEodkRAErumC2q44vdgJY096st5BQ==\n"
    ),
    "witness1.smartit.nu/witness1+a48c820f+BPSFWg9G6KPiO7QPryYO5Xq4oYJJ+kAvLKLSimDhoxMO": (
        "— witness1.smartit.nu/witness1 "
        "pIyCDwAAAABqEiEghIp82KWebrw7/oHQwlTAm3g2RKS4+eebl8eO0WH+/iEcxZ75W3u5hNI7TOQtmJbqmNWVuE0tgh0XwzdZsDsUAQ==\n"
    ),
    REMORA_KEY: (
        "— remora.n621.de "
        "2net5wAAAABqEiEgPlfF3V06o0Y+fHM+J5J9s27wgxxcOVSpZ/2g/KSiXCg9DEZI+aVCIobWX9sXTynk5XeU/zZ0WBxtqB0DrAWfBw==\n"
    ),
    "witness.stagemole.eu+67f7aea0+BEqSG3yu9YrmcM3BHvQYTxwFj3uSWakQepafafpUqklv": (
        "— witness.stagemole.eu "
        "Z/euoAAAAABqEiEgw0i+7g2ENfDAWHmtRzCfKTHSDwYDJA2NmKeGi9Y8FtEyOUvVr+AJmIY/2TUFucgKi7lI7cUiOvKFYe/TmN9DAg==\n"
    ),
}
ARCHE = f"{ARCHE_TEXT}\n{ARCHE_OWN}{''.join(ARCHE_WITNESSES.values())}"
# The example of c2sp.org/tlog-cosignature; no keys are published for it.
SOFA = (
    "example.com/behind-the-sofa\n20852163\nCsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2I=\n\n"
    "— example.com/behind-the-sofa "
    "Az3grlgtzPICa5OS8npVmf1Myq/5IZniMp+ZJurmRDeOoRDe4URYN7u5/Zhcyv2q1gGzGku9nTo+zyWE+xeMcTOAYQ8=\n"
)
SOFA_WITNESS = (
    "— witness.example.com/w1 "
    "jWbPPwAAAABkGFDLEZMHwSRaJNiIDoe9DYn/zXcrtPHeolMI5OWXEhZCB9dlrDJsX3b2oyin1nPZqhf5nNo0xUe+mbIUBkBIfZ+qnA==\n"
)

CHECKPOINT = sign_checkpoint(SIGNER, 123, ROOT)
MEMBER = WitnessSigner("moonflower/heart/north", Ed25519PrivateKey.from_private_bytes(bytes(range(1, 33))))
OTHER = WitnessSigner("moonflower/heart/south", Ed25519PrivateKey.from_private_bytes(bytes(range(2, 34))))
TIME_S = 1_767_323_045
LINE = MEMBER.cosign(CHECKPOINT, TIME_S)


@pytest.mark.parametrize(("key", "line"), ARCHE_WITNESSES.items())
def test_published_cosignatures(key: str, line: str) -> None:
    witness = Witness.parse(key)
    assert witness.text() == key
    checkpoint = open_checkpoint(ARCHE, Verifier.parse(ARCHE_KEY))
    assert checkpoint.text == ARCHE_TEXT
    assert check_cosignature(checkpoint, line, witness) == ARCHE_TIME_S
    for changed in (replace(checkpoint, size=42), replace(checkpoint, root=ROOT), replace(checkpoint, origin="x")):
        _not_cosigned(changed, line, witness, "is not over this checkpoint")
    assert [found for found in cosignatures(ARCHE) if (found.name, found.key_id) == (witness.name, witness.key_id)] == [
        Cosignature(witness.name, witness.key_id, line)
    ]


def test_published_notes_with_cosignatures_are_put_together() -> None:
    assert with_cosignatures(f"{ARCHE_TEXT}\n{ARCHE_OWN}", ARCHE_WITNESSES.values()) == ARCHE
    assert [found.line for found in cosignatures(ARCHE)] == list(ARCHE_WITNESSES.values())
    assert cosignatures(f"{ARCHE_TEXT}\n{ARCHE_OWN}") == ()
    assert cosignatures(with_cosignatures(SOFA, [SOFA_WITNESS])) == (
        Cosignature("witness.example.com/w1", bytes.fromhex("8d66cf3f"), SOFA_WITNESS),
    )


def test_the_text_that_a_witness_signs() -> None:
    raw = base64.b64decode(LINE.split(" ")[2])
    text = f"cosignature/v1\ntime 1767323045\nmoonflower/heart\n123\n{ENCODED}\n"
    assert _line("moonflower/heart/north", raw) == LINE
    identity = b"moonflower/heart/north\n\x04" + MEMBER.key.public_key().public_bytes_raw()
    assert raw[:4] == hashlib.sha256(identity).digest()[:4]
    assert raw[4:12] == struct.pack(">Q", TIME_S)
    assert raw[12:] == MEMBER.key.sign(text.encode())


@given(st.integers(0, 2**63 - 1), st.binary(min_size=32, max_size=32), st.integers(0, 2**63 - 1))
def test_cosignatures_round_trip(size: int, root: bytes, time_s: int) -> None:
    checkpoint = sign_checkpoint(SIGNER, size, root)
    line = MEMBER.cosign(checkpoint, time_s)
    assert check_cosignature(checkpoint, line, MEMBER.witness) == time_s
    note = with_cosignatures(checkpoint.note, [line, OTHER.cosign(checkpoint, time_s)])
    opened = open_checkpoint(note, SIGNER.verifier)
    assert (opened.size, opened.root, opened.text, opened.note) == (size, root, checkpoint.text, note)
    assert check_cosignature(opened, cosignatures(note)[0].line, MEMBER.witness) == time_s


@pytest.mark.parametrize("time_s", [-1, 2**63])
def test_a_time_that_no_cosignature_holds(time_s: int) -> None:
    with pytest.raises(ValueError, match="expected a time from 0"):
        MEMBER.cosign(CHECKPOINT, time_s)
    signed = MEMBER.key.sign(f"cosignature/v1\ntime {time_s}\n{CHECKPOINT.text}".encode())
    raw = MEMBER.witness.key_id + (time_s % 2**64).to_bytes(8, "big") + signed
    _not_cosigned(CHECKPOINT, _line(MEMBER.name, raw), MEMBER.witness, "expected a time of at most")


def test_witness_keys_round_trip_and_keep_their_secret() -> None:
    key = MEMBER.witness.text()
    assert Witness.parse(key) == MEMBER.witness
    assert repr(MEMBER) == "WitnessSigner(name='moonflower/heart/north')"
    with pytest.raises(InputError, match="not a log key"):
        Verifier.parse(key)
    with pytest.raises(InputError, match="not a witness key"):
        Witness.parse(SIGNER.verifier.text())


@pytest.mark.parametrize("name", ["", "two words", "a+b", "a\tb", "a\u2003b", "a\nb"])
def test_names_that_a_witness_cannot_have(name: str) -> None:
    for use in (lambda: WitnessSigner(name, MEMBER.key), lambda: Witness.parse(Witness(name, bytes(32)).text())):
        with pytest.raises(InputError) as refusal:
            use()
        assert refusal.value.code == "config.key"


def test_every_changed_character_of_a_cosignature_is_refused() -> None:
    for at, was in enumerate(LINE):
        for other in {"A", "B", "+", "=", " ", "\n", "\t", "é", chr(ord(was) ^ 1), was.swapcase()} - {was}:
            _not_cosigned(CHECKPOINT, LINE[:at] + other + LINE[at + 1 :])
        _not_cosigned(CHECKPOINT, LINE[:at] + LINE[at + 1 :])
        _not_cosigned(CHECKPOINT, LINE[:at] + was + LINE[at:])


@given(st.text(max_size=200))
def test_junk_is_no_cosignature(text: str) -> None:
    for junk in (text, f"{text}\n", f"— {MEMBER.name} {text}\n"):
        _not_cosigned(CHECKPOINT, junk)


@pytest.mark.parametrize("change", ["{}{}", "{}\n", " {}", "{} ", "\n{}", "\r{}", "{}\r", "{}— w AAAAAAAA\n"])
def test_a_cosignature_is_one_line(change: str) -> None:
    _not_cosigned(CHECKPOINT, change.format(LINE, LINE))
    _not_cosigned(CHECKPOINT, LINE[:-1])
    with pytest.raises(Refused):
        with_cosignatures(CHECKPOINT.note, [change.format(LINE, LINE)])
    with pytest.raises(Refused):
        with_cosignatures(CHECKPOINT.note, [LINE[:-1]])


def test_another_witness_checkpoint_or_time_is_refused() -> None:
    _not_cosigned(CHECKPOINT, LINE, OTHER.witness, "expected a cosignature by moonflower/heart/south")
    for witness in (Witness(MEMBER.name, OTHER.witness.key), Witness(OTHER.name, MEMBER.witness.key)):
        _not_cosigned(CHECKPOINT, LINE, witness, "expected a cosignature by")
    for changed in (
        sign_checkpoint(SIGNER, 124, ROOT),
        sign_checkpoint(SIGNER, 123, bytes(32)),
        sign_checkpoint(Signer("moonflower/liver", SIGNER.seed), 123, ROOT),
    ):
        _not_cosigned(changed, LINE, MEMBER.witness, "is not over this checkpoint")
    raw = bytearray(base64.b64decode(LINE.split(" ")[2]))
    later = bytes(raw[:4]) + (TIME_S + 1).to_bytes(8, "big") + bytes(raw[12:])
    _not_cosigned(CHECKPOINT, _line(MEMBER.name, later), MEMBER.witness, "is not over this checkpoint")


def test_other_signatures_of_the_same_key_are_no_cosignatures() -> None:
    key_id = MEMBER.witness.key_id
    stamp = TIME_S.to_bytes(8, "big")
    as_log = MEMBER.key.sign(CHECKPOINT.text.encode())
    untimed = MEMBER.key.sign(f"cosignature/v1\n{CHECKPOINT.text}".encode())
    for raw in (key_id + stamp + as_log, key_id + stamp + untimed):
        _not_cosigned(CHECKPOINT, _line(MEMBER.name, raw), match="is not over this checkpoint")
    good = base64.b64decode(LINE.split(" ")[2])
    for raw in (key_id + as_log, key_id + stamp, good[:5], good + b"x", good[:-1]):
        _not_cosigned(CHECKPOINT, _line(MEMBER.name, raw), match="64 bytes of signature")
    _not_cosigned(CHECKPOINT, _line(MEMBER.name, key_id), match="expected a signature line")
    _not_cosigned(CHECKPOINT, _line(MEMBER.name, good * 1500), match=f"at most {MAX_NOTE_BYTES} bytes")


def test_a_note_takes_one_line_of_each_key() -> None:
    own = CHECKPOINT.note.split("\n\n")[1]
    note = with_cosignatures(CHECKPOINT.note, [LINE])
    assert note == CHECKPOINT.note + LINE
    assert with_cosignatures(note, []) == note
    for lines in ([own], [LINE], [OTHER.cosign(CHECKPOINT, 1), OTHER.cosign(CHECKPOINT, 2)]):
        with pytest.raises(Refused, match="expected one signature by") as refusal:
            with_cosignatures(note, lines)
        assert refusal.value.code == "audit.signature"
    same_name = WitnessSigner(MEMBER.name, OTHER.key)
    assert len(cosignatures(with_cosignatures(note, [same_name.cosign(CHECKPOINT, 1)]))) == 2


def test_a_note_takes_no_more_than_can_be_opened() -> None:
    lines = [WitnessSigner(f"w{number}", MEMBER.key).cosign(CHECKPOINT, 1) for number in range(MAX_SIGNATURES)]
    full = with_cosignatures(CHECKPOINT.note, lines[:-1])
    assert open_checkpoint(full, SIGNER.verifier).size == 123
    assert len(cosignatures(full)) == MAX_SIGNATURES - 1
    with pytest.raises(Refused, match="1 to 64 signature lines"):
        with_cosignatures(CHECKPOINT.note, lines)
    with pytest.raises(Refused, match=f"at most {MAX_NOTE_BYTES} bytes"):
        with_cosignatures(CHECKPOINT.note, [_line("long", bytes(MAX_NOTE_BYTES * 3 // 4 - 100))])


@pytest.mark.parametrize("note", ["", "text\n", "text\n\n", "text\n\n— w AAAA\n", f"text\n\n{LINE[:-1]}"])
def test_what_is_no_note_takes_and_holds_no_cosignatures(note: str) -> None:
    for use in (cosignatures, lambda note: with_cosignatures(note, [LINE])):
        with pytest.raises(Refused) as refusal:
            use(note)
        assert refusal.value.code == "audit.signature"


@given(st.text(max_size=100))
def test_added_junk_never_replaces_the_text(junk: str) -> None:
    for line in (junk, f"{junk}\n", f"\n{junk}\n", f"— w {junk}\n"):
        with suppress(Refused):
            note = with_cosignatures(CHECKPOINT.note, [line])
            assert note == CHECKPOINT.note + line
            assert open_note(note, SIGNER.verifier) == CHECKPOINT.text


def _line(name: str, raw: bytes) -> str:
    return f"— {name} {base64.b64encode(raw).decode()}\n"


def _not_cosigned(
    checkpoint: Checkpoint, line: str, witness: Witness = MEMBER.witness, match: str | None = None
) -> None:
    with pytest.raises(Refused, match=match) as refusal:
        check_cosignature(checkpoint, line, witness)
    assert refusal.value.code == "audit.signature"
