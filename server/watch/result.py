"""A run's result as the coordinator knows it: the content of result.json, with null for what only members know.

The model is the version that the run promoted last. A run that promoted no version has no model.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any

from ...configs.shown import changed, config_of
from ..records import circles, history
from ..records.database import FILE_NAME
from ..records.state import State
from ..records.verify import verify

PAGE = 500


def result(state: State, run: str, *, check_log: bool = True) -> dict[str, Any]:
    """Return a run's result so far.

    Args:
        state: the coordinator's records.
        run: a run that is on record.
        check_log: verify the whole log; otherwise ``audit.verified`` is null.
    """
    with state.store.read() as db:
        row = history.run_row(db, run)
        assert row is not None
        recipe = circles.signed(db, row.offer["circle"]).circle.recipe
        rounds = history.rounds(db, run)
        good = state.models.last_good(db, run)
    if good is not None and good.verdict != "promoted":
        good = None  # a run's start is not its result
    names = {name for outcome in rounds for name in outcome["members"]}
    names |= {left_out["member"] for outcome in rounds for left_out in outcome["named"]}
    newest = state.log.checkpoint()
    checked = verify(state.folder / FILE_NAME, (state.folder / "log.pub").read_text(), None) if check_log else None
    config = config_of(recipe, row.offer["training"])
    nothing = {"rows": None, "alone": None, "federated": None, "personalised": None, "pooled": None}
    return {
        "version": 1,
        "federation": row.offer["federation"]["name"],
        "run": run,
        "rounds": rounds,
        "members": [{"name": name, **nothing} for name in sorted(names)],
        "overall": {"alone": None, "federated": dict(good.metrics) if good and good.metrics else None, "pooled": None},
        "evidence": None,
        "config": config,
        "changed": changed(config),
        "privacy": None,
        "waited_s": _waited_s(state, run),
        "ended": ended(row.status, row.code),
        "wire": dict(row.summary),
        "model": None
        if good is None
        else {"version": good.version, "sha256": good.sha256, "path": str(state.models.path(good.sha256))},
        "audit": {
            "entries": newest.size if newest else 0,
            "root": newest.root.hex() if newest else None,
            "verified": checked.ok if checked else None,
        },
    }


def ended(status: str, code: str) -> str | None:
    """Return how a run ended, in one word; None while it goes on.

    >>> ended("done", ""), ended("done", "run.converged"), ended("policy", "gate.forked"), ended("running", "")
    ('done', 'converged', 'forked', None)
    """
    if status in ("queued", "running"):
        return None
    return code.partition(".")[2] or status


def _waited_s(state: State, run: str) -> float:
    """Return how many seconds a run waited for members that the log names, without those that are still missing."""
    spans, after = list[tuple[float, float]](), -1
    while entries := state.log.after(after, PAGE, run=run):
        after = entries[-1]["index"]
        for entry in entries:
            if entry["event"] == "came_back":
                spans.append((_seconds(entry["details"]["since"]), _seconds(entry["time"])))
    total, end = 0.0, 0.0
    for since, until in sorted(spans):
        total += max(0.0, until - max(since, end))
        end = max(end, until)
    return round(total, 1)


def _seconds(text: str) -> float:
    return datetime.fromisoformat(text).timestamp()
