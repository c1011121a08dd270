"""Our rules by promtool, and a real Prometheus that watches a federation of real processes."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing

import httpx
import pytest
from moonflower.federation import stage as staging
from moonflower.server.watch.catalogue import CATALOGUE, PREFIX
from support.live import Live
from support.monitoring import expressions, rules
from support.prometheus import DEPLOY, RULE_TESTS, RULES, Prometheus, found, prometheus, promtool


def test_promtool_takes_rules_and_example() -> None:
    assert f"{len(rules())} rules found" in promtool("check", "rules", RULES)
    assert "SUCCESS" in promtool("check", "config", DEPLOY / "prometheus/prometheus.yml")


def test_the_rules_pass_their_tests() -> None:
    assert "SUCCESS" in promtool("test", "rules", RULE_TESTS)


# A real run


def is_number(value: float) -> bool:
    return value == value


@pytest.fixture(scope="module")
def watched(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Live, Prometheus, str]]:
    """A federation of real processes that did a run, and a Prometheus that watched it."""
    found("prometheus")
    target = f"127.0.0.1:{staging.free_ports(1)[0]}"
    folder = tmp_path_factory.mktemp("watched")
    with (
        Live(folder / "up", "gate.release=automatic", "training.report_every=2", server={"metrics": target}) as live,
        prometheus(folder, target) as watching,
    ):
        watching.wait(f"sum({PREFIX}member_online) == {len(live.names)}")
        shown = live.run()
        assert shown["status"] == "done", shown
        watching.wait(f'{PREFIX}run_info{{status="done"}}')
        time.sleep(2)  # two scrapes more, for rates
        yield live, watching, target


def test_every_panel_has_data(watched: tuple[Live, Prometheus, str]) -> None:
    _, watching, target = watched
    for title, expression in expressions():
        asked = expression.replace("$__rate_interval", "1m").replace("$instance", ".+")
        series = watching.query(asked)
        assert series, f"{title}: no data: {asked}"
        assert any(is_number(value) for _, value in series), f"{title}: nothing but NaN: {asked}"
        this = watching.query(asked.replace('=~".+"', f'="{target}"'))
        assert len(this) == len(series), f"{title}: not by server"
    answers = watching.get("label/instance/values", **{"match[]": f"{PREFIX}build_info"})
    assert answers == [target], "the dashboard's choice of servers"


def test_on_a_good_run_no_rule_fires_but_the_dead_mans_switch(watched: tuple[Live, Prometheus, str]) -> None:
    _, watching, _ = watched
    (group,) = watching.get("rules")["groups"]
    assert {(one["name"], one["health"], one.get("lastError", "")) for one in group["rules"]} == {
        (rule["alert"], "ok", "") for rule in rules()
    }
    firing = {one["labels"]["alertname"] for one in watching.get("alerts")["alerts"] if one["state"] == "firing"}
    disk = {"MoonflowerDiskNearlyFull"}  # the machine's own affair, and it has to last for five minutes
    assert firing - disk == {"MoonflowerDeadMansSwitch"}


def test_what_prometheus_stored_is_what_the_log_says(watched: tuple[Live, Prometheus, str]) -> None:
    live, watching, target = watched
    watching.wait(f"{PREFIX}log_entries == {len(live.log())}")
    assert watching.value(f'{PREFIX}rounds_total{{status="promoted"}}') == len(live.events("promoted"))
    updates = [e for e in live.events("envelope_accepted") if e["details"]["purpose"] == "update"]
    assert watching.value(f'sum({PREFIX}envelopes_accepted_total{{purpose="update"}})') == len(updates) > 0
    assert watching.value(f"sum({PREFIX}witness_entries > 0) > bool 0") == 1
    assert watching.value(f'increase({PREFIX}rounds_total{{status="promoted"}}[10m]) > bool 2') == 1, "seen from 0 on"
    with closing(sqlite3.connect(f"file:{live.state / 'moonflower.db'}?mode=ro", uri=True)) as db:
        (versions,) = db.execute("select count(*) from versions where version is not null").fetchone()
        pins = [pin for (pin,) in db.execute("select pin from members")]
    assert watching.value(f"{PREFIX}model_versions") == versions
    text = httpx.get(f"http://{target}/metrics").text
    assert promtool("check", "metrics", stdin=text) == ""
    for secret in (*pins, *(entry.get("details", {}).get("sha256") for entry in live.events("promoted"))):
        assert secret
        assert secret not in text


def test_the_public_listener_shows_no_metrics_and_the_other_one_nothing_else(
    watched: tuple[Live, Prometheus, str],
) -> None:
    live, _, target = watched
    public = live.remote._api._http
    answer = public.get(f"{live.stage.server_url}/metrics")  # with an operator's token
    assert (answer.status_code, answer.json()["code"]) == (404, "http.not_found")
    for path in ("/health", "/api/runs", "/v1/runtime/acquire-task", "/"):
        assert httpx.get(f"http://{target}{path}").status_code == 404
    for url in (live.stage.server_url.replace("https", "http"), f"https://{target}"):
        with pytest.raises(httpx.TransportError):
            httpx.get(f"{url}/metrics", verify=False)


def test_counters_go_on_over_a_kill_of_the_server(watched: tuple[Live, Prometheus, str]) -> None:
    live, watching, target = watched
    before = httpx.get(f"http://{target}/metrics").text
    live.kill("server")
    watching.wait('up{job="moonflower"} == 0')
    live.start("server")
    watching.wait('up{job="moonflower"} == 1')
    after = httpx.get(f"http://{target}/metrics").text
    counters = [one.full_name for one in CATALOGUE if one.kind == "counter" and one.source == "log"]
    for name in counters:
        was = {line for line in before.splitlines() if line.startswith(name)}
        now = {line for line in after.splitlines() if line.startswith(name)}
        assert was, name
        assert {line for line in was if not line.endswith(" 0.0")} <= now, name
    assert watching.query(f"resets({PREFIX}log_events_total[10m]) > 0") == []
