"""Writes `deep-v1.jsonl`: `python benchmarks/deep_suite.py OUTPUT`, on Python 3.11.7.

Long texts of the kinds of `smoke`, which it contains, and four very long ones. Sources are files
of the Python distribution (PSF licence), the texts of licences that may be copied verbatim, texts
of our own, and numbers from generators with fixed seeds. The file that was published is what
counts: another Python has other texts.
"""

from __future__ import annotations

import inspect
import json
import random
import sys
import textwrap
import unicodedata
from collections.abc import Iterator
from pathlib import Path
from pydoc_data.topics import topics
from typing import Any

from enginekeeper.validation.suites import Prompt, bundled_suite, load_suite

LONG = 4_400
"""Characters of a long text: some 1,000 to 1,500 tokens."""

VERY_LONG = 17_000

LIST = 2_600
"""Characters of a long text that is made of rows: exercises, records."""

HEALTHY = 0.9
"""The share of made-up machines that are."""

LICENCES = Path("/usr/share/common-licenses")

TOPICS = ("assignment", "try", "context-managers", "objects", "function", "import")

MODULES = ("textwrap", "heapq", "fractions", "shlex", "contextlib", "graphlib")

TEXTS = (("Apache-2.0", 0), ("Apache-2.0", 5_200), ("CC0-1.0", 0), ("MPL-2.0", 0),
         ("MPL-2.0", 6_000), ("MPL-2.0", 11_000))  # fmt: skip

BLOCKS = ("GREEK", "CYRILLIC", "HEBREW", "ARABIC", "DEVANAGARI", "HIRAGANA")


def prose() -> Iterator[str]:
    """The reference manual of Python, as text."""
    for name in TOPICS:
        yield topics[name][:LONG]


def code() -> Iterator[str]:
    """Modules of Python's standard library."""
    for name in MODULES:
        yield inspect.getsource(__import__(name))[:LONG]


def legal() -> Iterator[str]:
    """Licences."""
    for name, start in TEXTS:
        yield (LICENCES / name).read_text(encoding="utf-8")[start : start + LONG].strip()


def mathematics() -> Iterator[str]:
    """Exercises with their solutions."""
    for seed in range(6):
        generator = random.Random(seed)
        lines: list[str] = []
        while sum(map(len, lines)) < LIST:
            lines.append(_exercise(generator, len(lines) + 1))
        yield "\n".join(lines)


def _exercise(generator: random.Random, number: int) -> str:
    a, b, c = (generator.randrange(3, 400) for _ in range(3))
    kind = generator.choice(("multiply", "divide", "solve", "factor"))
    if kind == "multiply":
        product = a * b
        steps = f"{a} * {b} = {product}, and {product} + {c} = {product + c}"
        return f"{number}. Compute {a} * {b} + {c}. {steps}."
    if kind == "divide":
        return (
            f"{number}. Divide {a * b + c % b} by {b}. The quotient is {a}, the remainder {c % b}."
        )
    if kind == "solve":
        x = c % 40 - 20
        return (
            f"{number}. Solve {a}x + {b} = {a * x + b}. Subtract {b}: {a}x = {a * x}. So x = {x}."
        )
    factors, rest, p = [], a * b, 2
    while rest > 1:
        while rest % p == 0:
            factors.append(p)
            rest //= p
        p += 1
    return f"{number}. Factor {a * b}. {a * b} = {' * '.join(map(str, factors))}."


def scripts(own: list[Prompt]) -> Iterator[str]:
    """Texts of our own in several scripts, and characters of six scripts with their names."""
    texts = [prompt.text for prompt in own if prompt.stratum == "scripts"]
    for seed, block in enumerate(BLOCKS):
        order = random.Random(seed).sample(texts, len(texts))
        named = [
            f"{chr(point)} {unicodedata.name(chr(point)).capitalize()}"
            for point in range(0x370, 0x30FF)
            if unicodedata.name(chr(point), "").startswith(f"{block} ") and chr(point).isalpha()
        ]
        yield "\n\n".join([*order[:3], "; ".join(named[:30])])


def records(seed: int, size: int) -> str:
    """Nested records of machines that do not exist."""
    generator = random.Random(seed)
    rows: list[dict[str, Any]] = []
    while len(json.dumps(rows)) < size:
        rows.append(
            {
                "node": f"gpu-{generator.randrange(1000):03d}",
                "healthy": generator.random() < HEALTHY,
                "driver": f"{generator.choice((535, 550, 580))}.{generator.randrange(200)}",
                "memory": {"total": 81920, "used": generator.randrange(81920)},
                "engines": [f"sha256:{generator.getrandbits(64):016x}" for _ in range(2)],
            }
        )
    return json.dumps(rows, indent=1)


def chat(own: list[Prompt]) -> Iterator[str]:
    """Conversations of our own, one after the other."""
    texts = [prompt.text for prompt in own if prompt.stratum == "chat"]
    for seed in range(6):
        order = random.Random(100 + seed).sample(texts, len(texts))
        yield "\n".join(order)[:LONG]


def digits() -> Iterator[str]:
    """Tables of numbers."""
    for seed in range(6):
        generator = random.Random(200 + seed)
        rows = [
            ",".join(str(generator.randrange(10**width)) for width in (3, 5, 8)) for _ in range(55)
        ]
        yield "id,count,amount\n" + "\n".join(rows)


def needles() -> str:
    """A manual with five facts at five depths, which its end repeats."""
    generator = random.Random(7)
    text = topics["specialnames"][: VERY_LONG - 1_500]
    facts = [
        f"The code of the {gate} gate is {generator.randrange(10_000, 100_000)}."
        for gate in ("north", "east", "south", "west", "river")
    ]
    paragraphs = text.split("\n\n")
    for place, fact in zip((0.05, 0.25, 0.5, 0.75, 0.95), facts, strict=True):
        paragraphs.insert(int(place * len(paragraphs)), fact)
    return "\n\n".join([*paragraphs, "To sum up:", *facts])


def very_long() -> Iterator[str]:
    """One text of each of four kinds, far longer than the rest."""
    yield needles()
    yield inspect.getsource(__import__("argparse"))[:VERY_LONG]
    yield records(9, 10_000)
    yield textwrap.dedent((LICENCES / "MPL-2.0").read_text(encoding="utf-8"))[:VERY_LONG]


def prompts() -> Iterator[Prompt]:
    """`smoke` first, then six long texts of each of its kinds, then the very long ones."""
    own = list(load_suite(bundled_suite("standard")).prompts)
    yield from load_suite(bundled_suite("smoke")).prompts
    kinds = {
        "prose": prose(),
        "code": code(),
        "legal": legal(),
        "mathematics": mathematics(),
        "scripts": scripts(own),
        "json": (records(seed, LIST) for seed in range(6)),
        "chat": chat(own),
        "digits": digits(),
        "long": very_long(),
    }
    for kind, texts in kinds.items():
        for number, text in enumerate(texts, start=1):
            yield Prompt(f"deep-{kind}-{number}", kind, text)


def main() -> None:
    """Writes the file."""
    with Path(sys.argv[1]).open("w", encoding="utf-8") as handle:
        for prompt in prompts():
            row = {"id": prompt.id, "stratum": prompt.stratum, "text": prompt.text}
            handle.write(json.dumps(row, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()
