"""The member of a live node: its keys, ledger, pins and floor, and its own rows for every run that it admits.

The twin of what ``federation/simulate.py`` does for all members at once. Nothing here talks to anybody: the worker that
imports it has no network.
"""

from __future__ import annotations

import logging

import torch
from flwr.clientapp import ClientApp
from torch import nn

from ..canonical import canonical
from ..configs.roles import ClientConfig
from ..configs.schema import Schema, load_schema
from ..configs.settings import Offer, SimulateSettings, TaskSettings
from ..errors import InputError, nearest
from .app import Member, client_app
from .keyring import identity_of, load_keys
from .learning.learner import Learner
from .learning.rows import Rows, Split
from .learning.sources import source_of
from .learning.splits import partition, split
from .learning.torch import TorchLearner
from .ledger.ledger import FILE_NAME, Ledger
from .seals import FOLDER, Seals
from .secret import NodeSecret
from .snapshots import FOLDER as SNAPSHOT
from .snapshots import Snapshots
from .tasks import Task, load_task, schema_for

logger = logging.getLogger(__name__)
ANY_SEED = 7
"""Whether a member has rows does not depend on the seed that deals a whole table out to members; which ones does."""


class OwnRows:
    """The rows that a node's config gives it. The table is read once for as long as its file stays as it is.

    Args:
        config: ``[client] member`` picks the rows where ``[data] site`` or ``[simulate]`` deal the table out.
        secret: the node's: it deals the rows to training, validation and test.
        snapshots: which of the rows a run uses; None for those of the table as it is.

    Raises:
        InputError: config or data are wrong.
    """

    def __init__(self, config: ClientConfig, secret: NodeSecret, snapshots: Snapshots | None = None) -> None:
        if not config.client.tasks:
            raise InputError("config.value", "[client] tasks is empty; expected the tasks that this node runs")
        self._config, self._secret, self.snapshots = config, secret, snapshots
        self._kept: tuple[bytes, Rows] | None = None
        self.schema = self._check()

    def learner(self, offer: Offer, run: str) -> Learner:
        """Return the learner of a run whose task the node's floor admits.

        Raises:
            InputError: task or data are wrong.
            Refused: ``snapshot.lost``, ``snapshot.small``.
        """
        task = load_task(offer.task.ref, offer.task.options)
        schema = schema_for(task, self._config.data)
        seed = offer.training.seed
        parts = self._split(task, offer.task, schema, seed)
        if self.snapshots is not None:
            parts = self.snapshots.of_run(run, parts)
        return TorchLearner(task, parts, schema, seed=seed, secret=self._secret)

    def _check(self) -> Schema:
        """Return the schema after a look at the data with the first task of the list, so that mistakes show now."""
        data, first = self._config.data, self._config.client.tasks[0]
        own = load_schema(data.schema_path) if data.schema_path is not None else None
        try:
            task = load_task(first, {})
        except InputError:
            if own is None:
                raise
            logger.warning("the data is not checked before the first run: %s needs options that only a run has", first)
            return own
        schema = own or schema_for(task, data)
        self._split(task, TaskSettings(ref=first), schema, ANY_SEED)
        logger.info("data and schema are in order")  # how many rows there are stays out of every log
        return schema

    def now(self) -> Split:
        """Return the table's rows as it is now, as the first task of the list reads them.

        Raises:
            InputError: task or data are wrong.
        """
        first = self._config.client.tasks[0]
        return self._split(load_task(first, {}), TaskSettings(ref=first), self.schema, ANY_SEED)

    def _split(self, task: Task, about: TaskSettings, schema: Schema, seed: int) -> Split:
        rows = self._own(self._table(task, about, schema), seed)
        return split(rows, self._config.data, secret=self._secret, member=self._config.client.member)

    def _table(self, task: Task, about: TaskSettings, schema: Schema) -> Rows:
        """Return the whole table as a task reads it."""
        data = self._config.data
        stamp = source_of(data).stamp() if data.path is not None else ()
        key = canonical([about.model_dump(mode="json"), schema.digest(), stamp])
        if self._kept is None or self._kept[0] != key:
            self._kept = None  # not both in memory at once
            self._kept = (key, task.data(data, schema))
        return self._kept[1]

    def _own(self, rows: Rows, seed: int) -> Rows:
        """Return this member's rows of a table."""
        config, name = self._config, self._config.client.member
        if config.simulate is None and config.data.site is None:
            return rows
        parts = partition(rows, config.data, config.simulate or SimulateSettings(), seed)
        if name not in parts:
            raise InputError("data.member", f"the data has no rows of member {name!r}; {nearest(name, parts)}")
        return parts[name]


def member_of(config: ClientConfig) -> Member:
    """Return the member that a client config describes.

    Raises:
        InputError: config, keys or data are wrong.
    """
    own = config.client
    identity = identity_of(config)
    pins = {one.name: one.pin for one in config.member} | {own.member: identity.card.node.pin}
    secret = load_keys(own.state).secret
    ledger, held = Ledger(own.state / FILE_NAME), Seals(own.state / FOLDER)
    rows = OwnRows(config, secret, snapshots_of(config, secret, ledger, held))
    return Member(identity, own, secret, pins, ledger, held, rows.learner, rows.schema.digest())


def snapshots_of(config: ClientConfig, secret: NodeSecret, ledger: Ledger, held: Seals) -> Snapshots:
    """Return the snapshots of a node."""

    def let_go() -> None:
        for context in held.contexts():
            held.drop(context)

    return Snapshots(
        ledger.row_sets,
        config.client.state / SNAPSHOT,
        secret,
        least=config.data.min_count,
        append_only=config.data.append_only,
        let_go=let_go,
    )


def open_app(config: ClientConfig) -> ClientApp:
    """Return the ClientApp of a node, warm: what the worker runs.

    Raises:
        InputError: config, keys or data are wrong.
    """
    member = member_of(config)
    warm_up()
    return client_app(lambda _: member)


def warm_up() -> None:
    """Take one step of a toy model: torch imports half of itself then, and the first message need not wait for it."""
    with torch.random.fork_rng(devices=[]):
        model = nn.Linear(2, 1)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        model(torch.zeros(1, 2)).sum().backward()
        optimizer.step()
