"""Alert rules, dashboard and runbook, against each other; ``tests/peers/test_prometheus.py`` has the real thing."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
import yaml
from moonflower.server.watch.catalogue import PREFIX
from support import ROOT
from support.monitoring import EXPOSED, NAMES, SUFFIXES, expressions, panels, rules, used
from support.prometheus import DASHBOARD, RULE_TESTS

# Rules


def test_every_rule_is_tested_firing_and_silent() -> None:
    cases = [case for one in yaml.safe_load(RULE_TESTS.read_text())["tests"] for case in one.get("alert_rule_test", ())]
    for rule in rules():
        mine = [bool(case["exp_alerts"]) for case in cases if case["alertname"] == rule["alert"]]
        assert True in mine, rule["alert"]
        assert False in mine or rule["expr"] == "vector(1)", rule["alert"]


@pytest.mark.parametrize("rule", rules(), ids=lambda rule: rule["alert"])
def test_every_rule_says_what_to_do(rule: dict[str, Any]) -> None:
    page = (ROOT / "docs/runbook.md").read_text(encoding="utf-8")
    assert rule["annotations"].keys() == {"summary", "description", "runbook"}
    assert rule["annotations"]["runbook"] == f"docs/runbook.md#{rule['alert'].lower()}"
    assert rule["labels"]["severity"] in ("critical", "warning", "none")
    _, heading, rest = page.partition(f"\n## {rule['alert']}\n")
    entry = rest.partition("\n## ")[0]
    assert heading, "the runbook has no such entry"
    for part in ("**Means**", "**Do**"):
        assert part in entry
    if rule["labels"]["severity"] != "none":
        assert "**Look at**" in entry
    assert used(rule["expr"]) <= EXPOSED


def test_the_runbook_has_no_alert_that_is_none() -> None:
    page = (ROOT / "docs/runbook.md").read_text(encoding="utf-8")
    assert set(re.findall(r"^## (Moonflower\w+)$", page, flags=re.M)) == {rule["alert"] for rule in rules()}
    for name in set(re.findall(rf"`({PREFIX}\w+)`", page)):
        assert name in NAMES, name


# Dashboard


def test_the_dashboard_is_well_formed() -> None:
    board = json.loads(DASHBOARD.read_text())
    assert board["uid"] == "moonflower"
    everything = board["panels"]
    assert len({one["id"] for one in everything}) == len(everything)
    taken: dict[tuple[int, int], str] = {}
    for one in everything:
        place = one["gridPos"]
        assert place["x"] + place["w"] <= 24, one["title"]
        for x in range(place["x"], place["x"] + place["w"]):
            for y in range(place["y"], place["y"] + place["h"]):
                assert (x, y) not in taken, f"{one['title']} lies on {taken[x, y]}"
                taken[x, y] = one["title"]
    variables = {one["name"] for one in board["templating"]["list"]}
    for one in panels():
        assert one["targets"], one["title"]
        assert one["datasource"] == {"type": "prometheus", "uid": "${datasource}"}
        for target in one["targets"]:
            assert used(target["expr"]) <= EXPOSED, one["title"]
            assert 'instance=~"$instance"' in target["expr"], one["title"]
            assert set(re.findall(r"\$(\w+)", target["expr"])) <= variables | {"__rate_interval"}


def test_every_metric_is_shown_or_watched() -> None:
    seen = {name for _, expression in expressions() for name in used(expression)}
    seen |= {name for rule in rules() for name in used(rule["expr"])}
    seen |= {name for name in NAMES if any(f"{name}{end}" in seen for end in SUFFIXES.get(name, ()))}
    assert NAMES - seen == {f"{PREFIX}round_number", f"{PREFIX}build_info"}, (
        "the second names the servers to choose from"
    )
