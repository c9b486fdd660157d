# Real telnet clients: lines to a server, its replies byte for byte, and checks that several servers give
# the same reply. Sourced by tests/scenario.sh, which sets `work`, a directory for their output, and
# sources tests/tools.sh and tests/check.sh before.
# shellcheck shell=bash disable=SC2034,SC2154 # Variables shared with the scenario.

# The client port of every server.
declare -A client_port=()

# Time limit for a report to reach all servers, however busy the machine is.
readonly FLOOD_SECONDS=15

# The last line of telnet's own output before the server's.
readonly BANNER='^Escape character is '

# Prints what the server has sent so far, byte for byte.
received() {
    sed "1,/$BANNER/d" "$1" 2>/dev/null
}

# has_lines FILE COUNT
has_lines() {
    (($(received "$1" | wc -l) >= $2))
}

# A refusal is one line; the reply to WHATSAT ends with an empty line.
has_answer() {
    has_lines "$1" 1 && received "$1" | grep -q -e '^? ' -e '^$'
}

# Telnet prints it to its standard error or its output.
hung_up() {
    grep -qs '^Connection closed' "$1" "$1.errors"
}

# talk SERVER FILE CONDITION...: sends standard input through telnet, whose output goes to the file, and
# hangs up once the condition holds or after 10 s.
talk() {
    local server=$1 file=$2
    shift 2
    rm -f "$file"
    {
        cat
        # Telnet hangs up as soon as its input ends, even before the reply.
        soon 10 "$@"
    } | telnet 127.0.0.1 "${client_port[$server]}" >"$file" 2>"$file.errors"
}

# ask SERVER LINE: sets `answer` to the server's reply.
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

# located SERVER CLIENT: prints the server's AT line for a client, or its refusal.
located() {
    ask "$1" "WHATSAT $2 0 0"
    head -n 1 <<<"$answer"
}

knows() {
    [[ $(located "$1" "$2") == "$3" ]]
}

# check_known WHAT CLIENT AT_LINE SERVER...: all these servers reply with this line.
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

# ago SECONDS: the time that many seconds ago; a negative number is ahead of now.
ago() {
    echo "$((${EPOCHREALTIME%.*} - $1)).${EPOCHREALTIME#*.}"
}

# Two locations: Los Angeles and Ithaca.
readonly KIWI=+34.068930-118.445127 PLUM=+42.4440-76.5019
