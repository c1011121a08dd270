"""The node: it logs in, asks for work, hands work to the worker, and sends the replies. It never sees a row.

``python -m moonflower.client.node.loop CONFIG``. One message at a time:

1. pull a message; its run must use the app bundle that is installed here, or the answer is an error;
2. hand its objects to the worker, fetching two at a time;
3. wait for the worker, and ask every 5 s whether the run still goes on;
4. announce the reply, then send the objects that the server lacks.

No step writes to disk, and code is never fetched. (The sign of life, ``alive.py``, and circles, ``signing.py``, are not
part of a step.) If a message fails, the node answers with an error, or not at all if the run is over, and goes on.
It ends with 0 when it is asked to stop, with 2 when config or data are wrong, with 77 (EX_NOPERM) when server or issuer
refuse it, and with 75 (EX_TEMPFAIL) for anything unexpected.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import signal
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import httpx

os.environ.setdefault("FLWR_TELEMETRY_ENABLED", "0")  # before flwr is imported
os.environ.setdefault("FLWR_DISABLE_UPDATE_CHECK", "1")

from ... import logs
from ...configs.bundle import DIGEST
from ...configs.roles import ClientConfig, load_config
from ...errors import FleetError, Forgotten, InputError, MoonflowerError, Refused, RunOver, Stopped, WorkerDied
from ...oauth.login import DpopKey, ServerAuth, TokenSource
from ..circles import circles_of
from ..desk import CircleDesk
from ..keyring import Keyring, load_keys
from ..ledger.mark import open_ledger
from . import alive, confine
from . import fleet as door
from .fleet import Fleet, Work
from .pipe import Pipe, WorkerReply
from .pulse import HEARTBEAT_S, Pulse, Watch
from .replies import LONGEST_PAUSE_S
from .signing import Signing

logger = logging.getLogger(__name__)

ASKED, WRONG, BROKEN, REFUSED = 0, 2, os.EX_TEMPFAIL, os.EX_NOPERM
SCOPE = "fl:train"
SLOWER = 0.1
"""The node looks again after this share of the time without work, so a wait gets at most a tenth longer."""
SLACK_S = 60.0
"""Time that a message may take beyond the training time that the member's floor allows."""
LINGER_S = 1.0
"""Time between the last answer and the logout: Flower drops an answer if its node logs out before it is read."""
FALSE_STARTS = 3


def look_after_s(idle_s: float, poll_s: float, idle_poll_s: float) -> float:
    """Return the seconds between two looks for work, after ``idle_s`` seconds without any.

    >>> [look_after_s(idle_s, 0.2, 2.0) for idle_s in (0, 1, 10, 60)]
    [0.2, 0.2, 1.0, 2.0]
    """
    return min(idle_poll_s, max(poll_s, SLOWER * idle_s))


class Node:
    """The loop that serves messages.

    Args:
        fleet: the server.
        worker: the warm child.
        stop: set to end the node.
        digest: of the app bundle that is installed here.
        limit_s: most seconds that a message may take in the worker.
        poll_s: seconds between two looks for work while there is work; the node looks less often without work.
        idle_poll_s: most seconds between two looks.
        state: folder for the sign of life, or None.
    """

    def __init__(
        self,
        fleet: Fleet,
        worker: Pipe,
        stop: threading.Event,
        *,
        digest: str = DIGEST,
        limit_s: float = 3600.0,
        poll_s: float = 0.2,
        idle_poll_s: float = 2.0,
        heartbeat_s: float = HEARTBEAT_S,
        state: Path | None = None,
    ) -> None:
        self._fleet, self._worker, self._stop = fleet, worker, stop
        self._digest, self._limit_s, self._poll_s, self._idle_poll_s = digest, limit_s, poll_s, idle_poll_s
        self._state = state
        self._pulse = Pulse(fleet, heartbeat_s, self._give_sign)
        self._node_id, self._false_starts = 0, 0
        self._answered = -LINGER_S

    def serve(self, where: str) -> None:
        """Serve until the node is asked to stop, then log out.

        Args:
            where: the server's address, for the log.

        Raises:
            InputError: the worker found config or data wrong.
            Refused: server or issuer refuse this node.
            WorkerDied: the worker does not start.
        """
        self._worker.start()
        try:
            self._worker.wait(self._check_stop)
            self._activate(where)
            self._pulse.start()
            self._loop(where)
        except Stopped:
            pass
        finally:
            self._pulse.stop()
            self._worker.kill()
            self._log_out()

    def _loop(self, where: str) -> None:
        busy, failed = time.monotonic(), 0
        while not self._stop.is_set():
            began = time.monotonic()
            try:
                self._check_pulse()
                if self.step():
                    busy, failed = time.monotonic(), 0
                    continue
                failed = 0
            except Forgotten as error:
                logger.warning("%s; logging in again", error)
                if failed:  # the login works but the rest does not: no hurry
                    self._pause(failed)
                failed += 1
                self._activate(where)
                continue
            except FleetError as error:
                self._fleet.outage.begin(str(error))
                failed += 1
                self._pause(failed)
                continue
            self._mind_worker()
            every = look_after_s(time.monotonic() - busy, self._poll_s, self._idle_poll_s)
            self._stop.wait(max(0.0, every - (time.monotonic() - began)))

    def step(self) -> bool:
        """Handle the next message; return whether there was one."""
        work = self._fleet.pull()
        if work is None:
            return False
        with logs.about(request=logs.message_request(work.message_id)):
            self._handle(work)
        return True

    def _handle(self, work: Work) -> None:
        try:
            if self._fleet.run_fab(work.run_id) == self._digest:
                self._serve(work)
            else:
                logger.warning("task.refused: run %d uses another app than the one installed here", work.run_id)
                self._answer_error(work, door.INVALID_APP, "app not installed here")
        except RunOver:
            logger.info("run %d is over; dropping its message", work.run_id)
        except WorkerDied as error:
            if self._stop.is_set():
                raise self._stopping(work) from None
            logger.error("%s while working on %s; starting another worker", error, work.kind)
            self._answer_error(work, door.CRASHED, str(error))
        except Stopped:
            raise self._stopping(work) from None
        except InputError:
            self._answer_error(work, door.CRASHED, "worker exit")
            raise
        except Forgotten:
            raise
        except FleetError as error:
            logger.warning("giving up %s: %s", work.kind, error)
            self._answer_error(work, door.UNAVAILABLE, "message unavailable")
        finally:
            self._answered = time.monotonic()
            if self._worker.busy and not self._stop.is_set():
                self._worker.start()

    def _serve(self, work: Work) -> None:
        began = time.monotonic()
        watch = Watch(self._fleet, work.run_id)

        def tick() -> None:
            self._check_stop()
            self._check_pulse()
            if watch.over():
                raise RunOver("fleet.run_over", "the run is over")

        self._worker.wait(tick)
        job = {"run": work.run_id, "node": self._node_id, "message": work.message_id, "kind": work.kind}
        answer = self._worker.work({**job, "ids": work.ids}, self._objects(work), self._limit_s, tick)
        self._false_starts = 0
        if answer is None:
            self._answer_error(work, door.RAISED, "app error")
        else:
            self._send(work, answer)
        took = time.monotonic() - began
        logger.info("%s answered after %.2f s", work.kind, took, extra={"route": work.kind, "seconds": round(took, 3)})

    def _objects(self, work: Work) -> Iterator[bytes]:
        """Yield the message's objects; after the last one the server may forget them."""
        yield from self._fleet.objects(work)
        try:
            self._fleet.confirm(work)
        except (RunOver, Forgotten):
            raise
        except FleetError as error:
            logger.info("%s was not confirmed: %s", work.kind, error)

    def _send(self, work: Work, answer: WorkerReply) -> None:
        try:
            upload = self._fleet.push(work, answer.reply, answer.tree, answer.seconds)
        except BaseException:
            list(self._worker.contents([]))
            raise
        upload.send(self._worker.contents(upload.wanted))

    def _answer_error(self, work: Work, code: int, text: str) -> None:
        """Answer with an error, if the server still wants an answer."""
        try:
            self._fleet.push_error(work, code, text)
        except Forgotten:
            raise
        except FleetError as error:
            logger.info("the server did not take the error reply: %s", error)

    def _stopping(self, work: Work) -> Stopped:
        """Answer the message in hand, trying once, because the process that stops the node waits for it."""
        self._worker.kill()
        try:
            self._fleet.push_error(work, door.CRASHED, "stopping")
        except (Stopped, MoonflowerError) as error:
            logger.info("the server did not take the error reply: %s", error or "it cannot be reached")
        return Stopped()

    def _activate(self, where: str) -> None:
        self._node_id = self._fleet.activate()
        self._pulse.problem = None
        self._give_sign()
        isolated = "" if self._worker.isolated else "; the worker has a network (isolate = false)"
        logger.info("connected to %s as node %d%s", where, self._node_id, isolated)

    def _give_sign(self) -> None:
        if self._state is not None:
            alive.give(self._state)

    def _log_out(self) -> None:
        if self._state is not None:
            alive.take_back(self._state)
        time.sleep(max(0.0, self._answered + LINGER_S - time.monotonic()))
        try:
            self._fleet.deactivate()
        except Exception as error:  # the server notices by itself, later
            logger.debug("cannot log out: %r", error)

    def _mind_worker(self) -> None:
        """Replace an idle worker that has ended."""
        if self._worker.alive:
            return
        if not self._worker.ready:
            self._false_starts += 1
        if self._false_starts >= FALSE_STARTS:
            raise WorkerDied("worker exit")
        logger.error("the idle worker has ended; starting another")
        self._worker.start()

    def _pause(self, failed: int) -> None:
        self._stop.wait(min(2.0 ** min(failed, 10) * 0.1, LONGEST_PAUSE_S))

    def _check_stop(self) -> None:
        if self._stop.is_set():
            raise Stopped

    def _check_pulse(self) -> None:
        if self._pulse.problem is not None:
            problem, self._pulse.problem = self._pulse.problem, None
            raise problem


def run(config: Path, auth: httpx.Auth | None, keys: Keyring, settings: ClientConfig, worker: Pipe) -> None:
    """Run the node of a config until SIGTERM or SIGINT.

    Raises:
        InputError: config or data are wrong.
        Refused: server or issuer refuse this node.
    """
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):  # even if they were inherited as ignored
        signal.signal(number, lambda *_: stop.set())
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:  # a closed terminal; nohup has it ignored
        signal.signal(signal.SIGHUP, lambda *_: stop.set())
    own = settings.client
    fleet = Fleet(own.server, keys.node, ca=own.ca, auth=auth, stop=stop)
    node = Node(
        fleet,
        worker,
        stop,
        limit_s=own.max_train_s + SLACK_S,
        poll_s=own.poll_s,
        idle_poll_s=own.idle_poll_s,
        state=own.state,
    )
    ledger, desk = open_ledger(own.state, keys.secret), CircleDesk(own, auth)
    try:
        Signing(desk, circles_of(settings, keys, ledger.circles), stop).start()
        node.serve(own.server)
    finally:
        stop.set()
        fleet.close()
        desk.close()
        ledger.close()


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the node that the command line names; return its exit status."""
    parser = argparse.ArgumentParser(prog="python -m moonflower.client.node.loop")
    parser.add_argument("config", type=Path)
    parser.add_argument(
        "--reason", type=int, help="file descriptor that gets the reason for the exit, as one JSON line"
    )
    parser.add_argument("--parent", type=int, help="process id of the parent; the node ends when the parent does")
    options = parser.parse_args(arguments)
    if options.parent is not None:
        confine.die_with(options.parent)
    status, reason = BROKEN, {"code": "", "message": "the node broke", "hint": ""}
    try:
        settings = load_config(ClientConfig, options.config)
        logs.to_stderr(settings.client.log_format, "node", member=settings.client.member)
        keys = load_keys(settings.client.state)
        run(options.config, _login(settings, keys), keys, settings, Pipe(options.config))
        status = ASKED
    except InputError as error:
        status, reason = WRONG, {"code": error.code, "message": str(error), "hint": error.hint}
    except Refused as error:
        status, reason = REFUSED, {"code": error.code, "message": str(error), "hint": error.hint}
    except Exception as error:
        reason["message"] = f"the node broke: {type(error).__name__}"
        logger.error("the node broke", exc_info=error)
    if status in (WRONG, REFUSED):
        logger.error("%s (%s)", reason["message"], reason["code"], extra={"code": reason["code"]})
    if options.reason is not None and status:
        os.write(options.reason, json.dumps({"status": status, **reason}).encode() + b"\n")
    return status


def _login(settings: ClientConfig, keys: Keyring) -> httpx.Auth:
    """Return the authentication that gets the node's tokens; with DPoP they are bound to the node key."""
    key = DpopKey(keys.node) if settings.oauth.binding == "dpop" else None
    return ServerAuth(TokenSource(settings.oauth, key, SCOPE), key)


if __name__ == "__main__":
    code = main()
    logging.shutdown()
    os._exit(code)  # a thread that waits for the network must not hold up a node that was asked to stop
