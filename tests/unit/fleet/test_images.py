"""Names of images: read strictly; a digest compares by digest, a bare tag by text."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from enginekeeper.errors import InputError
from enginekeeper.fleet.images import Fit, ImageName

A, B = f"sha256:{'a' * 64}", f"sha256:{'b' * 64}"
repositories = st.sampled_from(["x", "nvcr.io/nvidia/tensorrt-llm/release", "localhost:5000/a_b/c"])
tags = st.none() | st.from_regex(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,20}", fullmatch=True)
digests = st.none() | st.sampled_from([A, B])
names = st.tuples(repositories, tags, digests)
Parts = tuple[str, str | None, str | None]


def written(repository: str, tag: str | None, digest: str | None) -> str:
    return repository + (f":{tag}" if tag else "") + (f"@{digest}" if digest else "")


@given(repositories, tags, digests)
def test_a_name_is_read_into_its_parts_and_fits_itself(
    repository: str, tag: str | None, digest: str | None
) -> None:
    text = written(repository, tag, digest)
    read = ImageName.parse(text)
    assert (read.repository, read.tag, read.digest) == (repository, tag, digest)
    assert read.fit(text)[0] is Fit.SAME


@given(names, names)
def test_two_digests_decide_alone_and_texts_only_without_one(named: Parts, runs: Parts) -> None:
    fit, by = ImageName.parse(written(*named)).fit(written(*runs))
    if named[2] is not None and runs[2] is not None:
        assert (fit, by) == (Fit.SAME if named[2] == runs[2] else Fit.OTHER, "by digest")
    elif named[2] is not None:
        assert fit is Fit.UNTOLD
    elif fit is Fit.SAME:
        assert named[:2] == runs[:2]


@pytest.mark.parametrize(
    ("named", "actual", "fit"),
    [
        ("x:1", "x:1", Fit.SAME),
        ("x:1", "x:2", Fit.OTHER),
        ("x:1", "y:1", Fit.OTHER),
        ("x", "x:latest", Fit.OTHER),
        ("x:1", f"x:1@{A}", Fit.SAME),
        ("x:1", f"x@{A}", Fit.UNTOLD),
        ("x:1", f"y@{A}", Fit.OTHER),
        (f"x:1@{A}", f"mirror/x:2@{A}", Fit.SAME),
        (f"x:1@{A}", f"x:1@{B}", Fit.OTHER),
        (f"x:1@{A}", "x:1", Fit.UNTOLD),
        ("x:1", None, Fit.UNTOLD),
        (f"x@{A}", None, Fit.UNTOLD),
        ("x:1", "/images/x.sif", Fit.OTHER),
    ],
)
def test_what_runs_is_held_against_what_was_named(named: str, actual: str | None, fit: Fit) -> None:
    assert ImageName.parse(named).fit(actual)[0] is fit


@pytest.mark.parametrize(
    "text",
    ["", " x", "x:", "x@", "X", "x:1@sha256:abc", f"x@{A.upper()}", f"x@sha512:{'a' * 128}", "a//b",
     "x:1\n", "x:a b", "-x", "x" * 501, "x:\u00e9", "https://x/y"],
)  # fmt: skip
def test_what_names_no_image_is_refused(text: str) -> None:
    with pytest.raises(InputError, match="not the name of a container image"):
        ImageName.parse(text)
