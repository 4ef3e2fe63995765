"""What a process payload may be."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orlop.agent.runtimes.interface import (
    InvalidPayload,
)
from orlop.agent.runtimes.process_payload import Payload, environment_of, parse_payload
from orlop.agent.runtimes.process_reports import signal_number


@pytest.mark.parametrize(
    ("payload", "text"),
    [
        ([], "payload: expected an object, got an array"),
        ({}, "payload: expected either command or arguments"),
        ({"command": "x", "arguments": ["x"]}, "payload: expected either command or arguments"),
        ({"command": ""}, "payload.command: expected text that is not empty"),
        ({"command": "a\0b"}, "payload.command: expected text without NUL characters"),
        ({"command": "\ud800"}, "payload.command: expected Unicode text"),
        ({"arguments": []}, "payload.arguments: expected an array of at least one text, got an array"),
        ({"arguments": ["x", 1]}, "payload.arguments[1]: expected text, got 1"),
        ({"command": "x", "environment": {"PORT": 80}}, "payload.environment.PORT: expected text, got 80"),
        ({"command": "x", "environment": {"A=B": ""}}, "payload.environment.A=B: expected a variable's name"),
        ({"command": "x", "user": None}, "payload.user: expected text, got None"),
        ({"command": "x", "directory": {}}, "payload.directory: expected text, got an object"),
        ({"command": "x", "comand": "y"}, "payload.comand: unknown; known are command, arguments"),
        ({"command": "x", "fetch": []}, "payload.fetch: unknown"),
    ],
)  # fmt: skip
def test_a_bad_payload_is_told_with_its_path(payload: object, text: str) -> None:
    with pytest.raises(InvalidPayload) as raised:
        parse_payload(payload)
    assert str(raised.value).startswith(text)


any_text = st.text(st.characters(), max_size=6)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | any_text,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(any_text, inner, max_size=4),
    max_leaves=8,
)
members = st.sampled_from(["command", "arguments", "environment", "user", "directory"])


def payloads_of(text: st.SearchStrategy[str]) -> st.SearchStrategy[dict[str, Any]]:
    """With the right members, of the right types."""
    others: dict[str, st.SearchStrategy[Any]] = {
        "environment": st.dictionaries(text, text, max_size=2), "user": text, "directory": text,
    }  # fmt: skip
    return st.fixed_dictionaries({"command": text}, optional=others) | st.fixed_dictionaries(
        {"arguments": st.lists(text, min_size=1, max_size=3)}, optional=others
    )


@given(
    json_values
    | st.dictionaries(members | any_text, json_values | st.dictionaries(any_text, any_text))
    | payloads_of(any_text)
)
def test_any_payload_is_either_fit_to_execute_or_invalid(payload: object) -> None:
    try:
        parsed = parse_payload(payload)
    except InvalidPayload as error:
        str(error).encode()
    else:
        check_fit(parsed)


@given(payloads_of(st.text(st.characters(codec="utf-8", exclude_characters="\0="), min_size=1, max_size=6)))
def test_texts_that_a_program_can_be_given_are_fit(payload: dict[str, Any]) -> None:
    check_fit(parse_payload(payload))


def check_fit(parsed: Payload) -> None:
    """What is to be executed can be."""
    environment = environment_of(parsed, {"PATH": "/bin"}, task="t", work="/w", home="/")
    for text in (*parsed.arguments, *environment, *environment.values(), parsed.user, parsed.directory):
        assert "\0" not in text
        text.encode()
    assert parsed.arguments[0]


def test_signals_have_names_and_numbers(caplog: pytest.LogCaptureFixture) -> None:
    assert [signal_number(name) for name in ("SIGTERM", "int", "9", " sigusr1 ")] == [15, 2, 9, 10]
    assert not caplog.records
    assert [signal_number(name) for name in ("SIGNAL", "", "999", "0", "²", "SIG_DFL")] == [15] * 6
    assert len(caplog.records) == 6
