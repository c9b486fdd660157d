#!/usr/bin/env bash
# The whole comparison in one command: sets the variants up, builds, checks every variant against
# the transcripts, measures, draws the charts and writes the record. bench/run.sh --help has the
# rest.

# `sh run.sh` comes here too, and only bash understands the rest.
[ -n "${BASH_VERSION:-}" ] || exec bash "$0" "$@"
set +o posix
set -u

# Where tools are looked for, and how missing ones get installed.
# shellcheck source=tests/tools.sh
source "$(dirname -- "$(readlink -f -- "${BASH_SOURCE[0]}")")/../tests/tools.sh"
cd "$root" || exit 1

usage() {
    cat <<'END'
Usage: bench/run.sh [--quick|--full] [OPTION...]

  --quick          a few minutes: fewer points, shorter rounds
  --full           about half an hour (the default)
  --only LIST      only these scenarios of bench/scenarios, separated by commas
  --variants LIST  only these variants of the herd, separated by commas: herd, herd-dedicated, and the
                   folders of bench/variants
  --out DIR        folder of the record (default: bench/runs/DATE-CORES-cores, and the time if
                   there is one of that name)
  --yes            install what is missing (Rust, interpreters) without asking; so does CI=true
  -h, --help       this text

A variant that can't be set up, or does not pass the transcripts, is left out, and the record says
why. The record: results.csv, charts (*.svg), commands.txt, versions.txt and summary.md.

Measure on a machine that does nothing else. Exit codes: 0 the record is written, 1 it is not, 2 bad usage.
END
}

# What the comparison can't do without.
readonly OWN='herd herd-dedicated'

# wanted NAME: whether the variant is to take part.
wanted() {
    [[ -z $variants || ,$variants, == *,$1,* ]]
}

# Sets all variants up; those that can't be go to the array left_out.
set_up() {
    local folder name output="$work/setup"
    for folder in bench/variants/*/; do
        name=$(basename "$folder")
        # What has no setup is code that variants share.
        if [[ ! -x $folder/setup ]] || ! wanted "$name"; then continue; fi
        echo "setting up $name"
        if ! "$folder/setup" ${setup_flags[@]+"${setup_flags[@]}"} >"$output" 2>&1 </dev/null; then
            complain "$name is left out, its setup failed:"
            tail -n 5 "$output" >&2
            left_out+=(--leave-out "$name=setup failed: $(tail -n 1 "$output")")
        fi
    done
}

# Draws the charts of the record.
charts() {
    local venv=bench/.venv
    if [[ ! -f bench/charts.py ]]; then
        complain "no charts: bench/charts.py is missing"
        return 1
    fi
    if [[ ! -x $venv/bin/python ]]; then
        python3 -m venv "$venv" || return 1
    fi
    "$venv/bin/pip" install --quiet --disable-pip-version-check -r bench/requirements.txt || return
    local code=0
    "$venv/bin/python" bench/charts.py "$out" || code=$?
    # 1 says that there was nothing to draw, and some scenarios have no chart.
    [[ $code -eq 0 || ($code -eq 1 && -n $only) ]]
}

main() {
    local length=--full only='' variants='' out='' name
    local -a left_out=() setup_flags=() flags=()
    [[ -z ${CI:-} ]] || assume_yes=true
    while (($# > 0)); do
        case $1 in
            --quick | --full) length=$1 ;;
            --only | --variants | --out)
                (($# > 1)) || die 2 "$1 needs a value"
                case $1 in
                    --only) only=$2 ;;
                    --variants) variants=$2 ;;
                    --out) out=$2 ;;
                esac
                shift
                ;;
            --yes | -y) assume_yes=true ;;
            -h | --help)
                usage
                return 0
                ;;
            *) die 2 "unknown argument: $1 (see --help)" ;;
        esac
        shift
    done
    for name in ${variants//,/ }; do
        [[ " $OWN " == *" $name "* || -x bench/variants/$name/setup ]] ||
            die 2 "there is no variant $name"
    done
    for name in ${only//,/ }; do
        [[ -f bench/scenarios/$name.toml ]] || die 2 "there is no scenario $name"
        flags+=(--only "$name")
    done
    if [[ -z $out ]]; then
        out=bench/runs/$(date +%F)-$(nproc)-cores
        [[ ! -e $out ]] || out+=-$(date +%H%M)
    fi
    [[ $length == --full ]] || flags+=("$length")
    [[ -z $variants ]] || flags+=(--variants "$variants")
    ! $assume_yes || setup_flags+=(--yes)
    work=$(mktemp -d) || die 1 "no temporary folder"
    trap 'rm -rf "$work"' EXIT

    have python3 || die 1 "python3 is missing: it judges the record and draws the charts"
    need_toolchain || die 1 "the comparison can't be built"
    set_up
    echo "building the herd and its tools"
    # The runner starts the programs from there, and so do the variants.
    export CARGO_TARGET_DIR=$root/target
    cargo build --release --workspace --locked || die 1 "the build failed"
    target/release/herd-bench run --out "$out" ${flags[@]+"${flags[@]}"} \
        ${left_out[@]+"${left_out[@]}"} || die 1 "the run failed"
    charts || die 1 "the figures are in $out, but the charts could not be drawn"
    echo "$out/summary.md has the results"
}

main "$@"
