"""``crypto plan`` and ``bench``: what they print is what the planner decides and what was measured."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from moonflower.bench import measure
from moonflower.bench.ours import ours
from moonflower.bench.row import CLIP
from moonflower.cli.bench import bench as bench_command
from moonflower.cli.crypto import crypto
from moonflower.crypto import planner
from moonflower.errors import InputError
from typer.testing import CliRunner


def test_the_plan_is_the_planners() -> None:
    done = CliRunner().invoke(crypto, ["plan", "--members", "16", "--params", "1000000", "--json"])
    row, found = json.loads(done.stdout), planner.plan(16, 16, 1_000_000)
    assert (row["modulus"], row["degree"], row["lanes"]) == (found.modulus, found.degree, found.lanes)
    assert row["bytes_per_param"] < 3.9


def test_the_table_says_against_whom() -> None:
    done = CliRunner().invoke(crypto, ["plan", "--members", "5"], env={"COLUMNS": "120"})
    assert done.exit_code == 0
    said = " ".join(done.stdout.split())
    assert "any one member with the coordinator: nothing" in said
    assert "a coordinator that does not: any sum but the exact one is refused (2^-96); but two sums" in said
    assert " 5 " in done.stdout


def test_a_missing_interpreter_is_bad_input(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such file"):
        bench_command(nvflare_python=tmp_path / "python")


def test_our_row_is_exact_and_counts_the_whole_envelope() -> None:
    row = ours(20_000, 1)
    plan = planner.plan(16, 16, 20_000)
    body = plan.body_bytes(20_000 + plan.limbs)
    assert row["exact"] is True
    assert body + 400 < row["up_bytes_per_param"] * 20_000 < body + 1500, "header and signature are counted"
    step = CLIP / 32767
    assert row["max_error"] <= 16 * step / 2 * 1.001


@pytest.mark.slow
def test_a_bench_gives_every_row_or_says_why_not() -> None:
    result = measure.bench([(20_000, 4)], None, lambda _: None)
    named = {row["scheme"] for row in result["rows"]} | {item["scheme"] for item in result["skipped"]}
    assert named == {*measure.SCHEMES, "NVFLARE HE"}
    fields = {"scheme", "params", "tensors", "seal_s", "add_s", "open_s", "exact", "max_error", "peak_mb"}
    assert all(fields | {"up_bytes_per_param", "down_bytes_per_param"} == row.keys() for row in result["rows"])
    text = measure.markdown(result)
    assert "20,000 parameters in 4 tensors" in text
    assert all(f"| {row['scheme']} |" in text for row in result["rows"])
    assert all(f"Not measured: {item['scheme']}" in text for item in result["skipped"])
