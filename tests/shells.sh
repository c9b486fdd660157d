#!/usr/bin/env bash
# run.sh and test.sh as people and programs call them: behind a pipe, from another directory, through a
# link, by another shell, with options for all shells, with nowhere to write to. Whatever happens, no
# process is left, and none is signaled that is not a server of the herd. Uses free ports and a temporary
# directory.

# shellcheck disable=SC2016,SC2317 # Other shells expand these texts; `holds` and `soon` call functions by name.
set -u

# shellcheck source=tests/tools.sh
source "$(dirname -- "$(readlink -f -- "${BASH_SOURCE[0]}")")/tools.sh"
# shellcheck source=tests/check.sh
source "$root/tests/check.sh"
# shellcheck source=tests/processes.sh
source "$root/tests/processes.sh"

work=$(mktemp -d) || die 1 'cannot make a temporary directory (see TMPDIR)'
state=$work/run

clean_up() {
    stop_all
    rm -rf "$work"
}
trap clean_up EXIT
trap 'exit 1' INT TERM HUP PIPE

# The options of run.sh for the herd under test.
readonly HERD=(--servers "$work/servers.txt" --state-dir "$state" --log-dir "$work/logs" --data-dir "$work/data")

# run COMMAND...: sets `code` and `output`, both streams of the command.
run() {
    code=0
    output=$("$@" 2>&1 </dev/null) || code=$?
}

# is WHAT CODE PATTERN: judges the last `run`.
is() {
    if [[ $code == "$2" && $output =~ $3 ]]; then
        pass "$1"
    else
        fail "$1" "expected exit code $2 and: $3" "actual exit code $code and: $output"
    fi
}

# are_up WHAT: both servers run.
are_up() {
    run "$root/run.sh" status --state-dir "$state"
    is "$1" 0 '^up +A .*up +B '
    note_processes
}

# none_left WHAT: none of the servers that were ever started runs, and no supervisor.
none_left() {
    note_processes
    if soon 5 none_left_over; then
        pass "$1"
    else
        fail "$1" "$(left_over)"
    fi
}

# group COMMAND: runs a command line in the background, in a process group of its own, as on a terminal.
# Sets `leader`, the group.
group() {
    set -m
    eval "{ $1; } >>$work/group 2>&1 </dev/null &"
    leader=$!
    set +m
    # This shell must not announce its end.
    disown "$leader"
}

# The command line of a start in front.
front() {
    printf '%q ' "$root/run.sh" "${HERD[@]}"
}

# in_front FILE: the output says that the servers run.
in_front() {
    grep -qs '^Ctrl-C stops all' "$1"
}

# ended: the group has no process.
ended() {
    ! kill -0 -- "-$leader" 2>/dev/null
}

# --- Pipes and terminals -------------------------------------------------------------------------

stops_behind_a_pipe() {
    local shown=$work/shown reader
    group "$(front) 2>&1 | tee $shown"
    holds 'run.sh | tee: starts' soon 30 in_front "$shown"
    note_processes
    kill -INT -- "-$leader"
    holds 'run.sh | tee, Ctrl-C: all of the pipeline ends' soon 12 ended
    none_left 'run.sh | tee, Ctrl-C: no server is left'

    rm -f "$shown"
    mkfifo "$work/pipe"
    group "$(front) >$work/pipe"
    cat "$work/pipe" >"$shown" &
    reader=$!
    disown "$reader"
    holds 'a reader that is killed: run.sh starts' soon 30 in_front "$shown"
    note_processes
    kill -KILL "$reader"
    holds 'a reader that is killed: run.sh ends' soon 12 ended
    none_left 'a reader that is killed: no server is left'

    group "$(front) | head -n 1"
    holds 'run.sh | head: ends' soon 30 ended
    note_processes
    none_left 'run.sh | head: no server is left'
    matches 'run.sh | head: the reason is given' 'nobody reads the output any more' "$(cat "$work/group")"

    if have script; then
        rm -f "$shown"
        group "exec script -qfc '$(front)' $shown"
        holds 'a terminal: run.sh starts' soon 30 grep -qs 'Ctrl-C stops all' "$shown"
        note_processes
        kill -KILL "$leader"
        none_left 'a terminal that is closed: no server is left'
    else
        skip 'a terminal that is closed' 'script (util-linux) is not installed'
    fi

    # A start that returns needs no reader.
    group "$(front) --detach | head -n 1"
    holds 'run.sh --detach | head: ends' soon 30 ended
    are_up 'run.sh --detach | head: the servers run'
}

# What a caller holds open is not held by the servers.
releases_descriptors() {
    run bash -c 'exec 9>"$1/held" && flock 9 && exec "${@:2}"' held "$work" "$root/run.sh" restart A --state-dir "$state"
    is 'restart with a lock on descriptor 9' 0 'ready in'
    holds 'the lock is released when run.sh ends' flock -n "$work/held" true
}

# --- Shells --------------------------------------------------------------------------------------

works_in_every_shell() {
    local shell status=(status --state-dir "$state") up='^up +A .*up +B '
    for shell in sh dash bash; do
        if have "$shell"; then
            run "$shell" "$root/run.sh" "${status[@]}"
            is "$shell run.sh" 0 "$up"
            run "$shell" "$root/test.sh" --help
            is "$shell test.sh" 0 '^Usage: ./test.sh'
        else
            skip "$shell run.sh" "$shell is not installed"
        fi
    done
    run bash -c 'source "$1"; echo "still here, $?"' source "$root/run.sh"
    is 'source run.sh' 0 'run it, do not source it.*still here, 2'
    run bash -c 'source "$1"; echo "still here, $?"' source "$root/test.sh"
    is 'source test.sh' 0 'run it, do not source it.*still here, 2'

    mkdir -p "$work/elsewhere" "$work/bin" "$work/cd path/tests"
    ln -s "$root/run.sh" "$work/bin/herd-run"
    ln -s "$root/test.sh" "$work/bin/herd-test"
    run "$work/bin/herd-run" "${status[@]}"
    is 'run.sh by a link' 0 "$up"
    run env PATH="$work/bin:$PATH" herd-run "${status[@]}"
    is 'run.sh by a link in PATH' 0 "$up"
    run "$work/bin/herd-test" --help
    is 'test.sh by a link' 0 '^Usage: ./test.sh'
    # With CDPATH, cd may go elsewhere, and prints where to.
    ln -s "$root" "$work/elsewhere/repository"
    run env CDPATH="$work/cd path:$work/elsewhere" bash -c 'cd -- "$1" >/dev/null && bash repository/run.sh "${@:2}"' \
        cdpath "$work/elsewhere" "${status[@]}"
    is 'run.sh with CDPATH' 0 "$up"
    run bash -c 'cd() { builtin cd "$@" && ls; }; export -f cd; "$@"' cd "$root/run.sh" "${status[@]}"
    is 'run.sh with a function cd' 0 "$up"
    run bash -o noclobber "$root/run.sh" restart A --state-dir "$state"
    is 'bash -o noclobber run.sh restart' 0 'stopped in .*ready in [0-9.]+ s: A$'
    run env SHELLOPTS=allexport:errexit:keyword:noclobber:noglob:pipefail:posix BASHOPTS=failglob:nocasematch:nullglob \
        "$root/run.sh" restart --state-dir "$state"
    is 'run.sh restart with SHELLOPTS and BASHOPTS' 0 'ready in [0-9.]+ s: A.*ready in [0-9.]+ s: B$'
    run env POSIXLY_CORRECT=1 "$root/run.sh" "${status[@]}"
    is 'run.sh with POSIXLY_CORRECT' 0 "$up"
    note_processes
}

# --- Nowhere to write to -------------------------------------------------------------------------

says_what_it_can_not_write() {
    run bash -c '"$@" >/dev/full' full "$root/run.sh" status --state-dir "$state"
    is 'run.sh status >/dev/full' 1 "^run.sh: standard output can't be written[^"$'\n'"]*\$"
    run bash -c '"$@" >&-' closed "$root/run.sh" restart A --state-dir "$state"
    is 'run.sh restart >&-' 1 "standard output can't be written"
    are_up 'run.sh restart >&-: the servers run'
    run bash -c '"$@" >/dev/full' full "$root/run.sh" start --detach "${HERD[@]}" --state-dir "$work/full-run"
    is 'a second start >/dev/full' 1 'another program has that port'
    run bash -c '"$@" >/dev/full' full "$root/test.sh" --help
    holds 'test.sh --help >/dev/full fails' test "$code" -ne 0
    # A directory that nobody can write in, root neither.
    run "$root/run.sh" start --detach "${HERD[@]}" --state-dir /proc/self/run
    is 'a state directory that cannot be made' 1 'cannot make the directory /proc/self/run \(--state-dir names another'
    run "$root/run.sh" start --detach --servers "$work/servers.txt" --state-dir "$work/logs-run" --log-dir /proc/self/logs \
        --data-dir "$work/data"
    holds 'a log directory that cannot be made: refused' test "$code" -eq 1
    if ((EUID != 0)); then
        mkdir "$work/closed-run"
        chmod 555 "$work/closed-run"
        run "$root/run.sh" start --detach "${HERD[@]}" --state-dir "$work/closed-run"
        is 'a state directory of mode 555' 1 "cannot write in $work/closed-run"
    else
        skip 'a state directory of mode 555' 'root may write in it'
    fi
}

# --- Process ids ---------------------------------------------------------------------------------

# reloads LOG: number of reloads in a log.
reloads() {
    grep -c 'reloaded: ' "$1"
}

reloaded_again() {
    (($(reloads "$1") > $2))
}

signals_its_own_servers_only() {
    local pid before sleeper started
    pid=$(server_pid A)
    matches 'NAME.pid is the process id alone' '^[0-9]+$' "$pid"
    before=$(reloads "$work/logs/A.log")
    kill -HUP "$pid"
    # The documented way.
    holds 'kill -HUP "$(cat NAME.pid)" reloads' soon 5 reloaded_again "$work/logs/A.log" "$before"
    run "$root/run.sh" reload A A --state-dir "$state"
    is 'run.sh reload NAME' 0 '^A: neighbors: the same as before; keys: the same as before$'
    run "$root/run.sh" restart A A --state-dir "$state"
    is 'run.sh restart NAME' 0 'stopped in [0-9.]+ s: A'$'\n''ready in [0-9.]+ s: A$'
    same 'run.sh restart NAME NAME restarts it once' 1 "$(grep -c '^stopped in ' <<<"$output")"
    note_processes

    run "$root/run.sh" stop A --state-dir "$state"
    is 'run.sh stop NAME' 0 '^stopped in [0-9.]+ s: A$'
    holds 'a server that has ended has no NAME.pid' test ! -e "$state/A.pid"
    # Its id has been given to another process.
    sleep 60 &
    sleeper=$!
    read -r _ started boot _ <"$state/A.process"
    echo "$sleeper" >"$state/A.pid"
    echo "$sleeper $started $boot 1" >"$state/A.process"
    run "$root/run.sh" status --state-dir "$state"
    is 'a process id that was given to another: status' 1 '^down +A .*up +B '
    run "$root/run.sh" reload A --state-dir "$state"
    is 'a process id that was given to another: reload' 1 'A is not running'
    run "$root/run.sh" stop A --state-dir "$state"
    is 'a process id that was given to another: stop' 0 'no server is running'
    holds 'a process id that was given to another: it is left alone' is_running "$sleeper"
    run "$root/run.sh" start A --detach --state-dir "$state"
    is 'a process id that was given to another: start' 0 'ready in [0-9.]+ s: A'
    holds 'a process id that was given to another: it is left alone by start' is_running "$sleeper"
    kill "$sleeper"
    are_up 'the server runs again'
}

# --- servers.txt ---------------------------------------------------------------------------------

reads_servers_as_the_program_does() {
    local fake=$work/fake nbsp=$'\xc2\xa0'
    # A name that nobody knows is refused before anything is built.
    mkdir -p "$fake"
    printf '#!/bin/sh\necho "cargo $*" >>%q\nexit 1\n' "$work/called" >"$fake/cargo"
    chmod +x "$fake/cargo"
    run env PATH="$fake:$PATH" "$root/run.sh" start Nobody --state-dir "$state"
    is 'start of an unknown server' 2 "^run.sh: $work/servers.txt names no server Nobody; it names A B\$"
    holds 'start of an unknown server: nothing was built' test ! -e "$work/called"
    run "$root/run.sh" A --state-dir "$state"
    is 'a name without a command' 2 'there is no command A; .*\./run.sh start A'
    run "$root/run.sh" stop Nobody --state-dir "$state"
    is 'stop of an unknown server' 2 'names no server Nobody; it names A B'

    cp "$work/servers.txt" "$work/good.txt"
    # To a script that splits at white space, this is a file with one server.
    sed -i "s/^B /B$nbsp/" "$work/servers.txt"
    run "$root/run.sh" restart --state-dir "$state"
    is 'restart with a no-break space in servers.txt' 2 \
        "servers.txt:2: column 2: U\+00A0 \(no-break space\) is not white space here"
    run "$root/run.sh" status --state-dir "$state"
    is 'status with a faulty servers.txt shows what runs' 2 'U\+00A0.*up +A .*up +B '
    run "$root/run.sh" reload A --state-dir "$state"
    is 'reload with a faulty servers.txt' 1 'A refused: .*U\+00A0 \(no-break space\)'
    run "$root/run.sh" stop B --state-dir "$state"
    is 'stop with a faulty servers.txt' 0 '^stopped in [0-9.]+ s: B$'
    # A chain of three works, and is warned of.
    find_ports 2
    { sed 's/^\(B .*\)/\1 C/' "$work/good.txt" && echo "C 127.0.0.1:${ports[0]} 127.0.0.1:${ports[1]} B"; } >"$work/servers.txt"
    run "$root/run.sh" start B --detach --state-dir "$state"
    is 'start warns of a single point of failure' 0 "warning: .*servers.txt:2: if B is down, A and C can't reach each other"
    note_processes
}

# -------------------------------------------------------------------------------------------------

find_ports 4
printf '%s\n' "A 127.0.0.1:${ports[0]} 127.0.0.1:${ports[1]} B" \
    "B 127.0.0.1:${ports[2]} 127.0.0.1:${ports[3]} A" >"$work/servers.txt"
stops_behind_a_pipe
releases_descriptors
works_in_every_shell
says_what_it_can_not_write
signals_its_own_servers_only
reads_servers_as_the_program_does
stop_all
none_left "none of the ${#processes[@]} processes that were started is left"
report_counts
