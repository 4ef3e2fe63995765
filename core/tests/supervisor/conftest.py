"""What the supervisor's tests share."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from supervised_node import Node, remove_node_groups

from orlop.agent.cgroups import ControlGroups, NoControlGroups


@pytest.fixture
def node() -> Iterator[Node]:
    data = Path(tempfile.mkdtemp(prefix="orlop-test-"))
    node = Node(data)
    try:
        yield node
        node.close()
    finally:
        shutil.rmtree(data)


@pytest.fixture
def control_groups() -> Iterator[ControlGroups]:
    node_id = f"test-{os.getpid()}"
    try:
        groups = ControlGroups.open(node_id)
    except NoControlGroups as error:
        pytest.skip(str(error))
    yield groups
    remove_node_groups(groups)
