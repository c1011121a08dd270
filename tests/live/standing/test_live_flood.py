"""Real processes under a flood of junk, and asked for code of somebody else's."""

from __future__ import annotations

import json
import os
import re
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import httpx
from moonflower.configs.roles import ServerSettings
from moonflower.oauth.login import ServerAuth
from support import PATIENCE_S, SUPPORT
from support.live import Live, family, undisturbed

ATTACKER = SUPPORT / "attacker.py"
RATE = 100  # junk tokens a second from each of two addresses


def check_done(live: Live, shown: dict[str, Any]) -> None:
    assert (shown["status"], shown["code"]) == ("done", ""), shown
    assert shown["result"]["model"]["sha256"] == undisturbed(live)
    live.check_log()


def port_of(live: Live) -> int:
    return int(live.stage.server_url.rpartition(":")[2])


def resident_mb(pid: int) -> float:
    found = re.search(r"VmRSS:\s+(\d+)", Path(f"/proc/{pid}/status").read_text())
    return int(found.group(1)) / 1024 if found else 0.0


# Floods


@contextmanager
def half_open(live: Live, count: int) -> Iterator[list[socket.socket]]:
    """Connections that never come to a request: half of them stop within its head, half within the handshake."""
    trust = ssl.create_default_context(cafile=live.stage.folder / "ca.pem")
    with ExitStack() as stack:
        opened = []
        for number in range(2 * count):
            sock = stack.enter_context(socket.create_connection(("127.0.0.1", port_of(live)), 10))
            if number % 2:
                sock.sendall(b"\x16\x03\x01\x02\x00\x01\x00")  # the first bytes of a ClientHello
            else:
                sock = stack.enter_context(trust.wrap_socket(sock, server_hostname="127.0.0.1"))
                sock.sendall(b"POST /v1/fleet/pull-messages HTTP/1.1\r\nHost: x\r\n")
            opened.append(sock)
        yield opened


def test_a_run_comes_to_its_end_under_half_open_connections_and_junk(live: Live) -> None:
    server, largest = live.processes.running["server"].pid, [0.0]
    live.remote.runs()
    over = threading.Event()

    def watch() -> None:
        while not over.wait(0.2):
            largest[0] = max(largest[0], resident_mb(server))

    watching = threading.Thread(target=watch)
    watching.start()
    before, floods = len(live.log()), list[subprocess.Popen[str]]()
    try:
        with half_open(live, 60) as opened:
            line = [sys.executable, str(ATTACKER), "flood", "127.0.0.1", str(port_of(live))]
            for source in ("127.0.0.2", "127.0.0.1"):
                flood = subprocess.Popen([*line, source, str(RATE), "10"], stdout=subprocess.PIPE, text=True)
                floods.append(flood)
            began = time.monotonic()
            shown = live.run()
            took = time.monotonic() - began
            said = [json.loads(flood.communicate(timeout=PATIENCE_S)[0]) for flood in floods]
            heads = [sock for sock in opened[::2] if closed(sock)]
    finally:
        for flood in floods:
            flood.kill()
            flood.communicate()
        over.set()
        watching.join()
    rate = sum(one["rate"] for one in said)
    print(f"\n{rate:.0f} junk tokens a second: {said}; the run took {took:.1f} s; server at {largest[0]:.0f} MB")
    check_done(live, shown)
    assert len(heads) == 60
    cut = [line for line in live.output("server").splitlines() if "conn.head_timeout" in line]
    assert 1 <= len(cut) <= 2
    assert largest[0] < 1024
    answers = {answer for one in said for answer in one["answers"]}
    assert answers <= {"401 auth.malformed", "401 auth.issuer_unknown", "429 auth.throttled"}, answers
    for one in said:  # however fast the machine is, only so many a minute are told why
        looked_at = sum(count for answer, count in one["answers"].items() if answer.startswith("401"))
        assert 0 < looked_at <= 2 * ServerSettings.model_fields["refusals_per_minute"].default, one
        assert one["answers"]["429 auth.throttled"] > 0, one
    noted = live.events("refused_member", before)
    assert {entry["code"] for entry in noted} <= {"auth.malformed", "auth.issuer_unknown"}
    assert 0 < len(noted) <= 4


def closed(sock: socket.socket) -> bool:
    sock.settimeout(5)
    try:
        return sock.recv(1) == b""
    except TimeoutError:
        return False
    except OSError:
        return True


# Foreign code


def test_nobody_outside_can_start_a_run_with_code_of_their_own(live: Live) -> None:
    """With an operator's own token: there is no route to Flower's Control API, on any port that the server opens."""
    trust = ssl.create_default_context(cafile=live.stage.folder / "ca.pem")
    auth = live.remote._api._http.auth
    assert isinstance(auth, ServerAuth)
    inner = listening(live.processes.running["server"].pid) - {port_of(live)}
    assert len(inner) == 1
    with httpx.Client(verify=trust, auth=auth, trust_env=False) as desk:
        for path in ("control/start-run", "control/list-runs", "runtime/acquire-task", "fleet/get-fab"):
            reply = desk.post(f"{live.stage.server_url}/v1/{path}", content=b"")
            assert (reply.status_code, reply.json()["code"]) == (404, "http.not_found")
            if not path.startswith("runtime"):
                assert httpx.post(f"http://127.0.0.1:{inner.copy().pop()}/v1/{path}").status_code == 404
    run = live.recipe().as_dict()
    reply = live.remote._api._http.post("/api/runs", json={**run, "fab": "UEsDBA=="})
    assert (reply.status_code, reply.json()["code"]) == (400, "config.value")


def listening(pid: int) -> set[int]:
    """Return the TCP ports on which a process and its children listen."""
    held = set()
    for one in family(pid):
        for entry in Path(f"/proc/{one}/fd").iterdir():
            try:
                held.add(os.readlink(entry))
            except OSError:
                continue
    found = set()
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/{pid}/net/{table}").read_text().splitlines()[1:]:
            words = line.split()
            if words[3] == "0A" and f"socket:[{words[9]}]" in held:
                found.add(int(words[1].rpartition(":")[2], 16))
    return found
