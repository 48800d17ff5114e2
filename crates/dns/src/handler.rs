//! From a request to a response: flags, codes, aliases followed, sections filled.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use hickory_proto::op::{Edns, MessageType, Metadata, OpCode, ResponseCode};
use hickory_proto::rr::{DNSClass, Name, RData, Record, RecordType};
use hickory_server::net::runtime::Time;
use hickory_server::server::{Request, RequestHandler, ResponseHandler, ResponseInfo};
use hickory_server::zone_handler::MessageResponseBuilder;
use tracing::debug;

use crate::forward::Forwarder;
use crate::{Answer, Metrics, View, Zone, answer};

/// ExternalName services that name each other must not keep us going round.
const MAX_ALIASES: usize = 8;
/// Larger UDP answers than this get lost in fragments on the way.
const MAX_UDP_BYTES: u16 = 1232;
const MIN_UDP_BYTES: u16 = 512;

pub struct Handler<V> {
    pub view: V,
    pub zone: Zone,
    pub forwarder: Arc<Forwarder>,
    pub metrics: Arc<Metrics>,
    /// Moves the first of several addresses on, so that clients that take it spread.
    pub turn: AtomicUsize,
}

#[derive(Default)]
struct Response {
    code: ResponseCode,
    authoritative: bool,
    answers: Vec<Record>,
    authorities: Vec<Record>,
    additionals: Vec<Record>,
}

impl<V: View> Handler<V> {
    async fn respond(&self, name: &Name, kind: RecordType) -> Response {
        let mut response = Response { authoritative: true, ..Response::default() };
        let mut asked = name.clone();
        for _ in 0..MAX_ALIASES {
            match answer(&self.view, &self.zone, &asked, kind) {
                Answer::Alias { record, target } => {
                    response.answers.push(*record);
                    asked = target;
                    continue;
                }
                Answer::Records { answers, additionals } => {
                    if answers.is_empty() {
                        response.authorities.push(self.zone.soa());
                    }
                    response.answers.extend(self.rotated(answers));
                    response.additionals = additionals;
                }
                Answer::NoName => {
                    response.code = ResponseCode::NXDomain;
                    response.authorities.push(self.zone.soa());
                }
                Answer::Elsewhere => self.forward(&mut response, &asked, kind).await,
            }
            return response;
        }
        debug!(%name, "too many aliases");
        Response { code: ResponseCode::ServFail, ..Response::default() }
    }

    async fn forward(&self, response: &mut Response, name: &Name, kind: RecordType) {
        self.metrics.forward();
        let reply = self.forwarder.ask(name, kind).await;
        // An alias of ours stays authoritative; what follows it is upstream's word.
        response.authoritative = !response.answers.is_empty();
        response.code = reply.code;
        response.answers.extend(reply.answers);
        response.authorities = reply.authorities;
    }

    fn rotated(&self, mut answers: Vec<Record>) -> Vec<Record> {
        let is_address = |record: &Record| matches!(record.data, RData::A(_) | RData::AAAA(_));
        if answers.len() > 1 && answers.iter().all(is_address) {
            let turn = self.turn.fetch_add(1, Ordering::Relaxed);
            let by = turn % answers.len();
            answers.rotate_left(by);
        }
        answers
    }
}

fn edns_of(request: &Request) -> Option<Edns> {
    let asked = request.edns.as_ref()?;
    let mut edns = Edns::new();
    edns.set_max_payload(asked.max_payload().clamp(MIN_UDP_BYTES, MAX_UDP_BYTES)).set_version(0);
    Some(edns)
}

#[async_trait::async_trait]
impl<V: View + Send + Sync + Unpin + 'static> RequestHandler for Handler<V> {
    async fn handle_request<R: ResponseHandler, T: Time>(
        &self,
        request: &Request,
        mut response_handle: R,
    ) -> ResponseInfo {
        self.metrics.request();
        let mut metadata = Metadata::response_from_request(&request.metadata);
        metadata.message_type = MessageType::Response;
        metadata.recursion_available = true;
        let response = match request.request_info() {
            Err(_) => Response { code: ResponseCode::FormErr, ..Response::default() },
            Ok(_) if request.metadata.op_code != OpCode::Query => {
                Response { code: ResponseCode::NotImp, ..Response::default() }
            }
            Ok(info) if info.query.query_class() != DNSClass::IN => {
                Response { code: ResponseCode::Refused, ..Response::default() }
            }
            Ok(info) => {
                let query = info.query.original();
                self.respond(query.name(), query.query_type()).await
            }
        };
        metadata.response_code = response.code;
        metadata.authoritative = response.authoritative;
        self.metrics.response(response.code);
        let edns = edns_of(request);
        let mut builder = MessageResponseBuilder::from_message_request(request);
        if let Some(edns) = &edns {
            builder.edns(edns);
        }
        let none: [&Record; 0] = [];
        let message =
            builder.build(metadata, &response.answers, &response.authorities, none, &response.additionals);
        match response_handle.send_response(message).await {
            Ok(info) => info,
            Err(error) => {
                debug!(%error, "an answer could not be sent");
                hickory_proto::op::Header { metadata, counts: Default::default() }.into()
            }
        }
    }
}
