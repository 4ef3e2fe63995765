"""Real Docker Engines for tests, as a pytest plugin that the root `conftest.py` registers.

Each engine is a host of its own: a `dockerd` in a network and mount namespace, with its data below one folder and
one leg in a bridge, on which the ports that its containers publish can be reached. A session claims a numbered
*lane* (subnet, bridge, folder, control group) by a file lock, so that sessions run side by side; what a killed
session left in its lane is swept when the lane is claimed again.

Needed: Linux, root, `dockerd`, `ip`, `iptables`, `nsenter`, `unshare` and a static `busybox` (Debian: docker.io,
iproute2, iptables, busybox-static). Where that is missing, tests are skipped with the reason; with CI set, they fail.
"""

from __future__ import annotations

import contextlib
import fcntl
import functools
import io
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import tarfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import IO, Any, Final

import docker
import pytest
import requests
from waiting import is_alive, wait_until

LANES: Final = 100
READY_WITHIN_S: Final = 60.0
ENDED_WITHIN_S: Final = 60.0
POLL_S: Final = 0.05
NEEDED_PROGRAMS: Final = ("dockerd", "containerd", "busybox", "ip", "iptables", "nsenter", "unshare", "mount")

# A private /run keeps /run/docker apart and a private /etc/docker gives each engine an id of its own. The name
# server that refuses at once keeps look-ups of absent registries from hanging for 20 s.
_ENTER: Final = """
set -eu
folder=$1 hostname=$2
shift 2
if ! grep -q ' /sys/fs/cgroup[^ ]* cgroup' /proc/mounts; then
  mount -t tmpfs tmpfs /sys/fs/cgroup
  for controller in $(awk '!/^#/ && $2 != 0 && $4 == 1 { print $1 }' /proc/cgroups); do
    mkdir "/sys/fs/cgroup/$controller"
    mount -t cgroup -o "$controller" cgroup "/sys/fs/cgroup/$controller"
  done
fi
mount --bind "$folder/run" /run
mount --bind "$folder/etc" /etc/docker
mount --bind "$folder/resolv.conf" /etc/resolv.conf
hostname "$hostname"
exec "$@"
"""


def missing() -> str:
    """Why no engine can be started here; empty when one can."""
    if os.geteuid() != 0:
        return "needs root, to make network namespaces for real Docker Engines"
    absent = [name for name in NEEDED_PROGRAMS if shutil.which(name) is None]
    if absent:
        return f"needs {', '.join(absent)} (Debian: docker.io iproute2 iptables busybox-static)"
    return ""


def _run(*command: str, check: bool = True) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if check and done.returncode:
        raise RuntimeError(f"{' '.join(command)}: {done.stderr.strip() or done.returncode}")
    return done.stdout


@functools.cache
def busybox_archive() -> bytes:
    """A root file system with a static busybox and a link for each of its applets, as a tar archive."""
    program = shutil.which("busybox")
    assert program is not None
    content = Path(program).read_bytes()
    applets = [name for name in _run(program, "--list").split() if name != "busybox"]
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as archive:
        for folder in ("bin", "tmp", "etc"):
            entry = tarfile.TarInfo(folder)
            entry.type, entry.mode = tarfile.DIRTYPE, 0o1777 if folder == "tmp" else 0o755
            archive.addfile(entry)
        binary = tarfile.TarInfo("bin/busybox")
        binary.size, binary.mode = len(content), 0o755
        archive.addfile(binary, io.BytesIO(content))
        for applet in applets:
            link = tarfile.TarInfo(f"bin/{applet}")
            link.type, link.linkname = tarfile.SYMTYPE, "busybox"
            archive.addfile(link)
    return packed.getvalue()


class Lane:
    """The part of the machine that one test session has to itself, and the engines in it."""

    def __init__(self) -> None:
        self.number, self._lock = self._claim()
        self.name = f"orlop-t{self.number}"
        self.folder = Path(f"/tmp/orlop-engines-{self.number}")
        self.subnet = f"10.78.{100 + self.number}"
        self.engines: list[Engine] = []
        try:
            self._sweep()
            self.folder.mkdir()
            _run("ip", "link", "add", self.name, "type", "bridge")
            _run("ip", "addr", "add", f"{self.subnet}.1/24", "dev", self.name)
            _run("ip", "link", "set", self.name, "up")
            # An engine on this machine sets the FORWARD policy to DROP, and bridged traffic passes through it.
            _run("iptables", "-w", "-I", "FORWARD", "1", *self._forward_rule)
        except BaseException:
            self.close()
            raise

    @staticmethod
    def _claim() -> tuple[int, IO[str]]:
        for number in range(LANES):
            lock = Path(f"/tmp/orlop-engines-{number}.lock").open("w")  # noqa: SIM115 - held for the session
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                lock.close()
            else:
                return number, lock
        raise RuntimeError(f"all {LANES} lanes for engines are in use")

    @property
    def _forward_rule(self) -> tuple[str, ...]:
        return ("-i", self.name, "-o", self.name, "-j", "ACCEPT")

    def engine(self, name: str, *options: str, programs: Path | None = None) -> Engine:
        """A new engine, running, with `busybox:latest`. `options` go to dockerd. programs: see `Engine`."""
        made = self.prepared(name, *options)
        made.programs = programs
        made.start()
        made.load_busybox()
        return made

    def prepared(self, name: str, *options: str) -> Engine:
        """As `engine`, but it does not run yet, and has no image."""
        made = Engine(self, name, 10 + len(self.engines), options)
        self.engines.append(made)
        return made

    def close(self) -> None:
        """Stops all engines and leaves nothing behind."""
        for engine in self.engines:
            if engine.running:
                with contextlib.suppress(Exception):
                    engine.clear()
                engine.kill()
        try:
            self._sweep()
        finally:
            self._lock.close()

    def _sweep(self) -> None:
        for path in self._cgroups():
            _kill_all(functools.partial(_pids_of_cgroup, path))
        for namespace in self._namespaces():
            _kill_all(functools.partial(_pids_of_namespace, namespace))
            _run("ip", "netns", "del", namespace)
        # A connection that nobody has acknowledged the end of keeps a namespace and its leg for a while.
        for leg in self._legs():
            _run("ip", "link", "del", leg, check=False)
        for path in self._cgroups():
            for child in sorted(path.rglob("*/"), reverse=True):
                child.rmdir()
            path.rmdir()
        delete_rule = ["iptables", "-w", "-D", "FORWARD", *self._forward_rule]
        while subprocess.run(delete_rule, capture_output=True, check=False).returncode == 0:
            pass
        _run("ip", "link", "del", self.name, check=False)
        if self.folder.exists():
            shutil.rmtree(self.folder)

    def _namespaces(self) -> list[str]:
        names = [line.split()[0] for line in _run("ip", "netns", "list").splitlines() if line]
        return [name for name in names if name.startswith(f"{self.name}-")]

    def _legs(self) -> list[str]:
        """The bridge's ends of the hosts' links: `t7h12` of a host of lane 7, `t7-12` of an engine."""
        links = json.loads(_run("ip", "-json", "link", "show", "type", "veth") or "[]")
        return [link["ifname"] for link in links if re.match(rf"t{self.number}[-h]", link["ifname"])]

    def _cgroups(self) -> list[Path]:
        mounted = [line.split()[1] for line in Path("/proc/mounts").read_text().splitlines() if " cgroup" in line]
        found = [Path(mount) / self.name for mount in dict.fromkeys(mounted)]
        return [path for path in found if path.is_dir()]


def _pids_of_cgroup(path: Path) -> list[int]:
    files = [path / "cgroup.procs", *path.rglob("cgroup.procs")]
    with contextlib.suppress(FileNotFoundError):
        return [int(pid) for file in files for pid in file.read_text().split()]
    return []


def _pids_of_namespace(name: str) -> list[int]:
    return [int(pid) for pid in _run("ip", "netns", "pids", name).split()]


def _kill_all(pids: Callable[[], list[int]]) -> None:
    def none_left() -> bool:
        left = pids()
        for pid in left:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        return not left

    wait_until(none_left, "the processes of an engine to end", ENDED_WITHIN_S)


class Engine:
    """One real Docker Engine.

    name: its host's; another engine of the session may have it too, so folders and networks go by number as well.
    url: of its Unix socket. tcp_url: the same API on the bridge. address: where published ports are reached.
    programs: the root of an unpacked Docker Engine; None: the installed one. variables: dockerd's. settings: its
    `daemon.json`. A change of these counts from the next start on.
    """

    def __init__(self, lane: Lane, name: str, number: int, options: tuple[str, ...]) -> None:
        self.name = name
        self.programs: Path | None = None
        self.variables: Mapping[str, str] = {}
        self.settings: Mapping[str, Any] = {}
        self.address = f"{lane.subnet}.{number}"
        self.folder = lane.folder / f"{number}-{name}"
        self.url = f"unix://{self.folder}/docker.sock"
        self.tcp_url = f"tcp://{self.address}:2375"
        self._lane = lane
        self._namespace = f"{lane.name}-{number}-{name}"
        self._options = options
        self._daemon: subprocess.Popen[bytes] | None = None
        for folder in ("run/lock", "run/docker", "etc"):
            (self.folder / folder).mkdir(parents=True)
        (self.folder / "resolv.conf").write_text("nameserver 127.0.0.1\n")
        Path("/etc/docker").mkdir(exist_ok=True)  # only a place to mount the engine's own folder on
        self._connect()

    def _connect(self) -> None:
        outer, namespace = self._leg, self._namespace
        _run("ip", "netns", "add", namespace)
        _run("ip", "link", "add", outer, "type", "veth", "peer", "name", "eth0", "netns", namespace)
        _run("ip", "link", "set", outer, "master", self._lane.name, "up")
        _run("ip", "-n", namespace, "addr", "add", f"{self.address}/24", "dev", "eth0")
        _run("ip", "-n", namespace, "link", "set", "eth0", "up")
        _run("ip", "-n", namespace, "link", "set", "lo", "up")
        _run("ip", "-n", namespace, "route", "add", "default", "via", f"{self._lane.subnet}.1")

    @property
    def _leg(self) -> str:
        return f"t{self._lane.number}-{self.address.rpartition('.')[2]}"

    def command(self, *words: str) -> list[str]:
        """The command as it is run in this host's network."""
        return ["nsenter", f"--net=/run/netns/{self._namespace}", *words]

    def client(self, **options: Any) -> docker.APIClient:
        """A new low-level client; the caller closes it."""
        return docker.APIClient(base_url=self.url, version="auto", **options)

    def start(self) -> None:
        """Returns when it answers."""
        assert self._daemon is None, "it runs already"
        folder = str(self.folder)
        (self.folder / "etc/daemon.json").write_text(json.dumps(self.settings))
        # fmt: off
        command = [
            "nsenter", f"--net=/run/netns/{self._namespace}",
            "unshare", "--mount", "--uts", "--propagation", "private",
            "sh", "-c", _ENTER, "sh", folder, self.name,
            "dockerd", "--data-root", f"{folder}/data", "--exec-root", f"{folder}/exec",
            "--pidfile", f"{folder}/docker.pid", "-H", self.url, "-H", self.tcp_url, "--tls=false",
            "--cgroup-parent", f"/{self._lane.name}", "--exec-opt", "native.cgroupdriver=cgroupfs",
            "--label", f"engine={self.name}", *self._options,
        ]
        # fmt: on
        with (self.folder / "dockerd.log").open("ab") as log:
            self._daemon = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=self._environment()
            )
        wait_until(self._answers, f"the Docker Engine {self.name} to answer; {self.folder}/dockerd.log")

    def _environment(self) -> dict[str, str]:
        """dockerd, its containerd and its shims find each other on the PATH."""
        own = [str(self.programs / folder) for folder in ("usr/sbin", "usr/bin")] if self.programs is not None else []
        return {**os.environ, "PATH": os.pathsep.join([*own, os.environ["PATH"]]), **self.variables}

    def _answers(self) -> bool:
        assert self._daemon is not None
        if self._daemon.poll() is not None:
            self._daemon = None
            raise RuntimeError(f"dockerd has ended:\n{self.log()[-3000:]}")
        # docker-py leaves its socket open when it cannot connect, so it is only asked when somebody listens.
        with socket.socket(socket.AF_UNIX) as attempt:
            if attempt.connect_ex(self.url.removeprefix("unix://")):
                return False
        try:
            self.client().close()
        except (docker.errors.DockerException, requests.exceptions.RequestException):
            return False
        return True

    def stop(self) -> None:
        """An orderly stop, which stops its containers too."""
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        """kill -9 of the daemon, and of its containerd with it: the containers go on, watched by their shims."""
        self._end(signal.SIGKILL)
        pid_file = self.folder / "exec/containerd/containerd.pid"
        if pid_file.exists():
            # An init process that is slow to reap leaves a zombie, which the next dockerd takes for a living one.
            wait_until(lambda: not is_alive(int(pid_file.read_text())), "containerd to end", ENDED_WITHIN_S)
            pid_file.unlink()

    def die(self) -> None:
        """The whole host: its network is gone at once, and then all that runs on it. `revive` starts it again."""
        with contextlib.closing(self.client()) as client:
            inside = [client.inspect_container(one["Id"])["State"]["Pid"] for one in client.containers()]
        _run("ip", "link", "set", self._leg, "nomaster")
        _kill_all(functools.partial(_pids_of_namespace, self._namespace))
        for pid in inside:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.kill()

    def revive(self) -> None:
        """After `die`: returns when the engine answers."""
        _run("ip", "link", "set", self._leg, "master", self._lane.name)
        self.start()

    def hang(self) -> None:
        """SIGSTOP: it takes connections and answers nothing, until `go_on`."""
        assert self._daemon is not None, "it does not run"
        self._daemon.send_signal(signal.SIGSTOP)

    def go_on(self) -> None:
        if self._daemon is not None:
            self._daemon.send_signal(signal.SIGCONT)

    def _end(self, number: signal.Signals) -> None:
        if self._daemon is not None:
            self._daemon.send_signal(number)
            self._daemon.wait(ENDED_WITHIN_S)
            self._daemon = None

    @property
    def pid(self) -> int:
        """Of the daemon."""
        assert self._daemon is not None, "it does not run"
        return self._daemon.pid

    @property
    def running(self) -> bool:
        return self._daemon is not None

    def clear(self) -> None:
        """Removes every container. Some may be removing themselves, which takes a moment, and some may just be renamed
        by Orlop, which makes the engine fail to remove their folder (500)."""

        def none_left(client: docker.APIClient) -> bool:
            left = client.containers(all=True)
            for container in left:
                try:
                    client.remove_container(container["Id"], force=True, v=True)
                except docker.errors.APIError as error:
                    if error.status_code not in (404, 409, 500):
                        raise
            return not left

        with contextlib.closing(self.client()) as client:
            wait_until(lambda: none_left(client), f"the containers of {self.name} to be gone")

    def load_busybox(self, *tags: str) -> None:
        """Imports the image under `busybox:latest`, and the same under further names, such as "alpine:3"."""
        with contextlib.closing(self.client()) as client:
            client.import_image_from_data(busybox_archive(), "busybox", "latest", changes=['CMD ["sh"]'])
            for tag in tags:
                repository, _, version = tag.partition(":")
                client.tag("busybox:latest", repository, version or "latest", force=True)

    @contextlib.contextmanager
    def reachable(self, subnet: str) -> Iterator[None]:
        """Meanwhile containers of this subnet of the engine's can be reached from here, as from the engine's host."""
        inside = ("nsenter", f"--net=/run/netns/{self._namespace}", "iptables", "-w")
        rule = ("FORWARD", "-d", subnet, "-j", "ACCEPT")
        _run(*inside, "-I", *rule)
        _run("ip", "route", "add", subnet, "via", self.address)
        try:
            yield
        finally:
            _run("ip", "route", "del", subnet)
            _run(*inside, "-D", *rule)

    def log(self) -> str:
        return (self.folder / "dockerd.log").read_text(errors="replace")


@pytest.fixture(scope="session")
def engines() -> Iterator[Lane]:
    """Where engines can be made: `engines.engine("name")`. All of them end with the session."""
    if reason := missing():
        (pytest.fail if os.environ.get("CI") else pytest.skip)(f"no Docker Engine: {reason}")
    lane = Lane()
    try:
        yield lane
    finally:
        lane.close()


@pytest.fixture(scope="session")
def engine(engines: Lane) -> Engine:
    """One Docker Engine for the whole session; a test that stops it starts it again."""
    return engines.engine("first")


@pytest.fixture(scope="session")
def members(engines: Lane) -> list[Engine]:
    """Two further ones, "alpha" and "beta", for a pool; a test that stops one starts it again."""
    return [engines.engine("alpha"), engines.engine("beta")]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if {"engine", "engines"} & set(getattr(item, "fixturenames", ())):
            item.add_marker(pytest.mark.docker)
