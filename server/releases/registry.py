"""Model versions as API and commands show them, and what both can do with them."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from sqlalchemy import Connection

from ...configs.settings import Offer, parse
from ...errors import InputError, Refused
from ...protocol.approval import SignedDecision
from ...protocol.model_version import Version, marked
from ..records import history
from ..records import members as roster
from ..records.database import CoordinatorStore
from ..records.log import Log
from ..records.models import Entry, Models
from .board import Board
from .card import model_card


class Registry:
    """The registry of one state folder.

    Args:
        store, models: of the folder.
        log: for decisions; None for read-only use.
    """

    def __init__(self, store: CoordinatorStore, models: Models, log: Log | None = None) -> None:
        self._store, self._models, self._log = store, models, log

    def listing(self) -> dict[str, Any]:
        """Return every version, oldest first, which one is released, and the imported files."""
        with self._store.read() as db:
            board = Board(db, self._models)
            versions = [_brief(entry, board) for entry in self._models.entries(db)]
            imports = [{"sha256": sha256, "created": when} for sha256, when in self._models.imports(db).items()]
        current = board.releases.current
        released = None if current is None else {"version": current.version, "sha256": current.sha256}
        after = board.releases.after
        return {"released": released, "after": after, "versions": versions, "imports": imports}

    def shown(self, name: str) -> dict[str, Any]:
        """Return a version's lineage, its model card, and who may approve it.

        Args:
            name: number, or the first digits of the SHA-256.

        Raises:
            InputError: ``data.model``: no such version.
        """
        with self._store.read() as db:
            entry = self._models.find(db, name)
            board = Board(db, self._models)
            card = self._card(db, board, entry)
        approvers = [
            {"member": member, "approver": approver.name, "key": approver.key.pin}
            for member, card in sorted(board.cards.items())
            for approver in card.approvers
        ]
        return {"lineage": entry.as_dict(), "card": card, "approvers": approvers}

    def keep_import(self, version: Version) -> bool:
        """Keep an imported file, for a circle to start from; return whether it is new.

        Raises:
            InputError: ``data.model``: it is a version of this federation.
        """
        assert self._log is not None
        with self._store.read() as db:
            own = next((entry.version for entry in self._models.entries(db) if entry.sha256 == version.sha256), None)
        if own is not None:
            hint = f"moonflower circle propose RUN.toml --start {own}"
            raise InputError("data.model", f"the file is version {own} of this federation", hint=hint)
        self._models.write(version)
        with self._store.transaction() as db:
            new = self._models.keep_import(db, version.sha256, datetime.now(UTC).isoformat(timespec="milliseconds"))
            if new:
                self._log.append(db, "imported", sha256=version.sha256, identity=version.identity)
        return new

    def decide(self, name: str, value: Any) -> dict[str, Any]:
        """Take a signed decision about a version, and release it if no approval is missing; return the outcome.

        Args:
            name: number, or the first digits of the SHA-256.
            value: what :meth:`SignedDecision.as_dict` makes; from a stranger it may be anything.

        Raises:
            InputError: ``data.model``: no such version. Refused: ``release.*``.
        """
        assert self._log is not None
        signed = SignedDecision.from_dict(value)
        with self._store.transaction() as db:
            board = Board(db, self._models)
            if signed.verify(board.cards)[0].sha256 != self._models.find(db, name).sha256:
                raise Refused("release.digest", "the decision is about another version than the one requested")
            outcome = board.decide(signed, self._log)
        return {**vars(outcome), "missing": max(0, outcome.required - outcome.approvals)}

    def file(self, name: str, *, unreleased: bool) -> Version:
        """Return a version's file as it leaves the federation: a version that is not released is marked as such.

        Args:
            name: number, or the first digits of the SHA-256; all of them give a file that was imported, as it came.
            unreleased: allow a version that is not released.

        Raises:
            InputError: ``data.model``: no such version, or its file is gone. Refused: ``release.unreleased``.
        """
        with self._store.read() as db:
            if unreleased and name in self._models.imports(db):
                return self._models.read(name)
            entry = self._models.find(db, name)
            if entry.version is None:
                was = f"refused ({entry.code})" if entry.code else "kept, no better than the best version"
                raise InputError("data.model", f"version {name} was {was}; only promoted ones have a file")
            status = Board(db, self._models).standing(entry).status
        if status != "released" and not unreleased:
            raise Refused(
                "release.unreleased",
                f"version {entry.version} is not released ({status})",
                hint="--unreleased writes it anyway, marked as unreleased",
            )
        version = self._models.read(entry.sha256)
        return version if status == "released" else marked(version)

    def _card(self, db: Connection, board: Board, entry: Entry) -> dict[str, Any]:
        row = history.run_row(db, entry.run)
        assert row is not None
        try:
            version: Version | None = self._models.read(entry.sha256)
        except InputError:  # a candidate that was not promoted keeps its row and loses its file
            version = None
        good = [version for version in self._models.entries(db, entry.run) if version.version is not None]
        return model_card(
            entry,
            offer=parse(Offer, row.offer, where="the run's offer"),
            lineage=[version for version in good if version.number <= entry.number],
            rounds=history.rounds(db, entry.run),
            plan=history.plan(db, entry.run),
            manifest=None if version is None else version.manifest,
            parameters=None if version is None else len(version.vector),
            standing=board.standing(entry),
            releases=board.releases,
            cards=roster.cards(db, of_all=True),
            origins=self._origins(db, str(row.offer["start"])),
        )

    def _origins(self, db: Connection, start: str) -> list[dict[str, Any]]:
        """Return the version from which a run started, the one from which that version's run started, and so on."""
        origins: dict[str, bool] = {}
        imports, entries = self._models.imports(db), self._models.entries(db)
        while start and start not in origins:
            origins[start] = start in imports
            promoted = next((entry for entry in entries if entry.sha256 == start and entry.verdict == "promoted"), None)
            row = None if origins[start] or promoted is None else history.run_row(db, promoted.run)
            start = "" if row is None else str(row.offer["start"])
        return [{"sha256": sha256, "imported": imported} for sha256, imported in origins.items()]


def _brief(entry: Entry, board: Board) -> dict[str, Any]:
    standing = board.standing(entry)
    return {
        "version": entry.version,
        "sha256": entry.sha256,
        "verdict": entry.verdict,
        "code": entry.code,
        "run": entry.run,
        "number": entry.number,
        "base": entry.base,
        "members": list(entry.members),
        "metrics": None if entry.metrics is None else dict(entry.metrics),
        "status": standing.status,
        "step": standing.step,
        "approvals": len(standing.approvals),
        "required": standing.required,
    }
