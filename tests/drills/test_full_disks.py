"""Disks that are full, wherever something is written, and disks that really are."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from registry.errors import DiskFullError
from registry.publishing import EnginePublication
from tests.drills.ground import Ground, make_ground
from tests.drills.ledger import Ledger
from tests.drills.moments import Moments, in_a_process

_MOST = 200
_STARVED, _OTHER = 7, 8
SIZE = 3 * 1024 * 1024
"""Bytes of the engine that the small disk has no room for."""


def starve(_name: str) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), _name)


def test_no_room_at_any_place_that_writes(local_ground: Ground, ledger: Ledger) -> None:
    drill = ledger.drill(
        "disk full", "ENOSPC at every file operation of publish, verdict and channel move; "
        "and a disk of 2 to 6 MB (tmpfs), where root may mount one",
    )  # fmt: skip
    local_ground.live(local_ground.publication())
    for at in range(1, _MOST):
        publication = local_ground.publication()

        def work(at: int = at) -> None:
            registry = local_ground.opened()
            moments = Moments(at, starve, files_only=True)
            moments.listen(registry, local_ground.store_url.removeprefix("file://"))
            try:
                local_ground.live(publication, registry)  # noqa: B023 - runs at once
            except DiskFullError as error:
                os._exit(_STARVED if error.where and error.remedy else _OTHER)

        local_ground.passed.add(publication.manifest.digest)
        status = in_a_process(work)
        assert status in (0, _STARVED), f"{status} at {at}"
        digest = publication.manifest.digest
        drill.ran(local_ground.look(digest), f"place {at}")
        local_ground.live(publication)
        drill.ran(local_ground.look(digest), f"again after {at}")
        if status == 0:
            break
    else:
        pytest.fail(f"place {_MOST - 1} was starved as well: raise _MOST")
    assert at > 10
    drill.ran(local_ground.look(), "at the end")


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    mount = shutil.which("mount")
    place = tmp_path / "disk"
    place.mkdir()
    if mount is None or os.geteuid() != 0:
        pytest.skip("only root mounts a disk")
    options = ["-t", "tmpfs", "-o", "size=2m", "none", str(place)]
    if subprocess.run([mount, *options], capture_output=True, check=False).returncode:
        pytest.skip("this machine mounts no tmpfs")
    yield place
    subprocess.run([str(Path(mount).with_name("umount")), str(place)], check=True)


def test_a_disk_that_is_full_until_it_grows(
    small_disk: Path, tmp_path: Path, ledger: Ledger
) -> None:
    drill = ledger.drill(
        "disk full", "ENOSPC at every file operation of publish, verdict and channel move; "
        "and a disk of 2 to 6 MB (tmpfs), where root may mount one",
    )  # fmt: skip
    url, store = f"sqlite:///{small_disk}/catalogue.db", (small_disk / "store").as_uri()
    with make_ground(tmp_path / "bench", url, store) as ground:
        publication = ground.publication(os.urandom(SIZE))
        starved = 0
        for megabytes in (2, 3, 4, 5, 6):
            grow(small_disk, megabytes)
            starved += not fits(ground, publication)
            grow(small_disk, 2 * megabytes)  # looking takes room, too
            drill.ran(ground.look(), f"{megabytes} MB")
        assert starved > 0
        assert ground.registry.engines()


def fits(ground: Ground, publication: EnginePublication) -> bool:
    """Lets an engine live; False when the disk was said to be full. Anything else is raised."""
    try:
        ground.live(publication)
    except DiskFullError:
        return False
    return True


def grow(place: Path, megabytes: int) -> None:
    options = f"remount,size={megabytes}m"
    subprocess.run(["mount", "-o", options, str(place)], check=True)  # noqa: S607 - found above
