"""Loops that must live for as long as what they look after: nobody else would begin them anew."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator
from typing import Final

_LOG: Final = logging.getLogger(__name__)


@contextlib.contextmanager
def surviving(what: str) -> Iterator[None]:
    """Around one round of such a loop: what it raises is logged, so that the next round comes. what: it does."""
    try:
        yield
    except OSError as error:  # the environment's fault, which may pass
        _LOG.warning("%s failed and is tried again: %s", what, error)
    except Exception:  # noqa: BLE001 - it must live
        _LOG.exception("a bug: %s failed and is tried again", what)
