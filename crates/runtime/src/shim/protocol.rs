//! What the runtime and its shims say to each other, and the files a shim leaves behind.
//!
//! A control connection starts with one JSON line (a [`Request`]). `attach` connections continue as frames:
//! one byte of [`FrameKind`], four bytes of big-endian length, payload. Everything here is plain data so
//! that the asynchronous runtime and the single-threaded shim share one definition.

use serde::{Deserialize, Serialize};

/// File in the container's directory with the shim's configuration.
pub const SHIM_CONFIG_FILE: &str = "shim.json";
/// File in the container's directory that appears when the container has ended.
pub const EXIT_FILE: &str = "exit.json";
/// Directory in the container's directory where libcontainer keeps its state.
pub const OCI_STATE_DIR: &str = "oci";
/// Name under which libcontainer knows the container; its state is private to the container's directory.
pub const OCI_CONTAINER_ID: &str = "c";
/// Largest frame payload; bounds the memory one peer can make the other hold.
pub const MAX_FRAME_BYTES: usize = 64 * 1024;
/// Longest request line; requests are small JSON objects (exec requests carry environments).
pub const MAX_REQUEST_BYTES: usize = 4 * 1024 * 1024;
/// Bytes before a frame's payload.
pub const FRAME_HEADER_BYTES: usize = 5;

/// How to run one container.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ShimConfig {
    /// Path of the control socket.
    pub socket: String,
    /// CRI log file; empty means output is not kept.
    pub log_path: String,
    /// The process gets a pseudo-terminal.
    pub tty: bool,
    /// Standard input stays open for attach.
    pub stdin: bool,
    /// Standard input closes for good when the first attached client leaves.
    pub stdin_once: bool,
    /// Cgroup of the container, relative to each hierarchy's mount point.
    pub cgroup_path: String,
    #[serde(default)]
    pub confinement: Option<Confinement>,
}

/// What happens between libcontainer's work and the program.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Confinement {
    /// OCI seccomp profile.
    pub seccomp: serde_json::Value,
    /// Capabilities to keep of those in the specification; absent: all.
    #[serde(default)]
    pub keep_capabilities: Option<Vec<String>>,
}

/// First thing a shim reports on its standard output.
#[derive(Debug, Clone, Serialize, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "snake_case")]
pub enum StartReport {
    /// The container's first process runs.
    Started { pid: i32, started_at_nanos: i64 },
    /// Nothing runs; why.
    Failed { message: String },
}

/// How a container ended; content of [`EXIT_FILE`].
#[derive(Debug, Clone, Serialize, Deserialize, PartialEq, Eq)]
pub struct ExitRecord {
    /// Exit status, or 128 plus the signal that ended it.
    pub exit_code: i32,
    /// The memory cgroup killed one of its processes.
    pub oom_killed: bool,
    /// Nanoseconds since the epoch.
    pub finished_at_nanos: i64,
}

/// First line of a control connection.
#[derive(Debug, Clone, Serialize, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "snake_case", tag = "op")]
pub enum Request {
    /// Answer with an [`ExitRecord`] line when the container has ended.
    Wait,
    /// Open the log file anew, after rotation; answered by an [`Reply`] line.
    ReopenLog,
    /// Send a signal to the first process; answered by an [`Reply`] line.
    Signal { number: i32 },
    /// Stream input and output as frames.
    Attach { stdin: bool, stdout: bool, stderr: bool },
}

/// Answer to a request that has no other.
#[derive(Debug, Clone, Serialize, Deserialize, PartialEq, Eq)]
pub struct Reply {
    /// What went wrong; absent when nothing did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

/// What the runtime asks of an exec helper (first line on its control socket).
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ExecRequest {
    /// The container's directory.
    pub container_dir: String,
    /// OCI `process` object.
    pub process: serde_json::Value,
    #[serde(default)]
    pub confinement: Option<Confinement>,
}

/// What the runtime sends a running exec helper, one JSON object per line.
#[derive(Debug, Clone, Serialize, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "snake_case", tag = "op")]
pub enum ExecCommand {
    /// The terminal's size changed.
    Resize { width: u16, height: u16 },
    /// End the process now.
    Kill,
}

/// What an exec helper reports, one JSON object per line.
#[derive(Debug, Clone, Serialize, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "snake_case")]
pub enum ExecReport {
    /// The process runs.
    Started { pid: i32 },
    /// It could not be started.
    Failed { message: String },
    /// It ended with this status.
    Exited { exit_code: i32 },
}

/// What a frame carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum FrameKind {
    Stdin = 0,
    Stdout = 1,
    Stderr = 2,
    /// Payload: width and height, two bytes each, big endian.
    Resize = 3,
    /// No more standard input from this client.
    StdinClosed = 4,
    /// The container ended; payload: exit code, four bytes big endian.
    Exited = 5,
}

impl FrameKind {
    fn from_byte(byte: u8) -> Option<FrameKind> {
        [
            FrameKind::Stdin,
            FrameKind::Stdout,
            FrameKind::Stderr,
            FrameKind::Resize,
            FrameKind::StdinClosed,
            FrameKind::Exited,
        ]
        .into_iter()
        .find(|kind| *kind as u8 == byte)
    }
}

/// One decoded frame.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frame {
    pub kind: FrameKind,
    pub payload: Vec<u8>,
}

/// A peer that breaks the framing; the connection is of no further use.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("malformed frame on a shim connection")]
pub struct BrokenFrame;

/// Appends one frame to `out`. Payloads longer than [`MAX_FRAME_BYTES`] are split.
pub fn encode_frame(kind: FrameKind, payload: &[u8], out: &mut Vec<u8>) {
    if payload.is_empty() {
        out.push(kind as u8);
        out.extend_from_slice(&0u32.to_be_bytes());
        return;
    }
    for chunk in payload.chunks(MAX_FRAME_BYTES) {
        out.push(kind as u8);
        out.extend_from_slice(&(chunk.len() as u32).to_be_bytes());
        out.extend_from_slice(chunk);
    }
}

/// Takes the first complete frame off `buffer`, or `None` when more bytes are needed.
pub fn decode_frame(buffer: &mut Vec<u8>) -> Result<Option<Frame>, BrokenFrame> {
    let Some(header) = buffer.first_chunk::<FRAME_HEADER_BYTES>() else { return Ok(None) };
    let kind = FrameKind::from_byte(header[0]).ok_or(BrokenFrame)?;
    let length = u32::from_be_bytes([header[1], header[2], header[3], header[4]]) as usize;
    if length > MAX_FRAME_BYTES {
        return Err(BrokenFrame);
    }
    let end = FRAME_HEADER_BYTES + length;
    if buffer.len() < end {
        return Ok(None);
    }
    let payload = buffer[FRAME_HEADER_BYTES..end].to_vec();
    buffer.drain(..end);
    Ok(Some(Frame { kind, payload }))
}

/// Payload of a [`FrameKind::Resize`] frame.
pub fn encode_size(width: u16, height: u16) -> [u8; 4] {
    let [w0, w1] = width.to_be_bytes();
    let [h0, h1] = height.to_be_bytes();
    [w0, w1, h0, h1]
}

/// Width and height from a [`FrameKind::Resize`] payload.
pub fn decode_size(payload: &[u8]) -> Option<(u16, u16)> {
    let bytes: [u8; 4] = payload.try_into().ok()?;
    Some((u16::from_be_bytes([bytes[0], bytes[1]]), u16::from_be_bytes([bytes[2], bytes[3]])))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_survive_any_split() {
        let mut wire = Vec::new();
        encode_frame(FrameKind::Stdout, b"hello", &mut wire);
        encode_frame(FrameKind::StdinClosed, b"", &mut wire);
        encode_frame(FrameKind::Resize, &encode_size(80, 24), &mut wire);
        for split in 0..wire.len() {
            let mut buffer = wire[..split].to_vec();
            let mut frames = Vec::new();
            while let Some(frame) = decode_frame(&mut buffer).unwrap() {
                frames.push(frame);
            }
            buffer.extend_from_slice(&wire[split..]);
            while let Some(frame) = decode_frame(&mut buffer).unwrap() {
                frames.push(frame);
            }
            assert_eq!(frames.len(), 3);
            assert_eq!(frames[0].payload, b"hello");
            assert_eq!(frames[1].kind, FrameKind::StdinClosed);
            assert_eq!(decode_size(&frames[2].payload), Some((80, 24)));
        }
    }

    #[test]
    fn long_payloads_are_split_and_broken_ones_refused() {
        let mut wire = Vec::new();
        encode_frame(FrameKind::Stderr, &vec![7; MAX_FRAME_BYTES + 1], &mut wire);
        assert_eq!(decode_frame(&mut wire).unwrap().unwrap().payload.len(), MAX_FRAME_BYTES);
        assert_eq!(decode_frame(&mut wire).unwrap().unwrap().payload, [7]);
        assert_eq!(decode_frame(&mut vec![99, 0, 0, 0, 0]), Err(BrokenFrame));
        assert_eq!(decode_frame(&mut vec![1, 255, 0, 0, 0]), Err(BrokenFrame));
    }
}
