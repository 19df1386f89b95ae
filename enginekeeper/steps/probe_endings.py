"""The step `probe_endings`: where do an engine and its checkpoint's twin end what they say?

Job: `{"engine", "twin", "source", "shipped", "questions", "most", "output"}`. Short questions, as
the source's chat template renders them (bare, where it has none), are continued greedily by both
arms, through decode, until a token that ends a text or `most` tokens. The twin ends at what the
source says ends a text; the engine at what `shipped` says, the directory that serves it, if there
is one.

The file: JSON, `{"schema", "most", "stops", "engine": {"lengths", "ended_by"}, "twin": ...}`, or
`{"schema", "absent"}` where nothing ends a text, or the engine has no room for one; one that was
cut is ended by -1. The token that ends a text is none of its length. `most` is fewer where the
engine's limits leave less room.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from _documents import write_document
from _step import main
from _templates import Templates
from _tokenizers import Refused, ask, load, stops

if TYPE_CHECKING:
    from collections.abc import Sequence
    from collections.abc import Set as AbstractSet

    from _scoring import Arm

SCHEMA = "1"
SHORTEST = 2
"""Tokens of a question: something to read, and something to go through decode."""

FEWEST = 8
"""Tokens there must be room for, or an answer says nothing."""

CUT = -1
"""What ends a text of as many tokens as were asked for."""


def run(job: dict[str, Any]) -> dict[str, Any]:
    """Continues all questions by both arms, and returns how many were cut."""
    document = _asked(job)
    write_document(Path(job["output"]), {"schema": SCHEMA, **document})
    if "absent" in document:
        return {"questions": 0}
    ended_by = {name: document[name]["ended_by"] for name in ("engine", "twin")}
    cut = {name: tokens.count(CUT) for name, tokens in ended_by.items()}
    return {"questions": len(ended_by["engine"]), "cut": cut}


def _asked(job: dict[str, Any]) -> dict[str, Any]:
    """Returns where both arms ended their texts, or why there is nothing to compare."""
    from _engine import Engine  # noqa: PLC0415 - torch takes seconds to import
    from _engine_arm import EngineArm  # noqa: PLC0415
    from _twin import load_model  # noqa: PLC0415
    from _twin_arm import TransformersArm  # noqa: PLC0415

    source = Path(job["source"])
    tokenizer = load(source)
    ours = theirs = stops(source, tokenizer)
    if job["shipped"] is not None:
        shipped = Path(job["shipped"])
        theirs = stops(shipped, load(shipped))
    if not ours | theirs:
        return {"absent": "nothing says at which token a text ends"}
    questions = json.loads(Path(job["questions"]).read_text(encoding="utf-8"))["questions"]
    try:
        rendered = _rendered(tokenizer, questions)
    except Refused as refused:
        return {"absent": f"the model's chat template renders no question: {refused}"}
    prompts = [ids for ids in rendered if len(ids) >= SHORTEST]
    engine = Engine(Path(job["engine"]))
    room = engine.max_seq_len - max(map(len, prompts), default=engine.max_seq_len)
    most = min(int(job["most"]), room)
    if most < FEWEST:
        return {"absent": "the engine's limits leave no room for an answer"}
    twin = _endings("twin", TransformersArm(load_model(Path(job["twin"]))), prompts, ours, most)
    # A batch is asked until its last text ends: the engine's are of texts that the twin ended
    # after about as many tokens.
    order = sorted(range(len(prompts)), key=lambda row: (twin["lengths"][row], row))
    said = _endings("engine", EngineArm(engine), [prompts[row] for row in order], theirs, most)
    at = {row: place for place, row in enumerate(order)}
    return {
        "most": most,
        "stops": sorted(ours),
        "engine": {
            name: [values[at[row]] for row in range(len(prompts))] for name, values in said.items()
        },
        "twin": twin,
    }


def _endings(
    name: str, arm: Arm, prompts: Sequence[Sequence[int]], ends: AbstractSet[int], most: int
) -> dict[str, list[int]]:
    """Continues all prompts by an arm, as many at a time as it takes."""
    print(f"progress 0/{len(prompts)} {name}", flush=True)
    size = min(arm.max_batch, len(prompts))
    said = [
        one
        for first in range(0, len(prompts), size)
        for one in ended(arm, prompts[first : first + size], ends, most)
    ]
    return {"lengths": [length for length, _ in said], "ended_by": [token for _, token in said]}


def _rendered(tokenizer: Any, questions: Sequence[str]) -> list[list[int]]:  # noqa: ANN401
    templates = Templates(tokenizer)
    if templates.missing:
        bare = [f"Question: {question}\nAnswer:" for question in questions]
        return [ask(lambda text=text: list(tokenizer(text)["input_ids"])) for text in bare]
    asked = [[{"role": "user", "content": question}] for question in questions]
    texts = [templates.render(messages, prompt=True) for messages in asked]
    return [
        ask(lambda text=text: list(tokenizer(text, add_special_tokens=False)["input_ids"]))
        for text in texts
    ]


def ended(
    arm: Arm, prompts: Sequence[Sequence[int]], ends: AbstractSet[int], most: int
) -> list[tuple[int, int]]:
    """Returns of each prompt how many tokens followed, and the token that ended them or CUT."""
    import torch  # noqa: PLC0415

    decoding = arm.decode([ids[:-1] for ids in prompts], most + 1)
    tokens = torch.tensor([ids[-1] for ids in prompts])
    found: dict[int, tuple[int, int]] = {}
    for length in range(most):
        tokens = decoding.step(tokens).argmax(dim=-1)
        for row, token in enumerate(tokens.tolist()):
            if row not in found and token in ends:
                found[row] = (length, token)
        if len(found) == len(prompts):
            break
    return [found.get(row, (most, CUT)) for row in range(len(prompts))]


if __name__ == "__main__":
    main(run)
