"""Write build/sbom.json (CycloneDX): every package of the environment, and which of them moonflower needs to run.

    make sbom

The tool lists what is installed, tools for tests included. Here each component gets its scope: ``required`` if the
dependencies of ``pyproject.toml`` lead to it, else ``excluded``, CycloneDX's word for
what is not there at run time.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tomllib
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]
PLACE = ROOT / "build/sbom.json"


def needed(wanted: list[str], installed: Callable[[str], list[str]]) -> set[str]:
    """Return the canonical names of all packages that requirements lead to in this environment.

    The tool's own graph takes every extra of every package for wanted, so pandas would need pytest to run.

    Args:
        wanted: requirements (PEP 508).
        installed: gives a package's own requirements; KeyError when it is not there.
    """
    reached: dict[str, set[str]] = {}
    todo = [Requirement(text) for text in wanted]
    while todo:
        this = todo.pop()
        name, extras = canonicalize_name(this.name), {"", *this.extras}
        if not extras - reached.get(name, set()):
            continue
        reached.setdefault(name, set()).update(extras)
        for more in map(Requirement, installed(name)):
            if more.marker is None or any(more.marker.evaluate({"extra": extra}) for extra in extras):
                todo.append(more)
    return set(reached)


def scoped(bom: dict[str, Any], names: set[str]) -> dict[str, Any]:
    """Return the bill of materials with a scope for each component."""
    missing = names - {canonicalize_name(part["name"]) for part in bom["components"]}
    if missing:
        raise SystemExit(f"the list would be incomplete: {', '.join(sorted(missing))}")
    scope = {True: "required", False: "excluded"}
    parts = [{**part, "scope": scope[canonicalize_name(part["name"]) in names]} for part in bom["components"]]
    return {**bom, "components": parts}


def _installed(name: str) -> list[str]:
    return metadata.requires(name) or []


def main() -> None:
    """Write the file and say how much is in it."""
    tool = [sys.executable, "-m", "cyclonedx_py", "environment", "--pyproject", str(ROOT / "pyproject.toml")]
    made = subprocess.run([*tool, "--output-reproducible", "-o", "-"], check=True, capture_output=True, text=True)
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    bom = scoped(json.loads(made.stdout), needed(project["dependencies"], _installed))
    PLACE.parent.mkdir(exist_ok=True)
    PLACE.write_text(json.dumps(bom, indent=1) + "\n", encoding="utf-8")
    count = sum(part["scope"] == "required" for part in bom["components"])
    rest = len(bom["components"]) - count
    print(f"{PLACE.relative_to(ROOT)}: {count} packages needed to run, {rest} for tests and tools")


if __name__ == "__main__":
    main()
