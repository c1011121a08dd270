"""The desk's view of a server that is away for a while: following a run goes on, and ends when it takes too long."""

from __future__ import annotations

from collections.abc import Callable

import httpx
import pytest
from moonflower.errors import Refused
from moonflower.federation import remote as module
from moonflower.federation.remote import Remote
from moonflower.oauth.api_client import ApiClient

Answer = Callable[[httpx.Request], httpx.Response]
ENTRIES = [{"index": 0, "event": "run_began"}, {"index": 1, "event": "run_ended"}]


def gone(request: httpx.Request) -> httpx.Response:
    raise httpx.ConnectError("nobody there", request=request)


def says(status: int, code: str = "", detail: str = "later") -> Answer:
    return lambda _: httpx.Response(status, json={"code": code, "detail": detail})


def log(first: int) -> Answer:
    return lambda _: httpx.Response(200, json={"entries": ENTRIES[first : first + 1]})


def desk(*answers: Answer) -> Remote:
    """A desk whose server answers like this, and with the last answer for ever."""
    left = list(answers)
    made = Remote.__new__(Remote)
    transport = httpx.MockTransport(lambda request: (left.pop(0) if len(left) > 1 else left[0])(request))
    made._api = ApiClient("https://fl.example.org", None, None)
    made._api._http.close()
    made._api._http = httpx.Client(base_url="https://fl.example.org", transport=transport)
    return made


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "POLL_S", 0.01)


def test_a_server_may_be_away_or_busy_while_a_run_is_followed() -> None:
    away = [gone, says(503, "http.unavailable"), says(502), says(429, "auth.throttled")]
    assert list(desk(log(0), *away, log(1)).follow("r")) == ENTRIES


@pytest.mark.parametrize(
    ("answer", "code"),
    [(gone, "run.unreachable"), (says(503), "run.unreachable"), (says(429, "auth.throttled"), "auth.throttled")],
)
def test_but_not_for_ever(answer: Answer, code: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PATIENCE_S", 0.05)
    with pytest.raises(Refused) as refusal:
        list(desk(log(0), answer).follow("r"))
    assert refusal.value.code == code


@pytest.mark.parametrize(("status", "code"), [(401, "auth.client_revoked"), (403, "auth.scope")])
def test_a_refusal_ends_it_at_once(status: int, code: str) -> None:
    followed = desk(says(status, code), log(0)).follow("r")
    with pytest.raises(Refused) as refusal:
        next(followed)
    assert refusal.value.code == code
