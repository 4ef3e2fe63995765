"""What a command ends with when it cannot do its work."""

from __future__ import annotations

from collections.abc import Mapping
from typing import IO, Any, Final

import click

ERROR: Final = 1
NOT_CONVERGED: Final = 3
NOT_FOUND: Final = 4
CONFLICT: Final = 5


class Failure(click.ClickException):
    """One line for people with a hint, and the exit code. document: what the server answered, if it did."""

    def __init__(
        self, text: str, *, hint: str = "", code: int = ERROR, document: Mapping[str, Any] | None = None
    ) -> None:
        super().__init__(text)
        self.hint = hint
        self.code = code
        self.exit_code = code  # type: ignore[misc]  # click means instances to set it
        self.document = dict(document or {})

    def show(self, file: IO[Any] | None = None) -> None:
        """On standard error."""
        hint = f" ({self.hint})" if self.hint else ""
        click.echo(f"orlop: {self.message}{hint}", file=file, err=file is None)


class Unreachable(Failure):
    """No server answered, or it went away in the middle: trying again may help."""
