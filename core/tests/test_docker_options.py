"""Flags of `docker run` as members of a create body."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orlop import docker_options


@pytest.mark.parametrize(
    ("key", "value", "body"),
    [
        ("label", "a=b=c", {"Labels": {"a": "b=c"}}),
        ("env", "A=b", {"Env": ["A=b"]}),
        ("hostname", "h", {"Hostname": "h"}),
        ("add-host", "a:1.2.3.4", {"HostConfig": {"ExtraHosts": ["a:1.2.3.4"]}}),
        ("cap-add", "NET_ADMIN", {"HostConfig": {"CapAdd": ["NET_ADMIN"]}}),
        ("cap-drop", "ALL", {"HostConfig": {"CapDrop": ["ALL"]}}),
        ("ulimit", "nofile=1:2", {"HostConfig": {"Ulimits": [{"Name": "nofile", "Soft": 1, "Hard": 2}]}}),
        ("ulimit", "core=0", {"HostConfig": {"Ulimits": [{"Name": "core", "Soft": 0, "Hard": 0}]}}),
        ("volume", "/a:/b:ro", {"HostConfig": {"Binds": ["/a:/b:ro"]}}),
        ("v", "/a", {"Volumes": {"/a": {}}}),
        ("workdir", "/w", {"WorkingDir": "/w"}),
        ("user", "1:2", {"User": "1:2"}),
        ("memory-swap", "-1", {"HostConfig": {"MemorySwap": -1}}),
        ("memory", "1.5g", {"HostConfig": {"Memory": 1610612736}}),
        ("shm-size", "64MB", {"HostConfig": {"ShmSize": 64 * 2**20}}),
        ("log-driver", "syslog", {"HostConfig": {"LogConfig": {"Type": "syslog"}}}),
        ("log-opt", "tag=a", {"HostConfig": {"LogConfig": {"Config": {"tag": "a"}}}}),
        ("dns", "8.8.8.8", {"HostConfig": {"Dns": ["8.8.8.8"]}}),
        ("net", "mine", {"HostConfig": {"NetworkMode": "mine"}}),
        ("tmpfs", "/t:size=1m", {"HostConfig": {"Tmpfs": {"/t": "size=1m"}}}),
        ("init", "true", {"HostConfig": {"Init": True}}),
        ("read-only", "false", {"HostConfig": {"ReadonlyRootfs": False}}),
        (
            "device",
            "/dev/fuse",
            {
                "HostConfig": {
                    "Devices": [{"PathOnHost": "/dev/fuse", "PathInContainer": "/dev/fuse", "CgroupPermissions": "rwm"}]
                }
            },
        ),
        ("security-opt", "label=disable", {"HostConfig": {"SecurityOpt": ["label:disable"]}}),
        ("entrypoint", "/bin/a 'b c'", {"Entrypoint": ["/bin/a", "b c"]}),
        ("pid", "host", {"HostConfig": {"PidMode": "host"}}),
        ("ipc", "host", {"HostConfig": {"IpcMode": "host"}}),
        ("cpus", "1.5", {"HostConfig": {"NanoCpus": 1_500_000_000}}),
        ("sysctl", "a.b=1", {"HostConfig": {"Sysctls": {"a.b": "1"}}}),
        ("--rm", "true", {}),
    ],
)
def test_parameters_become_members_of_the_create_body(key: str, value: str, body: dict[str, Any]) -> None:
    made: dict[str, Any] = {}
    docker_options.apply(made, [(key, value)])
    assert made == body


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("frobnicate", "a"),
        ("memory", "lots"),
        ("memory", "9" * 20),
        ("env", "A"),
        ("init", "perhaps"),
        ("ulimit", "nofile"),
        ("ulimit", "nofile=a"),
        ("oom-score-adj", "9" * 5000),
        ("device", "a:b:c:d"),
        ("restart", "always"),
        ("cpus", "NaN"),
        ("entrypoint", "'a"),
    ],
)
def test_what_docker_would_refuse_is_refused_with_the_name_of_the_parameter(key: str, value: str) -> None:
    text = docker_options.problem(key, value)
    assert text is not None
    assert text.startswith(f"'{key}'")


@given(
    st.sampled_from(["memory", "cpus", "ulimit", "device", "env", "entrypoint", "init", "log-opt", "x"]),
    st.text(max_size=12),
)
def test_any_parameter_is_applied_or_refused(key: str, value: str) -> None:
    assert (docker_options.problem(key, value) is None) == _applies(key, value)


def _applies(key: str, value: str) -> bool:
    try:
        docker_options.apply({}, [(key, value)])
    except ValueError:
        return False
    return True
