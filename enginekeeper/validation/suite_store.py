"""Which probe suites there are: those that ship with Enginekeeper, and samples of one's own.

Rules:

- a suite is named by its content: its digest stands in `digests.json` beside the files, and a file
  that has another one is refused, never scored;
- a published version never changes: adding other texts under a name makes its next version;
- names of suites that ship with Enginekeeper cannot be taken.

Example:
    store = SuiteStore.of(settings.home)
    store.add(store.plan(Path("traffic.jsonl"), "support-desk"))
    suite = store.open("support-desk")
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from enginekeeper.documents import parse_json, read_json_object
from enginekeeper.errors import InputError, MissingError
from enginekeeper.validation.suites import SUITES, Prompt, Suite, check_prompts, load_suite
from registry.digests import Digest
from registry.disks import full_disk_said
from registry.files import write_whole

DIGESTS = "digests.json"

NAME = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,62}[a-z0-9])?")

LARGEST_FILE = 64 * 1024 * 1024
LARGEST_TEXT = 1_000_000
MOST_PROMPTS = 20_000

_VERSIONED = re.compile(rf"(?P<name>{NAME.pattern})-v(?P<version>\d{{1,6}})")


@dataclass(frozen=True)
class SuiteEntry:
    """One version of a suite, by the digest it is recorded with."""

    name: str
    version: int
    digest: Digest
    path: Path
    bundled: bool

    @property
    def full_name(self) -> str:
        """The name with its version, such as `smoke-v1`."""
        return f"{self.name}-v{self.version}"


@dataclass(frozen=True)
class Addition:
    """What adding samples would make."""

    entry: SuiteEntry
    suite: Suite
    there: bool
    """Whether the same texts are there under this name already."""


@dataclass(frozen=True)
class SuiteStore:
    """Suites below one directory, and the bundled ones."""

    root: Path
    bundled: Path = SUITES

    @classmethod
    def of(cls, home: Path) -> SuiteStore:
        """Returns the suites of a home."""
        return cls(home / "suites")

    def entries(self) -> tuple[SuiteEntry, ...]:
        """Returns every version that is recorded, bundled ones first."""
        return (*_recorded(self.bundled, bundled=True), *_recorded(self.root, bundled=False))

    def find(self, name: str) -> SuiteEntry:
        """Returns a suite by `NAME` (its newest version) or `NAME-vN`."""
        entries = self.entries()
        found = [entry for entry in entries if name in (entry.name, entry.full_name)]
        if not found:
            raise MissingError(
                "no such probe suite",
                actual=name,
                expected=", ".join(sorted({entry.name for entry in entries})),
                remedy="add one's own with `ek suite add FILE --name NAME`",
            )
        return max(found, key=lambda entry: entry.version)

    def open(self, name: str) -> Suite:
        """Reads a suite; raises IntegrityError if the file is not the one that was recorded."""
        entry = self.find(name)
        return load_suite(entry.path, expected=entry.digest)

    def plan(self, file: Path, name: str) -> Addition:
        """Checks samples and says what adding them would make."""
        if NAME.fullmatch(name) is None or _VERSIONED.fullmatch(name) is not None:
            raise InputError(
                "not a name for a suite",
                actual=name,
                expected="small letters, digits and -, without a version at its end",
            )
        versions = [entry for entry in self.entries() if entry.name == name]
        if any(entry.bundled for entry in versions):
            raise InputError(
                "the name is that of a suite that ships with Enginekeeper", actual=name
            )
        suite = Suite(file, read_samples(file))
        same = [entry for entry in versions if entry.digest == suite.digest]
        if same:
            return Addition(same[0], suite, there=True)
        version = 1 + max((entry.version for entry in versions), default=0)
        path = self.root / f"{name}-v{version}.jsonl"
        entry = SuiteEntry(name, version, suite.digest, path, bundled=False)
        return Addition(entry, suite, there=False)

    def add(self, addition: Addition) -> SuiteEntry:
        """Adds a new version of a suite, unless the same texts are there already."""
        entry = addition.entry
        if addition.there:
            return entry
        self.root.mkdir(parents=True, exist_ok=True)
        lines = (json.dumps(asdict(prompt)) for prompt in addition.suite.prompts)
        with full_disk_said(self.root):
            write_whole(entry.path, "".join(f"{line}\n" for line in lines).encode())
        digests = _digests(self.root)
        digests[entry.full_name] = str(entry.digest)
        text = json.dumps(digests, indent=2, sort_keys=True) + "\n"
        with full_disk_said(self.root):
            write_whole(self.root / DIGESTS, text.encode())
        return entry


def read_samples(file: Path) -> tuple[Prompt, ...]:
    """Reads texts of one's own: JSON lines with `text`, and `id` and `stratum` where known."""
    try:
        size = file.stat().st_size
        if size > LARGEST_FILE:
            raise InputError(
                "too large for a suite",
                where=str(file),
                actual=f"{size} bytes",
                expected=f"at most {LARGEST_FILE} bytes",
            )
        lines = file.read_text(encoding="utf-8").split("\n")
    except FileNotFoundError as error:
        raise MissingError("no such file", where=str(file)) from error
    except (UnicodeDecodeError, OSError) as error:
        raise InputError("not a UTF-8 text file", where=str(file), actual=error) from error
    rows = [(number, line) for number, line in enumerate(lines, 1) if line.strip()]
    if len(rows) > MOST_PROMPTS:
        raise InputError(
            "too many prompts",
            where=str(file),
            actual=len(rows),
            expected=f"at most {MOST_PROMPTS}",
        )
    prompts = tuple(_sample(line, f"{file}:{number}", number) for number, line in rows)
    check_prompts(prompts, file)
    return prompts


def _sample(line: str, where: str, number: int) -> Prompt:
    document = parse_json(line, where)
    if not isinstance(document, dict) or not {"text"} <= set(document) <= {"id", "stratum", "text"}:
        raise InputError(
            "not a sample",
            where=where,
            actual=line[:80],
            expected="text, and id and stratum if known",
        )
    fields = {"id": f"sample-{number}", "stratum": "traffic", **document}
    for name, value in fields.items():
        if not isinstance(value, str) or not value.strip() or len(value) > LARGEST_TEXT:
            raise InputError(
                f"{name} is not a text of a usable length",
                where=where,
                actual=repr(value)[:80],
                expected=f"1 to {LARGEST_TEXT} characters",
            )
    return Prompt(**fields)


def _recorded(directory: Path, *, bundled: bool) -> Iterator[SuiteEntry]:
    for full_name, digest in sorted(_digests(directory).items()):
        match = _VERSIONED.fullmatch(full_name)
        if match is None:
            raise InputError(
                "not the name of a suite", where=str(directory / DIGESTS), actual=full_name
            )
        path = directory / f"{full_name}.jsonl"
        yield SuiteEntry(match["name"], int(match["version"]), Digest.parse(digest), path, bundled)


def _digests(directory: Path) -> dict[str, str]:
    path = directory / DIGESTS
    return dict(read_json_object(path)) if path.is_file() else {}
