"""The member's rows: read from a table, split into training, validation and test, or dealt to members.

Rules of the room: nothing is guessed (a value that the schema does not allow is refused, by column and value,
never by row); every draw is seeded by hashing (seed, member, purpose), so that it depends on no other draw; a
row is in exactly one part, and training always has one.
"""

from __future__ import annotations

import csv
import gzip
import hashlib
import warnings
import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from pydantic import TypeAdapter, ValidationError
from torch import Tensor

from ..configs.schema import MISSING, Schema, text
from ..configs.settings import NAME, DataSettings, Name, SimulateSettings
from ..errors import InputError, nearest

_READERS = (".csv", ".csv.gz", ".parquet")
_BROKEN = {
    "BadGzipFile": "is not compressed as its name says",
    "EOFError": "is cut off",
    "ParserError": "has a row with more cells than the header",
    "ParserWarning": "has a row with more cells than the header",
    "UnicodeDecodeError": "is not text in UTF-8",
}


@dataclass(frozen=True)
class Rows:
    """Rows of one table; ``inputs`` and ``targets`` share their first axis.

    Attributes:
        inputs: raw or prepared inputs, ``[n, …]``.
        targets: what to predict, ``[n, …]``; class indices ``int64[n]`` unless the task says otherwise.
        groups: text columns that are no inputs (site, test mark), each ``object[n]``, None where empty.
    """

    inputs: Tensor
    targets: Tensor
    groups: Mapping[str, NDArray[np.object_]] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.inputs)

    def take(self, index: NDArray[np.int64] | Tensor) -> Rows:
        """Return the rows at ``index``, in its order."""
        chosen = torch.as_tensor(index)
        groups = {name: values[chosen.numpy()] for name, values in self.groups.items()}
        return Rows(self.inputs[chosen], self.targets[chosen], groups)

    @staticmethod
    def concat(parts: Sequence[Rows]) -> Rows:
        """Return the rows of all ``parts`` in their order, with the groups that every part has."""
        names = set.intersection(*(set(part.groups) for part in parts))
        return Rows(
            torch.cat([part.inputs for part in parts]),
            torch.cat([part.targets for part in parts]),
            {name: np.concatenate([part.groups[name] for part in parts]) for name in sorted(names)},
        )


@dataclass(frozen=True)
class Split:
    """The parts of a member's rows: ``train`` has at least one row, the others may be empty."""

    train: Rows
    validation: Rows
    test: Rows


def read_table(path: Path) -> pd.DataFrame:
    """Return the table in a CSV (also .gz) or Parquet file; CSV cells stay text.

    Raises:
        InputError: ``data.file``: missing, unreadable or of an unknown kind; ``data.empty``: no row.
    """
    if not path.is_file():
        beside = (
            [p.name for p in path.parent.iterdir() if p.is_file() and p.name.lower().endswith(_READERS)]
            if path.parent.is_dir()
            else []
        )
        found = "is not a file" if path.exists() else "does not exist"
        raise InputError("data.file", f"data file {path} {found}; {nearest(path.name, beside)}")
    if not path.name.lower().endswith(_READERS):
        raise InputError("data.file", f"data file {path} is of no known kind; expected {', '.join(_READERS)}")
    try:
        parquet = path.name.lower().endswith(".parquet")
        frame = pd.read_parquet(path) if parquet else _read_csv(path)
    except pd.errors.EmptyDataError:
        raise InputError("data.empty", f"data file {path} is empty; expected a header and rows") from None
    except ImportError:
        raise InputError(
            "data.file",
            f"data file {path} is Parquet, and pyarrow is not installed; expected it, or a CSV file",
            hint='pip install "moonflower[parquet]"',
        ) from None
    except (OSError, ValueError, EOFError, csv.Error, zlib.error, pd.errors.ParserWarning) as error:
        reason = _BROKEN.get(type(error).__name__, f"cannot be read ({type(error).__name__})")
        raise InputError("data.file", f"data file {path} {reason}; expected a whole table") from None
    if frame.empty:
        raise InputError("data.empty", f"data file {path} has no row; expected at least one")
    return frame


def load_frame(settings: DataSettings) -> pd.DataFrame:
    """Return the table that ``[data]`` names, with its label, site and test columns in place.

    Raises:
        InputError: ``data.file``, ``data.empty``, ``data.column``: a column named in ``[data]`` is missing.
    """
    if settings.path is None:
        raise InputError("data.file", "[data] path is missing; expected a CSV or Parquet file")
    frame = read_table(settings.path)
    named = [settings.label, settings.site, settings.test_column, *settings.drop]
    need(frame, [name for name in named if name], settings.path.name)
    return frame


def need(frame: pd.DataFrame, names: Iterable[str], where: str) -> None:
    """Check that ``frame`` has every column in ``names``.

    Raises:
        InputError: ``data.column``: names the file, the column and the nearest one.
    """
    known = [str(name) for name in frame.columns]
    for name in names:
        if name not in known:
            raise InputError("data.column", f"{where} has no column {name!r}; {nearest(name, known)}")


def features(frame: pd.DataFrame, schema: Schema, where: str) -> NDArray[np.float64]:
    """Return the schema's columns as ``float64[n, columns]``: numbers, category indices, NaN where missing.

    Raises:
        InputError: ``data.column``, ``data.value`` or ``data.category``.
    """
    need(frame, [column.name for column in schema.columns], where)
    return np.column_stack([column.read(frame[column.name], where) for column in schema.columns])


def read_groups(frame: pd.DataFrame, settings: DataSettings) -> dict[str, NDArray[np.object_]]:
    """Return the site and test columns as text, None where a cell is empty."""
    names = [name for name in (settings.site, settings.test_column) if name]
    out = {}
    for name in names:
        codes, uniques = frame[name].factorize()
        words = [cell if isinstance(cell, str) else text(cell) for cell in uniques]
        known = [None if word.strip().lower() in MISSING else word for word in words]
        out[name] = np.array([*known, None], dtype=object)[codes]
    return out


def split(rows: Rows, settings: DataSettings, *, seed: int, member: str) -> Split:
    """Return the parts of a member's rows; the test part does not depend on ``validation_fraction``.

    Args:
        rows: one row or more.
        settings: test rows by mark (``test_column``, ``test_value``) or by ``test_fraction``; validation rows
            are a fraction of the rest.
        seed: of the draws, together with ``member``.
        member: name.

    Raises:
        InputError: ``data.empty``: no row at all.
    """
    if not len(rows):
        raise InputError("data.empty", f"member {member!r} has no row; expected at least one")
    everything = np.arange(len(rows))
    if settings.test_column is not None:
        marks = _group(rows, settings.test_column, "data.column")
        wanted = text(settings.test_value)
        marked = np.array([mark is not None and text(mark) == wanted for mark in marks])
        test = everything[marked][: len(rows) - 1]
    else:
        test = _draw(everything, settings.test_fraction, f"test|{seed}|{member}")
    rest = np.setdiff1d(everything, test)
    validation = _draw(rest, settings.validation_fraction, f"validation|{seed}|{member}")
    train = np.setdiff1d(rest, validation)
    return Split(rows.take(train), rows.take(validation), rows.take(test))


def join(splits: Sequence[Split]) -> Split:
    """Return the parts of all members put together, for the pooled baseline."""
    return Split(
        Rows.concat([s.train for s in splits]),
        Rows.concat([s.validation for s in splits]),
        Rows.concat([s.test for s in splits]),
    )


def partition(rows: Rows, data: DataSettings, simulate: SimulateSettings, seed: int) -> dict[str, Rows]:
    """Return each simulated member's rows by name, in the order of the names; every row goes to one member.

    Args:
        rows: the whole table, with the site column in ``groups``.
        data: names the site column.
        simulate: ``site``: one member per value; ``random``: equal parts; ``dirichlet``: each class is dealt
            out by its own Dirichlet(alpha) draw.
        seed: of the draws.

    Raises:
        InputError: ``data.site``: site missing, written in two ways, or no valid name; ``data.empty``: fewer
            rows than members; ``config.value``: dirichlet without class labels.
    """
    if simulate.partition == "site":
        return _sites(rows, data)
    count = simulate.members or 0
    if len(rows) < count:
        raise InputError("data.empty", f"the table has {len(rows)} rows; expected at least one for each of {count}")
    owner = _owners(rows, simulate, count, generator(f"partition|{seed}"))
    width = len(str(count))
    return {f"member-{i + 1:0{width}}": rows.take(np.flatnonzero(owner == i)) for i in range(count)}


def generator(purpose: str) -> np.random.Generator:
    """Return a generator seeded by the SHA-256 of ``purpose``."""
    return np.random.default_rng(int.from_bytes(hashlib.sha256(purpose.encode()).digest()[:16], "big"))


def _group(rows: Rows, name: str, code: str) -> NDArray[np.object_]:
    if name not in rows.groups:
        raise InputError(code, f"the rows come without a column {name!r}; {nearest(name, rows.groups)}")
    return rows.groups[name]


def _read_csv(path: Path) -> pd.DataFrame:
    header = pd.read_csv(path, header=None, nrows=1, dtype=str, keep_default_na=False, encoding="utf-8-sig")
    names = [str(name) for name in header.iloc[0]]
    doubled = [name for name in names if names.count(name) > 1]
    if doubled:  # pandas would rename the second one in silence
        raise InputError("data.column", f"data file {path} has two columns {doubled[0]!r}; expected one")
    with warnings.catch_warnings():
        warnings.simplefilter("error", pd.errors.ParserWarning)  # a row longer than the header
        frame = pd.read_csv(path, dtype=str, keep_default_na=False, index_col=False, encoding="utf-8-sig")
    with (gzip.open if path.suffix.lower() == ".gz" else open)(path, "rt", encoding="utf-8-sig", newline="") as file:
        if any(0 < len(row) < len(names) for row in csv.reader(file)):  # pandas would fill it up in silence
            raise InputError(
                "data.file", f"data file {path} has a row with fewer cells than the header; expected a whole table"
            )
    return frame


def _draw(index: NDArray[np.int64], fraction: float, purpose: str) -> NDArray[np.int64]:
    count = min(int(len(index) * fraction + 0.5), len(index) - 1)
    return np.sort(generator(purpose).permutation(index)[:count])


def _sites(rows: Rows, data: DataSettings) -> dict[str, Rows]:
    if data.site is None:
        raise InputError("data.site", 'partition = "site" needs [data] site; expected the column that names the member')
    sites = _group(rows, data.site, "data.site")
    column = f"{data.path.name if data.path else 'the table'}: column {data.site!r}"
    if any(site is None for site in sites):
        raise InputError("data.site", f"{column} has an empty cell; expected a member's name in every row")
    names: dict[str, str] = {}
    for site in sorted(set(sites)):
        plain = " ".join(site.split()).casefold()
        if plain in names:
            raise InputError(
                "data.site",
                f"{column} holds both {names[plain]!r} and {site!r}; expected one way to write a member's name",
            )
        names[plain] = site
        try:
            TypeAdapter(Name).validate_python(site.strip())
        except ValidationError:
            raise InputError(
                "data.site",
                f"{column} holds {site!r}; expected {NAME}",
            ) from None
    return {site.strip(): rows.take(np.flatnonzero(sites == site)) for site in sorted(names.values())}


def _owners(rows: Rows, simulate: SimulateSettings, count: int, rng: np.random.Generator) -> NDArray[np.int64]:
    owner = np.empty(len(rows), dtype=np.int64)
    if simulate.partition == "random":
        owner[rng.permutation(len(rows))] = np.arange(len(rows)) % count
        return owner
    labels = rows.targets.numpy()
    if labels.ndim != 1:
        raise InputError("config.value", 'partition = "dirichlet" needs one class label a row; expected "random"')
    for label in np.unique(labels):
        index = rng.permutation(np.flatnonzero(labels == label))
        cuts = np.cumsum(rng.dirichlet(np.full(count, simulate.alpha)))[:-1]
        for i, part in enumerate(np.split(index, np.round(cuts * len(index)).astype(np.int64))):
            owner[part] = i
    for i in range(count):  # a member without a row takes one from the largest
        if not (owner == i).any():
            largest = np.bincount(owner, minlength=count).argmax()
            owner[rng.choice(np.flatnonzero(owner == largest))] = i
    return owner
