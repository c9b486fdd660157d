# The servers of a herd on this machine: listed in a file, started as processes, found again by a later
# script, watched, reloaded and stopped. Sourced by run.sh, which has the commands and the options.
#
# Each server has a supervisor, a shell that records the server's process id and exit code, so that a
# later ./run.sh knows about servers that it did not start itself. Files in the state directory, for a
# server NAME:
#   NAME.pid      its process id, while it runs: for people and other programs, such as
#                 kill -HUP "$(cat NAME.pid)"
#   NAME.process  its process id, that process's start time, the boot id of the machine, and the process
#                 id of its supervisor: by these it is found again, and never mistaken for a process that
#                 was given its id later
#   NAME.out      its standard output: the line NAME is ready
#   NAME.notices  its standard error: warnings and errors
#   NAME.exit     its exit code, once it has ended
# and `settings`: the program, the servers file, the log and data directories, and the flags of the last
# start, each ended by a zero byte.
#
# Functions return results in variables that their comments name. run.sh sets those of the command line,
# the program `herd`, and the `signal` that is to end the script.
# shellcheck shell=bash disable=SC2034,SC2154 # Variables shared with run.sh.

# shellcheck source=tests/tools.sh
source "$(dirname -- "${BASH_SOURCE[0]}")/tools.sh"

# Time limit for a server to become ready.
readonly READY_SECONDS=10
# Time limit for a server to stop, after which it is killed. It exits by itself after 9.
readonly STOP_SECONDS=10
# Time limit for a server to reload. Leaving a neighbor that does not answer takes seconds.
readonly RELOAD_SECONDS=10

# From a server's port for clients to its HTTP port.
readonly HTTP_OFFSET=2000

# Log texts after a reload that succeeded and one that was refused.
readonly RELOADED='reloaded: '
readonly REFUSED='reload failed(, keeping the current configuration)?: '

# An id of this boot of the machine.
read -r boot_id 2>/dev/null </proc/sys/kernel/random/boot_id || boot_id=unknown

# Both ends of a pipe that nothing is written to: reading it with a time limit is a pause.
exec {never}<> <(:)

# Sleeps without starting a process.
pause() {
    read -r -t "$1" -u "$never" || true
}

# --- Lock: only one run.sh at a time starts or stops the servers of a state directory ---------------

take_lock() {
    mkdir -p -- "$state_dir" 2>/dev/null ||
        die 1 "cannot make the directory $state_dir (--state-dir names another, as --log-dir and --data-dir do)"
    { exec {lock}>"$state_dir/lock"; } 2>/dev/null ||
        die 1 "cannot write in $state_dir, which belongs to $(stat -c %U "$state_dir") (--state-dir names another)"
    flock -w 30 "$lock" || die 1 "another run.sh is starting or stopping the servers of $state_dir"
}

free_lock() {
    exec {lock}>&-
}

# Succeeds while another run.sh starts or stops servers.
is_locked() {
    ! (flock -n 9) 9>"$state_dir/lock"
}

# --- Settings and servers ------------------------------------------------------------------------

# Takes settings that the command line leaves open from the last start, else the defaults. A start of
# all servers takes the defaults.
load_settings() {
    saved=()
    if [[ -r $state_dir/settings ]] && ! { [[ $command == start ]] && $whole; }; then
        mapfile -t -d '' saved <"$state_dir/settings"
    fi
    : "${servers:=${saved[1]:-$root/servers.txt}}"
    : "${log_dir:=${saved[2]:-$root/logs}}"
    : "${data_dir:=${saved[3]:-$root/data}}"
    if ! $flags_given; then
        flags=("${saved[@]:4}")
    elif [[ ${flags[*]} == "$once" ]]; then
        # It comes on top of the others.
        flags=("${saved[@]:4}" "$once")
    fi
}

# The flag of `herd serve` that is for one start and not for later ones.
once=--lengthen-forget-after

# Keeps the settings for later commands, unless they are those of some servers only.
save_settings() {
    local flag kept=()
    if $whole || [[ ! -e $state_dir/settings ]]; then
        for flag in "${flags[@]}"; do
            [[ $flag == "$once" ]] || kept+=("$flag")
        done
        printf '%s\0' "$herd" "$servers" "$log_dir" "$data_dir" "${kept[@]}" 2>/dev/null >"$state_dir/settings" ||
            die 1 "cannot write in $state_dir (is the disk full?)"
    fi
}

# Prints the directory that cargo builds in.
target_dir() {
    local target=${CARGO_TARGET_DIR:-target}
    [[ $target == /* ]] || target=$root/$target
    echo "$target"
}

# Sets `herd` to the program that was built or started last. Fails if there is none.
find_program() {
    local program
    [[ -z $herd ]] || return 0
    for program in "${saved[0]:-}" "$(target_dir)/release/herd"; do
        if [[ -x $program && ! -d $program ]]; then
            herd=$program
            return 0
        fi
    done
    return 1
}

# read_servers [FLAG...]: has `herd check` read the servers file, the only reader of which is the
# program, with these flags. Sets `listed` to the names, `listed_clients` and `listed_peers` to their
# addresses, and `warnings`. Fails, with the faults printed, if the program refuses the file.
declare -A listed_clients=() listed_peers=()
listed=() warnings=() saved=()
read_servers() {
    local checked code row first second third fourth
    listed=() warnings=()
    find_program || die 1 "the program that reads $servers is not built yet; ./run.sh build builds it"
    checked=$("$herd" check --servers "$servers" --format tsv "$@") || {
        code=$?
        # That of an earlier version does not know the format.
        "$herd" check --help 2>/dev/null | grep -q -e --format ||
            complain "$herd is too old for this script; ./run.sh build builds it"
        return "$code"
    }
    while IFS=$'\t' read -r row first second third fourth; do
        case $row in
            server)
                listed+=("$first")
                listed_clients[$first]=$second listed_peers[$first]=$third
                ;;
            warning)
                # The key file may be another one, by a flag for the servers, and they report it.
                [[ $first != key ]] || continue
                ((second == 0)) || third="$servers:$second: $third"
                warnings+=("$third")
                ;;
        esac
    done <<<"$checked"
}

# Checks that the file lists the servers that the command line names.
check_names() {
    local name
    for name in "${names[@]}"; do
        is_listed "$name" || die 2 "$servers names no server $name; it names ${listed[*]}"
    done
}

# The same, but a server that runs can be named though its line was removed, or the file has faults.
check_running_names() {
    local name
    for name in "${names[@]}"; do
        find_server "$name" && continue
        ((${#listed[@]} > 0)) || read_servers --no-lookup || exit
        is_listed "$name" || die 2 "$servers names no server $name; it names ${listed[*]}"
    done
}

is_listed() {
    [[ -n ${listed_clients[$1]:-} ]]
}

# Sets `unlisted` to the servers that still run after their lines were removed from the servers file.
find_unlisted() {
    local name
    unlisted=()
    find_running
    for name in "${running[@]}"; do
        is_listed "$name" || unlisted+=("$name")
    done
}

# --- Start ---------------------------------------------------------------------------------------

# supervise STEM COMMAND...: runs a server and records its process id and exit code.
supervise() {
    local stem=$1 parent started code owner descriptor
    shift
    # Pipes and locks of the caller, or of what called it, must not stay open for as long as the server.
    for descriptor in /proc/self/fd/*; do
        descriptor=${descriptor##*/}
        ((descriptor <= 2)) || eval "exec $descriptor>&-"
    done
    # This shell must not announce that a signal ended the server; the server keeps its own output.
    {
        (
            find_process "$BASHPID" && echo "$BASHPID" >"$stem.pid" &&
                echo "$BASHPID $started $boot_id $$" >"$stem.process" && exec "$@" 2>&3 3>&-
        )
        code=$?
        # A server that was started since has files of its own.
        read -r _ _ _ owner <"$stem.process"
        if [[ $owner == "$$" ]]; then
            # The id may be given to another process now.
            rm -f -- "$stem.pid"
            echo "$code" >"$stem.exit"
        fi
    } 3>&2 2>/dev/null
}

# Sets `http_flags` to those by which a server gets its HTTP port: its client port + 2,000 of the loopback
# address, or a free one where that is taken, too high, or a port of a server that may start later; none
# if the user's flags name one.
find_http_flags() {
    local flag address port=${listed_clients[$1]##*:}
    http_flags=()
    for flag in "${flags[@]}"; do
        [[ $flag != --http && $flag != --http=* ]] || return 0
    done
    port=$((port + HTTP_OFFSET))
    for address in "${listed_clients[@]}" "${listed_peers[@]}"; do
        [[ ${address##*:} != "$port" ]] || port=0
    done
    ((port <= 65535)) || port=0
    http_flags=(--http "127.0.0.1:$port" --http-optional)
}

# Starts a server in a session of its own, out of reach of Ctrl-C and of a closed terminal.
spawn() {
    local name=$1 stem=$state_dir/$1 http_flags
    find_http_flags "$name"
    rm -f -- "$stem.pid" "$stem.process" "$stem.exit" "$stem.notices"
    : >"$stem.out"
    # shellcheck disable=SC2016 # The supervisor expands them.
    setsid "$BASH" -c 'source "$0" && supervise "$@"' "${BASH_SOURCE[0]}" "$stem" \
        "$herd" serve "$name" --servers "$servers" --log-dir "$log_dir" --data-dir "$data_dir" --log-lines \
        "${http_flags[@]}" "${flags[@]}" \
        </dev/null >>"$stem.out" 2>>"$stem.notices" {lock}>&- {never}<&- &
}

# wait_ready NAME...: waits until these servers are ready. Fails, with the reasons printed, if one is
# not: with code 2 for bad usage or bad configuration, else 1.
wait_ready() {
    local name code=0 deadline broken=() late=() pending=("$@") still
    deadline=$(($(now_us) + READY_SECONDS * 1000000))
    while ((${#pending[@]} > 0)); do
        still=()
        for name in "${pending[@]}"; do
            if find_addresses "$name"; then
                continue
            elif find_exit_code "$name"; then
                broken+=("$name")
                ((exit_code != 2)) || code=2
            elif (($(now_us) > deadline)); then
                late+=("$name")
            else
                still+=("$name")
            fi
        done
        pending=("${still[@]}")
        [[ -z $signal ]] || return 1
        pause 0.01
    done
    for name in "${broken[@]}"; do
        cat "$state_dir/$name.notices"
        # A server that was killed could not print the reason itself.
        [[ -s $state_dir/$name.notices ]] || echo "$name ended before it was ready"
    done | awk '!seen[$0]++' >&2 # A bad flag is bad for all of them.
    for name in "${late[@]}"; do
        [[ -s $state_dir/$name.process ]] ||
            complain "$name was not started: cannot write in $state_dir (is the disk full?)"
    done
    if ((${#late[@]} > 0)); then
        complain "not ready after $READY_SECONDS s: ${late[*]} (see $state_dir/*.notices)"
    fi
    ((${#broken[@]} + ${#late[@]} == 0)) || return "$((code > 0 ? code : 1))"
}

# --- Find ----------------------------------------------------------------------------------------

# Sets `pid` to a server's process id. Fails if it is not running.
find_server() {
    local recorded boot parent started
    pid=
    read -r pid recorded boot _ 2>/dev/null <"$state_dir/$1.process" || return 1
    [[ $boot == "$boot_id" ]] && find_process "$pid" && [[ $started == "$recorded" ]]
}

# find_running [NAME...]: sets `running` to those of the servers that are running; without names, of all
# that were ever started with this state directory.
find_running() {
    local name names=("$@")
    if (($# == 0)); then
        names=("$state_dir"/*.process)
        names=("${names[@]##*/}")
        names=("${names[@]%.process}")
    fi
    running=()
    for name in "${names[@]}"; do
        ! find_server "$name" || running+=("$name")
    done
}

# Sets `clients`, `peers` and `http` to a server's addresses; without an HTTP port the last is empty. Fails
# until it is ready.
find_addresses() {
    local line
    clients='' peers='' http=''
    while read -r line; do
        if [[ $line =~ ^"$1 is ready: clients "([^ ,]+)", peers "([^ ,;]+)(", http "([^ ,;]+))? ]]; then
            clients=${BASH_REMATCH[1]} peers=${BASH_REMATCH[2]} http=${BASH_REMATCH[4]}
            return 0
        fi
    done 2>/dev/null <"$state_dir/$1.out"
    return 1
}

# Sets `exit_code` to that of a server that has ended. Fails, with nothing in it, if there is none.
find_exit_code() {
    exit_code=
    read -r exit_code 2>/dev/null <"$state_dir/$1.exit"
}

# --- Watch --------------------------------------------------------------------------------------

# Shows what is appended to files, and follows a new file of the same name: that of a server that is
# started again. Ends with this shell, or once its output has no reader. Sets `follower`.
follower=
follow() {
    tail -q -n +1 -F --pid=$$ -- "$@" 2>/dev/null &
    follower=$!
    # This shell must not announce its end.
    disown "$follower"
}

unfollow() {
    [[ -z $follower ]] || kill "$follower" 2>/dev/null
}

# watch_servers NAME...: shows the notices of these servers and which of them end, until a signal comes,
# nobody reads the output any more, or none is left. Fails if one ended with an exit code that is not 0.
watch_servers() {
    local name files=() before after ended=0 state_hint='' parent started
    [[ $state_dir == "$root/run" ]] || state_hint=" --state-dir ${state_dir@Q}"
    for name in "$@"; do
        files+=("$state_dir/$name.notices")
    done
    follow "${files[@]}"
    before=" $* "
    while [[ -z $signal ]]; do
        if [[ -n $follower ]] && ! find_process "$follower"; then
            follower=
            # It may have been killed, or be of a kind that does not know these options. If there is
            # no reader any more, this line does not arrive either.
            say "Warnings and errors are not shown here any more; they are in $state_dir/NAME.notices."
        fi
        if reader_is_gone; then
            complain "nobody reads the output any more"
            signal=PIPE
            break
        fi
        find_running "$@"
        if ((${#running[@]} == 0)); then
            # Another run.sh may be restarting them.
            take_lock
            free_lock
            find_running "$@"
        fi
        after=" ${running[*]} "
        for name in "$@"; do
            if [[ $before == *" $name "* && $after != *" $name "* ]]; then
                if is_locked; then
                    complain "$name is being stopped or restarted by another run.sh"
                    continue
                fi
                pause 0.05
                find_exit_code "$name"
                complain "$name has ended, exit code ${exit_code:-unknown};" \
                    "to start it again: ./run.sh start $name --detach$state_hint"
                [[ $exit_code == 0 ]] || ended=1
            elif [[ $before != *" $name "* && $after == *" $name "* ]]; then
                complain "$name is running again"
            fi
        done
        before=$after
        if ((${#running[@]} == 0)); then
            complain "no server is left"
            break
        fi
        pause 0.2
    done
    return "$ended"
}

# --- Stop ----------------------------------------------------------------------------------------

# send SIGNAL NAME...: sends a signal to those of the servers that are running. Fails if one can't be
# sent it, being another user's.
send() {
    local name signal_name=$1 result=0
    shift
    for name in "$@"; do
        if find_server "$name" && ! kill "-$signal_name" "$pid" 2>/dev/null && find_server "$name"; then
            complain "$name, process $pid, belongs to another user, $(stat -c %U "/proc/$pid")"
            result=1
        fi
    done
    return "$result"
}

# stop_servers [NAME...]: stops those of the servers that are running, without names all, and sets
# `stopped` to them. Fails if one had to be killed or its exit code was not 0.
stop_servers() {
    local name waited since deadline result=0
    since=$(now_us) deadline=$(($(now_us) + STOP_SECONDS * 1000000))
    find_running "$@"
    stopped=("${running[@]}")
    ((${#stopped[@]} > 0)) || return 0
    send TERM "${stopped[@]}" || return 1
    while ((${#running[@]} > 0)); do
        if (($(now_us) > deadline)); then
            complain "killed, as not stopped within $STOP_SECONDS s: ${running[*]}"
            send KILL "${running[@]}"
            deadline=$((deadline + STOP_SECONDS * 1000000))
        fi
        pause 0.02
        find_running "${running[@]}"
    done
    for name in "${stopped[@]}"; do
        # The supervisor writes it right after the server's end.
        for ((waited = 0; waited < 100; waited++)); do
            find_exit_code "$name" && break
            pause 0.02
        done
        if [[ $exit_code != 0 ]]; then
            complain "$name ended with exit code ${exit_code:-unknown}"
            result=1
        fi
    done
    say "stopped in $(seconds_since "$since") s: ${stopped[*]}"
    return "$result"
}

# --- Reload --------------------------------------------------------------------------------------

size_of() {
    stat -c %s "$1" 2>/dev/null || echo 0
}

# find_line FILE OFFSET TEXT: prints what follows the text in the first line that has it beyond the
# offset, or in the whole file if it was replaced.
find_line() {
    local offset=$2
    (($(size_of "$1") >= offset)) || offset=0
    tail -c "+$((offset + 1))" "$1" 2>/dev/null | sed -nE "s/^.*($3)//p" | head -n 1 | grep .
}

# reload_servers NAME...: sends SIGHUP and prints the outcomes, which servers report in their logs, and
# a refusal to their standard error too. Fails unless all have reloaded.
reload_servers() {
    local name text result=0 deadline
    local -A log_size=() notices_size=()
    for name in "$@"; do
        log_size[$name]=$(size_of "$log_dir/$name.log")
        notices_size[$name]=$(size_of "$state_dir/$name.notices")
    done
    send HUP "$@" || return 1
    deadline=$(($(now_us) + RELOAD_SECONDS * 1000000))
    for name in "$@"; do
        while true; do
            if text=$(find_line "$state_dir/$name.notices" "${notices_size[$name]}" "$REFUSED"); then
                complain "$name refused: $text"
                result=1
            elif text=$(find_line "$log_dir/$name.log" "${log_size[$name]}" "$RELOADED"); then
                say "$name: $text"
            elif ! find_server "$name"; then
                complain "$name is not running"
                result=1
            elif (($(now_us) < deadline)); then
                pause 0.2
                continue
            else
                complain "$name has not reloaded within $RELOAD_SECONDS s"
                result=1
            fi
            break
        done
    done
    return "$result"
}
