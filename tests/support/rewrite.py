"""What the owner of a log's key can do to it: write another history, and sign every checkpoint of it."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

from moonflower.canonical import canonical
from moonflower.crypto import merkle
from moonflower.crypto.merkle import Frontier
from moonflower.crypto.note import Signer, sign_checkpoint

Entry = dict[str, Any]


def rewrite(state: Path, change: Callable[[list[Entry]], list[Entry]]) -> None:
    """Replace the log of a state folder whose server does not run by what ``change`` makes of its entries."""
    signer = Signer.parse((state / "log.key").read_text().strip())
    with closing(sqlite3.connect(state / "moonflower.db", isolation_level=None)) as db:
        entries = change([json.loads(row[0]) for row in db.execute("select entry from log order by idx")])
        db.execute("begin immediate")
        db.execute("delete from log")
        frontier = Frontier()
        for index, entry in enumerate(entries):
            data = canonical({**entry, "index": index})
            leaf = merkle.leaf_hash(data)
            frontier = frontier.append(leaf)
            note = sign_checkpoint(signer, frontier.size, frontier.root()).note
            db.execute("insert into log values (?, ?, ?, ?)", (index, data.decode(), leaf, note))
        db.execute("update log_tree set size = ?, nodes = ?", (frontier.size, b"".join(frontier.nodes)))
        db.execute("commit")


def without_a_refusal(entries: list[Entry]) -> list[Entry]:
    """Change one word of the past: what a coordinator would do that has something to hide."""
    changed = [dict(entry) for entry in entries]
    changed[len(changed) // 2]["time"] = "2026-01-01T00:00:00.000Z"
    return changed
