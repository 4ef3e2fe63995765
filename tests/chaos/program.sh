#!/bin/sh
# What Chronos' jobs run: program.sh FOLDER SECONDS FAILS. Says in its host's own file when it starts and how it ends.
# FAILS: of so many due times (in seconds, with the attempt added) one ends with code 3; 0: none.

folder=$1 seconds=$2 fails=$3
task=${MESOS_SANDBOX##*/tasks/}
task=${task%%/*}
who="$CHRONOS_RUN_ID $CHRONOS_JOB_RUN_ATTEMPT $CHRONOS_JOB_RUN_TIME $CHRONOS_RUN_CAUSE $task"

say() {
    # Whoever stops the whole process group may hit the clock.
    now=$(date +%s%3N) || now=$(date +%s%3N)
    echo "$1 $now $who $2" >>"$folder/$HOST"
}

stop() {
    trap '' TERM
    say stopped 143
    exit 143
}

# Whoever is stopped has begun.
stopped=
trap 'stopped=yes' TERM
say start 0
trap stop TERM
[ -z "$stopped" ] || stop
sleep "$seconds" &
wait $!
code=0
if [ "$fails" -gt 0 ] && [ $(((CHRONOS_JOB_RUN_TIME / 1000 + CHRONOS_JOB_RUN_ATTEMPT) % fails)) -eq 0 ]; then
    code=3
fi
trap '' TERM
say end $code
exit $code
