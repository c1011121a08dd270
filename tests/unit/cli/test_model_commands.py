"""``moonflower model`` and ``keys approver`` in people's hands: release, reject, roll back, export, verify."""

from __future__ import annotations

import hashlib
import io
import json
import re
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from moonflower.__main__ import main
from moonflower.client.approver import load_approver_key
from moonflower.client.learning import export
from moonflower.configs.roles import ApproverSettings
from moonflower.crypto.identity import PublicKey
from moonflower.protocol.approval import private_jwk
from moonflower.protocol.model_version import marked, parse
from moonflower.server.records import members as roster
from moonflower.server.records.verify import verify
from moonflower.server.releases.registry import Registry
from support import CONFIGS
from support.approvers import person, with_approvers
from support.federation import NAMES, Federation, identities

DATA = CONFIGS / "data" / "heart.csv.gz"
CLEVELAND, HUNGARY = NAMES[0], NAMES[1]


@dataclass(frozen=True)
class Ended:
    status: object
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


Cli = Callable[..., Ended]


@pytest.fixture
def cli(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Cli:
    """Run ``moonflower …`` in this process, in a folder of its own; ``says`` is what is typed."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments: object, says: str = "") -> Ended:
        monkeypatch.setattr(sys, "argv", ["moonflower", *map(str, arguments)])
        monkeypatch.setattr(sys, "stdin", io.StringIO(says))
        with pytest.raises(SystemExit) as ended:
            main()
        return Ended(ended.value.code, *capsys.readouterr())

    return run


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The state of a coordinator after a run whose members have approvers; versions 0 to 3."""
    folder = tmp_path_factory.mktemp("trained") / "state"
    whole = Federation(folder)
    whole.queue()
    assert whole.carry_out() == "done"
    with whole.state.store.transaction() as db:
        for name in NAMES:
            held = with_approvers(identities()[name], board=f"{name}'s board", ethics=f"{name}'s ethics")
            roster.keep_card(db, held.as_dict())
    whole.close()
    return folder


@pytest.fixture
def state(trained: Path, tmp_path: Path) -> Path:
    shutil.copytree(trained, tmp_path / "state")
    for name in (*NAMES, "eve"):
        key = tmp_path / f"{name}.jwk"
        key.touch(0o600)
        key.write_text(json.dumps(private_jwk(person(f"{name}'s board"))))
    return tmp_path / "state"


@pytest.fixture
def release(cli: Cli, state: Path) -> Callable[[int], None]:
    def make(version: int) -> None:
        for name in NAMES[:2]:
            assert cli("model", "approve", version, "--key", f"{name}.jwk", "--yes").status == 0

    return make


def pins() -> list[str]:
    return [word for name in NAMES for word in ("--pin", f"{name}={identities()[name].card.node.pin}")]


# Keys


def test_an_approvers_key_is_made_and_its_public_half_fits_the_config(cli: Cli, tmp_path: Path) -> None:
    import tomllib

    done = cli("keys", "approver", "board.jwk")
    assert done.status == 0
    key = load_approver_key(tmp_path / "board.jwk")
    public = tomllib.loads(done.out)["key"]
    assert ApproverSettings(name="board", key=public)
    assert PublicKey.from_jwk(json.loads(public)) == PublicKey(key.public_key())
    assert json.loads((tmp_path / "board.jwk").read_text())["d"] not in done.out + done.err
    assert PublicKey(key.public_key()).pin in done.err
    again = cli("keys", "approver", "board.jwk")
    assert (again.status, again.out, "File exists" in again.err) == (2, "", True)


# Release


def test_two_people_release_a_version(cli: Cli, state: Path) -> None:
    first = cli("model", "approve", 3, "--key", f"{CLEVELAND}.jwk", says="y\n")
    assert (first.status, first.out) == (0, "version 3: signed; 1 of 2 approvals, 1 missing\n")
    second = cli("model", "approve", 3, "--key", f"{HUNGARY}.jwk", "--yes", "--json")
    assert second.json["event"] == "released"
    assert second.out.count("\n") == 1
    listing = cli("model", "list", "--json").json
    assert [one["status"] for one in listing["versions"]] == ["start", "promoted", "promoted", "released"]
    assert listing["released"]["version"] == 3
    assert "released" in cli("model", "list").out
    assert "released" in cli("model", "show", 3).out
    assert verify(state / "moonflower.db", (state / "log.pub").read_text(), None).ok


def test_an_approver_sees_what_is_signed_before_signing(cli: Cli, state: Path) -> None:
    shown = cli("model", "approve", 3, "--key", f"{CLEVELAND}.jwk", says="y\n").err
    sha256 = cli("model", "show", 3, "--json").json["sha256"]
    for words in (sha256, "version   3 of heart", ", ".join(NAMES), "gate      promoted", "auc 0.", "0 of 2 so far"):
        assert words in shown
    assert f'"action":"approve","after":-1,"approver":"board","federation":"heart","member":"{CLEVELAND}"' in shown
    assert shown.endswith("Sign this? [y/N] ")


@pytest.mark.parametrize("answer", ["n\n", "\n", "", "yesterday\n"])
def test_without_a_yes_nothing_is_signed(cli: Cli, state: Path, answer: str) -> None:
    done = cli("model", "approve", 3, "--key", f"{CLEVELAND}.jwk", "--json", says=answer)
    assert (done.status, done.out) == (130, "")
    assert cli("model", "show", 3, "--json").json["release"]["approvals"] == []


def test_rejecting_and_rolling_back(cli: Cli, state: Path, release: Callable[[int], None]) -> None:
    reason = ("--reason", "AUC fell in two hospitals", "--yes")
    done = cli("model", "reject", 2, "--key", f"{CLEVELAND}.jwk", *reason)
    assert (done.status, done.out) == (0, "version 2: rejected\n")
    release(1)
    release(3)
    assert cli("model", "rollback", 1, "--key", f"{CLEVELAND}.jwk", *reason).out.startswith("version 1: signed; 1 of 2")
    assert "replaced, 1 of 2" in cli("model", "list").out
    back = cli("model", "rollback", 1, "--key", f"{HUNGARY}.jwk", *reason)
    assert back.out == "version 1: released again, with 2 approvals\n"
    shown = cli("model", "show", 1, "--json").json["release"]
    assert (shown["status"], shown["by"]["event"], len(shown["by"]["approvals"])) == ("released", "rolled_back", 2)
    card = cli("model", "card", 2).out
    assert "**Rejected. It must not be used.**" in card
    assert "AUC fell in two hospitals" in card


@pytest.mark.parametrize(
    ("arguments", "status", "says"),
    [
        (["approve", 3, "--key", "eve.jwk"], 2, "is not on any member's card"),
        (["approve", 3, "--key", "Hungary.jwk", "--member", "Cleveland"], 2, "is not on the card of 'Cleveland'"),
        (["approve", 3, "--key", "none.jwk"], 2, "key none.jwk cannot be read"),
        (["approve", 9, "--key", "Hungary.jwk"], 2, "there is no model version '9'"),
        (["approve", 0, "--key", "Hungary.jwk"], 1, "only promoted versions can be released"),
        (["approve", 3], 2, "Missing option '--key'"),
        (["reject", 3, "--key", "Hungary.jwk"], 2, "expected a reason to reject"),
        (["reject", 3, "--key", "Hungary.jwk", "--reason", ""], 2, "expected a reason to reject"),
        (["reject", 3, "--key", "Hungary.jwk", "--reason", "anna@example.org"], 2, "looks like personal data"),
        (
            ["rollback", 3, "--key", "Hungary.jwk", "--reason", "x"],
            1,
            "cannot be rolled back to; expected an older version",
        ),
        (["approve", 3, "--key", "Hungary.jwk", "--as", "o.toml", "--state", "state"], 2, "exclude each other"),
        (["approve", 3, "--key", "Hungary.jwk", "--state", "none"], 2, "none holds no moonflower.db"),
    ],
)
def test_what_cannot_be_signed(cli: Cli, state: Path, arguments: list[Any], status: int, says: str) -> None:
    done = cli("model", *arguments, *(["--yes"] if len(arguments) > 2 else []))
    assert (done.status, done.out) == (status, "")
    assert says in done.err
    assert cli("model", "list", "--json").json["released"] is None


def test_a_key_on_several_cards_needs_a_member(cli: Cli, state: Path) -> None:
    from moonflower.server.records.state import State

    opened = State(state, "heart")
    with opened.store.transaction() as db:
        roster.keep_card(db, with_approvers(identities()[HUNGARY], board=f"{CLEVELAND}'s board").as_dict())
    opened.close()
    done = cli("model", "approve", 3, "--key", f"{CLEVELAND}.jwk", "--yes")
    assert (done.status, "expected --member" in done.err) == (2, True)
    assert cli("model", "approve", 3, "--key", f"{CLEVELAND}.jwk", "--yes", "--member", HUNGARY).status == 0
    done = cli("model", "approve", 3, "--key", f"{CLEVELAND}.jwk", "--yes", "--member", CLEVELAND)
    assert (done.status, "approver of another member" in done.err) == (1, True)


# The card


def test_a_card_says_where_a_model_comes_from(cli: Cli, state: Path, release: Callable[[int], None]) -> None:
    release(2)
    card = cli("model", "card", 2, "--json").json
    assert (card["version"], card["federation"], card["members"]) == (2, "heart", list(NAMES))
    assert card["round"]["promoted_before"] == 1
    assert card["gate"]["verdict"] == "promoted"
    assert sum(card["gate"]["votes"].values()) == len(NAMES)
    assert (card["crypto"]["parameters"]["degree"] >= 1024, card["crypto"]["parameters"]["members"]) == (True, 4)
    assert "128 bits" in card["crypto"]["security"]
    assert card["crypto"]["differential_privacy"] is None
    exposed = "\n".join(card["crypto"]["does_not_protect"])
    assert "All members but one, together, know the update of that one." in exposed
    (helped,) = [one["how"] for one in card["crypto"]["protects"] if "that does not follow it" in one["against"]]
    assert "over everybody in the circle" in helped
    assert "experimental until somebody outside the project has reviewed it" in helped
    assert card["package"]
    assert len(card["schema"]) == 64
    assert [one["member"] for one in card["release"]["by"]["approvals"]] == [CLEVELAND, HUNGARY]
    text = cli("model", "card", 2).out
    for words in (
        "# Model card: heart, version 2",
        "**Released.**",
        *NAMES,
        card["sha256"],
        "## Known limits",
        "board",
        f"N = {card['crypto']['parameters']['degree']}, log2 q = ",
        "values of 16 bits, 4 members",
        "Every sum was over all members of the circle",
    ):
        assert words in text
    assert cli("model", "card", 3, "--json").json["metrics"]["auc"] > 0.5
    assert cli("model", "card", 2, "--json").json["metrics"] is None


def test_a_card_tells_no_row_counts_and_no_members_own_numbers(cli: Cli, state: Path) -> None:
    """920 rows of four hospitals: neither they nor their sum, no word and no warning by name."""
    card = cli("model", "card", 3, "--json").json
    text = json.dumps({**card, "proof": None, "cards": None})
    words = set(re.findall(r'"(\w+)":', text))
    assert words.isdisjoint({"rows", "clipped_share", "member_metrics", "weights_of", "norm"})

    def numbers(value: Any) -> set[float]:
        if isinstance(value, dict | list):
            return set().union(*map(numbers, value.values() if isinstance(value, dict) else value), set())
        return {value} if isinstance(value, int | float) and not isinstance(value, bool) else set()

    assert not numbers(json.loads(text)) & {303, 294, 123, 200, 920}


def test_names_in_a_card_are_no_markup() -> None:
    from moonflower.server.releases.card_text import _code, _plain

    assert _plain("<b>|x|\n[a](b)") == "\\<b\\>\\|x\\| \\[a\\](b)"
    assert _code("a`b\n|") == "`a?b??`"


# Export


def test_an_unreleased_version_is_exported_on_request_only_and_marked(cli: Cli, state: Path, tmp_path: Path) -> None:
    done = cli("model", "export", 3, "--out", "m.safetensors")
    assert (done.status, done.out) == (1, "")
    assert "version 3 is not released (promoted)" in done.err
    assert "hint: --unreleased" in done.err
    assert not (tmp_path / "m.safetensors").exists()
    assert cli("model", "export", 3, "--out", "m.safetensors", "--unreleased").status == 0
    sha256 = cli("model", "show", 3, "--json").json["sha256"]
    copy = parse((tmp_path / "m.safetensors").read_bytes())
    kept = parse(whole(cli, state, 3).read_bytes())
    assert (copy.unreleased, kept.unreleased) == (True, False)
    assert (copy.vector == kept.vector).all()
    assert copy.sha256 != kept.sha256
    card = json.loads((tmp_path / "m.safetensors.card.json").read_text())
    assert (card["sha256"], card["file"]["sha256"], card["file"]["unreleased"]) == (sha256, copy.sha256, True)
    assert "marked as unreleased" in (tmp_path / "m.safetensors.card.md").read_text()
    refused = cli("model", "verify", "m.safetensors", *pins())
    assert (refused.status, "marked as not released" in refused.err) == (1, True)


def test_a_released_version_is_exported_as_it_was_signed(
    cli: Cli, state: Path, tmp_path: Path, release: Callable[[int], None]
) -> None:
    release(3)
    assert cli("model", "export", 3, "--out", "m.safetensors").out == "m.safetensors\n"
    assert sorted(path.name for path in tmp_path.glob("*m.safetensors*")) == [
        "m.safetensors", "m.safetensors.card.json", "m.safetensors.card.md",
    ]  # fmt: skip
    assert parse((tmp_path / "m.safetensors").read_bytes()).sha256 == cli("model", "show", 3, "--json").json["sha256"]
    assert (scored := cli("predict", "--model", "m.safetensors", DATA)).status == 0
    assert "not released" not in scored.err
    replaced = cli("model", "export", 2, "--out", "n.safetensors")
    assert (replaced.status, "not released (promoted)" in replaced.err) == (1, True)


def test_a_version_is_exported_for_torch_alone(
    cli: Cli, state: Path, tmp_path: Path, release: Callable[[int], None]
) -> None:
    assert cli("model", "export", 3, "--out", "m.pt", "--format", "torch").status == 1, "not released"
    assert cli("model", "export", 3, "--out", "m.pt", "--format", "torch", "--unreleased").status == 0
    tensors = torch.load(tmp_path / "m.pt", weights_only=True)
    kept = parse(whole(cli, state, 3).read_bytes()).tensors()
    assert {name: value.tolist() for name, value in tensors.items()} == {n: v.tolist() for n, v in kept.items()}
    card = json.loads((tmp_path / "m.pt.card.json").read_text())
    digest = hashlib.sha256((tmp_path / "m.pt").read_bytes()).hexdigest()
    assert card["file"] == {"name": "m.pt", "sha256": digest, "unreleased": True, "format": "torch"}
    assert card["sha256"] == sha(cli, 3)
    told = (tmp_path / "m.pt.card.md").read_text()
    assert "made from the version in the format torch; **unreleased**" in told
    release(3)
    assert cli("model", "export", 3, "--out", "n.pt", "--format", "torch").status == 0
    assert "**unreleased**" not in (tmp_path / "n.pt.card.md").read_text()
    assert cli("model", "verify", "n.pt", *pins()).status == 2, "only the version itself can be verified"


def test_onnx_is_an_extra(cli: Cli, state: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Files of it are tried in tests/peers/test_onnx.py."""
    monkeypatch.setattr(export, "find_spec", lambda name: None)
    done = cli("model", "export", 3, "--out", "m.onnx", "--format", "onnx", "--unreleased")
    assert (done.status, "--format onnx needs onnx and onnxscript" in done.err) == (2, True)
    assert 'pip install "moonflower[onnx]"' in done.err
    assert list(tmp_path.glob("m.onnx*")) == []


def test_predicting_with_an_unreleased_model_says_so(cli: Cli, state: Path) -> None:
    cli("model", "export", 3, "--out", "m.safetensors", "--unreleased")
    scored = cli("predict", "--model", "m.safetensors", DATA)
    assert scored.status == 0
    assert "m.safetensors is not released" in scored.err
    assert scored.out.startswith("score,class\n"), "and what is printed is the same"
    assert cli("predict", "--model", whole(cli, state, 3), DATA).out == scored.out


def sha(cli: Cli, version: int) -> str:
    return str(cli("model", "show", version, "--json").json["sha256"])


def whole(cli: Cli, state: Path, version: int) -> Path:
    return state / "models" / f"{sha(cli, version)}.safetensors"


@pytest.mark.parametrize("taken", ["m", "m.card.md", "m.card.json"])
def test_an_export_is_all_or_nothing(cli: Cli, state: Path, tmp_path: Path, taken: str) -> None:
    (tmp_path / taken).write_text("precious")
    done = cli("model", "export", 3, "--out", "m", "--unreleased")
    assert done.status == 2
    assert f"--out {taken} cannot be written: File exists" in done.err
    assert [path.name for path in tmp_path.iterdir() if "m" in path.name.split(".")] == [taken]
    assert (tmp_path / taken).read_text() == "precious"


def test_an_export_onto_a_full_disk_leaves_nothing(
    cli: Cli, state: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import os

    written: list[int] = []

    def sync(handle: int) -> None:
        written.append(handle)
        if len(written) == 3:
            raise OSError(28, "No space left on device")

    before = sorted(tmp_path.iterdir())
    monkeypatch.setattr(os, "fsync", sync)
    done = cli("model", "export", 3, "--out", "m", "--unreleased")
    assert (done.status, "No space left on device" in done.err) == (2, True)
    assert sorted(tmp_path.iterdir()) == before


def test_a_file_and_a_card_that_do_not_belong_together_are_not_written(
    cli: Cli, state: Path, tmp_path: Path, release: Callable[[int], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """From a server that released another version between two answers, or that gives another version's file."""
    release(2)
    before = sorted(tmp_path.iterdir())
    second, third = (parse(whole(cli, state, number).read_bytes()) for number in (2, 3))
    for asked, file, says in (
        (3, third, "the released version changed just now"),
        (2, marked(second), "the released version changed just now"),
        (2, third, f"expected version {second.sha256}, got {third.sha256}"),
    ):
        monkeypatch.setattr(Registry, "file", lambda self, name, *, unreleased, file=file: file)
        done = cli("model", "export", asked, "--out", "m", "--unreleased")
        assert (done.status, done.out, says in done.err) == (1, "", True)
    assert sorted(tmp_path.iterdir()) == before


def test_an_approver_who_names_a_digest_signs_no_other(cli: Cli, state: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked, honest = sha(cli, 3), Registry.shown
    monkeypatch.setattr(Registry, "shown", lambda self, _: honest(self, "2"))
    done = cli("model", "approve", asked, "--key", f"{CLEVELAND}.jwk", "--yes")
    assert (done.status, f"asked for version '{asked}'" in done.err) == (1, True)


# Verify


def test_whoever_knows_the_pins_can_verify_a_released_file(
    cli: Cli, state: Path, tmp_path: Path, release: Callable[[int], None]
) -> None:
    release(3)
    cli("model", "export", 3, "--out", "m")
    done = cli("model", "verify", "m", *pins())
    assert done.status == 0
    assert f"approved by {CLEVELAND} (board), {HUNGARY} (board)" in done.out
    found = cli("model", "verify", "m", *pins(), "--json").json
    assert (found["ok"], found["federation"], found["openers"]) == (True, "heart", list(NAMES))
    more = cli("model", "verify", "m", *pins(), "--approvals", 3)
    assert (more.status, "approvers of 2 pinned members signed for it; expected 3" in more.err) == (1, True)
    assert cli("model", "verify", "m").status == 2
    assert cli("model", "verify", "m", "--pin", "x=y").status == 2
    wrong = f"{HUNGARY}={identities()[CLEVELAND].card.node.pin}"
    assert cli("model", "verify", "m", *pins(), "--pin", wrong).status == 1
    data = bytearray((tmp_path / "m").read_bytes())
    data[-1] ^= 1
    (tmp_path / "m").write_bytes(data)
    changed = cli("model", "verify", "m", *pins())
    assert (changed.status, "the card is about" in changed.err) == (1, True)
    (tmp_path / "m.card.json").write_text("{")
    assert cli("model", "verify", "m", *pins()).status == 2
    (tmp_path / "m.card.json").unlink()
    assert cli("model", "verify", "m", *pins()).status == 2


def test_a_coordinator_that_forges_a_release_is_seen(
    cli: Cli, state: Path, tmp_path: Path, release: Callable[[int], None]
) -> None:
    """It moves real approvals of version 1 to the card of version 3, and writes approvals of its own."""
    release(1)
    cli("model", "export", 1, "--out", "one")
    cli("model", "export", 3, "--out", "marked", "--unreleased")
    shutil.copy(whole(cli, state, 3), tmp_path / "three")
    honest = json.loads((tmp_path / "one.card.json").read_text())
    forged = json.loads((tmp_path / "marked.card.json").read_text())
    forged["release"] = honest["release"]
    (tmp_path / "three.card.json").write_text(json.dumps(forged))
    done = cli("model", "verify", "three", *pins())
    assert (done.status, "approvers of 0 pinned members" in done.err) == (1, True)
    for one in forged["release"]["by"]["approvals"]:
        one["decision"] = one["decision"].replace(honest["sha256"], forged["sha256"])
    (tmp_path / "three.card.json").write_text(json.dumps(forged))
    assert "approvers of 0 pinned members" in cli("model", "verify", "three", *pins()).err
