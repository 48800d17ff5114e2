//! The server over real sockets, with a second one as its upstream.

use hickory_proto::op::{Edns, Message, Query, ResponseCode};
use hickory_proto::rr::{Name, RecordType};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::*;
use crate::answer::tests::{Cluster, cluster, zone};
use crate::probe;

const PATIENCE: Duration = Duration::from_secs(60);

async fn start(
    view: Cluster,
    zone: Zone,
    upstream: Vec<SocketAddr>,
    at: &str,
) -> (Server<Handler<Cluster>>, SocketAddr) {
    let address: SocketAddr = at.parse().unwrap();
    let handler = Handler {
        view,
        zone,
        forwarder: Arc::new(Forwarder::new(Upstream::Servers(upstream), vec![])),
        metrics: Arc::default(),
        turn: AtomicUsize::new(0),
    };
    let server = serve(handler, &[address], &CancellationToken::new()).await.unwrap();
    (server, address)
}

fn question(name: &str, kind: RecordType, payload: Option<u16>) -> Vec<u8> {
    let mut message = Message::query();
    message.add_query(Query::query(Name::from_ascii(name).unwrap(), kind));
    if let Some(payload) = payload {
        let mut edns = Edns::new();
        edns.set_max_payload(payload);
        message.set_edns(edns);
    }
    message.to_vec().unwrap()
}

async fn ask_udp(server: SocketAddr, question: &[u8]) -> Message {
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    socket.send_to(question, server).await.unwrap();
    let mut buffer = [0; 4096];
    let length = tokio::time::timeout(PATIENCE, socket.recv(&mut buffer)).await.unwrap().unwrap();
    Message::from_vec(&buffer[..length]).unwrap()
}

async fn ask_tcp(server: SocketAddr, question: &[u8]) -> Message {
    let mut stream = TcpStream::connect(server).await.unwrap();
    stream.write_u16(question.len() as u16).await.unwrap();
    stream.write_all(question).await.unwrap();
    let length = stream.read_u16().await.unwrap();
    let mut buffer = vec![0; length.into()];
    stream.read_exact(&mut buffer).await.unwrap();
    Message::from_vec(&buffer).unwrap()
}

fn data(message: &Message) -> Vec<String> {
    message.answers.iter().map(|record| record.data.to_string()).collect()
}

#[tokio::test]
async fn both_protocols_answer_and_long_answers_are_cut_over_udp() {
    let mut big = cluster();
    big.add("big", "None", |_| {});
    let addresses: Vec<String> = (1..=100).map(|octet| format!("10.244.9.{octet}")).collect();
    let rows: Vec<(&str, &str, bool)> = addresses.iter().map(|a| (a.as_str(), "", true)).collect();
    big.endpoints("big", &rows);
    let (_server, at) = start(big, zone(), vec![], "127.83.12.1:5353").await;

    let web = question("web.default.svc.cluster.local.", RecordType::A, None);
    for answer in [ask_udp(at, &web).await, ask_tcp(at, &web).await] {
        assert_eq!(data(&answer), ["10.96.0.5"]);
        assert!(answer.metadata.authoritative && answer.metadata.recursion_available);
    }
    let long = question("big.default.svc.cluster.local.", RecordType::A, None);
    let cut = ask_udp(at, &long).await;
    assert!(cut.metadata.truncation && cut.answers.len() < 100);
    let more = ask_udp(at, &question("big.default.svc.cluster.local.", RecordType::A, Some(1232))).await;
    assert!(more.answers.len() > cut.answers.len());
    let whole = ask_tcp(at, &long).await;
    assert_eq!((whole.answers.len(), whole.metadata.truncation), (100, false));
    assert_ne!(data(&whole)[0], data(&ask_tcp(at, &long).await)[0], "the first one takes turns");
}

#[tokio::test]
async fn negative_answers_carry_the_soa() {
    let (_server, at) = start(cluster(), zone(), vec![], "127.83.12.2:5353").await;
    let cases = [
        ("missing.default.svc.cluster.local.", ResponseCode::NXDomain),
        ("default.svc.cluster.local.", ResponseCode::NoError),
    ];
    for (name, code) in cases {
        let answer = ask_udp(at, &question(name, RecordType::A, None)).await;
        assert_eq!(answer.metadata.response_code, code);
        assert_eq!(answer.authorities[0].record_type(), RecordType::SOA);
        assert!(answer.answers.is_empty());
    }
    let unknown = ask_udp(at, &question("example.com.", RecordType::A, None)).await;
    assert_eq!(unknown.metadata.response_code, ResponseCode::ServFail, "no upstream");
    assert!(probe(at, "web.default.svc.cluster.local", PATIENCE).await.unwrap());
    assert!(!probe(at, "missing.default.svc.cluster.local", PATIENCE).await.unwrap());
}

#[tokio::test]
async fn other_names_are_asked_upstream_and_aliases_followed() {
    let outer_zone = Zone { origin: Name::from_ascii("other.test.").unwrap(), ..zone() };
    let (_upstream, upstream) = start(cluster(), outer_zone, vec![], "127.83.12.3:5353").await;
    let mut inner = cluster();
    let alias = |target: &'static str| {
        move |spec: &mut k8s_openapi::api::core::v1::ServiceSpec| {
            spec.type_ = Some("ExternalName".into());
            spec.external_name = Some(target.into());
        }
    };
    inner.add("far", "", alias("web.default.svc.other.test"));
    inner.add("near", "", alias("web.default.svc.cluster.local"));
    inner.add("loop", "", alias("loop.default.svc.cluster.local"));
    let (_server, at) = start(inner, zone(), vec![upstream], "127.83.12.4:5353").await;

    let ask = |name: &'static str| async move { ask_udp(at, &question(name, RecordType::A, None)).await };
    assert_eq!(data(&ask("web.default.svc.other.test.").await), ["10.96.0.5"]);
    let missing = ask("missing.default.svc.other.test.").await;
    assert_eq!(missing.metadata.response_code, ResponseCode::NXDomain);
    let far = ask("far.default.svc.cluster.local.").await;
    assert_eq!(data(&far), ["web.default.svc.other.test.", "10.96.0.5"]);
    let near = ask("near.default.svc.cluster.local.").await;
    assert_eq!(data(&near), ["web.default.svc.cluster.local.", "10.96.0.5"]);
    let endless = ask("loop.default.svc.cluster.local.").await;
    assert_eq!(endless.metadata.response_code, ResponseCode::ServFail);
}
