"""Settings of a run: one TOML file, checked once, frozen afterwards.

The same file serves ``simulate``, ``up`` and ``run``. Every table is a frozen model, and names of keys say their units.
An unknown key, a wrong type or a value out of range raises an :class:`~moonflower.errors.InputError`. It names the
file, the key, what was found, what was expected and the nearest valid choice. Nothing outside this package reads
the environment or a config file.
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from ..errors import InputError
from .explain import explain
from .names import Name
from .strict import Strings, Table
from .toml import read_toml
from .training import MOST_CHOICES, Choices, TrainingSettings

T = TypeVar("T", bound=BaseModel)
Ref = Annotated[
    str,
    Field(pattern=r"^[A-Za-z_][\w.]*(:[A-Za-z_]\w*)?$", title='"package.module:attribute", or a script\'s "module"'),
]

File = Annotated[Path, Field(strict=False)]
DIGEST = r"^[0-9a-f]{64}$"
Clip = Annotated[float, Field(gt=0, le=1e6)]
AUTO = "auto"


class FederationSettings(Table):
    """``[federation]``: who trains together."""

    name: Name = Field(description="name of the federation; part of every signed context")
    min_members: int = Field(
        3, ge=2, le=1024, description="smallest circle; in a circle of two, each reads the other's update"
    )
    let_go_days: int = Field(
        14, ge=1, le=28, description="days after which a circle may begin without a member that gave no farewell"
    )
    practice: bool = Field(False, description="members' secrets come from the seed; simulate and up set it")


class TaskSettings(BaseModel):
    """``[task]``: what is trained. Keys other than ``ref`` are the task's own options."""

    model_config = ConfigDict(frozen=True, extra="allow", strict=True, allow_inf_nan=False)
    ref: Ref = Field(description="where the task is, installed on every node")

    @property
    def options(self) -> dict[str, Any]:
        """The task's own options, as given."""
        return dict(self.model_extra or {})


class DataRules(Table):
    """``[data]`` of a recipe: what each column means, and how rows are dealt to parts; the same at every member."""

    label: str = Field("y", description="column to predict")
    drop: Strings = Field((), description="columns that are not features")
    test_fraction: float = Field(0.2, ge=0, lt=1, description="share of the rows kept for testing")
    test_column: str | None = Field(None, description="column that marks the test rows, instead of test_fraction")
    test_value: int | str | None = Field(None, description="value of test_column that marks a test row")
    validation_fraction: float = Field(
        0.2, ge=0, lt=1, description="share of the training rows kept for the gate's votes"
    )
    min_count: int = Field(
        10, ge=2, le=1_000_000, description="fewest rows by which a part of a member's rows changes between runs"
    )

    @model_validator(mode="after")
    def _pair(self) -> DataRules:
        if (self.test_column is None) != (self.test_value is None):
            raise ValueError("test_column and test_value go together; expected both or neither")
        return self


class FileRules(Table):
    """The part of ``[data]`` that says how this machine's files are written; no recipe holds it."""

    separator: Literal["", ",", ";", "\t", "|"] = Field("", description='between the cells of CSV; "" = found')
    decimal: Literal["", ".", ","] = Field("", description='mark before the fraction of a number in text; "" = found')
    encoding: str = Field("", max_length=32, description='of CSV, such as utf-8, cp1252 or utf-16; "" = found')
    on_bad: Literal["refuse", "drop"] = Field(
        "refuse", description="drop leaves out rows without a label or with a cell that the schema does not allow"
    )


class DataSettings(DataRules, FileRules):
    """``[data]`` of a run config: the rules, and where this machine has the rows."""

    path: File | None = Field(
        None, description="CSV (also .gz) or Parquet: a file, a folder, or a pattern such as exports/*.csv"
    )
    site: str | None = Field(None, description="column that names the member (simulate and up)")
    schema_path: File | None = Field(None, alias="schema", description="schema file; relative to the config file")
    checkpoint: File | None = Field(
        None, description="weights that version 0 starts from (.safetensors, .pt); all members have the same file"
    )

    @property
    def rules(self) -> DataRules:
        """The part that belongs to the recipe."""
        return DataRules(**{name: getattr(self, name) for name in DataRules.model_fields})


class OwnDataSettings(FileRules):
    """``[data]`` of a node: where its rows are. The recipe that it signed says what each column means."""

    path: File | None = Field(
        None, description="CSV (also .gz) or Parquet: a file, a folder, or a pattern such as exports/*.csv"
    )
    site: str | None = Field(None, description="column that names the member, in a table of several (up)")
    checkpoint: File | None = Field(
        None, description="weights that version 0 starts from, if the recipe names such a file (.safetensors, .pt)"
    )
    append_only: bool = Field(
        False, description="the table only grows: the node keeps no copy of its rows, and a missing row was deleted"
    )

    def under(self, rules: DataRules) -> DataSettings:
        """Return where the rows are, together with the rules of a recipe."""
        own = {name: getattr(self, name) for name in FileRules.model_fields}
        return DataSettings(path=self.path, site=self.site, **own, **dict(rules))


class SimulateSettings(Table):
    """``[simulate]``: how simulate makes members out of one table."""

    partition: Literal["site", "random", "dirichlet"] = Field("site", description="how rows become members")
    members: int | None = Field(None, ge=2, le=1024, description="how many (random and dirichlet)")
    alpha: float = Field(0.5, gt=0, le=1e6, description="concentration of the Dirichlet draw over the labels")

    @model_validator(mode="after")
    def _members(self) -> SimulateSettings:
        if self.partition != "site" and self.members is None:
            raise ValueError(f'partition = "{self.partition}" needs members = N')
        if self.partition == "site" and self.members is not None:
            raise ValueError(f'members = {self.members} needs partition = "random" or "dirichlet"; "site" counts them')
        return self


class CryptoSettings(Table):
    """``[crypto]``: how updates are sealed."""

    value_bits: int = Field(16, ge=8, le=24, description="bits of one quantised value")
    clip: Clip | dict[str, Clip] | Literal["auto"] = Field(
        8.0,
        title='a number above 0 and at most 1000000, one for each pattern of tensor names, or "auto"',
        description="largest change of a parameter that is sent, or a limit for each pattern of tensor names",
    )


class GateSettings(Table):
    """``[gate]``: when a candidate is promoted, and who releases a version for use."""

    metric: Literal["loss"] = Field("loss", description="what members judge by, on their own validation rows")
    max_regression: float = Field(0.05, ge=0, le=1, description="share of the best loss above which a version is worse")
    min_gain: float = Field(0.0005, ge=0, le=1, description="share of the best loss below which a version is better")
    max_step: float = Field(0.0, ge=0, le=1e9, description="longest opened mean update; 0 = found, in practice only")
    patience: int = Field(3, ge=1, le=1000, description="refused candidates in a row before the run ends")
    max_failed: int = Field(5, ge=1, le=1000, description="failed rounds in a row before the run ends")
    progress: int = Field(
        5, ge=0, le=100_000, description="rounds in a row, after the fifth, without promotion that end a run; 0 = never"
    )
    release: Literal["manual", "automatic"] = Field(
        "manual", description="automatic releases the last good version by itself"
    )
    approvals_required: int = Field(2, ge=1, le=64, description="members whose approvers must sign a release")

    @property
    def approvals(self) -> int:
        """Number of members whose approvers must sign a release of this run; 0 if it is automatic."""
        return 0 if self.release == "automatic" else self.approvals_required


class RunSettings(Table):
    """A whole run config. Paths are absolute after :func:`load_run`."""

    federation: FederationSettings
    task: TaskSettings
    data: DataSettings = DataSettings()
    simulate: SimulateSettings = SimulateSettings()
    training: TrainingSettings = TrainingSettings()
    crypto: CryptoSettings = CryptoSettings()
    gate: GateSettings = GateSettings()
    choice: Choices = ()

    def in_practice(self) -> RunSettings:
        """Return the same run as a practice, in which all members' secrets come from its seed."""
        return self.model_copy(update={"federation": self.federation.model_copy(update={"practice": True})})

    def floor(self) -> FloorSettings:
        """Return the floor of a node that takes part in this run and in nothing else."""
        return FloorSettings(
            tasks=(self.task.ref,),
            own_training=(self.task.ref,) if self.training.loop == "own" else (),
            max_train_s=self.training.train_timeout_s,
            min_approvals=self.gate.approvals,
        )


class Offer(Table):
    """What a run carries to its members: the recipe of its circle, with what the run chose.

    Both sides derive it (``protocol/circle.py``). It holds no paths and no code.
    """

    federation: FederationSettings
    task: TaskSettings
    training: TrainingSettings
    crypto: CryptoSettings
    gate: GateSettings
    schema_digest: str = Field(alias="schema", pattern=DIGEST)
    circle: str = Field(pattern=DIGEST, description="digest of the circle, 64 hex digits")
    start: str = Field(pattern=r"^([0-9a-f]{64})?$", description='version that it starts from; "" for version 0')
    choice: int = Field(
        ge=0, le=MOST_CHOICES, description="which [[choice]] it took; 0 for the server optimiser of [training]"
    )


class FloorSettings(Table):
    """The member's own floor (rule 9): a run can only be stricter."""

    tasks: Strings = Field((), description="tasks that this node runs; with an empty list it runs nothing")
    own_training: Strings = Field((), description="tasks among them that may train by code of their own")
    max_train_s: float = Field(3600, gt=0, description="longest train_timeout_s of a run")
    log_key: str | None = Field(None, description="the only key that may sign the coordinator's log (log.pub)")
    min_approvals: int = Field(
        1, ge=0, le=64, description="fewest members that must approve a release; 0 allows automatic"
    )


def load_run(path: Path, overrides: Iterable[str] = ()) -> RunSettings:
    """Return the settings in the TOML file ``path``.

    Args:
        path: the config file. Relative paths in it are relative to its folder.
        overrides: ``table.key=value`` strings that override the file; the value is TOML, or else a string.

    Raises:
        InputError: ``config.file``, ``config.toml``, ``config.set`` or ``config.value``.
    """
    raw = read_toml(path, "config")
    for override in overrides:
        _override(raw, override)
    settings = parse(RunSettings, raw, where=str(path))
    data = settings.data
    resolved = {
        name: (path.parent / value).resolve()
        for name, value in (("path", data.path), ("schema_path", data.schema_path), ("checkpoint", data.checkpoint))
        if value is not None
    }
    return settings.model_copy(update={"data": data.model_copy(update=resolved)})


def parse(model: type[T], raw: Mapping[str, Any], *, where: str) -> T:
    """Return ``raw`` as a checked, frozen ``model``.

    Raises:
        InputError: ``config.value``; its sentence names ``where``, the key, what was found and what was expected.
    """
    try:
        return model.model_validate(raw)
    except ValidationError as error:
        raise InputError("config.value", f"{where}: {explain(model, error)}") from None


def _override(raw: dict[str, Any], override: str) -> None:
    dotted, equals, text = override.partition("=")
    *tables, key = dotted.strip().split(".")
    if not (equals and tables and key and all(tables)):
        raise InputError("config.set", f"--set {override}: expected table.key=value, such as training.rounds=5")
    try:
        value = tomllib.loads(f"v = {text}")["v"]
    except tomllib.TOMLDecodeError:
        value = text
    target = raw
    for table in tables:
        target = target.setdefault(table, {})
        if not isinstance(target, dict):
            raise InputError("config.set", f"--set {override}: {table!r} is not a table")
    target[key] = value
