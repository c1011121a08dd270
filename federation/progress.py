"""Show a run while it goes on: a bar and a line for everything that went wrong, or a line in a notebook's cell."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from ..protocol.words import STEPS, WHY
from ..report.notebook import bar

Event = dict[str, Any]
Follow = Callable[[Event], None]
Loss = Callable[[], float | None]
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


def _unknown() -> None:
    """Return the loss of a run whose rows are elsewhere."""


def chosen(progress: bool | None, rounds: int, loss: Loss) -> AbstractContextManager[Follow]:
    """Return what shows a run, as a context manager that yields a function for log entries.

    Args:
        progress: True: in the cell of a notebook, or else on stderr; False: nothing; None: in a notebook only.
        rounds: planned rounds.
        loss: returns the newest loss on validation rows.
    """
    if in_kernel() and progress is not False:
        return in_cell(rounds, loss)
    return shown(rounds, quiet=False, loss=loss) if progress else nullcontext(lambda entry: None)


def in_kernel() -> bool:
    """Return whether this process is the kernel of a notebook."""
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython is not None else None
    return hasattr(shell, "kernel")


@contextmanager
def in_cell(rounds: int, loss: Loss) -> Iterator[Follow]:
    """Yield a function that takes log entries of a run and shows its rounds as a line of the notebook's cell."""
    from IPython.display import HTML, display  # only a kernel comes here, and a kernel has IPython

    over: list[Event] = []
    handle = display(HTML(bar(0, rounds, "begins", None)), display_id=True)

    def follow(entry: Event) -> None:
        if entry["event"] in OVER:
            over.append(entry)
        if entry["event"] in OVER | {"run_ended"}:
            word = f"ended {entry.get('code') or ''}".strip() if entry["event"] == "run_ended" else entry["event"]
            handle.update(HTML(bar(sum(one["event"] != "failed" for one in over), rounds, word, loss())))

    yield follow


@contextmanager
def shown(rounds: int, *, quiet: bool, loss: Loss = _unknown) -> Iterator[Follow]:
    """Yield a function that takes log entries of a run and shows them on stderr until the end of the block."""
    console = Console(stderr=True, quiet=quiet)
    columns = (
        TextColumn("[bold]{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.fields[loss]}"),
    )
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task("enrol", total=rounds, loss="")

        def follow(entry: Event) -> None:
            event = entry["event"]
            if event in OVER:
                newest = loss()
                progress.update(task, advance=1, loss="" if newest is None else f"loss {newest:.3f}")
            if event in ODD:
                where = f"round {entry['number']}: " if entry.get("number") else ""
                words = (event.replace("_", " "), entry.get("member", ""), _why(entry))
                progress.console.print(where + " ".join(word for word in words if word), highlight=False)
            if event in SHOWN:
                progress.update(task, description=SHOWN[event])

        yield follow


def _why(entry: Event) -> str:
    """Return the reason for an entry: its code, or for a wait its step, why and since when."""
    details = entry.get("details", {})
    if entry["event"] == "waited_for":
        return f"to {STEPS[details['step']]}, since {details['since']}: {WHY[details['why']]}"
    return str(entry.get("code", ""))
