"""Quarantine, revoke, roll back, sweep, scrub, audit, lineage, as somebody types them at night."""

from __future__ import annotations

import getpass
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from enginekeeper.cli import _lineage_text
from enginekeeper.cli._errors import ExitCode
from enginekeeper.fleet import placements
from enginekeeper.fleet.identity import actor, node_name
from registry.digests import Digest
from registry.lineage import Lineage, Node, NodeKind
from registry.types import Engine, Result
from tests.factories.benches import Site, variants_of
from tests.fakes.statements import asked

Ek = Callable[..., Any]


@pytest.fixture
def engines(site: Site, tmp_path: Path) -> list[Engine]:
    """Two qualified engines of one key; the second serves, the first lies on this node."""
    (variant,) = variants_of(tmp_path)
    made = [site.publish(variant, content) for content in (b"one", b"two")]
    for engine in made:
        site.judge(engine, variant)
        site.bench.registry.set_channel("prod", engine.digest, site.bench.environment, actor="anna")
    return made


def test_the_blast_radius_is_shown_before_anything_is_done(
    ek: Ek, engines: list[Engine], tmp_path: Path
) -> None:
    first, second = engines
    assert ek("engine", "fetch", second.digest.short, "--to", tmp_path / "here").code == 0
    for command in ("quarantine", "revoke"):
        asked = ("engine", command, second.digest.short, "--reason", "odd")
        said = ek(*asked, "--dry-run", "--json")
        assert said.code == ExitCode.OK
        assert [one["channel"] for one in said.json["channels"]] == ["prod"]
        assert said.json["placements"] == [f"{node_name()}: {tmp_path / 'here'}"]
        assert [one["engine"] for one in said.json["same_checkpoint"]] == [str(first.digest)]
        text = ek(*asked, "--dry-run").out
        assert "back: enginekeeper channel rollback prod --model tiny --target cpu" in text
        refused = ek(*asked)
        assert (refused.code, refused.out) == (ExitCode.USAGE, "")
        assert "Nothing was changed: say --yes" in refused.err
    back = ek("engine", "revoke", first.digest.short, "--reason", "odd", "--dry-run", "--json")
    assert [one["channel"] for one in back.json["rollbacks"]] == ["prod"]
    assert ek("gate", second.digest.short).code == ExitCode.OK


def test_a_quarantined_engine_is_closed_until_it_is_released(ek: Ek, engines: list[Engine]) -> None:
    name = engines[0].digest.short
    held = ek("engine", "quarantine", name, "--reason", "odd answers", "--yes", "--json")
    assert (held.code, held.json["kind"], held.json["actor"]) == (0, "quarantined", actor())
    gate = ek("gate", name, "--json")
    assert (gate.code, gate.json["rule"]) == (ExitCode.FAIL, "quarantined")
    assert [one["held"] for one in ek("engine", "list", "--json").json] == [None, "quarantined"]
    assert "odd answers" in ek("engine", "show", name).out
    assert ek("engine", "release", name, "--reason", "was the client").code == ExitCode.OK
    assert ek("gate", name).code == ExitCode.OK
    assert ek("engine", "release", name, "--reason", "again").code == ExitCode.UNAVAILABLE


def test_a_revoked_engine_is_closed_and_no_rollback_leads_to_it(
    ek: Ek, engines: list[Engine]
) -> None:
    name = engines[0].digest.short
    revoked = ek("engine", "revoke", name, "--reason", "wrong tokens", "--yes", "--json")
    assert (revoked.code, revoked.json["kind"]) == (0, "revoked")
    gate = ek("gate", name, "--json")
    assert (gate.code, gate.json["rule"]) == (ExitCode.FAIL, "revoked")
    back = ek("channel", "rollback", "prod")
    assert (back.code, back.out) == (ExitCode.FAIL, "")
    assert "revoked" in back.err


@pytest.mark.parametrize("command", ["quarantine", "revoke"])
@pytest.mark.parametrize("damage", ["a record", "all records"])
def test_what_nobody_can_read_here_keeps_no_engine_in_use(
    ek: Ek, site: Site, engines: list[Engine], command: str, damage: str
) -> None:
    records = site.bench.settings.home / "placements"
    if damage == "a record":
        records.mkdir(exist_ok=True)
        (records / "x.json").write_text("{")
    else:
        records.write_text("no directory")
    name = engines[0].digest.short
    said = ek("engine", command, name, "--reason", "leaks", "--yes")
    assert (said.code, ek("gate", name).code) == (ExitCode.OK, ExitCode.FAIL)
    assert "nobody can tell where it lies on this node" in said.err


def test_who_is_not_trusted_to_revoke_does_not(ek: Ek, site: Site, engines: list[Engine]) -> None:
    site.distrust("revocation")
    said = ek("engine", "revoke", engines[0].digest.short, "--reason", "mine", "--yes")
    assert said.code == ExitCode.INTEGRITY
    assert "key trust revoker" in said.err
    assert ek("gate", engines[0].digest.short).code == ExitCode.OK


def test_a_channel_is_rolled_back_in_one_command(ek: Ek, engines: list[Engine]) -> None:
    first, second = engines
    (choice,) = ek("channel", "rollback", "prod", "--dry-run", "--json").json
    assert (choice["engine"], choice["gate"]) == (first.digest.short, "open")
    said = ek("channel", "rollback", "prod", "--json")
    assert (said.code, said.json["engine"]) == (ExitCode.OK, str(first.digest))
    moves = ek("channel", "history", "tiny", "prod", "--json").json
    assert [(one["move"], one["engine"]) for one in moves] == [
        ("rollback", str(first.digest)), ("set", str(second.digest)), ("set", str(first.digest)),
    ]  # fmt: skip
    assert ek("channel", "rollback", "prod").code == ExitCode.NOT_FOUND
    assert ek("channel", "rollback", "none").code == ExitCode.NOT_FOUND


def test_a_rollback_leads_to_another_engine_of_the_history_by_name(
    ek: Ek, site: Site, engines: list[Engine], tmp_path: Path
) -> None:
    (variant,) = variants_of(tmp_path)
    third = site.publish(variant, b"three")
    site.judge(third, variant)
    assert ek("channel", "set", "prod", third.digest.short).code == ExitCode.OK
    site.judge(engines[1], variant, Result.FAIL)
    rehearsed, refused = (ek("channel", "rollback", "prod", *dry) for dry in (["--dry-run"], []))
    assert (rehearsed.code, refused.code) == (ExitCode.FAIL, ExitCode.FAIL)
    assert refused.err in rehearsed.err
    further = f"--to {engines[0].digest.short}"
    assert further in refused.err
    said = ek("channel", "rollback", "prod", *further.split(), "--here", "--json")
    assert (said.code, said.json["engine"]) == (ExitCode.OK, str(engines[0].digest))


def age(site: Site, tmp_path: Path) -> None:
    """Lets everything look as if it had been published years ago."""
    for table in ("engines", "checkpoints"):
        site.tamper(f"update {table} set recorded_at = '2020-01-01 00:00:00'")  # noqa: S608
    for path in (tmp_path / "home" / "store").rglob("*"):
        os.utime(path, (0, 0))


def test_a_channel_is_emptied_and_a_rollback_undoes_it(ek: Ek, engines: list[Engine]) -> None:
    dry = ek("channel", "clear", "prod", "--dry-run", "--json")
    assert (dry.code, dry.json["engine"]) == (ExitCode.OK, str(engines[1].digest))
    assert len(ek("channel", "list", "--json").json) == 1
    said = ek("channel", "clear", "prod")
    assert (said.code, "channel prod of tiny on cpu is empty" in said.err) == (ExitCode.OK, True)
    assert ek("channel", "list", "--json").json == []
    again = ek("channel", "clear", "prod", "--json")
    assert (again.code, again.json["engine"]) == (ExitCode.OK, None)
    latest = ek("channel", "history", "tiny", "prod", "--json").json[0]
    assert (latest["move"], latest["engine"]) == ("clear", None)
    assert latest["previous"] == str(engines[1].digest)
    assert ek("channel", "rollback", "prod", "--json").json["engine"] == str(engines[1].digest)
    assert ek("channel", "clear", "canary").code == ExitCode.NOT_FOUND


def test_a_sweep_shows_what_would_go_with_bytes_and_asks(
    ek: Ek, site: Site, engines: list[Engine], tmp_path: Path
) -> None:
    first, _ = engines
    age(site, tmp_path)
    sweep = ("gc", "--rollbacks", 0)
    said = ek(*sweep, "--dry-run", "--json")
    assert said.code == ExitCode.OK
    assert [one["id"] for one in said.json["remove"]] == [str(first.digest)]
    assert (said.json["blobs"], said.json["bytes"], said.json["removed"]) == (1, 3, None)
    assert "1 blobs, 0.0 MB (3 bytes) would be free" in ek(*sweep, "--dry-run").out
    assert ek(*sweep).code == ExitCode.USAGE
    assert ek(*sweep, "--keep", first.digest.short, "--dry-run", "--json").json["remove"] == []
    assert ek("gc", "--dry-run", "--json").json["remove"] == []  # a rollback leads to it
    ek("engine", "fetch", first.digest.short, "--to", tmp_path / "here")
    site.tamper("delete from placements")
    assert ek(*sweep, "--dry-run", "--json").json["remove"] == []  # this node says it lies here
    ek("where", "--forget", tmp_path / "here")
    done = ek(*sweep, "--yes", "--json").json["removed"]
    assert (done["engines"], done["blobs"], done["bytes"]) == ([str(first.digest)], 1, 3)
    assert ek("engine", "show", first.digest.short).code == ExitCode.NOT_FOUND
    assert len(ek("channel", "history", "tiny", "prod", "--json").json) == 2
    assert ek(*sweep, "--json").json["removed"] is None


def test_a_sweep_takes_nothing_young(ek: Ek, engines: list[Engine]) -> None:
    assert engines
    said = ek("gc", "--rollbacks", 0, "--per-key", 0, "--yes", "--json")
    assert (said.code, said.json["remove"], said.json["removed"]) == (ExitCode.OK, [], None)
    assert ek("gc", "--grace", "0.5").code == ExitCode.USAGE
    assert ek("gc", "--keep", "deadbeef").code == ExitCode.NOT_FOUND


def test_a_scrub_tells_what_is_wrong_and_mends_it(
    ek: Ek, site: Site, engines: list[Engine], tmp_path: Path
) -> None:
    engine = engines[0]
    store = site.bench.registry.store
    copy = tmp_path / "mirror"
    shutil.copytree(tmp_path / "home" / "store", copy)
    (entry,) = site.bench.registry.manifest(engine).files
    store.remove(entry.digest)
    said = ek("store", "scrub")
    assert said.code == ExitCode.INTEGRITY
    assert f"engine {engine.digest.short}: graph.pt2" in said.out
    assert "1 still are" in said.err
    mended = ek("store", "scrub", "--repair-from", copy, "--json")
    assert (mended.code, mended.json["findings"][0]["mended"]) == (ExitCode.OK, True)
    store.remove(entry.digest)
    assert ek("store", "scrub", "--repair-from", copy.as_uri()).code == ExitCode.OK
    assert ek("store", "scrub", "--json").json["findings"] == []
    assert ek("store", "scrub", "--repair-from", tmp_path / "no").code == ExitCode.NOT_FOUND


@pytest.mark.usefixtures("engines")
def test_the_end_of_the_log_is_all_that_is_asked_for(ek: Ek) -> None:
    with asked() as statements:
        assert len(ek("audit", "log", "--last", 2, "--json").json) == 2
    (query,) = [one for one in statements if "FROM audit_log" in one]
    assert "DESC" in query
    assert "LIMIT" in query


def test_engines_of_other_models_are_not_read(
    ek: Ek, engines: list[Engine], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert ek("engine", "fetch", engines[0].digest.short, "--to", tmp_path / "here").code == 0
    read: list[Path] = []
    hash_all = placements.bytes_now

    def noted(placement: placements.Placement, *, key: Digest | None, simulated: bool) -> str:
        read.append(placement.path)
        return hash_all(placement, key=key, simulated=simulated)

    monkeypatch.setattr(placements, "bytes_now", noted)
    assert ek("where", "--model", "another", "--json").json == []
    assert read == []
    (row,) = ek("where", "--model", "tiny", "--json").json
    assert (row["engine"], read) == (engines[0].digest.short, [tmp_path / "here"])


def test_the_log_says_who_did_what_and_a_broken_link_exits_11(
    ek: Ek, site: Site, engines: list[Engine]
) -> None:
    ek("engine", "quarantine", engines[0].digest.short, "--reason", "odd", "--yes")
    entries = ek("audit", "log", "--json").json
    assert [one["number"] for one in entries] == list(range(1, len(entries) + 1))
    (last,) = ek("audit", "log", "--last", 1, "--json").json
    assert (last["action"], last["actor"]) == ("engine quarantine", actor())
    assert ek("audit", "log", "--last", 3, "--json").json == entries[-3:]
    assert ek("audit", "log", "--last", 1000, "--json").json == entries
    of_channels = ek("audit", "log", "--action", "channel", "--json").json
    assert [one["actor"] for one in of_channels] == ["anna", "anna"]
    newest = ek("audit", "log", "--action", "channel", "--last", 1, "--json").json
    assert newest == of_channels[-1:]
    assert ek("audit", "log", "--about", "nothing").out.count("\n") == 1
    about = ek("audit", "log", "--about", engines[0].digest.short, "--json").json
    assert [one["action"] for one in about] == [
        "engine publish", "verdict", "channel set", "channel set", "engine quarantine",
    ]  # fmt: skip
    whole = ek("audit", "verify", "--json")
    assert (whole.code, whole.json["entries"]) == (ExitCode.OK, len(entries))
    assert ek("audit", "verify", "--known", whole.json["head"]).code == ExitCode.OK
    site.tamper("update audit_log set actor = 'nobody' where id = 3")
    broken = ek("audit", "verify", "--json")
    assert (broken.code, broken.out) == (ExitCode.INTEGRITY, "")
    assert "entry 3 was changed" in json.loads(broken.err)["what"]


def test_lineage_is_shown_as_text_json_and_pictures(ek: Ek, engines: list[Engine]) -> None:
    name = engines[1].digest.short
    tree = ek("lineage", name).out
    assert [line.split()[0] for line in tree.splitlines()] == [
        "weights", "checkpoint", "engine", "verdict", "qualification", "channel",
    ]  # fmt: skip
    assert tree.count("*") == 1
    document = ek("lineage", name, "--json").json
    assert document["root"] == f"engine {engines[1].digest}"
    assert len(document["nodes"]) == 6
    mermaid = ek("lineage", name, "--mermaid").out
    assert mermaid.startswith("flowchart LR\n")
    assert mermaid.count("-->") == 5
    dot = ek("lineage", name, "--dot").out
    assert dot.startswith("digraph lineage {")
    assert dot.count("->") == 5
    assert ek("lineage", "tiny", "--json").json["root"].startswith("weights ")
    assert ek("lineage", "deadbeef").code == ExitCode.NOT_FOUND


def test_names_cannot_break_out_of_a_picture() -> None:
    graph = Lineage("a")
    graph.add(Node("a", NodeKind.CHANNEL, 'x"] --> evil["\\" #quot; <b>`'))
    mermaid, dot = _lineage_text.mermaid(graph), _lineage_text.dot(graph)
    assert mermaid.splitlines()[1] == (
        '  n0["channel x#quot;#93; --#gt; evil#91;#quot;\\#quot; #35;quot; #lt;b#gt;#96;"]'
    )
    assert '\\"] --> evil[\\"\\\\\\" #quot;' in dot


def test_a_user_without_a_name_is_named_by_number(monkeypatch: pytest.MonkeyPatch) -> None:
    def nobody() -> str:
        raise OSError("no username set in the environment")

    monkeypatch.setattr(getpass, "getuser", nobody)
    assert actor().startswith("uid-")
    assert actor().endswith(f"@{node_name()}")
