"""Splits of rows: a member's rows into training, validation and test, or a whole table dealt out to members.

A member's rows are dealt by a keyed hash of each row, under the node's own secret (rule 8). A row's part does not
depend on other rows, on their order or on the run. So a table that grows moves no row to another part, and without the
secret nobody can compute which rows a member trained with. Dealing a whole table out to members is seeded by the run,
which everybody may know.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Iterator, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import TypeAdapter, ValidationError
from torch import Tensor

from ...configs.names import NAME, Name, nfc
from ...configs.schema import text
from ...configs.settings import DataSettings, SimulateSettings
from ...errors import InputError, nearest
from ..secret import NodeSecret
from .datasets import DatasetRows
from .rows import Rows, Split

_CELLS = 1 << 20
"""Cells that are hashed at once, which bounds the memory of their copies."""
_FILES = 1024


def split(rows: Rows, settings: DataSettings, *, secret: NodeSecret, member: str) -> Split:
    """Return the parts of a member's rows, each in the order of its rows' keyed hashes; the table's order is ignored.

    A row is its inputs and targets as read. Equal rows are in the same part, as often as they occur. A row's keyed hash
    gives two numbers in [0, 1). If the first is below ``test_fraction``, it is a test row. Else, if the second is below
    ``validation_fraction``, it is a validation row. Else it is a training row. So the sizes of the parts vary by
    chance. If no row is left for training, the row with the smallest hash and its equals become training rows: taken
    from the validation rows, or from the test rows if there are no validation rows. The test part does not depend on
    ``validation_fraction``.

    Args:
        rows: one row or more.
        settings: fractions; or a mark (``test_column``, ``test_value``), which then alone decides what a test row is.
        secret: the node's own.
        member: name, for messages.

    Raises:
        InputError: ``data.empty``: no rows; ``data.column``: the mark's column is missing.
    """
    if not len(rows):
        raise InputError("data.empty", f"member {member!r} has no rows; expected at least one")
    hashes = row_hashes(rows, secret, "split")
    if settings.test_column is not None:
        marks = _group(rows, settings.test_column, "data.column")
        wanted = text(settings.test_value)
        test = np.array([mark is not None and text(mark) == wanted for mark in marks])
    else:
        test = hashes[:, 0] * 2.0**-64 < settings.test_fraction
    validation = ~test & (hashes[:, 1] * 2.0**-64 < settings.validation_fraction)
    order = np.lexsort((hashes[:, 1], hashes[:, 0]))
    if (test | validation).all():
        spare = validation if validation.any() else test
        smallest = hashes[order[spare[order]][0]]
        spare &= (hashes != smallest).any(axis=1)
    del hashes  # of many rows they take as much memory as the parts
    test, validation = test[order], validation[order]
    train = ~(test | validation)
    return Split(rows.take(order[train]), rows.take(order[validation]), rows.take(order[test]))


def parts_of(order: NDArray[np.int64], parts: int) -> list[NDArray[np.int64]]:
    """Return an epoch's parts in their order, without empty parts; their sizes differ by one at most.

    >>> [len(part) for part in parts_of(np.arange(10), 4)]
    [3, 3, 2, 2]
    """
    return np.array_split(order, min(parts, len(order)))


def row_hashes(rows: Rows, secret: NodeSecret, purpose: str) -> NDArray[np.uint64]:
    """Return two numbers for every row, ``uint64[n, 2]``: 128 bits of the HMAC-SHA256 of its cells for a purpose.

    Cells are hashed as float64, so that their type does not matter. All NaN are equal, and so are 0 and -0. Where a
    dataset has digests of its rows, such as of the files that it reads, these and the targets are hashed instead.
    """
    out = np.empty((len(rows), 2), dtype=np.uint64)
    start, key = 0, secret.keyed(purpose)
    for cells in _cells(rows):
        macs = [hmac.digest(key, row, "sha256")[:16] for row in cells]
        out[start : start + len(macs)] = np.frombuffer(b"".join(macs), dtype=">u8").reshape(-1, 2)
        start += len(macs)
    return out


def _cells(rows: Rows) -> Iterator[list[bytes]]:
    """Yield the bytes that tell rows apart, chunk by chunk."""
    if isinstance(rows, DatasetRows) and rows.digested:
        for start in range(0, len(rows), _FILES):
            part = rows.take(np.arange(start, min(start + _FILES, len(rows))))
            yield [one + target for one, target in zip(part.digests(), _bytes(part.targets), strict=True)]
        return
    width = sum(part.numel() for part in rows[0]) if len(rows) else 0
    for chunk in rows.chunks(max(1, _CELLS // max(width, 1))):
        if len(chunk):
            both = [part.reshape(len(chunk), -1).double() for part in (chunk.inputs, chunk.targets)]
            yield _bytes(torch.cat(both, dim=1))


def _bytes(cells: Tensor) -> list[bytes]:
    """Return the bytes of each row of a tensor, as little-endian float64."""
    table = cells.reshape(len(cells), -1).double().numpy()
    data = np.where(np.isnan(table), np.nan, table + 0.0).astype("<f8", copy=False).tobytes()
    size = 8 * table.shape[1]
    return [data[at : at + size] for at in range(0, len(data), size)]


def join(splits: Sequence[Split]) -> Split:
    """Return the parts of all members joined, for the pooled baseline."""
    return Split(
        joined([s.train for s in splits]),
        joined([s.validation for s in splits]),
        joined([s.test for s in splits]),
    )


def joined(parts: Sequence[Rows]) -> Rows:
    """Return rows of several members as one."""
    first, *others = parts
    if isinstance(first, DatasetRows):
        return first.joined([part for part in others if isinstance(part, DatasetRows)])
    return Rows.concat(parts)


def partition(rows: Rows, data: DataSettings, simulate: SimulateSettings, seed: int) -> dict[str, Rows]:
    """Return each simulated member's rows by name, in the order of the names; every row goes to one member.

    Args:
        rows: the whole table, with the site column in ``groups``.
        data: names the site column.
        simulate: ``site``: one member per value; ``random``: equal parts; ``dirichlet``: each class is dealt
            out by its own Dirichlet(alpha) draw.
        seed: of the draws.

    Raises:
        InputError: ``data.site``: a site is missing, spelt in two ways, or not a valid name; ``data.empty``: fewer
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
        raise InputError(code, f"the rows have no column {name!r}; {nearest(name, rows.groups)}")
    return rows.groups[name]


def _sites(rows: Rows, data: DataSettings) -> dict[str, Rows]:
    if data.site is None:
        raise InputError("data.site", 'partition = "site" needs [data] site; expected the column that names the member')
    sites = _group(rows, data.site, "data.site")
    column = f"{data.path.name if data.path else 'the table'}: column {data.site!r}"
    empty = sum(site is None for site in sites)
    if empty:
        cells = "an empty cell" if empty == 1 else f"{empty} empty cells"
        raise InputError("data.site", f"{column} has {cells}; expected a member's name in every row")
    names: dict[str, list[str]] = {}
    for site in sorted(set(sites)):
        names.setdefault(" ".join(nfc(site).split()).casefold(), []).append(site)
    doubled = sum(len(spelt) > 1 for spelt in names.values())
    if doubled:
        raise InputError(
            "data.site",
            f"{column} has {doubled} of {len(names)} names in several spellings, which differ in capital letters or "
            "blanks; expected one spelling of a member's name",
        )
    sound = [spelt[0] for spelt in names.values()]
    odd = sum(not _is_name(site) for site in sound)
    if odd:
        raise InputError("data.site", f"{column} has {odd} of {len(sound)} names that are not allowed; expected {NAME}")
    return {nfc(site.strip()): rows.take(np.flatnonzero(sites == site)) for site in sound}


def _is_name(site: str) -> bool:
    try:
        TypeAdapter(Name).validate_python(site.strip())
    except ValidationError:
        return False
    return True


def _owners(rows: Rows, simulate: SimulateSettings, count: int, rng: np.random.Generator) -> NDArray[np.int64]:
    owner = np.empty(len(rows), dtype=np.int64)
    if simulate.partition == "random":
        owner[rng.permutation(len(rows))] = np.arange(len(rows)) % count
        return owner
    labels = rows.targets.numpy()
    if labels.ndim != 1:
        raise InputError(
            "config.value", 'partition = "dirichlet" needs one class label for each row; expected "random"'
        )
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
