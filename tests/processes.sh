# Herds under test: free ports for them, and the processes that run.sh starts, by their ids. Sourced by
# tests/scenario.sh and tests/shells.sh, which set `work`, a directory whose folders *run hold the state of
# herds, and `state`, that of the herd under test, and source tests/tools.sh and tests/check.sh before.
# shellcheck shell=bash disable=SC2154 # Variables shared with these.

# "PID START_TIME" of every server and supervisor that was started; the values are not used.
declare -A processes=()

# Records the servers that were started last and their supervisors, to check later that they have ended.
note_processes() {
    local file pid parent started supervisor
    for file in "$work"/*run/*.process; do
        read -r pid started _ supervisor 2>/dev/null <"$file" || continue
        processes["$pid $started"]=
        find_process "$supervisor" && processes["$supervisor $started"]=
    done
}

server_pid() {
    cat "$state/$1.pid"
}

is_running() {
    local parent started
    find_process "$1"
}

is_gone() {
    ! is_running "$1"
}

# kill_server NAME...: kills servers, as a crash would.
kill_server() {
    local name pid
    for name in "$@"; do
        pid=$(server_pid "$name")
        kill -KILL "$pid"
        soon 5 is_gone "$pid"
    done
}

# Prints the recorded processes that are still running.
left_over() {
    local entry parent started
    for entry in "${!processes[@]}"; do
        find_process "${entry% *}" || continue
        [[ $started != "${entry#* }" ]] || echo "process ${entry% *} of parent $parent"
    done
}

none_left_over() {
    [[ -z $(left_over) ]]
}

# Stops all herds, before their state is removed.
stop_all() {
    local directory
    for directory in "$work"/*run; do
        [[ ! -d $directory ]] || "$root/run.sh" stop --state-dir "$directory" >/dev/null 2>&1
    done
}

# find_ports COUNT: sets `ports` to free ports below the range that the kernel uses for outgoing
# connections, which could take one before its server starts.
find_ports() {
    local port used
    used=" $(cat /proc/net/tcp /proc/net/tcp6 2>/dev/null |
        sed -n 's/^ *[0-9]*: [0-9A-F]*:\([0-9A-F]*\) .*/\1/p' | tr '\n' ' ') "
    ports=()
    while ((${#ports[@]} < $1)); do
        port=$((10000 + (RANDOM << 15 | RANDOM) % 20000))
        [[ $used != *" $(printf %04X "$port") "* && " ${ports[*]} " != *" $port "* ]] || continue
        ports+=("$port")
    done
}
