# Checks that print a line each and are counted. Sourced by test.sh, tests/shells.sh and
# tests/scenario.sh.
# shellcheck shell=bash

passed=0 failed=0 skipped=0

pass() {
    passed=$((passed + 1))
    printf 'ok    %s\n' "$1"
}

# fail WHAT [DETAIL...]
fail() {
    failed=$((failed + 1))
    printf 'FAIL  %s\n' "$1"
    shift
    (($# == 0)) || printf '%s\n' "$@" | sed 's/^/      /'
}

# skip WHAT REASON
skip() {
    skipped=$((skipped + 1))
    printf 'skip  %s: %s\n' "$1" "$2"
}

# same WHAT EXPECTED ACTUAL
same() {
    if [[ $2 == "$3" ]]; then
        pass "$1"
    else
        fail "$1" "expected: $2" "actual:   $3"
    fi
}

# matches WHAT PATTERN ACTUAL, with an extended regular expression as the pattern.
matches() {
    if [[ $3 =~ $2 ]]; then
        pass "$1"
    else
        fail "$1" "expected to match: $2" "actual: $3"
    fi
}

# holds WHAT COMMAND...: the command succeeds.
holds() {
    local what=$1 output
    shift
    if output=$("$@" 2>&1); then
        pass "$what"
    else
        fail "$what" "failed: $*" ${output:+"$output"}
    fi
}

# soon SECONDS COMMAND...: repeats the command until it succeeds. Fails when the time is over.
soon() {
    local deadline=$((SECONDS + $1 + 1))
    shift
    until "$@"; do
        ((SECONDS < deadline)) || return 1
        sleep 0.02
    done
}

# Writes the counts to the file CHECK_COUNTS if it is set, else prints them. Fails if a check failed.
report_counts() {
    if [[ -n ${CHECK_COUNTS:-} ]]; then
        echo "$passed $failed $skipped" >"$CHECK_COUNTS"
    else
        printf '%d passed, %d failed' "$passed" "$failed"
        ((skipped == 0)) || printf ', %d skipped' "$skipped"
        echo
    fi
    ((failed == 0))
}
