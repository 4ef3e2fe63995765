"""Which nodes have what: an index that is kept from decision to decision, and looks again at changed nodes only.

It speeds up the search for nodes, and decides nothing: whoever gets nodes from here asks the filter about each of them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Set
from threading import Lock
from typing import Final

from orlop.framework import PlacementView
from orlop_swarm.placement.expressions import Expression

#: Expressions of which the nodes are remembered until any node changes.
MATCHES_REMEMBERED: Final = 100

#: By key, such as "container" or a label's name: the texts that a node has for it.
Texts = Mapping[str, Set[str]]


class Index:
    """See the module. read: a node's texts; the very same object, and the same sets in it, for what has not changed.

    There is one for all servers of a process, whose kernels may have threads of their own.
    """

    def __init__(self, read: Callable[[str, PlacementView], Texts]) -> None:
        self._read = read
        self._lock = Lock()
        self._mark: object = None
        self._texts: dict[str, Texts] = {}
        #: By key and text.
        self._of_key: dict[str, dict[str, set[str]]] = {}
        self._matching: dict[Expression, frozenset[str]] = {}

    def fewest(self, view: PlacementView, wanted: Iterable[tuple[str, str]]) -> tuple[str, ...] | None:
        """The nodes that have one of these (key, text) pairs, the one that the fewest nodes have: all that have all of
        them are among these. None when nothing is wanted."""
        pairs = tuple(wanted)
        if not pairs:
            return None
        with self._lock:
            self._follow(view)
            having = [self._of_key.get(key, {}).get(text) or set() for key, text in pairs]
            fewest = min(having, key=len)
            return tuple(fewest)

    def matching(self, view: PlacementView, expression: Expression) -> frozenset[str]:
        """The nodes that have a text for the expression's key which its value accepts."""
        with self._lock:
            self._follow(view)
            found = self._matching.get(expression)
            if found is None:
                texts = self._of_key.get(expression.key, {})
                found = frozenset().union(*(nodes for text, nodes in texts.items() if expression.accepts(text)))
                if len(self._matching) >= MATCHES_REMEMBERED:
                    self._matching.clear()
                self._matching[expression] = found
            return found

    def _follow(self, view: PlacementView) -> None:
        mark, changed = view.changed(self._mark)
        self._mark = None  # should reading fail, all is looked at again
        if changed is None:
            for node_id in self._texts.keys() - set(view.node_ids):
                self._replace(node_id, {})
        for node_id in view.node_ids if changed is None else changed:
            self._replace(node_id, self._read(node_id, view))
        self._mark = mark

    def _replace(self, node_id: str, after: Texts) -> None:
        before = self._texts.get(node_id, {})
        if before is after:
            return
        self._matching.clear()
        for key in before.keys() | after.keys():
            had, has = before.get(key, frozenset()), after.get(key, frozenset())
            if had is has:
                continue
            for text in had - has:
                self._drop(node_id, key, text)
            for text in has - had:
                self._of_key.setdefault(key, {}).setdefault(text, set()).add(node_id)
        if after:
            self._texts[node_id] = after
        else:
            self._texts.pop(node_id, None)

    def _drop(self, node_id: str, key: str, text: str) -> None:
        texts = self._of_key[key]
        texts[text].discard(node_id)
        if not texts[text]:
            del texts[text]
            if not texts:
                del self._of_key[key]
