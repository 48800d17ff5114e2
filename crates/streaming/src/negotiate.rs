//! Choosing a transport and a sub-protocol, and the upgrade response that says so.

use http::{HeaderMap, HeaderValue, Request, Response, StatusCode, header};

/// Header in which SPDY clients list, and servers choose, the stream protocol.
pub const STREAM_PROTOCOL: &str = "X-Stream-Protocol-Version";
const SPDY: &str = "SPDY/3.1";

/// How a client wants to be upgraded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Transport {
    Spdy,
    WebSocket,
}

/// The transport asked for; `None` when the request is no upgrade.
pub fn transport(headers: &HeaderMap) -> Option<Transport> {
    let mentions = |name: header::HeaderName, word: &str| {
        let values = headers.get_all(name).into_iter().filter_map(|value| value.to_str().ok());
        values.flat_map(|value| value.split(',')).any(|part| part.trim().eq_ignore_ascii_case(word))
    };
    if !mentions(header::CONNECTION, "upgrade") {
        return None;
    }
    if mentions(header::UPGRADE, "websocket") {
        Some(Transport::WebSocket)
    } else if mentions(header::UPGRADE, SPDY) {
        Some(Transport::Spdy)
    } else {
        None
    }
}

/// Words of a comma-separated header that may be repeated.
pub fn listed(headers: &HeaderMap, name: &str) -> Vec<String> {
    let values = headers.get_all(name).into_iter().filter_map(|value| value.to_str().ok());
    let words = values.flat_map(|value| value.split(',')).map(|word| word.trim().to_string());
    words.filter(|word| !word.is_empty()).collect()
}

/// First protocol the client offers that the server speaks.
pub fn choose<T: Copy>(offered: &[String], known: &[(&'static str, T)]) -> Option<(&'static str, T)> {
    offered.iter().find_map(|offer| known.iter().find(|(name, _)| name == offer).copied())
}

/// `101 Switching Protocols` for SPDY.
pub fn spdy_response<B: Default>(protocol: Option<&str>) -> Response<B> {
    let mut response = switching(SPDY);
    if let Some(value) = protocol.and_then(|protocol| HeaderValue::from_str(protocol).ok()) {
        response.headers_mut().insert(STREAM_PROTOCOL, value);
    }
    response
}

/// `101 Switching Protocols` for WebSocket; `None` when the request lacks the key.
pub fn websocket_response<B: Default, R>(
    request: &Request<R>,
    protocol: Option<&str>,
) -> Option<Response<B>> {
    let key = request.headers().get(header::SEC_WEBSOCKET_KEY)?;
    let accept = tokio_tungstenite::tungstenite::handshake::derive_accept_key(key.as_bytes());
    let mut response = switching("websocket");
    response.headers_mut().insert(header::SEC_WEBSOCKET_ACCEPT, HeaderValue::from_str(&accept).ok()?);
    if let Some(protocol) = protocol {
        let value = HeaderValue::from_str(protocol).ok()?;
        response.headers_mut().insert(header::SEC_WEBSOCKET_PROTOCOL, value);
    }
    Some(response)
}

fn switching<B: Default>(upgrade: &'static str) -> Response<B> {
    let mut response = Response::new(B::default());
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
    response.headers_mut().insert(header::UPGRADE, HeaderValue::from_static(upgrade));
    response
}

/// A refusal with a sentence.
pub fn refusal<B: From<String>>(status: StatusCode, message: &str) -> Response<B> {
    let mut response = Response::new(B::from(message.to_string()));
    *response.status_mut() = status;
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        let mut all = HeaderMap::new();
        for (name, value) in pairs {
            all.append(*name, HeaderValue::from_static(value));
        }
        all
    }

    #[test]
    fn transports() {
        let of = |pairs: &[(&'static str, &'static str)]| transport(&headers(pairs));
        assert_eq!(of(&[("connection", "Upgrade"), ("upgrade", "SPDY/3.1")]), Some(Transport::Spdy));
        assert_eq!(
            of(&[("connection", "keep-alive, upgrade"), ("upgrade", "WebSocket")]),
            Some(Transport::WebSocket)
        );
        assert_eq!(of(&[("upgrade", "websocket")]), None);
    }

    #[test]
    fn the_client_orders_the_protocols() {
        let offered = listed(&headers(&[("x-p", "v9, v4"), ("x-p", "v5")]), "x-p");
        assert_eq!(choose(&offered, &[("v5", 5), ("v4", 4)]), Some(("v4", 4)));
        assert_eq!(choose(&offered, &[("v1", 1)]), None);
    }
}
