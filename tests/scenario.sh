#!/usr/bin/env bash
# The telnet-driven scenario: starts a herd of five with run.sh, reports and queries at all of them with
# real telnet clients, kills and restarts servers, and reads their logs. Uses free ports and a temporary
# directory, and kills processes only by the ids that run.sh recorded.
#
# Usage: tests/scenario.sh [FLAG...]   flags for every `herd serve`, such as --pool dedicated

set -u

# shellcheck source=tests/tools.sh
source "$(dirname -- "$(readlink -f -- "${BASH_SOURCE[0]}")")/tools.sh"
# shellcheck source=tests/check.sh
source "$root/tests/check.sh"
# shellcheck source=tests/processes.sh
source "$root/tests/processes.sh"
# shellcheck source=tests/telnet.sh
source "$root/tests/telnet.sh"

readonly SERVERS=(Alford Ball Hamilton Holiday Welsh)

serve_flags=("$@")
work=$(mktemp -d) || die 1 'cannot make a temporary directory (see TMPDIR)'
state=$work/run
logs=$work/logs

# --- Processes -----------------------------------------------------------------------------------

# herd ARGUMENT...: run.sh for the herd under test.
herd() {
    run_herd run "$@"
}

# run_herd STATE_DIR ARGUMENT...: run.sh, called from another directory with relative paths. Its output
# goes to $work/output.
run_herd() {
    (cd "$work" && "$root/run.sh" --state-dir "$@") >"$work/output" 2>&1 </dev/null
}

start_herd() {
    herd --detach --servers servers.txt --log-dir logs --data-dir data -- "${serve_flags[@]}"
}

# The last output of run.sh, without that of cargo.
output() {
    grep -vE '^ +(Finished|Compiling|Downloading|Downloaded|Updating|Locking|Adding)|warning: unused' \
        "$work/output"
}

clean_up() {
    stop_all
    if ((failed > 0)) && [[ -n ${CHECK_KEEP:-} ]]; then
        echo "kept: $work"
    else
        rm -rf "$work"
    fi
}
trap clean_up EXIT
trap 'exit 1' INT TERM HUP PIPE

# Writes the servers.txt of the report's ring.
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

# http_status HOST:PORT PATH: prints the first line of the answer of an HTTP port.
http_status() {
    local socket line=''
    { exec {socket}<>"/dev/tcp/${1%:*}/${1##*:}"; } 2>/dev/null || return 1
    printf 'GET %s HTTP/1.1\r\nHost: %s\r\n\r\n' "$2" "$1" >&"$socket"
    read -r -t 10 -u "$socket" line
    exec {socket}>&-
    echo "${line%$'\r'}"
}

# --- The steps -----------------------------------------------------------------------------------

begins() {
    local name
    if ! start_herd; then
        fail 'run.sh starts the herd' "$(cat "$work/output")"
        return 1
    fi
    pass 'run.sh starts the herd'
    note_processes
    for name in "${SERVERS[@]}"; do
        matches "run.sh prints where $name listens" \
            " $name +clients 127.0.0.1:${client_port[$name]}, peers 127.0.0.1:[0-9]+" "$(output)"
    done
    matches 'run.sh prints the address of the live page first of all' \
        "^Live page: http://127.0.0.1:$((client_port[Alford] + 2000))/" "$(output | head -n 1)"
    for name in "${SERVERS[@]}"; do
        same "the HTTP port of $name answers" 'HTTP/1.1 200 OK' \
            "$(http_status "127.0.0.1:$((client_port[$name] + 2000))" /readyz)"
    done
    same 'the live page is there' 'HTTP/1.1 200 OK' \
        "$(http_status "127.0.0.1:$((client_port[Welsh] + 2000))" /)"
    matches 'run.sh prints what to paste into telnet' \
        "telnet 127.0.0.1 ${client_port[Welsh]}.*IAMAT [^ ]+ \\+.* [0-9.]+" "$(output)"
    holds 'status: all up' herd status
    same 'status: a line for each server' 5 "$(grep -c '^up ' "$work/output")"

    start_herd
    same 'a second start of the same herd is refused' 1 "$?"
    matches 'the refusal names the running servers' 'running already: Alford' "$(output)"
    run_herd other-run --detach --servers servers.txt --log-dir other-logs --data-dir other-data
    same 'a second herd on the same ports is refused' 1 "$?"
    matches 'the refusal names the port that another program has' \
        "Ball: cannot listen for clients on 127.0.0.1:${client_port[Ball]}: another program has" "$(output)"
    find_ports 3
    printf '%s\n' "Here 127.0.0.1:${ports[0]} 127.0.0.1:${ports[1]} There" \
        "There 127.0.0.1:${client_port[Ball]} 127.0.0.1:${ports[2]} Here" >"$work/half.txt"
    run_herd half-run --detach --servers half.txt --log-dir other-logs --data-dir other-data
    same 'a herd of which one port is in use is refused' 1 "$?"
    matches 'the servers that had started are stopped' 'stopped in [0-9.]+ s: Here' "$(output)"
    run_herd half-run status --servers half.txt
    same 'none of them is left running' 2 "$(grep -c '^down ' "$work/output")"
    find_ports 1
    echo "Solo 127.0.0.2:${client_port[Alford]} 127.0.0.2:${ports[0]}" >"$work/solo.txt"
    run_herd solo-run --detach --servers solo.txt --log-dir other-logs --data-dir solo-data
    matches 'a server whose HTTP port is taken gets a free one' \
        "^Live page: http://127.0.0.1:[0-9]+/.* Solo .*, http 127.0.0.1:[0-9]+" "$(output)"
    run_herd solo-run stop
    holds 'the first herd is not touched by any of it' herd status

    find_ports 3
    printf '%s\n' "Here 127.0.0.1:${ports[0]} 127.0.0.1:${ports[1]} There" \
        "There 127.0.0.1:${ports[2]} 127.0.0.1:$((ports[0] + 2000)) Here" >"$work/near.txt"
    run_herd near-run start Here --detach --servers near.txt --log-dir other-logs --data-dir other-data
    same 'a server whose usual HTTP port is one of another starts' 0 "$?"
    run_herd near-run start There --detach
    same 'the other one starts after it' 0 "$?"
    note_processes
    run_herd near-run stop
    same 'both of them stop' 0 "$?"
}

refuses_bad_configuration() {
    printf 'Alford 127.0.0.1:1 127.0.0.1:2 Ball\nBall 127.0.0.1 127.0.0.1:4 Alford\n' >"$work/bad.txt"
    run_herd bad-run --detach --servers bad.txt
    same 'a bad servers.txt is refused: exit code 2' 2 "$?"
    matches 'the refusal names file, line and reason' 'bad.txt:2: .*"127.0.0.1" is not an address' "$(output)"
    printf 'Alford 127.0.0.1:1 127.0.0.1:2 Ball\nBall 127.0.0.1:3 127.0.0.1:4\n' >"$work/bad.txt"
    run_herd bad-run --detach --servers bad.txt
    same 'a neighbor that is not mutual: exit code 2' 2 "$?"
    matches 'the refusal names file, line and reason' 'bad.txt:[0-9]+: .*Alford' "$(output)"
    run_herd bad-run --detach --servers none.txt
    same 'a missing servers.txt is refused: exit code 2' 2 "$?"
    matches 'the refusal names the file' 'none.txt: cannot be read' "$(output)"
    mkdir "$work/far"
    printf 'Far 192.0.2.1:1 192.0.2.1:2\n' >"$work/far/servers.txt"
    run_herd bad-run --detach --servers far/servers.txt
    same 'a herd on other machines without a key file is refused: exit code 2' 2 "$?"
    matches 'the refusal says how to make one' 'run herd key new --key-file .*far/herd.key' "$(output)"
    run_herd bad-run --no-such-option
    same 'an unknown option is refused: exit code 2' 2 "$?"
    herd start Nobody --detach
    same 'an unknown server is refused: exit code 2' 2 "$?"
}

reports_and_queries_at_all() {
    local name
    for name in "${SERVERS[@]}"; do
        report "$name" "client-of-$name"
        matches "$name accepts a report" \
            "^AT $name [+-][0-9]+\\.[0-9]{9} client-of-$name \\$KIWI [0-9.]+\$" "$answer"
        check_known "all five reply with the line of $name" "client-of-$name" "$answer" "${SERVERS[@]}"
    done

    report Welsh past "$(ago 100)"
    matches 'a time 100 s ago: difference +100 s and nine decimals' \
        '^AT Welsh \+10[0-9]\.[0-9]{9} past ' "$answer"
    report Welsh ahead "$(ago -100)"
    matches 'a time 100 s ahead: difference negative' '^AT Welsh -(99|9[0-8])\.[0-9]{9} ahead ' "$answer"
    ask Ball 'IAMAT kiwi.cs.ucla.edu +34.068930-118.445127 1479413884.392014450'
    matches 'client, location and time are echoed unchanged' \
        ' kiwi\.cs\.ucla\.edu \+34\.068930-118\.445127 1479413884\.392014450$' "$answer"
    ask Ball $'  IAMAT\tspaced   +1-1  5 '
    matches 'white space around fields does not matter' '^AT Ball \+[0-9.]+ spaced \+1-1 5$' "$answer"
}

# count_places JSON: prints the number of places. Fails if the text is not JSON.
count_places() {
    if have jq; then
        jq -e '.results | length' <<<"$1"
    elif have python3; then
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

# check_echo WHAT BYTES: the line is returned behind "? ", byte for byte.
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
    same 'malformed: 4096 bytes of an endless line are returned' "? ${long:0:4096}" \
        "$(received "$file" | head -n 1)"
    holds 'after it the server hangs up' hung_up "$file"

    printf '%s\n' 'IAMAT pipe +1+1 1' bad 'IAMAT pipe +1+1 2' worse 'IAMAT pipe +1+1 3' |
        talk Ball "$file" has_lines "$file" 5
    same 'five lines at once get five replies, in order' 'AT bad AT worse AT' \
        "$(received "$file" | sed 's/^? //; s/^AT .*/AT/' | tr '\n' ' ' | sed 's/ $//')"
}

newest_wins() {
    local newest
    report Ball melon "$(ago 10)"
    newest=$answer
    check_known 'newest wins: a first report is known' melon "$newest" "${SERVERS[@]}"
    report Alford melon "$(ago 20)" "$PLUM"
    matches 'newest wins: an older report is acknowledged' '^AT Alford ' "$answer"
    # If it were forwarded by mistake, it would arrive before a later report over the same links.
    report Alford behind
    check_known 'newest wins: a report sent after it is known' behind "$answer" "${SERVERS[@]}"
    check_known 'newest wins: the older report changed nothing' melon "$newest" "${SERVERS[@]}"
    report Holiday melon "$(ago 5)" "$PLUM"
    check_known 'newest wins: a newer one replaces it at all five' melon "$answer" "${SERVERS[@]}"
}

# Reports over one connection until after the crash, and 30 times more. Writes the number of reports to
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
    check_known 'before the crash: all know the report of Ball' own-of-Ball "$own" "${SERVERS[@]}"
    stream_reports &
    streamer=$!
    soon 10 has_lines "$work/streamed" 10
    kill_server Ball
    touch "$work/crashed"
    herd status
    same 'Ball killed: the exit code of status is 1' 1 "$?"
    matches 'Ball killed: status names it and its exit code' 'down +Ball +exit code 137' "$(output)"
    wait "$streamer"
    count=$(cat "$work/streamed-count")
    same "Ball killed: all $count reports at Welsh meanwhile are acknowledged" "$count" \
        "$(received "$work/streamed" | grep -c '^AT Welsh ')"
    line=$(received "$work/streamed" | tail -n 1)
    check_known 'Ball killed: reports still reach the four others' "stream-$count" "$line" "${others[@]}"
    for name in "${others[@]}"; do
        report "$name" "orphan-of-$name"
        check_known "Ball killed: a report at $name reaches the four" \
            "orphan-of-$name" "$answer" "${others[@]}"
    done
    printf 'x\n' | talk Ball "$work/refused" true
    matches 'Ball killed: telnet to it is refused' 'refused' "$(cat "$work/refused.errors")"

    holds 'run.sh start restarts Ball' herd start Ball --detach
    note_processes
    holds 'Ball is back: status: all up' herd status
    check_known 'Ball is back: it knows its own report from before' own-of-Ball "$own" Ball
    check_known 'Ball is back: it knows the last report that it missed' \
        "orphan-of-Welsh" "$(located Welsh orphan-of-Welsh)" Ball
    check_known 'Ball is back: it knows the reports from during its crash' "stream-$count" "$line" Ball
    for ((number = 1; number <= count; number += 7)); do
        [[ $(located Ball "stream-$number") == "$(located Welsh "stream-$number")" ]] || missing=$((missing + 1))
    done
    same 'Ball is back: it has the same lines as Welsh' 0 "$missing"
    report Ball own-of-Ball
    check_known 'Ball is back: its reports reach all' own-of-Ball "$answer" "${SERVERS[@]}"
}

# Without Alford and Hamilton the ring has two parts: Welsh and Ball, and Holiday.
survives_a_split() {
    local left right contested
    report Welsh grape "$(ago 60)"
    contested=$answer
    check_known 'before the split: all know the first report' grape "$contested" "${SERVERS[@]}"
    kill_server Alford Hamilton
    report Welsh left
    left=$answer
    check_known 'split: a report at Welsh reaches Ball' left "$left" Welsh Ball
    report Holiday right
    right=$answer
    check_known 'split: Holiday accepts reports' right "$right" Holiday
    same 'split: a report at Welsh does not reach Holiday' '? WHATSAT left 0 0' "$(located Holiday left)"
    same 'split: a report at Holiday does not reach Ball' '? WHATSAT right 0 0' "$(located Ball right)"
    report Holiday grape "$(ago 20)" "$PLUM"
    contested=$answer
    report Welsh grape "$(ago 40)"
    check_known 'split: each side has its own newest report (Welsh)' grape "$answer" Welsh Ball
    check_known 'split: each side has its own newest report (Holiday)' grape "$contested" Holiday
    holds 'run.sh start restarts both' herd start Alford Hamilton --detach
    note_processes
    check_known 'healed: all five know the report of Welsh' left "$left" "${SERVERS[@]}"
    check_known 'healed: all five know the report of Holiday' right "$right" "${SERVERS[@]}"
    check_known 'healed: newest wins at all five' grape "$contested" "${SERVERS[@]}"
    report Hamilton after
    check_known 'healed: a new report reaches all five' after "$answer" "${SERVERS[@]}"
}

# logged WHAT LOG PATTERN: a line that matches is in LOG.log, or soon will be.
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
    logged 'a client connects' Welsh.lines "Z $client connected"
    logged 'a client disconnects' Welsh.lines "Z $client gone"
    logged 'a line received from a client' Welsh.lines "received from $client: IAMAT client-of-Welsh "
    logged 'a line sent to a client' Welsh.lines "sent to $client: AT Welsh [+-][0-9.]+ client-of-Welsh "
    logged 'malformed input, escaped' Hamilton.lines "received from $client: caf.xc3.xa9 .xf0.x9f.x90.x91 .xe9\$"
    logged 'a line sent to a neighbor' Welsh.lines 'sent to neighbor (Ball|Alford): .* client-of-Welsh '
    logged 'a line received from a neighbor' Alford.lines 'received from neighbor Welsh: .* client-of-Welsh '
    logged 'a neighbor connects' Welsh 'neighbor Ball connected|connected to neighbor Ball'
    logged 'the connection of a crashed neighbor ends' Welsh 'neighbor Ball gone'
    logged 'a lost link is a warning' Welsh '\[WARN \] .*neighbor Ball'
    holds 'log: the restarted neighbor is connected again' test 2 -le \
        "$(grep -cE '\[INFO \] connected to neighbor Ball' "$logs/Welsh.log")"
}

# A second herd, of two servers, runs in front beside the first and is stopped by Ctrl-C.
stays_in_front() {
    local front front_state=$work/front-run front_output=$work/front pid
    find_ports 4
    printf '%s\n' "Here 127.0.0.1:${ports[0]} 127.0.0.1:${ports[1]} There" \
        "There 127.0.0.1:${ports[2]} 127.0.0.1:${ports[3]} Here" >"$work/two.txt"
    # With job control, a background job has a process group of its own, as on a terminal.
    set -m
    "$root/run.sh" --servers "$work/two.txt" --state-dir "$front_state" --log-dir "$work/front-logs" --data-dir "$work/front-data" \
        >"$front_output" 2>&1 </dev/null &
    front=$!
    set +m
    holds 'in front: a second herd starts beside the first' soon 60 grep -q '^Ctrl-C stops' "$front_output"
    note_processes
    client_port[There]=${ports[2]}
    ask There 'WHATSAT client-of-Welsh 0 0'
    same 'in front: the two herds are separate' '? WHATSAT client-of-Welsh 0 0' "$answer"
    pid=$(cat "$front_state/There.pid")
    kill -KILL "$pid"
    holds 'in front: the end of a server is shown' soon 10 grep -q 'There has ended, exit code 137' "$front_output"
    holds 'in front: the notices of the others are shown' soon 10 grep -q '^Here: .*There' "$front_output"
    holds 'in front: the other keeps running' is_running "$(cat "$front_state/Here.pid")"
    kill -INT -- "-$front"
    holds 'in front: Ctrl-C ends it within 10 s' soon 10 is_gone "$front"
    wait "$front"
    same 'in front: the exit code reports that a server had ended' 1 "$?"
    matches 'in front: Ctrl-C stops the rest' 'stopped in [0-9.]+ s: Here' "$(cat "$front_output")"
    holds 'in front: the first herd is not touched by it' herd status
}

# run.sh restart and reload.
restarts_and_reloads() {
    local pid
    report Holiday before-restart
    pid=$(server_pid Ball)
    holds 'restart: one server' herd restart Ball
    matches 'restart: it waits until the server is ready' 'stopped in .* Ball.*ready in [0-9.]+ s: Ball' "$(output)"
    holds 'restart: the server is a new process' test "$pid" -ne "$(server_pid Ball)"
    note_processes
    holds 'restart: all servers' herd restart
    same 'restart: one server after another' 'Alford Ball Hamilton Holiday Welsh' \
        "$(sed -n 's/^ready in .* s: //p' "$work/output" | tr '\n' ' ' | sed 's/ $//')"
    note_processes
    holds 'restart: status: all up' herd status
    check_known 'restart: all five know the reports from before' before-restart "$answer" "${SERVERS[@]}"

    holds 'reload: an unchanged servers.txt' herd reload
    same 'reload: each server reports it' 5 "$(grep -c ': neighbors: the same as before' "$work/output")"
    cp "$work/servers.txt" "$work/valid.txt"
    sed -i '/^Ball /d' "$work/servers.txt"
    herd reload Welsh
    same 'reload: an invalid servers.txt: exit code 1' 1 "$?"
    matches 'reload: the server and the reason are named' "Welsh refused: .*servers.txt:[0-9]+: .*Ball" "$(output)"
    cp "$work/valid.txt" "$work/servers.txt"
    holds 'reload: the herd is not affected' herd status
}

ends() {
    holds 'stop: all end with exit code 0' herd stop
    matches 'stop: the servers that it stopped are named' 'stopped in [0-9.]+ s: Alford Ball Hamilton Holiday Welsh' "$(output)"
    herd status
    same 'status after stop: exit code 1' 1 "$?"
    same 'status after stop: all down' 5 "$(grep -c '^down .*exit code 0 ' "$work/output")"
    holds 'a second stop finds nothing to do' herd stop
    # Supervisors end right after their servers.
    if soon 5 none_left_over; then
        pass "none of the ${#processes[@]} processes that were started is left"
    else
        fail 'no process that was started is left' "$(left_over)"
    fi
}

if ! have telnet; then
    fail 'telnet is installed' 'install it, for example with: apt-get install telnet'
    report_counts
    exit 1
fi
write_servers
if begins; then
    refuses_bad_configuration
    reports_and_queries_at_all
    lists_places
    echoes_malformed_input
    newest_wins
    survives_a_crash
    survives_a_split
    logs_hold
    stays_in_front
    restarts_and_reloads
    ends
fi
report_counts
