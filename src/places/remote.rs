//! What is around a provider that goes over the network, so that it holds nobody up.
//!
//! A fixed pool of threads of its own makes the calls. Whoever asks leaves a callback and goes
//! on: no session worker waits for an upstream. The queue is bounded, the time of a request is
//! counted from when it was asked, equal requests in flight share one call, and a provider that
//! keeps failing is left alone for a while.

use std::collections::HashMap;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, bounded};
use log::{debug, warn};
use parking_lot::Mutex;

use super::answer::{PlacesStatus, write_failure};
use super::breaker::{Breaker, CallRate};
use super::cache::Cache;
use super::failure::Failure;
use super::upstream::{Request, Upstream};

/// Requests that wait for a thread; past this they are answered `OVER_QUERY_LIMIT` at once.
const QUEUE_REQUESTS: usize = 1_024;

/// From a request to its answer at the latest, time in the queue counted.
const TIMEOUT: Duration = Duration::from_secs(3);

/// How long an answer is given again, where the provider's terms allow it.
const CACHE_TIME: Duration = Duration::from_secs(3_600);

/// Takes the JSON text that answers a request; called once, on any thread.
pub type Answered = Box<dyn FnOnce(&[u8]) + Send>;

/// Threads that make calls, unless told otherwise.
pub const DEFAULT_PLACES_WORKERS: usize = 8;

/// Most threads that make calls.
pub const MAX_PLACES_WORKERS: usize = 256;

/// How a provider is called.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// Threads that make calls, and so calls at a time.
    pub workers: usize,
    /// Calls in a minute at most; `None` for no cap.
    pub calls_per_minute: Option<u32>,
}

#[derive(Debug)]
struct Job {
    request: Request,
    deadline: Instant,
}

struct Shared {
    upstream: Box<dyn Upstream>,
    /// Who waits for the answer to a request that is in the queue or with a thread.
    flights: Mutex<HashMap<Request, Vec<Answered>>>,
    breaker: Mutex<Breaker>,
    rate: Option<Mutex<CallRate>>,
    cache: Option<Mutex<Cache>>,
}

/// A provider over the network, with its threads.
pub struct Remote {
    shared: Arc<Shared>,
    /// Gone once the server stops.
    queue: Mutex<Option<Sender<Job>>>,
    workers: Mutex<Vec<JoinHandle<()>>>,
}

impl std::fmt::Debug for Remote {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Remote").finish_non_exhaustive()
    }
}

impl Remote {
    /// Makes the threads.
    pub fn start(upstream: Box<dyn Upstream>, settings: Settings) -> io::Result<Arc<Remote>> {
        let now = Instant::now();
        let cache = upstream
            .may_cache()
            .then(|| Mutex::new(Cache::new(CACHE_TIME)));
        let shared = Arc::new(Shared {
            upstream,
            flights: Mutex::default(),
            breaker: Mutex::default(),
            rate: settings
                .calls_per_minute
                .map(|calls| Mutex::new(CallRate::new(calls, now))),
            cache,
        });
        let (queue, jobs) = bounded(QUEUE_REQUESTS);
        let remote = Remote {
            shared,
            queue: Mutex::new(Some(queue)),
            workers: Mutex::default(),
        };
        for worker in 0..settings.workers {
            let (shared, jobs) = (Arc::clone(&remote.shared), jobs.clone());
            let thread = std::thread::Builder::new()
                .name(format!("places-{worker}"))
                // TLS and JSON go deeper than the server's own code.
                .stack_size(4 * crate::thread::STACK_BYTES)
                .spawn(move || shared.work(&jobs))
                .inspect_err(|_| remote.stop())?;
            remote.workers.lock().push(thread);
        }
        Ok(Arc::new(remote))
    }

    /// Sees to it that `answered` is called: at once, or when the provider has answered, and
    /// within [`TIMEOUT`] in any case.
    pub fn ask(&self, request: Request, answered: Answered) {
        if let Some(cache) = &self.shared.cache {
            let cached = cache.lock().get(&request, Instant::now());
            if let Some(answer) = cached {
                return answered(&answer);
            }
        }
        {
            let mut flights = self.shared.flights.lock();
            if let Some(waiting) = flights.get_mut(&request) {
                return waiting.push(answered);
            }
            flights.insert(request.clone(), vec![answered]);
        }
        let job = Job {
            request: request.clone(),
            deadline: Instant::now() + TIMEOUT,
        };
        let queue = self.queue.lock();
        let refused = match &*queue {
            Some(queue) => queue.try_send(job).is_err().then_some((
                PlacesStatus::OverQueryLimit,
                "Too many searches wait for the places provider. Try again in a moment.".to_owned(),
            )),
            None => Some((Failure::Stopped.status(), Failure::Stopped.message())),
        };
        drop(queue);
        if let Some((status, message)) = refused {
            self.shared.land(&request, &failure(status, &message));
        }
    }

    /// Cuts the calls in flight, answers who waits, and ends the threads.
    pub fn stop(&self) {
        self.queue.lock().take();
        self.shared.upstream.cut();
        let workers = std::mem::take(&mut *self.workers.lock());
        for worker in workers {
            let _ = worker.join();
        }
    }
}

impl Shared {
    fn work(&self, jobs: &Receiver<Job>) {
        for job in jobs {
            let call = || self.answer(&job.request, job.deadline);
            // Whatever a provider's answer does to our code, those who wait hear of it.
            let answer = catch_unwind(AssertUnwindSafe(call)).unwrap_or_else(|_| {
                failed(&Failure::Garbage("this server has a fault in handling it"))
            });
            self.land(&job.request, &answer);
        }
    }

    /// Hands the answer to all who wait for it.
    fn land(&self, request: &Request, answer: &[u8]) {
        let waiting = self.flights.lock().remove(request);
        for answered in waiting.into_iter().flatten() {
            answered(answer);
        }
    }

    fn answer(&self, request: &Request, deadline: Instant) -> Vec<u8> {
        let now = Instant::now();
        let left = deadline.saturating_duration_since(now);
        if left.is_zero() {
            return failed(&Failure::Timeout);
        }
        if self
            .rate
            .as_ref()
            .is_some_and(|rate| !rate.lock().take(now))
        {
            return failure(
                PlacesStatus::OverQueryLimit,
                "This server has made as many places calls as it may in a minute. Try again in a minute, or raise --places-calls-per-minute.",
            );
        }
        if let Err(wait) = self.breaker.lock().admit(now) {
            let seconds = wait.as_secs() + 1;
            let message = format!(
                "The places provider keeps failing and is left alone for a while. Try again in {seconds} s."
            );
            return failure(PlacesStatus::UnknownError, &message);
        }
        match self.upstream.fetch(request, left) {
            Ok(answer) => {
                self.breaker.lock().report(false, Instant::now());
                if let Some(cache) = &self.cache {
                    cache.lock().put(request.clone(), &answer, Instant::now());
                }
                answer
            }
            Err(error) => {
                let opened = self
                    .breaker
                    .lock()
                    .report(error.counts_against_breaker(), Instant::now());
                if opened {
                    warn!(
                        "the places provider keeps failing and is left alone for a while: {error}"
                    );
                } else {
                    debug!("places: {error}");
                }
                failed(&error)
            }
        }
    }
}

fn failed(error: &Failure) -> Vec<u8> {
    failure(error.status(), &error.message())
}

fn failure(status: PlacesStatus, message: &str) -> Vec<u8> {
    let mut out = Vec::new();
    write_failure(status, message, &mut out);
    out
}
