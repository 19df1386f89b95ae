"""Names what judges an engine, so that an engine judged by other code or tools is judged again.

Rather too much is named than too little: judging again takes minutes, a verdict of faulty code
that stands qualifies engines.
"""

from __future__ import annotations

from enginekeeper.orchestration.workshop import Workshop
from registry.digests import Digest, digest_document

DECIDING = (
    "configs",
    "data/probes",
    "validation",
    "orchestration/asking.py",
    "orchestration/bundling.py",
    "orchestration/export_arm.py",
    "orchestration/interim.py",
    "orchestration/judging.py",
    "orchestration/pipeline.py",
    "orchestration/references.py",
    "orchestration/simulation.py",
    "orchestration/stages.py",
    "orchestration/tokenizer_probe.py",
    "orchestration/twin_probes.py",
    "orchestration/validation_twins.py",
    "sources/tokenizer_files.py",
)
"""Our own code between the scores and the verdict, and that which says how arms are scored."""

SCORING = {
    "tokenize_suite": "inductor",
    "reference": None,
    "score_twin": "inductor",
    "score_engine": "inductor",
    "sensitivities": "inductor",
    "probe_engine": "inductor",
    "probe_layers": "inductor",
    "probe_linears": "inductor",
    "probe_endings": "inductor",
    "probe_tokenizer": "inductor",
    "score_trtllm": "inductor",
    "probe_trtllm": "inductor",
    "score_served": "inductor",
    "score_triton": "inductor",
    "score_vllm": None,
    "run_with_double": "inductor",
}
"""The steps that a verdict's numbers come from, and their toolchains; None for the machine's."""


def validator_digest(shop: Workshop) -> Digest:
    """Names the code that decides and the tools it measures with; installs and runs nothing."""
    document = {
        "code": shop.code(*DECIDING),
        "scoring": [
            shop.identity(toolchain or shop.reference_toolchain(), step)
            for step, toolchain in SCORING.items()
        ],
    }
    return digest_document(document, "ek-validator-v1")
