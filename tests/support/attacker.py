"""Processes of an attacker, or of somebody whose machine is wrong; started by ``test_live_wrong_nodes.py``.

``flood HOST PORT SOURCE RATE SECONDS`` sends junk tokens over TLS and prints what came of it as JSON.
``ahead CONFIG SECONDS`` is ``moonflower client --once CONFIG`` on a machine whose clock is ahead.
"""

from __future__ import annotations

import json
import logging
import os
import socket
import ssl
import sys
import threading
import time
from collections import Counter
from datetime import timedelta
from pathlib import Path

PATH = "/v1/fleet/pull-messages"
CONNECTIONS = 6
# Well formed, of a key that nobody has: the issuer's keys are looked at, and no more.
FORGED = "eyJhbGciOiJFUzI1NiIsInR5cCI6ImF0K2p3dCIsImtpZCI6ImUifQ.eyJpc3MiOiJodHRwOi8vMTI3LjAuMC4xIn0.AAAA"


class Flood:
    """Keep-alive connections that send a request each as soon as the pace allows."""

    def __init__(self, host: str, port: int, source: str, rate: float, seconds: float) -> None:
        self.address, self.source, self.rate, self.seconds = (host, port), source, rate, seconds
        self.answers: Counter[str] = Counter()
        self._lock = threading.Lock()
        self._sent = 0
        self._trust = ssl.create_default_context()
        self._trust.check_hostname, self._trust.verify_mode = False, ssl.CERT_NONE

    def run(self) -> dict[str, object]:
        began = time.monotonic()
        threads = [threading.Thread(target=self._send, args=(began,)) for _ in range(CONNECTIONS)]
        for one in threads:
            one.start()
        for one in threads:
            one.join()
        took = time.monotonic() - began
        return {"source": self.source, "answers": dict(self.answers), "rate": sum(self.answers.values()) / took}

    def _send(self, began: float) -> None:
        while time.monotonic() - began < self.seconds:
            try:
                plain = socket.create_connection(self.address, 5, (self.source, 0))
                with plain, self._trust.wrap_socket(plain) as sock:
                    while time.monotonic() - began < self.seconds:
                        self._one(sock, began)
            except (OSError, ValueError):
                self._count("closed")
                time.sleep(0.05)

    def _one(self, sock: ssl.SSLSocket, began: float) -> None:
        with self._lock:
            self._sent += 1
            due = began + self._sent / self.rate
        time.sleep(max(0.0, due - time.monotonic()))
        token = FORGED if self._sent % 2 else "junk"
        line = f"POST {PATH} HTTP/1.1\r\nHost: x\r\nAuthorization: DPoP {token}\r\nContent-Length: 0\r\n\r\n"
        sock.sendall(line.encode())
        reply = b""
        while b"\r\n\r\n" not in reply:
            part = sock.recv(65536)
            if not part:
                raise OSError("closed")
            reply += part
        head, _, body = reply.partition(b"\r\n\r\n")
        fields = dict(line.lower().split(b": ", 1) for line in head.split(b"\r\n")[1:])
        while len(body) < int(fields[b"content-length"]):
            body += sock.recv(65536)
        self._count(f"{head.split()[1].decode()} {json.loads(body)['code']}")

    def _count(self, what: str) -> None:
        with self._lock:
            self.answers[what] += 1


def turn(seconds: float) -> None:
    """Turn this process's clock ahead, before anything takes hold of it."""
    real = time.time
    time.time = lambda: real() + seconds
    from flwr.supernode import node_auth_http_interceptor as signing

    now = signing.now
    signing.now = lambda: now() + timedelta(seconds=seconds)


def keep(config: str, seconds: str) -> int:
    """Be the client, with a node whose clock is wrong."""
    from moonflower.client.node import keeper

    return keeper.keep(Path(config), once=True, command=[sys.executable, __file__, "node", seconds])


if __name__ == "__main__":
    what, *rest = sys.argv[1:]
    if what == "flood":
        host, port, source, rate, seconds = rest
        print(json.dumps(Flood(host, int(port), source, float(rate), float(seconds)).run()))
    elif what == "ahead":
        sys.exit(keep(*rest))
    else:
        turn(float(rest[0]))
        from moonflower.client.node import loop

        status = loop.main(rest[1:])
        logging.shutdown()
        os._exit(status)
