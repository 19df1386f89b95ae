"""Which toolchains are images on this host: said once, pinned, and what stands for a lock file."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from enginekeeper.cli.toolchain import toolchain
from enginekeeper.errors import EngineKeeperError, InputError, UnavailableError
from enginekeeper.settings import Settings
from enginekeeper.toolchains.catalogue import (
    containers_folder,
    find_toolchain,
    lock_digest,
    lock_of,
)
from enginekeeper.toolchains.containers import command_lines
from enginekeeper.toolchains.containers.box import Box, Mount
from enginekeeper.toolchains.containers.description import (
    Container,
    Runtime,
    container_of,
    remove_container,
    write_container,
)
from enginekeeper.toolchains.containers.kubernetes import Cluster, job_manifest, product_label
from enginekeeper.toolchains.containers.kubernetes_run import _ended
from enginekeeper.toolchains.installation import State, state_of
from enginekeeper.toolchains.sync import ensure

NAME = "tensorrt-llm-1.2.1"
IMAGE = f"nvcr.io/nvidia/tensorrt-llm/release@sha256:{'a' * 64}"
OTHER = IMAGE.replace("a" * 64, "b" * 64)


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    monkeypatch.setenv("ENGINEKEEPER_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("ENGINEKEEPER_CACHE", str(tmp_path / "cache"))
    return Settings.from_environment()


def _say(*words: str) -> Any:  # noqa: ANN401 - any JSON value
    done = CliRunner().invoke(
        toolchain, ["container", NAME, *words, "--json"], catch_exceptions=False
    )
    return json.loads(done.stdout)["container"]


def test_what_was_said_is_read_again(settings: Settings, tmp_path: Path) -> None:
    said = Container(
        Runtime.KUBERNETES, IMAGE, "/opt/python", Cluster("builds", "shared", tmp_path),
        (("nvidia-cuda-runtime", "13.0"), ("tensorrt", "10.14.1.48")),
    )  # fmt: skip

    write_container(NAME, said, settings)

    assert container_of(NAME, settings) == said


def test_the_image_takes_the_place_of_the_lock_file(settings: Settings) -> None:
    write_container(NAME, Container(Runtime.DOCKER, IMAGE), settings)
    first = lock_digest(NAME, settings)

    write_container(NAME, Container(Runtime.PODMAN, IMAGE), settings)
    elsewhere = lock_digest(NAME, settings)
    write_container(NAME, Container(Runtime.DOCKER, OTHER), settings)

    assert elsewhere == first  # the same image, run by another program
    assert lock_digest(NAME, settings) != first
    assert state_of(find_toolchain(NAME), settings) is State.CONTAINED


def test_an_image_file_is_named_by_what_is_in_it(settings: Settings, tmp_path: Path) -> None:
    sif = tmp_path / "image.sif"
    digests = []
    for content in (b"one", b"other"):
        sif.write_bytes(content)
        write_container(NAME, Container(Runtime.APPTAINER, str(sif)), settings)
        digests.append(lock_digest(NAME, settings))

    assert digests[0] != digests[1]


def test_what_runs_in_a_container_is_not_installed(settings: Settings) -> None:
    write_container(NAME, Container(Runtime.DOCKER, IMAGE), settings)

    with pytest.raises(UnavailableError, match="nothing to install"):
        ensure(NAME, settings)


def test_it_runs_on_the_host_again_when_that_is_said(settings: Settings) -> None:
    write_container(NAME, Container(Runtime.DOCKER, IMAGE), settings)

    assert remove_container(NAME, settings)
    assert not remove_container(NAME, settings)
    assert container_of(NAME, settings) is None
    with pytest.raises(UnavailableError, match="no lock file"):
        lock_of(find_toolchain(NAME), settings)


@pytest.mark.parametrize(
    "image",
    [
        "nvcr.io/nvidia/tensorrt-llm/release:1.2.1", "release", f"release@sha256:{'a' * 63}",
        f"--privileged@sha256:{'a' * 64}", f"a b@sha256:{'a' * 64}", "",
    ],
)  # fmt: skip
def test_an_image_without_its_digest_is_refused(image: str) -> None:
    with pytest.raises(InputError, match="not pinned"):
        Container(Runtime.DOCKER, image)


@pytest.mark.parametrize(
    "document",
    [
        {"runtime": "docker", "image": IMAGE}, {"schema": 2, "runtime": "docker", "image": IMAGE},
        {"schema": 1, "runtime": "shell", "image": IMAGE},
        {"schema": 1, "runtime": "docker", "image": IMAGE, "privileged": True},
        {"schema": 1, "runtime": "docker", "image": 7},
        {"schema": 1, "runtime": "docker", "image": IMAGE, "cluster": {"namespace": "a"}},
        {"schema": 1, "runtime": "kubernetes", "image": IMAGE},
        {"schema": 1, "runtime": "docker", "image": IMAGE, "versions": {"tensorrt": "10.14"}},
        {"schema": 1, "runtime": "docker", "image": IMAGE, "versions": []},
        {"schema": 1, "runtime": "docker", "image": IMAGE, "python": "python3"},
    ],
)  # fmt: skip
def test_a_description_that_is_none_is_refused(
    document: dict[str, Any], settings: Settings
) -> None:
    folder = containers_folder(settings)
    folder.mkdir(parents=True)
    (folder / f"{NAME}.json").write_text(json.dumps(document))

    with pytest.raises(InputError):
        container_of(NAME, settings)


def test_the_command_line_says_shows_and_takes_back(settings: Settings) -> None:
    assert _say() is None
    said = _say("--runtime", "docker", "--image", IMAGE, "--tensorrt", "10.14.1.48")
    shown = _say()

    assert said == shown
    assert (shown["runtime"], shown["versions"]) == ("docker", {"tensorrt": "10.14.1.48"})
    assert _say("--remove") is None
    assert container_of(NAME, settings) is None


@pytest.mark.parametrize(
    "words",
    [
        ["--runtime", "docker"], ["--image", IMAGE],
        ["--runtime", "kubernetes", "--image", IMAGE],
        ["--runtime", "kubernetes", "--image", IMAGE, "--namespace", "builds"],
        ["--runtime", "docker", "--image", IMAGE, "--namespace", "builds", "--claim", "shared",
         "--at", "/shared"],
    ],
)  # fmt: skip
def test_half_of_what_has_to_be_said_is_refused(words: list[str], settings: Settings) -> None:
    with pytest.raises(InputError):
        _say(*words)
    assert container_of(NAME, settings) is None


def test_doubles_run_in_no_container(settings: Settings) -> None:
    words = ["container", f"simulated-{NAME}", "--runtime", "docker", "--image", IMAGE]

    with pytest.raises(EngineKeeperError, match="doubles run on this host"):
        CliRunner().invoke(toolchain, words, catch_exceptions=False)
    assert not containers_folder(settings).exists()


def _box(tmp_path: Path, user: str = "1000:1000") -> Box:
    mounts = (Mount(tmp_path / "weights", writable=False), Mount(tmp_path / "out", writable=True))
    return Box("enginekeeper-x", IMAGE, ("/usr/bin/python3", "-E"), {}, tmp_path, mounts, user)


def test_a_job_has_no_rights_and_reads_what_it_does_not_write(tmp_path: Path) -> None:
    cluster = Cluster("builds", "shared", tmp_path)

    _, job = job_manifest(_box(tmp_path), cluster, seconds=60.5, product="NVIDIA L4")["items"]

    pod = job["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    rights = container["securityContext"]
    assert rights["readOnlyRootFilesystem"]
    assert (rights["allowPrivilegeEscalation"], rights["capabilities"]) == (
        False,
        {"drop": ["ALL"]},
    )
    mounts = {
        it["mountPath"]: it["readOnly"] for it in container["volumeMounts"] if "readOnly" in it
    }
    assert mounts == {str(tmp_path / "weights"): True, str(tmp_path / "out"): False}
    assert (pod["restartPolicy"], job["spec"]["activeDeadlineSeconds"]) == ("Never", 60)
    assert container["resources"]["limits"] == {"nvidia.com/gpu": "1"}


@pytest.mark.parametrize(
    ("line", "words"),
    [
        (command_lines.docker, ["--gpus", '"device=GPU-1,GPU-2"']),
        (command_lines.podman, ["--device", "nvidia.com/gpu=GPU-1", "--device",
                                "nvidia.com/gpu=GPU-2"]),
        (command_lines.apptainer, ["--env", "CUDA_VISIBLE_DEVICES=GPU-1,GPU-2"]),
    ],
)  # fmt: skip
def test_an_engine_of_two_ranks_is_given_two_gpus(
    line: Callable[[Box], Any],
    words: list[str],
    tmp_path: Path,
) -> None:
    arguments, _ = line(replace(_box(tmp_path), gpus=("GPU-1", "GPU-2")))

    at = arguments.index(words[-1]) + 1
    assert list(arguments[at - len(words) : at]) == words


def test_a_job_asks_for_a_gpu_for_each_rank(tmp_path: Path) -> None:
    cluster = Cluster("builds", "shared", tmp_path)

    _, job = job_manifest(_box(tmp_path), cluster, seconds=9, product="NVIDIA L4", gpus=2)["items"]

    (container,) = job["spec"]["template"]["spec"]["containers"]
    assert container["resources"]["limits"] == {"nvidia.com/gpu": "2"}


def test_a_step_without_a_gpu_is_given_none(tmp_path: Path) -> None:
    cluster = Cluster("builds", "shared", tmp_path)

    _, job = job_manifest(_box(tmp_path), cluster, seconds=60, product=None)["items"]

    pod = job["spec"]["template"]["spec"]
    assert "nodeSelector" not in pod
    assert pod["containers"][0]["resources"] == {"limits": {}}


def test_a_job_does_not_run_as_root(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="does not run as root"):
        job_manifest(
            _box(tmp_path, "0:0"), Cluster("builds", "shared", tmp_path), seconds=1, product=None
        )


def test_a_product_is_named_as_its_label_has_it() -> None:
    assert product_label("NVIDIA H100 80GB HBM3") == "NVIDIA-H100-80GB-HBM3"
    assert product_label("NVIDIA RTX PRO 6000 (Blackwell)") == "NVIDIA-RTX-PRO-6000-Blackwell"


def test_a_pod_that_was_killed_for_memory_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    state = {"terminated": {"exitCode": 137, "reason": "OOMKilled"}}
    pods = {"items": [{"status": {"containerStatuses": [{"state": state}]}}]}

    assert _ended(pods) == 137
    assert capsys.readouterr().out == "Killed\n"
    assert _ended({"items": [{"status": {}}]}) is None
