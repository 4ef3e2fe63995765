"""How an engine fails, as the runtime sees it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from http import HTTPStatus
from http.client import responses
from typing import Final

import orjson

from orlop.agent.runtimes.docker_container import one_line

#: What stands before an engine, or an engine that ends, answers with these.
LOST_STATUSES: Final = (502, 503, 504)
#: What engines of all versions say of an image that there is not (docker-py 7.1).
_NO_IMAGE: Final = (
    "no such image",
    "not found: does not exist or no pull access",
    "repository does not exist",
)


class EngineLost(ConnectionError):
    """The engine cannot be reached, or went away before it answered: what was asked may have been done."""


class EngineRefused(RuntimeError):
    """The engine's own text. status: of its HTTP answer, 0 when it came within a stream."""

    def __init__(self, text: str, status: int = 0, *, no_image: bool = False) -> None:
        super().__init__(one_line(text))
        self.status = status
        self.no_image = no_image


@contextlib.contextmanager
def engine_errors() -> Iterator[None]:
    """docker-py's, requests' and urllib3's many errors as the two kinds that matter."""
    import docker.errors
    import requests
    import urllib3.exceptions

    try:
        yield
    except docker.errors.APIError as error:
        text = error.explanation or str(error)
        if error.status_code in LOST_STATUSES:
            raise EngineLost(text) from error
        no_image = isinstance(error, docker.errors.ImageNotFound)
        raise EngineRefused(text, error.status_code or 0, no_image=no_image) from error
    except (EngineLost, EngineRefused):
        raise
    except (
        docker.errors.DockerException,
        requests.RequestException,
        urllib3.exceptions.HTTPError,
        OSError,
    ) as error:
        raise EngineLost(_plainly(error)) from error


def refusal(status: int, said: bytes) -> EngineLost | EngineRefused:
    """What docker-py makes of an engine's answer of 400 or more. said: its body."""
    text = _words(said) or responses.get(status, f"status {status}")
    if status in LOST_STATUSES:
        return EngineLost(text)
    no_image = status == HTTPStatus.NOT_FOUND and any(words in text.lower() for words in _NO_IMAGE)
    return EngineRefused(text, status, no_image=no_image)


def _words(said: bytes) -> str:
    """The engine's, of its answer."""
    try:
        document = orjson.loads(said)
    except orjson.JSONDecodeError:
        document = None
    if isinstance(document, dict) and isinstance(document.get("message"), str):
        return str(document["message"]).strip()
    return said.decode(errors="replace").strip()


def _plainly(error: BaseException) -> str:
    """What is behind it, without the layers' names and the addresses of their objects, which differ each time."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, TimeoutError):
            return "it does not answer"
        if isinstance(cause, OSError) and cause.strerror:
            return cause.strerror
        cause = cause.__cause__ or cause.__context__
    return one_line(str(error))
