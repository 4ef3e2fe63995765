"""One engine of the pool has no room left: it says so itself, and nobody else is disturbed."""

from __future__ import annotations

import contextlib
import io
import os
import subprocess
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from engines import Engine, Lane
from swarm_pool import RunningPool, running_pool
from twin_engines import twins

pytestmark = [pytest.mark.real, pytest.mark.docker]

SMALL_BYTES = 64 * 2**20
LAYER_BYTES = 48 * 2**20
NO_ROOM = "no space left on device"


@pytest.fixture(scope="module")
def small(engines: Lane) -> Iterator[Engine]:
    """An engine with so small a disk. When the module is done with it, it keeps its address."""
    one = engines.prepared("small")
    data = one.folder / "data"
    data.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={SMALL_BYTES}", "tmpfs", str(data)], check=True)
    try:
        one.start()
        yield one
        one.clear()
        one.stop()
    finally:
        one.kill()
        subprocess.run(["umount", "--lazy", str(data)], check=True)


@pytest.fixture(scope="module")
def pool(engines: Lane, small: Engine, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningPool]:
    (roomy,) = twins(engines, "roomy")
    with contextlib.closing(roomy.client()) as source, contextlib.closing(small.client()) as target:
        target.load_image(b"".join(source.get_image("busybox:latest")))
    with running_pool([roomy, small], tmp_path_factory.mktemp("full")) as running:
        yield running


def large_archive() -> bytes:
    """A file system with one large file that cannot be packed."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as archive:
        entry = tarfile.TarInfo("large")
        entry.size = LAYER_BYTES
        archive.addfile(entry, io.BytesIO(os.urandom(LAYER_BYTES)))
    return packed.getvalue()


def test_what_has_no_room_on_one_engine_is_refused_there_in_its_words(pool: RunningPool, tmp_path: Path) -> None:
    on_small = ("-e", "constraint:node==small")
    filled = pool.docker("run", "--name", "filler", *on_small, "busybox", "dd", "if=/dev/zero", "of=/x", code=1)
    assert "No space left on device" in filled
    archive = tmp_path / "large.tar"
    archive.write_bytes(large_archive())
    imported = pool.docker("import", str(archive), "large:latest", code=None)
    assert NO_ROOM in imported
    assert "small" in imported

    # Who is elsewhere goes on, and what can only be elsewhere is placed there.
    assert pool.run("here", "-e", "constraint:node==roomy") == "roomy"
    assert pool.docker("exec", "here", "echo", "well").strip() == "well"
    assert "large" in pool.docker("images", "--format", "{{.Repository}}").split()
    refused = pool.docker("run", "--rm", *on_small, "busybox", "true", code=125)
    assert NO_ROOM in refused

    # Once there is room, all is as before; nothing of what was refused is left.
    pool.docker("rm", "-f", "filler")
    pool.docker("run", "--rm", *on_small, "busybox", "true")
    assert pool.docker("ps", "-a", "--format", "{{.Names}}").split() == ["here"]
    pool.docker("rm", "-f", "here")
