from __future__ import annotations

import math

import pytest

from enginekeeper.errors import InputError
from enginekeeper.validation.policy import AcceptancePolicy


def test_the_defaults_are_usable_and_recorded() -> None:
    assert AcceptancePolicy().as_dict() == {
        "max_fidelity_kl": 0.0025,
        "max_perplexity_ratio": 1.10,
        "max_quality_kl": 0.10,
        "min_top1_agreement": 0.85,
        "confidence": 0.99,
    }


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("max_fidelity_kl", 0.0),
        ("max_fidelity_kl", math.nan),
        ("max_perplexity_ratio", 0.9),
        ("max_quality_kl", math.inf),
        ("min_top1_agreement", 85.0),
        ("confidence", 0.5),
        ("confidence", 1.0),
    ],
)
def test_a_limit_that_means_nothing_is_refused(field: str, value: float) -> None:
    with pytest.raises(InputError, match="not a usable limit") as caught:
        AcceptancePolicy(**{field: value})

    assert caught.value.where == f"acceptance.{field}"
