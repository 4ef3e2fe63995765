"""Engines that have the very same image, so that a pool of them has one: what each imports has an id of its own."""

from __future__ import annotations

import contextlib

import docker
from engines import Engine, Lane


def twins(lane: Lane, *names: str) -> list[Engine]:
    """New engines with the first one's busybox."""
    made = [lane.engine(name) for name in names]
    share(*made)
    return made


def share(first: Engine, *others: Engine) -> None:
    """The others get the first one's busybox instead of their own."""
    with contextlib.closing(first.client()) as client:
        archive = b"".join(client.get_image("busybox:latest"))
    for one in others:
        with contextlib.closing(one.client()) as client:
            client.remove_image("busybox:latest", force=True)
            client.load_image(archive)


def clean(engine: Engine) -> None:
    """Leaves busybox and nothing else."""
    engine.clear()
    with contextlib.closing(engine.client()) as client:
        clear_all_but_containers(client)


def clear_all_but_containers(client: docker.APIClient) -> None:
    """Leaves busybox of what an engine, or a pool, has besides containers."""
    client.prune_networks()
    # Those with nothing but settings for others are not pruned.
    for network in client.networks(filters={"type": "custom"}):
        client.remove_network(network["Id"])
    for volume in client.volumes()["Volumes"] or ():
        client.remove_volume(volume["Name"], force=True)
    for tag in tags_of(client):
        if tag != "busybox:latest":
            client.remove_image(tag, force=True)
    client.prune_images({"dangling": True})


def tags_of(client: docker.APIClient) -> list[str]:
    tags = {tag for image in client.images() for tag in image["RepoTags"] or ()}
    return sorted(tags - {"<none>:<none>"})
