"""``moonflower predict``: score rows with a model version."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ..configs.roles import ClientConfig, load_config
from ..errors import InputError
from .options import Decimal, Encoding, Separator, format_of

if TYPE_CHECKING:
    from ..client.learning.predict import Predictor

MODEL_FOLDERS = ("state/models", "runs/*/models")


def predict(
    data: Annotated[Path, typer.Argument(help="CSV or Parquet with the schema's columns; it needs no label.")],
    model: Annotated[
        str,
        typer.Option("--model", help="Model file, or the first digits of its SHA-256 (in state/ or runs/)."),
    ] = "",
    client: Annotated[
        Path | None,
        typer.Option(
            "--client",
            help="Client config (TOML): add what is this node's own. Without --model: the version it holds.",
        ),
    ] = None,
    out: Annotated[Path | None, typer.Option("--out", help="CSV file to write.  [default: stdout]")] = None,
    separator: Separator = "",
    decimal: Decimal = "",
    encoding: Encoding = "",
    task: Annotated[
        list[str] | None,
        typer.Option("--task", help="Task of yours that the model may name; its code is imported (repeatable)."),
    ] = None,
) -> None:
    """Score rows with a model version. The version carries its schema, scaling and task, so nothing else is needed."""
    if not model and client is None:
        raise InputError("config.value", "expected --model, or --client of a node that holds a version")
    from ..client.learning.predict import load_model, predict_with  # torch takes seconds
    from ..client.tasks import own_tasks

    allow = None if not task else [*own_tasks(), *task]
    path = _model_file(model) if model else None
    predictor = load_model(path, allow=allow) if client is None and path is not None else _own(client, path, allow)
    scores = predict_with(predictor, data, out, format_of(separator, decimal, encoding))
    if out is None:
        typer.echo(scores.to_csv(index=False), nl=False)
    else:
        typer.echo(f"{len(scores)} rows scored: {out}", err=True)


def _own(client: Path | None, model: Path | None, allow: list[str] | None) -> Predictor:
    """Return a version with what a node has of its own; without ``model`` the version that the node holds."""
    from ..client.learning.predict import open_version
    from ..client.own_model import whole
    from .member import ledger_of
    from .own import version_of

    assert client is not None
    settings = load_config(ClientConfig, client)
    with ledger_of(settings) as ledger:
        version = whole(ledger, version_of(ledger, model), settings.client.member)
    return open_version(version, allow=allow if allow is not None else settings.client.tasks)


def _model_file(name: str) -> Path:
    path = Path(name)
    if path.exists() or len(name) < 6 or not set(name) <= set("0123456789abcdef"):
        return path
    matches = sorted(file for folder in MODEL_FOLDERS for file in Path().glob(f"{folder}/{name}*.safetensors"))
    if not matches:
        raise InputError(
            "data.model", f"no model {name!r} under {' or '.join(MODEL_FOLDERS)}; expected a file or SHA-256"
        )
    if len({file.name for file in matches}) > 1:
        raise InputError("data.model", f"{name!r} names {len(matches)} models; expected more digits of the SHA-256")
    return matches[0]
