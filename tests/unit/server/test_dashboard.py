"""The dashboard without a browser: login, sessions, what a page may do, what it is told, what it signs and checks."""

from __future__ import annotations

import asyncio
import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlencode, urlsplit

import httpx
import pytest
import tomli_w
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st
from moonflower.configs.roles import DashboardSettings, IssuerConfig, VerifierSettings
from moonflower.crypto import merkle
from moonflower.crypto.identity import PublicKey, unb64
from moonflower.crypto.note import Signer, open_checkpoint, sign_checkpoint
from moonflower.errors import Full, InputError, Refused
from moonflower.oauth import jws
from moonflower.oauth.issuer import people
from moonflower.oauth.issuer import serve as embedded
from moonflower.oauth.tokens import Principal, TokenVerifier
from moonflower.protocol.approval import Decision, private_jwk, reason_problem
from moonflower.server.dashboard import events, routes
from moonflower.server.dashboard.routes import COOKIE, LOGIN_COOKIE, Dashboard
from moonflower.server.dashboard.sessions import MAX_SESSIONS, OpenSession, Sessions
from moonflower.server.dashboard.signin import LOGIN_S, Login
from moonflower.server.door import api
from moonflower.server.door.api import Api
from moonflower.server.records import denied, history
from moonflower.server.records.denied import Denied
from moonflower.server.records.history import RunRow
from moonflower.server.records.pseudonyms import Pseudonyms
from moonflower.server.records.waiting import WaitedFor
from moonflower.server.watch.follow import Follower
from moonflower.server.watch.overview import Course, Progress, Scene, Waiting, sentence
from support import PATIENCE_S, ROOT
from support.approvers import FEDERATION, RUN, Shelf, person, signed
from support.forge import AUDIENCE, SERVER, Bridge, Clock, ec_key
from support.gateway import Door, run
from support.pages import command

ISSUER = "http://127.0.0.1:9400"
STATIC = Path(routes.__file__).parent / "static"
PEOPLE = {"Anna": ["fl:approve", "fl:audit"], "Olga": ["fl:run"], "Nils": ["fl:train"], "Nora": ["fl:approve"]}
OWN = {"origin": SERVER, "x-moonflower": "1", "sec-fetch-site": "same-origin"}


class House:
    """An issuer, a server's records, and a dashboard between them, all in this process."""

    def __init__(self, folder: Path, **changes: Any) -> None:
        self.clock, self.key = Clock(), ec_key("dash-1")
        self.shelf = Shelf(folder / "state", 3)
        self.state = self.shelf.state
        (folder / "dash.pub").write_text(json.dumps(self.key.public.jwk))
        private = folder / "dash.key"
        private.write_text(json.dumps({**self.key.key.as_dict(private=True), "kid": "dash-1"}))
        private.chmod(0o600)
        config = {
            "issuer": {"state": folder / "issuer", "audience": AUDIENCE},
            "client": [
                {
                    "client_id": "dashboard",
                    "key": folder / "dash.pub",
                    "scopes": ["fl:run", "fl:approve", "fl:audit", "fl:train"],
                    "redirect": f"{SERVER}/ui/callback",
                }
            ],
            "person": [{"name": name, "scopes": scopes} for name, scopes in PEOPLE.items()],
        }
        self.issuer = embedded.application(IssuerConfig.model_validate(config), ISSUER, clock=self.clock)
        self.phrases = json.loads((folder / "issuer" / people.FILE).read_text())
        self.bridge = Bridge(self.issuer)
        self.oauth = VerifierSettings.model_validate({"issuer": ISSUER, "audience": AUDIENCE})
        http = httpx.Client(transport=self.bridge)
        self.verifier = TokenVerifier(self.oauth, url=SERVER, clock=self.clock, fetch=lambda url: http.get(url).content)
        desk = {"client_id": "dashboard", "key": private, **changes}
        made = DashboardSettings.model_validate(desk)
        self.login = Login(made, self.oauth, self.verifier, SERVER, self.clock, httpx.Client(transport=self.bridge))
        self.sessions = Sessions(made.idle_s, made.longest_s, self.clock)
        self.api = Api(self.state, FEDERATION, lambda: None)
        self.app = Dashboard(
            login=self.login,
            sessions=self.sessions,
            api=self.api.app,
            scopes=self.api.scopes,
            denied=self.denied,
            views=self.api.views,
            federation=FEDERATION,
            url=SERVER,
            clock=self.clock,
        )

    def denied(self, principal: Principal) -> bool:
        with self.state.store.read() as db:
            return denied.is_denied(db, principal.client_id, principal.subject)

    def browser(self) -> httpx.Client:
        return httpx.Client(transport=Bridge(self.app), base_url=SERVER)

    def asked(self, browser: httpx.Client) -> str:
        """The issuer's address to which a browser that wants to log in is sent."""
        return browser.get("/ui/login").headers["location"]

    def answered(self, url: str, name: str, phrase: str = "") -> httpx.Response:
        """What the issuer says to somebody who fills in its form."""
        with httpx.Client(transport=self.bridge) as http:
            assert http.get(url).status_code == 200
            return http.post(url, data={"name": name, "passphrase": phrase or self.phrases[name]})

    def logged_in(self, name: str) -> httpx.Client:
        browser = self.browser()
        back = self.answered(self.asked(browser), name).headers["location"]
        reply = browser.get(back)
        assert (reply.status_code, reply.headers["location"]) == (303, "/ui/"), reply.headers
        return browser

    def close(self) -> None:
        self.app.close()
        self.shelf.close()


@pytest.fixture
def house(tmp_path: Path) -> Iterator[House]:
    made = House(tmp_path)
    yield made
    made.close()


def code_of(reply: httpx.Response) -> tuple[int, str]:
    return reply.status_code, reply.json()["code"]


# Login


def test_a_person_logs_in_and_the_browser_gets_no_token(house: House) -> None:
    browser = house.browser()
    url = house.asked(browser)
    query = {name: value[0] for name, value in parse_qs(urlsplit(url).query).items()}
    assert url.startswith(f"{ISSUER}/authorize?")
    assert (query["response_type"], query["code_challenge_method"]) == ("code", "S256")
    assert (query["resource"], query["redirect_uri"]) == (AUDIENCE, f"{SERVER}/ui/callback")
    back = house.answered(url, "Anna").headers["location"]
    reply = browser.get(back)
    (session,) = [one for one in reply.headers.get_list("set-cookie") if one.startswith(f"{COOKIE}=")]
    for word in ("HttpOnly", "Secure", "SameSite=strict", "Path=/"):
        assert word in session
    assert "Domain" not in session
    assert "Max-Age" not in session, "it ends with the browser"
    who = browser.get("/ui/session").json()
    assert (who["name"], who["scopes"], who["federation"]) == ("Anna", ["fl:approve", "fl:audit"], FEDERATION)
    everything = "".join([reply.text, str(reply.headers), str(browser.cookies), browser.get("/ui/session").text])
    assert "eyJ" not in everything, "no JWT in the browser"
    assert browser.get("/ui/api/models").status_code == 200


def test_a_code_counts_only_in_the_browser_that_began_the_login_and_once(house: House) -> None:
    mallory, victim = house.browser(), house.browser()
    back = house.answered(house.asked(mallory), "Anna").headers["location"]
    house.asked(victim)
    assert victim.get(back).headers["location"] == "/ui/?problem=login"
    assert house.browser().get(back).headers["location"] == "/ui/?problem=login", "no cookie at all"
    assert mallory.get(back).headers["location"] == "/ui/"
    again = dict(parse_qs(urlsplit(back).query))
    assert LOGIN_COOKIE not in mallory.cookies, "a login is over once it succeeded"
    assert mallory.get("/ui/callback?" + urlencode(again, doseq=True)).headers["location"] == "/ui/?problem=login"


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"state": "x"}, "did not begin"),
        ({"iss": "https://evil.example.org"}, "another issuer"),
        ({"iss": None}, "another issuer"),
        ({"code": None}, "expected a code from the issuer, got nothing"),
        ({"code": "x" * 20}, "no token"),
        ({"error": "access_denied"}, "access_denied"),
    ],
)
def test_a_reply_with_one_fault_is_no_login(house: House, change: dict[str, Any], why: str) -> None:
    cookie, url = house.login.begin()
    back = house.answered(url, "Anna").headers["location"]
    query = {name: value[0] for name, value in parse_qs(urlsplit(back).query).items()} | change
    with pytest.raises(Refused, match=why) as refusal:
        house.login.finish(cookie, {name: value for name, value in query.items() if value is not None})
    assert refusal.value.code == "session.login"


@pytest.mark.parametrize("cookie", ["", ".", "x.y", "a" * 43 + "." + "b" * 43])
def test_a_cookie_of_somebody_elses_making_is_no_login(house: House, cookie: str) -> None:
    with pytest.raises(Refused, match="did not begin"):
        house.login.finish(cookie, {"state": "", "code": "x", "iss": ISSUER})


def test_a_login_that_takes_too_long_is_none(house: House) -> None:
    cookie, url = house.login.begin()
    house.clock.now += LOGIN_S
    back = house.answered(url, "Anna").headers["location"]
    query = {name: value[0] for name, value in parse_qs(urlsplit(back).query).items()}
    with pytest.raises(Refused, match="too long ago"):
        house.login.finish(cookie, query)


def test_whoever_may_do_nothing_here_gets_no_session(tmp_path: Path) -> None:
    house = House(tmp_path, scope="fl:train fl:audit")
    browser = house.browser()
    back = house.answered(house.asked(browser), "Nils").headers["location"]
    assert browser.get(back).headers["location"] == "/ui/?problem=scope"
    assert browser.get("/ui/session").json() is None
    house.close()


def test_an_issuer_that_is_away_is_said_to_be_away_and_not_asked_by_every_visitor(house: House) -> None:
    house.bridge.down = True
    for _ in range(5):
        assert house.browser().get("/ui/login").headers["location"] == "/ui/?problem=issuer"
    assert len(house.bridge.requests) == 1
    house.bridge.down = False
    assert house.browser().get("/ui/login").headers["location"] == "/ui/?problem=issuer"
    house.clock.now += 5
    assert house.browser().get("/ui/login").headers["location"].startswith(ISSUER)


def test_a_person_that_was_shut_out_is_out_at_once_and_logs_in_no_more(house: House) -> None:
    anna, olga = house.logged_in("Anna"), house.logged_in("Olga")
    assert anna.get("/ui/api/log").status_code == 200
    with house.state.store.transaction() as db:
        subject = [*house.app._sessions._open.values()][-1].held.principal.subject  # she came last
        denied.deny(db, house.state.log, Denied("subject", subject), "left", Pseudonyms())
    assert code_of(anna.get("/ui/api/log")) == (401, "session.none")
    assert anna.get("/ui/session").json() is None
    assert olga.get("/ui/session").json()["name"] == "Olga"
    again = house.browser()
    back = house.answered(house.asked(again), "Anna").headers["location"]
    assert again.get(back).headers["location"] == "/ui/?problem=login"


def test_a_login_that_fails_again_and_again_is_over_and_shuts_nobody_else_out(house: House) -> None:
    browser = house.browser()
    state = parse_qs(urlsplit(house.asked(browser)).query)["state"][0]
    cookie = {LOGIN_COOKIE: browser.cookies[LOGIN_COOKIE]}
    asked = len(house.bridge.requests)
    for _ in range(40):
        again = httpx.Client(transport=Bridge(house.app), base_url=SERVER, cookies=cookie)
        reply = again.get("/ui/callback", params={"state": state, "code": "junk", "iss": ISSUER})
        assert reply.headers["location"] == "/ui/?problem=login"
    assert len(house.bridge.requests) - asked == routes.TRIES
    for _ in range(40):  # without having begun a login: the issuer is not asked at all
        stranger = httpx.Client(transport=Bridge(house.app), base_url=SERVER)
        reply = stranger.get("/ui/callback", params={"state": state, "code": "junk", "iss": ISSUER})
        assert reply.headers["location"] == "/ui/?problem=login"
    assert len(house.bridge.requests) - asked == routes.TRIES
    name = next(iter(PEOPLE))
    assert house.logged_in(name).get("/ui/session").json()["name"] == name


@pytest.mark.parametrize("path", ["/ui/login/", "/ui/callback/", "/ui/session/", "/ui/static/", "/ui/events/"])
def test_no_path_leads_to_a_host_that_the_request_made_up(house: House, path: str) -> None:
    reply = house.browser().get(path, headers={"host": "evil.example.org"})
    assert reply.status_code == 404
    assert "evil" not in str(reply.headers)


@pytest.mark.parametrize(("named", "audience"), [("issuer", ISSUER), ("token_endpoint", f"{ISSUER}/token")])
def test_the_assertion_names_the_audience_that_the_vendor_wants(tmp_path: Path, named: str, audience: str) -> None:
    house = House(tmp_path, assertion_audience=named)
    house.logged_in("Anna")
    (asked,) = [request for request in house.bridge.requests if request.url.path == "/token"]
    assertion = parse_qs(asked.content.decode())["client_assertion"][0]
    assert jws.read(assertion.encode()).claims["aud"] == audience
    house.close()


def test_a_login_begins_where_the_issuer_sends_people_back_to(house: House) -> None:
    reply = house.browser().get("/ui/login", headers={"host": "localhost:8443"})
    assert reply.headers["location"] == f"{SERVER}/ui/login"
    assert "set-cookie" not in reply.headers


def test_a_token_that_is_bound_to_another_key_opens_no_session(house: House) -> None:
    cookie, url = house.login.begin()
    back = house.answered(url, "Anna").headers["location"]
    query = {name: value[0] for name, value in parse_qs(urlsplit(back).query).items()}
    held = house.login.finish(cookie, query)
    assert held.principal.jkt == house.login._dpop.public.thumbprint
    assert held.principal.expires <= house.clock.now + 3600


def test_the_command_makes_the_dashboards_key(tmp_path: Path) -> None:
    config = {
        "server": {"federation": "heart", "tls_cert": "x", "tls_key": "y"},
        "oauth": {"issuer": ISSUER, "audience": AUDIENCE},
        "dashboard": {"client_id": "moonflower-dashboard", "key": "dashboard.key"},
    }
    (tmp_path / "server.toml").write_text(tomli_w.dumps(config))
    said = CliRunner().invoke(command(), ["keys", "new", str(tmp_path / "server.toml")])
    assert said.exit_code == 0, said.output
    assert (tmp_path / "dashboard.key").stat().st_mode & 0o077 == 0
    public = json.loads(said.stdout.partition("moonflower-dashboard: ")[2])
    assert "d" not in public
    shown = CliRunner().invoke(command(), ["keys", "show", str(tmp_path / "server.toml")])
    assert json.dumps(public) in shown.stdout
    del config["dashboard"]["key"]
    (tmp_path / "server.toml").write_text(tomli_w.dumps(config))
    with pytest.raises(InputError, match="names no key"):
        CliRunner().invoke(command(), ["keys", "show", str(tmp_path / "server.toml")], catch_exceptions=False)


# The embedded issuer's half


def test_the_issuer_asks_who_it_is_and_takes_no_wrong_answer(house: House) -> None:
    url = house.asked(house.browser())
    wrong = house.answered(url, "Anna", "x")
    assert (wrong.status_code, "Name and pass phrase do not match" in wrong.text) == (401, True)
    assert "form-action 'self' https://fl.example.org:8443" in wrong.headers["content-security-policy"]
    assert "<script" not in wrong.text
    nobody = house.answered(url, "<b>Eve</b>", house.phrases["Anna"])
    assert (nobody.status_code, "Eve" in nobody.text) == (401, False)
    for _ in range(people.TRIES_A_MINUTE):
        last = house.answered(url, "Anna", "x")
    assert last.status_code == 429
    assert house.answered(url, "Anna").status_code == 429, "the right one waits, too"


@pytest.mark.parametrize(
    "change",
    [
        {"redirect_uri": "https://evil.example.org/ui/callback"},
        {"redirect_uri": f"{SERVER}/ui/callback/../x"},
        {"redirect_uri": None},
        {"client_id": "eve"},
        {"response_type": "token"},
        {"scope": "fl:train fl:everything"},
        {"scope": None},
        {"resource": "https://other.example.org"},
        {"code_challenge": None},
        {"code_challenge_method": "plain"},
        {"code_challenge_method": None},
        {"code_challenge": "short"},
    ],
)
def test_the_issuer_shows_no_form_for_a_request_with_one_fault(house: House, change: dict[str, Any]) -> None:
    url = urlsplit(house.asked(house.browser()))
    query = {name: value[0] for name, value in parse_qs(url.query).items()} | change
    kept = {name: value for name, value in query.items() if value is not None}
    with httpx.Client(transport=house.bridge) as http:
        reply = http.get(f"{ISSUER}/authorize?{urlencode(kept)}")
        assert (reply.status_code, "<form" in reply.text) == (400, False)
        again = http.post(
            f"{ISSUER}/authorize?{urlencode(kept)}", data={"name": "Anna", "passphrase": house.phrases["Anna"]}
        )
        assert again.status_code == 400
        assert "location" not in again.headers


def test_a_person_gets_of_what_is_asked_for_what_it_may_have(house: House) -> None:
    assert house.logged_in("Olga").get("/ui/session").json()["scopes"] == ["fl:run"]
    nothing = house.answered(house.asked(house.browser()), "Nils")
    assert (nothing.status_code, "may have none of the scopes" in nothing.text) == (403, True)


def test_a_client_of_people_gets_nothing_in_its_own_name(house: House) -> None:
    status, reply = house.login._ask(f"{ISSUER}/token", {"grant_type": "client_credentials", "scope": "fl:audit"})
    assert (status, reply["error"]) == (400, "unauthorized_client")


def test_a_code_without_its_verifier_is_worth_nothing_and_is_used_up(house: House) -> None:
    cookie, url = house.login.begin()
    back = house.answered(url, "Anna").headers["location"]
    query = {name: value[0] for name, value in parse_qs(urlsplit(back).query).items()}
    form = {"grant_type": "authorization_code", "code": query["code"], "redirect_uri": f"{SERVER}/ui/callback"}
    assert house.login._ask(f"{ISSUER}/token", form)[1]["error"] == "invalid_request"
    with pytest.raises(Refused, match="no token"):
        house.login.finish(cookie, query)


def test_pass_phrases_are_new_and_nobody_elses_to_read(house: House, tmp_path: Path) -> None:
    file = tmp_path / "issuer" / people.FILE
    assert file.stat().st_mode & 0o077 == 0
    assert all(re.fullmatch(r"([a-z2-9]{5}-){3}[a-z2-9]{5}", one) for one in house.phrases.values())
    config = IssuerConfig.model_validate(
        {
            "issuer": {"state": tmp_path / "issuer", "audience": AUDIENCE},
            "person": [{"name": "Anna", "scopes": ["fl:audit"]}],
        }
    )
    embedded.application(config, ISSUER)
    assert json.loads(file.read_text())["Anna"] != house.phrases["Anna"]


# Sessions


def held(expires: float, refresh: str = "") -> OpenSession:
    return OpenSession(Principal(ISSUER, "dashboard", frozenset({"fl:audit"}), None, expires), "Anna", refresh)


def test_a_session_ends_by_its_token_by_idleness_and_by_age() -> None:
    clock = Clock(0.0)
    sessions = Sessions(100, 250, clock)
    by_token, idle = sessions.begin(held(50)), sessions.begin(held(1000))
    clock.now = 50
    assert sessions.find(by_token) is None
    assert sessions.find(idle, use=False) is not None, "a look is no use"
    clock.now = 100
    assert sessions.find(idle) is None
    old = sessions.begin(held(1000))
    for clock.now in (190, 280, 349):
        assert sessions.find(old) is not None
    clock.now = 350
    assert sessions.find(old) is None


def test_a_session_that_can_be_renewed_waits_for_it_and_is_no_good_before() -> None:
    clock = Clock(0.0)
    sessions = Sessions(100, 250, clock)
    cookie = sessions.begin(held(50, "refresh"))
    clock.now = 60
    found = sessions.find(cookie)
    assert found is not None
    assert not sessions.is_good(found)
    sessions.renew(cookie, held(110, "refresh"))
    found = sessions.find(cookie)
    assert found is not None
    assert sessions.is_good(found)
    clock.now = 250
    assert sessions.find(cookie) is None, "but no longer than any session"


def test_there_are_never_more_than_so_many_sessions() -> None:
    sessions = Sessions(100, 250, Clock(0.0))
    first = sessions.begin(held(50))
    second = sessions.begin(held(50))
    sessions.find(first)
    for _ in range(MAX_SESSIONS - 1):
        sessions.begin(held(50))
    assert sessions.find(second) is None, "the one that was used longest ago"
    assert sessions.find(first) is not None


def test_a_session_lives_no_longer_than_its_token(house: House) -> None:
    browser = house.logged_in("Anna")
    house.clock.now += 1700
    assert browser.get("/ui/api/overview").status_code == 200
    house.clock.now += 1700
    assert browser.get("/ui/api/overview").status_code == 200
    house.clock.now += 201
    assert code_of(browser.get("/ui/api/overview")) == (401, "session.none")


def test_a_session_is_renewed_where_the_issuer_lets_it(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    browser = house.logged_in("Anna")
    cookie = browser.cookies[COOKIE]
    session = house.sessions.find(cookie)
    assert session is not None
    house.sessions.renew(cookie, replace(session.held, refresh="again"))
    asked = []

    def renewed(refresh: str) -> OpenSession:
        asked.append(refresh)
        principal = replace(session.held.principal, expires=house.clock.now + 300, scopes=frozenset({"fl:audit"}))
        return OpenSession(principal, "Anna", "once more")

    monkeypatch.setattr(house.login, "renew", renewed)
    assert browser.get("/ui/api/overview").status_code == 200
    for _ in range(3):
        house.clock.now += 1000
        assert browser.get("/ui/api/overview").status_code == 200
    house.clock.now += 600
    assert browser.get("/ui/api/overview").status_code == 200
    assert asked == ["again"]
    assert browser.get("/ui/session").json()["scopes"] == ["fl:audit"], "by what the new token grants"

    def over(refresh: str) -> OpenSession:
        raise Refused("session.login", "the issuer gives no token: 400 invalid_grant")

    monkeypatch.setattr(house.login, "renew", over)
    house.clock.now += 301
    assert code_of(browser.get("/ui/api/overview")) == (401, "session.none")
    assert house.sessions.find(cookie) is None


def test_logging_out_ends_the_session_for_whoever_has_the_cookie(house: House) -> None:
    browser = house.logged_in("Anna")
    cookie = browser.cookies[COOKIE]
    assert browser.post("/ui/logout").status_code == 403, "not from a page of ours"
    assert browser.post("/ui/logout", headers=OWN).status_code == 200
    stolen = house.browser()
    stolen.cookies.set(COOKIE, cookie)
    assert code_of(stolen.get("/ui/api/models")) == (401, "session.none")


# What a page may do


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"origin": SERVER},
        {"x-moonflower": "1"},
        {**OWN, "origin": "https://evil.example.org"},
        {**OWN, "origin": "null"},
        {**OWN, "sec-fetch-site": "cross-site"},
        {**OWN, "sec-fetch-site": "same-site"},
        {**OWN, "x-moonflower": "2"},
    ],
)
def test_a_page_of_somebody_elses_changes_nothing(house: House, headers: dict[str, str]) -> None:
    browser = house.logged_in("Anna")
    sha = house.shelf.sha(3)
    body = signed("approve", sha).as_dict()
    assert code_of(browser.post(f"/ui/api/models/{sha}/decisions", json=body, headers=headers)) == (
        403,
        "session.origin",
    )
    assert not house.shelf.events("approved")
    assert browser.post(f"/ui/api/models/{sha}/decisions", json=body, headers=OWN).status_code == 201
    assert house.shelf.events("approved")


@pytest.mark.parametrize(
    ("person_", "method", "path", "status"),
    [
        ("Anna", "GET", "overview", 200),
        ("Anna", "GET", "rounds", 200),
        ("Anna", "GET", "log", 200),
        ("Anna", "POST", f"runs/{RUN}/stop", 403),
        ("Nora", "GET", "overview", 200),
        ("Nora", "GET", "models", 200),
        ("Nora", "GET", "log", 403),
        ("Nora", "GET", "log/0/proof", 403),
        ("Nora", "GET", "members", 403),
        ("Nora", "GET", "rounds", 403),
        ("Olga", "GET", "members", 200),
        ("Olga", "POST", f"runs/{RUN}/stop", 202),
        ("Olga", "POST", "models/1/decisions", 403),
        ("Anna", "POST", "models/1/decisions", 400),
        ("Olga", "GET", "nothing", 404),
        ("Olga", "POST", "overview", 404),
        ("Olga", "GET", "log/1/proof/x", 404),
    ],
)
def test_scopes_decide_what_a_session_may_do(house: House, person_: str, method: str, path: str, status: int) -> None:
    reply = house.logged_in(person_).request(method, f"/ui/api/{path}", headers=OWN, json={})
    assert reply.status_code == status, reply.text
    if status == 403:
        assert reply.json()["code"] == "session.scope"


def test_without_a_session_there_is_only_the_frame(house: House) -> None:
    browser = house.browser()
    assert browser.get("/").headers["location"] == "/ui/"
    page = browser.get("/ui/")
    assert page.status_code == 200
    assert FEDERATION not in page.text, "the page says nothing before somebody is logged in"
    for path in ("/ui/api/overview", "/ui/api/nothing", "/ui/events"):
        assert code_of(browser.get(path)) == (401, "session.none"), path
    assert browser.get("/ui/session").json() is None


def test_every_reply_forbids_what_a_page_does_not_need(house: House) -> None:
    browser = house.logged_in("Anna")
    pages = [
        "/ui/",
        "/ui/session",
        "/ui/api/models",
        "/ui/api/nothing",
        "/ui/login",
        "/",
        "/ui/what",
        "/ui/static/app.js",
    ]
    for path in pages:
        headers = browser.get(path).headers
        policy = dict(part.strip().split(" ", 1) for part in headers["content-security-policy"].split(";"))
        assert policy["default-src"] == policy["base-uri"] == policy["frame-ancestors"] == "'none'"
        assert policy["script-src"] == policy["style-src"] == policy["connect-src"] == "'self'"
        assert policy["require-trusted-types-for"] == "'script'"
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["referrer-policy"] == "no-referrer"
        assert headers["cross-origin-opener-policy"] == "same-origin"
        assert headers["cache-control"] == ("no-cache" if path in ("/ui/", "/ui/static/app.js") else "no-store"), path
        assert len(headers.get_list("content-security-policy")) == 1


def test_the_pages_are_our_files_and_need_nothing_else(house: House) -> None:
    browser = house.browser()
    for file in STATIC.iterdir():
        text = file.read_text()
        reply = browser.get(f"/ui/static/{file.name}")
        assert reply.text == text
        again = browser.get(f"/ui/static/{file.name}", headers={"if-none-match": reply.headers["etag"]})
        assert again.status_code == 304
        foreign = set(re.findall(r"https?://[^\s\"'`)]+", text)) - {"http://www.w3.org/2000/svg"}
        assert not foreign, file.name
        for word in (
            "innerHTML",
            "outerHTML",
            "insertAdjacentHTML",
            "document.write",
            "eval(",
            "new Function",
            ".style",
        ):
            assert word not in text, f"{file.name}: {word}"
    index = (STATIC / "index.html").read_text()
    assert not re.search(r"<script(?![^>]*src=)|<style|\sstyle=|\son\w+=", index)
    for name in ("../routes.py", "..%2froutes.py", "app.py", "", "nothing.js"):
        assert browser.get(f"/ui/static/{name}").status_code == 404


# Behind the gateway


def test_the_gateway_shows_the_pages_without_a_token_and_only_where_there_are_any(house: House, tmp_path: Path) -> None:
    door = Door(tmp_path / "door")
    for path in ("/", "/ui/", "/ui/session"):
        assert run(door.ask("GET", path)).verdict == (404, "http.not_found")
    door.app._dashboard = house.app
    assert run(door.ask("GET", "/ui/")).status == 200
    assert run(door.ask("GET", "/ui/session")).status == 200
    assert run(door.ask("GET", "/uix")).status == 404
    assert run(door.ask("POST", "/ui/logout", body=b"x" * (64 << 10) + b"x")).verdict == (413, "http.body_too_large")
    assert run(door.ask("GET", "/api/models", headers=[(b"cookie", b"__Host-moonflower=x")])).verdict == (
        401,
        "auth.no_token",
    ), "the API knows no cookies"
    door.state.close()


# What pages are told


def test_pages_are_told_of_changes_and_the_records_are_read_once_for_all(house: House) -> None:
    looks = []
    views = house.api.views
    real = views.overview

    def overview() -> dict[str, Any]:
        looks.append(1)
        return real()

    views.overview = overview  # type: ignore[method-assign]

    async def told() -> list[list[bytes]]:
        streams = [await house.app.events.stream(who, lambda: "live") for who in "ab"]
        heard: list[list[bytes]] = [[], []]

        async def listen(stream: Any, into: list[bytes]) -> None:
            async for one in stream:
                into.append(one)

        tasks = [asyncio.create_task(listen(stream, into)) for stream, into in zip(streams, heard, strict=True)]
        await asyncio.sleep(0.6)
        await asyncio.to_thread(house.shelf.decide, "approve", 3, "anna")
        await asyncio.sleep(0.8)
        house.app.events.close()
        await asyncio.gather(*tasks)
        return heard

    events.ALIVE_S, before = 0.2, events.ALIVE_S
    try:
        first, second = asyncio.run(told())
    finally:
        events.ALIVE_S = before
    assert first[-2:] == second[-2:] or first == second
    overviews = [json.loads(one.split(b"data: ")[1]) for one in first if one.startswith(b"event: overview")]
    assert [one["waiting"]["approvals"] for one in overviews] == [0, 1]
    assert len(looks) == 2
    assert not house.app.events._listening


def test_a_stream_ends_with_its_session_and_there_are_not_too_many(house: House) -> None:
    async def ends(state: events.State) -> list[bytes]:
        stream = await house.app.events.stream("a", lambda: state)
        return [one async for one in stream]

    async def many() -> int:
        streams = [await house.app.events.stream("a", lambda: "live") for _ in range(events.MAX_STREAMS_EACH)]
        with pytest.raises(Full):
            await house.app.events.stream("a", lambda: "live")
        return len(streams)

    over, stale = asyncio.run(ends("over")), asyncio.run(ends("stale"))
    assert over[-1].startswith(b"event: end")
    assert stale[-1].startswith(b":"), "the page comes again, and its session is renewed"
    assert not [one for one in (*over, *stale) if one.startswith(b"event: overview")], "and hears nothing before"
    assert asyncio.run(many()) == events.MAX_STREAMS_EACH


# The log, from its routes


def test_an_entry_can_be_proved_to_be_in_the_log(house: House) -> None:
    browser = house.logged_in("Anna")
    house.shelf.release(2)
    size = house.state.log.checkpoint().size  # type: ignore[union-attr]
    for index in (0, size - 1):
        shown = browser.get(f"/ui/api/log/{index}/proof").json()
        checkpoint = open_checkpoint(shown["checkpoint"], house.state.log.verifier)
        path = [bytes.fromhex(one) for one in shown["proof"]]
        leaf = merkle.leaf_hash(shown["entry"].encode())
        merkle.verify_inclusion(leaf, index, checkpoint.size, path, checkpoint.root)
        assert json.loads(shown["entry"])["index"] == index
        assert shown["key"] == house.state.log.verifier.text()
    assert code_of(browser.get(f"/ui/api/log/{size}/proof")) == (404, "config.index")
    grown = browser.get("/ui/api/log/checkpoint?since=2").json()
    old, new = house.state.log.at(2), open_checkpoint(grown["checkpoint"], house.state.log.verifier)
    merkle.verify_consistency(2, new.size, [bytes.fromhex(one) for one in grown["proof"]], old.root, new.root)
    for wrong in (str(size + 1), "-1", "x", "9" * 30):
        assert browser.get(f"/ui/api/log/checkpoint?since={wrong}").status_code == 404


def test_the_log_is_shown_newest_first_in_pages_and_by_what_it_is_about(house: House) -> None:
    browser = house.logged_in("Anna")
    house.shelf.release(2)

    def page(query: str = "") -> list[dict[str, Any]]:
        return list(browser.get(f"/ui/api/log?{query}").json()["entries"])

    everything = page()
    assert [one["index"] for one in everything] == sorted((one["index"] for one in house.shelf.log), reverse=True)
    assert [one["index"] for one in page("limit=2")] == [one["index"] for one in everything[:2]]
    assert page(f"before={everything[1]['index']}&limit=1") == everything[2:3]
    assert {one["event"] for one in page("event=approved")} == {"approved"}
    assert {one["member"] for one in page("member=bert")} == {"bert"}
    assert page("event=nothing") == []
    assert browser.get("/ui/api/log?limit=x").status_code == 400


def test_every_route_stands_in_the_protocol() -> None:
    text = (ROOT / "docs/protocol.md").read_text()
    table = text[text.index("## The way in") : text.index("Everything else is 404")]
    listed = {word.rpartition(" ")[2] for word in re.findall(r"`([^`\n]+)`", table)}
    names = {"{name}": "{version}", "{index:int}": "{index}", "{path:path}": "…", "static/{version}": "static/…"}
    for module in (api, routes):
        for path in re.findall(r'Route\("([^"]+)"', Path(str(module.__file__)).read_text()):
            for name, shown in names.items():
                path = path.replace(name, shown)
            assert path in listed


# The sentence


def running(**changes: Any) -> Scene:
    offer = {"training": {"rounds": 20, "train_timeout_s": 600}}
    row = RunRow("r", offer, changes.pop("status", "running"), changes.pop("code", ""), changes.pop("stop", False), {})
    progress = Progress("r", 7, 9, ("a", "b", "c", "d"), ("a", "b", "c"), (), "collect", 100.0)
    fields = {
        name: changes.pop(name) for name in list(changes) if name in Progress.__dataclass_fields__ and name != "rounds"
    }
    return Scene(run=row, progress=replace(progress, **fields), rounds=20, members=("a", "b", "c", "d"), **changes)


@pytest.mark.parametrize(
    ("scene", "said"),
    [
        (Scene(), "No run yet, and no member on the roster."),
        (Scene(members=("a", "b"), online=()), "No run yet. None of 2 members is connected."),
        (Scene(members=("a", "b"), online=("a",)), "No run yet. 1 of 2 members is connected; b is not."),
        (Scene(members=("a", "b"), online=("a", "b")), "No run yet. All 2 members are connected."),
        (Scene(members=("a", "b")), "No run yet. The roster has 2 members."),
        (running(), "Round 7 of 20: 3 of 4 members have sent their update; d is still training."),
        (running(sent=()), "Round 7 of 20: 4 members train, and none has sent its update yet."),
        (running(sent=("a",)), "Round 7 of 20: 1 of 4 members has sent its update."),
        (
            running(left_out=("d",)),
            "Round 7 of 20: 3 of 4 members have sent their update; d is missing, so the round is repeated.",
        ),
        (
            running(step="open"),
            "Round 7 of 20: the sum of 3 updates is being opened and judged by its members.",
        ),
        (running(step="judge"), "Round 7 of 20: the members' votes are being counted."),
        (running(step="report"), "Round 7 of 20: done; the members measure how good the model is."),
        (running(step="between"), "Round 7 of 20 is over; the next step is being prepared."),
        (running(step="enrol"), "A run of 20 rounds begins: members enrol."),
        (
            running(step="between", stop=True),
            "Round 7 of 20 is over; the next step is being prepared. A stop was requested; the run ends "
            "before the next exchange.",
        ),
        (running(status="queued"), "A run of 20 rounds was accepted and is being started. The roster has 4 members."),
        (
            running(status="done", promoted=17, waiting=Waiting(12, "approve", 1, 2, ("Hungary", "Switzerland"))),
            "No run now. The last one ended well: 17 of 20 rounds gave a better version. Version 12 waits for one more "
            "approver, from Hungary or Switzerland.",
        ),
        (
            running(status="done", promoted=17, waiting=Waiting(12, "approve", 1, 2, ("Hungary",))),
            "No run now. The last one ended well: 17 of 20 rounds gave a better version. Version 12 waits for one more "
            "approver, from Hungary.",
        ),
        (
            running(status="done", promoted=17, waiting=Waiting(12, "approve", 0, 2, ())),
            "No run now. The last one ended well: 17 of 20 rounds gave a better version. Version 12 waits for 2 "
            "approvers, but no other member has one.",
        ),
        (
            running(status="done", code="run.converged", promoted=9, released=3),
            "No run now. The last one converged, with nothing more to gain: 9 of 20 rounds gave a better version. "
            "Version 3 is released.",
        ),
        (
            running(status="policy", code="run.patience", released=3),
            "No run now. The last one was ended by its own rules (run.patience): no version was promoted. "
            "Version 3 is released.",
        ),
        (
            running(status="stopped", code="run.stopped", promoted=1),
            "No run now. The last one was stopped (run.stopped): 1 of 20 rounds gave a better version. No version is "
            "released.",
        ),
    ],
)
def test_one_sentence_says_what_is_happening(scene: Scene, said: str) -> None:
    assert sentence(scene) == said


def test_the_sentence_says_for_whom_a_run_waits() -> None:
    away = WaitedFor("anna", "r", 3, "seal", "2026-11-29T10:05:00Z", "absent", 0)
    slow = WaitedFor("bert", "r", 3, "seal", "2026-11-29T10:04:00Z", "silent", 2)
    said = sentence(replace(running(), away=(away, slow)))
    end = "It waits for anna (not connected) and bert (connected, and has not answered), since 10:04 UTC."
    assert said.endswith(end)


def test_a_round_goes_on_after_the_coordinator_was_started_again(house: House) -> None:
    """What came is there; the step is the one in which the process died, once everybody has its seat again."""
    begun = [("run_began", {}), ("seats_taken", {"members": ["anna", "bert"]}), ("round_began", {"round": 4})]
    progress, number = Progress(), 7
    for event, details in [*begun, ("envelope_accepted", {"purpose": "update"}), ("run_resumed", {})]:
        entry = {"event": event, "run": RUN, "time": "2026-11-29T10:00:00Z", "number": number, "member": "anna"}
        progress = progress.after({**entry, "details": details})
    assert (progress.step, progress.round, progress.sent) == ("enrol", 4, ("anna",))
    seats = {"event": "seats_taken", "run": RUN, "time": "2026-11-29T10:00:09Z", "details": begun[1][1]}
    assert (progress.after(seats).step, progress.after(seats).sent) == ("collect", ("anna",))


def test_progress_is_what_the_log_tells(house: House) -> None:
    log, steps = house.state.log, []
    members = ["anna", "bert"]

    def told(event: str, **about: Any) -> None:
        with house.state.store.transaction() as db:
            log.append(db, event, run=RUN, **about)
        steps.append(course.now()[1].step)

    course = Course(Follower(house.state.log))
    course.now()
    told("run_began", offer={})
    told("seats_taken", circle="", roster="", members=members, crypto={}, key="", signatures={})
    told("set_closed", number=0, purpose="statistics")
    for name in members:
        told("answered", number=0, member=name, purpose="statistics", document="")
    told("statistics_opened", number=0, members=members)
    told("round_began", number=1, round=1)
    told("envelope_accepted", number=1, member="anna", purpose="update", bytes=1)
    assert course.now()[1].sent == ("anna",)
    told("envelope_refused", number=1, member="bert", purpose="update", code="update.failed")
    assert course.now()[1].left_out == ("bert",)
    told("set_closed", number=1, purpose="update")
    told("opened", number=1)
    told("judged", number=1)
    told("promoted", number=1)
    told("set_closed", number=1, purpose="tallies")
    told("opened", number=1)
    told("tallies_opened", number=1)
    told("round_began", number=2, round=2)
    assert course.now()[1].sent == ()
    told("failed", number=2)
    told("round_began", number=3, round=2)
    told("kept", number=3)
    told("run_ended", status="done")
    said = "enrol statistics statistics statistics statistics between collect collect collect open judge judge between"
    assert " ".join(steps) == f"{said} report report between collect between collect between over"
    fresh = Course(Follower(house.state.log))
    assert fresh.now() == course.now(), "a process that starts now sees the same"


def test_the_overview_names_what_waits_for_whom(house: House) -> None:
    with house.state.store.transaction() as db:
        history.end_run(db, RUN, "done", "")
    browser = house.logged_in("Nora")
    first = browser.get("/ui/api/overview").json()
    assert first["waiting"] == {
        "version": 3,
        "step": "approve",
        "approvals": 0,
        "required": 2,
        "open_to": ["anna", "bert", "cleo"],
    }
    house.shelf.decide("approve", 2, "anna")
    second = browser.get("/ui/api/overview").json()
    assert (second["waiting"]["version"], second["waiting"]["open_to"]) == (2, ["bert", "cleo"]), "what was begun"
    assert "Version 2 waits for one more approver, from bert or cleo." in second["sentence"]
    house.shelf.decide("approve", 2, "cleo")
    third = browser.get("/ui/api/overview").json()
    assert (third["released"], third["waiting"]["version"]) == (2, 3)
    assert second["index"] < third["index"]


# What the browser computes


def in_node(program: str, value: Any) -> Any:
    """Run a module with the pages' own modules at hand; ``value`` is there as ``input``, ``done(x)`` gives x back."""
    node = shutil.which("node")
    if node is None:
        pytest.skip("node is not installed; it runs the pages' modules in this test")
    head = (
        f"import * as approval from {json.dumps((STATIC / 'approval.js').as_uri())};"
        f"import * as witness from {json.dumps((STATIC / 'witness.js').as_uri())};"
        "import {readFileSync} from 'node:fs';const input=JSON.parse(readFileSync(0,'utf8'));"
        "const done=(x)=>console.log(JSON.stringify(x));const store=new Map();"
        "globalThis.localStorage={getItem:(k)=>store.get(k)??null,setItem:(k,v)=>store.set(k,v)};"
        "const u=(w)=>Uint8Array.from(w.match(/../g),(p)=>parseInt(p,16));"
        "const root=async(c)=>witness.hex(await witness.rootOf(await witness.leafHash(c.entry),c.index,c.size,c.path));"
    )
    line = [node, "--no-warnings", "--experimental-default-type=module", "--input-type=module", "-e", head + program]
    made = subprocess.run(line, input=json.dumps(value), capture_output=True, text=True, timeout=PATIENCE_S)
    assert made.returncode == 0, made.stderr
    return json.loads(made.stdout)


ODD = [
    "",
    "x",
    'a "quoted" \\ one',
    "Zürich",
    "病院",
    "🌙 moon",
    "a/b",
    "\u2028",
    "tab\there",
    "é",
    "\u007f",
    "<b>&amp;",
]


def test_the_browser_makes_the_bytes_that_python_makes() -> None:
    cases = [
        Decision(name, "approve", "a" * 64, after, name, "board", reason)
        for name, reason, after in zip(ODD, reversed(ODD), [-1, 0, 1, 2**53 - 1] * 3, strict=True)
    ]
    texts = in_node("done(input.map(approval.decisionText))", [vars(one) for one in cases])
    assert texts == [one.encode().decode() for one in cases]


@settings(max_examples=3)
@given(st.lists(st.text(st.characters(exclude_categories=["Cs"])), min_size=40, max_size=40))
def test_and_for_any_text_at_all(texts: list[str]) -> None:
    cases = [Decision(one, "reject", "b" * 64, 3, one, one, one) for one in texts]
    made = in_node("done(input.map(approval.decisionText))", [vars(one) for one in cases])
    assert made == [one.encode().decode() for one in cases]


def test_the_browser_refuses_the_reasons_that_the_server_refuses() -> None:
    reasons = [
        "",
        "AUC fell",
        "ask anna@example.org",
        "case 1234567",
        "on 2026-11-24",
        "1.2.2026",
        " x",
        "x" * 201,
        "a\nb",
    ]
    reasons += ["a＠b", "x" * 200, "\u200bx", "12345", "1/2/26"]
    cases = [(action, reason) for reason in reasons for action in ("approve", "reject")]
    said = in_node("done(input.map(([a, r]) => approval.reasonProblem(a, r) === ''))", cases)
    assert said == [reason_problem(action, reason) == "" for action, reason in cases]


def test_what_the_browser_signs_the_server_takes(house: House) -> None:
    key = person("anna's board")
    decision = Decision(FEDERATION, "approve", house.shelf.sha(3), -1, "anna", "board", "")
    program = (
        "const key=await approval.openKey(JSON.stringify(input.jwk));let out='';"
        "try{await crypto.subtle.exportKey('jwk',key.handle)}catch(e){out=e.name}"
        "done({pin:key.pin,out,signed:await approval.sign(key,input.decision)})"
    )
    made = in_node(program, {"jwk": private_jwk(key), "decision": vars(decision)})
    assert made["pin"] == PublicKey(key.public_key()).pin
    assert made["out"].startswith("InvalidAccess"), "the key cannot be read out again"
    assert len(unb64(made["signed"]["signature"])) == 96
    reply = house.logged_in("Anna").post(
        f"/ui/api/models/{decision.sha256}/decisions", json=made["signed"], headers=OWN
    )
    assert (reply.status_code, reply.json()["missing"]) == (201, 1)


@pytest.mark.parametrize(
    "wrong", ["", "{}", "[]", '{"kty":"EC","crv":"P-256","d":"x"}', '{"kty":"EC","crv":"P-384","x":"x"}']
)
def test_the_browser_takes_no_other_file_for_a_key(wrong: str) -> None:
    said = in_node("try{await approval.openKey(input);done('')}catch(e){done(e.message)}", wrong)
    assert "This file is no" in said


def test_the_browser_checks_proofs_as_the_rfc_has_them() -> None:
    leaves = [f"entry {index}" for index in range(40)]
    tree = merkle.Tree([merkle.leaf_hash(one.encode()) for one in leaves])
    cases = [
        {
            "entry": leaves[index],
            "index": index,
            "size": size,
            "path": [one.hex() for one in tree.inclusion(index, size)],
        }
        for size in range(1, 41)
        for index in range(size)
    ]
    program = "const o=[];for(const c of input)o.push(await root(c));done(o)"
    assert in_node(program, cases) == [tree.root(case["size"]).hex() for case in cases]
    bad = []
    for case in cases[-40::7]:
        path = case["path"]
        bad += [{**case, "path": path[:-1]}, {**case, "path": [*path, path[0]]}, {**case, "index": case["size"]}]
        bad += [{**case, "entry": "other"}, {**case, "index": (case["index"] + 1) % 40}]
    program = "const o=[];for(const c of input){try{o.push(await root(c))}catch(e){o.push('')}}done(o)"
    roots = in_node(program, bad)
    assert tree.root(40).hex() not in roots


def test_the_browser_checks_that_a_log_only_grew() -> None:
    tree = merkle.Tree([merkle.leaf_hash(str(index).encode()) for index in range(33)])
    other = merkle.Tree([merkle.leaf_hash(str(index or 99).encode()) for index in range(33)])
    cases = [
        (old, new, [one.hex() for one in tree.consistency(old, new)], tree.root(old).hex(), tree.root(new).hex())
        for new in range(1, 34)
        for old in range(1, new + 1)
    ]
    program = (
        "const o=[];for(const [a,b,p,x,y] of input)"
        "{try{await witness.checkGrowth(a,b,p,u(x),u(y));o.push(true)}catch(e){o.push(false)}}done(o)"
    )
    assert all(in_node(program, cases))
    forged = [(old, new, path, other.root(old).hex(), root) for old, new, path, _, root in cases]
    forged += [(old, new, path, root, other.root(new).hex()) for old, new, path, root, _ in cases]
    forged += [(old, new, path[:-1], first, second) for old, new, path, first, second in cases if path]
    forged += [(new, old, path, first, second) for old, new, path, first, second in cases if old < new]
    assert not any(in_node(program, forged))


def test_the_browser_is_a_witness_that_finds_a_rewritten_log() -> None:
    signer, eve = Signer.generate("moonflower/heart"), Signer.generate("moonflower/heart")
    trees = {
        name: merkle.Tree([merkle.leaf_hash(f"{word}{index}".encode()) for index in range(9)])
        for name, word in (("true", "a"), ("false", "b"))
    }

    def shown(size: int, since: int, tree: str = "true", by: Signer = signer) -> dict[str, Any]:
        held = trees[tree]
        return {
            "checkpoint": sign_checkpoint(by, size, held.root(size)).note,
            "key": by.verifier.text(),
            "size": size,
            "since": since,
            "proof": [one.hex() for one in held.consistency(since, size)],
        }

    program = (
        "const o=[];for(const shown of input){try{const s=await witness.witness(async()=>shown);o.push(s.size)}"
        "catch(e){o.push((e instanceof witness.Fork?'fork: ':'')+e.message)}}done(o)"
    )
    told = in_node(program, [shown(3, 0), shown(3, 3), shown(7, 3), shown(9, 7)])
    assert told == [3, 3, 7, 9]
    first = shown(5, 0)
    for second in (shown(8, 5, "false"), shown(5, 5, "false"), shown(4, 4), shown(8, 5, by=eve)):
        begun, found = in_node(program, [first, second])
        assert (begun, found.startswith("fork: ")) == (5, True), found
    spoiled = shown(5, 0)
    spoiled["checkpoint"] = spoiled["checkpoint"].replace("\n5\n", "\n6\n")
    unsigned = {**shown(5, 0), "checkpoint": shown(5, 0, by=eve)["checkpoint"]}
    assert in_node(program, [spoiled]) == ["the checkpoint’s signature is wrong"]
    assert in_node(program, [unsigned]) == ["the checkpoint is not signed by the log’s key"]
