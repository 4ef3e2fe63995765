"""`/v2/apps`."""

from __future__ import annotations

from functools import partial

from aiohttp import web

from orlop.framework import View
from orlop_marathon import errors, orders, parsing, paths, queries, root
from orlop_marathon.http.calls import Call, Handler, Methods, answer, deployed, plain
from orlop_marathon.http.reading import ALWAYS, SINGLE, Reader
from orlop_marathon.model import AppRecord


def resolve(tail: list[str]) -> Methods | None:
    """Reserved last segments win over the id."""
    if not tail:
        return {"GET": _list, "POST": _create, "PUT": partial(_update_all, create=True), "PATCH": _patch_all}
    last, before = tail[-1], tail[:-1]
    if last == "restart":
        # No app can have such an id, so this DELETE is a 404.
        return {"POST": partial(_restart, path=paths.join(before)), "DELETE": partial(_delete, path=paths.join(tail))}
    if last == "tasks":
        return {"GET": partial(_tasks, at=before), "DELETE": partial(_kill_all, path=paths.join(before))}
    if last == "versions":
        return {"GET": partial(_versions, path=paths.join(before))}
    if last == "*":
        return {"GET": partial(_below, group=paths.join(before))}
    path = paths.join(tail)
    methods: dict[str, Handler] = {
        "GET": partial(_get, path=path),
        "PUT": partial(_update, path=path, create=True),
        "PATCH": partial(_update, path=path, create=False),
        "DELETE": partial(_delete, path=path),
    }
    # An app may be called `/a/tasks/b` or `/a/versions/b`. No task and no version is.
    may_be_app = not paths.violations(path)
    if before[-1:] == ["tasks"]:
        kill_one = partial(_kill_one, path=paths.join(before[:-1]), name=last, homonym=path)
        return (methods if may_be_app else {}) | {"DELETE": kill_one}
    if before[-1:] == ["versions"]:
        version = partial(_version, path=paths.join(before[:-1]), version=last, homonym=path)
        return (methods if may_be_app else {}) | {"GET": version}
    return methods


# --- reading ---


def _record(view: View, path: str) -> AppRecord:
    record: AppRecord | None = view.objects(root.APP).get(path)
    if record is None:
        raise errors.unknown_app(path)
    return record


async def _list(call: Call) -> web.Response:
    chosen = queries.app_filter(call.value("id"), call.value("cmd"), call.value("label"))
    embed = queries.parse_embed(call.values("embed")) | ALWAYS
    reader = Reader(await call.view())
    return answer({"apps": [reader.app(record, embed) for record in reader.apps.values() if chosen(record.app)]})


async def _get(call: Call, path: str) -> web.Response:
    reader = Reader(await call.view())
    embed = queries.parse_embed(call.values("embed")) | SINGLE
    return answer({"app": reader.app(_record(reader.view, path), embed)})


async def _below(call: Call, group: str) -> web.Response:
    reader = Reader(await call.view())
    reader.tree.require(group)
    embed = queries.parse_embed(call.values("embed")) | SINGLE
    return answer({"*": [reader.app(reader.apps[path], embed) for path in reader.tree.apps_below(group)]})


async def _tasks(call: Call, at: list[str]) -> web.Response:
    """Of one app, or of all apps below the group of `<group>/*`."""
    reader = Reader(await call.view())
    if at[-1:] == ["*"]:
        group = paths.join(at[:-1])
        reader.tree.require(group)
        apps = list(reader.tree.apps_below(group))
    else:
        apps = [_record(reader.view, paths.join(at)).app.id]
    if call.wants_text:
        return plain("".join(reader.endpoints(path) for path in apps))
    return answer({"tasks": [task for path in apps for task in reader.tasks(path)]})


async def _versions(call: Call, path: str) -> web.Response:
    view = await call.view()
    _record(view, path)
    history: root.History = view.objects(root.HISTORY).get(path, root.History())
    return answer({"versions": list(reversed(history.versions))})


async def _version(call: Call, path: str, version: str, homonym: str) -> web.Response:
    view = await call.view()
    if homonym in view.objects(root.APP):
        return await _get(call, homonym)
    wanted = parsing.timestamp(version)
    found = view.objects(root.VERSION).get(root.version_id(path, wanted))
    if found is None:
        raise errors.unknown_app(path, wanted)
    return answer(Reader(view).definition(found))


# --- changing ---


async def _create(call: Call) -> web.Response:
    app = parsing.parse_app(await call.json(), defaults=call.settings.defaults)
    result = await call.give(orders.CreateApp(app=app, force=call.flag("force"), origin=call.origin))
    assert result.record is not None, "a created app has a record"
    reader = Reader(await call.view())
    body = reader.created(result.record, result.deployment)
    return answer(body, status=201, deployment=result.deployment, location=app.id)


async def _update_all(call: Call, create: bool) -> web.Response:
    updates = parsing.parse_app_updates(await call.json(), call.settings.defaults)
    order = orders.UpdateApps(
        updates=tuple((_absolute(update.id or ""), update) for update in updates),
        partial=call.flag("partialUpdate", True) or not create,
        create=create,
        force=call.flag("force"),
        origin=call.origin,
    )
    return deployed(await call.give(order))


def _absolute(given: str) -> str:
    texts = paths.violations(given)
    path = paths.resolve(given)
    if path == paths.ROOT:
        texts.append("must not be root")
    if texts:
        raise errors.not_valid([errors.Problem("/id", text) for text in texts])
    return path


async def _patch_all(call: Call) -> web.Response:
    return await _update_all(call, create=False)


async def _update(call: Call, path: str, create: bool) -> web.Response:
    update = parsing.parse_app_update(await call.json(), call.settings.defaults)
    path = _absolute(path)
    order = orders.UpdateApps(
        updates=((path, update),),
        partial=call.flag("partialUpdate", True) or not create,
        create=create,
        force=call.flag("force"),
        origin=call.origin,
    )
    result = await call.give(order)
    if path in result.created:
        return deployed(result, status=201, location=path)
    return deployed(result)


async def _delete(call: Call, path: str) -> web.Response:
    return deployed(await call.give(orders.DeleteApp(path=path, force=call.flag("force", True))))


async def _restart(call: Call, path: str) -> web.Response:
    return deployed(await call.give(orders.RestartApp(path=path, force=call.flag("force"))))


# --- killing ---


async def _kill_all(call: Call, path: str) -> web.Response:
    reader = Reader(await call.view())
    _record(reader.view, path)
    host = call.value("host") or "*"
    names = [task.name for task in reader.live(path) if host in ("*", reader.host(task))]
    return await kill(call, names)


async def _kill_one(call: Call, path: str, name: str, homonym: str) -> web.Response:
    reader = Reader(await call.view())
    if homonym in reader.apps:
        return await _delete(call, homonym)
    _record(reader.view, path)
    task = reader.view.task_named(name)
    if task is None or not task.live or task.group != path:
        raise errors.unknown_task(name)
    return await kill(call, [name], single=True)


async def kill(call: Call, names: list[str], *, single: bool = False) -> web.Response:
    """Kills tasks by their names, with what the query says of `scale`, `wipe` and `force`."""
    scale = call.flag("scale")
    order = orders.KillTasks(names=tuple(names), scale=scale, wipe=call.flag("wipe"), force=call.flag("force"))
    reader = Reader(await call.view())
    before = {task.name: reader.task(task) for name in names if (task := reader.view.task_named(name)) is not None}
    result = await call.give(order)
    if scale:
        return deployed(result)
    killed = [before[task.name] for task in result.tasks if task.name in before]
    if single:
        if not killed:
            raise errors.unknown_task(names[0])
        return answer({"task": killed[0]})
    return answer({"tasks": killed})
