"""`/v2/groups`."""

from __future__ import annotations

from functools import partial

from aiohttp import web

from orlop_marathon import errors, executing, orders, parsing, paths, queries, wire
from orlop_marathon.deployments import step_json
from orlop_marathon.http.calls import Call, Handler, Methods, answer, deployed, empty
from orlop_marathon.http.reading import ALWAYS, Reader


def resolve(tail: list[str]) -> Methods | None:
    if tail[-1:] == ["apps"]:
        return {"GET": partial(_apps, path=paths.join(tail[:-1]))}
    if tail[-1:] == ["versions"]:
        return {"GET": partial(_versions, path=paths.join(tail[:-1]))}
    if len(tail) > 1 and tail[-2] == "versions":
        return {"GET": partial(_version, path=paths.join(tail[:-2]), version=tail[-1])}
    path = paths.join(tail)
    methods: dict[str, Handler] = {
        "GET": partial(_get, path=path),
        "POST": partial(_create, path=path),
        "PUT": partial(_update, path=path),
        "DELETE": partial(_delete, path=path),
    }
    return methods | ({"PATCH": partial(_patch, path=path)} if tail else {})


# --- reading ---


async def _get(call: Call, path: str) -> web.Response:
    reader = Reader(await call.view())
    reader.tree.require(path)
    return answer(reader.group(path, call.values("embed")))


async def _apps(call: Call, path: str) -> web.Response:
    reader = Reader(await call.view())
    reader.tree.require(path)
    embed = queries.parse_embed(call.values("embed")) | ALWAYS
    return answer([reader.app(reader.apps[app], embed) for app in reader.tree.apps_below(path)])


async def _versions(call: Call, path: str) -> web.Response:
    reader = Reader(await call.view())
    reader.tree.require(path)
    return answer(list(reversed(executing.group_versions(reader.view, path))))


async def _version(call: Call, path: str, version: str) -> web.Response:
    reader = Reader(await call.view())
    wanted = parsing.timestamp(version)
    reader.tree.require(path)
    if wanted not in executing.group_versions(reader.view, path):
        raise errors.unknown_group(path, wanted)
    records = executing.apps_at(reader.view, path, wanted)
    return answer(reader.group_at(path, wanted, records, call.values("embed")))


# --- changing ---


async def _create(call: Call, path: str) -> web.Response:
    update = parsing.parse_group_update(await call.json(), path, call.settings.defaults)
    order = orders.ChangeGroup(update=update, force=call.flag("force"), create_only=True)
    return deployed(await call.give(order), status=201, location=update.id)


async def _update(call: Call, path: str) -> web.Response:
    update = parsing.parse_group_update(await call.json(), path, call.settings.defaults)
    dry_run = call.flag("dryRun")
    result = await call.give(orders.ChangeGroup(update=update, force=call.flag("force"), dry_run=dry_run))
    if dry_run:
        return answer({"steps": [step_json(step) for step in result.steps]})
    return deployed(result)


async def _patch(call: Call, path: str) -> web.Response:
    document = await call.json()
    if not isinstance(document, dict):
        raise errors.wrong_type([errors.Problem("/", wire.EXPECTED_OBJECT)])
    enforce = document.get("enforceRole")
    if not isinstance(enforce, bool | None):
        raise errors.wrong_type([errors.Problem("/enforceRole", wire.EXPECTED_BOOLEAN)])
    await call.give(orders.EnforceRole(path=path, enforce=bool(enforce)))
    return empty(200)


async def _delete(call: Call, path: str) -> web.Response:
    return deployed(await call.give(orders.DeleteGroup(path=path, force=call.flag("force"))))
