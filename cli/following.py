"""Show a run while it goes on: one bar, and one line for everything that went wrong."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from ..protocol.words import STEPS, WHY

Event = dict[str, Any]
OVER = frozenset({"promoted", "kept", "refused", "failed"})
ODD = frozenset(
    {
        "refused",
        "failed",
        "envelope_refused",
        "answer_refused",
        "opening_refused",
        "waited_for",
        "came_back",
        "refused_member",
        "member_revoked",
        "warned",
    }
)
SHOWN = {"enrolled": "keys", "seats_taken": "keys", "round_began": "train", "set_closed": "open", "run_ended": "report"}


@contextmanager
def shown(rounds: int, *, quiet: bool) -> Iterator[Callable[[Event], None]]:
    """Yield a function that takes log entries of a run and shows them on stderr until the end of the block."""
    console = Console(stderr=True, quiet=quiet)
    columns = (TextColumn("[bold]{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        bar = progress.add_task("enrol", total=rounds)

        def follow(entry: Event) -> None:
            event = entry["event"]
            if event in OVER:
                progress.advance(bar)
            if event in ODD:
                where = f"round {entry['number']}: " if entry.get("number") else ""
                words = (event.replace("_", " "), entry.get("member", ""), _why(entry))
                progress.console.print(where + " ".join(word for word in words if word), highlight=False)
            if event in SHOWN:
                progress.update(bar, description=SHOWN[event])

        yield follow


def _why(entry: Event) -> str:
    """Return the reason for an entry: its code, or for a wait its step, why and since when."""
    details = entry.get("details", {})
    if entry["event"] == "waited_for":
        return f"to {STEPS[details['step']]}, since {details['since']}: {WHY[details['why']]}"
    return str(entry.get("code", ""))
