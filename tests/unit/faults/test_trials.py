"""Trials and campaigns: looking up changes nothing, records survive, and the table counts right."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from enginekeeper import own_code
from enginekeeper.errors import InputError, MissingError
from enginekeeper.faults import campaign
from enginekeeper.faults.catalogue import FAULTS, named
from enginekeeper.faults.detection import class_rows, document, render
from enginekeeper.faults.draft import Draft
from enginekeeper.faults.fault import Target
from enginekeeper.faults.grid import Case, Grid, bundled_grid, load_grid
from enginekeeper.faults.injection import Injection, inject
from enginekeeper.faults.trial import Bench, Trial, _names
from enginekeeper.validation.audits import audit
from enginekeeper.validation.findings import Finding
from registry.digests import digest_document
from tests.factories import checkpoints


def ignore(_text: str) -> None:
    pass


HEALTHY = {fault.name for fault in FAULTS if fault.healthy}


def case(name: str, dose: float | None = None, *, below: bool = False) -> Case:
    fault = named(name)
    target = Target("last", "mlp.proj")
    return Case(Injection(fault, fault.usual if dose is None else dose, target), below)


def grid(*names: str) -> Grid:
    return Grid(digest_document({"names": list(names)}, "ek-faults-v1"), tuple(map(case, names)))


def trial(
    outcome: str, taxonomy: str | None = "T1", case_name: str = "case", **details: object
) -> Trial:
    fields = {"in_files": True, "below_limit": False, **details}
    return Trial(case_name, "fault", taxonomy, outcome=outcome, **fields)  # type: ignore[arg-type]


@pytest.mark.parametrize("recipe", ["w8a16", "w4a16_awq"], indirect=True)
def test_looking_up_finds_what_a_full_audit_finds(exported: Path, tmp_path: Path) -> None:
    bench = Bench.open(exported, checkpoints.SOURCE)
    bench.healthy()
    for name in ("scale-gain", "norm-gain", "layers-swapped", "gate-swapped", "rope-base"):
        inject(exported, case(name).injection, tmp_path / name)
        reports = audit(checkpoints.SOURCE, tmp_path / name)
        full = [f for report in reports for f in report.findings if f.result == "fail"]
        quick = bench.run(case(name))
        assert quick.outcome == "hit"
        assert quick.told == tuple(f"fail {f.where}: {f.message}" for f in full[:3])


def test_a_found_fault_is_a_hit_with_its_culprit_and_class(tmp_path: Path) -> None:
    checkpoint = checkpoints.exported("w8a16", tmp_path)
    found = Bench.open(checkpoint, checkpoints.SOURCE).run(case("scale-gain", 1.01))
    assert (found.outcome, found.check) == ("hit", "weights.fidelity")
    assert (found.culprit_right, found.class_right, found.innocents) == (True, True, 0)


@pytest.mark.parametrize(
    ("where", "right"),
    [
        ("transformer.layers.1", True),
        ("transformer.layers.1.mlp.proj", True),
        ("transformer.layers.1 (q)", True),
        ("transformer.layers.10.mlp.proj", False),
        ("transformer.layers", False),
    ],
)
def test_a_culprit_is_named_as_itself_or_by_what_is_in_it(where: str, right: bool) -> None:  # noqa: FBT001
    finding = Finding("weights.fidelity", "fail", where, "wrong")
    assert _names(finding, ("transformer.layers.1",)) is right


def test_a_layer_that_the_config_did_not_touch_is_innocent(tmp_path: Path) -> None:
    checkpoint = checkpoints.exported("w4a16", tmp_path)
    draft = Draft.open(checkpoint)
    for name in ("algorithm", "group-size", "cache-announced", "layers-fewer"):
        culprits = case(name).injection.apply(draft.fork())
        assert not _names(Finding("", "fail", "transformer.layers.0.mlp.proj", ""), culprits)


def test_what_the_audits_refuse_to_read_is_a_hit(tmp_path: Path) -> None:
    checkpoint = checkpoints.exported("w8a16", tmp_path)
    found = Bench.open(checkpoint, checkpoints.SOURCE).run(case("file-cut-short"))
    assert (found.outcome, found.check, found.culprit_right) == ("hit", "refused", True)
    assert found.class_right is None


def test_what_cannot_be_expressed_is_not_applicable(tmp_path: Path) -> None:
    checkpoint = checkpoints.exported("none", tmp_path)
    bench = Bench.open(checkpoint, checkpoints.SOURCE)
    assert bench.run(case("scale-missing")).outcome == "not applicable"


def test_a_campaign_goes_on_where_it_was(tmp_path: Path) -> None:
    checkpoint = checkpoints.exported("w8a16", tmp_path)
    said: list[str] = []
    run: Callable[..., campaign.Campaign] = lambda: campaign.run(  # noqa: E731
        checkpoint, checkpoints.SOURCE, grid("rope-base", "tensor-order"), tmp_path / "r",
        said.append,
    )  # fmt: skip
    first = run()
    (record,) = (tmp_path / "r").iterdir()
    whole = record.read_text()
    record.write_text(whole[: len(whole) * 3 // 4])  # killed while it wrote the second trial
    second = run()
    outcomes = [[one.outcome for one in done.trials] for done in (first, second)]
    assert outcomes == [["hit", "clear"], ["hit", "clear"]]
    assert [text.partition(" ")[0] for text in said] == ["1/2", "2/2", "2/2"]


def test_a_checkpoint_that_is_not_healthy_is_refused(tmp_path: Path) -> None:
    checkpoint = checkpoints.exported("w8a16", tmp_path)
    checkpoints.edit_config(checkpoint, rotary_base=1.0)
    with pytest.raises(InputError, match="faults in it prove nothing") as raised:
        campaign.run(checkpoint, checkpoints.SOURCE, grid("epsilon"), tmp_path / "r", ignore)
    assert "rotary_base" in str(raised.value)


def test_parts_add_up_to_the_whole(tmp_path: Path) -> None:
    checkpoint = checkpoints.exported("w8a16", tmp_path)
    cases = grid("rope-base", "epsilon", "window")
    arguments = (checkpoint, checkpoints.SOURCE, cases, tmp_path / "r", ignore)
    one = campaign.run(*arguments, part=campaign.Part(1, 2))
    both = campaign.run(*arguments, part=campaign.Part(2, 2))
    assert [(len(done.trials), done.not_run) for done in (one, both)] == [(2, 1), (3, 0)]
    assert [trial.fault for trial in both.trials] == ["rope-base", "epsilon", "window"]


def test_other_code_that_judges_begins_the_record_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoint = checkpoints.exported("w8a16", tmp_path)
    arguments = (checkpoint, checkpoints.SOURCE, grid("rope-base"), tmp_path / "r", ignore)
    campaign.run(*arguments)
    package = tmp_path / "package"
    shutil.copytree(own_code.PACKAGE, package, ignore=shutil.ignore_patterns("__pycache__"))
    form = package / "configs" / "form.py"
    form.write_text(form.read_text() + "\n")
    monkeypatch.setattr(own_code, "PACKAGE", package)
    campaign.run(*arguments)
    assert len(list((tmp_path / "r").iterdir())) == 2


def test_a_record_of_something_else_is_refused(tmp_path: Path) -> None:
    checkpoint = checkpoints.exported("w8a16", tmp_path)
    arguments = (checkpoint, checkpoints.SOURCE, grid("rope-base"), tmp_path / "r", ignore)
    campaign.run(*arguments)
    (record,) = (tmp_path / "r").iterdir()
    record.write_text('{"told": [], "colour": "red"}\n')
    with pytest.raises(InputError, match="not a record of trials"):
        campaign.run(*arguments)


def test_the_table_keeps_apart_what_is_below_the_limit_and_what_files_cannot_show() -> None:
    rows = class_rows([
        trial("hit", culprit_right=True, class_right=True),
        trial("miss"),
        trial("doubt"),
        trial("miss", below_limit=True),
        trial("miss", in_files=False),
        trial("clear", None),
        trial("alarm", None),
        trial("not applicable"),
    ])  # fmt: skip
    counted = {row.name.partition(":")[0]: (row.trials, row.found, row.doubts) for row in rows}
    assert counted == {
        "T1 scale value wrong": (3, 1, 1),
        "all above the limit": (3, 1, 1),
        "below the stated limit": (1, 0, 0),
        "not in the files": (1, 0, 0),
        "healthy controls": (2, 1, 0),
    }


def test_a_case_tried_on_two_recipes_is_two_trials_and_one_case() -> None:
    trials = [trial("hit", case_name=name) for name in ("a", "a", "b")]
    assert {(row.trials, row.cases) for row in class_rows(trials)} == {(3, 2)}


def test_the_interval_is_wilsons() -> None:
    rows = list(class_rows([trial("hit")] * 300))
    assert rows[0].interval == pytest.approx((0.9874, 1.0), abs=1e-4)


def test_misses_and_alarms_are_listed_by_name() -> None:
    trials = (trial("miss"), trial("alarm", None, told=("fail here: because",)))
    found = document([campaign.Campaign("w8a16", trials, 1.0)], "grid-v1")
    text = render(found)
    assert [one["outcome"] for one in found["wrong"]] == ["miss", "alarm"]
    assert "w8a16 case: alarm: fail here: because" in text


def test_the_checks_that_were_first_have_counts_and_no_rates() -> None:
    trials = (trial("hit", check="weights.scale", culprit_right=True), trial("miss"))
    found = document([campaign.Campaign("w8a16", trials, 1.0)], "grid-v1")
    expected = {"row": "weights.scale", "hits": 1, "culprit_right": 1, "class_right": 0}
    assert found["checks"] == [expected]
    assert "| check that was first | hits | culprit right | class right |" in render(found)
    assert "| weights.scale | 1 | 1 | 0 |" in render(found)


def test_the_bundled_grid_is_known_and_half_of_it_is_healthy() -> None:
    cases = load_grid(bundled_grid()).cases
    names = {one.fault.name for one in cases}
    assert names == {fault.name for fault in FAULTS}
    assert len({one.name for one in cases}) == len(cases)
    healthy = sum(one.fault.healthy for one in cases)
    assert healthy >= len(cases) - healthy


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ('{"version": 1, "entries": [{"fault": "nonsense"}]}', MissingError),
        ('{"version": 1, "entries": [{"fault": "rope-base", "layers": ["top"]}]}', InputError),
        ('{"version": 1}', InputError),
    ],
)
def test_a_malformed_grid_is_refused(text: str, error: type[Exception], tmp_path: Path) -> None:
    (tmp_path / "grid-v9.json").write_text(text)
    with pytest.raises(error):
        load_grid(tmp_path / "grid-v9.json")


@pytest.mark.parametrize("name", ["tensor-order", "unquantized-float32", "bias-of-zeros"])
def test_a_control_that_other_writers_make_is_clear(name: str, exported: Path) -> None:
    bench = Bench.open(exported, checkpoints.SOURCE)
    assert bench.run(case(name)).outcome == "clear"
    assert name in HEALTHY


def test_records_are_json_lines(tmp_path: Path) -> None:
    checkpoint = checkpoints.exported("w8a16", tmp_path)
    campaign.run(checkpoint, checkpoints.SOURCE, grid("rope-base"), tmp_path / "r", ignore)
    (record,) = (tmp_path / "r").iterdir()
    (line,) = record.read_text().splitlines()
    assert json.loads(line)["case"] == "rope-base:1.01@last.mlp.proj#0"
