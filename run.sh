#!/usr/bin/env bash
# Builds the program and runs a herd: starts every server of servers.txt, waits until all are ready,
# shows their warnings and errors, and stops them. Needs Linux: the owner of a process id is read
# from /proc. ./run.sh --help has the rest.
#
# Each server has a supervisor, a shell that records the server's process id and exit code, so that a
# later ./run.sh knows about servers that it did not start itself. Files in the state directory, for a
# server NAME:
#   NAME.pid      its process id, that process's start time, and the boot id of the machine
#   NAME.out      its standard output: the line that says that it is ready
#   NAME.notices  its standard error: warnings and errors
#   NAME.exit     its exit code, once it has ended
# and `settings`: the servers file, the log and data directories, and the flags of the last start.

set -u

# shellcheck source=tests/tools.sh
source "$(dirname "${BASH_SOURCE[0]}")/tests/tools.sh"

# Time limit for a server to become ready.
readonly READY_SECONDS=10
# Time limit for a server to stop, after which it is killed. It gives up by itself after 9.
readonly STOP_SECONDS=10
# Time limit for a server to reload. Leaving a neighbor that does not answer takes seconds.
readonly RELOAD_SECONDS=10

# Log texts after a reload that succeeded and one that was refused.
readonly RELOADED='reloaded: '
readonly REFUSED='reload failed, keeping the current configuration: '

usage() {
    cat <<'TEXT'
Usage: ./run.sh [COMMAND] [OPTION...] [NAME...] [-- FLAG...]

Builds the program and runs the servers of servers.txt. NAME selects servers; the default is all.

Commands:
  start    build, start the servers, wait until they are ready, and show their warnings and errors
           until Ctrl-C stops them (the default command)
  stop     stop the servers
  status   print a line for each server; the exit code is 0 if all are up, else 1
  restart  build, then stop and start one server after another, each once the one before is ready;
           the herd keeps serving, and servers that are down are started
  reload   have the servers read servers.txt and the key file again (SIGHUP), and print what changed;
           fails if a server refused them
  build    only build

Options:
  --servers FILE   the file that lists the servers (default: servers.txt beside run.sh)
  --log-dir DIR    directory of the logs, NAME.log (default: logs beside run.sh)
  --data-dir DIR   directory of the servers' records (default: data beside run.sh)
  --state-dir DIR  directory of process ids and settings (default: run beside run.sh); each of several
                   herds on one machine needs its own
  --detach         start: return once all servers are ready
  --yes            install a missing compiler or Rust toolchain without asking
  -h, --help       print this text
  -- FLAG...       flags for every `herd serve`, such as -- --workers 8; servers run in the directory
                   of run.sh, so relative paths in FLAG start there

`start NAME` and `restart` use the files and flags of the last start, unless they are given again.

Exit codes: 0 success, 1 failure, 2 bad usage or bad configuration.
TEXT
}

# --- Processes: known by id, start time and boot, so that a reused id is never taken for a server ----

boot_id() {
    local id=unknown
    read -r id 2>/dev/null </proc/sys/kernel/random/boot_id || true
    echo "$id"
}

# Sets `pid` to a server's process id. Fails if it is not running.
find_server() {
    local recorded boot parent started
    pid=
    read -r pid recorded boot 2>/dev/null <"$state_dir/$1.pid" || return 1
    [[ -n ${boot:-} && $boot == "$this_boot" ]] && find_process "$pid" && [[ $started == "$recorded" ]]
}

# supervise STEM COMMAND...: runs a server and records its process id and exit code.
supervise() {
    # shellcheck disable=SC2034 # find_process sets both.
    local stem=$1 parent started
    shift
    # This shell must not announce that a signal ended the server; the server keeps its own output.
    {
        (
            find_process "$BASHPID" && echo "$BASHPID $started $(boot_id)" >"$stem.pid" &&
                exec "$@" 2>&3 3>&-
        )
    } 3>&2 2>/dev/null
    echo "$?" >"$stem.exit"
}

# Starts a server in a session of its own, out of reach of Ctrl-C and of a closed terminal.
spawn() {
    local name=$1 stem=$state_dir/$1
    rm -f "$stem.pid" "$stem.exit" "$stem.notices"
    : >"$stem.out"
    setsid "$BASH" "$root/run.sh" supervise "$stem" \
        "$herd" serve "$name" --servers "$servers" --log-dir "$log_dir" --data-dir "$data_dir" "${flags[@]}" \
        </dev/null >>"$stem.out" 2>>"$stem.notices" {lock}>&- {never}<&- &
}

# Sets `clients` and `peers` to a server's addresses. Fails until it is ready.
find_addresses() {
    local line
    clients='' peers=''
    while read -r line; do
        if [[ $line =~ ^"$1 is ready: clients "(.+)", peers "(.+)$ ]]; then
            clients=${BASH_REMATCH[1]} peers=${BASH_REMATCH[2]}
            return 0
        fi
    done 2>/dev/null <"$state_dir/$1.out"
    return 1
}

# Sets `exit_code` to that of a server that has ended, else to nothing.
find_exit_code() {
    exit_code=
    read -r exit_code 2>/dev/null <"$state_dir/$1.exit" || true
}

# Sleeps without starting a process.
pause() {
    read -r -t "$1" -u "$never" || true
}

# --- State ---------------------------------------------------------------------------------------

# Makes a path independent of the current directory.
absolute() {
    case $1 in
        /*) echo "$1" ;;
        *) echo "$PWD/$1" ;;
    esac
}

# Takes settings that the command line leaves open from the last start, else the defaults.
load_settings() {
    local saved=()
    [[ -r $state_dir/settings ]] && mapfile -t saved <"$state_dir/settings"
    : "${servers:=${saved[0]:-$root/servers.txt}}"
    : "${log_dir:=${saved[1]:-$root/logs}}"
    : "${data_dir:=${saved[2]:-$root/data}}"
    $flags_given || flags=("${saved[@]:3}")
}

save_settings() {
    printf '%s\n' "$servers" "$log_dir" "$data_dir" "${flags[@]}" >"$state_dir/settings"
}

# Locks the state directory: only one run.sh at a time starts or stops servers.
take_lock() {
    mkdir -p "$state_dir" 2>/dev/null || die 1 "cannot make the directory $state_dir"
    exec {lock}>"$state_dir/lock" || die 1 "cannot write in $state_dir"
    flock -w 30 "$lock" || die 1 "another run.sh is starting or stopping the servers of $state_dir"
}

free_lock() {
    exec {lock}>&-
}

# Reads names and addresses from the servers file. `herd check` judges the file.
declare -A listed_clients=() listed_peers=()
listed=()
read_servers() {
    local line name client peer rest
    [[ -r $servers ]] || die 2 "$servers: cannot be read"
    while IFS= read -r line || [[ -n $line ]]; do
        IFS=$' \t\r\f\v' read -r name client peer rest <<<"${line%%#*}"
        [[ $name =~ ^[A-Za-z0-9][A-Za-z0-9._-]*$ ]] || continue
        listed+=("$name")
        listed_clients[$name]=${client:-?} listed_peers[$name]=${peer:-?}
    done <"$servers"
}

# Prints the servers ever started with this state directory.
recorded() {
    local file
    for file in "$state_dir"/*.pid; do
        [[ -e $file ]] || continue
        file=${file##*/}
        echo "${file%.pid}"
    done
}

# Exits if the command line names a server that the servers file does not. A server that still runs
# after its line was removed can be named unless it is to be started.
check_names() {
    local name
    for name in "${names[@]}"; do
        [[ -n ${listed_clients[$name]:-} ]] || { [[ $command != *start ]] && find_server "$name"; } ||
            die 2 "$servers names no server $name; it names ${listed[*]}"
    done
}

# find_running [NAME...]: sets `running` to those of the servers that are running; without names, of
# all servers ever started here.
find_running() {
    local name pid names=("$@")
    (($# > 0)) || mapfile -t names < <(recorded)
    running=()
    for name in "${names[@]}"; do
        ! find_server "$name" || running+=("$name")
    done
}

# --- Stop ----------------------------------------------------------------------------------------

# stop_servers NAME...: stops those that are running and sets `stopped` to them. Fails if one had to
# be killed or its exit code was not 0.
stop_servers() {
    local name pid running=() exit_code waited since killed=false result=0
    since=$(now_us)
    (($# == 0)) || find_running "$@"
    stopped=("${running[@]}")
    for name in "${stopped[@]}"; do
        find_server "$name" && kill -TERM "$pid" 2>/dev/null
    done
    while ((${#running[@]} > 0)); do
        if ! $killed && (($(now_us) - since > STOP_SECONDS * 1000000)); then
            killed=true
            for name in "${running[@]}"; do
                complain "$name has not stopped within $STOP_SECONDS s and is killed"
                find_server "$name" && kill -KILL "$pid" 2>/dev/null
            done
        fi
        pause 0.02
        find_running "${running[@]}"
    done
    for name in "${stopped[@]}"; do
        # The supervisor writes it right after the server's end.
        for ((waited = 0; waited < 100; waited++)); do
            find_exit_code "$name"
            [[ -n $exit_code ]] && break
            pause 0.02
        done
        if [[ $exit_code != 0 ]]; then
            complain "$name ended with exit code ${exit_code:-unknown}"
            result=1
        fi
    done
    if ((${#stopped[@]} > 0)); then
        printf 'stopped in %s s: %s\n' "$(seconds_since "$since")" "${stopped[*]}"
    fi
    return "$result"
}

stop() {
    [[ -d $state_dir ]] || die 0 "no server is running (nothing was started in $state_dir)"
    take_lock
    if ((${#names[@]} > 0)); then
        load_settings
        read_servers
        check_names
    else
        mapfile -t names < <(recorded)
    fi
    stop_servers "${names[@]}" || return 1
    ((${#stopped[@]} > 0)) || echo "no server is running"
}

# --- Status and reload -----------------------------------------------------------------------------

status() {
    local name running pid clients peers exit_code state result=0
    load_settings
    read_servers
    check_names
    if ((${#names[@]} == 0)); then
        names=("${listed[@]}")
        # A server may still run after its line was removed from the file.
        find_running
        for name in "${running[@]}"; do
            [[ -n ${listed_clients[$name]:-} ]] || names+=("$name")
        done
    fi
    for name in "${names[@]}"; do
        if find_server "$name"; then
            pid="pid $pid"
            state=up
            find_addresses "$name" || state='not ready'
        else
            find_exit_code "$name"
            pid=${exit_code:+exit code $exit_code}
            state=down
        fi
        if [[ $state != up ]]; then
            clients=${listed_clients[$name]:-?} peers=${listed_peers[$name]:-?}
            result=1
        fi
        printf '%-5s %-10s %-14s clients %s, peers %s\n' "$state" "$name" "${pid:--}" "$clients" "$peers"
    done
    return "$result"
}

# find_line FILE OFFSET PATTERN: prints the text behind the pattern in the first line that matches
# beyond the offset, or in the whole file if it was replaced.
find_line() {
    local offset=$2
    (($(size_of "$1") >= offset)) || offset=0
    tail -c "+$((offset + 1))" "$1" 2>/dev/null | sed -nE "s/^.*($3)//p" | head -n 1 | grep .
}

size_of() {
    stat -c %s "$1" 2>/dev/null || echo 0
}

# Sends SIGHUP and waits for the outcome, which a server reports in its log. With a log level above
# info it reports a refusal alone, and to its standard error.
reload() {
    local name pid running text result=0 deadline quiet=false
    local -A log_size=() notices_size=()
    load_settings
    read_servers
    check_names
    if ((${#names[@]} == 0)); then
        find_running
        names=("${running[@]}")
        ((${#names[@]} > 0)) || die 1 "no server is running"
    fi
    [[ " ${flags[*]} " =~ ' '--log-level[\ =](warn|error)' ' ]] && quiet=true
    for name in "${names[@]}"; do
        log_size[$name]=$(size_of "$log_dir/$name.log")
        notices_size[$name]=$(size_of "$state_dir/$name.notices")
        if ! find_server "$name" || ! kill -HUP "$pid"; then
            complain "$name is not running"
            unset "log_size[$name]"
            result=1
        fi
    done
    deadline=$(($(now_us) + RELOAD_SECONDS * 1000000))
    for name in "${names[@]}"; do
        [[ -n ${log_size[$name]:-} ]] || continue
        while true; do
            if text=$(find_line "$state_dir/$name.notices" "${notices_size[$name]}" "$REFUSED"); then
                complain "$name refused: $text"
                result=1
            elif text=$(find_line "$log_dir/$name.log" "${log_size[$name]}" "$RELOADED"); then
                echo "$name: $text"
            elif ! find_server "$name"; then
                complain "$name has ended"
                result=1
            elif (($(now_us) < deadline)); then
                pause 0.2
                continue
            elif $quiet; then
                echo "$name: no refusal within $RELOAD_SECONDS s (its log level hides a success)"
            else
                complain "$name has not reloaded within $RELOAD_SECONDS s"
                result=1
            fi
            break
        done
    done
    return "$result"
}

# --- Start and restart -----------------------------------------------------------------------------

# Builds the release and sets `herd` to the program's path.
build() {
    local directory
    need_toolchain || exit 1
    (cd "$root" && cargo build --release --locked) || die 1 "the build failed"
    directory=$(cd "$root" && cargo metadata --format-version 1 --no-deps --locked |
        sed -n 's/.*"target_directory":"\([^"]*\)".*/\1/p')
    herd=$directory/release/herd
    [[ -x $herd ]] || die 1 "the build left no program at $herd"
}

# Waits until the given servers are ready. Fails, with the reasons printed, if one is not.
wait_ready() {
    local name clients peers exit_code deadline broken=() late=() pending=("$@") still
    deadline=$(($(now_us) + READY_SECONDS * 1000000))
    while ((${#pending[@]} > 0)); do
        still=()
        for name in "${pending[@]}"; do
            find_addresses "$name" && continue
            find_exit_code "$name"
            if [[ -n $exit_code ]]; then
                broken+=("$name")
                ((exit_code == 2)) && start_code=2
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
    if ((${#late[@]} > 0)); then
        complain "not ready after $READY_SECONDS s: ${late[*]} (see $state_dir/*.notices)"
    fi
    ((${#broken[@]} + ${#late[@]} == 0))
}

# Prints the servers' addresses and lines to paste into telnet.
introduce() {
    local name width=0 host port clients peers
    for name in "${names[@]}"; do
        ((${#name} > width)) && width=${#name}
    done
    for name in "${names[@]}"; do
        find_addresses "$name"
        printf '  %-*s  clients %s, peers %s\n' "$width" "$name" "$clients" "$peers"
    done
    host=${clients%:*} port=${clients##*:}
    host=${host#[} host=${host%]}
    cat <<TEXT
Logs: $log_dir/NAME.log
To try it:
  telnet $host $port
and paste
  IAMAT kiwi.cs.ucla.edu +34.068930-118.445127 $EPOCHREALTIME
  WHATSAT kiwi.cs.ucla.edu 10 5
TEXT
}

# Shows notices until a signal comes or no server is left.
stay() {
    local name files=() running=() before after exit_code ended=0 state_hint=''
    [[ $state_dir == "$root/run" ]] || state_hint=" --state-dir ${state_dir@Q}"
    for name in "${names[@]}"; do
        files+=("$state_dir/$name.notices")
    done
    # Follows the new file of a server that is started again, and ends with this shell.
    tail -q -n +1 -F --pid=$$ "${files[@]}" 2>/dev/null &
    before=" ${names[*]} "
    while [[ -z $signal ]]; do
        find_running "${names[@]}"
        if ((${#running[@]} == 0)); then
            # Another run.sh may be restarting them.
            take_lock
            free_lock
            find_running "${names[@]}"
        fi
        after=" ${running[*]} "
        for name in "${names[@]}"; do
            if [[ $before == *" $name "* && $after != *" $name "* ]]; then
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
            return "$ended"
        fi
        pause 0.2
    done
    echo "stopping"
    take_lock
    stop_servers "${names[@]}" && return "$ended"
}

# Builds, checks the configuration, and takes the lock. Without names, selects all servers.
prepare() {
    local checked
    build
    checked=$("$herd" check --servers "$servers") || exit 2
    # A partitioned herd is allowed, but hardly intended.
    grep '^warning: ' <<<"$checked" >&2
    # Servers that are named later may be started from another directory.
    servers=$(absolute "$servers") log_dir=$(absolute "$log_dir") data_dir=$(absolute "$data_dir")
    read_servers
    check_names
    take_lock
    trap 'signal=INT' INT
    trap 'signal=TERM' TERM
    trap 'signal=HUP' HUP
    $whole && names=("${listed[@]}")
    # The servers' current directory must not depend on the user's.
    cd "$root" || exit 1
}

start() {
    local name running since whole=false start_code=1
    if ((${#names[@]} > 0)); then
        load_settings
    else
        whole=true
        : "${servers:=$root/servers.txt}" "${log_dir:=$root/logs}" "${data_dir:=$root/data}"
    fi
    prepare
    # All of them, even those that the file no longer names, unless some were named.
    if $whole; then
        find_running
    else
        find_running "${names[@]}"
    fi
    if ((${#running[@]} > 0)); then
        complain "running already: ${running[*]} (see ./run.sh status; ./run.sh stop stops," \
            "./run.sh start NAME starts a server that is down, --state-dir is for a second herd)"
        exit 1
    fi
    if $whole || [[ ! -e $state_dir/settings ]]; then
        save_settings
    fi
    since=$(now_us)
    for name in "${names[@]}"; do
        spawn "$name"
    done
    if ! wait_ready "${names[@]}"; then
        stop_servers "${names[@]}"
        exit "$start_code"
    fi
    printf 'ready in %s s: %s\n' "$(seconds_since "$since")" "${names[*]}"
    introduce
    free_lock
    $detach && return 0
    echo "Ctrl-C stops $($whole && echo all || echo "${names[*]}")."
    stay
}

restart() {
    local name running removed=() since whole=false start_code=1 result=0
    ((${#names[@]} > 0)) || whole=true
    load_settings
    prepare
    if $whole; then
        save_settings
        find_running
        for name in "${running[@]}"; do
            [[ -n ${listed_clients[$name]:-} ]] || removed+=("$name")
        done
        if ((${#removed[@]} > 0)); then
            complain "no longer in $servers: ${removed[*]}"
            stop_servers "${removed[@]}" || result=1
        fi
    fi
    for name in "${names[@]}"; do
        [[ -z $signal ]] || exit 1
        stop_servers "$name" || result=1
        since=$(now_us)
        spawn "$name"
        if ! wait_ready "$name"; then
            stop_servers "$name"
            complain "$name is not ready again; the servers after it were not restarted"
            exit "$start_code"
        fi
        printf 'ready in %s s: %s\n' "$(seconds_since "$since")" "$name"
    done
    return "$result"
}

# --- Command line --------------------------------------------------------------------------------

main() {
    local command='' detach=false flags_given=false names=() flags=()
    local servers='' log_dir='' data_dir='' state_dir='' herd='' lock='' signal='' stopped=()

    # Not for users: the supervisor of a server.
    if [[ ${1:-} == supervise ]]; then
        shift
        supervise "$@"
        return
    fi
    while (($# > 0)); do
        case $1 in
            --servers=* | --log-dir=* | --data-dir=* | --state-dir=*)
                set -- "${1%%=*}" "${1#*=}" "${@:2}"
                continue
                ;;
            --servers | --log-dir | --data-dir | --state-dir)
                [[ -n ${2:-} ]] || die 2 "$1 needs a value; see ./run.sh --help"
                case $1 in
                    --servers) servers=$2 ;;
                    --log-dir) log_dir=$2 ;;
                    --data-dir) data_dir=$2 ;;
                    --state-dir) state_dir=$2 ;;
                esac
                shift
                ;;
            --detach) detach=true ;;
            --yes | -y) assume_yes=true ;;
            --help | -h)
                usage
                return
                ;;
            --)
                shift
                flags=("$@") flags_given=true
                break
                ;;
            -*) die 2 "there is no option $1; see ./run.sh --help (flags for the servers go behind --)" ;;
            start | stop | status | restart | reload | build)
                if [[ -n $command ]]; then
                    names+=("$1")
                else
                    command=$1
                fi
                ;;
            *)
                [[ -n $command ]] || die 2 "there is no command $1; see ./run.sh --help"
                names+=("$1")
                ;;
        esac
        shift
    done
    [[ -r /proc/self/stat ]] || die 1 "Linux is needed: the owner of a process id is read from /proc"
    have setsid || die 1 "setsid is missing; install the package util-linux"
    have flock || die 1 "flock is missing; install the package util-linux"
    command=${command:-start}
    state_dir=$(absolute "${state_dir:-$root/run}")
    this_boot=$(boot_id)
    # Both ends of a pipe that nothing is written to: reading it with a time limit is a pause.
    exec {never}<> <(:)
    "$command"
}

main "$@"
