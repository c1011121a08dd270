"""The tables of a member's ledger (``ledger.py``), on one page. Keys and shares are in it: the file is 0600."""

from __future__ import annotations

from sqlalchemy import Boolean, Column, Float, Index, Integer, LargeBinary, MetaData, String, Table

metadata = MetaData()
agreements = Table(
    "agreements",
    metadata,
    Column("run", String, primary_key=True),
    Column("offer", String, nullable=False),
)
epochs = Table(
    "epochs",
    metadata,
    Column("epoch", Integer, primary_key=True),
    Column("run", String, nullable=False),
    Column("roster", String, nullable=False),
    Column("terms", String, nullable=False),
    Column("he_key", LargeBinary, nullable=False),
    Column("secret", LargeBinary, nullable=False),
    Column("confirmed", Boolean, nullable=False),
)
sealed = Table(
    "sealed",
    metadata,
    Column("purpose", String, primary_key=True),
    Column("run", String, primary_key=True),
    Column("epoch", Integer, primary_key=True),
    Column("number", Integer, primary_key=True),
    Column("context", String, nullable=False),
    Column("header", String, nullable=False),
    Column("clipped_share", Float, nullable=False),
    Column("envelope", LargeBinary),
)
opened = Table(
    "opened",
    metadata,
    Column("purpose", String, primary_key=True),
    Column("key", String, primary_key=True),
    Column("members", String, nullable=False),
)
versions = Table("versions", metadata, Column("sha256", String, primary_key=True), Column("metric", Float))
models = Table(  # apart: SQLite writes a whole row again when any part of it changes
    "models", metadata, Column("sha256", String, primary_key=True), Column("model", LargeBinary, nullable=False)
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
    Column("epoch", Integer),
    Column("number", Integer),
    Column("purpose", String, nullable=False),
    Column("code", String, nullable=False),
    Column("what", String, nullable=False),  # canonical JSON
    Index("journal_by_place", "run", "number", "event"),
)
