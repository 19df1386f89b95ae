"""Two machines, one PostgreSQL, one S3: the second takes what the first made, or says why not."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import boto3
import pytest

from enginekeeper.orchestration import pipeline, workshop
from enginekeeper.orchestration.order import BuildOrder
from enginekeeper.orchestration.pipeline import Work, begin, there
from registry import migrate
from registry.blobs.interface import blob_name
from registry.blobs.s3_location import S3Location
from registry.errors import IntegrityError
from registry.transfer import load_manifest
from registry.types import Reference
from tests.factories.benches import Site, make_neighbour, make_site, variants_of
from tests.fakes.servers import S3Server
from tests.fakes.steps import FakeSteps

pytestmark = pytest.mark.usefixtures("s3_credentials")


@pytest.fixture
def steps(monkeypatch: pytest.MonkeyPatch) -> FakeSteps:
    fake = FakeSteps()
    monkeypatch.setattr(workshop, "run_step", fake)
    return fake


@pytest.fixture
def first(postgresql_url: str, seaweedfs_server: S3Server, tmp_path: Path) -> Iterator[Site]:
    migrate.upgrade(postgresql_url)
    store = seaweedfs_server.url(f"tests/{uuid.uuid4().hex}")
    urls = {"ENGINEKEEPER_CATALOGUE": postgresql_url, "ENGINEKEEPER_STORE": store}
    site = make_site(tmp_path / "first", urls=urls)
    yield site
    site.bench.registry.catalogue.close()


@pytest.fixture
def second(first: Site, tmp_path: Path) -> Iterator[Site]:
    site = make_neighbour(first, tmp_path / "second")
    yield site
    site.bench.registry.catalogue.close()


def make(site: Site) -> Work:
    variants = variants_of(site.directory)
    work = replace(begin(site.plan(*variants), BuildOrder("spec")), source=site.source)
    return pipeline.make_reference(site.bench, work)


def publish(site: Site) -> Reference:
    return pipeline.publish_reference(site.bench, make(site))


def alter(site: Site, reference: Reference, server: S3Server) -> None:
    """Puts other scores into the place of a reference's, as anybody could who may write there."""
    (entry,) = load_manifest(site.bench.registry.store, reference.path, reference.digest).files
    location = S3Location.from_url(site.bench.settings.store_url)
    key = location.root + blob_name(entry.digest)
    s3 = boto3.client("s3", endpoint_url=server.endpoint, region_name="us-east-1")
    s3.put_object(Bucket=location.bucket, Key=key, Body=b"scores that flatter every engine")


def test_the_second_machine_takes_the_reference_and_does_not_make_it(
    first: Site, second: Site, steps: FakeSteps
) -> None:
    made = publish(first)
    steps.started.clear()
    work = make(second)
    assert "reference" not in steps.started
    assert there(work.probe).reference == made.digest
    assert pipeline.publish_reference(second.bench, work) == made
    assert second.bench.registry.references() == [made]


def test_a_reference_that_was_altered_in_the_store_is_refused(
    first: Site, second: Site, steps: FakeSteps, seaweedfs_server: S3Server
) -> None:
    made = publish(first)
    steps.started.clear()
    alter(first, made, seaweedfs_server)
    with pytest.raises(IntegrityError, match="bytes are not those"):
        make(second)
    assert steps.started == ["tokenize_suite"]
