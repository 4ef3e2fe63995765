"""Engines that run nothing: `python -m tests.benchmarks.docker_emulation FOLDER ENGINES CONTAINERS`.

They listen on FOLDER/NUMBER.sock. Each has one image and so many containers from the start, and makes and removes
others at once. Enough of the API for an agent and for what is measured; anything else is 404.
"""

from __future__ import annotations

import asyncio
import secrets
import sys
import time
from pathlib import Path
from typing import Any, Final

import orjson
from aiohttp import web

IMAGE: Final = "busybox:latest"
IMAGE_ID: Final = "sha256:" + "5" * 64
API: Final = {"Api-Version": "1.41", "Ostype": "linux", "Server": "Docker/20.10.24 (linux)"}
VERSION: Final = {
    "Version": "20.10.24", "ApiVersion": "1.41", "MinAPIVersion": "1.12", "Os": "linux", "Arch": "amd64",
    "KernelVersion": "5.10.0", "GitCommit": "5d6db84", "GoVersion": "go1.19.7",
    "Components": [{"Name": "Engine", "Version": "20.10.24"}],
}  # fmt: skip
#: Between the creations of two containers that are there from the start, of any two engines.
APART_S: Final = 61


class Engine:
    """number: of this one, from 0. engines: how many there are."""

    def __init__(self, number: int, engines: int, containers: int) -> None:
        self._number = number
        self._containers: dict[str, dict[str, Any]] = {}
        self._bodies: dict[str, dict[str, Any]] = {}
        self._listed: bytes | None = None
        self._followers: set[asyncio.Queue[bytes]] = set()
        now = int(time.time())
        for place in range(containers):
            at = now - APART_S * (1 + place * engines + number)
            labels = {
                "com.docker.compose.project": "shop",
                "com.docker.compose.service": f"web-{place}",
                "tier": "front",
            }
            self._add(f"shop_web-{place}_{number}", {"Image": IMAGE, "Cmd": ["sleep", "1000"], "Labels": labels}, at)

    def application(self) -> web.Application:
        made = web.Application(client_max_size=16 * 2**20)
        for method, path, handler in (
            ("GET", "/_ping", self._ping),
            ("GET", "/version", self._version),
            ("GET", "/info", self._info),
            ("GET", "/events", self._events),
            ("GET", "/images/json", self._images),
            ("GET", "/images/{name}/json", self._image),
            ("GET", "/networks", self._nothing),
            ("GET", "/volumes", self._volumes),
            ("GET", "/containers/json", self._list),
            ("POST", "/containers/create", self._create),
            ("GET", "/containers/{name}/json", self._inspect),
            ("POST", "/containers/{name}/start", self._start),
            ("DELETE", "/containers/{name}", self._remove),
        ):
            made.router.add_route(method, path, handler)
            made.router.add_route(method, "/v{version}" + path, handler)
        return made

    def _add(self, name: str, body: dict[str, Any], at: float) -> str:
        container = secrets.token_hex(32)
        self._bodies[container] = body
        mode = (body.get("HostConfig") or {}).get("NetworkMode") or "default"
        self._containers[container] = {
            "Id": container,
            "Names": [f"/{name}"],
            "Image": body["Image"],
            "ImageID": IMAGE_ID,
            "Command": " ".join(body.get("Cmd") or ["sh"]),
            "Created": int(at),
            "Ports": [{"IP": "0.0.0.0", "PrivatePort": 80, "PublicPort": 49153, "Type": "tcp"}],
            "Labels": body.get("Labels") or {},
            "State": "created",
            "Status": "Created",
            "HostConfig": {"NetworkMode": mode},
            "NetworkSettings": {
                "Networks": {
                    "bridge": {
                        "IPAMConfig": None, "Links": None, "Aliases": None, "NetworkID": "7" * 64,
                        "EndpointID": "8" * 64,
                        "Gateway": "172.17.0.1", "IPAddress": "172.17.0.2", "IPPrefixLen": 16, "IPv6Gateway": "",
                        "GlobalIPv6Address": "", "GlobalIPv6PrefixLen": 0, "MacAddress": "02:42:ac:11:00:02",
                        "DriverOpts": None,
                    }
                }
            },
            "Mounts": [],
        }  # fmt: skip
        self._listed = None
        return container

    async def _ping(self, _: web.Request) -> web.Response:
        return web.Response(text="OK", headers=API)

    async def _version(self, _: web.Request) -> web.Response:
        return _answer(VERSION)

    async def _info(self, _: web.Request) -> web.Response:
        return _answer(
            {
                "ID": f"EMULATED-{self._number}", "Name": f"emulated-{self._number}", "NCPU": 8, "MemTotal": 32 * 2**30,
                "Labels": [], "Driver": "overlay2", "OSType": "linux", "Architecture": "x86_64",
                "KernelVersion": "5.10.0", "OperatingSystem": "Debian", "ServerVersion": "20.10.24", "Images": 1,
                "Containers": len(self._containers), "ContainersRunning": 0, "ContainersPaused": 0,
                "ContainersStopped": len(self._containers),
            }
        )  # fmt: skip

    async def _images(self, _: web.Request) -> web.Response:
        return _answer(
            [{"Id": IMAGE_ID, "RepoTags": [IMAGE], "RepoDigests": [], "Labels": None, "Size": 1, "Created": 1}]
        )

    async def _image(self, request: web.Request) -> web.Response:
        if request.match_info["name"] not in (IMAGE, "busybox", IMAGE_ID):
            return _refusal(404, f"No such image: {request.match_info['name']}")
        return _answer({"Id": IMAGE_ID, "RepoTags": [IMAGE], "RepoDigests": [], "Config": {}})

    async def _nothing(self, _: web.Request) -> web.Response:
        return _answer([])

    async def _volumes(self, _: web.Request) -> web.Response:
        return _answer({"Volumes": [], "Warnings": None})

    async def _list(self, request: web.Request) -> web.Response:
        wanted = _labels(request)
        if not wanted:
            if self._listed is None:
                self._listed = orjson.dumps(list(self._containers.values()))
            return web.Response(body=self._listed, content_type="application/json", headers=API)
        return _answer([row for row in self._containers.values() if wanted.items() <= row["Labels"].items()])

    async def _create(self, request: web.Request) -> web.Response:
        body = orjson.loads(await request.read())
        name = request.query.get("name") or secrets.token_hex(6)
        container = self._add(name, body, time.time())
        self._tell("create", container)
        return _answer({"Id": container, "Warnings": []}, 201)

    async def _inspect(self, request: web.Request) -> web.Response:
        found = self._find(request)
        if found is None:
            return _refusal(404, f"No such container: {request.match_info['name']}")
        row, body = self._containers[found], self._bodies[found]
        runs = row["State"] == "running"
        created = time.strftime("%Y-%m-%dT%H:%M:%S.000000001Z", time.gmtime(row["Created"]))
        state = {
            "Status": row["State"], "Running": runs, "Paused": False, "Pid": 1_000_000 if runs else 0, "ExitCode": 0,
            "Error": "", "StartedAt": created if runs else "0001-01-01T00:00:00Z",
            "FinishedAt": "0001-01-01T00:00:00Z",
        }  # fmt: skip
        return _answer(
            {
                "Id": found, "Created": created, "Name": row["Names"][0], "Image": IMAGE_ID, "RestartCount": 0,
                "State": state,
                "Config": {**body, "Labels": row["Labels"]}, "HostConfig": row["HostConfig"],
                "NetworkSettings": row["NetworkSettings"], "Mounts": [],
            }
        )  # fmt: skip

    async def _start(self, request: web.Request) -> web.Response:
        found = self._find(request)
        if found is None:
            return _refusal(404, f"No such container: {request.match_info['name']}")
        self._containers[found]["State"] = "running"
        self._listed = None
        self._tell("start", found)
        return web.Response(status=204, headers=API)

    async def _remove(self, request: web.Request) -> web.Response:
        found = self._find(request)
        if found is None:
            return _refusal(404, f"No such container: {request.match_info['name']}")
        self._tell("destroy", found)
        del self._containers[found], self._bodies[found]
        self._listed = None
        return web.Response(status=204, headers=API)

    def _find(self, request: web.Request) -> str | None:
        wanted = request.match_info["name"]
        if wanted in self._containers:
            return wanted
        return next((found for found, row in self._containers.items() if f"/{wanted}" in row["Names"]), None)

    def _tell(self, action: str, container: str) -> None:
        row, now_ns = self._containers[container], time.time_ns()
        attributes = {**row["Labels"], "image": row["Image"], "name": row["Names"][0][1:]}
        event = {
            "status": action, "id": container, "from": row["Image"], "Type": "container", "Action": action,
            "Actor": {"ID": container, "Attributes": attributes}, "scope": "local", "time": now_ns // 10**9,
            "timeNano": now_ns,
        }  # fmt: skip
        for follower in self._followers:
            follower.put_nowait(orjson.dumps(event) + b"\n")

    async def _events(self, request: web.Request) -> web.StreamResponse:
        answer = web.StreamResponse(headers={**API, "Content-Type": "application/json"})
        events: asyncio.Queue[bytes] = asyncio.Queue()
        self._followers.add(events)
        try:
            await answer.prepare(request)
            while True:
                await answer.write(await events.get())
        finally:
            self._followers.discard(events)


def _labels(request: web.Request) -> dict[str, str]:
    wanted = orjson.loads(request.query.get("filters") or "{}").get("label") or {}
    return dict(label.partition("=")[::2] for label in wanted)


def _answer(document: Any, status: int = 200) -> web.Response:
    return web.Response(body=orjson.dumps(document), content_type="application/json", status=status, headers=API)


def _refusal(status: int, message: str) -> web.Response:
    return _answer({"message": message}, status)


async def _serve(folder: Path, engines: int, containers: int) -> None:
    for number in range(engines):
        runner = web.AppRunner(Engine(number, engines, containers).application(), access_log=None)
        await runner.setup()
        await web.UnixSite(runner, str(folder / f"{number}.sock")).start()
    print("ready", flush=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(_serve(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])))
