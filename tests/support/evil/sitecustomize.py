"""Makes the ServerApp of a test dishonest: Python imports this at its start where PYTHONPATH holds this folder.

``MOONFLOWER_TEST_EVIL`` names a file; what it says when a ServerApp starts is what that one does.
"""

import os
import sys
from pathlib import Path

_TOLD = Path(os.environ.get("MOONFLOWER_TEST_EVIL", ""))
if any("serverapp" in word for word in sys.argv) and _TOLD.is_file():
    sys.path.append(str(Path(__file__).parents[2]))
    _kind, _number, _member = _TOLD.read_text().split(":")
    if _kind == "fork":
        import moonflower.server.coordinator
        from support import forking

        moonflower.server.coordinator.Witnesses = forking.Forking
    else:
        import moonflower.server.live
        from moonflower.federation.drills.hostile_coordinator import DrilledCoordinator

        DrilledCoordinator.drills = {int(_number): (_kind, _member)}
        moonflower.server.live.Coordinator = DrilledCoordinator
