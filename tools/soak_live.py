"""A long run of real processes while somebody keeps killing them: part of ``make soak``. Exits with 1 if it ends badly.

    python tools/soak_live.py ROUNDS SEED

Tokens live 20 s. Every few seconds one thing of chance happens: a client, a worker, the ServerApp or the whole server
is killed, or the issuer is away for ten seconds. At the end the model must be the one that an undisturbed simulation
makes, to the bit, the log must verify, and no round's number may have been used twice.
"""

from __future__ import annotations

import random
import signal
import sys
import tempfile
import threading
import time
from collections import Counter
from pathlib import Path

from support.live import Live, everywhere, named, send, undisturbed

PAUSE_S = (4.0, 12.0)
AWAY_S = 10.0


class Mischief(threading.Thread):
    """Breaks something now and then until it is told to stop."""

    def __init__(self, live: Live, seed: int) -> None:
        super().__init__()
        self._live, self._chance, self.over = live, random.Random(seed), threading.Event()
        self.done: Counter[str] = Counter()

    def run(self) -> None:
        deeds = (self.client, self.worker, self.serverapp, self.server, self.issuer)
        while not self.over.wait(self._chance.uniform(*PAUSE_S)):
            deed = self._chance.choice(deeds)
            print(f"{time.strftime('%H:%M:%S')} {deed.__name__}", flush=True)
            deed()
            self.done[deed.__name__] += 1

    def client(self) -> None:
        name = self._chance.choice(self._live.names)
        self._live.kill(name)
        self._live.start(name)

    def worker(self) -> None:
        name = self._chance.choice(self._live.names)
        for pid in named(self._live.processes.running[name].pid, "client.node.worker"):
            send(pid, signal.SIGKILL)

    def serverapp(self) -> None:
        for pid in everywhere("flwr-serverapp", self._live.stage.folder):
            send(pid, signal.SIGKILL)

    def server(self) -> None:
        self._live.kill("server")
        self._live.start("server")

    def issuer(self) -> None:
        self._live.kill("issuer")
        time.sleep(AWAY_S)
        self._live.start("issuer")


def main(rounds: int, seed: int) -> int:
    """Run, and say what came of it."""
    with (
        tempfile.TemporaryDirectory() as folder,
        Live(
            Path(folder) / "up", f"training.rounds={rounds}", issuer={"token_ttl_s": 20}, oauth={"leeway_s": 2}
        ) as live,
    ):
        wanted = undisturbed(live)
        mischief = Mischief(live, seed)
        mischief.start()
        began = time.monotonic()
        try:
            shown = live.run(within_s=60 + 20 * rounds)
        finally:
            mischief.over.set()
            mischief.join()
        live.check_log()
        resumed = len(live.events("run_resumed"))
    same = shown["result"]["model"]["sha256"] == wanted
    took = time.monotonic() - began
    print(f"{rounds} rounds in {took:.0f} s: {shown['status']} {shown['code']}, resumed {resumed} times")
    print(f"what happened: {dict(mischief.done)}")
    print("the model is the undisturbed one" if same else "THE MODEL DIFFERS from the undisturbed one")
    return 0 if shown["status"] == "done" and same else 1


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]), int(sys.argv[2])))
