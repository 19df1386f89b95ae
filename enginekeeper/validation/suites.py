"""Probe suites: the texts that source, twins and engine are compared on.

Rules:

- a suite is a JSON-lines file; each line is one prompt: `{"id", "stratum", "text"}`;
- its digest is taken over the prompts in order, not over the file's name or spacing;
- a published suite never changes: an edit is a new version in the file's name.

Example:
    >>> suite = load_suite(bundled_suite("smoke"))
    >>> len(suite.prompts), str(suite.digest)[:11]
    (24, 'ek-suite-v1')
"""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass
from pathlib import Path

from enginekeeper.documents import parse_json
from enginekeeper.errors import InputError, MissingError
from registry.digests import Digest, digest_document
from registry.errors import IntegrityError

SUITES = Path(__file__).parent.parent / "data" / "suites"

_VERSIONED = re.compile(r"(?P<name>[a-z0-9-]+)-v(?P<version>\d+)\.jsonl")


@dataclass(frozen=True)
class Prompt:
    """One text and the kind of text it is."""

    id: str
    stratum: str
    """Such as `prose`, `code` or `digits`: damage is also reported by stratum."""
    text: str


@dataclass(frozen=True)
class Suite:
    """Prompts in a fixed order, named by what they say."""

    path: Path
    prompts: tuple[Prompt, ...]

    @property
    def digest(self) -> Digest:
        """Names the prompts and their order; the same texts in another file have the same name."""
        return digest_document({"prompts": [asdict(p) for p in self.prompts]}, "ek-suite-v1")


def bundled_suite(name: str) -> Path:
    """Finds the newest version of a suite that ships with Enginekeeper, by its bare name."""
    versions = {
        int(match["version"]): path
        for path in SUITES.glob("*.jsonl")
        if (match := _VERSIONED.fullmatch(path.name)) and match["name"] == name
    }
    if not versions:
        known = sorted({m["name"] for p in SUITES.iterdir() if (m := _VERSIONED.fullmatch(p.name))})
        raise MissingError("no such probe suite", actual=name, expected=", ".join(known))
    return versions[max(versions)]


def load_suite(path: Path, *, expected: Digest | None = None) -> Suite:
    """Reads and checks a suite; with `expected`, refuses one whose digest is another."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except FileNotFoundError as error:
        raise MissingError("no such probe suite", where=str(path)) from error
    except (UnicodeDecodeError, IsADirectoryError) as error:
        raise InputError("not a UTF-8 text file", where=str(path), actual=error) from error
    prompts = tuple(
        _prompt(line, f"{path}:{number}") for number, line in enumerate(lines, 1) if line.strip()
    )
    check_prompts(prompts, path)
    suite = Suite(path, prompts)
    if expected is not None and suite.digest != expected:
        raise IntegrityError(
            "the probe suite is not the one that was named",
            where=str(path),
            actual=suite.digest,
            expected=expected,
            remedy="restore the file, or score again with this suite",
        )
    return suite


def _prompt(line: str, where: str) -> Prompt:
    document = parse_json(line, where)
    fields = {"id", "stratum", "text"}
    if not isinstance(document, dict) or set(document) != fields:
        raise InputError(
            "not a prompt", where=where, actual=line[:80], expected="id, stratum and text"
        )
    for name in sorted(fields):
        if not isinstance(document[name], str) or not document[name].strip():
            raise InputError(f"{name} is not a text", where=where, actual=repr(document[name])[:80])
    return Prompt(**document)


def check_prompts(prompts: tuple[Prompt, ...], path: Path) -> None:
    """Raises InputError unless there are prompts, each with an id of its own."""
    if not prompts:
        raise InputError("the probe suite has no prompts", where=str(path))
    seen: set[str] = set()
    for prompt in prompts:
        if prompt.id in seen:
            raise InputError("two prompts have the same id", where=str(path), actual=prompt.id)
        seen.add(prompt.id)
