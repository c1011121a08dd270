"""A member loses its keys: the procedure of docs/running.md, "A lost node key", is carried out to the letter.

Configs, key files, cards, roster and commands are those of a real federation, and the commands are read from that very
section. Only the wire is missing: coordinator and nodes are in this process. A thief has the old keys and the ledger.
"""

from __future__ import annotations

import re
import shlex
import shutil
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from conftest import CONFIGS
from flwr.app import Message
from moonflower.__main__ import main
from moonflower.client import guard
from moonflower.client.app import Member, client_app
from moonflower.client.keyring import load_keys
from moonflower.client.live import member_of
from moonflower.configs.roles import ClientConfig, load_config
from moonflower.configs.settings import load_run
from moonflower.crypto import sealed
from moonflower.crypto.answers import AnswerKey
from moonflower.errors import InputError, MoonflowerError, Refused
from moonflower.federation.grid import LocalGrid
from moonflower.protocol.circle import Circle
from moonflower.protocol.messages import ROUTES, Enrol, Open, TakeSeat
from moonflower.protocol.purposes import FIRST
from moonflower.protocol.records import from_records
from moonflower.server.coordinator import Coordinator
from moonflower.server.exchange import ConnectedNode, Exchange
from moonflower.server.records import history
from moonflower.server.records import members as roster
from moonflower.server.records.state import State
from moonflower.server.records.verify import verify

pytestmark = pytest.mark.slow

ISSUER = "https://idp.example.org"
SITES = {
    "cleveland": "Cleveland",
    "hungary": "Hungary",
    "switzerland": "Switzerland",
    "long-beach": "VA Long Beach",
}
LOST, NEW = "cleveland", "cleveland-2"
REST = sorted({*SITES} - {LOST})
MANUAL = Path(CONFIGS.parent, "docs", "running.md")
CLIENT = """
[client]
member = "{name}"
server = "https://fl.example.org:8443"
state = "state"
tasks = ["moonflower.client.tasks.tabular:task"]
min_members = 3

[oauth]
issuer = "{issuer}"
client_id = "{name}"
key = "{name}.oauth.jwk"

[data]
path = "patients.csv"
label = "y"
schema = "{schema}"
"""
SERVER = f"""
[server]
federation = "heart"
state = "state"
tls_cert = "server.pem"
tls_key = "server.key"

[oauth]
issuer = "{ISSUER}"
audience = "https://fl.example.org/"
"""


def commands() -> list[tuple[str, list[str]]]:
    """Return the section's command lines, in order, each with where it is typed."""
    section = MANUAL.read_text().split("\n## A lost node key\n")[1].split("\n## ")[0]
    found, where = [], ""
    for block in re.findall(r"```sh\n(.*?)```", section, re.DOTALL):
        for line in block.splitlines():
            if line.startswith("# "):
                where = line.removeprefix("# ")
            else:
                found.append((where, shlex.split(line)))
    return found


class Federation:
    """Everything that the organisations have: one folder each."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder, self._monkeypatch = folder, monkeypatch
        self.server = folder / "server"
        self.server.mkdir()
        (self.server / "server.toml").write_text(SERVER)
        frame = pd.read_csv(CONFIGS / "data" / "heart.csv.gz")
        self.settings = load_run(CONFIGS / "heart.toml", ("training.rounds=2", "training.local_epochs=1"))
        self.names: dict[str, str] = {}  # where an organisation's folder is → its present name
        for name, site in SITES.items():
            home = folder / name
            home.mkdir()
            rows = frame[frame.site == site].drop(columns=["site", "fold"])
            rows.to_csv(home / "patients.csv", index=False)
            self.write_config(home, name)
            self.type(home, "moonflower member card client.toml --out card.json")
            self.type(self.server, f"moonflower member add {home / 'card.json'} --config server.toml")
        for name in SITES:
            for other in SITES:
                if other != name:
                    self.pin(folder / name, other, self.pin_of(folder / other))
        self.members: dict[str, Member] = {}
        self.asked: list[tuple[str, Message]] = []

    def write_config(self, home: Path, name: str) -> None:
        schema = CONFIGS / "data" / "heart.schema.toml"
        (home / "client.toml").write_text(CLIENT.format(name=name, issuer=ISSUER, schema=schema))

    def type(self, home: Path, line: str | list[str]) -> object:
        """Type a command line in a folder; return its exit status."""
        words = shlex.split(line) if isinstance(line, str) else line
        self._monkeypatch.chdir(home)
        self._monkeypatch.setattr(sys, "argv", words)
        with pytest.raises(SystemExit) as ended:
            main()
        return ended.value.code or 0

    def pin_of(self, home: Path) -> str:
        return load_keys(home / "state").pin

    def pin(self, home: Path, name: str, pin: str) -> None:
        """Put the [[member]] table of another member into a node's config."""
        with (home / "client.toml").open("a") as file:
            file.write(f'\n[[member]]\nname = "{name}"\npin = "{pin}"\n')

    def unpin(self, home: Path, name: str) -> None:
        """Take it out."""
        config = home / "client.toml"
        text, count = re.subn(rf'\n\[\[member\]\]\nname = "{name}"\npin = ".*"\n', "", config.read_text())
        assert count == 1
        config.write_text(text)

    def start(self, home: Path) -> None:
        """Start an organisation's node."""
        member = member_of(load_config(ClientConfig, home / "client.toml"))
        self.members[member.identity.name] = member

    def stop(self, name: str) -> None:
        self.members.pop(name).ledger.close()

    def open_state(self) -> State:
        return State(self.server / "state", "heart")

    def run(self, run: str) -> str:
        """Carry a run out as the server does, with whoever is started and not shut out; return how it ended."""
        state = self.open_state()
        try:
            return self._run(run, state)
        finally:
            state.close()

    def _run(self, run: str, state: State) -> str:
        schema = next(iter(self.members.values()))._schema_digest
        with state.store.transaction() as db:
            history.queue_run(db, run, self.settings.offer(schema))
            row, pins, revoked = history.run_row(db, run), roster.pins(db), roster.revoked(db)
        assert row is not None
        ids = dict(enumerate(sorted(pins), start=1))
        app = client_app(lambda context: self.members[str(context.node_config["member"])])

        def handle(message: Message, context: Any) -> Message:
            self.asked.append((str(context.node_config["member"]), message))
            reply: Message = app(message, context)
            return reply

        grid: Any = LocalGrid(handle, ids)
        nodes = {
            name: ConnectedNode(number, "")
            for number, name in ids.items()
            if name in self.members and name not in revoked
        }
        exchange = Exchange(grid, tuple(pins), lambda: nodes, grid)
        try:
            Coordinator(exchange, state, row.offer, Circle.of("heart", pins, False), run).carry_out()
        except MoonflowerError as error:
            return error.code
        return "done"

    def requests(self, kind: Any, run: str) -> list[Any]:
        """Return what members were asked of a kind in a run."""
        found = [message for _, message in self.asked if ROUTES[message.metadata.message_type].request is kind]
        return [asked for one in found if (asked := from_records(kind, one.content)).run == run]


@pytest.fixture
def federation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Federation]:
    made = Federation(tmp_path, monkeypatch)
    yield made
    for name in [*made.members]:
        made.stop(name)


@pytest.fixture
def after_a_run(federation: Federation) -> Federation:
    """A federation that has trained, one of whose members then loses its state folder; a thief has a copy."""
    one = federation
    for name in SITES:
        one.start(one.folder / name)
    assert one.run("run-1") == "done"
    one.stop(LOST)
    home = one.folder / LOST
    shutil.copytree(home, one.folder / "thief")
    shutil.rmtree(home / "state")
    return one


def carry_out(one: Federation, left_out: Sequence[str] = ()) -> None:
    """Do what the section says: with the member, with the server, and at every other node.

    Args:
        one: the federation.
        left_out: nodes at which the new pin is forgotten.
    """
    lost = one.folder / LOST
    one.write_config(lost, NEW)
    for name in REST:
        one.pin(lost, name, one.pin_of(one.folder / name))
        one.stop(name)
    for where, words in commands():
        if where == "at the server":
            sent = [str(lost / word) if word.endswith(".card.json") else word for word in words]
            assert one.type(one.server, sent) == 0
        else:
            assert where == "at the member"
            assert one.type(lost, words) == 0
    for name in REST:
        if name not in left_out:
            one.unpin(one.folder / name, LOST)
            one.pin(one.folder / name, NEW, one.pin_of(lost))
        one.start(one.folder / name)
    one.start(lost)


def test_a_member_without_its_keys_is_nobody(after_a_run: Federation) -> None:
    """Its node does not start; and new keys under the old name, or with the old client, are not let in."""
    one, home = after_a_run, after_a_run.folder / LOST
    with pytest.raises(InputError, match=r"node\.key is missing"):
        one.start(home)
    assert one.type(home, "moonflower keys new client.toml") == 0  # makes what is missing: another pin
    assert one.type(home, "moonflower member card client.toml --out again.json") == 0
    assert one.type(one.server, f"moonflower member add {home / 'again.json'} --config server.toml") == 2
    config = home / "client.toml"
    config.write_text(config.read_text().replace(f'member = "{LOST}"', f'member = "{NEW}"'))
    assert one.type(home, "moonflower member card client.toml --out half.json") == 0
    assert one.type(one.server, f"moonflower member add {home / 'half.json'} --config server.toml") == 2


def test_the_member_comes_back_under_another_name_and_the_federation_trains_on(after_a_run: Federation) -> None:
    one = after_a_run
    carry_out(one)
    assert one.run("run-2") == "done"
    state = one.open_state()
    try:
        entries = list(state.log.entries())
        with state.store.read() as db:
            rounds = [row for run in ("run-1", "run-2") for row in history.rounds(db, run)]
            cards = roster.cards(db)
    finally:
        state.close()
    seats = [entry for entry in entries if entry["event"] == "seats_taken"]
    assert [entry["member"] for entry in entries if entry["event"] == "card_taken"] == [*SITES, NEW]
    assert (
        len({entry["details"]["circle"] for entry in seats}) == len({entry["details"]["key"] for entry in seats}) == 2
    )
    assert [entry["details"]["members"] for entry in seats] == [sorted(SITES), sorted([*REST, NEW])]
    assert [row["members"] for row in rounds] == [sorted(SITES)] * 2 + [sorted([*REST, NEW])] * 2
    assert {row["status"] for row in rounds} == {"promoted"}
    assert {*cards} == {*REST, NEW}
    assert verify(one.server / "state", (one.server / "state" / "log.pub").read_text()).ok


@pytest.mark.parametrize("nodes", [REST, REST[:1]])
def test_a_pin_that_is_forgotten_is_told(after_a_run: Federation, nodes: list[str]) -> None:
    one = after_a_run
    carry_out(one, nodes)
    assert one.run("run-2") == "circle.differs"
    state = one.open_state()
    refusals = [entry for entry in state.log.entries() if entry.get("run") == "run-2" and "code" in entry]
    state.close()
    told = [(entry["member"], entry["code"]) for entry in refusals if entry["event"] == "refused_member"]
    assert told == [(name, "circle.differs") for name in sorted(nodes)]


def test_the_old_key_opens_and_seals_nothing_any_more(after_a_run: Federation) -> None:
    """The thief has all that the member had, and all that the coordinator was ever sent."""
    one = after_a_run
    carry_out(one)
    assert one.run("run-2") == "done"
    one.start(one.folder / "thief")
    thief, later = one.members[LOST], one.requests(Open, "run-2")
    assert thief.held.contexts() == [], "nothing of what it sealed is left to open its updates with"
    assert later
    for asked in later:
        assert opens(one, NEW, "run-2", asked), "who has a seat opens it"
        assert not opens(one, LOST, "run-1", asked)
        with pytest.raises(Refused) as refusal:
            thief.open(asked)
        assert refusal.value.code == "envelope.context"
    (offer,) = {asked.run: asked.offer for asked in one.requests(Enrol, "run-2")}.values()
    agreed = {name: member.enrol(Enrol(run="run-2", offer=offer)).agreed for name, member in one.members.items()}
    assert len({agreed[name]["circle"] for name in [*REST, NEW]}) == 1
    assert agreed[LOST]["circle"] != agreed[NEW]["circle"]
    with_it = sorted((one.members[name].identity.card for name in SITES), key=lambda card: card.name)
    seat = TakeSeat(run="run-2", roster=[card.as_dict() for card in with_it], ciphertext=b"", signature=b"")
    for name in [*REST, NEW]:
        with pytest.raises(Refused, match=f"'{LOST}' does not carry the pinned key"):
            one.members[name].take_seat(seat)
    state = one.open_state()
    with state.store.read() as db:
        known = roster.by_client(db, ISSUER, LOST)
    state.close()
    assert known is not None
    assert known.revoked, "the gateway refuses its client (auth.client_revoked)"


def opens(one: Federation, name: str, run: str, asked: Open) -> bool:
    """Return whether a sum opens under the circle's key that a member holds for a run."""
    member, seat = one.members[name], one.members[NEW]._seated["run-2"]
    key = member.ledger.circle_key(member._agreement(run).key_use)
    assert key is not None
    context = guard.round_context(seat.template, asked, FIRST)
    lanes = seat.lanes(FIRST[asked.purpose], one.members[NEW]._agreement("run-2"))
    seeds = [asked.seeds[who] for who in seat.roster.names]
    try:
        opened = AnswerKey(seat.plan, key).open(asked.keys, seeds)
        list(sealed.open_total(seat.plan, context.digest, opened, asked.total, lanes))
    except Refused as refusal:
        code = refusal.code
    else:
        code = ""
    assert code in ("", "open.key")
    return not code
