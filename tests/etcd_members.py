"""Real etcd for tests, as a pytest plugin that the root `conftest.py` registers: clusters of one or more members.

Each cluster has free ports on loopback and a folder of its own; members can be killed, frozen and started again. A
session holds a lock on its folder; what a killed session left behind is swept by the next one.

Needed: `etcd` (Debian: etcd-server). Where it is missing, tests are skipped with the reason; with CI set, they fail.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import shutil
import signal
import subprocess
import tempfile
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest
from ports import free_port
from running import wait_until

READY_WITHIN_S: Final = 30.0
ENDED_WITHIN_S: Final = 20.0
#: Another program may take a port between its choice and its use.
STARTS_MAX: Final = 3
_FOLDERS: Final = "orlop-etcd-"


def missing() -> str:
    """Why no etcd can be started here; empty when one can."""
    return "" if shutil.which("etcd") else "needs etcd (Debian: etcd-server)"


class PortTaken(Exception):
    """Another program was quicker."""


class EtcdMember:
    """One process of etcd. Its data outlive `stop` and `kill`."""

    def __init__(self, folder: Path, name: str, tls: Tls | None, options: tuple[str, ...]) -> None:
        self.name = name
        self.port = free_port()
        self.folder = folder / name
        self.folder.mkdir()
        self.process: subprocess.Popen[bytes] | None = None
        self._peer_port = free_port()
        self._metrics_port = free_port()
        self._tls = tls
        self._options = options
        self._initial = ""

    @property
    def endpoint(self) -> str:
        return f"127.0.0.1:{self.port}"

    @property
    def peer_url(self) -> str:
        return f"http://127.0.0.1:{self._peer_port}"

    def join(self, members: list[EtcdMember]) -> None:
        """These are the cluster; before the first start."""
        self._initial = ",".join(f"{member.name}={member.peer_url}" for member in members)

    def launch(self) -> None:
        """Does not wait for it. For a first start, that of all members goes before waiting."""
        assert self.process is None, "it runs already"
        client_url = f"{'https' if self._tls else 'http'}://{self.endpoint}"
        # fmt: off
        command = [
            "etcd", "--name", self.name, "--data-dir", f"{self.folder}/data", "--log-outputs", "stderr",
            "--logger", "zap",
            "--listen-client-urls", client_url, "--advertise-client-urls", client_url,
            "--listen-peer-urls", self.peer_url, "--initial-advertise-peer-urls", self.peer_url,
            "--listen-metrics-urls", f"http://127.0.0.1:{self._metrics_port}",
            "--initial-cluster", self._initial, *(self._tls.server_options if self._tls else ()), *self._options,
        ]
        # fmt: on
        with (self.folder / "etcd.log").open("ab") as log:
            self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        (self.folder / "pid").write_text(str(self.process.pid))

    def wait(self) -> None:
        """Until it serves, with a leader."""
        wait_until(self._is_healthy, f"etcd {self.name} to be healthy; {self.folder}/etcd.log", READY_WITHIN_S)

    def start(self) -> None:
        """Returns when it serves."""
        self.launch()
        self.wait()

    def _is_healthy(self) -> bool:
        assert self.process is not None
        if self.process.poll() is not None:
            self.process = None
            log = (self.folder / "etcd.log").read_text(errors="replace")[-3000:]
            if "address already in use" in log:
                raise PortTaken(self.name)
            raise RuntimeError(f"etcd has ended:\n{log}")
        try:
            with self._get("/health") as answer:
                return bool(json.load(answer)["health"] == "true")
        except (OSError, urllib.error.HTTPError):
            return False

    def _get(self, path: str) -> Any:
        return urllib.request.urlopen(f"http://127.0.0.1:{self._metrics_port}{path}", timeout=5)

    def metric(self, name: str) -> float:
        """Of its /metrics; the sum over all labels."""
        with self._get("/metrics") as answer:
            lines = answer.read().decode().splitlines()
        values = [float(line.split()[-1]) for line in lines if line.split("{")[0].split(" ")[0] == name]
        assert values, f"etcd has no metric {name}"
        return sum(values)

    @property
    def leads(self) -> bool:
        return self.metric("etcd_server_is_leader") == 1

    def kill(self) -> None:
        """kill -9."""
        self._end(signal.SIGKILL)

    def stop(self) -> None:
        """An orderly stop."""
        self._end(signal.SIGTERM)

    def freeze(self) -> None:
        """SIGSTOP: it keeps its connections, and answers nothing."""
        assert self.process is not None
        self.process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """SIGCONT."""
        assert self.process is not None
        self.process.send_signal(signal.SIGCONT)

    def _end(self, number: signal.Signals) -> None:
        if self.process is not None:
            self.process.send_signal(signal.SIGCONT)
            self.process.send_signal(number)
            self.process.wait(ENDED_WITHIN_S)
            self.process = None


class EtcdCluster:
    """Members that know one another, all of them running."""

    def __init__(self, folder: Path, size: int, tls: Tls | None, options: tuple[str, ...]) -> None:
        self.tls = tls
        self.members: list[EtcdMember] = []
        for attempt in range(STARTS_MAX):
            place = folder / f"try-{attempt}"
            place.mkdir()
            self.members = [EtcdMember(place, f"m{number}", tls, options) for number in range(size)]
            try:
                self._start()
            except PortTaken:
                self.close()
            except BaseException:
                self.close()
                raise
            else:
                return
        raise RuntimeError("no free ports for etcd")

    def _start(self) -> None:
        for member in self.members:
            member.join(self.members)
            member.launch()
        for member in self.members:
            member.wait()

    def url(self, prefix: str = "", *members: EtcdMember, **query: object) -> str:
        """Of all members, or of those that are named, as Orlop takes it."""
        scheme = "etcds" if self.tls else "etcd"
        asked = "&".join(f"{key}={value}" for key, value in query.items())
        endpoints = ",".join(member.endpoint for member in members or self.members)
        return f"{scheme}://{endpoints}/{prefix}{'?' if asked else ''}{asked}"

    def leader(self) -> EtcdMember:
        """The member that leads, once there is one. Not while a member is frozen."""
        return wait_until(
            lambda: next((member for member in self.members if member.process and member.leads), None),
            "etcd to have a leader",
            READY_WITHIN_S,
        )

    def heal(self) -> None:
        """All members run and serve."""
        for member in self.members:
            if member.process is None:
                member.launch()
            else:
                member.thaw()
        for member in self.members:
            member.wait()

    def ctl(self, *arguments: str) -> str:
        """Output of etcdctl."""
        command = ["etcdctl", "--endpoints", ",".join(member.endpoint for member in self.members), *arguments]
        done = subprocess.run(
            command, env={**os.environ, "ETCDCTL_API": "3"}, capture_output=True, text=True, timeout=60, check=False
        )
        assert done.returncode == 0, f"{command}: {done.stderr}"
        return done.stdout

    def end_leases(self) -> None:
        """Ends all leases there are."""
        for line in self.ctl("lease", "list").splitlines()[1:]:
            self.ctl("lease", "revoke", line)

    def close(self) -> None:
        for member in self.members:
            member.kill()


class EtcdFactory:
    """Makes clusters; all of them end with it."""

    def __init__(self) -> None:
        _sweep()
        self.folder = Path(tempfile.mkdtemp(prefix=_FOLDERS))
        self._lock = (self.folder / "lock").open("w")
        fcntl.flock(self._lock, fcntl.LOCK_EX)
        self._clusters: list[EtcdCluster] = []

    def cluster(self, size: int = 1, *options: str, tls: Tls | None = None) -> EtcdCluster:
        """A new one, running. `options` go to each etcd."""
        place = self.folder / f"cluster-{len(self._clusters)}"
        place.mkdir()
        made = EtcdCluster(place, size, tls, options)
        self._clusters.append(made)
        return made

    def close(self) -> None:
        for cluster in self._clusters:
            cluster.close()
        shutil.rmtree(self.folder)
        self._lock.close()


def _sweep() -> None:
    """Ends what sessions have left that are no more."""
    for folder in Path(tempfile.gettempdir()).glob(f"{_FOLDERS}*"):
        with contextlib.suppress(OSError), (folder / "lock").open() as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            for file in folder.glob("*/*/*/pid"):
                pid = int(file.read_text())
                with contextlib.suppress(OSError):
                    if str(folder).encode() in Path(f"/proc/{pid}/cmdline").read_bytes():
                        os.kill(pid, signal.SIGKILL)
            shutil.rmtree(folder, ignore_errors=True)


class Tls:
    """Certificates in a folder: an authority, a server's and a client's. require_client: a client must have one."""

    def __init__(self, folder: Path, *, require_client: bool = False) -> None:
        self.ca_file = folder / "ca.pem"
        self.cert_file = folder / "client.pem"
        self.key_file = folder / "client.key"
        self._server_cert, self._server_key = folder / "server.pem", folder / "server.key"
        self._require_client = require_client
        ca_key = folder / "ca.key"
        # fmt: off
        _openssl("req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=test authority",
                 "-keyout", ca_key, "-out", self.ca_file)
        for name, cert, key in (
            ("server", self._server_cert, self._server_key), ("client", self.cert_file, self.key_file)
        ):
            request, extensions = folder / f"{name}.csr", folder / f"{name}.ext"
            extensions.write_text("subjectAltName=IP:127.0.0.1\nextendedKeyUsage=serverAuth,clientAuth\n")
            _openssl("req", "-newkey", "rsa:2048", "-nodes", "-subj", f"/CN={name}", "-keyout", key, "-out", request)
            _openssl("x509", "-req", "-in", request, "-CA", self.ca_file, "-CAkey", ca_key, "-CAcreateserial",
                     "-days", "2", "-extfile", extensions, "-out", cert)
        # fmt: on

    @property
    def server_options(self) -> tuple[str, ...]:
        options: tuple[str, ...] = ("--cert-file", str(self._server_cert), "--key-file", str(self._server_key))
        if self._require_client:
            options += ("--trusted-ca-file", str(self.ca_file), "--client-cert-auth")
        return options


def _openssl(*arguments: object) -> None:
    subprocess.run(["openssl", *map(str, arguments)], check=True, capture_output=True)


@pytest.fixture(scope="session")
def etcds() -> Iterator[EtcdFactory]:
    """Where clusters are made: `etcds.cluster(3)`. All of them end with the session."""
    if reason := missing():
        (pytest.fail if os.environ.get("CI") else pytest.skip)(f"no etcd: {reason}")
    factory = EtcdFactory()
    try:
        yield factory
    finally:
        factory.close()


@pytest.fixture(scope="session")
def etcd(etcds: EtcdFactory) -> EtcdCluster:
    """One member for the whole session, for tests that leave it as it is."""
    return etcds.cluster()
