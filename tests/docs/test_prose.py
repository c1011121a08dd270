"""The pages' prose: short sentences, short table cells, a short README, and none of the phrases that we do not use."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from support import ROOT
from support.pages import page_id

NAMED = ("README.md", "CONTRIBUTING.md", "SECURITY.md", "CHANGELOG.md", "configs/data/README.md")
DOCS = [page for page in ROOT.glob("docs/**/*.md") if page.parent.name != "reference"]  # that folder is generated
PAGES = sorted([*(ROOT / name for name in NAMED), *DOCS])
README_LINES = 150
SENTENCE_WORDS = 35
CELL_WORDS = 25
PHRASES = tuple(
    re.compile(pattern)
    for pattern in (
        r"(?i)(?<!\bthere )\bis no\b(?! (?:longer|more than|later than|larger than|better than)\b)",
        r"\b(?:is|are) none\b",
        r"(?i)\b(?:stands?|stood) in\b",
        r"^\W*Whoever\b",
        r"(?i)\bever better\b",
        r"(?i)\bas it should\b",
        r"(?i)\bfor good\b",
        r"(?i)\bof its own thumb\b",
        r"(?i)\bone's own\b",
    )
)

FENCE = re.compile(r"^[ \t]*```.*?^[ \t]*```[ \t]*$", flags=re.M | re.S)
MARKUP = re.compile(r"<!--.*?-->|</?[a-z][^>]*>", flags=re.S)
CODE = re.compile(r"(`+)(.+?)\1", flags=re.S)
LINK = re.compile(r"!?\[([^\]]*)\]\([^)]*\)")
ITEM = re.compile(r"\s*(?:[-*+]|\d+\.)\s+")
END = re.compile(r"(?<=[.!?])[\"')\]”]*\s+|:\n")


def plain(text: str) -> str:
    """Return a page without code blocks and markup: links are their words, inline code is one word."""
    text = MARKUP.sub("", FENCE.sub("", text))
    text = CODE.sub(lambda found: "`" + re.sub(r"[\s|.!?:]+", "_", found[2]) + "`", text)
    return re.sub(r"\*+(?=\S)|(?<=\S)\*+", "", LINK.sub(r"\1", text))


def cells(text: str) -> Iterator[str]:
    """Yield the cells of all table rows of a page."""
    for line in plain(text).splitlines():
        if line.strip().startswith("|"):
            yield from (cell.strip() for cell in re.split(r"(?<!\\)\|", line.strip().strip("|")))


def blocks(text: str) -> Iterator[str]:
    """Yield paragraphs, list items, headings and table cells; each of them ends a sentence."""
    block: list[str] = []
    for line in [*plain(text).splitlines(), ""]:
        row, head = line.strip().startswith("|"), line.startswith("#")
        if not line.strip() or row or head or ITEM.match(line):
            yield "\n".join(block)
            block = []
        if head:
            yield line.lstrip("# ")
        elif line.strip() and not row:
            block.append(ITEM.sub("", line, count=1) if ITEM.match(line) else line.lstrip("> "))
    yield from cells(text)


def sentences(text: str) -> Iterator[str]:
    """Yield the sentences of a page; a colon at the end of a line ends one, any other colon or semicolon does not."""
    for block in blocks(text):
        yield from (re.sub(r"\s+", " ", part).strip() for part in END.split(block) if part.strip())


def words(text: str) -> int:
    """Return how many words a text has: what holds no letter and no digit is not a word."""
    return sum(bool(re.search(r"\w", word)) for word in text.split())


def findings(text: str) -> list[str]:
    """Return what is wrong with a page's prose, each with the words that it is about."""
    found = [f"{words(one)} words: {one}" for one in sentences(text) if words(one) > SENTENCE_WORDS]
    found += [f"a cell of {words(one)} words: {one}" for one in cells(text) if words(one) > CELL_WORDS]
    for one in sentences(text):
        found += [f"{hit[0].strip()!r}: {one}" for phrase in PHRASES if (hit := phrase.search(one))]
    return found


@pytest.mark.parametrize("page", PAGES, ids=page_id)
def test_prose_is_plain(page: Path) -> None:
    found = [f"{page_id(page)}: {finding}" for finding in findings(page.read_text(encoding="utf-8"))]
    assert not found, "\n" + "\n".join(found)


def test_the_readme_is_short() -> None:
    lines = (ROOT / "README.md").read_text(encoding="utf-8").splitlines()
    assert len(lines) <= README_LINES, f"README.md: {len(lines)} lines"


def test_sentences_end_where_a_reader_would_end_them() -> None:
    text = (
        "# A head\nOne is here; two: three. (Four is `a. b`.) Five:\nsix\n\n"
        "- seven [eight](x.md)\n  nine\n- **Ten.** Eleven?\n"
        "\n```sh\nnot this. nor this\n```\n\n| a | `b \\| c` |\n|---|---|\n| d. e | f |\n"
    )
    assert [one.strip("()") for one in sentences(text)] == [
        *("A head", "One is here; two: three.", "Four is `a_b`.", "Five", "six", "seven eight nine", "Ten.", "Eleven?"),
        *("a", "`b_\\_c`", "---", "---", "d.", "e", "f"),
    ]


@pytest.mark.parametrize(
    ("text", "wrong"),
    [
        ("It is no bound.", "'is no'"),
        ("There is no bound, and it is no longer open.", ""),
        ("Why stands in the log.", "'stands in'"),
        ("A card. Whoever has it is a member.", "'Whoever'"),
        ("A card is for whoever asks; `for good` is code.", ""),
        ("It ends for good.", "'for good'"),
        (" ".join(["word"] * 36) + ".", "36 words"),
        (" ".join(["word"] * 35) + ".", ""),
        ("| " + " ".join(["word"] * 26) + " | b |", "a cell of 26 words"),
    ],
)
def test_a_finding_names_the_words(text: str, wrong: str) -> None:
    found = findings(text)
    assert bool(found) == bool(wrong)
    assert all(one.startswith(wrong) for one in found)
