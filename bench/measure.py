"""``moonflower bench``: what sealing costs, next to other schemes on the same vector and machine, in one run.

Each scheme runs in its own process, so its peak memory is its own. Times are in seconds, the best of a few repeats:

- ``seal_s``: a member quantises, encrypts and serialises its update;
- ``add_s``: the server parses, checks and adds one member's update;
- ``answer_s``: a member makes its second message, if the scheme has one;
- ``open_s``: an opener turns the received sum of all members into floats.

Bytes up are everything that a member sends, signatures included. Bytes down are everything that an opener receives,
except for ``sig_bytes``: the signatures of others, and what they sign.
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import resource
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from .others import NVFLARE, ckks, phe, plain, secagg
from .ours import addition, bare_addition, ours
from .row import MEMBERS, Row

SHAPES = ((1_000_000, 1), (10_000_000, 1), (1_000_000, 200))
OURS = "moonflower, 16 bits"  # of 16 members
SCHEMES: dict[str, Callable[[int, int], Row]] = {
    "plain float32": plain,
    OURS: ours,
    "moonflower, 9 bits": lambda params, tensors: ours(params, tensors, 9),
    f"{OURS}, 4 members": lambda params, tensors: ours(params, tensors, members=4),
    f"{OURS}, 64 members": lambda params, tensors: ours(params, tensors, members=64),
    f"{OURS}, 256 members": lambda params, tensors: ours(params, tensors, members=256),
    "TenSEAL CKKS, public key": lambda params, tensors: ckks(params, tensors, symmetric=False),
    "TenSEAL CKKS, symmetric": lambda params, tensors: ckks(params, tensors, symmetric=True),
    "Flower SecAgg+ quantise + mask": secagg,
    "Paillier (phe), scaled": phe,
    "moonflower addition alone": addition,
    "np.add, same residues": bare_addition,
}


def bench(shapes: Sequence[tuple[int, int]], nvflare: Path | None, say: Callable[[str], None]) -> dict[str, Any]:
    """Return the measured table: ``machine``, ``versions``, ``rows``, and the ``skipped`` schemes with the reasons.

    Args:
        shapes: (parameters, tensors) pairs.
        nvflare: a Python interpreter that has ``nvflare[HE]``, or None.
        say: called with a line about what is measured next.
    """
    rows: list[Row] = []
    skipped: list[dict[str, str]] = []
    for params, tensors in shapes:
        for scheme in SCHEMES:
            say(f"{scheme}: {params:,} parameters in {tensors} tensors")
            command = [sys.executable, "-m", "moonflower.bench.measure", scheme, str(params), str(tensors)]
            _measure(command, scheme, params, tensors, rows, skipped)
        if nvflare is not None:
            say(f"NVFLARE: {params:,} parameters in {tensors} tensors")
            command = [str(nvflare), "-c", NVFLARE, str(params), str(tensors)]
            _measure(command, "NVFLARE HE (symmetric CKKS)", params, tensors, rows, skipped)
    if nvflare is None:
        skipped.append({"scheme": "NVFLARE HE", "why": "no --nvflare-python given"})
    names = ("flwr", "tenseal", "numpy", "cryptography", "torch")
    versions = {name: importlib.metadata.version(name) for name in names} | {"python": platform.python_version()}
    machine = {"processor": _processor(), "cores": os.cpu_count(), "system": platform.system()}
    return {"machine": machine, "versions": versions, "rows": rows, "skipped": skipped}


def _measure(
    command: list[str], scheme: str, params: int, tensors: int, rows: list[Row], skipped: list[dict[str, str]]
) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603  (our own command)
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["no word"])[-1]
        skipped.append({"scheme": scheme, "why": last[:200]})
        return
    measured = json.loads(done.stdout.splitlines()[-1])
    peak = measured.pop("peak_kib")
    measured.pop("version", None)
    measured = {"members": MEMBERS, "answer_s": None, "sig_bytes": None, **measured}  # NVFLARE's rows lack these
    rows.append({"scheme": scheme, "params": params, "tensors": tensors, **measured, "peak_mb": round(peak / 1024)})


def _processor() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.is_file() else []
    return next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), platform.machine())


def markdown(result: dict[str, Any]) -> str:
    """Return the result as Markdown, one table for each shape. Ratios are to our 16-bit row of the same shape."""
    machine, versions = result["machine"], result["versions"]
    out = [
        f"{machine['processor']}, {machine['cores']} cores; "
        + ", ".join(f"{name} {version}" for name, version in versions.items()),
    ]
    for shape in dict.fromkeys((row["params"], row["tensors"]) for row in result["rows"]):
        rows = [row for row in result["rows"] if (row["params"], row["tensors"]) == shape]
        mine = next((row for row in rows if row["scheme"] == OURS), None)
        out += [
            "",
            f"{shape[0]:,} parameters in {shape[1]} tensor{'s' if shape[1] > 1 else ''}:",
            "",
            "| scheme | seal s | × | add s | × | answer s | open s | up B/param | × | down B/param "
            "| signatures B | exact | error | peak MB |",
            "|---|---|---|---|---|---|---|---|---|---|---|---|---|---|",
        ]
        for row in rows:
            ratios = {key: _ratio(row, mine, key) for key in ("seal_s", "add_s", "up_bytes_per_param")}
            cells = (
                row["scheme"],
                _cell(row["seal_s"]),
                ratios["seal_s"],
                _cell(row["add_s"]),
                ratios["add_s"],
                _cell(row["answer_s"]),
                _cell(row["open_s"]),
                _cell(row["up_bytes_per_param"]),
                ratios["up_bytes_per_param"],
                _cell(row["down_bytes_per_param"]),
                "–" if row["sig_bytes"] is None else f"{row['sig_bytes']:,}",
                {True: "yes", False: "no", None: "–"}[row["exact"]],
                "–" if row["max_error"] is None else f"{row['max_error']:.1e}",
                row["peak_mb"],
            )
            out.append("| " + " | ".join(str(cell) for cell in cells) + " |")
    out += [""] + [f"Not measured: {item['scheme']} ({item['why']})." for item in result["skipped"]]
    return "\n".join(out)


def _ratio(row: Row, mine: Row | None, key: str) -> str:
    if mine is None or row[key] is None or not mine[key] or row is mine:
        return ""
    return f"{row[key] / mine[key]:.2g}"


def _cell(value: float | None) -> str:
    return (
        "–" if value is None else f"{value:.4f}" if value < 0.01 else f"{value:.3f}" if value < 10 else f"{value:.1f}"
    )


def _worker(scheme: str, params: int, tensors: int) -> None:
    row = SCHEMES[scheme](params, tensors)
    row.setdefault("peak_kib", resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
    print(json.dumps(row, allow_nan=False))


if __name__ == "__main__":
    _worker(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
