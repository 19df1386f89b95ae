"""The options that choose engines, and the filter they make."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from registry.types import EngineFilter
    from registry.versions import VersionRange

_OPTIONS = (
    click.option("--model", help="Only engines of this model."),
    click.option("--recipe", help="Only engines of this recipe."),
    click.option("--target", help="Only engines for this target."),
    click.option("--variant", help="Only engines built as this variant."),
    click.option(
        "--compute-capability", metavar="VERSIONS", help="Only engines built for it: 9.0, >=8.9."
    ),
    click.option(
        "--cuda", metavar="VERSIONS", help="Only engines of this CUDA runtime: 12, >=12.4,<13."
    ),
    click.option(
        "--driver-branch", "driver", metavar="VERSIONS",
        help="Only engines judged under such a driver: R580, 580.95, >=570.",
    ),
    click.option(
        "--qualified", is_flag=True,
        help="Only engines whose latest verdict (under such a driver) passed.",
    ),
    click.option("--limit", type=click.IntRange(min=1), help="At most so many, the newest."),
)  # fmt: skip


def engine_filter(command: Callable[..., Any]) -> Callable[..., Any]:
    """Adds the options; the command receives them as `wanted`, an EngineFilter."""

    @functools.wraps(command)
    def call(
        *,
        compute_capability: str | None,
        cuda: str | None,
        driver: str | None,
        as_json: bool,
        **names: Any,  # noqa: ANN401 - what click parsed
    ) -> Any:  # noqa: ANN401 - what the command returns
        wanted = _filter(
            compute_capability=_range("--compute-capability", compute_capability),
            cuda=_range("--cuda", cuda),
            driver=_range("--driver-branch", driver),
            **names,
        )
        return command(wanted=wanted, as_json=as_json)

    for option in reversed(_OPTIONS):
        call = option(call)
    return call


def _filter(**fields: Any) -> EngineFilter:  # noqa: ANN401 - its fields
    from registry.types import EngineFilter

    return EngineFilter(**fields)


def _range(option: str, text: str | None) -> VersionRange | None:
    from registry.versions import VersionRange

    return None if text is None else VersionRange.parse(text, where=option)
