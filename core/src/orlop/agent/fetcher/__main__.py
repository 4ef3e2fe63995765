"""`python -I -S __main__.py`: brings the artefacts of one task into its folder. Started by `orlop.agent.fetching`.

A process of its own, as Mesos' fetcher was: whatever a server sends or an archive holds, the agent's loop and memory
are not touched; it is ended by killing it; and it becomes the task's user before it reads or writes anything but the
node's cache. Its input is one line of JSON, an order, and it ends with its input: an agent that dies takes it along.
Its output is a line of JSON for each artefact that it turns to, {"fetching": number}, and at the end {"done": true}
or {"failed": reason}.

What is fetched and what it unpacks to are bounded together, by `bytes_max`; its memory by MEMORY_BYTES_MAX. An order:

    {"artefacts": [as `orlop.agent.artefacts.Artefact`, …], "folder": "…", "user": {"uid", "gid", "groups"} or null,
     "bytes_max": …, "local": ["path", …], "cache": "folder", "cache_bytes_max": …}
"""

from __future__ import annotations

import json
import os
import resource
import sys
import threading
import traceback
from typing import Any, BinaryIO

if __package__ in (None, ""):
    # Started by path and isolated: the folder above is the only one that needs to be found, and the last to be asked.
    sys.path.append(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
    __package__ = "fetcher"
    __import__("fetcher")

from . import archives, cache, transfers
from .budget import Budget, CannotFetch

#: Enough for the largest windows of xz, and no more than a node can spare a few times.
MEMORY_BYTES_MAX = 2**30
EXECUTABLE = 0o755
REASON_LENGTH_MAX = 500


def main() -> int:
    order = json.loads(sys.stdin.buffer.readline())
    threading.Thread(target=_end_with_input, daemon=True).start()
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES_MAX, MEMORY_BYTES_MAX))
    os.umask(0o022)
    try:
        fetch(order)
    except CannotFetch as error:
        _say(failed=_in_one_line(str(error)))
        return 1
    except MemoryError:
        _say(failed=f"it needs more than {MEMORY_BYTES_MAX >> 20} MiB of memory")
        return 1
    except OSError as error:
        _say(failed=_in_one_line(f"on this node: {error.strerror or error}"))
        return 1
    except Exception as error:  # noqa: BLE001  whatever it is, the task must not wait for ever
        traceback.print_exc()
        _say(failed=_in_one_line(f"{type(error).__name__}: {error}"))
        return 1
    _say(done=True)
    return 0


def fetch(order: dict[str, Any]) -> None:
    """All of it. Raises CannotFetch, OSError."""
    artefacts, budget = order["artefacts"], Budget(order["bytes_max"])
    kept: dict[int, BinaryIO] = {}
    store = cache.Cache(order["cache"], order["cache_bytes_max"])
    for number, artefact in enumerate(artefacts):
        if artefact["cache"] and not transfers.is_local(artefact["uri"]):
            _say(fetching=number)
            kept[number] = store.get(artefact["uri"], Budget(order["bytes_max"]))
    if kept:
        store.shrink()
    _become(order["user"])
    folder = order["folder"]
    for number, artefact in enumerate(artefacts):
        _say(fetching=number)
        unpacked = artefact["extract"] and not artefact["executable"] and archives.is_archive(artefact["name"])
        content = kept.get(number)
        if content is not None and unpacked:
            # As Mesos does: what is unpacked from the cache is not copied to the task as well.
            archives.unpack(content, artefact["name"], folder, budget)
            continue
        path = archives.make_room(folder, artefact["name"].split("/"))
        with open(path, "xb") as file:
            if content is not None:
                transfers.copy(content, file, budget)
            else:
                transfers.fetch(artefact["uri"], file, budget, order["local"])
        if artefact["executable"]:
            os.chmod(path, EXECUTABLE)
        if unpacked:
            with open(path, "rb") as archive:
                archives.unpack(archive, artefact["name"], folder, budget)


def _become(user: dict[str, Any] | None) -> None:
    if user is not None:
        os.setgroups(user["groups"])
        os.setgid(user["gid"])
        os.setuid(user["uid"])


def _in_one_line(text: str) -> str:
    """What servers and archives have put into it is shown to people, and stored."""
    return "".join(character if character.isprintable() else "?" for character in text[:REASON_LENGTH_MAX])


def _say(**message: Any) -> None:
    sys.stdout.buffer.write(json.dumps(message).encode() + b"\n")
    sys.stdout.buffer.flush()


def _end_with_input() -> None:
    while os.read(0, 4096):
        pass
    os._exit(1)


if __name__ == "__main__":
    # Without the interpreter's own end: the thread that reads the input holds a lock that it would wait for.
    code = main()
    os._exit(code)
