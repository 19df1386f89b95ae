"""Shows a release of TensorRT-LLM: its facts, what it can build, and its options."""

from __future__ import annotations

from typing import Any

from enginekeeper.cli._output import render_table
from enginekeeper.compatibility.cuda import cuda_table, driver_floor
from enginekeeper.compatibility.recipe_support import recipes_by_capability
from enginekeeper.specs.build_flags import FlagKind, Presence, build_flags, flag_source
from enginekeeper.specs.profiles import ToolchainProfile
from enginekeeper.specs.releases import Release, fact_source


def release_document(profile: ToolchainProfile, release: Release) -> dict[str, Any]:
    """Returns all that is known of a release as JSON values."""
    shown = [flag for flag in build_flags().values() if release.builds_engines]
    return {
        "toolchain": release.name,
        "version": release.version,
        "facts": {
            name: {
                "value": fact.value,
                "verified": fact.verified,
                "source": fact_source(fact),
                "note": fact.note,
            }
            for name, fact in release.every_fact().items()
        }
        | _driver(profile, release),
        "recipes": recipes_by_capability(profile) if release.builds_engines else {},
        "architectures": sorted(profile.architectures),
        "options": [
            {
                "option": flag.name,
                "in_release": str(flag.presence(release.version)),
                "kind": str(flag.kind),
                "takes": flag.takes,
                "default": flag.default_in(release.version),
                "aliases": list(flag.aliases),
                "set_by": flag.set_by,
                "note": flag.note,
                "source": flag_source(flag),
                "releases": list(flag.has),
            }
            for flag in shown
        ],
    }


def _driver(profile: ToolchainProfile, release: Release) -> dict[str, Any]:
    """Says which driver the release's CUDA needs at all, by the table about CUDA."""
    if profile.cuda is None:
        return {}
    said = {
        "value": driver_floor(profile.cuda),
        "verified": release.facts.cuda.verified,
        "source": cuda_table().sources["floors"],
        "note": f"the oldest for CUDA {profile.cuda}",
    }
    return {"driver_minimum": said}


def release_text(document: dict[str, Any]) -> str:
    """Returns the document as a person reads it."""
    facts = [
        {
            "fact": name.replace("_", " "),
            "value": _value(fact["value"]),
            "verified": "yes" if fact["verified"] else "NOT VERIFIED",
            "note": fact["note"],
        }
        for name, fact in document["facts"].items()
    ]
    recipes = [
        {"compute capability": capability, "recipes": " ".join(names)}
        for capability, names in document["recipes"].items()
    ]
    options = [
        {
            "option": f"--{row['option']}",
            "takes": row["takes"],
            "default": _as_given(row),
            "set by": row["set_by"],
            "in this release": _shouted(row["in_release"]),
            "note": row["note"],
        }
        for row in document["options"]
    ]
    parts = [render_table(facts, ("fact", "value", "verified", "note"))]
    if options:
        parts.append(render_table(recipes, ("compute capability", "recipes")))
        columns = ("option", "takes", "default", "set by", "in this release", "note")
        parts.append(render_table(options, columns))
    parts.append(f"{len(document['architectures'])} architectures; sources with --json\n")
    return f"{document['toolchain']}\n\n" + "\n".join(parts)


def _as_given(row: dict[str, Any]) -> object:
    """Returns an option's default as it is written on the command line."""
    if row["kind"] == FlagKind.TOGGLE:
        return "enable" if row["default"] else "disable"
    return "off" if row["kind"] == FlagKind.SWITCH else row["default"]


def _value(value: object) -> str:
    if isinstance(value, tuple):
        return " ".join(value) or "-"
    return "-" if value is None else str(value)


def _shouted(presence: str) -> str:
    return {Presence.PRESENT: "yes", Presence.ABSENT: "NO"}.get(Presence(presence), "NOT VERIFIED")
