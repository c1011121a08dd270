"""The documents against the code: links, codes, events, fields, constants, drills, commands, help, names of tests."""

from __future__ import annotations

import ast
import dataclasses
import re
import shlex
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner
from moonflower.configs.floor import missing
from moonflower.configs.roles import CircleSettings
from moonflower.crypto.planner import Plan
from moonflower.federation.drills import kinds as drill
from moonflower.protocol import purposes
from moonflower.protocol.approval import Decision
from moonflower.protocol.context import RoundContext
from moonflower.protocol.envelope import Header
from moonflower.protocol.messages import SHARED
from moonflower.protocol.statement import Statement
from moonflower.server.records.log import EVENTS
from support import ROOT
from support.pages import (
    CODE,
    PAGES,
    PROTOCOL,
    ROOMS,
    anchors,
    command,
    documented_codes,
    page_id,
    rows,
    section,
    ticked,
)

HISTORY = ("CHANGELOG.md", "docs/adr/")  # names files where they lay at that time
ASGI = frozenset({"http.request", "http.disconnect"})  # kinds of messages, not codes of ours


# Links and names


@pytest.mark.parametrize("page", PAGES, ids=page_id)
def test_every_relative_link_leads_somewhere(page: Path) -> None:
    text = re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.M | re.S)
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if re.match(r"[a-z]+:", target):
            continue
        file, _, anchor = target.partition("#")
        found = (page.parent / file).resolve() if file else page
        assert found.is_file(), f"{target} does not exist"
        assert found.is_relative_to(ROOT)
        if anchor:
            assert anchor in anchors(found), f"{target}: no such heading"


def of_history(page: Path) -> bool:
    return page_id(page).startswith(HISTORY)


@pytest.mark.parametrize("page", PAGES, ids=page_id)
def test_named_files_and_tests_exist(page: Path) -> None:
    tests = {
        name
        for file in ROOT.glob("tests/**/test_*.py")
        for name in re.findall(r"^def (test_\w+)", file.read_text(), re.M)
    }
    for name in ticked(page.read_text(encoding="utf-8")):
        if re.fullmatch(r"test_\w+", name) and name not in ("test_column", "test_fraction"):
            assert name in tests, f"there is no test {name}"
        if re.fullmatch(rf"({'|'.join(ROOMS)}|tests|tools|docs)/[\w./-]+\.(py|toml|md)", name) and not of_history(page):
            assert (ROOT / name).is_file(), f"there is no file {name}"


@pytest.mark.parametrize("page", PAGES, ids=page_id)
def test_no_page_names_a_machine(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    for wrong in (*(f"/{folder}/" for folder in ("work", "tmp", "root", "home")), "pypi", "localhost"):
        assert wrong not in text.lower()


# Codes, events, fields, constants


@cache
def trees() -> dict[str, ast.Module]:
    files = [*ROOT.glob("*.py"), *(file for room in ROOMS for file in (ROOT / room).rglob("*.py"))]
    return {file.relative_to(ROOT).as_posix(): ast.parse(file.read_text(encoding="utf-8")) for file in files}


def strings(tree: ast.AST) -> set[str]:
    """Return the string constants of code; parts of f-strings do not count."""
    inside = {id(part) for node in ast.walk(tree) if isinstance(node, ast.JoinedStr) for part in ast.walk(node)}
    found = [node for node in ast.walk(tree) if isinstance(node, ast.Constant) and id(node) not in inside]
    return {node.value for node in found if isinstance(node.value, str)}


@cache
def error_names() -> frozenset[str]:
    """Return the names of our error classes: the base, and whatever is derived from it."""
    classes = [node for tree in trees().values() for node in ast.walk(tree) if isinstance(node, ast.ClassDef)]
    found = {"MoonflowerError"}
    while True:
        more = {one.name for one in classes if {b.id for b in one.bases if isinstance(b, ast.Name)} & found} - found
        if not more:
            return frozenset(found)
        found |= more


def raised_codes(tree: ast.AST) -> set[str]:
    """Return the literal first arguments of errors."""
    names = error_names()
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call) and node.args]
    firsts = [call.args[0] for call in calls if isinstance(call.func, ast.Name) and call.func.id in names]
    return {first.value for first in firsts if isinstance(first, ast.Constant) and isinstance(first.value, str)}


def made_codes() -> set[str]:
    """Return the codes that an f-string makes: ``config.<field>`` of a floor, and of what differs at enrolment."""
    makers = {
        file
        for file, tree in trees().items()
        for node in ast.walk(tree)
        if isinstance(node, ast.JoinedStr)
        and isinstance(node.values[0], ast.Constant)
        and re.match(r"[a-z_]+\.$", str(node.values[0].value))
    }
    assert makers == {"client/circles.py", "server/rules.py"}, "a new f-string makes codes: list them here"
    limits = {"min_members", "train_timeout_s", "min_approvals"}
    assert limits <= strings(trees()["client/circles.py"])
    limits |= {*missing(CircleSettings())}
    differing = {*SHARED} - {"circle"}  # which has a code of its own
    return {f"config.{name}" for name in limits | differing | {*purposes.FIRST, "purposes"}}


def codes_in_code() -> set[str]:
    families = {code.partition(".")[0] for code in documented_codes()}
    found = made_codes()
    for tree in trees().values():
        found |= {text for text in strings(tree) if CODE.fullmatch(text) and text.partition(".")[0] in families}
        found |= raised_codes(tree)
    keys = strings(trees()["protocol/act.py"]) | strings(trees()["configs/recipe.py"])  # of a recipe
    return found - ASGI - (keys - documented_codes()) - {"ledger.db", "ledger.mark"}


def test_the_table_of_codes_is_the_codes_of_the_code() -> None:
    said, real = documented_codes(), codes_in_code()
    assert sorted(said - real) == [], "documented, but nothing raises them"
    assert sorted(real - said) == [], "raised, but not documented"


def test_errors_that_carry_codes_are_found() -> None:
    assert {"Refused", "InputError", "TokenRefused", "TooMuch", "LoginRefused", "RunOver", "NotThere"} <= error_names()


def test_every_event_of_the_log_is_listed() -> None:
    listed = rows(section(PROTOCOL, "The audit log"))
    assert sorted(event for cells in listed for event in ticked(cells[0])) == sorted(EVENTS)
    logged = set().union(*(strings(tree) for file, tree in trees().items() if file != "server/records/log.py"))
    for cells in listed:
        for event in ticked(cells[0]):
            if event not in ("refused", "failed", "rejected"):  # plain words, in the code for other reasons
                assert (cells[2] == "yes") == (event in logged), f"{event}: logged today? {cells[2]}"


@pytest.mark.parametrize(
    ("title", "kind"),
    [
        ("RoundContext", RoundContext),
        ("RoundContext", Plan),
        ("Envelope", Header),
        ("Statement, vote, proof", Statement),
        ("Releases", Decision),
    ],
)
def test_every_field_is_described(title: str, kind: Any) -> None:
    names = set(ticked(section(PROTOCOL, title)))
    assert {field.name for field in dataclasses.fields(kind)} <= names


def named_texts(tree: ast.Module) -> dict[str, str]:
    """Return a module's own constants that are texts, by name."""
    assigned = [node for node in tree.body if isinstance(node, ast.Assign) and isinstance(node.value, ast.Constant)]
    return {
        target.id: node.value.value
        for node in assigned
        for target in node.targets
        if isinstance(target, ast.Name) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)
    }


def signed_kinds(tree: ast.Module) -> set[str]:
    """Return the kinds that a module signs under: texts, or the names of texts."""
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call)]
    signing = [call for call in calls if isinstance(call.func, ast.Attribute) and call.func.attr == "sign"]
    given = [call.args[0] for call in signing if len(call.args) == 2]
    plain = [call for call in calls if isinstance(call.func, ast.Name) and call.func.id == "sign"]  # key, kind, payload
    given += [call.args[1] for call in plain]
    names = named_texts(tree)
    kinds = {one.value for one in given if isinstance(one, ast.Constant) and isinstance(one.value, str)}
    return kinds | {names[one.id] for one in given if isinstance(one, ast.Name) and one.id in names}


def test_every_signature_has_its_domain() -> None:
    kinds = set().union(*map(signed_kinds, trees().values()))
    table = rows(section(PROTOCOL, "Signatures, cards, pins, rosters"))
    assert {ticked(cells[0])[0] for cells in table} == kinds


@pytest.mark.parametrize("cells", rows(section(PROTOCOL, "Constants")), ids=lambda cells: cells[0].strip("`"))
def test_constants_have_the_stated_value(cells: list[str]) -> None:
    module, _, name = ticked(cells[0])[0].rpartition(".")
    assert repr(getattr(import_module(f"moonflower.{module}"), name)) == cells[1]


def test_every_route_and_rule_is_there() -> None:
    from moonflower.protocol.messages import ROUTES

    assert set(ROUTES) == {ticked(cells[0])[0] for cells in _routes()}
    numbered = re.findall(r"^\| (\d+) \| \*\*", section(PROTOCOL, "The rules"), flags=re.M)
    assert numbered == [str(number) for number in range(1, 14)]


def _routes() -> list[list[str]]:
    lines = [line for line in section(PROTOCOL, "The exchanges, in order").splitlines() if re.match(r"\| \d ", line)]
    return [[cell.strip() for cell in line.strip("|").split(" | ")][1:] for line in lines]


# Drills, commands, help


def test_every_drill_has_its_row_and_its_command() -> None:
    table = rows((ROOT / "docs/drills.md").read_text(encoding="utf-8"))
    assert [ticked(cells[0])[0] for cells in table] == list(drill.KINDS)
    for cells in table:
        assert f"--drill {ticked(cells[0])[0]}@" in cells[3]
        for code in ticked(cells[2]):
            assert code in documented_codes() or code in ("gate.", "train_timeout_s")


def shown_commands() -> list[tuple[str, str]]:
    """Return every ``moonflower …`` line of a shell block or in back ticks, with its page."""
    found = []
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        blocks = "\n".join(re.findall(r"^```sh\n(.*?)^```", text, flags=re.M | re.S)).splitlines()
        plain = re.sub(r"^```.*?^```", "", text, flags=re.M | re.S)
        found += [(page_id(page), line) for line in [*blocks, *ticked(plain)] if line.startswith("moonflower ")]
    return found


@pytest.mark.parametrize(("page", "line"), shown_commands())
def test_shown_commands_and_options_exist(page: str, line: str) -> None:
    words = shlex.split(line, comments=True)[1:]
    here: Any = command()
    context = click.Context(here)
    while words and isinstance(here, click.Group):
        name = words.pop(0)
        if name == "--help":
            return
        here = here.get_command(context, name)
        assert here is not None, f"{page}: {line!r}: there is no command {name!r}"
    options = {option for parameter in here.params for option in parameter.opts} | {"--help"}
    assert {word for word in words if word.startswith("-")} <= options, f"{page}: {line!r}"
    for word in words:
        if word.startswith("configs/"):
            assert (ROOT / word).is_file(), f"{page}: {line!r}"


def words_of(text: str) -> list[str]:
    """Return the words of a help text; frames and line breaks do not count."""
    return re.sub(r"[╭╮╰╯│─]", " ", text).split()


def test_the_page_of_commands_begins_with_the_real_help() -> None:
    page = (ROOT / "docs/reference/commands.md").read_text(encoding="utf-8")
    shown = re.search(r"^## `moonflower`\n\n```text\n(.*?)^```", page, flags=re.M | re.S)
    assert shown is not None
    assert page[: shown.start()].count("\n## ") == 0
    said = CliRunner().invoke(command(), ["--help"], prog_name="moonflower", env={"COLUMNS": "80"})
    assert said.exit_code == 0
    assert words_of(shown.group(1)) == words_of(said.output)


@pytest.mark.parametrize("target", sorted(set(re.findall(r"`make (\w+)`", (ROOT / "CONTRIBUTING.md").read_text()))))
def test_make_targets_exist(target: str) -> None:
    assert re.search(rf"^{target}:", (ROOT / "Makefile").read_text(), flags=re.M)
