"""One minute of random troubles on real processes, with Marathon and Chronos inside; `make chaos` takes ten."""

from __future__ import annotations

from pathlib import Path

import pytest
from chaos.chronos_jobs import ChronosJobs
from chaos.cluster import Cluster
from chaos.marathon_apps import MarathonApps
from etcd_members import missing
from hosts import Hosts

pytestmark = [pytest.mark.real, pytest.mark.timeout(900)]

SEED = 20261125


def test_a_minute_of_chaos(hosts: Hosts, tmp_path: Path) -> None:
    assert not missing()
    cluster = Cluster(hosts, SEED)
    try:
        cluster.start()
        cluster.run(60, [MarathonApps(cluster), ChronosJobs(cluster, tmp_path / "programs")])
    except AssertionError as error:
        raise AssertionError("\n".join([*cluster.done, str(error)])) from error
    finally:
        cluster.close()
