"""A Docker Engine of another version than the installed one, as a pytest plugin that the root `conftest.py` registers.

`scripts/install-test-parts` unpacks it into a folder, with its containerd and its client; it uses this machine's runc
and libraries.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

import pytest

PROGRAMS: Final = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "orlop-tests" / "newer-engine"
#: Its client.
CLI: Final = PROGRAMS / "usr/bin/docker"


@pytest.fixture(scope="session")
def newer_programs() -> Path:
    """For `Lane.engine` and `Engine.programs`."""
    if not CLI.exists():
        # In CI, too: it is the next Debian's, which a machine's package sources need not have.
        pytest.skip(f"no Docker Engine of another version in {PROGRAMS}: run scripts/install-test-parts (Debian 12)")
    return PROGRAMS
