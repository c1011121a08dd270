"""The documents, their anchors, tables, and the codes that they list."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path

import click
import typer.main
from moonflower.__main__ import app

from support import ROOT

ROOMS = tuple(sorted(one.parent.name for one in ROOT.glob("*/__init__.py") if one.parent.name != "tests"))
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), ROOT / "configs/data/README.md"])

PROTOCOL = (ROOT / "docs/protocol.md").read_text(encoding="utf-8")

CODE = re.compile(r"[a-z]+\.[a-z_]+")


def page_id(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


def section(text: str, title: str) -> str:
    """Return what stands under a heading of the second level."""
    _, found, rest = text.partition(f"\n## {title}\n")
    assert found, f"no section {title!r}"
    return rest.partition("\n## ")[0]


def rows(text: str) -> list[list[str]]:
    """Return the cells of all table rows, headings and rules left out."""
    lines = [line.strip() for line in text.splitlines() if line.strip().startswith("|")]
    cells = [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines]
    return [line for line in cells if not set(line[0]) <= {"-", "|", " "} and "`" in line[0]]


def ticked(text: str) -> list[str]:
    return re.findall(r"`([^`\n]+)`", text)


def anchors(page: Path) -> set[str]:
    text = re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.M | re.S)
    heads = re.findall(r"^#+ (.+)$", text, flags=re.M)
    made = {re.sub(r"[^\w\- ]", "", head.lower()).replace(" ", "-") for head in heads}
    return made | set(re.findall(r'<a id="([^"]+)">', text))


@cache
def documented_codes() -> frozenset[str]:
    """Return the codes in the table of codes."""
    codes = [code for cells in rows(section(PROTOCOL, "Codes")) for code in ticked(cells[0])]
    assert all(CODE.fullmatch(code) for code in codes)
    assert len(codes) == len(set(codes)), "a code is listed twice"
    return frozenset(codes)


def command() -> click.Command:
    return typer.main.get_command(app)
