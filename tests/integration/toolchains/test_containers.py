"""Steps in containers: what a runtime is asked for, and what is left when a run ends.

The runtimes are doubles that take exactly the options we use; none of the real ones runs here.
"""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from enginekeeper.building.interface import BuildRequest, TimingFiles
from enginekeeper.building.tensorrt_llm import TensorrtLlmBuilder
from enginekeeper.errors import InputError, UnavailableError
from enginekeeper.fleet.interface import Device, DriverState, Scan
from enginekeeper.orchestration.launching import ContainerLauncher
from enginekeeper.specs.gpus import gpu_products
from enginekeeper.specs.releases import releases
from enginekeeper.toolchains.containers.description import Container, Runtime
from enginekeeper.toolchains.containers.kubernetes import Cluster
from enginekeeper.toolchains.errors import StepCrashedError
from enginekeeper.toolchains.results import StepOutcome
from enginekeeper.toolchains.runner import STEPS, StepRun, launch_step
from tests.factories.trtllm_checkpoints import checkpoint_config
from tests.fakes.containers.host import IMAGE, ContainerHost, container_host
from tests.fakes.trtllm.toolchain import FakeToolchain, fake_toolchain

H100, L4 = gpu_products()["h100-sxm"], gpu_products()["l4"]
CHOSEN = "GPU-1"  # the second: the first is of another product
RUNTIMES = ["docker", "podman", "apptainer", "kubernetes"]


class OneHost:
    """NVML of a host with an L4 and an H100."""

    simulated = True

    def driver(self) -> DriverState:
        return DriverState("580.95.05", "13.0")

    def scan(self) -> Scan:
        return Scan(
            tuple(
                Device(index, f"GPU-{index}", one.product, str(one.compute_capability),
                       None, None, None)
                for index, one in enumerate((L4, H100))
            )
        )  # fmt: skip


class Site:
    """A host, a checkpoint, a builder, and steps that run in a container."""

    def __init__(self, root: Path, runtime: str) -> None:
        self.root = root
        self.tools: FakeToolchain = fake_toolchain(root / "image", "1.2.1", L4, H100)
        path = f"{self.tools.folder}{os.pathsep}/usr/bin{os.pathsep}/bin"
        self.host: ContainerHost = container_host(root / "host", Path(path), "GPU-0", CHOSEN)
        self.keys = root / "home" / "keys"
        self.keys.mkdir(parents=True)
        sif = root / "image.sif"
        sif.touch()
        cluster = Cluster("builds", "shared", root) if runtime == "kubernetes" else None
        self.launcher = ContainerLauncher(
            Container(
                Runtime(runtime), str(sif) if runtime == "apptainer" else IMAGE, cluster=cluster
            ),
            self.keys, OneHost, "1000:1000",
        )  # fmt: skip
        self.checkpoint = root / "checkpoint"
        self.checkpoint.mkdir()
        (self.checkpoint / "config.json").write_text(json.dumps(checkpoint_config()))
        (self.checkpoint / "rank0.safetensors").touch()
        self.request = BuildRequest(
            self.checkpoint, root / "out" / "engine", {"max_batch_size": 1},
            timing=TimingFiles(None, root / "timing" / "model.cache"),
        )  # fmt: skip
        for folder in ("out", "timing"):
            (root / folder).mkdir()
        self.builder = TensorrtLlmBuilder(
            releases()["tensorrt-llm-1.2.1"], H100, "tensorrt-llm-1.2.1", simulated=True
        )

    def run(self, toolchain: str, step: str, job: Any, /) -> StepOutcome:  # noqa: ANN401 - a job
        """Runs a step as the workshop does."""
        return launch_step(self.step(toolchain, step, job), self.launcher)

    def step(self, toolchain: str, step: str, job: Any) -> StepRun:  # noqa: ANN401 - a job
        """Returns the run of a step."""
        return StepRun(toolchain, step, job, self.root / "logs", timeout_seconds=60)


@pytest.fixture
def site_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Site]:
    def make(runtime: str) -> Site:
        site = Site(tmp_path, runtime)
        monkeypatch.setenv("PATH", f"{site.host.programs}{os.pathsep}{os.environ['PATH']}")
        monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[3]))
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "a secret")
        return site

    return make


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_a_build_in_a_container_ends_in_a_whole_engine(
    runtime: str, site_of: Callable[[str], Site]
) -> None:
    site = site_of(runtime)

    built = site.builder.build(site.request, site.run)

    assert {it.name for it in built.directory.iterdir()} == {"config.json", "rank0.engine"}
    assert (site.root / "timing" / "model.cache").is_file()
    assert site.host.running == []
    asked = site.host.run
    said = {"enginekeeper": asked["env"]["ENGINEKEEPER_STEP_CONTAINER"]}
    assert said == {"enginekeeper": "1"}
    assert "a secret" not in json.dumps(asked)


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_only_where_the_build_writes_is_writable(
    runtime: str, site_of: Callable[[str], Site]
) -> None:
    site = site_of(runtime)

    site.builder.build(site.request, site.run)

    writable = {Path(path).name for path, read_only in site.host.run["mounts"] if not read_only}
    read = {Path(path).name for path, read_only in site.host.run["mounts"] if read_only}
    assert writable == {"logs", "out", "timing"}
    assert read == {"checkpoint", "steps"}


@pytest.mark.parametrize("runtime", ["docker", "podman", "apptainer"])
def test_a_container_has_no_network_and_the_one_gpu(
    runtime: str, site_of: Callable[[str], Site]
) -> None:
    site = site_of(runtime)

    site.builder.build(site.request, site.run)

    assert (site.host.run["network"], site.host.run["gpu"]) == ("none", CHOSEN)


class TwoH100s(OneHost):
    """NVML of a host with an L4 and two H100s."""

    def scan(self) -> Scan:
        one, two = super().scan().devices
        return Scan((one, two, replace(two, index=2, uuid="GPU-2")))


def test_who_asks_an_engine_of_two_ranks_has_two_gpus(site_of: Callable[[str], Site]) -> None:
    site = site_of("docker")
    job = {**site.builder.job(site.request), "ranks": 2}
    run = site.step("tensorrt-llm-1.2.1", "score_trtllm", job)
    with pytest.raises(UnavailableError, match="there are not 2 GPUs"):
        site.launcher.command(run, STEPS / "score_trtllm.py", site.root / "result.json")
    site.launcher.nvml = TwoH100s

    command = site.launcher.command(run, STEPS / "score_trtllm.py", site.root / "result.json")

    assert '"device=GPU-1,GPU-2"' in command.arguments


def test_docker_gives_it_no_rights_and_pulls_nothing(site_of: Callable[[str], Site]) -> None:
    site = site_of("docker")

    site.builder.build(site.request, site.run)

    asked = site.host.run
    assert (asked["user"], asked["cap_drop"]) == ("1000:1000", "ALL")
    assert (asked["security"], asked["pull"]) == ("no-new-privileges", "never")


def test_a_job_names_the_product_and_is_gone_afterwards(site_of: Callable[[str], Site]) -> None:
    site = site_of("kubernetes")

    site.builder.build(site.request, site.run)

    assert site.host.run["gpu"] == {"nvidia.com/gpu.product": "NVIDIA-H100-80GB-HBM3"}
    manifest = json.loads((site.root / "logs" / "manifest.json").read_text())
    policy, job = manifest["items"]
    assert policy["spec"]["policyTypes"] == ["Ingress", "Egress"]
    assert not {"ingress", "egress"} & policy["spec"].keys()
    pod = job["spec"]["template"]
    assert policy["spec"]["podSelector"]["matchLabels"].items() <= pod["metadata"]["labels"].items()
    assert (job["spec"]["backoffLimit"], pod["spec"]["automountServiceAccountToken"]) == (0, False)
    assert list(site.host.state.glob("*.job")) == []
    assert len(list(site.host.state.glob("*.deleted"))) == 1


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_the_words_and_the_status_of_a_tool_that_fails_come_out(
    runtime: str, site_of: Callable[[str], Site]
) -> None:
    site = site_of(runtime)
    site.tools.tell(fail=["the tool says no"], status=3)

    with pytest.raises(StepCrashedError) as caught:
        site.builder.build(site.request, site.run)

    assert "the tool says no" in caught.value.place.log.read_text()
    assert "exit status 3" in caught.value.what
    assert not site.request.output.exists()
    assert site.host.running == []


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_what_is_cancelled_leaves_no_container(
    runtime: str, site_of: Callable[[str], Site]
) -> None:
    site = site_of(runtime)
    hold = site.root / "hold"
    hold.touch()
    site.tools.tell(hold=str(hold))
    job = site.builder.job(site.request)

    def cancel(line: str) -> None:
        if "waiting, as told" in line:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        launch_step(site.step("tensorrt-llm-1.2.1", "build_trtllm", job), site.launcher, cancel)

    assert gone(int(path.read_text()) for path in site.host.state.glob("*.pid"))
    assert not site.request.output.exists()


@contextmanager
def killed_while_it_builds(site: Site) -> Iterator[None]:
    """Starts a build in a process of its own, and kills that one when the tool is at work."""
    hold = site.root / "hold"
    hold.touch()
    site.tools.tell(hold=str(hold))
    run = site.step("tensorrt-llm-1.2.1", "build_trtllm", site.builder.job(site.request))
    builder = os.fork()
    if builder == 0:
        try:
            launch_step(run, site.launcher)
        finally:
            os._exit(1)
    log, ends = run.place.log, time.monotonic() + 60
    while not (log.is_file() and "waiting, as told" in log.read_text()):
        assert time.monotonic() < ends
        time.sleep(0.05)
    try:
        yield
    finally:
        os.kill(builder, signal.SIGKILL)
        os.waitpid(builder, 0)


def at_work(site: Site) -> list[int]:
    """Returns the processes whose command line names the site's folder."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(OSError):
            if str(site.root).encode() in path.read_bytes():
                found.append(int(path.parent.name))
    return found


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_who_is_killed_leaves_no_process_and_no_container(
    runtime: str, site_of: Callable[[str], Site]
) -> None:
    site = site_of(runtime)

    with killed_while_it_builds(site):
        processes = at_work(site)

    assert processes
    assert gone(processes), [Path(f"/proc/{one}/cmdline").read_bytes() for one in at_work(site)]
    assert at_work(site) == []
    assert not site.request.output.exists()
    assert list(site.host.state.glob("*.job")) == []


def test_a_job_ends_itself_when_the_machine_that_asked_for_it_is_gone(
    site_of: Callable[[str], Site],
) -> None:
    site = site_of("kubernetes")
    site.launcher.patience = 2.0

    with killed_while_it_builds(site):
        (pod,) = (int(path.read_text()) for path in site.host.state.glob("*.pid"))
        for one in at_work(site):  # all at once, and nothing there that could delete the job
            if os.getsid(one) != os.getsid(pod):
                os.kill(one, signal.SIGKILL)

    assert gone([pod])
    assert at_work(site) == []
    assert not site.request.output.exists()


def gone(pids: Iterable[int]) -> bool:
    """Says whether processes end; a killed one is there until somebody waited for it."""
    left = [Path(f"/proc/{pid}") for pid in pids]
    ends = time.monotonic() + 10
    while any(one.exists() for one in left) and time.monotonic() < ends:
        time.sleep(0.05)
    return not any(one.exists() for one in left)


def test_an_image_that_is_not_there_is_not_pulled(site_of: Callable[[str], Site]) -> None:
    site = site_of("docker")
    other = Container(Runtime.DOCKER, IMAGE.replace("aaaa", "bbbb"))
    site.launcher = replace(site.launcher, container=other)

    with pytest.raises(StepCrashedError) as caught:
        site.builder.build(site.request, site.run)

    assert "No such image" in caught.value.place.log.read_text()


def test_without_the_gpu_no_container_is_started(
    site_of: Callable[[str], Site], monkeypatch: pytest.MonkeyPatch
) -> None:
    site = site_of("docker")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")

    with pytest.raises(UnavailableError, match="no GPU of the kind"):
        site.builder.build(site.request, site.run)

    assert list(site.host.state.glob("*.json")) == [site.host.state / "host.json"]


@pytest.mark.parametrize("place", [".", "home", "home/keys", "home/keys/deeper"])
def test_no_container_sees_a_key(place: str, site_of: Callable[[str], Site]) -> None:
    site = site_of("docker")
    seen = site.root / place
    seen.mkdir(exist_ok=True)

    with pytest.raises(InputError, match="would see signing keys"):
        site.run("tensorrt-llm-1.2.1", "build_trtllm", {"checkpoint": str(seen)})


def test_a_link_to_the_keys_is_seen_through(site_of: Callable[[str], Site]) -> None:
    site = site_of("docker")
    link = site.root / "weights"
    link.symlink_to(site.keys)

    with pytest.raises(InputError, match="would see signing keys"):
        site.run("tensorrt-llm-1.2.1", "build_trtllm", {"checkpoint": str(link)})


def test_a_step_that_needs_the_network_is_refused(site_of: Callable[[str], Site]) -> None:
    site = site_of("docker")
    run = replace(site.step("tensorrt-llm-1.2.1", "fetch_hub", {}), network=True)

    with pytest.raises(InputError, match="needs the network"):
        launch_step(run, site.launcher)


def test_a_path_that_an_option_would_take_apart_is_refused(site_of: Callable[[str], Site]) -> None:
    site = site_of("docker")
    strange = site.root / "a,readonly=false"
    strange.mkdir()

    with pytest.raises(InputError, match="cannot be mounted"):
        site.run("tensorrt-llm-1.2.1", "build_trtllm", {"checkpoint": str(strange)})


def test_a_job_sees_nothing_beside_the_shared_volume(site_of: Callable[[str], Site]) -> None:
    site = site_of("kubernetes")
    elsewhere = replace(site.launcher.container, cluster=Cluster("builds", "shared", Path("/mnt")))
    site.launcher = replace(site.launcher, container=elsewhere)

    with pytest.raises(InputError, match="would not see this path"):
        site.builder.build(site.request, site.run)
