"""Facts read from a real engine, by hand-made images and containers."""

from __future__ import annotations

from typing import Any

import pytest
from engine_facts import listed_facts
from engines import Engine

from orlop.docker_containers import CLUSTER_LABEL, TASK_LABEL
from orlop.model.facts import FactsChange, HostPort, Image, applied, difference
from orlop.model.resources import Resources

pytestmark = [pytest.mark.docker, pytest.mark.filterwarnings("ignore:unclosed <socket:ResourceWarning")]


def _create(client: Any, name: str, labels: dict[str, str], **host: Any) -> str:
    config = client.create_host_config(**host)
    made = client.create_container(
        "busybox", ["sleep", "1000"], name=name, labels=labels, host_config=config, ports=[80, 81]
    )
    identifier: str = made["Id"]
    return identifier


def test_what_was_started_by_hand_is_seen(engine: Engine, client: Any) -> None:
    before = listed_facts(client, "c1")
    _create(client, "ours", {CLUSTER_LABEL: "c1", TASK_LABEL: "t1"}, mem_limit="128m")
    theirs = _create(
        client,
        "theirs",
        {"tier": "front"},
        mem_limit="64m",
        nano_cpus=500_000_000,
        port_bindings={80: 18080, 81: ("127.0.0.1",)},
    )
    created = listed_facts(client, "c1")
    change = difference(before, created)
    assert [one.id for one in change.containers] == [theirs]
    assert change.containers[0].host_ports == (HostPort(number=18080),)
    assert created.foreign_use == before.foreign_use

    client.start(theirs)
    found = listed_facts(client, "c1").containers[theirs]
    assert (found.names, found.image, found.labels["tier"]) == (("theirs",), "busybox", "front")
    assert listed_facts(client, "c1").foreign_use == Resources.of({"mem": 64 * 2**20, "cpus": 500})
    given = int(client.port(theirs, 81)[0]["HostPort"])
    assert set(found.host_ports) == {HostPort(number=18080), HostPort(number=given, address="127.0.0.1")}

    client.remove_container(theirs, force=True)
    assert difference(created, listed_facts(client, "c1")) == FactsChange(containers_gone=(theirs,))


def test_a_tag_is_a_change_of_one_image(client: Any) -> None:
    before = listed_facts(client, "c1")
    busybox = client.inspect_image("busybox")["Id"]
    client.tag("busybox", "facts-of-it", "1")
    try:
        after = listed_facts(client, "c1")
        change = difference(before, after)
        tags = tuple(sorted({*before.images[busybox].tags, "facts-of-it:1"}))
        assert change == FactsChange(images=(Image(id=busybox, tags=tags),))
        assert after.images[busybox].local
        assert applied(before, change) == after
    finally:
        client.remove_image("facts-of-it:1")
    assert listed_facts(client, "c1") == before


def test_an_engine_tells_of_itself(client: Any) -> None:
    told, info = listed_facts(client, "c1").engine, client.info()
    assert told.version == client.version()["Version"]
    assert told.os_type == "linux"
    assert (told.storage_driver, told.kernel_version) == (info["Driver"], info["KernelVersion"])
    assert told.operating_system
