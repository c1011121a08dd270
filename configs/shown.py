"""A run's settings as results show them: the recipe's tables with the run's choices, and which are no defaults."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel
from pydantic_core import PydanticUndefined

from .recipe import Recipe

_MODELS: Mapping[str, type[BaseModel]] = {
    name: field.annotation
    for name, field in Recipe.model_fields.items()
    if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel)
}


def config_of(recipe: Recipe, training: Mapping[str, Any]) -> dict[str, Any]:
    """Return a run's settings, JSON-able: the recipe's tables, with its code, numerics and digest of the schema.

    Args:
        recipe: of the run's circle.
        training: the run's ``[training]``, in which it may have chosen seed and rounds.
    """
    return {**recipe.as_dict(), "training": dict(training), "schema": recipe.schema_digest}


def changed(config: Mapping[str, Any], models: Mapping[str, type[BaseModel]] = _MODELS) -> list[str]:
    """Return the dotted keys of a config whose values are not moonflower's defaults.

    An option of the task counts as changed because its default is the task's own. A key without a default is left out.

    Args:
        config: tables of settings, as :func:`config_of` returns them.
        models: table → its settings.
    """
    out = []
    for table, model in models.items():
        fields = {field.alias or name: field for name, field in model.model_fields.items()}
        defaults = {
            name: field.get_default(call_default_factory=True, validated_data={}) for name, field in fields.items()
        }
        for key, value in config.get(table, {}).items():
            default = defaults.get(key)
            plain = list(default) if isinstance(default, tuple) else default
            if default is not PydanticUndefined and (key not in fields or value != plain):
                out.append(f"{table}.{key}")
    return out
