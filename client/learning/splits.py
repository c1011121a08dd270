"""Which rows are whose: a member's into training, validation and test, or a whole table dealt out to members.

Every draw is seeded by hashing (seed, member, purpose), so that it depends on no other draw; a row is in exactly one
part, and training always has one.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from pydantic import TypeAdapter, ValidationError

from ...configs.schema import text
from ...configs.settings import NAME, DataSettings, Name, SimulateSettings
from ...errors import InputError, nearest
from .rows import Rows, Split


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
