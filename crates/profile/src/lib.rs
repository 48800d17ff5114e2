//! A processor profile of this process, in the format that `go tool pprof` and speedscope read.
//!
//! Unwinding a stack inside a signal handler takes locks and follows pointers that the interrupted
//! thread may have left half made. So the handler here does not: it copies registers and the top of
//! the stack into a file in memory, and the stack is unwound afterwards, outside of any handler.
//! Nothing runs, and no memory is kept, while no profile is taken. Stacks are known of x86_64 and aarch64.

mod image;
mod proto;
mod report;
mod sampler;
pub mod timed;

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::time::{Duration, Instant, SystemTime};

use image::Images;
use sampler::Sampler;

/// Samples of each second of processor time: not a round number, so that nothing periodic hides.
pub const HERTZ: u32 = 99;
/// Different stacks that are kept: 32 MiB of the deepest. Only long profiles of many processors have more,
/// and what is seen first in their end is rare.
const MAX_STACKS: usize = 16 << 10;

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("a profile is being taken already")]
    Busy,
    #[error("this process cannot be sampled: {0}")]
    Sampler(std::io::Error),
    #[error("the profile cannot be packed: {0}")]
    Packing(std::io::Error),
    #[error("the profile was not taken: {0}")]
    Task(tokio::task::JoinError),
}

/// A profile being taken. Dropping it ends that.
pub struct Profile {
    sampler: Sampler,
    images: Images,
    stacks: Stacks,
    begun: SystemTime,
    clock: Instant,
}

#[derive(Default)]
struct Stacks {
    /// How often each was seen, the innermost address first.
    seen: HashMap<Vec<u64>, u64>,
    /// Samples of those there was no room for.
    lost: usize,
}

impl Stacks {
    fn count(&mut self, stack: Vec<u64>) {
        let is_full = self.seen.len() >= MAX_STACKS;
        match self.seen.entry(stack) {
            Entry::Occupied(mut known) => *known.get_mut() += 1,
            Entry::Vacant(_) if is_full => self.lost += 1,
            Entry::Vacant(new) => drop(new.insert(1)),
        }
    }
}

impl Profile {
    /// There is one at a time in a process.
    pub fn start() -> Result<Self, Error> {
        let sampler = Sampler::claim()?;
        let images = Images::of_this_process();
        sampler.start()?;
        let (begun, clock) = (SystemTime::now(), Instant::now());
        Ok(Profile { sampler, images, stacks: Stacks::default(), begun, clock })
    }

    /// Takes in what was sampled. Room for samples is bounded: what is not taken in within
    /// [`DRAIN_INTERVAL`] may be lost under full load.
    pub fn drain(&mut self) {
        let (images, stacks) = (&mut self.images, &mut self.stacks);
        self.sampler.drain(|sample| stacks.count(images.unwind(sample)));
    }

    /// The profile, gzipped.
    pub fn finish(mut self) -> Result<Vec<u8>, Error> {
        self.sampler.stop();
        self.drain();
        let taken = report::Taken {
            lost: self.sampler.lost().saturating_add(self.stacks.lost),
            stacks: self.stacks.seen,
            begun: self.begun,
            lasted: self.clock.elapsed(),
        };
        report::pack(&report::profile(&taken, self.images.list())).map_err(Error::Packing)
    }
}

/// How often [`Profile::drain`] is to be called.
pub const DRAIN_INTERVAL: Duration = Duration::from_millis(100);

#[cfg(test)]
mod tests {
    use std::hint::black_box;
    use std::io::Read;

    use prost::Message;

    use super::*;

    #[inline(never)]
    fn a_function_that_burns_time(until: Instant) -> u64 {
        let mut sum = 0_u64;
        while Instant::now() < until {
            for i in 0..10_000 {
                sum = black_box(sum.wrapping_mul(31).wrapping_add(i));
            }
        }
        sum
    }

    fn unpacked(bytes: &[u8]) -> proto::Profile {
        let mut plain = Vec::new();
        flate2::read::GzDecoder::new(bytes).read_to_end(&mut plain).expect("gzip");
        proto::Profile::decode(plain.as_slice()).expect("a profile")
    }

    /// Names of a stack's functions, the innermost first.
    fn names(profile: &proto::Profile, sample: &proto::Sample) -> Vec<String> {
        let location = |id: &u64| profile.location.iter().find(|l| l.id == *id).expect("a location");
        let function = |id: u64| profile.function.iter().find(|f| f.id == id).expect("a function");
        let lines = sample.location_id.iter().flat_map(|id| &location(id).line);
        lines.map(|line| profile.string_table[function(line.function_id).name as usize].clone()).collect()
    }

    #[test]
    fn what_a_profile_holds_is_bounded() {
        let mut stacks = Stacks::default();
        for address in (0..MAX_STACKS as u64 + 2).chain([0]) {
            stacks.count(vec![address]);
        }
        assert_eq!((stacks.seen.len(), stacks.lost), (MAX_STACKS, 2));
        assert_eq!(stacks.seen.get([0].as_slice()), Some(&2), "what is known is counted on");
    }

    #[test]
    fn what_runs_is_seen_where_it_runs() {
        let deadline = Instant::now() + Duration::from_secs(60);
        loop {
            let mut taken = Profile::start().expect("a profile");
            assert!(matches!(Profile::start(), Err(Error::Busy)), "there is one at a time");
            let worker = std::thread::spawn(|| {
                a_function_that_burns_time(Instant::now() + Duration::from_millis(300))
            });
            black_box(worker.join().expect("no panic"));
            taken.drain();
            let profile = unpacked(&taken.finish().expect("packed"));
            let seen: Vec<Vec<String>> = profile.sample.iter().map(|s| names(&profile, s)).collect();
            let whole = seen.iter().find(|stack| {
                let at = |word: &str| stack.iter().position(|name| name.contains(word));
                // From the function down to where the thread began.
                matches!((at("a_function_that_burns_time"), at("thread_start")), (Some(a), Some(b)) if a < b)
            });
            if whole.is_some() {
                let units: Vec<&str> = profile
                    .sample_type
                    .iter()
                    .map(|t| profile.string_table[t.unit as usize].as_str())
                    .collect();
                assert_eq!(units, ["count", "nanoseconds"]);
                assert!(profile.mapping.iter().all(|m| m.memory_start < m.memory_limit));
                return;
            }
            assert!(Instant::now() < deadline, "{seen:?}");
        }
    }
}
