"""Fetches an issuer's metadata and other small documents, with limits and only from the issuer's own address.

Nothing here follows a redirect, reads more than 256 KiB, waits longer than a few seconds, or speaks plain http to
another machine.
"""

from __future__ import annotations

import ssl
import time
from collections.abc import Callable
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import httpx

from ..canonical import parse_json
from ..configs.roles import is_loopback
from ..errors import InputError, IssuerUnreachable, MetadataRefused

MAX_BYTES = 256 << 10
TIMEOUT_S = 5.0
SKEW_S = 30.0
WHOLE_S = 10.0  # limit for a whole document, however slowly it arrives

Fetch = Callable[[str], bytes]  # an address -> its document; raises IssuerUnreachable


class NotThere(IssuerUnreachable):
    """The issuer answered and does not have the document."""


def tls(ca: Path | None) -> ssl.SSLContext | bool:
    """Return how to verify servers: only with the private CA in ``ca``, or, for None, as httpx does.

    Raises:
        InputError: ``config.file``: the file is not a CA in PEM.
    """
    if ca is None:
        return True
    try:
        return ssl.create_default_context(cafile=str(ca))
    except OSError as error:  # ssl.SSLError is one
        raise InputError("config.file", f"ca {ca} is not a readable certificate in PEM") from error


def client(issuer: str, ca: Path | None) -> httpx.Client:
    """Return an HTTP client for the issuer. It uses proxies from the environment, except to this machine itself."""
    outside = not is_loopback(urlsplit(issuer).hostname or "")
    return httpx.Client(verify=tls(ca), timeout=TIMEOUT_S, trust_env=outside, follow_redirects=False)


def exchange(http: httpx.Client, request: httpx.Request) -> tuple[httpx.Response, bytes]:
    """Return the reply and its body.

    Raises:
        IssuerUnreachable: ``auth.issuer_unreachable``: no reply, or a reply that is too long, too slow, 5xx or 429.
    """
    request.headers["Accept-Encoding"] = "identity"  # so a limit on what is read also limits what comes out
    ends, body = time.monotonic() + WHOLE_S, bytearray()
    try:
        response = http.send(request, stream=True, follow_redirects=False)
        try:
            if "content-encoding" in response.headers:
                raise IssuerUnreachable("auth.issuer_unreachable", "the issuer's reply is compressed; expected plain")
            for piece in response.iter_bytes():
                body += piece
                if len(body) > MAX_BYTES or time.monotonic() > ends:
                    limits = f"expected at most {MAX_BYTES} bytes within {WHOLE_S:.0f} s"
                    raise IssuerUnreachable(
                        "auth.issuer_unreachable", f"the issuer's reply is too long or too slow; {limits}"
                    )
        finally:
            response.close()
    except httpx.HTTPError as error:
        kind = type(error).__name__
        raise IssuerUnreachable(
            "auth.issuer_unreachable", f"the issuer at {request.url.netloc.decode()} cannot be reached: {kind}"
        ) from error
    if response.status_code >= 500 or response.status_code == 429:
        raise IssuerUnreachable("auth.issuer_unreachable", f"the issuer answers {response.status_code}")
    return response, bytes(body)


def fetcher(issuer: str, ca: Path | None) -> Fetch:
    """Return a :data:`Fetch` that opens a connection each time, because it is called only about every ten minutes.

    Raises:
        InputError: ``config.file``: the file is not a CA in PEM.
    """
    tls(ca)  # so that a wrong path fails at the start, not at the first request

    def fetch(url: str) -> bytes:
        with client(issuer, ca) as http:
            return get(http, url)

    return fetch


def get(http: httpx.Client, url: str) -> bytes:
    """Return the document at ``url``.

    Raises:
        IssuerUnreachable: ``auth.issuer_unreachable``: no reply, or a status other than 200 (:class:`NotThere`).
    """
    response, body = exchange(http, http.build_request("GET", url, headers={"Accept": "application/json"}))
    if response.status_code != 200:
        raise NotThere("auth.issuer_unreachable", f"the issuer answers {response.status_code}; expected 200")
    return body


def discover(issuer: str, fetch: Fetch) -> dict[str, Any]:
    """Return the issuer's metadata (OpenID Connect Discovery 1.0, else RFC 8414).

    Raises:
        IssuerUnreachable: ``auth.issuer_unreachable``: neither document can be fetched.
        MetadataRefused: ``auth.issuer_metadata``: it names another issuer.
    """
    parts = urlsplit(issuer)
    path = parts.path.rstrip("/")
    openid = f"{path}/.well-known/openid-configuration"
    oauth = f"/.well-known/oauth-authorization-server{path}"
    try:
        metadata = document(fetch(urlunsplit(parts._replace(path=openid))))
    except NotThere:
        metadata = document(fetch(urlunsplit(parts._replace(path=oauth))))
    if metadata.get("issuer") != issuer:
        raise MetadataRefused(
            "auth.issuer_metadata",
            f"the metadata at {issuer!r} names another issuer",
            hint="write the issuer exactly as its metadata does, the last slash included",
        )
    return metadata


def endpoint(metadata: dict[str, Any], name: str) -> str:
    """Return an address from the metadata.

    Raises:
        MetadataRefused: ``auth.issuer_metadata``: the address is missing, or is plain http to another machine.
    """
    url = metadata.get(name)
    try:
        parts = urlsplit(url) if isinstance(url, str) else urlsplit("")
        host = parts.hostname or ""
    except ValueError:
        parts, host = urlsplit(""), ""
    safe = parts.scheme == "https" or (parts.scheme == "http" and is_loopback(host))
    if not safe or not host or parts.username is not None or parts.fragment:
        raise MetadataRefused("auth.issuer_metadata", f"the issuer's {name} is not an https address")
    return str(url)


def document(data: bytes) -> dict[str, Any]:
    """Return the JSON object in a fetched document.

    Raises:
        IssuerUnreachable: ``auth.issuer_unreachable``: it is not a JSON object but, for example, a proxy's page.
    """
    try:
        value = parse_json(data)
    except ValueError:
        value = None
    if not isinstance(value, dict):
        raise IssuerUnreachable("auth.issuer_unreachable", "the issuer's reply is not a JSON object")
    return value


def skew(response: httpx.Response, now: float) -> str:
    """Return a phrase about this machine's clock if a reply shows that it is off by more than 30 s, or ""."""
    try:
        theirs = parsedate_to_datetime(response.headers["date"]).timestamp()
    except (KeyError, ValueError, TypeError, IndexError):
        return ""
    ahead = now - theirs
    if abs(ahead) <= SKEW_S:
        return ""
    return f"; this machine's clock is {abs(ahead):.0f} s {'ahead of' if ahead > 0 else 'behind'} the server's"
