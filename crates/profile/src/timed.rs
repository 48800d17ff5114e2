//! A profile that is taken while somebody waits for it.

use std::time::Duration;

use tokio::task::spawn_blocking;
use tokio::time::Instant;

use crate::{DRAIN_INTERVAL, Error, Profile};

/// How long a profile takes where its length is not given, as Go's.
const DEFAULT_SECONDS: u64 = 30;
/// The longest: enough for what happens every few minutes, and its stacks still fit into some megabytes.
const MAX_SECONDS: u64 = 300;

#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a profile takes {MAX_SECONDS} seconds at most")]
pub struct TooLong;

/// The length that is asked for in `seconds`; what is no number is none.
pub fn length(seconds: &str) -> Result<Duration, TooLong> {
    match seconds.parse() {
        Ok(seconds) if seconds > MAX_SECONDS => Err(TooLong),
        Ok(0) | Err(_) => Ok(Duration::from_secs(DEFAULT_SECONDS)),
        Ok(seconds) => Ok(Duration::from_secs(seconds)),
    }
}

/// Samples this process until the time is over or it is stopped; dropping it ends that too. The profile
/// is gzipped.
pub async fn taken(length: Duration, stopped: impl Future<Output = ()>) -> Result<Vec<u8>, Error> {
    // Files are read before and after.
    let mut taken = spawn_blocking(Profile::start).await.map_err(Error::Task)??;
    let end = tokio::time::sleep_until(Instant::now() + length);
    tokio::pin!(end, stopped);
    let mut rounds = tokio::time::interval(DRAIN_INTERVAL);
    loop {
        tokio::select! {
            () = &mut end => break,
            () = &mut stopped => break,
            _ = rounds.tick() => taken.drain(),
        }
    }
    spawn_blocking(|| taken.finish()).await.map_err(Error::Task)?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn profiles_are_bounded() {
        for (given, seconds) in [("", 30), ("x", 30), ("0", 30), ("-1", 30), ("1", 1), ("300", 300)] {
            assert_eq!(length(given).map(|l| l.as_secs()), Ok(seconds), "{given}");
        }
        assert_eq!(length("301"), Err(TooLong));
    }
}
