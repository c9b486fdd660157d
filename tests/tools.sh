# Functions for scripts: messages, time, and tools that are found or installed. Sourced by tests/servers.sh
# (and so run.sh), test.sh, bench/run.sh, tests/shells.sh and tests/scenario.sh.
# shellcheck shell=bash

# What the caller's environment may have set for all shells (SHELLOPTS, BASHOPTS, CDPATH, a function
# in place of a command) must not change what scripts do.
set +o allexport +o errexit +o errtrace +o functrace +o keyword +o noclobber +o noglob +o pipefail
shopt -u dotglob failglob lastpipe localvar_inherit nocaseglob nocasematch nullglob xpg_echo
unset CDPATH GLOBIGNORE
unset -f cd command echo exec kill printf pwd read source test trap wait

# Decimal points and sorting do not depend on the user's language.
export LC_ALL=C

# The repository.
root=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.." >/dev/null && pwd -P)
# The script that sources this file.
program_name=${0##*/}

if ((BASH_VERSINFO[0] < 5)); then
    printf '%s: bash 5 or newer is needed, this is %s\n' "$program_name" "$BASH_VERSION" >&2
    exit 1
fi

# --- Messages and time ---------------------------------------------------------------------------

# Prints a message to standard error.
complain() {
    printf '%s: %s\n' "$program_name" "$*" >&2
}

# True once standard output could not be written.
output_lost=false

# say TEXT...: prints a line to standard output. Where that fails, what the script has begun must be
# brought to its end all the same; the rest of the output is dropped.
say() {
    if ! $output_lost && ! printf '%s\n' "$*" 2>/dev/null; then
        output_lost=true
    fi
}

# Succeeds if standard output is a pipe that has lost its reader.
reader_is_gone() {
    $output_lost && [[ -p /dev/stdout || -S /dev/stdout ]]
}

# die EXIT_CODE TEXT: prints a message and exits.
die() {
    local code=$1
    shift
    complain "$@"
    exit "$code"
}

# The current time in microseconds.
now_us() {
    local now=$EPOCHREALTIME
    echo "${now/./}"
}

# seconds_since START: seconds since a time of now_us, with two decimals.
seconds_since() {
    local hundredths=$((($(now_us) - $1) / 10000))
    printf '%d.%02d' $((hundredths / 100)) $((hundredths % 100))
}

# --- Tools: found, or installed after asking -----------------------------------------------------

# True to install without asking.
assume_yes=false

have() {
    command -v "$1" >/dev/null 2>&1
}

# The command that installs packages on this system, or nothing.
package_command() {
    if have apt-get; then
        echo apt-get install -y
    elif have dnf; then
        echo dnf install -y
    elif have pacman; then
        echo pacman -S --noconfirm
    elif have zypper; then
        echo zypper --non-interactive install
    elif have apk; then
        echo apk add
    fi
}

# package_name TOOL: the name of the package with the tool.
package_name() {
    case "$(package_command) $1" in
        apt-get*' cc') echo build-essential ;;
        pacman*' cc') echo base-devel ;;
        apk*' cc') echo build-base ;;
        *' cc') echo gcc ;;
        pacman*' telnet') echo inetutils ;;
        apk*' telnet') echo inetutils-telnet ;;
        dnf*' faketime' | pacman*' faketime' | apk*' faketime') echo libfaketime ;;
        apt-get*' chromedriver') echo chromium-driver ;;
        pacman*' chromedriver') echo chromium ;;
        apk*' chromedriver') echo chromium-chromedriver ;;
        pacman*' promtool' | apk*' promtool') echo prometheus ;;
        dnf*' promtool' | zypper*' promtool') echo golang-github-prometheus ;;
        dnf*' ip') echo iproute ;;
        *' ip') echo iproute2 ;;
        *' nft') echo nftables ;;
        *' node') echo nodejs ;;
        *) echo "$1" ;;
    esac
}

as_root() {
    if ((EUID == 0)); then
        "$@"
    else
        sudo "$@"
    fi
}

can_be_root() {
    ((EUID == 0)) || have sudo
}

# Asks a yes-or-no question. The answer is yes with --yes, and no without a terminal.
agree() {
    local answer
    if $assume_yes; then
        return 0
    fi
    [[ -t 0 && -t 2 ]] || return 1
    read -r -p "$1 [y/N] " answer || return 1
    [[ $answer == [yY]* ]]
}

# offer SENTENCE HOW [COMMAND...]: prints what is missing and how to install it, and runs the command
# if the user agrees. Fails if nothing was installed.
offer() {
    local sentence=$1 how=$2
    shift 2
    complain "$sentence"
    if (($# == 0)); then
        complain "install it with: $how"
    elif ! agree "Install it now with: $how ?"; then
        complain "install it with: $how (or run this again with --yes)"
    elif "$@"; then
        return 0
    else
        complain "the installation failed: $how"
    fi
    return 1
}

install_packages() {
    local words
    read -ra words < <(package_command)
    if [[ ${words[0]} == apt-get ]]; then
        # A new machine has no package lists. Old lists will do if the update fails.
        as_root apt-get update || true
    fi
    as_root "${words[@]}" "$@"
}

# need_package TOOL SENTENCE: installs a tool with the package manager if it is missing.
need_package() {
    local tool=$1 sentence=$2 how package
    have "$tool" && return 0
    package=$(package_name "$tool")
    how="$(package_command) $package"
    if [[ $how == " $package" ]]; then
        offer "$sentence" "your system's package manager"
    elif can_be_root; then
        offer "$sentence" "$how" install_packages "$package" && have "$tool"
    else
        offer "$sentence" "$how (as root)"
    fi
}

# Succeeds if cargo is installed and at least as new as Cargo.toml requires.
cargo_is_good() {
    local found needed
    needed=$(sed -n 's/^rust-version = "\(.*\)"/\1/p' "$root/Cargo.toml")
    found=$(cd "$root" && cargo --version 2>/dev/null) || return 1
    found=${found#cargo }
    found=${found%%[ -]*}
    [[ $(printf '%s\n%s\n' "$needed" "$found" | sort -V | head -n 1) == "$needed" ]]
}

find_cargo() {
    local bin=${CARGO_HOME:-${HOME:-}/.cargo}/bin
    if ! have cargo && [[ -x $bin/cargo ]]; then
        PATH=$bin:$PATH
    fi
    cargo_is_good
}

install_rustup_package() {
    install_packages rustup && rustup default stable
}

install_rustup_script() {
    local script
    script=$(curl --proto '=https' --tlsv1.2 -sSf https://sh.rustup.rs) || return 1
    sh -s -- -y --profile minimal --component rustfmt,clippy <<<"$script"
}

need_cargo() {
    find_cargo && return 0
    local needed sentence
    needed=$(sed -n 's/^rust-version = "\(.*\)"/\1/p' "$root/Cargo.toml")
    if have cargo && cargo --version >/dev/null 2>&1; then
        sentence="Rust $needed or newer is needed, and this is $(cargo --version)"
    else
        sentence="cargo is missing; Rust $needed or newer is needed"
    fi
    if have rustup; then
        offer "$sentence" "rustup default stable && rustup update stable" \
            eval 'rustup default stable && rustup update stable'
    elif can_be_root && have apt-cache && [[ -n $(apt-cache search --names-only '^rustup$') ]]; then
        offer "$sentence" "apt-get install -y rustup && rustup default stable" \
            install_rustup_package
    elif have curl; then
        offer "$sentence" "curl --proto '=https' --tlsv1.2 -sSf https://sh.rustup.rs | sh" \
            install_rustup_script
    else
        offer "$sentence" "rustup, see https://rustup.rs"
    fi && find_cargo
}

# Finds or installs everything that builds the program.
need_toolchain() {
    need_package cc "a C compiler is missing; it links the program" && need_cargo
}

# --- Processes -----------------------------------------------------------------------------------

# Sets `parent` to the parent of a process and `started` to its start time, in ticks since boot.
# Fails if it has ended.
# shellcheck disable=SC2034 # The caller reads them.
find_process() {
    local stat fields
    parent='' started=''
    read -r stat 2>/dev/null <"/proc/$1/stat" || return 1
    # The command's name, in parentheses, may contain anything.
    read -ra fields <<<"${stat##*) }"
    [[ ${fields[0]} != [ZX] ]] || return 1
    parent=${fields[1]} started=${fields[19]}
}
