#!/usr/bin/env bash
# Builds the program and runs a herd: starts every server of servers.txt, waits until all are ready,
# shows their warnings and errors, and stops them. Needs Linux: the owner of a process id is read
# from /proc. ./run.sh --help has the rest; tests/servers.sh has the processes and their files.

# shellcheck disable=SC2317 # Functions that are called by their names look unreachable.
# `sh run.sh` comes here too, and only bash understands the rest.
[ -n "${BASH_VERSION:-}" ] || exec bash "$0" "$@"
set +o posix
set -u
[[ ${BASH_SOURCE[0]} == "$0" ]] || {
    printf 'run.sh: run it, do not source it: ./run.sh\n' >&2
    return 2
}

# A link to this script may be anywhere.
# shellcheck source=tests/servers.sh
source "$(dirname -- "$(readlink -f -- "${BASH_SOURCE[0]}")")/tests/servers.sh"

# The command line; without names, a command is for the whole herd.
command='' names=() whole=false flags=() flags_given=false detach=false
servers='' log_dir='' data_dir='' state_dir=''
# The program, and the signal that is to end this script.
herd='' signal=''

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

Each server has an HTTP port on 127.0.0.1 with a live page of the herd: its client port + 2,000, or a free
port. -- --http 0 gives each a free one; another address is for a single server: start NAME -- --http ADDRESS.

`start NAME` and `restart` use the files and flags of the last start, unless they are given again;
-- --lengthen-forget-after alone comes on top of them, and is for that start only.
`start` stops the servers too if its terminal or the reader of its output goes away. NAME.pid in the
state directory has a server's process id, while it runs.

Exit codes: 0 success, 1 failure, 2 bad usage or bad configuration.
TEXT
}

# --- Stop, status, reload ------------------------------------------------------------------------

stop() {
    [[ -d $state_dir ]] || die 0 "no server is running (nothing was started in $state_dir)"
    take_lock
    if ! $whole; then
        load_settings
        check_running_names
    fi
    stop_servers "${names[@]}" || return 1
    ((${#stopped[@]} > 0)) || say "no server is running"
}

status() {
    local name process state line result=0
    load_settings
    if $whole; then
        # With a faulty file, what runs is still shown.
        read_servers --no-lookup || result=$?
        find_unlisted
        names=("${listed[@]}" "${unlisted[@]}")
    else
        check_running_names
        ((${#listed[@]} > 0)) || read_servers --no-lookup || result=$?
    fi
    for name in "${names[@]}"; do
        if find_server "$name"; then
            process="pid $pid"
            state=up
            find_addresses "$name" || state='not ready'
        else
            state=down
            find_exit_code "$name" && process="exit code $exit_code" || process=-
        fi
        if [[ $state != up ]]; then
            clients=${listed_clients[$name]:-?} peers=${listed_peers[$name]:-?} http=''
            ((result > 0)) || result=1
        fi
        printf -v line '%-5s %-10s %-14s clients %s, peers %s%s' "$state" "$name" "$process" "$clients" "$peers" \
            "${http:+, http $http}"
        say "$line"
    done
    return "$result"
}

reload() {
    load_settings
    if $whole; then
        find_running
        names=("${running[@]}")
        ((${#names[@]} > 0)) || die 1 "no server is running"
    else
        check_running_names
    fi
    reload_servers "${names[@]}"
}

# --- Start and restart ---------------------------------------------------------------------------

# Builds the release and sets `herd` to the program's path.
build() {
    local target artifacts hint=''
    target=$(target_dir)
    [[ -e $target ]] || target=$root
    if [[ ! -w $target ]]; then
        if [[ $command != build ]] && find_program; then
            complain "no permission to build in $target; using $herd as it is"
            return
        fi
        hint=": no permission to write in $target; to build elsewhere: CARGO_TARGET_DIR=DIR ./run.sh"
    fi
    need_toolchain || exit 1
    artifacts=$(cd "$root" && cargo build --release --locked --message-format json-render-diagnostics) ||
        die 1 "the build failed$hint"
    herd=$(sed -n 's/.*"executable":"\([^"]*\/herd\)".*/\1/p' <<<"$artifacts")
    [[ -x $herd ]] || die 1 "the build left no program"
}

# Builds, checks the configuration, and takes the lock.
prepare() {
    local warning name
    load_settings
    # A name that is not in the file is refused at once if the last build can read it.
    if ! $whole && find_program && read_servers --no-lookup 2>/dev/null; then
        check_names
    fi
    build
    read_servers || exit
    for warning in "${warnings[@]}"; do
        printf 'warning: %s\n' "$warning" >&2
    done
    # Servers that are named later may be started from another directory.
    servers=$(absolute "$servers") log_dir=$(absolute "$log_dir") data_dir=$(absolute "$data_dir")
    check_names
    take_lock
    for name in INT TERM HUP QUIT; do
        # shellcheck disable=SC2064 # The name is needed now.
        trap "signal=$name" "$name"
    done
    # The servers' current directory must not depend on the user's.
    cd "$root" || exit 1
}

# launch NAME...: starts servers, waits until they are ready, and sets `launched` to a line that says so.
# If one is not, stops them all and fails with the exit code for it.
launched=''
launch() {
    local name code since
    since=$(now_us)
    for name in "$@"; do
        spawn "$name"
    done
    wait_ready "$@" || {
        code=$?
        stop_servers "$@"
        return "$code"
    }
    launched="ready in $(seconds_since "$since") s: $*"
}

start() {
    local result=0
    prepare
    # Without names, also those that the file no longer lists.
    find_running "${names[@]}"
    if ((${#running[@]} > 0)); then
        complain "running already: ${running[*]} (see ./run.sh status; ./run.sh stop stops," \
            "./run.sh start NAME starts a server that is down, --state-dir is for a second herd)"
        exit 1
    fi
    save_settings
    ! $whole || names=("${listed[@]}")
    launch "${names[@]}" || exit
    introduce
    free_lock
    $detach && return 0
    say "Ctrl-C stops $($whole && echo all || echo "${names[*]}")."
    watch_servers "${names[@]}" || result=1
    if [[ -n $signal ]]; then
        say "stopping"
        take_lock
        stop_servers "${names[@]}" || result=1
    fi
    unfollow
    return "$result"
}

# Prints the address of the live page: that of the first server that has an HTTP port.
announce_page() {
    local name
    for name in "${names[@]}"; do
        if find_addresses "$name" && [[ -n $http ]]; then
            say "Live page: http://$http/"
            return
        fi
    done
}

# Prints the servers' addresses, and lines to paste into telnet.
introduce() {
    local name host line
    announce_page
    say "$launched"
    for name in "${names[@]}"; do
        find_addresses "$name"
        printf -v line '  %-8s  clients %s, peers %s%s' "$name" "$clients" "$peers" "${http:+, http $http}"
        say "$line"
    done
    host=${clients%:*}
    host=${host#[} host=${host%]}
    say "Logs: $log_dir/NAME.log
Records: $data_dir/NAME
To try it:
  telnet $host ${clients##*:}
and paste
  IAMAT kiwi.cs.ucla.edu +34.068930-118.445127 $EPOCHREALTIME
  WHATSAT kiwi.cs.ucla.edu 10 5"
}

restart() {
    local name result=0
    prepare
    save_settings
    if $whole; then
        names=("${listed[@]}")
        find_unlisted
        if ((${#unlisted[@]} > 0)); then
            complain "no longer in $servers: ${unlisted[*]}"
            stop_servers "${unlisted[@]}" || result=1
        fi
    fi
    for name in "${names[@]}"; do
        [[ -z $signal ]] || exit 1
        stop_servers "$name" || result=1
        launch "$name" || {
            result=$?
            complain "$name is not ready again; the servers after it were not restarted"
            break
        }
        say "$launched"
    done
    return "$result"
}

# --- Command line --------------------------------------------------------------------------------

# Makes a path independent of the current directory.
absolute() {
    case $1 in
        /*) echo "$1" ;;
        *) echo "$PWD/$1" ;;
    esac
}

main() {
    local words=() variable word result
    while (($# > 0)); do
        case $1 in
            --servers=* | --log-dir=* | --data-dir=* | --state-dir=*)
                set -- "${1%%=*}" "${1#*=}" "${@:2}"
                continue
                ;;
            --servers | --log-dir | --data-dir | --state-dir)
                [[ -n ${2:-} ]] || die 2 "$1 needs a value; see ./run.sh --help"
                variable=${1#--}
                printf -v "${variable//-/_}" %s "$2"
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
            *) words+=("$1") ;;
        esac
        shift
    done
    command=${words[0]:-start}
    for word in "${words[@]:1}"; do
        # A name that is given twice is one server.
        [[ " ${names[*]} " == *" $word "* ]] || names+=("$word")
    done
    ((${#names[@]} > 0)) || whole=true
    [[ $command =~ ^(start|stop|status|restart|reload|build)$ ]] ||
        die 2 "there is no command $command; the commands are start, stop, status, restart, reload and build" \
            "(a server's name goes behind one: ./run.sh start $command); see ./run.sh --help"
    [[ -r /proc/self/stat ]] || die 1 "Linux is needed: the owner of a process id is read from /proc"
    have setsid || die 1 "setsid is missing; install the package util-linux"
    have flock || die 1 "flock is missing; install the package util-linux"
    state_dir=$(absolute "${state_dir:-$root/run}")
    # A reader of the output that goes away must not end this script before it has stopped its servers:
    # with a handler, writing fails instead. Programs that are started here have the default again.
    trap : PIPE
    "$command"
    result=$?
    if $output_lost && ! reader_is_gone; then
        complain "standard output can't be written; what was to be there is missing"
        ((result > 0)) || result=1
    fi
    return "$result"
}

main "$@"
exit
