//! A request on its way through a `proxy` subresource, and the answer on its way back.

use std::io::Read;
use std::net::IpAddr;

use amphipod_api::selector::{FieldSelector, LabelSelector};
use amphipod_api::status::Status;
use bytes::Bytes;
use flate2::Compression;
use flate2::read::{DeflateDecoder, DeflateEncoder, GzDecoder, GzEncoder};
use futures::StreamExt;
use http::header::{
    CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE, HeaderName, HeaderValue, LOCATION, UPGRADE,
};
use http::{HeaderMap, Method, Request, Response, StatusCode};
use http_body_util::BodyExt;
use serde_json::json;

use super::rewrite::Links;
use super::{Name, pod_address, service_address};
use crate::body::{self, Body};
use crate::cache::{Selector, within};
use crate::context::Context;
use crate::kubelet_proxy::{self, Backend, Transport};
use crate::registry::view;
use crate::serve::PeerAddress;
use crate::server::ApiServer;
use crate::subresources::stream::{connect_admission, kubelet_backend};

/// Longer pages go by with their links as they are.
const MAX_PAGE_BYTES: usize = 8 << 20;
/// So do those that would become longer than this: each link grows by the proxy's path.
const MAX_REWRITTEN_BYTES: usize = 2 * MAX_PAGE_BYTES;
/// The label by which a service's EndpointSlices name it.
const SERVICE_NAME: &str = "kubernetes.io/service-name";
const FORWARDED_URI: HeaderName = HeaderName::from_static("x-forwarded-uri");
const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");

/// `proxy` of pods, services and nodes.
pub async fn handle(
    server: &ApiServer,
    cx: &Context,
    mut request: Request<Body>,
) -> Result<Response<Body>, Status> {
    let kind = cx.resource.subresource("proxy").map_or("", |s| s.kind.as_ref());
    let rest = cx.target.rest.as_str();
    connect_admission(server, cx, json!({"kind": kind, "apiVersion": "v1", "path": rest})).await?;
    let upgrade = request.headers().contains_key(UPGRADE);
    let path = request.uri().path().to_owned();
    let query = request.uri().query().map(|query| format!("?{query}")).unwrap_or_default();
    let backend = backend(server, cx, format!("{}{query}", if rest.is_empty() { "/" } else { rest })).await?;
    if rest.is_empty() && !upgrade && matches!(request.method(), &Method::GET | &Method::HEAD) {
        return Ok(with_slash(&path, &query));
    }
    let links = Links {
        prefix: path.strip_suffix(rest).unwrap_or(&path).to_owned(),
        backend: backend.authority(),
        requested: kubelet_proxy::requested_host(&request).unwrap_or_default(),
    };
    mark_forwarded(&mut request, &path);
    let answer = kubelet_proxy::forward(request, &backend)
        .await
        .map_err(|error| Status::unavailable(format!("error trying to reach service: {error}")))?;
    if upgrade && answer.status() != StatusCode::SWITCHING_PROTOCOLS && answer.status().as_u16() < 400 {
        let text = format!("invalid upgrade response: status code {}", answer.status().as_u16());
        return Err(Status::failure(500, "", text));
    }
    returned(answer, &links).await
}

async fn backend(server: &ApiServer, cx: &Context, target: String) -> Result<Backend, Status> {
    let plural = cx.resource.plural.as_ref();
    let name = Name::parse(plural.trim_end_matches('s'), cx.name())?;
    let transport = if name.tls { Transport::Unverified } else { Transport::Plain };
    let (host, port) = match plural {
        "nodes" => {
            let kubelet = kubelet_backend(server, &name.name, target.clone()).await?;
            if name.port.is_empty() || name.port == kubelet.port.to_string() {
                return Ok(kubelet);
            }
            let port = name
                .port
                .parse()
                .map_err(|_| Status::bad_request(format!("invalid port {:?}", name.port)))?;
            (kubelet.host, port)
        }
        "pods" => {
            let missing = || Status::not_found("", plural, &name.name);
            let pod = server.lookup("", "pods", cx.namespace(), &name.name).await?.ok_or_else(missing)?;
            pod_address(&pod, &name)?
        }
        _ => address_of_service(server, cx, &name).await?,
    };
    check_address(&host)?;
    Ok(Backend { host, port, transport, target })
}

async fn address_of_service(server: &ApiServer, cx: &Context, name: &Name) -> Result<(String, u16), Status> {
    let service = server.lookup("", "services", cx.namespace(), &name.name).await?;
    let service = service.ok_or_else(|| {
        // By a port's number the service is asked first, by its name the endpoints are.
        let by_number = name.port.parse::<u64>().is_ok();
        Status::not_found("", if by_number { "services" } else { "endpoints" }, &name.name)
    })?;
    let slices = server
        .catalog
        .load()
        .stored("discovery.k8s.io", "endpointslices")
        .ok_or_else(Status::no_such_path)?;
    let collection = server.cache.collection(&slices).await?;
    let scope = format!("{}{}/", collection.prefix, cx.namespace());
    let owned = [(SERVICE_NAME.to_owned(), name.name.as_str().into())].into_iter().collect();
    let owned = LabelSelector::from_map(&owned);
    let pointers = &collection.pointers;
    let selector = Selector::new(&slices, &collection.prefix, pointers, owned, FieldSelector::default())?;
    let snapshot = collection.snapshot();
    let entries = within(&snapshot, &scope, &scope).filter(|entry| selector.matches(entry));
    let found = entries
        .map(|entry| view::served(&slices, &entry.text.contiguous()))
        .collect::<Result<Vec<_>, _>>()?;
    service_address(&service, &found, name, usize::from(rand::random::<u16>()))
}

/// Addresses a workload could name to reach into this machine or its network's innards.
fn check_address(host: &str) -> Result<(), Status> {
    // An IPv4 address written as IPv6 leads where the IPv4 address does.
    let refused = match host.parse::<IpAddr>().map(|address| address.to_canonical()) {
        Ok(IpAddr::V4(v4)) => {
            v4.is_loopback()
                || v4.is_link_local()
                || v4.is_multicast()
                || v4.is_unspecified()
                || v4.is_broadcast()
        }
        Ok(IpAddr::V6(v6)) => {
            v6.is_loopback() || v6.is_unicast_link_local() || v6.is_multicast() || v6.is_unspecified()
        }
        Err(_) => true,
    };
    if refused { Err(Status::bad_request("address not allowed")) } else { Ok(()) }
}

/// Relative links of a page need the slash behind its path.
fn with_slash(path: &str, query: &str) -> Response<Body> {
    let mut answer = Response::new(body::empty());
    *answer.status_mut() = StatusCode::MOVED_PERMANENTLY;
    if let Ok(location) = HeaderValue::from_str(&format!("{path}/{query}")) {
        answer.headers_mut().insert(LOCATION, location);
    }
    answer
}

/// Tells the backend by which path, and for whom, it is asked.
fn mark_forwarded(request: &mut Request<Body>, path: &str) {
    let peer = request.extensions().get::<PeerAddress>().map(|peer| peer.0.ip().to_string());
    let headers = request.headers_mut();
    if let Ok(value) = HeaderValue::from_str(path) {
        headers.insert(FORWARDED_URI, value);
    }
    let Some(peer) = peer else { return };
    let before: Vec<&str> = headers.get_all(FORWARDED_FOR).iter().filter_map(|v| v.to_str().ok()).collect();
    let chain = before.into_iter().chain([peer.as_str()]).collect::<Vec<_>>().join(", ");
    if let Ok(value) = HeaderValue::from_str(&chain) {
        headers.insert(FORWARDED_FOR, value);
    }
}

/// The answer with its links leading back through the proxy.
async fn returned(mut answer: Response<Body>, links: &Links) -> Result<Response<Body>, Status> {
    if let Some(location) = answer.headers().get(LOCATION).and_then(|v| v.to_str().ok()) {
        if let Ok(value) = HeaderValue::from_str(&links.url(location)) {
            answer.headers_mut().insert(LOCATION, value);
        }
        return Ok(answer);
    }
    let Some(coding) = page_coding(answer.headers()) else { return Ok(answer) };
    let (mut parts, content) = answer.into_parts();
    let (page, more) = up_to(content, MAX_PAGE_BYTES)
        .await
        .map_err(|error| Status::unavailable(format!("error trying to reach service: {error}")))?;
    let rewritten = if more.is_none() { coding.rewritten(&page, links) } else { None };
    let content = match (rewritten, more) {
        (Some(page), _) => {
            parts.headers.remove(CONTENT_LENGTH);
            body::full(page)
        }
        (None, None) => body::full(page),
        (None, Some(more)) => {
            let first = futures::stream::once(futures::future::ready(Ok(page)));
            body::stream(first.chain(more.into_data_stream()))
        }
    };
    Ok(Response::from_parts(parts, content))
}

/// The beginning of a body, and the rest where there is one.
async fn up_to(mut content: Body, most: usize) -> Result<(Bytes, Option<Body>), body::BoxError> {
    let mut page = Vec::new();
    while let Some(frame) = content.frame().await {
        if let Ok(data) = frame?.into_data() {
            page.extend_from_slice(&data);
        }
        if page.len() > most {
            return Ok((page.into(), Some(content)));
        }
    }
    Ok((page.into(), None))
}

/// How a page is compressed.
#[derive(Clone, Copy)]
enum Coding {
    Plain,
    Gzip,
    Deflate,
}

/// `None`: no page, or one that cannot be read.
fn page_coding(headers: &HeaderMap) -> Option<Coding> {
    let text = |name: HeaderName| headers.get(name).and_then(|v| v.to_str().ok()).unwrap_or("");
    if text(CONTENT_TYPE).split(';').next().unwrap_or("").trim() != "text/html" {
        return None;
    }
    match text(CONTENT_ENCODING) {
        "" => Some(Coding::Plain),
        "gzip" => Some(Coding::Gzip),
        "deflate" => Some(Coding::Deflate),
        _ => None,
    }
}

impl Coding {
    fn rewritten(self, page: &[u8], links: &Links) -> Option<Bytes> {
        let plain = match self {
            Coding::Plain => page.to_vec(),
            Coding::Gzip => whole(GzDecoder::new(page))?,
            Coding::Deflate => whole(DeflateDecoder::new(page))?,
        };
        let page = links.html(std::str::from_utf8(&plain).ok()?, MAX_REWRITTEN_BYTES)?.into_bytes();
        Some(match self {
            Coding::Plain => page.into(),
            Coding::Gzip => whole(GzEncoder::new(&page[..], Compression::fast()))?.into(),
            Coding::Deflate => whole(DeflateEncoder::new(&page[..], Compression::fast()))?.into(),
        })
    }
}

/// All there is to read, if it is not more than a page.
fn whole(reader: impl Read) -> Option<Vec<u8>> {
    let mut out = Vec::new();
    reader.take(MAX_PAGE_BYTES as u64 + 1).read_to_end(&mut out).ok()?;
    (out.len() <= MAX_PAGE_BYTES).then_some(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_of_this_machine_and_its_link_are_refused() {
        for host in ["10.0.0.1", "fd00::1", "::ffff:10.0.0.1"] {
            assert!(check_address(host).is_ok(), "{host}");
        }
        for host in [
            "127.0.0.1",
            "169.254.169.254",
            "224.0.0.1",
            "0.0.0.0",
            "255.255.255.255",
            "::1",
            "fe80::1",
            "ff02::1",
            "::",
            "::ffff:127.0.0.1",
            "::ffff:a9fe:a9fe",
            "::ffff:0.0.0.0",
            "localhost",
            "",
        ] {
            assert!(check_address(host).is_err(), "{host}");
        }
    }
}
