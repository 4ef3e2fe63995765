"""The supervisor: one small process per node that is the parent of all its process tasks.

Tasks must outlive the agent, and only a parent learns an exit code; so the parent is a program of its own that does
as little as possible, on the standard library only, and hardly ever changes. It runs as `python -I -S supervisor/
__main__.py OPTIONS`, in its own session and control group, as child subreaper, and serves the agent on a unix socket.

* `loop`: who runs, who has ended; the only state is the table of entries, which the journal mirrors.
* `clients`: who is connected.
* `journal`: each start and each exit, appended before anybody is told. Reading it again gives the table.
* `spawn`: fork, wait for the journal, become the task.
* `remains`: what a task leaves behind: its process group and its control groups.
* `graves`: when the latter are removed.
* `logfile`: what operators are told.

**No unknown process.** A child is forked blocked on a pipe; its pid is journalled; then it may go on. If the
supervisor dies in between, the pipe breaks and the child exits without having run anything.

**No lost exit.** An ended child stays a zombie (`WNOWAIT`) until what is left of its group is killed, so that the
group's number cannot be reused meanwhile; it is then reaped, journalled, and reported to whoever is connected. It
stays in the table until the agent says `forget`.

**No invented exit.** A supervisor that was killed leaves its tasks running. The next one reads the journal and adopts
those whose identity (boot id, pid, start time) still holds, through pidfds; it is not their parent, so their exit
code will be unknown, and is said to be. So is that of those which ended in between, or with the machine.

Upgrades replace the program in place: `reexec` keeps the pid, and with it the children, the lock and the listening
socket; connections are dropped, and the agent connects again and is told everything, as on each connection.

The protocol is JSON, one object a line. Requests: `{"do": "start", ...}` (see `spawn.Start`), `signal`, `kill` and
`forget` (with `task`, and `signal` as a number), `list`, `version`, `reexec` (`executable`, `source`, `options`).
News: `{"is": "list", "version", "pid", "tasks": [...]}` on connecting, then `started` and `exited` with the task's
entry, `refused` (a start that is not to be; with `reason`), `forgotten`, `version`, `error`.
"""
