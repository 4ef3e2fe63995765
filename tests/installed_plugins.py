"""Plugins of nobody's, for tests: as pip would leave them."""

from __future__ import annotations

from pathlib import Path


def install(folder: Path, name: str, source: str) -> None:
    """A distribution in a folder of its own, which is to be on the path. source: of its one module."""
    folder.mkdir(exist_ok=True)
    (folder / f"{name}.py").write_text(source)
    metadata = folder / f"{name}-1.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    (metadata / "entry_points.txt").write_text(f"[orlop]\n{name} = {name}\n")
