"""A process that begins anew in its own place: the same pid and command line, and nothing left of its threads."""

from __future__ import annotations

import json
import logging
import os
import sys
from collections.abc import Mapping
from typing import Final, NoReturn

log = logging.getLogger(__name__)

#: For the program that follows: a JSON object, plugin's name → why it is to do without it. No setting has such a name.
SET_ASIDE: Final = "_ORLOP_SET_ASIDE"
#: Of a process that cannot go on, and cannot begin anew: that of an internal error, as in sysexits.h.
CANNOT_GO_ON: Final = 70


def set_aside() -> dict[str, str]:
    """What the program before this one has left for it. It is told once."""
    return dict(json.loads(os.environ.pop(SET_ASIDE, "{}")))


def begin_anew(without: Mapping[str, str]) -> NoReturn:
    """May be called from any thread; all others end. without: plugins that are not to be loaded, and why."""
    environment = {**os.environ, SET_ASIDE: json.dumps(dict(without))}
    try:
        os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], environment)  # noqa: S606  the very purpose
    except OSError as error:
        log.critical("this process cannot begin anew, and ends: %s", error)
        os._exit(CANNOT_GO_ON)
