"""The report says what the result says, in the terminal and on the page, whatever the result lacks."""

from __future__ import annotations

import json
import re
import xml.etree.ElementTree as ET
from html.parser import HTMLParser
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from moonflower.report import charts
from moonflower.report import table as report
from moonflower.report.findings import summary, verdicts
from moonflower.report.page import page
from rich.console import Console

HOSPITALS = {  # name: (rows, loss, accuracy, auc), each (alone, federated, personalised, pooled)
    "Cleveland": (
        303,
        (0.392, 0.418, 0.389, 0.381),
        (0.836, 0.820, 0.836, 0.852),
        (0.911, 0.903, 0.903, 0.917),
    ),
    "Hungary": (
        294,
        (0.451, 0.402, 0.397, 0.395),
        (0.797, 0.831, 0.831, 0.831),
        (0.872, 0.894, 0.894, 0.897),
    ),
    "Switzerland": (
        123,
        (0.381, 0.357, 0.254, 0.331),
        (0.880, 0.840, 0.920, 0.880),
        (0.522, 0.698, 0.698, 0.721),
    ),
    "VA Long Beach": (
        200,
        (0.602, 0.561, 0.537, 0.549),
        (0.700, 0.725, 0.750, 0.725),
        (0.701, 0.754, 0.754, 0.760),
    ),
}
SHA = "9f86d081884c7d65" * 4
WAYS = ("alone", "federated", "personalised", "pooled")


def scores(loss: float, accuracy: float, auc: float | None) -> dict[str, float | None]:
    return {"loss": loss, "accuracy": accuracy, "auc": auc, "average_precision": auc and auc - 0.02}


def a_member(name: str, rows: int, *columns: tuple[float, ...]) -> dict[str, Any]:
    by_way = zip(WAYS, zip(*columns, strict=True), strict=True)
    return {"name": name, "rows": rows} | {way: scores(*values) for way, values in by_way}


def a_round(i: int, names: list[str], total: int = 20) -> dict[str, Any]:
    share = 1 - 0.82 ** (i * 20 / total)
    return {
        "round": i, "number": i + 40, "status": "promoted", "code": None, "members": list(names),
        "named": [], "warnings": [], "votes": {"better": 3, "same": 1, "worse": 0, "abstain": 0},
        "metrics": scores(0.60 - 0.20 * share, 0.70 + 0.12 * share, 0.80 + 0.09 * share),
    }  # fmt: skip


def heart(rounds: int = 20) -> dict[str, Any]:
    """Four hospitals: round 4 kept, round 7 refused, round 9 repeated for Hungary, Cleveland better alone."""
    names = list(HOSPITALS)
    every = [a_round(i + 1, names, rounds) for i in range(rounds)]
    if rounds >= 9:
        every[3] |= {"status": "kept", "votes": {"better": 1, "same": 2, "worse": 0, "abstain": 1}}
        every[6] |= {"status": "refused", "code": "gate.worse", "metrics": scores(0.61, 0.69, 0.79)}
        every[6]["votes"] = {"better": 0, "same": 0, "worse": 4, "abstain": 0}
        every[11]["warnings"] = [{"member": "VA Long Beach", "code": "gate.worse"}]
        for later in every[8:]:
            later["number"] += 1
        failed = {"status": "failed", "code": "round.too_few", "metrics": None, "members": []}
        named = [{"member": "Hungary", "code": "envelope.signature"}]
        every.insert(8, {**every[8], **failed, "number": 49, "named": named, "votes": {}})
    return {
        "version": 1, "federation": "heart", "run": "heart-20260301T101500Z",
        "rounds": every, "members": [a_member(n, *HOSPITALS[n]) for n in names],
        "overall": {"alone": scores(0.498, 0.785, 0.852), "federated": scores(0.402, 0.821, 0.891),
                    "pooled": scores(0.391, 0.826, 0.896)},
        "wire": {"params": 23, "upload_bytes": 31244, "upload_bytes_per_param": 1358.4347,
                 "download_bytes": 412, "seal_s": 0.0042, "add_s": 0.0011, "answer_s": 0.0023, "open_s": 0.0058},
        "model": {"version": 19, "sha256": SHA, "path": f"runs/heart/models/{SHA}.safetensors"},
        "audit": {"entries": 412, "root": "3fdba35f04dc8c46" * 4, "verified": True},
    }  # fmt: skip


def live() -> dict[str, Any]:
    """A live run seen by Cleveland: nothing of others, nothing alone, metrics in the last round only."""
    result = heart(5)
    for member in result["members"]:
        member |= {"rows": None, "alone": None, "pooled": None}
        if member["name"] != "Cleveland":
            member |= {"federated": None, "personalised": None}
    result["overall"] |= {"alone": None, "pooled": None}
    for r in result["rounds"][:-1]:
        r["metrics"] = None
    return result


def empty() -> dict[str, Any]:
    nothing = dict.fromkeys(heart(), None)
    return nothing | {"version": 1, "federation": "heart", "rounds": [], "members": []}


def refused() -> dict[str, Any]:
    """Every round refused without metrics, a log that does not verify, one undefined AUC."""
    result = heart()
    for r in result["rounds"]:
        r |= {"status": "refused", "code": "gate.step", "metrics": None}
    result["audit"]["verified"] = False
    result["model"] = None
    result["members"][2]["alone"]["auc"] = None
    return result


def banks() -> dict[str, Any]:
    result = heart(100)
    names = [
        "WELLS FARGO BANK NATL ASSOC",
        "ZIONS BANK, A DIVISION OF",
        *(f"BANK NUMBER {i} NATL ASSOC" for i in range(6)),
    ]
    result["members"] = [a_member(n, 9000 + i, *list(HOSPITALS.values())[i % 4][1:]) for i, n in enumerate(names)]
    for r in result["rounds"]:
        r["members"] = list(names)
    result["rounds"][20] |= {"status": "failed", "code": "round.too_few", "metrics": None, "members": []}
    result["rounds"][30] |= {"status": "refused", "code": "gate.step", "metrics": scores(1e9, 0.5, None)}
    return result


HOSTILE = '<script>alert("1")</script>\x1b[31m&\u202e\ud800'


def hostile() -> dict[str, Any]:
    """Every text of a result replaced by a hostile one, keys and statuses kept."""

    def poison(value: Any, key: str = "") -> Any:
        if isinstance(value, dict):
            return {k: poison(v, k) for k, v in value.items()}
        if isinstance(value, list):
            return [poison(v, key) for v in value]
        return HOSTILE + value if isinstance(value, str) and key != "status" else value

    return poison(heart())  # type: ignore[no-any-return]


SAMPLES = {f.__name__: f() for f in (heart, live, empty, refused, banks, hostile)}
sample = pytest.mark.parametrize("result", SAMPLES.values(), ids=SAMPLES.keys())


def printed(result: dict[str, Any], width: int = 100) -> str:
    out = StringIO()
    report.table(result, Console(file=out, width=width))
    return out.getvalue()


def flat(text: str) -> str:
    return " ".join(text.split())


def tree(result: dict[str, Any]) -> ET.Element:
    return ET.fromstring(page(result))


def words(result: dict[str, Any]) -> str:
    return flat(" ".join(tree(result).find("body").itertext()))  # type: ignore[union-attr]


class Balanced(HTMLParser):
    """Fails on a tag that is not closed in order, and collects tags and attributes."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: list[tuple[str, dict[str, str | None]]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.open.append(tag)
        self.seen.append((tag, dict(attrs)))

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


@sample
def test_the_page_is_well_formed_and_self_contained(result: dict[str, Any]) -> None:
    text = page(result)
    tree(result)
    parser = Balanced()
    parser.feed(text)
    parser.close()
    assert parser.open == []
    for tag, attributes in parser.seen:
        assert tag not in {
            "script",
            "link",
            "img",
            "iframe",
            "object",
            "embed",
            "base",
            "form",
            "use",
            "image",
        }
        assert not {"src", "href", "xlink:href", "srcset", "action", "style"} & attributes.keys()
        assert not any(name.startswith("on") for name in attributes)
    for outside in ("http:", "https:", "//", "@import", "url("):
        assert outside not in text.replace(HOSTILE, "")
    assert "default-src 'none'" in text


@sample
def test_every_chart_can_be_read_aloud_and_ids_are_unique(result: dict[str, Any]) -> None:
    root = tree(result)
    ids = [e.get("id") for e in root.iter() if e.get("id")]
    assert len(ids) == len(set(ids))
    for svg in root.iter("svg"):
        if svg.get("aria-hidden") != "true":
            assert svg.get("role") == "img"
            named = [e.text for e in svg if e.get("id") in (svg.get("aria-labelledby") or "").split()]
            assert len(named) == 2
            assert all(named)


@sample
def test_no_undefined_number_leaks_its_python_name(result: dict[str, Any]) -> None:
    assert not re.search(r"\b(None|nan|inf)\b", words(result))
    assert not re.search(r"\b(nan|inf)\b", printed(result))


def test_hostile_text_stays_text() -> None:
    result = hostile()
    text = page(result)
    assert "<script" not in text
    assert "&lt;script&gt;alert(&quot;1&quot;)&lt;/script&gt;" in text
    for where in (text, printed(result), printed(result, 80)):
        assert not {"\x1b", "\u202e", "\ud800"} & set(where)
    result["members"][0]["name"] = "[red]Red[/red]"
    assert "[red]Red[/red]" in printed(result)


def test_a_member_that_is_better_alone_is_named_first() -> None:
    first, second = verdicts(heart())
    assert first.startswith("Federation does not help Cleveland")
    assert "(0.392 alone, 0.418 federated); the personalised model closes the gap (0.389)" in first
    assert second.startswith("Federation helps Hungary, Switzerland and VA Long Beach:")
    assert first in words(heart())
    assert second in words(heart())


def test_several_members_that_are_better_alone_take_a_line_each() -> None:
    losses = {"A": (0.3, 0.4, 0.2), "B": (0.3, 0.4, 0.35), "C": (0.5, 0.4, 0.4)}
    members = [
        {"name": name, "alone": {"loss": alone}, "federated": {"loss": federated}, "personalised": {"loss": own}}
        for name, (alone, federated, own) in losses.items()
    ]
    assert verdicts({"members": members}) == [
        "Federation does not help 2 of 3 members: on each one's own test rows its own model has the lower loss.",
        "A: 0.300 alone, 0.400 federated; the personalised model closes the gap (0.200).",
        "B: 0.300 alone, 0.400 federated; the personalised model narrows the gap but does not close it (0.350).",
        "Federation helps C: lower loss than alone on its own test rows.",
    ]


def test_what_a_task_does_not_know_takes_no_room() -> None:
    """Digits: no AUC and nothing personalised; a row or a column of dashes would tell nothing."""
    result = heart(3)
    for part in (*result["members"], result["overall"]):
        part.pop("personalised", None)
        for way in ("alone", "federated", "pooled"):
            part[way] |= {"auc": None, "average_precision": None}
    table = printed(result).split("* best of its row")[0]
    assert "accuracy" in table
    assert "AUC" not in table
    assert "personalised" not in table
    for one in result["rounds"]:
        one["metrics"] |= {"auc": None, "average_precision": None}
    for said in ("Accuracy over rounds", "Accuracy, all members' test rows", "Accuracy, higher is better"):
        assert said in words(result)
    for unsaid in ("AUC over rounds", "AUC, all members' test rows", "AUC, higher is better"):
        assert unsaid not in words(result)
        assert unsaid in words(heart(3))


@pytest.mark.parametrize(
    ("personalised", "said"),
    [
        (0.400, "the personalised model closes the gap (0.400)"),
        (0.405, "narrows the gap but does not close it (0.405)"),
        (0.420, "the personalised model does not close the gap (0.420)"),
        (None, "no personalised model"),
    ],
)
def test_whether_personalising_closes_the_gap(personalised: float | None, said: str) -> None:
    member = {
        "name": "A",
        "alone": {"loss": 0.4},
        "federated": {"loss": 0.41},
        "personalised": {"loss": personalised},
    }
    assert said in verdicts({"members": [member]})[0]


def test_verdicts_on_ties_small_gaps_and_gaps_in_knowledge() -> None:
    def one(name: str, alone: float | None, federated: float | None) -> dict[str, Any]:
        return {
            "name": name,
            "alone": {"loss": alone},
            "federated": {"loss": federated},
            "personalised": None,
        }

    lines = verdicts({"members": [one("A", 0.40001, 0.40002), one("B", 0.5, 0.5), one("C", None, 0.5)]})
    assert "(0.40001 alone, 0.40002 federated)" in lines[0]
    assert lines[1:] == [
        "Federation makes no difference to B: the same loss as alone.",
        "Whether federation helps C is not known here.",
    ]
    assert "cannot say whether federation helps a member" in " ".join(verdicts(live()))
    assert verdicts({"members": [one("A", 0.5, 0.4)]}) == [
        "Federation helps A: lower loss than alone on its own test rows."
    ]


@pytest.mark.parametrize("width", [80, 100])
def test_the_table_holds_what_it_must(width: int) -> None:
    text = printed(heart(), width)
    assert max(len(line) for line in text.splitlines() if not line.startswith("Model")) <= width
    said = flat(text)
    for must in (
        "Cleveland loss 0.392 0.418 0.389 0.381*",
        "303 rows accuracy 0.836 0.820 0.836 0.852*",
        "AUC 0.872 0.894 0.894 0.897*",
        "all members' test rows loss 0.498 0.402 – 0.391*",
        "Federation does not help Cleveland",
        "Result 4 members trained one model together in 21 rounds (18 promoted, 1 kept, 1 refused, 1 failed); on all",
        "each member judged on its own test rows",
        "21: 18 promoted, 1 kept, 1 refused, 1 failed; refused gate.worse (round 7); failed round.too_few (round 9)",
        "named: Hungary envelope.signature (round 9)",
        "upload 31,244 bytes (31.2 kB) per member and round (1,358.4 bytes a parameter, 23 parameters)",
        "download 412 bytes; seal 4.2 ms, add 1.1 ms, answer 2.3 ms, open 5.8 ms",
        "verified, 412 entries, root " + heart()["audit"]["root"],
        heart()["model"]["path"],
    ):
        assert must in said


@pytest.mark.parametrize("width", [80, 100])
def test_long_names_keep_the_columns(width: int) -> None:
    text = printed(banks(), width)
    assert re.search(r"WELLS FARGO BANK NATL ASSOC +loss +0\.392 +0\.418 +0\.389 +0\.381\*", text)
    assert max(len(line) for line in text.splitlines() if not line.startswith("Model")) <= width


def test_members_of_whom_nothing_is_known_take_one_line() -> None:
    assert "Hungary not known here Switzerland not known here" in flat(printed(live()))
    assert "No numbers of Hungary, Switzerland and VA Long Beach" in words(live())


def test_where_nothing_is_known_of_any_member_nothing_stands_there_for_them() -> None:
    result = live()
    for member in result["members"]:
        member |= {"federated": None, "personalised": None}
    said = flat(printed(result))
    assert said.startswith("heart: a member's own numbers stay with the member")
    assert "not known here" not in said
    assert "best of its row" not in said
    assert "all members' test rows loss" in said
    page = words(result)
    assert "No numbers of Cleveland, Hungary, Switzerland and VA Long Beach" in page
    assert "Not known for any member" not in page


def test_a_log_that_does_not_verify_is_loud() -> None:
    assert "NOT VERIFIED, 412 entries" in flat(printed(refused()))
    root = tree(refused())
    alarms = ["".join(e.itertext()) for e in root.iter("div") if e.get("role") == "alert"]
    assert len(alarms) == 1
    assert "The audit log does not verify" in alarms[0]
    assert words(refused()).count("NOT VERIFIED") == 2
    assert not any(e.get("role") == "alert" for e in tree(heart()).iter("div"))
    assert "not checked" in printed(empty())


def test_no_promoted_round_is_said_first() -> None:
    """There is no model then: not the start, and no word on whom it helps."""
    assert summary(refused()).endswith("21 rounds (21 refused). No version was promoted; there is no model to use.")
    assert "Model No version was promoted; there is no model to use." in flat(printed(refused()))
    assert "No version was promoted; there is no model to use." in words(refused())
    assert "No version was promoted" not in words(heart()) + printed(heart())
    assert verdicts(refused()) == []
    assert "Not measured in any round." in words(refused())


def test_why_a_run_ended_is_said_unless_it_came_to_its_planned_end() -> None:
    done = heart() | {"ended": "done"}
    assert "End " not in printed(done)
    early = heart() | {"ended": "converged"}
    early["rounds"][-1]["status"] = "kept"
    for said in (flat(printed(early)), words(early)):
        assert "converged: nothing better since round 19" in said
    assert "converged: nothing was better" in words(refused() | {"ended": "converged"})
    assert "End early: max_failed" in flat(printed(refused() | {"ended": "max_failed"}))


def test_the_summary_is_one_plain_sentence() -> None:
    assert summary(heart()) == (
        "4 members trained one model together in 21 rounds (18 promoted, 1 kept, 1 refused, 1 failed); on all"
        " members' test rows it reaches a loss of 0.402 and an AUC of 0.891, against a loss of 0.498 and an AUC of"
        " 0.852 for the members' own models on average."
    )


def test_the_rounds_are_all_in_the_table_and_told_apart_by_shape() -> None:
    root = tree(banks())
    table = next(t for t in root.iter("table") if "votes" in "".join(t.itertext()))
    rows = [[flat("".join(cell.itertext())) for cell in row] for row in table.iter("tr")]
    assert len(rows) == 102
    assert rows[21][:6] == ["20", "61", "failed", "round.too_few", "3 better, 1 same", "–"]
    assert rows[4][2:5] == ["kept", "–", "1 better, 2 same, 1 abstained"]
    assert rows[31][-3:] == ["1.00e+09", "0.500", "–"]
    assert rows[7][2:5] == ["refused", "gate.worse", "4 worse"]
    for chart in (e for e in root.iter("svg") if (e.get("aria-labelledby") or "").startswith("rounds-")):
        shapes = {
            e.get("class"): e.tag for e in chart.iter() if e.get("class") in {"promoted", "kept", "refused", "failed"}
        }
        assert shapes == {"promoted": "circle", "kept": "circle", "refused": "path", "failed": "path"}
        assert len({e.get("d", "").split("m", 1)[-1] for e in chart.iter("path") if e.get("class") in shapes}) == 2
    tries = [flat(" ".join(r.itertext())) for r in tree(heart()).iter("tr") if (r.findtext("th") or "") == "9"]
    assert len(tries) == 2
    assert tries[0].startswith("9 49 failed round.too_few – – Hungary envelope.signature")
    assert tries[1].startswith("9 50 promoted – 3 better, 1 same all 4 –")


def test_a_wild_round_does_not_flatten_the_curve() -> None:
    marks = [charts.Mark(i, "promoted", 0.6 - i / 100, "", False) for i in range(1, 11)]
    calm = charts.over_rounds(marks, "t", "d", "a")
    wild = charts.over_rounds([*marks[:9], charts.Mark(10, "refused", 1e6, "", False)], "t", "d", "a")
    assert "↑ 1.00e+06" in wild
    line = wild.partition('points="')[2].partition('"')[0]
    heights = [float(y) for y in re.findall(r",([\d.]+)", line)]
    assert max(heights) - min(heights) > 80
    assert "↑" not in calm


@pytest.mark.parametrize("values", [[0.5], [0.5, 0.5], [0.0, 0.0], [1e-9, 2e-9], [-1.0, 1e12]])
def test_charts_of_odd_numbers(values: list[float]) -> None:
    marks = [charts.Mark(i + 1, "promoted", v, "n", False) for i, v in enumerate(values)]
    drawn = (
        charts.over_rounds(marks, "t", "d", "a"),
        charts.bars([("m", {"alone": v, "pooled": None}) for v in values], "t", "d", "b"),
    )
    for svg in drawn:
        assert ET.fromstring(svg).tag.endswith("svg")
        assert not re.search(r"\b(nan|inf)\b", svg, re.IGNORECASE)


def test_the_limits_are_said() -> None:
    said = words(heart())
    assert "only the answers of all together open it (experimental until somebody outside the project" in said
    assert "All members signed the settings; a run chooses little but its seed" in said
    assert "holds everybody up, and nobody can say who answered junk" in said
    assert "no differential privacy" in said
    assert "does not prove that anybody was honest" in said
    assert "comes from a simulation" in said
    assert "comes from a simulation" not in words(live())


def test_writing_replaces_the_old_report_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = tmp_path / "report.html"
    report.write(heart(), tmp_path)
    assert target.read_text(encoding="utf-8") == page(heart())
    report.write(hostile(), tmp_path)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["report.html", "result.json"]
    before = target.read_bytes()

    def fail(*_: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr("os.replace", fail)
    with pytest.raises(OSError, match="disk full"):
        report.write(heart(), tmp_path)
    assert target.read_bytes() == before
    assert sorted(p.name for p in tmp_path.iterdir()) == ["report.html", "result.json"]


def test_the_result_is_not_changed() -> None:
    result = heart()
    before = json.dumps(result)
    printed(result)
    page(result)
    assert json.dumps(result) == before
