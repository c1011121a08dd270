"""Logging in at the dashboard with an authorization server of somebody else's (oidc-provider), by its own pages."""

from __future__ import annotations

import html
import json
import re
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import parse_qs, urljoin, urlsplit

import httpx
import pytest
from moonflower.configs.roles import DashboardSettings, VerifierSettings
from moonflower.errors import Refused
from moonflower.oauth.login import new_client_key
from moonflower.oauth.tokens import TokenVerifier
from moonflower.server.dashboard.signin import Login
from support.forge import AUDIENCE, SERVER
from support.idp import running

SCOPES = "fl:run fl:approve fl:audit"


class Desk:
    """A dashboard's login, and a person's browser at the issuer."""

    def __init__(self, url: str, key: Path) -> None:
        self.url = url
        oauth = VerifierSettings.model_validate({"issuer": url, "audience": AUDIENCE})
        settings = DashboardSettings.model_validate({"client_id": "dashboard", "key": key, "scope": SCOPES})
        self.login = Login(settings, oauth, TokenVerifier(oauth, url=SERVER), SERVER)

    def reached(self, to: str, name: str, *, consents: bool = True) -> dict[str, str]:
        """Go where a person goes: log in, agree, come back; returns the query with which the browser comes back."""
        with httpx.Client(follow_redirects=False, trust_env=False) as browser:
            reply = browser.get(to)
            for _ in range(20):
                if reply.is_redirect:
                    to = urljoin(str(reply.url), reply.headers["location"])
                    if to.startswith(f"{SERVER}/ui/callback?"):
                        return {one: value[0] for one, value in parse_qs(urlsplit(to).query).items()}
                    reply = browser.get(to)
                    continue
                if not consents and 'value="consent"' in reply.text:
                    abort = re.search(r'href="([^"]+/abort)"', reply.text)
                    assert abort is not None
                    reply = browser.get(urljoin(str(reply.url), html.unescape(abort[1])))
                    continue
                action = re.search(r'action="([^"]+)"', reply.text)
                prompt = re.search(r'name="prompt" value="(\w+)"', reply.text)
                assert action is not None, reply.text[:500]
                assert prompt is not None, reply.text[:500]
                form = {"prompt": prompt[1], "login": name, "password": "x"}
                reply = browser.post(urljoin(str(reply.url), html.unescape(action[1])), data=form)
        raise AssertionError("it never came back")


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Desk]:
    folder = tmp_path_factory.mktemp("idp-dashboard")
    private, public = new_client_key()
    key = folder / "dashboard.key"
    key.write_text(json.dumps(private))
    key.chmod(0o600)
    redirect = f"{SERVER}/ui/callback"
    clients = [{"client_id": "dashboard", "key": public, "scope": SCOPES, "bound": True, "redirect": redirect}]
    with running(folder, clients, AUDIENCE, nonce=True) as (url, _):
        made = Desk(url, key)
        yield made
        made.login.close()


def test_its_people_log_in_and_their_sessions_are_renewed(desk: Desk) -> None:
    cookie, to = desk.login.begin()
    query = desk.reached(to, "anna")
    assert query["iss"] == desk.url, "it says who it is, so a reply without that is refused"
    with pytest.raises(Refused, match="another issuer"):
        desk.login.finish(cookie, {**query, "iss": ""})
    held = desk.login.finish(cookie, query)
    assert (held.principal.client_id, held.name) == ("dashboard", "anna")
    assert held.principal.scopes == set(SCOPES.split())
    assert held.principal.jkt is not None, "bound to the server's own key"
    assert held.refresh
    renewed = desk.login.renew(held.refresh)
    assert renewed.principal.scopes == held.principal.scopes
    assert renewed.principal.expires >= held.principal.expires
    with pytest.raises(Refused, match="invalid_grant"):
        desk.login.finish(cookie, query)
    with pytest.raises(Refused, match="invalid_grant"):
        desk.login.renew(renewed.refresh)  # a code that comes twice ends all that came of it


def test_a_person_that_does_not_agree_is_not_logged_in(desk: Desk) -> None:
    cookie, to = desk.login.begin()
    query = desk.reached(to, "bert", consents=False)
    assert query["error"] == "access_denied"
    with pytest.raises(Refused, match="expected a code from the issuer, got access_denied"):
        desk.login.finish(cookie, query)
