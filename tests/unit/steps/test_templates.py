"""What a template may use up, and what becomes of one that wants more."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from typing import Any

import pytest

from tests.factories.step_modules import step_module

MESSAGES = [{"role": "user", "content": "a"}]


class Tokenizer:
    """Renders by a function, as a tokenizer does by its template."""

    def __init__(self, rendered: Callable[[], str]) -> None:
        self.chat_template = "a template"
        self._rendered = rendered

    def apply_chat_template(self, _messages: object, **_how: object) -> str:
        return self._rendered()


def templates(rendered: Callable[[], str], monkeypatch: pytest.MonkeyPatch) -> Any:  # noqa: ANN401
    module = step_module("_templates")
    monkeypatch.setattr(module, "SECONDS", 1.0)
    return module.Templates(Tokenizer(rendered))


def refused(rendered: Callable[[], str], monkeypatch: pytest.MonkeyPatch) -> str:
    with pytest.raises(step_module("_tokenizers").Refused) as caught:
        templates(rendered, monkeypatch).render(MESSAGES, prompt=True)
    return str(caught.value)


def forever() -> str:
    while True:
        pass


def in_one_expression() -> str:
    return str(9**9**9)  # which no signal handler interrupts


def a_huge_text() -> str:
    return "".join("a" * (16 << 20) for _ in range(1 << 20))


def raises() -> str:
    raise ValueError("system comes first")


def waits() -> str:
    time.sleep(60)
    return ""


def kills() -> str:
    os.kill(os.getpid(), signal.SIGTERM)
    return ""


@pytest.mark.parametrize("text", ["", "[user]a", "\ud83d", "\U0001f600" * 900_000])
def test_what_is_written_comes_back_as_it_is(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert templates(lambda: text, monkeypatch).render(MESSAGES, prompt=True) == text


@pytest.mark.parametrize(
    ("rendered", "words"),
    [
        (forever, "more than 20 s of processor time"),
        (in_one_expression, "more than 20 s of processor time"),
        (a_huge_text, "MemoryError"),
        (lambda: "a" * 1_000_001, "it writes 1000001 characters, more than 1000000"),
        (raises, "ValueError system comes first"),
        (kills, "it ended the process that rendered it (signal 15)"),
    ],
)
def test_a_template_that_wants_more_than_it_may_is_refused_in_words(
    rendered: Callable[[], str], words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert words in refused(rendered, monkeypatch)


def test_a_child_ends_by_a_signal_that_its_parent_handles(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    before = signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
    try:
        said = refused(kills, monkeypatch)
    finally:
        signal.signal(signal.SIGTERM, before)
    assert "signal 15" in said


def test_a_template_that_used_up_its_time_is_not_asked_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked = templates(forever, monkeypatch)
    started = time.monotonic()
    for _ in range(20):
        with pytest.raises(step_module("_tokenizers").Refused, match="processor time"):
            asked.render(MESSAGES, prompt=True)

    assert time.monotonic() - started < 20


def test_a_template_that_waits_without_working_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(step_module("_templates"), "DEADLINE", 0.5)

    assert "processor time" in refused(waits, monkeypatch)


def test_limits_are_of_the_child_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    refused(a_huge_text, monkeypatch)

    assert len(bytearray(700 << 20)) == 700 << 20


def test_a_name_that_no_template_has_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(step_module("_tokenizers").Refused, match="no template 'tool_use'"):
        templates(lambda: "a", monkeypatch).render(MESSAGES, prompt=True, name="tool_use")
