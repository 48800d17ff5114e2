//! What a component that runs alone tells of itself: whether it is well, what it counts, how it is
//! configured and where its time goes, over HTTPS as Kubernetes' components do. Some paths are open to
//! all; who may see the others the API server says.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use amphipod_api::exposition;
use amphipod_api::status::Status;
use amphipod_client::Client;
use amphipod_client::leader::Watchdog;
use amphipod_profile::timed;
use http::{HeaderValue, Method, Request, StatusCode};
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::authority::Authority;
use crate::{Answer, Attributes, Error, Handler, Reviewer, User, bearer, json, text};

const PATHS: [&str; 6] = ["/configz", "/debug/pprof/profile", "/healthz", "/livez", "/metrics", "/readyz"];
/// Where no profile can be taken for another is: when to ask again.
const BUSY_SECONDS: HeaderValue = HeaderValue::from_static("10");

/// Where and to whom.
#[derive(Clone, Debug)]
pub struct Serving {
    pub address: SocketAddr,
    /// Files of the certificate and its key; without them one is made.
    pub certificate: Option<(PathBuf, PathBuf)>,
    /// The CA of client certificates; without it the one the API server names.
    pub client_ca: Option<PathBuf>,
    /// How often it is looked whether that is another by now.
    pub client_ca_checked_every: std::time::Duration,
    /// Paths that take no rights; with `*` at the end, all that begin so.
    pub open_paths: Vec<String>,
}

/// A name, and whether it is so.
pub type Check = (&'static str, Box<dyn Fn() -> bool + Send + Sync>);

/// The check of whoever needs a lease to work, as Kubernetes' components call it.
pub fn election(watchdog: Watchdog) -> Check {
    ("leaderElection", Box::new(move || watchdog.is_well()))
}

/// What is told.
pub struct Component {
    /// Whether it is well; `/livez` needs none of it.
    pub health: Vec<Check>,
    pub readiness: Vec<Check>,
    /// In the OpenMetrics text format.
    pub metrics: Box<dyn Fn() -> String + Send + Sync>,
    /// Under which name, and how it is configured.
    pub config: (&'static str, Value),
}

/// Serves until cancelled. Where is returned: a port may be left to be chosen.
pub async fn tell(
    serving: Serving,
    client: Client,
    component: Component,
    cancel: CancellationToken,
) -> Result<SocketAddr, Error> {
    let failed = |source| Error::Listen { address: serving.address, source };
    let listener = TcpListener::bind(serving.address).await.map_err(failed)?;
    let address = listener.local_addr().map_err(failed)?;
    let names = vec!["localhost".to_owned(), address.ip().to_string()];
    let authority = Authority { client: client.clone(), file: serving.client_ca };
    let tls = authority.follow(names, serving.certificate, serving.client_ca_checked_every, &cancel).await?;
    let stopped = cancel.clone();
    let open = serving.open_paths;
    let teller = Arc::new(Teller { reviewer: Reviewer::new(client), open, component, stopped });
    let handler: Handler = Arc::new(move |user, request| {
        let (teller, token) = (teller.clone(), bearer(&request).map(str::to_owned));
        let request = request.map(drop);
        Box::pin(async move { teller.answer(user, token.as_deref(), &request).await })
    });
    tokio::spawn(crate::serve(listener, tls, cancel, handler));
    Ok(address)
}

struct Teller {
    reviewer: Reviewer,
    open: Vec<String>,
    component: Component,
    stopped: CancellationToken,
}

fn refused(code: StatusCode, status: &Status) -> Answer {
    json(code, status.to_json())
}

impl Teller {
    async fn answer(&self, user: Option<User>, token: Option<&str>, request: &Request<()>) -> Answer {
        let user = match (user, token) {
            (Some(user), _) => user,
            (None, None) => User::anonymous(),
            (None, Some(token)) => match self.reviewer.token(token).await {
                Some(user) => user,
                None => return refused(StatusCode::UNAUTHORIZED, &Status::unauthorized("Unauthorized")),
            },
        };
        let (verb, path) = (request.method().as_str().to_lowercase(), request.uri().path().to_owned());
        let wanted = Attributes::Path { verb: verb.clone(), path: path.clone() };
        if !self.is_open(&path) && !self.reviewer.allows(&user, wanted).await {
            let message = format!("forbidden: User {:?} cannot {verb} path {path:?}", user.name);
            let status = Status::failure(403, "Forbidden", message);
            return refused(StatusCode::FORBIDDEN, &status);
        }
        self.tell(request).await
    }

    fn is_open(&self, path: &str) -> bool {
        let path = path.trim_start_matches('/');
        self.open.iter().map(|open| open.trim_start_matches('/')).any(|open| match open.strip_suffix('*') {
            Some(start) => path.starts_with(start),
            None => path == open,
        })
    }

    async fn tell(&self, request: &Request<()>) -> Answer {
        if !matches!(*request.method(), Method::GET | Method::HEAD) {
            return text(StatusCode::METHOD_NOT_ALLOWED, "Method Not Allowed");
        }
        let is_verbose = parameter(request, "verbose").is_some();
        let Component { health, readiness, metrics, config } = &self.component;
        match request.uri().path().trim_end_matches('/') {
            "/livez" => report("livez", &[], is_verbose),
            "/healthz" => report("healthz", health, is_verbose),
            "/readyz" => report("readyz", readiness, is_verbose),
            "/metrics" => crate::answer(StatusCode::OK, CLASSIC, exposition::classic(&metrics())),
            "/configz" => json(StatusCode::OK, json!({config.0: config.1}).to_string()),
            "/debug/pprof/profile" => self.profile(parameter(request, "seconds").unwrap_or("")).await,
            "" => json(StatusCode::OK, json!({"paths": PATHS}).to_string()),
            _ => text(StatusCode::NOT_FOUND, "404 page not found"),
        }
    }

    async fn profile(&self, seconds: &str) -> Answer {
        let length = match timed::length(seconds) {
            Ok(length) => length,
            Err(error) => return text(StatusCode::BAD_REQUEST, error.to_string()),
        };
        match timed::taken(length, self.stopped.cancelled()).await {
            Ok(profile) => {
                let mut answer = crate::answer(StatusCode::OK, "application/octet-stream", profile);
                let saved_as = HeaderValue::from_static("attachment; filename=\"profile\"");
                answer.headers_mut().insert("content-disposition", saved_as);
                answer
            }
            Err(error @ amphipod_profile::Error::Busy) => {
                let mut answer = text(StatusCode::TOO_MANY_REQUESTS, error.to_string());
                answer.headers_mut().insert("retry-after", BUSY_SECONDS);
                answer
            }
            Err(error) => text(StatusCode::INTERNAL_SERVER_ERROR, error.to_string()),
        }
    }
}

/// Of the text format as Prometheus knows it by.
const CLASSIC: &str = "text/plain; version=0.0.4; charset=utf-8";

/// The value of a parameter, which may be empty.
fn parameter<'a>(request: &'a Request<()>, name: &str) -> Option<&'a str> {
    let pairs = request.uri().query().unwrap_or("").split('&');
    let mut pairs = pairs.map(|pair| pair.split_once('=').unwrap_or((pair, "")));
    pairs.find(|(known, _)| *known == name).map(|(_, value)| value)
}

/// `ok`, or each check by its name where somebody asks for them or one fails.
fn report(what: &str, checks: &[Check], is_verbose: bool) -> Answer {
    let told = [("ping", true)].into_iter().chain(checks.iter().map(|(name, check)| (*name, check())));
    let told: Vec<(&str, bool)> = told.collect();
    let well = told.iter().all(|(_, well)| *well);
    if well && !is_verbose {
        return text(StatusCode::OK, "ok");
    }
    let line = |(name, well): &(&str, bool)| match well {
        true => format!("[+]{name} ok\n"),
        false => format!("[-]{name} failed: reason withheld\n"),
    };
    let lines: String = told.iter().map(line).collect();
    let (code, outcome) = match well {
        true => (StatusCode::OK, "passed"),
        false => (StatusCode::INTERNAL_SERVER_ERROR, "failed"),
    };
    text(code, format!("{lines}{what} check {outcome}\n"))
}
