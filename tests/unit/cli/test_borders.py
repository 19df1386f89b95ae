"""What a user, a file system or an environment variable can do wrong: told, never a defect."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from enginekeeper.cli._errors import ExitCode
from tests.factories import checkpoints
from tests.factories.benches import Site, variants_of, write_spec
from tests.factories.checkpoints import SOURCE, source_copy

Ek = Callable[..., Any]


def spec_of(directory: Path, model: object) -> Path:
    spec = write_spec(directory)
    spec.write_text(spec.read_text().replace(str(SOURCE), str(model)))
    return spec


@pytest.mark.usefixtures("site")
@pytest.mark.parametrize("model", ["x" * 5000, "~nosuchuser/x", "gone"])
def test_a_model_at_no_place_is_invalid_input(ek: Ek, tmp_path: Path, model: str) -> None:
    said = ek("plan", spec_of(tmp_path, model), "--json")

    error = json.loads(said.err)
    assert (said.code, error["exit_code"]) == (ExitCode.INVALID_INPUT, 3)
    assert len(said.err) < 1000


def whole_model(directory: Path) -> Path:
    model = source_copy(directory)
    words = {f"word{number}": number for number in range(96)}
    (model / "tokenizer.json").write_text(json.dumps({"model": {"vocab": words}}))
    return model


def dangling(model: Path) -> None:
    (model / "extra").symlink_to("gone")


def looping(model: Path) -> None:
    (model / "extra").symlink_to("extra")


def config_directory(model: Path) -> None:
    (model / "config.json").unlink()
    (model / "config.json").mkdir()


def deep_config(model: Path) -> None:
    (model / "config.json").write_text("[" * 100_000)


@pytest.mark.usefixtures("site")
@pytest.mark.parametrize("damage", [dangling, looping, config_directory, deep_config])
def test_a_damaged_model_is_invalid_input(
    ek: Ek, tmp_path: Path, damage: Callable[[Path], None]
) -> None:
    model = whole_model(tmp_path)
    damage(model)

    said = ek("plan", spec_of(tmp_path, model))

    assert said.code == ExitCode.INVALID_INPUT
    assert str(model) in said.err
    assert "tokenizer" not in said.err


@pytest.mark.parametrize("name", ["config.json", "rank0.safetensors"])
def test_a_checkpoint_of_deeply_nested_json_is_invalid_input(
    ek: Ek, tmp_path: Path, name: str
) -> None:
    checkpoint = checkpoints.exported("none", tmp_path)
    text = b"[" * 100_000
    start = b"" if name == "config.json" else len(text).to_bytes(8, "little")
    (checkpoint / name).write_bytes(start + text)

    said = ek("checkpoint", "audit", checkpoint, "--model", SOURCE)

    assert said.code == ExitCode.INVALID_INPUT
    assert name in said.err


@pytest.mark.parametrize("text", ["[" * 100_000, "{", "[]", '{"kind": "cpu"}'])
def test_an_environment_file_that_is_none_is_named(
    ek: Ek, site: Site, tmp_path: Path, text: str
) -> None:
    engine = site.publish(variants_of(tmp_path)[0])
    (tmp_path / "node.json").write_text(text)

    said = ek("gate", engine.digest.short, "--environment", tmp_path / "node.json")

    assert said.code == ExitCode.INVALID_INPUT
    assert "node.json" in said.err


@pytest.mark.parametrize("command", ["engine list", "db upgrade"])
@pytest.mark.parametrize(
    "setting",
    ["ENGINEKEEPER_HOME=/proc/nope", "ENGINEKEEPER_CATALOGUE=sqlite:////proc/nope/x.db"],
)
def test_a_home_that_cannot_be_written_is_unavailable(
    ek: Ek, monkeypatch: pytest.MonkeyPatch, setting: str, command: str
) -> None:
    monkeypatch.setenv(*setting.split("=", 1))

    said = ek(*command.split())

    assert said.code == ExitCode.UNAVAILABLE
    assert "/proc/nope" in said.err


@pytest.mark.usefixtures("site")
def test_a_cache_that_cannot_be_written_is_unavailable(
    ek: Ek, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ENGINEKEEPER_CACHE", "/proc/nope")

    said = ek("plan", spec_of(tmp_path, whole_model(tmp_path)))

    assert said.code == ExitCode.UNAVAILABLE
    assert "/proc/nope" in said.err


def test_a_home_of_nobody_is_invalid_input(ek: Ek, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ENGINEKEEPER_HOME", "~nosuchuser/x")

    said = ek("where")

    assert said.code == ExitCode.INVALID_INPUT
    assert "ENGINEKEEPER_HOME" in said.err


def test_a_repair_into_a_place_that_cannot_be_written_is_invalid_input(
    ek: Ek, tmp_path: Path
) -> None:
    checkpoint = checkpoints.exported("none", tmp_path)
    checkpoints.edit_config(checkpoint, rotary_base=10000.0)

    said = ek("checkpoint", "repair", checkpoint, "--model", SOURCE, "--output", "/proc/x/y")

    assert said.code == ExitCode.INVALID_INPUT
    assert "cannot be written" in said.err


@pytest.mark.parametrize(
    "command",
    [
        ("gate", "deadbeef", "--environment", "GONE"),
        ("checkpoint", "audit", "GONE", "--model", SOURCE),
        ("checkpoint", "audit", SOURCE, "--model", "GONE"),
        ("validate", "--checkpoint", "x" * 5000, "--model", SOURCE),
        ("plan", "GONE"),
        ("channel", "history", "tiny", "GONE"),
    ],
)
@pytest.mark.usefixtures("site")
def test_what_is_not_there_is_not_found(ek: Ek, command: tuple[object, ...]) -> None:
    said = ek(*command)

    assert said.code == ExitCode.NOT_FOUND
    assert "GONE" in said.err or "xxx" in said.err


def test_a_dry_repair_needs_no_output_and_a_real_one_does(ek: Ek, tmp_path: Path) -> None:
    checkpoint = checkpoints.exported("none", tmp_path)
    command = ("checkpoint", "repair", checkpoint, "--model", SOURCE)

    assert ek(*command, "--dry-run").code == ExitCode.OK
    assert ek(*command).code == ExitCode.USAGE


@pytest.mark.usefixtures("site")
@pytest.mark.parametrize(
    "command",
    [
        ("engine", "quarantine", "abcdef", "--reason", "\udcff"),
        ("resolve", "\udcff", "--channel", "prod"),
        ("snapshot", "publish", "--expires-in", "1e300"),
        ("snapshot", "publish", "--expires-in", "nan"),
        ("gc", "--grace", "1e12"),
        ("gc", "--grace", "nan"),
    ],
)
def test_text_that_is_none_and_times_beyond_reason_are_usage_errors(
    ek: Ek, command: tuple[str, ...]
) -> None:
    said = ek(*command)
    assert (said.code, "internal error" in said.err) == (ExitCode.USAGE, False)
