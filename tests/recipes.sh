#!/usr/bin/env bash
# Runs the recipes of docs/recipes.md, each on a herd of its own: the block of commands is taken from the
# document as it stands, but for the addresses, while clients report all the time. Then every server must
# have the last report that was acknowledged to each client. Uses a temporary directory and loopback
# addresses of its own, and a directory in place of the other machine.
#
# Usage: tests/recipes.sh [HEADING...]   only the recipes with these headings

# shellcheck disable=SC2317 # Functions that `holds` and `soon` call by name look unreachable.
set -u

# shellcheck source=tests/tools.sh
source "$(dirname "${BASH_SOURCE[0]}")/tools.sh"
# shellcheck source=tests/check.sh
source "$root/tests/check.sh"

readonly DOCUMENT=$root/docs/recipes.md
readonly CLIENTS=5
# Time limit for a recipe, and for the herd to be whole and equal after it.
readonly RECIPE_SECONDS=60
readonly EQUAL_SECONDS=20

work=$(mktemp -d)
# Addresses that no other test of this machine uses: those of this process in two blocks of the loopback
# network.
readonly HOME_ADDRESS=127.$((128 | $$ >> 16 & 63)).$(($$ >> 8 & 255)).$(($$ & 255))
readonly SPARE_ADDRESS=127.$((192 | $$ >> 16 & 63)).$(($$ >> 8 & 255)).$(($$ & 255))

# A write to a server that has closed is an error and not the end of the client.
trap '' PIPE

# --- Machines: directories with run.sh -----------------------------------------------------------

# machine DIRECTORY: a directory in which ./run.sh runs the herd of that directory.
machine() {
    mkdir -p "$1/data"
    cat >"$1/run.sh" <<SCRIPT
#!/usr/bin/env bash
exec '$root/run.sh' "\$@" --state-dir '$1/run' --servers '$1/servers.txt' --log-dir '$1/logs' --data-dir '$1/data'
SCRIPT
    chmod +x "$1/run.sh"
}

# Writes programs that recipes call to $work/bin: herd, and ssh and scp to a directory.
write_programs() {
    local target
    target=$(cd "$root" && cargo metadata --format-version 1 --no-deps --locked |
        sed -n 's/.*"target_directory":"\([^"]*\)".*/\1/p')
    mkdir "$work/bin"
    ln -s "$target/release/herd" "$work/bin/herd"
    cat >"$work/bin/ssh" <<SCRIPT
#!/usr/bin/env bash
cd '$work/'"\$1" && exec bash -c "\$2"
SCRIPT
    cat >"$work/bin/scp" <<SCRIPT
#!/usr/bin/env bash
words=()
for word; do
    [[ \$word != *:* ]] || word='$work/'\${word/:/\/}
    words+=("\$word")
done
exec cp "\${words[@]}"
SCRIPT
    chmod +x "$work/bin"/{ssh,scp}
    PATH=$work/bin:$PATH
}

# --- Clients -------------------------------------------------------------------------------------

# Sets `addresses` to the client addresses of the servers.
find_addresses() {
    mapfile -t addresses < <(awk '!/^ *#/ && NF { print $2 }' "$work/home/servers.txt")
}

# connect ADDRESS: sets `socket`, which is empty if nothing listens there.
connect() {
    { exec {socket}<>"/dev/tcp/${1%:*}/${1##*:}"; } 2>/dev/null || socket=
}

# client NUMBER: reports until the file `end` is there, to one server as long as that answers, then to the
# next. Appends the time of each acknowledged report to acknowledged-NUMBER, and other replies to refused.
client() {
    local next=$1 socket='' time reply addresses=()
    while [[ ! -e $work/end ]]; do
        if [[ -z $socket ]]; then
            find_addresses
            connect "${addresses[next++ % CLIENTS % ${#addresses[@]}]}"
        elif time=$EPOCHREALTIME && echo "IAMAT client-$1 +1+1 $time" >&"$socket" &&
            read -r -t 5 -u "$socket" reply; then
            case $reply in
                'AT '*) echo "$time" >>"$work/acknowledged-$1" ;;
                *) echo "client-$1 at $time: $reply" >>"$work/refused" ;;
            esac
        else
            exec {socket}>&-
            socket=''
        fi 2>/dev/null
        sleep 0.05
    done
}

start_clients() {
    local number
    rm -f "$work"/{end,refused,acknowledged-*}
    clients=()
    for ((number = 0; number < CLIENTS; number++)); do
        client "$number" &
        clients+=("$!")
    done
    soon 10 all_acknowledged
}

all_acknowledged() {
    local files=("$work"/acknowledged-*)
    ((${#files[@]} == CLIENTS)) && [[ -s ${files[0]} ]]
}

stop_clients() {
    : >"$work/end"
    wait "${clients[@]}"
    clients=()
}

# Forgets what was acknowledged so far, and waits for later reports of all clients.
forget_acknowledged() {
    rm -f "$work"/acknowledged-*
    soon 10 all_acknowledged
}

# held ADDRESS CLIENT: sets `held` to the first line of the reply about a client.
held() {
    local socket
    held=''
    connect "$1"
    [[ -n $socket ]] || return
    echo "WHATSAT $2 0 0" >&"$socket"
    read -r -t 5 -u "$socket" held
    exec {socket}>&-
}

# Succeeds if every server has the last acknowledged report of each client, or a later one. All times
# have the same number of digits. Otherwise prints one that is missing.
all_held() {
    local address addresses number time held
    find_addresses
    for address in "${addresses[@]}"; do
        for ((number = 0; number < CLIENTS; number++)); do
            time=$(tail -n 1 "$work/acknowledged-$number")
            held "$address" "client-$number"
            if [[ $held != 'AT '* || ${held##* } < $time ]]; then
                echo "$address: client-$number was acknowledged at $time, held is: $held"
                return 1
            fi
        done
    done
}

# Waits until all of it is held, and prints what is not.
all_held_soon() {
    soon "$EQUAL_SECONDS" all_held >"$work/missing" || {
        tail -n 1 "$work/missing"
        return 1
    }
}

# all_answer WORD CLIENT: every server answers a question for this client with a line that begins so.
all_answer() {
    local address addresses held
    find_addresses
    for address in "${addresses[@]}"; do
        held "$address" "$2"
        [[ $held == "$1 "* ]] || return 1
    done
}

# knows CLIENT: every server knows this client. known_to_none CLIENT: no server does.
knows() { all_answer AT "$1"; }
known_to_none() { all_answer '?' "$1"; }

# report_once CLIENT: a report of a client that reports no more.
report_once() {
    local address addresses socket reply
    find_addresses
    connect "${addresses[0]}"
    echo "IAMAT $1 +1+1 $EPOCHREALTIME" >&"$socket"
    read -r -t 5 -u "$socket" reply
    exec {socket}>&-
    [[ $reply == 'AT '* ]]
}

# --- Recipes -------------------------------------------------------------------------------------

# Sets `recipes` to the headings with a block of commands.
find_recipes() {
    mapfile -t recipes < <(awk '/^## / { heading = substr($0, 4) } /^```sh$/ { print heading }' "$DOCUMENT")
}

# Prints the commands of a recipe, with addresses of this process.
commands() {
    awk -v heading="## $1" '
        /^## / { found = $0 == heading }
        /^```$/ { inside = 0 }
        found && inside
        /^```sh$/ { inside = 1 }
    ' "$DOCUMENT" | with_addresses
}

# The pattern of an address in a command of sed is the address with a backslash before each dot.
with_addresses() {
    sed -e "s/127\.0\.0\.1/$HOME_ADDRESS/g; s/192\.0\.2\.7/$SPARE_ADDRESS/g" \
        -e "s/127\\\\\.0\\\\\.0\\\\\.1/${HOME_ADDRESS//./\\\\.}/g"
}

# follow HEADING: runs the commands of a recipe. They must all succeed.
follow() {
    commands "$1" >"$work/commands"
    [[ -s $work/commands ]] || return
    (cd "$work/home" && timeout "$RECIPE_SECONDS" bash -eu "$work/commands") >"$work/output" 2>&1 </dev/null
}

# at_home COMMAND...: in the directory of the herd.
at_home() {
    (cd "$work/home" && "$@") >"$work/output" 2>&1 </dev/null
}

is_whole() {
    at_home herd status
}

whole_soon() {
    soon "$EQUAL_SECONDS" is_whole || {
        cat "$work/output"
        return 1
    }
}

start_herd() {
    machine "$work/home"
    machine "$work/spare/herd"
    with_addresses <"$root/servers.txt" >"$work/home/servers.txt"
    at_home ./run.sh start --detach && whole_soon >/dev/null
}

stop_herd() {
    "$work/home/run.sh" stop >/dev/null 2>&1
    "$work/spare/herd/run.sh" stop >/dev/null 2>&1
    rm -rf "${work:?}/home" "${work:?}/spare"
}

# Brings about what a recipe is for.
before() {
    case $1 in
        'Replace a lost machine')
            kill -KILL "$(cut -d ' ' -f 1 "$work/home/run/Ball.pid")"
            rm -r "$work/home/data/Ball"
            ;;
        'Restore the herd')
            soon 10 knows old
            follow 'Back up' || return
            report_once new
            ;;
        'Wipe all records') soon 10 knows old ;;
    esac
}

# Checks what a recipe is for, beyond what holds after each.
after() {
    local heading=$1 mode
    case $heading in
        "Change a server's ports") holds "$heading: the new port answers" knows_at "$HOME_ADDRESS:12101" ;;
        'Add a server') holds "$heading: it answers" knows_at "$HOME_ADDRESS:12005" ;;
        'Take a server out')
            same "$heading: four are left" 4 "$(grep -c '^[A-Z]' "$work/home/servers.txt")"
            ;;
        'Move a server'* | 'Replace a lost'*)
            holds "$heading: it answers from there" knows_at "$SPARE_ADDRESS:12001"
            ;;
        'Back up')
            mode=$(stat -c %a "$work/home/ball.tar.gz")
            same "$heading: the file is its owner's" 600 "$mode"
            ;;
        'Restore the herd')
            holds "$heading: what was reported before the backup is there" knows old
            holds "$heading: what was reported after it is not" known_to_none new
            ;;
        'Wipe all records')
            holds "$heading: nothing from before is there" known_to_none old
            ;;
        'Upgrade') holds "$heading: what was known stays" knows old ;;
        *) fail "$heading: tests/recipes.sh has no check for it" ;;
    esac
}

# knows_at ADDRESS: a server answers there and knows a client from before the recipe.
knows_at() {
    local held
    held "$1" old
    [[ $held == 'AT '* ]]
}

# What the document says of wiping servers one after another.
wipe_one_by_one() {
    local name
    report_once kept && soon 10 knows kept
    for name in Alford Ball Hamilton Holiday Welsh; do
        at_home ./run.sh stop "$name" && rm -r "$work/home/data/$name" &&
            at_home ./run.sh start "$name" --detach && whole_soon || return
    done
    knows kept
}

recipe() {
    local heading=$1 since
    since=$(now_us)
    if ! start_herd; then
        fail "$heading: a herd to try it on" "$(cat "$work/output")"
        stop_herd
        return
    fi
    start_clients
    report_once old
    if before "$heading" && follow "$heading"; then
        pass "$heading: its commands ($(seconds_since "$since") s)"
    else
        fail "$heading: its commands" "$(cat "$work/commands" "$work/output")"
    fi
    # What is newer than the backup is meant to be lost, and all of it by a wipe.
    case $heading in
        Restore* | Wipe*) forget_acknowledged ;;
    esac
    after "$heading"
    stop_clients
    holds "$heading: every server has the last acknowledged reports" all_held_soon
    holds "$heading: the herd is whole" whole_soon
    same "$heading: no report is refused" '' "$(cat "$work/refused" 2>/dev/null)"
    if [[ $heading == Wipe* ]]; then
        holds "$heading: one after another would wipe nothing" wipe_one_by_one
    fi
    stop_herd
}

clean_up() {
    : >"$work/end"
    stop_herd
    if ((failed > 0)) && [[ -n ${CHECK_KEEP:-} ]]; then
        echo "kept: $work"
    else
        rm -rf "$work"
    fi
}

main() {
    local recipes clients=()
    trap clean_up EXIT
    trap 'exit 1' INT TERM HUP
    "$root/run.sh" build >/dev/null 2>&1 || die 1 'the build failed'
    write_programs
    find_recipes
    (($# == 0)) || recipes=("$@")
    same 'recipes with commands' true "$( ((${#recipes[@]} > 0)) && echo true)"
    for heading in "${recipes[@]}"; do
        recipe "$heading"
    done
    report_counts
}

main "$@"
exit
