"""Facts of containers that the docker runtime and adapters of Docker's clients have to agree on."""

from __future__ import annotations

from typing import Final

#: What the names of Orlop's own labels begin with.
LABELS: Final = "orlop."
CLUSTER_LABEL: Final = LABELS + "cluster"
NODE_LABEL: Final = LABELS + "node"
TASK_LABEL: Final = LABELS + "task"
INCARNATION_LABEL: Final = LABELS + "incarnation"
#: Of containers that end with their task and are kept then for a while, for its output: whoever prunes spares them.
OUTPUT_LABEL: Final = LABELS + "output"
#: What the names of containers begin with that an agent keeps for the output of tasks that are no more.
KEPT_NAMES: Final = "orlop.ended."

NANO_CPUS_PER_THOUSANDTH: Final = 10**6
USUAL_PERIOD_US: Final = 100_000


def cpus_limit(nano_cpus: int, quota_us: int, period_us: int) -> int:
    """The processors, in thousandths and rounded up, that a container is limited to by its `HostConfig`; 0: by nothing.

    `NanoCpus` and a quota exclude each other: the engine refuses both at once. 0 of any is the same as not set.
    """
    if nano_cpus > 0:
        return -(-nano_cpus // NANO_CPUS_PER_THOUSANDTH)
    return -(-quota_us * 1000 // (period_us or USUAL_PERIOD_US)) if quota_us > 0 else 0
