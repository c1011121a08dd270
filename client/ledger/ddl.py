"""The tables of a member's ledger (``ledger.py``). They hold the circle's key, so the ledger's file is 0600."""

from __future__ import annotations

from sqlalchemy import Boolean, Column, Float, Index, Integer, LargeBinary, MetaData, String, Table

metadata = MetaData()
agreements = Table(
    "agreements",
    metadata,
    Column("run", String, primary_key=True),
    Column("offer", String, nullable=False),
    Column("agreed_s", Float, nullable=False),  # by the node's own clock
    Column("roster", String),  # null until the member takes its seat
    Column("key", String),
)
circles = Table(
    "circles",
    metadata,
    Column("digest", String, primary_key=True),
    Column("document", String, nullable=False),  # canonical JSON
    Column("seen_s", Float, nullable=False),
    Column("signed_s", Float),  # null until this node signs it
    Column("turn", Integer),  # 1 for the first circle that it signed
    Column("by_hand", Boolean, nullable=False),
    Column("consented", Boolean, nullable=False),
    Column("spent", Boolean, nullable=False),
    Column("begun", Boolean, nullable=False),
    Column("left", Boolean, nullable=False),
)
keys = Table(
    "keys",
    metadata,
    Column("use", String, primary_key=True),  # digest of circle and parameters
    Column("digest", String, nullable=False),
    Column("key", LargeBinary, nullable=False),
)
sealed = Table(
    "sealed",
    metadata,
    Column("context", String, primary_key=True),
    Column("run", String, nullable=False),
    Column("purpose", String, nullable=False),
    Column("number", Integer, nullable=False),
    Column("round", Integer, nullable=False),
    Column("base", String, nullable=False),
    Column("identity", String, nullable=False),  # of the base that was trained from; "" if there was no training
    Column("header", String, nullable=False),
    Index("sealed_by_base", "run", "base", "round"),
    Index("sealed_by_identity", "identity"),
)
promoted = Table(
    "promoted",
    metadata,
    Column("sha256", String, primary_key=True),  # of a version that this member saw all members promote
    Column("identity", String, nullable=False),
    Column("circle", String, nullable=False),
    Index("promoted_by_identity", "identity"),
)
answered = Table(
    "answered",
    metadata,
    Column("context", String, primary_key=True),
    Column("headers", String, nullable=False),
    Column("total", String, nullable=False),
    Column("document", LargeBinary, nullable=False),
    Column("signature", LargeBinary, nullable=False),
    Column("answer", LargeBinary, nullable=False),
)
bases = Table(
    "bases",
    metadata,
    Column("run", String, primary_key=True),
    Column("number", Integer, primary_key=True),
    Column("sha256", String, nullable=False),
    Column("norm", Float, nullable=False),
    Column("promoted", Boolean, nullable=False),
)
snapshot_sets = Table(
    "snapshot_sets",
    metadata,
    Column("part", String, primary_key=True),
    Column("digest", String, primary_key=True),
    Column("hashes", LargeBinary, nullable=False),  # keyed, 16 bytes per row
)
snapshots = Table(
    "snapshots",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("run", String, nullable=False, unique=True),
    Column("train", String, nullable=False),
    Column("validation", String, nullable=False),
    Column("test", String, nullable=False),
)
candidates = Table(
    "candidates",
    metadata,
    Column("run", String, primary_key=True),
    Column("number", Integer, primary_key=True),
    Column("sha256", String, nullable=False),
)
versions = Table("versions", metadata, Column("sha256", String, primary_key=True), Column("metric", Float))
models = Table(  # apart: SQLite writes a whole row again when any part of it changes
    "models", metadata, Column("sha256", String, primary_key=True), Column("model", LargeBinary, nullable=False)
)
own_parts = Table(
    "own_parts",
    metadata,
    Column("key", String, primary_key=True),  # a version's identity; a context's digest until its candidate is known
    Column("tensors", LargeBinary, nullable=False),
    Column("promoted", Boolean, nullable=False),
    Column("turn", Integer, nullable=False),
)
witnessed = Table(
    "witnessed",
    metadata,
    Column("size", Integer, primary_key=True, autoincrement=False),
    Column("root", LargeBinary, nullable=False),
    Column("key", String, nullable=False),
    Column("note", String, nullable=False),
)
facts = Table("facts", metadata, Column("key", String, primary_key=True), Column("value", String, nullable=False))
journal = Table(
    "journal",
    metadata,
    Column("idx", Integer, primary_key=True),
    Column("time", String, nullable=False),
    Column("event", String, nullable=False),
    Column("run", String, nullable=False),
    Column("number", Integer),
    Column("purpose", String, nullable=False),
    Column("code", String, nullable=False),
    Column("what", String, nullable=False),  # canonical JSON
    Index("journal_by_place", "run", "number", "event"),
)
