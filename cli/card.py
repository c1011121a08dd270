"""A member's card, read from the file that the member sent."""

from __future__ import annotations

from pathlib import Path

from ..canonical import parse_json
from ..crypto.identity import Card, parse_card
from ..errors import InputError, Refused


def read_card(path: Path) -> Card:
    """Return the card in a file.

    Raises:
        InputError: ``config.path``: it cannot be read; ``config.member``: not a card signed with its own key.
    """
    try:
        return parse_card(parse_json(path.read_bytes()))
    except OSError as error:
        raise InputError("config.path", f"card {path} cannot be read: {error.strerror}") from None
    except (ValueError, Refused):
        raise InputError(
            "config.member", f"{path}: not a member's card signed with its own key (moonflower member card)"
        ) from None
