"""In which container images assignments want what runs on this node; told, and held against nobody.

Rules:

- the registry says it, by what it knows of this node under its name; where it did not answer, what
  the agent here was told last;
- it opens no gate and closes none: another image is drift (`drift_containers`), and no reason not
  to start what is proven.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress

from enginekeeper.errors import InputError
from enginekeeper.fleet.agent.memory import AgentMemory
from enginekeeper.fleet.images import Fit, ImageName
from enginekeeper.fleet.profiles import Profile
from enginekeeper.orchestration.bench import Bench
from enginekeeper.orchestration.desired import images_named
from enginekeeper.orchestration.run_check import RunCheck
from registry.errors import StoreUnavailableError


def images_of(bench: Bench, model: str, channel: str | None = None) -> tuple[str, ...]:
    """Returns the images that assignments to this node name for a model, of one channel or any."""
    with bench.registry.catalogue.read() as view:
        node = view.fleet.known_node(bench.node)
        if node is None or node.retired_at is not None or node.profile is None:
            return ()
        profile = Profile.of_document(view.fleet.profiles([node.profile])[node.profile])
        named = images_named(profile, view.fleet.assignments())
    found = {
        image
        for about, images in named.items()
        if about[0] == model and channel in (None, about[1])
        for image in images
    }
    return tuple(sorted(found))


def images_for_start(bench: Bench, check: RunCheck, channel: str | None) -> tuple[str, ...]:
    """Returns the images that an engine which was checked is wanted in here."""
    with suppress(StoreUnavailableError):  # it answered a moment ago, and is not waited for
        if check.silence is None:
            return images_of(bench, bench.registry.engine(check.engine).model_name, channel)
    try:
        told = AgentMemory(bench.settings.home).desired()
    except InputError:  # a damaged file is as good as none: the agent fetches it anew
        return ()
    found = {
        image
        for one in (() if told is None else told.assignments)
        if one.engine == str(check.engine) and channel in (None, one.channel)
        for image in one.containers
    }
    return tuple(sorted(found))


def otherwise(images: tuple[str, ...], actual: str | None) -> Iterator[str]:
    """Yields a line for each image that a start is wanted in and is not, or nobody can tell."""
    for image in images:
        try:
            fit, by = ImageName.parse(image).fit(actual)
        except InputError as error:  # of a file of this node that somebody wrote
            yield f"{image}: {error.what}"
            continue
        if fit is not Fit.SAME:
            yield f"{image} is assigned, and {actual or 'no image'} was named here: {by}"
