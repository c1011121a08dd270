"""How long a round of real processes takes, and where the time goes: ``make rounds``. Prints a table; no test.

One server and four clients on loopback over TLS with OAuth and DPoP, the heart preset; then two clients with a model
whose envelope is 50 MB.
"""

from __future__ import annotations

import itertools
import os
import re
import statistics
import sys
import tempfile
import threading
import time
from collections import defaultdict
from datetime import datetime
from pathlib import Path
from typing import Any

from support.live import Entry, Live, command_line

ROUNDS = 12
KINDS = {
    "client.node.worker": "workers (training, crypto)",
    "client.node.loop": "nodes (polls, requests)",
    "moonflower client": "nodes (polls, requests)",
    "flwr-serverapp": "ServerApp (adding, judging)",
    "moonflower server": "server (requests, TLS, tokens)",
}


def cpu() -> dict[int, tuple[str, float]]:
    """Return the CPU seconds that each of our processes has used, by kind."""
    found = {}
    for entry in Path("/proc").iterdir():
        line = command_line(int(entry.name)) if entry.name.isdigit() else ""
        kind = next((name for word, name in KINDS.items() if word in line), "")
        if kind:
            fields = (entry / "stat").read_text().rpartition(")")[2].split()
            found[int(entry.name)] = kind, (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    return found


def seconds(entry: Entry) -> float:
    return datetime.fromisoformat(entry["time"].replace("Z", "+00:00")).timestamp()


def heart(report_every: int) -> None:
    """Measure rounds of the heart preset."""
    with (
        tempfile.TemporaryDirectory() as folder,
        Live(
            Path(folder) / "up",
            f"training.rounds={ROUNDS}",
            "training.local_epochs=5",
            f"training.report_every={report_every}",
        ) as live,
    ):
        marks: list[tuple[float, dict[int, tuple[str, float]]]] = []

        def mark(_: object) -> None:
            marks.append((time.monotonic(), cpu()))

        shown = live.run(at={("round_began", 2): mark, ("round_began", ROUNDS): mark})
        log = [entry for entry in live.log() if entry.get("run") == shown["run"]]
        answers = [live.output(name) for name in live.names]
    began = [seconds(entry) for entry in log if entry["event"] == "round_began"]
    took = [later - earlier for earlier, later in itertools.pairwise(began[1:])]
    exchanges = 6 if report_every else 3
    print(f"heart, 4 clients, {exchanges} exchanges a round: median {statistics.median(took):.2f} s", end=" ")
    print(f"({min(took):.2f} to {max(took):.2f}, {len(took)} rounds)")
    (_, before), (_, after) = marks
    spent: dict[str, float] = defaultdict(float)
    for pid, (kind, used) in after.items():
        spent[kind] += (used - before.get(pid, (kind, 0.0))[1]) / len(took)
    for kind, used in sorted(spent.items(), key=lambda item: -item[1]):
        print(f"  CPU {used:.2f} s a round  {kind}")
    wire = shown["result"]["wire"]
    print(f"  sealing {1000 * wire['seal_s']:.1f} ms, adding {1000 * wire['add_s']:.1f} ms,", end=" ")
    print(f"opening {1000 * wire['open_s']:.1f} ms a member (medians)")
    for kind, what in (("train.seal", "training and sealing"), ("evaluate.open", "opening and judging")):
        found = [float(value) for text in answers for value in re.findall(rf"{kind} answered after ([\d.]+) s", text)]
        print(f"  a node's {what}, from the pull to the last byte of the reply: {statistics.median(found):.2f} s")


def large() -> None:
    """Send an envelope of 50 MB from each of two nodes; watch every process's memory."""
    os.environ["PYTHONPATH"] = str(Path(__file__).parent)
    most: dict[str, int] = defaultdict(int)
    over = threading.Event()

    def watch() -> None:
        while not over.wait(0.1):
            for pid, (kind, _) in cpu().items():
                try:
                    peak = re.search(r"VmHWM:\s+(\d+)", Path(f"/proc/{pid}/status").read_text())
                except OSError:
                    continue
                most[kind] = max(most[kind], int(peak.group(1)) if peak else 0)

    overrides: tuple[Any, ...] = (
        "task.ref=large_task:task",
        "task.layers=5",
        "simulate.partition=random",
        "simulate.members=2",
        "federation.min_members=2",
        "training.rounds=2",
        "training.local_epochs=1",
        "training.train_timeout_s=300",
    )
    with tempfile.TemporaryDirectory() as folder:
        plain = Path(folder) / "large.toml"
        plain.write_text(LARGE.format(configs=Path(__file__).parents[1] / "configs"))
        with Live(Path(folder) / "up", *overrides, config=plain) as live:
            watcher = threading.Thread(target=watch)
            watcher.start()
            began = time.monotonic()
            try:
                shown = live.run(within_s=900)
            finally:
                over.set()
                watcher.join()
            took = time.monotonic() - began
    wire = shown["result"]["wire"]
    print(
        f"{wire['params']:,} parameters, 2 clients: {shown['status']}, {took:.0f} s for 2 rounds and statistics;",
        end=" ",
    )
    print(f"envelope {wire['upload_bytes'] / 1e6:.1f} MB ({wire['upload_bytes_per_param']:.3f} B a parameter)")
    for kind, kilobytes in sorted(most.items(), key=lambda item: -item[1]):
        print(f"  at most {kilobytes / 1024:.0f} MB  one of the {kind}")


LARGE = """
[federation]
name = "large"
[task]
ref = "large_task:task"
[data]
path = "{configs}/data/heart.csv.gz"
label = "y"
drop = ["fold"]
schema = "{configs}/data/heart.schema.toml"
"""

if __name__ == "__main__":
    parts = sys.argv[1:] or ["heart", "large"]
    if "heart" in parts:
        heart(0)
        heart(1)
    if "large" in parts:
        large()
