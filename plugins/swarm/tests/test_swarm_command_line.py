"""What `orlop swarm` makes of answers; the commands themselves meet a real pool in tests/test_swarm_commands.py."""

from __future__ import annotations

import pytest

from orlop_swarm.command_line import policy_of, status_of, variables_of


def test_rows_of_the_pool_become_nodes() -> None:
    pool, nodes = status_of(
        [
            ["Role", "primary"],
            ["Strategy", "spread"],
            ["Nodes", "2"],
            [" n1", "10.0.0.1"],
            ["  └ Status", "Healthy"],
            ["  └ Reserved CPUs", "1 / 4"],
            [" n2", "10.0.0.2"],
            ["  └ Error", "the node is gone"],
        ]
    )
    assert pool == {"Role": "primary", "Strategy": "spread", "Nodes": "2"}
    assert nodes == [
        {"name": "n1", "address": "10.0.0.1", "Status": "Healthy", "Reserved CPUs": "1 / 4"},
        {"name": "n2", "address": "10.0.0.2", "Error": "the node is gone"},
    ]


@pytest.mark.parametrize(
    ("listen", "host"),
    [
        ("127.0.0.1:3375", "tcp://127.0.0.1:3375"),
        ("0.0.0.0:3375", "tcp://server.example:3375"),
        ("[::]:3375", "tcp://server.example:3375"),
        ("[fd00::1]:3375", "tcp://[fd00::1]:3375"),
        ("unix:///run/orlop.sock", "unix:///run/orlop.sock"),
    ],
)
def test_clients_are_told_where_to_go(listen: str, host: str) -> None:
    assert variables_of({"listen": [listen], "tls": False}, "server.example") == {"DOCKER_HOST": host}


def test_clients_that_need_a_certificate_are_told_so() -> None:
    found = variables_of({"listen": ["10.0.0.1:3376"], "tls": True}, "10.0.0.1")
    assert found == {"DOCKER_HOST": "tcp://10.0.0.1:3376", "DOCKER_TLS_VERIFY": "1"}


def test_policies_are_read_from_labels() -> None:
    assert policy_of({"com.docker.swarm.reschedule-policies": '["on-node-failure"]'}) == "on-node-failure"
    assert policy_of({"com.docker.swarm.reschedule-policies": '["off"]'}) == "off"
    assert policy_of({}) == "off"
