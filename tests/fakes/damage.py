"""Harm that befalls what lies in a store, past the store's own guards."""

from __future__ import annotations

from pathlib import Path

from registry.blobs.interface import BlobStore
from registry.blobs.s3 import S3BlobStore


def overwrite(store: BlobStore, name: str, data: bytes) -> None:
    """Does what an intruder or a failing disk does."""
    if isinstance(store, S3BlobStore):
        store._root.client.put_object(
            Bucket=store._root.bucket, Key=f"{store._root.key}{name}x", Body=data
        )
        store._root.client.delete_object(Bucket=store._root.bucket, Key=f"{store._root.key}{name}")
        store._root.client.copy_object(
            Bucket=store._root.bucket,
            Key=f"{store._root.key}{name}",
            CopySource={"Bucket": store._root.bucket, "Key": f"{store._root.key}{name}x"},
        )
        return
    path = Path(store.url.removeprefix("file://")) / name
    path.chmod(0o644)
    path.write_bytes(data)
