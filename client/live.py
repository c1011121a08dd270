"""The member of a live node: its keys, ledger, circle and floor, and its own rows for every run.

``federation/simulate.py`` does the same for all members at once. Nothing here uses the network: the worker that imports
this module has none.
"""

from __future__ import annotations

import logging

import torch
from flwr.clientapp import ClientApp
from torch import nn

from ..configs.floor import refused
from ..configs.roles import ClientConfig
from ..configs.training import TrainingSettings
from .app import Member, client_app
from .circles import circles_of
from .claim import claim
from .keyring import load_keys
from .learning.optim import Steps
from .ledger.mark import open_ledger
from .own_rows import OwnRows, snapshots_of
from .seals import FOLDER, Seals

logger = logging.getLogger(__name__)


def member_of(config: ClientConfig) -> Member:
    """Return the member that a client config describes; if it lives in a circle, its rows are checked.

    The node starts even if its floor refuses something. Its log says so now, and every run is told.

    Raises:
        InputError: config, keys or data are wrong.
    """
    own, keys = config.client, load_keys(config.client.state)
    ledger, seals = open_ledger(own.state, keys.secret), Seals(own.state / FOLDER)
    circles = circles_of(config, keys, ledger.circles)
    rows = OwnRows(config, keys.secret, lambda recipe: snapshots_of(config, keys.secret, ledger, seals, recipe))
    living = circles.standing.living
    for problem in refused(config, living.recipe.task.ref if living is not None else ""):
        logger.warning("%s", problem)
    if living is not None and living.recipe.task.ref in own.tasks:
        claim(config, living.federation)
        rows.check(living.recipe)
    elif living is None:
        logger.info("lives in no circle yet: moonflower circle sign")
    return Member(circles, keys.secret, ledger, seals, rows.learner)


def open_app(config: ClientConfig) -> ClientApp:
    """Return the ClientApp of a node, warmed up; the worker runs it.

    Raises:
        InputError: config, keys or data are wrong.
    """
    member = member_of(config)
    warm_up()
    return client_app(lambda _: member)


def warm_up() -> None:
    """Take one step of a toy model, so that torch's late imports do not delay the first message."""
    with torch.random.fork_rng(devices=[]):
        model = nn.Linear(2, 1)
        steps = Steps(list(model.parameters()), TrainingSettings(), 1)
        model(torch.zeros(1, 2)).sum().backward()
        steps.step()
