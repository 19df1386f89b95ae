"""How well the table of failure patterns tells the logs of its corpus apart.

    python benchmarks/failure_taxonomy.py [--write docs/failures.md]

Every log is made by us around lines that users reported or that a source holds, each with its link
(tests/assets/failure_logs/corpus.json). A third of the first ones, chosen by a digest of their
name, was kept aside while the patterns were written; of the second round those that were searched
for when its patterns were there. Exit 1 if a known failure is unclassified, or a log gets a
cause that is not its own.
"""

from __future__ import annotations

import json
import sys
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal

from enginekeeper.toolchains.taxonomy import FailureGroup, diagnose, failure_patterns

ROOT = Path(__file__).parents[1]
CORPUS = ROOT / "tests" / "assets" / "failure_logs" / "corpus.json"
FIRST_ROUND = 1
UNKNOWN: Literal["unknown"] = "unknown"
Said = FailureGroup | Literal["unknown"]
"""What the table may say of a log."""

HEAD = """# Why builds of TensorRT-LLM fail

*Written by `python benchmarks/failure_taxonomy.py --write docs/failures.md`; a test keeps it so.*

When `trtllm-build` or its runtime ends with an error, its log is searched for known causes
(`enginekeeper/toolchains/data/failure_patterns.json`). The error then names the cause, what to do,
and the ten lines that decided; `--json` adds `group` and `pattern`. The first cause in the log
counts, because what follows is most often its consequence; words that healthy builds print, too,
(`weak` in the table) count only where there is no other. What no pattern knows is **unknown** and
is told as it was before: the last line, and where the log is. Steps of other toolchains are not
searched.

No build was run for this: the error lines are those that users reported, verbatim and with their
links, and those in NVIDIA's sources, put into logs of our own making.
"""

NOTES = """
## What is remembered

A build that fails for a cause which lies in what was asked for is remembered by the catalogue for
14 days, under the engine key: flag_drift, no_kernel, unsupported_quantization, unsupported_model,
checkpoint_broken and bad_options. Until then the plan of every machine refuses it (`failed-before`,
with cause and remedy, exit 8). Another recipe, option or toolchain is another key, and is tried; so
are failures whose cause lies in a host.

    ek failures                       # what is remembered, and until when
    ek build SPEC --retry-failed      # try it again all the same

Nothing is tried again *by itself* because of its group. "Using an engine plan file across different
models of devices" and "Invalid timing cache" are warnings that healthy builds print, and so no
patterns; "Failed to deserialize cuda engine" alone says nothing of its cause. "Could not find any
implementation" is remembered only where no tactic was passed over for want of GPU memory before.
"""


def corpus() -> list[dict[str, Any]]:
    """Returns the cases."""
    cases: list[dict[str, Any]] = json.loads(CORPUS.read_text(encoding="utf-8"))
    return cases


def log_of(case: dict[str, Any]) -> str:
    """Returns a log around a case's lines, with what any build prints before and after."""
    before = [
        "[TensorRT-LLM] TensorRT LLM version: 1.2.1",
        "[11/25/2026-10:00:00] [TRT-LLM] [I] Set PluginConfig.gemm_plugin to auto.",
        "[11/25/2026-10:00:01] [TRT-LLM] [W] max_input_len is not required and will be ignored",
        "[11/25/2026-10:00:02] [TRT] [I] [MemUsageChange] Init CUDA: CPU -5, GPU +0 (MiB)",
    ]
    after = ["Traceback (most recent call last):", '  File "trtllm-build", line 8, in <module>']
    return "\n".join([*before, *case["lines"], *after]) + "\n"


def said_of(case: dict[str, Any]) -> Said:
    """Returns the group that the table gives a case."""
    diagnosis = diagnose(log_of(case))
    return UNKNOWN if diagnosis is None else diagnosis.pattern.group


def document() -> str:
    """Returns the whole page."""
    cases = corpus()
    lines = [
        HEAD,
        "## The corpus",
        "",
        *_rounds(cases),
        "",
        "Rows: what a log is; columns: what the table says.",
        "",
        *_confusion(cases),
        "",
        "## The patterns",
        "",
        "| pattern | group | cause | what to do | source |",
        "|---|---|---|---|---|",
        *(
            f"| `{one.id}` | {one.group} | {one.cause} | {one.remedy} | {one.source} |"
            for one in failure_patterns()
        ),
        NOTES,
    ]
    return "\n".join(lines)


def _rounds(cases: list[dict[str, Any]]) -> list[str]:
    """Returns what the table of the time said of logs that it had not been written for."""
    held = [case for case in cases if case["held_out"]]
    first = _at_first([case for case in held if not _is_second(case)])
    met = _at_first([case for case in cases if _is_second(case) and not case["held_out"]])
    later = [case for case in held if _is_second(case)]
    last, unknown = _at_first(later), sum(case["group"] == UNKNOWN for case in later)
    intro = (
        f'{len(cases)} logs, {len(held)} of them kept aside, in two rounds. "At first" is before '
        "any pattern was mended for the log; afterwards all are told rightly."
    )
    comment = (
        "The first round says that the table is consistent: the reference's list of patterns was "
        "known when it was written, and all lines had been read. The second row is the one nearest "
        "to the field: another reader searched for reports, and most were unknown to the table. "
        f"{unknown} of the last row's logs are rightly unknown: they have causes that no group is "
        "for, or warnings of healthy builds before a crash of our own."
    )
    return [
        intro,
        "",
        "| logs | there are | rightly told at first | called unknown | given a wrong cause |",
        "|---|--:|--:|--:|--:|",
        f"| first round, kept aside | {_row(first)} |",
        f"| second round: reports that the first had not looked for | {_row(met)} |",
        f"| second round, kept aside: found after its patterns were written | {_row(last)} |",
        "",
        comment,
    ]


def _is_second(case: dict[str, Any]) -> bool:
    """Says of which of the two rounds a log is; those of the first do not say so."""
    return bool(case.get("round", FIRST_ROUND) > FIRST_ROUND)


def _at_first(cases: list[dict[str, Any]]) -> tuple[int, int, int, int]:
    """Returns how many there are, were told rightly, were missed, and got a wrong cause."""
    pairs = [(case["group"], case.get("found_at_first", case["group"])) for case in cases]
    right = sum(group == found for group, found in pairs)
    missed = sum(found == UNKNOWN != group for group, found in pairs)
    return len(pairs), right, missed, len(pairs) - right - missed


def _row(counts: tuple[int, ...]) -> str:
    return " | ".join(map(str, counts))


def _confusion(cases: Iterable[dict[str, Any]]) -> list[str]:
    counted = Counter((str(case["group"]), str(said_of(case))) for case in cases)
    names = [*map(str, FailureGroup), UNKNOWN]
    marks = {name: str(number) for number, name in enumerate(names, 1)}
    rows = [
        f"| {marks[row]} {row} | "
        + " | ".join(str(counted[row, column] or "") for column in names)
        + " |"
        for row in names
    ]
    head = "| | " + " | ".join(marks[name] for name in names) + " |"
    return [head, "|---|" + "--:|" * len(names), *rows]


def main(arguments: list[str]) -> int:
    """Prints or writes the page; returns 1 if a case is told wrongly."""
    page = document()
    if arguments[:1] == ["--write"]:
        (ROOT / arguments[1]).write_text(page, encoding="utf-8")
    else:
        print(page)
    return int(any(said_of(case) != case["group"] for case in corpus()))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
