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
Usage: ./test.sh [--yes] [all|quick|scenario|--faults] [-- FLAG...]

all        format, lints, unit and property tests, transcripts, faults in their short form, docs,
           and the scenario (the default)
quick      the same without the scenario
scenario   only the scenario: a herd started with run.sh and driven by real telnet clients
--faults   only the faults, in their long form: servers killed a hundred times, disks that are full,
           fail and crawl, partitions, slow links, wrong clocks, and clients that mean no good. One
           test at a time, with the optimized program, and a line for what each measured; takes
           about a quarter of an hour on a quiet machine

  --yes       install what is missing (telnet, strace, faketime, nftables, iproute2, Rust's tools)
              without asking; so does CI=true
  -h, --help  this text
  -- FLAG...  flags for every `herd serve` of the scenario, such as -- --pool dedicated

A test that needs a right or a tool that is not there is counted as skipped, with the reason.
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
        note_skipped
    else
        fail "$what" "failed: $*"
        sed 's/^/      /' "$work/output"
    fi
}

# How many tests have run, where cargo says so.
note() {
    awk '/^test result: ok/ { tests += $4 } END { if (tests) printf "%d tests, ", tests }' "$work/output"
}

# Counts the tests that said why they have not run.
note_skipped() {
    local what why
    while IFS= read -r what; do
        why=${what#*: }
        skip "${what%%: *}" "$why"
    done < <(sed -n 's/^\(test .* \.\.\. \)\{0,1\}skipped: //p' "$work/output")
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

# Programs outside the workspace build on the herd, and with --locked not at all once it needs a crate
# that their lock files lack.
locks_apart() {
    local program
    for program in fuzz bench/variants/tokio bench/variants/echo; do
        cargo update --workspace --locked --manifest-path "$program/Cargo.toml" || return
    done
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
        step 'shellcheck' shellcheck --external-sources run.sh test.sh tests/*.sh .ci/run bench/run.sh
    else
        skip 'shellcheck' 'it is not installed'
    fi
    step 'lock files of the programs apart are current' locks_apart
    step 'no async runtime in the server' no_runtime
    if need_component clippy clippy; then
        step 'cargo clippy, warnings denied' \
            cargo clippy --workspace --all-targets --locked -- -D warnings
    else
        fail 'cargo clippy' 'clippy is missing'
    fi
    need_fault_tools
    step 'cargo test: unit tests, property tests, transcripts, faults' \
        cargo test --workspace --locked --no-fail-fast
    step 'cargo doc, warnings denied' docs
}

# What the fault tests break things with. Without one of these, those that need it are skipped.
need_fault_tools() {
    local tool
    for tool in strace faketime nft ip; do
        need_package "$tool" "some fault tests need $tool, and are skipped without it" || true
    done
}

# fault NAME: one test of tests/faults.rs in its long form, with what it measured.
fault() {
    local since
    [[ ! -t 1 ]] || printf '...   %s\r' "$1"
    since=$(now_us)
    if ! HERD_FAULTS=long timeout 1800 cargo test --release --locked --test faults -- \
        --exact --nocapture --test-threads=1 "$1" >"$work/output" 2>&1 </dev/null; then
        fail "$1" 'failed; what it said:'
        sed 's/^/      /' "$work/output"
        return
    fi
    # One that only said why it has not run has not passed.
    if grep -qE '(^|\.\.\. )row ' "$work/output" || ! grep -qE '(^|\.\.\. )skipped: ' "$work/output"; then
        pass "$1 ($(seconds_since "$since") s)"
    fi
    sed -nE 's/^(test .* \.\.\. )?(row .*)/      \2/p' "$work/output"
    note_skipped
}

faults() {
    local test failed_before=$failed
    need_fault_tools
    step 'cargo build: the fault tests, optimized' \
        cargo test --release --locked --test faults --no-run
    ((failed == failed_before)) || return
    while IFS= read -r test; do
        fault "$test"
    done < <(cargo test --release --locked --test faults -- --list --format terse 2>/dev/null |
        sed -n 's/: test$//p')
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
            --faults) part=faults ;;
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
        case $part in
            quick) quick ;;
            scenario) scenario ;;
            faults) faults ;;
            all)
                quick
                scenario
                ;;
        esac
    fi
    report_counts
}

run_checks "$@"
exit
