"""The types that configuration is made of: limits, units and shapes of words, and the `group` decorator.

Standard library only. Which key has which type is schema.py's and sweep_schema.py's.
"""

from __future__ import annotations

import dataclasses
from typing import Annotated, Any, Literal, TypeVar, dataclass_transform

T = TypeVar("T")
IN_WORDS: dict[str, str] = {}
"""Each pattern of a Bound, and its words: an error knows the pattern alone."""


@dataclasses.dataclass(frozen=True)
class Bound:
    """Limits of a value. The check reads them through pydantic's hook; nothing here imports pydantic."""

    ge: float | None = None
    gt: float | None = None
    le: float | None = None
    lt: float | None = None
    min_length: int | None = None
    pattern: str | None = None
    words: str | None = None
    """What the pattern asks for, as people say it: «must be ...»."""

    def __post_init__(self) -> None:
        if self.pattern and self.words:
            IN_WORDS[self.pattern] = self.words

    def __get_pydantic_core_schema__(self, source: Any, handler: Any) -> Any:
        limits = {k: v for k, v in dataclasses.asdict(self).items() if v is not None and k != "words"}
        finite = {"allow_inf_nan": False} if source is float else {}
        return {**handler(source), **limits, **finite}


@dataclass_transform(frozen_default=True, kw_only_default=True)
def group(cls: type[T]) -> type[T]:
    """A frozen, keyword-only dataclass that refuses unknown keys when it is checked."""
    cls.__pydantic_config__ = {"extra": "forbid"}  # type: ignore[attr-defined]
    return dataclasses.dataclass(frozen=True, kw_only=True)(cls)


Count = Annotated[int, Bound(ge=1)]
NotNegative = Annotated[int, Bound(ge=0)]
Positive = Annotated[float, Bound(gt=0)]
Fraction = Annotated[float, Bound(ge=0, le=1)]
Price = Annotated[float, Bound(ge=0)]
Text = Annotated[str, Bound(pattern=r"^[^\x00]*$", words="text without null bytes")]
"""What can stand in an environment variable."""
Word = Annotated[str, Bound(pattern=r"^[^\x00-\x1f\x7f]+$", words="text on one line, without control characters")]
"""What can stand in a line of a batch script: no line breaks."""
NodePath = Annotated[
    str,
    Bound(pattern=r"^/[^\x00-\x1f\x7f,:]*$", words="an absolute path without commas, colons and control characters"),
]
RunName = Annotated[
    str,
    Bound(
        pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$",
        words="at most 63 letters, digits, dots, _ or -, the first a letter or a digit",
    ),
]
OptionName = Annotated[
    str, Bound(pattern=r"^[a-z][a-z0-9_-]*$", words="lower-case letters, digits, _ or -, the first a letter")
]
GresType = Annotated[str, Bound(pattern=r"^[A-Za-z0-9_.-]+$", words="letters, digits, dots, _ or -")]
Alias = Annotated[str, Bound(pattern=r"^[A-Za-z0-9_-]+$", words="letters, digits, _ or -")]
Digest = Annotated[
    str, Bound(pattern=r"^sha256:[0-9a-f]{64}$", words="sha256: and 64 digits from 0-9 and a-f (see sha256sum)")
]
CdiDevice = Annotated[
    str,
    Bound(
        pattern=r"^[A-Za-z0-9][A-Za-z0-9.-]*/[A-Za-z0-9][A-Za-z0-9._-]*=[A-Za-z0-9][A-Za-z0-9._:-]*$",
        words="vendor/class=device, such as nvidia.com/gpu=all",
    ),
]
VariableName = Annotated[
    str, Bound(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$", words="letters, digits or _, the first no digit")
]
ModulePath = Annotated[
    str, Bound(pattern=r"^[^\W\d]\w*(\.[^\W\d]\w*)*$", words="a module's dotted name, such as my_package.task")
]
ModelName = Annotated[str, Bound(pattern=r"^[^/:\s][^/:]*$", words="a name without / and :, and no space in front")]
Precision = Literal["fp32", "bf16", "fp16", "fp8"]
