"""The inventory of this node: all of it, whatever does not answer."""

from __future__ import annotations

import json
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import pytest

from enginekeeper.errors import UnavailableError
from enginekeeper.fleet.discovery import ingesting
from enginekeeper.fleet.identity import node_name
from enginekeeper.fleet.interface import DriverState, LostDevice, NullNvml, Nvml, Scan
from enginekeeper.fleet.inventories import parse_inventory
from enginekeeper.fleet.nodes import facts_of
from enginekeeper.fleet.placements import record_placement
from enginekeeper.fleet.runs import record_run
from enginekeeper.fleet.survey import survey
from registry.digests import Digest
from registry.errors import InvalidRecordError
from registry.manifests import Manifest
from tests.factories.inventories import R580, device
from tests.fakes.users import as_nobody

KEY = Digest("ek-key-v2", "1" * 64)
NOW = datetime(2026, 11, 26, 3, 0, tzinfo=UTC)


class OneGpu:
    """A node with a GPU and one that is lost; the driver may be silent."""

    simulated = False

    def __init__(self, driver: DriverState | None = R580) -> None:
        self._driver = driver

    def driver(self) -> DriverState | None:
        if self._driver is None:
            raise UnavailableError("the driver does not answer: Unknown Error")
        return self._driver

    def scan(self) -> Scan:
        return Scan((device(),), (LostDevice(1, "GPU is lost"),))


def broken() -> Nvml:
    raise UnavailableError("NVML does not start: Driver Not Loaded")


@pytest.fixture
def engine(tmp_path: Path) -> tuple[Path, Digest]:
    place = tmp_path / "engine"
    place.mkdir()
    (place / "graph").write_bytes(b"graph")
    return place, Manifest.of_directory(place, "engine", key=KEY).digest


def test_gpus_lost_ones_and_labels_are_in_the_document(tmp_path: Path) -> None:
    found = survey(tmp_path, OneGpu, labels={"pool": "a"}, now=lambda: NOW)
    assert (found.driver, found.devices, found.problem) == (R580, (device(),), None)
    assert found.lost == (LostDevice(1, "GPU is lost"),)
    assert (found.labels, found.taken_at) == ({"pool": "a"}, "2026-11-26T03:00:00+00:00")
    text = json.dumps(found.as_dict()).encode()
    assert parse_inventory(text, "x") == found


@pytest.mark.parametrize(
    ("nvml", "problem"),
    [
        (broken, "NVML does not start: Driver Not Loaded"),
        (lambda: OneGpu(None), "the driver does not answer: Unknown Error"),
        (NullNvml, None),
    ],
)
def test_a_node_whose_gpus_do_not_answer_still_has_an_inventory(
    tmp_path: Path, nvml: type[OneGpu], problem: str | None
) -> None:
    found = survey(tmp_path, nvml)
    assert (found.driver, found.devices, found.problem) == (None, (), problem)
    assert found.host.cpus >= 1


def test_a_node_goes_by_the_name_it_is_given_if_that_is_one(tmp_path: Path) -> None:
    assert survey(tmp_path, NullNvml, node="gpu-7").node == "gpu-7"
    assert survey(tmp_path, NullNvml).node == node_name()
    with pytest.raises(InvalidRecordError, match="not usable as a name"):
        survey(tmp_path, NullNvml, node="../gpu-7")


def test_engines_are_verified_by_what_their_records_say(
    tmp_path: Path, engine: tuple[Path, Digest]
) -> None:
    place, digest = engine
    record_placement(tmp_path, digest, place, key=KEY)
    (found,) = survey(tmp_path, NullNvml).engines
    assert (found.engine, found.path, found.bytes) == (str(digest), str(place), "verified")
    assert found.evidence == "declared"


@pytest.mark.parametrize(
    ("damage", "state"),
    [
        (lambda place: (place / "graph").write_bytes(b"other"), "CHANGED"),
        (lambda place: (place / "more").write_bytes(b""), "CHANGED"),
        (lambda place: (place / "graph").unlink(), "UNREADABLE"),
        (lambda place: (place / "link").symlink_to("graph"), "UNREADABLE"),
        (lambda place: place.rename(place.with_name("gone")), "MISSING"),
    ],
)
def test_an_engine_that_is_not_as_it_was_put_is_told(
    tmp_path: Path, engine: tuple[Path, Digest], damage: object, state: str
) -> None:
    place, digest = engine
    record_placement(tmp_path, digest, place, key=KEY)
    damage(place)  # type: ignore[operator]
    (found,) = survey(tmp_path, NullNvml).engines
    assert found.bytes.startswith(state)


def test_a_key_or_a_kind_that_is_not_the_engines_makes_nothing_pass(
    tmp_path: Path, engine: tuple[Path, Digest]
) -> None:
    place, digest = engine
    for fields, state in (
        ({"key": Digest("ek-key-v2", "2" * 64)}, "CHANGED"),
        ({"key": KEY, "simulated": True}, "CHANGED"),
        ({}, "UNVERIFIABLE"),  # as older versions recorded it
    ):
        record_placement(tmp_path, digest, place, **fields)
        (found,) = survey(tmp_path, NullNvml).engines
        assert found.bytes == state


def test_a_damaged_record_hides_no_engine_before_it_and_is_named(
    tmp_path: Path, engine: tuple[Path, Digest]
) -> None:
    place, digest = engine
    record_placement(tmp_path, digest, place, key=KEY)
    (tmp_path / "placements" / "zz.json").write_text("{")
    found = survey(tmp_path, NullNvml)
    assert [one.bytes for one in found.engines] == ["verified"]
    assert "zz.json" in str(found.engines_problem)


def test_records_that_cannot_be_listed_are_told_and_no_idle_node(
    tmp_path: Path, engine: tuple[Path, Digest]
) -> None:
    place, digest = engine
    record_placement(tmp_path, digest, place, key=KEY)
    record_run(tmp_path, digest, place)
    for name in ("placements", "runs"):
        (tmp_path / name).chmod(0)
    with as_nobody():
        found = survey(tmp_path, OneGpu)
    assert f"{tmp_path}/placements: the directory cannot be listed" in str(found.engines_problem)
    assert f"{tmp_path}/runs: the directory cannot be listed" in str(found.runs_problem)
    seen = facts_of(found)
    assert (seen.running, len(seen.problems)) == (None, 3)  # and the GPU that is lost


def test_a_file_of_gpus_that_is_none_is_a_problem_of_the_node(tmp_path: Path) -> None:
    (tmp_path / "gfd").write_bytes(b"\xff")
    found = survey(tmp_path, ingesting(tmp_path / "gfd", None, lambda _: "", ()))
    assert (found.problem, found.devices) == ("not a file of labels", ())


def test_the_agent_is_light(tmp_path: Path) -> None:
    program = (
        "import sys\n"
        "from enginekeeper.cli.main import cli\n"
        f"cli.main(['agent', 'once', '--output', {str(tmp_path / 'n.json')!r}], "
        "standalone_mode=False)\n"
        "heavy = {'sqlalchemy', 'registry.catalogue', 'registry.service', 'registry.models', "
        "'pydantic', 'numpy', 'boto3', 'prefect', 'alembic', 'securesystemslib', 'cryptography'}\n"
        "sys.exit(' '.join(sorted(heavy & set(sys.modules))) or 0)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False,
        env={"ENGINEKEEPER_HOME": str(tmp_path / "home"), "PATH": "/usr/bin:/bin",
             "PYTHONPATH": str(Path(__file__).parents[3])},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "n.json").is_file()
