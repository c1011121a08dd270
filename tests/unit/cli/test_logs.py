"""What processes say: for people or for machines, about which run, round, member and request, one entry a line."""

from __future__ import annotations

import io
import json
import logging
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from moonflower import logs
from moonflower.client.node.logfile import FILE_NAME, LogFile
from moonflower.configs import bundle
from moonflower.configs.roles import LogFormat
from moonflower.server.door.flower import overheard
from moonflower.server.watch import narrator
from support import PATIENCE_S

FORGED = "2026-11-27T10:00:00.000Z [info] promoted process=server"
Said = Callable[..., list[str]]


@pytest.fixture
def logger() -> Iterator[logging.Logger]:
    """This process's log, put back afterwards."""
    root = logging.getLogger()
    before = (root.level, root.handlers[:])
    yield logging.getLogger("moonflower.server.somewhere")
    root.level, root.handlers[:] = before


def to(form: LogFormat, process: str = "server", **more: Any) -> io.StringIO:
    stream = io.StringIO()
    logs.to_stderr(form, process, stream=stream, **more)
    return stream


def test_for_machines_it_is_one_object_a_line_with_all_that_it_is_about(logger: logging.Logger) -> None:
    stream = to("json", "worker", member="VA Long Beach")
    with logs.about(run="r1", round=0, request="00c0ffee00c0ffee"):
        logger.info("asked")
        logs.now_about(round=3)
        logger.warning("refused %s", "it", extra={"code": "guard.base", "rows": 303})
    logger.info("after")
    first, second, third = map(json.loads, stream.getvalue().splitlines())
    assert list(first)[:3] == ["time", "level", "event"]
    assert first["process"] == "worker"
    assert "round" not in first
    assert {name: second[name] for name in ("level", "event", "member", "run", "round", "request", "code")} == {
        "level": "warning",
        "event": "refused it",
        "member": "VA Long Beach",
        "run": "r1",
        "round": 3,
        "request": "00c0ffee00c0ffee",
        "code": "guard.base",
    }
    assert "rows" not in second, "only what is listed is shown"
    assert not {"run", "round", "request"} & third.keys()


def test_for_people_it_is_one_line_with_the_same(logger: logging.Logger) -> None:
    stream = to("console", "node", member="VA Long Beach")
    with logs.about(run="r1", round=3):
        logger.info("done")
    (line,) = stream.getvalue().splitlines()
    assert logs.is_ours(line, "console")
    assert line[25:] == "[info] done process=node member='VA Long Beach' run=r1 round=3"


@pytest.mark.parametrize("form", ["console", "json"])
def test_nothing_that_somebody_else_wrote_looks_like_another_entry(logger: logging.Logger, form: LogFormat) -> None:
    stream = to(form)
    with logs.about(run=f"x\n{FORGED}", member=f"a\r{FORGED}"):
        logger.warning("refused %s from here", f"/api/runs/\n{FORGED}\u2028\x1b[2J", extra={"code": f"c\n{FORGED}"})
        try:
            raise ValueError(f"no\n{FORGED}")
        except ValueError:
            logger.exception("broke")
    text = stream.getvalue()
    assert text.isascii() or "\u2028" not in text
    assert "\x1b" not in text
    lines = text.split("\n")[:-1]
    assert [line for line in lines if line.startswith("2026-11-27T10:00:00.000Z")] == []
    assert all(logs.is_ours(line, form) for line in lines)
    assert len([line for line in lines if not line.startswith(logs.INDENT)]) == 2


def test_libraries_speak_through_it_when_they_warn(logger: logging.Logger) -> None:
    logging.getLogger("flwr").addHandler(logging.StreamHandler())
    stream = to("json")
    logging.getLogger("flwr").info("hello")
    logging.getLogger("httpx").info("GET https://example.org/?token=x")
    logging.getLogger("flwr.part").warning("odd")
    (entry,) = map(json.loads, stream.getvalue().splitlines())
    assert (entry["logger"], entry["event"], entry["level"]) == ("flwr.part", "odd", "warning")


def test_a_request_keeps_its_id_if_that_is_of_our_form() -> None:
    assert logs.request_id("0123456789abcdef") == "0123456789abcdef"
    for strange in ("", "0123456789ABCDEF", "0123456789abcdef0", "0123456789abcde\n", "../../etc/passwd0"):
        assert logs.request_id(strange) != strange
        assert len(logs.request_id(strange)) == 16
    with logs.about(request="0123456789abcdef"):
        assert logs.this_request() == "0123456789abcdef"
    assert logs.this_request() != logs.this_request()


@pytest.mark.parametrize("form", ["console", "json"])
def test_a_members_file_has_its_processes_entries_and_the_last_words_of_a_crash(
    tmp_path: Path, form: LogFormat, capfd: pytest.CaptureFixture[str]
) -> None:
    script = (
        "import logging, sys; from moonflower import logs; logs.to_stderr(sys.argv[1], 'node', member='a');"
        "logging.getLogger('x').warning('ours'); print('Segmentation fault\\x1b[1m', file=sys.stderr); 1 / 0"
    )
    journal = LogFile(form, "a", tmp_path)
    child = subprocess.Popen([sys.executable, "-c", script, form], stderr=subprocess.PIPE)
    assert child.stderr is not None
    journal.follow(child.stderr).join(PATIENCE_S)
    child.wait()
    journal.say(logging.INFO, "stopped")
    journal.close()
    lines = (tmp_path / FILE_NAME).read_text().splitlines()
    assert capfd.readouterr().err.splitlines() == lines
    assert all(logs.is_ours(line, form) for line in lines)
    assert "ours" in lines[0]
    assert "node" in lines[0]
    assert "Segmentation fault" in lines[1]
    assert "keeper" in lines[1]
    assert any("ZeroDivisionError" in line for line in lines)
    assert "stopped" in lines[-1]


def test_a_serverapp_is_heard_in_the_servers_log(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """As Flower starts it: its output closed, everything but the environment lost on the way."""
    script = (
        "import logging; from moonflower import logs; from moonflower.configs import bundle;"
        "from moonflower.server.door.flower import overheard;"
        "logs.to_stderr('json', 'serverapp', stream=overheard.stream_to(bundle.server_log()));"
        "logging.getLogger('moonflower.server.live').warning('broke', extra={'run': 'r1'})"
    )
    way_in = overheard.opened("json")
    environment = {**os.environ, bundle.SERVER_LOG: str(way_in)}
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, "stdin": subprocess.DEVNULL}
    assert subprocess.run([sys.executable, "-c", script], env=environment, **quiet).returncode == 0  # type: ignore[call-overload]
    with way_in.open("w") as strange:
        strange.write("a library's words\n")
    said, until = "", time.monotonic() + PATIENCE_S
    while not said and time.monotonic() < until:
        time.sleep(0.05)
        said += capfd.readouterr().err
    heard = json.loads(said.splitlines()[0])
    assert (heard["process"], heard["level"], heard["event"], heard["run"]) == ("serverapp", "warning", "broke", "r1")
    assert overheard.stream_to(Path("/proc/self/fd/987")) is None
    assert overheard.stream_to(None) is None


def test_entries_of_the_audit_log_are_told_in_words_with_fields(logger: logging.Logger) -> None:
    entry = {"event": "envelope_refused", "run": "r", "number": 3, "member": "a", "code": "envelope.late"}
    stream = to("json")
    narrator.tell(entry)
    narrator.tell({"event": "checkpoint_kept"})
    (said,) = map(json.loads, stream.getvalue().splitlines())
    assert (said["event"], said["level"], said["entry"]) == ("envelope refused", "warning", "envelope_refused")
    assert (said["run"], said["round"], said["member"], said["code"]) == ("r", 3, "a", "envelope.late")
