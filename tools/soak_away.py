"""Six real nodes of which one is there for a while and then away for long: part of ``make soak``. 1 if it ends badly.

    python tools/soak_away.py THERE_S AWAY_S TIMES

Five are there all the time, the sixth for THERE_S seconds, then not for AWAY_S, and so on. Every round that waited for
it has to end within a minute of its coming, and the model is that of an undisturbed simulation, to the bit.
"""

from __future__ import annotations

import sys
import tempfile
import threading
import time
from datetime import datetime
from pathlib import Path

from support.live import Live, undisturbed

ROUND_S = 60.0
SIX = ("simulate.partition=random", "simulate.members=6", 'data.drop=["fold", "site"]')


def main(there_s: float, away_s: float, times: int) -> int:
    """Run, and say what came of it."""
    with tempfile.TemporaryDirectory() as folder, Live(Path(folder) / "up", "training.rounds=2000", *SIX) as live:
        flaky = live.names[-1]
        run, comings = live.submit(), [time.time()]
        promoted: list[float] = []

        def follow() -> None:
            for entry in live.remote.follow(run):
                if entry["event"] == "promoted":
                    promoted.append(datetime.fromisoformat(entry["time"]).timestamp())

        follower = threading.Thread(target=follow, daemon=True)
        follower.start()
        for _ in range(times):
            time.sleep(there_s)
            process = live.processes.running.pop(flaky)
            process.terminate()
            process.wait()
            time.sleep(away_s)
            comings.append(time.time())
            live.start(flaky)
        time.sleep(ROUND_S)
        live.remote.stop(run)
        follower.join(ROUND_S)
        shown = live.remote.show(run)
        live.check_log()
        firsts = [min((at for at in promoted if at > came), default=float("inf")) - came for came in comings[1:]]
        done = sum(one["status"] == "promoted" for one in shown["result"]["rounds"])
        rounds = shown["result"]["rounds"]
        repeated = sum(one["status"] == "failed" and one["code"] != "run.stopped" for one in rounds)
        same = shown["result"]["model"]["sha256"] == undisturbed(live, f"training.rounds={done}")
    print(
        f"{done} rounds; after each coming the waiting one ended within {', '.join(f'{one:.0f} s' for one in firsts)}"
    )
    print(f"{repeated} rounds were repeated; the model is {'the undisturbed one' if same else 'ANOTHER ONE'}")
    return 0 if same and not repeated and max(firsts) <= ROUND_S else 1


if __name__ == "__main__":
    sys.exit(main(float(sys.argv[1]), float(sys.argv[2]), int(sys.argv[3])))
