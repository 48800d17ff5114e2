//! Connections to the members of an etcd cluster, and the one place that decides what may be tried
//! again. A read may, always. A write may only where it certainly did not reach etcd; else its outcome
//! is unknown, and saying so is all that is right.

use std::error::Error as StdError;
use std::fmt;
use std::future::Future;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use hyper_util::rt::TokioIo;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::time::Instant;
use tonic::metadata::MetadataValue;
use tonic::transport::{Channel, Endpoint, Uri};
use tonic::{Code, Request, Response, Status};

use crate::contract::Error;

/// A member that does not take a connection within this is tried later.
const DIAL_TIMEOUT: Duration = Duration::from_secs(2);
/// Pings on a connection in use; etcd resents them more often than every 5 seconds.
const PING_INTERVAL: Duration = Duration::from_secs(10);
const PING_TIMEOUT: Duration = Duration::from_secs(5);
/// How long a call is tried before the cluster counts as unreachable; longer where not every member has
/// been asked by then.
const PATIENCE: Duration = Duration::from_secs(5);
/// One attempt. etcd itself gives up on a proposal after 7 seconds and says so.
const ATTEMPT_TIMEOUT: Duration = Duration::from_secs(10);
/// The same for what can be repeated, while another member is left to ask: long enough for a busy one,
/// and short enough that one which hangs does not hold up what the others would answer.
const PASSING_TIMEOUT: Duration = Duration::from_secs(2);
/// Pause after every member refused, doubled up to the greatest.
pub(super) const FIRST_PAUSE: Duration = Duration::from_millis(50);
pub(super) const GREATEST_PAUSE: Duration = Duration::from_secs(1);

/// Files in PEM form. Any of them makes connections use TLS.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TlsFiles {
    pub ca: Option<PathBuf>,
    pub certificate: Option<PathBuf>,
    pub key: Option<PathBuf>,
}

#[derive(Debug)]
pub(super) struct Members {
    /// `host:port`, for messages.
    names: Vec<String>,
    channels: Vec<Channel>,
    /// The one that answered last.
    current: AtomicUsize,
}

/// What may be done when a call fails in transit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Repeat {
    /// Doing it twice is doing it once.
    Always,
    /// Only while it certainly was not done.
    NotSent,
}

/// What a failed call means.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// etcd did nothing: it was not reached, or turned the call away at the door.
    NotDone(String),
    /// It may or may not have been done.
    Unknown(String),
    Refused(Refusal),
}

/// etcd's own refusals, in terms that the caller gives numbers to.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Refusal {
    Compacted,
    Future,
    LeaseNotFound,
    TooLarge(String),
    TooManyOperations,
    NoSpace,
    Invalid(String),
    Other(String),
}

/// Why a call gave no answer.
#[derive(Debug)]
pub(super) enum Failure {
    Refused(Refusal),
    Store(Error),
}

/// Marks that a call ended before there was a connection.
#[derive(Debug)]
struct DialError(String);

impl fmt::Display for DialError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl StdError for DialError {}

trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

impl Members {
    /// Dials nobody yet.
    pub fn new(names: Vec<String>, tls: &TlsFiles) -> Result<Self, Error> {
        if names.is_empty() {
            return Err(Error::Invalid("no etcd endpoint is named".to_owned()));
        }
        let tls = tls_config(tls)?;
        let channels = names.iter().map(|name| channel(name, tls.clone())).collect::<Result<_, _>>()?;
        Ok(Members { names, channels, current: AtomicUsize::new(0) })
    }

    /// The member to ask first, and its number.
    pub fn current(&self) -> (usize, Channel) {
        let index = self.current.load(Ordering::Relaxed) % self.channels.len();
        (index, self.channels[index].clone())
    }

    /// This one failed: whoever asks next starts with the one after it.
    pub fn pass_over(&self, index: usize) {
        let next = (index + 1) % self.channels.len();
        // Somebody else may have passed it over already.
        let _ = self.current.compare_exchange(index, next, Ordering::Relaxed, Ordering::Relaxed);
    }

    fn unreachable(&self, why: &str) -> Error {
        Error::Unavailable(format!("etcd at {} gives no answer: {why}", self.names.join(", ")))
    }

    /// Calls one member after the other until one answers.
    pub async fn call<T, Fut>(&self, repeat: Repeat, call: impl Fn(Channel) -> Fut) -> Result<T, Failure>
    where
        Fut: Future<Output = Result<Response<T>, Status>>,
    {
        let begin = Instant::now();
        let mut pause = FIRST_PAUSE;
        let mut asked = vec![false; self.channels.len()];
        loop {
            let index = self.next_of(&asked);
            asked[index] = true;
            let timeout = match repeat {
                Repeat::Always if asked.contains(&false) => PASSING_TIMEOUT,
                _ => ATTEMPT_TIMEOUT,
            };
            let answer = match tokio::time::timeout(timeout, call(self.channels[index].clone())).await {
                Ok(answer) => answer,
                Err(_) => Err(Status::deadline_exceeded("no answer in time")),
            };
            let why = match answer.map_err(|status| verdict(&status)) {
                Ok(answer) => return Ok(answer.into_inner()),
                Err(Verdict::Refused(refusal)) => return Err(Failure::Refused(refusal)),
                Err(Verdict::Unknown(why)) if repeat == Repeat::NotSent => {
                    self.pass_over(index);
                    return Err(Failure::Store(Error::Unknown(why)));
                }
                Err(Verdict::NotDone(why) | Verdict::Unknown(why)) => why,
            };
            self.pass_over(index);
            if asked.contains(&false) {
                continue;
            }
            if begin.elapsed() >= PATIENCE {
                return Err(Failure::Store(self.unreachable(&why)));
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(GREATEST_PAUSE);
            asked.fill(false);
        }
    }

    /// The current member, or the first after it that was not asked in this round.
    fn next_of(&self, asked: &[bool]) -> usize {
        let (current, _) = self.current();
        let mut round = (0..asked.len()).map(|step| (current + step) % asked.len());
        round.find(|index| !asked[*index]).unwrap_or(current)
    }
}

/// A request that a member without a leader refuses at once, instead of letting it hang.
pub(super) fn request<T>(message: T) -> Request<T> {
    let mut request = Request::new(message);
    request.metadata_mut().insert("hasleader", MetadataValue::from_static("true"));
    request
}

fn channel(name: &str, tls: Option<Arc<rustls::ClientConfig>>) -> Result<Channel, Error> {
    let invalid = |e: &dyn fmt::Display| Error::Invalid(format!("etcd endpoint {name}: {e}"));
    let uri: Uri = format!("http://{name}").parse().map_err(|e| invalid(&e))?;
    if uri.host().is_none() || uri.port().is_none() || uri.path() != "/" {
        return Err(invalid(&"write it as host:port"));
    }
    let endpoint =
        Endpoint::from(uri).http2_keep_alive_interval(PING_INTERVAL).keep_alive_timeout(PING_TIMEOUT);
    let dial = move |uri: Uri| {
        let tls = tls.clone();
        async move {
            match tokio::time::timeout(DIAL_TIMEOUT, dial(uri, tls)).await {
                Ok(dialled) => dialled.map(TokioIo::new),
                Err(_) => Err(DialError("no connection in time".to_owned())),
            }
        }
    };
    Ok(endpoint.connect_with_connector_lazy(tower::service_fn(dial)))
}

async fn dial(uri: Uri, tls: Option<Arc<rustls::ClientConfig>>) -> Result<Box<dyn Stream>, DialError> {
    let failed = |e: std::io::Error| DialError(e.to_string());
    let host = uri.host().unwrap_or_default().trim_matches(['[', ']']);
    let stream = TcpStream::connect((host, uri.port_u16().unwrap_or_default())).await.map_err(failed)?;
    stream.set_nodelay(true).map_err(failed)?;
    let Some(tls) = tls else { return Ok(Box::new(stream)) };
    let name = ServerName::try_from(host.to_owned()).map_err(|e| DialError(e.to_string()))?;
    let stream = tokio_rustls::TlsConnector::from(tls).connect(name, stream).await.map_err(failed)?;
    Ok(Box::new(stream))
}

fn tls_config(files: &TlsFiles) -> Result<Option<Arc<rustls::ClientConfig>>, Error> {
    let invalid = |what: &str, e: &dyn fmt::Display| Error::Invalid(format!("{what}: {e}"));
    if *files == TlsFiles::default() {
        return Ok(None);
    }
    let Some(ca) = &files.ca else {
        return Err(Error::Invalid("TLS to etcd needs the file of its certificate authority".to_owned()));
    };
    let read = |path: &PathBuf| -> Result<Vec<CertificateDer<'static>>, Error> {
        let bad = |e: rustls::pki_types::pem::Error| invalid(&path.display().to_string(), &e);
        CertificateDer::pem_file_iter(path).map_err(bad)?.collect::<Result<_, _>>().map_err(bad)
    };
    let mut roots = rustls::RootCertStore::empty();
    for certificate in read(ca)? {
        roots.add(certificate).map_err(|e| invalid(&ca.display().to_string(), &e))?;
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|e| invalid("TLS", &e))?
        .with_root_certificates(roots);
    let mut config = match (&files.certificate, &files.key) {
        (Some(certificate), Some(path)) => {
            let key =
                PrivateKeyDer::from_pem_file(path).map_err(|e| invalid(&path.display().to_string(), &e))?;
            builder
                .with_client_auth_cert(read(certificate)?, key)
                .map_err(|e| invalid(&certificate.display().to_string(), &e))?
        }
        (None, None) => builder.with_no_client_auth(),
        _ => {
            let why = "a client certificate for etcd and its key go together";
            return Err(Error::Invalid(why.to_owned()));
        }
    };
    config.alpn_protocols = vec![b"h2".to_vec()];
    Ok(Some(Arc::new(config)))
}

pub(super) fn verdict(status: &Status) -> Verdict {
    let text = chain(status);
    if dialled_in_vain(status) {
        return Verdict::NotDone(text);
    }
    let says = |part: &str| status.message().contains(part);
    match status.code() {
        Code::OutOfRange if says("has been compacted") => Verdict::Refused(Refusal::Compacted),
        Code::OutOfRange if says("future revision") => Verdict::Refused(Refusal::Future),
        Code::NotFound if says("lease not found") => Verdict::Refused(Refusal::LeaseNotFound),
        Code::InvalidArgument if says("request is too large") => {
            Verdict::Refused(Refusal::TooLarge(status.message().to_owned()))
        }
        Code::InvalidArgument if says("too many operations") => Verdict::Refused(Refusal::TooManyOperations),
        // What gRPC itself refuses to take in.
        Code::ResourceExhausted if says("message larger than max") => {
            Verdict::Refused(Refusal::TooLarge(status.message().to_owned()))
        }
        Code::ResourceExhausted if says("space exceeded") => Verdict::Refused(Refusal::NoSpace),
        // Both are said before anything is proposed.
        Code::ResourceExhausted if says("too many requests") => Verdict::NotDone(text),
        Code::Unavailable if says("etcdserver: no leader") => Verdict::NotDone(text),
        Code::InvalidArgument => Verdict::Refused(Refusal::Invalid(status.message().to_owned())),
        Code::PermissionDenied
        | Code::Unauthenticated
        | Code::FailedPrecondition
        | Code::Unimplemented
        | Code::DataLoss
        | Code::NotFound
        | Code::OutOfRange => Verdict::Refused(Refusal::Other(text)),
        _ => Verdict::Unknown(text),
    }
}

fn dialled_in_vain(status: &Status) -> bool {
    let mut source = status.source();
    while let Some(error) = source {
        if error.is::<DialError>() {
            return true;
        }
        source = error.source();
    }
    false
}

/// What went wrong, with its causes.
fn chain(status: &Status) -> String {
    let mut text = status.message().to_owned();
    let mut source = status.source();
    while let Some(error) = source {
        let more = error.to_string();
        if !text.contains(&more) {
            text = if text.is_empty() { more } else { format!("{text}: {more}") };
        }
        source = error.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Texts as etcd 3.4 to 3.6 say them.
    #[test]
    fn only_what_certainly_was_not_done_counts_as_not_done() {
        let verdict = |code, text: &str| verdict(&Status::new(code, text));
        let unknown = [
            (Code::Unavailable, "etcdserver: request timed out"),
            (Code::Unavailable, "etcdserver: request timed out, possibly due to previous leader failure"),
            (Code::Unavailable, "etcdserver: leader changed"),
            (Code::Unavailable, "etcdserver: server stopped"),
            (Code::Unknown, "raft proposal dropped"),
            (Code::Unknown, "h2 protocol error: error reading a body from connection"),
            (Code::DeadlineExceeded, "no answer in time"),
            (Code::Cancelled, "operation was canceled"),
        ];
        for (code, text) in unknown {
            assert_eq!(verdict(code, text), Verdict::Unknown(text.to_owned()));
        }
        for (code, text) in [
            (Code::Unavailable, "etcdserver: no leader"),
            (Code::ResourceExhausted, "etcdserver: too many requests"),
        ] {
            assert_eq!(verdict(code, text), Verdict::NotDone(text.to_owned()));
        }
        let full = verdict(Code::ResourceExhausted, "etcdserver: mvcc: database space exceeded");
        assert_eq!(full, Verdict::Refused(Refusal::NoSpace));
        let many = verdict(Code::InvalidArgument, "etcdserver: too many operations in txn request");
        assert_eq!(many, Verdict::Refused(Refusal::TooManyOperations));
        let compacted = verdict(Code::OutOfRange, "etcdserver: mvcc: required revision has been compacted");
        assert_eq!(compacted, Verdict::Refused(Refusal::Compacted));
    }

    #[tokio::test]
    async fn a_dial_that_fails_is_told_from_a_call_that_was_lost() {
        let nobody = amphipod_testing::Reserved::new().expect("an address");
        let channel = channel(&nobody.address.to_string(), None).expect("an address");
        let mut client = super::super::v3::kv_client::KvClient::new(channel);
        let status = client.txn(request(super::super::v3::TxnRequest::default())).await.expect_err("nobody");
        assert!(matches!(verdict(&status), Verdict::NotDone(why) if why.contains("refused")), "{status:?}");
    }

    #[test]
    fn endpoints_and_tls_files_are_checked() {
        for name in ["", "host", "host:1/path", "a b:1"] {
            assert!(Members::new(vec![name.to_owned()], &TlsFiles::default()).is_err(), "{name}");
        }
        assert!(Members::new(vec![], &TlsFiles::default()).is_err());
        let no_ca = TlsFiles { key: Some("key.pem".into()), ..TlsFiles::default() };
        let error = Members::new(vec!["a:1".to_owned()], &no_ca).expect_err("no CA");
        assert!(error.to_string().contains("certificate authority"), "{error}");
    }
}
