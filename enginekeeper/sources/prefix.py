"""A Hugging Face directory below a prefix of an object store."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

from enginekeeper.errors import UnavailableError
from enginekeeper.sources.inspection import inspect_model
from enginekeeper.sources.model_directory import ModelDirectory
from enginekeeper.sources.workplace import Workplace
from registry.digests import digest_document


class PrefixReader(Protocol):
    """What reading a prefix takes; the object store's own code implements it."""

    def state(self, url: str) -> str:
        """Returns a text that changes whenever an object below the prefix does."""

    def fetch(self, url: str, destination: Path) -> None:
        """Copies every object below the prefix into a directory, by its relative name."""


def fetch_prefix(url: str, place: Workplace, reader: PrefixReader | None) -> ModelDirectory:
    """Returns the copied model; an unchanged prefix is copied once."""
    if reader is None:
        raise UnavailableError(
            "no object store is set up",
            where=url,
            remedy="copy the directory here and name it by path",
        )
    key = digest_document({"url": url, "state": reader.state(url)}, "ek-prefix-model-v1")
    with place.store.product("prefix", key) as (product, record):
        if not product.complete:
            target = product.path / "model"
            target.mkdir(parents=True)
            reader.fetch(url, target)
            inspect_model(target, place.memory)  # else a half copy would be kept
            record["url"] = url
    return inspect_model(place.store.path("prefix", key) / "model", place.memory)
