//! A provider on the network with its threads, isolated so that it delays nothing else.
//!
//! A fixed pool of threads of its own makes the calls. A request comes with a callback and returns
//! at once: no session worker waits for an upstream. The queue is bounded, the deadline of a
//! request counts from its arrival, equal requests in flight share one call, and a circuit breaker
//! suspends calls to a provider that keeps failing.

use std::collections::HashMap;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, bounded};
use log::{debug, warn};
use parking_lot::Mutex;

use super::answer::write_failure;
use super::breaker::{CircuitBreaker, RateLimit};
use super::cache::Cache;
use super::failure::Failure;
use super::outcomes::Outcomes;
use super::upstream::{Request, Upstream};
use crate::thread::{self, STACK_BYTES};

/// Maximum number of requests in the queue; past this they are answered `OVER_QUERY_LIMIT` at once.
const QUEUE_REQUESTS: usize = 1_024;

/// Maximum time from a request to its answer, including time in the queue.
const TIMEOUT: Duration = Duration::from_secs(3);

/// Time for which an answer is cached, if the provider's terms permit it.
const CACHE_TIME: Duration = Duration::from_secs(3_600);

/// Receives the JSON text that answers a request; called once, on any thread.
pub type AnswerCallback = Box<dyn FnOnce(&[u8]) + Send>;

/// Default number of threads that make calls.
pub const DEFAULT_PLACES_WORKERS: usize = 8;

/// Maximum number of threads that make calls.
pub const MAX_PLACES_WORKERS: usize = 256;

/// Limits on the calls to a provider.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// Number of threads that make calls, and so of concurrent calls.
    pub workers: usize,
    /// Maximum calls per minute; `None` for no limit.
    pub calls_per_minute: Option<u32>,
}

#[derive(Debug)]
struct Job {
    request: Request,
    deadline: Instant,
}

struct Shared {
    upstream: Box<dyn Upstream>,
    /// Callbacks of each request that is in the queue or being answered by a thread.
    in_flight: Mutex<HashMap<Request, Vec<AnswerCallback>>>,
    breaker: Mutex<CircuitBreaker>,
    outcomes: Mutex<Outcomes>,
    rate_limit: Option<Mutex<RateLimit>>,
    cache: Option<Mutex<Cache>>,
}

/// A provider on the network with its threads.
pub struct Remote {
    shared: Arc<Shared>,
    /// `None` once the server is stopping.
    queue: Mutex<Option<Sender<Job>>>,
    workers: Mutex<Vec<JoinHandle<()>>>,
}

impl std::fmt::Debug for Remote {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Remote").finish_non_exhaustive()
    }
}

impl Remote {
    /// Starts the threads.
    pub fn start(upstream: Box<dyn Upstream>, settings: Settings) -> io::Result<Arc<Remote>> {
        let now = Instant::now();
        let cache = upstream
            .may_cache()
            .then(|| Mutex::new(Cache::new(CACHE_TIME)));
        let shared = Arc::new(Shared {
            upstream,
            in_flight: Mutex::default(),
            breaker: Mutex::default(),
            outcomes: Mutex::default(),
            rate_limit: settings
                .calls_per_minute
                .map(|calls| Mutex::new(RateLimit::new(calls, now))),
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
            let name = format!("places-{worker}");
            // TLS and JSON need more stack than the server's own code.
            let thread =
                thread::spawn_with_stack(name, 4 * STACK_BYTES, move || shared.work(&jobs))
                    .inspect_err(|_| remote.stop())?;
            remote.workers.lock().push(thread);
        }
        Ok(Arc::new(remote))
    }

    /// Answers a request: calls `on_answer` at once, or when the provider has answered, and within
    /// [`TIMEOUT`] in any case.
    pub(super) fn search(&self, request: Request, on_answer: AnswerCallback) {
        if let Some(cache) = &self.shared.cache {
            let cached = cache.lock().get(&request, Instant::now());
            if let Some(answer) = cached {
                return on_answer(&answer);
            }
        }
        {
            let mut in_flight = self.shared.in_flight.lock();
            if let Some(callbacks) = in_flight.get_mut(&request) {
                return callbacks.push(on_answer);
            }
            in_flight.insert(request.clone(), vec![on_answer]);
        }
        let job = Job {
            request: request.clone(),
            deadline: Instant::now() + TIMEOUT,
        };
        let queue = self.queue.lock();
        let rejected = match &*queue {
            Some(queue) => queue.try_send(job).is_err().then(|| {
                let mut outcomes = self.shared.outcomes.lock();
                outcomes.refused(Instant::now(), "too many wait for the places provider");
                Failure::Quota(
                    "Too many searches are waiting for the places provider. Try again in a moment."
                        .to_owned(),
                )
            }),
            None => Some(Failure::Stopped),
        };
        drop(queue);
        if let Some(failure) = rejected {
            self.shared.complete(&request, Err(failure));
        }
    }

    /// Returns why searches fail, if they do.
    pub(super) fn problem(&self, now: Instant) -> Option<String> {
        let is_suspended = self.shared.breaker.lock().is_open();
        self.shared.outcomes.lock().problem(now, is_suspended)
    }

    /// Returns the number of descriptors that the calls take at most: each thread has a connection
    /// or looks up a name, and as many connections may be idle.
    pub(super) fn descriptors(&self) -> usize {
        2 * self.workers.lock().len()
    }

    /// Aborts the calls in flight, and answers all waiting requests. The threads end as soon as they
    /// can, and those that have not are not joined: a call may be looking up a name, for seconds.
    pub(super) fn stop(&self) {
        self.queue.lock().take();
        self.shared.upstream.abort();
        let requests: Vec<_> = self.shared.in_flight.lock().keys().cloned().collect();
        for request in requests {
            self.shared.complete(&request, Err(Failure::Stopped));
        }
        let workers = std::mem::take(&mut *self.workers.lock());
        for worker in workers {
            if worker.is_finished() {
                let _ = worker.join();
            }
        }
    }
}

impl Shared {
    fn work(&self, jobs: &Receiver<Job>) {
        for job in jobs {
            let call = || self.call(&job.request, job.deadline);
            // Waiting clients get an answer even if a provider's response makes our code panic.
            let result = catch_unwind(AssertUnwindSafe(call))
                .unwrap_or(Err(Failure::Malformed("internal error while handling it")));
            self.complete(&job.request, result);
        }
    }

    /// Passes the answer to all callbacks of the request.
    fn complete(&self, request: &Request, result: Result<Vec<u8>, Failure>) {
        let answer = result.unwrap_or_else(|failure| {
            let mut out = Vec::new();
            write_failure(failure.status(), &failure.to_string(), &mut out);
            out
        });
        let callbacks = self.in_flight.lock().remove(request);
        for on_answer in callbacks.into_iter().flatten() {
            on_answer(&answer);
        }
    }

    /// Calls the provider, unless the deadline, the rate limit or the breaker forbids it.
    fn call(&self, request: &Request, deadline: Instant) -> Result<Vec<u8>, Failure> {
        let now = Instant::now();
        let left = deadline.saturating_duration_since(now);
        if left.is_zero() {
            return Err(Failure::Timeout);
        }
        if let Some(limit) = &self.rate_limit
            && !limit.lock().admit(now)
        {
            let why = "this server's limit of places calls per minute is used up";
            self.outcomes.lock().refused(now, why);
            return Err(Failure::Quota(
                "This server has reached its limit of places calls per minute. Try again in a minute, or raise --places-calls-per-minute."
                    .to_owned(),
            ));
        }
        if let Err(wait) = self.breaker.lock().admit(now) {
            return Err(Failure::Reported(format!(
                "The places provider keeps failing, so calls to it are suspended. Try again in {} s.",
                wait.as_secs() + 1
            )));
        }
        let result = self.upstream.fetch(request, left);
        let now = Instant::now();
        let counts = result.as_ref().is_err_and(Failure::counts_against_breaker);
        let opened = self.breaker.lock().report(counts, now);
        self.outcomes.lock().called(result.as_ref().err());
        match &result {
            Ok(answer) => {
                if let Some(cache) = &self.cache {
                    cache.lock().insert(request.clone(), answer, now);
                }
            }
            Err(error) if opened => {
                warn!("the places provider keeps failing, so calls to it are suspended: {error}");
            }
            Err(error) => debug!("places: {error}"),
        }
        result
    }
}
