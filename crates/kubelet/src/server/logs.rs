//! Container logs: the CRI format read back, from the end, since a time, or as it grows.

use std::io::{Read, Seek, SeekFrom};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::Bytes;
use jiff::{SignedDuration, Timestamp};
use notify::Watcher;
use tokio::sync::mpsc;

/// Read at a time.
const BLOCK: usize = 64 * 1024;
/// A line longer than this is passed on in pieces.
const MAX_LINE: usize = 1 << 20;
/// Pieces waiting for a slow reader.
const QUEUE: usize = 16;
/// A look at a quiet log, should the file watch have missed something.
const IDLE_CHECK: Duration = Duration::from_secs(1);

/// One line of a CRI log file.
#[derive(Debug, PartialEq)]
pub struct Line<'a> {
    pub time: &'a str,
    pub stream: &'a str,
    /// The text goes on in the next line.
    pub partial: bool,
    pub text: &'a [u8],
}

pub fn parse_line(line: &[u8]) -> Option<Line<'_>> {
    let line = line.strip_suffix(b"\n").unwrap_or(line);
    let mut parts = line.splitn(4, |b| *b == b' ');
    let time = std::str::from_utf8(parts.next()?).ok()?;
    let stream = std::str::from_utf8(parts.next()?).ok()?;
    let tags = std::str::from_utf8(parts.next()?).ok()?;
    let text = parts.next().unwrap_or_default();
    Some(Line { time, stream, partial: tags.split(':').next() == Some("P"), text })
}

#[derive(Clone, Debug, Default)]
pub struct Options {
    pub follow: bool,
    pub previous: bool,
    pub timestamps: bool,
    pub tail: Option<u64>,
    pub since: Option<Timestamp>,
    pub limit_bytes: Option<u64>,
}

impl Options {
    /// From a query such as `tailLines=10&follow=true`.
    pub fn parse(query: &[(String, String)], now: Timestamp) -> Result<Self, String> {
        let mut options = Options::default();
        let is_true = |v: &str| v == "true" || v == "1" || v.is_empty();
        for (key, value) in query {
            let number = || value.parse::<u64>().map_err(|_| format!("invalid {key}: {value:?}"));
            match key.as_str() {
                "follow" => options.follow = is_true(value),
                "previous" => options.previous = is_true(value),
                "timestamps" => options.timestamps = is_true(value),
                "tailLines" | "tail" if value != "all" => options.tail = Some(number()?),
                "limitBytes" => options.limit_bytes = Some(number()?),
                "sinceSeconds" | "since" => {
                    let seconds = i64::try_from(number()?).map_err(|e| e.to_string())?;
                    options.since = now.checked_sub(SignedDuration::from_secs(seconds)).ok();
                }
                "sinceTime" => {
                    let time = value.parse().map_err(|_| format!("invalid sinceTime: {value:?}"))?;
                    options.since = Some(time);
                }
                _ => {}
            }
        }
        Ok(options)
    }
}

/// Turns lines of the file into what the reader asked for.
struct Printer {
    options: Options,
    left: u64,
    line_start: bool,
    skipping: bool,
}

impl Printer {
    fn new(options: Options) -> Self {
        Printer { left: options.limit_bytes.unwrap_or(u64::MAX), options, line_start: true, skipping: false }
    }

    fn print(&mut self, line: &Line, out: &mut Vec<u8>) {
        if self.line_start {
            let time =
                self.options.since.and_then(|since| Some((since, line.time.parse::<Timestamp>().ok()?)));
            self.skipping = time.is_some_and(|(since, time)| time < since);
            if !self.skipping && self.options.timestamps {
                self.push(line.time.as_bytes(), out);
                self.push(b" ", out);
            }
        }
        self.line_start = !line.partial;
        if self.skipping {
            return;
        }
        self.push(line.text, out);
        if !line.partial {
            self.push(b"\n", out);
        }
    }

    fn push(&mut self, bytes: &[u8], out: &mut Vec<u8>) {
        let take = bytes.len().min(usize::try_from(self.left).unwrap_or(usize::MAX));
        out.extend_from_slice(&bytes[..take]);
        self.left -= take as u64;
    }
}

/// Where the last `lines` logical lines of the file begin.
pub fn tail_offset(file: &mut std::fs::File, lines: u64) -> std::io::Result<u64> {
    let mut position = file.seek(SeekFrom::End(0))?;
    if lines == 0 {
        return Ok(position);
    }
    let mut carry: Vec<u8> = Vec::new();
    let mut found = 0;
    while position > 0 {
        let size = position.min(BLOCK as u64);
        position -= size;
        file.seek(SeekFrom::Start(position))?;
        let mut block = vec![0; usize::try_from(size).unwrap_or(BLOCK)];
        file.read_exact(&mut block)?;
        block.append(&mut carry);
        let mut end = block.len();
        while let Some(newline) = block[..end.saturating_sub(1)].iter().rposition(|b| *b == b'\n') {
            let line = &block[newline + 1..end];
            if parse_line(line).is_some_and(|l| !l.partial) {
                found += 1;
                if found > lines {
                    return Ok(position + end as u64);
                }
            }
            end = newline + 1;
        }
        block.truncate(end);
        carry = block;
    }
    let first_ends_a_line = parse_line(&carry).is_some_and(|l| !l.partial);
    if found + u64::from(first_ends_a_line) > lines { Ok(carry.len() as u64) } else { Ok(0) }
}

/// Says whether a log can still grow.
pub type Alive = Box<dyn Fn() -> futures::future::BoxFuture<'static, bool> + Send + Sync>;

/// The log as a stream of pieces. `alive` is asked at the end of the file: a log that can grow no
/// more is over.
pub fn stream(path: PathBuf, options: Options, alive: Alive) -> std::io::Result<mpsc::Receiver<Bytes>> {
    let mut file = std::fs::File::open(&path)?;
    let start = match options.tail {
        Some(lines) => tail_offset(&mut file, lines)?,
        None => 0,
    };
    file.seek(SeekFrom::Start(start))?;
    let (sender, receiver) = mpsc::channel(QUEUE);
    tokio::spawn(async move {
        let mut follower = Follower::new(&path, file, options);
        follower.run(&sender, alive).await;
    });
    Ok(receiver)
}

struct Follower {
    path: PathBuf,
    file: std::fs::File,
    buffer: Vec<u8>,
    printer: Printer,
    changes: mpsc::Receiver<()>,
    _watcher: Option<notify::RecommendedWatcher>,
}

impl Follower {
    fn new(path: &Path, file: std::fs::File, options: Options) -> Self {
        let (sender, changes) = mpsc::channel(1);
        let watcher = options.follow.then(|| watch(path, sender)).flatten();
        Follower {
            path: path.to_owned(),
            file,
            buffer: Vec::new(),
            printer: Printer::new(options),
            changes,
            _watcher: watcher,
        }
    }

    async fn run(&mut self, sender: &mpsc::Sender<Bytes>, alive: Alive) {
        loop {
            // Asked before reading: what was written before the end is then surely read.
            let may_grow = self.printer.options.follow && alive().await;
            loop {
                let mut out = Vec::new();
                let more = self.read_block(&mut out);
                if !out.is_empty() && sender.send(Bytes::from(out)).await.is_err() {
                    return;
                }
                if self.printer.left == 0 {
                    return;
                }
                if !more {
                    break;
                }
            }
            if self.reopen() {
                continue;
            }
            if !may_grow {
                return;
            }
            tokio::select! {
                () = sender.closed() => return,
                _ = self.changes.recv() => {}
                () = tokio::time::sleep(IDLE_CHECK) => {}
            }
        }
    }

    /// Prints the next block; false at the end of the file.
    fn read_block(&mut self, out: &mut Vec<u8>) -> bool {
        let mut block = vec![0; BLOCK];
        let read = match self.file.read(&mut block) {
            Ok(0) | Err(_) => return false,
            Ok(read) => read,
        };
        self.buffer.extend_from_slice(&block[..read]);
        let mut start = 0;
        while let Some(end) = self.buffer[start..].iter().position(|b| *b == b'\n') {
            let line = &self.buffer[start..=start + end];
            if let Some(line) = parse_line(line) {
                self.printer.print(&line, out);
            }
            start += end + 1;
        }
        self.buffer.drain(..start);
        if self.buffer.len() > MAX_LINE {
            self.buffer.clear(); // not a CRI log
        }
        true
    }

    /// After a rotation goes on with the new file.
    fn reopen(&mut self) -> bool {
        let (Ok(now), Ok(open)) = (std::fs::metadata(&self.path), self.file.metadata()) else { return false };
        if now.ino() == open.ino() || !self.printer.options.follow {
            return false;
        }
        match std::fs::File::open(&self.path) {
            Ok(file) => {
                self.file = file;
                true
            }
            Err(_) => false,
        }
    }
}

fn watch(path: &Path, sender: mpsc::Sender<()>) -> Option<notify::RecommendedWatcher> {
    let folder = path.parent()?;
    let mut watcher = notify::recommended_watcher(move |_| {
        let _ = sender.try_send(()); // a full queue is a sign already given
    })
    .ok()?;
    watcher.watch(folder, notify::RecursiveMode::NonRecursive).ok()?;
    Some(watcher)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, Ordering};

    const LOG: &str = "2024-01-01T00:00:00.1Z stdout F one\n\
        2024-01-01T00:00:01Z stderr P two, \n\
        2024-01-01T00:00:02Z stderr F joined\n\
        2024-01-01T00:00:03Z stdout F three\n";

    fn finished() -> Alive {
        Box::new(|| Box::pin(async { false }))
    }
    async fn collect(mut receiver: mpsc::Receiver<Bytes>) -> String {
        let mut all = Vec::new();
        while let Some(piece) = receiver.recv().await {
            all.extend_from_slice(&piece);
        }
        String::from_utf8(all).unwrap()
    }

    #[tokio::test]
    async fn what_is_asked_for() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("0.log");
        std::fs::write(&path, LOG).unwrap();
        let options = |query: &[(&str, &str)]| {
            let query: Vec<(String, String)> =
                query.iter().map(|(k, v)| ((*k).into(), (*v).into())).collect();
            Options::parse(&query, Timestamp::UNIX_EPOCH).unwrap()
        };
        let cases: [(&[(&str, &str)], &str); 7] = [
            (&[], "one\ntwo, joined\nthree\n"),
            (&[("tailLines", "1")], "three\n"),
            (&[("tailLines", "2")], "two, joined\nthree\n"),
            (&[("tailLines", "0")], ""),
            (&[("limitBytes", "5")], "one\nt"),
            (&[("sinceTime", "2024-01-01T00:00:03Z")], "three\n"),
            (
                &[("timestamps", "true"), ("tailLines", "2")],
                "2024-01-01T00:00:01Z two, joined\n2024-01-01T00:00:03Z three\n",
            ),
        ];
        for (query, expected) in cases {
            let text = collect(stream(path.clone(), options(query), finished()).unwrap()).await;
            assert_eq!(text, expected, "{query:?}");
        }
    }

    #[tokio::test]
    async fn followers_see_growth_and_the_end() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("0.log");
        std::fs::write(&path, "").unwrap();
        let running = Arc::new(AtomicBool::new(true));
        let seen = running.clone();
        let alive: Alive = Box::new(move || {
            let alive = seen.load(Ordering::SeqCst);
            Box::pin(async move { alive })
        });
        let mut receiver =
            stream(path.clone(), Options { follow: true, ..Options::default() }, alive).unwrap();
        let mut file = std::fs::OpenOptions::new().append(true).open(&path).unwrap();
        file.write_all(LOG.as_bytes()).unwrap();
        let piece = tokio::time::timeout(Duration::from_secs(60), receiver.recv()).await.unwrap().unwrap();
        assert_eq!(&piece[..], b"one\ntwo, joined\nthree\n");
        running.store(false, Ordering::SeqCst);
        let rest = tokio::time::timeout(Duration::from_secs(60), collect(receiver)).await.unwrap();
        assert_eq!(rest, "");
    }
}
