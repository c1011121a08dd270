"""Write docs/reference/ from the code: every setting of every file, and the help of every command.

    make reference

``tests/docs/test_reference.py`` compares the committed pages with what this makes.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import click
import typer.main
from click.testing import CliRunner
from moonflower.__main__ import app
from moonflower.configs.roles import ClientConfig, IssuerConfig, OperatorConfig, ServerConfig
from moonflower.configs.settings import RunSettings
from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

PLACE = Path(__file__).parent / "reference"
FILES: tuple[tuple[str, type[BaseModel], str], ...] = (
    ("The run config", RunSettings, "One file for `simulate`, `up` and `run`, such as `configs/heart.toml`."),
    ("server.toml", ServerConfig, "The coordinator's: `moonflower server`, `moonflower member add`."),
    ("client.toml", ClientConfig, "A member's: `moonflower client`, `moonflower keys new`, `moonflower member card`."),
    ("operator.toml", OperatorConfig, "A submitter's: `moonflower run`, `moonflower runs`, `moonflower stop`."),
    ("issuer.toml", IssuerConfig, "For the embedded authorization server, on one machine: `moonflower issuer`."),
)
WIDTH = 100
LIMITS = {"ge": "≥ {}", "gt": "> {}", "le": "≤ {}", "lt": "< {}", "min_length": "≥ {} long", "max_length": "≤ {} long"}
KINDS = {int: "whole number", float: "number", str: "string", bool: "true or false", Path: "path", dict: "table"}
HEAD = "<!-- Made by `make reference` from the code. Edits here are lost. -->\n"


def configuration() -> str:
    """Return the page of all settings."""
    parts = [
        f"{HEAD}\n# Configuration\n",
        "Every key of every file, from the code that checks it. Relative paths are relative to the file in which they "
        "appear. An unknown key is an error. **Bold** keys have no default. [Running](../running.md) explains how the "
        "files work together.\n",
    ]
    for title, model, what in FILES:
        parts.append(f"## {title}\n\n{what}\n")
        parts += [_table(head, table, note, title) for head, table, note in _tables(model)]
    return "\n".join(parts)


def _tables(model: type[BaseModel]) -> Iterator[tuple[str, type[BaseModel], str]]:
    """Yield the tables of a file: heading, model, and the field's description."""
    for name, field in model.model_fields.items():
        table = next((part for part in _leaves(field.annotation) if _is_table(part)), None)
        assert table is not None, f"{model.__name__}.{name} is no table"
        many = get_origin(field.annotation) is tuple
        said = [field.description] if field.description else []
        said += ["repeat this table for each"] if many else [] if field.is_required() else ["this table is optional"]
        yield f"[[{name}]]" if many else f"[{name}]", table, "; ".join(said)


def _table(head: str, model: type[BaseModel], note: str, title: str) -> str:
    anchor = re.sub(r"[^a-z]+", "-", f"{title} {head}".lower()).strip("-")
    lines = [f'### <a id="{anchor}"></a>`{head}` of {title[0].lower()}{title[1:]}\n']
    if note:
        lines.append(f"{note[0].upper()}{note[1:]}.\n")
    lines += ["| key | type | default | range | meaning |", "|---|---|---|---|---|"]
    for name, field in model.model_fields.items():
        key, must = field.alias or name, field.is_required()
        cells = (f"**{key}**" if must else key, _type(field), _default(field), _range(field), field.description or "")
        lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    if model.model_config.get("extra") == "allow":
        lines.append("\nEvery other key is an option of the [task](../tasks.md) itself.")
    return "\n".join(lines) + "\n"


def _is_table(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, BaseModel)


def _leaves(kind: Any) -> Iterator[Any]:
    """Yield the plain types inside ``A | B``, ``Annotated[A, …]`` and ``tuple[A, ...]``; a table is one."""
    if get_origin(kind) is Annotated:
        yield from _leaves(get_args(kind)[0])
    elif get_origin(kind) in (Union, UnionType, tuple):
        for part in get_args(kind):
            if part not in (NoneType, Ellipsis):
                yield from _leaves(part)
    else:
        yield kind


def _type(field: FieldInfo) -> str:
    words = []
    for leaf in _leaves(field.annotation):
        chosen = get_origin(leaf) is Literal
        words += [", ".join(map(_quoted, get_args(leaf)))] if chosen else [KINDS[get_origin(leaf) or leaf]]
    if any(get_origin(part) is tuple for part in (field.annotation, *get_args(field.annotation))):
        return "list of strings"
    return " or ".join(words)


def _quoted(value: str) -> str:
    return json.dumps(value, ensure_ascii=False)


def _default(field: FieldInfo) -> str:
    if field.is_required() or field.default is None or field.default is PydanticUndefined:
        return ""
    value = field.default
    if isinstance(value, tuple):
        return "`[" + ", ".join(f'"{item}"' for item in value) + "]`"
    return f"`{str(value).lower() if isinstance(value, bool) else value}`"


def _range(field: FieldInfo) -> str:
    found = [
        words.format(f"{limit:,}" if isinstance(limit, int) else f"{limit:,.10g}")
        for part in field.metadata
        for name, words in LIMITS.items()
        if (limit := getattr(part, name, None)) is not None
    ]
    if field.title:
        found.append(field.title)
    return ", ".join(found)


def commands() -> str:
    """Return the page of every command's help."""
    parts = [
        f"{HEAD}\n# Commands\n",
        "The help text of each command. Exit status: 0 done, 1 failed, 2 usage or bad input, 3 ended by policy. "
        "[`moonflower client`](../running.md#3-each-member-the-node) has more.\n",
    ]
    here = typer.main.get_command(app)
    for words in _commands(here, click.Context(here), ("moonflower",)):
        parts.append(f"## `{' '.join(words)}`\n\n```text\n{_help(words)}\n```\n")
    return "\n".join(parts)


def _commands(here: click.Command, context: click.Context, words: tuple[str, ...]) -> Iterator[tuple[str, ...]]:
    """Yield the words of a command and of all below it; a group may look for its commands only when it is asked."""
    yield words
    if isinstance(here, click.Group):
        for name in here.list_commands(context):
            command = here.get_command(context, name)
            assert command is not None, name
            yield from _commands(command, context, (*words, name))


def _help(words: tuple[str, ...]) -> str:
    environment = {"COLUMNS": str(WIDTH), "TERM": "dumb", "NO_COLOR": "1", "FORCE_COLOR": None, "GITHUB_ACTIONS": None}
    runner, command = CliRunner(), typer.main.get_command(app)
    said = runner.invoke(command, [*words[1:], "--help"], prog_name="moonflower", env=environment)
    assert said.exit_code == 0, said.output
    return "\n".join(line.rstrip() for line in said.output.splitlines()).strip("\n")


PAGES = {"configuration.md": configuration, "commands.md": commands}


def main() -> None:
    """Write the pages."""
    os.makedirs(PLACE, exist_ok=True)
    for name, make in PAGES.items():
        (PLACE / name).write_text(make(), encoding="utf-8")
        print(f"docs/reference/{name}")


if __name__ == "__main__":
    main()
