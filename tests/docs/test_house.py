"""The house: seven floors, one name for one thing, rooms of a size, and the way of an update through them."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import tomllib
from collections import defaultdict
from collections.abc import Iterator
from itertools import chain
from pathlib import Path

import moonflower
from moonflower import errors, simulate

ROOT = Path(moonflower.__file__).parent
ROOMS = ["bench", "cli", "client", "configs", "crypto", "doctor", "federation", "oauth", "protocol", "report", "server"]
FLOORS = (
    "errors canonical version files logs",
    "crypto configs store report",
    "protocol oauth",
    "client server",
    "federation bench doctor",
    "cli",
    "__main__",
)
MAX_LINES, MAX_FUNCTION = 400, 60
OF_LIBRARIES = {"Problem"}  # an answer of authlib's, for which it wants a class of its own


def modules() -> list[Path]:
    return sorted(chain(ROOT.glob("*.py"), *(ROOT.glob(f"{room}/**/*.py") for room in ROOMS)))


def name(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def nodes(path: Path) -> Iterator[ast.AST]:
    return ast.walk(ast.parse(path.read_text(encoding="utf-8")))


def test_the_root_holds_what_everybody_stands_on() -> None:
    found = {path.stem for path in ROOT.glob("*.py")}
    assert found == {"__init__", "__main__", "errors", "canonical", "version", "files", "logs", "store"}


def test_the_wheel_takes_every_package() -> None:
    """Setuptools finds none by itself where the checkout is the package; a room that is not listed is not shipped."""
    listed = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["setuptools"]["packages"]
    there = {".".join(("moonflower", *path.parent.relative_to(ROOT).parts)) for path in modules()}
    assert set(listed) - {"moonflower.configs.data"} == there  # a folder of tables, read as package data


def test_no_room_imports_from_a_floor_above() -> None:
    floor = {room: at for at, rooms in enumerate(FLOORS) for room in rooms.split()}
    upward = []
    for path in modules():
        parts = path.relative_to(ROOT).with_suffix("").parts
        if parts[0] == "__init__":
            continue
        for node in nodes(path):
            if isinstance(node, ast.ImportFrom) and node.level == len(parts):
                to = [node.module.split(".")[0]] if node.module else [alias.name for alias in node.names]
                upward += [f"{name(path)} -> {one}" for one in to if floor[one] > floor[parts[0]]]
    assert upward == []


def test_no_two_classes_share_a_name() -> None:
    found = defaultdict(set)
    for path in modules():
        for node in nodes(path):
            if isinstance(node, ast.ClassDef):
                found[node.name].add(name(path))
    assert {one: where for one, where in found.items() if len(where) > 1} == {}


def test_a_modules_name_means_one_thing() -> None:
    """But for the two sides of a round, and for a command that bears the name of what it commands."""
    found = defaultdict(set)
    for path in modules():
        if path.stem != "__init__":
            found[path.stem].add(name(path))
    doubled = []
    for places in found.values():
        rooms = sorted(place.split("/")[0] for place in places)
        if len(places) > 1 and rooms not in (["client", "server"], ["client", "protocol"]) and "cli" not in rooms:
            doubled.append(places)
        assert len(places) < 3, places
    assert doubled == []


def test_rooms_and_functions_are_of_a_size() -> None:
    large = {name(path): path.read_text(encoding="utf-8").count("\n") for path in modules()}
    assert [path for path, lines in large.items() if lines > MAX_LINES] == OVER, "look for a second idea in it"
    long = [
        f"{name(path)}:{node.name}"
        for path in modules()
        for node in nodes(path)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and (node.end_lineno or 0) - node.lineno >= MAX_FUNCTION
    ]
    assert long == []


OVER = ["crypto/note.py", "oauth/issuer/authority.py"]


def test_all_errors_are_in_the_tree_that_errors_draws() -> None:
    drawn = set(re.findall(r"[├└]── (\w+)", errors.__doc__ or "")) | {"MoonflowerError", "Signal"}
    defined = {node.name for node in nodes(ROOT / "errors.py") if isinstance(node, ast.ClassDef)}
    assert drawn == defined
    elsewhere = {
        node.name
        for path in modules()
        if path.stem != "errors"
        for node in nodes(path)
        if isinstance(node, ast.ClassDef) and any(_is_error(base) for base in node.bases)
    }
    assert elsewhere <= OF_LIBRARIES


def _is_error(base: ast.expr) -> bool:
    told = ast.unparse(base)
    return told in ("Exception", "BaseException") or told.endswith(("Error", "Refused", "Ended", "Signal"))


def test_a_command_that_needs_nothing_imports_nothing() -> None:
    code = "import sys, moonflower.__main__ as m; sys.argv[1:] = ['version']; "
    code += "\ntry: m.main()\nexcept SystemExit: print(sorted(n for n in sys.modules if n.startswith('moonflower')))"
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    shown, loaded = said.splitlines()
    assert shown == moonflower.__version__
    assert ast.literal_eval(loaded) == ["moonflower", "moonflower.__main__", "moonflower.errors", "moonflower.version"]


# The way of an update.


def way() -> list[tuple[str, bool]]:
    """Return the files of CONTRIBUTING's way of an update, and whether each is on the way in one process too."""
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    section = text.partition("## The way of an update")[2].partition("\n## ")[0]
    rows = [line for line in section.splitlines() if re.match(r"\| \d+ \|", line)]
    return [(path, "live only" not in row) for row in rows for path in re.findall(r"`([\w/]+\.py)`", row.split("|")[2])]


def test_the_way_of_an_update_leads_through_files_that_exist() -> None:
    assert len(way()) > 20
    assert [path for path, _ in way() if not (ROOT / path).is_file()] == []


def test_an_update_takes_the_way_that_contributing_describes(heart: Path, tmp_path: Path) -> None:
    visited: set[str] = set()

    def visit(frame: object, event: str, _: object) -> None:
        if event == "call":
            visited.add(frame.f_code.co_filename)  # type: ignore[attr-defined]

    before = sys.getprofile()
    sys.setprofile(visit)
    try:
        simulate(heart, out=tmp_path / "o", overrides=("training.rounds=1", "training.local_epochs=1"))
    finally:
        sys.setprofile(before)
    found = {Path(file).relative_to(ROOT).as_posix() for file in visited if file.startswith(str(ROOT))}
    assert [path for path, in_process in way() if in_process and path not in found] == []
