"""What a node and its operator ask the server about circles; see ``server/door/circle_routes.py``."""

from __future__ import annotations

import httpx

from ..configs.roles import NodeSettings
from ..oauth.api_client import ApiClient
from ..protocol.circle import Circle, Farewell, Signature
from ..protocol.circle_board import CircleBoard


class CircleDesk:
    """The server's desk for circles, as a node asks at it.

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
        """Return what there is of circles.

        Raises:
            Refused, InputError: as the server said, or it cannot be reached.
        """
        return CircleBoard.parse(self._api.ask("GET", "/api/circle"))

    def hand_in(self, circle: Circle, member: str, signature: Signature) -> bool:
        """Hand a signature in; return whether the circle begins with it."""
        body = {"circle": circle.digest, "member": member, **signature.as_dict()}
        return bool(self._api.ask("POST", "/api/circle/signatures", json=body).get("begins"))

    def leave(self, farewell: Farewell) -> None:
        """Hand a farewell in."""
        self._api.ask("POST", "/api/circle/farewells", json=farewell.as_dict())
