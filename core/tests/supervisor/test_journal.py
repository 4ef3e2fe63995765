"""The supervisor's journal: what it amounts to, whatever becomes of its file; and what the supervisor is made of."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from supervised_node import SOURCE, WITHIN_S

from orlop.agent.supervisor import journal
from orlop.agent.supervisor.journal import Entry, Exit, Journal

names = st.sampled_from(["a", "b", "c"])
steps = st.lists(
    st.tuples(st.just("start"), names, st.integers(1, 3))
    | st.tuples(st.just("exit"), names, st.integers(0, 255))
    | st.tuples(st.just("forget"), names, st.just(0)),
    max_size=30,
)


def apply(steps: list[tuple[str, str, int]], path: Path) -> dict[str, Entry]:
    """What a supervisor would do, with its journal."""
    written = Journal(str(path))
    table: dict[str, Entry] = {}
    written.rewrite(table)
    for what, task, number in steps:
        if what == "start":
            table[task] = Entry(task, number, 100 + number, 7, "boot", "/folder", ["/g"])
            written.append([journal.started(table[task])])
        elif what == "exit" and task in table:
            table[task].exit = Exit(code=number)
            written.append([journal.exited(table[task])])
        elif what == "forget" and task in table:
            written.append([journal.forgotten(table.pop(task))])
    written.close()
    return table


def plain(table: dict[str, Entry]) -> dict[str, Any]:
    return {task: entry.to_json() for task, entry in table.items()}


@settings(deadline=None)
@given(steps)
def test_the_journal_amounts_to_the_table_also_when_rewritten(steps: list[tuple[str, str, int]]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "journal")
        table = apply(steps, path)
        again = Journal(str(path))
        assert plain(again.read()) == plain(table)
        again.rewrite(again.read())
        again.close()
        assert plain(journal.replay(path.read_bytes())) == plain(table)
        assert path.read_bytes().count(b"\n") == 1 + len(table)


@settings(deadline=None)
@given(steps, st.integers(0, 3000))
def test_a_torn_journal_amounts_to_what_its_whole_lines_say(steps: list[tuple[str, str, int]], cut: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "journal")
        apply(steps, path)
        data = path.read_bytes()[:cut]
        whole = data[: data.rfind(b"\n") + 1]
        assert plain(journal.replay(data)) == plain(journal.replay(whole))


def test_a_full_disk_leaves_no_half_line(tmp_path: Path) -> None:
    script = f"""
import resource, signal, sys
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
from orlop.agent.supervisor.journal import Entry, Journal, started
journal = Journal({str(tmp_path / "journal")!r})
journal.rewrite({{}})
resource.setrlimit(resource.RLIMIT_FSIZE, (700, 700))
for number in range(100):
    try:
        journal.append([started(Entry(f"t{{number}}", 1, 1, 1, "boot", "/folder", []))])
    except OSError:
        sys.exit(number)
"""
    ended = subprocess.run([sys.executable, "-c", script], check=False, timeout=WITHIN_S)
    data = (tmp_path / "journal").read_bytes()
    assert ended.returncode > 0
    assert data.endswith(b"}\n")
    assert list(journal.replay(data)) == [f"t{number}" for number in range(ended.returncode)]


def test_it_is_made_of_the_standard_librarys_light_parts_only() -> None:
    script = f"""
import sys
sys.path.append({str(SOURCE.parent)!r})
import supervisor.loop
print(*sys.modules)
"""
    run = subprocess.run([sys.executable, "-I", "-S", "-c", script], capture_output=True, text=True, check=True)
    modules = {name.partition(".")[0] for name in run.stdout.split()}
    assert modules - sys.stdlib_module_names <= {"supervisor", "__main__"}
    assert not modules & {"asyncio", "subprocess", "logging", "typing", "inspect", "dataclasses"}
