"""Whose rows a table has: a mark beside it, so that a second node or federation over them is refused where it is seen.

Two sums over the same rows, in two circles, differ in the members; whoever knows both subtracts. A folder that cannot
be written keeps no mark, and a copy of the table has none: nothing can be seen then.
"""

from __future__ import annotations

import json

from .. import files
from ..canonical import canonical
from ..configs.roles import ClientConfig
from ..errors import InputError

END = ".moonflower"


def claim(config: ClientConfig, federation: str) -> None:
    """Mark the table of a node as in use by it; a table that is dealt out to several members has no mark.

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
        found = json.loads(place.read_text(encoding="utf-8"))
        other = {name: str(found[name]) for name in mine}
    except FileNotFoundError:
        other = mine
        try:
            files.replace(place, canonical(mine) + b"\n", 0o644)
        except OSError:
            return  # it cannot be marked here
    except (OSError, ValueError, TypeError, KeyError):
        return  # it cannot be read, or is no mark of ours
    if other != mine:
        raise InputError(
            "data.claimed",
            f"the rows of {table} are already in use: federation {other['federation']!r}, member {other['member']!r}, "
            f"state folder {other['state']}; expected rows that are in one circle only",
            hint=f"say farewell to that federation, then remove {place}",
        )
