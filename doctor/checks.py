"""The checks for each kind of config, in order, and how they are carried out.

Each check prints one line. Exit status: 0 nothing failed (there may be warnings), 1 something failed, 2 the config
cannot be read. A check that depends on a failed check is not made, and says so. The checks themselves are in
``machine.py`` and ``folders.py`` (this machine), ``network.py`` (other machines) and ``canary.py`` (encryption).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from ..configs.roles import (
    ClientConfig,
    IssuerConfig,
    LoginSettings,
    OperatorConfig,
    ServerConfig,
    VerifierSettings,
    load_config,
    own_address,
)
from ..configs.schema import Schema
from ..configs.settings import RunSettings, TaskSettings, load_run
from ..configs.toml import read_toml
from ..errors import InputError, MoonflowerError
from . import folders as state
from . import machine as here
from .machine import Check, Status, described, not_checked

if TYPE_CHECKING:
    from ..client.learning.cast import Cast
    from .network import ClockReading

DEFAULT_VALUES = 1000  # of an update, where no task says how many
DEFAULT_MEMBERS = 3
DEFAULT_BITS = 16
MOST_CANARIES = 16  # members of a canary: each pair agrees on masks
WELL_KNOWN = "/.well-known/openid-configuration"
KINDS: dict[str, str] = {  # a table that only this config has, in the order in which they are looked for
    "issuer": "an issuer config",
    "operator": "an operator config",
    "server": "a server config",
    "client": "a client config",
    "federation": "a run config",
}


@dataclass(frozen=True)
class Planned:
    """A check to make.

    Attributes:
        name: name of the check.
        look: function that makes the check.
        needs: names of earlier checks that must not fail.
        asks: the check asks another process, and is given up after some seconds.
    """

    name: str
    look: Callable[[], Check]
    needs: tuple[str, ...] = ()
    asks: bool = False


def steps(path: Path) -> tuple[Planned, ...]:
    """Return the checks for a config, in order.

    Raises:
        InputError: ``config.file``, ``config.toml`` or ``config.value``: it cannot be read, or is not a config of ours.
    """
    tables = read_toml(path, "config")
    kind = next((table for table in KINDS if table in tables), "")
    match kind:
        case "issuer":
            planned = _issuer(load_config(IssuerConfig, path))
        case "operator":
            planned = _operator(load_config(OperatorConfig, path))
        case "server":
            planned = _server(load_config(ServerConfig, path))
        case "client":
            planned = _client(load_config(ClientConfig, path))
        case "federation":
            planned = _run(load_run(path), path)
        case _:
            named = ", ".join(f"[{table}]" for table in KINDS)
            raise InputError("config.value", f"{path}: not a moonflower config; expected one of the tables {named}")
    return (Planned("config", lambda: _read(path, kind)), *planned)


def carry_out(planned: Iterable[Planned]) -> list[Check]:
    """Return what each check found. A check that breaks does not end the others."""
    done: dict[str, Check] = {}
    for step in planned:
        broken = next((name for name in step.needs if name in done and _is_broken(done[name])), None)
        done[step.name] = _made(step) if broken is None else not_checked(step.name, f"{broken} comes first")
    return list(done.values())


def _is_broken(check: Check) -> bool:
    return check.status == "failed" or not check.was_made


def _made(step: Planned) -> Check:
    from ..errors import TooSlow
    from .network import LIMIT_S, in_time

    try:
        return in_time(step.look) if step.asks else step.look()
    except MoonflowerError as error:
        return Check(step.name, "failed", f"{described(error)} ({error.code})", error.hint)
    except TooSlow:
        return Check(
            step.name, "failed", f"no answer within {LIMIT_S:.0f} s", "addresses, firewall, HTTPS_PROXY, name server"
        )
    except Exception as error:  # its text could hold values that must not be shown
        return Check(step.name, "failed", f"the check itself broke: {type(error).__name__}", "please report this")


def _read(path: Path, kind: str) -> Check:
    return Check("config", "ok", f"{path} is {KINDS[kind]}")


# The five kinds


def _client(config: ClientConfig) -> tuple[Planned, ...]:
    from . import network as there

    own, login = config.client, config.oauth

    def token() -> Check:
        from ..client.keyring import load_keys
        from ..oauth.keys import DpopKey

        return there.token(login, DpopKey(load_keys(own.state).node), ("fl:train",))

    def encryption() -> Check:
        circle = state.living(own.state)
        if circle is None:
            return _canary(DEFAULT_MEMBERS)
        recipe = circle.recipe
        return _canary(
            len(circle.names), recipe.crypto.value_bits, _length(recipe.task, Schema.from_dict(recipe.columns))
        )

    def clocks() -> Check:
        trust = there.trusting(own.ca, system=True)
        return there.clock(
            (_issuers(login), there.ClockReading("server", f"{own.server}/health", trust)), there.LEEWAY_S
        )

    return (
        Planned("versions", lambda: here.versions(member=True)),
        Planned("isolation", lambda: here.isolation(config)),
        Planned("floor", lambda: here.floor(config)),
        Planned("keys", lambda: here.client_keys(config)),
        Planned("CAs", lambda: here.ca({"[client] ca": own.ca, "[oauth] ca": login.ca}, here.utc_now())),
        Planned("disk", lambda: state.disk([own.state])),
        Planned("ledger", lambda: state.ledger(own.state)),
        Planned("circle", lambda: state.circle(own.state), ("ledger",)),
        Planned("device", lambda: _device(own.device), ("versions",)),
        Planned("data", lambda: _rows_of(config), ("versions",)),
        Planned("snapshot", lambda: _snapshot_of(config), ("keys", "ledger", "data")),
        Planned("issuer", lambda: there.issuer(login), ("CAs",), asks=True),
        Planned("server", lambda: there.server(own.server, there.trusting(own.ca, system=True)), ("CAs",), asks=True),
        Planned("clock", clocks, ("CAs",), asks=True),
        Planned("token", token, ("keys", "issuer"), asks=True),
        Planned("encryption", encryption, ("versions",)),
    )


def _device(name: str) -> Check:
    """Check that a node can compute where its config says."""
    from ..client.learning.devices import device_of, exact, found

    try:
        device = device_of(name)
    except InputError as error:
        return Check("device", "failed", str(error), 'device = "auto" in [client]')
    there = f"training runs on {device}; this machine has {', '.join(found())}"
    if exact(device):
        return Check("device", "ok", there)
    return Check("device", "ok", f"{there}; the same training may differ in the last bits, so each round's is kept")


def _rows_of(config: ClientConfig) -> Check:
    """Check that a node has the rows that its circle's recipe needs."""
    where, circle = config.data.path or "the task", state.living(config.client.state)
    if circle is None:
        if config.data.path is not None and not config.data.path.is_file():
            return Check("data", "failed", f"{where} does not exist; expected a table", "[data] path")
        return not_checked("data", "the recipe that this node signs says what each column means")
    from ..client.keyring import load_keys
    from ..client.own_rows import OwnRows

    rows = OwnRows(config, load_keys(config.client.state).secret)
    rows.check(circle.recipe)
    beyond = "; it has more training rows than training.max_rows, and the rest do not count"
    fits = f"{where} fits the recipe of circle {circle.number}" + (beyond if rows.left_out(circle.recipe) else "")
    return _looked_at(fits, rows.hints(circle.recipe))


def _looked_at(fits: str, hints: Sequence[str]) -> Check:
    """Return the check of data that fit, with what a person should know of their columns."""
    if not hints:
        return Check("data", "ok", fits)
    return Check("data", "warning", ". ".join([fits, *hints]), "columns that help a model and are known in time")


def _snapshot_of(config: ClientConfig) -> Check:
    """Check how the rows in use differ from the table."""
    from ..client.keyring import load_keys
    from ..client.own_rows import OwnRows
    from ..client.snapshots import compare, hashes_of

    secret, circle = load_keys(config.client.state).secret, state.living(config.client.state)
    used = {part: hashes_of(data) for part, data in state.rows_in_use(config.client.state).items()}
    if circle is None or not used:
        return state.snapshot([])
    now, recipe = OwnRows(config, secret).now(circle.recipe), circle.recipe
    return state.snapshot(compare(used, now, secret, recipe.data.min_count, recipe.training.max_rows))


def _server(config: ServerConfig) -> tuple[Planned, ...]:
    from . import network as there

    settings = config.server
    host, _, port = settings.listen.rpartition(":")
    named = urlsplit(settings.url).hostname or "" if settings.url else host
    secret = [settings.tls_key, settings.metrics_token_file, config.dashboard.key if config.dashboard else None]

    def address() -> Check:
        if settings.url is None and own_address(host) != host.strip("[]"):
            problem = f"url is not set, and members cannot reach https://{settings.listen}"
            return Check("address", "failed", f"{problem}; expected the address that members use", "url in [server]")
        return Check("address", "ok", f"members use {settings.url or f'https://{settings.listen}'}")

    def itself() -> Check:
        mine = own_address(host)
        url = f"https://{f'[{mine}]' if ':' in mine else mine}:{port}"
        return there.server(url, there.itself(settings.tls_cert), own=True)

    return (
        Planned("versions", lambda: here.versions(member=False)),
        Planned("platform", here.linux),
        Planned("address", address),
        Planned("keys", lambda: here.private_files([path for path in secret if path], [settings.state / "log.key"])),
        Planned(
            "certificate",
            lambda: here.certificate(settings.tls_cert, settings.tls_key, [named], here.utc_now()),
            ("address",),
        ),
        Planned("CAs", lambda: here.ca({"[oauth] ca": config.oauth.ca}, here.utc_now())),
        Planned("disk", lambda: state.disk([settings.state])),
        Planned("audit log", lambda: state.audit_log(settings.state)),
        Planned("model", lambda: state.good_model(settings.state)),
        Planned("issuer", lambda: there.issuer(config.oauth), ("CAs",), asks=True),
        Planned("server", itself, ("certificate",), asks=True),
        Planned("clock", lambda: there.clock((_issuers(config.oauth),), config.oauth.leeway_s), ("CAs",), asks=True),
        Planned("encryption", lambda: _canary(len(config.member) or DEFAULT_MEMBERS), ("versions",)),
    )


def _operator(config: OperatorConfig) -> tuple[Planned, ...]:
    from . import network as there

    desk, login = config.operator, config.oauth

    def token() -> Check:
        from ..oauth.keys import DpopKey

        return there.token(login, DpopKey.generate(), ("fl:run", "fl:approve", "fl:audit"))

    def clocks() -> Check:
        others = (_issuers(login), there.ClockReading("server", f"{desk.server}/health", there.trusting(desk.ca)))
        return there.clock(others, there.LEEWAY_S)

    return (
        Planned("versions", lambda: here.versions(member=False)),
        Planned("keys", lambda: here.login_key(login.key)),
        Planned("CAs", lambda: here.ca({"[operator] ca": desk.ca, "[oauth] ca": login.ca}, here.utc_now())),
        Planned("issuer", lambda: there.issuer(login), ("CAs",), asks=True),
        Planned("server", lambda: there.server(desk.server, there.trusting(desk.ca)), ("CAs",), asks=True),
        Planned("clock", clocks, ("CAs",), asks=True),
        Planned("token", token, ("keys", "issuer"), asks=True),
    )


def _issuer(config: IssuerConfig) -> tuple[Planned, ...]:
    from . import network as there

    def itself() -> Check:
        return there.server(f"http://{config.issuer.listen}", trust=True, own=True, path=WELL_KNOWN, name="issuer")

    return (
        Planned("versions", lambda: here.versions(member=False)),
        Planned("keys", lambda: here.issuer_keys(config)),
        Planned("disk", lambda: state.disk([config.issuer.state])),
        Planned("issuer", itself, asks=True),
    )


def _run(settings: RunSettings, path: Path) -> tuple[Planned, ...]:
    @cache
    def cast() -> Cast:
        from ..client.learning.cast import prepare

        return prepare(path)

    def rows() -> Check:
        if settings.data.path is not None and not settings.data.path.exists():
            _size(settings)
            missing = f"task and schema are in order; {settings.data.path} does not exist"
            return Check("data", "warning", missing, "this is enough for moonflower run; simulate and up need the rows")
        return _looked_at(f"data, schema and task are in order for {len(cast().names)} members", cast().hints)

    def encryption() -> Check:
        there = settings.data.path is None or settings.data.path.exists()
        count = len(cast().names) if there else max(DEFAULT_MEMBERS, settings.federation.min_members)
        return _canary(count, settings.crypto.value_bits, _size(settings))

    return (
        Planned("versions", lambda: here.versions(member=True)),
        Planned("disk", lambda: state.disk([Path.cwd()])),
        Planned("data", rows, ("versions",)),
        Planned("encryption", encryption, ("versions", "data")),
    )


def _issuers(settings: LoginSettings | VerifierSettings) -> ClockReading:
    """Return the issuer's clock."""
    from ..oauth.discovery import tls
    from .network import ClockReading

    return ClockReading("issuer", f"{settings.issuer.rstrip('/')}{WELL_KNOWN}", tls(settings.ca))


# Is encryption on


def _canary(members: int, bits: int = DEFAULT_BITS, values: int = DEFAULT_VALUES) -> Check:
    """Return whether encryption is on, under the plan of a run of so many members (16 at most) and parameters."""
    from ..crypto import planner

    if find_spec("tenseal") is None:
        hint = "moonflower doctor checks it at a member"
        return not_checked("encryption", "tenseal is not installed; a server seals nothing", hint)
    from .canary import release  # needs SEAL

    members = min(max(2, members), MOST_CANARIES)
    result = release(planner.plan(members, bits, values), values)
    if result.ok:
        status: Status = "ok" if result.held is False else "warning"
        return Check("encryption", status, f"{result.sentence}; plan of {members} members, {bits} bits")
    return Check("encryption", "failed", result.sentence, "do not take part in a run; please report this")


def _size(settings: RunSettings) -> int:
    """Return the length of a run's update."""
    from ..client.tasks import load_task, schema_for

    task = load_task(settings.task.ref, settings.task.options)
    return _length(settings.task, schema_for(task, settings.data))


def _length(about: TaskSettings, schema: Schema) -> int:
    from ..client.learning.tensors import fresh_model, layout_of
    from ..client.tasks import load_task

    task = load_task(about.ref, about.options)
    return sum(spec.size for spec in layout_of(fresh_model(task, schema, "")))
