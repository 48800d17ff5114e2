//! Descriptors of the shim: pipes, terminals, signals, and writes that never block its single thread.

use std::{
    collections::VecDeque,
    io::{self, IoSliceMut},
    mem::MaybeUninit,
    os::{
        fd::{AsFd, BorrowedFd, OwnedFd},
        unix::net::UnixListener,
    },
    path::Path,
};

use rustix::{
    fs::{OFlags, fcntl_getfl, fcntl_setfl},
    io::Errno,
    net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg},
    pipe::{PipeFlags, pipe_with},
    termios::{Winsize, tcsetwinsize},
};

/// Bytes read from a descriptor at a time.
pub const READ_CHUNK_BYTES: usize = 32 * 1024;

/// What one non-blocking read found.
pub enum ReadOutcome {
    Data(usize),
    WouldBlock,
    Ended,
}

/// Reads without blocking; a hung-up terminal counts as the end.
pub fn read_some(fd: BorrowedFd<'_>, buffer: &mut [u8]) -> ReadOutcome {
    match rustix::io::read(fd, buffer) {
        Ok(0) => ReadOutcome::Ended,
        Ok(length) => ReadOutcome::Data(length),
        Err(Errno::AGAIN | Errno::INTR) => ReadOutcome::WouldBlock,
        Err(_) => ReadOutcome::Ended,
    }
}

/// Bytes waiting to go out on a non-blocking descriptor.
#[derive(Debug, Default)]
pub struct Outgoing {
    bytes: VecDeque<u8>,
}

impl Outgoing {
    pub fn push(&mut self, data: &[u8]) {
        self.bytes.extend(data);
    }

    pub fn len(&self) -> usize {
        self.bytes.len()
    }

    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    pub fn clear(&mut self) {
        self.bytes.clear();
    }

    /// Writes what the descriptor takes now. An error means the peer is gone.
    pub fn flush(&mut self, fd: BorrowedFd<'_>) -> io::Result<()> {
        while !self.bytes.is_empty() {
            let (front, _) = self.bytes.as_slices();
            match rustix::io::write(fd, front) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(written) => {
                    self.bytes.drain(..written);
                }
                Err(Errno::AGAIN | Errno::INTR) => return Ok(()),
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }
}

/// A pipe whose ends close on exec; returns (read end, write end).
pub fn pipe() -> io::Result<(OwnedFd, OwnedFd)> {
    Ok(pipe_with(PipeFlags::CLOEXEC)?)
}

/// Makes reads and writes return instead of waiting.
pub fn set_nonblocking(fd: impl AsFd) -> io::Result<()> {
    let flags = fcntl_getfl(&fd)?;
    Ok(fcntl_setfl(&fd, flags | OFlags::NONBLOCK)?)
}

/// Binds a listener at a path of any length (the kernel allows 107 bytes).
pub fn bind_socket(path: &Path) -> io::Result<UnixListener> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let short = ShortSocketPath::new(path)?;
    UnixListener::bind(short.path())
}

/// A socket path through the descriptor of its directory, short enough for `sockaddr_un`.
pub struct ShortSocketPath {
    path: std::path::PathBuf,
    _directory: OwnedFd,
}

impl ShortSocketPath {
    pub fn new(path: &Path) -> io::Result<Self> {
        use std::os::fd::AsRawFd;
        let parent = path.parent().ok_or(io::ErrorKind::InvalidInput)?;
        let name = path.file_name().ok_or(io::ErrorKind::InvalidInput)?;
        let directory = rustix::fs::open(
            parent,
            OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC,
            rustix::fs::Mode::empty(),
        )?;
        let path = Path::new("/proc/self/fd").join(directory.as_raw_fd().to_string()).join(name);
        Ok(ShortSocketPath { path, _directory: directory })
    }

    pub fn path(&self) -> &Path {
        &self.path
    }
}

/// Takes the terminal's master side that libcontainer sends to the console socket.
pub fn receive_terminal(listener: &UnixListener) -> io::Result<OwnedFd> {
    let (stream, _) = listener.accept()?;
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let mut name = [0u8; 256];
    recvmsg(&stream, &mut [IoSliceMut::new(&mut name)], &mut ancillary, RecvFlags::CMSG_CLOEXEC)?;
    for message in ancillary.drain() {
        if let RecvAncillaryMessage::ScmRights(mut fds) = message
            && let Some(fd) = fds.next()
        {
            return Ok(fd);
        }
    }
    Err(io::Error::other("no terminal was sent"))
}

/// Tells a terminal its size.
pub fn resize_terminal(fd: BorrowedFd<'_>, width: u16, height: u16) {
    let size = Winsize { ws_row: height, ws_col: width, ws_xpixel: 0, ws_ypixel: 0 };
    if let Err(error) = tcsetwinsize(fd, size) {
        eprintln!("resize failed: {error}");
    }
}

/// Blocks SIGCHLD and SIGTERM and delivers them through a descriptor.
pub fn child_signals() -> io::Result<nix::sys::signalfd::SignalFd> {
    use nix::sys::{
        signal::{SigSet, Signal},
        signalfd::{SfdFlags, SignalFd},
    };
    let mut signals = SigSet::empty();
    signals.add(Signal::SIGCHLD);
    signals.thread_block()?;
    Ok(SignalFd::with_flags(&signals, SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC)?)
}

/// Lets every signal through again; a container must not inherit the shim's mask.
pub fn unblock_signals() -> io::Result<()> {
    Ok(nix::sys::signal::SigSet::all().thread_unblock()?)
}
