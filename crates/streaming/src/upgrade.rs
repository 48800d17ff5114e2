//! The HTTP half of a streaming request: which protocol it asks for, and our answer. Pure but for [`upgraded`].

use base64::Engine as _;
use bytes::Bytes;
use http::header::{CONNECTION, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue, UPGRADE};
use http::{Response, StatusCode};
use http_body_util::Full;
use hyper::upgrade::{OnUpgrade, Upgraded};
use hyper_util::rt::TokioIo;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;

const SPDY: &str = "SPDY/3.1";
const STREAM_PROTOCOL: HeaderName = HeaderName::from_static("x-stream-protocol-version");
const ACCEPTED_PROTOCOLS: HeaderName = HeaderName::from_static("x-accepted-stream-protocol-versions");
const WEBSOCKET_PROTOCOL: HeaderName = HeaderName::from_static("sec-websocket-protocol");
const WEBSOCKET_KEY: HeaderName = HeaderName::from_static("sec-websocket-key");
const WEBSOCKET_ACCEPT: HeaderName = HeaderName::from_static("sec-websocket-accept");
const WEBSOCKET_VERSION: HeaderName = HeaderName::from_static("sec-websocket-version");
/// Bytes in a WebSocket handshake key once decoded.
const KEY_BYTES: usize = 16;

/// The protocols an endpoint speaks; a client that names none gets the oldest.
pub(crate) struct Offer {
    pub(crate) websocket: &'static [&'static str],
    pub(crate) spdy: &'static [&'static str],
}

/// What client and server agreed on; the name is `None` if the client named no protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Agreed {
    WebSocket(Option<&'static str>),
    Spdy(Option<&'static str>),
}

/// An answer that does not switch protocols.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Refusal {
    code: StatusCode,
    message: String,
    /// Protocols we would have taken, told by this header.
    hint: Option<(HeaderName, Vec<&'static str>)>,
}

impl Refusal {
    pub(crate) fn bad_request(message: impl Into<String>) -> Self {
        Self { code: StatusCode::BAD_REQUEST, message: message.into(), hint: None }
    }

    pub(crate) fn into_response(self) -> Response<Full<Bytes>> {
        let mut response = Response::new(Full::from(self.message + "\n"));
        *response.status_mut() = self.code;
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
        if let Some((name, values)) = self.hint {
            for value in values {
                headers.append(&name, HeaderValue::from_static(value));
            }
        }
        response
    }
}

/// All values of a header that is a comma-separated list, over all its lines.
fn listed<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Vec<&'a str> {
    let lines = headers.get_all(name).iter().filter_map(|value| value.to_str().ok());
    lines.flat_map(|line| line.split(',')).map(str::trim).filter(|value| !value.is_empty()).collect()
}

fn pick(asked: &[&str], known: &'static [&'static str]) -> Option<&'static str> {
    asked.iter().find_map(|asked| known.iter().copied().find(|known| known == asked))
}

/// Settles the protocol of a request.
pub(crate) fn negotiate(headers: &HeaderMap, offer: &Offer) -> Result<Agreed, Refusal> {
    let upgrades = listed(headers, &CONNECTION).iter().any(|value| value.eq_ignore_ascii_case("upgrade"));
    let to = listed(headers, &UPGRADE);
    let asks_for = |name: &str| upgrades && to.iter().any(|value| value.eq_ignore_ascii_case(name));
    if asks_for("websocket") {
        negotiate_websocket(headers, offer.websocket)
    } else if asks_for(SPDY) {
        negotiate_spdy(headers, offer.spdy)
    } else {
        Err(Refusal::bad_request("unable to upgrade: missing upgrade headers in request"))
    }
}

fn negotiate_websocket(headers: &HeaderMap, known: &'static [&'static str]) -> Result<Agreed, Refusal> {
    if headers.get(WEBSOCKET_VERSION).is_none_or(|version| version != "13") {
        let hint = Some((WEBSOCKET_VERSION, vec!["13"]));
        return Err(Refusal { hint, ..Refusal::bad_request("unsupported WebSocket version") });
    }
    let key = headers.get(WEBSOCKET_KEY).map(|key| base64::engine::general_purpose::STANDARD.decode(key));
    if !matches!(key, Some(Ok(key)) if key.len() == KEY_BYTES) {
        return Err(Refusal::bad_request("missing or malformed Sec-WebSocket-Key"));
    }
    let asked = listed(headers, &WEBSOCKET_PROTOCOL);
    match pick(&asked, known) {
        None if !asked.is_empty() => Err(Refusal {
            code: StatusCode::FORBIDDEN,
            message: format!("requested protocol(s) are not supported: {asked:?}; supports {known:?}"),
            hint: None,
        }),
        agreed => Ok(Agreed::WebSocket(agreed)),
    }
}

fn negotiate_spdy(headers: &HeaderMap, known: &'static [&'static str]) -> Result<Agreed, Refusal> {
    let asked = listed(headers, &STREAM_PROTOCOL);
    match pick(&asked, known) {
        None if !asked.is_empty() => Err(Refusal {
            code: StatusCode::FORBIDDEN,
            message: format!(
                "unable to upgrade: unable to negotiate protocol: client supports {asked:?}, server accepts {known:?}"
            ),
            hint: Some((ACCEPTED_PROTOCOLS, known.to_vec())),
        }),
        agreed => Ok(Agreed::Spdy(agreed)),
    }
}

/// The `101 Switching Protocols` for what was agreed on.
pub(crate) fn switching(headers: &HeaderMap, agreed: Agreed) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::default());
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let answer = response.headers_mut();
    answer.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
    let (name, protocol) = match agreed {
        Agreed::Spdy(protocol) => {
            answer.insert(UPGRADE, HeaderValue::from_static(SPDY));
            (STREAM_PROTOCOL, protocol)
        }
        Agreed::WebSocket(protocol) => {
            answer.insert(UPGRADE, HeaderValue::from_static("websocket"));
            let key = headers.get(WEBSOCKET_KEY).map_or(&[][..], HeaderValue::as_bytes);
            if let Ok(accept) = HeaderValue::from_str(&derive_accept_key(key)) {
                answer.insert(WEBSOCKET_ACCEPT, accept);
            }
            (WEBSOCKET_PROTOCOL, protocol)
        }
    };
    if let Some(protocol) = protocol {
        answer.insert(name, HeaderValue::from_static(protocol));
    }
    response
}

/// The raw connection, once the server has sent our answer.
pub(crate) async fn upgraded(upgrade: OnUpgrade) -> Option<TokioIo<Upgraded>> {
    match upgrade.await {
        Ok(upgraded) => Some(TokioIo::new(upgraded)),
        Err(error) => {
            tracing::debug!(%error, "a streaming connection was not upgraded");
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OFFER: Offer = Offer { websocket: &["v5", "v4"], spdy: &["v4.channel.k8s.io", "channel.k8s.io"] };

    fn headers(lines: &[(&'static str, &'static str)]) -> HeaderMap {
        let mut map = HeaderMap::new();
        for (name, value) in lines {
            map.append(*name, HeaderValue::from_static(value));
        }
        map
    }

    fn websocket(protocols: &'static str) -> HeaderMap {
        headers(&[
            ("connection", "keep-alive, Upgrade"),
            ("upgrade", "websocket"),
            ("sec-websocket-version", "13"),
            ("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ=="),
            ("sec-websocket-protocol", protocols),
        ])
    }

    #[test]
    fn the_first_known_protocol_of_the_client_wins() {
        assert_eq!(negotiate(&websocket("v9, v4,v5"), &OFFER), Ok(Agreed::WebSocket(Some("v4"))));
        assert_eq!(negotiate(&websocket(""), &OFFER), Ok(Agreed::WebSocket(None)));
        assert_eq!(negotiate(&websocket("v9"), &OFFER).unwrap_err().code, StatusCode::FORBIDDEN);
        let spdy = |protocol| {
            let all =
                [("connection", "Upgrade"), ("upgrade", "SPDY/3.1"), ("x-stream-protocol-version", protocol)];
            negotiate(&headers(&all), &OFFER)
        };
        assert_eq!(spdy("v5.channel.k8s.io,channel.k8s.io"), Ok(Agreed::Spdy(Some("channel.k8s.io"))));
        assert_eq!(spdy(""), Ok(Agreed::Spdy(None)));
        let refused = spdy("v9").unwrap_err().into_response();
        assert_eq!(refused.headers().get_all(ACCEPTED_PROTOCOLS).iter().count(), 2);
        assert_eq!(negotiate(&HeaderMap::new(), &OFFER).unwrap_err().code, StatusCode::BAD_REQUEST);
    }

    #[test]
    fn the_answer_proves_the_key_and_names_the_protocol() {
        let response = switching(&websocket("v4"), Agreed::WebSocket(Some("v4")));
        assert_eq!(response.headers()[WEBSOCKET_ACCEPT], "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
        assert_eq!(response.headers()[WEBSOCKET_PROTOCOL], "v4");
        let mut broken = websocket("v4");
        broken.remove(WEBSOCKET_KEY);
        assert_eq!(negotiate(&broken, &OFFER).unwrap_err().code, StatusCode::BAD_REQUEST);
    }
}
