"""What of a list of artefacts is taken, and what is said of the rest."""

from __future__ import annotations

from typing import Any

import pytest

from orlop.agent.artefacts import Artefact, parse_artefacts, shown
from orlop.agent.runtimes.interface import InvalidPayload


@pytest.mark.parametrize(
    ("given", "name"),
    [
        ({"uri": "http://host/a/app.tgz"}, "app.tgz"),
        ({"uri": "https://host/app.tgz?signature=x#part"}, "app.tgz"),
        ({"uri": "HTTP://host/a%20b"}, "a%20b"),
        ({"uri": "ftp://host/a"}, "a"),
        ({"uri": "file:///etc/hosts"}, "hosts"),
        ({"uri": "/etc/hosts"}, "hosts"),
        ({"uri": "http://host", "output_file": "deep/er//./name"}, "deep/er/name"),
        ({"uri": "http://host/a", "output_file": ""}, "a"),
    ],
)
def test_what_an_artefact_is_called(given: dict[str, Any], name: str) -> None:
    assert parse_artefacts("p", [given]) == (Artefact(uri=given["uri"], name=name),)


def test_what_is_said_of_it_is_taken() -> None:
    given = {"uri": "http://host/a", "extract": False, "executable": True, "cache": True}
    wanted = Artefact(uri="http://host/a", name="a", extract=False, executable=True, cache=True)
    assert parse_artefacts("p", [given]) == (wanted,)


def test_no_artefacts() -> None:
    assert parse_artefacts("p", None) == parse_artefacts("p", []) == ()


@pytest.mark.parametrize(
    ("given", "text"),
    [
        ("http://a/b", "p: expected an array"),
        (["http://a/b"], "p[0]: expected an object"),
        ([{"uri": "http://a/b", "chmod": 1}], "p[0].chmod: unknown; known are uri"),
        ([{}], "p[0].uri: expected a URI"),
        ([{"uri": 1}], "p[0].uri: expected a URI"),
        ([{"uri": "b"}], "p[0].uri: expected http, https, ftp, file or an absolute path, got no scheme"),
        ([{"uri": "hdfs://a/b"}], "p[0].uri: expected http, https, ftp, file or an absolute path, got hdfs"),
        ([{"uri": "http://[a/b"}], "p[0].uri: expected a URI"),
        ([{"uri": "http://a/b\r\nHost: c"}], "p[0].uri: expected at most 4096 characters, none of them a control"),
        ([{"uri": "http://a/" + "b" * 4096}], "p[0].uri: expected at most 4096"),
        ([{"uri": "http://a/\ud800"}], "p[0].uri: expected Unicode text"),
        ([{"uri": "http://a/"}], "p[0].uri: expected a URI whose path ends in a name, or an output_file"),
        ([{"uri": "http://a/.."}], "p[0].uri: expected a URI whose path ends in a name"),
        ([{"uri": "http://a/b"}, {"uri": "http://a/b", "output_file": "/etc/x"}], "p[1].output_file: expected a rel"),
        ([{"uri": "http://a/b", "output_file": "a/../../x"}], "p[0].output_file: expected a relative path that does"),
        ([{"uri": "http://a/b", "output_file": "a/"}], "p[0].output_file: expected a relative path"),
        ([{"uri": "http://a/b", "output_file": "."}], "p[0].output_file: expected a relative path"),
        ([{"uri": "http://a/b", "output_file": 7}], "p[0].output_file: expected a relative path"),
        ([{"uri": "http://a/b", "extract": "no"}], "p[0].extract: expected true or false"),
        ([{"uri": "http://a/b"}] * 101, "p: expected at most 100 artefacts, got 101"),
    ],
)
def test_what_is_refused(given: Any, text: str) -> None:
    with pytest.raises(InvalidPayload) as caught:
        parse_artefacts("p", given)
    assert str(caught.value).startswith(text)


def test_secrets_of_a_uri_are_not_shown() -> None:
    assert shown("https://me:secret@host:81/a/b?signature=c#d") == "https://host:81/a/b"
    assert shown("/a/b") == "/a/b"
