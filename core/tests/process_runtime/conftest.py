"""What the process runtime's tests share."""

from __future__ import annotations

import asyncio
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from process_agent import clean_up

from orlop.agent.runtimes.interface import (
    RuntimeContext,
)


@pytest.fixture
def context() -> Iterator[RuntimeContext]:
    """Below a folder that everybody may enter, unlike pytest's own."""
    root = Path(tempfile.mkdtemp(prefix="orlop-test-"))
    root.chmod(0o755)
    context = RuntimeContext(
        cluster_id="c1", node_id=f"test-{root.name}", data=root / "data", tasks=root / "tasks", log_bytes_max=100_000
    )
    try:
        yield context
        asyncio.run(clean_up(context))
    finally:
        shutil.rmtree(root)
