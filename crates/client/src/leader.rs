//! Leader election by a Lease, after client-go: the holder renews, others take over once the
//! lease has not changed for its duration as *they* observed it (clocks need not agree).

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use parking_lot::Mutex;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{debug, info};

use crate::{Api, Client, Error};

/// How long a lease may have run out before whoever worked under it is taken for ill, as in Kubernetes'
/// components.
const TOLERATED: Duration = Duration::from_secs(20);

#[derive(Clone, Debug)]
pub struct Config {
    pub namespace: String,
    pub name: String,
    pub identity: String,
    pub lease_duration: Duration,
    pub renew_deadline: Duration,
    pub retry_period: Duration,
    pub watchdog: Watchdog,
}

/// Whether whoever leads still holds the lease, for health checks. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Watchdog(Arc<Mutex<Option<Reign>>>);

#[derive(Clone, Copy, Debug)]
struct Reign {
    renewed: Instant,
    lease_duration: Duration,
}

impl Watchdog {
    /// What stands by is well; what leads is, unless its lease has run out and it works on all the same.
    pub fn is_well(&self) -> bool {
        self.is_well_at(Instant::now())
    }
    fn is_well_at(&self, now: Instant) -> bool {
        let reign = *self.0.lock();
        reign.is_none_or(|reign| now.duration_since(reign.renewed) <= reign.lease_duration + TOLERATED)
    }
    fn renewed(&self, at: Instant, config: &Config) {
        *self.0.lock() = Some(Reign { renewed: at, lease_duration: config.lease_duration });
    }
    fn over(&self) {
        *self.0.lock() = None;
    }
}

impl Config {
    /// Kubernetes' defaults: 15 s, 10 s, 2 s.
    pub fn new(namespace: &str, name: &str, identity: &str) -> Self {
        Config {
            namespace: namespace.to_owned(),
            name: name.to_owned(),
            identity: identity.to_owned(),
            lease_duration: Duration::from_secs(15),
            renew_deadline: Duration::from_secs(10),
            retry_period: Duration::from_secs(2),
            watchdog: Watchdog::default(),
        }
    }
}

/// The lease as last seen, and when it last changed by our clock.
struct Observed {
    lease: Option<Lease>,
    changed: Instant,
}

/// What to do about the lease now.
#[derive(Debug, PartialEq)]
enum Step {
    Create,
    /// Write ourselves in; `transition` where the holder changes.
    Write {
        transition: bool,
    },
    Wait,
}

fn decide(observed: &Observed, config: &Config, now: Instant) -> Step {
    let Some(lease) = &observed.lease else { return Step::Create };
    let holder = lease.spec.as_ref().and_then(|s| s.holder_identity.as_deref()).unwrap_or("");
    if holder == config.identity {
        return Step::Write { transition: false };
    }
    if holder.is_empty() || now.duration_since(observed.changed) >= config.lease_duration {
        return Step::Write { transition: true };
    }
    Step::Wait
}

/// Runs `work` while leading. Returns when cancelled, or when leadership was lost (the work's
/// token is cancelled first and the work awaited).
pub async fn lead<F, Fut>(
    client: Client,
    config: Config,
    cancel: CancellationToken,
    work: F,
) -> Result<(), Error>
where
    F: FnOnce(CancellationToken) -> Fut,
    Fut: Future<Output = ()> + Send + 'static,
{
    let api = Api::<Lease>::namespaced(client, &config.namespace);
    let mut observed = Observed { lease: None, changed: Instant::now() };
    let acquired = loop {
        let tried = Instant::now();
        match attempt(&api, &config, &mut observed, tried + config.renew_deadline).await {
            Ok(true) => break tried,
            Ok(false) => {}
            Err(error) => debug!(%error, lease = config.name, "lease not acquired"),
        }
        tokio::select! {
            () = cancel.cancelled() => return Ok(()),
            () = tokio::time::sleep(config.retry_period) => {}
        }
    };
    info!(lease = config.name, identity = config.identity, "became leader");
    config.watchdog.renewed(acquired, &config);
    let working = cancel.child_token();
    let mut task = tokio::spawn(work(working.clone()));
    renew(&api, &config, &mut observed, &working, &mut task, acquired).await;
    working.cancel();
    if !task.is_finished() {
        let _ = task.await;
    }
    config.watchdog.over();
    release(&api, &config, &mut observed).await;
    Ok(())
}

/// Returns when leadership is over: the work is done or is to end, another holds the lease (client-go
/// goes on to its deadline then), or it was not renewed in time. Time counts from before the lease was
/// written: others count from when they saw it, which is later.
async fn renew(
    api: &Api<Lease>,
    config: &Config,
    observed: &mut Observed,
    working: &CancellationToken,
    task: &mut tokio::task::JoinHandle<()>,
    mut renewed: Instant,
) {
    loop {
        let deadline = renewed + config.renew_deadline;
        tokio::select! {
            () = working.cancelled() => return,
            _ = &mut *task => return,
            () = tokio::time::sleep_until(deadline.min(Instant::now() + config.retry_period)) => {}
        }
        let tried = Instant::now();
        match attempt(api, config, observed, deadline).await {
            Ok(true) => {
                renewed = tried;
                config.watchdog.renewed(tried, config);
            }
            Err(error) if tried < deadline => debug!(%error, lease = config.name, "lease not renewed"),
            Ok(false) | Err(_) => {
                info!(lease = config.name, "lost leadership");
                return;
            }
        }
    }
}

/// One try to take or renew the lease, until the deadline; true when we hold it.
async fn attempt(
    api: &Api<Lease>,
    config: &Config,
    observed: &mut Observed,
    deadline: Instant,
) -> Result<bool, Error> {
    let answer = tokio::time::timeout_at(deadline, write(api, config, observed)).await;
    answer.unwrap_or_else(|_| Err(Error::Transport("no answer in time".to_owned())))
}

async fn write(api: &Api<Lease>, config: &Config, observed: &mut Observed) -> Result<bool, Error> {
    let current = api.get_opt(&config.name).await?;
    let version = |l: &Option<Lease>| l.as_ref().and_then(|l| l.metadata.resource_version.clone());
    if version(&current) != version(&observed.lease) {
        *observed = Observed { lease: current, changed: Instant::now() };
    }
    let written = match decide(observed, config, Instant::now()) {
        Step::Wait => return Ok(false),
        Step::Create => api.create(&filled(Lease::default(), config, true)).await?,
        Step::Write { transition } => {
            let lease = observed.lease.clone().unwrap_or_default();
            api.update(&filled(lease, config, transition)).await?
        }
    };
    *observed = Observed { lease: Some(written), changed: Instant::now() };
    Ok(true)
}

fn filled(mut lease: Lease, config: &Config, transition: bool) -> Lease {
    let now = MicroTime(Timestamp::now());
    lease.metadata.name = Some(config.name.clone());
    lease.metadata.namespace = Some(config.namespace.clone());
    let existed = lease.spec.is_some();
    let spec = lease.spec.get_or_insert_with(LeaseSpec::default);
    spec.holder_identity = Some(config.identity.clone());
    spec.lease_duration_seconds = Some(config.lease_duration.as_secs() as i32);
    spec.renew_time = Some(now.clone());
    if transition {
        spec.acquire_time = Some(now);
        let before = spec.lease_transitions.unwrap_or(0);
        spec.lease_transitions = Some(if existed { before + 1 } else { 0 });
    }
    lease
}

/// Gives the lease up so that a successor need not wait for it to run out.
async fn release(api: &Api<Lease>, config: &Config, observed: &mut Observed) {
    let Some(mut lease) = observed.lease.take() else { return };
    let held = lease.spec.as_ref().and_then(|s| s.holder_identity.as_deref()) == Some(&config.identity);
    if !held {
        return;
    }
    if let Some(spec) = &mut lease.spec {
        spec.holder_identity = Some(String::new());
        spec.lease_duration_seconds = Some(1);
    }
    match tokio::time::timeout(config.renew_deadline, api.update(&lease)).await {
        Ok(Ok(_)) => {}
        Ok(Err(error)) => debug!(%error, lease = config.name, "lease not released"),
        Err(_) => debug!(lease = config.name, "lease not released: no answer"),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use http::{Method, Request, Response, StatusCode};
    use http_body_util::BodyExt;
    use kube::client::Body;
    use serde_json::{Value, json};
    use tower::BoxError;

    use super::*;

    const DEADLINE: Duration = Duration::from_secs(60);
    const MOMENT: Duration = Duration::from_millis(1);
    const LONG: Duration = Duration::from_secs(3600);

    /// A server of one lease.
    #[derive(Default)]
    struct Server {
        lease: Value,
        version: u64,
        is_silent: bool,
    }

    fn client(server: &Arc<Mutex<Server>>) -> Client {
        let server = server.clone();
        Client::local(tower::service_fn(move |request: Request<Body>| {
            let server = server.clone();
            async move {
                let method = request.method().clone();
                let body = request.into_body().collect().await?.to_bytes();
                if server.lock().is_silent {
                    std::future::pending::<()>().await;
                }
                let mut server = server.lock();
                if method != Method::GET {
                    server.version += 1;
                    server.lease = serde_json::from_slice(&body)?;
                    server.lease["metadata"]["resourceVersion"] = server.version.to_string().into();
                }
                let status =
                    json!({"kind": "Status", "status": "Failure", "reason": "NotFound", "code": 404});
                let (code, answer) = match server.lease.is_null() {
                    true => (StatusCode::NOT_FOUND, status),
                    false => (StatusCode::OK, server.lease.clone()),
                };
                let body = Body::from(answer.to_string().into_bytes());
                Ok::<_, BoxError>(Response::builder().status(code).body(body)?)
            }
        }))
    }

    /// Leads, lets something happen to the server, and waits until that has ended the leadership.
    async fn led_until(renew_deadline: Duration, happens: fn(&mut Server)) -> Value {
        let server = Arc::new(Mutex::new(Server::default()));
        let config = Config { renew_deadline, retry_period: MOMENT, ..Config::new("kube-system", "x", "me") };
        let changed = server.clone();
        let leading = lead(client(&server), config, CancellationToken::new(), |working| async move {
            happens(&mut changed.lock());
            working.cancelled().await;
        });
        tokio::time::timeout(DEADLINE, leading).await.unwrap().unwrap();
        server.lock().lease["spec"]["holderIdentity"].clone()
    }

    #[tokio::test]
    async fn leadership_ends_when_another_holds_the_lease() {
        let holder = led_until(LONG, |server| {
            server.lease["spec"]["holderIdentity"] = "you".into();
            server.lease["metadata"]["resourceVersion"] = "other".into();
        });
        assert_eq!(holder.await, "you");
    }

    #[tokio::test]
    async fn leadership_ends_when_the_server_does_not_answer() {
        assert_eq!(led_until(MOMENT * 50, |server| server.is_silent = true).await, "me");
    }

    #[test]
    fn a_lease_that_ran_out_under_its_holder_is_told() {
        let config = Config::new("kube-system", "x", "me");
        let begun = Instant::now();
        let well_after = |seconds| config.watchdog.is_well_at(begun + Duration::from_secs(seconds));
        assert!(well_after(3600), "it stands by");
        config.watchdog.renewed(begun, &config);
        assert!(well_after(35) && !well_after(36));
        config.watchdog.renewed(begun + Duration::from_secs(30), &config);
        assert!(well_after(36));
        config.watchdog.over();
        assert!(well_after(3600));
    }

    fn held_by(holder: &str) -> Option<Lease> {
        let spec = LeaseSpec { holder_identity: Some(holder.into()), ..LeaseSpec::default() };
        Some(Lease { spec: Some(spec), ..Lease::default() })
    }

    #[tokio::test]
    async fn only_a_lapsed_or_free_lease_is_taken() {
        let config = Config::new("kube-system", "x", "me");
        let changed = Instant::now();
        let soon = changed + Duration::from_secs(14);
        let late = changed + Duration::from_secs(15);
        let cases = [
            (None, soon, Step::Create),
            (held_by("me"), soon, Step::Write { transition: false }),
            (held_by("you"), soon, Step::Wait),
            (held_by("you"), late, Step::Write { transition: true }),
            (held_by(""), soon, Step::Write { transition: true }),
        ];
        for (lease, now, expected) in cases {
            assert_eq!(decide(&Observed { lease, changed }, &config, now), expected);
        }
    }
}
