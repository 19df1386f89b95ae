"""How each release is asked: only by names that it takes, and what it cannot be asked."""

from __future__ import annotations

import pytest

from enginekeeper.errors import InputError
from enginekeeper.specs.llm_api import interface_of, serve_interface_of
from enginekeeper.specs.releases import releases


def test_every_release_has_an_interface_to_each_of_its_backends() -> None:
    for release in releases().values():
        backends = [*(["engine"] if release.builds_engines else ["pytorch"])]
        for backend in backends:
            assert interface_of(release.version, backend).arguments  # type: ignore[arg-type]


def test_engines_of_releases_from_1_0_on_are_loaded_by_a_class_of_their_own() -> None:
    assert interface_of("0.21.0", "engine").module == "tensorrt_llm"
    assert interface_of("1.2.1", "engine").module == "tensorrt_llm._tensorrt_engine"
    assert interface_of("1.2.1", "pytorch").module == "tensorrt_llm"


@pytest.mark.parametrize(("version", "backend"), [("0.21.0", "pytorch"), ("1.3.0rc22", "engine")])
def test_a_backend_that_a_release_lacks_is_refused(version: str, backend: str) -> None:
    with pytest.raises(InputError, match="no interface"):
        interface_of(version, backend)  # type: ignore[arg-type]


def test_a_release_that_nobody_described_is_refused() -> None:
    with pytest.raises(InputError, match="nothing is known"):
        interface_of("0.9.0", "engine")


def test_an_argument_that_the_constructor_does_not_take_is_named() -> None:
    with pytest.raises(InputError, match="max_beam_length"):
        interface_of("1.2.1", "engine").accepting({"model": "x", "max_beam_length": 1})


def test_log_probabilities_over_http_came_late() -> None:
    assert [serve_interface_of(one).logprobs for one in ("0.21.0", "1.2.1")] == [False, True]
