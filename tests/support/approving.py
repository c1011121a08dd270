"""Approvers of two members, far from their server, for tests over real processes."""

from __future__ import annotations

import subprocess
import tomllib
from dataclasses import dataclass
from pathlib import Path

import tomli_w
from moonflower.federation import stage as staging

from support.commands import called
from support.live import Live
from support.office import changed

CLEVELAND, HUNGARY = "Cleveland", "Hungary"


@dataclass(frozen=True)
class Approvers:
    """The approvers of two members, each with a folder, a key and an OAuth client, and their federation."""

    live: Live
    folder: Path

    def moonflower(self, *arguments: object) -> subprocess.CompletedProcess[str]:
        return called(*arguments, folder=self.folder)

    def model(self, member: str, *arguments: object) -> subprocess.CompletedProcess[str]:
        return self.moonflower("model", *arguments, "--as", self.folder / member / "operator.toml")

    def decide(self, member: str, *arguments: object, role: str = "board") -> subprocess.CompletedProcess[str]:
        return self.model(member, *arguments, "--key", self.folder / member / f"{role}.jwk", "--yes", "--json")


def approvers_of(live: Live, folder: Path) -> Approvers:
    """Give two members of a federation that has not started yet their approvers: two in Cleveland, one in Hungary."""
    made = Approvers(live, folder)
    for member in (CLEVELAND, HUNGARY):
        home = folder / member
        home.mkdir()
        approvers = []
        for role in ("board", "ethics") if member == CLEVELAND else ("board",):
            printed = made.moonflower("keys", "approver", home / f"{role}.jwk")
            assert printed.returncode == 0, printed.stderr
            approvers.append({"name": role, "key": tomllib.loads(printed.stdout)["key"]})
        changed(live.stage.clients[member], lambda tables, approvers=approvers: tables.update(approver=approvers))
        public = staging.client_key(home)
        client = {"client_id": f"approver:{member}", "key": str(public), "scopes": ["fl:approve"]}
        changed(live.stage.issuer, lambda tables, client=client: tables["client"].append(client))
        login = tomllib.loads(live.stage.operator.read_text())
        login["operator"]["ca"] = str(live.stage.folder / "ca.pem")
        login["oauth"] |= {"client_id": client["client_id"], "key": "oauth.key"}
        (home / "operator.toml").write_text(tomli_w.dumps(login))
    return made
