"""What ``moonflower doctor`` asks other machines: the issuer's metadata and keys, a token, the server, and clocks.

The token is real and is never shown. The output says only whom it is for, what it allows, whether it is bound and how
long it lives. Every question is answered within ``LIMIT_S`` or not at all.
"""

from __future__ import annotations

import ssl
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx

from ..configs.roles import LoginSettings, VerifierSettings, is_loopback
from ..errors import LoginRefused, TooSlow
from ..oauth.discovery import discover, document, endpoint, fetcher, tls
from ..oauth.jws import public_key, read
from ..oauth.login import DpopKey, TokenSource
from ..oauth.profiles import PROFILES
from .machine import Check, Status, described, not_checked, worst

LIMIT_S = 5.0
CLOCK_WARN_S = 5.0
LEEWAY_S = 30  # of a server whose config is not at hand
LIFETIME_S = 3600
SHORT_S = 60
MAX_KEYS = 64
SCOPE_CLAIMS = ("scope", "scp", "roles", "permissions")


def in_time(ask: Callable[[], Check], limit_s: float = LIMIT_S) -> Check:
    """Return what ``ask`` returns.

    It runs in a thread, which is abandoned if it does not end: no timeout of a library covers looking up names.

    Raises:
        TooSlow: it took longer.
        Exception: what ``ask`` raised.
    """
    outcome: list[Check | BaseException] = []

    def run() -> None:
        try:
            outcome.append(ask())
        except BaseException as error:  # for the caller's thread
            outcome.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(limit_s)
    if not outcome:
        raise TooSlow
    if isinstance(outcome[0], BaseException):
        raise outcome[0]
    return outcome[0]


def issuer(settings: LoginSettings | VerifierSettings) -> Check:
    """Check the issuer's metadata and keys."""
    fetch = fetcher(settings.issuer, settings.ca)
    metadata = discover(settings.issuer, fetch)
    listed = document(fetch(endpoint(metadata, "jwks_uri"))).get("keys")
    keys = listed if isinstance(listed, list) else []
    usable = [key for key in map(_usable, keys[:MAX_KEYS]) if key is not None]
    if not usable:
        return Check(
            "issuer",
            "failed",
            f"{settings.issuer} publishes no key that could sign tokens; expected one with a kid",
            "its jwks_uri",
        )
    if isinstance(settings, VerifierSettings):
        algorithms = PROFILES[settings.profile].algorithms
        if not any(key.fits(algorithm) for key in usable for algorithm in algorithms):
            problem = f"no key of {settings.issuer} is for an algorithm of the profile {settings.profile}"
            return Check("issuer", "failed", problem, "profile in [oauth]")
    else:
        endpoint(metadata, "token_endpoint")
    return Check("issuer", "ok", f"{settings.issuer} describes itself and publishes {len(usable)} usable keys")


def _usable(jwk: Any) -> Any:
    try:
        key = public_key(jwk)
    except ValueError:
        return None
    return key if key.kid is not None else None


def token(settings: LoginSettings, key: DpopKey | None, scopes: tuple[str, ...]) -> Check:
    """Get a token as the node or submitter does and check it, without showing it.

    Args:
        key: key to which the token must be bound.
        scopes: tried until the issuer gives a token; several for a submitter, who may only release models.
    """
    for number, scope in enumerate(scopes):
        source = TokenSource(settings, key, scope)
        try:
            text = source.token()
        except LoginRefused:
            if number + 1 == len(scopes):
                raise
            continue
        finally:
            source.close()
        return judged(text, settings, key, settings.scope or scope)
    raise ValueError("expected a scope")


def judged(text: str, settings: LoginSettings, key: DpopKey | None, scope: str) -> Check:
    """Check a token as far as possible without the server's config."""
    try:
        jws = read(text.encode())
    except ValueError:
        return Check(
            "token",
            "failed",
            "the issuer's token is not a JWT; expected a JWT as in RFC 9068",
            "docs/running.md, the authorization server",
        )
    claims, problems = jws.claims, list[tuple[Status, str]]()
    audiences = claims.get("aud", [])
    audiences = [audiences] if isinstance(audiences, str) else audiences
    if settings.audience is not None and settings.audience not in audiences:
        problems.append(("failed", f"the token is for {described(audiences)}; expected {settings.audience}"))
    granted = {word for name in SCOPE_CLAIMS for word in _words(claims.get(name))}
    if settings.scope is None and scope not in granted:
        problems.append(
            (
                "failed",
                f"the token does not grant {scope}; it grants {described(' '.join(sorted(granted)) or 'nothing')}",
            )
        )
    bound = claims.get("cnf")
    jkt = bound.get("jkt") if isinstance(bound, dict) else None
    if key is not None and settings.binding == "dpop" and jkt != key.jkt:
        problems.append(("failed", "the token is not bound to this key; expected cnf.jkt, its thumbprint (DPoP)"))
    life = _life(claims)
    if life is None:
        problems.append(("failed", "the token does not say when it begins and ends; expected iat and exp"))
    elif life > LIFETIME_S:
        problems.append(("warning", f"the token lives {life:.0f} s; servers accept at most {LIFETIME_S} s by default"))
    elif life < SHORT_S:
        problems.append(
            ("warning", f"the token lives {life:.0f} s; expected {SHORT_S} s or more, because clocks differ")
        )
    if not isinstance(jws.header.get("kid"), str):
        problems.append(("failed", "the token does not name the key that signed it; expected a kid"))
    words = "bound to this key" if settings.binding == "dpop" else "bound to no key (binding = none)"
    well = f"{settings.client_id} gets a token for {scope}, {words}, for {life or 0:.0f} s"
    return worst("token", problems, well, "docs/running.md, the authorization server, says what to set up there")


def _words(value: Any) -> list[str]:
    if isinstance(value, str):
        return value.split()
    return [word for word in value if isinstance(word, str)] if isinstance(value, list) else []


def _life(claims: Mapping[str, Any]) -> float | None:
    begins, ends = claims.get("iat"), claims.get("exp")
    if any(isinstance(moment, bool) or not isinstance(moment, int | float) for moment in (begins, ends)):
        return None
    return float(ends) - float(begins)  # type: ignore[arg-type]


def server(
    url: str, trust: ssl.SSLContext | bool, *, own: bool = False, path: str = "/health", name: str = "server"
) -> Check:
    """Check that a server, or the embedded issuer, answers.

    Args:
        url: its address.
        trust: how its certificate is verified.
        own: it belongs to this machine and may not have been started yet.
        path: path that it answers to anyone.
        name: what it is.
    """
    try:
        response = _get(f"{url.rstrip('/')}{path}", trust)
    except httpx.TransportError as error:
        untrusted = _untrusted(error)
        if untrusted is not None:
            problem = f"{url}: its certificate is not valid: {untrusted}"
            return Check(name, "failed", problem, "check ca, and the certificate's names and dates")
        status: Status = "warning" if own else "failed"
        hint = f"start it with moonflower {name}" if own else "address, name server, firewall, HTTPS_PROXY"
        return Check(name, status, f"{url} cannot be reached: {type(error).__name__}", hint)
    if response.status_code != 200:
        return Check(
            name, "failed", f"{url}{path} answers {response.status_code}; expected 200", f"is it moonflower's {name}?"
        )
    return Check(name, "ok", f"{url} answers over {'TLS' if url.startswith('https') else 'plain http'}")


def _untrusted(error: httpx.TransportError) -> str | None:
    """Return what is wrong with a certificate, or None if that is not the error."""
    cause: BaseException | None = error
    while cause is not None and not isinstance(cause, ssl.SSLCertVerificationError):
        cause = cause.__cause__ or cause.__context__
    return None if cause is None else described(cause.verify_message)


def trusting(ca: Path | None, *, system: bool = False) -> ssl.SSLContext | bool:
    """Return how to verify the server: by ``ca``, or by a node's list (the system's) or a submitter's (certifi's)."""
    return ssl.create_default_context() if ca is None and system else tls(ca)


def itself(certificate: Path) -> ssl.SSLContext:
    """Return a TLS context that trusts only a server's own certificate, at whatever address it is asked."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN  # the file may hold no root
    context.load_verify_locations(certificate)
    return context


@dataclass(frozen=True)
class ClockReading:
    """A machine whose clock is compared.

    Attributes:
        who: its name in messages.
        url: address of a document that costs nothing.
        trust: how its certificate is verified.
    """

    who: str
    url: str
    trust: ssl.SSLContext | bool


def clock(others: tuple[ClockReading, ...], leeway_s: float, now: Callable[[], float] = time.time) -> Check:
    """Compare this machine's clock with the Date of others' replies; what it may be off by is given the benefit.

    A Date is cut to whole seconds, servers write it anew once a second only, and it took some time to come.
    """
    problems: list[tuple[Status, str]] = []
    readings, silent = [], []
    for other in others:
        try:
            before = now()
            response = _get(other.url, other.trust)
            after = now()
            middle, blur = (before + after) / 2, (after - before) / 2 + 1.5
            ahead = middle - (parsedate_to_datetime(response.headers["date"]).timestamp() + 0.5)
        except (httpx.TransportError, KeyError, ValueError, TypeError, IndexError):
            silent.append(other.who)
            continue
        difference = f"{abs(ahead):.0f} s {'ahead of' if ahead > 0 else 'behind'} the {other.who}'s"
        readings.append(difference)
        if abs(ahead) - blur > leeway_s:
            problems.append(("failed", f"this machine's clock is {difference}; expected at most {leeway_s:.0f} s"))
        elif abs(ahead) - blur > CLOCK_WARN_S:
            problems.append(("warning", f"this machine's clock is {difference}; expected at most {CLOCK_WARN_S:.0f} s"))
    if not readings:
        return not_checked("clock", f"no time from {' and '.join(silent)}")
    well = f"this machine's clock is {', '.join(readings)}"
    return worst("clock", problems, well, "set the clock: chrony or another NTP client")


def _get(url: str, trust: ssl.SSLContext | bool) -> httpx.Response:
    """Return a reply's status and headers; its body is not read."""
    outside = not is_loopback(urlsplit(url).hostname or "")
    with (
        httpx.Client(verify=trust, timeout=LIMIT_S, trust_env=outside, follow_redirects=False) as http,
        http.stream("GET", url) as response,
    ):
        return response
