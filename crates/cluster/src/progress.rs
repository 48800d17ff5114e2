//! Telling a person how a start goes, a line a step.

use std::io::Write;
use std::time::Instant;

/// Steps with their durations. Lines go to standard output and are flushed at once, so that a
/// parent process can pass them on.
pub struct Progress {
    start: Instant,
    step: Instant,
    quiet: bool,
}

impl Default for Progress {
    fn default() -> Self {
        Progress::new(false)
    }
}

impl Progress {
    pub fn new(quiet: bool) -> Self {
        let now = Instant::now();
        Progress { start: now, step: now, quiet }
    }
    /// The named step is done.
    pub fn done(&mut self, what: &str) {
        let took = self.step.elapsed();
        self.step = Instant::now();
        self.say(&format!("  ok  {what:<44} {:>6} ms", took.as_millis()));
    }
    pub fn say(&self, line: &str) {
        if !self.quiet {
            let mut out = std::io::stdout().lock();
            // Nobody reading is no reason to stop.
            let _ = writeln!(out, "{line}").and_then(|()| out.flush());
        }
    }
    pub fn total_ms(&self) -> u128 {
        self.start.elapsed().as_millis()
    }
}
