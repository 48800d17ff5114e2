//! Snapshots: the whole state in one file, so that the log before it can go.
//!
//! Written beside the running store from a clone of the state, under a temporary name; it counts from
//! the moment it has its final name.

use std::fs::{self, File};
use std::io::{self, BufReader, Read, Write};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;

use super::files::{self, Faults, Step, io_error};
use super::frame::{self, FRAME_HEADER_BYTES, FrameHeader, HEADER_BYTES, Header, SNAPSHOT_MAGIC};
use super::record::{Reader, put_bytes, put_text};
use super::state::State;
use crate::contract::{Error, Key, KeyValue};

/// Size from which a frame of items is closed.
const BLOCK_BYTES: usize = 1 << 20;
/// Written bytes between two syncs: keeps the log's own syncs from waiting behind a mountain.
const SYNC_BYTES: usize = 8 << 20;
/// Blocks read ahead while loading.
const READ_AHEAD_BLOCKS: usize = 4;
const CURE: &str = "Restore the data directory from a backup";

/// What a snapshot is taken of.
pub(super) struct Snapshot {
    pub state: State,
    pub header: Header,
    /// The first segment whose frames it does not hold.
    pub first_segment: u64,
}

/// Writes the snapshot and removes the files it replaces. `stop` gives up early.
pub(super) fn write(
    dir: &Path,
    snapshot: &Snapshot,
    stop: &AtomicBool,
    faults: &Faults,
) -> Result<(), Error> {
    let temporary = files::unfinished_snapshot_path(dir, snapshot.header.sequence);
    let path = files::snapshot_path(dir, snapshot.header.sequence);
    let written = write_file(&temporary, snapshot, stop, faults)
        .and_then(|()| faults.before(Step::Rename))
        .and_then(|()| fs::rename(&temporary, &path))
        .and_then(|()| files::sync_dir(dir, faults));
    if let Err(e) = written {
        files::remove(&temporary)?;
        return Err(io_error("write", &path, e));
    }
    remove_replaced(dir, snapshot.header.sequence, snapshot.first_segment, faults)
}

/// Removes what a finished snapshot made superfluous, oldest first.
pub(super) fn remove_replaced(
    dir: &Path,
    sequence: u64,
    first_segment: u64,
    faults: &Faults,
) -> Result<(), Error> {
    let files = files::list(dir)?;
    let segments = files.segments.iter().filter(|(number, _)| *number < first_segment);
    let snapshots = files.snapshots.iter().filter(|(number, _)| *number < sequence);
    for (_, path) in segments.chain(snapshots) {
        faults.before(Step::Remove).map_err(|e| io_error("remove", path, e))?;
        files::remove(path)?;
    }
    Ok(())
}

fn write_file(path: &Path, snapshot: &Snapshot, stop: &AtomicBool, faults: &Faults) -> io::Result<()> {
    faults.before(Step::Create)?;
    let mut file = File::create(path)?;
    file.write_all(&snapshot.header.encode(SNAPSHOT_MAGIC))?;
    let store_id = snapshot.header.store_id;
    let mut blocks = Blocks { file, store_id, written: 0, unsynced: 0, faults };
    let mut block = Vec::with_capacity(BLOCK_BYTES * 2);
    frame::begin(&mut block);
    encode_meta(snapshot, &mut block);
    blocks.write(&mut block)?;
    for item in snapshot.state.map.values() {
        encode_item(item, &mut block);
        if block.len() >= BLOCK_BYTES {
            if stop.load(Ordering::Relaxed) {
                return Err(io::Error::other("the store is closing"));
            }
            blocks.write(&mut block)?;
        }
    }
    blocks.write(&mut block)?;
    faults.before(Step::Sync)?;
    blocks.file.sync_all()
}

struct Blocks<'a> {
    faults: &'a Faults,
    file: File,
    store_id: u64,
    written: u64,
    unsynced: usize,
}

impl Blocks<'_> {
    fn write(&mut self, block: &mut Vec<u8>) -> io::Result<()> {
        self.written += 1;
        frame::finish(block, self.store_id, self.written);
        self.faults.before(Step::Write)?;
        self.file.write_all(block)?;
        self.unsynced += block.len();
        if self.unsynced >= SYNC_BYTES {
            self.file.sync_data()?;
            self.unsynced = 0;
        }
        frame::begin(block);
        Ok(())
    }
}

fn encode_meta(snapshot: &Snapshot, out: &mut Vec<u8>) {
    let state = &snapshot.state;
    out.extend_from_slice(&state.revision.to_le_bytes());
    out.extend_from_slice(&snapshot.first_segment.to_le_bytes());
    out.extend_from_slice(&(state.map.len() as u64).to_le_bytes());
    out.extend_from_slice(&state.last_lease.to_le_bytes());
    for (id, lease) in &state.leases {
        out.extend_from_slice(&id.to_le_bytes());
        out.extend_from_slice(&lease.ttl_seconds.to_le_bytes());
    }
}

fn encode_item(item: &KeyValue, out: &mut Vec<u8>) {
    out.extend_from_slice(&item.create_revision.to_le_bytes());
    out.extend_from_slice(&item.mod_revision.to_le_bytes());
    out.extend_from_slice(&item.version.to_le_bytes());
    out.extend_from_slice(&item.lease.unwrap_or(0).to_le_bytes());
    put_bytes(out, item.key.as_bytes());
    put_text(out, &item.value);
}

/// Reads a snapshot back.
pub(super) fn load(path: &Path) -> Result<Snapshot, Error> {
    let file = File::open(path).map_err(|e| io_error("open", path, e))?;
    let mut input = BufReader::new(file);
    let mut bytes = [0; HEADER_BYTES];
    let header = match input.read_exact(&mut bytes) {
        Ok(()) => Header::decode(&bytes, SNAPSHOT_MAGIC),
        Err(_) => Err(frame::HeaderError::Invalid),
    };
    let header = header.map_err(|e| super::recovery::header_error(path, &e, CURE))?;
    let (send, blocks) = mpsc::sync_channel(READ_AHEAD_BLOCKS);
    std::thread::scope(|scope| {
        scope.spawn(move || read_blocks(input, header.store_id, &send));
        build(path, header, blocks)
    })
}

/// One block's place and body, or what is wrong there.
type Block = (u64, Result<Vec<u8>, String>);

fn read_blocks(mut input: BufReader<File>, store_id: u64, send: &mpsc::SyncSender<Block>) {
    let (mut offset, mut number) = (HEADER_BYTES as u64, 1);
    loop {
        let block = read_block(&mut input, store_id, number);
        let Some(block) = block.transpose() else { return };
        let len = block.as_ref().map_or(0, |(len, _)| *len);
        let failed = block.is_err();
        if send.send((offset, block.map(|(_, body)| body))).is_err() || failed {
            return;
        }
        offset += len;
        number += 1;
    }
}

/// The next frame's length and body; `None` at the end of the file.
fn read_block(
    input: &mut BufReader<File>,
    store_id: u64,
    number: u64,
) -> Result<Option<(u64, Vec<u8>)>, String> {
    let mut header = Vec::with_capacity(FRAME_HEADER_BYTES);
    let mut limited = input.take(FRAME_HEADER_BYTES as u64);
    limited.read_to_end(&mut header).map_err(|e| e.to_string())?;
    if header.is_empty() {
        return Ok(None);
    }
    let header = FrameHeader::decode(&header, store_id).ok_or("a broken block header")?;
    if header.sequence != number {
        return Err(format!("block {} where block {number} belongs", header.sequence));
    }
    let mut body = vec![0; header.frame_len() - FRAME_HEADER_BYTES];
    input.read_exact(&mut body).map_err(|e| e.to_string())?;
    body.truncate(header.body_len);
    if !header.matches(&body) {
        return Err("a block whose checksum does not match".to_owned());
    }
    Ok(Some((header.frame_len() as u64, body)))
}

fn build(path: &Path, header: Header, blocks: mpsc::Receiver<Block>) -> Result<Snapshot, Error> {
    let mut end = HEADER_BYTES as u64;
    let damaged = |offset, why| super::recovery::damaged(path, offset, why, CURE.to_owned());
    let mut meta: Option<(Snapshot, u64)> = None;
    for (offset, block) in blocks {
        end = offset;
        let body = block.map_err(|why| damaged(offset, why))?;
        match &mut meta {
            None => meta = Some(decode_meta(&body, header).map_err(|why| damaged(offset, why))?),
            Some((snapshot, _)) => {
                decode_items(&body, &mut snapshot.state).map_err(|why| damaged(offset, why))?;
            }
        }
    }
    match meta {
        Some((snapshot, items)) if snapshot.state.map.len() as u64 == items => Ok(snapshot),
        Some((snapshot, items)) => {
            let why = format!("{} items where {items} belong", snapshot.state.map.len());
            Err(damaged(end, why))
        }
        None => Err(damaged(end, "the first block is missing".to_owned())),
    }
}

fn decode_meta(body: &[u8], header: Header) -> Result<(Snapshot, u64), String> {
    let mut reader = Reader(body);
    let mut state = State { revision: reader.u64()?, ..State::default() };
    let first_segment = reader.u64()?;
    let items = reader.u64()?;
    state.last_lease = reader.i64()?;
    while !reader.is_empty() {
        let id = reader.i64()?;
        state.grant(id, reader.u64()?);
    }
    Ok((Snapshot { state, header, first_segment }, items))
}

fn decode_items(body: &[u8], state: &mut State) -> Result<(), String> {
    let mut reader = Reader(body);
    while !reader.is_empty() {
        let (create_revision, mod_revision, version) = (reader.u64()?, reader.u64()?, reader.u64()?);
        let lease = reader.lease()?;
        let key: Key = Arc::from(reader.str()?);
        let value = reader.bytes()?.into();
        state.insert(KeyValue { key, value, create_revision, mod_revision, version, lease });
    }
    Ok(())
}
