"""`python tests/chaos [SECONDS [SEED]]`, or `make chaos`: both workloads in one cluster.

With `--plant FAULT` the cluster has one, which should be found.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

from hosts import Hosts

from chaos import planted
from chaos.chronos_jobs import ChronosJobs
from chaos.cluster import Cluster
from chaos.marathon_apps import MarathonApps


def main() -> int:
    parser = argparse.ArgumentParser(prog="chaos")
    parser.add_argument("seconds", type=float, nargs="?", default=600)
    parser.add_argument("seed", type=int, nargs="?", default=int(time.time()))
    parser.add_argument("--plant", choices=planted.FAULTS, default="")
    options = parser.parse_args()
    print(f"seed {options.seed}", flush=True)
    hosts = Hosts()
    cluster = Cluster(hosts, options.seed, planted.program(options.plant))
    try:
        cluster.start()
        cluster.run(options.seconds, [MarathonApps(cluster), ChronosJobs(cluster, hosts.lane.folder / "programs")])
    except AssertionError as error:
        print("\n".join(cluster.done))
        print(f"seed {options.seed}: {error}")
        return 1
    finally:
        cluster.close()
        hosts.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
