"""A wheel of each distribution, installed into an empty environment away from the checkout, works."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import venv
import zipfile
from pathlib import Path

import pytest
from ports import free_port
from running import wait_until

ROOT = Path(__file__).parent.parent
DISTRIBUTIONS = ("core", "plugins/marathon", "plugins/chronos", "plugins/swarm")
THIRD_PARTY = "tests/third_party/orlop-keepalive"

#: What an author may get wrong: the framework knows its tasks from memory, which a new leader does not have.
RIGHT = """\
        wanted = {f"copy-{number}" for number in range(self.settings.copies)}
        for key in sorted(wanted - view.live.keys()):
"""
WRONG = """\
        wanted = {f"copy-{number}" for number in range(self.settings.copies)}
        if not hasattr(self, "asked") and view.live.keys() >= wanted:
            wanted.add("copy-too-many")
        self.asked = True
        for key in sorted(wanted - view.live.keys()):
"""

pytestmark = [pytest.mark.real, pytest.mark.timeout(900)]


def run(*command: str | Path, folder: Path, **environment: str) -> str:
    done = subprocess.run(
        [str(part) for part in command],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
        env={"PATH": os.environ["PATH"], "HOME": str(folder), **environment},
    )
    assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
    return done.stdout


def pip_environment() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if name.startswith(("PIP_", "SSL_", "REQUESTS_", "http"))}


@pytest.fixture(scope="module")
def wheels(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Distribution → its wheel, built from the checkout."""
    folder = tmp_path_factory.mktemp("wheels")
    sources = [str(ROOT / distribution) for distribution in (*DISTRIBUTIONS, THIRD_PARTY)]
    pip = (sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "-w", folder)
    run(*pip, *sources, folder=folder, **pip_environment())
    built = {path.name.split("-")[0].replace("_", "-"): path for path in folder.glob("*.whl")}
    assert len(built) == len(sources)
    return built


def empty_environment(folder: Path, *installed: str | Path) -> Path:
    """A new environment with these and what they need; its folder of programs."""
    place = folder / "empty"
    venv.create(place, with_pip=True)
    run(place / "bin" / "python", "-m", "pip", "install", "-q", *installed, folder=folder, **pip_environment())
    return place / "bin"


@pytest.fixture(scope="module")
def authors_programs(wheels: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The environment of somebody who has Orlop and writes a framework."""
    return empty_environment(tmp_path_factory.mktemp("author"), wheels["orlop"])


def test_wheels_work_away_from_the_checkout(wheels: dict[str, Path], tmp_path: Path) -> None:
    programs = empty_environment(tmp_path, *(path for name, path in wheels.items() if name != "orlop-keepalive"))
    assert run(programs / "orlop", "version", folder=tmp_path).strip()
    where = run(programs / "python", "-c", "import orlop; print(orlop.__file__)", folder=tmp_path)
    assert where.startswith(str(programs.parent))
    missing = run(
        programs / "python", "-c", "import importlib.util as u; print(u.find_spec('pytest'))", folder=tmp_path
    )
    assert missing.strip() == "None", "Orlop runs without pytest"
    settings = {
        "ORLOP_SERVER__LISTEN": f"127.0.0.1:{free_port()}",
        "ORLOP_PLUGINS__MARATHON__LISTEN": f"127.0.0.1:{free_port()}",
        "ORLOP_PLUGINS__CHRONOS__LISTEN": f"127.0.0.1:{free_port()}",
        "ORLOP_PLUGINS__SWARM__LISTEN": f'["127.0.0.1:{free_port()}"]',
        "ORLOP_AGENT__DOCKER": "unix:///nonexistent/docker.sock",
    }
    server = f"http://{settings['ORLOP_SERVER__LISTEN']}"
    process = subprocess.Popen(
        [programs / "orlop", "up", "--data", tmp_path / "data"],
        cwd=tmp_path,
        env={"PATH": os.environ["PATH"], "HOME": str(tmp_path), **settings},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:

        def listed() -> str:
            done = subprocess.run(
                [programs / "orlop", "--server", server, "plugins", "list", "-o", "json"],
                capture_output=True,
                text=True,
                check=False,
                cwd=tmp_path,
            )
            return done.stdout if done.returncode == 0 else ""

        plugins = wait_until(listed, "orlop up answers")
        for name in ("marathon", "chronos", "swarm"):
            assert f'"{name}"' in plugins
        assert "failed" not in plugins
    finally:
        process.terminate()
        process.wait(30)


def test_wheels_say_that_their_types_are_to_be_used(wheels: dict[str, Path]) -> None:
    for distribution in DISTRIBUTIONS:
        name = "orlop" if distribution == "core" else f"orlop-{Path(distribution).name}"
        assert f"{name.replace('-', '_')}/py.typed" in zipfile.ZipFile(wheels[name]).namelist(), name


def report_of(programs: Path, folder: Path, *arguments: str | Path) -> str:
    """The report of a run of pytest, whatever came of it."""
    done = subprocess.run(
        [str(programs / "python"), "-m", "pytest", "-p", "no:cacheprovider", *map(str, arguments)],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
        env={"PATH": os.environ["PATH"], "HOME": str(folder), "COLUMNS": "200"},
    )
    return done.stdout + done.stderr


def test_a_third_partys_tests_run_away_from_the_checkout_and_find_a_planted_bug(
    wheels: dict[str, Path], authors_programs: Path, tmp_path: Path
) -> None:
    programs = authors_programs
    pip = (programs / "python", "-m", "pip", "install", "-q")
    run(*pip, f"{wheels['orlop']}[testing]", wheels["orlop-keepalive"], folder=tmp_path, **pip_environment())
    project = tmp_path / "project"
    shutil.copytree(ROOT / THIRD_PARTY, project)
    report = report_of(programs, tmp_path, "-W", "error", project / "tests")
    assert " 10 passed" in report, report

    source = project / "src" / "orlop_keepalive" / "__init__.py"
    assert RIGHT in source.read_text()
    source.write_text(source.read_text().replace(RIGHT, WRONG))
    run(*pip, "--no-deps", "--force-reinstall", project, folder=tmp_path, **pip_environment())
    report = report_of(programs, tmp_path, project / "tests")
    failed = set(re.findall(r"^FAILED \S+::(\w+)", report, re.MULTILINE))
    assert {"test_a_new_leader_changes_nothing", "test_it_survives_everything"} <= failed, report
    assert "test_it_keeps_as_many_copies_as_wanted" not in failed
    assert re.search(r"^seed \d+: AssertionError: assert 4 <= 3$", report, re.MULTILINE), report
    (seed,) = set(re.findall(r"--orlop-seed (\d+)", report))
    report = report_of(programs, tmp_path, project / "tests", "-k", "survives", "--orlop-seed", seed)
    assert re.search(rf"^seed {seed}: AssertionError", report, re.MULTILINE), report


def test_the_guides_afternoon_goes_as_it_is_written(authors_programs: Path, tmp_path: Path) -> None:
    """Each command of the guide's shell blocks, in its order, in an environment that has Orlop alone."""
    guide = (ROOT / "docs" / "author-guide.md").read_text()
    lines = [
        line
        for block in re.findall(r"^```sh\n(.*?)^```$", guide, re.MULTILINE | re.DOTALL)
        for line in block.splitlines()
    ]
    assert len(lines) >= 6
    path = f"{authors_programs}{os.pathsep}{os.environ['PATH']}"
    said = [run("bash", "-c", line, folder=tmp_path, **{**pip_environment(), "PATH": path}) for line in lines]
    assert any("6 passed" in text for text in said), said
    assert any("mine: loaded" in text for text in said), said
    assert len(list((tmp_path / "orlop-mine" / "dist").iterdir())) == 2, "a wheel and an archive of the source"
