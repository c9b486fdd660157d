//! A cache of answers, bounded in time and in bytes, for providers whose terms permit it.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::upstream::Request;

/// Maximum bytes of cached answers; past this the oldest are dropped.
const MAX_BYTES: usize = 16 << 20;

/// Bytes counted for each answer in addition to its own.
const OVERHEAD: usize = 256;

/// Answers by request; the oldest are dropped first.
#[derive(Debug)]
pub(super) struct Cache {
    time_to_live: Duration,
    answers: HashMap<Request, Arc<[u8]>>,
    /// Expiry times, earliest first.
    expiry: VecDeque<(Instant, Request)>,
    bytes: usize,
}

impl Cache {
    /// Creates an empty cache whose answers expire after `time_to_live`.
    pub(super) fn new(time_to_live: Duration) -> Cache {
        Cache {
            time_to_live,
            answers: HashMap::new(),
            expiry: VecDeque::new(),
            bytes: 0,
        }
    }

    /// Returns the answer to an equal request, if it is cached and not expired.
    pub(super) fn get(&mut self, request: &Request, now: Instant) -> Option<Arc<[u8]>> {
        while self
            .expiry
            .front()
            .is_some_and(|(expires, _)| *expires <= now)
        {
            self.drop_oldest();
        }
        self.answers.get(request).cloned()
    }

    /// Adds an answer; an existing answer to an equal request stays.
    pub(super) fn insert(&mut self, request: Request, answer: &[u8], now: Instant) {
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

#[cfg(test)]
mod tests {
    use super::*;
    use std::iter;

    const MINUTE: Duration = Duration::from_secs(60);

    fn request(bound: u8, location: &str) -> Request {
        Request::of(location, "10", bound)
    }

    #[test]
    fn answers_expire_after_their_time_to_live() {
        let start = Instant::now();
        let mut cache = Cache::new(MINUTE);
        cache.insert(request(1, "+1+1"), b"one", start);
        cache.insert(request(2, "+1+1"), b"two", start + MINUTE / 2);
        let get = |cache: &mut Cache, bound, now| {
            cache
                .get(&request(bound, "+1+1"), now)
                .map(|answer| answer.to_vec())
        };
        assert_eq!(
            get(&mut cache, 1, start + MINUTE / 2),
            Some(b"one".to_vec())
        );
        assert_eq!(get(&mut cache, 1, start + MINUTE), None);
        assert_eq!(get(&mut cache, 2, start + MINUTE), Some(b"two".to_vec()));
        assert_eq!(get(&mut cache, 2, start + 2 * MINUTE), None);
        assert_eq!((cache.bytes, cache.expiry.len()), (0, 0));
    }

    #[test]
    fn the_oldest_are_dropped_at_capacity() {
        let start = Instant::now();
        let mut cache = Cache::new(MINUTE);
        let answer = vec![b'x'; MAX_BYTES / 10];
        for number in 0..20 {
            cache.insert(request(1, &format!("+{number}+1")), &answer, start);
            assert!(cache.bytes <= MAX_BYTES);
        }
        let kept = (0..20).filter(|number| {
            cache
                .get(&request(1, &format!("+{number}+1")), start)
                .is_some()
        });
        assert!(kept.eq(11..20));
        cache.insert(request(1, "+50+1"), &vec![b'x'; MAX_BYTES + 1], start);
        assert!(cache.get(&request(1, "+50+1"), start).is_none());
        assert_eq!(iter::repeat_with(|| cache.drop_oldest()).take(9).count(), 9);
        assert_eq!(cache.bytes, 0);
    }
}
