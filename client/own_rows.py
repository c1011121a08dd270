"""The rows that a live node's config gives it, for every run."""

from __future__ import annotations

import logging
from collections.abc import Callable

from ..canonical import canonical
from ..configs.floor import not_listed
from ..configs.recipe import Recipe
from ..configs.roles import ClientConfig
from ..configs.schema import Schema
from ..configs.settings import DataSettings, Offer, SimulateSettings
from ..errors import InputError
from ..protocol.circle import Circle
from .learning.datasets import rows_of
from .learning.devices import device_of
from .learning.learner import Learner
from .learning.pretrained import load_pretrained, start_model
from .learning.rows import Rows, Split
from .learning.sources import stamp
from .learning.splits import partition, split
from .learning.spool import spools_in
from .learning.suspects import suspects, told
from .learning.torch import TorchLearner
from .ledger.ledger import Ledger
from .seals import Seals
from .secret import NodeSecret
from .snapshots import FOLDER, Snapshots
from .tasks import load_task

logger = logging.getLogger(__name__)
ANY_SEED = 7
"""The seed that deals a whole table out does not change which members have rows, only which rows each member gets."""


class OwnRows:
    """The rows that a node's config gives it. The table is read again only when its file changes.

    Args:
        config: ``[client] member`` picks the rows where ``[data] site`` or ``[simulate]`` deal the table out.
        secret: the node's: it deals the rows to training, validation and test.
        snapshots: makes, for a recipe, the snapshots that say which rows a run uses; None uses the table as it is.
    """

    def __init__(
        self, config: ClientConfig, secret: NodeSecret, snapshots: Callable[[Recipe], Snapshots] | None = None
    ) -> None:
        self._config, self._secret, self._snapshots = config, secret, snapshots
        self._kept: tuple[bytes, Rows] | None = None

    def learner(self, circle: Circle, offer: Offer, run: str) -> Learner:
        """Return the learner of a run in a circle that this node signed.

        Raises:
            InputError: task, data or checkpoint file are wrong.
            Refused: ``snapshot.lost``, ``snapshot.small``.
        """
        recipe, seed = circle.recipe, offer.training.seed
        parts = self.now(recipe, seed)
        if self._snapshots is not None:
            parts = self._snapshots(recipe).of_run(run, parts)
        else:
            parts = parts.capped(recipe.training.max_rows)
        _check_parts(recipe, parts)
        learner = TorchLearner(
            load_task(recipe.task.ref, recipe.task.options),
            parts,
            Schema.from_dict(recipe.columns),
            seed=seed,
            secret=self._secret,
            draw=circle.draw,
            pretrained=load_pretrained(self._config.data.checkpoint, recipe.checkpoint),
            device=device_of(self._config.client.device),
            personal=recipe.training.personal,
        )
        learner.check(recipe.training)
        if not learner.repeats:
            logger.info(
                "training here may not give the same bits again (%s): each round's result is kept until the next",
                "the task's own code" if recipe.training.loop == "own" else learner.device,
            )
        return learner

    def check(self, recipe: Recipe) -> None:
        """Check that there are rows and the recipe's checkpoint file, and that they fit; no log says how many rows.

        Raises:
            InputError: task, data or checkpoint file are wrong, or ``training.parts`` leaves too few rows in a part.
        """
        rows = self.now(recipe)
        _check_parts(recipe, rows.capped(recipe.training.max_rows))
        if start := load_pretrained(self._config.data.checkpoint, recipe.checkpoint):
            task = load_task(recipe.task.ref, recipe.task.options)
            start_model(task, Schema.from_dict(recipe.columns), "", start)
        for hint in self.hints(recipe, rows):
            logger.warning("%s", hint)
        logger.info("data and schema are in order")

    def hints(self, recipe: Recipe, rows: Split | None = None) -> list[str]:
        """Return what an operator should know of the columns: sentences for this machine, without a cell in them."""
        train = (rows or self.now(recipe)).train
        return [told(hint) for hint in suspects(Schema.from_dict(recipe.columns), {"": train})]

    def left_out(self, recipe: Recipe) -> int:
        """Return how many training rows do not count because they exceed ``training.max_rows``.

        Raises:
            InputError: task or data are wrong.
        """
        rows = self.now(recipe).train
        return len(rows) - min(len(rows), recipe.training.max_rows or len(rows))

    def now(self, recipe: Recipe, seed: int = ANY_SEED) -> Split:
        """Return the rows of the present table, as a recipe reads and deals them; ``max_rows`` is not applied here.

        Raises:
            InputError: task or data are wrong; ``task.refused``: the task is not on the node's list, so none of its
                code is imported.
        """
        if recipe.task.ref not in self._config.client.tasks:
            raise InputError("task.refused", not_listed(recipe.task.ref, self._config.client.tasks))
        data = self._config.data.under(recipe.data)
        rows = self._own(self._table(recipe, data), data, seed)
        return split(rows, data, secret=self._secret, member=self._config.client.member)

    def _table(self, recipe: Recipe, data: DataSettings) -> Rows:
        """Return the whole table as a recipe's task reads it."""
        task, schema = load_task(recipe.task.ref, recipe.task.options), Schema.from_dict(recipe.columns)
        changed = stamp(data.path) if data.path is not None else ()
        about = (recipe.task.model_dump(mode="json"), data.model_dump(mode="json"), schema.digest(), changed)
        key = canonical(about)
        if self._kept is None or self._kept[0] != key:
            self._kept = None  # never hold the old and the new table in memory together
            with spools_in(self._config.client.state):
                self._kept = (key, rows_of(task.data(data, schema)))
        return self._kept[1]

    def _own(self, rows: Rows, data: DataSettings, seed: int) -> Rows:
        """Return this member's rows of a table."""
        config, name = self._config, self._config.client.member
        if config.simulate is None and data.site is None:
            return rows
        parts = partition(rows, data, config.simulate or SimulateSettings(), seed)
        if name not in parts:
            alike = any(other.casefold() == name.casefold() for other in parts)
            near = ", of which one differs in capital letters only" if alike else ""
            raise InputError(
                "data.member",
                f"the data has no rows of member {name!r}, but of {len(parts)} others{near}; expected this member's",
            )
        return parts[name]


def _check_parts(recipe: Recipe, rows: Split) -> None:
    """Check that no part of an epoch is so small that it tells something about a single row (rule 5).

    Raises:
        InputError: ``config.value``; the message does not say how many rows there are.
    """
    parts, least = recipe.training.parts, recipe.data.min_count
    own = recipe.training.loop == "own"  # what its parts are is the task's own affair; the act says what that may tell
    if len(rows.train) // parts < least and not (own or recipe.federation.practice):
        raise InputError(
            "config.value",
            f"training.parts = {parts} leaves fewer of this node's training rows in a part than data.min_count = "
            f"{least}; expected fewer parts, or more rows",
        )


def snapshots_of(config: ClientConfig, secret: NodeSecret, ledger: Ledger, seals: Seals, recipe: Recipe) -> Snapshots:
    """Return the snapshots of a node under a recipe."""
    return Snapshots(
        ledger.row_sets,
        config.client.state / FOLDER,
        secret,
        least=recipe.data.min_count,
        most=recipe.training.max_rows,
        append_only=config.data.append_only,
        let_go=seals.drop_all,
    )
