"""Settings of the separate processes: server, client, operator, and the embedded issuer.

Each has one TOML file beside its own keys; relative paths in the file are relative to its folder. Problems raise
:class:`~moonflower.errors.InputError`, as in ``settings.py``.
"""

from __future__ import annotations

import ipaddress
import re
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field, model_validator

from .names import Name
from .settings import File, FloorSettings, OwnDataSettings, SimulateSettings, parse
from .strict import Strings, Table
from .toml import read_toml

C = TypeVar("C", bound="Config")
T = TypeVar("T", bound=Table)
Binding = Literal["dpop", "none"]
Profile = Literal["rfc9068", "keycloak", "entra", "auth0", "okta"]
LogFormat = Literal["console", "json"]


def is_loopback(host: str) -> bool:
    """Return whether a host is this machine and cannot be reached from another machine.

    >>> is_loopback("127.0.0.1"), is_loopback("::1"), is_loopback("0.0.0.0"), is_loopback("localhost")
    (True, True, False, True)
    """
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host == "localhost"


def own_address(host: str) -> str:
    """Return an address of this machine at which a server that listens on ``host`` is reached.

    >>> own_address("0.0.0.0"), own_address("[::]"), own_address("192.0.2.1")
    ('127.0.0.1', '::1', '192.0.2.1')
    """
    plain = host.strip("[]")
    try:
        address = ipaddress.ip_address(plain)
    except ValueError:
        return plain
    return {4: "127.0.0.1", 6: "::1"}[address.version] if address.is_unspecified else plain


def _url(text: str) -> str:
    parts = urlsplit(text)
    if parts.scheme not in ("https", "http") or not parts.hostname or parts.query or parts.fragment or parts.username:
        raise ValueError("expected an address such as https://fl.example.org:8443")
    if parts.scheme == "http" and not is_loopback(parts.hostname):
        raise ValueError("expected https; plain http is allowed only to this machine itself")
    return text


def _listen(text: str) -> str:
    host, colon, port = text.rpartition(":")
    if not (colon and host and port.isascii() and port.isdigit() and int(port) < 65536):
        raise ValueError('expected HOST:PORT, such as "0.0.0.0:8443"')
    return text


Url = Annotated[str, AfterValidator(_url)]
Listen = Annotated[str, AfterValidator(_listen)]
Pin = Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]{43}$", title="a pin of 43 characters (moonflower member card)")]
ClientId = Annotated[str, Field(min_length=1, max_length=256)]


class ApproverSettings(Table):
    """``[[approver]]`` of a client: a person who may release a model on behalf of this member."""

    name: Name = Field(description="a role rather than a person's name: all members see it")
    key: str = Field(max_length=1024, description="public key as JWK (moonflower keys approver)")


class Config(Table):
    """A whole file."""


class MemberSettings(Table):
    """``[[member]]`` of the server: a member that may connect."""

    name: Name = Field(description="member's name")
    client_id: ClientId = Field(description="OAuth client of its node")
    pin: Pin = Field(description="RFC 7638 thumbprint of its node key")


class ServerSettings(Table):
    """``[server]``."""

    listen: Listen = Field("0.0.0.0:8443", description="HOST:PORT that members reach")
    url: Url | None = Field(None, description="address that members use, if it is not https://LISTEN")
    state: File = Field(Path("state"), description="folder of log, registry, models")
    tls_cert: File = Field(description="certificate chain (PEM)")
    tls_key: File = Field(description="its private key (PEM)")
    federation: Name = Field(description="name of the federation; a run for another is refused")
    away_after_s: float = Field(
        60, gt=0, le=86400, description="a member that a run waits for longer is named in log, pages and metrics"
    )
    restarts: int = Field(5, ge=0, le=100, description="how often in a row a run without progress is started again")
    keep_envelopes_h: int = Field(0, ge=0, le=24 * 30, description="hours to keep updates' envelopes; 0 keeps none")
    max_body_mb: int = Field(16, ge=1, le=1024, description="largest request; Flower cuts messages into 5 MB")
    head_timeout_s: float = Field(5, gt=0, le=60, description="time for a request's head to arrive")
    body_timeout_s: float = Field(30, gt=0, le=600, description="time for a request's body to arrive")
    connections_per_address: int = Field(200, ge=1, le=100_000, description="most open connections of one address")
    refusals_per_minute: int = Field(60, ge=1, le=100_000, description="most refused tokens of one address; then 429")
    feed: str = Field(
        "", description="security events as JSON lines: a file, syslog:/dev/log or syslog:HOST:PORT (UDP); empty = none"
    )
    pseudonym_key: File | None = Field(
        None, description="secret (0600, 32 bytes or more) under which the log calls people by pseudonyms"
    )
    min_approvals: int = Field(1, ge=0, le=64, description="a run that asks for fewer approvals is refused")
    log_format: LogFormat = Field(
        "console", description='format of its own log: "console" for people, "json" for machines'
    )
    metrics: Listen | None = Field(
        None, description="HOST:PORT of GET /metrics for Prometheus; if not set, there are no metrics"
    )
    metrics_token_file: File | None = Field(
        None, description="file (0600) with the bearer token that /metrics requires"
    )

    @model_validator(mode="after")
    def _metrics(self) -> ServerSettings:
        if self.metrics is None:
            if self.metrics_token_file is not None:
                raise ValueError("metrics_token_file is set, but metrics is not; expected metrics = HOST:PORT, too")
        elif self.metrics_token_file is None and not is_loopback(self.metrics.rpartition(":")[0]):
            raise ValueError(
                f"metrics: {self.metrics!r} can be reached from other machines; expected 127.0.0.1:PORT, or "
                "metrics_token_file, too"
            )
        return self


Algorithm = Literal[
    "ES256", "ES384", "ES512", "RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "EdDSA", "Ed25519"
]  # fmt: skip


class VerifierSettings(Table):
    """``[oauth]`` of the server: which tokens it accepts."""

    issuer: Url = Field(description="issuer; its keys are found by discovery")
    audience: str = Field(min_length=1, description="audience that a token must name")
    profile: Profile = Field("rfc9068", description="shape of the issuer's tokens")
    binding: Binding = Field("dpop", description='"none" accepts tokens that anyone who holds them can use')
    ca: File | None = Field(None, description="private CA of the issuer (PEM)")
    leeway_s: int = Field(30, ge=0, le=300, description="most that clocks may differ")
    max_lifetime_s: int = Field(
        0, ge=0, le=86400, description="a token that lives longer is refused; 0 = as long as the profile's usually live"
    )
    types: Strings = Field((), description='typ headers of access tokens, in place of the profile\'s; "" = no typ')
    client_claims: Strings = Field((), description="claims that name the client, in place of the profile's")
    scope_claims: Strings = Field((), description="claims that hold scopes, in place of the profile's")
    algorithms: Annotated[tuple[Algorithm, ...], Field(strict=False)] = Field(
        (), description="of signatures, in place of the profile's"
    )
    jwks_ttl_s: float = Field(600, gt=0, le=86400, description="the issuer's keys are read again after this time")
    jwks_cooldown_s: float = Field(
        30, gt=0, le=3600, description="shortest time between reads because of an unknown key"
    )
    nonces: bool = Field(True, description="require a nonce from the server in every DPoP proof")


class DashboardSettings(Table):
    """``[dashboard]`` of the server: pages for people under ``/ui/``. Without this table there are no pages."""

    client_id: ClientId = Field(description="OAuth client with which people log in (authorization code, PKCE)")
    key: File | None = Field(None, description="its private JWK (0600); without it, it is a public client")
    scope: str = Field("fl:run fl:approve fl:audit", min_length=1, description="scopes that a login asks for")
    assertion_audience: Literal["issuer", "token_endpoint"] = Field(
        "issuer", description="audience that the client's assertion names (Entra, Okta: token_endpoint)"
    )
    audience_parameter: Literal["resource", "audience", "none"] = Field(
        "resource", description="how a login names [oauth] audience (Auth0: audience; Entra: none)"
    )
    idle_s: int = Field(1800, ge=60, le=86400, description="an unused session ends after this time")
    longest_s: int = Field(28800, ge=60, le=86400, description="any session ends after this time")


class ServerConfig(Config):
    """server.toml."""

    server: ServerSettings
    oauth: VerifierSettings
    dashboard: DashboardSettings | None = None
    member: tuple[MemberSettings, ...] = Field((), strict=False)

    @model_validator(mode="after")
    def _members(self) -> ServerConfig:
        _distinct([member.name for member in self.member], "[[member]] name")
        _distinct([member.pin for member in self.member], "[[member]] pin")
        _distinct([member.client_id for member in self.member], "[[member]] client_id")
        return self


class LoginSettings(Table):
    """``[oauth]`` of a client or an operator config: how to get a token (client credentials, private_key_jwt)."""

    issuer: Url = Field(description="issuer; its token endpoint is found by discovery")
    client_id: ClientId = Field(description="OAuth client of this node or submitter")
    key: File = Field(description="private JWK of the OAuth client (moonflower keys)")
    audience: str | None = Field(None, description="resource to ask a token for (RFC 8707), if the issuer wants it")
    audience_parameter: Literal["resource", "audience"] = Field(
        "resource", description="parameter that names the audience (Auth0: audience)"
    )
    scope: str | None = Field(None, description="scope to ask for instead of ours (Entra: api://…/.default)")
    assertion_audience: Literal["issuer", "token_endpoint"] = Field(
        "issuer", description="audience that the client's assertion names"
    )
    binding: Binding = Field("dpop", description='"none": tokens without DPoP')
    ca: File | None = Field(None, description="private CA of the issuer (PEM)")


class NodeSettings(FloorSettings):
    """``[client]``: the node, and its floor (rule 9)."""

    member: Name = Field(description="this member's name")
    server: Url = Field(description="the coordinator's address")
    ca: File | None = Field(None, description="private CA of the coordinator (PEM)")
    state: File = Field(Path("state"), description="folder of keys (0600), ledger and own log")
    log_format: LogFormat = Field(
        "console", description='format of its own log: "console" for people, "json" for machines'
    )
    device: str = Field(
        "auto",
        pattern=r"^[a-z]+(:[0-9]{1,3})?$",
        description="where it computes: auto, cpu, cuda, cuda:1 and so on, or mps",
    )
    isolate: bool = Field(True, description="take the network away from the process that holds the data")
    poll_s: float = Field(0.2, gt=0, le=60, description="time between two looks for work while there is work")
    idle_poll_s: float = Field(
        2.0, gt=0, le=600, description="longest time between two looks; without work it grows to this"
    )


def _signs(text: str) -> str:
    if text not in ("ask", "same-names") and not re.fullmatch(r"sha256:[0-9a-f]{64}", text):
        raise ValueError('expected "ask", "same-names", or the digest of one circle as "sha256:" and 64 hex digits')
    return text


class CircleSettings(Table):
    """``[circle]`` of a node: which circles it signs by itself, and its floor (rule 9). What has no line is refused."""

    sign: Annotated[str, AfterValidator(_signs)] = Field(
        "ask", description='signs by itself: "sha256:…" this circle, "same-names" any with the same members, "ask" none'
    )
    min_members: int | None = Field(
        None, ge=2, le=1024, description="smallest circle that it takes part in; of two, each reads the other's update"
    )
    runs_a_day: int | None = Field(None, ge=1, le=100_000, description="most runs that begin here within 24 hours")
    max_envelope_mb: float | None = Field(
        None, gt=0, le=100_000, description="largest envelope that it seals, in millions of bytes"
    )


class ClientConfig(Config):
    """client.toml."""

    client: NodeSettings
    circle: CircleSettings = CircleSettings()
    oauth: LoginSettings
    data: OwnDataSettings
    simulate: SimulateSettings | None = Field(
        None, description="how [data] is dealt out; without it, all rows are this member's"
    )
    approver: tuple[ApproverSettings, ...] = Field(
        (), strict=False, max_length=16, description="who may release models"
    )

    @model_validator(mode="after")
    def _approvers(self) -> ClientConfig:
        _distinct([approver.name for approver in self.approver], "[[approver]] name")
        _distinct([approver.key for approver in self.approver], "[[approver]] key")
        return self


class OperatorSettings(Table):
    """``[operator]``: where ``moonflower run``, ``runs`` and ``stop`` find the server."""

    server: Url = Field(description="the coordinator's address")
    ca: File | None = Field(None, description="private CA of the coordinator (PEM)")


class OperatorConfig(Config):
    """operator.toml."""

    operator: OperatorSettings
    oauth: LoginSettings


class IssuerSettings(Table):
    """``[issuer]``: the embedded OAuth server, for one machine."""

    listen: Listen = Field("127.0.0.1:9400", description="HOST:PORT; anything but loopback needs --expose")
    state: File = Field(Path("issuer"), description="folder of its signing key (0600)")
    audience: str = Field(min_length=1, description="the only audience that it gives tokens for")
    token_ttl_s: int = Field(300, ge=5, le=3600, description="lifetime of a token")
    person_ttl_s: int = Field(3600, ge=5, le=3600, description="lifetime of the token of a person who logged in")
    log_format: LogFormat = Field(
        "console", description='format of its own log: "console" for people, "json" for machines'
    )


class IssuerClientSettings(Table):
    """``[[client]]``: an OAuth client that may get tokens."""

    client_id: ClientId = Field(description="name of the OAuth client")
    key: File = Field(description="its public JWK")
    scopes: Strings = Field(description="some of fl:train, fl:run, fl:approve, fl:audit")
    redirect: Url | None = Field(None, description="a dashboard's https://…/ui/callback, for people who log in there")


class IssuerPersonSettings(Table):
    """``[[person]]``: a person who may log in at a dashboard, with a pass phrase that every start makes anew."""

    name: Name = Field(description="name with which the person logs in")
    scopes: Strings = Field(description="some of fl:run, fl:approve, fl:audit")


class IssuerConfig(Config):
    """issuer.toml."""

    issuer: IssuerSettings
    client: tuple[IssuerClientSettings, ...] = Field((), strict=False)
    person: tuple[IssuerPersonSettings, ...] = Field((), strict=False)

    @model_validator(mode="after")
    def _clients(self) -> IssuerConfig:
        _distinct([person.name for person in self.person], "[[person]] name")
        _distinct([client.client_id for client in self.client], "[[client]] client_id")
        return self


def load_config(kind: type[C], path: Path) -> C:
    """Return the settings in ``path`` as a ``kind``, with absolute paths.

    Raises:
        InputError: ``config.file``, ``config.toml`` or ``config.value``.
    """
    settings = parse(kind, read_toml(path, "config"), where=str(path))
    return _absolute(settings, path.parent.resolve())


def _absolute(table: T, folder: Path) -> T:
    """Return settings in which every path is absolute."""

    def resolved(value: Any) -> Any:
        if isinstance(value, Table):
            return _absolute(value, folder)
        if isinstance(value, tuple):
            return tuple(resolved(item) for item in value)
        return folder / value if isinstance(value, Path) else value

    return table.model_copy(update={name: resolved(getattr(table, name)) for name in type(table).model_fields})


def _distinct(values: list[str], what: str) -> None:
    doubled = sorted({value for value in values if values.count(value) > 1})
    if doubled:
        raise ValueError(f"{what} {doubled[0]!r} is listed twice; expected each once")
