"""What a node may do and what it signed, as sentences: its floor, and the recipe of its circle."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from ..configs.floor import floor_sentences
from ..configs.roles import ClientConfig, load_config
from ..configs.sentences import sentences
from . import folders
from .machine import Check

Sentences = dict[str, list[str]]


@dataclass(frozen=True)
class Spoken:
    """Sentences about a node, by heading.

    Attributes:
        floor: its own limits; None if the config is not a node's.
        recipe: the recipe of its circle; None if it is in no circle, or its ledger is not in order.
    """

    floor: Sentences | None = None
    recipe: Sentences | None = None


def spoken(path: Path, checks: Iterable[Check]) -> Spoken:
    """Return sentences about the node of a config; empty if the config is not a node's.

    Args:
        path: path of the config.
        checks: results of the checks, which say whether its ledger can be read.

    Raises:
        InputError: the config cannot be read.
    """
    if not any(check.name == "floor" for check in checks):
        return Spoken()
    config = load_config(ClientConfig, path)
    lives = any(check.name == "circle" and check.status == "ok" for check in checks)
    circle = folders.living(config.client.state) if lives else None
    if circle is None:
        return Spoken(floor_sentences(config))
    recipe = sentences(circle.recipe, len(circle.names))
    return Spoken(floor_sentences(config, circle.recipe.task.ref), recipe)
