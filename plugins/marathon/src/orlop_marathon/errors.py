"""Errors as Marathon's clients know them: a status and a JSON body."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final

import attrs

#: How many wrong members one answer names; a hostile document has no end of them.
MOST_DETAILS: Final = 100


class MarathonError(Exception):
    """A request that is refused. status: of the HTTP answer. body: its JSON."""

    def __init__(self, status: int, body: Mapping[str, Any]) -> None:
        super().__init__(status, body)
        self.status = status
        self.body = dict(body)

    @property
    def message(self) -> str:
        return str(self.body.get("message", ""))

    def __str__(self) -> str:
        details = self.body.get("details")
        if isinstance(details, list):
            told = "; ".join(f"{detail['path']}: {', '.join(detail['errors'])}" for detail in details)
            return f"{self.message}: {told}"
        return f"{self.message}: {details}" if details else self.message


@attrs.frozen
class Problem:
    """One thing that is wrong. path: `/healthChecks(0)/portIndex`, `/` for the whole document."""

    path: str
    text: str


def _details(problems: Iterable[Problem]) -> list[dict[str, Any]]:
    """One entry per path, with all its texts."""
    by_path: dict[str, list[str]] = {}
    for problem in problems:
        texts = by_path.setdefault(problem.path or "/", [])
        if problem.text not in texts:
            texts.append(problem.text)
    return [{"path": path, "errors": texts} for path, texts in list(by_path.items())[:MOST_DETAILS]]


def invalid_json(text: str) -> MarathonError:
    """The body cannot be parsed. text: the parser's."""
    return MarathonError(400, {"message": "Invalid JSON", "details": text})


def no_json(text: str) -> MarathonError:
    """There is no body, or it is no JSON at all."""
    return MarathonError(400, {"message": "Please specify data in JSON format", "details": text})


def wrong_type(problems: Iterable[Problem]) -> MarathonError:
    """JSON that is not what was expected: missing members, wrong types, unknown literals, out of range."""
    return MarathonError(422, {"message": "Invalid JSON", "details": _details(problems)})


def not_valid(problems: Iterable[Problem]) -> MarathonError:
    """An object that breaks a rule."""
    return MarathonError(422, {"message": "Object is not valid", "details": _details(problems)})


def not_valid_at(path: str, text: str) -> MarathonError:
    return not_valid([Problem(path, text)])


def illegal(text: str) -> MarathonError:
    """A bad argument of another kind: a selector, a timestamp."""
    return MarathonError(422, {"message": text})


def bad_request(text: str) -> MarathonError:
    return MarathonError(400, {"message": text})


def invalid_task_id(text: str) -> MarathonError:
    return bad_request(f"Invalid task id '{text}'. [taskId {text} no valid identifier (of class java.lang.String)]")


def scale_and_wipe() -> MarathonError:
    return bad_request("You cannot use scale and wipe at the same time.")


def bad_timestamp(text: str) -> MarathonError:
    return illegal(f"Invalid timestamp provided '{text}'. Expecting ISO-8601 datetime string.")


def not_found(text: str) -> MarathonError:
    return MarathonError(404, {"message": text})


def unknown_app(path: str, version: str | None = None) -> MarathonError:
    return not_found(f"App '{path}' does not exist" + (f" in version {version}" if version else ""))


def unknown_group(path: str, version: str | None = None) -> MarathonError:
    return not_found(f"Group '{path}' does not exist" + (f" in version {version}" if version else ""))


def unknown_pod(path: str) -> MarathonError:
    return not_found(f"Pod '{path}' does not exist")


def unknown_path(path: str) -> MarathonError:
    return not_found(f"Path '{path}' does not exist")


def unknown_task(task: str) -> MarathonError:
    return not_found(f"Task '{task}' does not exist")


def unknown_deployment(deployment: str) -> MarathonError:
    return not_found(f"DeploymentPlan {deployment} does not exist")


def not_queued(path: str) -> MarathonError:
    return not_found(f"Application {path} not found in tasks queue.")


def no_leader() -> MarathonError:
    return not_found("There is no leader")


def unknown_uri() -> MarathonError:
    return not_found("URI not found")


def conflict(text: str) -> MarathonError:
    return MarathonError(409, {"message": text})


def app_exists(path: str) -> MarathonError:
    return conflict(f"An app with id [{path}] already exists.")


def group_exists(path: str) -> MarathonError:
    return conflict(f"Group {path} is already created. Use PUT to change this group.")


def path_is_app(path: str) -> MarathonError:
    """A group cannot be made where an app is."""
    return conflict(f"An app with the path {path} already exists.")


def locked(deployments: Iterable[str]) -> MarathonError:
    """Running deployments are in the way. deployments: their ids."""
    text = (
        "App is locked by one or more deployments. Override with the option '?force=true'. "
        "View details at '/v2/deployments/<DEPLOYMENT_ID>'."
    )
    return MarathonError(409, {"message": text, "deployments": [{"id": one} for one in deployments]})


def too_many_deployments(limit: int) -> MarathonError:
    text = (
        f"Max number ({limit}) of running deployments is achieved. "
        "Wait for existing deployments to complete or cancel one."
    )
    return MarathonError(403, {"message": text})
