#!/usr/bin/env bash
# Builds the herd and runs it: starts every server of servers.txt, waits until each is ready,
# shows their notices, and stops them. Needs Linux: whom a process id belongs to is read from
# /proc. ./run.sh --help tells the rest.
#
# Each server has a supervisor, a shell that notes the server's process id when it starts and its
# exit code when it ends; so a later ./run.sh knows what became of a server that it did not start
# itself. In the state directory, for a server NAME:
#   NAME.pid      its process id, when that process started, and on which boot of the machine
#   NAME.out      what it printed: the line that says that it is ready
#   NAME.notices  warnings and errors
#   NAME.exit     its exit code, once it has ended
# and `settings`: the servers file, the log and data directories and the flags that all were started with.
#
# test.sh sources this file for the functions that look for tools and install them.

set -u
export LC_ALL=C # A decimal point is a point, whatever the user's language.

root=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd -P)
program_name=${0##*/}

# Seconds until a server must have said that it is ready.
readonly READY_SECONDS=10
# Seconds until a server must have stopped; it gives up by itself after 9. Past this it is killed.
readonly STOP_SECONDS=10

usage() {
    cat <<'END'
Usage: ./run.sh [start] [OPTION...] [NAME...] [-- FLAG...]
       ./run.sh stop|status [--state-dir DIR] [NAME...]
       ./run.sh build [--yes]

start    build, start every server of servers.txt (or only those named), wait until each is
         ready, and stay in front with their notices until Ctrl-C, which stops them. A server
         that is named is started the way the herd was started last, unless told otherwise.
stop     stop all servers (or those named) that ./run.sh started
status   a line for each server; the exit code is 0 if all are up, else 1
build    only build

  --servers FILE   who the servers are (default: servers.txt beside run.sh)
  --log-dir DIR    where NAME.log is written (default: logs beside run.sh)
  --data-dir DIR   where the servers keep their records (default: data beside run.sh)
  --state-dir DIR  where it is noted which processes were started (default: run beside run.sh);
                   herds that run side by side need one each
  --detach         return once all are ready
  --yes            install what is missing (compiler, Rust) without asking
  -h, --help       this text
  -- FLAG...       flags for every `herd serve`, such as -- --workers 8; the servers run in
                   run.sh's own directory, from which a relative path in FLAG is seen

Exit codes: 0 good, 1 failure, 2 bad usage or bad configuration.
END
}

# --- Saying things -------------------------------------------------------------------------------

complain() {
    printf '%s: %s\n' "$program_name" "$*" >&2
}

# die EXIT_CODE TEXT
die() {
    local code=$1
    shift
    complain "$@"
    exit "$code"
}

have() {
    command -v "$1" >/dev/null 2>&1
}

now_us() {
    local now=$EPOCHREALTIME
    echo "${now/./}"
}

# Seconds since a now_us, with two decimals.
seconds_since() {
    local hundredths=$((($(now_us) - $1) / 10000))
    printf '%d.%02d' $((hundredths / 100)) $((hundredths % 100))
}

# --- Tools: found, or installed after asking -----------------------------------------------------

assume_yes=false

# The command that installs packages here, or nothing.
package_command() {
    if have apt-get; then
        echo apt-get install -y
    elif have dnf; then
        echo dnf install -y
    elif have pacman; then
        echo pacman -S --noconfirm
    elif have zypper; then
        echo zypper --non-interactive install
    elif have apk; then
        echo apk add
    fi
}

# The package that holds a tool: package_name TOOL
package_name() {
    case "$(package_command) $1" in
        apt-get*' cc') echo build-essential ;;
        pacman*' cc') echo base-devel ;;
        apk*' cc') echo build-base ;;
        *' cc') echo gcc ;;
        pacman*' telnet') echo inetutils ;;
        apk*' telnet') echo inetutils-telnet ;;
        dnf*' faketime' | pacman*' faketime' | apk*' faketime') echo libfaketime ;;
        dnf*' ip') echo iproute ;;
        *' ip') echo iproute2 ;;
        *' nft') echo nftables ;;
        *) echo "$1" ;;
    esac
}

as_root() {
    if ((EUID == 0)); then
        "$@"
    else
        sudo "$@"
    fi
}

can_be_root() {
    ((EUID == 0)) || have sudo
}

# Asks whether to go on: with --yes it is so, and where nobody can answer it is not.
agree() {
    local answer
    if $assume_yes; then
        return 0
    fi
    [[ -t 0 && -t 2 ]] || return 1
    read -r -p "$1 [y/N] " answer || return 1
    [[ $answer == [yY]* ]]
}

# offer SENTENCE HOW [COMMAND...]: says what is missing and how it is installed, and runs the
# command if that is wanted.
offer() {
    local sentence=$1 how=$2
    shift 2
    complain "$sentence"
    if (($# == 0)); then
        complain "install it with: $how"
    elif ! agree "Install it now with: $how ?"; then
        complain "install it with: $how (or run this again with --yes)"
    elif "$@"; then
        return 0
    else
        complain "that did not work: $how"
    fi
    return 1
}

install_packages() {
    local words
    read -ra words < <(package_command)
    if [[ ${words[0]} == apt-get ]]; then
        # On a fresh machine the lists of packages are empty; that they are old is no failure.
        as_root apt-get update || true
    fi
    as_root "${words[@]}" "$@"
}

# need_package TOOL SENTENCE: the tool is there, or gets installed by the package manager.
need_package() {
    local tool=$1 sentence=$2 how package
    have "$tool" && return 0
    package=$(package_name "$tool")
    how="$(package_command) $package"
    if [[ $how == " $package" ]]; then
        offer "$sentence" "your system's package manager"
    elif can_be_root; then
        offer "$sentence" "$how" install_packages "$package" && have "$tool"
    else
        offer "$sentence" "$how (as root)"
    fi
}

# Whether cargo is there and not older than Cargo.toml asks for.
cargo_is_good() {
    local found needed
    needed=$(sed -n 's/^rust-version = "\(.*\)"/\1/p' "$root/Cargo.toml")
    found=$(cd "$root" && cargo --version 2>/dev/null) || return 1
    found=${found#cargo }
    found=${found%%[ -]*}
    [[ $(printf '%s\n%s\n' "$needed" "$found" | sort -V | head -n 1) == "$needed" ]]
}

find_cargo() {
    local bin=${CARGO_HOME:-${HOME:-}/.cargo}/bin
    if ! have cargo && [[ -x $bin/cargo ]]; then
        PATH=$bin:$PATH
    fi
    cargo_is_good
}

install_rustup_package() {
    install_packages rustup && rustup default stable
}

install_rustup_script() {
    local script
    script=$(curl --proto '=https' --tlsv1.2 -sSf https://sh.rustup.rs) || return 1
    sh -s -- -y --profile minimal --component rustfmt,clippy <<<"$script"
}

need_cargo() {
    find_cargo && return 0
    local needed sentence
    needed=$(sed -n 's/^rust-version = "\(.*\)"/\1/p' "$root/Cargo.toml")
    if have cargo && cargo --version >/dev/null 2>&1; then
        sentence="this needs Rust $needed or newer, and here is $(cargo --version)"
    else
        sentence="this is written in Rust, and cargo $needed or newer is missing"
    fi
    if have rustup; then
        offer "$sentence" "rustup default stable && rustup update stable" \
            eval 'rustup default stable && rustup update stable'
    elif can_be_root && have apt-cache && [[ -n $(apt-cache search --names-only '^rustup$') ]]; then
        offer "$sentence" "apt-get install -y rustup && rustup default stable" \
            install_rustup_package
    elif have curl; then
        offer "$sentence" "curl --proto '=https' --tlsv1.2 -sSf https://sh.rustup.rs | sh" \
            install_rustup_script
    else
        offer "$sentence" "rustup, as https://rustup.rs says"
    fi && find_cargo
}

need_toolchain() {
    need_package cc "a C compiler, which links the program, is missing" && need_cargo
}

# Builds the release and sets `herd`, where the program is.
build() {
    need_toolchain || exit 1
    (cd "$root" && cargo build --release --locked) || die 1 "the build failed"
    local directory
    directory=$(cd "$root" && cargo metadata --format-version 1 --no-deps --locked |
        sed -n 's/.*"target_directory":"\([^"]*\)".*/\1/p')
    herd=$directory/release/herd
    [[ -x $herd ]] || die 1 "the build left no program at $herd"
}

# --- Processes: known by id, start time and boot, so that a recycled id is never taken for ours ---

boot_id() {
    local id=unknown
    read -r id 2>/dev/null </proc/sys/kernel/random/boot_id || true
    echo "$id"
}

# Sets `started` to a process's start time, in ticks since boot. Fails if it has ended.
find_start() {
    local stat fields
    started=
    read -r stat 2>/dev/null <"/proc/$1/stat" || return 1
    # The command's name, in parentheses, may hold anything.
    read -ra fields <<<"${stat##*) }"
    [[ ${fields[0]} != [ZX] ]] || return 1
    started=${fields[19]}
}

# Sets `pid` to a server's process id. Fails if it is not running.
find_server() {
    local recorded boot started
    pid=
    read -r pid recorded boot 2>/dev/null <"$state_dir/$1.pid" || return 1
    [[ -n ${boot:-} && $boot == "$this_boot" ]] && find_start "$pid" && [[ $started == "$recorded" ]]
}

# supervise STEM COMMAND...: what runs as a server's supervisor.
supervise() {
    local stem=$1
    shift
    # Who dies by a signal is not to be announced by this shell; the server keeps its own output.
    {
        (
            find_start "$BASHPID" && echo "$BASHPID $started $(boot_id)" >"$stem.pid" &&
                exec "$@" 2>&3 3>&-
        )
    } 3>&2 2>/dev/null
    echo "$?" >"$stem.exit"
}

# Starts a server in a session of its own, so that neither Ctrl-C nor a closed terminal reaches it.
spawn() {
    local name=$1 stem=$state_dir/$1
    rm -f "$stem.pid" "$stem.exit" "$stem.notices"
    : >"$stem.out"
    setsid "$BASH" "$root/run.sh" supervise "$stem" \
        "$herd" serve "$name" --servers "$servers" --log-dir "$log_dir" --data-dir "$data_dir" "${flags[@]}" \
        </dev/null >>"$stem.out" 2>>"$stem.notices" {lock}>&- {never}<&- &
}

# Sets `clients` and `peers` from what a server printed. Fails as long as it is not ready.
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

# Sets `exit_code` to that of a server that has ended, or to nothing.
find_exit_code() {
    exit_code=
    read -r exit_code 2>/dev/null <"$state_dir/$1.exit" || true
}

# Waits a moment without starting a process for it.
pause() {
    read -r -t "$1" -u "$never" || true
}

# --- State ---------------------------------------------------------------------------------------

# A path as seen from anywhere.
absolute() {
    case $1 in
        /*) echo "$1" ;;
        *) echo "$PWD/$1" ;;
    esac
}

# Reads the settings of the last start into whichever of them the command line leaves open.
load_settings() {
    local saved=()
    [[ -r $state_dir/settings ]] && mapfile -t saved <"$state_dir/settings"
    : "${servers:=${saved[0]:-$root/servers.txt}}"
    : "${log_dir:=${saved[1]:-$root/logs}}"
    : "${data_dir:=${saved[2]:-$root/data}}"
    if ! $flags_given; then
        flags=("${saved[@]:3}")
    fi
}

save_settings() {
    printf '%s\n' "$servers" "$log_dir" "$data_dir" "${flags[@]}" >"$state_dir/settings"
}

# Only one at a time may start or stop servers here.
take_lock() {
    mkdir -p "$state_dir" 2>/dev/null || die 1 "cannot make the directory $state_dir"
    exec {lock}>"$state_dir/lock" || die 1 "cannot write in $state_dir"
    flock -w 30 "$lock" || die 1 "another run.sh is starting or stopping the servers of $state_dir"
}

# The lock is for starting and stopping, not for staying in front.
free_lock() {
    exec {lock}>&-
}

# Reads names and addresses out of the servers file, which `herd check` judges, not this.
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

check_names() {
    local name
    for name in "${names[@]}"; do
        [[ -n ${listed_clients[$name]:-} ]] ||
            die 2 "$servers names no server $name; it names ${listed[*]}"
    done
}

# Sets `up` and `down` to those of the names given whose servers are and are not running.
sort_names() {
    local name pid
    up=() down=()
    for name in "$@"; do
        if find_server "$name"; then
            up+=("$name")
        else
            down+=("$name")
        fi
    done
}

# --- Stop ----------------------------------------------------------------------------------------

# stop_servers NAME...: stops those that are running. Fails if one had to be killed or did not end
# well; sets `stopped` to who was stopped.
stop_servers() {
    local name pid up down exit_code waited since killed=false result=0
    since=$(now_us)
    sort_names "$@"
    stopped=("${up[@]}")
    for name in "${stopped[@]}"; do
        find_server "$name" && kill -TERM "$pid" 2>/dev/null
    done
    while sort_names "${stopped[@]}" && ((${#up[@]} > 0)); do
        if ! $killed && (($(now_us) - since > STOP_SECONDS * 1000000)); then
            killed=true
            for name in "${up[@]}"; do
                complain "$name has not stopped within $STOP_SECONDS s and is killed"
                find_server "$name" && kill -KILL "$pid" 2>/dev/null
            done
        fi
        pause 0.02
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

# All servers that were ever started here.
recorded() {
    local file
    for file in "$state_dir"/*.pid; do
        [[ -e $file ]] || continue
        file=${file##*/}
        echo "${file%.pid}"
    done
}

stop() {
    local everyone
    [[ -d $state_dir ]] || die 0 "no server is running (nothing was started in $state_dir)"
    take_lock
    if ((${#names[@]} > 0)); then
        load_settings
        read_servers
        check_names
    else
        mapfile -t everyone < <(recorded)
        names=("${everyone[@]}")
    fi
    stop_servers "${names[@]}" || return 1
    ((${#stopped[@]} > 0)) || echo "no server is running"
}

# --- Status --------------------------------------------------------------------------------------

status() {
    local name pid clients peers exit_code word result=0
    load_settings
    read_servers
    check_names
    if ((${#names[@]} == 0)); then
        names=("${listed[@]}")
        # Someone may have changed the file while a server that it no longer names runs on.
        for name in $(recorded); do
            [[ -n ${listed_clients[$name]:-} ]] || ! find_server "$name" || names+=("$name")
        done
    fi
    for name in "${names[@]}"; do
        if ! find_server "$name"; then
            find_exit_code "$name"
            word=down
            pid=${exit_code:+exit code $exit_code}
            clients=${listed_clients[$name]} peers=${listed_peers[$name]}
            result=1
        elif find_addresses "$name"; then
            word=up
            pid="pid $pid"
        else
            word='not ready'
            pid="pid $pid"
            clients=${listed_clients[$name]:-?} peers=${listed_peers[$name]:-?}
            result=1
        fi
        printf '%-5s %-10s %-14s clients %s, peers %s\n' "$word" "$name" "${pid:--}" "$clients" "$peers"
    done
    return "$result"
}

# --- Start ---------------------------------------------------------------------------------------

# Waits until every server named is ready. Fails, after saying why, if one is not.
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
        # Whatever killed it, it did not live to say so itself.
        [[ -s $state_dir/$name.notices ]] || echo "$name ended before it was ready"
    done | awk '!said[$0]++' >&2 # A bad flag is bad for all of them.
    if ((${#late[@]} > 0)); then
        complain "not ready after $READY_SECONDS s: ${late[*]} (see $state_dir/*.notices)"
    fi
    ((${#broken[@]} + ${#late[@]} == 0))
}

# Tells who listens where, and what to try.
tell() {
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
    cat <<END
Logs: $log_dir/NAME.log
To try it:
  telnet $host $port
and paste
  IAMAT kiwi.cs.ucla.edu +34.068930-118.445127 $EPOCHREALTIME
  WHATSAT kiwi.cs.ucla.edu 10 5
END
}

# Prints what servers have written since the last time. No `tail`: nothing must be left behind
# when this shell is killed.
declare -A notices=() followed=() half=()
show_notices() {
    local name line
    for name in "$@"; do
        if find_server "$name" && [[ ${followed[$name]:-} != "$pid" ]]; then
            # A server that was started again has a new file.
            [[ -z ${notices[$name]:-} ]] || close_notices "$name"
            exec {fd}<"$state_dir/$name.notices" || continue
            notices[$name]=$fd followed[$name]=$pid half[$name]=
        fi
        [[ -n ${notices[$name]:-} ]] || continue
        while IFS= read -r -u "${notices[$name]}" line; do
            printf '%s\n' "${half[$name]}$line"
            half[$name]=
        done
        half[$name]+=$line
    done
}

close_notices() {
    local fd=${notices[$1]}
    exec {fd}<&-
    unset "notices[$1]"
}

# Shows notices until a signal comes or nothing is left to show.
stay() {
    local name up=() down=() before after fd pid exit_code gone=0 state_hint=
    [[ $state_dir == "$root/run" ]] || state_hint=" --state-dir $state_dir"
    before=" ${names[*]} "
    while [[ -z $signal ]]; do
        show_notices "${names[@]}"
        sort_names "${names[@]}"
        after=" ${up[*]} "
        for name in "${names[@]}"; do
            if [[ $before == *" $name "* && $after != *" $name "* ]]; then
                pause 0.05
                find_exit_code "$name"
                complain "$name has ended, exit code ${exit_code:-unknown};" \
                    "to start it again: ./run.sh start $name --detach$state_hint"
                [[ $exit_code == 0 ]] || gone=1
            elif [[ $before != *" $name "* && $after == *" $name "* ]]; then
                complain "$name is running again"
            fi
        done
        before=$after
        if ((${#up[@]} == 0)); then
            complain "no server is left"
            return "$gone"
        fi
        pause 0.2
    done
    echo "stopping"
    take_lock
    stop_servers "${names[@]}" && return "$gone"
}

start() {
    local name up down since whole=false start_code=1 checked running
    if ((${#names[@]} > 0)); then
        load_settings
    else
        whole=true
        : "${servers:=$root/servers.txt}" "${log_dir:=$root/logs}" "${data_dir:=$root/data}"
    fi
    build
    checked=$("$herd" check --servers "$servers") || exit 2
    # A herd in parts is allowed, but hardly meant.
    grep '^warning: ' <<<"$checked" >&2
    # Servers that are named later are started from wherever the user then is.
    servers=$(absolute "$servers") log_dir=$(absolute "$log_dir") data_dir=$(absolute "$data_dir")
    read_servers
    check_names
    take_lock
    if $whole; then
        names=("${listed[@]}")
        mapfile -t running < <(recorded)
        sort_names "${running[@]}"
    else
        sort_names "${names[@]}"
    fi
    if ((${#up[@]} > 0)); then
        complain "running already: ${up[*]} (see ./run.sh status; ./run.sh stop stops," \
            "./run.sh start NAME starts a server that is down, --state-dir is for a second herd)"
        exit 1
    fi
    if $whole || [[ ! -e $state_dir/settings ]]; then
        save_settings
    fi

    signal=
    trap 'signal=INT' INT
    trap 'signal=TERM' TERM
    trap 'signal=HUP' HUP
    since=$(now_us)
    # Where data is kept must not depend on where the user happens to be.
    cd "$root" || exit 1
    for name in "${names[@]}"; do
        spawn "$name"
    done
    if ! wait_ready "${names[@]}"; then
        stop_servers "${names[@]}"
        exit "$start_code"
    fi
    printf 'ready in %s s: %s\n' "$(seconds_since "$since")" "${names[*]}"
    tell
    free_lock
    $detach && return 0
    echo "Ctrl-C stops $($whole && echo all || echo "${names[*]}")."
    stay
}

# --- Command line --------------------------------------------------------------------------------

main() {
    local command='' detach=false flags_given=false names=() flags=()
    local servers='' log_dir='' data_dir='' state_dir='' herd='' lock='' signal='' stopped=()

    # Not for users: this is how a supervisor is started.
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
            start | stop | status | build)
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
    [[ -r /proc/self/stat ]] || die 1 "this needs Linux: it reads whom a process id belongs to from /proc"
    have setsid || die 1 "setsid is missing; install the package util-linux"
    have flock || die 1 "flock is missing; install the package util-linux"
    state_dir=$(absolute "${state_dir:-$root/run}")
    this_boot=$(boot_id)
    # Both ends of a pipe that nothing is ever written to: reading it with a limit is a pause.
    exec {never}<> <(:)
    case ${command:-start} in
        start) start ;;
        stop) stop ;;
        status) status ;;
        build) build ;;
    esac
}

if [[ ${BASH_SOURCE[0]} == "$0" ]]; then
    if ((BASH_VERSINFO[0] < 5)); then
        die 1 "this needs bash 5 or newer, and here is $BASH_VERSION"
    fi
    main "$@"
    exit
fi
