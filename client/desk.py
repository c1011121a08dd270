"""Requests about circles that a node and its operator send to the server (``server/door/circle_routes.py``)."""

from __future__ import annotations

import httpx

from ..configs.roles import NodeSettings
from ..oauth.api_client import ApiClient
from ..protocol.circle import Circle, Farewell, Signature
from ..protocol.circle_board import CircleBoard


class CircleDesk:
    """A node's requests about circles to the server.

    Args:
        own: the node's settings.
        auth: adds and renews its token.

    Raises:
        InputError: the CA cannot be read.
    """

    def __init__(self, own: NodeSettings, auth: httpx.Auth | None) -> None:
        self._api = ApiClient(own.server, own.ca, auth)

    def close(self) -> None:
        """Close the connections."""
        self._api.close()

    def shown(self) -> CircleBoard:
        """Return the circles that the server shows.

        Raises:
            Refused, InputError: the server refused, or cannot be reached.
        """
        return CircleBoard.parse(self._api.ask("GET", "/api/circle"))

    def hand_in(self, circle: Circle, member: str, signature: Signature) -> bool:
        """Send a signature to the server; return whether the circle begins with it."""
        body = {"circle": circle.digest, "member": member, **signature.as_dict()}
        return bool(self._api.ask("POST", "/api/circle/signatures", json=body).get("begins"))

    def leave(self, farewell: Farewell) -> None:
        """Send a farewell to the server."""
        self._api.ask("POST", "/api/circle/farewells", json=farewell.as_dict())
