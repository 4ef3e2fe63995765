"""Regular expressions of users: what they match, what is refused, and that none of them takes for ever."""

from __future__ import annotations

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orlop.model.patterns import MEMORY_BYTES, Pattern, PatternError

#: A backtracking engine does not come back from it.
HANGING = "(?:" * 6 + "v?" + "){9}" * 6 + "x"


@pytest.mark.parametrize(
    ("text", "matching", "other"),
    [
        ("node-1", ["node-1"], ["node-10", "xnode-1", "node-1\n", ""]),
        ("a|b-c|", ["a", "b-c", ""], ["a|b-c", "b"]),
        (r"a\.b|\\|x\ y", ["a.b", "\\", "x y"], ["axb", "a\\.b"]),
        ("a|b.", ["a", "bx", "bé"], ["ax", "b", "b\n"]),
        (".", ["é", "\U0001f600"], ["\n", "ab", ""]),
        ("a$", ["a"], ["a\n"]),
        (r"\d+", ["12"], ["١٢"]),
        (r"\w", ["a"], ["é"]),
        ("(?i)É", ["é", "É"], ["e"]),
        (r"\p{Lu}\Q.*\E", ["É.*"], ["É", "é.*"]),
        ("(?<name>a)+", ["aa"], [""]),
        ("a{1000}", ["a" * 1000], ["a" * 999, "a" * 1001]),
    ],
)
def test_what_matches_as_a_whole(text: str, matching: list[str], other: list[str]) -> None:
    pattern = Pattern(text)
    assert [one for one in matching if not pattern.matches(one)] == []
    assert [one for one in other if pattern.matches(one)] == []


@pytest.mark.parametrize(("text", "found"), [("b|x", True), ("b.", True), ("^b", False), ("x", False), ("", True)])
def test_what_is_found(text: str, found: bool) -> None:
    assert Pattern(text).is_found_in("abc") is found


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("(", "missing )"),
        ("[", "missing ]"),
        ("(?=a)", "no look-around"),
        ("(?<!a)b", "no look-around"),
        (r"(a)\1", "back-references"),
        ("a*+", "possessive quantifiers"),
        ("a{99999999999}", "at most 1000 repetitions, got 99999999999"),
        ("a{1001}", "at most 1000 repetitions, got 1001"),
        ("a{2,1001}", "at most 1000 repetitions, got 1001"),
        ("a{1001,}", "at most 1000 repetitions, got 1001"),
        (HANGING, "repetition size"),
        (r"\pL{1000}", "too large"),
        (f"({'x' * MEMORY_BYTES})", "too large"),
    ],
)
def test_what_is_refused(text: str, reason: str, capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(PatternError, match=re.escape(reason)) as refused:
        Pattern(text)
    assert len(str(refused.value)) < 400
    assert capfd.readouterr() == ("", ""), "nothing but the error tells of it"


def test_texts_that_are_not_unicode_are_no_error() -> None:
    assert Pattern("a.").matches("a\ud800")
    assert not Pattern("[ab]").matches("\udc00")
    assert not Pattern("[\ud800]").matches("a")


def test_many_names_are_one_expression() -> None:
    names = [f"node-{number}.some.where.example" for number in range(20_000)]
    pattern = Pattern("|".join(map(re.escape, names)))
    assert pattern.matches(names[0])
    assert pattern.matches(names[-1])
    assert not pattern.matches("node-7")


@pytest.mark.parametrize("text", ["(a*)*b", "(a|a)*b", "(?:a?){900}b", "(?:(?:(?:v?){9}){9}){9}x", "(.*)*" * 100 + "x"])
def test_hostile_expressions_end(text: str) -> None:
    pattern = Pattern(text)
    assert not pattern.matches("a" * 5_000)
    assert not pattern.matches("v" * 5_000)


@pytest.mark.parametrize("repeats", [20, 60, 80, 200, 900])
@given(st.text("ab", min_size=1_000, max_size=3_000))
@settings(max_examples=5)
def test_what_has_more_states_than_fit_into_memory_is_found(repeats: int, text: str) -> None:
    """Of the automaton there are 2^repeats, so it is made anew again and again, in programs of either size."""
    pattern = Pattern(f"a[ab]{{{repeats}}}c")
    after_an_a = text.rpartition("a")[0] + "a" + "b" * repeats
    assert pattern.is_found_in(after_an_a + "c")
    assert not pattern.is_found_in("b" * (repeats + 1) + "c")
    assert not pattern.is_found_in(after_an_a)


# --- against Python's own engine, on what both read alike ---

atoms = st.sampled_from(["a", "b", "-", ".", "[ab]", "[^a]", r"\d", "1", "^", r"\.", "[a-c-]", "(?:)", "é", r"\-", " "])
expressions = st.recursive(
    atoms,
    lambda inner: st.one_of(
        st.lists(inner, min_size=1, max_size=3).map("".join),
        st.tuples(inner, inner).map("|".join),
        st.tuples(inner, inner).map("|".join).map("({})".format),
        st.tuples(inner, st.sampled_from(["*", "+", "?", "*?", "{2}", "{1,3}"])).map(
            lambda one: f"(?:{one[0]}){one[1]}"
        ),
        inner.map("(?i:{})".format),
    ),
    max_leaves=8,
)


@given(expressions, st.lists(st.text("abAB-1. é", max_size=6), max_size=5))
def test_expressions_match_what_pythons_do(text: str, subjects: list[str]) -> None:
    ours, theirs = Pattern(text), re.compile(text, re.ASCII)
    for subject in subjects:
        assert ours.matches(subject) == bool(theirs.fullmatch(subject)), (text, subject)
        assert ours.is_found_in(subject) == bool(theirs.search(subject)), (text, subject)


@given(st.text(min_size=1, max_size=10))
def test_an_escaped_text_is_itself(text: str) -> None:
    assert Pattern(re.escape(text)).matches(text)


@given(st.text("a(|)[]*?+^$\\.-:{1,}<P", max_size=10), st.text(max_size=3))
def test_any_text_is_an_expression_or_refused(text: str, subject: str) -> None:
    try:
        Pattern(text).matches(subject)
    except PatternError:
        return
