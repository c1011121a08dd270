"""What an approver reads and signs about a model version, and the result."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from typing import Any, Protocol

import click
import typer
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey

from ..crypto.identity import PublicKey
from ..errors import InputError, Refused
from ..protocol.approval import Action, Decision, SignedDecision
from ..protocol.model_version import Version
from ..report.findings import votes
from .output import print_json, visible


class Versions(Protocol):
    """Where versions are looked up and decided: a folder's :class:`Registry`, or a server."""

    def listing(self) -> dict[str, Any]:
        """Return every version."""

    def shown(self, name: str) -> dict[str, Any]:
        """Return one version with its card."""

    def decide(self, name: str, value: Any) -> dict[str, Any]:
        """Hand in a decision; return its result."""

    def file(self, name: str, *, unreleased: bool) -> Version:
        """Return a version's file."""


def decided(
    source: Versions, action: Action, name: str, key: EllipticCurvePrivateKey, member: str, reason: str, *, ask: bool
) -> dict[str, Any]:
    """Show an approver what a decision is about, sign it and hand it in; return the result."""
    shown = source.shown(name)
    card = shown["card"]
    sha256 = str(card["sha256"])
    if str(card["version"]) != name and not sha256.startswith(name):
        raise Refused("release.digest", f"asked for version {name!r}, but the server shows {sha256}")
    who = _approver(shown["approvers"], PublicKey(key.public_key()).pin, member)
    after = card["release"]["after"]
    decision = Decision(card["federation"], action, sha256, after, who["member"], who["approver"], reason)
    for line in _brief(card, decision):
        typer.echo(visible(line), err=True)
    if ask:
        _ask()
    return source.decide(sha256, SignedDecision.by(key, decision).as_dict())


def tell(outcome: Mapping[str, Any], as_json: bool) -> None:
    """Print the result of a decision."""
    if as_json:
        print_json(outcome)
        return
    done = {
        "approved": f"signed; {outcome['approvals']} of {outcome['required']} approvals, {outcome['missing']} missing",
        "rejected": "rejected",
        "released": f"released, with {outcome['approvals']} approvals",
        "rolled_back": f"released again, with {outcome['approvals']} approvals",
    }
    typer.echo(f"version {outcome['version']}: {done[outcome['event']]}")


def _brief(card: Mapping[str, Any], decision: Decision) -> Iterator[str]:
    """Yield what an approver must see before signing."""
    gate, release, metrics = card["gate"], card["release"], card["metrics"] or {}
    yield f"version   {card['version']} of {card['federation']}, run {card['run']}, {card['created']}"
    yield f"SHA-256   {card['sha256']}"
    yield f"members   {', '.join(card['members'])}"
    for origin in card["origins"]:
        if origin["imported"]:
            yield f"imported  its training began from the file {origin['sha256']}, which no sum of this federation made"
    yield f"gate      {gate['verdict']}; votes by {gate['metric']}: {votes(gate['votes'])}"
    yield f"metrics   {', '.join(f'{name} {value}' for name, value in metrics.items()) or 'none were reported'}"
    yield f"approvals {len(release['approvals'])} of {release['required']} so far"
    if release["released"]:
        yield f"released  version {release['released']['version']} is released at the moment"
    yield f"to sign   {decision.encode().decode()}"


def _ask() -> None:
    """Ask on stderr, so that stdout holds the result only."""
    typer.echo("Sign this? [y/N] ", nl=False, err=True)
    if sys.stdin.readline().strip().lower() not in ("y", "yes"):
        raise click.Abort


def _approver(approvers: list[dict[str, str]], thumbprint: str, member: str) -> dict[str, str]:
    """Return the member and the name under which a key may approve."""
    matches = [
        approver for approver in approvers if approver["key"] == thumbprint and member in ("", approver["member"])
    ]
    if not matches:
        where = f"the card of {member!r}" if member else "any member's card"
        raise InputError(
            "release.unknown_approver",
            f"the key {thumbprint} is not on {where}; expected an approver's key",
            hint="the member adds [[approver]] to client.toml; its card then comes with the next run, or by member add",
        )
    if len(matches) > 1:
        names = ", ".join(approver["member"] for approver in matches)
        raise InputError("release.unknown_approver", f"the key is on the cards of {names}; expected --member NAME")
    return matches[0]
