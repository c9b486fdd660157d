# Checks that print a line each, and are counted. Sourced by test.sh and tests/scenario.sh.
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

# skip WHAT WHY
skip() {
    skipped=$((skipped + 1))
    printf 'skip  %s: %s\n' "$1" "$2"
}

# same WHAT EXPECTED GOT
same() {
    if [[ $2 == "$3" ]]; then
        pass "$1"
    else
        fail "$1" "expected: $2" "got:      $3"
    fi
}

# matches WHAT PATTERN GOT, the pattern being an extended regular expression.
matches() {
    if [[ $3 =~ $2 ]]; then
        pass "$1"
    else
        fail "$1" "expected to match: $2" "got: $3"
    fi
}

# holds WHAT COMMAND...
holds() {
    local what=$1 said
    shift
    if said=$("$@" 2>&1); then
        pass "$what"
    else
        fail "$what" "failed: $*" ${said:+"$said"}
    fi
}

# soon SECONDS COMMAND...: whether the command succeeds before the time is over.
soon() {
    local deadline=$((SECONDS + $1 + 1))
    shift
    until "$@"; do
        ((SECONDS < deadline)) || return 1
        sleep 0.02
    done
}

# Hands the counts to whoever asked for them with CHECK_COUNTS=FILE, or prints them. Fails if a
# check did.
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
