"""The commands that ask a registry: exit codes, JSON on stdout, errors on stderr."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import pytest

from enginekeeper.cli._errors import ExitCode
from enginekeeper.orchestration.publication import publish
from enginekeeper.validation import report
from registry.environments import CpuEnvironment
from registry.trust import Purpose
from registry.types import Engine, Repair, Result
from tests.factories.benches import Site, variants_of
from tests.fakes.statements import asked

Ek = Callable[..., Any]


@pytest.fixture
def engine(site: Site, tmp_path: Path) -> Engine:
    """An engine that was never judged."""
    return site.publish(variants_of(tmp_path)[0])


def judge(site: Site, engine: Engine, tmp_path: Path, result: Result = Result.PASS) -> None:
    site.judge(engine, variants_of(tmp_path)[0], result)


ASKS = (("engine", "show"), ("engine", "explain"), ("gate",))
JSON = (("--json",), ("-o", "json"), ("-ojson",))


@pytest.mark.usefixtures("site")
@pytest.mark.parametrize(
    ("command", "as_json"),
    [*product(ASKS, ((), *JSON)), (("channel", "set", "prod"), ())],
)
def test_an_unknown_engine_exits_4(
    ek: Ek, command: tuple[str, ...], as_json: tuple[str, ...]
) -> None:
    said = ek(*command, "deadbeef", *as_json)
    assert (said.code, said.out) == (ExitCode.NOT_FOUND, "")
    if as_json:
        error = json.loads(said.err)
        assert (error["error"], error["exit_code"]) == ("RecordNotFoundError", 4)
    else:
        assert said.err.startswith("error: ")
        assert "deadbeef" in said.err


@pytest.mark.parametrize(
    ("result", "decided"),
    [
        (None, (ExitCode.FAIL, "never-judged")),
        (Result.PASS, (ExitCode.OK, "qualified")),
        (Result.FAIL, (ExitCode.FAIL, "verdict-failed")),
        (Result.INCONCLUSIVE, (ExitCode.INCONCLUSIVE, "verdict-inconclusive")),
    ],
)
def test_the_gate_exits_by_the_verdict(
    site: Site,
    ek: Ek,
    tmp_path: Path,
    result: Result | None,
    decided: tuple[ExitCode, str],
) -> None:
    (variant,) = variants_of(tmp_path)
    engine = site.publish(variant)
    if result is not None:
        judge(site, engine, tmp_path, result)
    said = ek("gate", engine.digest.short, "--json")
    assert (said.code, said.json["rule"]) == decided
    assert decided[1] in ek("gate", engine.digest.short).out


def test_the_gate_exits_8_where_the_engine_cannot_work(
    ek: Ek, site: Site, engine: Engine, tmp_path: Path
) -> None:
    judge(site, engine, tmp_path)
    node = tmp_path / "node.json"
    node.write_text(json.dumps(CpuEnvironment((), "1.0").as_dict()))
    said = ek("gate", engine.digest.short, "--environment", node, "--json")
    assert (said.code, said.json["rule"]) == (ExitCode.REFUSED, "incompatible")


@pytest.mark.parametrize("purpose", ["build", "verdict"])
def test_the_gate_exits_11_when_a_signature_does_not_count(
    ek: Ek, site: Site, engine: Engine, tmp_path: Path, purpose: str
) -> None:
    judge(site, engine, tmp_path)
    site.distrust(purpose)
    said = ek("gate", engine.digest.short, "--json")
    assert (said.code, said.json["rule"]) == (ExitCode.INTEGRITY, f"{purpose}-not-attested")


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"kind": "tpu"}', '{"kind": "cpu"}'])
def test_an_unreadable_environment_exits_3(
    ek: Ek, engine: Engine, tmp_path: Path, text: str
) -> None:
    node = tmp_path / "node.json"
    node.write_text(text)
    said = ek("gate", engine.digest.short, "--environment", node)
    assert (said.code, said.out) == (ExitCode.INVALID_INPUT, "")


@pytest.mark.usefixtures("site")
@pytest.mark.parametrize("command", [("engine", "list"), ("channel", "list"), ("where",)])
def test_an_empty_registry_is_an_empty_list(ek: Ek, command: tuple[str, ...]) -> None:
    for option in (["--json"], ["-o", "json"]):
        said = ek(*command, *option)
        assert (said.code, said.json) == (0, [])


def test_a_list_costs_as_many_statements_however_many_engines_there_are(
    ek: Ek, site: Site, tmp_path: Path
) -> None:
    (variant,) = variants_of(tmp_path)
    costs = set()
    for number in range(1, 4):
        engine = site.publish(variant, f"engine {number}".encode())
        site.judge(engine, variant, Result.FAIL)
        site.judge(engine, variant)
        with asked() as statements:
            rows = ek("engine", "list", "--json").json
        assert [row["result"] for row in rows] == ["pass"] * number
        costs.add(len(statements))
    assert len(costs) == 1


def test_every_query_prints_json(ek: Ek, site: Site, engine: Engine, tmp_path: Path) -> None:
    judge(site, engine, tmp_path)
    name = engine.digest.short
    assert ek("channel", "set", "prod", name).code == 0
    (listed,) = ek("engine", "list", "--json").json
    assert (listed["digest"], listed["result"]) == (str(engine.digest), "pass")
    assert ek("engine", "show", name, "-o", "json").json["verdicts"][0]["result"] == "pass"
    assert ek("engine", "diff", name, name, "--json").json == []
    (position,) = ek("channel", "list", "--json").json
    assert (position["channel"], position["engine"]) == ("prod", str(engine.digest))
    (move,) = ek("channel", "history", "tiny", "prod", "-o", "json").json
    assert (move["previous"], move["engine"]) == (None, str(engine.digest))


def test_a_comparison_names_the_code_that_differs(
    ek: Ek, site: Site, engine: Engine, tmp_path: Path
) -> None:
    tools = site.bench.tools
    newer = replace(tools.quantizer, code="ek-steps-v1:newer")
    vars(site.bench)["tools"] = replace(tools, quantizer=newer)
    other = site.publish(variants_of(tmp_path)[0])
    said = ek("engine", "diff", engine.digest.short, other.digest.short, "--json")
    (difference,) = said.json
    assert (difference["layer"], difference["field"]) == ("hard", "quantizer_code")
    assert (difference["a"], difference["b"]) == (tools.quantizer.code, "ek-steps-v1:newer")


def test_an_explanation_says_what_made_the_engine(
    ek: Ek, site: Site, engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    judge(site, engine, tmp_path)
    monkeypatch.setattr(report, "render", lambda document: document["summary"])
    name = engine.digest.short
    hard = ek("engine", "explain", name, "--json").json["key"]["hard"]
    for field in ("quantizer_lock", "quantizer_code", "repair_code", "builder_lock"):
        assert hard[field] == engine.key.hard[field]
        assert hard[field] in ek("engine", "explain", name).out


def test_a_report_is_of_the_verified_verdict_or_of_a_file(
    ek: Ek, site: Site, engine: Engine, tmp_path: Path
) -> None:
    site.judge(
        engine, variants_of(tmp_path)[0], Result.FAIL,
        audits=[], faults=[], policy={"confidence": 0.99},
    )  # fmt: skip
    name, page = engine.digest.short, tmp_path / "report.html"

    said = ek("report", name, "--html", page)
    document = tmp_path / "verdict.json"
    (verdict,) = site.bench.registry.verdicts(engine.digest)
    document.write_text(json.dumps(site.bench.registry.verdict_document(verdict)))
    of_file = ek("report", document, "--html", tmp_path / "file.html", "--json")

    assert (said.code, of_file.json) == (ExitCode.OK, [{"report": str(tmp_path / "file.html")}])
    assert "fail: as tested" in page.read_text()
    assert "signature verified" in page.read_text()
    assert "no signature was" in (tmp_path / "file.html").read_text()


def test_a_report_of_a_row_that_was_not_signed_is_refused(
    ek: Ek, site: Site, engine: Engine, tmp_path: Path
) -> None:
    judge(site, engine, tmp_path, Result.FAIL)
    site.tamper("update verdicts set result='pass', summary='PASS: perfect'")

    said = ek("report", engine.digest.short, "--html", tmp_path / "report.html")

    assert said.code == ExitCode.INTEGRITY
    assert not (tmp_path / "report.html").exists()


def test_show_names_the_reference_of_every_verdict(
    ek: Ek, site: Site, engine: Engine, tmp_path: Path
) -> None:
    (variant,) = variants_of(tmp_path)
    judge(site, engine, tmp_path)  # as verdicts were before: it names none
    site.judge(engine, variant, evidence={"reference": "sha256:abc"})
    shown = ek("engine", "show", engine.digest.short, "--json").json
    assert [one["reference"] for one in shown["verdicts"]] == ["sha256:abc", None]
    assert "sha256:abc" in ek("engine", "show", engine.digest.short).out


def test_a_channel_takes_only_what_the_gate_lets_through(
    ek: Ek, site: Site, engine: Engine, tmp_path: Path
) -> None:
    judge(site, engine, tmp_path, Result.FAIL)
    for options in ((), ("--dry-run",)):
        said = ek("channel", "set", "prod", engine.digest.short, *options)
        assert said.code == ExitCode.FAIL
        assert "the gate is closed" in said.err
    judge(site, engine, tmp_path)
    assert ek("channel", "set", "prod", engine.digest.short, "--dry-run").code == 0
    assert ek("channel", "list", "--json").json == []


def test_what_was_fetched_is_found_and_its_bytes_are_watched(
    ek: Ek, site: Site, engine: Engine, tmp_path: Path
) -> None:
    judge(site, engine, tmp_path)
    place = tmp_path / "node" / "engine"
    assert ek("engine", "fetch", engine.digest.short, "--to", place).code == 0
    (row,) = ek("where", "--json").json
    assert (row["path"], row["bytes"], row["gate"]) == (str(place), "verified", "open")
    (place / "graph.pt2").chmod(0o644)
    (place / "graph.pt2").write_bytes(b"other")
    said = ek("where", "--json")
    assert (said.code, said.json[0]["bytes"]) == (ExitCode.DRIFT, "CHANGED")
    other = ek("where", "--model", "other", "--json")
    assert (other.code, other.json) == (ExitCode.OK, [])


@pytest.mark.parametrize(
    "ends", [(None, 5), (Result.FAIL, 5), (Result.INCONCLUSIVE, 6), (Result.PASS, 0)]
)
def test_what_the_gate_closes_is_not_fetched(
    ek: Ek, site: Site, engine: Engine, tmp_path: Path, ends: tuple[Result | None, int]
) -> None:
    result, code = ends
    if result is not None:
        judge(site, engine, tmp_path, result)
    place = tmp_path / "node" / "engine"
    said = ek("engine", "fetch", engine.digest.short, "--to", place)
    assert (said.code, place.exists()) == (code, code == 0)
    assert len(ek("where", "--json").json) == (code == 0)


@pytest.mark.parametrize("command", ["quarantine", "revoke"])
def test_what_is_held_is_neither_fetched_nor_exported(
    ek: Ek, site: Site, engine: Engine, tmp_path: Path, command: str
) -> None:
    judge(site, engine, tmp_path)
    name, place = engine.digest.short, tmp_path / "out"
    ek("engine", command, name, "--reason", "leaks", "--yes")
    for way in ("fetch", "export"):
        said = ek("engine", way, name, "--to", place)
        assert (said.code, said.out) == (ExitCode.FAIL, "")
        assert "leaks" in said.err
        assert not place.exists()
    with site.bench.registry.catalogue.read() as view:
        assert view.placements() == []


def test_what_is_fetched_to_inspect_is_logged_and_no_placement(
    ek: Ek, site: Site, engine: Engine, tmp_path: Path
) -> None:
    judge(site, engine, tmp_path, Result.FAIL)
    place = tmp_path / "out"
    said = ek("engine", "fetch", engine.digest.short, "--to", place, "--to-inspect", "--json")
    assert (said.code, said.json["to_inspect"]) == (ExitCode.OK, True)
    assert "not to run" in said.err
    assert (place / "graph.pt2").read_bytes()
    assert ek("where", "--json").json == []
    (entry,) = ek("audit", "log", "--last", 1, "--json").json
    assert (entry["action"], entry["subject"]) == ("engine inspect", str(engine.digest))
    assert ek("run-check", place).code == ExitCode.NOT_FOUND


def test_a_copy_that_is_gone_is_missing_and_drift(
    ek: Ek, site: Site, engine: Engine, tmp_path: Path
) -> None:
    place = tmp_path / "node" / "engine"
    judge(site, engine, tmp_path)
    ek("engine", "fetch", engine.digest.short, "--to", place)
    shutil.rmtree(place)
    said = ek("where", "--json")
    assert (said.code, said.json[0]["bytes"]) == (ExitCode.DRIFT, "MISSING")
    assert f"{place} is gone" in said.err
    assert f"where --forget {place}" in said.err
    forgotten = ek("where", "--forget", place, "--json")
    assert (forgotten.code, forgotten.json) == (ExitCode.OK, [])
    assert ek("where", "--forget", place).code == ExitCode.NOT_FOUND


def test_a_closed_gate_alone_is_no_drift(
    ek: Ek, site: Site, engine: Engine, tmp_path: Path
) -> None:
    judge(site, engine, tmp_path)
    ek("engine", "fetch", engine.digest.short, "--to", tmp_path / "engine")
    judge(site, engine, tmp_path, Result.FAIL)
    said = ek("where", "--json")
    assert (said.code, said.json[0]["gate"]) == (ExitCode.OK, "closed")


def test_an_engine_without_a_trusted_builder_is_not_fetched(
    ek: Ek, site: Site, engine: Engine, tmp_path: Path
) -> None:
    site.distrust("build")
    said = ek("engine", "fetch", engine.digest.short, "--to", tmp_path / "out")
    assert (said.code, said.out) == (ExitCode.INTEGRITY, "")
    assert not (tmp_path / "out").exists()


def test_an_engine_that_was_never_judged_has_nothing_to_explain(ek: Ek, engine: Engine) -> None:
    said = ek("engine", "explain", engine.digest.short)
    assert (said.code, said.out) == (ExitCode.NOT_FOUND, "")
    assert "never judged" in said.err


def test_a_row_that_is_not_what_was_signed_is_marked(
    ek: Ek, site: Site, engine: Engine, tmp_path: Path
) -> None:
    judge(site, engine, tmp_path, Result.FAIL)
    site.tamper("update verdicts set result='pass', summary='PASS: perfect'")
    name = engine.digest.short
    (row,) = ek("engine", "list", "--json").json
    assert (row["result"], row["fidelity"], row["summary"]) == ("unverified", None, None)
    assert "result pass" in row["fault"]
    shown = ek("engine", "show", name, "--json").json["signatures"]
    assert [(one["purpose"], one["valid"]) for one in shown] == [
        ("build", True),
        ("verdict", False),
    ]
    assert "unverified" in ek("engine", "show", name).out
    assert ek("engine", "explain", name).code == ExitCode.INTEGRITY


def test_an_engine_is_shown_with_its_files_and_signers(
    ek: Ek, site: Site, engine: Engine, tmp_path: Path
) -> None:
    judge(site, engine, tmp_path)
    said = ek("engine", "show", engine.digest.short, "--json").json
    assert [entry["path"] for entry in said["files"]] == ["graph.pt2"]
    signs = {Purpose.BUILD, Purpose.VERDICT}
    trusted = [key.keyid for key in site.bench.trust.keys if signs & key.purposes]
    assert sorted(one["signers"][0] for one in said["signatures"]) == sorted(trusted)
    text = ek("engine", "show", engine.digest.short).out
    for shown in ("graph.pt2", said["files"][0]["digest"], *(key[:12] for key in trusted)):
        assert shown in text


def test_repairs_are_shown_as_the_builder_signed_them(ek: Ek, site: Site, tmp_path: Path) -> None:
    repair = Repair("rope", "rotary_base", None, 100000.0, "ModelOpt leaves it out")
    (variant,) = variants_of(tmp_path)
    engine = publish(site.bench, site.built(variant, b"repaired", (repair,)), variant)
    name = engine.digest.short
    assert ek("engine", "show", name, "--json").json["repairs"] == [repair.as_dict()]
    assert "ModelOpt leaves it out" in ek("engine", "show", name).out


def test_a_lost_file_exits_11_until_it_is_healed(
    ek: Ek, site: Site, engine: Engine, tmp_path: Path
) -> None:
    judge(site, engine, tmp_path)
    name, copy = engine.digest.short, tmp_path / "copy"
    ek("engine", "fetch", name, "--to", copy)
    (entry,) = site.bench.registry.manifest(engine).files
    site.bench.registry.store.remove(entry.digest)
    channel = ("channel", "set", "prod", name)
    fetch = ("engine", "fetch", name, "--to", tmp_path / "out")
    for command in (fetch, channel, (*channel, "--dry-run")):
        assert ek(*command).code == ExitCode.INTEGRITY
    healed = ek("engine", "heal", name, "--from", copy, "--json")
    assert (healed.code, healed.json) == (ExitCode.OK, [{"healed": "graph.pt2"}])
    assert ek(*channel).code == ExitCode.OK


def test_commands_that_change_something_say_what_in_json(
    ek: Ek, site: Site, engine: Engine, tmp_path: Path
) -> None:
    judge(site, engine, tmp_path)
    fetched = ek("engine", "fetch", engine.digest.short, "--to", tmp_path / "b", "--json")
    assert fetched.json == {
        "engine": str(engine.digest), "path": str(tmp_path / "b"),
        "to_inspect": False, "simulated": False,
    }  # fmt: skip
    asked = ek("channel", "set", "prod", engine.digest.short, "--dry-run", "--json")
    assert asked.json["outcome"] == "open"
    moved = ek("channel", "set", "prod", engine.digest.short, "--json")
    assert moved.json["engine"] == str(engine.digest)
    assert ek("db", "upgrade", "--json").json == ek("db", "check", "--json").json
