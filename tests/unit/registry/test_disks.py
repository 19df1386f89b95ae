"""A full disk: noticed whatever is full, said with the place, and nothing else is taken for it."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest

from registry.disks import full_disk_said
from registry.errors import DiskFullError


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG])
def test_what_is_full_is_said_with_its_place_and_room(tmp_path: Path, code: int) -> None:
    path = tmp_path / "absent" / "file"

    with pytest.raises(DiskFullError, match="disk is full") as caught, full_disk_said():
        raise OSError(code, "no room", str(path))

    assert caught.value.where == str(path)
    assert str(caught.value.actual).startswith("no room; ")
    assert str(caught.value.actual).endswith(" MB free")


def test_an_open_file_names_no_place_so_the_caller_does(tmp_path: Path) -> None:
    with pytest.raises(DiskFullError) as caught, full_disk_said(tmp_path):
        raise OSError(errno.ENOSPC, "no room")

    assert caught.value.where == str(tmp_path)


def test_a_place_that_nobody_knows_is_not_made_up() -> None:
    with pytest.raises(DiskFullError) as caught, full_disk_said():
        raise OSError(errno.ENOSPC, "no room")

    assert (caught.value.where, caught.value.actual) == (None, "no room")


def test_any_other_error_stays_what_it_is() -> None:
    with pytest.raises(PermissionError), full_disk_said():
        raise PermissionError(errno.EACCES, "denied")
