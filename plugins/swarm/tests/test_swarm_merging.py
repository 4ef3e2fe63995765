"""What many engines say, as one: images, networks, volumes, `info`, `version`, `df`, events, refusals."""

from __future__ import annotations

import random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orlop_swarm.engines.interface import EngineNode
from orlop_swarm.merging import answers, copies, events, images, system
from orlop_swarm.merging.answers import Answer, Refusal
from orlop_swarm.merging.system import About, Member


def told(node: str, content: Any, status: int = 200) -> Answer:
    return Answer(node=node, node_id=f"id-{node}", status=status, content=content)


def image(id_: str, *tags: str, created: int = 0, **more: Any) -> dict[str, Any]:
    return {"Id": id_, "RepoTags": list(tags) or None, "RepoDigests": None, "Created": created, "Labels": None, **more}


def network(name: str, id_: str, created: str = "2026-01-01", **more: Any) -> dict[str, Any]:
    return {"Name": name, "Id": id_, "Created": created, "Scope": "local", "Labels": {}, "Containers": {}, **more}


def test_the_same_words_of_all_engines_are_said_once() -> None:
    assert answers.refusal([told("b", "No such image: x", 404), told("a", "No such image: x", 404)]) == Refusal(
        404, "No such image: x"
    )


def test_different_words_are_said_with_their_nodes_and_what_was_done_is_told() -> None:
    several = [told("c", None), told("b", "disk full", 500), told("a", "in use", 409)]
    assert answers.refusal(several) == Refusal(500, "a: in use; b: disk full (done on c)")


def test_refusals_that_differ_by_a_connections_port_alone_are_the_same() -> None:
    several = [told(node, f"read udp 127.0.0.1:{port}->127.0.0.1:53", 500) for node, port in (("a", 41), ("b", 5055))]
    assert answers.refusal(several) == Refusal(500, "read udp 127.0.0.1:41->127.0.0.1:53")


def test_one_failure_among_successes_is_told_with_its_node() -> None:
    assert answers.refusal([told("a", None), told("b", "disk full", 500)]) == Refusal(500, "b: disk full (done on a)")


def test_a_thing_that_only_some_do_not_know_is_known() -> None:
    some = [told("a", "No such image: x", 404), told("b", {})]
    assert answers.nobody_has_it(some) is None
    assert answers.refusal(some, but=(404,)) is None


def test_an_engine_that_is_away_is_why_nobody_knows_it() -> None:
    some = [told("a", "No such image: x", 404), told("b", "it hangs", 503)]
    assert answers.nobody_has_it(some) == Refusal(503, "it hangs")


def test_an_image_on_two_nodes_is_one_row_with_the_names_of_both() -> None:
    merged = images.listed(
        [
            told("b", [image("sha256:1", "x:2", created=5, Containers=2, SharedSize=-1)]),
            told("a", [image("sha256:1", "x:1", created=5, Containers=1, SharedSize=7), image("sha256:2", created=9)]),
        ]
    )
    assert [row["Id"] for row in merged] == ["sha256:2", "sha256:1"]
    assert merged[1]["RepoTags"] == ["x:1", "x:2"]
    assert (merged[1]["Containers"], merged[1]["SharedSize"]) == (3, 7)


def test_an_image_is_untagged_only_where_no_node_has_a_tag_for_it() -> None:
    bare = image("sha256:1", images.NO_TAG)
    (row,) = images.listed([told("a", [bare]), told("b", [image("sha256:1", "x:1")])])
    assert row["RepoTags"] == ["x:1"]
    (row,) = images.listed([told("a", [bare]), told("b", [bare])])
    assert row["RepoTags"] == [images.NO_TAG]


def test_the_labels_of_the_pool_are_not_shown() -> None:
    (row,) = images.listed([told("a", [{**image("sha256:1"), "Labels": {"orlop.task": "t", "mine": "1"}}])])
    assert row["Labels"] == {"mine": "1"}


def test_inspecting_a_tag_that_means_two_images_shows_the_first_nodes_one() -> None:
    shown = images.inspected([told("b", image("sha256:2", "x:1", "y:1")), told("a", image("sha256:1", "x:1"))])
    assert shown is not None
    assert (shown["Id"], shown["RepoTags"]) == ("sha256:1", ["x:1"])
    assert images.inspected([told("a", "No such image", 404)]) is None


def test_removing_an_image_tells_each_step_once_and_names_first() -> None:
    steps = [{"Untagged": "x:1"}, {"Deleted": "sha256:1"}]
    assert images.removed([told("a", steps), told("b", [*steps, {"Untagged": "x:2"}])]) == [
        {"Untagged": "x:1"},
        {"Untagged": "x:2"},
        {"Deleted": "sha256:1"},
    ]


def of(*parts: Answer) -> list[copies.Shown]:
    return copies.grouped(parts, copies.of_network)


def test_a_local_network_is_shown_once_with_the_first_nodes_id_and_all_containers() -> None:
    a = network("n", "aa", Containers={"c1": {"Name": "one"}})
    b = network("n", "bb", Containers={"c2": {"Name": "two"}})
    (one,) = copies.networks(of(told("b", [b]), told("a", [a])))
    assert one["Id"] == "aa"
    assert set(one["Containers"]) == {"c1", "c2"}


def test_a_network_that_spans_nodes_is_one_by_its_id() -> None:
    spanning = network("o", "ff", Scope="swarm")
    other = network("o", "ee", Scope="swarm")
    assert [one.first["Id"] for one in of(told("a", [spanning, other]), told("b", [spanning]))] == ["ee", "ff"]


def test_copies_of_networks_with_the_same_name_are_told_apart_by_their_label() -> None:
    def labelled(id_: str, value: str) -> dict[str, Any]:
        return network("n", id_, Labels={copies.NETWORK_LABEL: value})

    first, second = of(told("a", [labelled("a1", "x"), labelled("a2", "y")]), told("b", [labelled("b2", "y")]))
    assert [copy.document["Id"] for copy in first.copies] == ["a1"]
    assert [copy.document["Id"] for copy in second.copies] == ["a2", "b2"]


def test_two_networks_of_one_engine_stay_two() -> None:
    twice = [network("n", "a2", "2026-02"), network("n", "a1", "2026-01")]
    groups = of(told("a", twice), told("b", [network("n", "b1", "2026-03")]))
    assert [[copy.document["Id"] for copy in one.copies] for one in groups] == [["a1", "b1"], ["a2"]]


@pytest.mark.parametrize(
    ("reference", "found"),
    [("n", "aa11"), ("bb22", "aa11"), ("bb", "aa11"), ("beta/n", "bb22"), ("id-beta/n", "bb22"), ("m", "cc33")],
)
def test_a_network_is_found_by_name_any_id_a_prefix_or_its_node(reference: str, found: str) -> None:
    groups = of(told("alpha", [network("n", "aa11"), network("m", "cc33")]), told("beta", [network("n", "bb22")]))
    one = copies.found(groups, reference)
    assert one is not None
    assert one.first["Id"] == found


def test_what_is_not_there_is_not_found_and_what_is_twice_is_ambiguous() -> None:
    groups = of(told("a", [network("n", "aa11"), network("m", "aa22")]))
    assert copies.found(groups, "zz") is None
    assert copies.found(groups, "b/n") is None
    with pytest.raises(copies.Ambiguous, match=r"^2 matches found based on ID prefix: network aa is ambiguous$"):
        copies.found(groups, "aa")


def test_what_one_node_uses_is_not_unused() -> None:
    idle = [told("a", [network("n", "a1"), network("m", "a2")]), told("b", [])]
    busy = [told("a", []), told("b", [network("n", "b1")])]
    assert [one.name for one in copies.unused(idle, busy, copies.of_network)] == ["m"]


def test_a_volume_is_listed_once() -> None:
    def volume(node: str) -> dict[str, Any]:
        return {"Name": "v", "Mountpoint": f"/{node}", "Labels": None, "UsageData": {"RefCount": 1, "Size": -1}}

    parts = [told("b", {"Volumes": [volume("b")]}), told("a", {"Volumes": [volume("a")]}), told("c", {"Volumes": None})]
    merged = copies.volumes(copies.grouped(parts, copies.of_volume, "Volumes"))
    assert merged == {"Volumes": [{**volume("a"), "UsageData": {"RefCount": 2, "Size": -1}}], "Warnings": None}


def test_what_was_pruned_is_added_up() -> None:
    parts = [told("b", {"VolumesDeleted": ["v", "w"], "SpaceReclaimed": 2}), told("a", {"VolumesDeleted": None})]
    assert answers.pruned(parts, "VolumesDeleted") == {"VolumesDeleted": ["v", "w"], "SpaceReclaimed": 2}
    assert answers.pruned([told("a", {"NetworksDeleted": None})], "NetworksDeleted") == {"NetworksDeleted": None}


ABOUT = About(id="ID", name="pool", version="0.1", filters=("health", "port"))


def engine_info(name: str, **more: Any) -> dict[str, Any]:
    return {
        "ID": name.upper(),
        "Name": name,
        "Containers": 3,
        "ContainersRunning": 2,
        "ContainersPaused": 0,
        "ContainersStopped": 1,
        "NCPU": 2,
        "MemTotal": 26_543_000_000,
        "MemoryLimit": True,
        "SwapLimit": True,
        "Driver": "overlay2",
        "DriverStatus": [["a", "b"]],
        "KernelVersion": "6.1",
        "OperatingSystem": "Debian",
        "OSType": "linux",
        "Labels": [f"engine={name}"],
        "ServerVersion": "20.10.24",
        "SystemTime": "2026-11-26T02:56:34.008418726Z",
        "Plugins": {"Volume": ["local"], "Authorization": None},
        "Runtimes": {"runc": {}},
        "SecurityOptions": ["name=seccomp"],
        "Warnings": ["WARNING: no swap"],
        **more,
    }


def test_info_adds_up_and_shows_classic_swarms_rows() -> None:
    members = [
        Member(id="id-node-10", name="node-10", address="10.0.0.10", unavailable="it hangs"),
        Member(
            id="id-node-2", name="node-2", address="10.0.0.2", reserved_cpus=1_500, reserved_mem=20 * 2**20, cpus=4_000
        ),
    ]
    parts = [told("node-2", engine_info("node-2", SwapLimit=False)), told("node-3", engine_info("node-3"))]
    merged = system.info(parts, members, ABOUT)
    assert (merged["Name"], merged["ID"], merged["NCPU"], merged["Containers"]) == ("pool", "ID", 4, 6)
    assert (merged["MemoryLimit"], merged["SwapLimit"]) == (True, False)
    assert merged["Warnings"] == ["WARNING: no swap", "WARNING: Node node-10 is not available: it hangs"]
    assert merged["SystemStatus"] == [
        ["Role", "primary"],
        ["Strategy", "spread"],
        ["Filters", "health, port"],
        ["Nodes", "2"],
        [" node-2", "10.0.0.2"],
        ["  └ ID", "NODE-2"],
        ["  └ Status", "Healthy"],
        ["  └ Containers", "3 (2 Running, 0 Paused, 1 Stopped)"],
        ["  └ Reserved CPUs", "1.5 / 4"],
        ["  └ Reserved Memory", "20 MiB / 24.72 GiB"],
        [
            "  └ Labels",
            "engine=node-2, kernelversion=6.1, operatingsystem=Debian, ostype=linux, storagedriver=overlay2",
        ],
        ["  └ UpdatedAt", "2026-11-26T02:56:34Z"],
        ["  └ ServerVersion", "20.10.24"],
        [" node-10", "10.0.0.10"],
        ["  └ ID", "id-node-10"],
        ["  └ Status", "Unhealthy"],
        ["  └ Containers", "0"],
        ["  └ Reserved CPUs", "0 / 0"],
        ["  └ Reserved Memory", "0 B / 0 B"],
        ["  └ Labels", ""],
        ["  └ Error", "it hangs"],
        ["  └ ServerVersion", ""],
    ]


def test_info_of_a_pool_whose_engines_are_all_away_is_still_an_answer() -> None:
    merged = system.info([told("a", "it hangs", 503)], [Member(id="id-a", name="a")], ABOUT)
    assert merged["NCPU"] == 0
    assert merged["Warnings"] == ["WARNING: Node a is not available: it hangs"]


def test_a_warning_of_some_engines_names_them() -> None:
    parts = [told("a", engine_info("a", Warnings=["w"])), told("b", engine_info("b", Warnings=None))]
    assert system.info(parts, [], ABOUT)["Warnings"] == ["w (on a)"]


def test_version_is_the_oldest_engines_with_the_common_api() -> None:
    def engine(version: str) -> dict[str, Any]:
        details = {"ApiVersion": "1.99", "MinAPIVersion": "1.0", "Os": "linux"}
        return {"Version": version, "Components": [{"Name": "Engine", "Version": version, "Details": details}]}

    merged = system.version([told("a", engine("20.10.24")), told("b", engine("9.1"))], ABOUT, "1.12", "1.41")
    assert (merged["Version"], merged["MinAPIVersion"], merged["ApiVersion"]) == ("9.1", "1.12", "1.41")
    assert merged["Components"][0]["Details"] == {"ApiVersion": "1.41", "MinAPIVersion": "1.12", "Os": "linux"}
    assert merged["Components"][1]["Name"] == "Orlop"


def test_disk_usage_adds_sizes_up_and_lists_things_once() -> None:
    def usage(container: str) -> dict[str, Any]:
        return {
            "LayersSize": 10,
            "Images": [image("sha256:1", "x:1", Containers=1, SharedSize=0)],
            "Containers": [{"Id": container, "Created": 1, "Labels": {"orlop.task": "t"}}],
            "Volumes": None,
            "BuildCache": None,
            "BuilderSize": 1,
        }

    merged = system.disk_usage([told("b", usage("cb")), told("a", usage("ca"))])
    assert (merged["LayersSize"], merged["BuilderSize"], merged["BuildCache"]) == (20, 2, None)
    assert [one["Containers"] for one in merged["Images"]] == [2]
    assert merged["Containers"] == [{"Id": "ca", "Created": 1, "Labels": {}}, {"Id": "cb", "Created": 1, "Labels": {}}]


def test_what_is_kept_for_its_output_is_not_counted() -> None:
    kept = {"Id": "k", "Created": 1, "Names": ["/orlop.ended.1764000000.abc.1"], "ImageID": "sha256:1"}
    held = {"Id": "c", "Created": 2, "Names": ["/c"], "ImageID": "sha256:1"}
    parts = [told("a", engine_info("a")), told("b", engine_info("b")), told("c", "it hangs", 503)]
    lists = [told("a", [kept]), told("b", []), told("c", "it hangs", 503)]
    merged = system.info(system.without_kept(parts, lists), [Member(id="id-a", name="a")], ABOUT)
    members = ("Containers", "ContainersRunning", "ContainersStopped")
    assert [merged[member] for member in members] == [5, 4, 1]
    assert ["  └ Containers", "2 (2 Running, 0 Paused, 0 Stopped)"] in merged["SystemStatus"]
    usage = {"Images": [image("sha256:1", "x:1", Containers=2)], "Containers": [kept, held], "Volumes": None}
    used = system.disk_usage([told("a", usage)])
    assert [one["Id"] for one in used["Containers"]] == ["c"]
    assert [one["Containers"] for one in used["Images"]] == [1]


def event(nanos: int, action: str = "start", **attributes: str) -> dict[str, Any]:
    return {"Action": action, "timeNano": nanos, "Actor": {"ID": "c", "Attributes": attributes}}


def test_events_of_all_engines_are_told_in_the_order_of_time() -> None:
    parts = {"b": [event(1, "b1"), event(4, "b4")], "a": [event(2, "a2"), event(4, "a4")]}
    assert [one["Action"] for _, one in events.in_time(parts)] == ["b1", "a2", "a4", "b4"]


def test_an_event_says_where_it_was_and_hides_what_is_the_pools() -> None:
    node = EngineNode(id="N1", name="one", address="10.0.0.1")
    shown = events.of_node({**event(1, **{"orlop.task": "t", "image": "i"}), "from": "i"}, node)
    assert shown["Actor"]["Attributes"] == {
        "image": "i",
        "node.name": "one",
        "node.id": "N1",
        "node.ip": "10.0.0.1",
        "node.addr": "10.0.0.1",
    }
    assert shown["node"] == {"Name": "one", "Id": "N1", "Addr": "10.0.0.1", "Ip": "10.0.0.1"}
    assert shown["from"] == "i"


@pytest.mark.parametrize(
    ("text", "nanos"), [("12", 12 * 10**9), ("12.5", 12_500_000_000), ("12.000000001", 12_000_000_001), ("10m", None)]
)
def test_moments_are_read_as_engines_read_them(text: str, nanos: int | None) -> None:
    assert events.nanoseconds(text) == nanos
    if nanos is not None:
        assert events.nanoseconds(events.timestamp(nanos)) == nanos


@given(st.lists(st.integers(0, 40), min_size=1, max_size=60), st.integers(0, 60))
def test_an_engine_followed_anew_tells_nothing_twice_and_leaves_nothing_out(moments: list[int], cut: int) -> None:
    """Whatever the order of its events' times, and wherever the connection breaks."""
    second = events.SECOND_NS // 10
    all_events = [event(at * second, str(number)) for number, at in enumerate(moments)]
    followed = events.Followed(0)
    told_once = [one["Action"] for one in all_events[:cut] if followed.is_new(one)]
    since = followed.since()
    again = [one for one in all_events if one["timeNano"] >= since]
    told_once += [one["Action"] for one in again if followed.is_new(one)]
    late = [one["Action"] for one in all_events[cut:] if one["timeNano"] < since]
    assert sorted([*told_once, *late], key=int) == [str(number) for number in range(len(moments))]


@given(st.randoms(use_true_random=False))
def test_the_order_of_the_answers_never_matters(chance: random.Random) -> None:
    names = ["a", "b", "c"]
    parts = [
        told(
            name,
            [
                image(f"sha256:{chance.randrange(3)}{number}", f"x:{chance.randrange(3)}", created=chance.randrange(3))
                for number in range(3)
            ],
        )
        for name in names
    ]
    nets = [told(name, [network(f"n{chance.randrange(2)}", f"{name}{i}", str(i)) for i in range(3)]) for name in names]
    infos = [told(name, engine_info(name, Warnings=[str(chance.randrange(2))])) for name in names]
    shuffled = [chance.sample(one, len(one)) for one in (parts, nets, infos)]
    assert images.listed(parts) == images.listed(shuffled[0])
    assert copies.networks(of(*nets)) == copies.networks(of(*shuffled[1]))
    assert system.info(infos, [], ABOUT) == system.info(shuffled[2], [], ABOUT)


def test_what_nodes_do_of_one_request_is_told_once_and_what_they_do_again_once_more() -> None:
    def event(action: str, name: str, at_s: float, kind: str = "image", **more: Any) -> dict[str, Any]:
        return {"Type": kind, "Action": action, "timeNano": int(at_s * events.SECOND_NS), **more,
                "Actor": {"ID": more.get("ID", "i"), "Attributes": {"name": name}}}  # fmt: skip

    once = events.Once()
    assert [once.is_new(node, event("untag", "i", 1)) for node in "aabb"] == [True, True, False, False]
    assert [once.is_new(node, event("tag", "x", 2)) for node in "aba"] == [True, False, True]
    assert once.is_new("b", event("tag", "y", 2)), "another name"
    assert once.is_new("b", event("tag", "x", 2, ID="j")), "another image"
    assert [once.is_new(node, event("create", "n", 3, "network", ID=node)) for node in "ab"] == [True, False]
    assert [once.is_new(node, event("create", "n", 3, "container")) for node in "ab"] == [True, True]
    assert once.is_new("b", event("create", "n", 40, "network")), "long after it"
    for number in range(3 * events.EVENTS_REMEMBERED):
        assert once.is_new("a", event("tag", str(number), 50))
    assert len(once._done) == events.EVENTS_REMEMBERED
