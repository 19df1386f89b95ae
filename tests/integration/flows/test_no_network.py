"""A build on a machine that is cut off: one clear message, soon, and it says that it tries again.

Runs in a network namespace without any network; where that is not permitted, with proxies that
nobody answers for. Prefect waits ten seconds before each of two retries; here they follow at once.
"""

from __future__ import annotations

import shutil
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest

from enginekeeper.settings import Settings
from enginekeeper.toolchains.installation import toolchains_folder
from tests.fakes.worlds import SPEC, Ended, World, Zygote, zygote

SOON = 90.0  # seconds for three tries; uv takes four for each, the rest well under one
NAMESPACE = ("unshare", "--map-root-user", "--net")
PROXIES = dict.fromkeys(
    ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"), "http://127.0.0.1:9"
)
AWS = {
    "AWS_ACCESS_KEY_ID": "nobody",
    "AWS_SECRET_ACCESS_KEY": "nothing",
    "AWS_EC2_METADATA_DISABLED": "true",
    "AWS_DEFAULT_REGION": "eu-central-1",
}
ON_S3 = SPEC.replace(f"repo: tests/tiny, revision: {'a' * 40}", "s3: s3://models/tiny")


@dataclass(frozen=True)
class CutOff:
    """A zygote without a network, and what its builds see of proxies."""

    zygote: Zygote
    environment: Mapping[str, str]


@pytest.fixture(scope="module")
def cut_off() -> Iterator[CutOff]:
    unshare = shutil.which(NAMESPACE[0])
    permitted = (
        unshare is not None
        and (
            subprocess.run([unshare, *NAMESPACE[1:], "true"], capture_output=True, check=False)
        ).returncode
        == 0
    )
    with zygote(plain=True, under=NAMESPACE if permitted else ()) as found:
        yield CutOff(found, {} if permitted else PROXIES)


Try = Callable[..., tuple[World, Ended]]


@pytest.fixture
def attempt(cut_off: CutOff, tmp_path: Path) -> Try:
    """Builds once, without a network, and checks how it ends."""

    def build(
        spec: str = SPEC, toolchains: Path | None = None, **environment: str
    ) -> tuple[World, Ended]:
        environ = {**cut_off.environment, **environment}
        world = World(tmp_path / "world", cut_off.zygote, spec=spec, environment=environ)
        if toolchains is not None:
            shutil.rmtree(toolchains_folder(world.settings))
            toolchains_folder(world.settings).symlink_to(toolchains)
        started = time.monotonic()
        ended = world.build()
        assert ended.status == 10, ended.err
        assert "Traceback" not in ended.err
        assert ended.err.count("trying again") == 2
        assert time.monotonic() - started < SOON
        return world, ended

    return build


def test_a_model_on_s3(attempt: Try) -> None:
    _, ended = attempt(ON_S3, **AWS)

    assert ended.err.count('"what": "S3 does not do what was asked: ') == 1


def test_a_store_on_s3_is_missed_before_anything_is_built(attempt: Try) -> None:
    world, ended = attempt(ENGINEKEEPER_STORE="s3://engines/store", **AWS)

    assert ended.err.count('"what": "S3 does not do what was asked: ') == 1
    assert any("work/reference/" in product for product in world.products())  # kept
    assert not any("work/engine/" in product for product in world.products())


def test_a_catalogue_on_postgresql(attempt: Try) -> None:
    _, ended = attempt(ENGINEKEEPER_CATALOGUE="postgresql://keeper@db.invalid/engines")

    assert ended.err.count('"what": "the catalogue does not answer: ') == 1


def test_toolchains_that_are_not_here_yet(attempt: Try, tmp_path: Path) -> None:
    (tmp_path / "none").mkdir()

    # without local wheels: they would be unpacked before the first question to the network
    nothing = {"UV_CACHE_DIR": str(tmp_path / "uv"), "PIP_FIND_LINKS": "", "UV_FIND_LINKS": ""}

    _, ended = attempt(toolchains=tmp_path / "none", **nothing)

    assert ended.err.count('"error": "UnavailableError"') == 1


@pytest.mark.toolchain
def test_a_model_of_the_hub(attempt: Try) -> None:
    _, ended = attempt(toolchains=toolchains_folder(Settings.from_environment()))

    assert ended.err.count('the Hugging Face Hub cannot be reached"') == 1
