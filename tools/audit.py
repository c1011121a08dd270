"""Ask the Python advisory database about every pinned package; fail on findings, say plainly what could not be asked.

    make audit

pip-audit calls a package that the database does not answer for "skipped" and ends with status 0, so a machine without
network looks clean. This says instead how many of the pins were really looked at:

* an advisory that is not in ``ACCEPTED``: status 1;
* nothing, or not everything, could be looked at: a line that says NOT AUDITED, and status 0 (``--strict``: status 2).
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
PINS = ROOT / "constraints.txt"
LIMIT_S = 120
ACCEPTED: dict[str, str] = {}  # id of an advisory: why it does not touch us


def verdict(report: dict[str, Any] | None, pins: int, accepted: dict[str, str]) -> tuple[int, list[str]]:
    """Return the exit status and what to say.

    Args:
        report: what pip-audit found, as JSON; None if it could not be asked at all.
        pins: number of packages that it was given.
        accepted: advisories that somebody looked at, with the reason.
    """
    if report is None:
        return 0, [f"NOT AUDITED: the advisory database cannot be reached from here; 0 of {pins} packages looked at."]
    looked = [entry for entry in report["dependencies"] if "skip_reason" not in entry]
    status = 0
    lines: list[str] = []
    for entry in looked:
        for found in entry["vulns"]:
            known = {found["id"], *found.get("aliases", [])} & accepted.keys()
            mended = f"mended in {', '.join(found['fix_versions']) or 'no version'}"
            why = f"accepted: {accepted[known.pop()]}" if known else mended
            lines.append(f"{entry['name']} {entry['version']}: {found['id']}, {why}")
            status = status if why.startswith("accepted") else 1
    if len(looked) < pins:
        lines.append(f"NOT AUDITED: the advisory database answered for {len(looked)} of {pins} packages only.")
    else:
        lines.append(f"all {pins} packages looked at")
    return status, lines


def ask(pins: Path) -> dict[str, Any] | None:
    """Return pip-audit's report on a file of pins, or None if there is none."""
    with tempfile.NamedTemporaryFile(suffix=".json") as out:
        tool = [sys.executable, "-m", "pip_audit", "--requirement", str(pins), "--no-deps", "--disable-pip"]
        words = [*tool, "--progress-spinner", "off", "--timeout", "15", "--format", "json", "--output", out.name]
        try:
            subprocess.run(words, capture_output=True, timeout=LIMIT_S, check=False)
        except subprocess.TimeoutExpired:
            return None
        text = Path(out.name).read_text(encoding="utf-8")
    try:
        report = json.loads(text)
    except json.JSONDecodeError:
        return None
    return report if isinstance(report, dict) else None


def main() -> None:
    """Ask, say, and end with the status."""
    pins = len(re.findall(r"^[\w.-]+==", PINS.read_text(encoding="utf-8"), flags=re.M))
    status, lines = verdict(ask(PINS), pins, ACCEPTED)
    print("\n".join(lines))
    if status == 0 and "--strict" in sys.argv and any(line.startswith("NOT AUDITED") for line in lines):
        status = 2
    sys.exit(status)


if __name__ == "__main__":
    main()
