//! Takes samples: with every [`HERTZ`]th of a second of processor time the kernel interrupts the thread
//! that used it, and its registers and the top of its stack are copied into a file in memory.
//!
//! The handler makes system calls and atomic accesses, nothing else: no lock, no allocation, no read of
//! memory that may not be there (the kernel reads the stack, and stops where it ends).

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd};
use std::os::unix::fs::FileExt;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicUsize, Ordering};

use crate::{Error, HERTZ};

/// Samples there is room for: [`crate::DRAIN_INTERVAL`] of 50 busy processors.
const SLOTS: usize = 512;
/// Of a stack, from its top: twice what its deepest futures take, four times what `perf` copies.
const STACK_BYTES: usize = 32 << 10;
const REGISTERS_BYTES: usize = size_of::<Registers>();
const SLOT_BYTES: usize = REGISTERS_BYTES + STACK_BYTES;

#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct Registers {
    pub pc: u64,
    pub sp: u64,
    pub fp: u64,
    /// Where the innermost function returns to, on machines that keep it in a register.
    pub lr: u64,
}

#[derive(Debug)]
pub struct Sample {
    pub registers: Registers,
    /// From the stack pointer up.
    pub stack: Vec<u8>,
}

/// The file samples go to, -1 while none are taken.
static TARGET: AtomicI32 = AtomicI32::new(-1);
static TAKEN: AtomicBool = AtomicBool::new(false);
/// Slots given to samples, and slots read, since the process began.
static CLAIMED: AtomicUsize = AtomicUsize::new(0);
static READ: AtomicUsize = AtomicUsize::new(0);
static LOST: AtomicUsize = AtomicUsize::new(0);
/// Bytes of a slot that are there; 0 until it is written.
static READY: [AtomicUsize; SLOTS] = [const { AtomicUsize::new(0) }; SLOTS];

/// The right to sample this process.
pub struct Sampler {
    file: &'static File,
}

impl Sampler {
    pub fn claim() -> Result<Self, Error> {
        let file = file().map_err(Error::Sampler)?;
        if TAKEN.swap(true, Ordering::SeqCst) {
            return Err(Error::Busy);
        }
        let sampler = Sampler { file };
        // What an earlier profile left.
        sampler.drain(|_| {});
        LOST.store(0, Ordering::Relaxed);
        Ok(sampler)
    }

    pub fn start(&self) -> Result<(), Error> {
        handle().map_err(Error::Sampler)?;
        TARGET.store(self.file.as_raw_fd(), Ordering::SeqCst);
        every(1_000_000 / HERTZ).map_err(Error::Sampler)
    }

    pub fn stop(&self) {
        // It cannot fail with this argument, and without a target nothing is taken.
        let _ = every(0);
        TARGET.store(-1, Ordering::SeqCst);
    }

    /// Reads what was taken since the last time, in order.
    pub fn drain(&self, mut each: impl FnMut(&Sample)) {
        let mut slot = vec![0; SLOT_BYTES];
        let mut next = READ.load(Ordering::Relaxed);
        while next != CLAIMED.load(Ordering::Acquire) {
            let bytes = READY[next % SLOTS].swap(0, Ordering::AcqRel);
            if bytes == 0 {
                // Its thread is not done with it.
                return;
            }
            let offset = (next % SLOTS * SLOT_BYTES) as u64;
            if self.file.read_exact_at(&mut slot[..bytes], offset).is_ok()
                && let Some(sample) = parse(&slot[..bytes])
            {
                each(&sample);
            }
            next = next.wrapping_add(1);
            READ.store(next, Ordering::Release);
        }
    }

    pub fn lost(&self) -> usize {
        LOST.load(Ordering::Relaxed)
    }
}

impl Drop for Sampler {
    fn drop(&mut self) {
        self.stop();
        // Its memory goes back; the file stays, so that a late sample cannot reach another one.
        let _ = self.file.set_len(0);
        TAKEN.store(false, Ordering::SeqCst);
    }
}

fn parse(slot: &[u8]) -> Option<Sample> {
    let (head, stack) = slot.split_at_checked(REGISTERS_BYTES)?;
    let word =
        |i: usize| head.get(i * 8..).and_then(|rest| rest.first_chunk()).map(|b| u64::from_ne_bytes(*b));
    let registers = Registers { pc: word(0)?, sp: word(1)?, fp: word(2)?, lr: word(3)? };
    Some(Sample { registers, stack: stack.to_vec() })
}

/// One for the life of the process.
fn file() -> io::Result<&'static File> {
    static MADE: OnceLock<File> = OnceLock::new();
    if let Some(file) = MADE.get() {
        return Ok(file);
    }
    // SAFETY: the name is a C string; the descriptor is new and owned by nobody else.
    let made = unsafe {
        let descriptor = libc::memfd_create(c"profile".as_ptr(), libc::MFD_CLOEXEC);
        if descriptor < 0 {
            return Err(io::Error::last_os_error());
        }
        File::from_raw_fd(descriptor)
    };
    // Of two made at once, one is closed again.
    Ok(MADE.get_or_init(|| made))
}

/// The handler stays for the life of the process: a late signal would end it otherwise, and one that is
/// ignored would be so in every program it starts.
fn handle() -> io::Result<()> {
    // SAFETY: all zeros are a valid sigaction; the handler is a function of the three arguments that
    // SA_SIGINFO passes. Interrupted calls are taken up again, and threads that have a stack for signals
    // use it, so that a small stack does not overflow.
    let outcome = unsafe {
        let mut wanted: libc::sigaction = std::mem::zeroed();
        wanted.sa_sigaction = take as *const () as libc::sighandler_t;
        wanted.sa_flags = libc::SA_SIGINFO | libc::SA_RESTART | libc::SA_ONSTACK;
        libc::sigaction(libc::SIGPROF, &wanted, std::ptr::null_mut())
    };
    if outcome == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Asks for the signal with every so many microseconds of processor time; 0 ends that.
fn every(microseconds: u32) -> io::Result<()> {
    let period = libc::timeval { tv_sec: 0, tv_usec: libc::suseconds_t::from(microseconds) };
    let timer = libc::itimerval { it_interval: period, it_value: period };
    // SAFETY: the value lives as long as the call; the old one is not asked for.
    let outcome = unsafe { libc::setitimer(libc::ITIMER_PROF, &timer, std::ptr::null_mut()) };
    if outcome == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

extern "C" fn take(_: libc::c_int, _: *mut libc::siginfo_t, context: *mut libc::c_void) {
    let target = TARGET.load(Ordering::SeqCst);
    if target < 0 || context.is_null() {
        return;
    }
    // SAFETY: errno is the thread's own and always there. With SA_SIGINFO the kernel passes the
    // interrupted thread's state, which nobody else writes while this runs.
    unsafe {
        let errno = *libc::__errno_location();
        record(target, registers(&*context.cast::<libc::ucontext_t>()));
        *libc::__errno_location() = errno;
    }
}

fn record(target: i32, registers: Registers) {
    let claim = |claimed: usize| {
        let room = claimed.wrapping_sub(READ.load(Ordering::Acquire)) < SLOTS;
        room.then(|| claimed.wrapping_add(1))
    };
    let Ok(claimed) = CLAIMED.fetch_update(Ordering::AcqRel, Ordering::Acquire, claim) else {
        LOST.fetch_add(1, Ordering::Relaxed);
        return;
    };
    let slot = claimed % SLOTS;
    // 512 slots of 32 KiB: far from the end of the type.
    let offset = (slot * SLOT_BYTES) as libc::off_t;
    let stack = registers.sp as *const libc::c_void;
    // SAFETY: pwrite is safe in a handler. The first buffer is a local; the second is read by the kernel
    // alone, which answers how much of it there was.
    let copied = unsafe {
        libc::pwrite(target, (&raw const registers).cast(), REGISTERS_BYTES, offset);
        libc::pwrite(target, stack, STACK_BYTES, offset + REGISTERS_BYTES as libc::off_t)
    };
    READY[slot].store(REGISTERS_BYTES + usize::try_from(copied).unwrap_or(0), Ordering::Release);
}

#[cfg(target_arch = "x86_64")]
fn registers(context: &libc::ucontext_t) -> Registers {
    let of = |register: libc::c_int| context.uc_mcontext.gregs[register as usize] as u64;
    Registers { pc: of(libc::REG_RIP), sp: of(libc::REG_RSP), fp: of(libc::REG_RBP), lr: 0 }
}

#[cfg(target_arch = "aarch64")]
fn registers(context: &libc::ucontext_t) -> Registers {
    let state = &context.uc_mcontext;
    Registers { pc: state.pc, sp: state.sp, fp: state.regs[29], lr: state.regs[30] }
}
