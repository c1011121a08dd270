"""A member's card, read from the file that the member sent."""

from __future__ import annotations

import json
from pathlib import Path

from ..crypto.identity import Card, parse_card
from ..errors import InputError, Refused


def read_card(path: Path) -> Card:
    """Return the card in a file.

    Raises:
        InputError: ``config.path``: it cannot be read; ``config.member``: not a card signed with its own key.
    """
    try:
        return parse_card(json.loads(path.read_text(encoding="utf-8")))
    except OSError as error:
        raise InputError("config.path", f"card {path} cannot be read: {error.strerror}") from None
    except (ValueError, Refused):
        raise InputError(
            "config.member", f"{path}: not a member's card signed with its own key (moonflower member card)"
        ) from None
