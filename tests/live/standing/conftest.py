"""One federation of real processes that stands for all tests that leave it whole.

One worker runs all tests of this folder, one after the other.
"""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from support import SUPPORT
from support.approving import Approvers, approvers_of
from support.live import Live, three_hospitals


@contextmanager
def disk(place: Path) -> Iterator[None]:
    """Mount a disk for the time being, where this process may; ``test_live_disk.py`` makes it small."""
    place.mkdir(parents=True)
    mount = ["mount", "-t", "tmpfs", "-o", "size=2g,mode=700", "moonflower-test", str(place)]
    mounted = (
        shutil.which("mount") is not None and not subprocess.run(mount, capture_output=True, check=False).returncode
    )
    try:
        yield
    finally:
        if mounted:
            subprocess.run(["umount", "--lazy", str(place)], check=True)


@pytest.fixture(scope="package")
def told(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The file that tells a ServerApp of the standing federation what to do; where there is none it is honest."""
    return tmp_path_factory.mktemp("evil") / "told"


@pytest.fixture(scope="package")
def approvers(tmp_path_factory: pytest.TempPathFactory, told: Path) -> Iterator[Approvers]:
    """The standing federation, with the approvers of two of its members."""
    folder = tmp_path_factory.mktemp("live")
    own = {"keep_envelopes_h": 1, "state": "state"}
    short = {"issuer": {"token_ttl_s": 5}, "oauth": {"leeway_s": 1}, "server": own}
    environment = {"PYTHONPATH": str(SUPPORT / "evil"), "MOONFLOWER_TEST_EVIL": str(told)}
    slow = "training.train_timeout_s=20"  # a member that is connected and takes longer is named
    with disk(folder / "up" / "state"):
        whole = Live(folder / "up", slow, config=three_hospitals(folder), environment=environment, **short)
        made = approvers_of(whole, folder)
        with whole:
            yield made


@pytest.fixture(scope="package")
def live(approvers: Approvers) -> Live:
    """The standing federation; every test leaves it whole."""
    return approvers.live
