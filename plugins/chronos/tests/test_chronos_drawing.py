"""The graph as text and as SVG."""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree

from orlop_chronos import drawing
from orlop_chronos.drawing import Node

FAMILY = [
    Node(name="a", status="success"),
    Node(name="b", parents=("a",), status="failure"),
    Node(name="c", parents=("a", "b"), state="2 running"),
    Node(name="d", parents=("c",)),
    Node(name="other <&>"),
]


def test_as_text() -> None:
    assert list(drawing.lines(FAMILY)) == [
        "+ a",
        "! ├─ b",
        "  │  └─ c (2 running)  <- a, b",
        "  │     └─ d",
        "  └─ c (2 running)  <- a, b  (see above)",
        "  other <&>",
    ]


def test_nothing() -> None:
    assert list(drawing.lines([])) == []
    ElementTree.fromstring(drawing.svg([]))


def test_a_parent_that_is_gone() -> None:
    assert list(drawing.lines([Node(name="a", parents=("gone",))])) == ["  a"]


def test_a_chain_that_is_longer_than_calls_go_deep() -> None:
    chain = [Node(name="0"), *(Node(name=str(number), parents=(str(number - 1),)) for number in range(1, 3_000))]
    drawn = list(drawing.lines(chain))
    assert [line.rpartition(" ")[2] for line in drawn] == [node.name for node in chain]
    assert drawing.svg(chain).count("<rect") == 3_000


def test_as_svg() -> None:
    root = ElementTree.fromstring(drawing.svg(FAMILY))
    space = "{http://www.w3.org/2000/svg}"
    texts = {element.text: int(element.get("x", "")) for element in root.iter(f"{space}text")}
    assert set(texts) == {"a", "b", "c (2 running)", "d", "other <&>"}
    assert texts["a"] < texts["b"] < texts["c (2 running)"] < texts["d"], "parents stand left of their children"
    assert len(list(root.iter(f"{space}path"))) == 4
    places = [(box.get("x"), box.get("y")) for box in root.iter(f"{space}rect")]
    assert len(set(places)) == len(FAMILY)
