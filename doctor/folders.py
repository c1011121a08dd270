"""What ``moonflower doctor`` checks in state folders: the disk under them, log, models, ledger.

Databases are opened read-only, also while another process has them open. A folder that does not exist yet stays absent.
"""

from __future__ import annotations

import json
import os
import re
import sqlite3
import stat
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from sqlalchemy import StaticPool, create_engine

from ..errors import InputError
from ..store import USER_VERSION, other_version
from .machine import Check, Status, worst

if TYPE_CHECKING:
    from ..client.snapshots import PartState
    from ..protocol.circle import Circle

LEAST_BYTES, FEW_BYTES = 100 << 20, 1 << 30
SHARED_SYSTEMS = ("nfs", "cifs", "smb", "afs", "ceph", "gluster", "lustre", "beegfs", "ocfs2", "gfs2", "fuse.sshfs")


def disk(folders: Iterable[Path]) -> Check:
    """Check the file systems of state folders; for a folder that does not exist yet, that of its parent."""
    problems: list[tuple[Status, str]] = []
    rooms = []
    for folder in folders:
        there = next(path for path in (folder, *folder.parents) if path.exists())
        if not there.is_dir():
            problems.append(("failed", f"{there} is not a folder"))
            continue
        system = os.statvfs(there)
        free, kind = system.f_bavail * system.f_frsize, file_system(there)
        rooms.append(f"{folder}: {free / (1 << 30):.1f} GiB free")
        if free < LEAST_BYTES:
            problems.append(("failed", f"{folder}: {free >> 20} MiB free; expected at least {LEAST_BYTES >> 20} MiB"))
        elif free < FEW_BYTES:
            problems.append(("warning", f"{folder}: {free >> 20} MiB free; expected {FEW_BYTES >> 20} MiB or more"))
        if system.f_flag & os.ST_RDONLY or not os.access(there, os.W_OK | os.X_OK):
            problems.append(("failed", f"{there} cannot be written by this user"))
        if kind.startswith(SHARED_SYSTEMS):
            problems.append(
                (
                    "failed",
                    f"{folder} is on a network file system ({kind}); expected a local disk, which SQLite's log needs",
                )
            )
    return worst("disk", problems, "; ".join(rooms), "room on a local disk, for the user that moonflower runs as")


def file_system(path: Path, mounts: str | None = None) -> str:
    """Return the kind of the file system that holds a path, as Linux calls it, or "" if that is not known."""
    if mounts is None:
        try:
            mounts = Path("/proc/self/mounts").read_text()
        except OSError:
            return ""
    real, best, kind = os.path.realpath(path), "", ""
    for line in mounts.splitlines():
        fields = line.split(" ")
        if len(fields) < 3:
            continue
        point = re.sub(r"\\(\d{3})", lambda match: chr(int(match[1], 8)), fields[1])
        if (real == point or real.startswith(point.rstrip("/") + "/")) and len(point) >= len(best):
            best, kind = point, fields[2]
    return kind


def audit_log(folder: Path) -> Check:
    """Verify the coordinator's log with its own public key."""
    from ..server.records.database import FILE_NAME
    from ..server.records.verify import verify

    if not (folder / FILE_NAME).exists():
        return Check("audit log", "ok", f"{folder} holds no log yet")
    try:
        key = (folder / "log.pub").read_text(encoding="ascii")
    except (OSError, ValueError):
        return Check(
            "audit log",
            "failed",
            f"{folder / 'log.pub'} cannot be read",
            "restore it: members and auditors know this key",
        )
    report = verify(folder, key)
    if report.ok:
        return Check("audit log", "ok", f"verifies: {report.entries} entries, root {report.root[:16]}")
    where = "" if report.first_bad is None else f" from entry {report.first_bad} on"
    return Check(
        "audit log",
        "failed",
        f"does not verify{where}: {report.reason} ({report.code})",
        "stop the server, keep the folder as it is, and compare with a copy: docs/running.md, what to back up",
    )


def good_model(folder: Path) -> Check:
    """Check that the file of the last good version exists and is whole."""
    from ..server.records.database import APPLICATION_ID, FILE_NAME
    from ..server.records.models import Models

    if not (folder / FILE_NAME).exists():
        return Check("model", "ok", "no version yet")
    models = Models(folder / "models")
    with reading(folder / FILE_NAME, APPLICATION_ID) as raw:
        engine = create_engine("sqlite://", creator=lambda: raw, poolclass=StaticPool)
        with engine.connect() as db:
            entry = models.last_good(db)
    if entry is None:
        return Check("model", "ok", "no version yet")
    models.read(entry.sha256)
    return Check("model", "ok", f"the last good version, {entry.version}, is whole: {entry.sha256[:16]}")


def ledger(folder: Path) -> Check:
    """Check a member's ledger: whether it is whole, its newest checkpoint of the log, and whether it holds a fork."""
    from ..client.ledger.ledger import APPLICATION_ID, FILE_NAME

    path = folder / FILE_NAME
    if not path.exists():
        return Check("ledger", "ok", "none yet; the node makes it")
    mode = stat.S_IMODE(path.stat().st_mode)
    if mode & 0o077:
        return Check("ledger", "failed", f"{path} has mode {mode:04o}; expected 0600", f"chmod 600 {path}")
    with reading(path, APPLICATION_ID) as db:
        sound = db.execute("PRAGMA quick_check(1)").fetchone()[0]
        if sound != "ok":
            return Check(
                "ledger",
                "failed",
                f"{path} is damaged",
                "do not restore an older one: docs/running.md, what to back up",
            )
        newest = db.execute("SELECT size, key FROM witnessed ORDER BY size DESC LIMIT 1").fetchone()
        fork = db.execute("SELECT 1 FROM facts WHERE key IN ('log.fork', 'log.fork.proved')").fetchone()
    if fork is not None:
        return Check(
            "ledger",
            "failed",
            "the coordinator showed a history of its log that contradicts the one witnessed here; expected a log that "
            "only grows",
            "moonflower member log CONFIG prints both; ask the coordinator why before --forget",
        )
    seen = f"newest checkpoint of the log: {newest[0]} entries" if newest else "no checkpoint of a log witnessed yet"
    return Check("ledger", "ok", f"opens; {seen}")


def living(folder: Path) -> Circle | None:
    """Return the circle in which this member lives; None if it is in no circle, or left it."""
    from ..client.ledger.ledger import APPLICATION_ID, FILE_NAME
    from ..protocol.circle import Circle

    path = folder / FILE_NAME
    if not path.exists():
        return None
    with reading(path, APPLICATION_ID) as db:
        rows = db.execute("SELECT document, left FROM circles WHERE begun").fetchall()
    begun = sorted(((Circle.parse(json.loads(document)), left) for document, left in rows), key=_number)
    return None if not begun or begun[-1][1] else begun[-1][0]


def _number(begun: tuple[Circle, bool]) -> int:
    return begun[0].number


def circle(folder: Path) -> Check:
    """Check that this member lives in a circle, and still has the ledger with which it signed the circle."""
    from ..client.ledger.ledger import APPLICATION_ID, FILE_NAME

    ask = "moonflower circle sign CONFIG, once a circle is proposed"
    current, path = living(folder), folder / FILE_NAME
    if path.exists():
        with reading(path, APPLICATION_ID) as db:
            lost = db.execute("SELECT 1 FROM facts WHERE key = 'ledger.lost'").fetchone()
        if lost is not None:
            problem = (
                "the ledger is not the one that this node had; expected a circle with a higher number that says so"
            )
            ask = "the submitter runs moonflower circle propose RUN.toml --new-ledger NAME"
            return Check("circle", "failed", problem, ask)
    if current is None:
        return Check("circle", "warning", "this node is in no circle yet, so it takes part in no run", ask)
    return Check("circle", "ok", f"circle {current.number} of {len(current.names)} members: {', '.join(current.names)}")


def rows_in_use(folder: Path) -> dict[str, bytes]:
    """Return the keyed hashes of the rows that this member's newest run uses, by part; empty if there is no run."""
    from ..client.ledger.ledger import APPLICATION_ID, FILE_NAME
    from ..client.ledger.row_sets import PARTS

    path = folder / FILE_NAME
    if not path.exists():
        return {}
    with reading(path, APPLICATION_ID) as db:
        newest = db.execute("SELECT train, validation, test FROM snapshots ORDER BY id DESC LIMIT 1").fetchone()
        asked = "SELECT hashes FROM snapshot_sets WHERE part = ? AND digest = ?"
        used = zip(PARTS, newest or (), strict=newest is not None)
        return {part: bytes(db.execute(asked, (part, digest)).fetchone()[0]) for part, digest in used}


@contextmanager
def reading(path: Path, application_id: int) -> Iterator[sqlite3.Connection]:
    """Open a moonflower database read-only, also while another process has it open.

    Without SQLite's ``-wal`` and ``-shm`` beside it, no process has it open and it is whole in itself. ``immutable``
    then keeps SQLite from making them.

    Raises:
        InputError: ``config.state``: not a database of this kind, or of another version.
    """
    beside = all(path.with_name(path.name + end).exists() for end in ("-wal", "-shm"))
    uri = f"{path.resolve().as_uri()}?mode=ro{'' if beside else '&immutable=1'}"
    try:
        with closing(sqlite3.connect(uri, uri=True, timeout=3, check_same_thread=False)) as connection:
            identifier = connection.execute("PRAGMA application_id").fetchone()[0]
            if identifier != application_id:
                raise InputError(
                    "config.state", f"{path}: expected a moonflower database, got application id {identifier:#x}"
                )
            version = connection.execute("PRAGMA user_version").fetchone()[0]
            if version != USER_VERSION:
                raise InputError("config.state", f"{path}: {other_version(version)}")
            yield connection
    except sqlite3.Error as error:
        raise InputError("config.state", f"{path} cannot be read as a database: {error}") from None


def snapshot(states: Sequence[PartState]) -> Check:
    """Check that runs use the rows of the table. It does not say how many differ: people send this output to others.

    Args:
        states: states of the parts of the node's rows.
    """
    gone = [state.name for state in states if state.gone]
    changed = [state.name for state in states if state.changed]
    if not states:
        return Check("snapshot", "ok", "no run has used rows of this node yet; the next run uses those of the table")
    least = states[0].least
    if gone:
        return Check(
            "snapshot",
            "warning",
            f"rows in use are gone from the table ({', '.join(gone)}); runs use them until {least} rows have changed",
            "if they were deleted: moonflower member statistics CONFIG --delete-gone, with the client stopped",
        )
    if changed:
        return Check("snapshot", "ok", f"the table has changed ({', '.join(changed)}); used once {least} rows have")
    return Check("snapshot", "ok", "runs use the rows of the table")
