"""Models below a prefix of a real S3 server: copied whole, once, and never out of place."""

from __future__ import annotations

import io
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import pytest
from botocore.awsrequest import AWSRequest, AWSResponse

from enginekeeper.errors import InputError
from enginekeeper.settings import Settings
from enginekeeper.sources.resolve import resolve_source
from enginekeeper.specs.source import ModelSource
from registry.blobs import s3_prefix
from registry.blobs.s3_client import connect
from registry.blobs.s3_location import S3Location
from registry.blobs.s3_prefix import S3PrefixReader
from registry.errors import (
    ConflictError,
    IntegrityError,
    InvalidRecordError,
    RecordNotFoundError,
    StoreUnavailableError,
)
from tests.factories.tiny_llama import llama_config, random_weights, write_model
from tests.fakes.servers import S3Server

pytestmark = pytest.mark.usefixtures("s3_credentials")


@dataclass(frozen=True)
class Shelf:
    """A prefix of its own, and clients for it."""

    server: S3Server
    prefix: str

    @property
    def address(self) -> str:
        """The address with the server in it; specs have the server in AWS_ENDPOINT_URL."""
        return self.server.url(self.prefix)

    @property
    def bare(self) -> str:
        return f"s3://{self.server.bucket}/{self.prefix}"

    def client(self) -> Any:  # noqa: ANN401 - the stubs' client is a type for checking only
        """Returns a new client, which a test may spoil."""
        return connect(S3Location.from_url(self.address))

    @cached_property
    def _writer(self) -> Any:  # noqa: ANN401 - as above
        return self.client()

    def put(self, name: str, data: bytes) -> None:
        self._writer.put_object(Bucket=self.server.bucket, Key=f"{self.prefix}/{name}", Body=data)

    def put_model(self, model: Path) -> None:
        for path in model.iterdir():
            self.put(path.name, path.read_bytes())


@pytest.fixture
def shelf(seaweedfs_server: S3Server) -> Shelf:
    return Shelf(seaweedfs_server, f"models/{uuid.uuid4().hex}")


@pytest.fixture
def foreign_shelf(moto_server: S3Server) -> Shelf:
    """On the server that takes every key, as AWS does; SeaweedFS lays keys out as files."""
    return Shelf(moto_server, f"models/{uuid.uuid4().hex}")


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return write_model(tmp_path / "original", llama_config(), random_weights())


@pytest.fixture
def resolve(
    shelf: Shelf, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[[S3PrefixReader], Path]:
    """Resolves the shelf as a spec does: without options in the address."""
    monkeypatch.setenv("AWS_ENDPOINT_URL", shelf.server.endpoint)
    monkeypatch.delenv("AWS_DEFAULT_REGION", raising=False)
    settings = Settings.from_environment({"HOME": str(tmp_path)})

    def _no_python(toolchain: str) -> Path:
        raise AssertionError(f"nobody needs {toolchain} for this")

    def run(reader: S3PrefixReader) -> Path:
        source = ModelSource(name="m", s3=shelf.bare)
        return resolve_source(source, settings, python_for=_no_python, reader=reader).path

    return run


class _Counting(S3PrefixReader):
    copies = 0

    def fetch(self, url: str, destination: Path) -> None:
        self.copies += 1
        super().fetch(url, destination)


def _contents(directory: Path) -> dict[str, bytes]:
    return {
        path.relative_to(directory).as_posix(): path.read_bytes()
        for path in directory.rglob("*")
        if path.is_file()
    }


def test_a_model_is_copied_whole_and_once(
    shelf: Shelf, model: Path, resolve: Callable[[S3PrefixReader], Path]
) -> None:
    shelf.put_model(model)
    reader = _Counting()

    first, second = resolve(reader), resolve(reader)

    assert first == second
    assert reader.copies == 1
    assert _contents(first) == _contents(model)


def test_a_changed_object_is_another_model(
    shelf: Shelf, model: Path, resolve: Callable[[S3PrefixReader], Path]
) -> None:
    shelf.put_model(model)
    reader = _Counting()
    before = resolve(reader)
    changed = (model / "config.json").read_bytes().replace(b"100000.0", b"200000.0")
    shelf.put("config.json", changed)

    after = resolve(reader)

    assert reader.copies == 2
    assert (after / "config.json").read_bytes() == changed
    assert (before / "config.json").read_bytes() != changed


def test_an_incomplete_model_is_not_kept(
    shelf: Shelf, model: Path, resolve: Callable[[S3PrefixReader], Path]
) -> None:
    shelf.put_model(model)
    weights = (model / "model.safetensors").read_bytes()
    shelf.put("model.safetensors", weights[:-1])

    for _ in range(2):  # the second time it is not taken for a model that was copied
        with pytest.raises(InputError, match=r"model\.safetensors"):
            resolve(S3PrefixReader())

    shelf.put("model.safetensors", weights)
    assert _contents(resolve(S3PrefixReader())) == _contents(model)


def test_folders_are_copied_and_neighbours_are_not(shelf: Shelf, tmp_path: Path) -> None:
    shelf.put("a/b/c.bin", b"deep")
    shelf.put("top.bin", b"x" * (17 * 1024 * 1024))  # two parts
    shelf.put("a/", b"")
    Shelf(shelf.server, shelf.prefix + "-2").put("other.bin", b"not of this model")

    S3PrefixReader().fetch(shelf.address, tmp_path)

    assert _contents(tmp_path) == {"a/b/c.bin": b"deep", "top.bin": b"x" * (17 * 1024 * 1024)}


def test_the_state_follows_the_objects(shelf: Shelf) -> None:
    shelf.put("a", b"1")
    states = [S3PrefixReader().state(shelf.address), S3PrefixReader().state(shelf.address)]
    for name, data in (("a", b"2"), ("b", b"2"), ("b", b"22")):
        shelf.put(name, data)
        states.append(S3PrefixReader().state(shelf.address))
    shelf.client().delete_object(Bucket=shelf.server.bucket, Key=f"{shelf.prefix}/b")
    states.append(S3PrefixReader().state(shelf.address))

    assert states[0] == states[1]
    assert states[2] == states[5]  # b came and went
    assert len(set(states)) == 4


@pytest.mark.parametrize("name", ["../x", "a/../../x", "/x", "a//b", "./x", "a\\..\\x"])
def test_a_name_that_leaves_the_directory_stops_the_copy(
    foreign_shelf: Shelf, tmp_path: Path, name: str
) -> None:
    foreign_shelf.put("config.json", b"{}")
    foreign_shelf.put(name, b"evil")
    destination = tmp_path / "model"
    destination.mkdir()

    with pytest.raises(InvalidRecordError, match="the path"):
        S3PrefixReader().fetch(foreign_shelf.address, destination)
    with pytest.raises(InvalidRecordError, match="the path"):
        S3PrefixReader().state(foreign_shelf.address)

    assert list(tmp_path.rglob("*")) == [destination]


def test_a_file_and_a_folder_of_one_name_are_refused(foreign_shelf: Shelf, tmp_path: Path) -> None:
    foreign_shelf.put("a", b"file")
    foreign_shelf.put("a/b", b"below it")

    with pytest.raises(InvalidRecordError, match="name of a folder"):
        S3PrefixReader().fetch(foreign_shelf.address, tmp_path)


class _Raw(io.BytesIO):
    def stream(self, **_: object) -> Any:  # noqa: ANN401 - what urllib3 gives botocore
        yield self.getvalue()


def _short(request: AWSRequest, **_: object) -> AWSResponse:
    headers: Any = {"Content-Length": "3", "ETag": '"1"'}
    raw: Any = _Raw(b"who")
    return AWSResponse(str(request.url), 200, headers, raw)


def test_a_short_answer_is_noticed(shelf: Shelf, tmp_path: Path) -> None:
    shelf.put("a", b"whole")
    client = shelf.client()
    client.meta.events.register("before-send.s3.GetObject", _short)

    with pytest.raises((IntegrityError, StoreUnavailableError)):
        S3PrefixReader(client=client).fetch(shelf.address, tmp_path)


def test_a_prefix_that_changes_meanwhile_is_noticed(shelf: Shelf, tmp_path: Path) -> None:
    shelf.put("a", b"1")
    client = shelf.client()

    def write(**_: object) -> None:
        shelf.put("b", b"late")

    client.meta.events.register("before-send.s3.GetObject", write)

    with pytest.raises(ConflictError, match="changed while"):
        S3PrefixReader(client=client).fetch(shelf.address, tmp_path)


def test_an_empty_prefix_is_said_plainly(shelf: Shelf) -> None:
    with pytest.raises(RecordNotFoundError, match="no object below"):
        S3PrefixReader().state(shelf.address)


def test_a_whole_bucket_is_not_a_model(shelf: Shelf, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(s3_prefix, "_MAX_OBJECTS", 1)
    shelf.put("a", b"1")
    shelf.put("b", b"2")

    with pytest.raises(InvalidRecordError, match="more objects"):
        S3PrefixReader().state(shelf.address)


def test_a_bucket_that_is_not_there_is_said_plainly(seaweedfs_server: S3Server) -> None:
    with pytest.raises(StoreUnavailableError, match="NoSuchBucket"):
        S3PrefixReader().state(f"s3://nobucket/m?endpoint_url={seaweedfs_server.endpoint}")


def test_what_is_no_address_on_s3_is_refused() -> None:
    with pytest.raises(InvalidRecordError, match="not an address"):
        S3PrefixReader().state("file:///tmp")


def test_wrong_credentials_are_said_plainly(shelf: Shelf, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong")
    with pytest.raises(StoreUnavailableError, match="credentials"):
        S3PrefixReader().state(shelf.address)
