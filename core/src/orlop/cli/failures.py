"""What a command ends with when it cannot do its work."""

from __future__ import annotations

from typing import Final

ERROR: Final = 1
NOT_CONVERGED: Final = 3
NOT_FOUND: Final = 4
CONFLICT: Final = 5


class Failure(Exception):
    """One line for people, a hint, and the exit code."""

    def __init__(self, text: str, *, hint: str = "", code: int = ERROR) -> None:
        super().__init__(text)
        self.hint = hint
        self.code = code
