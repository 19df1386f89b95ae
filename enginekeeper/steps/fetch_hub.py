"""Downloads a model of the Hugging Face Hub at one commit: the only step that uses the network.

No token of this machine is sent: what is behind a login is downloaded by hand and named by path.
"""

from __future__ import annotations

import glob
import shutil
from collections.abc import Iterable
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from _step import Refusal, main

WANTED = ("*.safetensors", "*.safetensors.index.json", "*.json", "*.txt", "*.model", "*.jinja")
UNWANTED = ("consolidated*", "*.gguf")
"""`consolidated` files are the same weights once more."""

TEMPLATES = "additional_chat_templates"
"""The one folder that is the model's; others hold other formats."""


def run(job: dict[str, Any]) -> dict[str, Any]:
    """Resolves the revision to a commit and, with an output, downloads it."""
    repo, revision = job["repo"], job["revision"]
    info = _ask(repo, lambda hub: hub.HfApi(token=False).model_info(repo, revision=revision))
    commit = info.sha
    if job.get("output") is None:
        return {"commit": commit}
    output = Path(job["output"])
    names = wanted(one.rfilename for one in info.siblings or ())
    print(f"progress 0/1 downloading {repo} at {commit}", flush=True)
    _ask(
        repo,
        lambda hub: hub.snapshot_download(
            repo,
            revision=commit,
            local_dir=output,
            allow_patterns=[glob.escape(name) for name in names],
            token=False,
        ),
    )
    shutil.rmtree(output / ".cache", ignore_errors=True)  # its notes on partial downloads
    return {"commit": commit, "files": sorted(path.name for path in output.iterdir())}


def wanted(names: Iterable[str]) -> list[str]:
    """Returns which files of a repository are the model: weights, configs, what serves it."""
    return sorted(name for name in names if _is_wanted(*name.rpartition("/")))


def _is_wanted(folder: str, _slash: str, name: str) -> bool:
    if folder:
        return folder == TEMPLATES and name.endswith(".jinja")
    return any(fnmatchcase(name, one) for one in WANTED) and not any(
        fnmatchcase(name, one) for one in UNWANTED
    )


def _ask(repo: str, question: Any) -> Any:  # noqa: ANN401 - huggingface_hub's own answers
    """Asks the Hub; every way it says no is a refusal."""
    import httpx  # noqa: PLC0415 - huggingface_hub's own client
    import huggingface_hub  # noqa: PLC0415
    from huggingface_hub import errors  # noqa: PLC0415

    try:
        return question(huggingface_hub)
    except errors.GatedRepoError as fault:
        raise Refusal(
            "gated",
            "the repository is behind a login",
            where=repo,
            remedy="download it yourself and name its directory in the spec",
        ) from fault
    except errors.RevisionNotFoundError as fault:
        raise Refusal("not-found", "the repository has no such revision", where=repo) from fault
    except errors.RepositoryNotFoundError as fault:
        raise Refusal("not-found", "no such repository, or a private one", where=repo) from fault
    except (
        errors.HfHubHTTPError,
        errors.OfflineModeIsEnabled,
        errors.LocalEntryNotFoundError,
        httpx.TransportError,
    ) as fault:
        raise Refusal(
            "offline",
            "the Hugging Face Hub cannot be reached",
            where=repo,
            actual=f"{type(fault).__name__}: {str(fault).splitlines()[0]}",
            remedy="look at the network or set HF_ENDPOINT; what was downloaded is kept",
        ) from fault


if __name__ == "__main__":
    main(run)
