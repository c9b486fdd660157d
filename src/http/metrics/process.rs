//! Figures of the process, named as Prometheus' client libraries name them.

/// Figures of this process at one moment.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Process {
    /// CPU time of all threads.
    pub(super) cpu_seconds: f64,
    /// Resident memory.
    pub(super) resident_bytes: u64,
    /// Virtual memory.
    pub(super) virtual_bytes: u64,
    /// Open descriptors.
    pub(super) open_descriptors: Option<u64>,
    /// Limit on the open descriptors.
    pub(super) max_descriptors: Option<u64>,
    /// Start, in seconds since 1970.
    pub(super) start_seconds: Option<f64>,
}

impl Process {
    /// Reads the figures; `None` where the system does not show them as Linux does.
    #[cfg(not(target_os = "linux"))]
    pub(super) fn read() -> Option<Process> {
        None
    }

    /// Reads the figures; `None` if the system does not show them.
    #[cfg(target_os = "linux")]
    pub(super) fn read() -> Option<Process> {
        use rustix::process::{Resource, getrlimit};

        let stat = std::fs::read_to_string("/proc/self/stat").ok()?;
        let stat = Stat::parse(&stat)?;
        let ticks_per_second = rustix::param::clock_ticks_per_second() as f64;
        let started = stat.started_ticks as f64 / ticks_per_second;
        Some(Process {
            cpu_seconds: stat.cpu_ticks as f64 / ticks_per_second,
            resident_bytes: stat.resident_pages * rustix::param::page_size() as u64,
            virtual_bytes: stat.virtual_bytes,
            open_descriptors: open_descriptors(),
            max_descriptors: getrlimit(Resource::Nofile).current,
            start_seconds: boot_seconds().map(|boot| boot + started),
        })
    }
}

/// Fields of `/proc/self/stat`.
#[cfg(target_os = "linux")]
#[derive(Debug, PartialEq, Eq)]
struct Stat {
    cpu_ticks: u64,
    started_ticks: u64,
    virtual_bytes: u64,
    resident_pages: u64,
}

#[cfg(target_os = "linux")]
impl Stat {
    fn parse(text: &str) -> Option<Stat> {
        // The name of the program, in brackets, may have spaces and brackets.
        let (_, behind_name) = text.rsplit_once(')')?;
        let fields: Vec<&str> = behind_name.split_ascii_whitespace().collect();
        // Fields are counted from 1, and these begin with the third.
        let field = |number: usize| fields.get(number - 3)?.parse::<u64>().ok();
        Some(Stat {
            cpu_ticks: field(14)? + field(15)?,
            started_ticks: field(22)?,
            virtual_bytes: field(23)?,
            resident_pages: field(24)?,
        })
    }
}

/// Returns the number of open descriptors. Linux shows it as the size of the folder since 6.2; before,
/// the entries have to be counted, which takes a millisecond for some thousands.
#[cfg(target_os = "linux")]
fn open_descriptors() -> Option<u64> {
    const FOLDER: &str = "/proc/self/fd";
    match std::fs::metadata(FOLDER).ok()?.len() {
        // The reading takes a descriptor too.
        0 => Some(std::fs::read_dir(FOLDER).ok()?.count().saturating_sub(1) as u64),
        number => Some(number),
    }
}

/// Returns the time of the system's start, in seconds since 1970.
#[cfg(target_os = "linux")]
fn boot_seconds() -> Option<f64> {
    // The file is long on large machines, and the time stays.
    static BOOT: std::sync::OnceLock<Option<f64>> = std::sync::OnceLock::new();
    *BOOT.get_or_init(|| {
        let stat = std::fs::read_to_string("/proc/stat").ok()?;
        let mut lines = stat.lines();
        lines.find_map(|line| line.strip_prefix("btime ")?.trim().parse().ok())
    })
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use std::fs::File;
    use std::time::{SystemTime, UNIX_EPOCH};

    use super::*;

    #[test]
    fn a_name_with_brackets_moves_no_field() {
        let numbers: Vec<_> = (4..=52).map(|number| number.to_string()).collect();
        let text = format!("7 (a ) S (b) R {}", numbers.join(" "));
        let expected = Stat {
            cpu_ticks: 14 + 15,
            started_ticks: 22,
            virtual_bytes: 23,
            resident_pages: 24,
        };
        assert_eq!(Stat::parse(&text), Some(expected));
        assert_eq!(Stat::parse("7 (a) R 1 2"), None);
    }

    #[test]
    fn the_figures_are_those_of_this_process() {
        // Threads of other tests open descriptors too.
        let files: Vec<_> = (0..100)
            .map(|_| File::open("/proc/self/stat").unwrap())
            .collect();
        let process = Process::read().unwrap();
        assert!(process.open_descriptors.unwrap() >= 100, "{process:?}");
        drop(files);
        assert!(process.resident_bytes > 1 << 20, "{process:?}");
        assert!(
            process.virtual_bytes >= process.resident_bytes,
            "{process:?}"
        );
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
        let age = now.as_secs_f64() - process.start_seconds.unwrap();
        assert!((-2.0..3_600.0).contains(&age), "{age}");
    }
}
