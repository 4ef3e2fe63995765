"""A PostgreSQL server of its own for a peer that needs one (Debian: postgresql). It listens on a Unix socket only."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Final

USER: Final = "postgres"


def _program(name: str) -> str:
    """Raises RuntimeError: it is not installed."""
    found = sorted(Path("/usr/lib/postgresql").glob(f"*/bin/{name}"))
    if not found:
        raise RuntimeError(f"PostgreSQL's {name} is missing (Debian: postgresql)")
    return str(found[-1])


def _as_user(*command: str) -> None:
    """It refuses to run as root. Raises RuntimeError with what it says."""
    prefix = ("runuser", "-u", USER, "--") if os.geteuid() == 0 else ()
    done = subprocess.run([*prefix, *command], cwd="/", capture_output=True, text=True, timeout=60, check=False)
    if done.returncode:
        raise RuntimeError(f"PostgreSQL: {done.stderr.strip() or done.stdout.strip()}")


@contextlib.contextmanager
def running_postgres(folder: Path, database: str) -> Iterator[str]:
    """The folder of its socket, while it runs with an empty database of this name. folder: reachable for its user."""
    initialise, control, create = _program("initdb"), _program("pg_ctl"), _program("createdb")
    data, sockets = folder / "data", folder / "socket"
    for one in (data, sockets):
        one.mkdir(parents=True)
        if os.geteuid() == 0:
            shutil.chown(one, USER)
    _as_user(initialise, "--pgdata", str(data), "--auth", "trust", "--username", USER)
    options = f"-c listen_addresses='' -c unix_socket_directories={sockets} -c max_connections=300"
    _as_user(control, "start", "--wait", "--pgdata", str(data), "--log", str(data / "log"), "--options", options)
    try:
        _as_user(create, "--host", str(sockets), "--username", USER, database)
        yield str(sockets)
    finally:
        _as_user(control, "stop", "--mode", "immediate", "--pgdata", str(data))
