"""The facts about a table: one pass over its batches, column by column.

A fact is a count, an extreme or a set of words. Facts never leave the machine; what is made of them does
(:mod:`.infer`). A random sample of rows answers what needs two columns at once. The pass holds two batches, the counts
and the sample, so memory does not grow with the table.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import repeat
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from .arrow import are_numbers, are_text, as_floats, parsed
from .columns import MISSING, text
from .dates import SHAPE
from .facts import Counting, Facts

if TYPE_CHECKING:
    import pyarrow as pa

SAMPLE = 20_000  # rows
THREADS = 2
_BATCH = 1 << 15  # rows


@dataclass(frozen=True)
class Survey:
    """The facts of all columns, in the order of the table, and a random sample of its rows as text or numbers."""

    rows: int
    facts: Mapping[str, Facts]
    sample: Any  # pyarrow.Table
    decimal: str = "."

    def numbers(self, name: str) -> NDArray[np.float64]:
        """Return the sample's numbers of a column, ``float64[n]``, NaN where a cell is none."""
        column = self.sample.column(name).combine_chunks()
        if are_numbers(column.type):
            return as_floats(column)
        return parsed(column.cast("string"), self.decimal)[0]

    def words(self, name: str) -> list[str]:
        """Return the sample's cells of a column as text, "" where one is missing."""
        known, codes = self._coded(name)
        words: list[str] = np.array([*known, ""], dtype=object)[codes].tolist()
        return words

    def codes(self, name: str) -> NDArray[np.int64]:
        """Return each sampled word as its index among the different ones in order, ``int64[n]``, -1 where missing."""
        known, codes = self._coded(name)
        at = {word: code for code, word in enumerate(sorted({word for word in known if word}))}
        return np.array([*(at.get(word, -1) for word in known), -1], dtype=np.int64)[codes]

    def _coded(self, name: str) -> tuple[list[str], NDArray[np.int64]]:
        """Return different cells as text, "" where they are missing, and each row's index among them; -1: null."""
        coded = self.sample.column(name).combine_chunks()
        if not hasattr(coded, "dictionary"):
            coded = coded.dictionary_encode()
        cells = ("" if cell is None or cell != cell else text(cell) for cell in coded.dictionary.to_pylist())
        known = ["" if cell.lower() in MISSING else cell for cell in cells]
        return known, np.asarray(coded.indices.fill_null(-1), dtype=np.int64)

    def leading_zeros(self, name: str) -> float:
        """Return the share of the sample's cells that are digits after a 0, as in 01234."""
        import pyarrow.compute as pc

        cells = self.sample.column(name)
        if not len(cells) or not are_text(cells.type):
            return 0.0
        share = pc.mean(pc.match_substring_regex(cells.cast("string"), r"^0\d+$").cast("int8")).as_py()
        return float(share or 0.0)

    def days(self, name: str) -> float:
        """Return the share of the sample's filled cells that look like dates."""
        words = [word for word in self.words(name) if word][:2000]
        return sum(bool(SHAPE.match(word)) for word in words) / len(words) if words else 0.0


def survey(
    batches: Iterable[pa.RecordBatch],
    *,
    exact: Collection[str] = (),
    dates: Collection[str] = (),
    site: str | None = None,
    decimal: str = ".",
) -> Survey:
    """Return the facts about a table.

    Args:
        batches: its rows; text (CSV) or typed (Parquet), all with the same columns.
        exact: columns whose words are all counted, numbers too, such as the label.
        dates: columns whose first and last day are wanted.
        site: column that names the member, to count filled cells of each.
        decimal: mark of a decimal in cells of text, "." or ",".
    """
    columns: dict[str, Counting] = {}
    wordy = {*exact, site}
    sample, sites, rows = _Sample(), _Sites(), 0
    coming = _joined(batches)
    with ThreadPoolExecutor(THREADS) as pool:
        following = pool.submit(next, coming, None)  # read while the batch before is counted
        while (batch := following.result()) is not None:
            following = pool.submit(next, coming, None)
            for name in batch.schema.names:
                if name not in columns:
                    columns[name] = Counting(name, name in wordy, name in dates, site is not None, decimal)
            each = [columns[name] for name in batch.schema.names]
            empty = list(pool.map(Counting.add, each, batch.columns, repeat(rows)))
            if site is not None:
                sites.add(batch.column(site), dict(zip(batch.schema.names, empty, strict=True)))
            sample.add(batch)
            rows += batch.num_rows
    filled = sites.filled if site is not None else {}
    facts = {name: column.facts(rows, filled.get(name)) for name, column in columns.items()}
    return Survey(rows, facts, sample.table(), decimal)


class _Sample:
    """Rows drawn with the same chance each, at most ``SAMPLE``."""

    def __init__(self) -> None:
        self.generator, self.chance = np.random.default_rng(0), 1.0
        self.parts: list[tuple[Any, NDArray[np.float64]]] = []

    def add(self, batch: Any) -> None:
        import pyarrow as pa

        new = self.generator.random(batch.num_rows)
        before = self.chance
        while sum(int((drawn < self.chance).sum()) for drawn in [new, *(drawn for _, drawn in self.parts)]) > SAMPLE:
            self.chance /= 2
        if self.chance < before:
            self.parts = [self._keep(*part) for part in self.parts]
        self.parts.append(self._keep(batch, new))
        if len(self.parts) > 64:
            table = pa.Table.from_batches([part for part, _ in self.parts]).combine_chunks()
            self.parts = [(table.to_batches()[0], np.concatenate([drawn for _, drawn in self.parts]))]

    def _keep(self, rows: Any, drawn: NDArray[np.float64]) -> tuple[Any, NDArray[np.float64]]:
        import pyarrow as pa

        stays = drawn < self.chance
        return (rows, drawn) if stays.all() else (rows.take(pa.array(np.flatnonzero(stays))), drawn[stays])

    def table(self) -> Any:
        import pyarrow as pa

        return pa.Table.from_batches([part for part, _ in self.parts]) if self.parts else pa.table({})


class _Sites:
    """Filled cells of each column at each site."""

    def __init__(self) -> None:
        self.filled: dict[str, dict[str, int]] = {}

    def add(self, cells: Any, empty: Mapping[str, NDArray[np.bool_]]) -> None:
        coded = cells.dictionary_encode()
        names = [text(name) for name in coded.dictionary.to_pylist()]
        codes = np.asarray(coded.indices.fill_null(len(names)))
        every = np.bincount(codes, minlength=len(names) + 1)
        for column, missing in empty.items():
            counts = every - np.bincount(codes[missing], minlength=len(names) + 1) if missing.any() else every
            known = self.filled.setdefault(column, {})
            for name, count in zip(names, counts.tolist()[: len(names)], strict=True):
                known[name] = known.get(name, 0) + count


def _joined(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    """Yield batches of at least ``_BATCH`` rows, but for the last: small ones cost more than they hold."""
    import pyarrow as pa

    parts: list[pa.RecordBatch] = []
    for batch in batches:
        parts.append(batch)
        if sum(part.num_rows for part in parts) >= _BATCH:
            yield pa.Table.from_batches(parts).combine_chunks().to_batches()[0]
            parts = []
    if sum(part.num_rows for part in parts):
        yield pa.Table.from_batches(parts).combine_chunks().to_batches()[0]
