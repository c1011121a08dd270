"""A task's own ``train``: how it is called, how long it may take, and what is checked about it.

Whatever it does wrong ends in one sentence in the member's own log, and in the code ``update.failed`` elsewhere. The
sentence names the line of code, but never the text of an error, because that may hold a row.
"""

from __future__ import annotations

import contextlib
import ctypes
import logging
import signal
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from ...configs.training import TrainingSettings
from ...errors import MoonflowerError, Overrun, Refused
from ..tasks import Metrics, Task
from .rows import Rows
from .tensors import torch_seed

logger = logging.getLogger(__name__)
_AGAIN_S = 1.0
_SAY_S = 5.0


@dataclass(frozen=True)
class OwnTraining:
    """One call of a task's own ``train``.

    Attributes:
        task: brings it.
        model: on the device, with the base's numbers.
        rows: prepared, at least one.
        training: settings of the recipe.
        device: of the site.
        seed: from the node's secret; the generator that ``train`` gets comes from it.
        progress: called with the share that ``train`` reports.
    """

    task: Task
    model: nn.Module
    rows: Rows
    training: TrainingSettings
    device: torch.device
    seed: bytes
    progress: Callable[[float], None]

    def run(self) -> None:
        """Train the model in place.

        Raises:
            Refused: ``update.failed``: it raised, took too long, or changed a frozen parameter.
        """
        frozen = {name: p.detach().clone() for name, p in self.model.named_parameters() if not p.requires_grad}
        generator = torch.Generator().manual_seed(torch_seed(self.seed))
        self.model.train()
        with carefully("train", self.training.train_timeout_s), torch.enable_grad():
            self.task.train(
                self.model,
                self.rows,
                self.training,
                device=self.device,
                generator=generator,
                progress=self.progress,
            )
        self.model.to(self.device)
        self._unchanged(frozen)

    def _unchanged(self, frozen: dict[str, Tensor]) -> None:
        now = dict(self.model.named_parameters())
        for name, before in frozen.items():
            if name not in now or not torch.equal(now[name].detach(), before):
                raise Refused("update.failed", f"the task's train changed {name!r}, a frozen parameter of its model")


def evaluated(task: Task, model: nn.Module, rows: Rows, device: torch.device, limit_s: float) -> Metrics:
    """Return what a task's own ``evaluate`` says about one row or more.

    Raises:
        Refused: ``update.failed``: it raised, took too long, or gave something that is not a table of numbers.
    """
    model.eval()
    with carefully("evaluate", limit_s), torch.no_grad():
        metrics = task.evaluate(model, rows, device=device)
    wanted = "expected a table of numbers with a loss"
    if not isinstance(metrics, dict) or "loss" not in metrics:
        what = f"no loss but {', '.join(map(str, metrics))}" if isinstance(metrics, dict) else type(metrics).__name__
        raise Refused("update.failed", f"the task's evaluate returned {what}; {wanted}")
    for name, value in metrics.items():
        if not isinstance(name, str) or not (value is None or isinstance(value, (int, float))):
            raise Refused("update.failed", f"the task's evaluate returned {name!r} as {type(value).__name__}; {wanted}")
    return {name: None if value is None else float(value) for name, value in metrics.items()}


@contextlib.contextmanager
def carefully(what: str, limit_s: float) -> Iterator[None]:
    """Run a block of a task's own code for at most ``limit_s`` seconds.

    Raises:
        Refused: ``update.failed``: it raised, or took too long.
    """
    try:
        with _limited(limit_s):
            yield
    except Overrun:
        raise Refused(
            "update.failed", f"the task's {what} took longer than training.train_timeout_s = {limit_s:g}"
        ) from None
    except MoonflowerError:
        raise
    except Exception as error:  # a task may raise anything
        logger.debug("the failure in full", exc_info=error)
        last = traceback.extract_tb(error.__traceback__)[-1]
        where = f"{Path(last.filename).name}, line {last.lineno}"
        raise Refused("update.failed", f"the task's {what} failed: {type(error).__name__} in {where}") from None


@contextlib.contextmanager
def _limited(limit_s: float) -> Iterator[None]:
    if threading.current_thread() is threading.main_thread() and hasattr(signal, "setitimer"):
        with _alarm(limit_s):
            yield
    else:
        with _watchdog(limit_s):
            yield


@contextlib.contextmanager
def _alarm(limit_s: float) -> Iterator[None]:
    """Raise in the main thread, also while it waits for the system."""

    def ring(*_: object) -> None:
        raise Overrun

    before = signal.signal(signal.SIGALRM, ring)
    try:
        signal.setitimer(signal.ITIMER_REAL, limit_s, _AGAIN_S)
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


@contextlib.contextmanager
def _watchdog(limit_s: float) -> Iterator[None]:
    """Raise in another thread than the main one, at its next instruction."""
    thread, over, lock = threading.get_ident(), threading.Event(), threading.Lock()

    def watch() -> None:
        wait_s = limit_s
        while not over.wait(wait_s):
            with lock:
                if not over.is_set():
                    ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread), ctypes.py_object(Overrun))
            wait_s = _AGAIN_S

    watcher = threading.Thread(target=watch, daemon=True, name="train-timeout")
    watcher.start()
    try:
        yield
    finally:
        with lock:
            over.set()
        watcher.join()


class Told:
    """Writes into the member's log how far training is, not more often than each five seconds."""

    def __init__(self) -> None:
        self._said = time.monotonic()

    def __call__(self, share: float) -> None:
        """Take the share that is done, 0 to 1."""
        now = time.monotonic()
        if now - self._said >= _SAY_S:
            self._said = now
            logger.info("training: %.0f %% of the round", 100 * min(max(float(share), 0.0), 1.0))
