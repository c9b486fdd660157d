#!/usr/bin/env bash
# Everything that must pass, in one command, from a fresh clone. A line for each check; the last
# line counts them. ./test.sh --help tells the rest.

# shellcheck disable=SC2317 # Functions that `step` calls by name look unreachable.
set -u

# Where tools are looked for, and how missing ones get installed.
# shellcheck source=run.sh
source "$(dirname "${BASH_SOURCE[0]}")/run.sh"
cd "$root" || exit 1
# shellcheck source=tests/check.sh
source tests/check.sh

usage() {
    cat <<'END'
Usage: ./test.sh [--yes] [all|quick|scenario] [-- FLAG...]

all        format, lints, unit and property tests, transcripts, docs, and the scenario (the default)
quick      the same without the scenario
scenario   only the scenario: a herd started with run.sh and driven by real telnet clients

  --yes       install what is missing (telnet, Rust's tools) without asking; so does CI=true
  -h, --help  this text
  -- FLAG...  flags for every `herd serve` of the scenario, such as -- --pool seats

Exit codes: 0 all passed, 1 a check failed, 2 bad usage.
END
}

# Names of packages that bring an async runtime, or are one's foundation.
readonly RUNTIMES='tokio|async-std|smol|mio|hyper'

# step WHAT COMMAND...: a check that passes if the command does; what it said is shown if not.
# With a `note` function, that adds to the line what it finds in the output.
step() {
    local what=$1 since
    shift
    [[ ! -t 1 ]] || printf '...   %s\r' "$what"
    since=$(now_us)
    if "$@" >"$work/output" 2>&1 </dev/null; then
        pass "$what ($(note)$(seconds_since "$since") s)"
    else
        fail "$what" "failed: $*"
        sed 's/^/      /' "$work/output"
    fi
}

# How many tests have run, where cargo says so.
note() {
    awk '/^test result: ok/ { tests += $4 } END { if (tests) printf "%d tests, ", tests }' "$work/output"
}

has_component() {
    cargo "$1" --version >/dev/null 2>&1
}

# need_component COMMAND COMPONENT
need_component() {
    has_component "$1" && return 0
    if have rustup; then
        offer "cargo $1 is missing" "rustup component add $2" rustup component add "$2" &&
            has_component "$1"
    else
        offer "cargo $1 is missing" "your system's package manager, or rustup component add $2"
    fi
}

no_runtime() {
    local tree
    tree=$(cargo tree --package herd --edges normal --locked --prefix none) || return 1
    if grep -E "^($RUNTIMES) " <<<"$tree"; then
        echo 'these bring an async runtime; cargo tree --invert NAME tells who asks for them'
        return 1
    fi
}

# The docs are for those who work on the code, so public items may link to private ones.
docs() {
    RUSTDOCFLAGS='-D warnings -A rustdoc::private_intra_doc_links' cargo doc --workspace --no-deps --locked --document-private-items
}

quick() {
    if need_component fmt rustfmt; then
        step 'cargo fmt --check' cargo fmt --all --check
    else
        fail 'cargo fmt --check' 'rustfmt is missing'
    fi
    if have shellcheck; then
        step 'shellcheck' shellcheck --external-sources run.sh test.sh tests/*.sh .ci/run
    else
        skip 'shellcheck' 'it is not installed'
    fi
    step 'no async runtime in the server' no_runtime
    if need_component clippy clippy; then
        step 'cargo clippy, warnings denied' \
            cargo clippy --workspace --all-targets --locked -- -D warnings
    else
        fail 'cargo clippy' 'clippy is missing'
    fi
    step 'cargo test: unit tests, property tests, transcripts' \
        cargo test --workspace --locked --no-fail-fast
    step 'cargo doc, warnings denied' docs
}

scenario() {
    if ! need_package telnet 'the scenario needs a telnet client'; then
        fail 'scenario' 'telnet is missing'
        return
    fi
    step './run.sh build' ./run.sh build
    local counts=$work/counts more_passed more_failed more_skipped
    CHECK_COUNTS=$counts tests/scenario.sh "${flags[@]}"
    if read -r more_passed more_failed more_skipped 2>/dev/null <"$counts"; then
        passed=$((passed + more_passed))
        failed=$((failed + more_failed))
        skipped=$((skipped + more_skipped))
    else
        fail 'the scenario runs to its end'
    fi
}

run_checks() {
    local part=all flags=() work
    [[ -z ${CI:-} ]] || assume_yes=true
    while (($# > 0)); do
        case $1 in
            all | quick | scenario) part=$1 ;;
            --yes | -y) assume_yes=true ;;
            --help | -h)
                usage
                return
                ;;
            --)
                shift
                flags=("$@")
                break
                ;;
            *) die 2 "there is no part or option $1; see ./test.sh --help" ;;
        esac
        shift
    done
    work=$(mktemp -d)
    # shellcheck disable=SC2064 # The name is needed now; later the variable is gone.
    trap "rm -rf '$work'" EXIT
    if ! need_toolchain; then
        fail 'the tools to build with are there'
    else
        [[ $part == scenario ]] || quick
        [[ $part == quick ]] || scenario
    fi
    report_counts
}

run_checks "$@"
exit
