"""A member's own tensors: what the recipe calls ``personal``, and its own whole model of Ditto. They never leave it.

The tensors that a round trained belong to the candidate that the round made, so a round that is refused or repeated
begins with those of its base again. They are kept by the version's identity, because a copy that is marked as not
released has the same numbers and another digest. Those of the newest promoted versions stay, so that a released version
can be used with them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load, save
from sqlalchemy import bindparam, select

from ...store import Store, by, put
from . import ddl

PROMOTED = 3
"""Promoted versions whose own tensors stay."""
_ROW = ddl.own_parts.c
_NEWEST = select(_ROW.key).where(_ROW.promoted).order_by(_ROW.turn.desc()).limit(PROMOTED)
_TURN = select(_ROW.turn).order_by(_ROW.turn.desc()).limit(1)
_MARK = ddl.own_parts.update().where(_ROW.key == bindparam("version")).values(promoted=True)

Tensors = Mapping[str, NDArray[Any]]


class OwnParts:
    """The own tensors of a member, by version.

    Args:
        store: the ledger's.
    """

    def __init__(self, store: Store) -> None:
        self._store = store

    def note(self, base: str, promoted: bool, context: str, tensors: Tensors) -> None:
        """Note whether a base was promoted, and keep what a round trained from it, until its candidate is known.

        An earlier training of the round is replaced. A report trains nothing, but it is how a member learns that the
        last version of a run was promoted.

        Args:
            base: identity of the version that the round trained from, or that a report is about.
            promoted: whether it was promoted, so that its own tensors stay.
            context: digest of the round's.
            tensors: by name; empty if nothing was trained.
        """
        with self._store.transaction() as db:
            if promoted:
                db.execute(_MARK, {"version": base})
            if not tensors:
                return
            data = save({name: np.ascontiguousarray(value) for name, value in tensors.items()})
            kept = {*db.execute(_NEWEST).scalars(), base}
            db.execute(ddl.own_parts.delete().where(_ROW.key.not_in(kept)))
            turn = (db.execute(_TURN).scalar() or 0) + 1
            db.execute(put(ddl.own_parts), {"key": context, "tensors": data, "promoted": False, "turn": turn})

    def adopt(self, context: str, version: str) -> None:
        """Let what a round trained belong to its candidate; do nothing if the round trained nothing here.

        Args:
            context: digest of the round's.
            version: identity of the candidate.
        """
        with self._store.transaction() as db:
            row = db.execute(by(ddl.own_parts, "key"), {"key": context}).one_or_none()
            if row is not None:
                db.execute(put(ddl.own_parts), {**row._asdict(), "key": version, "turn": row.turn + 1})

    def of(self, version: str) -> dict[str, NDArray[Any]]:
        """Return the own tensors of a version by name; empty if there are none."""
        with self._store.read() as db:
            row = db.execute(by(ddl.own_parts, "key"), {"key": version}).one_or_none()
        return {} if row is None else dict(load(bytes(row.tensors)))
