"""Expressions: what is one, what it matches, and what is said of those that are none."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orlop_swarm.placement.expressions import LENGTH_MAX, ExpressionError, parse


@pytest.mark.parametrize(
    ("text", "key", "equal", "value", "soft"),
    [
        ("node==node-1", "node", True, "node-1", False),
        ("node!=node-1", "node", False, "node-1", False),
        ("node==~node-1", "node", True, "node-1", True),
        ("region==us*", "region", True, "us*", False),
        ("node==/node-[12]/", "node", True, "/node-[12]/", False),
        ("node==~/(?i)NODE/", "node", True, "/(?i)NODE/", True),
        ("a.b-c_d==x y", "a.b-c_d", True, "x y", False),
        ("_x==1", "_x", True, "1", False),
        ("node===x", "node", True, "=x", False),  # one leading = or ! is let through, and means itself
        ("node==!x", "node", True, "!x", False),
        ("image==repo/name:1.0", "image", True, "repo/name:1.0", False),
    ],
)
def test_what_is_read(text: str, key: str, equal: bool, value: str, soft: bool) -> None:
    found = parse(text)
    assert (found.key, found.equal, found.value, found.soft) == (key, equal, value, soft)
    assert str(found) == f"{key}{'==' if equal else '!='}{value}"


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("node", "One of operator ==, != is expected"),
        ("", "One of operator ==, != is expected"),
        ("node=x", "One of operator ==, != is expected"),
        ("n==x", "Key 'n' is invalid"),  # a key has two characters at least
        ("1node==x", "Key '1node' is invalid"),
        ("no de==x", "Key 'no de' is invalid"),
        ("==x", "Key '' is invalid"),
        ("node!==x", "Key 'node!' is invalid"),
        ("node==", "Value '' is invalid"),
        ("node==~", "Value '~' is invalid"),
        ("node==~~x", "Value '~~x' is invalid"),
        ("a1==b!=c", "Value 'b!=c' is invalid"),  # `==` is looked for first, wherever it is
        ("node==a,b", "Value 'a,b' is invalid"),
        ("node==a~b", "Value 'a~b' is invalid"),
        ("node==é", "Value 'é' is invalid"),
        ("node==x\v", "Value 'x\v' is invalid"),
        ("node==a{2}", "Value 'a{2}' is invalid"),
        ("n\n==x", "Key 'n\n' is invalid"),
        ("node==" + "x" * LENGTH_MAX, f"An expression has at most {LENGTH_MAX} characters"),
    ],
)
def test_what_is_refused(text: str, reason: str) -> None:
    with pytest.raises(ExpressionError) as found:
        parse(text, "Env[3]")
    assert (found.value.reason, found.value.path, str(found.value)) == (reason, "Env[3]", f"Env[3]: {reason}")


@pytest.mark.parametrize(
    ("text", "matching", "other"),
    [
        ("node==node-1", ["node-1"], ["node-10", "xnode-1", "NODE-1", ""]),
        ("node==node*", ["node", "node-1"], ["xnode", "nod"]),
        ("node==*1", ["1", "node-1"], ["1x"]),
        ("node==n*-*1", ["n-1", "node-a1"], ["n1"]),
        ("node==a.c", ["a.c", "abc"], ["ac", "a\nc"]),  # a point is any character
        ("node==/ode-/", ["node-1", "ode-"], ["node1"]),  # not anchored
        ("node==/^ode/", ["ode"], ["node", "n\node"]),
        ("node==/(?m)^ode$/", ["ode", "n\node\nn"], ["node"]),
        ("node==/(?i)NODE/", ["node", "NoDe"], ["nod"]),
        ("node==/no(?i)DE/", ["node", "noDe"], ["Node"]),
        ("node==/node-[1-3]$/", ["node-1", "node-3"], ["node-4", "node-1\n", "node-12"]),
        ("node==/a|b/", ["xa", "bx"], ["c"]),
        ("node==a|b", ["ax", "xb"], ["c", "ba"]),  # ^a|b$: what classic Swarm made of it
        (r"node==/^\Qa.b\E$/", ["a.b"], ["acb"]),
        (r"node==/^\pL+$/", ["aé"], ["a1"]),
        (r"node==/^\d+\.\w$/", ["12.a"], ["a.1", "12.", "1٣.a", "12.é"]),
        (r"node==/\bweb\b/", ["a-web-1", "web"], ["webs"]),
        ("node==/^(a*)*$/", ["", "aa"], ["ab"]),
        ("node==/^[[:alpha:]]+$/", ["ab"], ["a1"]),
        ("node==/^[]a]+$/", ["]a"], ["b"]),
        ("node==/", ["/"], [""]),
        ("node==//", ["", "anything"], []),
    ],
)
def test_what_matches(text: str, matching: list[str], other: list[str]) -> None:
    expression, opposite = parse(text), parse(text.replace("==", "!=", 1))
    for one in matching:
        assert expression.matches([one]), one
        assert not opposite.matches([one]), one
    for one in other:
        assert not expression.matches([one]), one
        assert opposite.matches([one]), one
    if matching and other:  # any of them, none of them
        assert expression.matches([other[0], matching[0]])
        assert not opposite.matches([other[0], matching[0]])
    assert not expression.matches([])
    assert opposite.matches([])


@pytest.mark.parametrize("bad", ["/(/", "/[a/", "/a**/", "/a*+/", r"/\1/", r"/\Z/", "/*a/", "/[b-a]/", "/)/", "/(?i/"])
def test_what_does_not_compile_never_matches(bad: str) -> None:
    assert not parse(f"node=={bad}").matches(["a", "", bad])
    assert parse(f"node!={bad}").matches(["a", "", bad])


def test_equal_texts_are_one_object() -> None:
    assert parse("node==a") is parse("node==a")


def test_hostile_expressions_cost_little() -> None:
    """A backtracking engine would not come back from these."""
    for text in (
        "/^(a*)*$/",
        "/^(a|a)*$/",
        "/(.*)(.*)(.*)(.*)(.*)(.*)x$/",
        "/^(a?)+$/",
        "/" + "(" * 999 + "a" + ")" * 999 + "/",
        "/" + "(" * 2_000 + "a" + ")" * 2_000 + "/",
    ):
        parse(f"node=={text}").matches(["a" * 5_000 + "b"])


# --- against Python's own engine, on what both read alike ---

atoms = st.sampled_from(["a", "b", "-", ".", "[ab]", "[^a]", r"\d", r"\W", "1", r"\b", "^", r"\.", "[a-c-]", "(?:)"])
patterns = st.recursive(
    atoms,
    lambda inner: st.one_of(
        st.lists(inner, min_size=1, max_size=3).map("".join),
        st.tuples(inner, inner).map("|".join).map("({})".format),
        st.tuples(inner, st.sampled_from(["*", "+", "?", "*?", "+?"])).map(lambda one: f"(?:{one[0]}){one[1]}"),
        inner.map("(?i:{})".format),
    ),
    max_leaves=8,
)


@given(patterns, st.lists(st.text("abAB-1.\n", max_size=6), max_size=5))
def test_patterns_match_what_pythons_do(text: str, subjects: list[str]) -> None:
    ours, theirs = parse(f"node==/{text}/"), re.compile(text, re.ASCII)
    for subject in subjects:
        assert ours.accepts(subject) == bool(theirs.search(subject)), (text, subject)


@given(st.text("a(|)[]*?+^$\\.-:iUd", min_size=1, max_size=10))
def test_any_text_may_stand_between_slashes(text: str) -> None:
    parse(f"node==/{text}/").matches(["a-b"])
