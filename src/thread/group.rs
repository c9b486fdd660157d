//! The threads of a server, and whether one of them hangs or is gone.
//!
//! A thread of a [`Group`] is at work or waits for something to do, which it marks by [`waiting`].
//! All that it does between two waits is one piece of work, unless [`next_piece`] divides it. The
//! thread counts its pieces in a cell of its own: it reads no clock, and nobody else writes there.
//!
//! Somebody has to look: each [look](Liveness::problem) notes which threads are in the same piece as
//! at the look before, and asks the kernel what those are doing. Time counts against a thread that
//! computes, sleeps, or waits for a lock without having marked it. Time in a system call on disk or
//! network does not. Neither does time in which a thread waits for a lock while another is stuck in
//! such a call: it may hold the lock, as the apply lock is held while the disk does not answer. One
//! look stands for [`MAX_STEP`] at most, so that no time counts in which the process was stopped.

use std::cell::{OnceCell, RefCell};
use std::marker::PhantomData;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use log::{error, warn};
use parking_lot::Mutex;

use super::kernel::{self, State};

/// Time in one piece of work past which a thread counts as hanging.
const LIMIT: Duration = Duration::from_secs(10);

/// Shortest time between two looks; calls between them repeat the result of the last.
const LOOK_INTERVAL: Duration = Duration::from_millis(500);

/// Maximum time that counts between two looks.
const MAX_STEP: Duration = Duration::from_secs(1);

thread_local! {
    /// The group of the threads that this thread starts.
    static ENTERED: RefCell<Option<Group>> = const { RefCell::new(None) };
    /// This thread, if it belongs to a group.
    static OWN: OnceCell<Arc<Member>> = const { OnceCell::new() };
}

/// A thread of a group.
#[derive(Debug)]
pub(super) struct Member {
    name: String,
    /// Twice the number of pieces of work before this one; one more while the thread waits.
    activity: AtomicU64,
    /// Where the kernel tells the thread's state; empty before the thread runs.
    file: OnceLock<Option<PathBuf>>,
    is_dismissed: AtomicBool,
    has_ended: AtomicBool,
}

impl Member {
    fn new(name: &str) -> Member {
        Member {
            name: name.to_owned(),
            activity: AtomicU64::new(0),
            file: OnceLock::new(),
            is_dismissed: AtomicBool::new(false),
            has_ended: AtomicBool::new(false),
        }
    }

    /// Makes this member the calling thread, until the result is dropped.
    pub(super) fn begin(self: Arc<Member>) -> Membership {
        let _ = self.file.set(kernel::own_file());
        let _ = OWN.try_with(|own| own.set(Arc::clone(&self)));
        Membership(self)
    }

    fn state(&self) -> State {
        match self.file.get() {
            Some(Some(file)) => kernel::state(file),
            _ => State::Unknown,
        }
    }
}

/// The life of a thread of a group.
pub(super) struct Membership(Arc<Member>);

impl Drop for Membership {
    fn drop(&mut self) {
        self.0.has_ended.store(true, Ordering::Release);
    }
}

/// Changes the calling thread's activity. A load and a store: no other thread writes it.
#[inline]
fn change(activity: impl FnOnce(u64) -> u64) {
    let _ = OWN.try_with(|own| {
        if let Some(member) = own.get() {
            let before = member.activity.load(Ordering::Relaxed);
            member.activity.store(activity(before), Ordering::Relaxed);
        }
    });
}

/// Runs `wait`, which waits for something to do: for another thread, a peer or a time. Waits for the
/// disk are work.
#[inline]
pub fn waiting<T>(wait: impl FnOnce() -> T) -> T {
    change(|activity| activity | 1);
    let result = wait();
    next_piece();
    result
}

/// Begins another piece of work.
#[inline]
pub fn next_piece() {
    change(|activity| (activity | 1) + 1);
}

/// Marks that the calling thread has been told to end by its owner, though the server goes on.
pub fn dismissed() {
    let _ = OWN.try_with(|own| {
        if let Some(member) = own.get() {
            member.is_dismissed.store(true, Ordering::Release);
        }
    });
}

/// A set of threads that are looked after together.
#[derive(Clone, Debug, Default)]
pub struct Group(Arc<Mutex<Members>>);

/// State of a group.
#[derive(Debug, Default)]
struct Members {
    watched: Vec<Watched>,
    /// Threads end as they should.
    is_stopping: bool,
    looked: Option<Instant>,
    problem: Option<String>,
}

/// A thread, and what the looks have found.
#[derive(Debug)]
struct Watched {
    member: Arc<Member>,
    /// Activity at the last look.
    seen: Option<u64>,
    /// State at the last look, if the thread was in the same piece as before.
    state: Option<State>,
    /// Time that counts against the thread.
    worked: Duration,
}

impl Group {
    /// Returns the group of the threads that belong to the process, whatever servers run in it.
    pub fn process() -> Group {
        static PROCESS: OnceLock<Group> = OnceLock::new();
        PROCESS.get_or_init(Group::default).clone()
    }

    /// Has the threads that the caller starts belong to this group, until the result is dropped.
    pub fn enter(&self) -> Entered {
        let previous = ENTERED.replace(Some(self.clone()));
        Entered {
            previous,
            of_this_thread: PhantomData,
        }
    }

    /// Notes that the threads are about to be told to end.
    pub fn stop(&self) {
        self.0.lock().is_stopping = true;
    }

    /// Returns the handle that tells what is wrong with the threads.
    pub fn liveness(&self) -> Liveness {
        Liveness(self.clone())
    }

    /// Returns the worst problem of the threads, after a look if it is time for one. Its beginning
    /// and its end are logged.
    fn problem(&self, now: Instant) -> Option<String> {
        let mut members = self.0.lock();
        let had_problem = members.problem.is_some();
        members.look(now, Member::state);
        let problem = members.problem.clone();
        drop(members);
        match &problem {
            Some(problem) if !had_problem => error!("{problem}"),
            None if had_problem => warn!("all threads go on again"),
            _ => {}
        }
        problem
    }
}

impl Members {
    /// Looks at all threads, unless the last look was only just now. `state` asks the kernel.
    fn look(&mut self, now: Instant, state: impl Fn(&Member) -> State) {
        let step = match self.looked {
            Some(looked) => now.saturating_duration_since(looked),
            None => LOOK_INTERVAL,
        };
        if step < LOOK_INTERVAL {
            return;
        }
        self.looked = Some(now);
        let is_stopping = self.is_stopping;
        self.watched.retain(|watched| {
            let member = &watched.member;
            // In this order: a thread is dismissed before it ends.
            let has_ended = member.has_ended.load(Ordering::Acquire);
            !has_ended || !(is_stopping || member.is_dismissed.load(Ordering::Acquire))
        });
        for watched in &mut self.watched {
            watched.look(&state);
        }
        let is_stuck = |watched: &Watched| watched.state == Some(State::InCall);
        let excuses_locks = self.watched.iter().any(is_stuck);
        for watched in &mut self.watched {
            watched.count(step.min(MAX_STEP), excuses_locks);
        }
        self.problem = self.worst();
    }

    fn worst(&self) -> Option<String> {
        let mut all = self.watched.iter();
        let is_gone = |watched: &&Watched| watched.member.has_ended.load(Ordering::Relaxed);
        if let Some(gone) = all.find(is_gone) {
            return Some(format!("thread {} has ended", gone.member.name));
        }
        let hanging = self.watched.iter().filter(|one| one.worked > LIMIT);
        // One that waits for a lock waits for another.
        let worst = hanging.max_by_key(|one| (one.state != Some(State::Blocked), one.worked))?;
        let (name, seconds) = (&worst.member.name, worst.worked.as_secs());
        Some(format!(
            "thread {name} has been in one piece of work for {seconds} s"
        ))
    }
}

impl Watched {
    /// Notes whether the thread is in the same piece as at the last look, and in which state.
    fn look(&mut self, state: impl Fn(&Member) -> State) {
        let activity = self.member.activity.load(Ordering::Relaxed);
        let is_same = self.seen.replace(activity) == Some(activity);
        if is_same && activity.is_multiple_of(2) {
            self.state = Some(state(&self.member));
        } else {
            (self.state, self.worked) = (None, Duration::ZERO);
        }
    }

    /// Counts the time since the last look, if it counts.
    fn count(&mut self, step: Duration, excuses_locks: bool) {
        match self.state {
            Some(State::Running | State::Asleep) => self.worked += step,
            Some(State::Blocked) if !excuses_locks => self.worked += step,
            // A thread that comes to such a call again and again computes for no ten seconds.
            Some(State::InCall) => self.worked = Duration::ZERO,
            Some(State::Blocked | State::Unknown) | None => {}
        }
    }
}

/// The time during which the threads that the caller starts belong to a group.
#[derive(Debug)]
pub struct Entered {
    previous: Option<Group>,
    of_this_thread: PhantomData<*const ()>,
}

impl Drop for Entered {
    fn drop(&mut self) {
        ENTERED.set(self.previous.take());
    }
}

/// A thread that is about to start, and the group that it is to belong to.
pub(super) struct Joining(Option<(Group, Arc<Member>)>);

impl Joining {
    /// Prepares a member of that name of the group that the caller has entered, if there is one.
    pub(super) fn new(name: &str) -> Joining {
        let group = ENTERED.with_borrow(Clone::clone);
        Joining(group.map(|group| (group, Arc::new(Member::new(name)))))
    }

    pub(super) fn member(&self) -> Option<Arc<Member>> {
        self.0.as_ref().map(|(_, member)| Arc::clone(member))
    }

    /// Adds the member to the group, once there is a thread.
    pub(super) fn complete(self) {
        if let Some((group, member)) = self.0 {
            group.0.lock().watched.push(Watched {
                member,
                seen: None,
                state: None,
                worked: Duration::ZERO,
            });
        }
    }
}

/// Tells whether a thread of a server's own, or of its process, hangs or is gone.
#[derive(Clone, Debug)]
pub struct Liveness(Group);

impl Liveness {
    /// Returns what is wrong with the threads, naming the one that it shows in.
    ///
    /// A thread hangs if it has been in one piece of work for over 10 s that was not a system call on
    /// disk or network. To be called at least once a second by some thread, and at will by others:
    /// looks that are further apart count as one second each.
    pub fn problem(&self) -> Option<String> {
        let now = Instant::now();
        let own = self.0.problem(now);
        own.or_else(|| Group::process().problem(now))
    }
}

#[cfg(test)]
mod tests {
    use std::thread;

    use super::*;
    use crate::thread::{spawn, stop_pair};

    /// Members without threads, in states that a test chooses.
    struct Fixture {
        members: Members,
        states: Vec<State>,
        now: Instant,
    }

    impl Fixture {
        fn new(states: &[State]) -> Fixture {
            let group = Group::default();
            for (number, _) in states.iter().enumerate() {
                let member = Arc::new(Member::new(&number.to_string()));
                Joining(Some((group.clone(), member))).complete();
            }
            Fixture {
                members: std::mem::take(&mut *group.0.lock()),
                states: states.to_vec(),
                now: Instant::now(),
            }
        }

        fn member(&self, number: usize) -> &Member {
            &self.members.watched[number].member
        }

        /// Looks several times in that time.
        fn pass(&mut self, time: Duration) -> Option<&str> {
            let end = self.now + time;
            while self.now < end {
                self.now += LOOK_INTERVAL;
                self.look();
            }
            self.members.problem.as_deref()
        }

        fn look(&mut self) {
            let states = &self.states;
            let state = |member: &Member| states[member.name.parse::<usize>().unwrap()];
            self.members.look(self.now, state);
        }
    }

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn a_thread_in_one_piece_of_work_for_over_ten_seconds_hangs() {
        for state in [State::Running, State::Asleep, State::Blocked] {
            let mut fixture = Fixture::new(&[state]);
            assert_eq!(fixture.pass(10 * SECOND), None);
            let expected = "thread 0 has been in one piece of work for 11 s";
            assert_eq!(fixture.pass(2 * SECOND), Some(expected), "{state:?}");
            // It goes on.
            fixture.member(0).activity.store(2, Ordering::Relaxed);
            assert_eq!(fixture.pass(10 * SECOND), None);
        }
    }

    #[test]
    fn waits_many_pieces_and_calls_are_no_hang() {
        let mut fixture = Fixture::new(&[State::Running, State::Running, State::InCall]);
        fixture.member(0).activity.store(1, Ordering::Relaxed);
        for piece in 1..100 {
            fixture
                .member(1)
                .activity
                .store(2 * piece, Ordering::Relaxed);
            assert_eq!(fixture.pass(SECOND), None);
        }
        let mut fixture = Fixture::new(&[State::Running]);
        for _ in 0..10 {
            fixture.states[0] = State::Running;
            assert_eq!(fixture.pass(8 * SECOND), None);
            fixture.states[0] = State::InCall;
            assert_eq!(fixture.pass(LOOK_INTERVAL), None);
        }
        let mut fixture = Fixture::new(&[State::Unknown]);
        assert_eq!(fixture.pass(60 * SECOND), None);
    }

    #[test]
    fn a_wait_for_a_lock_is_excused_by_a_call_that_takes_long_and_by_no_short_ones() {
        let mut fixture = Fixture::new(&[State::InCall, State::Blocked]);
        assert_eq!(fixture.pass(60 * SECOND), None);
        // The disk answers again.
        fixture.states[0] = State::Running;
        fixture.member(0).activity.store(2, Ordering::Relaxed);
        fixture.member(1).activity.store(2, Ordering::Relaxed);
        assert_eq!(fixture.pass(5 * SECOND), None);
        fixture.states[0] = State::InCall;
        for piece in 2..50 {
            fixture
                .member(0)
                .activity
                .store(2 * piece, Ordering::Relaxed);
            fixture.pass(LOOK_INTERVAL);
        }
        let problem = fixture.pass(LOOK_INTERVAL).map(str::to_owned);
        assert!(problem.is_some_and(|problem| problem.starts_with("thread 1 ")));
    }

    #[test]
    fn the_thread_that_computes_is_named_before_those_that_wait_for_it() {
        let mut fixture = Fixture::new(&[State::Blocked, State::Running, State::Blocked]);
        let problem = fixture.pass(20 * SECOND).unwrap();
        assert!(problem.starts_with("thread 1 "), "{problem}");
    }

    #[test]
    fn no_time_counts_in_which_the_process_is_stopped() {
        let mut fixture = Fixture::new(&[State::Running]);
        for _ in 0..5 {
            fixture.now += 60 * SECOND;
            fixture.look();
        }
        assert_eq!(fixture.members.problem, None);
        assert!(fixture.pass(8 * SECOND).is_some(), "each look counts");
    }

    /// Looks until there is a problem, or there is none, as fast as looks are made.
    fn look_until(group: &Group, is_wanted: impl Fn(Option<&str>) -> bool) {
        let end = Instant::now() + Duration::from_secs(20);
        let mut now = Instant::now();
        loop {
            now += LOOK_INTERVAL;
            let problem = group.problem(now);
            if is_wanted(problem.as_deref()) {
                return;
            }
            assert!(Instant::now() < end, "{problem:?}");
            thread::yield_now();
        }
    }

    #[test]
    fn a_thread_that_ends_untold_is_gone() {
        for is_told in [false, true] {
            let group = Group::default();
            let entered = group.enter();
            let ended = spawn("short", move || {
                if is_told {
                    dismissed();
                }
            });
            drop(entered);
            ended.unwrap().join().unwrap();
            let problem = group.problem(Instant::now());
            let expected = (!is_told).then_some("thread short has ended");
            assert_eq!(problem.as_deref(), expected);
            group.stop();
            assert_eq!(group.problem(Instant::now() + LOOK_INTERVAL), None);
        }
        // Outside of the group nobody minds.
        let group = Group::default();
        spawn("stranger", || {}).unwrap().join().unwrap();
        assert_eq!(group.problem(Instant::now()), None);
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn the_kernel_tells_a_thread_that_computes_from_one_that_reads() {
        let group = Group::default();
        let (stopper, stop) = stop_pair();
        let (mut reader, writer) = std::io::pipe().unwrap();
        let threads = {
            let _entered = group.enter();
            let for_waiting = stop.clone();
            [
                spawn("reading", move || {
                    let _ = std::io::Read::read(&mut reader, &mut [0]);
                }),
                spawn("waiting", move || {
                    for_waiting.wait(Duration::from_secs(60));
                }),
                spawn("computing", move || while !stop.is_set() {}),
            ]
        };
        look_until(&group, |problem| {
            problem.is_some_and(|problem| problem.starts_with("thread computing "))
        });
        group.stop();
        stopper.stop();
        drop(writer);
        for thread in threads {
            thread.unwrap().join().unwrap();
        }
    }
}
