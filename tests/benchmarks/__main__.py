"""`python -m tests.benchmarks [--only NAME] [--small] [--json FILE]`: measures what was promised, and says so.

The figures are those of this machine under its load of the moment, which is printed with them. A missed target is no
failure of the run: the exit code is 0 when everything could be measured. With --small, modules that know sizes measure
small ones, which takes a minute and shows that they work.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import signal
import sys
import traceback
from pathlib import Path
from typing import Final

sys.path.insert(0, str(Path(__file__).parents[1]))  # for `running`, `engines` and `etcd_members`

from .figures import Figure, table

MODULES: Final = (
    "kernel",
    "placement",
    "etcd",
    "services",
    "containers",
    "engine_streams",
    "swarm",
    "swarm_load",
    "swarm_peers",
    "cron",
    "cron_load",
    "peers",
    "cron_peers",
    "node_loss",
    "servers",
    "agents",
)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks", description="Measures Orlop.")
    parser.add_argument("--only", choices=MODULES, help="one module alone")
    parser.add_argument("--small", action="store_true", help="small sizes, where a module has them")
    parser.add_argument("--json", type=Path, default=Path("bench.json"), help="the file for the figures")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that what was started is ended
    figures: list[Figure] = []
    skipped: list[str] = []
    failed: list[str] = []
    loads = [os.getloadavg()[0]]
    for name in [options.only] if options.only else MODULES:
        module = importlib.import_module(f".{name}", __package__)
        if reason := getattr(module, "missing", lambda: "")():
            skipped.append(f"{name}: skipped: {reason}")
            continue
        print(f"{name} ...", file=sys.stderr, flush=True)
        try:
            small = (module.SMALL,) if options.small and hasattr(module, "SMALL") else ()
            for figure in module.run(*small):
                figures.append(figure)
                print("  " + "  ".join(figure.cells()).rstrip(), file=sys.stderr, flush=True)
        except Exception as error:  # the other modules are still worth measuring
            traceback.print_exc()
            failed.append(f"{name}: failed: {error}")
        loads.append(os.getloadavg()[0])
    print(table(figures))
    print(f"load average before and after each module: {', '.join(f'{load:.2f}' for load in loads)}")
    print(f"cores: {os.cpu_count()}")
    print("\n".join(skipped + failed))
    document = {
        "cores": os.cpu_count(),
        "load_average": loads,
        "figures": [figure.document() for figure in figures],
        "skipped": skipped,
        "failed": failed,
    }
    options.json.write_text(json.dumps(document, indent=1) + "\n")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
