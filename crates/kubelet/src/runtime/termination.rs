//! The last words of a container: its termination message file, or the end of its log.

use std::io::{Read, Seek, SeekFrom};
use std::path::Path;

use amphipod_cri::v1::ContainerStatus;

use crate::server::logs::parse_line;
use crate::spec::labels;

/// Upstream's bounds for one container.
const MAX_FILE_BYTES: u64 = 4096;
const MAX_LOG_BYTES: u64 = 2048;
const MAX_LOG_LINES: usize = 80;
/// Log lines carry a time and a stream name besides their text; this much is read to find them.
const LOG_WINDOW_BYTES: u64 = 64 * 1024;

/// What an ended container left, if anything.
pub fn message(status: &ContainerStatus) -> Option<String> {
    let path = status.annotations.get(labels::TERMINATION_PATH)?;
    let file = status.mounts.iter().find(|m| m.container_path == *path);
    let text = file.and_then(|m| read_end(Path::new(&m.host_path), MAX_FILE_BYTES)).unwrap_or_default();
    if !text.is_empty() {
        return Some(text);
    }
    let policy = status.annotations.get(labels::TERMINATION_POLICY).map(String::as_str);
    let fall_back = policy == Some("FallbackToLogsOnError") && status.exit_code != 0;
    fall_back.then(|| log_end(Path::new(&status.log_path))).flatten()
}

fn read_end(path: &Path, limit: u64) -> Option<String> {
    let mut file = std::fs::File::open(path).ok()?;
    let length = file.metadata().ok()?.len();
    file.seek(SeekFrom::Start(length.saturating_sub(limit))).ok()?;
    let mut bytes = Vec::new();
    file.take(limit).read_to_end(&mut bytes).ok()?;
    Some(String::from_utf8_lossy(&bytes).into_owned())
}

fn log_end(path: &Path) -> Option<String> {
    let window = read_end(path, LOG_WINDOW_BYTES)?;
    let lines: Vec<&str> = window.split_inclusive('\n').collect();
    let mut text = String::new();
    for line in lines.iter().skip(lines.len().saturating_sub(MAX_LOG_LINES)) {
        if let Some(parsed) = parse_line(line.as_bytes()) {
            text.push_str(&String::from_utf8_lossy(parsed.text));
            if !parsed.partial {
                text.push('\n');
            }
        }
    }
    let start = text.len().saturating_sub(usize::try_from(MAX_LOG_BYTES).unwrap_or(usize::MAX));
    let start = (start..=text.len()).find(|i| text.is_char_boundary(*i)).unwrap_or(0);
    Some(text[start..].to_owned()).filter(|t| !t.is_empty())
}
