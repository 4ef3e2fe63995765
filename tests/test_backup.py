"""Backup, restore and migration of a running cluster's state: nothing that runs is harmed."""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest
from etcd_members import EtcdFactory
from running import RunningOrlop, process_app, wait_until

pytestmark = pytest.mark.real


@pytest.fixture
def orlop(tmp_path: Path) -> Iterator[RunningOrlop]:
    cluster = RunningOrlop(tmp_path)
    try:
        cluster.start()
        yield cluster
    finally:
        cluster.close()


def alive(pid: str) -> bool:
    return Path(f"/proc/{pid}").exists()


def test_restoring_kills_nothing_and_what_the_backup_knows_is_adopted(orlop: RunningOrlop, tmp_path: Path) -> None:
    orlop.call("POST", "/v2/apps", process_app("/before", 2))
    orlop.wait_deployed()
    before = orlop.running("/before")
    file = tmp_path / "blue.orlop-backup"
    said = orlop.cli("backup", str(file))
    assert "documents" in said
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    orlop.call("POST", "/v2/apps", process_app("/after", 2, cmd="echo I am forgotten; exec sleep 1000"))
    orlop.wait_deployed()
    after = orlop.running("/after")
    data = ("--data", str(orlop.data))
    refused = orlop.cli("restore", str(file), "--replace", *data, code=1)
    assert "in use by process" in refused
    orlop.stop()
    assert "--replace gives it up" in orlop.cli("restore", str(file), *data, code=5)
    assert "generation 2" in orlop.cli("restore", str(file), "--replace", *data)
    orlop.start()
    wait_until(lambda: len(orlop.get(f"{orlop.url}/v1/cluster")["orphans"]) == 2, "what it does not know is shown")
    wait_until(lambda: orlop.running("/before") == before, "what it knows is adopted")
    assert all(alive(pid) for pid in {**before, **after}.values())
    orphans = orlop.get(f"{orlop.url}/v1/cluster")["orphans"]
    assert {one["task"] for one in orphans} == after.keys()
    assert orlop.cli("logs", orphans[0]["task"], "--node", orphans[0]["node_name"]) == "I am forgotten\n"
    assert "there is no node 'none'" in orlop.cli("logs", orphans[0]["task"], "--node", "none", code=4)
    assert "has no output on this node" in orlop.cli("logs", "f" * 20, "--node", orphans[0]["node"], code=4)
    orlop.call("PUT", "/v2/apps//before?force=true", {"instances": 3})
    orlop.wait_deployed()
    assert before.items() < orlop.running("/before").items()


def test_a_backup_of_no_server_and_damaged_files(orlop: RunningOrlop, tmp_path: Path) -> None:
    orlop.stop()
    file = tmp_path / "offline"
    orlop.cli("backup", str(file), "--offline", "--data", str(orlop.data))
    damaged = tmp_path / "damaged"
    damaged.write_bytes(file.read_bytes()[:-20])
    assert "damaged" in orlop.cli("restore", str(damaged), "--replace", "--data", str(orlop.data), code=1)
    assert sorted(os.listdir(tmp_path)) == sorted({"offline", "damaged", "data", "orlop.log"}), "no temporary files"
    fresh = tmp_path / "a" / "fresh"
    assert "restored" in orlop.cli("restore", str(file), "--data", str(fresh))
    assert (fresh / "state.db").exists()
    orlop.start()


def test_from_an_embedded_store_to_an_etcd_and_back(orlop: RunningOrlop, tmp_path: Path, etcds: EtcdFactory) -> None:
    orlop.call("POST", "/v2/apps", process_app("/moved", 2))
    orlop.wait_deployed()
    orlop.stop()
    with contextlib.closing(etcds.cluster()) as etcd:
        url = etcd.url()
        data = ("--data", str(orlop.data))
        assert "generation 2" in orlop.cli("store", "migrate", "--to", url, *data)
        assert "--replace gives it up" in orlop.cli("store", "migrate", "--to", url, *data, code=5)
        settings = tmp_path / "of-etcd.toml"
        settings.write_text(f'[store]\nurl = "{url}"\n')
        of_etcd = ("--config", str(settings))
        assert "member " in orlop.cli("store", "status", *of_etcd)
        file = tmp_path / "of-etcd"
        orlop.cli("backup", str(file), "--offline", *of_etcd)
        assert "defragmented" in orlop.cli("store", "compact", *of_etcd)
    assert "generation 3" in orlop.cli("restore", str(file), "--replace", *data)
    orlop.start()
    assert len(orlop.running("/moved")) == 2
