"""What Docker's CLI prints when it talks to the pool, beside what it prints when it talks to one engine.

A story is a list of commands on an empty pool, and each command's exit code and output are compared after what differs
by nature (ids, times, addresses) has been replaced. `python -m pytest` runs all stories with each CLI that is here.
"""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import repeat
from pathlib import Path
from typing import Final

import attrs

CLIS: Final = ("/usr/bin/docker", "/usr/local/bin/docker")
THERE: Final = [cli for cli in CLIS if Path(cli).exists()]
COMMAND_TIMEOUT_S: Final = 60.0

#: An engine lists these in any order.
UNORDERED: Final = ("diff ",)

Command = str | tuple[str, bytes]

#: Each command is split at spaces; `_` in a word is a space. With bytes: what it gets on its standard input.
STORIES: Final[Mapping[str, Sequence[Command]]] = {
    "run in the foreground": (
        "run --rm busybox echo hello",
        "run --rm busybox sh -c echo_out;echo_err_>&2;exit_7",
        "ps -a",
    ),
    "run with input": (
        ("run --rm -i busybox cat", b"a\nb\x00\xff\n" * 1000),
        ("run --rm -i busybox sh -c cat_>/dev/null;echo_end", b"x" * 300_000),
    ),
    "run what is not there": (
        "run --name bad busybox no-such-command",
        "ps -a --format {{.Names}}:{{.Status}}",
        "run --rm --name bad busybox true",
        "rm bad",
        "run --rm --name a/b/c busybox true",
        "run --rm --memory 1k busybox true",
        "run --rm --network no-such-network busybox true",
        "run --rm --volumes-from nobody busybox true",
        "ps -a --format {{.Names}}",
    ),
    "the life of a container": (
        "create --name web --label tier=front busybox sleep 1000",
        "ps",
        "ps -a",
        "start web",
        "start web",
        "ps --format {{.Names}}:{{.Image}}:{{.Command}}:{{.Labels}}:{{.State}}",
        "inspect --format {{.Name}}:{{.State.Status}}:{{.Config.Labels}}:{{.RestartCount}} web",
        "pause web",
        "ps --filter status=paused --format {{.Names}}",
        "pause web",
        "unpause web",
        "unpause web",
        "restart -t 0 web",
        "kill web",
        "kill web",
        "wait web",
        "start web",
        "stop -t 0 web",
        "stop -t 0 web",
        "inspect --format {{.State.Status}}:{{.State.ExitCode}} web",
        "rm web",
        "rm web",
        "ps -aq",
    ),
    "names": (
        "create --name one busybox true",
        "create --name one busybox true",
        "create --name two busybox true",
        "rename one two",
        "rename one three",
        "rename one four",
        "rename three three",
        "ps -a --format {{.Names}}",
        "ps -a --filter name=thr --format {{.Names}}",
        "inspect --format {{.Name}} /three",
        "rm two three",
        "create --name one busybox true",
        "rm -f one",
    ),
    "lists": (
        "create --name first --label a=1 busybox true",
        "run -d --name second --label a=2 busybox sleep 1000",
        "create --name third --label b busybox true",
        "run --name fourth busybox sh -c exit_3",
        "ps --format {{.Names}}",
        "ps -a --format {{.Names}}",
        "ps -n 2 --format {{.Names}}",
        "ps -l --format {{.Names}}",
        "ps -a --filter before=third --format {{.Names}}",
        "ps -a --filter since=second --format {{.Names}}",
        "ps -a --filter since=first --filter before=fourth --format {{.Names}}",
        "ps -a --filter since=nobody",
        "ps -a --filter label=a --format {{.Names}}",
        "ps -a --filter label=a=2 --format {{.Names}}",
        "ps -a --filter exited=3 --format {{.Names}}",
        "ps -a --filter status=created --format {{.Names}}",
        "ps -a --filter status=nonsense",
        "ps -a --filter ancestor=busybox --format {{.Names}}",
        "ps -a --filter network=bridge --format {{.Names}}",
        "ps -a --filter nonsense=1",
        "ps -a -s --format {{.Names}}:{{.Size}}",
        "ps -a --no-trunc --format {{.ID}}:{{.Command}}",
    ),
    "commands in a container": (
        "run -d --name web busybox sleep 1000",
        "exec web echo hello",
        "exec web sh -c echo_err_>&2;exit_9",
        ("exec -i web cat", b"in\n" * 100_000),
        ("exec -i web sh -c wc_-c", b"x" * 3_000_000),
        "exec -d web touch /made",
        "exec -e A=b -w /tmp -u 1:1 web sh -c echo_$A;pwd;id_-u",
        "exec web no-such-command",
        "exec web",
        "exec nobody true",
        "top web -o pid,args",
        "stop -t 0 web",
        "exec web true",
        "top web",
    ),
    "output": (
        "run -d --name web busybox sh -c echo_one;echo_two;echo_three",
        "wait web",
        "logs web",
        "logs --tail 1 web",
        "logs -f web",
        "logs --since 1h web",
        "logs -t web",
        "logs --until 1h web",
        "logs nobody",
        "attach web",
    ),
    "attach": (
        "run -dit --name terminal busybox cat",
        "run -di --name plain busybox sh -c read_line;test_$line_=_word",
        ("attach plain", b"word\n"),
        "wait plain",
        "rm -f terminal",
        "attach nobody",
    ),
    "files": (
        "run -d --name web busybox sleep 1000",
        "exec web sh -c echo_text_>/tmp/file",
        "exec web touch -d 2020-01-01_00:00:00 /tmp/file",
        "cp web:/tmp/file -",
        "cp web:/tmp/file {folder}/out",
        "cp {folder}/out web:/tmp/back",
        "exec web cat /tmp/back",
        "cp web:/no/such/file -",
        "cp {folder}/out web:/no/such/folder/",
        "cp nobody:/etc/hostname -",
        "cp {folder}/out nobody:/tmp/",
        "diff web",
        "diff nobody",
        "export -o {folder}/tree.tar web",
        "export -o {folder}/tree.tar nobody",
    ),
    "limits": (
        "run -d --name web --memory 64m --cpus 0.5 busybox sleep 1000",
        "inspect --format {{.HostConfig.Memory}}:{{.HostConfig.NanoCpus}} web",
        "update --memory 128m --memory-swap 256m web",
        "inspect --format {{.HostConfig.Memory}} web",
        "update --memory 1k web",
        "update --restart always web",
        "stats --no-stream --format {{.Name}} web",
        "rm web",
        "rm -f web",
    ),
    "relations": (
        "run -d --name db -v /data busybox sleep 1000",
        "exec db touch /data/kept",
        "run --rm --volumes-from db busybox ls /data",
        "run --rm --link db:database busybox cat /etc/hosts",
        "run --rm --network container:db busybox hostname",
        "rm -f -v db",
    ),
    "what nobody has": tuple(
        f"{command} nobody"
        for command in ("start", "stop", "restart", "kill", "pause", "unpause", "wait", "rm", "rm -f", "logs -f", "top",
                        "port", "update --memory 64m", "rename nobody", "container inspect", "inspect",
                        "stats --no-stream")
    ),
    "prune": (
        "run --name ended busybox true",
        "create --name never --label keep busybox true",
        "run -d --name going busybox sleep 1000",
        "container prune -f --filter label!=keep",
        "ps -a --format {{.Names}}",
        "container prune -f --filter nonsense=1",
        "container prune -f",
        "ps -a --format {{.Names}}",
        "run --rm --name ended busybox true",
    ),
    "ids": (
        "run -d --name web --cidfile {folder}/id busybox sleep 1000",
        "inspect --format {{.Id}} web",
        "ps -q",
        "ps -q --no-trunc --filter name=web",
    ),
}  # fmt: skip

#: What differs between two runs by nature, and what stands for it.
_VARIES: Final = (
    # The CLI's own races with itself: refused while it still packs what it copies, or waits for what does not start.
    (re.compile(r"(?m)^time=.*(closed pipe|context canceled)\"\n"), ""),
    (re.compile(r"\d{4}-\d\d-\d\d[T ]\d\d:\d\d:\d\d(\.\d+)?(Z| [+-]\d{4} \w+)?"), "<time>"),
    (re.compile(r"(Less than a second|About a minute|\d+ seconds?|\d+ minutes?)( ago)?"), "<while>"),
    (re.compile(r"\b\d+\.\d+\.\d+\.\d+\b"), "<address>"),
    (re.compile(r"<address>:\d+->"), "<address>:<port>->"),
    (re.compile(r"\b[a-z]+_[a-z]+\b(?=\s*$)", re.MULTILINE), "<name>"),
    (re.compile(r"(?m)^ *\d+ +(?=sleep|ps|PID)"), "<pid> "),
    (re.compile(r" +"), " "),
    (re.compile(r"-{2,}"), "--"),
)
_IDS: Final = re.compile(r"\b[0-9a-f]{64}\b|\b[0-9a-f]{12}\b")


@attrs.frozen
class Outcome:
    """What a command did. output, errors: with everything that varies replaced."""

    command: str
    code: int
    output: str
    errors: str

    def __str__(self) -> str:
        return f"$ docker {self.command}\nexit code {self.code}\n{self.output}--\n{self.errors}"


def normalised(text: str, folder: Path) -> str:
    text = _IDS.sub(lambda found: f"<id of {len(found.group())}>", text.replace(str(folder), "<folder>"))
    for pattern, stand_in in _VARIES:
        text = pattern.sub(stand_in, text)
    return text


def play(cli: str, host: str, story: Sequence[Command], folder: Path) -> list[Outcome]:
    """Runs a story's commands. host: DOCKER_HOST. folder: empty, for the files of the story."""
    environment = {**os.environ, "DOCKER_HOST": host, "DOCKER_CONFIG": str(folder), "DOCKER_BUILDKIT": "0"}
    outcomes = []
    for command in story:
        words, given = command if isinstance(command, tuple) else (command, b"")
        argv = [word.replace("_", " ").replace("{folder}", str(folder)) for word in words.split(" ")]
        done = subprocess.run(
            [cli, *argv], input=given, capture_output=True, timeout=COMMAND_TIMEOUT_S, env=environment, check=False
        )
        output, errors = (normalised(text.decode(errors="replace"), folder) for text in (done.stdout, done.stderr))
        if words.startswith(UNORDERED):
            output = "".join(sorted(output.splitlines(keepends=True)))
        outcomes.append(Outcome(words, done.returncode, output, errors))
    return outcomes


def play_on_both(cli: str, hosts: Sequence[str], story: Sequence[Command], folder: Path) -> list[list[str]]:
    """What is said by each of the hosts, normalised; at the same time, each in a folder of its own."""
    folders = [folder / str(number) for number, _ in enumerate(hosts)]
    for own in folders:
        own.mkdir()
    with ThreadPoolExecutor() as both:
        told = both.map(partial(play, cli), hosts, repeat(story), folders)
        return [[str(one) for one in outcomes] for outcomes in told]
