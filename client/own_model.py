"""A version together with what is a member's own: its personal tensors, its whole model of Ditto, its fitted part.

The ledger has them by version. Together they are one model file, which can be used wherever the member's data is. It is
the member's own file: it carries what never leaves the member in a run, so it is for this member alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..configs.roles import ClientConfig
from ..configs.settings import Offer
from ..errors import InputError
from ..protocol import model_version
from ..protocol.model_version import Version
from .keyring import load_keys
from .learning.learner import DITTO, Learner, Personal
from .learning.tensors import as_array, as_tensor
from .ledger.ledger import Ledger
from .own_rows import OwnRows, snapshots_of
from .purposes import private_of_version
from .seals import FOLDER, Seals

MEMBER, PRIVATE, PERSONAL = "member", "private", "personal"
"""Keys of a manifest: whose file it is, the part that its task fitted, and the names of its personal tensors."""


def held(ledger: Ledger) -> Version:
    """Return the version that a node holds: that of its newest round or report.

    Raises:
        InputError: ``data.model``: it holds none.
    """
    data = ledger.newest_model()
    if data is None:
        raise InputError("data.model", "this node holds no version yet; expected one after its first round")
    return model_version.parse(data)


def whole(ledger: Ledger, version: Version, member: str) -> Version:
    """Return a version with everything that this member has of its own for it.

    Raises:
        InputError: ``data.model``: the recipe leaves tensors to the members, and this node has none for this version.
    """
    personal, private = ledger.own_parts.of(version.identity), ledger.fact(private_of_version(version))
    names = list(version.manifest.get(PERSONAL, []))
    if names and not personal:
        raise InputError(
            "data.model",
            f"this node has no tensors of its own for version {version.sha256[:16]}; it keeps those of the versions "
            "that it trained from last",
        )
    vector, frozen = np.array(version.vector), dict(version.frozen)
    prefix = DITTO if any(name.startswith(DITTO) for name in personal) else ""
    for name in names:
        kind = as_tensor(frozen[name]).dtype
        frozen[name] = as_array(torch.from_numpy(np.array(personal[prefix + name])).to(kind))
    if prefix:
        parts = [np.asarray(personal[prefix + spec.name], dtype=np.float32).reshape(-1) for spec in version.layout]
        vector = np.concatenate(parts)
    manifest = {**version.manifest, MEMBER: member, PRIVATE: private}
    return model_version.build(version.layout, vector, manifest, frozen=frozen)


@dataclass(frozen=True)
class OwnResult:
    """How good a version is on a member's own test rows; for this member alone.

    Attributes:
        version: SHA-256 of its file.
        rows: number of the member's test rows.
        federated: metrics of the version, with the member's personal tensors.
        personalised: with everything that is the member's own; None if nothing is.
        alone: of a model that was trained on the member's own rows only; None if that was not asked for.
    """

    version: str
    rows: int
    federated: dict[str, float | None]
    personalised: dict[str, float | None] | None
    alone: dict[str, float | None] | None


def judged(config: ClientConfig, ledger: Ledger, version: Version, *, alone: bool) -> OwnResult:
    """Return how good a version is on this node's own test rows.

    Args:
        config: the node's.
        ledger: the node's.
        version: of a circle in which it lives.
        alone: also train a model on the own rows only, with as many rounds; it may take as long as a run.

    Raises:
        InputError: ``config.value``: the node took part in no run of the circle in which it lives; also if task, data
            or version are wrong.
    """
    learner, offer = _learner(config, ledger)
    if version.layout != learner.layout:
        raise InputError("data.model", f"version {version.sha256[:16]} is not of the recipe that this node signed")
    own: Any = None
    if alone:
        vector, personal = learner.fit(offer.training, version.manifest["scaling"])
        own = learner.evaluate(vector, "test", personal)
    learner.prepare(version.manifest["scaling"])
    parts: Personal = ledger.own_parts.of(version.identity)
    federated = learner.evaluate(version.vector, "test", parts)
    personalised = learner.personalised(version.vector, parts)
    return OwnResult(version.sha256, int(learner.tested().sum()), federated, personalised, own)


def _learner(config: ClientConfig, ledger: Ledger) -> tuple[Learner, Offer]:
    """Return the learner of the node's newest run, with the rows that the run used."""
    circle, newest = ledger.circles.standing().living, ledger.runs.newest()
    offer = None if newest is None else Offer.model_validate(newest[1].offer)
    if circle is None or newest is None or offer is None or offer.circle != circle.digest:
        raise InputError("config.value", "this node took part in no run of the circle in which it lives")
    secret = load_keys(config.client.state).secret
    seals = Seals(Path(config.client.state) / FOLDER)
    rows = OwnRows(config, secret, lambda recipe: snapshots_of(config, secret, ledger, seals, recipe))
    return rows.learner(circle, offer, newest[0]), offer
