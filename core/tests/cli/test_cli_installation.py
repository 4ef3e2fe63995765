"""Commands that look after an installation: plugins, configuration, and `up`'s options."""

import json
import os
import subprocess
import sys
import tomllib
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from hypothesis import example, given
from hypothesis import strategies as st
from installed_plugins import install

from orlop import configuration
from orlop.cli.config import HIDDEN, _as_toml, _without_secrets
from orlop.cli.failures import Failure
from orlop.cli.main import cli
from orlop.cli.running import with_options
from orlop.cli.scaffold import write_plugin
from orlop.configuration import Settings
from orlop.server.plugin_host import PluginHost
from orlop.store.sqlite import SqliteStore

MISBEHAVING = Path(__file__).parents[1] / "misbehaving"
IDLE = """
from orlop.framework import Framework
from orlop.hookspecs import hookimpl

class Idle(Framework):
    name = "idle"
    def reconcile(self, view):
        return ()

@hookimpl
def frameworks():
    return [Idle]
"""
BREAKING = """
import asyncio
from aiohttp import web
from orlop.framework import Framework
from orlop.hookspecs import Routes, hookimpl

class Breaking(Framework):
    name = "breaking"
    def reconcile(self, view):
        raise KeyError("reconciled")

class Filter:
    name = "refusing"
    def prepare(self, request, view):
        return lambda candidate: candidate.node.info.attributes["floor"]

class Unprepared:
    name = "unprepared"
    def prepare(self, request, view):
        raise SystemExit("prepared")

class Scorer:
    name = "scoring"
    weight = 1
    def prepare(self, request, view):
        return lambda candidate: "much"

@hookimpl
def frameworks():
    return [Breaking]

@hookimpl
def node_filters(settings):
    return [Filter(), Unprepared()]

@hookimpl
def node_scorers(settings):
    return [Scorer()]

@hookimpl
def routes(host, settings):
    async def broken(request):
        return web.Response(text=host.no_such_thing)
    async def well(request):
        return web.Response(status=503, text=str(await host.view("breaking")))
    async def endless(request):
        await asyncio.Event().wait()
    async def begin(application):
        raise OSError("no templates")
    pages, failing = web.Application(), web.Application()
    pages.router.add_get("/broken", broken)
    pages.router.add_get("/well", well)
    pages.router.add_get("/endless", endless)
    pages.router.add_get("/of/{name}", broken)
    pages.router.add_post("/posted", broken)
    failing.on_startup.append(begin)
    return [Routes(prefix="pages", application=pages), Routes(prefix="failing", application=failing)]
"""
NO_SERVER = ("--server", "http://127.0.0.1:1")


@pytest.fixture(autouse=True)
def _nothing_configured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(configuration.platformdirs, "user_config_path", lambda _: tmp_path / "user")
    monkeypatch.setattr(configuration.platformdirs, "site_config_path", lambda _: tmp_path / "site")


def path_with(*folders: Path) -> str:
    """The path of modules with these folders before it."""
    known = [os.environ["PYTHONPATH"]] if os.environ.get("PYTHONPATH") else []
    return os.pathsep.join([*map(str, folders), *known])


def put_on_path(monkeypatch: pytest.MonkeyPatch, *folders: Path) -> None:
    """Of this process and of those that it starts."""
    monkeypatch.setenv("PYTHONPATH", path_with(*folders))
    for folder in folders:
        monkeypatch.syspath_prepend(str(folder))


@pytest.fixture
def broken_plugins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Distributions of plugins that misbehave, found by this process and by those it starts."""
    site = tmp_path / "site-packages"
    for module in ("exits_process", "raises_on_import", "well_behaved", "mistyped_hook"):
        folder = site / f"{module}-1.0.dist-info"
        folder.mkdir(parents=True)
        (folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {module}\nVersion: 1.0\n")
        (folder / "entry_points.txt").write_text(f"[orlop]\n{module} = {module}\n")
    (site / "exits_process.py").write_text(
        "import os, sys\nsys.stderr.write('goodbye')\nsys.stderr.flush()\nos._exit(7)"
    )
    put_on_path(monkeypatch, site, MISBEHAVING)


def run(*arguments: str, code: int = 0) -> Result:
    result = CliRunner().invoke(cli, list(arguments))
    assert result.exit_code == code, f"{result.output}\n{result.exception!r}"
    return result


@pytest.mark.usefixtures("broken_plugins")
def test_check_finds_out_even_what_ends_the_process(tmp_path: Path) -> None:
    (tmp_path / "orlop.toml").write_text('[plugins.well_behaved]\ncopies = "two"\n')
    names = ("exits_process", "raises_on_import", "well_behaved", "mistyped_hook", "keepalive", "orlop")
    result = run("plugins", "check", *names, code=1)
    assert result.stdout.splitlines() == [
        "exits_process: failed",
        "  it ended its process with code 7: goodbye",
        "raises_on_import: failed",
        "  RuntimeError: this plugin cannot be imported",
        "well_behaved: configuration-error",
        '  orlop.toml: [plugins.well_behaved] copies: expected a whole number, got "two"',
        "mistyped_hook: loaded",
        '  warning: there is no hook framework; did you mean "frameworks"?',
        "keepalive: loaded",
        "orlop: loaded",
    ]
    failed = "exits_process, raises_on_import, well_behaved"
    assert result.stderr == f"orlop: 3 of 6 plugins failed: {failed}\n"


def test_check_uses_once_what_hooks_give(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    site = tmp_path / "site-packages"
    install(site, "breaking", BREAKING)
    put_on_path(monkeypatch, site)
    first, *lines = run("plugins", "check", "breaking", code=1).stdout.splitlines()
    assert first == "breaking: failed"
    expected = (
        "filter refusing: KeyError: 'floor' (in <lambda>, ",
        "filter unprepared: SystemExit: prepared (in prepare, ",
        "framework breaking: KeyError: 'reconciled' (in reconcile, ",
        "routes under pages: GET /broken is answered 500: AttributeError: '_Host' object has no",
        "routes under failing: OSError: no templates (in begin, ",
    )
    scorer = "  scorer scoring: TypeError: expected a number, got 'much'"
    others = [line for line in lines if not line.startswith(scorer)]
    assert len(others) == len(lines) - 1 == len(expected), lines
    for line, said in zip(others, expected, strict=True):
        assert line.startswith(f"  {said}"), line
        assert f"{site}/breaking.py:" in line


def test_check_finds_nothing_in_what_works() -> None:
    names = ("orlop", "keepalive", "marathon", "chronos", "swarm")
    assert run("plugins", "check", *names).stdout.splitlines() == [f"{name}: loaded" for name in names]


def test_check_looks_at_where_routes_shall_listen(tmp_path: Path) -> None:
    (tmp_path / "orlop.toml").write_text('[plugins.marathon]\nlisten = "x"\n')
    said = run("plugins", "check", "marathon", code=1).stdout
    assert said.startswith(
        'marathon: configuration-error\n  orlop.toml: [plugins.marathon] listen: expected "host:port"'
    )


@pytest.mark.usefixtures("broken_plugins")
def test_warnings_fail_a_strict_check_only() -> None:
    run("plugins", "check", "mistyped_hook")
    run("plugins", "check", "--strict", "mistyped_hook", code=1)
    run("plugins", "check", "nobody", code=4)


def test_check_tells_of_two_plugins_with_one_framework(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    site = tmp_path / "site-packages"
    for name in ("early", "late"):
        install(site, name, IDLE)
    put_on_path(monkeypatch, site)
    why = "its framework idle has the name of one of"
    assert f"early: failed\n  {why} late" in run("plugins", "check", "early", "keepalive", code=1).stdout
    listed = run("plugins", "list", "--local").stdout
    assert f"{why} late" in listed
    assert f"{why} early" in listed
    del sys.modules["early"], sys.modules["late"]


def test_plugins_without_a_server_are_those_installed_here() -> None:
    result = run(*NO_SERVER, "plugins", "list")
    assert "this is what is installed here" in result.stderr
    assert "keepalive" in run("plugins", "list", "--local", "-o", "name").stdout.splitlines()
    shown = json.loads(run("plugins", "show", "keepalive", "--local", "-o", "json").stdout)
    assert (shown["distribution"], shown["state"], shown["hooks"]) == ("orlop-keepalive", "loaded", ["frameworks"])
    run("plugins", "show", "nobody", "--local", code=4)


def report_of_its_tests(folder: Path) -> str:
    """Of a new plugin's, as if it were installed."""
    name = folder.name.removeprefix("orlop-")
    module = folder.name.replace("-", "_")
    installed = folder / "src" / f"{module}-0.1.0.dist-info"
    installed.mkdir()
    (installed / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {folder.name}\nVersion: 0.1.0\n")
    (installed / "entry_points.txt").write_text(f"[orlop]\n{name} = {module}\n")
    done = subprocess.run(
        [sys.executable, "-W", "error", "-m", "pytest", "-q", "-p", "no:cacheprovider", str(folder)],
        cwd=folder.parent,
        env=os.environ | {"PYTHONPATH": path_with(folder / "src")},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.parametrize("name", ["framework", "config", "test", "none"])
def test_a_new_plugins_class_is_in_the_way_of_nothing(name: str, tmp_path: Path) -> None:
    folder = write_plugin(name, tmp_path)
    assert f"class My{name.capitalize()}(Framework)" in (folder / "src" / f"orlop_{name}" / "__init__.py").read_text()
    assert "6 passed" in report_of_its_tests(folder)


@pytest.mark.parametrize(
    "name", ["view", "process", "three-copies", "scenario", "iterator", "docker", "testing-ground"]
)
def test_a_new_plugins_class_has_no_name_of_what_it_may_import(name: str, tmp_path: Path) -> None:
    folder = write_plugin(name, tmp_path)
    (source,) = (folder / "src").glob("*/__init__.py")
    assert "class My" in source.read_text()


@pytest.mark.parametrize("name", ["marathon", "chronos", "swarm", "orlop-swarm", "keepalive"])
def test_a_new_plugin_has_no_name_of_a_known_one(name: str, tmp_path: Path) -> None:
    with pytest.raises(Failure, match=r"NAME: .*(Orlop's own plugin|installed already)"):
        write_plugin(name, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_new_plugin_works_and_its_own_test_passes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = run("plugins", "new", "two-words", "--folder", str(tmp_path)).stdout
    folder = tmp_path / "orlop-two-words"
    assert f"pip install -e '{folder}[test]'" in out
    assert "6 passed" in report_of_its_tests(folder)
    project = tomllib.loads((folder / "pyproject.toml").read_text())["project"]
    assert project["dependencies"][0] == "orlop>=0.1,<0.2"
    monkeypatch.syspath_prepend(str(folder / "src"))
    [(name, module)] = project["entry-points"]["orlop"].items()
    host = PluginHost(Settings(plugins={name: {"copies": 2}}), found=[EntryPoint(name, module, "orlop")])
    host.load()
    [record] = host.records()
    assert (record.state, record.warnings) == ("loaded", ())
    assert host.settings_of("two-words").copies == 2
    del sys.modules[module]


@pytest.mark.parametrize("name", ["", "Upper", "1st", "a b", "a_b", "a--b", "../up", "x" * 41, "-x"])
def test_names_that_a_plugin_cannot_have(name: str, tmp_path: Path) -> None:
    with pytest.raises(Failure, match="NAME: expected"):
        write_plugin(name, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_new_plugin_overwrites_nothing(tmp_path: Path) -> None:
    assert write_plugin("orlop-mine", tmp_path) == tmp_path / "orlop-mine"
    assert "exists already" in run("plugins", "new", "mine", code=5).stderr
    assert "Orlop's own plugin" in run("plugins", "new", "orlop", code=2).stderr
    assert "expected a lower-case letter, and after it" in run("plugins", "new", "1a", code=2).stderr


# Configuration


def test_config_check_says_all_that_is_wrong(tmp_path: Path) -> None:
    path = tmp_path / "orlop.toml"
    assert run("config", "check").stdout == "defaults (there is no file): ok\n"
    path.write_text("[plugins.keepalive]\ncopies = 1\n")
    assert run("config", "check").stdout == "orlop.toml: ok\n"
    path.write_text("[plugins.keepalive]\ncopies = -1\n[plugins.keepalife]\n")
    assert run("config", "check", code=1).stderr.splitlines() == [
        "orlop: orlop.toml: [plugins.keepalive] copies: must be >= 0: -1",
        'orlop.toml: [plugins.keepalife]: no plugin keepalife is installed; did you mean "keepalive"?',
    ]
    path.write_text('[server]\nlisten = "x"\n[agent]\nresources = { mem = 1 }\n')
    assert len(run("config", "check", "--config", str(path), code=1).stderr.splitlines()) == 2


@pytest.mark.parametrize(
    ("table", "text"),
    [
        ('[server]\nlisten = "0.0.0.0:5050"', "[server] listen is 0.0.0.0:5050: without authentication"),
        ('[store]\nurl = "sqlite://relative"', "[store]: the store's URL 'sqlite://relative' must be"),
        ('[store]\nurl = "zookeeper://host"', "[store]: no store has the scheme 'zookeeper'"),
        ('[store]\nurl = "etcd://host:port"', "[store]: "),
        ('[store]\nurl = "etcd://host"\n[cluster]\nlease_s = 3', "[store]: timeout_s is 5: expected no more"),
        (
            '[plugins.marathon]\nlisten = "x"',
            '[plugins.marathon] listen: expected "host:port" or "unix:///path", got "x"',
        ),
        ('[plugins.marathon]\nlisten = "0.0.0.0:80"', "[plugins.marathon] listen is 0.0.0.0:80: without"),
        ("[cluster]\nlease_s = 1", "[cluster] lease_s: expected 2 to 600 seconds, got 1"),
    ],
)
def test_config_check_tells_what_would_not_start(tmp_path: Path, table: str, text: str) -> None:
    (tmp_path / "orlop.toml").write_text(table)
    assert f"orlop.toml: {text}" in run("config", "check", code=1).stderr


def test_config_check_opens_no_store(tmp_path: Path) -> None:
    (tmp_path / "orlop.toml").write_text(f'[store]\nurl = "sqlite://{tmp_path}/state.db"')
    run("config", "check")
    assert not (tmp_path / "state.db").exists()


def test_config_show_is_toml_that_means_the_same_without_secrets(tmp_path: Path) -> None:
    path = tmp_path / "orlop.toml"
    path.write_text(
        '[cluster]\nname = "blue"\n[store]\nurl = "etcd://me:hunter2@host:2379"\n'
        '[agent]\nresources = { mem = "1GiB" }\nattributes = { "a.b" = "c\\"d", api_token = "hunter3" }\n'
        '[plugins.keepalive]\ncommand = "echo \\u007f é"\n'
    )
    text = run("config", "show").stdout
    assert "hunter" not in text
    shown = tomllib.loads(text)
    assert shown["store"]["url"] == f"etcd://me:{HIDDEN}@host:2379"
    assert shown["agent"]["attributes"] == {"a.b": 'c"d', "api_token": HIDDEN}
    assert shown["plugins"]["keepalive"] == {"command": "echo \x7f é", "copies": 0}
    assert json.loads(run("config", "show", "-o", "json").stdout) == shown
    secret = tmp_path / "secret"
    secret.write_text("blue-secret")
    path.write_text(f'[cluster]\nname_file = "{secret}"\n')
    assert tomllib.loads(run("config", "show").stdout)["cluster"]["name"] == HIDDEN


_KEYS = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=6)
_VALUES = st.recursive(
    st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"]), max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_KEYS, inner, max_size=3),
    max_leaves=8,
)  # fmt: skip


@example({"0": {}, "0\n": {}})
@given(st.dictionaries(_KEYS, st.dictionaries(_KEYS, _VALUES, max_size=4), max_size=3))
def test_what_is_shown_as_toml_is_read_back_the_same(plugins: dict[str, dict[str, object]]) -> None:
    assert tomllib.loads("\n".join(_as_toml({"plugins": plugins}))).get("plugins", {}) == plugins


def test_secrets_are_hidden_wherever_they_stand() -> None:
    shown = _without_secrets({"a": {"secrets": ["x"], "port": 1, "password": None}, "b": "y"}, {("b",)})
    assert shown == {"a": {"secrets": [HIDDEN], "port": 1, "password": None}, "b": HIDDEN}


def test_the_schema_has_the_tables_of_installed_plugins() -> None:
    schema = json.loads(run("config", "schema").stdout)
    assert schema["properties"]["plugins"]["properties"]["keepalive"]["properties"]["copies"]["default"] == 0
    assert schema["properties"]["server"]["properties"]["auth"]["enum"] == ["on", "off"]


# up


def test_a_line_break_is_no_part_of_a_setting() -> None:
    for options in (("127.0.0.1:1\n", None), (None, "blue\n")):
        with pytest.raises(Failure):
            with_options(Settings(), *options)


def test_options_of_up_go_before_the_settings() -> None:
    changed = with_options(Settings(), "127.0.0.1:1", "blue")
    assert (changed.server.listen, changed.cluster.name) == ("127.0.0.1:1", "blue")
    assert with_options(Settings(), None, None) == Settings()
    with pytest.raises(Failure, match='--listen: expected "host:port"'):
        with_options(Settings(), "everywhere", None)
    with pytest.raises(Failure, match="--name: expected 1 to 63"):
        with_options(Settings(), None, "two words")


def test_up_hands_settings_and_folder_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from orlop.processes import up

    seen = []

    def note(settings: Settings, data: Path, announce: Any, rejoin: bool) -> int:
        seen.append((settings, data, rejoin))
        return 3

    monkeypatch.setattr(up, "run", note)
    run("up", "--data", str(tmp_path / "data"), "--name", "blue", code=3)
    [(settings, data, rejoin)] = seen
    assert (settings.cluster.name, data, rejoin) == ("blue", tmp_path / "data", False)


def test_up_says_what_is_wrong_with_its_file(tmp_path: Path) -> None:
    (tmp_path / "orlop.toml").write_text("[server]\nlisten = 5\n")
    assert run("up", code=1).stderr == "orlop: orlop.toml: [server] listen: expected a text, got 5\n"


LOOKING = (
    ("store", "status"),
    ("store", "compact"),
    ("store", "migrate", "--to", "sqlite:///nowhere/else.db"),
    ("backup", "saved", "--offline"),
)


@pytest.mark.parametrize("command", LOOKING)
@pytest.mark.parametrize("folder", ["wrong", "not/there"])
def test_whoever_looks_for_a_store_makes_none(command: tuple[str, ...], folder: str, tmp_path: Path) -> None:
    (tmp_path / "wrong").mkdir()
    state = tmp_path / folder / "state.db"
    said = run(*command, "--data", str(state.parent), code=4).stderr
    assert said == f"orlop: there is no store at {state} (--data names the data folder of the server)\n"
    assert [one.name for one in tmp_path.rglob("*")] == ["wrong"]


def test_a_store_of_the_settings_that_is_not_there_is_said_to_be_theirs(tmp_path: Path) -> None:
    (tmp_path / "orlop.toml").write_text(f'[store]\nurl = "sqlite://{tmp_path}/blue.db"\n')
    (tmp_path / "blue.db").touch()
    said = run("store", "status", code=4).stderr
    assert said == f"orlop: there is no store at {tmp_path}/blue.db ([store] url names it)\n"
    assert not (tmp_path / "blue.db").stat().st_size


def test_a_store_that_is_there_is_looked_at(tmp_path: Path) -> None:
    SqliteStore(tmp_path / "state.db").close()
    assert run("store", "status", "--data", str(tmp_path)).stdout.startswith("revision   1\n")
    run("store", "compact", "--data", str(tmp_path))
