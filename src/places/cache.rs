//! Answers that may be given again for a while: bounded in time and in bytes.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::upstream::Request;

/// Bytes of answers that are kept; past this the oldest go.
const MAX_BYTES: usize = 16 << 20;

/// Bytes that an answer costs beside its own.
const OVERHEAD: usize = 256;

/// Answers by request, the oldest of which go first.
#[derive(Debug)]
pub struct Cache {
    time_to_live: Duration,
    answers: HashMap<Request, Arc<[u8]>>,
    /// In the order in which they will have to go.
    expiry: VecDeque<(Instant, Request)>,
    bytes: usize,
}

impl Cache {
    /// An empty cache, whose answers live for `time_to_live`.
    pub fn new(time_to_live: Duration) -> Cache {
        Cache {
            time_to_live,
            answers: HashMap::new(),
            expiry: VecDeque::new(),
            bytes: 0,
        }
    }

    /// The answer to an equal request, if there is one that is young enough.
    pub fn get(&mut self, request: &Request, now: Instant) -> Option<Arc<[u8]>> {
        while self
            .expiry
            .front()
            .is_some_and(|(expires, _)| *expires <= now)
        {
            self.drop_oldest();
        }
        self.answers.get(request).cloned()
    }

    /// Keeps an answer; one that is there already stays.
    pub fn put(&mut self, request: Request, answer: &[u8], now: Instant) {
        let bytes = answer.len() + OVERHEAD;
        if bytes > MAX_BYTES || self.answers.contains_key(&request) {
            return;
        }
        while self.bytes + bytes > MAX_BYTES {
            self.drop_oldest();
        }
        self.bytes += bytes;
        self.expiry
            .push_back((now + self.time_to_live, request.clone()));
        self.answers.insert(request, Arc::from(answer));
    }

    fn drop_oldest(&mut self) {
        if let Some((_, request)) = self.expiry.pop_front()
            && let Some(answer) = self.answers.remove(&request)
        {
            self.bytes -= answer.len() + OVERHEAD;
        }
    }
}
