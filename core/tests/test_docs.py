"""The documents keep up with the code: hooks, settings and commands are named, and examples run."""

from __future__ import annotations

import configparser
import inspect
import json
import re
import shutil
import subprocess
import sys
import tomllib
import types
from pathlib import Path
from typing import Any

import attrs
import click
import pytest

from orlop import hookspecs
from orlop.checked_tables import keys_of
from orlop.cli.main import cli
from orlop.configuration import Settings, Tables, load
from orlop.server.plugin_host import PluginHost
from orlop.testing import pytest_plugin, scenario

ROOT = Path(__file__).parents[2]
README = ROOT / "README.md"
OPERATOR_GUIDE = ROOT / "docs" / "operator-guide.md"
AUTHOR_GUIDE = ROOT / "docs" / "author-guide.md"
DOCUMENTS = (README, ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").glob("*.md")))

MODULE = re.compile(r"^<!-- module: (\w+) -->\n```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)
MODULES = MODULE.findall(AUTHOR_GUIDE.read_text())
HOOKS = {
    name: list(inspect.signature(value).parameters)
    for name, value in vars(hookspecs).items()
    if inspect.isfunction(value) and hasattr(value, "orlop_spec")
}
TABLES = [field.name for field in attrs.fields(Tables) if field.name != "plugins"]


def section(text: str, heading: str) -> str:
    """What stands under a heading, up to the next one of its level or above. Empty without it."""
    level = heading.partition(" ")[0]
    found = re.search(rf"^{re.escape(heading)}$\n(.*?)(?=^#{{1,{len(level)}}} |\Z)", text, re.MULTILINE | re.DOTALL)
    return found[1] if found else ""


def blocks(text: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)


# --- the author guide ---


@pytest.mark.parametrize("hook", HOOKS)
def test_each_hook_is_documented_with_its_arguments(hook: str) -> None:
    heading = f"### `{hook}({', '.join(HOOKS[hook])})`"
    assert section(AUTHOR_GUIDE.read_text(), heading).strip(), f"expected a section {heading} in {AUTHOR_GUIDE}"


def test_no_hook_is_documented_that_does_not_exist() -> None:
    documented = re.findall(r"^### `(\w+)\(", section(AUTHOR_GUIDE.read_text(), "## Every hook"), re.MULTILINE)
    assert sorted(documented) == sorted(HOOKS)


@pytest.fixture
def guide(monkeypatch: pytest.MonkeyPatch) -> dict[str, types.ModuleType]:
    """The guide's modules, each executed under its name, in the guide's order."""
    made = {}
    for name, source in MODULES:
        module = types.ModuleType(name)
        monkeypatch.setitem(sys.modules, name, module)
        exec(compile(source, f"{AUTHOR_GUIDE.name}:{name}", "exec"), vars(module))
        made[name] = module
    return made


def test_every_python_block_of_the_author_guide_is_run() -> None:
    assert [source for _, source in MODULES] == blocks(AUTHOR_GUIDE.read_text(), "python")


def test_the_guides_tests_pass(tmp_path: Path) -> None:
    """As an author would run them: the modules as files, and a pytest of their own."""
    for name, source in MODULES:
        (tmp_path / f"{name}.py").write_text(source)
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-W", "error", "-p", "no:cacheprovider", str(tmp_path)],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    tests = sum(len(re.findall(r"^def test_", source, re.MULTILINE)) for _, source in MODULES)
    assert tests >= 12
    assert f"{tests} passed" in done.stdout


def test_each_option_of_the_fixtures_is_documented() -> None:
    source = inspect.getsource(pytest_plugin)
    names = {*re.findall(r'"(--orlop-[a-z-]+)"', source), *re.findall(r'addini\(\s*"(\w+)"', source)}
    names |= {name for name in vars(pytest_plugin) if name.startswith("orlop_")}
    assert len(names) == 6
    text = section(AUTHOR_GUIDE.read_text(), "## Tests")
    assert not [name for name in names if f"`{name}" not in text]


def test_each_method_of_a_scenario_and_each_part_of_its_cluster_is_documented() -> None:
    text = section(AUTHOR_GUIDE.read_text(), "### Under faults")
    for documented in (scenario.Scenario, scenario.SimulatedCluster):
        names = [name for name in vars(documented) if not name.startswith("_")]
        assert len(names) >= 4
        assert not [name for name in names if f"`{name}" not in text]


@pytest.mark.parametrize("name", [name for name, _ in MODULES if not name.startswith("test_")])
def test_the_guides_plugins_load(guide: dict[str, types.ModuleType], name: str) -> None:
    plugins = PluginHost(Settings(), [(name, guide[name])], found=[])
    plugins.load()
    (record,) = plugins.records()
    assert (record.state, record.warnings, record.error) == ("loaded", (), "")
    (hook,) = record.hooks
    arguments: dict[str, Any] = dict.fromkeys(HOOKS[hook])
    assert plugins.call(name, hook, **arguments), plugins.records()[0].error


def test_the_guides_package_names_the_entry_point() -> None:
    (project,) = (tomllib.loads(block) for block in blocks(AUTHOR_GUIDE.read_text(), "toml"))
    points = project["project"]["entry-points"][hookspecs.ENTRY_POINT_GROUP]
    assert points == {"keepalive": "orlop_keepalive"}
    assert "orlop_keepalive" in dict(MODULES)


# --- the operator guide ---


@pytest.mark.parametrize("table", TABLES)
def test_each_key_is_documented(table: str) -> None:
    text = section(OPERATOR_GUIDE.read_text(), f"### `[{table}]`")
    documented = set(re.findall(r"^\| `(\w+)` \|", text, re.MULTILINE))
    cls = keys_of(Tables)[table].type
    assert cls is not None
    assert documented == set(keys_of(cls))


def test_the_example_of_a_configuration_is_valid(tmp_path: Path) -> None:
    (example,) = blocks(OPERATOR_GUIDE.read_text(), "toml")
    file = tmp_path / "orlop.toml"
    file.write_text(example)
    assert load(file, {}).cluster.name == "blue"


def test_the_unit_for_systemd_starts_orlop_and_stops_nothing_else(tmp_path: Path) -> None:
    (unit,) = blocks(OPERATOR_GUIDE.read_text(), "ini")
    keys = configparser.ConfigParser()
    keys.read_string(unit)
    service = keys["Service"]
    assert service["KillMode"] == "process"
    program, command, *options = service["ExecStart"].split()
    assert program.endswith("/orlop")
    started = cli.get_command(click.Context(cli), command)
    assert started is not None
    started.make_context(command, options)
    if shutil.which("systemd-analyze") is not None:
        path = tmp_path / "orlop.service"
        path.write_text(unit.replace(program, sys.executable))
        subprocess.run(["systemd-analyze", "verify", path], check=True, timeout=60)


# --- commands ---


def names_of(command: click.Command, path: str) -> list[str]:
    """The command lines of a command and all below it; a group alone is none."""
    if not isinstance(command, click.Group):
        return [path]
    context = click.Context(command)
    names = []
    for name in command.list_commands(context):
        found = command.get_command(context, name)
        if found is not None and not found.hidden:
            names += names_of(found, f"{path} {name}")
    return names


def installed_commands() -> list[str]:
    """Of a fresh interpreter, as they are typed: tests before this one may have loaded plugins otherwise."""
    program = (
        "import json, sys; sys.path.insert(0, sys.argv[1]); import test_docs; "
        "print(json.dumps(test_docs.names_of(test_docs.cli, 'orlop')))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, str(Path(__file__).parent)], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    found: list[str] = json.loads(done.stdout)
    return found


def test_each_command_is_documented() -> None:
    commands = {*names_of(cli, "orlop"), *installed_commands()}
    assert "orlop up" in commands
    text = README.read_text() + OPERATOR_GUIDE.read_text()
    missing = [name for name in sorted(commands) if not re.search(rf"`{name}(?![\w-])[^`]*`", text)]
    assert not missing


def test_each_command_of_the_readmes_table_exists() -> None:
    typed = re.findall(r"^\| `(orlop [^`]*)` \|", README.read_text(), re.MULTILINE)
    assert len(typed) > 10
    own = {name.split()[1] for name in names_of(cli, "orlop")}
    known = {*names_of(cli, "orlop"), *installed_commands()}
    for line in typed:
        name = " ".join(word for word in line.split() if not word.isupper())
        assert name in known or name.split()[1] not in own, f"there is no command {name!r}"


# --- all documents ---


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_links_lead_somewhere(document: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", document.read_text()):
        if target.startswith(("http://", "https://")):
            continue
        file, _, anchor = target.partition("#")
        path = (document.parent / file).resolve() if file else document
        assert path.exists(), f"{target} does not exist"
        if anchor:
            headings = re.findall(r"^#+ (.*)$", path.read_text(), re.MULTILINE)
            anchors = [re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings]
            assert anchor in anchors, f"{target}: no such heading"
