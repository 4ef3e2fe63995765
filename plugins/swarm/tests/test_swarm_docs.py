"""What the documents say of the settings and of the words is all that there is."""

from __future__ import annotations

import json
import re
from pathlib import Path

import attrs

from orlop_swarm.placement import filters, strategies, wanted
from orlop_swarm.settings import Config

DOCS = Path(__file__).parents[3] / "docs"


def test_each_setting_is_documented_with_its_default() -> None:
    guide = (DOCS / "operator-guide.md").read_text()
    table = guide.split("### `[plugins.swarm]`")[1].split("\n### ")[0]
    rows = dict(re.findall(r"^\| `(\w+)` \| (\S+) \|", table, re.MULTILINE))
    defaults = {field.name: field.default for field in attrs.fields(Config)}
    shown = {name: "all" if name == "filters" else f"`{json.dumps(value)}`" for name, value in defaults.items()}
    assert rows == shown | {"overcommit": "0.0"}


def test_each_filter_strategy_and_label_is_documented() -> None:
    page = (DOCS / "swarm.md").read_text()
    labels = [label for kind, (_, label) in wanted.KINDS.items() if kind != "policies"]
    for word in (*filters.FILTERS, *strategies.STRATEGIES, *labels, wanted.STRATEGY_LABEL):
        assert f"`{word}`" in page, word


def test_the_examples_can_be_read() -> None:
    for page in (DOCS / "swarm.md", DOCS.parent / "plugins" / "swarm" / "README.md"):
        blocks = re.findall(r"^```json\n(.*?)^```$", page.read_text(), re.MULTILINE | re.DOTALL)
        assert blocks
        for block in blocks:
            document = json.loads(block)
            variables = {one["name"]: one["value"] for one in document.get("environmentVariables", [])}
            found = wanted.read_environment(variables | document.get("env", {}))
            assert found.constraints or found.affinities
