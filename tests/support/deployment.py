"""The deployment files of configs/deploy/."""

from __future__ import annotations

from collections import defaultdict

from support import ROOT

DEPLOY = ROOT / "configs" / "deploy"


def unit(side: str) -> dict[str, list[str]]:
    """Return the settings of a unit, name → values in order."""
    found: dict[str, list[str]] = defaultdict(list)
    for line in (DEPLOY / "systemd" / f"moonflower-{side}.service").read_text().splitlines():
        if line and line[0] not in "#[":
            name, _, value = line.partition("=")
            found[name].append(value)
    return found
