//! The gRPC health check (grpc.health.v1), spoken with hand-declared messages: it has two.

use std::time::Duration;

use tonic::transport::Endpoint;

use super::Answer;
use super::http::join_host_port;

#[derive(Clone, PartialEq, prost::Message)]
struct CheckRequest {
    #[prost(string, tag = "1")]
    service: String,
}

#[derive(Clone, PartialEq, prost::Message)]
struct CheckResponse {
    #[prost(int32, tag = "1")]
    status: i32,
}

const SERVING: i32 = 1;
const NAMES: [&str; 4] = ["UNKNOWN", "SERVING", "NOT_SERVING", "SERVICE_UNKNOWN"];

pub async fn probe(host: &str, port: u16, service: &str, timeout: Duration) -> Answer {
    let address = join_host_port(host, port);
    let seconds = timeout.as_secs();
    let no_connection = |why: &str| {
        Answer::Failure(format!("timeout: failed to connect service {address:?} within {seconds}s: {why}"))
    };
    let endpoint = match Endpoint::from_shared(format!("http://{address}")) {
        Ok(endpoint) => endpoint.connect_timeout(timeout).user_agent("kube-probe/1.35"),
        Err(error) => return Answer::Error(error.to_string()),
    };
    let Ok(endpoint) = endpoint else { return Answer::Error("invalid user agent".into()) };
    let channel = match tokio::time::timeout(timeout, endpoint.connect()).await {
        Ok(Ok(channel)) => channel,
        Ok(Err(_)) => return no_connection("connection refused"),
        Err(_) => return no_connection("context deadline exceeded"),
    };
    let mut client = tonic::client::Grpc::new(channel);
    let check = async {
        client.ready().await.map_err(|e| tonic::Status::unavailable(e.to_string()))?;
        let path = http::uri::PathAndQuery::from_static("/grpc.health.v1.Health/Check");
        let codec: tonic_prost::ProstCodec<CheckRequest, CheckResponse> = tonic_prost::ProstCodec::default();
        client.unary(tonic::Request::new(CheckRequest { service: service.to_owned() }), path, codec).await
    };
    match tokio::time::timeout(timeout, check).await {
        Err(_) => Answer::Failure(format!("timeout: health rpc did not complete within {seconds}s")),
        Ok(Ok(answer)) => verdict(answer.into_inner().status),
        Ok(Err(status)) => failure(&status),
    }
}

fn verdict(status: i32) -> Answer {
    if status == SERVING {
        return Answer::Success;
    }
    let name = usize::try_from(status).ok().and_then(|i| NAMES.get(i).copied()).unwrap_or("UNKNOWN");
    Answer::Failure(format!("service unhealthy (responded with {name:?})"))
}

fn failure(status: &tonic::Status) -> Answer {
    match status.code() {
        tonic::Code::Unimplemented => Answer::Failure(format!(
            "error: this server does not implement the grpc health protocol (grpc.health.v1.Health): {}",
            status.message()
        )),
        tonic::Code::DeadlineExceeded => Answer::Failure("timeout: health rpc did not complete".to_owned()),
        _ => Answer::Failure(format!("error: health rpc probe failed: {}", status.message())),
    }
}
