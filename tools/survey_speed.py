"""Measure `moonflower schema infer` on a large table: `python tools/survey_speed.py [ROWS] [COLUMNS]`.

The table is half numbers, some ids, dates and missing cells, and categories. Prints the seconds of the whole command,
its peak of memory, and the size of the table.
"""

from __future__ import annotations

import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv

BATCH = 100_000


def write(path: Path, rows: int, columns: int) -> None:
    """Write a CSV of ``rows`` rows and ``columns`` columns, the last of them the label."""
    generator = np.random.default_rng(1)
    words = np.array([f"group {at}" for at in range(30)])
    writer = None
    for start in range(0, rows, BATCH):
        size = min(BATCH, rows - start)
        table: dict[str, object] = {"record": np.arange(start, start + size) + 5_000_000}
        table["code"] = [f"P{at:09d}" for at in range(start, start + size)]
        table["admitted"] = np.datetime64("2015-01-01") + generator.integers(0, 3000, size)
        for at in range(columns // 2):
            values = pa.array(generator.normal(50, 20, size).round(at % 5))
            table[f"number_{at}"] = (
                pa.array(values.to_pylist(), mask=generator.random(size) < 0.1) if at < 5 else values
            )
        while len(table) < columns - 1:
            table[f"group_{len(table)}"] = words[generator.integers(0, 30, size)]
        table["y"] = np.array(["no", "yes"])[generator.integers(0, 2, size)]
        part = pa.table(table)
        writer = writer or pyarrow.csv.CSVWriter(path, part.schema)
        writer.write_table(part)
    assert writer is not None
    writer.close()


def main() -> None:
    rows, columns = (int(word) for word in [*sys.argv[1:], "1000000", "50"][:2])
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder) / "table.csv"
        write(data, rows, columns)
        command = [sys.executable, "-m", "moonflower", "schema", "infer", str(data), "--label", "y"]
        started = time.perf_counter()
        subprocess.run([*command, "--out", str(Path(folder) / "s.toml")], check=True, env=os.environ)
        seconds = time.perf_counter() - started
        used = resource.getrusage(resource.RUSAGE_CHILDREN)
        peak, busy = used.ru_maxrss / 2**20, used.ru_utime + used.ru_stime
        size = data.stat().st_size / 2**20
    print(
        f"{rows} rows, {columns} columns, {size:.0f} MiB: {seconds:.1f} s, "
        f"{busy:.1f} s of processor, peak {peak:.2f} GiB"
    )


if __name__ == "__main__":
    main()
