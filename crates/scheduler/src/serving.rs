//! What a scheduler that runs alone tells of itself: whether it is well, and what it counts, over HTTPS
//! as kube-scheduler does. Some paths are open to all; who may see the others the API server says.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use amphipod_api::status::Status;
use amphipod_client::{Api, Client};
use amphipod_serving::{Answer, Attributes, Handler, Reviewer, Trust, User, bearer, text};
use http::{Method, Request, StatusCode};
use k8s_openapi::api::core::v1::ConfigMap;
use serde_json::json;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tracing::warn;

use crate::Metrics;

/// Where the API server says which CA its clients' certificates are of.
const AUTHENTICATION: &str = "extension-apiserver-authentication";

#[derive(Clone, Debug)]
pub struct Serving {
    pub address: SocketAddr,
    /// Files of the certificate and its key; without them one is made.
    pub certificate: Option<(PathBuf, PathBuf)>,
    /// The CA of client certificates; without it the one the API server names.
    pub client_ca: Option<PathBuf>,
    /// Paths that take no rights; with `*` at the end, all that begin so.
    pub open_paths: Vec<String>,
}

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("listen on {address}: {source}")]
    Listen { address: SocketAddr, source: std::io::Error },
    #[error(transparent)]
    Serving(#[from] amphipod_serving::Error),
}

/// Serves until cancelled. Where is returned: a port may be left to be chosen.
pub async fn serve(
    serving: Serving,
    client: Client,
    metrics: Metrics,
    cancel: CancellationToken,
) -> Result<SocketAddr, Error> {
    let failed = |source| Error::Listen { address: serving.address, source };
    let listener = TcpListener::bind(serving.address).await.map_err(failed)?;
    let address = listener.local_addr().map_err(failed)?;
    let trust = match &serving.client_ca {
        Some(path) => Trust::File(path.clone()),
        None => authority(&client).await,
    };
    let certificate = serving.certificate.as_ref().map(|(certificate, key)| (&**certificate, &**key));
    let names = vec!["localhost".to_owned(), address.ip().to_string()];
    let tls = amphipod_serving::config(names, certificate, &trust)?;
    let teller = Arc::new(Teller { reviewer: Reviewer::new(client), open: serving.open_paths, metrics });
    let handler: Handler = Arc::new(move |user, request| {
        let (teller, token) = (teller.clone(), bearer(&request).map(str::to_owned));
        let request = request.map(drop);
        Box::pin(async move { teller.answer(user, token.as_deref(), &request).await })
    });
    tokio::spawn(amphipod_serving::serve(listener, tls, cancel, handler));
    Ok(address)
}

/// Without it callers can still bring tokens.
async fn authority(client: &Client) -> Trust {
    let api = Api::<ConfigMap>::namespaced(client.clone(), "kube-system");
    let told = match api.get(AUTHENTICATION).await {
        Ok(told) => told.data.unwrap_or_default(),
        Err(error) => {
            warn!(%error, "the CA of client certificates is not known; tokens are taken only");
            return Trust::Nobody;
        }
    };
    told.get("client-ca-file").map_or(Trust::Nobody, |pem| Trust::Pem(pem.clone()))
}

struct Teller {
    reviewer: Reviewer,
    open: Vec<String>,
    metrics: Metrics,
}

fn refused(code: StatusCode, status: &Status) -> Answer {
    amphipod_serving::json(code, status.to_json())
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
        self.tell(request)
    }

    fn is_open(&self, path: &str) -> bool {
        let path = path.trim_start_matches('/');
        self.open.iter().map(|open| open.trim_start_matches('/')).any(|open| match open.strip_suffix('*') {
            Some(start) => path.starts_with(start),
            None => path == open,
        })
    }

    fn tell(&self, request: &Request<()>) -> Answer {
        let path = request.uri().path().trim_end_matches('/');
        if !matches!(*request.method(), Method::GET | Method::HEAD) {
            return text(StatusCode::METHOD_NOT_ALLOWED, "Method Not Allowed");
        }
        let parameters = request.uri().query().unwrap_or("").split('&');
        let verbose = parameters.into_iter().any(|pair| pair.split('=').next() == Some("verbose"));
        match path {
            "/healthz" | "/livez" => report(&path[1..], &[("ping", true)], verbose),
            "/readyz" => {
                let ready = self.metrics.is_ready();
                report("readyz", &[("ping", true), ("sched-handler-sync", ready)], verbose)
            }
            "/metrics" => text(StatusCode::OK, self.metrics.render()),
            "" => {
                let paths = json!({"paths": ["/healthz", "/livez", "/metrics", "/readyz"]});
                amphipod_serving::json(StatusCode::OK, paths.to_string())
            }
            _ => text(StatusCode::NOT_FOUND, "404 page not found"),
        }
    }
}

/// `ok`, or each check by its name where somebody asks for them or one fails.
fn report(what: &str, checks: &[(&str, bool)], verbose: bool) -> Answer {
    let well = checks.iter().all(|(_, well)| *well);
    if well && !verbose {
        return text(StatusCode::OK, "ok");
    }
    let line = |(name, well): &(&str, bool)| match well {
        true => format!("[+]{name} ok\n"),
        false => format!("[-]{name} failed: reason withheld\n"),
    };
    let lines: String = checks.iter().map(line).collect();
    let (code, outcome) = match well {
        true => (StatusCode::OK, "passed"),
        false => (StatusCode::INTERNAL_SERVER_ERROR, "failed"),
    };
    text(code, format!("{lines}{what} check {outcome}\n"))
}
