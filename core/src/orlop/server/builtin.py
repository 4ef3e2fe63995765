"""The plugin that Orlop itself is: the kernel's own filters and scorers, admission, and the two runtimes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from orlop.agent.runtimes.interface import Runtime, RuntimeContext
from orlop.framework import Framework, NodeFilter, NodeScorer
from orlop.hookspecs import hookimpl
from orlop.kernel.filters import kernel_filters, kernel_scorers
from orlop.server.admission import Admission


@hookimpl
def frameworks() -> Sequence[type[Framework]]:
    return (Admission,)


@hookimpl
def node_filters(settings: Any) -> Sequence[NodeFilter]:  # noqa: ARG001
    return kernel_filters()


@hookimpl
def node_scorers(settings: Any) -> Sequence[NodeScorer]:  # noqa: ARG001
    return kernel_scorers()


@hookimpl
def runtimes(context: RuntimeContext) -> Sequence[Runtime]:
    from orlop.agent.runtimes.docker import DockerRuntime
    from orlop.agent.runtimes.process import ProcessRuntime

    return (ProcessRuntime(context), DockerRuntime(context))
