"""What our alert rules and our dashboard ask for."""

from __future__ import annotations

import json
import re
from typing import Any

import yaml
from moonflower.server.watch.catalogue import CATALOGUE, PREFIX

from support.prometheus import DASHBOARD, RULES

NAMES = {one.full_name for one in CATALOGUE}
SUFFIXES = {one.full_name: ("_bucket", "_sum", "_count") for one in CATALOGUE if one.kind == "histogram"}
EXPOSED = {f"{name}{end}" for name in NAMES for end in SUFFIXES.get(name, ("",))}


def rules() -> list[dict[str, Any]]:
    (group,) = yaml.safe_load(RULES.read_text())["groups"]
    return list(group["rules"])


def panels() -> list[dict[str, Any]]:
    return [one for one in json.loads(DASHBOARD.read_text())["panels"] if one["type"] != "row"]


def expressions() -> list[tuple[str, str]]:
    """Return the title of every panel with each of its expressions."""
    return [(one["title"], target["expr"]) for one in panels() for target in one["targets"]]


def used(expression: str) -> set[str]:
    return set(re.findall(rf"\b{PREFIX}\w+", expression))
