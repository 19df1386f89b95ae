"""Holds the tokenizer that is shipped with an engine, or will serve it, against its model's own."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from enginekeeper.configs.vllm_bundle import MODEL
from enginekeeper.errors import InputError
from enginekeeper.orchestration import stages
from enginekeeper.orchestration.stages import Made, Probe, Source
from enginekeeper.orchestration.workshop import Workshop
from enginekeeper.own_code import PACKAGE
from enginekeeper.sources.tokenizer_files import has_tokenizer, require_tokenizer, serving_files
from registry.digests import digest_file

TEXTS = "texts.json"
STEP = "probe_tokenizer"
AWKWARD = PACKAGE / "data" / "probes" / "awkward-v1.json"
"""Texts that tokenizers differ on, and conversations that templates do."""

_LARGEST = 64 * 1024 * 1024
"""Bytes of one file; a tokenizer of 256,000 tokens has 35 MB."""


def shipped_with(directory: Path, named: str | None) -> Path | None:
    """Returns where the tokenizer lies that serves an engine; None where nobody knows.

    Bundles have one, and it is what serves, whatever is named; an engine directory has none, so
    whoever serves it names one. Raises InputError where what is named has no tokenizer.
    """
    if named is not None:
        require_tokenizer(Path(named))
    own = next((one for one in (directory, directory / MODEL) if has_tokenizer(one)), None)
    return Path(named) if own is None and named is not None else own


def probe_tokenizer(
    shop: Workshop, source: Source, shipped: Path, probe: Probe, *, name: str
) -> Made:
    """Compares two tokenizers once for the same files."""
    inputs = {
        "source": files_of(source.path),
        "shipped": files_of(shipped),
        "vocabulary": probe.suite.vocab_size,
        "texts": str(digest_file(AWKWARD)),
        "made_by": shop.identity("inductor", STEP),
    }

    def make(directory: Path) -> dict[str, Any]:
        job = {
            "source": str(source.path),
            "shipped": str(shipped.absolute()),
            "vocabulary": probe.suite.vocab_size,
            "texts": str(AWKWARD),
            "output": str(directory / TEXTS),
        }
        outcome = shop.run("inductor", STEP, job, name=name, minutes=10)
        return {"seconds": outcome.seconds}

    return stages.made_once(shop, "tokenizer-texts", inputs, make)


def files_of(directory: Path) -> Mapping[str, str]:
    """Names what is read by its bytes; raises InputError for a file that is no tokenizer's.

    The config is read for where a text ends, if nothing else says so.
    """
    config = directory / "config.json"
    present = [directory / name for name in serving_files(directory)]
    present += [config] if config.is_file() else []
    for path in present:
        if (size := path.stat().st_size) > _LARGEST:
            raise InputError(
                "too large for a file of a tokenizer", where=str(path), actual=f"{size} bytes",
                expected=f"at most {_LARGEST} bytes",
            )  # fmt: skip
    return {path.relative_to(directory).as_posix(): str(digest_file(path)) for path in present}
