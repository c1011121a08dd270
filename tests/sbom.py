"""Write build/sbom.json (CycloneDX): every package of the environment, and which of them moonflower needs to run.

    make sbom

The tool lists what is installed, tools for tests included. Here each component gets its scope: ``required`` if the
dependencies of ``pyproject.toml`` lead to it, else ``excluded``, CycloneDX's word for
what is not there at run time.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
PLACE = ROOT / "build/sbom.json"


def plain(name: str) -> str:
    """Return a package's name as PEP 503 compares it.

    >>> plain("prometheus_client>=0.21")
    'prometheus-client'
    """
    return re.sub(r"[-_.]+", "-", re.split(r"[^\w.-]", name)[0]).lower()


def scoped(bom: dict[str, Any], needed: list[str]) -> dict[str, Any]:
    """Return the bill of materials with a scope for each component."""
    named = {plain(part["name"]): part["bom-ref"] for part in bom["components"]}
    missing = [name for name in needed if plain(name) not in named]
    if missing:
        raise SystemExit(f"not installed, so the list would be incomplete: {', '.join(missing)}")
    leads = {entry["ref"]: entry.get("dependsOn", []) for entry in bom["dependencies"]}
    reached: set[str] = set()
    todo = [named[plain(name)] for name in needed]
    while todo:
        ref = todo.pop()
        if ref not in reached:
            reached.add(ref)
            todo += leads.get(ref, [])
    parts = [{**part, "scope": "required" if part["bom-ref"] in reached else "excluded"} for part in bom["components"]]
    return {**bom, "components": parts}


def main() -> None:
    """Write the file and say how much is in it."""
    tool = [sys.executable, "-m", "cyclonedx_py", "environment", "--pyproject", str(ROOT / "pyproject.toml")]
    made = subprocess.run([*tool, "--output-reproducible", "-o", "-"], check=True, capture_output=True, text=True)
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    bom = scoped(json.loads(made.stdout), project["dependencies"])
    PLACE.parent.mkdir(exist_ok=True)
    PLACE.write_text(json.dumps(bom, indent=1) + "\n", encoding="utf-8")
    count = sum(part["scope"] == "required" for part in bom["components"])
    rest = len(bom["components"]) - count
    print(f"{PLACE.relative_to(ROOT)}: {count} packages needed to run, {rest} for tests and tools")


if __name__ == "__main__":
    main()
