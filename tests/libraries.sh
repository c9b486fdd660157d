#!/usr/bin/env bash
# Tests the libraries of clients/: each against servers that follow a script and against a herd of which servers
# are killed and started again, and its example. Uses a temporary directory and loopback addresses of its own.

# shellcheck disable=SC2317 # Functions that `holds` calls by name look unreachable.
set -u

# shellcheck source=tests/tools.sh
source "$(dirname "${BASH_SOURCE[0]}")/tools.sh"
# shellcheck source=tests/check.sh
source "$root/tests/check.sh"

# Time limit for the tests of a library, and for its example.
readonly TEST_SECONDS=120
readonly EXAMPLE_SECONDS=20

work=$(mktemp -d)
# Addresses that no other test of this machine uses.
readonly ADDRESS=127.$((32 | $$ >> 16 & 31)).$(($$ >> 8 & 255)).$(($$ & 255))

clean_up() {
    "$work/run.sh" stop >/dev/null 2>&1
    rm -rf "$work"
}

start_herd() {
    sed "s/127\.0\.0\.1/$ADDRESS/g" "$root/servers.txt" >"$work/servers.txt"
    cat >"$work/run.sh" <<SCRIPT
#!/usr/bin/env bash
exec '$root/run.sh' "\$@" --state-dir '$work/run' --servers '$work/servers.txt' --log-dir '$work/logs' --data-dir '$work/data'
SCRIPT
    chmod +x "$work/run.sh"
    "$work/run.sh" start --detach
}

# with_herd COMMAND...: with the variables by which the tests find the herd.
with_herd() {
    HERD_SERVERS=${addresses[*]} HERD_STATE=$work/run HERD_RUN=$work/run.sh "$@"
}

test_python() {
    (cd "$root/clients/python" && with_herd timeout "$TEST_SECONDS" python3 -B -W error -m unittest test_herd)
}

test_js() {
    (cd "$root/clients/js" && with_herd timeout "$TEST_SECONDS" node --test herd.test.js)
}

# example COMMAND...: an example passes every step of its story.
example() {
    local words
    timeout "$EXAMPLE_SECONDS" "$@" "${addresses[@]}" >"$work/output" 2>&1 || {
        cat "$work/output"
        return 1
    }
    words=$(awk '/^[a-z]|^UNKNOWN/ { printf "%s ", $1 }' "$work/output")
    [[ $words == 'settled enter move leave UNKNOWN ' ]] || {
        cat "$work/output"
        return 1
    }
}

main() {
    local addresses
    trap clean_up EXIT
    trap 'exit 1' INT TERM HUP
    mapfile -t addresses < <(awk -v address="$ADDRESS" '!/^ *#/ && NF { sub(/.*:/, address ":", $2); print $2 }' "$root/servers.txt")
    holds 'libraries: a herd to try them on' start_herd
    if ((failed > 0)); then
        report_counts
        return
    fi
    holds 'Python library: unit tests, and a herd whose servers are killed' test_python
    holds 'Python library: example' example python3 -B "$root/clients/python/example.py"
    if ! have node; then
        skip 'JavaScript library' 'node is missing'
    elif ! node -e 'process.exit(parseInt(process.versions.node) < 18 ? 1 : 0)'; then
        skip 'JavaScript library' "it needs Node 18 or newer, this is $(node --version)"
    else
        holds 'JavaScript library: unit tests, and a herd whose servers are killed' test_js
        holds 'JavaScript library: example' example node "$root/clients/js/example.js"
    fi
    report_counts
}

main "$@"
exit
