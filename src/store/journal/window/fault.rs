//! Copies into mapped memory that survive the loss of the file behind it.
//!
//! A file that another process cuts short, or whose disk fails, has no page to copy to: the kernel
//! answers with SIGBUS, which would end the process. The handler here puts a page of plain memory
//! in its place, so that the copy ends, and the copy then reports the failure. A SIGBUS anywhere
//! else is left to the handler that was there before.

use std::ffi::{c_int, c_void};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering, compiler_fence};
use std::sync::{Once, OnceLock};

/// The memory that a thread is copying to.
struct Target {
    start: AtomicUsize,
    /// 0 while it copies nothing.
    end: AtomicUsize,
    /// True if a page of it had to be replaced.
    lost: AtomicBool,
}

thread_local! {
    // Without a destructor, so that the handler may use it at any time.
    static TARGET: Target = const {
        Target {
            start: AtomicUsize::new(0),
            end: AtomicUsize::new(0),
            lost: AtomicBool::new(false),
        }
    };
}

/// The handler that was installed before.
static PREVIOUS: OnceLock<libc::sigaction> = OnceLock::new();

static PAGE_BYTES: AtomicUsize = AtomicUsize::new(0);

/// Copies bytes to mapped memory of the same length. Returns `false` if a part of the memory has no
/// file behind it any more; the mapping must then be dropped.
pub(super) fn copy(memory: &mut [u8], bytes: &[u8]) -> bool {
    TARGET.with(|target| {
        let start = memory.as_ptr() as usize;
        target.lost.store(false, Ordering::Relaxed);
        target.start.store(start, Ordering::Relaxed);
        target.end.store(start + memory.len(), Ordering::Relaxed);
        // The handler runs on this thread, so only the compiler could put these in another order.
        compiler_fence(Ordering::SeqCst);
        memory.copy_from_slice(bytes);
        compiler_fence(Ordering::SeqCst);
        target.end.store(0, Ordering::Relaxed);
        !target.lost.load(Ordering::Relaxed)
    })
}

/// Installs the handler, once for the process.
pub(super) fn install() {
    static INSTALLED: Once = Once::new();
    INSTALLED.call_once(|| {
        let page_bytes = rustix::param::page_size();
        PAGE_BYTES.store(page_bytes, Ordering::Relaxed);
        // SAFETY: all-zero bytes are a valid `sigaction`: no flags, an empty mask, the default
        // handler.
        let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
        // SAFETY: null asks for the present action, which is written to `action`.
        if unsafe { libc::sigaction(libc::SIGBUS, std::ptr::null(), &raw mut action) } != 0 {
            return;
        }
        if PREVIOUS.set(action).is_err() {
            return;
        }
        let handler: extern "C" fn(c_int, *mut libc::siginfo_t, *mut c_void) = on_bus_error;
        action.sa_sigaction = handler as usize;
        action.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK;
        // SAFETY: the handler does only what a handler may: it reads and writes atomics, maps
        // memory, and calls the handler before it.
        unsafe { libc::sigaction(libc::SIGBUS, &raw const action, std::ptr::null_mut()) };
    });
}

extern "C" fn on_bus_error(signal: c_int, info: *mut libc::siginfo_t, context: *mut c_void) {
    // SAFETY: the kernel passes a valid description of the signal.
    let address = unsafe { (*info).si_addr() } as usize;
    if replace_page(address) {
        return;
    }
    if let Some(previous) = PREVIOUS.get()
        && previous.sa_flags & libc::SA_SIGINFO != 0
    {
        // SAFETY: with this flag the field is a function of this type.
        let handler: extern "C" fn(c_int, *mut libc::siginfo_t, *mut c_void) =
            unsafe { std::mem::transmute(previous.sa_sigaction) };
        handler(signal, info, context);
        return;
    }
    // The default: the access is repeated on return, and ends the process.
    // SAFETY: all-zero bytes are a valid `sigaction` with the default handler.
    unsafe {
        let default: libc::sigaction = std::mem::zeroed();
        libc::sigaction(signal, &raw const default, std::ptr::null_mut());
    }
}

/// Puts a page of plain memory where this thread copies to, if that is where the fault was.
fn replace_page(address: usize) -> bool {
    TARGET.with(|target| {
        let page_bytes = PAGE_BYTES.load(Ordering::Relaxed);
        let page = address & !(page_bytes - 1);
        let first = target.start.load(Ordering::Relaxed) & !(page_bytes - 1);
        if page < first || page >= target.end.load(Ordering::Relaxed) {
            return false;
        }
        // SAFETY: the page is part of a mapping that this thread holds for writing and is copying
        // to; nothing else refers to it, and the mapping is dropped after the copy.
        let mapped = unsafe {
            libc::mmap(
                page as *mut c_void,
                page_bytes,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_FIXED,
                -1,
                0,
            )
        };
        target.lost.store(true, Ordering::Relaxed);
        mapped != libc::MAP_FAILED
    })
}
