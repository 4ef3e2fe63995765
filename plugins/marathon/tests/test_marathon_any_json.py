"""Any JSON gives what it says, or an error that says what is wrong."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import attrs
import orjson
from hypothesis import given, settings
from hypothesis import strategies as st
from marathon_documents import RICH, record, whole

from orlop.model.documents import from_bytes, to_bytes
from orlop_marathon import parsing, wire
from orlop_marathon.errors import MarathonError
from orlop_marathon.model import App, AppRecord
from orlop_marathon.specs import build_spec
from orlop_marathon.validation import validate_app

OTHER_NAMES = (
    "uris ports ipAddress version docker network portMappings volumes type image mode apps groups scaleBy enforceRole "
    "persistent external options hostPath containerPath protocol portIndex command value http tcp exec discovery name "
    "key parameters"
)
NAMES = st.sampled_from([*(wire.camel_case(field.name) for field in attrs.fields(App)), *OTHER_NAMES.split()])
SCALARS = (
    st.none()
    | st.booleans()
    | st.integers(-(10**30), 10**30)
    | st.sampled_from([10**400, -1, 0, 1, 65536, 2**31, 2**63])
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(codec=None), max_size=8)
    | st.sampled_from(["x", "/a/b", "host", "DOCKER", "UNIQUE", "disabled", "unlimited", "\ud800", "\0", "..", "2m"])
)
JSON = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES | st.text(max_size=3), inner, max_size=5),
    max_leaves=25,
)
TEMPLATES = st.sampled_from(RICH)


@st.composite
def mutated(draw: st.DrawFn) -> Any:
    """A sound app with some members replaced, at any depth."""
    document = json.loads(json.dumps(draw(TEMPLATES)))
    for _ in range(draw(st.integers(1, 3))):
        here: Any = document
        while True:
            places = list(here) if isinstance(here, dict) else list(range(len(here)))
            if not places:
                break
            at = draw(st.sampled_from(places))
            if isinstance(here[at], dict | list) and here[at] and draw(st.booleans()):
                here = here[at]
            else:
                here[at] = draw(JSON)
                break
    return document


def attempt(function: Callable[..., Any], *arguments: Any) -> Any:
    """What a function gives, or the MarathonError that it raises; any other exception fails the test."""
    try:
        return function(*arguments)
    except MarathonError as error:
        return error


def judged(document: Any) -> App:
    app = parsing.parse_app(document)
    validate_app(app)
    return app


@settings(max_examples=400, deadline=None)
@given(JSON | mutated())
def test_any_json_gives_an_app_or_an_error(document: Any):
    app = attempt(judged, document)
    if isinstance(app, MarathonError):
        assert app.status == 422
        orjson.dumps(app.body)
        return
    app = attrs.evolve(app, role=app.role or "*")
    shown = wire.write(app)
    assert parsing.parse_app(json.loads(json.dumps(shown))) == app
    stored = record(app)
    assert from_bytes(to_bytes(stored), AppRecord, "the app") == stored
    to_bytes(build_spec(stored))


def updated(app: App, document: Any, partial: bool) -> App:
    new = parsing.merge(app, parsing.parse_app_update(document), partial)
    validate_app(new)
    return new


@settings(max_examples=300, deadline=None)
@given(JSON | mutated(), TEMPLATES, st.booleans())
def test_any_json_gives_an_update_or_an_error(document: Any, base: Any, partial: bool):
    app = whole(base)
    new = attempt(lambda: updated(app, document, partial))
    if isinstance(new, MarathonError):
        assert new.status == 422
        return
    assert new.id == app.id
    new = attrs.evolve(new, role=new.role or "*")
    assert parsing.merge(new, parsing.parse_app_update(wire.write(new))) == new


@settings(max_examples=300, deadline=None)
@given(JSON | st.fixed_dictionaries({"id": st.just("/g"), "apps": st.lists(mutated(), max_size=2), "groups": JSON}))
def test_any_json_gives_a_group_or_an_error(document: Any):
    update = attempt(parsing.parse_group_update, document)
    if isinstance(update, MarathonError):
        assert update.status == 422
        orjson.dumps(update.body)
    else:
        assert update.id.startswith("/")


@settings(max_examples=200, deadline=None)
@given(JSON)
def test_looking_for_unknown_members_never_fails(document: Any):
    assert all(isinstance(path, str) for path in parsing.unknown_members(document))


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=30) | st.text(max_size=20).map(lambda text: text.encode(errors="replace")))
def test_any_bytes_give_json_or_an_error(body: bytes):
    value = attempt(parsing.load_json, body)
    if isinstance(value, MarathonError):
        assert value.status == 400
    else:
        assert type(value) in (type(json.loads(body)), float)  # very long integers become floats
