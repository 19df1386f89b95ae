"""One engine for a person: key, files, repairs, verdicts, and who signed what."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from enginekeeper.cli._bundles import BUNDLE
from enginekeeper.cli._differences import key_rows
from enginekeeper.cli._output import render_table
from enginekeeper.configs.vllm_bundle import is_vllm_bundle
from registry.environments import environment_from_dict
from registry.errors import IntegrityError
from registry.keys import EngineKey
from registry.service import Registry
from registry.types import Engine, Verdict, Waiver
from registry.verification import parameters_of
from registry.waivers import verify_waiver

_REPAIR = ("field", "before", "after", "reason")
_WAIVER = ("waiver", "rules", "verdict", "where", "granted_by", "expires_at", "state", "reason")


def described(registry: Registry, engine: Engine) -> dict[str, Any]:
    """Returns everything that is known of an engine as JSON values; marks what does not verify."""
    verdicts = registry.verdicts(engine.digest)
    signatures = registry.signatures(engine, verdicts)
    names = ["build", *(f"verdict {one.digest.short}" for one in verdicts)]
    return {
        **engine.as_dict(),
        "serving_bundle": is_vllm_bundle(engine.key),
        "stored": registry.locate(engine.path),
        "held": None if (held := registry.held(engine)) is None else str(held),
        "files": _files(registry, engine),
        "repairs": _repairs(registry, engine),
        "verdicts": [{**one.as_dict(), "reference": _reference(registry, one)} for one in verdicts],
        "qualifications": [one.as_dict() for one in registry.qualifications(engine.digest)],
        "signatures": [
            {"statement": name, **one.as_dict()}
            for name, one in zip(names, signatures, strict=True)
        ],
        "summaries": _summaries(registry, engine, verdicts),
        "waivers": [waiver_row(registry, engine, one) for one in registry.waivers(engine.digest)],
    }


def describe(document: Mapping[str, Any]) -> str:
    """Lays out what `described` returned."""
    lines = [f"engine    {document['digest']}", f"variant   {document['variant']}"]
    if document["simulated"]:
        lines.append("SIMULATED made by a double: never deployable on a real node")
    if document["serving_bundle"]:
        lines.append(f"KIND      {BUNDLE}: vLLM serves the model as it is")
    if document["held"] is not None:
        lines.append(f"HELD      {document['held']}")
    lines += [
        f"key       {document['key_digest']}",
        f"stored    {document['stored']}",
        f"recorded  {document['recorded_at']}",
        "",
        key_table(EngineKey.from_dict(document["key"])),
    ]
    lines += [_part("files", document["files"], ("path", "size", "digest"))]
    lines += [_part("repairs", document["repairs"], _REPAIR)]
    lines += [_verdicts(document)]
    lines += [_part("waivers", document["waivers"], _WAIVER)]
    lines += [_signatures([*document["signatures"], *document["summaries"]])]
    return "\n".join(lines)


def key_table(key: EngineKey) -> str:
    """Lays out an engine key, layer by layer."""
    return render_table(key_rows(key), ("layer", "field", "value"))


def _files(registry: Registry, engine: Engine) -> list[dict[str, Any]] | str:
    """Returns the manifest's files, or why they cannot be told."""
    try:
        return [entry.as_dict() for entry in registry.manifest(engine).files]
    except IntegrityError as error:
        return str(error)


def _repairs(registry: Registry, engine: Engine) -> list[dict[str, Any]] | str:
    """Returns the repairs that the builder signed, or why they cannot be told."""
    try:
        found = parameters_of(registry.verify_engine(engine)).get("repairs", [])
    except IntegrityError as error:
        return error.what
    return list(found)


def _summaries(
    registry: Registry, engine: Engine, verdicts: Sequence[Verdict]
) -> list[dict[str, Any]]:
    """Returns the verification summaries of verdicts, and who signed them."""
    return [
        {"statement": f"summary of {one.digest.short}", **signature.as_dict()}
        for one in verdicts
        if (signature := registry.summary_signature(engine, one)) is not None
    ]


def waiver_row(registry: Registry, engine: Engine, one: Waiver) -> dict[str, Any]:
    """Returns a waiver as a row: what it is, and whether it counts."""
    fault, verdict, trust = None, None, registry.trust
    try:
        verdict = verify_waiver(engine, one, trust).verdict
    except IntegrityError as error:
        fault = str(error)
    return {
        "waiver": one.digest.short,
        "digest": str(one.digest),
        "engine_id": engine.digest.short,
        "rules": ", ".join(one.rules),
        "verdict": None if verdict is None else verdict.short,
        "where": "everywhere" if one.environment is None else str(one.environment),
        "environment": None if one.environment is None else one.environment.as_dict(),
        "reason": one.reason,
        "granted_by": one.granted_by,
        "issued_at": one.issued_at.isoformat(),
        "expires_at": one.expires_at.isoformat(),
        "state": one.state(trust.clock(), trust.longest_waiver) if fault is None else "UNVERIFIED",
        "fault": fault,
    }


def _reference(registry: Registry, verdict: Verdict) -> str | None:
    """Names the reference that a verdict compared with; None where its document says none."""
    try:
        document = registry.verdict_document(verdict)
    except IntegrityError:
        return None  # told as an unverified verdict
    reference: str | None = document.get("evidence", {}).get("reference")
    return reference


def _part(name: str, rows: list[dict[str, Any]] | str, columns: tuple[str, ...]) -> str:
    if isinstance(rows, str):
        return f"{name}: UNVERIFIED: {rows}\n"
    return render_table(rows, columns) if rows else f"{name}: none\n"


def _verdicts(document: Mapping[str, Any]) -> str:
    _, *signatures = document["signatures"]
    rows = [
        {
            "verdict": str(verdict["digest"]).partition(":")[2][:12],
            "result": verdict["result"] if signature["valid"] else "unverified",
            "issued": verdict["issued_at"],
            "environment": str(environment_from_dict(verdict["environment"])),
            "reference": verdict["reference"],
        }
        for verdict, signature in zip(document["verdicts"], signatures, strict=True)
    ]
    return render_table(rows, ("verdict", "result", "issued", "environment", "reference"))


def _signatures(signatures: list[dict[str, Any]]) -> str:
    rows = [
        {
            "statement": one["statement"],
            "signed by": ", ".join(key[:12] for key in one["signers"]) or "nobody",
            "valid": "yes" if one["valid"] else "NO",
        }
        for one in signatures
    ]
    faults = [f"{one['statement']}: {one['fault']}" for one in signatures if not one["valid"]]
    return "\n".join([render_table(rows, ("statement", "signed by", "valid")), *faults])
