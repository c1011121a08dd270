"""The recipe: every setting that acts on a member's own values. All members sign it, and a run chooses little of it.

A run chooses its seed and one of the server optimisers that the recipe offers, and may have fewer rounds. ``init_seed``
is the circle's, whatever a run's file says. A server optimiser acts on what was opened. Any other setting that changed
from one run to the next would, run by run, tell one member's rows from the others' (``docs/protocol.md``, rule 1).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import Field, model_validator

from ..canonical import canonical, digest
from ..errors import InputError
from .schema import Schema
from .settings import (
    AUTO,
    DIGEST,
    CryptoSettings,
    DataRules,
    FederationSettings,
    GateSettings,
    RunSettings,
    TaskSettings,
    parse,
)
from .strict import Table
from .training import Choice, Choices, TrainingSettings

MAX_BYTES = 1 << 18
FREE = ("training.seed", "training.rounds", "training.init_seed")
CHECKPOINT_KINDS = (".safetensors", ".pt", ".pth")
_TABLES = ("federation", "task", "data", "training", "crypto", "gate", "choice")
_CHOSEN = tuple("training." + name for name in Choice.model_fields)


class Recipe(Table):
    """A run config without ``[simulate]`` and paths, plus the schema's content and the digest of the code.

    Attributes:
        columns: the schema, as :meth:`Schema.to_dict` writes it.
        checkpoint: SHA-256 of the file whose tensors version 0 starts from, 64 hex digits, or "".
        code: SHA-256 of the task's code, 64 hex digits.
        numerics: number of the package's arithmetic (``version.NUMERICS``).
    """

    federation: FederationSettings
    task: TaskSettings
    data: DataRules
    training: TrainingSettings
    crypto: CryptoSettings
    gate: GateSettings
    choice: Choices
    columns: dict[str, Any] = Field(alias="schema", description="columns and label, with ranges and categories")
    checkpoint: str = Field(pattern=r"^([0-9a-f]{64})?$", description="SHA-256 of the checkpoint file, or none")
    code: str = Field(pattern=DIGEST, description="SHA-256 of the task's code")
    numerics: int = Field(ge=1, description="number of the package's arithmetic")

    @model_validator(mode="after")
    def _found(self) -> Recipe:
        """Check that a recipe for real rows states the values that only a practice can find by itself."""
        if self.federation.practice:
            return self
        if self.crypto.clip == AUTO:
            raise ValueError(f'crypto.clip = "{AUTO}"; expected a number (moonflower simulate proposes one)')
        if not self.gate.max_step:
            raise ValueError("gate.max_step = 0; expected a number above 0 (moonflower simulate proposes one)")
        if not self.training.max_rows:
            raise ValueError(
                "training.max_rows = 0; expected a whole number at least 1, the most training rows of a member that "
                "count (moonflower simulate proposes one)"
            )
        return self

    def as_dict(self) -> dict[str, Any]:
        """Return the whole recipe as JSON-able values; a circle's digest covers it."""
        return self.model_dump(mode="json", by_alias=True)

    @property
    def schema_digest(self) -> str:
        """SHA-256 of the schema."""
        return Schema.from_dict(self.columns).digest()


def recipe_of(settings: RunSettings, schema: Schema, code: str, numerics: int) -> Recipe:
    """Return the recipe of a run config.

    Raises:
        InputError: ``config.value``: the recipe is too large, or an option of the task has no JSON form;
            ``config.checkpoint``: the checkpoint file cannot be read.
    """
    tables = settings.model_dump(include={*_TABLES} - {"data"}, mode="json")
    rules = settings.data.rules.model_dump(mode="json")
    own = {"schema": schema.to_dict(), "checkpoint": _digest_of(settings.data.checkpoint), "code": code}
    return parse_recipe({**tables, "data": rules, **own, "numerics": numerics}, where="the run config")


def _digest_of(checkpoint: Path | None) -> str:
    """Return the SHA-256 of a checkpoint file, 64 hex digits; "" without one.

    Raises:
        InputError: ``config.checkpoint``: it cannot be read, or its ending is not one of a known kind.
    """
    if checkpoint is None:
        return ""
    if checkpoint.suffix.lower() not in CHECKPOINT_KINDS:
        kinds = ", ".join(CHECKPOINT_KINDS)
        raise InputError("config.checkpoint", f"checkpoint file {checkpoint} has an unknown ending; expected {kinds}")
    try:
        with checkpoint.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise InputError(
            "config.checkpoint", f"checkpoint file {checkpoint} cannot be read: {error.strerror}"
        ) from None


def parse_recipe(raw: Any, *, where: str) -> Recipe:
    """Return a recipe that came from outside, after a check that it has every key and no other.

    Raises:
        InputError: ``config.value``, ``config.schema``: names ``where`` and the key.
    """
    if not isinstance(raw, Mapping):
        raise InputError("config.value", f"{where}: expected a recipe, a table of tables")
    recipe = parse(Recipe, raw, where=where)
    Schema.from_dict(recipe.columns, where=f"{where}: schema")
    try:
        written, came = canonical(recipe.as_dict()), canonical(dict(raw))
        json.dumps(raw, ensure_ascii=False).encode()  # a lone surrogate has no UTF-8 form, and no page could show it
    except (ValueError, TypeError):
        raise InputError(
            "config.value", f"{where}: a value has no JSON form; expected strings and finite numbers"
        ) from None
    if len(written) > MAX_BYTES:
        what = f"{where}: the recipe takes {len(written)} bytes"
        raise InputError("config.value", f"{what}; expected at most {MAX_BYTES}, because it goes into the log")
    if written != came:
        odd = [change.key for change in changes(raw, recipe.as_dict())]
        raise InputError("config.value", f"{where}: {', '.join(odd[:3])}: missing; expected every key of a recipe")
    return recipe


@dataclass(frozen=True)
class KeyChange:
    """A key in which two recipes differ.

    Attributes:
        key: dotted; ``schema.columns.NAME`` for a column.
        before, after: the values; None where the key is absent.
    """

    key: str
    before: Any
    after: Any


def changes(before: Mapping[str, Any], after: Mapping[str, Any]) -> tuple[KeyChange, ...]:
    """Return the keys in which two recipes differ, in the order of the file.

    >>> changes({"training": {"lr": 0.1}}, {"training": {"lr": 0.2}})
    (KeyChange(key='training.lr', before=0.1, after=0.2),)
    """
    old, new = dict(_flat(before)), dict(_flat(after))
    keys = dict.fromkeys((*old, *new))
    differences = (KeyChange(key, old.get(key), new.get(key)) for key in keys)
    return tuple(change for change in differences if canonical(change.before) != canonical(change.after))


def _flat(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Yield every leaf of nested tables with its dotted key; columns go by their names."""
    if path == "schema.columns" and isinstance(value, list):
        value = {str(column.get("name")) if isinstance(column, Mapping) else str(column): [column] for column in value}
    if isinstance(value, Mapping) and value:
        for key, inner in value.items():
            yield from _flat(inner, f"{path}.{key}" if path else str(key))
    else:
        yield path, value[0] if path.startswith("schema.columns.") else value


def not_free(recipe: Recipe, asked: Recipe) -> tuple[KeyChange, ...]:
    """Return the keys that a run asks to change although its circle's recipe fixes them; empty if it fits."""
    changed = changes(recipe.as_dict(), asked.as_dict())
    free = FREE if chosen(recipe, asked) is None else (*FREE, *_CHOSEN)
    more = asked.training.rounds > recipe.training.rounds
    return tuple(
        change for change in changed if not change.key.startswith(free) or (more and change.key == "training.rounds")
    )


def chosen(recipe: Recipe, asked: Recipe) -> int | None:
    """Return which server optimiser a run asks for: 0 for that of ``[training]``, k for the k-th ``[[choice]]``.

    None if the recipe offers no such server optimiser.
    """
    offered = (Choice.of(recipe.training), *recipe.choice)
    wanted = Choice.of(asked.training)
    return offered.index(wanted) if wanted in offered else None


def draw_of(recipe: Recipe, names: tuple[str, ...]) -> str:
    """Return what version 0 is drawn from, 64 hex digits: federation, members, task, schema, init_seed, checkpoint."""
    about = {
        "federation": recipe.federation.name,
        "members": sorted(names),
        "task": recipe.task.model_dump(mode="json"),
        "schema": recipe.columns,
        "init_seed": recipe.training.init_seed,
    }
    return digest(about | ({"checkpoint": recipe.checkpoint} if recipe.checkpoint else {}))
