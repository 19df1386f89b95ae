"""What the static audits make of faults and controls that somebody else thought of.

    python benchmarks/second_set.py run [--seconds N] [--pass N] [--only TEXT]
    python benchmarks/second_set.py run --again FILE        # what was not as expected in FILE
    python benchmarks/second_set.py report [--misses] [--over FILE]   # FILE, and this over it

The cases are `second_set.jsonl`, fixed before the first run: faults by the taxonomy alone, each
with what its author expected, and healthy controls. Their edits share nothing with
`enginekeeper/faults`, nor with the product's reading of formats. Each case is run on each export
it applies to; results are kept by the digest of the product's code, so that a run goes on where
it was, and runs before and after a change stand side by side. ENGINEKEEPER_CACHE says where the
exports are (see `detection.py`), SECOND_SET_RESULTS where results go.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Hashable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import second_edits
import second_places
import second_ranks
import second_weights
from detection import healthy_exports
from second_formats import (
    LAYERS,
    LINEARS,
    Export,
    NotApplicableError,
    dequantized,
    opened,
    read,
    write,
)
from second_report import as_expected, report

from enginekeeper.errors import InputError
from enginekeeper.own_code import code_digest
from enginekeeper.settings import Settings
from enginekeeper.validation.checkpoint import Checkpoint
from enginekeeper.validation.config_audit import audit_config
from enginekeeper.validation.findings import Finding, worst
from enginekeeper.validation.numerics.mapping import Geometry, LinearPlace
from enginekeeper.validation.numerics.recipes import UnknownRecipeError
from enginekeeper.validation.source_model import SourceModel
from enginekeeper.validation.weight_audit import WeightAudit

CASES = Path(__file__).with_name("second_set.jsonl")
Case = dict[str, Any]
LABELS = {
    "none": "unquantized",
    "w8a16": "W8A16",
    "w8a8_sq": "W8A8_SQ_PER_CHANNEL",
    "w4a16": "W4A16_AWQ, groups of 64",
    "w4a16_awq": "W4A16_AWQ, groups of 64, pre-quant",
    "fp8": "FP8",
    "fp8_per_channel_per_token": "FP8_PER_CHANNEL_PER_TOKEN",
    "nvfp4": "NVFP4, groups of 16",
}
"""What `enginekeeper.faults.campaign.label` calls an export of each recipe."""
STEPS = second_edits.STEPS | second_places.STEPS | second_ranks.STEPS | second_weights.STEPS


def cases() -> list[Case]:
    """Returns the cases as they were written down."""
    return [json.loads(line) for line in CASES.read_text().splitlines()]


def trials(which: list[Case], part: int) -> Iterator[tuple[Case, str]]:
    """Yields case and recipe; the first pass takes three recipes of each case, then the others."""
    for chosen in range(1, part + 1):
        for number, case in enumerate(which):
            recipes = case["recipes"]
            turned = [recipes[(number + n) % len(recipes)] for n in range(len(recipes))]
            for recipe in turned[:3] if chosen == 1 else turned[3:]:
                yield case, recipe


def exports_of(cache: Path, source: Path) -> dict[str, Path]:
    """Returns a healthy export of each recipe; says which there is none of."""
    found = healthy_exports(cache, source)
    missing = [recipe for recipe, label in LABELS.items() if label not in found]
    if missing:
        print(f"no export here of {missing}: run `make demo-all` first", file=sys.stderr)
    return {recipe: found[label] for recipe, label in LABELS.items() if label in found}


def run_one(case: Case, recipe: str, healthy: Path, source: Path, work: Path) -> dict[str, Any]:
    """Builds the checkpoint of a trial and returns what the audits say."""
    export = opened(recipe, healthy, source)
    try:
        for entry in case["steps"]:
            arguments = {name: value for name, value in entry.items() if name != "step"}
            STEPS[entry["step"]](export, **arguments)
    except NotApplicableError:
        return {"result": "n/a"}
    directory = work / "checkpoint"
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir()
    (directory / "config.json").write_text(json.dumps(export.config, indent=4))
    for number, tensors in enumerate(export.ranks or [export.tensors]):
        write(directory / f"rank{number}.safetensors", tensors, export.metadata, export.padding)
    began = time.perf_counter()
    said = judged(
        sourced(export, source, work), directory, export if rememberable(export) else None
    )
    return {
        **said,
        "seconds": round(time.perf_counter() - began, 2),
        "effect": effect(export, opened(recipe, healthy, source)),
    }


@dataclass(frozen=True)
class Remembering(WeightAudit):
    """A weight audit that makes the findings of what no step touched once per export."""

    export: Export | None = None

    def linear(self, place: LinearPlace) -> Iterator[Finding]:
        """Yields what is wrong with one matrix."""
        norm = place.norm[0] if place.norm else place.name
        touched = self.export is None or any(
            name.startswith((f"{place.name}.", f"{norm}.")) for name in self.export.touched
        )
        try:
            recipe = self.recipe(place)
        except UnknownRecipeError:
            touched, recipe = True, None
        if self.export is None or touched:
            yield from super().linear(place)
            return
        ranks = len(self.export.ranks), self.checkpoint.tensor_parallel
        key = self.export.recipe, place, recipe, self.checkpoint.dtype, ranks
        if key not in MEMORY:
            MEMORY[key] = tuple(super().linear(place))
        yield from MEMORY[key]


def rememberable(export: Export) -> bool:
    """Says whether what lies under a name that no step touched is the healthy export's."""
    staged = (export.config.get("mapping") or {}).get("pp_size", 1) != 1
    return not staged and all(edit["files"] is None for edit in export.source_edits)


MEMORY: dict[Hashable, tuple[Finding, ...]] = {}


def judged(source_directory: Path, directory: Path, export: Export | None) -> dict[str, Any]:
    """Returns the audits' result and what they found, worst first."""
    try:
        source, checkpoint = SourceModel.open(source_directory), Checkpoint.open(directory)
        weights = Remembering(source, checkpoint, Geometry.of(source.config), export=export)
        source.require_sizes()
        reports = audit_config(source, checkpoint), weights.run()
    except InputError as error:
        return {"result": "refused", "message": str(error)}
    findings = [finding for report in reports for finding in report.findings]
    findings.sort(key=lambda finding: finding.result != "fail")
    return {
        "result": worst(report.result for report in reports),
        "count": len(findings),
        "findings": [shown(finding) for finding in findings[:8]],
    }


def shown(finding: Finding) -> list[str | None]:
    """Returns what of a finding is compared with the case."""
    return [finding.result, finding.check, finding.where, finding.taxonomy, finding.message[:300]]


def effect(export: Export, healthy: Export) -> float | None:
    """Returns by how much the worst touched linear's error grew, or None where it is no measure."""
    found = []
    for layer in range(LAYERS):
        for linear in LINEARS:
            prefix = export.prefix(layer, linear)
            if export.recipe != "none" and any(n.startswith(prefix) for n in export.touched):
                try:
                    new = dequantized(export, layer, linear)
                except (KeyError, TypeError, ValueError):
                    return None
                truth = export.weights(layer, linear)
                if new.shape != truth.shape:
                    return None
                was = np.linalg.norm(dequantized(healthy, layer, linear) - truth)
                found.append(float(np.linalg.norm(new - truth) / was))
        if len(found) > 12:
            break
    return round(max(found), 3) if found and np.isfinite(found).all() else None


def sourced(export: Export, source: Path, work: Path) -> Path:
    """Returns the source, or a copy of its documents with what the case changes in them."""
    if not export.source_edits:
        return source
    copy = work / "source"
    shutil.rmtree(copy, ignore_errors=True)
    copy.mkdir()
    for entry in source.iterdir():
        (copy / entry.name).symlink_to(entry)
    (copy / "config.json").unlink()
    (copy / "config.json").write_text(json.dumps(export.source_config, indent=2))
    for edit in export.source_edits:
        _source_files(copy, edit)
    return copy


def _source_files(copy: Path, edit: dict[str, Any]) -> None:
    if edit["generation"]:
        text = json.loads((copy / "generation_config.json").read_text())
        (copy / "generation_config.json").unlink()
        (copy / "generation_config.json").write_text(json.dumps({**text, **edit["generation"]}))
    if edit["files"] == "no_generation":
        (copy / "generation_config.json").unlink()
    if edit["files"] in ("shards", "f32", "head"):
        weights = dict(read(copy / "model.safetensors"))
        (copy / "model.safetensors").unlink()
        if edit["files"] == "f32":
            weights = {name: value.astype(np.float32) for name, value in weights.items()}
        if edit["files"] == "head":
            weights["lm_head.weight"] = weights["model.embed_tokens.weight"]
        if edit["files"] != "shards":
            write(copy / "model.safetensors", weights, {"format": "pt"})
            return
        names = sorted(weights)
        index = {}
        for number, half in enumerate((names[::2], names[1::2]), start=1):
            shard = f"model-{number:05d}-of-00002.safetensors"
            write(copy / shard, {name: weights[name] for name in half}, {"format": "pt"})
            index.update(dict.fromkeys(half, shard))
        text = json.dumps({"metadata": {}, "weight_map": index})
        (copy / "model.safetensors.index.json").write_text(text)


def results_file() -> Path:
    """Returns where the results of this code go."""
    root = Path(os.environ.get("SECOND_SET_RESULTS", "second_set_results"))
    root.mkdir(parents=True, exist_ok=True)
    return root / f"{os.environ.get('SECOND_SET_LABEL') or code_digest('validation')[7:23]}.jsonl"


def known(path: Path) -> dict[tuple[str, str], dict[str, Any]]:
    """Returns what was found before, by case and recipe."""
    lines = path.read_text().splitlines() if path.exists() else []
    found = [json.loads(line) for line in lines]
    return {(entry["id"], entry["recipe"]): entry for entry in found}


def went_well(found: dict[tuple[str, str], dict[str, Any]]) -> set[tuple[str, str]]:
    """Returns the trials that went as their author wrote, or that could not be made."""
    by_id = {case["id"]: case for case in cases()}
    return {
        (name, recipe)
        for (name, recipe), entry in found.items()
        if entry["result"] == "n/a" or as_expected(by_id[name], recipe, entry)
    }


def run(arguments: argparse.Namespace) -> int:
    """Runs what has no result yet, until the time is over."""
    cache, path = Settings.from_environment().cache, results_file()
    source = min((cache / "models" / "packaged").glob("*/model"))
    exports = exports_of(cache, source)
    done, until = set(known(path)), time.monotonic() + arguments.seconds
    if arguments.again:
        done |= went_well(known(arguments.again))
    which = [case for case in cases() if arguments.only in case["id"]]
    left = 0
    with tempfile.TemporaryDirectory(dir="/dev/shm") as work, path.open("a") as out:
        for case, recipe in trials(which, arguments.passes):
            if (case["id"], recipe) in done:
                continue
            if recipe not in exports or time.monotonic() > until:
                left += 1
                continue
            found = run_one(case, recipe, exports[recipe], source, Path(work))
            out.write(json.dumps({"id": case["id"], "recipe": recipe, **found}) + "\n")
            out.flush()
    print(f"{left} trials left", file=sys.stderr)
    return 3 if left else 0


def main() -> int:
    """Parses, then runs or reports."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=["run", "report"])
    parser.add_argument("--seconds", type=float, default=1e9)
    parser.add_argument("--pass", type=int, default=2, dest="passes")
    parser.add_argument("--only", default="")
    parser.add_argument("--misses", action="store_true")
    parser.add_argument("--again", type=Path)
    parser.add_argument("--over", type=Path)
    arguments = parser.parse_args()
    if arguments.what == "run":
        return run(arguments)
    before = known(arguments.over) if arguments.over else {}
    report(cases(), before | known(results_file()), misses=arguments.misses)
    return 0


if __name__ == "__main__":
    sys.exit(main())
