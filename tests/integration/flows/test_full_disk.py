"""A build on a disk that is full, at every place that writes: said plainly, and nothing half."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.fakes.worlds import Ended, World, Zygote
from tests.integration.flows.conftest import MakeWorld
from tests.integration.flows.test_interruptions import matters, without_times

NEEDS_ROOM = ("open ", "os.link ", "os.mkdir ", "os.rename ")
GROWS_BY = 256 * 1024  # bytes: a build needs a good two megabytes, so it is starved eight times


def check_starved(world: World, ended: Ended, where: str) -> None:
    assert ended.status == 10, f"{where}: {ended.status} {ended.err} {ended.out}"
    assert "Traceback" not in ended.err, where
    said = (ended.err + ended.out).count("disk is full")
    assert said in (1, 2), f"{where}: {ended.err}"  # an outcome has a summary and an error
    world.check()
    world.age()


def starve(world: World, passed: set[str]) -> Ended:
    """Builds with a disk that is full from a boundary on, another each time, until none is left."""
    before: dict[str, int] = {}
    for _ in range(1000):
        ended = world.build(passed=sorted(passed), full=True)
        if not ended.notes:
            return ended
        (where,) = ended.notes
        check_starved(world, ended, where)
        after = world.products()
        assert before.items() <= after.items(), f"{where} cost a finished product"
        before = after
        passed.add(where)
    raise AssertionError("a build that is starved nowhere twice ends")


def check_starving(make_world: MakeWorld, left_out: Callable[[str], bool]) -> None:
    calm, starved = make_world("calm"), make_world("starved")
    undisturbed = calm.build()
    assert undisturbed.status == 0, undisturbed.err
    passed = {name for name in undisturbed.notes if left_out(name)}

    ended = starve(starved, passed)

    assert ended.status == 0, ended.err
    again = starved.build()
    assert without_times(again.outcomes) == without_times(calm.build().outcomes)
    assert starved.tree() == calm.tree()


def test_every_place_that_writes_says_that_the_disk_is_full(make_world: MakeWorld) -> None:
    check_starving(make_world, lambda name: not (name.startswith(NEEDS_ROOM) and matters(name)))


@pytest.mark.slow
def test_so_do_directories_locks_and_logs(make_world: MakeWorld) -> None:
    check_starving(make_world, lambda name: not name.startswith(NEEDS_ROOM))


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Callable[[int], Path]]:
    """Mounts a disk of a size in bytes, or gives it another size."""
    place = tmp_path / "disk"
    place.mkdir()
    mount = shutil.which("mount")
    if mount is None or os.geteuid() != 0:
        pytest.skip("only root mounts a disk")
    mounted = False

    def sized(size: int) -> Path:
        nonlocal mounted
        options = f"size={size}" if not mounted else f"remount,size={size}"
        done = subprocess.run(
            [mount, "-t", "tmpfs", "-o", options, "none", str(place)],
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert not (mounted and done.returncode), done.stderr
        if done.returncode != 0:
            pytest.skip(f"this machine mounts no tmpfs: {done.stderr.strip()}")
        mounted = True
        return place

    yield sized
    if mounted:
        subprocess.run([str(Path(mount).with_name("umount")), str(place)], check=True)


def is_starved(world: World, small_disk: Callable[[int], Path], size: int) -> bool:
    small_disk(size)
    ended = world.build()
    if ended.status == 0:
        return False
    small_disk(2 * size)  # looking takes room, too
    check_starved(world, ended, f"{size} bytes")
    return True


def test_on_a_disk_that_grows_a_build_ends_when_there_is_room(
    small_disk: Callable[[int], Path], make_world: MakeWorld, plain_zygote: Zygote
) -> None:
    world = World(small_disk(GROWS_BY), plain_zygote, said=make_world("said").root)
    sizes = range(GROWS_BY, 16 * GROWS_BY, GROWS_BY)

    starved = [size for size in sizes if is_starved(world, small_disk, size)]

    assert len(starved) > 5
    assert starved == list(sizes)[: len(starved)]
    assert world.build().outcomes[0]["result"] == "pass"
    world.check()
