//! The kernel's account of what a thread is doing.

use std::path::{Path, PathBuf};

/// State of a thread as the kernel sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    /// It has a processor, or waits for one.
    Running,
    /// It waits for a lock, a channel or a condition.
    Blocked,
    /// It sleeps for a time of its own choosing.
    Asleep,
    /// It is in a system call on disk or network, or waits for a page of a file.
    InCall,
    /// The kernel does not say.
    Unknown,
}

/// Numbers of system calls, on the processors for which they are known here.
#[cfg(target_arch = "x86_64")]
mod number {
    pub(super) const BLOCKS: &[i64] = &[202, 449, 455];
    pub(super) const SLEEPS: &[i64] = &[24, 35, 230];
}
#[cfg(any(target_arch = "aarch64", target_arch = "riscv64"))]
mod number {
    pub(super) const BLOCKS: &[i64] = &[98, 449, 455];
    pub(super) const SLEEPS: &[i64] = &[101, 115, 124];
}
#[cfg(not(any(
    target_arch = "x86_64",
    target_arch = "aarch64",
    target_arch = "riscv64"
)))]
mod number {
    pub(super) const BLOCKS: &[i64] = &[];
    pub(super) const SLEEPS: &[i64] = &[];
}

/// Returns the file that tells the calling thread's state. `None` without a `/proc`.
pub(super) fn own_file() -> Option<PathBuf> {
    if number::BLOCKS.is_empty() || !cfg!(target_os = "linux") {
        return None;
    }
    let proc = Path::new("/proc");
    // Its target names the thread as whoever mounted `/proc` numbers it.
    let own = std::fs::read_link(proc.join("thread-self")).ok()?;
    Some(proc.join(own).join("syscall"))
}

/// Reads the state of the thread that has this file.
pub(super) fn state(file: &Path) -> State {
    std::fs::read_to_string(file).map_or(State::Unknown, |text| parse(&text))
}

fn parse(text: &str) -> State {
    let Some(word) = text.split_ascii_whitespace().next() else {
        return State::Unknown;
    };
    match word.parse() {
        _ if word == "running" => State::Running,
        Ok(call) if number::BLOCKS.contains(&call) => State::Blocked,
        Ok(call) if number::SLEEPS.contains(&call) => State::Asleep,
        // -1 is a thread that is held outside of any call: by a page fault.
        Ok(_) => State::InCall,
        Err(_) => State::Unknown,
    }
}

#[cfg(test)]
#[cfg(all(target_os = "linux", target_arch = "x86_64"))]
mod tests {
    use super::*;

    #[test]
    fn the_words_of_the_kernel_are_understood() {
        for (text, state) in [
            ("running\n", State::Running),
            (
                "202 0x7f32 0x80 0x0 0x0 0x0 0x1 0x7ffd 0x7f32\n",
                State::Blocked,
            ),
            (
                "230 0x1 0x1 0x7f32 0x0 0x0 0x1 0x7ffd 0x7f32\n",
                State::Asleep,
            ),
            ("74 0x5 0x0 0x0 0x0 0x0 0x0 0x7ffd 0x7f32\n", State::InCall),
            ("-1 0x7ffd 0x7f32\n", State::InCall),
            ("", State::Unknown),
            ("a word\n", State::Unknown),
        ] {
            assert_eq!(parse(text), state, "{text}");
        }
    }
}
