"""What a large table costs a member: a folder of Parquet files is read, dealt, kept, trained with and judged.

``PYTHONPATH=tests:tools python tools/big_table.py --rows 10000000`` makes the table in a temporary folder, runs the
member's side in a process of its own, and prints the seconds of every step and the peak of its memory.
"""

from __future__ import annotations

import argparse
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

ROWS_A_FILE = 500_000


def make(folder: Path, rows: int, columns: int) -> None:
    """Write a folder of Parquet files, piece by piece."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    draw = np.random.default_rng(1)
    for at, start in enumerate(range(0, rows, ROWS_A_FILE)):
        count = min(ROWS_A_FILE, rows - start)
        cells = draw.standard_normal((columns, count)).clip(-9, 9)
        label = (cells[0] + draw.standard_normal(count) > 0).astype(np.int64)
        arrays = {f"x{i}": column for i, column in enumerate(cells)} | {"y": label}
        pq.write_table(pa.table(arrays), folder / f"part-{at:03}.parquet", use_dictionary=False)


@contextmanager
def told(what: str) -> Iterator[None]:
    began = time.monotonic()
    yield
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"{what}: {time.monotonic() - began:.1f} s, peak so far {peak:.0f} MiB", flush=True)


def member(folder: Path, columns: int, parts: int) -> None:
    """Do what a member does with its rows in a run of one round."""
    from moonflower.client.learning.splits import split
    from moonflower.client.learning.spool import spools_in
    from moonflower.client.learning.torch import TorchLearner
    from moonflower.client.ledger.ledger import Ledger
    from moonflower.client.secret import NodeSecret
    from moonflower.client.snapshots import FOLDER, Snapshots
    from moonflower.client.tasks.tabular import Tabular
    from moonflower.configs.schema import Label, Numeric, Schema
    from moonflower.configs.settings import DataSettings
    from moonflower.configs.training import TrainingSettings

    schema = Schema(tuple(Numeric(f"x{i}", -10, 10) for i in range(columns)), Label("y", (0, 1)))
    task, secret = Tabular(), NodeSecret.for_practice(1, "a")
    training = TrainingSettings(rounds=1, local_epochs=1, parts=parts)
    state = folder.parent / "state"
    state.mkdir()
    settings, ledger = DataSettings(path=folder), Ledger(state / "ledger.db")
    with told("the program itself"):
        pass
    with told("read"), spools_in(state):
        rows = task.data(settings, schema)
    with told("dealt to training, validation and test"):
        dealt = split(rows, settings, secret=secret, member="a")
    with told("kept for the run"):
        snapshots = Snapshots(ledger.row_sets, state / FOLDER, secret, least=10, append_only=False, let_go=lambda: None)
        dealt = snapshots.of_run("run", dealt)
    learner = TorchLearner(task, dealt, schema, seed=1, secret=secret)
    with told("statistics"):
        learner.prepare(learner.scaling(learner.summary().tolist()))
    with told(f"a round of {parts} parts"):
        vector = learner.train(learner.start(), training, 1).vector
    with told("judged on the validation rows"):
        loss = learner.evaluate(vector, "validation")["loss"]
    print(f"{len(rows)} rows of {columns} columns, {type(rows).__name__}, loss {loss:.4f}")


def main() -> None:
    options = argparse.ArgumentParser()
    options.add_argument("--rows", type=int, default=10_000_000)
    options.add_argument("--columns", type=int, default=30)
    options.add_argument("--parts", type=int, default=100)
    options.add_argument("--member", type=Path, help=argparse.SUPPRESS)
    given = options.parse_args()
    if given.member:
        member(given.member, given.columns, given.parts)
        return
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place) / "table"
        folder.mkdir()
        make(folder, given.rows, given.columns)
        size = sum(file.stat().st_size for file in folder.iterdir())
        print(f"the table: {size / 1e9:.2f} GB in {len(list(folder.iterdir()))} files", flush=True)
        again = [sys.executable, __file__, "--member", str(folder), "--columns", str(given.columns)]
        subprocess.run([*again, "--parts", str(given.parts)], check=True)


if __name__ == "__main__":
    main()
