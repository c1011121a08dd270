"""The format of a CSV file: its separator, its decimal mark and its encoding, found by looking at the file.

Nothing is guessed: where a file can be read in two ways, the message names the option that says which. No message holds
a cell or a word that was found in the file, because the first row of a file without a header is a person's.
"""

from __future__ import annotations

import codecs
import csv
import gzip
import io
import re
import zlib
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from ...configs.columns import MISSING
from ...errors import InputError

SEPARATORS = {",": "comma", ";": "semicolon", "\t": "tab", "|": "vertical bar"}
SAMPLE_BYTES = 1 << 18
"""Bytes at the beginning of a file by which separator, header and decimal mark are found; the encoding is of it all."""
_SAMPLE_ROWS = 2000
_BLOCK = 1 << 20
_MARKS = ((codecs.BOM_UTF8, "utf-8"), (codecs.BOM_UTF32_LE, "utf-32"), (codecs.BOM_UTF32_BE, "utf-32"),
          (codecs.BOM_UTF16_LE, "utf-16"), (codecs.BOM_UTF16_BE, "utf-16"))  # fmt: skip
_UNUSED = re.compile(rb"[\x81\x8d\x8f\x90\x9d]")
"""Bytes that stand for nothing in cp1252."""
_NUMBER = re.compile(r"[+-]?(\d+([.,]\d*)*|[.,]\d+)([eE][+-]?\d+)?")
_DECIMAL = {mark: re.compile(rf"[+-]?\d*{re.escape(mark)}\d*([eE][+-]?\d+)?") for mark in ",."}
_THOUSANDS = {mark: re.compile(rf"[+-]?[1-9]\d{{0,2}}{re.escape(mark)}\d{{3}}") for mark in ",."}
_MOST, _DIGITS = 0.9, 2
"""Share of a column's cells that decide what it holds, and digits of a name that looks like a number of something."""
_CLEARLY = 20
"""How many times more numbers have one decimal mark than the other where a few cells are wrong."""


@dataclass(frozen=True)
class Format:
    """How a CSV file is written; "" = found by looking at the file.

    Attributes:
        separator: between cells: a comma, a semicolon, a tab or ``|``.
        decimal: between a number's whole and its fraction: ``.`` or ``,``.
        encoding: of the text, as Python names it, such as ``utf-8`` or ``cp1252``.
    """

    separator: str = ""
    decimal: str = ""
    encoding: str = ""

    @property
    def whole(self) -> bool:
        """Whether nothing is left to be found."""
        return bool(self.separator and self.decimal and self.encoding)


def seen(file: Path, given: Format) -> Format:
    """Return what one CSV file shows of its format; "" where it shows nothing: no number with a mark, ASCII only.

    Raises:
        InputError: ``data.file``: it is not text, has no header or can be read in two ways; ``data.column``: two
            columns have one name; ``data.empty``.
    """
    encoding = given.encoding or _encoding(file)
    text, cut = _sample(file, encoding or "utf-8")
    separator = given.separator or _separator(file, text, cut)
    rows = _rows(file, text, separator, cut)
    if not rows:
        raise InputError("data.empty", f"data file {file} is empty; expected a header and rows")
    _check_header(file, rows[0], rows[1:])
    return Format(separator, given.decimal or _decimal(file, rows[1:], separator), encoding)


def header(file: Path, fmt: Format) -> list[str]:
    """Return the names of a CSV file's columns.

    Raises:
        InputError: ``data.empty``; ``data.file``: not text in this encoding; ``data.column``: two have one name.
    """
    text, cut = _sample(file, fmt.encoding)
    rows = _rows(file, text, fmt.separator, cut)
    if not rows:
        raise InputError("data.empty", f"data file {file} is empty; expected a header and rows")
    check_names(file, rows[0])
    return rows[0]


def check_names(file: Path, names: Sequence[str]) -> None:
    """Check that columns have different names; the message says where they are, not how they are called.

    Raises:
        InputError: ``data.column``.
    """
    first: dict[str, int] = {}
    for at, name in enumerate(names, 1):
        if name in first:
            what = "have the same name" if name else "have no name"
            raise InputError(
                "data.column", f"data file {file}: columns {first[name]} and {at} {what}; expected different names"
            )
        first[name] = at


def refused(file: Path, problem: str, expected: str, hint: str = "") -> InputError:
    """Return the error of a file that cannot be read as a table."""
    return InputError("data.file", f"data file {file} {problem}; expected {expected}", hint=hint)


def unreadable(file: Path, error: Exception, encoding: str = "") -> InputError:
    """Return the error of a file that could not be read; the text of ``error`` may hold a cell, so it is left out."""
    if isinstance(error, UnicodeError):
        return refused(
            file, f"is not text in {encoding.upper()}", "text in one encoding", "[data] encoding says which one it is"
        )
    if isinstance(error, gzip.BadGzipFile):
        return refused(file, "is not compressed as its name says", "a whole table")
    if isinstance(error, EOFError):
        return refused(file, "is cut off", "a whole table")
    return refused(file, f"cannot be read ({type(error).__name__})", "a whole table")


def _open(file: Path) -> IO[bytes]:
    return gzip.open(file, "rb") if file.suffix.lower() == ".gz" else open(file, "rb")  # type: ignore[return-value]


def _blocks(file: Path) -> Iterator[bytes]:
    try:
        with _open(file) as stream:
            while block := stream.read(_BLOCK):
                yield block
    except (OSError, EOFError, zlib.error) as error:
        raise unreadable(file, error) from None


def _encoding(file: Path) -> str:
    """Return a file's encoding; "" if it holds ASCII only."""
    decoder, plain, utf8, unused, first = codecs.getincrementaldecoder("utf-8")(), True, True, False, True
    for block in _blocks(file):
        if first and (mark := next((name for start, name in _MARKS if block.startswith(start)), "")):
            return mark
        first = False
        if b"\0" in block:
            raise refused(file, "holds bytes of value 0", "text", '[data] encoding = "utf-16-le" may be what it is')
        if plain and block.isascii():
            continue
        plain = False
        unused = unused or bool(_UNUSED.search(block))
        if utf8:
            try:
                decoder.decode(block)
            except UnicodeDecodeError:
                utf8 = False
    if plain:
        return ""
    if utf8:
        try:
            decoder.decode(b"", final=True)
        except UnicodeDecodeError:
            utf8 = False
    return "utf-8" if utf8 else "latin-1" if unused else "cp1252"


def _sample(file: Path, encoding: str) -> tuple[str, bool]:
    """Return the text at the beginning of a file, and whether there is more of it."""
    try:
        decoder = codecs.getincrementaldecoder("utf-8-sig" if encoding.lower() in ("utf-8", "utf8") else encoding)()
    except LookupError:
        raise InputError(
            "config.value", f"[data] encoding = {encoding!r} is unknown; expected one such as utf-8, cp1252 or utf-16"
        ) from None
    data = b""
    for block in _blocks(file):
        data += block
        if len(data) > SAMPLE_BYTES:
            break
    cut = len(data) > SAMPLE_BYTES
    try:
        return decoder.decode(data[:SAMPLE_BYTES], final=not cut), cut
    except UnicodeError as error:
        raise unreadable(file, error, encoding) from None


def _rows(file: Path, text: str, separator: str, cut: bool) -> list[list[str]]:
    """Return the first rows of a text, without empty lines and without a row that is cut off."""
    rows: list[list[str]] = []
    try:
        for row in csv.reader(io.StringIO(text, newline=""), delimiter=separator):
            if row:
                rows.append(row)
            if len(rows) > _SAMPLE_ROWS:
                break
    except csv.Error:
        raise refused(file, "has a quote that is not closed, or a very long cell", "a closing quote") from None
    return rows[:-1] if cut and len(rows) > 1 else rows


def _separator(file: Path, text: str, cut: bool) -> str:
    """Return what separates the cells: the one mark that cuts all rows into as many cells, two or more."""
    fits: dict[str, float] = {}
    for mark in SEPARATORS:
        try:
            rows = _rows(file, text, mark, cut)
        except InputError:
            continue
        if rows and len(rows[0]) > 1:
            fits[mark] = sum(len(row) == len(rows[0]) for row in rows) / len(rows)
    exact = [mark for mark, share in fits.items() if share == 1]
    if len(exact) > 1:
        names = " and by the ".join(SEPARATORS[mark] for mark in exact)
        raise refused(
            file, f"can be cut into cells by the {names}", "one way to read it", "[data] separator says which one it is"
        )
    return exact[0] if exact else max(fits, key=lambda mark: fits[mark]) if fits else ","


def _check_header(file: Path, names: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    check_names(file, names)
    bare = [name.strip() for name in names]
    digits = all(_NUMBER.fullmatch(name) for name in bare)
    counted = bare in ([str(at) for at in range(start, start + len(bare))] for start in (0, 1))
    if (digits and not counted) or (not digits and _as_below(bare, [row for row in rows if len(row) == len(bare)])):
        raise refused(
            file, "seems to have no header: its first row looks like the rows below", "the columns' names in row 1"
        )


def _as_below(names: Sequence[str], rows: Sequence[Sequence[str]]) -> bool:
    """Return whether a first row has nothing of a header: no word above numbers, and something that is as below."""
    alike = False
    for at, name in enumerate(names):
        cells = [cell for row in rows if (cell := row[at].strip()).lower() not in MISSING]
        if not cells or name.lower() in MISSING:
            continue
        if sum(bool(_NUMBER.fullmatch(cell)) for cell in cells) >= _MOST * len(cells):
            if not _NUMBER.fullmatch(name) and any(letter.isalpha() for letter in name):
                return False
            alike |= bool(_NUMBER.fullmatch(name))
        elif name in cells:
            alike = True
        elif sum(letter.isdigit() for letter in name) >= _DIGITS:
            alike |= sum(_shape(cell) == _shape(name) for cell in cells) >= _MOST * len(cells)
    return alike


def _shape(cell: str) -> str:
    return re.sub(r"[^\W\d_]", "a", re.sub(r"\d", "9", cell))


def _decimal(file: Path, rows: Sequence[Sequence[str]], separator: str) -> str:
    """Return the decimal mark that the numbers of a file show; "" if no number has one."""
    found: Counter[str] = Counter()
    for row in rows:
        for cell in map(str.strip, row):
            for mark in ",.":
                if mark in cell and len(cell) > 1 and _DECIMAL[mark].fullmatch(cell):
                    found[mark + ("?" if _THOUSANDS[mark].fullmatch(cell) else "!")] += 1
    hint = '[data] decimal = "." or decimal = "," says which one it is'
    commas, points = (found[mark + "!"] and found[mark + "!"] + found[mark + "?"] for mark in ",.")
    if min(commas, points) * _CLEARLY > max(commas, points):
        raise refused(
            file, f"has numbers with a decimal comma, {commas}, and with a point, {points}", "one of them", hint
        )
    if commas or points:
        return "," if commas > points else "."  # no cell with the other mark is read as a number
    unsure = found[",?"] or (found[".?"] if separator == ";" or found[",?"] else 0)
    if unsure:
        mark = "comma" if found[",?"] else "point"
        raise refused(
            file,
            f"has {unsure} numbers in which a {mark} before three digits may be a decimal mark or one of thousands",
            "numbers that can be read in one way",
            hint,
        )
    return "." if found[".?"] else ""
