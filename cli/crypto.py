"""``moonflower crypto plan``: the crypto parameters that a federation gets."""

from __future__ import annotations

import json
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from ..crypto import planner
from ..crypto.answer_plan import answer_plan
from ..errors import InputError

crypto = typer.Typer(no_args_is_help=True, help="Crypto parameters that a federation gets, and their cost.")

PROTECTS = (
    (
        "the coordinator",
        "reads no update: nobody holds a key that opens one member's values; a sum opens by all members",
    ),
    (
        "the coordinator and all members but two",
        "learn the sum of the last two, and no more; all members but one know the last one's update",
    ),
    ("members", "see opened sums; a coordinator that no member helps sees none, only the model that comes of them"),
    ("a total that is not the sum", "is refused, and no total opens in two ways"),
    ("an outsider", "sees RLWE ciphertexts of 128-bit classical security"),
)
EXPERIMENTAL = "experimental until somebody outside the project has reviewed it"


@crypto.callback()
def _crypto() -> None:
    """Keep ``plan`` a subcommand."""


@crypto.command("plan")
def plan(
    members: Annotated[int, typer.Option(min=2, max=1024, help="Summands of a round.")] = 16,
    value_bits: Annotated[int, typer.Option(min=4, max=24, help="Bits of one quantised value.")] = 16,
    params: Annotated[int, typer.Option(min=1, help="Parameters of the model.")] = 1_000_000,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout.")] = False,
) -> None:
    """Print the parameters that a federation of this size gets, and those of similar sizes to compare."""
    wanted = planner.plan(members, value_bits, params)
    if as_json:
        typer.echo(json.dumps(_row(wanted, params), allow_nan=False))
        return
    table = Table("members", "bits", "N", "log q", "lanes", "zeros", "B/param", "body", "answer", "opener downloads")
    for count in sorted({members, 4, 16, 64, 256}):
        for bits in sorted({value_bits, 9, 16}):
            try:
                row = _row(planner.plan(count, bits, params), params)
            except InputError:
                continue
            table.add_row(
                str(count),
                str(bits),
                str(row["degree"]),
                " + ".join(str(prime.bit_length()) for prime in row["primes"]),
                f"{row['lanes']} × {row['lane_bits']}",
                str(row["zeros"]),
                f"{row['bytes_per_param']:.3f}",
                f"{row['body_bytes']:,}",
                f"{row['answer_bytes']:,}",
                f"{row['download_bytes']:,}",
                style="bold" if (count, bits) == (members, value_bits) else "",
            )
    console = Console()
    console.print(table)
    console.print(
        f"{params:,} parameters; bytes: a member sends body and answer, an opener downloads the sums of both and the "
        "seeds of the answers; headers and signatures come on top. Every sum opens exactly. Every row, "
        f"{EXPERIMENTAL}, protects alike:",
    )
    for who, what in PROTECTS:
        console.print(f"  {who}: {what}")


def _row(plan: planner.Plan, params: int) -> dict[str, Any]:
    lanes, answer = params + plan.limbs, answer_plan(plan)
    body = plan.body_bytes(lanes)
    return {
        **plan.as_dict(),
        "params": params,
        "modulus": plan.modulus,
        "modulus_bits": plan.modulus.bit_length(),
        "plain_bits": plan.plain_bits,
        "zeros": plan.zeros,
        "answer": answer.as_dict(),
        "body_bytes": body,
        "answer_bytes": answer.body_bytes,
        "upload_bytes": body + answer.body_bytes,
        "download_bytes": body + answer.total_bytes + plan.members * answer.seed_bytes,
        "bytes_per_param": (body + answer.body_bytes) / params,
        "experimental": EXPERIMENTAL,
    }
