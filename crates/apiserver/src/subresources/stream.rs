//! Requests that end at a kubelet: looked up here, carried by `kubelet_proxy`.

use amphipod_api::status::Status;
use http::header::{ACCEPT, UPGRADE};
use http::{Request, Response, StatusCode};
use serde_json::{Value, json};

use super::connect;
use crate::authz;
use crate::body::{self, Body};
use crate::context::Context;
use crate::kubelet_proxy::{self, Backend, Transport};
use crate::registry::{admit, validate_admission, view};
use crate::seams::{Attributes, Decision, Operation};
use crate::server::ApiServer;

/// How much of a kubelet's refusal is told on, as upstream.
const MAX_REFUSAL_BYTES: usize = 16 << 10;

/// `log`, `exec`, `attach`, `portforward`.
pub async fn handle(
    server: &ApiServer,
    cx: &Context,
    mut request: Request<Body>,
) -> Result<Response<Body>, Status> {
    let is_stream = cx.subresource() != "log";
    if is_stream {
        may_create(server, cx).await?;
        let options = stream_options(cx);
        connect_admission(server, cx, options).await?;
    }
    let pod = server.lookup("", "pods", cx.namespace(), cx.name()).await?.ok_or_else(|| cx.not_found())?;
    let target = match cx.subresource() {
        "log" => connect::log_target(&pod, &cx.query)?,
        "portforward" => connect::port_forward_target(&pod, &cx.query),
        _ => connect::stream_target(&pod, cx.subresource(), &cx.query)?,
    };
    if !is_stream && amphipod_api::object::text(&pod, "/spec/nodeName").is_empty() {
        // Nothing has run yet: nothing was written.
        return Ok(view::response(StatusCode::OK, "text/plain", body::empty()));
    }
    if is_stream && !request.headers().contains_key(UPGRADE) {
        return Err(Status::bad_request("Upgrade request required"));
    }
    let node = connect::node_of(&pod)?.to_owned();
    let backend = kubelet_backend(server, &node, target).await?;
    request.headers_mut().remove(ACCEPT);
    let answer = forward(request, &backend).await?;
    if is_stream { Ok(answer) } else { checked(answer).await }
}

/// A WebSocket client asks with GET; what it does is nevertheless creating a process or a
/// connection, and must be allowed as that.
async fn may_create(server: &ApiServer, cx: &Context) -> Result<(), Status> {
    if cx.attributes.verb == "create" {
        return Ok(());
    }
    let mut wanted = Attributes::clone(&cx.attributes);
    wanted.verb = "create".into();
    match server.policy.authorizer.authorize(&wanted).await {
        Decision::Allow { .. } => Ok(()),
        Decision::NoOpinion { reason } | Decision::Deny { reason } => Err(authz::forbidden(&wanted, &reason)),
    }
}

pub async fn connect_admission(server: &ApiServer, cx: &Context, options: Value) -> Result<(), Status> {
    let options = admit(server, cx, Operation::Connect, options, None, false).await?;
    validate_admission(server, cx, Operation::Connect, options, None, false).await?;
    Ok(())
}

fn stream_options(cx: &Context) -> Value {
    let kind = cx.resource.subresource(cx.subresource()).map_or("", |s| s.kind.as_ref());
    let mut options = json!({"kind": kind, "apiVersion": "v1"});
    for flag in ["stdin", "stdout", "stderr", "tty"] {
        if cx.query.flag(flag) {
            options[flag] = true.into();
        }
    }
    if let Some(container) = cx.query.get("container") {
        options["container"] = container.into();
    }
    let command: Vec<&str> = cx.query.all("command").collect();
    if !command.is_empty() {
        options["command"] = json!(command);
    }
    options
}

pub async fn kubelet_backend(server: &ApiServer, node: &str, target: String) -> Result<Backend, Status> {
    let found = server.lookup("", "nodes", "", node).await?;
    let found = found.ok_or_else(|| Status::not_found("", "nodes", node))?;
    let kubelet = connect::kubelet(&found)?;
    let transport = Transport::Kubelet(server.kubelet_tls.clone());
    Ok(Backend { host: kubelet.host, port: kubelet.port, transport, target })
}

async fn forward(request: Request<Body>, backend: &Backend) -> Result<Response<Body>, Status> {
    kubelet_proxy::forward(request, backend)
        .await
        .map_err(|error| Status::internal(format!("error dialing backend: {error}")))
}

/// What the kubelet refuses becomes a Status of ours.
async fn checked(answer: Response<Body>) -> Result<Response<Body>, Status> {
    let code = answer.status();
    if code.is_success() {
        return Ok(answer);
    }
    let bytes = body::beginning(answer.into_body(), MAX_REFUSAL_BYTES).await;
    let text = String::from_utf8_lossy(&bytes).trim().to_owned();
    Err(match code {
        StatusCode::BAD_REQUEST => Status::bad_request(text),
        StatusCode::NOT_FOUND => Status::failure(
            404,
            "NotFound",
            format!("the server could not find the requested resource ({text})"),
        ),
        _ => Status::internal(text),
    })
}
