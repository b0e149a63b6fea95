"""The one error of this room."""

from __future__ import annotations

from typing import Literal, TypeAlias, final

Code: TypeAlias = Literal["malformed", "not_computable", "not_installed"]


@final
class MeasureError(Exception):
    """A value cannot be computed. `code` is stable; the text says why and what to do instead."""

    def __init__(self, code: Code, message: str) -> None:
        super().__init__(message)
        self.code = code
