"""What should run on a node: assignments, resolved by channel, hardware and gate."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from enginekeeper.fleet.interface import DriverState
from enginekeeper.fleet.inventory import Inventory
from enginekeeper.fleet.profiles import Profile, profile_of
from enginekeeper.orchestration.desired import DesiredStates, Resolver, desired_digest
from registry.digests import digest_bytes
from registry.fleet.types import Assignment
from registry.lifecycle import quarantine
from registry.types import Engine
from tests.factories.benches import Site, make_site
from tests.factories.fleet import NOON, join
from tests.factories.gpu_engines import H100, engine_in_channel
from tests.factories.inventories import device, inventory
from tests.fakes.statements import asked


def on_arm(found: Inventory) -> Inventory:
    return replace(found, host=replace(found.host, cpu_architecture="aarch64"))


def node(name: str = "gpu-1", driver: str = H100.driver, product: str = H100.product) -> Inventory:
    found = inventory(name, devices=(device(product=product),), labels={"pool": "a"})
    return replace(found, driver=DriverState(driver, H100.cuda_driver))


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return make_site(tmp_path, host=None)


@pytest.fixture
def engine(site: Site, tmp_path: Path) -> Engine:
    return engine_in_channel(site, tmp_path)


def assigned(engine: Engine, selector: str = "*", channel: str = "prod") -> Assignment:
    return Assignment(selector, engine.model_name, channel, "anna", NOON)


def desired(
    site: Site, profile: Profile, *assignments: Assignment
) -> list[tuple[str | None, str | None]]:
    found = Resolver(site.bench.registry).desired(profile, assignments)
    return [(one.engine, one.reason) for one in found]


def test_an_assignment_means_the_engine_whose_gate_is_open(site: Site, engine: Engine) -> None:
    assert desired(site, profile_of(node()), assigned(engine)) == [(str(engine.digest), None)]


def test_what_another_pool_gets_is_not_desired(site: Site, engine: Engine) -> None:
    assert desired(site, profile_of(node()), assigned(engine, "pool=b")) == []


def test_the_same_assigned_twice_is_desired_once(site: Site, engine: Engine) -> None:
    both = assigned(engine), assigned(engine, "pool=a")
    assert len(desired(site, profile_of(node()), *both)) == 1


def test_the_images_that_assignments_of_the_node_name_are_told_with_it(
    site: Site, engine: Engine
) -> None:
    said = [
        replace(assigned(engine, selector), container=image)
        for selector, image in (("*", "r/i:2"), ("pool=a", "r/i:1"), ("pool=b", "r/other:1"))
    ]
    (found,) = Resolver(site.bench.registry).desired(profile_of(node()), said)
    assert (found.engine, found.containers) == (str(engine.digest), ("r/i:1", "r/i:2"))


@pytest.mark.parametrize(
    ("found", "channel", "said"),
    [
        (node(driver="595.71.05"), "prod", "gate closed"),
        (node(product="NVIDIA L4"), "prod", "no engine for this hardware: only"),
        (
            replace(node(), devices=(device(mig=None, unread={"mig": "Unknown Error"}),)),
            "prod",
            f"nobody can tell how {H100.product} is split",
        ),
        (on_arm(node()), "prod", "cpu_architecture"),
        (node(), "canary", "the channel has no engine of the model"),
    ],
)
def test_where_there_is_none_the_reason_is_said(
    site: Site, engine: Engine, found: Inventory, channel: str, said: str
) -> None:
    ((digest, reason),) = desired(site, profile_of(found), assigned(engine, channel=channel))
    assert digest is None
    assert said in str(reason)


def test_the_answer_for_a_profile_is_asked_once_until_something_changes(
    site: Site, engine: Engine
) -> None:
    registry = site.bench.registry
    join(registry.catalogue, node())
    with registry.catalogue.edit() as draft:
        draft.fleet.assign(assigned(engine))
        (profile,) = draft.fleet.profiles()
    now = [0.0]
    states = DesiredStates(lambda: site.bench.registry, lambda: now[0])
    assert states.cached(profile) is None
    first = states.work_out(profile)
    with asked() as statements:
        assert states.cached(profile) == first
    assert statements == []
    quarantine(registry, engine, "smells")
    states.forget()
    assert states.cached(profile) is None
    assert states.work_out(profile)[0].engine is None
    now[0] = 601.0
    assert states.cached(profile) is None


def test_profiles_that_differ_in_labels_alone_ask_the_gate_once(site: Site, engine: Engine) -> None:
    resolver = Resolver(site.bench.registry)
    profile = profile_of(node())
    resolver.desired(profile, [assigned(engine)])
    with asked() as statements:
        resolver.desired(replace(profile, labels={"pool": "b"}), [assigned(engine)])
    assert statements == []


def test_nothing_assigned_has_no_digest_and_another_engine_another_one(
    site: Site, engine: Engine
) -> None:
    found = Resolver(site.bench.registry).desired(profile_of(node()), [assigned(engine)])
    other = replace(found[0], engine=str(digest_bytes(b"other")))
    assert desired_digest(()) is None
    assert desired_digest(found) != desired_digest((other,))
