"""Every kind of target, federated, against the same model on all rows in one place: `python tools/kinds.py [NAME…]`.

The reference is scikit-learn's linear model, or the Cox model of lifelines (`pip install lifelines`). Both see all
training rows at once, imputed and standardised. Means of five folds, by the column `fold` of the bundled data.
"""

from __future__ import annotations

import logging
import sys
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from moonflower import simulate
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LinearRegression, LogisticRegression, PoissonRegressor
from sklearn.metrics import d2_tweedie_score, r2_score, roc_auc_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from support import CONFIGS

FOLDS = 5
Table = pd.DataFrame


def pooled(model: Any, label: str, score: Callable[[Any, Table, Any], float]) -> Callable[[Table, Table], float]:
    """Return what trains a model on rows and scores it on others."""

    def call(train: Table, test: Table) -> float:
        whole = make_pipeline(SimpleImputer(), StandardScaler(), model).fit(train.drop(columns=label), train[label])
        return score(whole, test.drop(columns=label), test[label])

    return call


def cox(train: Table, test: Table) -> float:
    """Return the C-index of the Cox model of lifelines."""
    from lifelines import CoxPHFitter

    train, test = (pd.get_dummies(part, columns=["arm"], drop_first=True, dtype=float) for part in (train, test))
    return float(CoxPHFitter().fit(train, "days", "event").score(test, scoring_method="concordance_index"))


KINDS: dict[str, tuple[str, Callable[[Table, Table], float]]] = {
    "cars": ("r2", pooled(LinearRegression(), "mpg", lambda m, x, y: float(r2_score(y, m.predict(x))))),
    "rand": (
        "d2",
        pooled(
            PoissonRegressor(alpha=0, max_iter=1000),
            "mdvis",
            lambda m, x, y: float(d2_tweedie_score(y, m.predict(x), power=1)),
        ),
    ),
    "anes": (
        "macro_auc",
        pooled(
            LogisticRegression(C=1e6, max_iter=5000),
            "party",
            lambda m, x, y: float(roc_auc_score(y, m.predict_proba(x), multi_class="ovr", average="macro")),
        ),
    ),
    "actg": ("c_index", cox),
}


def main(wanted: list[str]) -> None:
    """Print the figures."""
    for name in wanted or KINDS:
        metric, reference = KINDS[name]
        table = pd.read_csv(CONFIGS / "data" / f"{name}.csv.gz").drop(columns="site", errors="ignore")
        ours, theirs = [], []
        for fold in range(FOLDS):
            marks = ("data.test_column=fold", f"data.test_value={fold}", "training.report_every=0")
            with tempfile.TemporaryDirectory() as folder:
                out = Path(folder) / "o"
                done = simulate(CONFIGS / f"{name}.toml", out=out, overrides=marks, baselines=False)
            ours.append(done.result["overall"]["federated"][metric])
            parts = (table[table["fold"] != fold], table[table["fold"] == fold])
            theirs.append(reference(*(part.drop(columns="fold") for part in parts)))
        federated, whole = float(np.mean(ours)), float(np.mean(theirs))
        print(f"{name}: {metric} {federated:.4f} federated, {whole:.4f} pooled, {federated - whole:+.4f}", flush=True)


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    main(sys.argv[1:])
