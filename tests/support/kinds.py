"""Models of every kind, in torch alone: float32[n, 3] in, logits float32[n, 1] out."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations

WIDTH = 3


class Cast(nn.Module):
    """Hands numbers on as another type."""

    def __init__(self, kind: torch.dtype) -> None:
        super().__init__()
        self.kind = kind

    def forward(self, inputs: Tensor) -> Tensor:
        return inputs.to(self.kind)


class Tied(nn.Module):
    """Two names of one matrix; another matrix as a frozen copy of the same memory, which sorts before its owner."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.head = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, 1)
        self.second.weight = self.first.weight
        self.again = nn.Parameter(self.head.weight.detach(), requires_grad=False)
        self.register_buffer("table", torch.rand(2))
        self.register_buffer("copy", self.table)

    def forward(self, inputs: Tensor) -> Tensor:
        mixed = self.head(torch.tanh(self.second(torch.tanh(self.first(inputs))))) + inputs @ self.again.T
        return mixed + self.table.sum() * self.copy.sum()


class Scalars(nn.Module):
    """Parameters and buffers without a dimension, trainable and frozen."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(WIDTH, 1)
        self.scale = nn.Parameter(torch.rand(()) + 1)
        self.fixed = nn.Parameter(torch.rand(()), requires_grad=False)
        self.register_buffer("shift", torch.rand(()))
        self.register_buffer("steps", torch.tensor(0))

    def forward(self, inputs: Tensor) -> Tensor:
        if self.training:
            self.steps += 1
            self.shift.mul_(0.5)
        return self.layer(inputs) * self.scale + self.shift + self.fixed + self.steps


class Empties(nn.Module):
    """Tensors without a number, of every sort."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(WIDTH, 1)
        self.none = nn.Parameter(torch.zeros(0, 4))
        self.still = nn.Parameter(torch.zeros(2, 0), requires_grad=False)
        self.register_buffer("counts", torch.zeros(0, dtype=torch.int64))
        self.register_buffer("halves", torch.zeros(0, dtype=torch.bfloat16))

    def forward(self, inputs: Tensor) -> Tensor:
        return self.layer(inputs) + self.none.sum()


class Words(nn.Module):
    """An embedding of the category that the last two inputs say, and of a constant."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.fixed = nn.Embedding(2, 4), nn.Embedding(2, 4, padding_idx=0)
        self.layer = nn.Linear(5, 1)
        self.fixed.requires_grad_(False)

    def forward(self, inputs: Tensor) -> Tensor:
        which = inputs[:, 1:].argmax(dim=1)
        return self.layer(torch.cat([inputs[:, :1], self.words(which) + self.fixed(which)], dim=1))


def frozen() -> nn.Module:
    """A random layer that is not trained."""
    net = nn.Sequential(nn.Linear(WIDTH, 8), nn.ReLU(), nn.Linear(8, 1))
    net[0].requires_grad_(False)
    return net


def typed(kind: torch.dtype, *, trained: bool) -> nn.Module:
    """A layer of another type between others, trained or frozen."""
    middle = nn.Linear(8, 8).to(kind).requires_grad_(trained)
    net = nn.Sequential(nn.Linear(WIDTH, 8), Cast(kind), middle, Cast(torch.float32), nn.Linear(8, 1))
    net.register_buffer("mean", torch.rand(3).to(kind))
    return net


def normed() -> nn.Module:
    """Batch statistics, with a whole number that counts."""
    return nn.Sequential(nn.Linear(WIDTH, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 1))


def between(wrap: Callable[[nn.Module], nn.Module]) -> nn.Module:
    """A layer whose weight is made of other tensors."""
    return nn.Sequential(nn.Linear(WIDTH, 8), wrap(nn.Linear(8, 8)), nn.Tanh(), nn.Linear(8, 1))


MODELS: dict[str, Callable[[], nn.Module]] = {
    "frozen": frozen,
    "batch statistics": normed,
    "tied": Tied,
    "scalars": Scalars,
    "empty": Empties,
    "float16": lambda: typed(torch.float16, trained=True),
    "bfloat16": lambda: typed(torch.bfloat16, trained=True),
    "float64": lambda: typed(torch.float64, trained=True),
    "frozen float16": lambda: typed(torch.float16, trained=False),
    "frozen bfloat16": lambda: typed(torch.bfloat16, trained=False),
    "frozen float64": lambda: typed(torch.float64, trained=False),
    "embeddings": Words,
    "spectral norm": lambda: between(parametrizations.spectral_norm),
    "weight norm": lambda: between(parametrizations.weight_norm),
}
