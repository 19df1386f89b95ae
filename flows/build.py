"""The build flow: one task per step, for each variant that the plan does not settle."""

from __future__ import annotations

from prefect import flow, task
from prefect.cache_policies import NO_CACHE

from enginekeeper.orchestration import judging, pipeline
from enginekeeper.orchestration.bench import open_bench
from enginekeeper.orchestration.order import BuildOrder
from enginekeeper.orchestration.outcome import Outcome
from enginekeeper.orchestration.planning import plan_order
from enginekeeper.orchestration.remote import reported
from enginekeeper.orchestration.retries import can_be_retried

# Products are kept by the work store, under the digest of what made them: Prefect caches nothing.
# Only what reaches over a network is tried again: a step that failed once fails again.
once = task(cache_policy=NO_CACHE)
networked = task(
    retries=2, retry_delay_seconds=10, retry_condition_fn=can_be_retried, cache_policy=NO_CACHE
)

source = networked(pipeline.fetch_source)
reference = networked(pipeline.make_reference)
publish_reference = networked(pipeline.publish_reference)
fetch = networked(pipeline.fetch_engine)
checkpoint = once(pipeline.make_checkpoint)
audit = once(pipeline.audit_checkpoint)
export = networked(pipeline.export_checkpoint)
engine = once(pipeline.make_engine)
publish = networked(pipeline.publish_engine)
score = once(judging.score_engine)
judge = networked(judging.judge_engine)


@flow(name="enginekeeper-build", persist_result=False)
def build(order: BuildOrder) -> list[Outcome]:
    """Builds, proves and publishes a spec's variants; one that fails does not stop the others."""
    return reported(lambda: _build(order))


def _build(order: BuildOrder) -> list[Outcome]:
    bench = open_bench()
    work = pipeline.begin(plan_order(bench, order), order)
    if work.todo:
        work = source(bench, work)
    if work.todo:
        work = reference(bench, work)
        publish_reference(bench, work)
    for variant in work.todo:
        with work.catching(variant):
            known = variant.known is not None
            made = audit(work, fetch(bench, variant) if known else checkpoint(bench, work, variant))
            if made.export_only:
                export(bench, work, made)
                continue
            if not known:
                made = publish(bench, work, engine(bench, made))
            judge(bench, work, score(bench, work, made))
    return pipeline.conclude(bench, work)
