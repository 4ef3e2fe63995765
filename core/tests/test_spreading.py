"""Folders of tasks are apart from one another on the disk, where the file system can."""

from __future__ import annotations

import asyncio
import subprocess
from pathlib import Path
from typing import Any

import pytest

from orlop.agent.spreading import spread
from orlop.configuration import Settings
from orlop.processes.node import make_agent
from orlop.server.plugin_host import PluginHost


async def no_server() -> Any:
    await asyncio.Event().wait()


def kind_of(folder: Path) -> str:
    asked = subprocess.run(["stat", "--file-system", "--format=%T", folder], capture_output=True, text=True, check=True)
    return asked.stdout.strip()


def attributes(folder: Path) -> str:
    """As e2fsprogs shows them; `T` is for the top of hierarchies."""
    asked = subprocess.run(["lsattr", "-d", folder], capture_output=True, text=True, check=True)
    return asked.stdout.partition(" ")[0]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """On ext4."""
    if kind_of(tmp_path) != "ext2/ext3":  # so `stat` calls all of the family
        pytest.skip(f"the tests' folder is on {kind_of(tmp_path)}: only ext4 spreads folders")
    return tmp_path


def test_subfolders_are_spread_on_ext4_and_a_second_time_changes_nothing(folder: Path) -> None:
    assert "T" not in attributes(folder)
    assert spread(folder)
    assert "T" in attributes(folder)
    assert spread(folder)
    assert "T" in attributes(folder)


def test_other_attributes_of_the_folder_stay(folder: Path) -> None:
    subprocess.run(["chattr", "+A", folder], check=True)
    assert spread(folder)
    assert {"A", "T"} <= set(attributes(folder))


async def test_a_nodes_folder_for_its_tasks_is_so(folder: Path) -> None:
    settings = Settings()
    agent = make_agent(settings, folder, PluginHost(settings, [], found=[]), "c", no_server)
    assert "T" in attributes(folder / "tasks")
    running = asyncio.create_task(agent.run())
    await asyncio.sleep(0)
    running.cancel()  # it lets go of its records
    await asyncio.wait([running])


def test_a_file_system_without_such_a_thing_is_left_as_it_is() -> None:
    assert not spread(Path("/proc/self"))


def test_a_folder_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        spread(tmp_path / "none")
