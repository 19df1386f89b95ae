"""From a box to a Kubernetes Job: the manifest, and nothing that talks to a cluster.

Rules:

- one pod, never restarted and never tried again: whether trying again helps is decided here;
- it runs as whoever asked for it, without privileges, capabilities, a service account's token, or
  a root file system that can be written;
- what it reads and writes lies on one volume that this machine has mounted, too; every mount is a
  part of it, read-only unless the box says otherwise;
- a NetworkPolicy lets nothing in or out. It holds only where the cluster's network enforces such;
- GPUs are chosen by the product label of GPU feature discovery, as many of `nvidia.com/gpu` as the
  step has ranks.

Sources: kubernetes.io, Job and Pod v1, NetworkPolicy v1; NVIDIA GPU feature discovery. **Not run in
a cluster.**
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from enginekeeper.errors import InputError
from enginekeeper.toolchains.containers.box import Box, Mount

PRODUCT_LABEL = "nvidia.com/gpu.product"
_LABEL = re.compile(r"[^A-Za-z0-9_.-]+")
_NAME = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")
_KEPT_SECONDS = 3600
"""How long a job that nobody came back for stays, with its log."""


@dataclass(frozen=True)
class Cluster:
    """Where jobs run."""

    namespace: str
    claim: str
    """The PersistentVolumeClaim whose volume is mounted here, too."""

    at: Path
    """Where it is mounted here."""

    def __post_init__(self) -> None:
        for name in (self.namespace, self.claim):
            if not _NAME.fullmatch(name):
                raise InputError(
                    "not a name in Kubernetes",
                    actual=repr(name)[:100],
                    expected="lower-case letters, digits and dashes, 63 at most",
                )


def job_manifest(
    box: Box, cluster: Cluster, *, seconds: float, product: str | None, gpus: int = 1
) -> dict[str, Any]:
    """Returns the manifest: a job, and the policy that keeps it off the network."""
    labels = {"app.kubernetes.io/managed-by": "enginekeeper", "enginekeeper/job": box.name}
    pod = {
        "restartPolicy": "Never",
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "securityContext": _security(box.user),
        "containers": [_container(box, cluster, gpus=0 if product is None else gpus)],
        "volumes": [
            {"name": "work", "persistentVolumeClaim": {"claimName": cluster.claim}},
            {"name": "tmp", "emptyDir": {}},
            {"name": "shm", "emptyDir": {"medium": "Memory", "sizeLimit": "1Gi"}},
        ],
    }
    if product is not None:
        pod["nodeSelector"] = {PRODUCT_LABEL: product_label(product)}
        pod["tolerations"] = [
            {"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}
        ]
    job = {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {"name": box.name, "namespace": cluster.namespace, "labels": labels},
        "spec": {
            "backoffLimit": 0,
            "activeDeadlineSeconds": int(seconds),
            "ttlSecondsAfterFinished": _KEPT_SECONDS,
            "template": {"metadata": {"labels": labels}, "spec": pod},
        },
    }
    policy = {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": {"name": box.name, "namespace": cluster.namespace, "labels": labels},
        "spec": {
            "podSelector": {"matchLabels": {"enginekeeper/job": box.name}},
            "policyTypes": ["Ingress", "Egress"],
        },
    }
    return {"apiVersion": "v1", "kind": "List", "items": [policy, job]}


def product_label(product: str) -> str:
    """Returns a GPU product as GPU feature discovery writes it into a label: without spaces."""
    return _LABEL.sub("-", product).strip("-_.")


def _security(user: str) -> dict[str, Any]:
    uid, gid = (int(part) for part in user.split(":"))
    if uid == 0:
        raise InputError(
            "a job does not run as root",
            actual="user 0",
            remedy="run Enginekeeper as a user of its own, who may write to the shared volume",
        )
    return {
        "runAsNonRoot": True,
        "runAsUser": uid,
        "runAsGroup": gid,
        "seccompProfile": {"type": "RuntimeDefault"},
    }


def _container(box: Box, cluster: Cluster, *, gpus: int) -> dict[str, Any]:
    program, *arguments = box.command
    limits = {"nvidia.com/gpu": str(gpus)} if gpus else {}
    return {
        "name": "step",
        "image": box.image,
        "imagePullPolicy": "IfNotPresent",
        "command": [program],
        "args": arguments,
        "workingDir": str(box.directory),
        "env": [{"name": name, "value": value} for name, value in sorted(box.environment.items())],
        "resources": {"limits": limits},
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        },
        "volumeMounts": [
            *(_volume_mount(mount, cluster) for mount in box.mounts),
            {"name": "tmp", "mountPath": "/tmp"},  # noqa: S108 - a folder of the pod's own
            {"name": "shm", "mountPath": "/dev/shm"},  # noqa: S108 - likewise
        ],
    }


def _volume_mount(mount: Mount, cluster: Cluster) -> dict[str, Any]:
    try:
        part = mount.path.relative_to(cluster.at)
    except ValueError:
        raise InputError(
            "a job in the cluster would not see this path",
            where=str(mount.path),
            expected=f"a path below {cluster.at}, where the volume of {cluster.claim} is mounted",
            remedy=f"set ENGINEKEEPER_CACHE and ENGINEKEEPER_HOME below {cluster.at}",
        ) from None
    whole = part == Path()
    return {
        "name": "work",
        "mountPath": str(mount.path),
        **({} if whole else {"subPath": str(part)}),
        "readOnly": not mount.writable,
    }
