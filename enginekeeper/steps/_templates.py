"""Chat templates, which are programs of others: rendered in a child process with limits.

Rules:

- transformers' sandbox keeps a template from files and from Python's insides; neither time nor
  memory, which a template may use up in one expression that no signal handler interrupts;
- so each text is rendered in a fork of this process, whose processor time, further memory and
  output are limited; the kernel ends what goes on;
- all texts of one template share its processor time: one that loops is not asked again;
- what a template raises, or which limit it broke, is an answer: `Refused`.
"""

from __future__ import annotations

import json
import os
import resource
import select
import signal
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from _tokenizers import Refused, ask

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

SECONDS = 20.0
"""Of processor time, for all texts of a template, some thirty. A child takes 0.02 s for SmolLM2's
368 characters and 0.04 s for 4,130, compiled anew each time (2-core virtual machine, load 5)."""

DEADLINE = 120.0
"""Seconds that pass until a child that uses none of them is ended, too."""

MEMORY = 512 << 20
"""Bytes beyond what this process has."""

LONGEST = 1_000_000
"""Characters of a rendered text; what is asked here has a few thousand."""

_ANSWER = 12 * LONGEST + 1000
"""Bytes of an answer: a character outside the first plane is 12 bytes of JSON."""

TOO_LONG = f"it takes more than {SECONDS:g} s of processor time, or {DEADLINE:g} s in all"


class Templates:
    """The chat templates of one tokenizer."""

    def __init__(self, tokenizer: Any) -> None:  # noqa: ANN401 - no types
        self._tokenizer = tokenizer
        self._left = SECONDS
        found = tokenizer.chat_template
        self.named: dict[str, str] = found if isinstance(found, dict) else {}
        """Templates by name, where there are several."""

        self.missing = found is None

    def render(
        self,
        messages: Sequence[Mapping[str, str]],
        *,
        prompt: bool,
        tools: Sequence[Mapping[str, Any]] | None = None,
        name: str | None = None,
    ) -> str:
        """Returns a conversation as the template writes it; raises Refused where it does not."""
        if self._left <= 0:
            raise Refused(TOO_LONG)
        if name is not None and name not in self.named:
            raise Refused(f"there is no template {name!r}")
        read, write = os.pipe()
        sys.stdout.flush()
        child = os.fork()
        if child == 0:
            os.close(read)
            self._answer(write, messages, prompt=prompt, tools=tools, name=name)
        os.close(write)
        return self._said(child, read)

    def _answer(self, write: int, *asked: Any, **how: Any) -> NoReturn:  # noqa: ANN401
        """Renders within the limits, writes what came of it, and ends this child in any case."""
        try:
            for ends in (signal.SIGTERM, signal.SIGINT):
                signal.signal(ends, signal.SIG_DFL)  # what the parent does then is not for a child
            _limit(self._left)
            try:
                answer = {"text": ask(lambda: self._rendered(*asked, **how))}
            except Refused as refused:
                answer = {"refused": str(refused)}
            data = json.dumps(answer).encode()
            while data:
                data = data[os.write(write, data) :]
        finally:
            os._exit(0)

    def _rendered(
        self,
        messages: Sequence[Mapping[str, str]],
        *,
        prompt: bool,
        tools: Sequence[Mapping[str, Any]] | None,
        name: str | None,
    ) -> str:
        template = None if name is None else self.named[name]
        text = self._tokenizer.apply_chat_template(
            messages, tools=tools, chat_template=template, add_generation_prompt=prompt,
            tokenize=False,
        )  # fmt: skip
        if len(text) > LONGEST:
            raise Refused(f"it writes {len(text)} characters, more than {LONGEST}")
        return str(text)

    def _said(self, child: int, read: int) -> str:
        """Takes a child's answer and its time; raises Refused for one that is none."""
        data = _all_of(read)
        with suppress(ProcessLookupError):
            os.kill(child, signal.SIGKILL)  # of one that has answered, nothing is left to kill
        _, status, used = os.wait4(child, 0)
        self._left -= used.ru_utime + used.ru_stime
        ended = os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0
        if data is None or ended == signal.SIGXCPU:
            self._left = 0.0
            raise Refused(TOO_LONG)
        try:
            answer = json.loads(data)
        except ValueError as fault:
            raise Refused(f"it ended the process that rendered it (signal {ended})") from fault
        if "text" not in answer:
            raise Refused(answer["refused"])
        return str(answer["text"])


def _limit(seconds: float) -> None:
    """Limits this process; what is over is ended by the kernel, or gets no memory."""
    whole = max(1, round(seconds))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_CPU, (whole, whole + 1))
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0])
    most = pages * resource.getpagesize() + MEMORY
    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    most = most if hard == resource.RLIM_INFINITY else min(most, hard)
    resource.setrlimit(resource.RLIMIT_AS, (most, most))


def _all_of(read: int) -> bytes | None:
    """Reads a pipe to its end; None where that does not come, or too much does."""
    parts, size = [], 0
    deadline = time.monotonic() + DEADLINE
    try:
        while size <= _ANSWER:
            left = max(0.0, deadline - time.monotonic())
            if not select.select([read], [], [], left)[0]:
                return None
            part = os.read(read, 1 << 16)
            if not part:
                return b"".join(parts)
            parts.append(part)
            size += len(part)
        return None
    finally:
        os.close(read)
