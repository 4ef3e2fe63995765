"""Becomes a command beside a process task. Run as a script of its own, with the standard library alone.

What a task's user must not touch is done first, as the agent's user: joining the task's control groups, taking the
terminal. Then it becomes the task's user, enters its folder and executes the command with the task's environment,
which it has not had itself: a variable of a task's must not decide what the agent's user loads.

    launcher.py DESCRIPTOR      a file that holds one JSON object
"""

import errno
import fcntl
import json
import os
import signal
import sys
import termios

CANNOT_RUN = 126
NOT_FOUND = 127


def main(descriptor: int) -> int:
    """Returns only when the command cannot be executed."""
    with os.fdopen(descriptor, "rb") as paper:
        wanted = json.load(paper)
    words, environment, user = wanted["words"], wanted["environment"], wanted["user"]
    try:
        os.setsid()
        if wanted["terminal"]:
            fcntl.ioctl(0, termios.TIOCSCTTY, 0)
        for group in wanted["groups"]:
            join(group)
        os.umask(0o022)
        if user is not None:
            os.setgroups(user["groups"])
            os.setgid(user["gid"])
            os.setuid(user["uid"])
        os.chdir(wanted["directory"])
        heed_signals()
        raise execute(words, environment)
    except (OSError, ValueError) as error:
        text = getattr(error, "strerror", None) or error
        os.write(2, f"orlop: {words[0]} cannot be run here: {text}\n".encode(errors="replace"))
        return NOT_FOUND if isinstance(error, FileNotFoundError) else CANNOT_RUN


def join(group: str) -> None:
    """A group that is gone already has no limits to keep."""
    try:
        with open(f"{group}/cgroup.procs", "w") as file:
            file.write("0")
    except OSError:
        pass


def heed_signals() -> None:
    """What is ignored here would be ignored by the command: a broken pipe, by Python itself, and an interrupt, where a
    script has put the agent into the background, so that Ctrl-C would do nothing."""
    for number in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}:
        if signal.getsignal(number) == signal.SIG_IGN:
            signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, [])


def execute(words: list[str], environment: dict[str, str]) -> OSError:
    """Why it cannot be executed. As `os.execvpe`, which imports modules that the task's user may not read."""
    folders = [""] if "/" in words[0] else environment.get("PATH", os.defpath).split(":")
    refused: OSError = FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))
    for folder in folders:
        try:
            os.execve(f"{folder}/{words[0]}" if folder else words[0], words, environment)  # noqa: S606  (no shell)
        except (FileNotFoundError, NotADirectoryError):
            continue
        except OSError as error:
            refused = error
    return refused


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1])))
