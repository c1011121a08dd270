"""A run in Python: its tables and its figure, read again from its folder; and what shows it while it goes on."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from moonflower import load_result
from moonflower.errors import InputError
from moonflower.federation.outcome import Simulation
from moonflower.federation.progress import chosen

ROUNDS = [
    "round", "number", "status", "code", "better", "same", "worse", "abstain", "validation_loss",
    "loss", "accuracy", "auc", "average_precision",
]  # fmt: skip


def a_round(number: int, status: str, **more: Any) -> dict[str, Any]:
    return {"round": number, "number": number + 4, "status": status, "code": "", "votes": {}, "metrics": None, **more}


def result() -> dict[str, Any]:
    votes = {"better": 3, "same": 1, "worse": 0, "abstain": 0}
    return {
        "version": 1, "federation": "heart", "run": "r", "ended": "done",
        "rounds": [
            a_round(1, "promoted", votes=votes, metrics={"loss": 0.5, "accuracy": 0.7, "auc": None, "brier": 0.2}),
            a_round(2, "failed", code="round.too_few"),
            a_round(3, "promoted", votes=votes),
        ],
        "members": [
            {"name": "A", "rows": 60, "alone": {"loss": 0.6}, "federated": {"loss": 0.5}, "pooled": None},
            {"name": "B", "rows": None, "alone": None, "federated": None, "pooled": None},
        ],
        "overall": {"alone": None, "federated": {"loss": 0.4}, "pooled": None},
        "evidence": {"validation": {"by_round": [[5, 0.55], [7, 0.45]]}},
    }  # fmt: skip


def done(told: dict[str, Any] | None = None) -> Simulation:
    return Simulation(result() if told is None else told, Path("runs/x"), None)


def test_the_rounds_are_a_table_with_stable_columns() -> None:
    frame = done().frame()
    assert list(frame.columns) == [*ROUNDS, "brier"]
    assert frame["status"].tolist() == ["promoted", "failed", "promoted"]
    assert frame["number"].tolist() == [5, 6, 7]
    assert frame["better"].tolist()[::2] == [3, 3]
    assert frame["better"].isna().tolist() == [False, True, False]
    assert frame["validation_loss"].tolist()[::2] == [0.55, 0.45]
    assert frame["loss"].isna().tolist() == [False, True, True]
    assert (str(frame["worse"].dtype), str(frame["auc"].dtype)) == ("Int64", "float64")
    empty = done({"rounds": []}).frame()
    assert (list(empty.columns), len(empty)) == (ROUNDS, 0)


def test_the_members_are_a_table_of_ways() -> None:
    frame = done().members()
    assert list(frame.columns) == ["member", "way", "rows", "loss", "accuracy", "auc", "average_precision"]
    assert list(zip(frame["member"], frame["way"], frame["loss"], strict=True)) == [
        ("A", "alone", 0.6),
        ("A", "federated", 0.5),
        ("all members' test rows", "federated", 0.4),
    ]
    assert frame["rows"].tolist()[0] == 60
    assert len(done({"rounds": [], "members": []}).members()) == 0


def test_a_run_is_loaded_from_its_folder(tmp_path: Path) -> None:
    (tmp_path / "result.json").write_text(json.dumps(result()))
    loaded = load_result(tmp_path)
    assert (loaded.result, loaded.out, loaded.error) == (result(), tmp_path, None)
    assert loaded.frame().equals(done().frame())
    assert load_result(str(tmp_path / "result.json")) == loaded
    assert "<table>" in loaded._repr_html_()


def test_a_figure_without_matplotlib_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(InputError, match="expected the extra notebook") as raised:
        done().plot()
    assert raised.value.hint == 'pip install "moonflower[notebook]"'


def test_a_figure_has_a_curve_for_each_metric_that_is_known(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("matplotlib").use("agg")
    from matplotlib import pyplot

    figure = done().plot()
    assert [axis.get_title() for axis in figure.axes] == [
        "loss on validation rows",
        "loss, all members' test rows",
        "accuracy, all members' test rows",
    ]
    assert figure.axes[0].lines[0].get_ydata().tolist() == [0.55, 0.45]
    assert pyplot.get_fignums() == [], "a notebook would show it twice"
    assert done({"rounds": [], "federation": "x"}).plot().axes


# While it goes on


def events() -> list[dict[str, Any]]:
    ends = [("failed", 1), ("promoted", 2), ("refused", 3)]
    entries: list[dict[str, Any]] = [{"event": event, "number": number, "code": "x"} for event, number in ends]
    return [*entries, {"event": "run_ended", "code": "run.patience"}]


def test_a_script_is_shown_nothing_unless_it_asks(capsys: pytest.CaptureFixture[str]) -> None:
    for progress, shown in ((None, False), (False, False), (True, True)):
        with chosen(progress, 3, lambda: 0.41) as follow:
            for entry in events():
                follow(entry)
        told = capsys.readouterr()
        assert (told.out, "round 3: refused x" in told.err) == ("", shown)


@pytest.mark.parametrize("progress", [None, True, False])
def test_a_notebook_is_shown_a_line_in_its_cell(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], progress: bool | None
) -> None:
    shown: list[str] = []
    ipython, display = ModuleType("IPython"), ModuleType("IPython.display")
    monkeypatch.setattr(ipython, "get_ipython", lambda: SimpleNamespace(kernel=object()), raising=False)
    monkeypatch.setattr(display, "HTML", str, raising=False)

    def displayed(text: str, *, display_id: bool) -> object:
        shown.append(text)
        return SimpleNamespace(update=shown.append)

    monkeypatch.setattr(display, "display", displayed, raising=False)
    monkeypatch.setitem(sys.modules, "IPython", ipython)
    monkeypatch.setitem(sys.modules, "IPython.display", display)
    with chosen(progress, 3, lambda: 0.41) as follow:
        for entry in events():
            follow(entry)
    assert capsys.readouterr() == ("", "")
    if progress is False:
        assert shown == []
        return
    assert "0 of 3 rounds · begins<" in shown[0]
    assert ["0 of 3" in shown[1], "1 of 3" in shown[2], "2 of 3" in shown[3]] == [True] * 3, "a number that failed"
    assert "2 of 3 rounds · ended run.patience · loss 0.410 on validation rows" in shown[4]
