"""Rare positives over many sites of very different size, federated against pooled: `python tools/rare_class.py`.

A made table: 32 sites of 60 to 1,932 rows, 12 columns whose means differ by site, 5 % of positive rows, an interaction
that a linear model cannot see. With the defaults, and with the class weights that `simulate` names.
"""

from __future__ import annotations

import logging
import tempfile
from pathlib import Path

import numpy as np
import pandas as pd
from moonflower import simulate

SITES, COLUMNS, SHARE = 32, 12, 0.05


def table(seed: int = 11) -> pd.DataFrame:
    """Return the rows, with the columns x0 to x11, site and y."""
    draws = np.random.default_rng(seed)
    sizes = np.round(np.exp(draws.normal(6.0, 1.0, SITES))).astype(int).clip(60, 6000)
    weights, parts, scores = draws.normal(0, 0.55, COLUMNS), [], []
    for site, rows in enumerate(sizes):
        values = draws.normal(0, 1, (rows, COLUMNS)) + draws.normal(0, 0.3, COLUMNS)
        scores.append(values @ weights + draws.normal(0, 0.3) + 0.4 * values[:, 0] * values[:, 1])
        names = [f"x{at}" for at in range(COLUMNS)]
        parts.append(pd.DataFrame(values.round(3), columns=names).assign(site=f"s{site:02d}"))
    score, low, high = np.concatenate(scores), -20.0, 20.0
    while high - low > 1e-9:  # the intercept that gives the share of positive rows
        middle = (low + high) / 2
        low, high = (middle, high) if (1 / (1 + np.exp(-(score + middle)))).mean() < SHARE else (low, middle)
    return pd.concat(parts).assign(y=(draws.random(len(score)) < 1 / (1 + np.exp(-(score + low)))).astype(int))


CONFIG = """
federation = {name = "rare"}
task = {ref = "moonflower.client.tasks.tabular:task"}
data = {path = "rare.csv", label = "y", site = "site", schema = "schema.toml", test_fraction = 0.3}
simulate = {partition = "site"}
"""


def main() -> None:
    """Print AUC and average precision over all members' test rows."""
    logging.disable(logging.WARNING)
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        table().to_csv(folder / "rare.csv", index=False)
        columns = ", ".join(f'{{name = "x{at}", min = -8, max = 8}}' for at in range(COLUMNS))
        (folder / "schema.toml").write_text(f'label = {{name = "y", classes = [0, 1]}}\ncolumns = [{columns}]\n')
        (folder / "run.toml").write_text(CONFIG)
        for name, more in (("defaults", ()), ("class weights", ("task.class_weights=[0.53,9.8]",))):
            overall = simulate(folder / "run.toml", out=folder / name, overrides=more).result["overall"]
            for way in ("alone", "federated", "pooled"):
                one = overall[way]
                print(f"{name:14} {way:10} AUC {one['auc']:.4f}  average precision {one['average_precision']:.4f}")


if __name__ == "__main__":
    main()
