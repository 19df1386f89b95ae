"""Turns the texts of a probe suite into the source model's token ids.

Every arm is then scored on these very ids: no other step has a tokenizer.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from _step import Refusal, main
from _tokenizers import ids_of, load

SHORTEST = 2
"""One token to read and one to predict."""


def run(job: dict[str, Any]) -> dict[str, Any]:
    """Writes the tokens file and returns how much there is in it."""
    model, output = Path(job["model"]), Path(job["output"])
    prompts = _read_suite(Path(job["suite"]))
    vocabulary = _vocabulary(model)
    tokenizer = load(model)
    rows, cut = [], 0
    for number, prompt in enumerate(prompts, start=1):
        whole = ids_of(tokenizer, prompt["text"], f"{job['suite']}: {prompt['id']}")
        ids = whole[: int(job["max_tokens_per_prompt"])]
        cut += len(ids) < len(whole)
        _check(prompt["id"], ids, vocabulary)
        rows.append({"id": prompt["id"], "stratum": prompt["stratum"], "ids": ids})
        print(f"progress {number}/{len(prompts)} {prompt['id']}", flush=True)
    partial = output.with_name(output.name + ".partial")
    document = {"prompts": rows, "vocab_size": vocabulary}
    partial.write_text(json.dumps(document), encoding="utf-8")
    partial.replace(output)
    tokens = sum(len(row["ids"]) for row in rows)
    return {"prompts": len(rows), "tokens": tokens, "vocab_size": vocabulary, "cut": cut}


def _read_suite(path: Path) -> list[dict[str, str]]:
    prompts: dict[str, dict[str, str]] = {}
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (FileNotFoundError, UnicodeDecodeError) as fault:
        raise Refusal("bad-suite", f"cannot be read: {fault}", where=path) from fault
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        prompt = _prompt(line, f"{path}:{number}")
        if prompt["id"] in prompts:
            raise Refusal("bad-suite", f"{prompt['id']} is there twice", where=f"{path}:{number}")
        prompts[prompt["id"]] = prompt
    if not prompts:
        raise Refusal("bad-suite", "holds no prompts", where=path)
    return list(prompts.values())


def _prompt(line: str, where: str) -> dict[str, str]:
    try:
        prompt = json.loads(line)
    except ValueError as fault:
        raise Refusal("bad-suite", f"not JSON: {fault}", where=where) from fault
    fields = ("id", "stratum", "text")
    if not isinstance(prompt, dict) or not all(isinstance(prompt.get(f), str) for f in fields):
        raise Refusal("bad-suite", "not a prompt", where=where, expected="id, stratum and text")
    return prompt


def _vocabulary(model: Path) -> int:
    path = model / "config.json"
    try:
        return int(json.loads(path.read_text(encoding="utf-8"))["vocab_size"])
    except (OSError, ValueError, KeyError, TypeError) as fault:
        raise Refusal("model-incomplete", f"no vocab_size: {fault!r}", where=path) from fault


def _check(prompt: str, ids: list[int], vocabulary: int) -> None:
    if len(ids) < SHORTEST:
        raise Refusal(
            "prompt-too-short",
            "too short to be scored",
            where=prompt,
            expected=f"{SHORTEST} tokens or more",
            actual=len(ids),
        )
    if max(ids) >= vocabulary:
        raise Refusal(
            "tokenizer-mismatch",
            "the tokenizer gives ids that the model has no row for",
            where=prompt,
            expected=f"ids below {vocabulary}",
            actual=max(ids),
            remedy="use the tokenizer that was published with this model",
        )


if __name__ == "__main__":
    main(run)
