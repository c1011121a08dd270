"""``[training]`` and ``[[choice]]``: what every member does with a base, and how the opened mean becomes a version.

What acts on a member's own values is a constant of the recipe, the same in every round. A server optimiser acts on what
was opened, so a run may choose among those that the recipe offers.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from .strict import Strings, Table

Options = dict[str, Any]
ServerOptimizer = Literal["average", "momentum", "adam", "yogi", "adagrad"]
ServerOptions = dict[str, Annotated[float, Field(ge=0, le=1e3)]]
SERVER_OPTIONS: Mapping[str, tuple[str, ...]] = {
    "average": (),
    "momentum": ("beta",),
    "adam": ("beta1", "beta2", "tau"),
    "yogi": ("beta1", "beta2", "tau"),
    "adagrad": ("beta1", "tau"),
}
"""Server optimiser → its options."""
LEAST_STEPS = 4
MOST_CHOICES = 8
_WORD, _NO_WORD = r"^[A-Za-z]\w{0,31}$", r"^([A-Za-z]\w{0,31})?$"
_FOLLOWS_GRADIENT = ("sgd", "asgd")


def check_server_options(optimizer: str, options: Mapping[str, float]) -> None:
    """Check the options of a server optimiser.

    Raises:
        ValueError: it does not have such an option, or a value lies outside its range.
    """
    where = "server_optimizer_options."
    for name, value in options.items():
        if name not in SERVER_OPTIONS[optimizer]:
            have = ", ".join(SERVER_OPTIONS[optimizer]) or "none"
            raise ValueError(f"server_optimizer {optimizer!r} has no option {name!r}; its options are {have}")
        if name.startswith("beta") and value >= 1:
            raise ValueError(f"{where}{name} = {value:g}; expected at least 0 and below 1")
        if name == "tau" and not value:
            raise ValueError(f"{where}tau = 0; expected a number above 0")


class TrainingSettings(Table):
    """``[training]``: what every member does with a base model."""

    rounds: int = Field(20, ge=1, le=100_000, description="rounds of the run")
    local_epochs: int = Field(5, ge=1, le=10_000, description="passes over the member's own rows in a round")
    lr: float = Field(0.1, gt=0, le=100, description="learning rate of a member's steps")
    loop: Literal["moonflower", "own"] = Field("moonflower", description="own: the task brings its own train")
    optimizer: str = Field("sgd", pattern=_WORD, description="any of torch.optim by name; it starts anew each round")
    optimizer_options: Options = Field({}, description="its own options, as torch names them")
    scheduler: str = Field("", pattern=_NO_WORD, description="of torch.optim.lr_scheduler, over the steps of one round")
    scheduler_options: Options = Field({}, description="its own options; a length that it needs is the round's steps")
    max_grad_norm: float = Field(0.0, ge=0, le=1e6, description="longest gradient of a step; 0 = any length")
    precision: Literal["float32", "bfloat16", "float16"] = Field(
        "float32", description="type in which torch's autocast computes; weights stay float32"
    )
    parts: int = Field(4, ge=1, le=1_000_000, description="steps of an epoch, the same at every member")
    chunk_rows: int = Field(
        0, ge=0, le=1_000_000, description="most rows of a part that are in memory together; 0 = the whole part"
    )
    max_rows: int = Field(
        0,
        ge=0,
        le=2**38,
        description="most training rows of a member that count; 0 = as simulate and up propose, in practice only",
    )
    mu: float = Field(0.0, ge=0, le=1000, description="FedProx: weight of the pull towards the base; 0 = FedAvg")
    server_optimizer: ServerOptimizer = Field(
        "average",
        description="how the opened mean becomes the next version: FedAvg, FedAvgM, FedAdam, FedYogi, FedAdagrad",
    )
    server_lr: float = Field(0.0, ge=0, le=1000, description="its rate; 0 = its usual one")
    server_decay: float = Field(
        1.0, gt=0, le=1, description="the rate of a round is that of the round before times this"
    )
    server_optimizer_options: ServerOptions = Field({}, description="beta, or beta1, beta2 and tau")
    personal: Strings = Field((), description="patterns of tensor names that never leave a member, such as head.*")
    ditto: float = Field(
        0.0, ge=0, le=1000, description="pull of a member's own whole model towards the common one; 0 = no such model"
    )
    seed: int = Field(7, ge=0, lt=2**63, description="seeds order of batches and dropout, with each node's own secret")
    init_seed: int = Field(7, ge=0, lt=2**63, description="seed of version 0, with members, task and schema")
    train_timeout_s: float = Field(
        600, gt=0, le=7 * 86400, description="a connected member that trains longer is named as away"
    )
    report_every: int = Field(
        0,
        ge=0,
        le=100_000,
        description="rounds between reports over all members' test rows; 0 = only at the end",
    )

    @property
    def steps(self) -> int:
        """Steps of a member in a round, if it has a row for each part."""
        return self.local_epochs * self.parts

    @model_validator(mode="after")
    def _normalising(self) -> TrainingSettings:
        """Check that steps whose length does not follow the gradient's are at least four (rule 6)."""
        plain = self.loop == "own" or (self.optimizer.lower() in _FOLLOWS_GRADIENT and not self.max_grad_norm)
        if not plain and self.steps < LEAST_STEPS:
            what = "max_grad_norm" if self.max_grad_norm else f"optimizer = {self.optimizer!r}"
            raise ValueError(
                f"{what} with local_epochs x parts = {self.steps}; expected at least {LEAST_STEPS} steps in a round"
            )
        return self

    @model_validator(mode="after")
    def _own(self) -> TrainingSettings:
        if self.loop == "own" and self.ditto:
            raise ValueError('ditto and loop = "own" exclude each other: the pull of ditto needs moonflower\'s loop')
        return self

    @model_validator(mode="after")
    def _server_options(self) -> TrainingSettings:
        check_server_options(self.server_optimizer, self.server_optimizer_options)
        return self


class Choice(Table):
    """``[[choice]]``: a server optimiser that a run may choose instead of that of ``[training]``."""

    server_optimizer: ServerOptimizer = Field(description="average, momentum, adam, yogi or adagrad")
    server_lr: float = Field(0.0, ge=0, le=1000, description="its rate; 0 = its usual one")
    server_decay: float = Field(
        1.0, gt=0, le=1, description="the rate of a round is that of the round before times this"
    )
    server_optimizer_options: ServerOptions = Field({}, description="beta, or beta1, beta2 and tau")

    @model_validator(mode="after")
    def _server_options(self) -> Choice:
        check_server_options(self.server_optimizer, self.server_optimizer_options)
        return self

    @classmethod
    def of(cls, training: TrainingSettings) -> Choice:
        """Return the server optimiser of training settings."""
        return cls(**{name: getattr(training, name) for name in cls.model_fields})


Choices = Annotated[tuple[Choice, ...], Field(strict=False, max_length=MOST_CHOICES)]
