"""moonflower: organisations train one model together; the coordinator sees sealed updates and their opened mean."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from .version import __version__

if TYPE_CHECKING:
    from .client.learning.predict import load_model
    from .federation.outcome import load_result
    from .federation.simulate import simulate

__all__ = ["__version__", "load_model", "load_result", "simulate"]

_HOMES = {
    "simulate": ".federation.simulate",
    "load_result": ".federation.outcome",
    "load_model": ".client.learning.predict",
}


def __getattr__(name: str) -> Any:
    """Import ``simulate`` and the others when first used, so that the server never loads torch."""
    if name not in _HOMES:
        raise AttributeError(f"module 'moonflower' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name], __name__), name)
