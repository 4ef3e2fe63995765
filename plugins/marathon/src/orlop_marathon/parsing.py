"""From a client's JSON to canonical values: apps, updates of apps, updates of groups.

Reading has three parts. `wire` checks types and bounds; `legacy` translates what Marathon no longer sends; `_settle`
fills in what depends on other members (a default port follows the network, a default strategy the volumes). The last
part runs again after each merge, so that an app that was merged and one that was sent whole come out equal.
"""

from __future__ import annotations

import datetime
import types
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final, TypeVar, Union, get_args, get_origin

import attrs

from orlop_marathon import legacy, paths, roles, wire
from orlop_marathon.checks import HealthCheck, HealthCheckProtocol, ReadinessCheck
from orlop_marathon.errors import MarathonError, Problem, bad_timestamp, not_valid_at
from orlop_marathon.members import PATH
from orlop_marathon.model import (
    App,
    Container,
    ContainerType,
    Defaults,
    DockerContainer,
    Network,
    NetworkMode,
    PortDefinition,
    PortMapping,
    Residency,
    UnreachableStrategy,
    UpgradeStrategy,
)
from orlop_marathon.wire import load_json

__all__ = [
    "AppUpdate", "GroupUpdate", "load_json", "merge", "parse_app", "parse_app_update", "parse_app_updates",
    "parse_group_update", "unknown_members",
]  # fmt: skip

T = TypeVar("T")

#: How deep groups may be nested in one document.
MOST_GROUP_LEVELS: Final = 32

DEFAULT_PORT_DEFINITION: Final = PortDefinition(name="default")
DEFAULT_PORT_MAPPING: Final = PortMapping(name="default")
#: Members that an update always sets, to nothing when it does not give them (Marathon 1.11: appUpdateRamlReader).
NEVER_INHERITED: Final = frozenset({"executor_resources", "resource_limits"})

_NAMES: Final = {wire.camel_case(field.name): field.name for field in attrs.fields(App)}
_NOTHING: Final = App(id=paths.ROOT, networks=())


@attrs.frozen(kw_only=True)
class AppUpdate:
    """What a PUT or PATCH says about an app.

    id: as given, None when not. version: of the stored definition to return to; alone, if given.
    translated: the values of the members that are given, and which these are.
    """

    id: str | None = None
    version: str | None = None
    translated: legacy.Translated

    @property
    def given(self) -> frozenset[str]:
        """Names of the members of `App` that the update sets."""
        return self.translated.given


@attrs.frozen(kw_only=True)
class GroupUpdate:
    """What a POST or PUT says about a group; None is what it does not say.

    id: absolute. apps: settled, replacing all that are there. scale_by: a factor for all apps below.
    version: of the group to return to.
    """

    id: str
    apps: tuple[App, ...] | None = None
    groups: tuple[GroupUpdate, ...] | None = None
    dependencies: tuple[str, ...] | None = None
    scale_by: float | None = None
    version: str | None = None
    enforce_role: bool | None = None


# --- apps ---


def parse_app(document: object, base: str = paths.ROOT, defaults: Defaults | None = None) -> App:
    """A whole app. base: the group that a relative id starts from. Raises MarathonError."""
    faults = wire.Faults()
    app = _app(document, base, defaults or Defaults(), faults)
    faults.raise_any()
    assert app is not None
    return app


def parse_app_update(document: object, defaults: Defaults | None = None) -> AppUpdate:
    """An update of one app. Raises MarathonError."""
    faults = wire.Faults()
    update = _app_update(document, defaults or Defaults(), faults)
    faults.raise_any()
    assert update is not None
    return update


def parse_app_updates(document: object, defaults: Defaults | None = None) -> tuple[AppUpdate, ...]:
    """The array that PUT and PATCH of all apps take; each element has an id. Raises MarathonError."""
    faults = wire.Faults()
    if not isinstance(document, (list, tuple)):
        faults.types.append(Problem("/", wire.EXPECTED_ARRAY))
        document = ()
    updates = []
    for position, element in enumerate(document):
        update = _app_update(element, defaults or Defaults(), faults, f"({position})")
        if update is not None and update.id is None:
            faults.types.append(Problem(f"({position})/id", wire.PATH_MISSING))
        elif update is not None:
            updates.append(update)
    faults.raise_any()
    return tuple(updates)


def merge(
    app: App | None,
    update: AppUpdate,
    partial: bool = True,
    *,
    id: str = "",  # noqa: A002
    defaults: Defaults | None = None,
) -> App:
    """The app after the update. id: absolute, needed when there is no `app` yet.

    partial: members that the update does not give keep their values; else, and for a new app, they get their
    defaults. Marathon 1.11: given members replace the old ones whole; `executorResources` and `resourceLimits` are
    always the update's.
    """
    defaults = defaults or Defaults()
    new = update.translated
    path = app.id if app is not None else id
    if app is None or not partial:
        return _settle(attrs.evolve(new, app=attrs.evolve(new.app, id=path)), defaults)
    taken = {name: getattr(new.app, name) for name in new.given | NEVER_INHERITED if name != "id"}
    merged = attrs.evolve(app, **taken)
    if "networks" in new.given and merged.host_networking != app.host_networking:
        merged = _without_inherited_ports(merged, new.given)
    everything = frozenset(_NAMES.values())
    padding = new.padding if "port_definitions" in new.given else 0
    return _settle(legacy.Translated(app=merged, given=everything, padding=padding, lenient=new.lenient), defaults)


def _without_inherited_ports(app: App, given: frozenset[str]) -> App:
    """Ports of the kind that the old network had, and that nobody gave for the new one."""
    if not app.host_networking and "port_definitions" not in given:
        return attrs.evolve(app, port_definitions=None)
    if app.container and "container" not in given:
        return attrs.evolve(app, container=attrs.evolve(app.container, port_mappings=None))
    return app


def _given(document: Mapping[str, Any]) -> frozenset[str]:
    return frozenset(_NAMES[name] for name, value in document.items() if value is not None and name in _NAMES)


def _translated(
    document: object, defaults: Defaults, faults: wire.Faults, path: str, base: str = paths.ROOT
) -> legacy.Translated | None:
    """The app's members as they are given, legacy forms translated; None when they are faulty.

    base: the group that relative dependencies start from (Marathon 1.11; up to 1.4 it was the app itself).
    """
    if not isinstance(document, dict):
        faults.types.append(Problem(path or "/", wire.EXPECTED_OBJECT))
        return None
    own = wire.Faults()
    filled = {"networks": []} | {name: value for name, value in document.items() if value is not None}
    app = wire.collect(App, {"id": paths.ROOT} | filled, own, path)
    given = _given(document)
    if app is not None and "role" not in given:
        app = attrs.evolve(app, role=roles.NOT_SAID)
    if app is not None and "accepted_resource_roles" in given and not app.accepted_resource_roles:
        own.rules.append(Problem(f"{path}/acceptedResourceRoles", "must not be empty"))
    new = legacy.translate(document, app or _NOTHING, given, defaults, own, path) if app or own else None
    faults.types.extend(own.types)
    faults.rules.extend(own.rules)
    if own or new is None:
        return None
    dependencies = tuple(sorted({paths.resolve(one, base) for one in new.app.dependencies}))
    return attrs.evolve(new, app=attrs.evolve(new.app, dependencies=dependencies))


def _app(
    document: object, base: str, defaults: Defaults, faults: wire.Faults, path: str = "", *, nested: bool = False
) -> App | None:
    """A whole app, settled. nested: it must be a direct child of `base`."""
    before = len(faults.types)
    new = _translated(document, defaults, faults, path, base)
    if isinstance(document, dict) and document.get("id") is None:
        faults.types.append(Problem(f"{path}/id", wire.PATH_MISSING))
    if new is None or len(faults.types) > before:
        return None
    resolved = paths.resolve(new.app.id, base)
    wrong = paths.violations(new.app.id)
    if resolved == paths.ROOT:
        wrong.append("must not be root")
    elif nested and paths.parent(resolved) != base:
        wrong.append(f"Identifier is not child of '{base}'")
    faults.rules.extend(Problem(f"{path}/id", text) for text in wrong)
    try:
        return None if wrong else _settle(attrs.evolve(new, app=attrs.evolve(new.app, id=resolved)), defaults)
    except MarathonError as error:
        faults.rules.extend(_beneath(error, path))
        return None


def _beneath(error: MarathonError, path: str) -> list[Problem]:
    details = error.body.get("details", [])
    return [
        Problem((path + detail["path"]).removesuffix("/") or "/", text)
        for detail in details
        for text in detail["errors"]
    ]


def _app_update(document: object, defaults: Defaults, faults: wire.Faults, path: str = "") -> AppUpdate | None:
    new = _translated(document, defaults, faults, path)
    if new is None or not isinstance(document, dict):
        return None
    version = _version(document, faults, path)
    if version is not None and new.given - {"id"}:
        text = "The 'version' field may only be combined with the 'id' field."
        faults.rules.append(Problem(path or "/", text))
    given_id = new.app.id if "id" in new.given else None
    return AppUpdate(id=given_id, version=version, translated=attrs.evolve(new, given=new.given - {"id"}))


def _version(document: Mapping[str, Any], faults: wire.Faults, path: str) -> str | None:
    version = document.get("version")
    if version is None:
        return None
    if not isinstance(version, str):
        faults.types.append(Problem(f"{path}/version", wire.EXPECTED_STRING))
        return None
    return timestamp(version)


def timestamp(text: str) -> str:
    """A version as it is stored, `2021-07-27T20:40:33.123Z`, of any ISO 8601 date-time. Raises MarathonError."""
    try:
        moment = datetime.datetime.fromisoformat(text)
        if moment.tzinfo is None:
            moment = moment.replace(tzinfo=datetime.UTC)
        moment = moment.astimezone(datetime.UTC)
    except (ValueError, OverflowError):
        raise bad_timestamp(text.encode(errors="replace").decode()) from None
    return f"{moment.replace(tzinfo=None).isoformat(timespec='milliseconds')}Z"


# --- what depends on other members ---


def _settle(new: legacy.Translated, defaults: Defaults) -> App:
    """The canonical app. Raises MarathonError when ports of the wrong kind are given."""
    given = new.given
    app = _settle_networks(new.app, new, defaults)
    persistent = any(volume.persistent for volume in app.volumes)
    external = any(volume.external for volume in app.volumes)
    # Without volumes the member means nothing (Marathon 1.11 does not keep it either).
    residency = (app.residency or Residency()) if persistent else None
    changes: dict[str, Any] = {"residency": residency}
    if "upgrade_strategy" not in given:
        changes["upgrade_strategy"] = _upgrade_strategy(app, kept_data=persistent or external)
    if "unreachable_strategy" not in given and residency is not None:
        changes["unreachable_strategy"] = UnreachableStrategy(disabled=True)
    if not app.accepted_resource_roles:
        changes["accepted_resource_roles"] = defaults.accepted_resource_roles
    else:
        changes["accepted_resource_roles"] = tuple(sorted(set(app.accepted_resource_roles)))
    changes["constraints"] = tuple(sorted(set(app.constraints), key=lambda one: one.as_list()))
    ports = bool(app.port_entries)
    changes["health_checks"] = tuple(_health_check(check, ports) for check in app.health_checks)
    changes["readiness_checks"] = tuple(_readiness_check(check) for check in app.readiness_checks)
    return attrs.evolve(app, **changes)


def _settle_networks(app: App, new: legacy.Translated, defaults: Defaults) -> App:
    networks = tuple(_named(network, defaults) for network in app.networks)
    app = attrs.evolve(app, networks=networks or (Network(mode=NetworkMode.HOST),))
    if not app.host_networking:
        return _settle_mappings(app, new)
    if app.port_mappings and not new.lenient:
        raise not_valid_at("/", "portMappings are not allowed with host-networking")
    return attrs.evolve(
        app,
        container=attrs.evolve(app.container, port_mappings=None) if app.container else None,
        port_definitions=(DEFAULT_PORT_DEFINITION,) if app.port_definitions is None else app.port_definitions,
    )


def _settle_mappings(app: App, new: legacy.Translated) -> App:
    if app.port_definitions and not new.lenient:
        raise not_valid_at("/", "portDefinitions are only allowed with host-networking")
    container = app.container or Container(type=ContainerType.MESOS)
    mappings = container.port_mappings
    if mappings is None:
        mappings = (DEFAULT_PORT_MAPPING,)
    mappings += (PortMapping(),) * (new.padding - len(mappings))
    if any(network.mode is NetworkMode.BRIDGE for network in app.networks):
        mappings = tuple(
            attrs.evolve(mapping, host_port=0) if mapping.host_port is None else mapping for mapping in mappings
        )
    container = attrs.evolve(container, port_mappings=mappings)
    return attrs.evolve(app, container=container, port_definitions=None, require_ports=False)


def _named(network: Network, defaults: Defaults) -> Network:
    if network.mode is NetworkMode.CONTAINER and network.name is None and defaults.network_name:
        return attrs.evolve(network, name=defaults.network_name)
    return network


def _upgrade_strategy(app: App, *, kept_data: bool) -> UpgradeStrategy:
    if app.single_instance:
        return UpgradeStrategy(minimum_health_capacity=0.0, maximum_over_capacity=0.0)
    if kept_data:
        return UpgradeStrategy(minimum_health_capacity=0.5, maximum_over_capacity=0.0)
    return UpgradeStrategy()


def _health_check(check: HealthCheck, ports: bool) -> HealthCheck:
    """With the default port; without what its protocol has no use for."""
    http = check.protocol in (HealthCheckProtocol.HTTP, HealthCheckProtocol.HTTPS)
    changes: dict[str, Any] = {"ignore_http1xx": bool(check.ignore_http1xx) if http else None}
    if check.protocol in (HealthCheckProtocol.COMMAND, HealthCheckProtocol.TCP, HealthCheckProtocol.MESOS_TCP):
        changes["path"] = None
    if check.protocol is HealthCheckProtocol.COMMAND:
        changes["port"] = changes["port_index"] = None
    elif ports and check.port is None and check.port_index is None:
        changes["port_index"] = 0
    return attrs.evolve(check, **changes)


def _readiness_check(check: ReadinessCheck) -> ReadinessCheck:
    if check.http_status_codes_for_ready:
        return check
    return attrs.evolve(check, http_status_codes_for_ready=(200,))


# --- groups ---


def parse_group_update(document: object, base: str = paths.ROOT, defaults: Defaults | None = None) -> GroupUpdate:
    """An update of a group and all below. base: what its id is relative to, and its id when it gives none.

    Raises MarathonError.
    """
    faults = wire.Faults()
    update = _group_update(document, base, defaults or Defaults(), faults)
    faults.raise_any()
    assert update is not None
    return update


@attrs.frozen(kw_only=True)
class _GroupDocument:
    """The members of a group document; what is in its lists is read one by one."""

    id: str | None = attrs.field(default=None, metadata=PATH)
    apps: tuple[Any, ...] | None = None
    groups: tuple[Any, ...] | None = None
    dependencies: tuple[str, ...] | None = attrs.field(default=None, metadata=PATH)
    scale_by: float | None = None
    version: str | None = None
    enforce_role: bool | None = None


def _group_update(
    document: object, base: str, defaults: Defaults, faults: wire.Faults, path: str = "", level: int = 0
) -> GroupUpdate | None:
    if level > MOST_GROUP_LEVELS:
        faults.rules.append(Problem(path, f"groups may be nested at most {MOST_GROUP_LEVELS} levels deep"))
        return None
    read = wire.collect(_GroupDocument, document, faults, path)
    if read is None:
        return None
    group = paths.resolve(read.id or "", base)
    texts = paths.violations(read.id or "")
    if level and read.id is None:
        faults.types.append(Problem(f"{path}/id", wire.PATH_MISSING))
    elif level and paths.parent(group) != base:
        texts.append(f"Identifier is not child of '{base}'")
    faults.rules.extend(Problem(f"{path}/id", text) for text in texts)
    _check_alone(read, group, faults, path)
    apps = _each(read.apps, lambda one, at: _app(one, group, defaults, faults, f"{path}/apps({at})", nested=True))
    groups = _each(
        read.groups,
        lambda one, at: _group_update(one, group, defaults, faults, f"{path}/groups({at})", level + 1),
    )
    dependencies = read.dependencies
    if dependencies is not None:
        dependencies = tuple(sorted({paths.resolve(one, group) for one in dependencies}))
    return GroupUpdate(
        id=group,
        apps=apps,
        groups=groups,
        dependencies=dependencies,
        scale_by=read.scale_by,
        version=timestamp(read.version) if read.version is not None else None,
        enforce_role=read.enforce_role,
    )


def _check_alone(read: _GroupDocument, group: str, faults: wire.Faults, path: str) -> None:
    """`scaleBy` and `version` must stand alone; the id may be there, it only says which group is meant."""
    said = {
        name
        for name in ("apps", "groups", "dependencies", "scale_by", "version", "enforce_role")
        if getattr(read, name) is not None
    }
    for name in ("scale_by", "version"):
        if name in said and len(said) > 1:
            text = "not allowed in conjunction with other properties."
            faults.rules.append(Problem(f"{path}/{wire.camel_case(name)}", text))
    if read.scale_by is not None and read.scale_by <= 0:
        faults.types.append(Problem(f"{path}/scaleBy", "error.min"))
    if read.enforce_role and paths.parent(group) != paths.ROOT:
        text = f"enforceRole can only be set for top-level groups, and {group} is not top-level"
        faults.rules.append(Problem(f"{path}/enforceRole", text))


def _each(documents: tuple[Any, ...] | None, read: Callable[[Any, int], T | None]) -> tuple[T, ...] | None:
    """What was read of each; what could not be read has left its faults behind."""
    if documents is None:
        return None
    found = [read(document, position) for position, document in enumerate(documents)]
    return tuple(one for one in found if one is not None)


# --- unknown members ---

_KNOWN_BESIDE: Final[Mapping[type, frozenset[str]]] = {
    App: frozenset(
        {"uris", "ports", "ipAddress", "version", "versionInfo", "tasks", "tasksStaged", "tasksRunning"}
        | {"tasksHealthy", "tasksUnhealthy", "deployments", "lastTaskFailure", "readinessCheckResults"}
        | {"taskStats"}
    ),
    DockerContainer: frozenset({"network", "portMappings", "credential"}),
    UnreachableStrategy: frozenset({"unreachableInactiveAfterSeconds", "unreachableExpungeAfterSeconds"}),
    _GroupDocument: frozenset({"pods"}),
}


def unknown_members(document: object) -> list[str]:
    """Paths of members of an app's or a group's document that nothing reads: misspelt, most likely.

    They are ignored, as ever; a command line may want to warn.
    """
    is_group = isinstance(document, dict) and bool({"apps", "groups"} & document.keys())
    return list(_unknown(document, _GroupDocument if is_group else App, "", 0))


def _unknown(value: object, cls: Any, path: str, level: int) -> Iterator[str]:
    if get_origin(cls) in (types.UnionType, Union):
        cls = next(inner for inner in get_args(cls) if inner is not type(None))
    if level > 4 * MOST_GROUP_LEVELS:
        return
    if get_origin(cls) is tuple and isinstance(value, (list, tuple)):
        for position, item in enumerate(value):
            yield from _unknown(item, get_args(cls)[0], f"{path}({position})", level + 1)
    elif get_origin(cls) is Mapping and isinstance(value, dict):
        for name, item in value.items():
            yield from _unknown(item, get_args(cls)[1], f"{path}/{name}", level + 1)
    elif isinstance(cls, type) and attrs.has(cls) and isinstance(value, dict):
        known = {wire.camel_case(field.name): field.type for field in attrs.fields(attrs.resolve_types(cls))}
        if cls is _GroupDocument:
            known |= {"apps": tuple[App, ...], "groups": tuple[_GroupDocument, ...]}
        beside = _KNOWN_BESIDE.get(cls, frozenset())
        for name, item in value.items():
            if name in known:
                yield from _unknown(item, known[name], f"{path}/{name}", level + 1)
            elif name not in beside:
                yield f"{path}/{name}"
