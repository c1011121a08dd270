"""``moonflower up``: a federation of processes from one command, as a person types it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from pathlib import Path

import pytest
from moonflower import simulate
from moonflower.federation import processes
from moonflower.server.records.verify import verify
from support import CONFIGS, PATIENCE_S
from support.live import everywhere, family

FEW = ["training.rounds=2", "training.report_every=0"]
SET = [word for one in FEW for word in ("--set", one)]
LINE = processes.command("up", CONFIGS / "heart.toml", *SET)


def test_up_ends_with_the_model_that_simulate_makes(tmp_path: Path) -> None:
    out = tmp_path / "up"
    proxies = {"HTTPS_PROXY": "http://192.0.2.1:1", "HTTP_PROXY": "http://192.0.2.1:1"}  # nothing is there
    environment = {**os.environ, **proxies, "NO_PROXY": "", "no_proxy": ""}
    done = subprocess.run(
        [*LINE, "--out", str(out), "--json"], capture_output=True, text=True, timeout=PATIENCE_S, env=environment
    )
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    simulated = simulate(CONFIGS / "heart.toml", out=tmp_path / "simulated", overrides=FEW)
    assert result["model"]["sha256"] == simulated.result["model"]["sha256"]
    assert result["rounds"] == simulated.result["rounds"]
    counted, exact = (one["overall"]["federated"] for one in (result, simulated.result))
    for metric in ("loss", "accuracy"):
        assert counted[metric] == pytest.approx(exact[metric], abs=1e-4), "from sealed counts, and from all rows"
    assert {"report.html", "result.json", "moonflower.db", "log.pub", "models"} <= {one.name for one in out.iterdir()}
    assert json.loads((out / "result.json").read_text()) == result
    assert verify(out / "moonflower.db", (out / "log.pub").read_text(), None).ok
    secret = [*out.rglob("*.key"), *out.rglob("ledger.db"), *out.rglob("issuer.key.json")]
    assert len(secret) >= 4 * 4 + 3
    assert {one.stat().st_mode & 0o077 for one in secret} == {0}
    time.sleep(1)
    assert everywhere("moonflower", out) == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_ends_every_process(tmp_path: Path, number: signal.Signals) -> None:
    out = tmp_path / "up"
    process = subprocess.Popen([*LINE, "--out", str(out)], stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    deadline = time.monotonic() + PATIENCE_S
    while len(family(process.pid)) < 8 and time.monotonic() < deadline:
        time.sleep(0.2)
    started = family(process.pid)
    assert len(started) >= 8
    process.send_signal(number)
    _, said = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 130
    assert said.splitlines()[-1].startswith("stopped")
    deadline = time.monotonic() + PATIENCE_S
    while (left := [pid for pid in started if Path(f"/proc/{pid}").exists()]) and time.monotonic() < deadline:
        time.sleep(0.2)
    assert left == []
