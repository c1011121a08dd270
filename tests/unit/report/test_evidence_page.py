"""What the report says of how sure it is, of its settings, in a notebook's cell, and of several runs side by side."""

from __future__ import annotations

import json
import re
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

import pytest
from moonflower.errors import InputError
from moonflower.report import findings, notebook
from moonflower.report.findings import toml, verdicts
from moonflower.report.page import page
from moonflower.report.reading import read_result
from moonflower.report.sidebyside import compared

HOSTILE = '<script>alert("1")</script>\x1b[31m'


def metrics(loss: float) -> dict[str, float | None]:
    return {"loss": loss, "accuracy": 0.8, "auc": 0.75, "average_precision": 0.7}


def ends(low: float, high: float) -> dict[str, Any]:
    return {"accuracy": [0.7, 0.9], "auc": [low, high]}


def difference(value: float, low: float, high: float) -> dict[str, Any]:
    return {"loss": {"value": value, "low": low, "high": high}, "auc": None}


def simulated() -> dict[str, Any]:
    """Two members: A is surely better alone; B gains by chance, and has one row of a class."""
    members = [("A", 0.3, 0.4, [40, 20], (0.1, 0.02, 0.18)), ("B", 0.5, 0.4, [1, 14], (-0.1, -0.3, 0.1))]
    return {
        "version": 1, "federation": "heart", "run": "r", "ended": "done",
        "rounds": [{"round": i, "number": i, "status": "promoted", "code": "", "members": ["A", "B"], "named": [],
                    "warnings": [], "votes": {"better": 2}, "metrics": None} for i in (1, 2, 3)],
        "members": [{"name": name, "rows": 100, "alone": metrics(alone), "federated": metrics(federated),
                     "personalised": None, "pooled": None} for name, alone, federated, _, _ in members],
        "overall": {"alone": metrics(0.4), "federated": metrics(0.39), "pooled": None},
        "evidence": {
            "confidence": 0.95, "classes": ["healthy", "ill"], "positive": "ill",
            "members": [{"name": name, "rows": sum(counts), "per_class": counts,
                         "intervals": {"federated": ends(0.6, 0.87)}, "difference": difference(*gap)}
                        for name, _, _, counts, gap in members],
            "overall": {"rows": 75, "per_class": [41, 34], "intervals": {"federated": ends(0.65, 0.84)}},
            "roc": [[0, 0], [0.1, 0.6], [1, 1]],
            "calibration": [{"rows": 37, "score": 0.2, "share": 0.25, "low": 0.1, "high": 0.4},
                            {"rows": 38, "score": 0.7, "share": 0.8, "low": 0.6, "high": 0.9}],
            "confusion": [[30, 11], [4, 30]],
            "validation": {"rows": 50, "loss": 0.41, "by_round": [[1, 0.6], [2, 0.5], [3, 0.41]]},
        },
        "config": {"task": {"ref": "a:b", "hidden": [8]}, "training": {"lr": 0.2, "rounds": 3}, "schema": "0" * 64},
        "changed": ["task.hidden", "training.lr"], "problems": [], "wire": {}, "audit": {"verified": True},
        "model": {"version": 3, "sha256": "0" * 64, "path": "models/x"},
    }  # fmt: skip


def digits() -> dict[str, Any]:
    result = simulated()
    found = result["evidence"]
    found |= {"classes": ["0", "1", "2"], "positive": None, "roc": None, "calibration": None}
    found["confusion"] = [[9, 1, 0], [0, 7, 3], [1, 0, 8]]
    for one in (*found["members"], found["overall"]):
        one |= {"per_class": [10, 10, 9], "rows": 29, "intervals": {"federated": {"accuracy": [0.6, 0.9], "auc": None}}}
    return result


def live() -> dict[str, Any]:
    result = simulated() | {"evidence": None}
    for member in result["members"]:
        member |= {"rows": None, "alone": None, "federated": None}
    return result


def words(result: dict[str, Any]) -> str:
    return " ".join(" ".join(ET.fromstring(page(result)).find("body").itertext()).split())  # type: ignore[union-attr]


def row(result: dict[str, Any], label: str, first: str) -> list[str]:
    """Return the cells of a row of the table with this label."""
    region = next(e for e in ET.fromstring(page(result)).iter("div") if e.get("aria-label") == label)
    rows = [[" ".join("".join(cell.itertext()).split()) for cell in line] for line in region.iter("tr")]
    return next(cells for cells in rows if cells[0] == first or first in cells[:2])


def test_a_difference_within_its_interval_is_said_to_be_chance() -> None:
    said = " ".join(verdicts(simulated()))
    assert "Federation helps B" in said
    chance = "The difference may be chance for B (−0.300 to 0.100, 15 test rows): the 95 % interval of federated loss"
    assert chance in said
    assert chance in words(simulated())
    assert "chance for A" not in said


def test_an_auc_of_one_row_is_said_to_be_one() -> None:
    said = " ".join(verdicts(simulated()))
    assert "The AUC says little of B (1 test row of class 'healthy'): fewer than 10 rows of a class." in said
    assert "AUC" not in " ".join(verdicts(digits())), "which has none"


def test_without_evidence_nothing_is_cautioned() -> None:
    result = simulated()
    del result["evidence"]
    assert verdicts(result) == verdicts(simulated())[:-2]


def test_counts_and_intervals_stand_in_one_table() -> None:
    table = "Test rows and intervals"
    assert row(simulated(), table, "A") == [
        "A", "60", "20", "0.800 (0.700 to 0.900)", "0.750 (0.600 to 0.870)", "0.100 (0.020 to 0.180)", "–",
    ]  # fmt: skip
    assert row(simulated(), table, "all members' test rows")[1:3] == ["75", "34"]
    assert row(digits(), table, "B") == ["B", "29", "0.800 (0.700 to 0.900)".replace("0.700", "0.600"), *(
        "−0.100 (−0.300 to 0.100)", "10", "10", "9",
    )]  # fmt: skip


def test_the_curves_are_those_of_the_result() -> None:
    root = ET.fromstring(page(simulated()))
    charts = {svg.findtext("title"): svg for svg in root.iter("svg") if svg.get("role") == "img"}
    (line,) = list(charts["ROC curve"].iter("polyline"))
    assert len((line.get("points") or "").split()) == 3
    dots = list(charts["Calibration curve"].iter("circle"))
    assert len(dots) == 2
    assert float(dots[0].get("cy") or 0) > float(dots[1].get("cy") or 0), "a larger share is higher up"
    marks = list(charts["Loss on validation rows over rounds"].iter("circle"))
    assert len(marks) == 3
    assert row(simulated(), "Confusion matrix", "is ill") == ["is ill", "4", "30"]
    titles = {svg.findtext("title") for svg in ET.fromstring(page(digits())).iter("svg")}
    assert not titles & {"ROC curve", "Calibration curve"}
    assert row(digits(), "Confusion matrix", "is 1") == ["is 1", "0", "7", "3"]


def test_a_live_run_says_why_it_knows_none_of_this() -> None:
    said = words(live())
    assert "counts of test rows and curves need all members' rows in one process" in said
    assert "Confusion" not in said
    no_chances = simulated()
    no_chances["evidence"] = {"validation": {"rows": 0, "loss": None, "by_round": []}}
    assert "the task's scores are no chances of classes" in words(no_chances)


def test_settings_that_are_no_defaults_are_marked() -> None:
    assert row(simulated(), "Settings", "lr") == ["[training]", "lr", "0.2", "* not the default"]
    assert row(simulated(), "Settings", "rounds")[-2:] == ["3", ""]
    assert row(simulated(), "Settings", "hidden")[-2:] == ["[8]", "* not the default"]
    old = simulated()
    del old["config"], old["changed"]
    assert "the result is from an older version" in words(old)


def test_what_could_not_be_made_is_said_first() -> None:
    result = simulated() | {"problems": ["training A alone raised ValueError: one row in a part"]}
    root = ET.fromstring(page(result))
    (said,) = ["".join(e.itertext()) for e in root.iter("div") if e.get("class") == "caution"]
    assert "training A alone raised ValueError: one row in a part." in said


def test_values_are_written_as_a_config_has_them() -> None:
    assert [toml(one) for one in (True, 0.5, "a'b", [1, [2]], {"*": 1.5})] == [
        "true", "0.5", '"a\'b"', "[1, [2]]", '{"*" = 1.5}',
    ]  # fmt: skip


# A notebook


def test_a_cell_has_the_summary_a_table_and_a_curve_and_touches_nothing_else() -> None:
    root = ET.fromstring(notebook.cell(simulated()))
    said = " ".join(" ".join(root.itertext()).split())
    assert "2 members trained one model together in 3 rounds" in said
    assert [cell.text for cell in root.findall(".//tbody/tr[1]/th")] == ["A"]
    assert "Loss over rounds, on validation rows" in said
    assert len(root.findall(".//circle")) == 3
    style = root.findtext("style") or ""
    selectors = [one.strip() for rule in re.findall(r"([^{}]+)\{", style) for one in rule.split(",")]
    assert [one for one in selectors if not one.startswith(".moonflower")] == []
    assert "<script" not in notebook.cell(simulated() | {"federation": HOSTILE, "run": HOSTILE, "ended": HOSTILE})


def test_a_cell_shows_reports_where_validation_is_not_known_and_nothing_of_nothing() -> None:
    result = live()
    result["rounds"][2]["metrics"] = metrics(0.4)
    assert "Loss over rounds, on all members' test rows" in "".join(ET.fromstring(notebook.cell(result)).itertext())
    for one in (live() | {"overall": {}}, live() | {"rounds": [], "members": [], "overall": {}, "model": None}):
        root = ET.fromstring(notebook.cell(one))
        assert not root.findall(".//svg")
        assert not root.findall(".//table")


def test_the_bar_says_rounds_and_loss() -> None:
    root = ET.fromstring(notebook.bar(3, 20, "promoted", 0.41234))
    assert root.find("progress").attrib == {"value": "3", "max": "20"}  # type: ignore[union-attr]
    assert "3 of 20 rounds · promoted · loss 0.412 on validation rows" in "".join(root.itertext())
    assert "loss" not in notebook.bar(0, 20, "begins", None)


# Side by side, and read again


def test_only_what_differs_is_shown_of_the_settings() -> None:
    other = simulated()
    other["config"] = {**other["config"], "training": {"lr": 0.1, "rounds": 3}, "crypto": {"clip": {"*": 2.0}}}
    other["rounds"][0]["status"] = "refused"
    told = compared({"one": simulated(), "two": other, "old": {k: v for k, v in live().items() if k != "config"}})
    assert told["differing"] == [
        "task.ref", "task.hidden", "training.lr", "training.rounds", "schema", "crypto.clip.*",
    ]  # fmt: skip
    told = compared({"one": simulated(), "two": other})
    assert told["differing"] == ["training.lr", "crypto.clip.*"]
    assert [one["settings"] for one in told["runs"]] == [
        {"training.lr": 0.2, "crypto.clip.*": None},
        {"training.lr": 0.1, "crypto.clip.*": 2.0},
    ]
    assert [(one["promoted"], one["rounds"]) for one in told["runs"]] == [(3, 3), (2, 3)]
    assert told["runs"][0]["overall"]["pooled"] is None
    json.dumps(told, allow_nan=False)


def test_a_result_is_read_from_its_folder_or_its_file(tmp_path: Path) -> None:
    (tmp_path / "result.json").write_text(json.dumps(simulated()))
    for path in (tmp_path, tmp_path / "result.json"):
        found = read_result(path)
        assert (found.result, found.folder) == (simulated(), tmp_path)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (None, "holds no result.json; expected the folder of a run that is over"),
        ("{", "is not JSON; expected the result of a run"),
        ("[1]", "is not the result of a run"),
        ('{"version": 2, "rounds": []}', "is of version 2; expected 1"),
        ('{"version": 1, "rounds": [1], "members": [], "overall": {}}', "rounds is not a list"),
        ('{"version": 1, "rounds": [], "members": [], "overall": null}', "overall is not an object"),
    ],
)
def test_what_is_no_result_is_one_error(tmp_path: Path, content: str | None, says: str) -> None:
    if content is not None:
        (tmp_path / "result.json").write_text(content)
    with pytest.raises(InputError, match=re.escape(says)) as raised:
        read_result(tmp_path)
    assert raised.value.code == "data.file"


def test_a_run_that_is_not_there_is_looked_for_nearby(tmp_path: Path) -> None:
    (tmp_path / "heart-1").mkdir()
    (tmp_path / "heart-1/result.json").write_text("{}")
    with pytest.raises(InputError, match="does not exist; did you mean 'heart-1'"):
        read_result(tmp_path / "heart-2")
    with pytest.raises(InputError, match="does not exist; expected the folder of a run"):
        read_result(tmp_path / "nowhere/heart-2")


def test_numbers_have_their_own_intervals_and_calibration() -> None:
    result = simulated()
    found = result["evidence"]
    found |= {"kind": "number", "classes": [], "positive": None, "roc": None, "confusion": None, "thresholds": []}
    found["calibration"] = [{"rows": 30, "score": 10.0, "share": 11.5, "low": 9.0, "high": 14.0}]
    for one in (*found["members"], found["overall"]):
        one |= {"per_class": [], "intervals": {"federated": {"r2": [0.5, 0.7], "rmse": [2.0, 4.0]}}}
    for one in result["members"]:
        one["federated"] |= {"r2": 0.6, "rmse": 3.0}
    cells = row(result, "Test rows and intervals", "A")
    assert cells[1:4] == ["60", "0.600 (0.500 to 0.700)", "3.000 (2.000 to 4.000)"]
    assert row(result, "Calibration", "30") == ["30", "10.000", "11.500 (9.000 to 14.000)"]
    text = words(result)
    assert "R²: delta method." in text
    assert "DeLong" not in text
    assert "positive" not in text.partition("How sure this is")[2].partition("In brackets")[0]


def test_what_a_threshold_does_is_shown_with_its_intervals() -> None:
    result = simulated()
    share = {"value": 0.9, "low": 0.8, "high": 0.95}
    result["evidence"]["thresholds"] = [
        {"threshold": one, "by": by, "confusion": [[30, 11], [4, 30]], "sensitivity": share, "specificity": share,
         "precision": None}
        for one, by in ((0.5, "in use"), (0.18, "validation rows"))
    ]  # fmt: skip
    text = words(result)
    assert "A score above 0.5 says ill: the threshold in use." in text
    assert "A score above 0.18 says ill: the threshold better on the validation rows." in text
    assert row(result, "Shares at 0.18", "sensitivity") == ["sensitivity", "0.900 (0.800 to 0.950)"]
    assert row(result, "Shares at 0.18", "precision") == ["precision", "–"]


@pytest.mark.parametrize(
    ("losses", "ended", "said"),
    [
        ([0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.35, 0.3], "done", True),
        ([0.9, 0.5, 0.4, 0.31, 0.3005, 0.3002, 0.3001, 0.3], "done", False),
        ([0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.32], "done", False),
        ([0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.35, 0.3], "converged", False),
        ([0.9, 0.8, 0.7], "done", False),
        ([0.9, 0.8, None, 0.6, 0.5], "done", False),
    ],
)
def test_a_loss_that_still_fell_is_said(losses: list[float | None], ended: str, said: bool) -> None:
    result = simulated() | {"ended": ended}
    result["evidence"]["validation"]["by_round"] = [[at, loss] for at, loss in enumerate(losses, start=1)]
    assert ("still fell at the end" in words(result)) is said


def test_average_precision_is_shown_where_positives_are_rare() -> None:
    result = simulated()
    assert not findings.rare(result)
    result["evidence"]["overall"]["per_class"] = [950, 50]
    assert findings.rare(result)


def test_a_long_list_of_members_is_cut() -> None:
    result = simulated()
    one = result["evidence"]["members"][1]
    result["evidence"]["members"] = [one | {"name": f"m{at:02d}"} for at in range(20)]
    (line,) = [line for line in findings.cautions(result) if "may be chance" in line]
    assert "m05" in line
    assert "m06" not in line
    assert "and 14 more: the 95 % interval" in line
