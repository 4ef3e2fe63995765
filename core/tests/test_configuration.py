"""Configuration: what is read, what is refused, and how it is said."""

import enum
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import attrs
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from orlop import configuration
from orlop.checked_tables import keys_of, read_table
from orlop.configuration import ConfigurationError, Settings, load, structure_plugin, unknown_plugin_tables
from orlop.configuration_schema import json_schema
from orlop.model.ports import PortSet
from orlop.model.resources import Resources

DESIGN_EXAMPLE = """
[cluster]
name = "blue"
lease_s = 5
[store]
url = "etcd://10.0.0.1:2379,10.0.0.2:2379,10.0.0.3:2379"
[server]
listen = "127.0.0.1:5050"
auth = "on"
deny_plugins = []
[agent]
resources  = { cpus = 8, mem = "16GiB", disk = "200GiB", ports = "31000-32000" }
attributes = { rack = "r1", zone = "eu-1a" }
runtimes   = ["process", "docker"]
docker     = "unix:///var/run/docker.sock"
name       = "node7"
[plugins.marathon]
listen = "127.0.0.1:8080"
[plugins.swarm]
listen = "127.0.0.1:3375"
strategy = "spread"
"""


@pytest.fixture(autouse=True)
def _nothing_configured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "elsewhere"
    folder.mkdir()
    monkeypatch.chdir(folder)
    monkeypatch.setattr(configuration.platformdirs, "user_config_path", lambda _: tmp_path / "user")
    monkeypatch.setattr(configuration.platformdirs, "site_config_path", lambda _: tmp_path / "site")


def write(folder: Path, text: str) -> Path:
    folder.mkdir(exist_ok=True)
    path = folder / "orlop.toml"
    path.write_text(text)
    return path


def problems(path: Path | None, **environment: str) -> list[str]:
    with pytest.raises(ConfigurationError) as caught:
        load(path, environment)
    return [str(problem) for problem in caught.value.problems]


def test_without_a_file_everything_has_its_default() -> None:
    settings = load(None, {})
    assert settings == Settings()
    assert settings.server.listen == "127.0.0.1:5050"
    assert settings.agent.runtimes == ("process", "docker")
    assert settings.source is None


def test_the_designs_example_is_read(tmp_path: Path) -> None:
    settings = load(write(tmp_path, DESIGN_EXAMPLE), {})
    assert settings.cluster.name == "blue"
    assert settings.server.auth == "on"
    assert dict(settings.agent.attributes) == {"rack": "r1", "zone": "eu-1a"}
    assert settings.plugins["swarm"]["strategy"] == "spread"


def test_the_search_order(tmp_path: Path) -> None:
    for folder in ("site", "user", "elsewhere"):
        write(tmp_path / folder, f'[cluster]\nname = "{folder}"')
        assert load(None, {}).cluster.name == folder
    explicit = write(tmp_path / "explicit", '[cluster]\nname = "explicit"')
    assert load(explicit, {}).cluster.name == "explicit"


def test_all_errors_at_once_each_with_file_key_and_expectation(tmp_path: Path) -> None:
    path = write(
        tmp_path,
        """
        [server]
        lisen = "127.0.0.1:1"
        auth = "of"
        deny_plugins = "marathon"
        handler_timeout_s = 0
        [agent]
        resources = { mem = 512, cpus = -1, ports = "9-1", disk = "1GiB" }
        runtimes = ["process", 7]
        [cluser]
        """,
    )
    assert problems(path) == [
        f'{path}: [server] lisen: unknown key; did you mean "listen"?',
        f'{path}: [server] auth: expected one of "on", "off", got "of"; did you mean "off"?',
        f'{path}: [server] deny_plugins: expected a list of texts, got "marathon"',
        f"{path}: [server] handler_timeout_s: expected 0.01 to 3600 seconds, got 0",
        f'{path}: [agent] resources.mem: expected a size with its unit, such as "32MiB", got 512',
        f"{path}: [agent] resources.cpus: expected a number of at least 0, got -1",
        f"{path}: [agent] resources.ports: expected port ranges such as \"31000-32000,8080\", got '9-1'",
        f"{path}: [agent] runtimes[1]: expected a text, got 7",
        f'{path}: [cluser]: unknown key; did you mean "cluster"?',
    ]


@pytest.mark.parametrize("listen", ["127.0.0.1:5050", "[::1]:80", "localhost:0", ":5050", "a-host.example:65535"])
def test_addresses_that_can_be_listened_on(listen: str) -> None:
    assert load(None, {"ORLOP_SERVER__LISTEN": listen}).server.listen == listen


@pytest.mark.parametrize("listen", ["5050", "localhost", "localhost:65536", "::1:80", "http://localhost:80", "a:b"])
def test_addresses_that_cannot(listen: str) -> None:
    [problem] = problems(None, ORLOP_SERVER__LISTEN=listen)
    assert problem.startswith('ORLOP_SERVER__LISTEN: [server] listen: expected "host:port"')


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[server", "expected TOML"),
        ('server = "x"', "[server]: expected a table"),
        ("[plugins]\nmarathon = 1", "[plugins.marathon]: expected a table, got 1"),
    ],
)
def test_broken_files(tmp_path: Path, text: str, said: str) -> None:
    path = write(tmp_path, text)
    [problem] = problems(path)
    assert problem.startswith(f"{path}: ")
    assert said in problem


def test_a_file_that_was_named_must_exist(tmp_path: Path) -> None:
    assert problems(tmp_path / "none.toml") == [f"{tmp_path}/none.toml: cannot be read: No such file or directory"]


def test_a_file_that_is_no_text(tmp_path: Path) -> None:
    path = tmp_path / "orlop.toml"
    path.write_bytes(b"\xff\xfe")
    assert "expected UTF-8" in problems(path)[0]


def test_the_environment_overrides_the_file(tmp_path: Path) -> None:
    settings = load(
        write(tmp_path, DESIGN_EXAMPLE),
        {
            "ORLOP_SERVER__LISTEN": "127.0.0.1:6000",
            "ORLOP_CLUSTER__LEASE_S": "7",
            "ORLOP_SERVER__DENY_PLUGINS": '["swarm"]',
            "ORLOP_AGENT__RESOURCES__MEM": "1GiB",
            "ORLOP_AGENT__NAME": "7",
            "ORLOP_PLUGINS__MARATHON__LISTEN": "127.0.0.1:8081",
            "ORLOP_SERVER": "http://not-a-key-of-the-file:5050",
            "PATH": "/bin",
        },
    )
    assert settings.server.listen == "127.0.0.1:6000"
    assert settings.cluster.lease_s == 7
    assert settings.server.deny_plugins == ("swarm",)
    assert settings.agent.resources["mem"] == "1GiB"
    assert settings.agent.resources["cpus"] == 8
    assert settings.agent.name == "7"
    assert settings.plugins["marathon"]["listen"] == "127.0.0.1:8081"


def test_a_wrong_variable_is_named() -> None:
    wrong = problems(None, ORLOP_SERVR__LISTEN="x", ORLOP_CLUSTER__LEASE_S="soon", ORLOP_AGENT__NAM="x")
    assert wrong == [
        'ORLOP_SERVR__LISTEN: expected ORLOP_TABLE__KEY; did you mean "server"?',
        'ORLOP_AGENT__NAM: [agent] nam: unknown key; did you mean "name"?',
        'ORLOP_CLUSTER__LEASE_S: [cluster] lease_s: expected a number, got "soon"',
    ]


def test_a_variable_cannot_smuggle_in_other_keys() -> None:
    [problem] = problems(None, ORLOP_CLUSTER__NAME='"blue"\n[server]\nlisten = "0.0.0.0:1"')
    assert "[cluster] name" in problem


def test_a_secret_in_a_file(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("etcd://user:password@host:2379\n")
    settings = load(write(tmp_path, f'[store]\nurl_file = "{secret}"'), {})
    assert settings.store.url == "etcd://user:password@host:2379"
    assert settings.secrets == {("store", "url")}
    overridden = load(write(tmp_path, f'[store]\nurl_file = "{secret}"'), {"ORLOP_STORE__URL": "memory:"})
    assert overridden.store.url == "memory:"
    assert load(None, {"ORLOP_STORE__URL_FILE": str(secret)}).store.url == settings.store.url


def test_a_secret_that_cannot_be_read(tmp_path: Path) -> None:
    path = write(tmp_path, '[store]\nurl_file = "/nowhere"\nurl = "memory:"\n[cluster]\nname_file = "/nowhere"')
    unreadable = 'expected the name of a readable file, got "/nowhere": No such file or directory'
    assert problems(path) == [
        f"{path}: [store] url_file: give either url or url_file, not both",
        f"{path}: [cluster] name_file: {unreadable}",
    ]


class Mood(enum.Enum):
    CALM = "calm"
    WILD = "wild"


@attrs.frozen
class Inner:
    depth: int = 0


@attrs.frozen(kw_only=True)
class Config:
    command: str
    copies: int = attrs.field(default=0, validator=attrs.validators.ge(0))
    ratio: float = 0.5
    mood: Mood = Mood.CALM
    where: Literal["here", "there"] = "here"
    inner: Inner = attrs.field(factory=Inner)
    names: tuple[str, ...] = ()
    limits: Mapping[str, int] = attrs.field(factory=dict)
    password: str | None = None
    needs: Resources = attrs.field(factory=Resources)
    ports: PortSet = attrs.field(factory=PortSet)
    folder: Path = Path("/")
    upper: str = attrs.field(default="", converter=str.upper)  # type: ignore[misc]  # mypy knows no methods here
    size: int | str = 0

    def __attrs_post_init__(self) -> None:
        if self.copies > 10 and self.mood is Mood.WILD:
            raise ValueError("expected at most 10 copies in a wild mood")


def plugin(table: Mapping[str, Any], cls: type = Config) -> Any:
    return structure_plugin(Settings(plugins={"keep-alive": table}, source=Path("o.toml")), "keep_alive", cls)


def test_a_plugins_settings() -> None:
    assert plugin(
        {
            "command": "true", "copies": 2, "ratio": 1, "mood": "wild", "where": "there", "inner": {"depth": 3},
            "names": ["a"], "limits": {"x": 1}, "password": "p", "needs": {"cpus": 0.5, "mem": "1KiB"},
            "ports": "1-2", "folder": "/tmp", "upper": "x", "size": "big",
        }
    ) == Config(
        command="true", copies=2, ratio=1, mood=Mood.WILD, where="there", inner=Inner(3), names=("a",),
        limits={"x": 1}, password="p", needs=Resources(cpus=0.5, mem="1KiB"), ports=PortSet([1, 2]),
        folder=Path("/tmp"), upper="x", size="big",
    )  # fmt: skip


def test_what_is_wrong_with_a_plugins_settings() -> None:
    with pytest.raises(ConfigurationError) as caught:
        plugin(
            {
                "copies": -1, "ratio": "half", "mood": "clam", "where": 1, "inner": {"dept": 3}, "names": "a",
                "limits": {"x": "1"}, "password": 1, "needs": {"mem": 5}, "ports": "x", "folder": 1, "upper": 1,
                "size": [], "copy": 1,
            }
        )  # fmt: skip
    assert [str(problem).removeprefix("o.toml: [plugins.keep-alive] ") for problem in caught.value.problems] == [
        "copies: must be >= 0: -1",
        'ratio: expected a number, got "half"',
        'mood: expected one of "calm", "wild", got "clam"; did you mean "calm"?',
        'where: expected one of "here", "there", got 1',
        'inner.dept: unknown key; did you mean "depth"?',
        'names: expected a list of texts, got "a"',
        'limits.x: expected a whole number, got "1"',
        "password: expected a text, got 1",
        'needs.mem: expected a size with its unit, such as "32MiB", got 5',
        'ports: expected port ranges such as "31000-32000,8080", got "x"',
        "folder: expected a path, got 1",
        "upper: descriptor 'upper' for 'str' objects doesn't apply to a 'int' object",
        "size: expected a whole number or a text, got []",
        'copy: unknown key; did you mean "copies"?',
        "command: is required: expected a text",
    ]


def test_a_class_that_refuses_the_whole() -> None:
    with pytest.raises(ConfigurationError) as caught:
        plugin({"command": "x", "copies": 11, "mood": "wild"})
    assert str(caught.value) == "o.toml: [plugins.keep-alive]: expected at most 10 copies in a wild mood"


def test_a_validator_that_looks_at_another_key() -> None:
    @attrs.frozen
    class Range:
        low: int = 0
        high: int = attrs.field(default=1)

        @high.validator
        def _check(self, _: object, value: int) -> None:
            if value < self.low:
                raise ValueError(f"expected at least low ({self.low}), got {value}")

    assert plugin({"low": 1, "high": 2}, Range) == Range(1, 2)
    with pytest.raises(ConfigurationError, match=r"expected at least low \(3\), got 2"):
        plugin({"low": 3, "high": 2}, Range)


def test_a_converter_that_asks_a_value_for_what_it_has_not_names_its_key() -> None:
    @attrs.frozen
    class Shouting:
        word: str = attrs.field(default="", converter=lambda value: value.upper())

    assert plugin({"word": "a"}, Shouting) == Shouting("A")
    with pytest.raises(ConfigurationError) as caught:
        plugin({"word": 1}, Shouting)
    assert str(caught.value) == "o.toml: [plugins.keep-alive] word: 'int' object has no attribute 'upper'"


def test_a_plugins_settings_from_the_environment(tmp_path: Path) -> None:
    path = write(tmp_path, '[plugins.keep-alive]\ncommand = "true"')
    settings = load(path, {"ORLOP_PLUGINS__KEEP_ALIVE__COPIES": "3", "ORLOP_PLUGINS__KEEP_ALIVE__PASSWORD": "123"})
    read = structure_plugin(settings, "keep-alive", Config)
    assert (read.copies, read.password, read.command) == (3, "123", "true")
    with pytest.raises(ConfigurationError) as caught:
        structure_plugin(load(path, {"ORLOP_PLUGINS__KEEP_ALIVE__COPIES": "few"}), "keep-alive", Config)
    assert str(caught.value).startswith("ORLOP_PLUGINS__KEEP_ALIVE__COPIES: [plugins.keep-alive] copies: expected a")


def test_tables_of_plugins_that_are_not_there() -> None:
    settings = Settings(plugins={"marthon": {}, "keep-alive": {}}, source=Path("o.toml"))
    assert [str(one) for one in unknown_plugin_tables(settings, ["marathon", "keep_alive"])] == [
        'o.toml: [plugins.marthon]: no plugin marthon is installed; did you mean "marathon"?'
    ]


def test_every_key_is_documented_and_in_the_schema() -> None:
    schema = json_schema({"keepalive": Config})
    for table in ("cluster", "store", "server", "agent"):
        for key, field in keys_of(type(getattr(Settings(), table))).items():
            assert field.metadata["about"], f"[{table}] {key}"
            assert schema["properties"][table]["properties"][key]["description"] == field.metadata["about"]
    own = schema["properties"]["plugins"]["properties"]["keepalive"]
    assert own["properties"]["mood"] == {"enum": ["calm", "wild"], "default": "calm"}
    assert own["properties"]["limits"] == {"type": "object", "additionalProperties": {"type": "integer"}}
    assert own["allOf"] == [{"anyOf": [{"required": ["command"]}, {"required": ["command_file"]}]}]


_PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=12,
)


@given(st.dictionaries(st.sampled_from([*keys_of(Config), "other", "command_file"]), _PLAIN))
@example({"command_file": "~0"})  # there is no home folder of nobody
def test_any_table_is_either_read_or_refused_with_a_place(table: dict[str, Any]) -> None:
    value, wrong = read_table(table, Config)
    assert (value is None) == bool(wrong)
    assert all(one.text for one in wrong)
    assert value is None or isinstance(value, Config)
