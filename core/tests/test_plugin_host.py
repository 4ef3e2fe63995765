"""The plugin host with plugins that misbehave in every way we could think of."""

import contextlib
import importlib.metadata
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orlop.configuration import ServerSettings, Settings
from orlop.server import plugin_host
from orlop.server.plugin_host import ABANDONED_MAX, RETRY_FIRST_S, RETRY_MAX_S, PluginHost, found_plugins, within

MISBEHAVING = Path(__file__).parent / "misbehaving"
LONG_S = 60.0
SHORT_S = 0.5


@pytest.fixture(autouse=True)
def _misbehaving_modules(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.syspath_prepend(str(MISBEHAVING))
    known = set(sys.modules)
    yield
    for name in set(sys.modules) - known:
        module = sys.modules[name]
        if str(MISBEHAVING) in str(getattr(module, "__file__", "")):
            with contextlib.suppress(AttributeError):
                module.release.set()
            del sys.modules[name]


class Clock:
    def __init__(self) -> None:
        self.now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s


def host(*modules: str, settings: Settings | None = None, clock: Any = None, **names: str) -> PluginHost:
    points = [EntryPoint(module, module, "orlop") for module in modules]
    points += [EntryPoint(name, value, "orlop") for name, value in names.items()]
    hangs = {point.value for point in points} & {"hangs_on_import", "hangs_in_hook"}
    made = PluginHost(
        settings or Settings(),
        found=points,
        load_timeout_s=SHORT_S if "hangs_on_import" in hangs else LONG_S,
        timeout_s=SHORT_S if "hangs_in_hook" in hangs else LONG_S,
        clock=clock or Clock(),
    )
    made.load()
    return made


def record(made: PluginHost, name: str) -> plugin_host.PluginRecord:
    return next(one for one in made.records() if one.name == name)


def test_a_plugin_that_behaves() -> None:
    made = host("well_behaved", settings=Settings(plugins={"well_behaved": {"copies": 2}}))
    [known] = made.records()
    assert (known.state, known.error, known.hooks) == ("loaded", "", ("commands", "frameworks", "stores"))
    assert made.names() == ["well_behaved"]
    assert made.settings_of("well_behaved").copies == 2
    assert [(name, [one.name for one in found]) for name, found in made.collect("frameworks")] == [
        ("well_behaved", ["idle"])
    ]
    assert list(made.call("well_behaved", "stores")) == ["nowhere"]
    assert made.call("well_behaved", "routes", host=None, settings=None) is None
    assert made.call("nobody", "stores") is None


def test_a_plugin_that_the_process_before_had_to_do_without_is_not_loaded() -> None:
    point = EntryPoint("well_behaved", "well_behaved", "orlop")
    made = PluginHost(Settings(), found=[point], set_aside={"well_behaved": "it hung", "nobody": "it did, too"})
    made.load()
    [known] = made.records()
    assert (known.state, known.error, known.abandoned, known.retry_at_s) == ("failed", "it hung", 1, None)
    assert made.collect("frameworks") == []
    assert made.due_retries(1e9) == []
    assert made.retry("well_behaved").state == "failed"
    assert "well_behaved" not in sys.modules


@pytest.mark.parametrize(
    ("module", "plugin"),
    [
        ("orlop_rack", "rack"),
        ("orlop_rack.filters.deep", "rack"),
        ("orlop_rackety", ""),
        ("company.blue.filters", "blue"),
        ("company.red.filters", "red"),
        ("orlop.kernel.matcher", ""),
        ("threading", ""),
        ("", ""),
    ],
)
def test_whose_code_a_module_is(module: str, plugin: str) -> None:
    made = host(rack="orlop_rack.hooks:plugin", blue="company.blue", red="company.red:hooks")
    assert made.plugin_of(module) == plugin


@pytest.mark.parametrize(
    ("module", "error", "curable"),
    [
        ("raises_on_import", "RuntimeError: this plugin cannot be imported", True),
        ("exits_on_import", "SystemExit: 3", True),
        ("hangs_on_import", "it did not return within 0.5 s", True),
        ("is_not_there", "ModuleNotFoundError: No module named 'is_not_there'", True),
        ("wrong_signature", "Argument(s) {'port'} are declared in the hookimpl but can not be found", False),
        ("bad_configuration", "its configuration must be an attrs class", False),
        ("wrong_answer", "TypeError: expected a list of subclasses of Framework with a name", True),
        ("several_settings", "say which with the hook configuration()", False),
        ("wraps", "wrappers are not possible", False),
    ],
)
def test_one_that_cannot_be_loaded_is_reported_and_the_others_go_on(module: str, error: str, curable: bool) -> None:
    made = host(module, "well_behaved", after_all="well_behaved")
    broken = record(made, module)
    assert broken.state == "failed"
    assert error in broken.error
    assert "Traceback" in broken.traceback
    assert (broken.retry_at_s is not None) == curable
    assert made.names() == ["after_all", "well_behaved"]
    assert [name for name, _ in made.collect("frameworks")] == ["after_all", "well_behaved"]
    assert made.settings_of(module) is None


def test_a_mistyped_hook_is_a_warning() -> None:
    known = record(host("mistyped_hook"), "mistyped_hook")
    assert known.state == "loaded"
    assert known.warnings == ('there is no hook framework; did you mean "frameworks"?',)
    assert known.hooks == ("stores",)


def test_a_plugin_without_hooks_is_a_warning() -> None:
    assert "marked with @hookimpl" in record(host("no_hooks"), "no_hooks").warnings[0]


@pytest.mark.parametrize(
    ("hook", "error"),
    [("node_filters", "in hook node_filters: RuntimeError: no filters today"), ("node_scorers", "SystemExit: 4")],
)
def test_one_that_raises_in_a_hook_is_left_out_from_then_on(hook: str, error: str) -> None:
    made = host("raises_in_hook", "well_behaved")
    assert made.call("raises_in_hook", hook, settings=None) is None
    assert error in record(made, "raises_in_hook").error
    assert made.names() == ["well_behaved"]
    sys.modules["raises_in_hook"].failing = False  # type: ignore[attr-defined]
    assert made.call("raises_in_hook", hook, settings=None) is None
    assert made.retry("raises_in_hook").state == "loaded"
    assert list(made.call("raises_in_hook", hook, settings=None)) == []
    assert record(made, "raises_in_hook").failures == 0


def test_frameworks_of_one_that_failed_since_have_its_settings_in_the_next_term() -> None:
    made = host("well_behaved", settings=Settings(plugins={"well_behaved": {"copies": 2}}))
    made.refuse("well_behaved", "its routes cannot be served")
    assert made.names() == []
    assert made.settings_of("well_behaved").copies == 2


def test_one_that_hangs_in_a_hook_is_abandoned_and_not_tried_for_ever() -> None:
    clock = Clock()
    made = host("hangs_in_hook", "well_behaved", clock=clock)
    for attempt in range(1, ABANDONED_MAX + 1):
        assert made.collect("node_filters", settings=None) == []
        assert record(made, "hangs_in_hook").abandoned == attempt
        clock.now_s += RETRY_MAX_S
        due = made.due_retries(clock.now_s)
        assert due == (["hangs_in_hook"] if attempt < ABANDONED_MAX else [])
        for name in due:
            made.retry(name)
    assert made.names() == ["well_behaved"]


def test_the_back_off_grows_to_its_limit() -> None:
    clock = Clock()
    made = host("raises_on_import", "well_behaved", clock=clock)
    delays = []
    for _ in range(9):
        due_at_s = record(made, "raises_on_import").retry_at_s
        assert due_at_s is not None
        delays.append(due_at_s - clock.now_s)
        assert made.due_retries(due_at_s - 0.001) == []
        clock.now_s = due_at_s
        assert made.due_retries(clock.now_s) == ["raises_on_import"]
        made.retry("raises_on_import")
    assert delays == [1, 2, 4, 8, 16, 32, 60, 60, 60]
    assert delays[0] == RETRY_FIRST_S


def test_one_that_was_mended_is_loaded_by_a_retry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(tmp_path))
    module = tmp_path / "mended_later.py"
    made = host("mended_later")
    assert made.names() == []
    module.write_text((MISBEHAVING / "well_behaved.py").read_text())
    assert made.retry("mended_later").error == ""
    assert made.names() == ["mended_later"]
    with pytest.raises(KeyError):
        made.retry("never_heard_of")


def test_wrong_settings_name_file_key_and_expectation() -> None:
    made = host("well_behaved", settings=Settings(plugins={"well_behaved": {"copies": "many", "pasword": ""}}))
    known = record(made, "well_behaved")
    assert known.state == "configuration-error"
    assert known.error.splitlines() == [
        'configuration: [plugins.well_behaved] copies: expected a whole number, got "many"',
        'configuration: [plugins.well_behaved] pasword: unknown key; did you mean "password"?',
    ]
    assert made.names() == []
    assert made.collect("frameworks") == []
    assert [command.name for command in made.call("well_behaved", "commands")] == ["behave"]


def test_settings_for_a_plugin_that_has_none() -> None:
    made = host("mistyped_hook", settings=Settings(plugins={"mistyped_hook": {"x": 1}, "mistyped_hok": {}}))
    assert "[plugins.mistyped_hook]: expected nothing" in record(made, "mistyped_hook").error
    assert [problem.key for problem in made.unknown_tables()] == ["[plugins.mistyped_hok]"]


@pytest.mark.parametrize("wanted", [{"deny_plugins": ("raises_on_import",)}, {"allow_plugins": ("well_behaved",)}])
def test_what_is_not_wanted_is_not_imported(wanted: dict[str, Any]) -> None:
    made = host("raises_on_import", "well_behaved", settings=Settings(server=ServerSettings(**wanted)))
    assert record(made, "raises_on_import").state == "blocked"
    assert "plugins" in record(made, "raises_on_import").error
    assert made.names() == ["well_behaved"]
    assert "raises_on_import" not in sys.modules


def test_built_in_plugins_come_first_and_cannot_be_replaced_or_denied() -> None:
    from orlop.server import builtin

    settings = Settings(server=ServerSettings(deny_plugins=("orlop",)))
    made = PluginHost(settings, [("orlop", builtin)], found=[EntryPoint("orlop", "raises_on_import", "orlop")])
    made.load()
    [known] = made.records()
    assert known.builtin
    assert known.state == "loaded"
    assert known.warnings == ("its name is used twice; ignored: raises_on_import",)
    assert made.call("orlop", "node_filters", settings=None)


def test_descriptions_are_plain_json_with_the_traceback() -> None:
    import json

    [well, broken] = json.loads(json.dumps(host("well_behaved", "raises_on_import").describe()))[::-1]
    assert well["hooks"] == ["commands", "frameworks", "stores"]
    assert broken["state"] == "failed"
    assert "cannot be imported" in broken["traceback"]


def test_a_distribution_with_broken_metadata_hides_only_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    broken = tmp_path / "broken-1.dist-info"
    broken.mkdir()
    (broken / "METADATA").write_text("Metadata-Version: 2.1\nName: broken\nVersion: 1\n")
    (broken / "entry_points.txt").write_text("[orlop]\nthis is no entry point\n")
    good = tmp_path / "good-1.dist-info"
    good.mkdir()
    (good / "METADATA").write_text("Metadata-Version: 2.1\nName: good\nVersion: 1\n")
    (good / "entry_points.txt").write_text("[orlop]\ngood = well_behaved\n")
    monkeypatch.setattr(
        plugin_host, "distributions", lambda: importlib.metadata.distributions(path=[str(tmp_path), str(tmp_path)])
    )
    assert [point.name for point in found_plugins() if point.value == "well_behaved"] == ["good"]
    made = PluginHost(Settings())
    made.load()
    assert record(made, "good").distribution == "good"
    assert record(made, "good").version == "1"
    assert "cannot be read" in caplog.text


def test_an_abandoned_thread_does_not_hold_up_the_end_of_the_process() -> None:
    program = textwrap.dedent("""
        import threading
        from orlop.server.plugin_host import PluginTimeout, within
        try:
            within(0.01, threading.Event().wait)
        except PluginTimeout as error:
            print(error)
    """)
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout == "it did not return within 0.01 s\n"


@given(st.floats(), st.text())
def test_within_gives_and_raises_what_the_work_does(number: float, text: str) -> None:
    assert repr(within(LONG_S, lambda: number)) == repr(number)

    def fail() -> None:
        raise KeyError(text)

    with pytest.raises(KeyError) as caught:
        within(LONG_S, fail)
    assert caught.value.args == (text,)


def test_whose_a_framework_is_stays_known_when_its_plugin_fails() -> None:
    made = host("well_behaved", "raises_on_import")
    made.claims()
    made.refuse("well_behaved", "its routes cannot be served")
    known = {one["name"]: one["frameworks"] for one in made.describe()}
    assert known == {"well_behaved": ["idle"], "raises_on_import": []}
    assert made.retry("well_behaved").frameworks == ("idle",)


def test_whose_a_framework_is_is_known_with_wrong_settings_too() -> None:
    made = host("well_behaved", settings=Settings(plugins={"well_behaved": {"copies": "many"}}))
    made.claims()
    assert record(made, "well_behaved").frameworks == ("idle",)
