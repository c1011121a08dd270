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
from moonflower.crypto.answer_plan import answer_plan
from moonflower.errors import InputError
from typer.testing import CliRunner


def test_the_plan_is_the_planners() -> None:
    done = CliRunner().invoke(crypto, ["plan", "--members", "16", "--params", "1000000", "--json"])
    row, found = json.loads(done.stdout), planner.plan(16, 16, 1_000_000)
    assert (row["modulus"], row["degree"], row["lanes"]) == (found.modulus, found.degree, found.lanes)
    assert (row["zeros"], row["body_bytes"]) == (found.zeros, found.body_bytes(1_000_000 + found.limbs))
    answer = answer_plan(found)
    assert row["upload_bytes"] == row["body_bytes"] + answer.body_bytes
    assert row["download_bytes"] == row["body_bytes"] + answer.total_bytes + 16 * answer.seed_bytes
    assert row["bytes_per_param"] < 2.88


def test_the_table_says_against_whom() -> None:
    done = CliRunner().invoke(crypto, ["plan", "--members", "5"], env={"COLUMNS": "140"})
    assert done.exit_code == 0
    said = " ".join(done.stdout.split())
    assert "nobody holds a key that opens one member's values" in said
    assert "the coordinator and all members but two: learn the sum of the last two, and no more" in said
    assert "experimental until somebody outside the project has reviewed it" in said
    assert " 5 " in done.stdout


def test_a_missing_interpreter_is_bad_input(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such file"):
        bench_command(nvflare_python=tmp_path / "python")


@pytest.mark.parametrize("members", [4, 16])
def test_our_row_is_exact_and_counts_all_that_a_member_sends(members: int) -> None:
    row = ours(20_000, 1, members=members)
    plan = planner.plan(members, 16, 20_000)
    sent = plan.body_bytes(20_000) + answer_plan(plan).body_bytes
    assert row["exact"] is True
    assert sent + 1000 < row["up_bytes_per_param"] * 20_000 < sent + 2500, "headers and signatures are counted"
    assert row["sig_bytes"] > members * 192
    assert row["answer_s"] > 0
    step = CLIP / 32761
    assert 3 * step < row["max_error"] < 6 * step * members**0.5, "rounded with coins"


def test_many_members_with_many_parameters_are_not_measured() -> None:
    with pytest.raises(ValueError, match="too long"):
        ours(1_000_001, 1, members=64)


def test_a_bench_gives_every_row_or_says_why_not() -> None:
    result = measure.bench([(20_000, 4)], None, lambda _: None)
    named = {row["scheme"] for row in result["rows"]} | {item["scheme"] for item in result["skipped"]}
    assert named == {*measure.SCHEMES, "NVFLARE HE"}
    fields = {"scheme", "params", "tensors", "seal_s", "add_s", "open_s", "exact", "max_error", "peak_mb"}
    fields |= {"members", "up_bytes_per_param", "down_bytes_per_param", "answer_s", "sig_bytes"}
    assert all(fields == row.keys() for row in result["rows"])
    text = measure.markdown(result)
    assert "20,000 parameters in 4 tensors" in text
    assert all(f"| {row['scheme']} |" in text for row in result["rows"])
    assert all(f"Not measured: {item['scheme']}" in text for item in result["skipped"])
