"""Logging to stderr with structlog: one entry a line, for people (``console``) or for machines (``json``).

Modules log with the standard library's loggers. This module renders their entries and those of libraries. It adds what
an entry is about: the process, the member, and what :func:`about` holds (run, round, request). ``request`` is one id
for a message to a member and for every HTTP request that its node makes on the way, so one search through the logs of
server and node finds all of it. These logs are not a record; the audit log is.

An entry cannot pretend to be another entry: control characters become blanks, and further lines, such as those of a
traceback, are indented.
"""

from __future__ import annotations

import json
import logging
import re
import secrets
import sys
from contextlib import AbstractContextManager
from datetime import UTC, datetime
from typing import IO, Any, Literal

import structlog
from structlog.contextvars import bind_contextvars, bound_contextvars, get_contextvars
from structlog.typing import EventDict, Processor

LogFormat = Literal["console", "json"]
INDENT = "    "
ABOUT = ("member", "run", "round", "request")
FIELDS = ("code", "entry", "route", "seconds")
"""What an entry may hold beside what it is about, if the caller gives it (``extra``)."""
FIRST = ("time", "level", "event", "process", *ABOUT, *FIELDS)
LONGEST = 4000
REQUEST_HEADER = "x-request-id"
_REQUEST = re.compile(r"[0-9a-f]{16}")
_TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z ")
_OTHERS = ("flwr", "httpx", "httpcore", "matplotlib", "urllib3", "uvicorn")


def to_stderr(
    form: LogFormat, process: str, *, member: str = "", level: int = logging.INFO, stream: IO[str] | None = None
) -> None:
    """Send this process's log to stderr, and nowhere else. From libraries, log warnings and errors only.

    Args:
        form: ``console`` or ``json``.
        process: kind of this process: server, serverapp, node, worker, keeper, issuer; "" for a command.
        member: name of the member whose node this is.
        level: entries below this level are dropped.
        stream: instead of stderr.
    """
    stream = stream or sys.stderr
    handler = logging.StreamHandler(stream)
    handler.setFormatter(formatter(form, process, member=member, colors=stream.isatty()))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level)
    for name in _OTHERS:
        other = logging.getLogger(name)
        other.handlers.clear()  # flwr brings a coloured one
        other.setLevel(logging.WARNING)
        other.propagate = True


def formatter(form: LogFormat, process: str, *, member: str = "", colors: bool = False) -> logging.Formatter:
    """Return a formatter for records of the standard library's loggers, with the arguments of :func:`to_stderr`."""
    source = {"process": process, "member": member}

    def complete(_: Any, __: str, entry: EventDict) -> EventDict:
        entry = {**source, **entry}
        if process:  # at a command, a person sees when an entry appears
            entry["time"] = _time(entry["_record"])
        known = {name: entry[name] for name in FIRST if entry.get(name)}
        return {**known, **{name: value for name, value in entry.items() if name not in FIRST}}

    before: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.ExtraAdder((*ABOUT, *FIELDS)),
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        complete,
        structlog.processors.format_exc_info,
    ]
    shown: Processor = structlog.processors.JSONRenderer(ensure_ascii=True)  # so there is no line break in any string
    if form == "console":
        shown = structlog.dev.ConsoleRenderer(
            colors=colors, timestamp_key="time", pad_level=False, pad_event_to=0, sort_keys=False
        )
    rendered = [
        structlog.stdlib.ProcessorFormatter.remove_processors_meta,
        _plain if form == "console" else _cut,
        shown,
    ]
    return structlog.stdlib.ProcessorFormatter(foreign_pre_chain=before, processors=rendered)


def _plain(_: Any, __: str, entry: EventDict) -> EventDict:
    """Return an entry whose texts are one line each. Only a traceback has more lines, all indented."""
    trace = str(entry.pop("exception", ""))[-LONGEST:]
    entry.pop("logger", None)
    entry = {name: printable(value) if isinstance(value, str) else value for name, value in entry.items()}
    if trace:
        entry["exception"] = "\n".join(INDENT + printable(line) for line in trace.splitlines())
    return entry


def _cut(_: Any, __: str, entry: EventDict) -> EventDict:
    """Return an entry with its texts cut. Of a traceback the end is kept, which says most."""
    cut = {name: value[:LONGEST] if isinstance(value, str) else value for name, value in entry.items()}
    return {**cut, "exception": str(entry["exception"])[-LONGEST:]} if "exception" in entry else cut


def _time(record: logging.LogRecord) -> str:
    at = datetime.fromtimestamp(record.created, UTC)
    return at.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def printable(text: str, limit: int = LONGEST) -> str:
    """Return text that cannot pretend to be another line of a log.

    >>> printable("a\\nb\\x1b[31m")
    'a b [31m'
    """
    return "".join(char if char.isprintable() else " " for char in text[:limit])


def is_ours(line: str, form: LogFormat) -> bool:
    """Return whether a line that another process wrote is an entry of this form, or continues an entry.

    >>> is_ours("2026-11-27T10:12:57.123Z [info] stopped", "console"), is_ours("Segmentation fault", "console")
    (True, False)
    """
    if form == "console":
        return bool(_TIME.match(line)) or line.startswith(INDENT)
    try:
        entry = json.loads(line)
    except (ValueError, RecursionError):
        return False
    return isinstance(entry, dict) and {"time", "level", "event", "process"} <= entry.keys()


def about(**what: Any) -> AbstractContextManager[None]:
    """Set what all entries in a block are about: run, round, member, request; "" or 0 for nothing."""
    return bound_contextvars(**what)


def now_about(**what: Any) -> None:
    """Set what entries are about from now on, inside a block of :func:`about` with the same names."""
    bind_contextvars(**what)


def this_request() -> str:
    """Return the id of the request that entries are about now, or a new id."""
    return request_id(str(get_contextvars().get("request", "")))


def request_id(claimed: str = "") -> str:
    """Return a request's id: the id that came with it, if it has our form, or a new id.

    >>> request_id("00c0ffee00c0ffee"), len(request_id("a b"))
    ('00c0ffee00c0ffee', 16)
    """
    return claimed if _REQUEST.fullmatch(claimed) else secrets.token_hex(8)


def message_request(message: str) -> str:
    """Return the request id for a message that Flower knows by this id (a SHA-256)."""
    return message[:16]
