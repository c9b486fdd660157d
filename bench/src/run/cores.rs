//! Division of the cores among the load generator and the servers.
//!
//! The generator stands for clients on machines of their own, so it has a core of its own, and
//! servers have all others. Where both may run on all, the scheduler puts a server's threads beside the
//! generator in one process and not in the next, for as long as that lives: on two cores the same
//! server then takes 0.75 or 1.4 million requests a second. A scenario may let them share all cores: where
//! servers wait for each other, or where it is their use of more than one that is looked at.

use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

/// The cores that this program may use, and how they are divided.
#[derive(Clone, Debug)]
pub(crate) struct Cores {
    /// Numbers, from the lowest; the last is the generator's. With one alone they share it.
    all: Vec<usize>,
}

impl Cores {
    /// Those that the calling thread may use. The error is the system's.
    pub(crate) fn find() -> Result<Cores, String> {
        let allowed =
            sched_getaffinity(None).map_err(|error| format!("the allowed cores: {error}"))?;
        let all = (0..CpuSet::MAX_CPU).filter(|core| allowed.is_set(*core));
        Ok(Cores { all: all.collect() })
    }

    /// The generator's core and the servers'; `None` if there is but one.
    fn divided(&self) -> Option<(usize, &[usize])> {
        let (generator, servers) = self.all.split_last()?;
        (!servers.is_empty()).then_some((*generator, servers))
    }

    /// Puts the calling thread, and the threads that it will start, on the generator's core; or lets
    /// it run on all again. The error is the system's.
    pub(crate) fn keep_apart(&self, apart: bool) -> Result<(), String> {
        let mut own = CpuSet::new();
        match self.divided() {
            Some((generator, _)) if apart => own.set(generator),
            _ => self.all.iter().for_each(|core| own.set(*core)),
        }
        sched_setaffinity(None, &own).map_err(|error| format!("can't choose a core: {error}"))
    }

    /// Start of the command of a server that is kept apart from the generator.
    pub(crate) fn prefix(&self) -> Vec<String> {
        let Some((_, servers)) = self.divided() else {
            return Vec::new();
        };
        vec!["taskset".to_owned(), "-c".to_owned(), list(servers)]
    }

    /// The division in words.
    pub(crate) fn describe(&self) -> String {
        match self.divided() {
            Some((generator, servers)) => {
                let servers = list(servers);
                format!(
                    "{generator} for the load generator, {servers} for servers; in some scenarios all share all"
                )
            }
            None => "one, shared by the load generator and servers".to_owned(),
        }
    }
}

fn list(cores: &[usize]) -> String {
    let cores: Vec<String> = cores.iter().map(usize::to_string).collect();
    cores.join(",")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_core_is_the_generators() {
        let cores = Cores { all: vec![0, 2, 5] };
        assert_eq!(cores.prefix(), ["taskset", "-c", "0,2"]);
        assert_eq!(
            cores.describe(),
            "5 for the load generator, 0,2 for servers; in some scenarios all share all"
        );
    }

    #[test]
    fn a_single_core_is_shared() {
        let cores = Cores { all: vec![3] };
        assert!(cores.prefix().is_empty());
        assert!(cores.describe().starts_with("one, shared"));
    }

    #[test]
    fn the_generator_goes_to_its_core_and_back() {
        // In a thread of its own, which keeps what it is given.
        let threads = || {
            let cores = Cores::find().expect("cores");
            let started = || {
                let set = std::thread::spawn(|| sched_getaffinity(None)).join();
                set.expect("no panic").expect("affinity").count()
            };
            cores.keep_apart(true).expect("a core");
            assert_eq!(started(), 1);
            cores.keep_apart(false).expect("all cores");
            assert_eq!(started() as usize, cores.all.len());
        };
        std::thread::spawn(threads).join().expect("no panic");
    }
}
