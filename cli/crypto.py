"""``moonflower crypto plan``: what parameters a federation gets."""

from __future__ import annotations

import json
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from ..crypto import planner
from ..errors import InputError

crypto = typer.Typer(no_args_is_help=True, help="Crypto parameters: what a federation gets, and what they cost.")

PROTECTS = (
    ("a coordinator that follows the protocol", "reads no update and no row count"),
    (
        "a coordinator that does not",
        "any sum but the exact one is refused (2^-96); but two sums over different sets of a round, opened by "
        "different members, give it one update",
    ),
    ("any one member with the coordinator", "nothing: every member holds the epoch's key"),
    ("a member alone", "sees opened sums only, as long as the coordinator does not hand it envelopes"),
    ("an outsider", "sees RLWE ciphertexts of 128-bit classical security (IACR eprint 2024/463)"),
)


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
    """Print the parameters that a federation of this size gets, and neighbours of it to compare with."""
    wanted = planner.plan(members, value_bits, params)
    if as_json:
        typer.echo(json.dumps(_row(wanted, members, params), allow_nan=False))
        return
    table = Table(
        "members", "bits", "N", "log q", "log t", "lanes", "B/param", "upload", "head-room", "margin ×", "MAC"
    )
    for count in sorted({members, 4, 16, 64, 256}):
        for bits in sorted({value_bits, 9, 14, 16}):
            try:
                found = planner.plan(count, bits, params)
            except InputError:
                continue
            row = _row(found, count, params)
            style = "bold" if (count, bits) == (members, value_bits) else ""
            table.add_row(
                str(count),
                str(bits),
                str(found.degree),
                str(found.modulus_bits),
                str(found.lanes * found.lane_bits),
                f"{found.lanes} × {found.lane_bits}",
                f"{row['bytes_per_param']:.2f}",
                f"{row['upload_bytes']:,}",
                str(found.max_members),
                f"{found.noise_margin:.2f}",
                f"{found.mac_points} × {found.mac_word_bits}",
                style=style,
            )
    console = Console()
    console.print(table)
    console.print(
        f"{params:,} parameters; upload = body of one envelope. margin: q over what the largest sum needs, as a hard "
        "bound; sums never decrypt wrongly. Every row protects alike:",
    )
    for who, what in PROTECTS:
        console.print(f"  against {who}: {what}")


def _row(found: planner.Plan, members: int, params: int) -> dict[str, Any]:
    body = found.body_bytes(params + found.limbs)
    return {
        **found.as_dict(),
        "members": members,
        "params": params,
        "modulus_bits": found.modulus_bits,
        "plain_modulus": found.plain_modulus,
        "upload_bytes": body,
        "bytes_per_param": body / params,
        "noise_margin": found.noise_margin,
        "mac_points": found.mac_points,
        "mac_word_bits": found.mac_word_bits,
    }
