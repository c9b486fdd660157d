#!/usr/bin/env bash
# Runs everything that must pass, from a fresh clone. Prints a line for each check and a summary.
# ./test.sh --help has the rest.

# shellcheck disable=SC2317 # Functions that `step` calls by name look unreachable.
# `sh test.sh` comes here too, and only bash understands the rest.
[ -n "${BASH_VERSION:-}" ] || exec bash "$0" "$@"
set +o posix
set -u
[[ ${BASH_SOURCE[0]} == "$0" ]] || {
    printf 'test.sh: run it, do not source it: ./test.sh\n' >&2
    return 2
}

# A link to this script may be anywhere.
# shellcheck source=tests/tools.sh
source "$(dirname -- "$(readlink -f -- "${BASH_SOURCE[0]}")")/tests/tools.sh"
cd "$root" || exit 1
# shellcheck source=tests/check.sh
source tests/check.sh

usage() {
    cat <<'TEXT'
Usage: ./test.sh [--yes] [PART] [-- FLAG...]

Parts:
  all        format, lints, unit, property and integration tests, transcripts, faults in their short
             form, 200 seeds of the simulation, a story of the page in a browser, docs, the scripts, and the
             libraries for applications (the default)
  quick      all without the scripts
  scenario   only the scripts: run.sh called in unusual ways, and the scenario, a herd started with
             run.sh and driven by real telnet clients
  --faults   only the faults, in their long form: servers killed a hundred times, disks that are full,
             fail or are slow, partitions, slow links, wrong clocks, and malicious clients. Runs one
             test at a time with the optimized program, and prints the measured figures; about
             half an hour on a quiet machine
  --slow     only searches that find more the longer they run: 2,000 seeds of the simulation, more
             orders of threads, and fuzzers on the parsers of commands and of heads of HTTP requests for a
             minute each; and all stories of the page in a browser, of which the others run one

Options:
  --yes       install missing tools (telnet, strace, faketime, nftables, iproute2, Node, Chromium with its
              driver, promtool in target/tools, Rust's tools) without asking; CI=true does the same
  -h, --help  print this text
  -- FLAG...  flags for every `herd serve` of the scenario, such as -- --pool dedicated

A check without its tool or permission is counted as skipped, with the reason.
Exit codes: 0 all checks passed, 1 a check failed, 2 bad usage.
TEXT
}

# Packages that are an async runtime, or the basis of one.
readonly RUNTIMES='tokio|async-std|smol|mio|hyper'

# Seconds that each fuzzer runs.
readonly FUZZ_SECONDS=60

# step WHAT COMMAND...: a check that passes if the command succeeds. Prints its output if it fails.
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

# The number of tests in the output, if it has any.
note() {
    awk '/^test result: ok/ { tests += $4 } END { if (tests) printf "%d tests, ", tests }' "$work/output"
}

# Counts the tests that printed why they did not run.
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
        echo 'async runtime found; cargo tree --invert NAME shows what depends on it'
        return 1
    fi
}

# Programs outside the workspace depend on the herd. With --locked they do not build once it needs a
# crate that their lock files lack.
outer_lock_files() {
    local program
    for program in fuzz bench/variants/tokio bench/variants/echo; do
        cargo update --workspace --locked --manifest-path "$program/Cargo.toml" || return
    done
}

# The docs are for readers of the code, so public items may link to private ones.
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
        # Functions that are called by name look unused to later versions.
        step 'shellcheck' shellcheck --external-sources --exclude=SC2329 run.sh test.sh tests/*.sh .ci/run bench/run.sh
    else
        skip 'shellcheck' 'it is not installed'
    fi
    step 'lock files of the programs outside the workspace' outer_lock_files
    step 'no async runtime in the server' no_runtime
    if need_component clippy clippy; then
        step 'cargo clippy, warnings denied' \
            cargo clippy --workspace --all-targets --locked -- -D warnings
    else
        fail 'cargo clippy' 'clippy is missing'
    fi
    need_fault_tools
    need_browser
    need_promtool
    step 'cargo test: unit, property and integration tests, transcripts, faults, the page' \
        cargo test --workspace --locked --no-fail-fast
    step 'cargo doc, warnings denied' docs
}

# Tools of the fault tests. A test whose tool is missing is skipped.
need_fault_tools() {
    local tool
    for tool in strace faketime nft ip; do
        need_package "$tool" "$tool is missing; some fault tests need it and are skipped" || true
    done
}

# The browser of tests/browser.rs. Its stories are skipped without it.
need_browser() {
    local tool
    for tool in chromium chromedriver; do
        need_package "$tool" "$tool is missing; the tests of the page need it and are skipped" || true
    done
}

# promtool, which checks the text of /metrics. Where it can, it unpacks the program alone: the package
# would start a service. Tests find it in PATH, or by PROMTOOL.
need_promtool() {
    local tool=$root/target/tools/usr/bin/promtool
    local sentence='promtool is missing; the check of the metrics needs it and is skipped'
    have promtool && return 0
    if [[ ! -x $tool ]]; then
        if have apt-get && have dpkg-deb; then
            offer "$sentence" 'apt-get download prometheus, of which promtool is put into target/tools' \
                fetch_promtool || return 0
        else
            need_package promtool "$sentence"
            return 0
        fi
    fi
    export PROMTOOL=$tool
}

fetch_promtool() (
    mkdir -p "$root/target/tools" && cd "$root/target/tools" || exit 1
    if ! apt-get download prometheus; then
        # A new machine has no package lists.
        as_root apt-get update && apt-get download prometheus || exit 1
    fi
    dpkg-deb --fsys-tarfile prometheus_*.deb | tar -x ./usr/bin/promtool
    rm -f prometheus_*.deb
    [[ -x usr/bin/promtool ]]
)

# measured NAME COMMAND...: a test that prints its measured figures, or why it did not run.
measured() {
    local since name=$1
    shift
    [[ ! -t 1 ]] || printf '...   %s\r' "$name"
    since=$(now_us)
    if ! timeout 1800 "$@" >"$work/output" 2>&1 </dev/null; then
        fail "$name" 'failed; its output:'
        sed 's/^/      /' "$work/output"
        return
    fi
    # A test that only printed why it did not run has not passed.
    if grep -qE '(^|\.\.\. )measured: ' "$work/output" || ! grep -qE '(^|\.\.\. )skipped: ' "$work/output"; then
        pass "$name ($(seconds_since "$since") s)"
    fi
    sed -nE 's/^(test .* \.\.\. )?measured: (.*)/      \2/p' "$work/output"
    note_skipped
}

# measure_each TARGET WHAT [NAME=VALUE...] -- FLAG...: runs each test of a test target by itself, optimized,
# with these variables and flags. WHAT names the tests.
measure_each() {
    local target=$1 what=$2 test variables=() failed_before=$failed
    shift 2
    while [[ $1 != -- ]]; do
        variables+=("$1")
        shift
    done
    shift
    step "cargo build: $what, optimized" cargo test --release --locked --test "$target" --no-run
    ((failed == failed_before)) || return
    while IFS= read -r test; do
        measured "${test#"$target"::}" env "${variables[@]}" cargo test --release --locked --test "$target" -- \
            --exact --nocapture --test-threads=1 "$@" "$test"
    done < <(cargo test --release --locked --test "$target" -- --list --format terse 2>/dev/null |
        sed -n 's/: test$//p')
}

faults() {
    need_fault_tools
    measure_each faults 'the fault tests' HERD_FAULTS=long --
}

# Each story of the page in a browser, with an optimized server.
browser() {
    need_browser
    measure_each browser 'the stories of the page' -- --include-ignored
}

# fuzz TARGET WHAT: runs a fuzz target. The sanitizer needs options that only unstable compilers take; the
# variable has a stable one take them.
fuzz() {
    if ! cargo fuzz --version >/dev/null 2>&1; then
        offer 'cargo-fuzz is missing; the fuzzers need it and are skipped' 'cargo install --locked cargo-fuzz' \
            cargo install --locked cargo-fuzz || {
            skip "fuzzing of $2" 'cargo-fuzz is not installed'
            return
        }
    fi
    mkdir "$work/corpus-$1"
    step "fuzzing of $2, $FUZZ_SECONDS s" env RUSTC_BOOTSTRAP=1 \
        cargo fuzz run "$1" "$work/corpus-$1" -- -max_total_time="$FUZZ_SECONDS"
}

# More of the searches that `all` keeps short.
slow() {
    step 'simulation of the rules between servers, 2,000 seeds' \
        env HERD_SEEDS=2000 cargo test --locked --test it -- replication
    step 'interleavings, ten times the orders and the time' \
        env HERD_ORDERS=20000 cargo test --locked --test interleavings
    fuzz command 'the command parser'
    fuzz head 'the head of an HTTP request'
    browser
}

scenario() {
    step './run.sh build' ./run.sh build
    part tests/shells.sh
    if need_package telnet 'telnet is missing; the scenario needs it'; then
        part tests/scenario.sh "${flags[@]}"
    else
        fail 'scenario' 'telnet is missing'
    fi
}

# The libraries of clients/.
libraries() {
    if ! have python3; then
        skip 'libraries' 'python3 is missing'
        return
    fi
    need_package node 'node is missing; the tests of the JavaScript library need it and are skipped' || true
    part tests/libraries.sh
}

# part SCRIPT [FLAG...]: runs checks that print and count themselves.
part() {
    local counts=$work/counts more_passed more_failed more_skipped since
    since=$(now_us)
    rm -f "$counts"
    CHECK_COUNTS=$counts "$@"
    if read -r more_passed more_failed more_skipped 2>/dev/null <"$counts"; then
        passed=$((passed + more_passed))
        failed=$((failed + more_failed))
        skipped=$((skipped + more_skipped))
        echo "      $1 took $(seconds_since "$since") s"
    else
        fail "$1 runs to its end" 'it printed no counts'
    fi
}

run_checks() {
    local part=all flags=() work since code=0
    since=$(now_us)
    [[ -z ${CI:-} ]] || assume_yes=true
    while (($# > 0)); do
        case $1 in
            all | quick | scenario) part=$1 ;;
            --faults | --slow) part=${1#--} ;;
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
    work=$(mktemp -d) || die 1 'cannot make a temporary directory (see TMPDIR)'
    # shellcheck disable=SC2064 # The name is needed now; later the variable is gone.
    trap "rm -rf '$work'" EXIT
    if ! need_toolchain; then
        fail 'a compiler and a Rust toolchain'
    else
        case $part in
            quick) quick ;;
            scenario) scenario ;;
            faults) faults ;;
            slow) slow ;;
            all)
                quick
                scenario
                libraries
                step 'recipes of docs/recipes.md, with clients that report meanwhile' tests/recipes.sh
                ;;
        esac
    fi
    report_counts || code=1
    echo "$(seconds_since "$since") s in all"
    return "$code"
}

run_checks "$@"
exit
