"""One node in full, as a document and as lines for a person."""

from __future__ import annotations

import json
from datetime import datetime
from typing import Any

from enginekeeper.fleet.health import age, diagnose
from enginekeeper.fleet.profiles import Profile
from enginekeeper.orchestration.desired import Resolver
from registry.fleet.types import Interval
from registry.service import Registry

_SHOWN = 5
"""Intervals of the history; --json has all."""


def node_document(registry: Registry, name: str, now: datetime) -> dict[str, Any]:
    """Returns everything that is known of a node."""
    with registry.catalogue.read() as view:
        node = view.fleet.node(name)
        document = view.fleet.document(node)
        engines = view.fleet.engines_on(node)
        devices = view.fleet.devices(node)
        history = view.fleet.history(node)
        assignments = view.fleet.assignments()
        row = node.profile
        profile = None if row is None else Profile.of_document(view.fleet.profiles([row])[row])
        names = view.fleet.engines_named({one.engine for one in engines})
    problems = None if profile is None else profile.ills
    health = diagnose(problems, node.seen_at, now, clock_offset=node.clock_offset)
    wanted = () if profile is None else Resolver(registry).desired(profile, assignments)
    return {
        **node.as_dict(),
        "health": str(health.health),
        "why": list(health.reasons),
        "heard": None if node.seen_at is None else age(node.seen_at, now),
        "profile": None if profile is None else profile.as_document(),
        "devices": [vars(one) for one in devices],
        "engines": [
            {
                "engine": one.engine, "path": one.path, "bytes": one.bytes,
                "evidence": one.running or "on disk", "gpus": list(one.devices),
                "variant": names[one.engine].variant if one.engine in names else None,
            }
            for one in engines
        ],
        "desired": [{**vars(one), "containers": list(one.containers)} for one in wanted],
        "history": [_interval(one) for one in history],
        "inventory": None if document is None else json.loads(document),
    }  # fmt: skip


def node_text(document: dict[str, Any]) -> str:
    """Returns the same for a person, without the inventory itself."""
    mark = "  SIMULATED, not a real node" if document["simulated"] else ""
    why = f" ({'; '.join(document['why'])})" if document["why"] else ""
    lines = [f"node {document['node']}{mark}", f"  health:   {document['health']}{why}"]
    if document["retired_at"]:
        lines.append(f"  retired:  {document['retired_at']}")
    if document["heard"]:
        lines.append(f"  heard:    {document['heard']} ago, boot {document['boot_id'] or '-'}")
    profile = document["profile"]
    if profile is None:
        return "\n".join([*lines, "  it has not reported yet"])
    labels = " ".join(f"{name}={value}" for name, value in sorted(profile["labels"].items()))
    driver = profile["driver"]
    lines += [
        f"  driver:   {driver[0]}, CUDA {driver[1]}" if driver else "  driver:   none",
        f"  platform: {profile['os']} {profile['cpu_architecture']}",
        f"  labels:   {labels or '-'}",
    ]
    xids = _xids(document["inventory"])
    lines += [
        f"  GPU {one['position']}:    {one['product']} {one['profile'] or ''} {one['uuid']}"
        f"{xids.get(one['uuid'], '')}"
        for one in document["devices"]
    ]
    lines += [
        f"  engine:   {one['engine'].partition(':')[2][:12]} {one['variant'] or 'UNKNOWN'} "
        f"at {one['path']}: {one['bytes'] or '-'}, {one['evidence']}"
        for one in document["engines"]
    ]
    lines += [
        f"  runs in:  {_runs_in(one.get('image'))}, process {one['pid']}, "
        f"engine {one['engine'].partition(':')[2][:12]}"
        for one in (document["inventory"] or {}).get("running", ())
    ]
    lines += [
        f"  desired:  {one['model']} {one['channel']}: "
        + (one["engine"].partition(":")[2][:12] if one["engine"] else f"NONE, {one['reason']}")
        + "".join(f", in {image}" for image in one["containers"])
        for one in document["desired"]
    ]
    lines += [
        f"  history:  driver {one['driver'] or '-'} from {one['since']} to {one['until'] or 'now'}"
        for one in document["history"][:_SHOWN]
    ]
    if len(document["history"]) > _SHOWN:
        lines.append(f"  history:  {len(document['history']) - _SHOWN} older ones: --json")
    return "\n".join(lines)


def _runs_in(image: str | None) -> str:
    return "unknown (its start named no image)" if image is None else f"{image} (declared)"


def _xids(inventory: dict[str, Any] | None) -> dict[str, str]:
    """Returns what is to be said of the last error of each GPU, by UUID."""
    devices = [] if inventory is None else inventory["devices"]
    return {
        one["uuid"]: f", last Xid {one['xid']} at {one.get('xid_at') or 'a time nobody told'}"
        for one in devices
        if one.get("xid") is not None
    }


def _interval(one: Interval) -> dict[str, Any]:
    return {
        "since": one.since.isoformat(),
        "until": None if one.until is None else one.until.isoformat(),
        "driver": one.driver,
        "profile": dict(one.profile),
    }
