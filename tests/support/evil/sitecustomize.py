"""Makes the ServerApp of a test dishonest: Python imports this at its start where PYTHONPATH holds this folder.

``MOONFLOWER_TEST_EVIL`` names a file with drills, a line each: ``kind:round:member``. A ServerApp that starts while the
file is there carries them out.
"""

import os
import sys
from pathlib import Path

_TOLD = Path(os.environ.get("MOONFLOWER_TEST_EVIL", ""))
if any("serverapp" in word for word in sys.argv) and _TOLD.is_file():
    sys.path.append(str(Path(__file__).parents[2]))
    _drills = [line.split(":") for line in _TOLD.read_text().splitlines()]
    if _drills[0][0] == "fork":
        import moonflower.server.coordinator
        from support import forking

        moonflower.server.coordinator.Witnesses = forking.Forking
    else:
        import moonflower.server.live
        from moonflower.federation.drills.hostile_coordinator import DrilledCoordinator

        DrilledCoordinator.drills = {int(number): (kind, member) for kind, number, member in _drills}
        moonflower.server.live.Coordinator = DrilledCoordinator
