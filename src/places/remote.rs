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
use super::breaker::{CallGate, Refusal};
use super::cache::Cache;
use super::calls::CallOutcome;
use super::failure::Failure;
use super::outcomes::Outcomes;
use super::upstream::{Request, Upstream};
use crate::metrics::CounterFamily;
use crate::thread::{self, Group, STACK_BYTES};

/// Maximum number of requests in the queue; past this they are answered `OVER_QUERY_LIMIT` at once.
const QUEUE_REQUESTS: usize = 1_024;

/// Maximum time from a request to its answer, including time in the queue.
const TIMEOUT: Duration = Duration::from_secs(3);

/// Time for which an answer is cached, if the provider's terms permit it.
const CACHE_TIME: Duration = Duration::from_secs(3_600);

/// Answer to a request.
#[derive(Clone, Copy, Debug)]
pub struct Answer<'a> {
    /// The JSON text.
    pub json: &'a [u8],
    /// Whether it has the places, and not the reason for which there are none.
    pub is_ok: bool,
}

/// Receives the answer to a request; called once, on any thread.
pub type AnswerCallback = Box<dyn FnOnce(Answer<'_>) + Send>;

/// Default number of threads that make calls.
pub const DEFAULT_PLACES_WORKERS: usize = 8;

/// Maximum number of threads that make calls.
pub const MAX_PLACES_WORKERS: usize = 256;

/// Default limit on the calls per minute to a provider that bills each call. At 35 dollars for a
/// thousand calls, about Google's list price, they cost 21 dollars an hour at most; without a limit,
/// eight threads with answers in 0.2 s would make it 5,000.
pub const DEFAULT_BILLED_CALLS_PER_MINUTE: u32 = 10;

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
    gate: Mutex<CallGate>,
    outcomes: Mutex<Outcomes>,
    calls: CounterFamily<CallOutcome>,
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
            gate: Mutex::new(CallGate::new(settings.calls_per_minute, now)),
            outcomes: Mutex::default(),
            calls: CounterFamily::default(),
            cache,
        });
        let (queue, jobs) = bounded(QUEUE_REQUESTS);
        let remote = Remote {
            shared,
            queue: Mutex::new(Some(queue)),
            workers: Mutex::default(),
        };
        // A server is given them when it starts.
        let _entered = Group::process().enter();
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
        {
            let mut in_flight = self.shared.in_flight.lock();
            if let Some(callbacks) = in_flight.get_mut(&request) {
                self.shared.calls.count(CallOutcome::Shared);
                return callbacks.push(on_answer);
            }
            // An answer is cached before its request ceases to be in flight, so none is missed here.
            let cached = self.shared.cached(&request);
            if let Some(answer) = cached {
                drop(in_flight);
                self.shared.calls.count(CallOutcome::Cached);
                return on_answer(Answer {
                    json: &answer,
                    is_ok: true,
                });
            }
            in_flight.insert(request.clone(), vec![on_answer]);
        }
        if let Err(failure) = self.enqueue(&request) {
            self.shared.complete(&request, Err(failure));
        }
    }

    /// Queues a request for the threads, unless it would be refused there: while the breaker is
    /// open, threads may still wait for calls of before, and nothing has to wait for them.
    fn enqueue(&self, request: &Request) -> Result<(), Failure> {
        let now = Instant::now();
        let job = Job {
            request: request.clone(),
            deadline: now + TIMEOUT,
        };
        let queue = self.queue.lock();
        let queue = queue.as_ref().ok_or_else(|| {
            self.shared.calls.count(CallOutcome::Stopped);
            Failure::Stopped
        })?;
        let allowed = self.shared.gate.lock().check(now);
        allowed.map_err(|refusal| self.shared.refuse(refusal, now))?;
        queue.try_send(job).map_err(|_| {
            self.shared.calls.count(CallOutcome::QueueFull);
            let mut outcomes = self.shared.outcomes.lock();
            outcomes.refused(now, "too many wait for the places provider");
            Failure::Quota(
                "Too many searches are waiting for the places provider. Try again in a moment."
                    .to_owned(),
            )
        })
    }

    /// Returns why searches fail, if they do.
    pub(super) fn problem(&self, now: Instant) -> Option<String> {
        let is_suspended = self.shared.gate.lock().is_suspended();
        self.shared.outcomes.lock().problem(now, is_suspended)
    }

    /// Returns the provider's name, and the outcomes of all searches.
    pub(super) fn calls(&self) -> (&'static str, &CounterFamily<CallOutcome>) {
        (self.shared.upstream.name(), &self.shared.calls)
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
        while let Ok(job) = thread::waiting(|| jobs.recv()) {
            let result = self.call(&job.request, job.deadline);
            self.complete(&job.request, result);
        }
        thread::dismissed();
    }

    /// Returns the answer to an equal request, if it is cached.
    fn cached(&self, request: &Request) -> Option<Arc<[u8]>> {
        let cache = self.cache.as_ref()?;
        cache.lock().get(request, Instant::now())
    }

    /// Passes the answer to all callbacks of the request.
    fn complete(&self, request: &Request, result: Result<Vec<u8>, Failure>) {
        let is_ok = result.is_ok();
        let answer = result.unwrap_or_else(|failure| {
            let mut out = Vec::new();
            write_failure(failure.status(), &failure.to_string(), &mut out);
            out
        });
        let callbacks = self.in_flight.lock().remove(request);
        for on_answer in callbacks.into_iter().flatten() {
            on_answer(Answer {
                json: &answer,
                is_ok,
            });
        }
    }

    /// Calls the provider, unless the deadline, the breaker or the limit on calls forbids it.
    fn call(&self, request: &Request, deadline: Instant) -> Result<Vec<u8>, Failure> {
        let now = Instant::now();
        let left = deadline.saturating_duration_since(now);
        if left.is_zero() {
            self.calls.count(CallOutcome::Expired);
            return Err(Failure::Timeout);
        }
        let admitted = self.gate.lock().admit(now);
        admitted.map_err(|refusal| self.refuse(refusal, now))?;
        // Waiting clients get an answer even if a provider's response makes our code panic.
        let call = || self.upstream.fetch(request, left);
        let result = catch_unwind(AssertUnwindSafe(call))
            .unwrap_or(Err(Failure::Malformed("internal error while handling it")));
        self.calls.count(CallOutcome::of_call(&result));
        let now = Instant::now();
        let counts = result.as_ref().is_err_and(Failure::counts_against_breaker);
        let opened = self.gate.lock().report(counts, now);
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

    /// Returns the failure of a request for which no call is made.
    fn refuse(&self, refusal: Refusal, now: Instant) -> Failure {
        self.calls.count(CallOutcome::of_refusal(refusal));
        match refusal {
            Refusal::Suspended(wait) => Failure::Reported(format!(
                "The places provider keeps failing, so calls to it are suspended. Try again in {} s.",
                wait.as_secs() + 1
            )),
            Refusal::LimitReached(wait) => {
                let why = "the calls of the minute are used up (--places-calls-per-minute)";
                self.outcomes.lock().refused(now, why);
                Failure::Quota(format!(
                    "This server has reached its limit of places calls per minute. Try again in {} s, or raise --places-calls-per-minute.",
                    wait.as_secs() + 1
                ))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crossbeam_channel::unbounded;

    /// An upstream that takes the result of each call from a channel. Without one it panics.
    #[derive(Debug)]
    struct Scripted {
        calls: Sender<()>,
        results: Receiver<Result<Vec<u8>, Failure>>,
    }

    impl Upstream for Scripted {
        fn fetch(&self, _: &Request, _: Duration) -> Result<Vec<u8>, Failure> {
            self.calls.send(()).unwrap();
            self.results.recv().expect("a result")
        }

        fn name(&self) -> &'static str {
            "scripted"
        }

        fn abort(&self) {}

        fn may_cache(&self) -> bool {
            true
        }
    }

    struct Fixture {
        remote: Arc<Remote>,
        calls: Receiver<()>,
        results: Option<Sender<Result<Vec<u8>, Failure>>>,
    }

    impl Fixture {
        fn new() -> Fixture {
            let ((called, calls), (result, results)) = (unbounded(), unbounded());
            let upstream = Scripted {
                calls: called,
                results,
            };
            let settings = Settings {
                workers: 1,
                calls_per_minute: None,
            };
            Fixture {
                remote: Remote::start(Box::new(upstream), settings).unwrap(),
                calls,
                results: Some(result),
            }
        }

        /// Starts a search; the bound tells it from others. Returns where its answer arrives.
        fn search(&self, bound: u8) -> Receiver<String> {
            let (answer, answered) = unbounded();
            let on_answer = move |got: Answer<'_>| {
                let _ = answer.send(String::from_utf8(got.json.to_vec()).unwrap());
            };
            let request = Request::of("+1+2", "10", bound);
            self.remote.search(request, Box::new(on_answer));
            answered
        }
    }

    #[track_caller]
    fn received<T>(answered: &Receiver<T>) -> T {
        answered.recv_timeout(Duration::from_secs(5)).unwrap()
    }

    #[test]
    fn while_the_breaker_is_open_nothing_waits_for_a_thread() {
        let fixture = Fixture::new();
        let slow = fixture.search(1);
        received(&fixture.calls);
        // Twenty others have failed meanwhile.
        for _ in 0..20 {
            let mut gate = fixture.remote.shared.gate.lock();
            gate.report(true, Instant::now());
        }
        // The only thread is in a call.
        let answer = fixture.search(2).try_recv().unwrap();
        assert!(answer.contains("calls to it are suspended"), "{answer}");
        let result = fixture.results.as_ref().unwrap();
        result.send(Ok(b"{}".to_vec())).unwrap();
        assert_eq!(received(&slow), "{}");
        // A cached answer needs no call, and so no breaker.
        assert_eq!(fixture.search(1).try_recv().unwrap(), "{}");
        assert!(fixture.calls.is_empty());
        let calls = &fixture.remote.shared.calls;
        for outcome in [CallOutcome::Ok, CallOutcome::Suspended, CallOutcome::Cached] {
            assert_eq!(calls.get(outcome), 1, "{outcome:?}");
        }
        fixture.remote.stop();
    }

    #[test]
    fn a_call_that_panics_is_a_failure_of_the_provider() {
        let mut fixture = Fixture::new();
        fixture.results.take();
        for bound in 1..=20 {
            let answer = received(&fixture.search(bound));
            assert!(
                answer.contains("internal error while handling it"),
                "{answer}"
            );
        }
        let answer = received(&fixture.search(1));
        assert!(answer.contains("suspended"), "{answer}");
        assert_eq!(fixture.calls.len(), 20);
        fixture.remote.stop();
    }
}
