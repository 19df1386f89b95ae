"""Finds where the pinned CPU build of torch can be had, before anything large is downloaded."""

from __future__ import annotations

import tempfile
from pathlib import Path

from enginekeeper.errors import UnavailableError
from enginekeeper.settings import Settings
from enginekeeper.toolchains.catalogue import PYTHON
from enginekeeper.toolchains.uv import UvCall, call_uv

_PROBE_SECONDS = 60.0  # metadata of one distribution; uv itself gives up after three tries


def find_links_options(settings: Settings) -> tuple[str, ...]:
    """Returns uv's options for the places with wheels that exist; uv fails at one that does not."""
    places = [place for place in settings.find_links if "://" in place or Path(place).is_dir()]
    return tuple(option for place in places for option in ("--find-links", place))


def find_torch(requirement: str, settings: Settings) -> tuple[str, ...]:
    """Returns uv's options for the first place that has this torch.

    Local wheels come first: only then PyTorch's index is asked, for metadata only.
    """
    local = find_links_options(settings)
    places = [("--no-index", *local)] if local else []
    places.append(("--default-index", settings.torch_index))
    reasons, transient = [], False
    for options in places:
        try:
            _probe(requirement, options)
        except UnavailableError as error:
            reasons.append(f"{options[-1]}: {error.actual or error.what}")
            transient |= error.transient
        else:
            return options
    raise UnavailableError(
        f"{requirement} is not to be had: PyPI has no CPU build of it",
        actual="; ".join(reasons),
        expected=f"a wheel for Python {PYTHON[0]}.{PYTHON[1]} in one of these places",
        remedy="set PIP_FIND_LINKS (or UV_FIND_LINKS) to a folder with the wheel, "
        f"or give this host access to {settings.torch_index} (or a mirror of it: "
        "ENGINEKEEPER_TORCH_INDEX)",
        transient=transient,
    )


def _probe(requirement: str, options: tuple[str, ...]) -> None:
    """Resolves one requirement without its dependencies, which reads metadata and no wheel."""
    with tempfile.TemporaryDirectory(prefix="enginekeeper-probe-") as folder:
        wanted = Path(folder) / "torch.in"
        wanted.write_text(requirement + "\n", encoding="utf-8")
        call_uv(
            UvCall(
                purpose=f"looking for {requirement}",
                arguments=(
                    "pip", "compile", "--quiet", str(wanted), "--no-deps", "--no-build",
                    "--python-version", ".".join(map(str, PYTHON)),
                    "--output-file", str(Path(folder) / "found"), *options,
                ),
                directory=Path(folder),
                log=Path(folder) / "uv.log",
                timeout_seconds=_PROBE_SECONDS,
            )
        )  # fmt: skip
