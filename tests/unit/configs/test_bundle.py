"""The app bundle: what is shipped is what Flower would build from these lines, and nothing else is in it."""

from __future__ import annotations

import io
import tomllib
import zipfile
from importlib import import_module

import pytest
from flwr.serverapp import ServerApp
from moonflower import __version__
from moonflower.configs import bundle
from moonflower.errors import InputError

LINES = b"""
[project]
name = "moonflower"
version = "0.1.0"
dependencies = []

[tool.flwr.app]
publisher = "moonflower"

[tool.flwr.app.components]
serverapp = "moonflower.server.live:app"
clientapp = "moonflower.client.live:open_app"

[tool.flwr.app.config]
run = ""
"""


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of pathspec, in flwr's builder
def test_the_shipped_bundle_is_built_from_these_lines() -> None:
    from flwr.cli.build import build_fab_from_files

    built, _ = build_fab_from_files({"pyproject.toml": LINES})
    assert built == bundle.BYTES, "rebuild configs/moonflower.fab from these lines, and say so in the changelog"
    assert f'version = "{__version__}"'.encode() in LINES


def test_what_the_bundle_names_is_there() -> None:
    components = tomllib.loads(LINES.decode())["tool"]["flwr"]["app"]["components"]
    assert isinstance(_named(components["serverapp"]), ServerApp)
    assert callable(_named(components["clientapp"]))  # makes a node's ClientApp, from its config


def _named(ref: str) -> object:
    module, _, attribute = ref.partition(":")
    return getattr(import_module(module), attribute)


def test_the_bundle_holds_no_code() -> None:
    with zipfile.ZipFile(io.BytesIO(bundle.BYTES)) as archive:
        assert sorted(archive.namelist()) == [".info/CONTENT", "pyproject.toml"]


def test_a_serverapp_outside_a_server_says_so() -> None:
    with pytest.raises(InputError, match="only moonflower server starts this process"):
        bundle.server_config({})
