from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from enginekeeper.errors import InputError
from enginekeeper.validation.probes import TEXTS, UNASKED, text_checks
from enginekeeper.validation.tokenizers import NOT_SHIPPED, load_texts, nothing_shipped

PROBES: dict[str, Any] = {
    "tokenizer": {"asked": 78, "wrong": ["nfd: token 0 is 5, the model's is 7"]},
    "template": {"absent": "neither has a chat template"},
    "stop_tokens": {"asked": 2, "wrong": []},
}


def written(path: Path, **changes: object) -> Path:
    path.write_text(json.dumps({"schema": "1", "probes": PROBES, **changes}))
    return path


def test_a_text_that_is_cut_otherwise_fails_and_is_named(tmp_path: Path) -> None:
    texts = load_texts(written(tmp_path / "texts.json"))

    tokenizer, template, stop = text_checks(texts)

    assert (tokenizer.outcome, tokenizer.value, tokenizer.prompts) == ("fail", 1.0, 78)
    assert tokenizer.finding is not None
    assert tokenizer.finding.taxonomy == "T21"
    assert "nfd: token 0" in tokenizer.finding.message
    assert (template.outcome, template.note) == ("not run", "neither has a chat template")
    assert stop.outcome == "pass"


def test_what_is_not_shipped_or_not_asked_for_is_not_run_and_says_which() -> None:
    assert {check.note for check in text_checks(nothing_shipped())} == {NOT_SHIPPED}
    assert {check.note for check in text_checks(None)} == {UNASKED}
    assert {check.outcome for check in text_checks(nothing_shipped())} == {"not run"}


@pytest.mark.parametrize(
    "changes",
    [
        {"schema": "2"},
        {"probes": []},
        {"probes": {**PROBES, "template": {"asked": True, "wrong": []}}},
        {"probes": {"tokenizer": PROBES["tokenizer"]}},
    ],
)
def test_a_file_that_is_not_whole_is_refused(tmp_path: Path, changes: dict[str, object]) -> None:
    with pytest.raises(InputError):
        load_texts(written(tmp_path / "texts.json", **changes))


def test_three_probes_need_no_runner() -> None:
    assert TEXTS == ("probe.tokenizer", "probe.template", "probe.stop_tokens")
