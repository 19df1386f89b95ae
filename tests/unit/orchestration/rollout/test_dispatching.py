"""What a wave asks a deployment for: its engine as it is, or its variant built anew."""

from __future__ import annotations

from pathlib import Path

import pytest

from enginekeeper.errors import MissingError
from enginekeeper.orchestration.order import BuildOrder
from enginekeeper.orchestration.rollout.dispatching import dispatch_to, order_for
from enginekeeper.orchestration.rollout.work import by_hand
from registry.waves.types import WaveWork, WorkState
from tests.factories.benches import variants_of, write_spec
from tests.factories.waves import NOON, wave


def work(variant: str, action: str) -> WaveWork:
    return WaveWork("sha256:abc", "NVIDIA L4", "", action, WorkState.WAITING, NOON, variant)


def test_an_engine_is_judged_as_it_is_and_a_variant_is_built(tmp_path: Path) -> None:
    variant, spec = str(variants_of(tmp_path)[0].identifier), str(write_spec(tmp_path))
    (judged,) = order_for(work(variant, "revalidate"), (spec,)).builds
    (built,) = order_for(work(variant, "rebuild"), (spec,)).builds
    assert judged == BuildOrder(spec, only=(variant,), engines=("sha256:abc",))
    assert built == BuildOrder(spec, only=(variant,))


def test_without_a_spec_that_names_the_variant_nothing_is_asked_for(tmp_path: Path) -> None:
    with pytest.raises(MissingError, match="no spec of this wave") as caught:
        order_for(work("other.fp8.tp1.l4", "revalidate"), (str(write_spec(tmp_path)),))
    assert "--spec" in str(caught.value)


def test_without_a_deployment_somebody_does_it_by_hand() -> None:
    assert dispatch_to(wave()) is None
    assert dispatch_to(wave(deployment="enginekeeper-rebuild/h100")) is not None
    assert by_hand(work("v", "revalidate"), ("/s.yaml",)) == (
        "enginekeeper rebuild --engine sha256:abc --spec /s.yaml"
    )
    assert by_hand(work("v", "rebuild"), ()) == "enginekeeper build SPEC --only v"
