"""From a box to the command lines of Docker, Podman and Apptainer: arguments, never a shell string.

Each returns the command that runs the box in the foreground, and the one that removes what is left
of it: killing the client of a container does not end the container. Standard input stays open, so
that a step ends itself when its client is gone (`steps/_step.py`).

Sources: docs.docker.com/reference/cli/docker/container/run; docs.podman.io, podman-run(1);
NVIDIA container toolkit, CDI; apptainer.org/docs/user, apptainer exec. **Not run in any of them.**
"""

from __future__ import annotations

from collections.abc import Mapping

from enginekeeper.toolchains.containers.box import Box, Mount

Arguments = tuple[str, ...]


def docker(box: Box) -> tuple[Arguments, Arguments | None]:
    """Returns how Docker runs a box, and removes it."""
    # Docker reads the value as a line of CSV: a comma inside a field stands in quotes.
    gpu = ("--gpus", f'"device={",".join(box.gpus)}"') if box.gpus else ()
    return (
        ("docker", "run", *_isolation(box), "--user", box.user, *gpu, *_inside(box)),
        ("docker", "rm", "--force", box.name),
    )


def podman(box: Box) -> tuple[Arguments, Arguments | None]:
    """Returns how Podman runs a box, and removes it; its GPUs come by CDI."""
    gpu = tuple(word for one in box.gpus for word in ("--device", f"nvidia.com/gpu={one}"))
    user = ("--userns", "keep-id", "--user", box.user)
    return (
        ("podman", "run", *_isolation(box), *user, *gpu, *_inside(box)),
        ("podman", "rm", "--force", "--ignore", box.name),
    )


def apptainer(box: Box) -> tuple[Arguments, Arguments | None]:
    """Returns how Apptainer runs a box: as a child of its own, so that nothing is left of it.

    All GPUs of the host are visible in it; CUDA_VISIBLE_DEVICES names those that are its own.
    """
    environment = dict(box.environment)
    gpu: Arguments = ()
    if box.gpus:
        environment["CUDA_VISIBLE_DEVICES"] = ",".join(box.gpus)
        gpu = ("--nv",)
    return (
        (
            "apptainer", "exec", "--containall", "--no-privs", "--net", "--network", "none", *gpu,
            *(word for mount in box.mounts for word in ("--bind", _bind(mount))),
            *(word for pair in _pairs(environment) for word in ("--env", pair)),
            "--pwd", str(box.directory), box.image, *box.command,
        ),
        None,
    )  # fmt: skip


def _isolation(box: Box) -> Arguments:
    return (
        "--rm", "--interactive", "--init", "--name", box.name, "--pull", "never",
        "--network", "none", "--cap-drop", "ALL", "--security-opt", "no-new-privileges",
        "--shm-size", "1g", "--ulimit", "memlock=-1",
    )  # fmt: skip


def _inside(box: Box) -> Arguments:
    program, *arguments = box.command
    return (
        *(word for mount in box.mounts for word in ("--mount", _mount(mount))),
        *(word for pair in _pairs(box.environment) for word in ("--env", pair)),
        "--workdir", str(box.directory), "--entrypoint", program, box.image, *arguments,
    )  # fmt: skip


def _mount(mount: Mount) -> str:
    only = "" if mount.writable else ",readonly"
    return f"type=bind,source={mount.path},target={mount.path}{only}"


def _bind(mount: Mount) -> str:
    return f"{mount.path}:{mount.path}:{'rw' if mount.writable else 'ro'}"


def _pairs(environment: Mapping[str, str]) -> list[str]:
    return [f"{name}={value}" for name, value in sorted(environment.items())]
