"""What software lies on a node, by the names of its files."""

from __future__ import annotations

from pathlib import Path

from enginekeeper.fleet.software import software


def put(root: Path, *names: str) -> None:
    for name in names:
        file = root / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("")


def test_toolkits_libraries_packages_and_runtimes_are_found(tmp_path: Path) -> None:
    put(
        tmp_path,
        "usr/local/cuda-13.0/lib64/libcudart.so.13.0.96",
        "usr/local/cuda-13.0/compat/libcuda.so.580.95.05",
        "usr/lib/x86_64-linux-gnu/libnvinfer.so.10.14.1",
        "usr/lib/x86_64-linux-gnu/libnccl.so.2.28.9",
        "usr/lib/x86_64-linux-gnu/libnvinfer_plugin.so.10.14.1",
        "usr/local/lib/python3.12/dist-packages/tensorrt_llm-1.2.1.dist-info/METADATA",
        "usr/bin/containerd",
    )
    (tmp_path / "usr/local/cuda-13.0/version.json").write_text('{"cuda": {"version": "13.0.2"}}')
    (tmp_path / "usr/local/cuda-13").symlink_to("cuda-13.0")
    (tmp_path / "usr/lib/x86_64-linux-gnu/libnvinfer.so.10").symlink_to("libnvinfer.so.10.14.1")
    found = {(one.name, one.version): one.path for one in software(tmp_path)}
    assert found == {
        ("cuda-toolkit", "13.0.2"): "/usr/local/cuda-13.0",
        ("cuda-compat", "580.95.05"): "/usr/local/cuda-13.0/compat/libcuda.so.580.95.05",
        ("cuda-runtime", "13.0.96"): "/usr/local/cuda-13.0/lib64/libcudart.so.13.0.96",
        ("tensorrt", "10.14.1"): "/usr/lib/x86_64-linux-gnu/libnvinfer.so.10.14.1",
        ("nccl", "2.28.9"): "/usr/lib/x86_64-linux-gnu/libnccl.so.2.28.9",
        ("python:tensorrt_llm", "1.2.1"):
            "/usr/local/lib/python3.12/dist-packages/tensorrt_llm-1.2.1.dist-info",
        ("containerd", None): "/usr/bin/containerd",
    }  # fmt: skip


def test_a_damaged_toolkit_and_an_empty_node_are_nothing(tmp_path: Path) -> None:
    assert software(tmp_path / "nothing") == ()
    put(tmp_path, "usr/local/cuda-12.4/version.json")
    assert software(tmp_path) == ()


def test_no_more_than_a_document_can_hold_is_listed(tmp_path: Path) -> None:
    put(tmp_path, *(f"usr/lib64/libnccl.so.2.{n}" for n in range(300)))
    assert len(software(tmp_path)) == 200


def test_what_may_not_be_looked_at_is_nothing(tmp_path: Path) -> None:
    assert software(tmp_path / ("x" * 300)) == ()  # as for a directory of another user
