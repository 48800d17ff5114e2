//! Opening a data directory: loads the newest snapshot, replays the log, cuts what a crash interrupted
//! and refuses what is damaged.

use std::fs::{self, File, OpenOptions};
use std::hash::{BuildHasher, Hasher};
use std::path::{Path, PathBuf};
use std::sync::{Arc, mpsc};

use super::Options;
use super::files::{self, Files, io_error};
use super::frame::{self, FORMAT_VERSION, HEADER_BYTES, Header, HeaderError, SEGMENT_MAGIC};
use super::history::History;
use super::log::{Log, Segment};
use super::record::{self, Record, RecordOp};
use super::snapshot;
use super::state::{Commit, State};
use crate::contract::Error;

/// Segments read ahead while replaying.
const READ_AHEAD_SEGMENTS: usize = 1;

pub(super) struct Recovered {
    pub state: State,
    pub history: History,
    pub log: Log,
}

pub(super) fn recover(dir: &Path, options: &Options) -> Result<Recovered, Error> {
    let files = files::list(dir)?;
    for path in &files.unfinished {
        files::remove(path)?;
    }
    let mut replay = Replay::start(dir, &files, options)?;
    replay.segments(&files)?;
    replay.finish(dir, options)
}

/// Where a segment's whole frames end.
struct End {
    number: u64,
    path: PathBuf,
    offset: u64,
    /// Nothing but zeros follows.
    clean: bool,
    len: u64,
}

struct Replay {
    state: State,
    history: History,
    /// `None` as long as neither a snapshot nor a segment told.
    store_id: Option<u64>,
    next_sequence: u64,
    first_segment: u64,
    replayed_bytes: u64,
    last: Option<End>,
    /// Segments without a header, in order: prepared ones, or one whose first write was interrupted.
    blank: Vec<(u64, PathBuf)>,
}

impl Replay {
    fn start(dir: &Path, files: &Files, options: &Options) -> Result<Self, Error> {
        let (state, store_id, next_sequence, first_segment) = match files.snapshots.last() {
            Some((sequence, path)) => {
                let loaded = snapshot::load(path)?;
                // Its name may so far stand in memory only: a crash can have come between the rename
                // and its sync. What it replaces goes only once that is safe.
                files::sync_dir(dir, &options.faults).map_err(|e| io_error("sync", dir, e))?;
                snapshot::remove_replaced(dir, *sequence, loaded.first_segment, &options.faults)?;
                let header = loaded.header;
                (loaded.state, Some(header.store_id), header.sequence + 1, loaded.first_segment)
            }
            None => (State::default(), None, 1, 1),
        };
        let history = History::new(state.revision, options.history_events, options.history_bytes);
        Ok(Replay {
            state,
            history,
            store_id,
            next_sequence,
            first_segment,
            replayed_bytes: 0,
            last: None,
            blank: Vec::new(),
        })
    }

    fn segments(&mut self, files: &Files) -> Result<(), Error> {
        let first = self.first_segment;
        let segments: Vec<_> = files.segments.iter().filter(|(number, _)| *number >= first).collect();
        let (send, loaded) = mpsc::sync_channel(READ_AHEAD_SEGMENTS);
        std::thread::scope(|scope| {
            let paths = segments.clone();
            scope.spawn(move || {
                for (_, path) in paths {
                    if send.send(fs::read(path)).is_err() {
                        return;
                    }
                }
            });
            // The receiver goes with this closure, which ends the reading thread also on an error.
            let loaded = loaded;
            for ((number, path), bytes) in segments.iter().zip(&loaded) {
                let bytes = bytes.map_err(|e| io_error("read", path, e))?;
                self.segment(*number, path, &bytes)?;
            }
            Ok(())
        })
    }

    fn segment(&mut self, number: u64, path: &Path, bytes: &[u8]) -> Result<(), Error> {
        let before =
            self.blank.last().map(|(number, _)| *number).or(self.last.as_ref().map(|end| end.number));
        let expected = before.map_or(self.first_segment, |number| number + 1);
        if number != expected {
            let missing = files::segment_path(path.parent().unwrap_or(path), expected);
            let why = "the file is missing, yet later ones are there".into();
            return Err(damaged(&missing, 0, why, self.cure(None)));
        }
        match Header::decode(bytes, SEGMENT_MAGIC) {
            Ok(header) => self.frames(number, path, bytes, header),
            Err(HeaderError::Newer(version)) => Err(header_error(path, &HeaderError::Newer(version), "")),
            Err(HeaderError::Invalid) => self.without_header(number, path, bytes),
        }
    }

    /// Fine if nothing durable was ever written to it.
    fn without_header(&mut self, number: u64, path: &Path, bytes: &[u8]) -> Result<(), Error> {
        let holds_data = match self.store_id {
            Some(id) => frame::find_later(bytes, 0, id, self.next_sequence).is_some(),
            // The very first header is durable before anything else is written.
            None => bytes.iter().any(|byte| *byte != 0),
        };
        if holds_data {
            let why = "the file's header is broken, yet data follows".into();
            return Err(damaged(path, 0, why, self.cure(Some((path, 0)))));
        }
        self.blank.push((number, path.to_owned()));
        Ok(())
    }

    fn frames(&mut self, number: u64, path: &Path, bytes: &[u8], header: Header) -> Result<(), Error> {
        if let Some((_, blank)) = self.blank.first() {
            let why = "the file's header is broken, yet later files hold data".into();
            return Err(damaged(blank, 0, why, self.cure(Some((blank, 0)))));
        }
        let store_id = *self.store_id.get_or_insert(header.store_id);
        if header.store_id != store_id {
            let why = "the file belongs to another store".into();
            return Err(damaged(path, 0, why, self.cure(Some((path, 0)))));
        }
        if header.sequence != self.next_sequence {
            return Err(self.gap(path, header.sequence));
        }
        let mut offset = HEADER_BYTES;
        while let Some((frame, body)) = frame::parse(bytes, offset, store_id) {
            if frame.sequence != self.next_sequence {
                break;
            }
            self.apply(body).map_err(|why| self.damaged_at(path, offset, why))?;
            self.next_sequence += 1;
            offset += frame.frame_len();
        }
        self.replayed_bytes += (offset - HEADER_BYTES) as u64;
        // A file cut inside the padding of its last frame is whole all the same.
        let rest = bytes.get(offset..).unwrap_or_default();
        let clean = rest.iter().all(|byte| *byte == 0);
        if !clean && frame::find_later(bytes, offset, store_id, self.next_sequence).is_some() {
            return Err(self.damaged_at(path, offset, "a frame is broken, yet whole ones follow".into()));
        }
        let (offset, len) = (offset as u64, bytes.len() as u64);
        self.last = Some(End { number, path: path.to_owned(), offset, clean, len });
        Ok(())
    }

    /// Frames are missing between the last one read and the segment that begins with `sequence`.
    fn gap(&self, path: &Path, sequence: u64) -> Error {
        let why = format!("frame {} is broken or missing, yet frame {sequence} follows", self.next_sequence);
        match &self.last {
            Some(end) => damaged(&end.path, end.offset, why, self.cure(Some((&end.path, end.offset)))),
            None => damaged(path, 0, why, self.cure(Some((path, 0)))),
        }
    }

    fn damaged_at(&self, path: &Path, offset: usize, why: String) -> Error {
        damaged(path, offset as u64, why, self.cure(Some((path, offset as u64))))
    }

    fn cure(&self, cut: Option<(&Path, u64)>) -> String {
        let revision = self.state.revision;
        let cut = cut.map_or(String::new(), |(path, offset)| {
            format!("run `truncate -s {offset} {}` and ", path.display())
        });
        format!(
            "Restore the data directory from a backup; or, to go on with what was written up to revision \
             {revision} and without anything later, {cut}remove the segment files after it"
        )
    }

    fn apply(&mut self, body: &[u8]) -> Result<(), String> {
        for record in record::decode(body)? {
            match record {
                Record::Txn { revision, ops } => self.apply_txn(revision, ops)?,
                Record::LeaseGrant { id, ttl_seconds } => self.state.grant(id, ttl_seconds),
                Record::LeaseRevoke { id } => drop(self.state.leases.remove(&id)),
                Record::Compact { revision } => self.history.compact(revision),
            }
        }
        Ok(())
    }

    fn apply_txn(&mut self, revision: u64, ops: Vec<RecordOp<'_>>) -> Result<(), String> {
        if revision != self.state.revision + 1 {
            return Err(format!("revision {revision} follows revision {}", self.state.revision));
        }
        let mut changes = Vec::with_capacity(ops.len());
        for op in ops {
            match op {
                RecordOp::Put { key, value, lease } => {
                    changes.push(self.state.put(key, value.into(), lease, revision));
                }
                RecordOp::Delete { key } => changes.extend(self.state.delete(key)),
            }
        }
        self.state.revision = revision;
        self.history.extend([Arc::new(Commit { revision, changes })], &self.state.map);
        Ok(())
    }

    /// Cuts the interrupted tail and makes the log ready to go on.
    fn finish(self, dir: &Path, options: &Options) -> Result<Recovered, Error> {
        let mut blank = self.blank.iter();
        let active = match &self.last {
            Some(end) => open_active(end)?,
            None => match blank.next() {
                Some((number, path)) => {
                    let file = open(path)?;
                    file.set_len(0).map_err(|e| io_error("empty", path, e))?;
                    Segment { file, number: *number, offset: 0, reserved: 0 }
                }
                None => first_segment(dir, &self, options)?,
            },
        };
        for (_, path) in blank {
            files::remove(path)?;
        }
        let store_id = match self.store_id {
            Some(id) => id,
            None => new_store(dir, &active)?,
        };
        let active =
            if self.store_id.is_none() { Segment { offset: HEADER_BYTES as u64, ..active } } else { active };
        files::sync_dir(dir, &options.faults).map_err(|e| io_error("sync", dir, e))?;
        let next = Header { store_id, sequence: self.next_sequence };
        let mut log = Log::new(dir, next, active, options)?;
        log.since_snapshot_bytes = self.replayed_bytes;
        Ok(Recovered { state: self.state, history: self.history, log })
    }
}

fn open(path: &Path) -> Result<File, Error> {
    OpenOptions::new().read(true).write(true).open(path).map_err(|e| io_error("open", path, e))
}

fn open_active(end: &End) -> Result<Segment, Error> {
    let file = open(&end.path)?;
    let mut reserved = end.len;
    if !end.clean {
        tracing::info!(path = %end.path.display(), offset = end.offset, "cut a write that a crash interrupted");
        file.set_len(end.offset).map_err(|e| io_error("cut", &end.path, e))?;
        reserved = end.offset;
    }
    // What was read may so far stand in the page cache only.
    file.sync_all().map_err(|e| io_error("sync", &end.path, e))?;
    Ok(Segment { file, number: end.number, offset: end.offset, reserved })
}

/// No segment at all: right for a new directory only.
fn first_segment(dir: &Path, replay: &Replay, options: &Options) -> Result<Segment, Error> {
    let number = replay.first_segment;
    let path = files::segment_path(dir, number);
    if replay.store_id.is_some() {
        let cure = "Restore the data directory from a backup; or, to go on with the snapshot alone, \
                    create it as an empty file"
            .to_owned();
        return Err(damaged(&path, 0, "the file is missing".into(), cure));
    }
    let bytes = options.segment_bytes;
    let file = files::create_segment(dir, number, bytes, &options.faults)
        .map_err(|e| io_error("create", &path, e))?;
    Ok(Segment { file, number, offset: 0, reserved: bytes })
}

/// Gives a new store its identity, durable before anything else.
fn new_store(dir: &Path, active: &Segment) -> Result<u64, Error> {
    use std::os::unix::fs::FileExt;
    let store_id = std::hash::RandomState::new().build_hasher().finish();
    let header = Header { store_id, sequence: 1 }.encode(SEGMENT_MAGIC);
    let written = active.file.write_all_at(&header, 0).and_then(|()| active.file.sync_all());
    written.map_err(|e| io_error("write", &files::segment_path(dir, active.number), e))?;
    Ok(store_id)
}

pub(super) fn damaged(path: &Path, offset: u64, why: String, cure: String) -> Error {
    Error::Damaged { path: path.display().to_string(), offset, why, cure }
}

pub(super) fn header_error(path: &Path, error: &HeaderError, cure: &str) -> Error {
    match error {
        HeaderError::Invalid => damaged(path, 0, "the file's header is broken".into(), cure.to_owned()),
        HeaderError::Newer(version) => Error::Backend(format!(
            "{} has format {version}, but this program reads up to {FORMAT_VERSION}: use a newer one",
            path.display()
        )),
    }
}
