"""What Docker's CLI prints when it talks to the pool, beside what it prints when it talks to one engine.

`docker_stories.txt` has stories of command lines, and says how it is written. A story is played on an empty pool and on
an engine, and each line's exit code, output and errors are compared after what differs by nature has been replaced.
"""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import repeat
from pathlib import Path
from typing import Final

import attrs

CLIS: Final = ("/usr/bin/docker", "/usr/local/bin/docker")
THERE: Final = [cli for cli in CLIS if Path(cli).exists()]
COMMAND_TIMEOUT_S: Final = 60.0
LINE_MARKS: Final = ("unordered", "differs")
STORY_MARKS: Final = ("each client",)


@attrs.frozen
class Line:
    """One line of a story, for a shell. mark: one of `LINE_MARKS`, or nothing."""

    number: int
    text: str
    mark: str = ""


@attrs.frozen
class Story:
    """clients: the programs that play it."""

    clients: Sequence[str]
    lines: list[Line] = attrs.field(factory=list)


@attrs.frozen
class Outcome:
    """What a line did. output, errors: with everything that varies replaced."""

    command: str
    code: int
    output: str
    errors: str

    def __str__(self) -> str:
        return f"$ {self.command}\nexit code {self.code}\n{self.output}--\n{self.errors}"


def read_stories(path: Path) -> Mapping[str, Story]:
    """The stories of such a file, by their titles."""
    stories: dict[str, Story] = {}
    story: Story | None = None
    mark = ""
    for number, text in enumerate(path.read_text().splitlines(), 1):
        where = f"{path.name}, line {number}"
        if text.startswith("#! "):
            mark, _, reason = text.removeprefix("#! ").partition(": ")
            assert reason, f"{where}: expected '#! MARK: reason'"
        elif text.startswith("== "):
            title = text.removeprefix("== ")
            assert mark in ("", *STORY_MARKS), f"{where}: expected the mark {STORY_MARKS} above a title, not {mark!r}"
            assert title not in stories, f"{where}: there is a story {title!r} already"
            story = stories[title] = Story(THERE if mark else THERE[-1:])
            mark = ""
        elif text and not text.startswith("#"):
            assert mark in ("", *LINE_MARKS), f"{where}: expected one of the marks {LINE_MARKS} above it, not {mark!r}"
            assert story is not None, f"{where}: expected '== title' before the first line of a story"
            story.lines.append(Line(number, text, mark))
            mark = ""
    return stories


STORIES: Final = read_stories(Path(__file__).with_name("docker_stories.txt"))

#: What a pool rightly says otherwise than one engine, and what stands for both: see docs/swarm.md.
_DEVIATIONS: Final = (
    # A client of a pool has to know which node a port is on: that node's address is shown for "all addresses", once.
    (re.compile(r", (\[::\]|::):\d+-(>|\\u003e)\d+/\w+"), ""),
    (re.compile(r"(?m)^(\d+/\w+ -> )?(\[::\]|::):\d+\n"), ""),
    # Each event tells its node.
    (re.compile(r", node\.(addr|id|ip|name)=[^,)]*"), ""),
)
#: What differs between two runs by nature, and what stands for it.
_VARIES: Final = (
    # The CLI's own races with itself: refused while it still packs what it copies, or waits for what does not start.
    (re.compile(r"(?m)^time=.*(closed pipe|context canceled)\"\n"), ""),
    (re.compile(r"\d{4}-\d\d-\d\d[T ]\d\d:\d\d:\d\d(\.\d+)?(Z| [+-]\d{4} \w+)?"), "<time>"),
    (re.compile(r"(Less than a second|About (a minute|an hour)|\d+ (second|minute|hour)s?)( ago)?"), "<while>"),
    (re.compile(r"\b\d+\.\d+\.\d+\.\d+\b"), "<address>"),
    # The port that a name server was asked from.
    (re.compile(r"<address>:\d+->"), "<address>:<port>->"),
    # Names that the engine makes up.
    (re.compile(r"\b[a-z]+_[a-z]+\b(?=\s*$)", re.MULTILINE), "<name>"),
    (re.compile(r"(?m)^ *\d+ +(?=sleep|ps|PID)"), "<pid> "),
    (re.compile(r"(?m)^root +\d+ +\d+ +\d+ +\d\d:\d\d "), "root <pids> "),
    # A column is as wide as what it holds.
    (re.compile(r" +"), " "),
    (re.compile(r"-{2,}"), "--"),
)
_IDS: Final = re.compile(r"\b[0-9a-f]{64}\b|\b[0-9a-f]{12}\b")


def normalised(text: str, folder: Path) -> str:
    """The text with stand-ins for what varies. folder: of the story."""
    text = _IDS.sub(lambda found: f"<id of {len(found.group())}>", text.replace(str(folder), "<folder>"))
    return _replaced(_replaced(text, _DEVIATIONS), _VARIES)


def _replaced(text: str, rules: Iterable[tuple[re.Pattern[str], str]]) -> str:
    for pattern, stand_in in rules:
        text = pattern.sub(stand_in, text)
    return text


class Ids:
    """Numbers the ids of a story as they come, so that the same one has to be where the engine has the same one."""

    def __init__(self) -> None:
        self._numbers: dict[str, int] = {}

    def numbered(self, text: str) -> str:
        return _IDS.sub(self._stand_in, text)

    def _stand_in(self, found: re.Match[str]) -> str:
        number = self._numbers.setdefault(found.group()[:12], len(self._numbers) + 1)
        return f"<id {number} of {len(found.group())}>"


def play(cli: str, host: str, story: Sequence[Line], folder: Path) -> list[Outcome]:
    """Runs a story's lines. host: DOCKER_HOST. folder: empty, for the files of the story."""
    programs = folder.with_name(f"{folder.name}-programs")
    programs.mkdir()
    (programs / "docker").symlink_to(cli)
    environment = {
        **os.environ,
        "PATH": f"{programs}{os.pathsep}{os.environ['PATH']}",
        "DOCKER_HOST": host,
        "DOCKER_CONFIG": str(programs),
        "DOCKER_BUILDKIT": "0",
    }
    ids = Ids()
    return [_outcome(line, ids, folder, environment) for line in story]


def _outcome(line: Line, ids: Ids, folder: Path, environment: Mapping[str, str]) -> Outcome:
    done = subprocess.run(
        ["bash", "-o", "pipefail", "-c", line.text],
        cwd=folder,
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=COMMAND_TIMEOUT_S,
        check=False,
    )
    output, errors = (_replaced(text.decode(errors="replace"), _DEVIATIONS) for text in (done.stdout, done.stderr))
    if line.mark == "unordered":
        output = "".join(sorted(output.splitlines(keepends=True)))
    if line.mark != "differs":  # else what the pool does not show would count on one side only
        output, errors = ids.numbered(output), ids.numbered(errors)
    return Outcome(line.text, done.returncode, normalised(output, folder), normalised(errors, folder))


def play_on_both(cli: str, hosts: Sequence[str], story: Sequence[Line], folder: Path) -> list[list[Outcome]]:
    """What is said by each of the hosts; at the same time, each in a folder of its own."""
    folders = [folder / str(number) for number, _ in enumerate(hosts)]
    for own in folders:
        own.mkdir()
    with ThreadPoolExecutor() as both:
        return list(both.map(partial(play, cli), hosts, repeat(story), folders))


def differences(
    story: Sequence[Line], of_pool: Sequence[Outcome], of_engine: Sequence[Outcome]
) -> Iterator[tuple[int, str]]:
    """(line, what is to be mended): lines that are answered otherwise and are not marked, and marks that are stale."""
    for line, here, there in zip(story, of_pool, of_engine, strict=True):
        if line.mark == "differs" and here == there:
            yield line.number, f"line {line.number}: is marked as what differs, and does not:\n{here}"
        if line.mark != "differs" and here != there:
            yield line.number, f"line {line.number}: the pool says:\n{here}\none engine says:\n{there}"
