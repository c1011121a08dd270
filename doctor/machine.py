"""What ``moonflower doctor`` checks on this machine: versions, isolation, keys, certificates, pinned members.

Each check is a function that returns a frozen :class:`Check`. It reports what is wrong, and raises only the errors of
the code that it calls. Checks create and change nothing. Their output holds no key, no token and no row count.
"""

from __future__ import annotations

import ipaddress
import json
import os
import platform
import re
import stat
import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from importlib import metadata
from pathlib import Path
from typing import Any, Literal

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_private_key

from ..configs.floor import missing
from ..configs.roles import ClientConfig, IssuerConfig
from ..errors import InputError
from ..oauth.jws import public_key
from ..version import __version__

Status = Literal["ok", "warning", "failed"]
NOT_CHECKED = "not checked: "
PYTHON = (3, 11)
FLWR = ((1, 41), (1, 43))  # from the first, up to but not including the second
TENSEAL = "0.3.18"
EXPIRY = timedelta(days=30)  # a warning comes this long before; for short lifetimes, in the last third
_NETWORK = "from moonflower.client.node.confine import take_network_away as t; print(t())"


@dataclass(frozen=True)
class Check:
    """What one check found.

    Attributes:
        name: of the check.
        status: ``ok``, ``warning`` or ``failed``.
        found: one line: what was found, and what was expected if it is not well.
        hint: what to do, or "".
    """

    name: str
    status: Status
    found: str
    hint: str = ""

    @property
    def was_made(self) -> bool:
        """Whether the check could be made at all."""
        return not self.found.startswith(NOT_CHECKED)


def not_checked(name: str, why: str, hint: str = "") -> Check:
    """Return a check that could not be made."""
    return Check(name, "warning", NOT_CHECKED + why, hint)


def worst(name: str, problems: Iterable[tuple[Status, str]], well: str, hint: str = "") -> Check:
    """Return one check for several findings, as bad as the worst of them; ``well`` if there are none."""
    listed = list(problems)
    if not listed:
        return Check(name, "ok", well)
    status: Status = "failed" if any(severity == "failed" for severity, _ in listed) else "warning"
    return Check(name, status, "; ".join(words for _, words in listed), hint)


# Versions and platform


def versions(*, member: bool) -> Check:
    """Check the versions of the packages that moonflower needs.

    Args:
        member: training and sealing happen here, so torch and tenseal have to be installed.
    """
    installed = {name: _version(name) for name in ("flwr", "torch", "tenseal", "cryptography")}
    problems: list[tuple[Status, str]] = []
    if sys.version_info[:2] < PYTHON:
        problems.append(("failed", f"python {platform.python_version()}; expected {_dotted(PYTHON)} or later"))
    if not FLWR[0] <= _numbers(installed["flwr"]) < FLWR[1]:
        problems.append(
            (
                "failed",
                f"flwr {installed['flwr'] or 'is absent'}; expected {_dotted(FLWR[0])} or later, "
                f"before {_dotted(FLWR[1])}",
            )
        )
    if not installed["cryptography"]:
        problems.append(("failed", "cryptography is absent"))
    if member and not installed["torch"]:
        problems.append(("failed", "torch is absent; members need it to train"))
    if installed["tenseal"] != TENSEAL and (member or installed["tenseal"]):
        problems.append(("failed", f"tenseal {installed['tenseal'] or 'is absent'}; expected {TENSEAL}"))
    shown = ", ".join(f"{name} {version or 'absent'}" for name, version in installed.items())
    well = f"python {platform.python_version()}, moonflower {__version__}, {shown}"
    return worst("versions", problems, well, "pip install -c constraints.txt moonflower")


def isolation(config: ClientConfig) -> Check:
    """Check that the worker can have its own network namespace: a test process takes one and ends."""
    if sys.platform != "linux":
        return Check("isolation", "failed", f"this is {sys.platform}; expected Linux", "server and node run on Linux")
    if not config.client.isolate:
        problem = "isolate = false: the process that holds the data can reach the network"
        return Check("isolation", "warning", problem, "isolate = true in [client]")
    line = [sys.executable, "-c", _NETWORK]
    output = subprocess.run(line, capture_output=True, text=True, timeout=30, check=False).stdout  # noqa: S603
    if output.strip() == "True":
        return Check("isolation", "ok", "Linux; the worker gets its own network namespace, with nothing in it")
    return Check(
        "isolation",
        "failed",
        "the worker cannot get its own network namespace; expected root, or that user namespaces are allowed",
        "allow user namespaces (sysctl kernel.unprivileged_userns_clone, user.max_user_namespaces), or isolate = false",
    )


def floor(config: ClientConfig) -> Check:
    """Check that a node's floor bounds everything that it can bound: what has no line is refused."""
    lacking = missing(config.circle) if config.client.tasks else ("tasks", *missing(config.circle))
    if not lacking:
        return Check("floor", "ok", "client.toml bounds tasks, circles, runs a day and envelopes")
    problem = f"client.toml has no line for {', '.join(lacking)}; what these would bound is refused"
    return Check("floor", "warning", problem, "the lines to add are among the sentences below")


def linux() -> Check:
    """Check that a server runs on this system."""
    if sys.platform != "linux":
        return Check("platform", "failed", f"this is {sys.platform}; expected Linux", "server and node run on Linux")
    return Check("platform", "ok", f"Linux {platform.release()}, {os.cpu_count()} processors")


# Keys and certificates


def client_keys(config: ClientConfig) -> Check:
    """Check a node's keys, its OAuth client's key, and its approvers' public keys; the pin is shown."""
    from ..client.keyring import identity_of
    from ..oauth.keys import load_key

    identity = identity_of(config)
    load_key(config.oauth.key)
    pin = identity.card.node.pin
    return Check("keys", "ok", f"node, sealing, witness and OAuth keys are there, 0600; pin of {identity.name}: {pin}")


def login_key(path: Path) -> Check:
    """Check the key of a submitter's OAuth client."""
    from ..oauth.keys import load_key

    load_key(path)
    return Check("keys", "ok", f"OAuth key {path.name} is there, 0600")


def private_files(paths: Iterable[Path], made_later: Iterable[Path] = ()) -> Check:
    """Check the modes of files that hold secrets; those in ``made_later`` may be absent."""
    problems: list[tuple[Status, str]] = []
    later, seen = tuple(made_later), []
    for path in [*paths, *later]:
        try:
            mode = stat.S_IMODE(path.stat().st_mode)
        except FileNotFoundError:
            if path not in later:
                problems.append(("failed", f"{path} is missing"))
            continue
        except OSError as error:
            problems.append(("failed", f"{path} cannot be read: {error.strerror}"))
            continue
        seen.append(path.name)
        if mode & 0o077:
            group_only = not mode & 0o027 and path not in later  # a group that reads TLS keys is common
            problems.append(("warning" if group_only else "failed", f"{path} has mode {mode:04o}; expected 0600"))
        elif not os.access(path, os.R_OK):
            problems.append(("failed", f"{path} cannot be read by this user"))
    well = f"{', '.join(seen)} with mode 0600" if seen else "no keys yet; the first start makes them"
    return worst("keys", problems, well, "chmod 600, and make new keys if others may have read them")


def issuer_keys(config: IssuerConfig) -> Check:
    """Check the public keys of the embedded issuer's clients, and the mode of its own key."""
    from ..oauth.issuer.serve import KEY_FILE

    problems: list[tuple[Status, str]] = []
    for client in config.client:
        try:
            public_key(json.loads(client.key.read_bytes()))
        except OSError as error:
            problems.append(("failed", f"key of {client.client_id}: {client.key} cannot be read: {error.strerror}"))
        except (ValueError, RecursionError):
            problems.append(("failed", f"key of {client.client_id}: {client.key} is not a public JWK"))
    own = private_files((), [config.issuer.state / KEY_FILE])
    if own.status != "ok":
        problems.append((own.status, own.found))
    return worst(
        "keys",
        problems,
        f"public keys of {len(config.client)} clients",
        "moonflower keys show CONFIG prints a public key",
    )


def certificate(chain: Path, key: Path, hosts: Iterable[str], now: datetime) -> Check:
    """Check a server's certificate: whether it fits its key, covers the names, and stays valid for a while.

    Args:
        hosts: names or addresses that members use.
    """
    try:
        first = x509.load_pem_x509_certificates(chain.read_bytes())[0]
        private = load_pem_private_key(key.read_bytes(), None)
    except OSError as error:
        return Check(
            "certificate",
            "failed",
            f"{error.filename} cannot be read: {error.strerror}",
            "tls_cert and tls_key in [server]",
        )
    except (ValueError, TypeError):  # the reason could quote the file
        return Check(
            "certificate",
            "failed",
            f"{chain} and {key}: expected a certificate and its key, as PEM without pass phrase",
        )
    problems = list(_lifetime(first, chain.name, now))
    form = (Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    if first.public_key().public_bytes(*form) != private.public_key().public_bytes(*form):
        problems.append(("failed", f"{key.name} is not the key of the first certificate in {chain.name}"))
    names = _names(first)
    missing = [host for host in hosts if not any(_covers(name, host) for name in names)]
    if missing:
        listed = ", ".join(sorted(names)) or "nothing"
        problems.append(("failed", f"the certificate is not for {', '.join(missing)}; it names {listed}"))
    until = first.not_valid_after_utc
    return worst(
        "certificate",
        problems,
        f"{chain.name} fits its key and is for {', '.join(hosts)}; it ends on {until:%Y-%m-%d}",
        "put in place a certificate for the host in [server] url before the old one ends, and restart the server",
    )


def ca(files: Mapping[str, Path | None], now: datetime) -> Check:
    """Check private CAs, by the setting that names each of them."""
    from ..oauth.discovery import tls

    problems: list[tuple[Status, str]] = []
    named = {setting: path for setting, path in files.items() if path is not None}
    for setting, path in named.items():
        try:
            tls(path)
            for cert in x509.load_pem_x509_certificates(path.read_bytes()):
                problems += [(status, f"{setting}: {words}") for status, words in _lifetime(cert, path.name, now)]
        except InputError as error:
            problems.append(("failed", f"{setting}: {error}"))
        except (ValueError, OSError):
            problems.append(("failed", f"{setting}: {path} cannot be read as a certificate (PEM)"))
    well = ", ".join(f"{setting} {path.name}" for setting, path in named.items()) or "public ones: no ca is set"
    return worst("CAs", problems, well, "ca must name the CA's own certificate (PEM)")


def _lifetime(cert: x509.Certificate, name: str, now: datetime) -> Iterator[tuple[Status, str]]:
    begins, ends = cert.not_valid_before_utc, cert.not_valid_after_utc
    if now < begins:
        yield "failed", f"{name} is not valid before {begins:%Y-%m-%d %H:%M} UTC; check the clock, too"
    elif now > ends:
        yield "failed", f"{name} expired on {ends:%Y-%m-%d}"
    elif ends - now < min(EXPIRY, (ends - begins) / 3):
        yield "warning", f"{name} expires on {ends:%Y-%m-%d}, in {(ends - now).days} days"


def _names(cert: x509.Certificate) -> set[str]:
    try:
        names = cert.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:  # a common name alone is not accepted anywhere any more
        return set()
    addresses = (str(address) for address in names.get_values_for_type(x509.IPAddress))
    return {*names.get_values_for_type(x509.DNSName), *addresses}


def _covers(name: str, host: str) -> bool:
    """Return whether a name of a certificate is for a host.

    >>> _covers("*.example.org", "fl.example.org"), _covers("*.example.org", "a.b.example.org"), _covers("::1", "[::1]")
    (True, False, True)
    """
    plain, name = host.strip("[]").lower(), name.lower()
    try:
        return ipaddress.ip_address(plain) == ipaddress.ip_address(name)
    except ValueError:
        return name == plain or (name.startswith("*.") and plain.partition(".")[2] == name[2:])


def _version(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return ""


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", version)[:2])


def _dotted(version: tuple[int, ...]) -> str:
    return ".".join(map(str, version))


def utc_now() -> datetime:
    """Return the time."""
    return datetime.now(UTC)


def described(value: Any) -> str:
    """Return text from another party as one printable line."""
    return "".join(char if char.isprintable() else " " for char in str(value)[:500])
