//! The CRI log format: `<RFC 3339 time> <stream> <P|F> <line>`.
//!
//! Readers (the kubelet's `logs`) join lines tagged `P` (partial) up to the next `F` (full). A line is cut
//! at [`MAX_LINE_BYTES`] so that a program that never writes a newline cannot make a shim grow.

use std::{
    fs::{File, OpenOptions},
    io::Write,
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
};

/// Longest piece of a line kept in one record; the value the other runtimes use.
pub const MAX_LINE_BYTES: usize = 16 * 1024;

/// Which output a record came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stream {
    Stdout,
    Stderr,
}

impl Stream {
    fn name(self) -> &'static str {
        match self {
            Stream::Stdout => "stdout",
            Stream::Stderr => "stderr",
        }
    }
}

/// Cuts one output into records.
#[derive(Debug)]
pub struct LineCutter {
    stream: Stream,
    pending: Vec<u8>,
}

impl LineCutter {
    pub fn new(stream: Stream) -> Self {
        LineCutter { stream, pending: Vec::new() }
    }

    /// Appends to `out` the records that `data`, read at `timestamp`, completes.
    pub fn push(&mut self, data: &[u8], timestamp: &str, out: &mut Vec<u8>) {
        let mut rest = data;
        while let Some(end) = rest.iter().position(|byte| *byte == b'\n') {
            self.pending.extend_from_slice(&rest[..end]);
            rest = &rest[end + 1..];
            self.cut_long(timestamp, out);
            let line = std::mem::take(&mut self.pending);
            record(self.stream, timestamp, 'F', &line, out);
        }
        self.pending.extend_from_slice(rest);
        self.cut_long(timestamp, out);
    }

    /// Appends what is left when the output ends without a newline.
    pub fn finish(&mut self, timestamp: &str, out: &mut Vec<u8>) {
        if !self.pending.is_empty() {
            let line = std::mem::take(&mut self.pending);
            record(self.stream, timestamp, 'P', &line, out);
        }
    }

    fn cut_long(&mut self, timestamp: &str, out: &mut Vec<u8>) {
        while self.pending.len() > MAX_LINE_BYTES {
            let rest = self.pending.split_off(MAX_LINE_BYTES);
            let line = std::mem::replace(&mut self.pending, rest);
            record(self.stream, timestamp, 'P', &line, out);
        }
    }
}

fn record(stream: Stream, timestamp: &str, tag: char, line: &[u8], out: &mut Vec<u8>) {
    out.extend_from_slice(timestamp.as_bytes());
    out.push(b' ');
    out.extend_from_slice(stream.name().as_bytes());
    out.push(b' ');
    out.push(tag as u8);
    out.push(b' ');
    out.extend_from_slice(line);
    out.push(b'\n');
}

/// The log file of one container. Write errors (a full disk) lose log lines, never the container.
#[derive(Debug)]
pub struct LogFile {
    path: Option<PathBuf>,
    file: Option<File>,
}

impl LogFile {
    /// Opens `path` for appending; an empty path keeps no log.
    pub fn open(path: &Path) -> std::io::Result<LogFile> {
        if path.as_os_str().is_empty() {
            return Ok(LogFile { path: None, file: None });
        }
        let file = open_append(path)?;
        Ok(LogFile { path: Some(path.to_path_buf()), file: Some(file) })
    }

    /// Opens the path anew, after someone moved the old file away.
    pub fn reopen(&mut self) -> std::io::Result<()> {
        if let Some(path) = &self.path {
            self.file = Some(open_append(path)?);
        }
        Ok(())
    }

    /// Appends finished records.
    pub fn write(&mut self, records: &[u8]) {
        if let Some(file) = &mut self.file
            && let Err(error) = file.write_all(records)
        {
            eprintln!("log write failed: {error}");
        }
    }
}

fn open_append(path: &Path) -> std::io::Result<File> {
    if let Some(parent) = path.parent() {
        std::fs::create_dir_all(parent)?;
    }
    OpenOptions::new().append(true).create(true).mode(0o640).open(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    const T: &str = "2026-01-02T03:04:05.000000006Z";

    #[test]
    fn lines_become_records() {
        let mut cutter = LineCutter::new(Stream::Stdout);
        let mut out = Vec::new();
        cutter.push(b"one\ntw", T, &mut out);
        cutter.push(b"o\n\nrest", T, &mut out);
        cutter.finish(T, &mut out);
        let text = String::from_utf8(out).unwrap();
        let want: Vec<String> =
            ["F one", "F two", "F ", "P rest"].iter().map(|line| format!("{T} stdout {line}")).collect();
        assert_eq!(text.lines().collect::<Vec<_>>(), want);
    }

    #[test]
    fn long_lines_are_cut_into_partial_records() {
        let mut cutter = LineCutter::new(Stream::Stderr);
        let mut out = Vec::new();
        cutter.push(&vec![b'x'; MAX_LINE_BYTES * 2 + 5], T, &mut out);
        cutter.push(b"\n", T, &mut out);
        let text = String::from_utf8(out).unwrap();
        let tags: Vec<&str> = text.lines().map(|line| line.split(' ').nth(2).unwrap()).collect();
        assert_eq!(tags, ["P", "P", "F"]);
        assert!(text.lines().last().unwrap().ends_with(" xxxxx"));
    }
}
