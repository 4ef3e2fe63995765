"""Real processes on hosts of their own, broken at random: `python tests/chaos.py SECONDS [SEED]`, or `make chaos`.

Three etcd members, three servers with TLS, three agents. A client keeps writing apps through any server and records
what was acknowledged; a watcher looks at every process of every task; meanwhile members, servers and agents are killed,
stopped for a while, and cut off, in one direction too. Nothing of that lasts long enough for a node to be given up, so
that no task may end at all. In the end all is healed, and what was acknowledged must run, once.
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import signal
import ssl
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

sys.path.insert(0, str(Path(__file__).parent))

from hosts import MARATHON_PORT, SERVER_PORT, Host, Hosts, Process
from running import wait_until

LEASE_S: Final = 3
GONE_AFTER_S: Final = 60
TROUBLE_S: Final = (0.5, 8.0)
PAUSE_S: Final = (0.5, 3.0)
WRITE_EVERY_S: Final = 0.4
ANSWER_WITHIN_S: Final = 6.0
APPS_MAX: Final = 150
CLIENTS: Final = 3
CONVERGED_WITHIN_S: Final = 90.0


class Etcd:
    """One member on a host."""

    def __init__(self, host: Host) -> None:
        self.host = host
        self.name = host.name
        self.process: subprocess.Popen[bytes] | None = None

    def arguments(self, cluster: str) -> None:
        at = self.host.address
        self._arguments = [
            "etcd", "--name", self.name, "--data-dir", str(self.host.folder / "etcd"), "--initial-cluster", cluster,
            "--listen-client-urls", f"http://{at}:2379", "--advertise-client-urls", f"http://{at}:2379",
            "--listen-peer-urls", f"http://{at}:2380", "--initial-advertise-peer-urls", f"http://{at}:2380",
        ]  # fmt: skip

    def start(self) -> None:
        with (self.host.folder / "etcd.log").open("ab") as log:
            self.process = subprocess.Popen(self.host.command(*self._arguments), stdout=log, stderr=subprocess.STDOUT)

    def kill(self) -> None:
        assert self.process is not None
        self.process.kill()
        self.process.wait()

    def close(self) -> None:
        if self.process is not None and self.process.poll() is None:
            self.kill()


class Chaos:
    """The cluster, and what is done to it. Everything random comes from the seed."""

    def __init__(self, hosts: Hosts, seed: int) -> None:
        self._random = random.Random(seed)
        self.etcds = [Etcd(hosts.host(f"e{number}")) for number in range(3)]
        cluster = ",".join(f"{one.name}=http://{one.host.address}:2380" for one in self.etcds)
        for etcd in self.etcds:
            etcd.arguments(cluster)
        store = "etcd://" + ",".join(f"{one.host.address}:2379" for one in self.etcds)
        self.servers = [self._server(hosts.host(f"s{number}"), store) for number in range(3)]
        urls = [word for server in self.servers for word in ("--join", self.url(server))]
        self.agents = [
            Process(
                hosts.host(f"a{number}"),
                "agent",
                {"ORLOP_AGENT__NAME": f"a{number}", "ORLOP_AGENT__RESOURCES__CPUS": "8"},
                "agent",
                *urls,
            )
            for number in range(3)
        ]
        self.acknowledged: set[str] = set()
        self.possible: set[str] = set()
        self.seen: dict[str, dict[int, str]] = {}
        self.wrong: list[str] = []
        self.done: list[str] = []
        self._over = threading.Event()

    def _server(self, host: Host, store: str) -> Process:
        environment = {
            "ORLOP_STORE__URL": store,
            "ORLOP_STORE__TIMEOUT_S": str(LEASE_S),
            "ORLOP_CLUSTER__LEASE_S": str(LEASE_S),
            "ORLOP_CLUSTER__UNREACHABLE_AFTER_S": str(GONE_AFTER_S // 2),
            "ORLOP_CLUSTER__GONE_AFTER_S": str(GONE_AFTER_S),
            "ORLOP_SERVER__LISTEN": f"0.0.0.0:{SERVER_PORT}",
            "ORLOP_SERVER__ADVERTISE": f"{host.address}:{SERVER_PORT}",
            "ORLOP_SERVER__AUTH": "on",
            "ORLOP_PLUGINS__MARATHON__LISTEN": f"0.0.0.0:{MARATHON_PORT}",
        }
        return Process(host, "server", environment, "server")

    @staticmethod
    def url(server: Process) -> str:
        return f"https://{server.host.address}:{SERVER_PORT}"

    # Its life

    def start(self) -> None:
        """All of it, until every node is ready."""
        for etcd in self.etcds:
            etcd.start()
        first = self.servers[0]
        first.start()
        wait_until(lambda: (first.data / "admin.token").exists() and self.answers(first), f"it leads; {self.logs()}")
        for server in self.servers[1:]:
            server.data.mkdir()
            for name in ("cluster.key", "admin.token"):
                shutil.copy(first.data / name, server.data / name)
            server.start()
        for agent in self.agents:
            agent.start("--token", self.token())
        wait_until(lambda: self.ready_nodes() == 3, f"all nodes are ready; {self.logs()}")
        wait_until(lambda: all(map(self.answers, self.servers)), f"all servers answer; {self.logs()}")

    def close(self) -> None:
        self._over.set()
        for thing in (*self.agents, *self.servers, *self.etcds):
            thing.host.mend()
            if isinstance(thing, Process) and thing.process is not None:
                thing.process.send_signal(signal.SIGCONT)
            thing.close()

    def token(self) -> str:
        found: str = self.call(self.servers[0], "POST", "/v1/tokens", {})["token"]
        return found

    def call(self, server: Process, method: str, path: str, body: Any = None, port: int = SERVER_PORT) -> Any:
        """Raises OSError, urllib.error.HTTPError among them."""
        url = f"https://{server.host.address}:{port}{path}"
        token = (self.servers[0].data / "admin.token").read_text().strip()
        headers = {"Content-Type": "application/json", "Authorization": f"Bearer {token}"}
        data = json.dumps(body).encode() if body is not None else None
        context = ssl.create_default_context(cafile=str(self.servers[0].data / "ca.pem"))
        request = urllib.request.Request(url, data, headers, method=method)
        with urllib.request.urlopen(request, timeout=ANSWER_WITHIN_S, context=context) as answer:
            return json.load(answer)

    def answers(self, server: Process) -> bool:
        try:
            return bool(self.call(server, "GET", "/v1/cluster"))
        except (OSError, ValueError):
            return False

    def ready_nodes(self) -> int:
        try:
            nodes = self.call(self.servers[0], "GET", "/v1/nodes")["nodes"]
        except (OSError, ValueError):
            return 0
        return sum(node["state"] == "ready" for node in nodes)

    def logs(self) -> str:
        return "\n".join(f"{one.host.name}: {one.said()[-1500:]}" for one in (*self.servers, *self.agents))

    # What goes on meanwhile

    def write(self, name: str) -> None:
        """A client: new apps through any server, and a note of what it was answered."""
        chance = random.Random(self._random.random())
        number = 0
        while not self._over.wait(WRITE_EVERY_S) and number < APPS_MAX // CLIENTS:
            number += 1
            app = {"id": f"/{name}{number}", "cmd": "exec sleep 100000", "cpus": 0.01, "mem": 4, "instances": 1}
            try:
                self.call(chance.choice(self.servers), "POST", "/v2/apps", app, MARATHON_PORT)
            except urllib.error.HTTPError as error:
                text = error.read().decode(errors="replace")
                if "nothing was changed" not in text:
                    self.possible.add(app["id"])
                if error.code not in (503, 502, 409):
                    self.wrong.append(f"POST {app['id']}: {error.code} {text}")
            except (OSError, ValueError):
                self.possible.add(app["id"])
            else:
                self.acknowledged.add(app["id"])

    def watch(self) -> None:
        """Every process of every task: no task on two nodes, none with a second life."""
        while not self._over.wait(0.5):
            self.look()

    def look(self) -> None:
        for agent in self.agents:
            for task, pids in agent.tasks().items():
                known = self.seen.setdefault(task, {})
                for pid in pids:
                    known.setdefault(pid, agent.host.name)
                if len(set(known.values())) > 1:
                    self.wrong.append(f"task {task} ran on {sorted(set(known.values()))}")

    def break_things(self, things: list[Any], until: float) -> None:
        """One of these at a time, for a while."""
        chance = random.Random(self._random.random())
        while time.monotonic() < until and not self._over.is_set():
            thing = chance.choice(things)
            kind = chance.choice(["kill", "stop", "cut_off", "cut_incoming", "unplug"])
            for_s = chance.uniform(*TROUBLE_S)
            self.done.append(f"{time.monotonic():.1f} {kind} {thing.host.name} for {for_s:.1f} s")
            with self._broken(thing, kind):
                self._over.wait(for_s)
            self._over.wait(chance.uniform(*PAUSE_S))

    @contextmanager
    def _broken(self, thing: Any, kind: str) -> Iterator[None]:
        if kind == "kill":
            thing.kill()
            yield
            thing.start()
        elif kind == "stop":
            thing.process.send_signal(signal.SIGSTOP)
            yield
            thing.process.send_signal(signal.SIGCONT)
        else:
            getattr(thing.host, kind)()
            yield
            thing.host.mend()

    def run(self, seconds: float) -> None:
        """Breaks things for so long, then checks. Raises AssertionError."""
        until = time.monotonic() + seconds
        breakers = [
            threading.Thread(target=self.break_things, args=(things, until))
            for things in (self.etcds, self.servers, self.agents)
        ]
        others = [threading.Thread(target=self.write, args=(f"client{number}-",)) for number in range(CLIENTS)]
        others.append(threading.Thread(target=self.watch))
        for thread in (*breakers, *others):
            thread.start()
        for thread in breakers:
            thread.join()
        healed = time.monotonic()
        self._over.set()
        for thread in others:
            thread.join()
        self.check()
        print(f"converged {time.monotonic() - healed:.1f} s after healing; {len(self.done)} troubles")
        print(f"{len(self.acknowledged)} writes acknowledged, {len(self.possible)} of unknown outcome")

    def check(self) -> None:
        """After healing."""
        self._until(lambda: not self.call(self.servers[1], "GET", "/v2/deployments", port=MARATHON_PORT), "it settles")
        self._until(lambda: self.ready_nodes() == 3, "all nodes are ready")
        apps = {one["id"] for one in self.call(self.servers[2], "GET", "/v2/apps", port=MARATHON_PORT)["apps"]}
        assert self.acknowledged <= apps, f"acknowledged and lost: {self.acknowledged - apps}"
        assert apps <= self.acknowledged | self.possible, f"of nowhere: {apps - self.acknowledged - self.possible}"
        assert self.acknowledged, "nothing was ever acknowledged"
        self._until(lambda: self._running() == apps, "every app runs once")
        self.look()
        assert not self.wrong, self.wrong
        gone = {
            task: pids for task, pids in self.seen.items() if not any(Path(f"/proc/{pid}").exists() for pid in pids)
        }
        assert not gone, f"tasks have ended, which nobody asked for: {gone}"

    def _running(self) -> set[str]:
        tasks = self.call(self.servers[0], "GET", "/v1/tasks?state=running")["tasks"]
        groups = [task["group"] for task in tasks]
        assert len(groups) == len(set(groups)), f"some run twice: {sorted(groups)}"
        return set(groups)

    def _until(self, condition: Callable[[], bool], what: str) -> None:
        def quietly() -> bool:
            try:
                return condition()
            except (OSError, ValueError):
                return False

        wait_until(quietly, f"{what}; {self.logs()}", CONVERGED_WITHIN_S)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("seconds", type=float, nargs="?", default=600)
    parser.add_argument("seed", type=int, nargs="?", default=int(time.time()))
    options = parser.parse_args()
    print(f"seed {options.seed}", flush=True)
    hosts = Hosts()
    chaos = Chaos(hosts, options.seed)
    try:
        chaos.start()
        chaos.run(options.seconds)
    except AssertionError as error:
        print("\n".join(chaos.done))
        print(f"seed {options.seed}: {error}")
        return 1
    finally:
        chaos.close()
        hosts.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
