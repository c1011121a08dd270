"""moonflower: organisations train one model together; the coordinator sees sealed updates and their opened mean."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .client.predict import load_model
    from .simulation import simulate

__version__ = "0.1.0"
__all__ = ["load_model", "simulate"]

_HOMES = {"simulate": ".simulation", "load_model": ".client.predict"}


def __getattr__(name: str) -> Any:
    """Import ``simulate`` and ``load_model`` when first used, so that the server never loads torch."""
    if name not in _HOMES:
        raise AttributeError(f"module 'moonflower' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name], __name__), name)
