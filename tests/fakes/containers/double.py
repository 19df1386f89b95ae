"""Doubles of docker, podman, apptainer and kubectl: strict about what they are asked.

They parse the options that we use, as the documentation has them, and refuse every other. What they
"run" is the command on this host, with the environment of the container alone, in a session of its
own, so that it outlives its client as a real container does (Apptainer's is
a child of its own). They cannot take the network away or
make a path read-only: they look at what was asked, and at what lies in read-only mounts afterwards.

Run as `python double.py TOOL STATE ARGUMENTS...`; STATE is a folder with `host.json`:
`{"images": [...], "gpus": [...], "path": folder of the image's programs}`.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NoReturn

Host = dict[str, Any]
_KILLED = 137
TOOL, STATE = sys.argv[1], Path(sys.argv[2])


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        _die(125, f"{TOOL}: {message}\nSee '{TOOL} --help'.")


def _die(status: int, text: str) -> NoReturn:
    sys.stderr.write(f"{text}\n")
    sys.exit(status)


def _say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def _host() -> Host:
    host: Host = json.loads((STATE / "host.json").read_text())
    return host


def _mount(text: str) -> tuple[Path, bool]:
    """Reads a --mount of Docker and Podman; returns its path and whether it is read-only."""
    words = dict(word.partition("=")[::2] for word in text.split(","))
    if words.keys() - {"type", "source", "target", "readonly"} or words.get("type") != "bind":
        _die(125, f"invalid argument {text!r} for --mount flag: unexpected key in mount")
    source, target = Path(words["source"]), Path(words["target"])
    if not source.exists():
        _die(125, f"bind source path does not exist: {source}")
    if source != target or not source.is_absolute():
        _die(125, f"this double takes the same path inside and outside: {text}")
    return source, "readonly" in words


def _bind(text: str) -> tuple[Path, bool]:
    """Reads a --bind of Apptainer."""
    source, target, mode = text.split(":")
    if source != target or mode not in ("ro", "rw"):
        _die(255, f"FATAL: while parsing bind path {text}")
    if not Path(source).exists():
        _die(255, f"FATAL: mount source {source} doesn't exist")
    return Path(source), mode == "ro"


def _seen(paths: Iterable[Path]) -> dict[str, tuple[int, int]]:
    files = (it for path in paths for it in (path.rglob("*") if path.is_dir() else [path]))
    return {str(it): (it.stat().st_size, it.stat().st_mtime_ns) for it in files if it.is_file()}


def _run(name: str, record: Mapping[str, Any], command: list[str]) -> int:
    """Runs a container's command; returns its status."""
    mounts = [(Path(path), only) for path, only in record["mounts"]]
    inside = [path for path, _ in mounts]
    for word in (*command[1:], record["directory"]):
        path = Path(word)
        if path.is_absolute() and not any(path == it or it in path.parents for it in inside):
            _die(127, f"{word}: no such file or directory in the container")
    read_only = [path for path, only in mounts if only]
    before = _seen(read_only)
    (STATE / f"{name}.json").write_text(json.dumps({**record, "command": command}))
    host = _host()
    child = subprocess.Popen(
        [host["python"], *command[1:]], cwd=record["directory"],
        start_new_session=TOOL != "apptainer",
        env={"PATH": host["path"], **record["env"]},
        stdin=subprocess.PIPE if record["interactive"] else subprocess.DEVNULL,
    )  # fmt: skip
    (STATE / f"{name}.pid").write_text(str(child.pid))
    if child.stdin is not None:
        threading.Thread(target=_pass_on, args=(child.stdin.fileno(),), daemon=True).start()
    status = child.wait()
    (STATE / f"{name}.pid").unlink(missing_ok=True)
    if _seen(read_only) != before:
        _die(1, "OSError: [Errno 30] Read-only file system")
    return 128 - status if status < 0 else status


def _pass_on(pipe: int) -> None:
    """Passes standard input on; it ends with this client, which the command then sees."""
    while piece := os.read(0, 1024):
        os.write(pipe, piece)
    os.close(pipe)


def _remove(name: str) -> bool:
    pid = STATE / f"{name}.pid"
    if not pid.exists():
        return False
    os.killpg(int(pid.read_text()), signal.SIGKILL)
    pid.unlink(missing_ok=True)
    return True


def _docker_like() -> int:
    parser = _Parser(prog=TOOL, allow_abbrev=False)
    commands = parser.add_subparsers(dest="verb", required=True, parser_class=_Parser)
    run = commands.add_parser("run", allow_abbrev=False)
    for flag in ("--rm", "--interactive", "--init"):
        run.add_argument(flag, action="store_true", required=True)
    for option in ("--name", "--network", "--pull", "--user", "--workdir", "--entrypoint",
                   "--shm-size", "--cap-drop", "--security-opt", "--ulimit"):  # fmt: skip
        run.add_argument(option, required=True)
    for option in ("--mount", "--env"):
        run.add_argument(option, action="append", default=[])
    option = "--gpus" if TOOL == "docker" else "--device"
    run.add_argument(option, dest="gpu", action="append", default=[])
    if TOOL == "podman":
        run.add_argument("--userns", choices=["keep-id"], required=True)
    run.add_argument("image")
    run.add_argument("words", nargs=argparse.REMAINDER)
    remove = commands.add_parser("rm", allow_abbrev=False)
    remove.add_argument("--force", action="store_true", required=True)
    if TOOL == "podman":
        remove.add_argument("--ignore", action="store_true")
    remove.add_argument("name")
    asked = parser.parse_args(sys.argv[3:])
    if asked.verb == "rm":
        if not _remove(asked.name) and not getattr(asked, "ignore", False):
            _die(1, f"Error response from daemon: No such container: {asked.name}")
        return 0
    if asked.image not in _host()["images"]:
        _die(125, f"Error: No such image: {asked.image}")
    gpu = _gpu(asked.gpu)
    record = {
        "image": asked.image, "network": asked.network, "user": asked.user, "gpu": gpu,
        "env": dict(pair.split("=", 1) for pair in asked.env), "directory": asked.workdir,
        "mounts": [(str(path), only) for path, only in map(_mount, asked.mount)],
        "interactive": True, "cap_drop": asked.cap_drop, "security": asked.security_opt,
        "pull": asked.pull,
    }  # fmt: skip
    return _run(asked.name, record, [asked.entrypoint, *asked.words])


def _gpu(given: list[str]) -> str | None:
    """Reads Docker's --gpus, one line of CSV, or each of Podman's devices."""
    if TOOL == "docker":
        fields = [field for text in given for field in next(csv.reader([text]))]
        prefix, named = "device=", [field.split(",") for field in fields]
    else:
        prefix, named = "nvidia.com/gpu=", [[text] for text in given]
    if not all(names[0].startswith(prefix) for names in named):
        _die(125, f"no {prefix} in what names GPUs: {given}")
    uuids = [name.removeprefix(prefix) for names in named for name in names]
    if not set(uuids) <= set(_host()["gpus"]):
        _die(125, f"could not select device driver with capabilities: [[gpu]]: {given}")
    return ",".join(uuids) or None


def _apptainer() -> int:
    parser = _Parser(prog=TOOL, allow_abbrev=False)
    commands = parser.add_subparsers(dest="verb", required=True, parser_class=_Parser)
    run = commands.add_parser("exec", allow_abbrev=False)
    for flag in ("--containall", "--no-privs", "--net"):
        run.add_argument(flag, action="store_true", required=True)
    run.add_argument("--nv", action="store_true")
    run.add_argument("--network", choices=["none"], required=True)
    run.add_argument("--pwd", required=True)
    for option in ("--bind", "--env"):
        run.add_argument(option, action="append", default=[])
    run.add_argument("image")
    run.add_argument("words", nargs=argparse.REMAINDER)
    asked = parser.parse_args(sys.argv[3:])
    if not Path(asked.image).is_file():
        _die(255, f"FATAL: could not open image {asked.image}: no such file or directory")
    environment = dict(pair.split("=", 1) for pair in asked.env)
    record = {
        "image": asked.image, "network": asked.network, "env": environment,
        "gpu": environment.get("CUDA_VISIBLE_DEVICES") if asked.nv else None,
        "directory": asked.pwd, "interactive": True,
        "mounts": [(str(path), only) for path, only in map(_bind, asked.bind)],
    }  # fmt: skip
    return _run("apptainer", record, asked.words)


_KNOWN = {
    "Job.spec": {"backoffLimit", "activeDeadlineSeconds", "ttlSecondsAfterFinished", "template"},
    "pod": {"restartPolicy", "automountServiceAccountToken", "enableServiceLinks",
            "securityContext", "containers", "volumes", "nodeSelector", "tolerations"},
    "container": {"name", "image", "imagePullPolicy", "command", "args", "workingDir", "env",
                  "resources", "securityContext", "volumeMounts"},
    "NetworkPolicy.spec": {"podSelector", "policyTypes", "ingress", "egress"},
}  # fmt: skip


def _fields(kind: str, value: Mapping[str, Any]) -> None:
    if unknown := sorted(value.keys() - _KNOWN[kind]):
        _die(1, f'Error from server (BadRequest): strict decoding error: unknown field "{kind}.'
                f'{unknown[0]}"')  # fmt: skip


def _kubectl() -> int:
    parser = _Parser(prog=TOOL, allow_abbrev=False)
    commands = parser.add_subparsers(dest="verb", required=True, parser_class=_Parser)
    verbs = {verb: commands.add_parser(verb, allow_abbrev=False)
             for verb in ("create", "logs", "get", "delete")}  # fmt: skip
    for one in verbs.values():
        one.add_argument("--namespace", required=True)
    verbs["create"].add_argument("--filename", type=Path, required=True)
    verbs["logs"].add_argument("--follow", action="store_true")
    verbs["logs"].add_argument("--pod-running-timeout")
    verbs["logs"].add_argument("job")
    verbs["get"].add_argument("--selector", required=True)
    verbs["get"].add_argument("--output", choices=["json"], required=True)
    verbs["get"].add_argument("kind", choices=["pods"])
    verbs["delete"].add_argument("kind", choices=["job,networkpolicy"])
    verbs["delete"].add_argument("name")
    verbs["delete"].add_argument("--ignore-not-found", action="store_true")
    verbs["delete"].add_argument("--cascade", choices=["foreground"])
    verbs["delete"].add_argument("--wait", action="store_true")
    asked = parser.parse_args(sys.argv[3:])
    actions = {"create": _create, "logs": _logs, "get": _get, "delete": _delete}
    return actions[asked.verb](asked)


def _create(asked: argparse.Namespace) -> int:
    for item in json.loads(asked.filename.read_text())["items"]:
        meta, spec = item["metadata"], item["spec"]
        if meta["namespace"] != asked.namespace:
            _die(1, "error: the namespace from the provided object does not match the namespace")
        _fields(f"{item['kind']}.spec", spec)
        if item["kind"] == "Job":
            _fields("pod", spec["template"]["spec"])
            _fields("container", spec["template"]["spec"]["containers"][0])
            (STATE / f"{meta['name']}.job").write_text(json.dumps(item))
        _say(f"{item['kind'].lower()}/{meta['name']} created")
    return 0


def _logs(asked: argparse.Namespace) -> int:
    name = asked.job.removeprefix("job/")
    job = json.loads((STATE / f"{name}.job").read_text())
    pod = job["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    work = [it for it in container["volumeMounts"] if it["name"] == "work"]
    record = {
        "image": container["image"], "directory": container["workingDir"], "interactive": False,
        "env": {it["name"]: it["value"] for it in container["env"]},
        "mounts": [(it["mountPath"], it["readOnly"]) for it in work],
        "gpu": pod.get("nodeSelector"), "user": pod["securityContext"]["runAsUser"],
    }  # fmt: skip
    status = 1
    try:
        status = _run(name, record, [*container["command"], *container["args"]])
    finally:
        (STATE / f"{name}.status").write_text(str(status))
    return 0


def _get(asked: argparse.Namespace) -> int:
    path = STATE / f"{asked.selector.removeprefix('enginekeeper/job=')}.status"
    state: dict[str, Any] = {"running": {}}
    if path.exists():
        status = int(path.read_text())
        reason = "OOMKilled" if status == _KILLED else "Completed"
        state = {"terminated": {"exitCode": status, "reason": reason}}
    pod = {"status": {"containerStatuses": [{"name": "step", "state": state}]}}
    _say(json.dumps({"kind": "List", "items": [pod]}))
    return 0


def _delete(asked: argparse.Namespace) -> int:
    _remove(asked.name)
    (STATE / f"{asked.name}.job").unlink(missing_ok=True)
    (STATE / f"{asked.name}.deleted").touch()
    return 0


if __name__ == "__main__":
    tools = {"docker": _docker_like, "podman": _docker_like, "apptainer": _apptainer,
             "kubectl": _kubectl}  # fmt: skip
    sys.exit(tools[TOOL]())
