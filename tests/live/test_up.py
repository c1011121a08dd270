"""``moonflower up`` ends every process with itself. That it makes a simulation's model, ``test_tutorials.py`` sees."""

from __future__ import annotations

import signal
import subprocess
import time
from pathlib import Path

import pytest
from moonflower.federation import processes
from support import PATIENCE_S
from support.live import family, three_hospitals

FEW = ["training.rounds=2", "training.report_every=0"]
SET = [word for one in FEW for word in ("--set", one)]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_ends_every_process(tmp_path: Path, number: signal.Signals) -> None:
    line = processes.command("up", three_hospitals(tmp_path), *SET, "--out", tmp_path / "up")
    process = subprocess.Popen(line, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True, umask=0)
    deadline = time.monotonic() + PATIENCE_S
    while len(family(process.pid)) < 8 and time.monotonic() < deadline:
        time.sleep(0.2)
    started = family(process.pid)
    assert len(started) >= 8
    made = [path for path in (tmp_path / "up").rglob("*") if not path.is_symlink()]
    assert len(made) > 20
    assert [path for path in made if path.stat().st_mode & 0o022] == [], "whatever the umask of the caller"
    process.send_signal(number)
    _, said = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 130
    assert said.splitlines()[-1].startswith("stopped")
    deadline = time.monotonic() + PATIENCE_S
    while (left := [pid for pid in started if Path(f"/proc/{pid}").exists()]) and time.monotonic() < deadline:
        time.sleep(0.2)
    assert left == []
