"""A run that is over, as Python and notebooks see it: its result, tables and curves; also from its folder."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from ..errors import InputError, MoonflowerError
from ..report import notebook
from ..report.findings import EVERYBODY, VOTES, items, part
from ..report.measures import WAYS, measure
from ..report.reading import read_result

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_COUNTS = ("round", "number", *VOTES)
_FIRST = ("loss", "accuracy", "auc", "average_precision")
_SHOWN = ("loss", "auc", "macro_auc", "c_index", "r2", "d2", "accuracy", "rmse", "mae")


@dataclass(frozen=True)
class Simulation:
    """What a simulation left behind. In a notebook it shows itself as a table and a curve.

    Attributes:
        result: the content of result.json.
        out: folder with report.html, result.json, moonflower.db, log.pub and models/.
        error: why the run did not reach its planned end, or None; None also for a run that was read from its folder,
            whose ``result["ended"]`` says how it ended.
    """

    result: dict[str, Any]
    out: Path
    error: MoonflowerError | None

    def frame(self) -> pd.DataFrame:
        """Return the rounds, one row for each number.

        Returns:
            Columns ``round, number, status, code, better, same, worse, abstain, validation_loss, loss, accuracy, auc,
            average_precision``, and after them what else the task measures. Votes are missing where there was no vote,
            metrics where there was no report. ``validation_loss`` is the loss on the rows by which members vote; only a
            simulation knows it.
        """
        losses = dict(part(part(self.result, "evidence"), "validation").get("by_round") or [])
        rounds = [
            {
                **{key: one.get(key) for key in ("round", "number", "status", "code")},
                **{vote: part(one, "votes").get(vote) for vote in VOTES},
                "validation_loss": losses.get(one.get("number")),
                **_measured(part(one, "metrics")),
            }
            for one in items(self.result, "rounds")
        ]
        return _frame(rounds, [*_COUNTS[:2], "status", "code", *VOTES, "validation_loss", *_FIRST])

    def members(self) -> pd.DataFrame:
        """Return the models' metrics, one row for each member and way of training.

        Returns:
            Columns ``member, way, rows, loss, accuracy, auc, average_precision``, and after them what else the task
            measures. Ways are ``alone, federated, personalised, pooled``, those that are known. The last rows, of the
            member ``all members' test rows``, are about all rows together.
        """
        subjects = [*items(self.result, "members"), {"name": EVERYBODY, **part(self.result, "overall")}]
        rows = [
            {"member": one.get("name"), "way": way, "rows": one.get("rows"), **_measured(part(one, way))}
            for one in subjects
            for way in WAYS
            if part(one, way)
        ]
        return _frame(rows, ["member", "way", "rows", *_FIRST])

    def plot(self) -> Figure:
        """Return a matplotlib figure of the metrics over the rounds; dots are rounds that were promoted.

        Raises:
            InputError: ``config.value``: matplotlib is not installed.
        """
        try:
            from matplotlib import pyplot, ticker
        except ImportError:
            raise InputError(
                "config.value",
                "plot() needs matplotlib, which is not installed; expected the extra notebook",
                hint='pip install "moonflower[notebook]"',
            ) from None
        frame = self.frame()
        known = ["validation_loss", *_SHOWN]
        shown = [name for name in known if name in frame and frame[name].notna().any()][:3] or ["loss"]
        figure: Figure
        figure, axes = pyplot.subplots(1, len(shown), figsize=(4.2 * len(shown), 3.2), sharex=True, squeeze=False)
        for axis, name in zip(axes[0], shown, strict=True):
            curve = frame[frame[name].notna()]
            good = curve[curve["status"] == "promoted"]
            axis.plot(curve["number"], curve[name], color="0.7", linewidth=1)
            axis.plot(good["number"], good[name], "o-", color="#3f4ea3", markersize=3)
            axis.set(xlabel="number of the round", title=_title(name))
            axis.xaxis.set_major_locator(ticker.MaxNLocator(integer=True))
        figure.suptitle(str(self.result.get("federation")))
        figure.tight_layout()
        pyplot.close(figure)  # a notebook shows the returned figure, and an open one a second time
        return figure

    def _repr_html_(self) -> str:
        return notebook.cell(self.result)


def load_result(path: str | os.PathLike[str]) -> Simulation:
    """Return a run that is over from the folder that ``simulate`` or ``up`` wrote, or from its result.json.

    Raises:
        InputError: ``data.file``: it is no such folder, its result cannot be read, or it is of another version.
    """
    found = read_result(Path(path))
    return Simulation(found.result, found.folder, None)


def _title(name: str) -> str:
    return "loss on validation rows" if name == "validation_loss" else f"{measure(name).label}, {EVERYBODY}"


def _measured(metrics: Mapping[str, Any]) -> dict[str, Any]:
    return {**dict.fromkeys(_FIRST), **metrics}


def _frame(rows: list[dict[str, Any]], columns: list[str]) -> pd.DataFrame:
    """Return rows as a table with these columns first; counts are whole numbers, other numbers are float64."""
    more = dict.fromkeys(key for row in rows for key in row if key not in columns)
    frame = pd.DataFrame(rows, columns=[*columns, *more])
    for name in frame.columns:
        if name in (*_COUNTS, "rows"):
            frame[name] = frame[name].astype("Int64")
        elif name not in ("status", "code", "member", "way"):
            frame[name] = frame[name].astype("float64")
    return frame
