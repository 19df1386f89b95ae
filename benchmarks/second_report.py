"""Counts what a run of the second set found, against what its author expected."""

from __future__ import annotations

from collections import Counter
from typing import Any

from second_edits import layered
from second_formats import PARTS

Case = dict[str, Any]
FOUND = ("fail", "refused")


def places(case: Case) -> list[str]:
    """Returns names of which a finding must have one to name the culprit."""
    if "where" in case:
        return list(case["where"])
    found = []
    for entry in case["steps"]:
        layers = entry.get("layers", ())
        numbers = [f"layers.{n}." for n in layered(layers)]
        linear = next((PARTS[entry[k]][0] for k in ("part", "linear") if entry.get(k) in PARTS), "")
        name = entry.get("name") or entry.get("tensor") or ""
        if entry["step"] == "vector":
            found += _vector(entry, numbers)
        elif entry["step"] == "exchange":
            found += [f"layers.{entry['a']}.", f"layers.{entry['b']}."]
        elif entry["step"] == "siblings":
            found += [n + "mlp." for n in numbers]
        elif entry["step"] == "fused_apart":
            found += [n + ("mlp" if entry.get("linear") == "mlp" else "attention") for n in numbers]
        elif entry["step"] == "kv_ranks":
            found += [n + "attention.qkv" for n in numbers]
        elif entry["step"] == "config":
            found += [path.rpartition(".")[2] for path in entry.get("put") or entry.get("leave")]
        elif entry["step"] == "kv":
            found += [n + "attention.kv_cache" for n in numbers] + ["kv_cache"] * (not numbers)
        elif entry["step"] == "fold":
            found += [n + side for n in numbers for side in ("input_layernorm", "post_layernorm")]
            found += [n + side for n in numbers for side in ("attention.qkv", "mlp.")]
        elif "{layer}" in name:
            found += [".".join(name.format(layer=n).split(".")[:-1]) for n in layers]
        elif name.startswith("transformer.layers"):
            found += [".".join(name.split(".")[:5])]
        elif name:
            found.append(name)
        elif numbers:
            linears = entry.get("linears") or []
            named = [PARTS[p][0] for p in linears] or [linear]
            found += [n + which for n in numbers for which in named]
    return found or [""]


def _vector(entry: Case, numbers: list[str]) -> list[str]:
    what = entry["what"]
    kind = {"embedding": "vocab_embedding", "head": "lm_head", "final": "ln_f"}.get(what)
    return [kind] if kind else [f"{n}{what}_layernorm" for n in numbers]


def outcome(found: dict[str, Any]) -> str:
    """Returns one word for a trial that could be run."""
    said = "found" if found["result"] in FOUND else found["result"]
    return {"inconclusive": "doubt", "pass": "passed"}.get(said, said)


def expected(case: Case, recipe: str) -> str:
    """Returns what the author wrote down: above or below a sensible limit."""
    return "below" if recipe in case.get("below_on", ()) else str(case["expect"])


def named(case: Case, found: dict[str, Any]) -> tuple[bool, bool]:
    """Returns whether the culprit is named, and whether its class is, in the first finding."""
    wanted, classes = places(case), {case.get("class"), *case.get("also", ())}
    if found["result"] == "refused":
        return any(w in found["message"] for w in wanted), True
    first = found["findings"][0]
    right = any(w.rstrip(".") in (first[2] or "") or w in first[4] for w in wanted)
    return right, first[3] in classes


def as_expected(case: Case, recipe: str, found: dict[str, Any]) -> bool:
    """Says whether a trial went as its author wrote; of what is below a limit nothing is asked."""
    word = outcome(found)
    if case["kind"] == "control":
        return word == "passed"
    if case["kind"] != "fault" or expected(case, recipe) != "above":
        return True
    return word == "found" and named(case, found)[0]


def report(
    which: list[Case], found: dict[tuple[str, str], dict[str, Any]], *, misses: bool
) -> None:
    """Prints the tables, and with `misses` each trial that is not as expected."""
    table: dict[str, Counter[str]] = {}
    for case in which:
        for recipe in case["recipes"]:
            entry = found.get((case["id"], recipe))
            if entry is None or entry["result"] == "n/a":
                continue
            word = outcome(entry)
            row = _row(case, recipe)
            counted = table.setdefault(row, Counter())
            counted.update(["trials", word])
            if case["kind"] == "fault" and word == "found":
                place, kind = named(case, entry)
                counted.update(["culprit"] * place + ["class"] * kind)
            if misses:
                _line(case, recipe, entry, word)
    columns = ("trials", "found", "doubt", "passed", "culprit", "class")
    print(f"{'':28}" + "".join(f"{c:>9}" for c in columns))
    for row in sorted(table):
        print(f"{row:28}" + "".join(f"{table[row][c]:9}" for c in columns))


def _row(case: Case, recipe: str) -> str:
    if case["kind"] != "fault":
        return case["kind"]
    wanted = expected(case, recipe)
    return f"fault, {wanted}: {case['class']}" if wanted == "above" else "fault, below"


def _line(case: Case, recipe: str, entry: dict[str, Any], word: str) -> None:
    wanted = expected(case, recipe)
    findings = entry.get("findings") or [["", "", "", "", entry.get("message", "")]]
    head = f"{case['id']} [{recipe}] effect {entry.get('effect')}"
    if case["kind"] == "control":
        if word != "passed":
            print("ALARM" if word == "found" else "DOUBT", head, findings[0])
    elif case["kind"] == "equivalent":
        print("EQUIV", word, head, findings[0][:4] if findings else "")
    elif word != "found":
        print("MISS" if wanted == "above" else "below", word, head, findings[0][:5])
    else:
        place, kind = named(case, entry)
        if not (place and kind):
            print("NAME", f"{place=} {kind=}", head, places(case)[:3], case["class"], findings[0])
