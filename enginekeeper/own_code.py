"""Which of our own code something depends on, so that it is made again when that code changes."""

from __future__ import annotations

from pathlib import Path

from registry.digests import digest_document, digest_file

PACKAGE = Path(__file__).parent


def code_digest(*paths: str) -> str:
    """Names files of the package, all Python below a folder, or all there is in one of data."""
    files = [file for path in paths for file in _files(PACKAGE / path)]
    digests = {str(file.relative_to(PACKAGE)): str(digest_file(file)) for file in files}
    return str(digest_document(digests, "ek-code-v1"))


def _files(path: Path) -> list[Path]:
    if not path.is_dir():
        return [path]
    return sorted(path.rglob("*.py")) or sorted(file for file in path.rglob("*") if file.is_file())
