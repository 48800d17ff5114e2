//! The log's writing end: appends frames to preallocated segments and makes them durable.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::thread::JoinHandle;

use super::Options;
use super::files::{self, Faults, Step, io_error};
use super::frame::{self, FRAME_HEADER_BYTES, HEADER_BYTES, Header, MAX_BODY_BYTES, SEGMENT_MAGIC};
use crate::contract::Error;

/// Why a frame was not appended.
#[derive(Debug)]
pub(super) enum AppendError {
    /// Nothing changed on disk; a later append may succeed.
    Refused(Error),
    /// The state on disk is no longer known; only a restart can find out.
    Broken(Error),
}

#[derive(Debug)]
pub(super) struct Log {
    dir: PathBuf,
    pub store_id: u64,
    pub next_sequence: u64,
    active: Segment,
    spare: SpareMaker,
    segment_bytes: u64,
    fsync: bool,
    faults: Faults,
    /// Bytes of frames that the newest snapshot does not cover.
    pub since_snapshot_bytes: u64,
}

#[derive(Debug)]
pub(super) struct Segment {
    pub file: File,
    pub number: u64,
    /// Where the next frame goes; 0 where not even the header is written.
    pub offset: u64,
    /// Bytes that have their place on disk.
    pub reserved: u64,
}

impl Log {
    pub fn new(dir: &Path, header: Header, active: Segment, options: &Options) -> Result<Self, Error> {
        let segment_bytes = options.segment_bytes;
        Ok(Log {
            dir: dir.to_owned(),
            store_id: header.store_id,
            next_sequence: header.sequence,
            spare: SpareMaker::start(dir, segment_bytes, options.faults.clone())?,
            active,
            segment_bytes,
            fsync: options.fsync,
            faults: options.faults.clone(),
            since_snapshot_bytes: 0,
        })
    }

    /// Appends a frame begun with [`frame::begin`]; on `Ok` it is durable.
    pub fn append(&mut self, frame: &mut Vec<u8>) -> Result<(), AppendError> {
        let body = frame.len() - FRAME_HEADER_BYTES;
        if body > MAX_BODY_BYTES {
            // What is larger could never be read back.
            let why = format!("a commit of {body} bytes, more than {MAX_BODY_BYTES}");
            return Err(AppendError::Refused(Error::TooLarge(why)));
        }
        frame::finish(frame, self.store_id, self.next_sequence);
        let len = frame.len() as u64;
        if self.active.offset > 0 && self.active.offset + len > self.segment_bytes {
            self.rotate().map_err(AppendError::Refused)?;
        }
        let needed = self.active.offset.max(HEADER_BYTES as u64) + len;
        let path = files::segment_path(&self.dir, self.active.number);
        self.active
            .reserve(needed, self.segment_bytes)
            .map_err(|e| AppendError::Refused(io_error("extend", &path, e)))?;
        let header = Header { store_id: self.store_id, sequence: self.next_sequence };
        let appended = self.active.append(&header, frame, self.fsync, &self.faults);
        appended.map_err(|failure| match failure {
            Failure::Undone(e) => AppendError::Refused(io_error("write", &path, e)),
            Failure::Broken(e) => AppendError::Broken(io_error("write", &path, e)),
        })?;
        self.next_sequence += 1;
        self.since_snapshot_bytes += len;
        if self.active.offset > self.segment_bytes / 2 {
            self.spare.prepare(self.active.number + 1);
        }
        Ok(())
    }

    /// Goes on in a fresh segment, so that a snapshot makes all others superfluous. Returns its number.
    pub fn rotate(&mut self) -> Result<u64, Error> {
        if self.active.offset == 0 {
            return Ok(self.active.number);
        }
        let number = self.active.number + 1;
        let path = files::segment_path(&self.dir, number);
        let file = self.spare.take(number).map_err(|e| io_error("create", &path, e))?;
        self.active = Segment { file, number, offset: 0, reserved: self.segment_bytes };
        Ok(number)
    }
}

enum Failure {
    Undone(io::Error),
    Broken(io::Error),
}

impl Segment {
    fn reserve(&mut self, needed: u64, segment_bytes: u64) -> io::Result<()> {
        if self.reserved < needed {
            let target = needed.max(segment_bytes);
            files::reserve(&self.file, target)?;
            self.reserved = target;
        }
        Ok(())
    }

    fn append(&mut self, header: &Header, frame: &[u8], fsync: bool, faults: &Faults) -> Result<(), Failure> {
        let written = faults.before(Step::Write).and_then(|()| self.write(header, frame));
        let sync = || faults.before(Step::Sync).and_then(|()| self.file.sync_data());
        let (end, failed) = match written {
            Ok(end) => match if fsync { sync() } else { Ok(()) } {
                Ok(()) => (end, None),
                // After a failed sync nobody knows what the disk holds, unless it merely was full.
                Err(e) if is_full(&e) => (end, Some(e)),
                Err(e) => return Err(Failure::Broken(e)),
            },
            Err(e) => (0, Some(e)),
        };
        match failed {
            None => {
                self.offset = end;
                Ok(())
            }
            Some(e) => Err(self.undo(e, faults)),
        }
    }

    fn write(&self, header: &Header, frame: &[u8]) -> io::Result<u64> {
        let mut at = self.offset;
        if at == 0 {
            self.file.write_all_at(&header.encode(SEGMENT_MAGIC), 0)?;
            at = HEADER_BYTES as u64;
        }
        self.file.write_all_at(frame, at)?;
        Ok(at + frame.len() as u64)
    }

    /// Takes back what part of a frame was written: a refused write must not come back after a crash.
    fn undo(&mut self, e: io::Error, faults: &Faults) -> Failure {
        self.reserved = self.offset;
        let cut = faults.before(Step::Cut).and_then(|()| self.file.set_len(self.offset));
        match cut.and_then(|()| self.file.sync_data()) {
            Ok(()) => Failure::Undone(e),
            Err(_) => Failure::Broken(e),
        }
    }
}

fn is_full(e: &io::Error) -> bool {
    matches!(e.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

/// Makes the next segment in the background: allocating tens of megabytes takes longer than a write.
#[derive(Debug)]
struct SpareMaker {
    /// `None` once it is to end.
    ask: Option<mpsc::Sender<u64>>,
    ready: mpsc::Receiver<io::Result<File>>,
    asked: bool,
    thread: Option<JoinHandle<()>>,
}

impl Drop for SpareMaker {
    /// Nothing may touch the directory any more once its lock is let go of.
    fn drop(&mut self) {
        self.ask = None;
        if let Some(thread) = self.thread.take() {
            // A panic has been printed where it happened.
            let _ = thread.join();
        }
    }
}

impl SpareMaker {
    fn start(dir: &Path, bytes: u64, faults: Faults) -> Result<Self, Error> {
        let (ask, asked) = mpsc::channel::<u64>();
        // At most one request is under way.
        let (done, ready) = mpsc::sync_channel(1);
        let owned = dir.to_owned();
        let thread = std::thread::Builder::new()
            .name("store-segments".into())
            .spawn(move || {
                for number in asked {
                    if done.send(files::create_segment(&owned, number, bytes, &faults)).is_err() {
                        return;
                    }
                }
            })
            .map_err(|e| io_error("start a thread for", dir, e))?;
        Ok(SpareMaker { ask: Some(ask), ready, asked: false, thread: Some(thread) })
    }

    fn prepare(&mut self, number: u64) {
        if !self.asked {
            // If the thread is gone, `take` says so.
            self.asked = self.ask.as_ref().is_some_and(|ask| ask.send(number).is_ok());
        }
    }

    fn take(&mut self, number: u64) -> io::Result<File> {
        let early = self.asked;
        match self.take_once(number) {
            // The disk may have been full when it was prepared, and not be any more.
            Err(_) if early => self.take_once(number),
            result => result,
        }
    }

    fn take_once(&mut self, number: u64) -> io::Result<File> {
        self.prepare(number);
        self.asked = false;
        self.ready.recv().unwrap_or_else(|_| Err(io::Error::other("the segment thread is gone")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A write that failed half-way must leave no bytes that recovery could take for a frame.
    #[test]
    fn a_refused_write_is_taken_back() {
        let (dir, none) = (tempfile::tempdir().unwrap(), Faults::default());
        let file = files::create_segment(dir.path(), 1, 8192, &none).unwrap();
        let mut segment = Segment { file, number: 1, offset: 0, reserved: 8192 };
        let header = Header { store_id: 3, sequence: 1 };
        let frame = |sequence| {
            let mut frame = Vec::new();
            frame::begin(&mut frame);
            frame.extend([sequence as u8; 40]);
            frame::finish(&mut frame, 3, sequence);
            frame
        };
        assert!(segment.append(&header, &frame(1), true, &none).is_ok());
        let end = segment.offset;
        segment.file.write_all_at(&frame(2), end).unwrap();
        let failure = segment.undo(io::Error::from(io::ErrorKind::StorageFull), &none);
        assert!(matches!(failure, Failure::Undone(_)));
        assert_eq!(segment.file.metadata().unwrap().len(), end);
        assert!(segment.reserve(end + 64, 8192).is_ok());
        assert_eq!(segment.file.metadata().unwrap().len(), 8192);
        assert!(segment.append(&header, &frame(2), true, &none).is_ok());
        let bytes = std::fs::read(files::segment_path(dir.path(), 1)).unwrap();
        let second = frame::parse(&bytes, end as usize, 3).unwrap();
        assert_eq!((second.0.sequence, second.1), (2, &[2; 40][..]));
    }
}
