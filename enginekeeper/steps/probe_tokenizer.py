"""The step `probe_tokenizer`: does a tokenizer that serves an engine say what its model's says?

Job: `{"source", "shipped", "vocabulary", "texts", "output"}`: the model's directory, the one that a
server reads, how many rows the engine's embedding has, and the file of awkward texts and
conversations. Compared are: ids of every text, with and without what a tokenizer adds; the texts of
these ids; special and added tokens; the whole vocabulary, and whether it fits the embedding; every
conversation as the chat templates render it (within limits); and at which tokens a
server stops. A text that one of them refuses must be refused by both.

The file: JSON, `{"schema", "probes": {NAME: {"asked", "wrong": [words]} | {"absent": words}}}`.
"""

from __future__ import annotations

import json
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from _documents import write_document
from _step import main
from _templates import Templates
from _tokenizers import Refused, ask, load, stops

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

SCHEMA = "1"

BROKEN = {"half-pair": "a\ud83d b", "lone-low": "\udc00", "reversed-pair": "\ude00\ud83d"}
"""Halves of surrogates, which no file of JSON may hold."""

SPECIALS = ("bos_token", "eos_token", "unk_token", "cls_token", "sep_token", "mask_token")
"""The padding is not among them: nothing that is served is padded by its tokenizer."""

TYPED = 16
"""Added tokens that one text has, as a user may type them."""

SHOWN = 40
"""Characters of a text that a message has room for."""

TOOL = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "The weather of a place.",
        "parameters": {
            "type": "object",
            "properties": {"place": {"type": "string", "description": "Where."}},
            "required": ["place"],
        },
    },
}


def run(job: dict[str, Any]) -> dict[str, Any]:
    """Compares the two tokenizers and returns how much was asked and was wrong."""
    logging.getLogger("transformers").setLevel(logging.ERROR)
    source, shipped = Path(job["source"]), Path(job["shipped"])
    both = Both(load(source), load(shipped))
    given = json.loads(Path(job["texts"]).read_text(encoding="utf-8"))
    texts = _texts(given, both.source)
    print(f"progress 0/{len(texts)} texts", flush=True)
    wrong = [*_in_texts(both, texts), *_in_vocabulary(both, int(job["vocabulary"]))]
    probes = {
        "tokenizer": {"asked": len(texts), "wrong": wrong},
        "template": _template(both, given["conversations"]),
        "stop_tokens": _stop_tokens(both, source, shipped),
    }
    write_document(Path(job["output"]), {"schema": SCHEMA, "probes": probes})
    return {name: [one.get("asked", 0), len(one.get("wrong", ()))] for name, one in probes.items()}


@dataclass(frozen=True)
class Way:
    """A way in which a conversation is rendered."""

    prompt: bool = True
    """Whether an answer is to follow."""

    tool: bool = False
    name: str | None = None
    """Of the template; None leaves the choice to transformers."""

    @property
    def told(self) -> dict[str, Any]:
        """Returns what a template is told of it."""
        return {"prompt": self.prompt, "tools": [TOOL] if self.tool else None, "name": self.name}

    def __str__(self) -> str:
        named = "" if self.name is None else f" by {self.name}"
        return f"{named}{' with a tool' * self.tool}{', to be answered' * self.prompt}"


WAYS = (Way(), Way(prompt=False), Way(tool=True))
CHOSEN = frozenset({"default", "tool_use"})
"""Names of templates that transformers chooses by itself."""


class Both:
    """The model's own tokenizer, and the one that serves."""

    def __init__(self, source: Any, shipped: Any) -> None:  # noqa: ANN401 - no types
        self.source = source
        self.shipped = shipped

    def say(self, question: Callable[[Any], Any]) -> tuple[Any, Any]:
        """Returns the answers of both; a refusal is an answer."""
        return _answer(question, self.source), _answer(question, self.shipped)


def _answer(question: Callable[[Any], Any], tokenizer: Any) -> Any:  # noqa: ANN401 - no types
    try:
        return ask(lambda: question(tokenizer))
    except Refused as refused:
        return f"refused: {refused}".encode(errors="replace")


def _texts(given: Mapping[str, Any], source: Any) -> dict[str, str]:  # noqa: ANN401
    """Returns all texts: those of the file, broken ones, and the added tokens as typed."""
    texts = {**given["texts"], **BROKEN}
    texts |= {name: piece * times for name, (piece, times) in given["repeated"].items()}
    added = [str(token) for token in source.get_added_vocab()]
    for first in range(0, len(added), TYPED):
        typed = "".join(f"{token} x{token}{token}\n" for token in added[first : first + TYPED])
        texts[f"added-tokens-{first}"] = typed
    return texts


def _in_texts(both: Both, texts: Mapping[str, str]) -> Iterator[str]:
    """Says of each text what is otherwise: its ids first, then what they are read back as."""
    for name, text in texts.items():
        said = next(_of_text(both, text), None)
        if said is not None:
            yield f"{name} ({text[:24]!r}): {said}"


def _of_text(both: Both, text: str) -> Iterator[str]:
    for special, how in ((True, ""), (False, ", nothing added")):
        ours, theirs = both.say(lambda one, add=special: _ids(one, text, special=add))
        if ours != theirs:
            yield f"{_parted(ours, theirs)}{how}"
        if isinstance(ours, bytes):  # refused by both
            continue
        for skip in (False, True):
            was, now = both.say(
                lambda one, ids=ours, skip=skip: one.decode(ids, skip_special_tokens=skip)
            )
            if was != now:
                yield f"its ids are read back as {_otherwise(was, now)}"


def _ids(tokenizer: Any, text: str, *, special: bool) -> list[int]:  # noqa: ANN401
    try:
        return list(tokenizer(text, add_special_tokens=special)["input_ids"])
    except UnicodeEncodeError as error:
        raise ValueError(error.reason) from error


def _parted(ours: Any, theirs: Any) -> str:  # noqa: ANN401 - ids or a refusal
    if isinstance(ours, bytes) or isinstance(theirs, bytes):
        return f"{_shown(theirs)}, the model's says {_shown(ours)}"
    same = [one == other for one, other in zip(ours, theirs, strict=False)]
    at = same.index(False) if False in same else len(same)
    now, was = (ids[at] if at < len(ids) else "the end" for ids in (theirs, ours))
    return f"token {at} is {now}, the model's is {was}"


def _otherwise(was: Any, now: Any) -> str:  # noqa: ANN401 - a text or a refusal
    """Shows where two texts part."""
    if isinstance(was, bytes) or isinstance(now, bytes):
        return f"{_shown(now)}, by the model's {_shown(was)}"
    same = [one == other for one, other in zip(was, now, strict=False)]
    at = same.index(False) if False in same else len(same)
    parts = [_shown(text[at : at + SHOWN]) for text in (now, was)]
    return f"{parts[0]} from character {at} on, by the model's {parts[1]}"


def _shown(said: Any) -> str:  # noqa: ANN401
    text = said.decode(errors="replace") if isinstance(said, bytes) else repr(said)
    return text if len(text) <= 2 * SHOWN else f"{text[:SHOWN]}... ({len(text)} characters)"


def _in_vocabulary(both: Both, rows: int) -> Iterator[str]:
    """Says which tokens have other ids, no row in the embedding, or another role."""
    ours, theirs = both.source.get_vocab(), both.shipped.get_vocab()
    names = [one for one in {**ours, **theirs} if ours.get(one) != theirs.get(one)]
    if names:
        first = min(names, key=lambda one: (ours.get(one, rows), one))
        yield (
            f"vocabulary: {len(names)} tokens have other ids, first {first!r}: {theirs.get(first)},"
            f" the model's is {ours.get(first)}"
        )
    beyond = sorted(number for number in theirs.values() if not 0 <= number < rows)
    if beyond:
        yield f"vocabulary: id {beyond[-1]} has no row in the engine's embedding of {rows}"
    for name in SPECIALS:
        was, now = both.say(lambda one, name=name: str(getattr(one, name, None)))
        if was != now:
            yield f"{name}: {now}, the model's is {was}"
    was, now = both.say(_added)
    parted = sorted(one for one in {**was, **now} if was.get(one) != now.get(one))
    if parted:
        first = parted[0]
        yield (
            f"added tokens: {len(parted)} are others, first id {first}: {now.get(first)},"
            f" the model's is {was.get(first)}"
        )


def _added(tokenizer: Any) -> dict[int, tuple[Any, ...]]:  # noqa: ANN401
    return {
        number: (
            token.content, token.special, token.lstrip, token.rstrip, token.normalized,
            token.single_word,
        )
        for number, token in tokenizer.added_tokens_decoder.items()
    }  # fmt: skip


def _template(both: Both, conversations: Mapping[str, Sequence[tuple[str, str]]]) -> dict[str, Any]:
    """Renders every conversation by both, ready for an answer and not, with a tool and without.

    Templates that have a name are compared by it, besides.
    """
    templates = Both(Templates(both.source), Templates(both.shipped))
    if templates.source.missing and templates.shipped.missing:
        return {"absent": "neither the model nor what is shipped has a chat template"}
    names = sorted({*templates.source.named, *templates.shipped.named} - CHOSEN)
    asked, rendered, wrong = 0, 0, []
    for name, turns in conversations.items():
        messages = [{"role": role, "content": content} for role, content in turns]
        for way in (*WAYS, *(Way(name=one) for one in names)):
            asked += 1
            was, now = templates.say(
                lambda one, messages=messages, way=way: one.render(messages, **way.told)
            )
            rendered += isinstance(was, str)
            if was != now:
                wrong.append(f"{name}{way}: {_otherwise(was, now)}")
    if not rendered and not wrong:
        return {"absent": f"the model's chat template renders no conversation: {_shown(was)}"}
    return {"asked": asked, "wrong": wrong}


def _stop_tokens(both: Both, source: Path, shipped: Path) -> dict[str, Any]:
    """Compares at which tokens a server ends a text, by what the two directories say."""
    ours, theirs = stops(source, both.source), stops(shipped, both.shipped)
    wrong = [
        f"{token} ({_named(token, both.source)}) ends a text of the model, and none"
        " by what is shipped"
        for token in sorted(ours - theirs)
    ]
    wrong += [
        f"{token} ({_named(token, both.shipped)}) ends a text by what is shipped,"
        " and none of the model"
        for token in sorted(theirs - ours)
    ]
    if not ours | theirs:
        return {"absent": "neither the model nor what is shipped names a token that ends a text"}
    return {"asked": len(ours | theirs), "wrong": wrong}


def _named(token: int, tokenizer: Any) -> str:  # noqa: ANN401
    """Shows the token of an id; a config may name one that is none."""
    return _shown(_answer(lambda one: one.convert_ids_to_tokens(token), tokenizer))


if __name__ == "__main__":
    main(run)
