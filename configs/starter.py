"""A run config to begin with, for a table whose schema was just inferred."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from pathlib import Path

from .infer import Inferred
from .names import slug
from .targets import CLASSES, COUNT, NUMBER, TIME

RARE = 0.1
"""Share of the rows below which one of two classes is rare."""
_TRAINING: Mapping[str, tuple[int, int, float]] = {
    CLASSES: (20, 5, 0.1),
    NUMBER: (40, 5, 0.05),
    COUNT: (30, 5, 0.02),
    TIME: (30, 5, 0.1),
}
"""Kind of label → rounds, local epochs, rate. A squared loss and a Poisson loss want a smaller rate."""
_MEMBERS = 5
_FEWEST = 3


def starter(
    found: Inferred, *, table: Path, schema: Path, config: Path, site: str | None, sites: int, given: Mapping[str, str]
) -> str:
    """Return the text of a run config (TOML) that ``moonflower simulate`` takes.

    Args:
        found: what was inferred.
        table, schema, config: where table and schema are, and where the config will be.
        site: column that names the member, if there is one.
        sites: different names in it.
        given: ``separator``, ``decimal`` and ``encoding`` as a person gave them, empty if found by looking.
    """
    kind = found.schema.label.kind
    rounds, epochs, rate = _TRAINING[kind]
    by_site = site is not None and sites >= _FEWEST
    lines = [
        "# Settings to begin with. docs/training.md has all of [training]; the command simulate proposes the rest.",
        "[federation]",
        f"name = {_text(slug(_name(table)) or 'table')}",
        "",
        "[task]",
        'ref = "moonflower.client.tasks.tabular:task"',
        "hidden = []                     # [] = a linear model; [32] = one hidden layer",
        *_weights(found),
        "",
        "[data]",
        f"path = {_text(_from(config, table))}",
        f"label = {_text(found.schema.label.name)}",
        *([f"site = {_text(site)}"] if site is not None and by_site else []),
        *(f"{key} = {_text(value)}" for key, value in given.items() if value),
        f"schema = {_text(_from(config, schema))}",
        "test_fraction = 0.2",
        "validation_fraction = 0.2       # of the training rows, for the gate",
        'on_bad = "refuse"               # "drop" leaves rows out that the schema does not allow, and counts them',
        "",
        "[simulate]",
        'partition = "site"' if by_site else f'partition = "random"\nmembers = {_MEMBERS}',
        "",
        "[training]",
        f"rounds = {rounds}",
        f"local_epochs = {epochs}",
        f"lr = {rate:g}",
        "report_every = 5",
    ]
    return "\n".join(lines) + "\n"


def _weights(found: Inferred) -> list[str]:
    """Return the weights of two classes of which one is rare, as a line; about the same sum of weights in each class.

    They have one digit: the config will be shared, and says little about this table.
    """
    counts = [found.label.classes.get(str(one), 0) for one in getattr(found.schema.label, "classes", ())]
    if len(counts) != 2 or not all(counts) or min(counts) >= RARE * sum(counts):
        return []
    weights = [float(f"{sum(counts) / 2 / count:.1g}") for count in counts]
    return [f"class_weights = {weights}     # a class is rare; with weights, scores are no chances"]


def _name(table: Path) -> str:
    return re.sub(r"(\.(csv|tsv|txt|parquet|gz|zst|bz2))+$", "", table.name) or table.name


def _from(config: Path, file: Path) -> str:
    """Return a path as a config in another folder names it."""
    return Path(os.path.relpath(file.absolute(), config.absolute().parent)).as_posix()


def _text(value: str) -> str:
    return json.dumps(value, ensure_ascii=False)
