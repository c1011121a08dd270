"""Measure what docs/costs.md claims, on the folds of the bundled data, encrypted: `make figures` prints one table."""

from __future__ import annotations

import os
import platform
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np
from moonflower import __version__, simulate
from moonflower.federation.simulate import prepare
from support import CONFIGS
from support.plain import fedavg
from support.wire import upload_bytes_per_param

FOLDS = range(5)


def fold(name: str, number: int, out: Path) -> dict[str, Any]:
    """Return one fold's numbers; members' own rows are weighted by their number of test rows."""
    config = CONFIGS / f"{name}.toml"
    overrides = ("data.test_column=fold", f"data.test_value={number}")
    began = time.monotonic()
    result = simulate(config, out=out / f"{name}-{number}", overrides=overrides).result
    seconds = time.monotonic() - began
    splits = prepare(config, overrides).splits
    rows = [len(splits[member["name"]].test) for member in result["members"]]
    best = max(one["round"] for one in result["rounds"] if one["status"] == "promoted")

    def own(way: str, metric: str) -> float:
        return float(np.average([member[way][metric] for member in result["members"]], weights=rows))

    return {
        "federated AUC": result["overall"]["federated"]["auc"],
        "plain FedAvg AUC": fedavg(config, (*overrides, f"training.rounds={best}"))["auc"],
        "pooled AUC": result["overall"]["pooled"]["auc"],
        "own rows, loss: federated": own("federated", "loss"),
        "own rows, loss: personalised": own("personalised", "loss"),
        "own rows, accuracy: federated": own("federated", "accuracy"),
        "own rows, accuracy: personalised": own("personalised", "accuracy"),
        "seconds": seconds,
    }


def main() -> None:
    """Print the table."""
    means: dict[str, dict[str, float]] = {}
    spans: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as out:
        for name in ("heart", "sba"):
            found = [fold(name, number, Path(out)) for number in FOLDS]
            means[name] = {key: float(np.mean([one[key] for one in found])) for key in found[0]}
            spans[name] = max(abs(one["federated AUC"] - one["plain FedAvg AUC"]) for one in found)
    machine = f"Python {platform.python_version()}, {os.cpu_count()} cores"
    print(f"moonflower {__version__}, {machine}; means of 5 test folds\n")
    print("| | heart | sba |\n|---|---|---|")
    for key in means["heart"]:
        digits = 1 if key == "seconds" else 4
        print(f"| {key} | " + " | ".join(f"{means[name][key]:.{digits}f}" for name in means) + " |")
    print("| largest AUC gap to plain FedAvg | " + " | ".join(f"{spans[name]:.5f}" for name in spans) + " |")
    size = upload_bytes_per_param(values=200_000, members=16, value_bits=16)
    print(f"\nupload, 200,000 parameters, 16 members, 16 bits, whole envelope: {size:.2f} bytes a parameter")


if __name__ == "__main__":
    warnings.simplefilter("error")
    main()
