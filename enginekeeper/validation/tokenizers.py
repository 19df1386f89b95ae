"""What the tokenizer that is shipped with an engine says, against the model's own.

No runner is asked: it is fed ids. Where a server's tokenizer, template or stop tokens are another
model's, every other number of a verdict is as it should be, and every answer is not.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from enginekeeper.documents import read_json_object
from enginekeeper.errors import InputError
from enginekeeper.validation.probes import TEXTS, Counted

SCHEMA = "1"

NOT_SHIPPED = (
    "no tokenizer is shipped with the engine; --tokenizer names the one that will serve it"
)


def nothing_shipped() -> dict[str, Counted | str]:
    """Returns what becomes of these probes where there is nothing to compare."""
    return dict.fromkeys(TEXTS, NOT_SHIPPED)


def load_texts(path: Path) -> dict[str, Counted | str]:
    """Reads what the step `probe_tokenizer` wrote, by probe; raises InputError for another file."""
    document = read_json_object(path)
    if document.get("schema") != SCHEMA:
        raise InputError(
            "a comparison of tokenizers of another version", where=str(path),
            actual=document.get("schema"), expected=SCHEMA,
        )  # fmt: skip
    probes = document.get("probes")
    if not isinstance(probes, Mapping):
        raise InputError("not a comparison of tokenizers", where=f"{path}: probes", actual=probes)
    return {name: _said(probes.get(name.removeprefix("probe.")), name, path) for name in TEXTS}


def _said(said: Any, name: str, path: Path) -> Counted | str:  # noqa: ANN401 - any JSON value
    if isinstance(said, Mapping) and isinstance(absent := said.get("absent"), str):
        return absent
    return Counted.of(said, f"{path}: {name}")
