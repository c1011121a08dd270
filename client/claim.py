"""A mark beside a table that says which node uses its rows, so that a second node or federation is refused.

Two sums over the same rows, in two circles, differ only in the other members, so anybody who knows both can subtract
them. The mark works only where it can be seen: a folder that cannot be written has no mark, and neither has a copy of
the table.
"""

from __future__ import annotations

import json

from .. import files
from ..canonical import canonical
from ..configs.roles import ClientConfig
from ..errors import InputError

END = ".moonflower"


def claim(config: ClientConfig, federation: str) -> None:
    """Mark a node's table as in use by this node; a table that is dealt out to several members gets no mark.

    Args:
        config: of the node.
        federation: that its circle is of.

    Raises:
        InputError: ``data.claimed``: another node uses it, or this one in another federation.
    """
    table = config.data.path
    if table is None or config.data.site is not None or config.simulate is not None:
        return
    place = table.with_name(table.name + END)
    mine = {"federation": federation, "member": config.client.member, "state": str(config.client.state)}
    try:
        mark = json.loads(place.read_text(encoding="utf-8"))
        other = {name: str(mark[name]) for name in mine}
    except FileNotFoundError:
        other = mine
        try:
            files.replace(place, canonical(mine) + b"\n", 0o644)
        except OSError:
            return  # it cannot be marked here
    except (OSError, ValueError, TypeError, KeyError):
        return  # it cannot be read, or moonflower did not write it
    if other != mine:
        raise InputError(
            "data.claimed",
            f"the rows of {table} are already in use: federation {other['federation']!r}, member {other['member']!r}, "
            f"state folder {other['state']}; expected rows that are in one circle only",
            hint=f"say farewell to that federation, then remove {place}",
        )
