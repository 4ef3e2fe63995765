"""Configuration: one TOML file, checked as a whole, with the environment on top.

Looked for in this order: what `--config` names, `orlop.toml` in the working folder, the user's and the system's
folders for configuration. Every key has a default. A variable `ORLOP_SERVER__LISTEN` overrides `[server] listen`, and
`ORLOP_PLUGINS__MARATHON__LISTEN` the `listen` of `[plugins.marathon]`; its text is read as a TOML value where it is
one, and as a text otherwise. A key of type text may be given as `KEY_file`, the name of a file that holds it.

Plugins' tables stay as they are until `structure_plugin` is told their class: it is not known before they are loaded.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Final, Literal, TypeVar

import attrs
import platformdirs

from orlop.checked_tables import FILE_SUFFIX, Checked, InvalidValue, Place, Wrong, did_you_mean, keys_of, read_table
from orlop.model.ports import HIGHEST_PORT, PortSet
from orlop.model.resources import ResourceError, to_units

T = TypeVar("T")

FILE_NAME: Final = "orlop.toml"
VARIABLE_PREFIX: Final = "ORLOP_"
VARIABLE_SEPARATOR: Final = "__"
FILE_BYTES_MAX: Final = 2**20

_LISTEN: Final = re.compile(r"^(?:\[[0-9a-fA-F:.]+\]|[A-Za-z0-9._-]+|):(\d{1,5})\Z")
_CLUSTER_NAME: Final = re.compile(r"^[A-Za-z0-9][A-Za-z0-9._-]{0,62}\Z")
_HOST: Final = re.compile(r"^[A-Za-z0-9]([A-Za-z0-9._-]{0,252})\Z|^[0-9a-fA-F:.]{2,45}\Z")
_SERVER_URL: Final = re.compile(r"^https?://[^/?#@\s]+/?\Z")
_STORE_URL: Final = re.compile(r"^[a-z][a-z0-9+.-]*:")
_PATH: Final = re.compile(r"^/[^\0]*\Z")
_ENGINE_URL: Final = re.compile(r"^(unix|tcp|http|https|ssh|npipe)://.")


@attrs.frozen
class Problem:
    """One thing that is wrong. source: the file or variable it stands in. key: `[server] listen`. text: expectation."""

    source: str
    key: str
    text: str

    def __str__(self) -> str:
        return ": ".join(part for part in (self.source, self.key, self.text) if part)


class ConfigurationError(Exception):
    """The configuration cannot be used; `problems` has all that is wrong with it."""

    def __init__(self, problems: Iterable[Problem]) -> None:
        self.problems = tuple(problems)
        super().__init__("\n".join(map(str, self.problems)))


def about(text: str) -> dict[str, str]:
    """The metadata of a documented key: `orlop config schema` shows the text. Plugins' classes may do the same."""
    return {"about": text}


def _matching(pattern: re.Pattern[str], expectation: str, *, empty: bool = False) -> Any:
    def check(_: object, __: object, value: str) -> None:
        if not (empty and not value) and not pattern.match(value):
            raise ValueError(f'expected {expectation}, got "{value}"')

    return check


def is_host_and_port(text: str) -> bool:
    """Has it the form of an address to listen on? Whether there is such a host is another question."""
    found = _LISTEN.match(text)
    return found is not None and int(found[1]) <= HIGHEST_PORT


def _check_listen(_: object, __: object, value: str) -> None:
    if not is_host_and_port(value):
        raise ValueError(f'expected "host:port", such as "127.0.0.1:5050", got "{value}"')


def _each(check: Any) -> Any:
    def check_all(instance: object, attribute: object, values: tuple[str, ...]) -> None:
        wrong: list[tuple[Place, str]] = []
        for position, value in enumerate(values):
            try:
                check(instance, attribute, value)
            except ValueError as error:
                wrong.append(((position,), str(error)))
        if wrong:
            raise InvalidValue(wrong)

    return check_all


def _check_advertise(instance: object, field: object, value: str) -> None:
    if value:
        _check_listen(instance, field, value)


def _check_size(_: object, __: object, value: str) -> None:
    try:
        to_units("disk", value)
    except ResourceError as error:
        raise ValueError(error.expected) from None


def _between(low: float, high: float, unit: str) -> Any:
    def check(_: object, __: object, value: float) -> None:
        if not low <= value <= high:
            raise ValueError(f"expected {low:g} to {high:g} {unit}, got {value:g}")

    return check


def _check_resources(_: object, __: object, value: Mapping[str, Any]) -> None:
    wrong: list[tuple[Place, str]] = []
    for name, quantity in value.items():
        try:
            if name == "ports":
                PortSet.parse(quantity if isinstance(quantity, str) else str(quantity))
            else:
                to_units(name, quantity)
        except ResourceError as error:
            wrong.append(((name,), error.expected))
        except ValueError as error:
            wrong.append(((name,), str(error)))
    if wrong:
        raise InvalidValue(wrong)


@attrs.frozen(kw_only=True)
class ClusterSettings:
    """`[cluster]`"""

    name: str = attrs.field(
        default="orlop",
        validator=_matching(_CLUSTER_NAME, "1 to 63 letters, digits, '.', '_' and '-'"),
        metadata=about("The cluster's name, for people."),
    )
    lease_s: float = attrs.field(
        default=5,
        validator=_between(2, 600, "seconds"),
        metadata=about("Seconds until a silent leader is replaced."),
    )
    unreachable_after_s: float = attrs.field(
        default=8.5,
        validator=_between(1, 86_400, "seconds"),
        metadata=about("Seconds of silence until a node counts as unreachable."),
    )
    gone_after_s: float = attrs.field(
        default=8.5,
        validator=_between(1, 86_400, "seconds"),
        metadata=about("Seconds of silence until a node counts as gone: its tasks are lost, and are replaced."),
    )
    crash_grace_s: float = attrs.field(
        default=15,
        validator=_between(1, 86_400, "seconds"),
        metadata=about("Seconds that a node whose agent was killed, while its machine goes on, may be silent."),
    )
    restart_grace_s: float = attrs.field(
        default=120,
        validator=_between(1, 86_400, "seconds"),
        metadata=about("Seconds that a node whose agent was stopped on purpose may be silent."),
    )


@attrs.frozen(kw_only=True)
class StoreSettings:
    """`[store]`"""

    url: str = attrs.field(
        default="",
        validator=_matching(_STORE_URL, 'a URL such as "etcd://10.0.0.1:2379" or "sqlite:///path"', empty=True),
        metadata=about("Where the state lives. Default: an SQLite file in the data folder."),
    )
    ca_file: str = attrs.field(
        default="", metadata=about("etcds: certificates of the authority that has signed those of etcd's members.")
    )
    cert_file: str = attrs.field(default="", metadata=about("etcds: this server's certificate, if etcd asks for one."))
    key_file: str = attrs.field(default="", metadata=about("etcds: the private key of `cert_file`."))
    user: str = attrs.field(default="", metadata=about("etcd: the user, if etcd asks for one."))
    password: str = attrs.field(default="", repr=False, metadata=about("etcd: the user's password."))
    quota: str = attrs.field(
        default="2GiB",
        validator=_check_size,
        metadata=about("etcd before 3.6, which does not tell: its --quota-backend-bytes, with a unit."),
    )
    timeout_s: float = attrs.field(
        default=5.0,
        validator=_between(0.1, 60, "seconds"),
        metadata=about("etcd: seconds until a call that no member answers has failed."),
    )


@attrs.frozen(kw_only=True)
class ServerSettings:
    """`[server]`"""

    listen: str = attrs.field(
        default="127.0.0.1:5050",
        validator=_check_listen,
        metadata=about('"host:port" of the operator API, the page and the agents\' sessions.'),
    )
    advertise: str = attrs.field(
        default="",
        validator=_check_advertise,
        metadata=about('"host:port" at which other servers and agents reach this one. Default: what `listen` says.'),
    )
    auth: Literal["on", "off"] = attrs.field(
        default="off", metadata=about('"on" asks every client for a token; "off" is for loopback addresses only.')
    )
    names: tuple[str, ...] = attrs.field(
        default=(),
        validator=_each(_matching(_HOST, 'a host name or an address without a port, such as "orlop.example"')),
        metadata=about("Further host names and addresses of this server, for its certificate."),
    )
    deny_plugins: tuple[str, ...] = attrs.field(default=(), metadata=about("Plugins installed but not wanted."))
    allow_plugins: tuple[str, ...] = attrs.field(
        default=(), metadata=about("When not empty: only these plugins are wanted.")
    )
    handler_timeout_s: float = attrs.field(
        default=5.0,
        validator=_between(0.01, 3600, "seconds"),
        metadata=about("Seconds after which a plugin's handler counts as hung."),
    )


@attrs.frozen(kw_only=True)
class AgentSettings:
    """`[agent]`"""

    resources: Mapping[str, Any] = attrs.field(
        factory=dict,
        validator=_check_resources,
        metadata=about('What may be handed out: cpus, mem = "16GiB", disk, ports = "31000-32000". Default: detected.'),
    )
    attributes: Mapping[str, str] = attrs.field(factory=dict, metadata=about("Facts that constraints can ask for."))
    runtimes: tuple[str, ...] = attrs.field(default=("process", "docker"), metadata=about("Ways to run tasks here."))
    docker: str = attrs.field(
        default="unix:///var/run/docker.sock",
        validator=_matching(_ENGINE_URL, 'an address such as "unix:///var/run/docker.sock" or "tcp://host:2375"'),
        metadata=about("This node's Docker Engine."),
    )
    fetch_max: str = attrs.field(
        default="10GiB",
        validator=_check_size,
        metadata=about("What one task may have fetched before its start, unpacked files included, with a unit."),
    )
    fetch_timeout_s: float = attrs.field(
        default=600,
        validator=_between(1, 86_400, "seconds"),
        metadata=about("Seconds that the fetching of one task's artefacts may take."),
    )
    fetch_cache: str = attrs.field(
        default="2GiB",
        validator=_check_size,
        metadata=about("What is kept of fetched artefacts for other tasks, where they allow it, with a unit."),
    )
    fetch_local: tuple[str, ...] = attrs.field(
        default=(),
        validator=_each(_matching(_PATH, "an absolute path")),
        metadata=about("Files and folders of this node that tasks may fetch from."),
    )
    name: str = attrs.field(default="", metadata=about("The node's name. Default: the host's name."))
    address: str = attrs.field(default="", metadata=about("Where the ports of its tasks are reached."))
    join: tuple[str, ...] = attrs.field(
        default=(),
        validator=_each(_matching(_SERVER_URL, 'a server\'s URL such as "https://10.0.0.1:5050"')),
        metadata=about("For `orlop agent`: the servers, one or several."),
    )
    token: str = attrs.field(
        default="", repr=False, metadata=about("For `orlop agent`: the join token; needed at its first start only.")
    )


@attrs.frozen(kw_only=True)
class Tables:
    """What may stand in the file."""

    cluster: ClusterSettings = attrs.field(factory=ClusterSettings)
    store: StoreSettings = attrs.field(factory=StoreSettings)
    server: ServerSettings = attrs.field(factory=ServerSettings)
    agent: AgentSettings = attrs.field(factory=AgentSettings)
    plugins: Mapping[str, Mapping[str, Any]] = attrs.field(factory=dict)


@attrs.frozen(kw_only=True)
class Settings(Tables):
    """All settings. plugins: name → its table as written. source: the file they come from, None without one.

    overrides: place of a key → (variable, its text), for those that the environment set.
    secrets: places of values read from a `KEY_file`; never show these.
    """

    source: Path | None = None
    overrides: Mapping[Place, tuple[str, str]] = attrs.field(factory=dict, repr=False)
    secrets: frozenset[Place] = attrs.field(default=frozenset(), repr=False)


def load(path: Path | None, environment: Mapping[str, str]) -> Settings:
    """The settings. path: of the file, None to look for one. Raises ConfigurationError with all that is wrong."""
    source = path if path is not None else find_file()
    tables = _read_file(source) if source is not None else {}
    overrides, problems = _apply(environment, tables)
    checked = _checked(overrides)
    read, wrong = read_table(tables, Tables, (), checked)
    problems += [_problem(one, source, overrides) for one in wrong]
    if read is None or problems:
        raise ConfigurationError(problems)
    values = {field.name: getattr(read, field.name) for field in attrs.fields(Tables)}
    return Settings(**values, source=source, overrides=overrides, secrets=frozenset(checked.secrets))


def find_file() -> Path | None:
    """The first file there is: in the working folder, the user's folder, the system's."""
    folders = (
        Path(),
        platformdirs.user_config_path("orlop"),
        platformdirs.site_config_path("orlop"),
        Path("/etc/orlop"),
    )
    return next((folder / FILE_NAME for folder in folders if (folder / FILE_NAME).is_file()), None)


def structure_plugin(settings: Settings, name: str, cls: type[T]) -> T:
    """The plugin's settings as its attrs class. Raises ConfigurationError."""
    table = plugin_table(settings, name)
    written = next((key for key in settings.plugins if _folded(key) == _folded(name)), name)
    checked = _checked(settings.overrides)
    value, wrong = read_table(table, cls, ("plugins", written), checked)
    if value is None:
        raise ConfigurationError(_problem(one, settings.source, settings.overrides) for one in wrong)
    return value


def plugin_problem(settings: Settings, name: str, key: str, text: str) -> Problem:
    """One that its class cannot tell. key: within `[plugins.NAME]`. text: what was expected."""
    written = next((one for one in settings.plugins if _folded(one) == _folded(name)), name)
    return _problem(Wrong(("plugins", written, key), text), settings.source, settings.overrides)


def plugin_table(settings: Settings, name: str) -> Mapping[str, Any]:
    """`[plugins.NAME]` as written; empty without one. `-` and `_` in the name are the same."""
    return next((table for key, table in settings.plugins.items() if _folded(key) == _folded(name)), {})


def unknown_plugin_tables(settings: Settings, installed: Iterable[str]) -> list[Problem]:
    """A problem for each `[plugins.NAME]` of which there is no plugin."""
    known = {_folded(name): name for name in installed}
    return [
        _problem(
            Wrong(("plugins", name), f"no plugin {name} is installed{did_you_mean(name, known.values())}"),
            settings.source,
            settings.overrides,
        )
        for name in settings.plugins
        if _folded(name) not in known
    ]


def _folded(name: str) -> str:
    return name.lower().replace("-", "_")


def _checked(overrides: Mapping[Place, tuple[str, str]]) -> Checked:
    return Checked(text_at=lambda place: overrides[place][1] if place in overrides else None)


def _read_file(path: Path) -> dict[str, Any]:
    try:
        with path.open("rb") as file:
            data = file.read(FILE_BYTES_MAX + 1)
        if len(data) > FILE_BYTES_MAX:
            raise ConfigurationError([Problem(str(path), "", f"expected a file of at most {FILE_BYTES_MAX} bytes")])
        return tomllib.loads(data.decode())
    except OSError as error:
        raise ConfigurationError([Problem(str(path), "", f"cannot be read: {error.strerror}")]) from error
    except UnicodeDecodeError as error:
        raise ConfigurationError([Problem(str(path), "", f"expected UTF-8: {error}")]) from error
    except tomllib.TOMLDecodeError as error:
        raise ConfigurationError([Problem(str(path), "", f"expected TOML: {error}")]) from error


def _apply(
    environment: Mapping[str, str], tables: dict[str, Any]
) -> tuple[dict[Place, tuple[str, str]], list[Problem]]:
    """Sets what the variables say; the places they set, and what is wrong with their names."""
    overrides: dict[Place, tuple[str, str]] = {}
    problems = []
    for variable, text in sorted(environment.items()):
        rest = variable.removeprefix(VARIABLE_PREFIX)
        if rest == variable or VARIABLE_SEPARATOR not in rest:
            continue
        place: Place = tuple(rest.lower().split(VARIABLE_SEPARATOR))
        known = keys_of(Tables)
        if place[0] not in known or not all(place):
            hint = did_you_mean(str(place[0]), known)
            problems.append(Problem(variable, "", f"expected {VARIABLE_PREFIX}TABLE{VARIABLE_SEPARATOR}KEY{hint}"))
            continue
        set_at = _set(tables, place, _value_of(text))
        if set_at is None:
            problems.append(Problem(variable, "", "sets a key inside something that is not a table"))
        else:
            overrides[set_at] = (variable, text)
    return overrides, problems


def _value_of(text: str) -> Any:
    try:
        parsed = tomllib.loads(f"value = {text}")
    except tomllib.TOMLDecodeError:
        return text
    return parsed["value"] if parsed.keys() == {"value"} else text


def _set(tables: dict[str, Any], place: Place, value: Any) -> Place | None:
    """Sets the value, instead of a `KEY_file` of the same key too; where, or None when that is in no table."""
    table: Any = tables
    where: list[str | int] = []
    for position, part in enumerate(place[:-1]):
        key = str(part)
        if position == 1 and place[0] == "plugins":
            key = next((known for known in table if _folded(known) == key), key)
        table = table.setdefault(key, {})
        where.append(key)
        if not isinstance(table, dict):
            return None
    key = str(place[-1])
    table.pop(key.removesuffix(FILE_SUFFIX) if key.endswith(FILE_SUFFIX) else key + FILE_SUFFIX, None)
    table[key] = value
    return (*where, key)


def _problem(wrong: Wrong, source: Path | None, overrides: Mapping[Place, tuple[str, str]]) -> Problem:
    variables = [name for place, (name, _) in overrides.items() if wrong.place[: len(place)] == place]
    file = str(source) if source is not None else "configuration"
    return Problem(variables[0] if variables else file, key_text(wrong.place), wrong.text)


def key_text(place: Place) -> str:
    """`[plugins.marathon] listen`, `[agent] resources.mem`, `[agent] runtimes[0]`."""
    depth = 2 if place[:1] == ("plugins",) else 1
    table, inner = place[:depth], place[depth:]
    key = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in inner).lstrip(".")
    return f"[{'.'.join(map(str, table))}] {key}".strip() if table else key
