"""Every way the registry fails that a caller can do something about."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


class DiagnosedError(Exception):
    """Says what happened, where, what was found, what was expected, and what to do next.

    `transient` is for what may pass by itself: the same thing, tried again, may well succeed.
    """

    def __init__(
        self,
        what: str,
        *,
        where: str | None = None,
        actual: object = None,
        expected: object = None,
        remedy: str | None = None,
        transient: bool = False,
    ) -> None:
        self.what = what
        self.where = where
        self.actual = actual
        self.expected = expected
        self.remedy = remedy
        self.transient = transient
        super().__init__(what)

    def __str__(self) -> str:
        """Renders one line per known field, in a fixed order."""
        lines = [self.what if self.where is None else f"{self.where}: {self.what}"]
        if self.actual is not None:
            lines.append(f"  found:    {self.actual}")
        if self.expected is not None:
            lines.append(f"  expected: {self.expected}")
        if self.remedy is not None:
            lines.append(f"  next:     {self.remedy}")
        return "\n".join(lines)

    def as_dict(self) -> dict[str, object]:
        """Returns the same fields for machine-readable output; absent ones are None."""
        return {
            "error": type(self).__name__,
            "what": self.what,
            "where": self.where,
            "found": self.actual if self.actual is None else str(self.actual),
            "expected": self.expected if self.expected is None else str(self.expected),
            "next": self.remedy,
        }

    @staticmethod
    def from_dict(document: Mapping[str, Any]) -> DiagnosedError:
        """Rebuilds what `as_dict` gave in another process: the same class and the same words."""
        kind = kind_named(str(document["error"]))
        error = kind.__new__(kind)
        DiagnosedError.__init__(
            error, document["what"], where=document["where"], actual=document["found"],
            expected=document["expected"], remedy=document["next"],
        )  # fmt: skip
        # What a subclass adds to its document are attributes of that name.
        vars(error).update(
            {k: v for k, v in document.items() if k not in DiagnosedError.as_dict(error)}
        )
        return error


def kind_named(name: str) -> type[DiagnosedError]:
    """Returns the class of errors of a name; DiagnosedError itself for one not known here."""
    waiting: list[type[DiagnosedError]] = [DiagnosedError]
    while waiting:
        kind = waiting.pop()
        if kind.__name__ == name:
            return kind
        waiting += kind.__subclasses__()
    return DiagnosedError


class RegistryError(DiagnosedError):
    """The root of everything the registry raises."""


class InvalidRecordError(RegistryError):
    """A record, key or manifest handed to the registry is malformed."""


class IrregularFileError(InvalidRecordError):
    """A symbolic link or a special file lies where only regular files may."""


class AmbiguousIdError(InvalidRecordError):
    """A shortened id fits several records."""


class RecordNotFoundError(RegistryError):
    """Nothing in the registry answers to that name."""


class IntegrityError(RegistryError):
    """Bytes differ from the digest that names them, or a signature does not verify."""


class WithdrawnError(IntegrityError):
    """Who signed is not trusted any more, or not alone: by the policy, it is to be made anew."""


class NotYetError(IntegrityError):
    """A trusted statement of a time that has not come yet: a clock is wrong, maybe the one here."""


class ConflictError(RegistryError):
    """Somebody else changed the record first."""


class StoreUnavailableError(RegistryError):
    """The artifact store or the catalogue does not answer, or is full."""


class DiskFullError(StoreUnavailableError):
    """A disk of this host has no room left."""


class CatalogueOutdatedError(StoreUnavailableError):
    """The catalogue's schema is not the one this version of the code works with."""


class GateClosedError(RegistryError):
    """The engine is not qualified for what was asked of it."""


class GateInconclusiveError(GateClosedError):
    """The latest verdict on the engine could not decide."""


class GateRefusedError(GateClosedError):
    """A compatibility rule says that the engine cannot work there."""
