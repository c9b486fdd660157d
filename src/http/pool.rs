//! The fixed pool that computes answers.

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::thread::JoinHandle;

use crossbeam_channel::{Receiver, Sender, TrySendError, bounded};
use log::error;

use super::door::{MAX_CONNECTIONS, Reply};
use super::head::Request;
use super::response::Response;
use crate::thread;

/// Number of threads: an answer takes at most a few milliseconds.
pub(super) const THREADS: usize = 2;

/// A request, and the way back to its connection.
type Job = (Request, Reply);

/// The threads.
#[derive(Debug)]
pub(super) struct Pool {
    jobs: Sender<Job>,
    threads: Vec<JoinHandle<()>>,
}

/// A way to bring requests.
#[derive(Clone, Debug)]
pub(super) struct Jobs(Sender<Job>);

impl Jobs {
    /// Queues a request, or returns the answer that it has to wait.
    pub(super) fn push(&self, request: Request, reply: Reply) -> Result<(), Response> {
        match self.0.try_send((request, reply)) {
            Ok(()) => Ok(()),
            Err(TrySendError::Full(_) | TrySendError::Disconnected(_)) => {
                Err(Response::unavailable("too many requests wait"))
            }
        }
    }
}

impl Pool {
    /// Starts the threads, which answer by `answer`. A panic in it costs that request alone.
    pub(super) fn start(
        answer: impl Fn(&Request, Reply) + Clone + Send + 'static,
    ) -> io::Result<Pool> {
        let (jobs, queue) = bounded(MAX_CONNECTIONS);
        let mut pool = Pool {
            jobs,
            threads: Vec::with_capacity(THREADS),
        };
        for index in 0..THREADS {
            let (queue, answer): (Receiver<Job>, _) = (queue.clone(), answer.clone());
            let run = move || {
                super::yield_to_clients();
                while let Ok((request, reply)) = thread::waiting(|| queue.recv()) {
                    let answered = catch_unwind(AssertUnwindSafe(|| answer(&request, reply)));
                    if let Err(panic) = answered {
                        let reason = thread::message(&*panic);
                        error!(
                            "internal error: the answer to {} has panicked: {reason}",
                            request.path
                        );
                    }
                }
            };
            pool.threads
                .push(thread::spawn(format!("http-{index}"), run)?);
        }
        Ok(pool)
    }

    /// Returns a way to bring requests.
    pub(super) fn jobs(&self) -> Jobs {
        Jobs(self.jobs.clone())
    }

    /// Answers what is queued, and joins the threads. All [`Jobs`] must be gone.
    pub(super) fn stop(self) {
        drop(self.jobs);
        for thread in self.threads {
            let _ = thread.join();
        }
    }
}
