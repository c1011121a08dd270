"""The act: what a new circle changes about the circle before, and what that gives away, in sentences.

Every member that signs makes these sentences from its own data. None of them comes from the coordinator.
"""

from __future__ import annotations

import base64
import json
from dataclasses import dataclass
from typing import Any

from ..configs.recipe import KeyChange, changes
from ..configs.sentences import OWN_TRAINING, SETTLING
from .circle import Circle, Start

RECOUNTED = ("data.", "schema.", "task.ref", "code", "training.max_rows")
"""Keys of the recipe whose change makes every member count its rows anew. So does a change of members."""
BY_RULE = ("task.", "training.")
"""Keys that a recipe may change if a node is to sign by the rule ``same-names``, except those in :data:`BY_HAND`."""
BY_HAND = (
    "task.ref",
    "training.loop",
    "training.report_every",
    "training.max_rows",
    "training.personal",
    "training.ditto",
)
_MORE_IS_SAFER = (
    "federation.min_members",
    "federation.let_go_days",
    "data.min_count",
    "gate.approvals_required",
)
_WORD_BYTES = 12
_DRAW = "training.init_seed"


@dataclass(frozen=True)
class Act:
    """What a circle changes.

    Attributes:
        joins, leaves: (name, pin) pairs. A member with a new key is in both.
        changed: keys of the recipe that differ; empty for a first circle.
        lowers: keys of the recipe whose change lowers a protection.
        recounts: rows are counted anew.
        new_ledgers: names of the members that begin a new ledger.
        start: where runs start from now on, instead of version 0; None for version 0.
        checkpoint: SHA-256 of the file whose tensors version 0 has, if runs start there; or "".
        warns: what the new recipe gives away, whatever it changes.
    """

    joins: tuple[tuple[str, str], ...]
    leaves: tuple[tuple[str, str], ...]
    changed: tuple[KeyChange, ...]
    lowers: tuple[KeyChange, ...]
    recounts: bool
    new_ledgers: tuple[str, ...]
    start: Start | None
    checkpoint: str
    warns: tuple[str, ...] = ()

    @classmethod
    def between(cls, before: Circle | None, after: Circle) -> Act:
        """Return what ``after`` changes about ``before``, the circle that the caller is in now, or None."""
        checkpoint = after.recipe.checkpoint if after.start is None else ""
        if before is None:
            return cls(after.members, (), (), (), True, after.new_ledgers, after.start, checkpoint, _warns(after))
        changed = changes(before.recipe.as_dict(), after.recipe.as_dict())
        return cls(
            tuple(pair for pair in after.members if pair not in before.members),
            tuple(pair for pair in before.members if pair not in after.members),
            changed,
            tuple(change for change in changed if _lowers(change)),
            after.counted != before.counted,
            after.new_ledgers,
            after.start,
            checkpoint,
            _warns(after),
        )

    @property
    def must_recount(self) -> bool:
        """Whether rows have to be counted anew: the members changed, or the rules for which rows count."""
        return bool(self.joins or self.leaves) or any(change.key.startswith(RECOUNTED) for change in self.changed)

    @property
    def by_rule(self) -> bool:
        """Whether ``same-names`` signs this act: the same members, and other options of task and training only.

        It does not sign a start from a file: sums may have been opened over the file's tensors.
        """
        keys = [change.key for change in self.changed]
        within = all(key.startswith(BY_RULE) and key not in BY_HAND for key in keys)
        imports = bool(self.checkpoint) or (self.start is not None and self.start.imported)
        return within and not (self.joins or self.leaves or self.recounts or self.new_ledgers or imports)

    def words(self, *, spent: bool = False) -> list[str]:
        """Return the act as sentences, the most important first.

        Args:
            spent: the caller knows that a sum was opened over the version from which runs start, or that a circle
                began with the same checkpoint file.
        """
        sentences = self._start_words(spent)
        sentences += [f"LOWERS A PROTECTION: {change_words(change)}." for change in self.lowers]
        sentences += [
            f"{name} is let go: whoever compares sums of before and after can tell its part of them."
            for name, _ in self.leaves
        ]
        sentences += [f"{name} joins, with the key whose words are: {pin_words(pin)}." for name, pin in self.joins]
        sentences += [
            f"{name} lost its ledger and begins a new one: it no longer knows what it sealed and answered."
            for name in self.new_ledgers
        ]
        sentences += self.warns
        sentences += [
            f"{change_words(change)}." for change in self.changed if change not in self.lowers and change.key != _DRAW
        ]
        if any(change.key == _DRAW for change in self.changed):
            sentences.append(
                "Version 0 is drawn anew, except the tensors of the file."
                if self.checkpoint
                else "Version 0 is drawn anew, so no sum was opened over it before."
            )
        if self.settings:
            sentences.append(
                "A changed recipe gives away what it touches: over the same rows, sums under the old recipe and under "
                "the new one differ only in that."
            )
        if self.recounts and not self.first:
            sentences.append(
                "Rows are counted anew: a party that compares the counts before and after learns what was added and "
                "what was removed. For a single member that joins or leaves, that is its number of rows."
            )
        return sentences or ["Nothing changes but the number."]

    def _start_words(self, spent: bool) -> list[str]:
        trust = "Its numbers do not show whether it was shaped so that the next sums single out rows."
        if self.start is None:
            return self._file_words(trust, spent) if self.checkpoint else []
        which = f"sha256:{self.start.sha256}"
        if self.start.imported:
            return [
                f"IMPORTS A MODEL: runs start from the file {which}, which no sum of this federation made. {trust} "
                "Trust it as much as you trust its maker."
            ]
        if self.first:
            return [
                f"STARTS FROM A MODEL that members of an earlier circle promoted, {which}; this node saw nothing of "
                f"that. {trust} Trust it as much as you trust those members."
            ]
        sentences = [f"Runs start from the version {which}, which all names promoted, with its scaling."]
        if spent:
            sentences.insert(
                0,
                "STARTS WHERE SUMS WERE OPENED: a party that compares them with the sums of this circle can tell what "
                "a joining or leaving member, or a changed recipe, adds to them.",
            )
        return sentences

    def _file_words(self, trust: str, spent: bool) -> list[str]:
        sentences = [
            f"STARTS FROM A FILE: version 0 has the tensors of the checkpoint file sha256:{self.checkpoint}, which no "
            f"sum of this federation made. {trust} Trust it as much as you trust its maker."
        ]
        if spent:
            sentences.insert(
                0,
                "MAY START WHERE SUMS WERE OPENED: an earlier circle began with this file. If tensors of it are "
                "trained, a party that compares the sums of both circles can tell what a joining or leaving member, "
                "or a changed recipe, adds to them.",
            )
        return sentences

    @property
    def settings(self) -> tuple[KeyChange, ...]:
        """The changed keys, except the key from which version 0 is drawn."""
        return tuple(change for change in self.changed if change.key != _DRAW)

    @property
    def first(self) -> bool:
        """Whether there was no circle before."""
        return not self.leaves and not self.changed and self.recounts and bool(self.joins)


def _warns(circle: Circle) -> tuple[str, ...]:
    training = circle.recipe.training
    own = (OWN_TRAINING,) if training.loop == "own" else ()
    return (*own, SETTLING) if training.personal else own


def change_words(change: KeyChange) -> str:
    """Return a change of the recipe as one line.

    >>> change_words(KeyChange("training.lr", 0.1, 0.2))
    'training.lr: 0.1 becomes 0.2'
    """
    if change.before is None and change.key.startswith("schema."):
        return f"{change.key}: {_value(change.after)} is new"
    if change.after is None and change.key.startswith("schema."):
        return f"{change.key}: {_value(change.before)} is removed"
    return f"{change.key}: {_value(change.before)} becomes {_value(change.after)}"


def pin_words(pin: str) -> str:
    """Return the first 96 bits of a pin as six words that can be read aloud: proquints (arXiv:0901.4016).

    >>> pin_words("fwAAAQAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA")
    'lusab-babad-babab-babab-babab-babab'
    """
    data = base64.urlsafe_b64decode(pin + "=")[:_WORD_BYTES]
    numbers = [int.from_bytes(data[at : at + 2], "big") for at in range(0, len(data), 2)]
    return "-".join(
        _CONSONANTS[n >> 12]
        + _VOWELS[n >> 10 & 3]
        + _CONSONANTS[n >> 6 & 15]
        + _VOWELS[n >> 4 & 3]
        + _CONSONANTS[n & 15]
        for n in numbers
    )


_CONSONANTS, _VOWELS = "bdfghjklmnprstvz", "aiou"


def _lowers(change: KeyChange) -> bool:
    if change.key in _MORE_IS_SAFER:
        return float(change.after) < float(change.before)
    return change.key == "gate.release" and change.after == "automatic"


def _value(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)
