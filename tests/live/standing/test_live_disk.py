"""Real processes on a disk that fills up."""

from __future__ import annotations

import shutil
import ssl
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest
from moonflower.federation import processes
from moonflower.federation.remote import await_ready
from support import PATIENCE_S
from support.live import Live, undisturbed

ROUNDS = "training.rounds=2"


@contextmanager
def small(place: Path, room: int = 4 << 20) -> Iterator[None]:
    """Leave so many bytes of a disk free."""
    before = shutil.disk_usage(place)
    resize(place, before.used + room)
    try:
        yield
    finally:
        (place / "filler").unlink(missing_ok=True)
        resize(place, before.total)


def resize(place: Path, size: int) -> None:
    subprocess.run(["mount", "-o", f"remount,size={size}", str(place)], check=True)


def fill(place: Path) -> None:
    with (place / "filler").open("wb", buffering=0) as file:
        try:
            while True:
                file.write(bytes(4096))
        except OSError:
            pass


def test_a_disk_that_fills_up_costs_no_more_than_time(live: Live) -> None:
    """The run waits for space, the server stays up and says why, and the last good model is what it was."""
    place = live.state
    if not place.is_mount():
        pytest.skip("a small disk cannot be mounted here; it needs root (CAP_SYS_ADMIN)")
    with small(place):
        costs_time(live, place)
    run = live.submit()
    live.remote.stop(run)
    *_, last = live.remote.follow(run)
    assert last["code"] == "run.stopped"
    live.check_log()


def costs_time(live: Live, place: Path) -> None:
    server, refused, before = live.processes.running["server"], [], len(live.log())
    trust = ssl.create_default_context(cafile=live.stage.folder / "ca.pem")

    def full(_: object) -> None:
        fill(place)
        url = f"{live.stage.server_url}/v1/fleet/pull-messages"
        refused.append(httpx.post(url, verify=trust, headers={"Authorization": "DPoP junk"}))
        threading.Timer(5.0, (place / "filler").unlink).start()

    shown = live.run(ROUNDS, at={("promoted", 1): full})
    assert server.poll() is None
    assert [(reply.status_code, reply.json()["code"]) for reply in refused] == [(401, "auth.malformed")]
    said = live.output("server")
    (line,) = {
        line.partition("its ServerApp died")[2] for line in said.splitlines() if " is full" in line and "died" in line
    }
    assert line.startswith(f" because the disk of {place} is full")
    assert "Traceback" not in said
    assert (shown["status"], shown["code"]) == ("done", ""), shown
    assert shown["result"]["model"]["sha256"] == undisturbed(live, ROUNDS)
    assert {entry["code"] for entry in live.events("failed", before)} <= {"run.interrupted"}
    live.check_log()

    fill(place)  # again: no run is taken, a server that is killed comes up, and it takes one when there is room
    reply = live.remote._api._http.post("/api/runs", json=live.recipe().as_dict())
    assert (reply.status_code, reply.json()["code"]) == (503, "http.unavailable")
    live.kill("server")
    live.start("server")
    await_ready(lambda: processes.is_up(live.stage, live.processes), "the server", PATIENCE_S)
    assert live.remote.runs()[-1]["status"] == "done"
