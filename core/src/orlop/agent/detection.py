"""What a node is, when nobody says: its size, its kind, its boot."""

from __future__ import annotations

import os
import platform
import shutil
from pathlib import Path
from typing import Final

from orlop.model.resources import Resources

#: Above the privileged ports, below the range from which the system picks ports for outgoing connections.
DEFAULT_PORTS: Final = "1025-32000"
_ARCHITECTURES: Final = {"x86_64": "amd64", "aarch64": "arm64"}


def detect_resources(data: Path) -> Resources:
    """All processors, all memory, and the free space under `data`."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return Resources.of({"cpus": (os.cpu_count() or 1) * 1000, "mem": memory, "disk": shutil.disk_usage(data).free})


def operating_system() -> str:
    return platform.system().lower()


def architecture() -> str:
    """In the container world's words: amd64, arm64, ..."""
    machine = platform.machine()
    return _ARCHITECTURES.get(machine, machine)


def boot_id() -> str:
    """Changes with each boot of the machine; empty where the system does not say."""
    path = Path("/proc/sys/kernel/random/boot_id")
    return path.read_text().strip() if path.exists() else ""
