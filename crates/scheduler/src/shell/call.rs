//! Calls end: with an answer, after long enough without one, or with the scheduler. A server that takes
//! requests and never answers them keeps nothing waiting for ever, least of all a leader that is none
//! any more.

use std::future::Future;
use std::time::{Duration, Instant};

use amphipod_client::{CachedPod, Error};
use tokio::sync::OwnedSemaphorePermit;
use tokio_util::sync::CancellationToken;

use super::{Shell, scheduler_name};
use crate::framework::Point;

/// An API server gives up on a request after a minute itself: what it has not answered by then, it
/// will not answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(60);
/// What is on its way when the scheduler ends is waited for this long, or a successor might look before
/// it has arrived. Well within what lies between a lost leadership and the next (5 s by default).
const LAST_ANSWERS_TIMEOUT: Duration = Duration::from_secs(2);

/// The longest a call is waited for: as a rule, and once cancelled.
struct Patience {
    answer: Duration,
    last_answers: Duration,
}

impl Patience {
    /// `None` where there was no answer in time. Once cancelled, nothing is begun.
    async fn wait<T>(&self, cancel: &CancellationToken, call: impl Future<Output = T>) -> Option<T> {
        if cancel.is_cancelled() {
            return None;
        }
        let ending = async {
            cancel.cancelled().await;
            tokio::time::sleep(self.last_answers).await;
        };
        tokio::select! {
            biased;
            answer = call => Some(answer),
            () = ending => None,
            () = tokio::time::sleep(self.answer) => None,
        }
    }
}

const ENDS: &str = "the scheduler ends";
const PATIENCE: Patience = Patience { answer: ANSWER_TIMEOUT, last_answers: LAST_ANSWERS_TIMEOUT };

impl Shell {
    /// What a call to the API server comes to.
    pub(super) async fn answered<T>(&self, call: impl Future<Output = Result<T, Error>>) -> Result<T, Error> {
        PATIENCE.wait(&self.cancel, call).await.unwrap_or_else(|| {
            let late = || format!("no answer within {ANSWER_TIMEOUT:?}");
            let why = if self.cancel.is_cancelled() { ENDS.to_owned() } else { late() };
            Err(Error::Transport(why))
        })
    }
    /// What a call to an extender comes to, each of which has its own timeout.
    pub(super) async fn heard<T>(&self, call: impl Future<Output = Result<T, String>>) -> Result<T, String> {
        let patience = Patience { answer: Duration::MAX, ..PATIENCE };
        patience.wait(&self.cancel, call).await.unwrap_or_else(|| Err(ENDS.to_owned()))
    }

    /// How long all plugins of a point took for a pod.
    pub(super) async fn timed_point<T, E>(
        &self,
        point: Point,
        pod: &CachedPod,
        run: impl Future<Output = Result<T, E>>,
    ) -> Result<T, E> {
        let since = Instant::now();
        let outcome = run.await;
        self.metrics.point_ran(point, outcome.is_ok(), scheduler_name(pod), since);
        outcome
    }
    /// The same of one of them.
    pub(super) async fn timed_plugin<T, E>(
        &self,
        plugin: &'static str,
        point: Point,
        run: impl Future<Output = Result<T, E>>,
    ) -> Result<T, E> {
        let since = Instant::now();
        let outcome = run.await;
        self.metrics.plugin_ran(plugin, point, outcome.is_ok(), since);
        outcome
    }

    /// What a single write comes to that takes its place among those on their way.
    pub(super) async fn written<T>(&self, call: impl Future<Output = Result<T, Error>>) -> Result<T, Error> {
        match self.place_to_write().await {
            Some(_permit) => self.answered(call).await,
            None => Err(Error::Transport(ENDS.to_owned())),
        }
    }
    /// A place among those on their way to the API server; none once cancelled.
    pub(super) async fn place_to_write(&self) -> Option<OwnedSemaphorePermit> {
        tokio::select! {
            biased;
            () = self.cancel.cancelled() => None,
            permit = self.writes.clone().acquire_owned() => permit.ok(),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::{pending, ready};

    use super::*;

    const LONG: Duration = Duration::MAX;
    const SHORT: Duration = Duration::from_millis(1);

    #[tokio::test]
    async fn no_call_is_waited_for_for_ever() {
        let cancel = CancellationToken::new();
        let hasty = Patience { answer: SHORT, last_answers: LONG };
        assert_eq!(hasty.wait(&cancel, pending::<u8>()).await, None);
        assert_eq!(hasty.wait(&cancel, ready(1)).await, Some(1));

        let ending = Patience { answer: LONG, last_answers: SHORT };
        let call = async {
            cancel.cancel();
            pending::<u8>().await
        };
        assert_eq!(ending.wait(&cancel, call).await, None);
        assert_eq!(ending.wait(&cancel, ready(1)).await, None, "none is begun");
    }

    #[tokio::test]
    async fn what_is_on_its_way_arrives() {
        let cancel = CancellationToken::new();
        let patient = Patience { answer: LONG, last_answers: LONG };
        let call = async {
            cancel.cancel();
            tokio::task::yield_now().await;
            1
        };
        assert_eq!(patient.wait(&cancel, call).await, Some(1));
    }
}
