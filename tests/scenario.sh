#!/usr/bin/env bash
# The telnet-driven scenario: starts a herd of five with run.sh, reports and asks at all of them
# with real telnet clients, kills servers and brings them back, and reads the logs. Ports are
# found free, files go to a temporary directory; processes are killed by the ids that run.sh noted.
#
# Usage: tests/scenario.sh [FLAG...]   flags for every `herd serve`, such as --pool dedicated

set -u
export LC_ALL=C

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd -P)
# shellcheck source=tests/check.sh
source "$root/tests/check.sh"

readonly SERVERS=(Alford Ball Hamilton Holiday Welsh)
# Seconds within which all servers must have heard of a report, however busy the machine.
readonly FLOOD_SECONDS=15

serve_flags=("$@")
work=$(mktemp -d)
state=$work/run
logs=$work/logs
# "PID START" of every process that was started, server or supervisor; the values mean nothing.
declare -A started=()

# --- Processes -----------------------------------------------------------------------------------

# herd ARGUMENT...: run.sh for the herd under test.
herd() {
    run_herd run "$@"
}

# run_herd STATE_DIR ARGUMENT...: run.sh, called from another directory with relative paths. Its
# words go to $work/said.
run_herd() {
    (cd "$work" && "$root/run.sh" --state-dir "$@") >"$work/said" 2>&1 </dev/null
}

start_herd() {
    herd --detach --servers servers.txt --log-dir logs --data-dir data -- "${serve_flags[@]}"
}

# The words that run.sh just said, without those of cargo.
said() {
    grep -vE '^ +(Finished|Compiling|Downloading|Downloaded|Updating|Locking|Adding)|warning: unused' \
        "$work/said"
}

# Prints "PARENT START" of a process that lives.
parent_and_start() {
    local stat fields
    read -r stat 2>/dev/null <"/proc/$1/stat" || return 1
    read -ra fields <<<"${stat##*) }"
    [[ ${fields[0]} != [ZX] ]] || return 1
    echo "${fields[1]} ${fields[19]}"
}

# Notes servers and supervisors that run now, so that it can be told later whether they ended.
note_processes() {
    local file pid parent start
    for file in "$work"/*run/*.pid; do
        read -r pid _ <"$file" || continue
        read -r parent start < <(parent_and_start "$pid") || continue
        started["$pid $start"]=
        read -r _ start < <(parent_and_start "$parent") && started["$parent $start"]=
    done
}

server_pid() {
    cut -d ' ' -f 1 "$state/$1.pid"
}

is_gone() {
    ! parent_and_start "$1" >/dev/null
}

# kill_server NAME...: as a crash would.
kill_server() {
    local name pid
    for name in "$@"; do
        pid=$(server_pid "$name")
        kill -KILL "$pid"
        soon 5 is_gone "$pid"
    done
}

# Prints those of the processes noted that still live.
left_over() {
    local entry parent start
    for entry in "${!started[@]}"; do
        read -r parent start < <(parent_and_start "${entry% *}") || continue
        [[ $start != "${entry#* }" ]] || echo "process ${entry% *} of parent $parent"
    done
}

none_left_over() {
    [[ -z $(left_over) ]]
}

clean_up() {
    local directory
    for directory in "$work"/*run; do
        [[ ! -d $directory ]] || "$root/run.sh" stop --state-dir "$directory" >/dev/null 2>&1
    done
    if ((failed > 0)) && [[ -n ${CHECK_KEEP:-} ]]; then
        echo "kept: $work"
    else
        rm -rf "$work"
    fi
}
trap clean_up EXIT
trap 'exit 1' INT TERM HUP

# --- Ports ---------------------------------------------------------------------------------------

# find_ports COUNT: sets `ports`. Below the range from which the kernel takes ports for outgoing
# connections, so that none of those can come in between.
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

declare -A client_port=()

# The report's ring.
write_servers() {
    local -A neighbors=(
        [Alford]='Welsh Holiday' [Ball]='Welsh Hamilton' [Hamilton]='Ball Holiday'
        [Holiday]='Alford Hamilton' [Welsh]='Ball Alford'
    )
    local name index=0
    find_ports 10
    for name in "${SERVERS[@]}"; do
        client_port[$name]=${ports[index]}
        echo "$name 127.0.0.1:${ports[index]} 127.0.0.1:${ports[index + 1]} ${neighbors[$name]}"
        index=$((index + 2))
    done >"$work/servers.txt"
}

# --- Telnet --------------------------------------------------------------------------------------

# Telnet's own words before the server's.
readonly BANNER='^Escape character is '

# What the server has sent so far, byte for byte.
received() {
    sed "1,/$BANNER/d" "$1" 2>/dev/null
}

# has_lines FILE COUNT
has_lines() {
    (($(received "$1" | wc -l) >= $2))
}

# A refusal is one line; an answer to WHATSAT ends with an empty one.
has_answer() {
    has_lines "$1" 1 && received "$1" | grep -q -e '^? ' -e '^$'
}

# Telnet says so on its standard error, or on its output.
hung_up() {
    grep -qs '^Connection closed' "$1" "$1.errors"
}

# talk SERVER FILE CONDITION...: sends standard input through telnet, and hangs up once the
# condition holds for the file that telnet's output goes to, or after a while.
talk() {
    local server=$1 file=$2
    shift 2
    rm -f "$file"
    {
        cat
        # Telnet hangs up as soon as its input ends, answered or not.
        soon 10 "$@"
    } | telnet 127.0.0.1 "${client_port[$server]}" >"$file" 2>"$file.errors"
}

# ask SERVER LINE: sets `answer` to the server's answer.
ask() {
    local file=$work/asked
    case $2 in
        WHATSAT*) printf '%s\n' "$2" | talk "$1" "$file" has_answer "$file" ;;
        *) printf '%s\n' "$2" | talk "$1" "$file" has_lines "$file" 1 ;;
    esac
    answer=$(received "$file")
}

# report SERVER CLIENT [TIME [LOCATION]]: sets `answer`.
report() {
    ask "$1" "IAMAT $2 ${4:-$KIWI} ${3:-$EPOCHREALTIME}"
}

# Prints the AT line that a server has for a client, or its refusal.
located() {
    ask "$1" "WHATSAT $2 0 0"
    head -n 1 <<<"$answer"
}

knows() {
    [[ $(located "$1" "$2") == "$3" ]]
}

# check_known WHAT CLIENT AT_LINE SERVER...: all those servers answer with that line.
check_known() {
    local what=$1 client=$2 line=$3 server
    shift 3
    for server in "$@"; do
        if ! soon "$FLOOD_SECONDS" knows "$server" "$client" "$line"; then
            fail "$what" "expected at $server: $line" "got: $(located "$server" "$client")"
            return
        fi
    done
    pass "$what"
}

# ago SECONDS: a time that lies so long before now; a negative number lies ahead.
ago() {
    echo "$((${EPOCHREALTIME%.*} - $1)).${EPOCHREALTIME#*.}"
}

# The two clients' places: Los Angeles and Ithaca.
readonly KIWI=+34.068930-118.445127 PLUM=+42.4440-76.5019

# --- The story -----------------------------------------------------------------------------------

begins() {
    local name
    if ! start_herd; then
        fail 'run.sh starts the herd' "$(cat "$work/said")"
        return 1
    fi
    pass 'run.sh starts the herd'
    note_processes
    for name in "${SERVERS[@]}"; do
        matches "run.sh says where $name listens" \
            " $name +clients 127.0.0.1:${client_port[$name]}, peers 127.0.0.1:[0-9]+" "$(said)"
    done
    matches 'run.sh prints what to paste into telnet' \
        "telnet 127.0.0.1 ${client_port[Welsh]}.*IAMAT [^ ]+ \\+.* [0-9.]+" "$(said)"
    holds 'status: all up' herd status
    same 'status: a line for each server' 5 "$(grep -c '^up ' "$work/said")"

    start_herd
    same 'a second start of the same herd is refused' 1 "$?"
    matches 'it says who is running' 'running already: Alford' "$(said)"
    run_herd other-run --detach --servers servers.txt --log-dir other-logs --data-dir other-data
    same 'a second herd on the same ports is refused' 1 "$?"
    matches 'it says which port another program has' \
        "Ball: cannot listen for clients on 127.0.0.1:${client_port[Ball]}: another program has" "$(said)"
    find_ports 3
    printf '%s\n' "Here 127.0.0.1:${ports[0]} 127.0.0.1:${ports[1]} There" \
        "There 127.0.0.1:${client_port[Ball]} 127.0.0.1:${ports[2]} Here" >"$work/half.txt"
    run_herd half-run --detach --servers half.txt --log-dir other-logs --data-dir other-data
    same 'a herd of which one port is in use is refused' 1 "$?"
    matches 'it stops the servers that had started' 'stopped in [0-9.]+ s: Here' "$(said)"
    run_herd half-run status --servers half.txt
    same 'none of them runs on' 2 "$(grep -c '^down ' "$work/said")"
    holds 'the first herd is not touched by any of it' herd status
}

refuses_bad_configuration() {
    printf 'Alford 127.0.0.1:1 127.0.0.1:2 Ball\nBall 127.0.0.1 127.0.0.1:4 Alford\n' >"$work/bad.txt"
    run_herd bad-run --detach --servers bad.txt
    same 'a bad servers.txt is refused: exit code 2' 2 "$?"
    matches 'the refusal names file, line and reason' 'bad.txt:2: .*"127.0.0.1" is not an address' "$(said)"
    printf 'Alford 127.0.0.1:1 127.0.0.1:2 Ball\nBall 127.0.0.1:3 127.0.0.1:4\n' >"$work/bad.txt"
    run_herd bad-run --detach --servers bad.txt
    same 'a neighbor that is not mutual: exit code 2' 2 "$?"
    matches 'the refusal names file, line and reason' 'bad.txt:[0-9]+: .*Alford' "$(said)"
    run_herd bad-run --detach --servers none.txt
    same 'a missing servers.txt is refused: exit code 2' 2 "$?"
    matches 'the refusal names the file' 'none.txt: cannot be read' "$(said)"
    run_herd bad-run --no-such-option
    same 'an unknown option is refused: exit code 2' 2 "$?"
    herd start Nobody --detach
    same 'an unknown server is refused: exit code 2' 2 "$?"
}

reports_and_asks_at_all() {
    local name
    for name in "${SERVERS[@]}"; do
        report "$name" "client-of-$name"
        matches "$name takes a report" \
            "^AT $name [+-][0-9]+\\.[0-9]{9} client-of-$name \\$KIWI [0-9.]+\$" "$answer"
        check_known "all five answer with the line of $name" "client-of-$name" "$answer" "${SERVERS[@]}"
    done

    report Welsh past "$(ago 100)"
    matches 'a time 100 s ago: difference +100 s and nine decimals' \
        '^AT Welsh \+10[0-9]\.[0-9]{9} past ' "$answer"
    report Welsh ahead "$(ago -100)"
    matches 'a time 100 s ahead: difference negative' '^AT Welsh -(99|9[0-8])\.[0-9]{9} ahead ' "$answer"
    ask Ball 'IAMAT kiwi.cs.ucla.edu +34.068930-118.445127 1479413884.392014450'
    matches 'client, location and time are echoed as they came' \
        ' kiwi\.cs\.ucla\.edu \+34\.068930-118\.445127 1479413884\.392014450$' "$answer"
    ask Ball $'  IAMAT\tspaced   +1-1  5 '
    matches 'white space around fields does not matter' '^AT Ball \+[0-9.]+ spaced \+1-1 5$' "$answer"
}

# count_places JSON: fails if it is no JSON text.
count_places() {
    if command -v jq >/dev/null; then
        jq -e '.results | length' <<<"$1"
    elif command -v python3 >/dev/null; then
        python3 -c 'import json, sys; print(len(json.load(sys.stdin)["results"]))' <<<"$1"
    else
        grep -c '"place_id"' <<<"$1"
    fi
}

lists_places() {
    local bound json count
    report Alford places
    check_known 'WHATSAT: the AT line comes first' places "$answer" Holiday
    for bound in 1 5 20; do
        ask Holiday "WHATSAT places 50 $bound"
        json=$(tail -n +2 <<<"$answer")
        if count=$(count_places "$json" 2>&1); then
            holds "WHATSAT: a JSON text with 1 to $bound places" test 1 -le "$count" -a "$count" -le "$bound"
        else
            fail "WHATSAT: a JSON text with 1 to $bound places" "$count" "$json"
        fi
    done
    matches 'WHATSAT: status OK, locations and names' '"location".*"name".*"status":"OK"' "$json"
    ask Holiday 'WHATSAT places 50 0'
    matches 'WHATSAT: bound 0 gives ZERO_RESULTS' '"status":"ZERO_RESULTS"' "$answer"
    ask Holiday 'WHATSAT places 0 5'
    matches 'WHATSAT: radius 0 gives ZERO_RESULTS' '"status":"ZERO_RESULTS"' "$answer"
}

# check_echo WHAT BYTES: the line comes back behind "? ", byte for byte.
check_echo() {
    local what="malformed: $1" file=$work/echoed
    printf '%s\n' "$2" | talk Hamilton "$file" has_lines "$file" 1
    printf '? %s\n' "$2" >"$work/expected"
    received "$file" >"$work/got"
    if cmp -s "$work/expected" "$work/got"; then
        pass "$what"
    else
        fail "$what" "expected: $(od -c "$work/expected" | head -n 5)" "got: $(od -c "$work/got" | head -n 5)"
    fi
}

echoes_malformed_input() {
    local long
    check_echo 'an unknown command' 'HELLO herd'
    check_echo 'an empty line' ''
    check_echo 'only white space' $' \t '
    check_echo 'white space is kept' $'  what \t now  '
    check_echo 'bytes outside ASCII' $'caf\xc3\xa9 \xf0\x9f\x90\x91 \xe9'
    check_echo 'control characters' $'a\x01b\x07c'
    check_echo 'a command in lower case' 'iamat a +1+1 1'
    check_echo 'a neighbor'"'"'s message' 'AT Ball +0.1 a +1+1 1'
    check_echo 'IAMAT with a field missing' 'IAMAT a +1+1'
    check_echo 'IAMAT with a field too many' 'IAMAT a +1+1 1 1'
    check_echo 'a location without signs' 'IAMAT a 34.0-118.4 1'
    check_echo 'half a location' 'IAMAT a +34.0 1'
    check_echo 'a latitude beyond 90' 'IAMAT a +90.1+1 1'
    check_echo 'a longitude beyond 180' 'IAMAT a +1-180.1 1'
    check_echo 'a time with an exponent' 'IAMAT a +1+1 1e9'
    check_echo 'a negative time' 'IAMAT a +1+1 -1'
    check_echo 'a time that is not a number' 'IAMAT a +1+1 nan'
    check_echo 'a time 400 s ahead' "IAMAT a +1+1 $(ago -400)"
    check_echo 'WHATSAT for an unknown client' 'WHATSAT nobody 10 5'
    check_echo 'a radius beyond 50' 'WHATSAT places 51 5'
    check_echo 'a negative radius' 'WHATSAT places -1 5'
    check_echo 'a bound beyond 20' 'WHATSAT places 10 21'
    check_echo 'a negative bound' 'WHATSAT places 10 -1'
    check_echo 'a bound with a fraction' 'WHATSAT places 10 1.5'
    printf -v long '%256s' ''
    check_echo 'a client of 256 bytes' "IAMAT ${long// /x} +1+1 1"

    printf -v long '%5000s' ''
    long=${long// /x}
    local file=$work/long
    printf '%s\nIAMAT a +1+1 1\n' "$long" | talk Hamilton "$file" hung_up "$file"
    same 'malformed: of an endless line 4096 bytes come back' "? ${long:0:4096}" \
        "$(received "$file" | head -n 1)"
    holds 'after it the server hangs up' hung_up "$file"

    printf '%s\n' 'IAMAT pipe +1+1 1' bad 'IAMAT pipe +1+1 2' worse 'IAMAT pipe +1+1 3' |
        talk Ball "$file" has_lines "$file" 5
    same 'five lines at once get five answers, in order' 'AT bad AT worse AT' \
        "$(received "$file" | sed 's/^? //; s/^AT .*/AT/' | tr '\n' ' ' | sed 's/ $//')"
}

newest_wins() {
    local newest
    report Ball melon "$(ago 10)"
    newest=$answer
    check_known 'newest wins: a first report is known' melon "$newest" "${SERVERS[@]}"
    report Alford melon "$(ago 20)" "$PLUM"
    matches 'newest wins: an older report is acknowledged' '^AT Alford ' "$answer"
    # Were it flooded by mistake, a later report on the same way would come after it.
    report Alford behind
    check_known 'newest wins: what was reported after it is known' behind "$answer" "${SERVERS[@]}"
    check_known 'newest wins: the older report changed nothing' melon "$newest" "${SERVERS[@]}"
    report Holiday melon "$(ago 5)" "$PLUM"
    check_known 'newest wins: a newer one replaces it at all five' melon "$answer" "${SERVERS[@]}"
}

# Reports over one connection until the crash is over, and then some more. Counts them in
# $work/streamed-count.
stream_reports() {
    local number=0 left=30 file=$work/streamed
    while ((left > 0 && number < 2000)); do
        number=$((number + 1))
        echo "IAMAT stream-$number $KIWI $EPOCHREALTIME"
        echo "$number" >"$work/streamed-count"
        [[ ! -e $work/crashed ]] || left=$((left - 1))
        sleep 0.02
    done | talk Welsh "$file" stream_is_answered "$file"
}

stream_is_answered() {
    has_lines "$1" "$(cat "$work/streamed-count")"
}

survives_a_crash() {
    local others=(Alford Hamilton Holiday Welsh) own streamer line name count number missing=0
    report Ball own-of-Ball
    own=$answer
    check_known 'before the crash: all know what Ball took' own-of-Ball "$own" "${SERVERS[@]}"
    stream_reports &
    streamer=$!
    soon 10 has_lines "$work/streamed" 10
    kill_server Ball
    touch "$work/crashed"
    herd status
    same 'Ball killed: status says so with exit code 1' 1 "$?"
    matches 'Ball killed: status names it and its exit code' 'down +Ball +exit code 137' "$(said)"
    wait "$streamer"
    count=$(cat "$work/streamed-count")
    same "Ball killed: all $count reports at Welsh meanwhile are acknowledged" "$count" \
        "$(received "$work/streamed" | grep -c '^AT Welsh ')"
    line=$(received "$work/streamed" | tail -n 1)
    check_known 'Ball killed: the four others flood on' "stream-$count" "$line" "${others[@]}"
    for name in "${others[@]}"; do
        report "$name" "orphan-of-$name"
        check_known "Ball killed: what $name takes reaches the four" \
            "orphan-of-$name" "$answer" "${others[@]}"
    done
    printf 'x\n' | talk Ball "$work/refused" true
    matches 'Ball killed: telnet to it is refused' 'refused' "$(cat "$work/refused.errors")"

    holds 'Ball comes back by run.sh start' herd start Ball --detach
    note_processes
    holds 'Ball is back: status says all up' herd status
    check_known 'Ball is back: it knows what it took before' own-of-Ball "$own" Ball
    check_known 'Ball is back: it knows the last report that it missed' \
        "orphan-of-Welsh" "$(located Welsh orphan-of-Welsh)" Ball
    check_known 'Ball is back: it knows what came while it died' "stream-$count" "$line" Ball
    for ((number = 1; number <= count; number += 7)); do
        [[ $(located Ball "stream-$number") == "$(located Welsh "stream-$number")" ]] || missing=$((missing + 1))
    done
    same 'Ball is back: it has the same lines as Welsh' 0 "$missing"
    report Ball own-of-Ball
    check_known 'Ball is back: what it takes reaches all' own-of-Ball "$answer" "${SERVERS[@]}"
}

# Without Alford and Hamilton the ring is in two parts: Welsh and Ball, and Holiday.
survives_a_split() {
    local left right contested
    report Welsh grape "$(ago 60)"
    contested=$answer
    check_known 'before the split: all know the first report' grape "$contested" "${SERVERS[@]}"
    kill_server Alford Hamilton
    report Welsh left
    left=$answer
    check_known 'split: Ball hears from Welsh' left "$left" Welsh Ball
    report Holiday right
    right=$answer
    check_known 'split: Holiday takes reports alone' right "$right" Holiday
    same 'split: Holiday does not hear from Welsh' '? WHATSAT left 0 0' "$(located Holiday left)"
    same 'split: Ball does not hear from Holiday' '? WHATSAT right 0 0' "$(located Ball right)"
    report Holiday grape "$(ago 20)" "$PLUM"
    contested=$answer
    report Welsh grape "$(ago 40)"
    check_known 'split: each side has its own latest (Welsh)' grape "$answer" Welsh Ball
    check_known 'split: each side has its own latest (Holiday)' grape "$contested" Holiday
    holds 'the pair comes back by run.sh start' herd start Alford Hamilton --detach
    note_processes
    check_known 'healed: all five know what Welsh took' left "$left" "${SERVERS[@]}"
    check_known 'healed: all five know what Holiday took' right "$right" "${SERVERS[@]}"
    check_known 'healed: newest wins at all five' grape "$contested" "${SERVERS[@]}"
    report Hamilton after
    check_known 'healed: the flood reaches all five' after "$answer" "${SERVERS[@]}"
}

# logged WHAT SERVER PATTERN: its log holds, or soon will, a line that matches.
logged() {
    if soon 5 grep -qE -- "$3" "$logs/$2.log"; then
        pass "log: $1"
    else
        fail "log: $1" "no line in $2.log matches $3"
    fi
}

logs_hold() {
    local name odd client='client 127\.0\.0\.1:[0-9]+'
    for name in "${SERVERS[@]}"; do
        odd=$(grep -vnE '^[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}\.[0-9]{6}Z \[(ERROR|WARN |INFO |DEBUG)\] .' \
            "$logs/$name.log" | head -n 3)
        same "log: every line of $name has a UTC time with microseconds and a level" '' "$odd"
    done
    logged 'a client connects' Welsh "\[INFO \] $client connected"
    logged 'a client goes' Welsh "\[INFO \] $client gone"
    logged 'a line received from a client' Welsh "received from $client: IAMAT client-of-Welsh "
    logged 'a line sent to a client' Welsh "sent to $client: AT Welsh [+-][0-9.]+ client-of-Welsh "
    logged 'malformed input, escaped' Hamilton "received from $client: caf.xc3.xa9 .xf0.x9f.x90.x91 .xe9\$"
    logged 'a line sent to a neighbor' Welsh 'sent to neighbor (Ball|Alford): .* client-of-Welsh '
    logged 'a line received from a neighbor' Alford 'received from neighbor Welsh: .* client-of-Welsh '
    logged 'a neighbor connects' Welsh 'neighbor Ball connected|connected to neighbor Ball'
    logged 'a neighbor that crashed is gone' Welsh 'neighbor Ball gone'
    logged 'a lost link is a warning' Welsh '\[WARN \] .*neighbor Ball'
    holds 'log: the neighbor that came back connects again' test 2 -le \
        "$(grep -cE '\[INFO \] connected to neighbor Ball' "$logs/Welsh.log")"
}

# A herd of two runs beside the other, in front, and is stopped as Ctrl-C does.
stays_in_front() {
    local front front_state=$work/front-run said=$work/front pid
    find_ports 4
    printf '%s\n' "Here 127.0.0.1:${ports[0]} 127.0.0.1:${ports[1]} There" \
        "There 127.0.0.1:${ports[2]} 127.0.0.1:${ports[3]} Here" >"$work/two.txt"
    # With job control, a background job has a process group of its own, as on a terminal.
    set -m
    "$root/run.sh" --servers "$work/two.txt" --state-dir "$front_state" --log-dir "$work/front-logs" --data-dir "$work/front-data" \
        >"$said" 2>&1 </dev/null &
    front=$!
    set +m
    holds 'in front: a second herd starts beside the first' soon 60 grep -q '^Ctrl-C stops' "$said"
    note_processes
    client_port[There]=${ports[2]}
    ask There 'WHATSAT client-of-Welsh 0 0'
    same 'in front: the two herds know nothing of each other' '? WHATSAT client-of-Welsh 0 0' "$answer"
    pid=$(cut -d ' ' -f 1 "$front_state/There.pid")
    kill -KILL "$pid"
    holds 'in front: it says that a server has ended' soon 10 grep -q 'There has ended, exit code 137' "$said"
    holds 'in front: the notices of the others are shown' soon 10 grep -q '^Here: .*There' "$said"
    holds 'in front: the other runs on' parent_and_start "$(cut -d ' ' -f 1 "$front_state/Here.pid")"
    kill -INT -- "-$front"
    holds 'in front: Ctrl-C ends it within 10 s' soon 10 is_gone "$front"
    wait "$front"
    same 'in front: the exit code tells that a server had ended' 1 "$?"
    matches 'in front: Ctrl-C stops the rest' 'stopped in [0-9.]+ s: Here' "$(cat "$said")"
    holds 'in front: the first herd is not touched by it' herd status
}

ends() {
    holds 'stop: all end with exit code 0' herd stop
    matches 'stop: it names whom it stopped' 'stopped in [0-9.]+ s: Alford Ball Hamilton Holiday Welsh' "$(said)"
    herd status
    same 'status after it: exit code 1' 1 "$?"
    same 'status after it: all down' 5 "$(grep -c '^down .*exit code 0 ' "$work/said")"
    holds 'a second stop finds nothing to do' herd stop
    # Supervisors end right after their servers.
    if soon 5 none_left_over; then
        pass "none of the ${#started[@]} processes that were started is left"
    else
        fail 'no process that was started is left' "$(left_over)"
    fi
}

if ! command -v telnet >/dev/null; then
    fail 'telnet is there' 'install it, for example with: apt-get install telnet'
    report_counts
    exit 1
fi
write_servers
if begins; then
    refuses_bad_configuration
    reports_and_asks_at_all
    lists_places
    echoes_malformed_input
    newest_wins
    survives_a_crash
    survives_a_split
    logs_hold
    stays_in_front
    ends
fi
report_counts
