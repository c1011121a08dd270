"""Debian's Prometheus for tests: promtool, and a server that scrapes what a test tells it to."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
from moonflower.federation import stage as staging

from support import CONFIGS, PATIENCE_S, peers

DEPLOY = CONFIGS / "deploy"
RULES = DEPLOY / "prometheus/alerts.yml"
RULE_TESTS = DEPLOY / "prometheus/alerts.test.yml"
DASHBOARD = DEPLOY / "grafana/moonflower.json"
START_S = 60.0


def found(program: str) -> str:
    """Return the path of a program of Debian's package ``prometheus``: the machine's own, or one unpacked for tests."""
    return shutil.which(program) or str(peers.installed("prometheus", _unpack) / "usr/bin" / program)


def _unpack(folder: Path) -> None:
    if os.geteuid() == 0:
        peers.done(["apt-get", "update", "-qq"], folder)
    peers.done(["apt-get", "download", "prometheus"], folder)
    (package,) = folder.glob("*.deb")
    peers.done(["dpkg-deb", "-x", package.name, "."], folder)


def promtool(*arguments: str | Path, stdin: str = "", folder: Path = RULES.parent) -> str:
    """Return what promtool says; it must be content, and silent on what it does not like."""
    line = [found("promtool"), *map(str, arguments)]
    done = subprocess.run(line, input=stdin, capture_output=True, text=True, timeout=PATIENCE_S, cwd=folder)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


class Prometheus:
    """A running one."""

    def __init__(self, url: str) -> None:
        self._http = httpx.Client(base_url=url, timeout=10, trust_env=False)

    def get(self, path: str, **parameters: Any) -> Any:
        answer = self._http.get(f"/api/v1/{path}", params=parameters).json()
        assert answer["status"] == "success", (parameters, answer)
        return answer["data"]

    def query(self, expression: str) -> list[tuple[dict[str, str], float]]:
        """Return the series of an expression now: labels and value."""
        data = self.get("query", query=expression)
        return [(one["metric"], float(one["value"][1])) for one in data["result"]]

    def value(self, expression: str) -> float:
        ((_, value),) = self.query(expression)
        return value

    def wait(self, expression: str, within_s: float = 60) -> None:
        """Wait until an expression has a series."""
        deadline = time.monotonic() + within_s
        while not self.query(expression):
            assert time.monotonic() < deadline, f"nothing came of {expression}"
            time.sleep(0.2)

    def close(self) -> None:
        self._http.close()


@contextmanager
def prometheus(folder: Path, target: str) -> Iterator[Prometheus]:
    """Start Prometheus with our rules, and have it scrape ``target`` every second."""
    (port,) = staging.free_ports(1)
    config = folder / "prometheus.yml"
    config.write_text(
        "global: {scrape_interval: 1s, evaluation_interval: 1s}\n"
        f"rule_files: ['{RULES}']\n"
        f"scrape_configs: [{{job_name: moonflower, static_configs: [{{targets: ['{target}']}}]}}]\n"
    )
    line = [found("prometheus"), f"--config.file={config}", f"--storage.tsdb.path={folder / 'data'}"]
    line += [f"--web.listen-address=127.0.0.1:{port}", "--log.level=warn"]
    with (folder / "prometheus.log").open("wb") as log:
        process = subprocess.Popen(line, stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd=folder)
    running = Prometheus(f"http://127.0.0.1:{port}")
    try:
        deadline = time.monotonic() + START_S
        while not _is_ready(running, process, deadline):
            time.sleep(0.1)
        yield running
    finally:
        running.close()
        process.terminate()
        process.wait(15)


def _is_ready(running: Prometheus, process: subprocess.Popen[bytes], deadline: float) -> bool:
    assert process.poll() is None, "prometheus ended"
    assert time.monotonic() < deadline, "prometheus does not answer"
    try:
        return running._http.get("/-/ready").status_code == 200
    except httpx.TransportError:
        return False
