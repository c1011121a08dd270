"""Circles as people make them: configs, keys, cards and commands are real, and so are the server's routes and records.

Only the wire is missing: the commands' requests go to the routes in this process, without tokens. Rows are looked at,
and runs are carried out, as a server does. ``tests/test_live_circle.py`` has the same over real processes.
"""

from __future__ import annotations

import asyncio
import json
import shlex
import shutil
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pandas as pd
import pytest
import torch
from moonflower.__main__ import main
from moonflower.client.app import Member, client_app
from moonflower.client.circles import Circles, circles_of
from moonflower.client.desk import CircleDesk
from moonflower.client.keyring import load_keys
from moonflower.client.ledger.mark import open_ledger
from moonflower.client.live import member_of
from moonflower.client.node.signing import Signing
from moonflower.configs.roles import ClientConfig, OperatorConfig, load_config
from moonflower.errors import MoonflowerError, Refused
from moonflower.federation.grid import LocalGrid
from moonflower.federation.remote import Remote
from moonflower.oauth import api_client
from moonflower.protocol import gate
from moonflower.protocol.act import pin_words
from moonflower.protocol.model_version import candidate
from moonflower.server.coordinator import Coordinator
from moonflower.server.door.api import Api
from moonflower.server.exchange import ConnectedNode, Exchange
from moonflower.server.records import circles, history
from moonflower.server.records.state import State
from moonflower.server.records.verify import verify
from safetensors.torch import save_file
from support import CONFIGS

ISSUER = "https://idp.example.org"
SITES = {"cleveland": "Cleveland", "hungary": "Hungary", "switzerland": "Switzerland", "long-beach": "VA Long Beach"}
THREE = ("cleveland", "hungary", "switzerland")
DAY_S = 86400.0
CLIENT = """
[client]
member = "{name}"
server = "https://127.0.0.1:8443"
tasks = ["moonflower.client.tasks.tabular:task"]
[circle]
min_members = 3
runs_a_day = 20
max_envelope_mb = 64
sign = "{sign}"
[oauth]
issuer = "{issuer}"
client_id = "{name}"
key = "oauth.jwk"
[data]
path = "patients.csv"
"""
SERVER = f"""
[server]
federation = "heart"
listen = "127.0.0.1:8443"
tls_cert = "server.pem"
tls_key = "server.key"
[oauth]
issuer = "{ISSUER}"
audience = "https://fl.example.org/"
"""
OPERATOR = f"""
[operator]
server = "https://127.0.0.1:8443"
[oauth]
issuer = "{ISSUER}"
client_id = "desk"
key = "oauth.jwk"
"""


class Federation:
    """The folders of a server, a desk and four hospitals; commands are typed in one of them."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
        self.folder, self.patch, self.capsys = folder, monkeypatch, capsys
        self.state = State(folder / "server" / "state", "heart")
        self.api = Api(self.state, "heart", lambda: None)
        monkeypatch.setattr(api_client.httpx, "Client", lambda **_: InProcess(self.api.app))
        (folder / "server" / "server.toml").write_text(SERVER)
        (folder / "desk").mkdir()
        (folder / "desk" / "operator.toml").write_text(OPERATOR)
        self.run_config("training.rounds = 20", "training.rounds = 20")
        self.type("desk", "keys new operator.toml")
        frame = pd.read_csv(CONFIGS / "data" / "heart.csv.gz")
        for name, site in SITES.items():
            home = folder / name
            home.mkdir()
            frame[frame.site == site].drop(columns=["site"]).to_csv(home / "patients.csv", index=False)
            self.configure(name)
            self.enrol(name)
        self.members: dict[str, Member] = {}

    def run_config(self, before: str, after: str) -> None:
        """Write the desk's run config: that of the heart preset, with few rounds, and one setting changed."""
        text = (CONFIGS / "heart.toml").read_text()
        schema = CONFIGS / "data" / "heart.schema.toml"
        text = text.replace('"data/heart.schema.toml"', f'"{schema}"').replace('"data/heart.csv.gz"', '"none.csv"')
        text = text.replace("rounds = 20", "rounds = 2")
        assert before == after or before in text
        (self.folder / "desk" / "heart.toml").write_text(text.replace(before, after))

    def configure(self, name: str, sign: str = "ask") -> None:
        text = CLIENT.format(name=name, issuer=ISSUER, sign=sign)
        (self.folder / name / "client.toml").write_text(text)

    def enrol(self, name: str) -> None:
        """Make keys and card of a member, and let it in at the door."""
        card = self.folder / name / "card.json"
        card.unlink(missing_ok=True)
        self.type(name, "member card client.toml --out card.json")
        self.type("server", f"member add {card} --config server.toml")

    def type(self, where: str, line: str, *answers: str, status: int = 0) -> str:
        """Type a command in a folder, and answers to what it asks; return all that it says."""
        self.patch.chdir(self.folder / where)
        self.patch.setattr(sys, "argv", ["moonflower", *shlex.split(line)])
        given = iter(answers)
        self.patch.setattr("click.termui.visible_prompt_func", lambda _="": next(given))
        self.capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            main()
        said = self.capsys.readouterr()
        assert (ended.value.code or 0) == status, said
        return said.out + said.err

    def board(self) -> Any:
        with self.state.store.read() as db:
            return circles.board(db, time.time())

    def propose(self, more: str = "", status: int = 0) -> str:
        return self.type("desk", f"circle propose heart.toml --as operator.toml {more}", status=status)

    def answers(self, name: str) -> list[str]:
        """Return what an operator types who has read the act, and heard the others' words."""
        made = self.board().proposed[-1].circle
        return [made.digest[:4]]

    def sign(self, *names: str) -> str:
        """Let operators sign, who have compared pins before."""
        return "".join(self.type(name, "circle sign client.toml --yes") for name in names)

    def first(self) -> None:
        """The first circle, of three."""
        cards = " ".join(f"--with ../{name}/card.json" for name in THREE)
        self.propose(cards)
        self.sign(*THREE)

    def circles(self, name: str, days: float = 0.0) -> Circles:
        """Return a node's circles, so many days from now."""
        config = load_config(ClientConfig, self.folder / name / "client.toml")
        keys = load_keys(config.client.state)
        ledger = open_ledger(config.client.state, keys.secret)
        made = circles_of(config, keys, ledger.circles)
        made._clock = lambda: time.time() + days * DAY_S
        return made

    def later(self, name: str, days: float) -> None:
        """The node's process looks at circles by itself, so many days from now."""
        desk = CircleDesk(load_config(ClientConfig, self.folder / name / "client.toml").client, None)
        mine = self.circles(name, days)
        Signing(desk, mine, None).look()  # type: ignore[arg-type]
        mine._book._store.close()

    def run(self, run: str, *names: str) -> str:
        """Carry a run out as the server does, with these members; return how it ended."""
        with closing_all(
            {name: member_of(load_config(ClientConfig, self.folder / name / "client.toml")) for name in names}
        ) as members:
            nodes = dict(enumerate(names, start=1))
            app = client_app(lambda context: members[str(context.node_config["member"])])
            grid: Any = LocalGrid(app, nodes)
            there = {name: ConnectedNode(number, "") for number, name in nodes.items()}
            signed = self.board().living
            training = signed.circle.recipe.training
            with self.state.store.transaction() as db:
                history.queue_run(db, run, signed.circle.offer(training.seed, training.rounds))
                row = history.run_row(db, run)
            assert row is not None
            try:
                Coordinator(Exchange(grid, names, lambda: there, grid), self.state, row.offer, signed, run).carry_out()
            except MoonflowerError as error:
                return error.code
        return "done"


class InProcess:
    """What asks the server's routes in this process."""

    base_url = "here"

    def __init__(self, app: Any) -> None:
        self._app = app

    def request(self, method: str, path: str, **more: Any) -> httpx.Response:
        async def ask() -> httpx.Response:
            async with httpx.AsyncClient(transport=httpx.ASGITransport(self._app), base_url="https://here") as client:
                return await client.request(method, path, **more)

        return asyncio.run(ask())

    def close(self) -> None:
        pass


class closing_all:
    def __init__(self, members: dict[str, Member]) -> None:
        self.members = members

    def __enter__(self) -> dict[str, Member]:
        return self.members

    def __exit__(self, *_: object) -> None:
        for member in self.members.values():
            member.ledger.close()


@pytest.fixture
def one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Iterator[Federation]:
    monkeypatch.setattr("moonflower.federation.remote.CIRCLE_POLL_S", 0.01)
    monkeypatch.setattr("moonflower.oauth.login.TokenSource", NoTokens)
    monkeypatch.setattr("moonflower.federation.remote.TokenSource", NoTokens)
    (tmp_path / "server").mkdir()
    made = Federation(tmp_path, monkeypatch, capsys)
    yield made
    made.state.close()


class NoTokens:
    """Nobody asks for a token in this process."""

    def __init__(self, *_: object, **__: object) -> None:
        pass

    def close(self) -> None:
        pass


def test_three_sign_a_circle_and_train_and_a_changed_line_takes_everybodys_signature(one: Federation) -> None:
    assert "expected --with CARD for every member of the first" in one.propose(status=2)
    cards = " ".join(f"--with ../{name}/card.json" for name in THREE)
    said = one.propose(cards)
    made = one.board().proposed[0].circle
    assert f"sha256:{made.digest}" in said
    assert pin_words(made.pins["hungary"]) in said
    assert "It begins when all have signed: cleveland, hungary, switzerland" in said

    others = [pin_words(made.pins[name]).split("-") for name in ("hungary", "switzerland")]
    one.patch.setattr("moonflower.cli.circle.secrets.randbelow", lambda _: 2)
    wrong = one.type("cleveland", "circle sign client.toml", "xxxxx", status=2)
    assert "nothing was signed" in wrong
    assert not one.board().proposed[0].signatures
    said = one.type("cleveland", "circle sign client.toml", others[0][2], others[1][2], made.digest[:4])
    assert "What it changes" in said
    assert "Which row is in which part is the node's own secret." in said
    printed = said.partition("The digest that is signed")[0]
    assert max(map(len, printed.splitlines())) <= 80, "a terminal of 80 columns"
    assert "it waits for hungary, switzerland" in said
    assert "no circle waits for the signature of 'cleveland'; expected a proposed circle" in one.type(
        "cleveland", "circle sign client.toml --yes", status=2
    )
    one.configure("hungary", sign=f"sha256:{made.digest}")
    one.later("hungary", 0)  # its config says so; nobody is at the keyboard
    assert "waits for switzerland" in one.type("desk", "circle show --as operator.toml")
    assert "it begins" in one.sign("switzerland")
    assert one.run("run-1", *THREE) == "done"

    one.run_config("lr = 0.1", "lr = 0.2")
    refused = one.api._queue
    with pytest.raises(Refused, match=r"training\.lr: 0\.1 in the circle, 0\.2 in the run"):
        refused(
            one.board().living.circle.recipe.model_copy(
                update={"training": made.recipe.training.model_copy(update={"lr": 0.2})}
            )
        )
    said = one.propose()
    assert "training.lr: 0.1 becomes 0.2" in said
    assert "Version 0 is drawn anew" in said
    second = one.board().proposed[0].circle
    assert (second.number, second.counted, second.names) == (2, 1, THREE)
    assert "has these members and this recipe" not in said
    told: list[str] = []

    def operators(line: str) -> None:
        told.append(line)
        one.sign(*THREE)

    remote = Remote(load_config(OperatorConfig, one.folder / "desk" / "operator.toml"))
    remote.await_circle(second.recipe, operators)
    assert told == ["circle 2 waits for the signatures of cleveland, hungary, switzerland"], (
        "a run waits, and then begins"
    )
    assert one.board().living.circle == second
    assert one.run("run-2", *THREE) == "done"
    assert "circle 2 already has these members and this recipe" in one.propose(status=2)
    events = [entry["event"] for entry in one.state.log.entries()]
    assert [events.count(f"circle_{what}") for what in ("proposed", "signed", "began")] == [2, 6, 2]
    report = verify(one.folder / "server" / "state", (one.folder / "server" / "state" / "log.pub").read_text())
    assert report.ok


def test_a_fourth_joins_one_goes_without_a_farewell_and_one_with_one(one: Federation) -> None:
    one.first()
    assert one.run("run-1", *THREE) == "done"
    said = one.propose("--with ../long-beach/card.json")
    assert "long-beach joins, with the key whose words are" in said
    assert "Rows are counted anew" in said
    one.sign(*SITES)
    assert one.board().living.circle.counted == 2
    assert one.run("run-2", *sorted(SITES)) == "done"

    said = one.propose("--without hungary")
    assert "hungary is let go" in said
    for name in ("cleveland", "switzerland"):
        question = one.type(name, "circle sign client.toml --yes", "hungary")
        assert "hungary gave no farewell" in question
        assert "this node signs by itself when the time is over" in question
    assert "nothing was signed" in one.type("long-beach", "circle sign client.toml --yes", "", status=2)
    for name in ("cleveland", "switzerland"):
        one.later(name, 13)
    assert not one.board().proposed[0].signatures, "its days are not over"
    one.later("cleveland", 15)
    assert {*one.board().proposed[0].signatures} == {"cleveland"}
    one.type("hungary", "circle farewell client.toml --yes")  # it came back, and says so
    one.later("switzerland", 0)
    said = one.type("long-beach", "circle sign client.toml --yes")
    assert "it begins" in said
    assert one.run("run-3", "cleveland", "long-beach", "switzerland") == "done"
    with closing_all({"hungary": member_of(load_config(ClientConfig, one.folder / "hungary" / "client.toml"))}) as old:
        with pytest.raises(Refused) as refusal:
            old["hungary"].circles.living()
        assert refusal.value.code == "circle.differs"


def test_a_member_that_lost_its_disk_comes_back_with_its_keys_or_with_new_ones(one: Federation) -> None:
    """With node key and node secret from a backup it is the same member with a new ledger; without them another one."""
    one.first()
    assert one.run("run-1", *THREE) == "done"
    home = one.folder / "hungary" / "state"
    shutil.copytree(home, one.folder / "thief")
    for file in home.glob("ledger*"):
        file.unlink()  # the mark, too: the whole folder was lost, and keys and secret came from the backup
    assert one.run("run-2", *THREE) == "ledger.lost", "it is shown its own signature, and does not have it"
    assert "this node's ledger was lost" not in one.propose("--new-ledger hungary")
    assert "--new-ledger is for a circle that says so" in one.type("hungary", "circle sign client.toml --yes", status=2)
    one.type("hungary", "circle sign client.toml --yes --new-ledger")
    one.sign("cleveland", "switzerland")
    assert one.run("run-3", *THREE) == "done"

    shutil.rmtree(home)  # and now without any backup
    one.type("server", 'member revoke hungary --reason "lost its keys" --config server.toml')
    one.enrol("hungary")
    said = one.propose("--with ../hungary/card.json")
    assert "hungary is let go" in said
    assert "hungary joins, with the key whose words are" in said
    one.type("hungary", "circle sign client.toml --yes")
    for name in ("cleveland", "switzerland"):
        assert "gave no farewell" in one.type(name, "circle sign client.toml --yes", "hungary")
        one.later(name, 15)
    assert one.run("run-4", *THREE) == "done"
    shutil.copytree(one.folder / "hungary", one.folder / "stolen", dirs_exist_ok=True)
    shutil.rmtree(one.folder / "stolen" / "state")
    shutil.copytree(one.folder / "thief", one.folder / "stolen" / "state")
    thief = one.circles("stolen")
    with pytest.raises(Refused, match="is in it with another key"):
        thief.enter(one.board().living)
    thief._book._store.close()


def test_what_is_wrong_is_said_before_anything_is_signed(one: Federation) -> None:
    one.first()
    board = one.board
    assert "--without bergen: not in the circle" in one.propose("--without bergen", status=2)
    (one.folder / "desk" / "junk.json").write_text("{}")
    assert "not a member's card signed with its own key" in one.propose("--with junk.json", status=2)
    assert "cannot be read" in one.propose("--with none.json", status=2)
    stranger = one.folder / "stranger"
    stranger.mkdir()
    (stranger / "client.toml").write_text(CLIENT.format(name="stranger", issuer=ISSUER, sign="ask"))
    one.type("stranger", "member card client.toml --out card.json")
    assert "'stranger' is not on this server's roster" in one.propose("--with ../stranger/card.json", status=1)
    save_file({"0.weight": torch.zeros(1, 3)}, one.folder / "desk" / "w.safetensors")
    one.run_config("[data]", '[data]\ncheckpoint = "w.safetensors"')
    assert "'0.weight' has the shape [1, 3]; the task's model has [1, 23]" in one.propose(status=2)
    one.run_config("min_members = 3", "min_members = 2\nlet_go_days = 1")
    said = one.propose()
    lines = [line for line in said.splitlines() if line.startswith("- ")]  # of the act
    assert lines[0].startswith("- LOWERS A PROTECTION: federation.min_members: 3 becomes 2")
    refused = one.type("cleveland", "circle sign client.toml --yes", status=1)
    assert "the recipe's min_members is outside this node's limit, 3" in refused
    assert not board().proposed[-1].signatures
    one.run_config("lr = 0.1", "lr = 0.3")
    one.propose()
    several = one.type("cleveland", "circle sign client.toml --yes", status=2)
    assert "circles 2, 3 wait for a signature; expected --number with one of them" in several
    frame = pd.read_csv(one.folder / "hungary" / "patients.csv")
    frame.drop(columns=["age"]).to_csv(one.folder / "hungary" / "patients.csv", index=False)
    assert "age" in one.type("hungary", "circle sign client.toml --yes --number 3", status=2)
    assert not board().proposed[-1].signatures
    twin = one.folder / "twin"
    twin.mkdir()
    text = CLIENT.format(name="cleveland", issuer=ISSUER, sign="ask")
    (twin / "client.toml").write_text(text.replace('"patients.csv"', '"../cleveland/patients.csv"'))
    shutil.copytree(one.folder / "cleveland" / "state", twin / "state")
    second = one.type("twin", "circle sign client.toml --yes --number 3", status=2)
    assert "are already in use: federation 'heart', member 'cleveland', state folder" in second
    shown = json.loads(one.type("desk", "circle show --as operator.toml --json"))["circles"]
    assert [one_["number"] for one_ in shown] == [1, 2, 3]
    page = one.folder / "desk" / "circle.html"
    one.type("desk", "circle show --as operator.toml --page circle.html")
    text = page.read_text()
    assert "LOWERS A PROTECTION" in text
    assert pin_words(board().living.circle.pins["hungary"]) in text


def test_a_circle_starts_from_what_was_promoted_or_brought_in_and_a_run_from_what_its_circle_promoted(
    one: Federation, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        gate, "vote_on", lambda *_: "better"
    )  # whose rows are whose is drawn: some rounds would be kept
    one.first()
    assert one.run("run-1", *THREE) == "done"
    models = one.state.models
    with one.state.store.read() as db:
        begun, good = models.entries(db, "run-1")[0].sha256, models.last_good(db, "run-1")
    assert good is not None
    last = good.sha256
    assert "was not promoted; expected a promoted or an imported version" in one.propose("--start 0", status=1)
    assert "there is no model version" in one.propose("--start 77", status=2)
    joins = "--with ../long-beach/card.json"
    one.run_config("hidden = []", "hidden = [4]")
    assert "does not fit this task and schema" in one.propose(f"{joins} --start {last}", status=2)
    one.run_config("lr = 0.1", "lr = 0.1")
    said = one.propose(f"{joins} --start {last[:8]}")
    assert f"Runs start from the version sha256:{last}, which all names promoted" in " ".join(said.split())
    assert "STARTS FROM A MODEL that members of an earlier circle" in one.type(
        "long-beach", "circle sign client.toml --yes"
    )
    one.sign(*THREE)
    assert one.run("run-2", *sorted(SITES)) == "done"
    with one.state.store.read() as db:
        first, good = models.entries(db, "run-2")[0].sha256, models.last_good(db, "run-2")
    assert good is not None
    newest = good.sha256
    assert np.array_equal(models.read(first).vector, models.read(last).vector)

    recipe = one.board().living.circle.recipe
    remote = Remote(load_config(OperatorConfig, one.folder / "desk" / "operator.toml"))
    with pytest.raises(Refused, match="was not promoted in circle 2") as refusal:
        remote.submit(recipe, begun)
    assert refusal.value.code == "base.unknown"
    run = remote.submit(recipe, newest[:10])
    with one.state.store.read() as db:
        row = history.run_row(db, run)
    assert row is not None
    assert row.offer["start"] == newest
    with one.state.store.transaction() as db:
        history.end_run(db, run, "stopped", "run.stopped")

    one.type("server", f"model export {begun} --unreleased --out ../used.safetensors --state state")
    used = one.type("server", "model import ../used.safetensors --state state").split()[-1]
    one.propose(f"--start {used}")
    assert "a sum was opened over version" in one.type("cleveland", "circle sign client.toml --yes", status=1)
    other = models.read(newest)
    (one.folder / "brought.safetensors").write_bytes(candidate(other, other.vector * np.float32(1.5)).data)
    (one.folder / "own.safetensors").write_bytes(other.data)
    assert "of this federation" in one.type("server", "model import ../own.safetensors --state state", status=2)
    (one.folder / "junk.safetensors").write_bytes(b"junk")
    said = one.type("server", "model import ../junk.safetensors --state state", status=2)
    assert "../junk.safetensors: not a moonflower model version" in said
    said = one.type("server", "model import ../brought.safetensors --state state")
    brought = said.split()[-1]
    assert "imported already" in one.type("server", "model import ../brought.safetensors --state state")
    assert brought[:12] in one.type("server", "model list --state state")
    one.propose(f"--start {brought}")
    said = one.type("cleveland", "circle sign client.toml --yes --number 4").partition("What it changes")[2]
    assert said.split("\n- ")[1].startswith("IMPORTS A MODEL: runs start from the file")
    events = [entry["event"] for entry in one.state.log.entries()]
    assert events.count("imported") == 2
