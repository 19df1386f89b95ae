"""A model of the Hugging Face Hub, at one commit."""

from __future__ import annotations

import re
from typing import Any

from enginekeeper.errors import EngineKeeperError, InputError, MissingError, UnavailableError
from enginekeeper.sources.inspection import inspect_model
from enginekeeper.sources.model_directory import ModelDirectory
from enginekeeper.sources.workplace import Workplace
from enginekeeper.toolchains.errors import StepRefusedError
from registry.digests import Digest, digest_document

_COMMIT = re.compile(r"[0-9a-f]{40}")
_ASK_MINUTES = 2.0
_DOWNLOAD_MINUTES = 12 * 60.0  # 140 GB over 30 Mbit/s

_FAMILIES: dict[str, type[EngineKeeperError]] = {
    "offline": UnavailableError,
    "not-found": MissingError,
    "gated": InputError,
}


def fetch_hub(repo: str, revision: str, place: Workplace) -> ModelDirectory:
    """Returns the downloaded model; a commit that is here already needs no network."""
    commit = revision if _COMMIT.fullmatch(revision) else _commit_of(repo, revision, place)
    key = hub_key(repo, commit)
    with place.store.product("hub", key) as (product, record):
        if not product.complete:
            # Outside the product, which does not outlive an interruption: a download does.
            download = place.root / "downloads" / key.short
            job = {"repo": repo, "revision": commit, "output": str(download)}
            outputs = _run(place, job, _DOWNLOAD_MINUTES)
            if outputs["commit"] != commit:
                raise InputError(
                    "the hub has another commit under this name",
                    where=repo,
                    actual=outputs["commit"],
                    expected=commit,
                )
            product.path.mkdir(parents=True, exist_ok=True)
            download.rename(product.path / "model")
            inspect_model(product.path / "model", place.memory)  # else it would be kept
            record.update({"repo": repo, "commit": commit})
    return inspect_model(place.store.path("hub", key) / "model", place.memory)


def find_hub(repo: str, commit: str, place: Workplace) -> ModelDirectory | None:
    """Returns the model if it is here; a branch is not: what it points at is not known."""
    kept = place.store.find("hub", hub_key(repo, commit))
    return None if kept is None else inspect_model(kept / "model", place.memory)


def hub_key(repo: str, commit: str) -> Digest:
    """Names the downloaded model."""
    return digest_document({"repo": repo, "commit": commit}, "ek-hub-model-v1")


def _commit_of(repo: str, revision: str, place: Workplace) -> str:
    """Returns what a branch or tag points at now."""
    outputs = _run(place, {"repo": repo, "revision": revision, "output": None}, _ASK_MINUTES)
    return str(outputs["commit"])


def _run(place: Workplace, job: dict[str, Any], minutes: float) -> dict[str, Any]:
    try:
        return dict(place.run("fetch_hub", job, minutes=minutes, network=True).outputs)
    except StepRefusedError as refusal:
        family = _FAMILIES.get(refusal.kind)
        if family is None:
            raise
        raise family(
            refusal.what,
            actual=refusal.actual,
            expected=refusal.expected,
            remedy=refusal.remedy,
            transient=refusal.kind == "offline",
        ) from refusal
