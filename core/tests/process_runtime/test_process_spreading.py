"""Folders of tasks are apart from one another on the disk, where the file system can."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from orlop.agent.runtimes.process_spreading import spread


def kind_of(folder: Path) -> str:
    asked = subprocess.run(["stat", "--file-system", "--format=%T", folder], capture_output=True, text=True, check=True)
    return asked.stdout.strip()


def attributes(folder: Path) -> str:
    """As e2fsprogs shows them; `T` is for the top of hierarchies."""
    asked = subprocess.run(["lsattr", "-d", folder], capture_output=True, text=True, check=True)
    return asked.stdout.partition(" ")[0]


def test_subfolders_are_spread_on_ext4_and_a_second_time_changes_nothing(tmp_path: Path) -> None:
    if kind_of(tmp_path) != "ext2/ext3":  # so `stat` calls all of the family
        pytest.skip(f"the tests' folder is on {kind_of(tmp_path)}: only ext4 spreads folders")
    assert "T" not in attributes(tmp_path)
    assert spread(tmp_path)
    assert "T" in attributes(tmp_path)
    assert spread(tmp_path)
    assert "T" in attributes(tmp_path)


def test_other_attributes_of_the_folder_stay(tmp_path: Path) -> None:
    if kind_of(tmp_path) != "ext2/ext3":
        pytest.skip(f"the tests' folder is on {kind_of(tmp_path)}: only ext4 spreads folders")
    subprocess.run(["chattr", "+A", tmp_path], check=True)
    assert spread(tmp_path)
    assert {"A", "T"} <= set(attributes(tmp_path))


def test_a_file_system_without_such_a_thing_is_left_as_it_is() -> None:
    assert not spread(Path("/proc/self"))


def test_a_folder_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        spread(tmp_path / "none")
