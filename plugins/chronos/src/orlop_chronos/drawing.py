"""The graph of jobs, drawn: as lines of a terminal, and as SVG. Pure."""

from __future__ import annotations

import html
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Final

import attrs

_COLOURS: Final = {"success": "#2f7d4f", "failure": "#b3362b", "fresh": "#6b7280"}
_MARKS: Final = {"success": "+", "failure": "!", "fresh": " "}
_CHARACTER: Final = 8
_HEIGHT: Final = 36
_GAP_X: Final = 60
_GAP_Y: Final = 16
_MARGIN: Final = 16


@attrs.frozen(kw_only=True)
class Node:
    """One job. status: `fresh`, `success` or `failure`. state: `idle`, `queued`, `2 running`."""

    name: str
    parents: tuple[str, ...] = ()
    status: str = "fresh"
    state: str = "idle"

    @property
    def text(self) -> str:
        return self.name if self.state == "idle" else f"{self.name} ({self.state})"


def lines(nodes: Iterable[Node]) -> Iterator[str]:
    """A tree from the jobs without parents down. A job with several parents is shown in full under the first."""
    known = {node.name: node for node in sorted(nodes, key=lambda node: node.name)}
    children = _children(known)
    shown: set[str] = set()
    tops = [name for name, node in known.items() if not any(parent in known for parent in node.parents)]
    # (name, what stands before it, its branch, what stands before its children); the next one last. No recursion:
    # chains of jobs may be longer than Python's calls go deep.
    waiting = [(name, "", "", "") for name in reversed(tops)]
    while waiting:
        name, lead, branch, below = waiting.pop()
        node = known[name]
        again = name in shown
        others = [parent for parent in node.parents if parent in known]
        also = f"  <- {', '.join(others)}" if len(others) > 1 else ""
        mark = _MARKS.get(node.status, " ")
        yield f"{mark} {lead}{branch}{node.text}{also}{'  (see above)' if again and children[name] else ''}"
        if again:
            continue
        shown.add(name)
        last = len(children[name]) - 1
        waiting += [
            (child, lead + below, "└─ " if position == last else "├─ ", "   " if position == last else "│  ")
            for position, child in reversed(list(enumerate(children[name])))
        ]


def svg(nodes: Iterable[Node]) -> str:
    """Parents left of their children, each job in a box of the colour of its last result."""
    known = {node.name: node for node in sorted(nodes, key=lambda node: node.name)}
    columns = _columns(known)
    width = max((len(node.text) for node in known.values()), default=4) * _CHARACTER + 24
    places: dict[str, tuple[int, int]] = {}
    for column, names in enumerate(columns):
        for row, name in enumerate(names):
            places[name] = (_MARGIN + column * (width + _GAP_X), _MARGIN + row * (_HEIGHT + _GAP_Y))
    rows = max((len(names) for names in columns), default=0)
    size = (
        2 * _MARGIN + max(len(columns) * (width + _GAP_X) - _GAP_X, 0),
        2 * _MARGIN + max(rows * (_HEIGHT + _GAP_Y) - _GAP_Y, 0),
    )
    edges = [
        _edge(places[parent], places[name], width)
        for name, node in known.items()
        for parent in node.parents
        if parent in known
    ]
    boxes = [_box(node, places[name], width) for name, node in known.items()]
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{size[0]}" height="{size[1]}" '
        f'viewBox="0 0 {size[0]} {size[1]}" font-family="ui-monospace, monospace" font-size="13">'
    )
    return "\n".join([head, *edges, *boxes, "</svg>", ""])


def _children(known: Mapping[str, Node]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {name: [] for name in known}
    for name, node in known.items():
        for parent in node.parents:
            if parent in found:
                found[parent].append(name)
    return found


def _columns(known: Mapping[str, Node]) -> Sequence[Sequence[str]]:
    """Names by the longest way from a job without parents; in each column near their parents."""
    children = _children(known)
    waiting = {name: sum(parent in known for parent in node.parents) for name, node in known.items()}
    column = [name for name, count in waiting.items() if not count]
    columns: list[list[str]] = []
    while column:
        columns.append(column)
        following: list[str] = []
        for name in column:
            for child in children[name]:
                waiting[child] -= 1
                if not waiting[child]:
                    following.append(child)
        column = following
    return columns


def _edge(start: tuple[int, int], end: tuple[int, int], width: int) -> str:
    x1, y1, x2, y2 = start[0] + width, start[1] + _HEIGHT // 2, end[0], end[1] + _HEIGHT // 2
    middle = (x1 + x2) // 2
    return f'<path d="M{x1} {y1} C{middle} {y1} {middle} {y2} {x2} {y2}" fill="none" stroke="#9ca3af"/>'


def _box(node: Node, place: tuple[int, int], width: int) -> str:
    x, y = place
    colour = _COLOURS.get(node.status, _COLOURS["fresh"])
    return (
        f'<g><rect x="{x}" y="{y}" width="{width}" height="{_HEIGHT}" rx="6" fill="white" stroke="{colour}" '
        f'stroke-width="2"/><text x="{x + 12}" y="{y + 23}" fill="{colour}">{html.escape(node.text)}</text></g>'
    )
