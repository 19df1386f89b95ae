"""`plan` and `build`: from a build spec to proven engines."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from enginekeeper.cli._bundles import BUNDLE, bundle_mark
from enginekeeper.cli._errors import ExitCode, exit_code_of, gravest, order_in_words
from enginekeeper.cli._options import (
    json_option,
    locate_option,
    only_option,
    probes_option,
    skip_option,
    spec_argument,
    tokenizer_of,
    tokenizer_option,
    whole_suite_option,
)
from enginekeeper.cli._output import Output
from enginekeeper.cli._progress import show_progress
from registry.errors import GateClosedError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from enginekeeper.compatibility.memory_plan import MemoryPlan
    from enginekeeper.orchestration.outcome import Outcome
    from enginekeeper.orchestration.plan import PlannedVariant


@click.command()
@spec_argument
@only_option
@skip_option
@click.option("--memory", is_flag=True, help="Show what fits on each GPU instead.")
@click.option(
    "--config",
    type=click.Path(path_type=Path, dir_okay=False),
    help="With --memory: the model's config.json, where its weights are not here.",
)
@json_option
def plan(
    spec: Path, only: tuple[str, ...], skip: tuple[str, ...], memory: bool, config: Path | None,
    as_json: bool,
) -> int:  # fmt: skip
    """Show what would become of each variant of SPEC, and why.

    That is reuse, revalidate, build, export, elsewhere (this version has no such builder) or
    refuse.

    Exits 8 if a compatibility rule refuses a variant. While the source model is not on this
    machine, rules that need it are named and not checked.
    """
    from enginekeeper.orchestration.bench import open_bench
    from enginekeeper.orchestration.planning import plan_spec

    output = Output(as_json)
    if config is not None:
        if not memory:
            raise click.UsageError("--config goes with --memory")
        return _plan_by_config(output, spec, only, skip, config)
    planned = plan_spec(open_bench(), spec, only, skip)
    if as_json:
        output.json([one.as_dict() for one in planned])
    elif memory:
        _show_memory(output, [(str(one.variant.identifier), one.memory) for one in planned])
    else:
        _marked_table(output, [_plan_row(one) for one in planned], _PLAN_COLUMNS)
        for one in planned:
            for line in _plan_notes(one):
                output.note(f"{one.variant.identifier}: {line}")
        if waiting := dict.fromkeys(rule for one in planned for rule in one.unchecked):
            output.note(f"checked when the source model is here: {', '.join(waiting)}")
    refused = any(one.action == "refuse" for one in planned)
    return ExitCode.REFUSED if refused else ExitCode.OK


@click.command(epilog=f"Exit codes of endings, the gravest first: {order_in_words()}.")
@spec_argument
@only_option
@skip_option
@click.option("--no-audit", is_flag=True, help="Judge by behaviour alone; can then never pass.")
@whole_suite_option
@click.option("--retry-failed", is_flag=True, help="Try what `ek failures` lists again, too.")
@probes_option
@tokenizer_option
@click.option(
    "--served", is_flag=True, help="Ask TensorRT engines over HTTP, as served; says less."
)
@click.option("--triton", is_flag=True, help="Ask TensorRT engines by Triton, as it serves them.")
@click.option(
    "--validation-twin",
    is_flag=True,
    help="Build TensorRT engines again with context logits, to support the verdict.",
)
@locate_option
@click.option("--channel", help="Put every engine that passes into this channel.")
@click.option("--deployment", help="Let a Prefect server's deployment of the flow do it.")
@click.option("--verbose", is_flag=True, help="Show the steps' own output.")
@json_option
def build(
    spec: Path,
    only: tuple[str, ...],
    skip: tuple[str, ...],
    no_audit: bool,
    whole_suite: bool,
    retry_failed: bool,
    probes: bool,
    tokenizer: Path | None,
    served: bool,
    triton: bool,
    validation_twin: bool,
    locate: bool,
    channel: str | None,
    deployment: str | None,
    verbose: bool,
    as_json: bool,
) -> int:
    """Build, prove and publish the engines of SPEC; what exists already is reused.

    A variant that fails does not stop the others. Exits with the code of the gravest ending;
    that of a failed variant is its error's own, and so is that of a channel that refuses an
    engine which passed.
    """
    from enginekeeper.orchestration.order import BuildOrder
    from enginekeeper.orchestration.start import run_build

    if served and triton:
        raise click.UsageError("--served and --triton ask by two servers: choose one")
    serving = tokenizer_of(tokenizer, probes=probes)
    show_progress(verbose=verbose)
    order = BuildOrder(
        str(spec), tuple(only), tuple(skip), tokenizer=None if serving is None else str(serving),
        audits=not no_audit, whole_suite=whole_suite, retry_failed=retry_failed, probes=probes,
        served=served, triton=triton, validation_twin=validation_twin, locate=locate,
        channel=channel,
    )  # fmt: skip
    outcomes = run_build(order, deployment=deployment)
    return show_outcomes(Output(as_json), outcomes)


def show_outcomes(output: Output, outcomes: Sequence[Outcome]) -> ExitCode:
    """Prints what became of variants, and returns the code of the gravest ending."""
    codes = [exit_code_of_outcome(outcome) for outcome in outcomes]
    if output.as_json:
        both = zip(outcomes, codes, strict=True)
        output.json([{**one.as_dict(), "exit_code": int(code)} for one, code in both])
    else:
        _marked_table(output, [_outcome_row(outcome) for outcome in outcomes], _OUTCOME_COLUMNS)
        for outcome in outcomes:
            output.note(f"{outcome.variant}: {outcome.summary}")
    return gravest(codes)


def _marked_table(output: Output, rows: list[dict[str, Any]], columns: tuple[str, ...]) -> None:
    """Prints a table; what is simulated, or a serving bundle, has a column of its own."""
    if any(row["kind"] for row in rows):
        columns = (*columns, "kind")
    if not any(row["simulated"] for row in rows):
        output.table(rows, columns)
        return
    output.table(rows, (*columns, "simulated"))
    output.note(
        "SIMULATED: doubles stand for NVIDIA's programs and a CPU for the GPU; it proves no GPU"
    )


_PLAN_COLUMNS = ("variant", "action", "rule", "minutes", "megabytes", "engine", "verdict")
_MEMORY_COLUMNS = (
    "variant",
    "gpu_gib",
    "weights_gib",
    "kv_gib",
    "activations_gib",
    "workspace_gib",
    "rest_gib",
    "engine_tokens",
    "largest_batch",
    "longest_sequence",
    "vllm_tokens",
    "vllm_batch",
)
_MEMORY_NOTE = """\
ACTIVATIONS and WORKSPACE are estimates, fitted to logs of others (docs/toolchains.md).
An engine's keys and values are sized when it starts. vLLM starts with what is left, if one
request of max_seq_len fits: where VLLM_BATCH is below max_batch_size it puts off what does not."""
_OUTCOME_COLUMNS = (
    "variant",
    "ending",
    "result",
    "fidelity",
    "quality",
    "engine",
    "channel",
    "seconds",
)


def exit_code_of_outcome(outcome: Outcome) -> ExitCode:
    """Returns the exit code of one variant's ending, or that of its channel's refusal if graver.

    A verdict that is no pass has closed the gate itself: what the channel then says adds nothing,
    unless it is no longer about the gate.
    """
    code = _code_of_ending(outcome)
    if outcome.refusal is None:
        return code
    if outcome.result != "pass" and issubclass(outcome.refusal.family, GateClosedError):
        return code
    return gravest([code, exit_code_of(outcome.refusal.family)])


def _code_of_ending(outcome: Outcome) -> ExitCode:
    if outcome.failure is not None:
        return exit_code_of(outcome.failure.family)
    if outcome.ending == "refused":
        return ExitCode.REFUSED
    if outcome.ending == "elsewhere":
        return ExitCode.DRIFT
    results = {"fail": ExitCode.FAIL, "inconclusive": ExitCode.INCONCLUSIVE}
    return results.get(outcome.result or "", ExitCode.OK)


def _plan_notes(one: PlannedVariant) -> Iterator[str]:
    """Yields what a person has to know besides the table: why not, warnings, and what to do."""
    if one.variant.is_vllm_bundle:
        yield f"{BUNDLE}: {one.reason}; the model is served as it is, no recipe is applied"
    elif one.action not in ("build", "reuse"):
        yield f"{one.action}: {one.reason}"
    for hit in one.hits:
        if hit.severity == "warn":
            yield f"warning: {hit.statement} (found {hit.actual}, expected {hit.expected})"
        if hit.remedy is not None:
            yield f"  next: {hit.remedy}"


def _plan_row(one: PlannedVariant) -> dict[str, Any]:
    cost, known = one.estimate, one.known
    seconds = None if cost is None else cost.seconds
    size = None if cost is None else cost.engine_bytes
    verdict = None if known is None or known.verdict is None else str(known.verdict.result)
    return {
        "variant": one.variant.identifier,
        "action": str(one.action),
        "rule": one.rule,
        "minutes": None if seconds is None else f"{seconds / 60:.1f}",
        "megabytes": None if size is None else f"{size / 1e6:.0f}",
        "engine": None if known is None else known.engine.digest.short,
        "verdict": verdict,
        "kind": bundle_mark(bundle=one.variant.is_vllm_bundle),
        "simulated": _mark(simulated=one.variant.profile.simulated),
    }


def _mark(*, simulated: bool) -> str | None:
    return "SIMULATED" if simulated else None


def _plan_by_config(
    output: Output, spec: Path, only: tuple[str, ...], skip: tuple[str, ...], config: Path
) -> int:
    """Shows what fits by a config.json alone: before anything of the model was fetched."""
    from enginekeeper.orchestration.planning import memory_by_config

    found = memory_by_config(spec, config, only, skip)
    if output.as_json:
        output.json([{"variant": name, "memory": plan and plan.as_dict()} for name, plan in found])
    else:
        _show_memory(output, found)
    return ExitCode.OK


def _show_memory(output: Output, found: Sequence[tuple[str, MemoryPlan | None]]) -> None:
    output.table([_memory_row(name, plan) for name, plan in found], _MEMORY_COLUMNS)
    output.note(_MEMORY_NOTE)
    if any(plan is None for _, plan in found):
        output.note("no figures: the CPU, a size that is not known, or a source that is not here")


def _memory_row(name: str, plan: MemoryPlan | None) -> dict[str, Any]:
    if plan is None:
        return {"variant": name}
    sizes = {
        "gpu_gib": plan.memory,
        "weights_gib": plan.weights,
        "kv_gib": plan.kv_cache,
        "activations_gib": plan.activations,
        "workspace_gib": plan.workspace,
        "rest_gib": plan.rest,
    }
    return {
        "variant": name,
        **{column: f"{size / 2**30:.1f}" for column, size in sizes.items()},
        "engine_tokens": plan.engine_tokens,
        "largest_batch": plan.largest_batch,
        "longest_sequence": plan.longest_sequence,
        "vllm_tokens": plan.vllm_tokens,
        "vllm_batch": plan.vllm_batch,
    }


def _outcome_row(outcome: Outcome) -> dict[str, Any]:
    engine = None if outcome.engine is None else outcome.engine.partition(":")[2][:12]
    return {
        "variant": outcome.variant,
        "ending": str(outcome.ending),
        "result": outcome.result,
        "fidelity": outcome.fidelity,
        "quality": outcome.quality,
        "engine": engine,
        "channel": outcome.channel,
        "seconds": f"{sum(outcome.seconds.values()):.0f}",
        "kind": bundle_mark(bundle=outcome.serving_bundle),
        "simulated": _mark(simulated=outcome.simulated),
    }
