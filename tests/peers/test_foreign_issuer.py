"""A federation of real processes whose authorization server is somebody else's (oidc-provider)."""

from __future__ import annotations

import json
from pathlib import Path

from moonflower.federation import stage as staging
from support import SUPPORT
from support.idp import configure, start_idp, stop_idp
from support.live import Live, undisturbed

ATTACKER = SUPPORT / "attacker.py"

ROUNDS = "training.rounds=2"


def test_a_federation_with_an_authorization_server_of_somebody_elses(tmp_path: Path) -> None:
    url, process = start_idp(tmp_path / "idp", [], staging.AUDIENCE)
    try:
        live = Live(tmp_path / "up", ROUNDS, issuer_url=url, oauth={"profile": "rfc9068"})
        homes = {name: config.parent for name, config in live.stage.clients.items()}
        clients = [
            {
                "client_id": home.name if name != staging.DESK else name,
                "key": json.loads((home / "oauth.pub").read_text()),
                "scope": " ".join(staging.OPERATOR) if name == staging.DESK else "fl:train",
                "bound": True,
            }
            for name, home in {**homes, staging.DESK: live.stage.operator.parent}.items()
        ]
        configure(tmp_path / "idp", process, clients=clients)
        with live:
            assert "issuer" not in live.processes.running
            shown = live.run()
            assert (shown["status"], shown["code"]) == ("done", ""), shown
            assert shown["result"]["model"]["sha256"] == undisturbed(live)
            live.check_log()
            assert live.events("refused_member") == []
    finally:
        stop_idp(process)
