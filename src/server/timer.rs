//! One thread that runs all periodic jobs of a server.
//!
//! Jobs are registered by name when the server is wired. They run one after another, so a job must
//! be short: what may take longer than [`COARSE_STEP`], as compaction does, has a thread of its own.

use std::io;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use log::debug;

use crate::model::time::COARSE_STEP;
use crate::thread::{self, Stop, Stopper};

/// A job that is run at an interval.
pub(super) struct Job {
    name: &'static str,
    interval: Duration,
    run: Box<dyn FnMut(Duration) + Send>,
}

impl Job {
    /// Describes a job. `run` is given the time since the timer started; `interval` is rounded up
    /// to a multiple of [`COARSE_STEP`].
    pub(super) fn new(
        name: &'static str,
        interval: Duration,
        run: impl FnMut(Duration) + Send + 'static,
    ) -> Job {
        Job {
            name,
            interval,
            run: Box::new(run),
        }
    }
}

/// The timer's thread.
#[derive(Debug)]
pub(super) struct Timer {
    stopper: Stopper,
    thread: JoinHandle<()>,
}

impl Timer {
    /// Starts the thread; each job runs for the first time after its interval.
    pub(super) fn start(jobs: Vec<Job>) -> io::Result<Timer> {
        let (stopper, stop) = thread::stop_pair();
        let thread = thread::spawn("timer", move || run(jobs, &stop))?;
        Ok(Timer { stopper, thread })
    }

    /// Ends and joins the thread.
    pub(super) fn stop(self) {
        self.stopper.stop();
        let _ = self.thread.join();
    }
}

fn run(jobs: Vec<Job>, stop: &Stop) {
    let start = Instant::now();
    let mut jobs: Vec<(Duration, Job)> = jobs.into_iter().map(|job| (job.interval, job)).collect();
    while !stop.wait(COARSE_STEP) {
        let elapsed = start.elapsed();
        for (due, job) in &mut jobs {
            if elapsed < *due {
                continue;
            }
            *due = elapsed + job.interval;
            let begun = Instant::now();
            (job.run)(elapsed);
            let took = begun.elapsed();
            if took > COARSE_STEP {
                debug!("timer job {} took {} ms", job.name, took.as_millis());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crossbeam_channel::unbounded;

    #[test]
    fn jobs_run_at_their_intervals_in_the_order_registered() {
        let (sender, ran) = unbounded();
        let job = |name, steps: u32| {
            let sender = sender.clone();
            Job::new(name, COARSE_STEP * steps, move |elapsed| {
                sender.send((name, elapsed)).expect("the test listens");
            })
        };
        let timer = Timer::start(vec![job("rare", 2), job("often", 1)]).expect("a thread");
        let ran: Vec<(&str, Duration)> = ran.iter().take(5).collect();
        timer.stop();
        let names: Vec<&str> = ran.iter().map(|(name, _)| *name).collect();
        assert_eq!(names, ["often", "rare", "often", "often", "rare"]);
        assert!(ran[1].1 >= COARSE_STEP * 2 && ran[1].1 == ran[2].1);
        assert!(ran[4].1 >= ran[1].1 + COARSE_STEP * 2);
    }
}
