//! Asks a DNS server one question, to learn whether it answers.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use hickory_proto::op::{Message, Query, ResponseCode};
use hickory_proto::rr::{Name, RecordType};
use tokio::net::UdpSocket;

use crate::Error;

const MAX_ANSWER_BYTES: usize = 4096;
const PATIENCE: Duration = Duration::from_secs(1);

/// Whether the cluster's DNS works: it knows the API server's own Service.
pub async fn answers(server: SocketAddr, domain: &str) -> bool {
    probe(server, &format!("kubernetes.default.svc.{domain}"), PATIENCE).await.unwrap_or(false)
}

/// Whether `server` has an address for `name` within the time given.
pub async fn probe(server: SocketAddr, name: &str, patience: Duration) -> Result<bool, Error> {
    let fail = |why: String| Error::Probe { server, why };
    let mut name = Name::from_ascii(name).map_err(|e| fail(e.to_string()))?;
    name.set_fqdn(true);
    let mut question = Message::query();
    question.metadata.recursion_desired = true;
    question.add_query(Query::query(name, RecordType::A));
    let bytes = question.to_vec().map_err(|e| fail(e.to_string()))?;
    let exchange = async {
        let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).await?;
        socket.connect(server).await?;
        socket.send(&bytes).await?;
        let mut buffer = vec![0; MAX_ANSWER_BYTES];
        let length = socket.recv(&mut buffer).await?;
        buffer.truncate(length);
        std::io::Result::Ok(buffer)
    };
    let answer = tokio::time::timeout(patience, exchange).await.map_err(|_| fail("no answer".into()))?;
    let answer = answer.map_err(|e| fail(e.to_string()))?;
    let answer = Message::from_vec(&answer).map_err(|e| fail(e.to_string()))?;
    Ok(answer.metadata.response_code == ResponseCode::NoError && !answer.answers.is_empty())
}
