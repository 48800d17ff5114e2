//! HTTPS as components other than the API server serve it: who calls is told by a certificate of the
//! cluster's CA or a token, and the API server says who that is and what they may do.

mod authority;
mod component;
mod connections;
mod reviews;
mod tls;

use std::convert::Infallible;
use std::net::SocketAddr;

use bytes::Bytes;
use http::{HeaderValue, Response, StatusCode};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Full};

pub use component::{Check, Component, Serving, election, tell};
pub use connections::{Handler, serve};
pub use reviews::{Attributes, Reviewer, User, bearer, verb};
pub use tls::{Tls, Trust, config};

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("the serving certificate: {0}")]
    Certificate(String),
    #[error("listen on {address}: {source}")]
    Listen { address: SocketAddr, source: std::io::Error },
}

pub type Body = BoxBody<Bytes, Infallible>;
pub type Answer = Response<Body>;

pub fn full(bytes: impl Into<Bytes>) -> Body {
    Full::new(bytes.into()).boxed()
}

fn answer(status: StatusCode, kind: &'static str, body: impl Into<Bytes>) -> Answer {
    let mut response = Response::new(full(body));
    *response.status_mut() = status;
    response.headers_mut().insert("content-type", HeaderValue::from_static(kind));
    response
}

pub fn text(status: StatusCode, text: impl Into<String>) -> Answer {
    answer(status, "text/plain; charset=utf-8", text.into())
}

pub fn json(status: StatusCode, value: impl Into<Bytes>) -> Answer {
    answer(status, "application/json", value)
}
