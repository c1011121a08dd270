"""A federation of real processes with a dashboard, and the people who log in there; for tests in a real browser."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import tomli_w
from moonflower.client.approver import make_approver_key
from moonflower.crypto.identity import PublicKey
from moonflower.federation import stage as staging

from support.live import Live

CHROMIUM = Path("/usr/bin/chromium")
PEOPLE = {
    "Anna": ["fl:audit", "fl:approve"],
    "Bert": ["fl:audit", "fl:approve"],
    "Olga": ["fl:run", "fl:audit"],
    "Nora": ["fl:approve"],
}
FLAGS = ("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking")
MORE_FLAGS = ("--disable-component-update", "--disable-sync", "--ignore-certificate-errors", "--no-proxy-server")


def changed(path: Path, change: Callable[[dict[str, Any]], None]) -> None:
    """Change a config file."""
    tables = tomllib.loads(path.read_text())
    change(tables)
    path.write_text(tomli_w.dumps(tables))


class Office:
    """A federation with a dashboard. Anna approves for the first member, Bert for the second.

    Args:
        folder: empty.
        overrides: of the run config.
        differs: settings as :class:`Live` takes them.
    """

    def __init__(self, folder: Path, *overrides: str, **differs: Any) -> None:
        self.folder = folder
        self.live = Live(folder / "up", *overrides, **differs)
        stage = self.live.stage
        self.url = stage.server_url
        self.keys = {}
        for person, member in zip(("Anna", "Bert"), self.live.names, strict=False):
            self.keys[person] = folder / f"{person}.jwk"
            key = json.dumps(PublicKey(make_approver_key(self.keys[person]).public_key()).jwk)

            def add(tables: dict[str, Any], key: str = key) -> None:
                tables["approver"] = [{"name": "board", "key": key}]

            changed(stage.clients[member], add)
        home = stage.folder / "dashboard"
        home.mkdir()
        public = staging.client_key(home)
        client = {
            "client_id": "dashboard",
            "key": str(public),
            "scopes": ["fl:run", "fl:audit", "fl:approve"],
            "redirect": f"{self.url}/ui/callback",
        }
        people = [{"name": name, "scopes": scopes} for name, scopes in PEOPLE.items()]
        changed(stage.issuer, lambda tables: tables["client"].append(client))
        changed(stage.issuer, lambda tables: tables.update(person=people))
        desk = {"client_id": "dashboard", "key": "dashboard/oauth.key"}
        changed(stage.server, lambda tables: tables.update(dashboard=desk))

    def __enter__(self) -> Office:
        self.live.__enter__()
        return self

    def __exit__(self, *exception: Any) -> None:
        self.live.__exit__(*exception)

    def passphrase(self, person: str) -> str:
        return str(json.loads((self.live.stage.folder / "issuer" / "passphrases.json").read_text())[person])

    def log_in(self, page: Any, person: str) -> None:
        """Log in as a person does."""
        page.goto(self.url)
        page.get_by_role("link", name="Log in").click()
        page.get_by_label("Name").fill(person)
        page.get_by_label("Pass phrase").fill(self.passphrase(person))
        page.get_by_role("button", name="Log in").click()
        page.get_by_role("button", name="Log out").wait_for()


@contextmanager
def chromium() -> Iterator[Any]:
    """Give a real browser; skips the test where there is none."""
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed (extra: browser)")
    if not CHROMIUM.is_file():
        pytest.skip("there is no /usr/bin/chromium: apt-get install chromium")
    with playwright.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=str(CHROMIUM), args=[*FLAGS, *MORE_FLAGS])
        try:
            yield browser
        finally:
            browser.close()
