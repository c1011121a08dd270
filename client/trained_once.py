"""Training that would not give the same bits again, kept until the next round: a GPU's, or that of a task's own code.

A round that is repeated has to seal the same update (rule 2). Where training cannot be repeated, its result is kept in
one file beside the seals, 0600, outside ledger and backups. It holds what the update is made of, in clear, as the
node's rows are.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load, save

from .. import files
from .learning.learner import Trained

_VECTOR, _OWN = "vector", "own/"


class TrainedOnce:
    """The result of the newest training.

    Args:
        path: of its file; None keeps it in memory (simulate).
    """

    def __init__(self, path: Path | None) -> None:
        self._path, self._kept = path, dict[str, bytes]()

    def get(self, key: str, train: Callable[[], Trained]) -> Trained:
        """Return what was trained under a key; train now, and keep the result, if that is not known.

        A result that is not finite is never sealed, so it is not kept: the round's next number trains anew.

        Args:
            key: 64 hex digits that name everything on which the training depends.
            train: trains.
        """
        known = self._read(key)
        if known is not None:
            return known
        trained = train()
        if not np.isfinite(trained.vector).all():
            return trained
        own = {_OWN + name: np.ascontiguousarray(value) for name, value in trained.personal.items()}
        data = key.encode() + save({_VECTOR: trained.vector, **own})
        if self._path is None:
            self._kept = {"": data}
        else:
            files.make_folder(self._path.parent, 0o700)
            files.replace(self._path, data, 0o600)
        return trained

    def drop(self) -> None:
        """Forget it."""
        self._kept.clear()
        if self._path is not None:
            files.remove(self._path)

    def _read(self, key: str) -> Trained | None:
        try:
            data = self._kept.get("", b"") if self._path is None else self._path.read_bytes()
        except FileNotFoundError:
            return None
        if not data.startswith(key.encode()):
            return None
        try:
            tensors = load(data[len(key) :])
        except SafetensorError:
            return None
        own = {name.removeprefix(_OWN): value for name, value in tensors.items() if name.startswith(_OWN)}
        return Trained(tensors[_VECTOR], own)
