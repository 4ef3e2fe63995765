"""The blocking half of the docker runtime: docker-py, its threads, and the engine's event stream.

docker-py blocks, so each call of it runs on a thread of a bounded pool. There are several pools because waits of
different length must not queue behind one another: a kill never waits for a pull, nor for a health probe's command.
What each start asks needs no thread (`docker_calls`). docker-py is imported when an engine is first seen listening, on
the thread that follows it: an agent without an engine never pays for it.

An engine that hangs keeps its connections open, so that only the lack of an answer tells. While events are followed
the engine is pinged, and counts as lost when it does not answer within `PING_TIMEOUT_S`. What looks at it has
`LIST_TIMEOUT_S`, what changes something has `REQUEST_TIMEOUT_S`: the engine may have to unpack much for it. A pull
has no deadline, for it may take hours; whoever waits for it stops waiting when the engine is lost.
"""

from __future__ import annotations

import contextlib
import logging
import socket
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final

from orlop.agent.runtimes.daemon_threads import DaemonThreads
from orlop.agent.runtimes.docker_connection import CONNECT_TIMEOUT_S
from orlop.agent.runtimes.docker_container import one_line
from orlop.agent.runtimes.docker_errors import EngineLost, EngineRefused, engine_errors
from orlop.agent.runtimes.docker_events import Events
from orlop.docker_containers import NODE_LABEL

REQUEST_TIMEOUT_S: Final = 120
LIST_TIMEOUT_S: Final = 30
PING_EVERY_S: Final = 2.0
PING_TIMEOUT_S: Final = 8
CLOSE_WITHIN_S: Final = 2.0
BACKOFF_FIRST_S: Final = 0.2
BACKOFF_LAST_S: Final = 5.0
#: Events of the last moment are asked for again: the engine answers shortly before it subscribes the stream.
EVENTS_OVERLAP_S: Final = 1
COMMAND_OUTPUT_MAX_BYTES: Final = 4096
#: The engine may answer for an ended command before it knows its exit code.
EXIT_CODE_WITHIN_S: Final = 2.0
EXIT_CODE_POLL_S: Final = 0.02
PULL_MESSAGE_EVERY_S: Final = 1.0

CONTROL_THREADS: Final = 4
PULL_THREADS: Final = 3
COMMAND_THREADS: Final = 16
LOG_THREADS: Final = 32
#: Of those that share one client.
CLIENT_THREADS: Final = CONTROL_THREADS + PULL_THREADS + COMMAND_THREADS + LOG_THREADS

_log = logging.getLogger(__name__)
_UNIX: Final = "unix://"


def cut_stream(stream: Any) -> None:
    """Ends a stream of docker-py's from another thread than the one that reads it: that one finds it ended."""
    with contextlib.suppress(Exception):  # it may be ending by itself
        stream.close()


def close_stream(stream: Any) -> None:
    """Frees all that a stream holds. By the thread that has read it, or when that one can no longer block."""
    cut_stream(stream)
    with contextlib.suppress(Exception):
        stream._response.close()


class Pools:
    """The threads of one runtime, started as they are needed."""

    def __init__(self) -> None:
        self.control = DaemonThreads(CONTROL_THREADS, "orlop-docker-control")
        self.pull = DaemonThreads(PULL_THREADS, "orlop-docker-pull")
        self.command = DaemonThreads(COMMAND_THREADS, "orlop-docker-command")
        self.log = DaemonThreads(LOG_THREADS, "orlop-docker-log")

    def renew_pull(self) -> None:
        """Pulls of an engine that was lost may never end; new ones do not queue behind them."""
        self.pull.shutdown(wait=False, cancel_futures=True)
        self.pull = DaemonThreads(PULL_THREADS, "orlop-docker-pull")

    def close(self) -> None:
        for pool in (self.control, self.pull, self.command, self.log):
            pool.shutdown(wait=False, cancel_futures=True)


def connect(url: str, timeout_s: float, version: str = "auto") -> Any:
    """A `docker.APIClient`, which threads may share. timeout_s: of each of its calls. Raises EngineLost."""
    if url.startswith(_UNIX):
        # Asked with a bare socket first: it is cheap to repeat, and needs no docker-py.
        with socket.socket(socket.AF_UNIX) as attempt:
            attempt.settimeout(CONNECT_TIMEOUT_S)
            try:
                attempt.connect(url.removeprefix(_UNIX))
            except OSError as error:
                raise EngineLost(error.strerror or str(error)) from error
    import docker

    with engine_errors():
        client = docker.APIClient(base_url=url, version=version, timeout=timeout_s, max_pool_size=CLIENT_THREADS)
    if url.startswith(_UNIX):
        client.trust_env = False  # else requests looks for proxies and a .netrc before each call
        _keep_connections(client)
    return client


def _keep_connections(client: Any) -> None:
    """docker-py has connections for each URL apart, so that hardly one is used twice."""
    adapter = client._custom_adapter
    get_connection = adapter.get_connection
    adapter.get_connection = lambda _url, proxies=None: get_connection(client.base_url, proxies)


class Follower:
    """Keeps a connection, and follows these of the engine's events on a thread of its own.

    Each time it connects it opens the event stream first and lists the containers after, so that nothing falls
    between; `on_connected(client, looking, listing)` is called with a client to work with, the follower's own, and
    the listing, then `on_event` for each event, and `on_lost(reason)` when the engine goes away, stays away or does
    not answer. All are called on the thread.
    """

    def __init__(
        self,
        url: str,
        node_id: str,
        events: Iterable[str],
        *,
        on_connected: Callable[[Any, Any, list[dict[str, Any]]], None],
        on_event: Callable[[Mapping[str, Any]], None],
        on_lost: Callable[[str], None],
    ) -> None:
        self._url = url
        self._filters = {"label": [f"{NODE_LABEL}={node_id}"]}
        self._events = sorted(events)
        self._on_connected = on_connected
        self._on_event = on_event
        self._on_lost = on_lost
        self._closed = threading.Event()
        self._stream: Events | None = None
        self._thread = threading.Thread(target=self._run, name="orlop-docker-events", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def close(self) -> None:
        """Blocks until the thread has ended, or is found waiting for an engine that does not answer."""
        self._closed.set()
        if (stream := self._stream) is not None:
            stream.cut()
        self._thread.join(CLOSE_WITHIN_S)

    def _run(self) -> None:
        backoff_s = BACKOFF_FIRST_S
        while not self._closed.is_set():
            try:
                with contextlib.closing(connect(self._url, LIST_TIMEOUT_S)) as client:
                    reason = self._follow(client)
                backoff_s = BACKOFF_FIRST_S
            except (EngineLost, EngineRefused) as error:
                reason = str(error)
            except Exception as error:  # noqa: BLE001 - the thread must live: nothing else sees the engine again
                _log.exception("a bug in the docker runtime")
                reason = repr(error)
            if not self._closed.is_set():
                self._on_lost(f"the Docker Engine at {self._url} cannot be used: {reason}")
                self._closed.wait(backoff_s)
                backoff_s = min(backoff_s * 2, BACKOFF_LAST_S)

    def _follow(self, client: Any) -> str:
        """Why it ended, once it was connected. Raises EngineLost, EngineRefused before that."""
        version = client.api_version
        working = connect(self._url, REQUEST_TIMEOUT_S, version)
        with engine_errors():
            working.oldest_api_version = client.version(api_version=False).get("MinAPIVersion", "")
        with contextlib.closing(working), _Pulse(connect(self._url, PING_TIMEOUT_S, version)) as pulse:
            wanted = self._filters | {"type": ["container"], "event": self._events}
            since_s = int(time.time()) - EVENTS_OVERLAP_S
            with contextlib.closing(
                Events(self._url, version, since_s=since_s, filters=wanted, timeout_s=LIST_TIMEOUT_S)
            ) as stream:
                self._stream = stream
                try:
                    with engine_errors():
                        self._on_connected(working, client, client.containers(all=True, filters=self._filters))
                    pulse.watch(stream)
                    if not self._closed.is_set():  # closed while the stream was being opened
                        self._follow_events(stream)
                    return pulse.failure or "it closed the connection"
                finally:
                    self._stream = None

    def _follow_events(self, stream: Events) -> None:
        """Until they end, for whatever reason: that they were there is all that matters for the next try."""
        with contextlib.suppress(EngineLost):
            for event in stream:
                self._on_event(event)


class _Pulse:
    """Pings the engine while its events are read, and cuts them when no answer comes: their reader finds them ended.

    failure: why it was cut; empty when it was not.
    """

    def __init__(self, client: Any) -> None:
        self.failure = ""
        self._client = client
        self._stream: Events | None = None
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, name="orlop-docker-pulse", daemon=True)

    def __enter__(self) -> _Pulse:
        return self

    def watch(self, stream: Events) -> None:
        self._stream = stream
        self._thread.start()

    def __exit__(self, *_: object) -> None:
        """Does not wait for a ping that is under way."""
        self._over.set()
        if not self._thread.is_alive():
            self._client.close()

    def _run(self) -> None:
        with contextlib.closing(self._client):
            while not self._over.wait(PING_EVERY_S):
                try:
                    with engine_errors():
                        self._client.ping()
                except (EngineLost, EngineRefused) as error:
                    self.failure = str(error)
                    assert self._stream is not None, "it was there before the thread"
                    self._stream.cut()
                    return


def pull(client: Any, image: str, progress: Callable[[str], None]) -> None:
    """Raises EngineLost, EngineRefused."""
    said_at = 0.0
    with engine_errors():
        for line in client.pull(image, stream=True, decode=True):
            if error := line.get("error"):
                raise EngineRefused(f"{image}: {error}")
            if (now := time.monotonic()) - said_at >= PULL_MESSAGE_EVERY_S:
                said_at = now
                progress(one_line(f"pulling {image}: {line.get('status', '')} {line.get('progress', '')}"))


class Command:
    """One command beside a container's own process.

    It prints its process id (that of its group too) before anything else, so that a second command can end
    it: the Engine API has no way to kill one. The engine answers before the command has begun, so that it may be
    abandoned while its process id is still to come: then whoever reads that id ends it.
    """

    def __init__(self, client: Any, container: str, command: str) -> None:
        self._client = client
        self._container = container
        self._command = command
        self._stream: Any = None
        self._process = b""
        self._abandoned = False
        self._lock = threading.Lock()

    def start(self) -> None:
        """Raises EngineLost, EngineRefused."""
        with engine_errors():
            script = ["sh", "-c", 'echo $$; exec sh -c "$0"', self._command]
            self._id = self._client.exec_create(self._container, script)["Id"]
            self._stream = self._client.exec_start(self._id, stream=True, demux=True)

    def result(self) -> tuple[int, str]:
        """Blocks until it ends: the exit code and the head of its output. Raises EngineLost, EngineRefused."""
        try:
            with engine_errors():
                output = self._head_of_output()
                return self._exit_code(), output.decode(errors="replace")
        finally:
            close_stream(self._stream)

    def _head_of_output(self) -> bytes:
        first_line, kept = b"", b""
        for output, trouble in self._stream:
            chunk = output or trouble or b""
            if output and not self._process:
                first_line += output
                process, newline, chunk = first_line.partition(b"\n")
                if newline:
                    self._begun(process)
                else:
                    chunk = b""
            kept += chunk[: COMMAND_OUTPUT_MAX_BYTES - len(kept)]
        if not self._process:  # no shell came to print it: it is the engine's own complaint
            return first_line[:COMMAND_OUTPUT_MAX_BYTES] or kept
        return kept

    def _begun(self, process: bytes) -> None:
        with self._lock:
            self._process = process
        if self._abandoned:
            self._end()

    def _exit_code(self) -> int:
        deadline = time.monotonic() + EXIT_CODE_WITHIN_S
        while (code := self._client.exec_inspect(self._id)["ExitCode"]) is None:
            if time.monotonic() > deadline:
                raise EngineLost("the engine does not tell the exit code of a command that has ended")
            time.sleep(EXIT_CODE_POLL_S)
        return int(code)

    def abandon(self) -> None:
        """Ends it and its children, now or as soon as it has begun, which frees the thread that waits for it."""
        with self._lock:
            self._abandoned = True
            begun = self._process
        if begun:
            self._end()

    def _end(self) -> None:
        with contextlib.suppress(EngineLost, EngineRefused), engine_errors():
            process = self._process.decode()
            script = ["sh", "-c", f"kill -9 -- -{process} || kill -9 {process}"]
            self._client.exec_start(self._client.exec_create(self._container, script)["Id"], detach=True)
        cut_stream(self._stream)
