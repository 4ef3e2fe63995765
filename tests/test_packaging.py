"""A wheel of each distribution, installed into an empty environment away from the checkout, works."""

from __future__ import annotations

import os
import subprocess
import sys
import venv
from pathlib import Path

import pytest
from running import free_port, wait_until

ROOT = Path(__file__).parent.parent
DISTRIBUTIONS = ("core", "plugins/marathon", "plugins/chronos", "plugins/swarm")

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


def test_wheels_work_away_from_the_checkout(tmp_path: Path) -> None:
    wheels = tmp_path / "wheels"
    sources = [str(ROOT / distribution) for distribution in DISTRIBUTIONS]
    run(
        sys.executable,
        "-m",
        "pip",
        "wheel",
        "-q",
        "--no-deps",
        "-w",
        wheels,
        *sources,
        folder=tmp_path,
        **pip_environment(),
    )
    built = sorted(wheels.glob("*.whl"))
    assert len(built) == len(DISTRIBUTIONS)
    place = tmp_path / "empty"
    venv.create(place, with_pip=True)
    python = place / "bin" / "python"
    run(python, "-m", "pip", "install", "-q", *built, folder=tmp_path, **pip_environment())
    assert run(place / "bin" / "orlop", "version", folder=tmp_path).strip()
    where = run(python, "-c", "import orlop; print(orlop.__file__)", folder=tmp_path)
    assert where.startswith(str(place))
    settings = {
        "ORLOP_SERVER__LISTEN": f"127.0.0.1:{free_port()}",
        "ORLOP_PLUGINS__MARATHON__LISTEN": f"127.0.0.1:{free_port()}",
        "ORLOP_AGENT__DOCKER": "unix:///nonexistent/docker.sock",
    }
    server = f"http://{settings['ORLOP_SERVER__LISTEN']}"
    process = subprocess.Popen(
        [place / "bin" / "orlop", "up", "--data", tmp_path / "data"],
        cwd=tmp_path,
        env={"PATH": os.environ["PATH"], "HOME": str(tmp_path), **settings},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:

        def listed() -> str:
            done = subprocess.run(
                [place / "bin" / "orlop", "--server", server, "plugins", "list", "-o", "json"],
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
