"""What ships in `deploy/`: every file parses, and every command in it is one of ours."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import click
import pytest
from ruamel.yaml import YAML

from enginekeeper.cli.main import cli

DEPLOY = Path(__file__).parents[2] / "deploy"
UNITS = sorted(DEPLOY.rglob("*.service"))
MANIFESTS = sorted(DEPLOY.rglob("*.yaml"))
CONTAINERFILE = DEPLOY / "agent" / "Containerfile"


def documents(file: Path) -> list[dict[str, Any]]:
    loaded: list[dict[str, Any]] = list(YAML(typ="safe", pure=True).load_all(file.read_text()))
    return loaded


def pods() -> Iterator[tuple[Path, dict[str, Any]]]:
    for file in MANIFESTS:
        for one in documents(file):
            if one["kind"] == "DaemonSet":
                yield file, one["spec"]["template"]["spec"]
            if one["kind"] == "Pod":
                yield file, one["spec"]


def containers() -> Iterator[dict[str, Any]]:
    for _, pod in pods():
        yield from (*pod.get("initContainers", ()), *pod["containers"])


def options(unit: Path) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for line in unit.read_text().splitlines():
        name, equals, value = line.partition("=")
        if equals and not line.startswith("#"):
            found.setdefault(name, []).append(value)
    return found


def image_words(instruction: str) -> list[str]:
    found = re.findall(rf"^{instruction} (\[.*\])$", CONTAINERFILE.read_text(), re.MULTILINE)
    words: list[str] = json.loads(found[-1])
    return words


def commands() -> Iterator[tuple[str, list[str]]]:
    """Yields every command line of ours that a file in `deploy` starts."""
    for unit in UNITS:
        yield unit.name, shlex.split(options(unit)["ExecStart"][0])
    yield CONTAINERFILE.name, [*image_words("ENTRYPOINT"), *image_words("CMD")]
    for one in containers():
        if "command" in one and one["command"][0] == "ek":
            yield one["name"], one["command"]
        elif "args" in one:
            yield one["name"], [*image_words("ENTRYPOINT"), *one["args"]]


def parse(words: Sequence[str]) -> click.Context:
    """Parses a command line as `ek` does; raises what click raises for a wrong one."""
    arguments = [word.replace("/host", "/") for word in words]  # a directory that is here
    context = cli.make_context("ek", arguments)
    while isinstance(context.command, click.Group):
        name, command, rest = context.command.resolve_command(
            context, [*context._protected_args, *context.args]
        )
        assert command is not None
        context = command.make_context(name, rest, parent=context)
    return context


@pytest.mark.parametrize(("where", "words"), tuple(commands()), ids=lambda one: str(one)[:40])
def test_every_command_is_one_that_the_command_line_takes(where: str, words: list[str]) -> None:
    assert Path(words[0]).name == "ek", where
    assert parse(words[1:]).command.name in {"run", "run-check", "pull"}


def test_a_wrong_command_would_be_noticed() -> None:
    with pytest.raises(click.UsageError):
        parse(["agent", "run", "--sever", "https://x"])


def systemd_analyze(*arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["systemd-analyze", *map(str, arguments)],  # noqa: S607 - wherever it is
        capture_output=True, text=True, check=False,
    )  # fmt: skip


@pytest.mark.parametrize("unit", UNITS, ids=lambda unit: unit.name)
@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd is not installed")
def test_systemd_takes_the_unit(unit: Path, tmp_path: Path) -> None:
    copy = tmp_path / unit.name
    copy.write_text(unit.read_text().replace("/opt/enginekeeper/bin/ek", "/bin/true"))
    done = systemd_analyze("verify", "--man=no", copy)
    said = [line for line in done.stderr.splitlines() if unit.name in line]
    assert said == []


def test_the_agents_unit_leaves_it_no_more_than_it_needs() -> None:
    found = options(DEPLOY / "agent" / "enginekeeper-agent.service")
    wanted = {
        "NoNewPrivileges": "yes", "CapabilityBoundingSet": "", "ProtectSystem": "strict",
        "ProtectKernelModules": "yes", "RestrictNamespaces": "yes", "DevicePolicy": "closed",
        "SystemCallFilter": "@system-service", "User": "enginekeeper", "PrivateTmp": "yes",
    }  # fmt: skip
    assert {name: found[name][0] for name in wanted} == wanted
    assert not any("token" in value and "/etc" in value for value in found["ExecStart"])


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd is not installed")
def test_systemd_itself_calls_the_agents_unit_guarded() -> None:
    unit = DEPLOY / "agent" / "enginekeeper-agent.service"
    done = systemd_analyze("security", "--offline=yes", "--no-pager", "--threshold=30", unit)
    if "unrecognized option" in done.stderr:
        pytest.skip("this systemd judges no files")
    assert done.returncode == 0, done.stdout[-300:] + done.stderr


def test_a_serving_unit_is_not_restarted_against_the_gate() -> None:
    found = options(DEPLOY / "serving" / "engine.service")
    assert found["RestartPreventExitStatus"] == ["5 6 8 11"]


def test_a_server_in_a_pod_asks_the_gate_at_each_of_its_starts() -> None:
    (pod,) = (pod for file, pod in pods() if file.parent.name == "serving")
    (server,) = pod["containers"]  # a restart of it runs no init container
    assert server["command"][:2] == ["ek", "run-check"]
    asked = parse(server["command"][1:]).params
    assert "{engine}" in asked["arguments"]
    writable = [one["mountPath"] for one in server["volumeMounts"] if not one.get("readOnly")]
    assert writable == ["/var/lib/enginekeeper"]
    assert server["env"] == pod["initContainers"][0]["env"]


@pytest.mark.parametrize(
    ("file", "pod"), tuple(pods()), ids=lambda one: getattr(one, "name", "pod")
)
def test_no_container_may_more_than_it_needs(file: Path, pod: dict[str, Any]) -> None:
    assert pod["automountServiceAccountToken"] is False, file
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    for one in (*pod.get("initContainers", ()), *pod["containers"]):
        context = one["securityContext"]
        assert context["allowPrivilegeEscalation"] is False
        assert context["capabilities"] == {"drop": ["ALL"]}
        assert "privileged" not in context
        assert {"requests", "limits"} <= one["resources"].keys()
        assert "memory" in one["resources"]["limits"]


def test_the_agent_stays_on_a_node_that_is_drained() -> None:
    (pod,) = (pod for file, pod in pods() if file.name == "daemonset.yaml")
    assert pod["tolerations"] == [{"operator": "Exists"}]
    assert pod["hostPID"] is True
    (agent,) = pod["containers"]
    assert agent["securityContext"]["readOnlyRootFilesystem"] is True
    mounted = {one["mountPath"]: one.get("readOnly", False) for one in agent["volumeMounts"]}
    assert [path for path, only in mounted.items() if not only] == ["/var/lib/enginekeeper"]
    assert {one["name"] for one in agent["volumeMounts"]} == {one["name"] for one in pod["volumes"]}


def test_the_image_has_what_the_agent_imports_and_its_lock_has_hashes() -> None:
    text = CONTAINERFILE.read_text()
    filtered = re.search(r"\^\((click\|urllib3\|nvidia-ml-py)\)==", text)
    assert filtered is not None
    lock = (DEPLOY.parent / "requirements.lock").read_text()
    entries = re.split(r"\n(?=[a-z])", lock)
    light = "\n".join(one for one in entries if re.match(rf"({filtered[1]})==", one))
    names = re.findall(r"^([a-z0-9-]+)==", light, re.MULTILINE)
    assert sorted(names) == ["click", "nvidia-ml-py", "urllib3"]
    assert light.count("--hash=sha256:") >= len(names)
    assert "USER 65532" in text
