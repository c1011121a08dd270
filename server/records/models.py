"""The model registry: versions named by the SHA-256 of their file, with their lineage and verdict.

A file is written beside its place, synced and renamed before the transaction that makes it count, so every row has its
file. A kill in between leaves a file without a row, which is overwritten when the same version comes again. Refused
candidates keep their row and lose their file. Kept ones lose theirs when the run ends. Every run has a lineage of its
own, from its own start, and the same file may be in several.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sqlalchemy import Column, Connection, Float, Integer, String, Table, func, literal_column, select
from sqlalchemy.dialects.sqlite import insert

from ... import files
from ...canonical import canonical
from ...errors import InputError, nearest
from ...protocol.model_version import Version, parse
from .database import metadata

_versions = Table(
    "versions",
    metadata,
    Column("run", String, primary_key=True),
    Column("sha256", String, primary_key=True),
    Column("version", Integer),
    Column("verdict", String, nullable=False),
    Column("code", String, nullable=False),
    Column("number", Integer, nullable=False),
    Column("base", String, nullable=False),
    Column("members", String, nullable=False),
    Column("proof", String, nullable=False),
    Column("norm", Float),
    Column("votes", String, nullable=False),
    Column("metrics", String),
    Column("created", String, nullable=False),
)


_imports = Table(
    "imports",
    metadata,
    Column("sha256", String, primary_key=True),
    Column("created", String, nullable=False),
)


@dataclass(frozen=True)
class Entry:
    """A version's lineage.

    Attributes:
        sha256: digest of its file.
        version: number, counting starts and promotions of the whole federation from 0; None for a candidate that was
            kept or refused.
        verdict: ``start``, ``promoted``, ``kept`` or ``refused``.
        code: why it was refused, or "".
        run, number, base: the round that made it, and the version it was trained from.
        members: all members in the sum.
        proof: the openers' statement and signatures.
        norm: Euclidean norm of the mean update that led to it; None if there is none, or it is not finite.
        votes: the number of each vote of ``gate.VOTES``; empty for a start.
        metrics: over all members' test rows, when reported.
        created: UTC time.
    """

    sha256: str
    version: int | None
    verdict: str
    code: str
    run: str
    number: int
    base: str
    members: tuple[str, ...]
    proof: Mapping[str, Any]
    norm: float | None
    votes: Mapping[str, int]
    metrics: Mapping[str, float | None] | None
    created: str

    def as_dict(self) -> dict[str, Any]:
        """The lineage as JSON-able values."""
        return {**vars(self), "members": list(self.members)}


class Models:
    """Version files in ``folder`` and their rows in the store's database."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def path(self, sha256: str) -> Path:
        """Return where a version's file is."""
        return self.folder / f"{sha256}.safetensors"

    def write(self, version: Version) -> None:
        """Write a version's file: beside its place, synced, renamed."""
        files.make_folder(self.folder)
        files.replace(self.path(version.sha256), version.data)

    def drop(self, sha256: str) -> None:
        """Delete a version's file, if it is there."""
        files.remove(self.path(sha256))

    def is_whole(self, sha256: str) -> bool:
        """Return whether a version's file is there and intact."""
        try:
            self.read(sha256)
        except InputError:
            return False
        return True

    def read(self, sha256: str) -> Version:
        """Return a version, after checking its file against its name.

        Raises:
            InputError: ``data.model``: no such file, or it was changed.
        """
        try:
            version = parse(self.path(sha256).read_bytes())
        except OSError as error:
            raise InputError("data.model", f"model {sha256} cannot be read: {error.strerror}") from None
        if version.sha256 != sha256:
            raise InputError("data.model", f"{self.path(sha256)} was changed: its SHA-256 is {version.sha256}")
        return version

    def record(self, db: Connection, entry: Entry) -> None:
        """Add a version's row. A row of this run and file stays as it is, unless it says refused."""
        row = {
            **vars(entry),
            "members": canonical(list(entry.members)).decode(),
            "proof": canonical(entry.proof).decode(),
            "votes": canonical(dict(entry.votes)).decode(),
            "metrics": None if entry.metrics is None else canonical(entry.metrics).decode(),
        }
        again = insert(_versions).values(row)
        was_refused = _versions.c.verdict == "refused"
        db.execute(again.on_conflict_do_update(["run", "sha256"], set_=row, where=was_refused))

    def next_version(self, db: Connection) -> int:
        """Return the next version's number, from 0."""
        newest = db.execute(select(func.max(_versions.c.version))).scalar_one()
        return 0 if newest is None else newest + 1

    def report(self, db: Connection, run: str, sha256: str, metrics: Mapping[str, float | None]) -> None:
        """Add the metrics over all members' test rows to a version of a run."""
        matching = (_versions.c.run == run) & (_versions.c.sha256 == sha256)
        db.execute(_versions.update().where(matching).values(metrics=canonical(metrics).decode()))

    def measured(self, db: Connection, sha256: str) -> Mapping[str, float | None] | None:
        """Return the metrics of a version that another run reported, or None."""
        column = _versions.c
        query = select(column.metrics).where((column.sha256 == sha256) & column.metrics.is_not(None)).limit(1)
        text = db.execute(query).scalar_one_or_none()
        return None if text is None else dict(json.loads(text))

    def keep_import(self, db: Connection, sha256: str, created: str) -> bool:
        """Record an imported file that is in its place; return whether it is new."""
        row = {"sha256": sha256, "created": created}
        return bool(db.execute(insert(_imports).values(row).on_conflict_do_nothing()).rowcount)

    def imports(self, db: Connection) -> dict[str, str]:
        """Return SHA-256 → time of every imported file, oldest first."""
        rows = db.execute(select(_imports).order_by(_imports.c.created, _imports.c.sha256))
        return {row.sha256: row.created for row in rows}

    def entries(self, db: Connection, run: str | None = None) -> list[Entry]:
        """Return every version's lineage, of one run or of all, oldest first (a run's name begins with its time)."""
        query = select(_versions).order_by(_versions.c.run, _versions.c.number, literal_column("rowid"))
        return [_entry(row) for row in db.execute(query if run is None else query.where(_versions.c.run == run))]

    def last_good(self, db: Connection, run: str | None = None) -> Entry | None:
        """Return the newest promoted version, of one run or of all, or else the newest start."""
        good = [entry for entry in self.entries(db, run) if entry.version is not None]
        return max(good, key=lambda entry: (entry.verdict == "promoted", entry.version), default=None)

    def find(self, db: Connection, name: str) -> Entry:
        """Return the version with this number (``3``) or SHA-256 prefix of at least 6 digits; of one file, the newest.

        Raises:
            InputError: ``data.model``: no version, or several, match.
        """
        entries = self.entries(db)
        matching = [
            entry
            for entry in entries
            if str(entry.version) == name or (len(name) >= 6 and entry.sha256.startswith(name))
        ]
        files = {entry.sha256 for entry in matching}
        if len(files) != 1:
            known = [str(entry.version) for entry in entries if entry.version is not None]
            if files:
                raise InputError("data.model", f"model {name!r} matches {len(files)} versions; expected more digits")
            raise InputError("data.model", f"there is no model version {name!r}; {nearest(name, known)}")
        return matching[-1]


def best(entries: Sequence[Entry]) -> Entry:
    """Return the best of a run's versions, given oldest first: the one promoted last, or the run's start."""
    return [entry for entry in entries if entry.version is not None][-1]


def _entry(row: Any) -> Entry:
    fields = row._asdict()
    fields["members"] = tuple(json.loads(fields["members"]))
    fields["proof"], fields["votes"] = json.loads(fields["proof"]), json.loads(fields["votes"])
    fields["metrics"] = json.loads(fields["metrics"]) if fields["metrics"] else None
    return Entry(**fields)
