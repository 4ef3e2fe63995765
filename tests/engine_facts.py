"""A node's facts all at once, as the engine lists what it has: to compare with what a runtime has followed."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from orlop.agent.runtimes.docker_facts import bounded, engine_of, foreign_of, image_of
from orlop.model.facts import NodeFacts


def facts_of(
    info: Mapping[str, Any], images: Iterable[Mapping[str, Any]], containers: Iterable[Mapping[str, Any]], cluster: str
) -> NodeFacts:
    """From `/info`, the items of `/images/json`, each container's inspection. cluster: whose tasks are not foreign."""
    foreign = [found for item in containers if (found := foreign_of(item, cluster)) is not None]
    return bounded(engine_of(info), map(image_of, images), foreign)


def listed_facts(client: Any, cluster: str) -> NodeFacts:
    """client: of docker-py, with low-level calls."""
    containers = [client.inspect_container(item["Id"]) for item in client.containers(all=True)]
    return facts_of(client.info(), client.images(), containers, cluster)
