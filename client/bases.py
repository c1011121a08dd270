"""The versions that a member works from: the base in a request, and the version that a run starts from (rule 3)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from ..errors import InputError, Refused
from ..protocol import model_version
from ..protocol.circle import Start
from ..protocol.context import RoundContext
from ..protocol.messages import Seal
from ..protocol.model_version import Version
from ..protocol.purposes import Purpose, Purposes
from .guard import BaseRules
from .learning.learner import Learner
from .ledger.ledger import Base, Ledger
from .seat import Agreed, Seated


def of_request(
    purposes: Purposes, ledger: Ledger, agreed: Agreed, seat: Seated, context: RoundContext, request: Seal
) -> Base | None:
    """Return the version that came with a request, if this node knows it; None if the purpose needs no version.

    Args:
        purposes: that this member knows.
        ledger: has what this member did earlier in the run.
        agreed, seat: of the run.
        context: of the request.
        request: to seal.

    Raises:
        Refused: ``base.unknown``; ``agree.frozen``.
    """
    purpose, start = purposes[context.purpose], agreed.circle.start
    if not purpose.based:
        return _start(agreed, request) if purpose.makes_version and agreed.offer.start else None
    known = BaseRules(context, seat.roster, agreed.offer, purposes, ledger.before(context)).check(
        request.proof, request.refused
    )
    base = model_version.parse(request.model)
    if base.sha256 != context.base or base.layout != agreed.learner.layout:
        raise Refused("base.unknown", "the model in the request is not the base that the request names")
    if not purpose.trained and start is not None and base.identity == start.identity:
        raise Refused("base.unknown", "the circle's start is not measured again: others may have measured it")
    agreed.learner.prepare(base.manifest["scaling"])
    number, norm = known.statement.number, known.statement.norm or 0.0
    return Base(base.sha256, base.identity, base.data, purpose.trained, known.promoted, number, norm)


def kept(ledger: Ledger, purpose: Purpose, agreed: Agreed, context: RoundContext) -> Version | None:
    """Return the version that an opening needs, if the ledger has it: the base of training, or the run's start."""
    wanted = context.base if purpose.trained else ""
    if purpose.makes_version and not purpose.based:
        wanted = agreed.offer.start
    data = ledger.model(wanted) if wanted else None
    return None if data is None else model_version.parse(data)


def _start(agreed: Agreed, request: Seal) -> Base:
    """Return the version that a run starts from, which came with the request for its statistics."""
    start = check_start(request.model, agreed.offer.start, agreed.circle.start, agreed.learner)
    return Base(start.sha256, start.identity, start.data, False, False, -1, 0.0)


def check_start(data: bytes, sha256: str, start: Start | None, learner: Learner) -> Version:
    """Return the version that a run starts from, if this member agreed to it and can train it.

    Args:
        data: its file, as it came.
        sha256: that the run's offer names.
        start: the circle's start, if it is not version 0.
        learner: of the run.

    Raises:
        Refused: ``base.unknown``: it is another version, or does not fit this task; ``agree.frozen``: tensors that do
            not travel differ from the task's.
    """
    try:
        version = model_version.parse(data)
    except InputError:
        raise Refused("base.unknown", "the run's start is not a model version") from None
    if version.sha256 != sha256:
        raise Refused("base.unknown", "the run's start is not the version that the offer names")
    if start is not None and start.sha256 == sha256 and start.identity != version.identity:
        raise Refused("base.unknown", "the circle's start has other numbers than the signed circle says")
    own = learner.scaling(learner.summary().tolist())
    if version.layout != learner.layout or not _alike(version.manifest.get("scaling"), own):
        raise Refused("base.unknown", "the run's start does not fit the recipe's task and schema")
    if not np.isfinite(version.vector).all():
        raise Refused("base.unknown", "the run's start holds a number that is not finite")
    frozen = learner.frozen
    same = {*frozen} == {*version.frozen} and all(
        frozen[name].dtype == version.frozen[name].dtype and np.array_equal(frozen[name], version.frozen[name])
        for name in frozen
    )
    if not same:
        raise Refused("agree.frozen", "the run's start differs from the task in tensors that do not travel")
    return version


def _alike(theirs: Any, own: Any) -> bool:
    """Return whether two scalings have the same form: equal keys, lists of equal length, finite numbers."""
    if isinstance(own, Mapping):
        return isinstance(theirs, Mapping) and {*theirs} == {*own} and all(_alike(theirs[key], own[key]) for key in own)
    if isinstance(own, (list, tuple)):
        same = isinstance(theirs, list) and len(theirs) == len(own)
        return same and all(_alike(item, own_item) for item, own_item in zip(theirs, own, strict=True))
    if isinstance(own, (int, float)) and not isinstance(own, bool):
        return isinstance(theirs, (int, float)) and not isinstance(theirs, bool) and math.isfinite(theirs)
    return type(theirs) is type(own)
