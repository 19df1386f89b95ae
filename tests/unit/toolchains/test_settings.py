from __future__ import annotations

from pathlib import Path

import pytest

from enginekeeper.settings import Settings


def test_defaults_follow_the_xdg_folders() -> None:
    settings = Settings.from_environment(
        {"HOME": "/h", "XDG_DATA_HOME": "/d", "XDG_CACHE_HOME": "/c"}
    )

    assert settings.home == Path("/d/enginekeeper")
    assert settings.cache == Path("/c/enginekeeper")
    assert settings.catalogue_url == "sqlite:////d/enginekeeper/catalogue.sqlite"
    assert settings.store_url == "file:///d/enginekeeper/store"


@pytest.mark.parametrize("base", [{}, {"XDG_DATA_HOME": "", "XDG_CACHE_HOME": "relative"}])
def test_without_xdg_folders_the_home_folder_is_used(base: dict[str, str]) -> None:
    settings = Settings.from_environment({"HOME": "/h", **base})

    assert settings.home == Path("/h/.local/share/enginekeeper")
    assert settings.cache == Path("/h/.cache/enginekeeper")


def test_what_is_set_wins() -> None:
    settings = Settings.from_environment(
        {
            "HOME": "/h",
            "ENGINEKEEPER_HOME": "/home/ek",
            "ENGINEKEEPER_CACHE": "/cache/ek",
            "ENGINEKEEPER_CATALOGUE": "postgresql://db/ek",
            "ENGINEKEEPER_STORE": "s3://bucket/ek",
            "ENGINEKEEPER_TORCH_INDEX": "https://mirror/cpu",
            "CXX": "clang++",
        }
    )

    assert (settings.home, settings.cache) == (Path("/home/ek"), Path("/cache/ek"))
    assert settings.catalogue_url == "postgresql://db/ek"
    assert settings.store_url == "s3://bucket/ek"
    assert (settings.torch_index, settings.compiler) == ("https://mirror/cpu", "clang++")


def test_a_relative_folder_does_not_move_with_the_working_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)

    assert Settings.from_environment({"HOME": "/h", "ENGINEKEEPER_HOME": "ek"}).home == (
        tmp_path / "ek"
    )


def test_places_with_wheels_are_read_as_uv_and_pip_write_them() -> None:
    env = {"HOME": "/h", "UV_FIND_LINKS": "/a,https://b", "PIP_FIND_LINKS": "/c /a"}

    assert Settings.from_environment(env).find_links == ("/a", "https://b", "/c")
