"""What the forms of both kinds of `config.json` share.

Rules:

- every field that any code looks at is declared in a form, with its kind and range, and nowhere
  else; an absent field and a null are both None;
- nothing is converted, except whole numbers where a real one is wanted;
- numbers are bounded, so that no arithmetic overflows and no loop runs by a number that is wrong;
- fields that no form declares are kept in `model_extra`: they are for the audit to doubt.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic_core import ErrorDetails

from enginekeeper.errors import InputError
from enginekeeper.specs.problems import KINDS, path_text, shown

Size = Annotated[int, Field(ge=1, le=2**31 - 1)]
"""A number of things; TensorRT-LLM holds them in 32 bits."""

Layers = Annotated[int, Field(ge=1, le=1024)]
"""A number of layers, of which every audit visits each; the largest models have some 130."""

Window = Annotated[int, Field(ge=0, le=2**31 - 1)]
"""How many latest tokens are attended to; both sides write none as 0 at times."""

_LARGEST = 1e18
"""Beyond every number in a model's config; the product of any two is finite."""

Positive = Annotated[float, Field(gt=0, le=_LARGEST, allow_inf_nan=False)]
NotNegative = Annotated[float, Field(ge=0, le=_LARGEST, allow_inf_nan=False)]


class Form(BaseModel):
    """A JSON object some of whose fields are known."""

    model_config = ConfigDict(extra="allow", strict=True, frozen=True)

    remedy: ClassVar[str] = "compare the file with what its exporter writes"

    @classmethod
    def of(cls, values: Mapping[str, Any], where: str) -> Self:
        """Reads an object of the file `where`; raises InputError that names the first bad field."""
        return cls.inside(values, where, ())

    @classmethod
    def inside(cls, values: Mapping[str, Any], where: str, path: tuple[str, ...]) -> Self:
        """Reads an object that is at a path of the file."""
        absent = {name: None for name, field in cls.model_fields.items() if field.is_required()}
        try:
            return cls.model_validate({**absent, **values})
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            raise _wrong(first, where, path, cls.remedy) from error


def _wrong(detail: ErrorDetails, where: str, path: tuple[str, ...], remedy: str) -> InputError:
    # An empty step is one that a form put there, see `by_layer_type`.
    field = path_text((*path, *(step for step in detail["loc"] if step != "")))
    missing = detail["input"] is None
    return InputError(
        f"{field} is missing" if missing else f"{field} is not usable",
        where=where,
        actual=None if missing else shown(detail["input"]),
        expected=KINDS.get(detail["type"]) or detail["msg"].removeprefix("Input should be "),
        remedy=remedy,
    )
