//! The queue before a server that is slow, away or forgetful.

use std::convert::Infallible;
use std::io::Write;

use bytes::Bytes;
use http::{Method, Request, Response};
use http_body_util::{BodyExt, Full};
use k8s_openapi::api::core::v1::ObjectReference;
use kube::client::Body;
use parking_lot::Mutex;
use serde_json::Value;
use tokio::sync::mpsc;

use super::*;
use crate::EventRecorder;

const DEADLINE: Duration = Duration::from_secs(60);

/// A server that gives each write the next of these codes, the last one for ever, and what it was sent.
fn server(codes: &'static [u16], gate: &Arc<Semaphore>) -> (Client, UnboundedReceiver<(Method, Value)>) {
    let (seen, requests) = mpsc::unbounded_channel();
    let (gate, codes) = (gate.clone(), Mutex::new(codes));
    let codes = Arc::new(codes);
    let client = Client::local(tower::service_fn(move |request: Request<Body>| {
        let (seen, gate, codes) = (seen.clone(), gate.clone(), codes.clone());
        async move {
            let _passed = gate.acquire().await.unwrap();
            let method = request.method().clone();
            let sent = request.into_body().collect().await.unwrap().to_bytes();
            let code = match &mut *codes.lock() {
                [code] => *code,
                codes => *codes.split_off_first().unwrap(),
            };
            let _ = seen.send((method, serde_json::from_slice(&sent).unwrap()));
            let answer = match code {
                200 => sent,
                404 => br#"{"kind":"Status","reason":"NotFound","code":404}"#.as_slice().into(),
                _ => Bytes::new(),
            };
            Ok::<_, Infallible>(Response::builder().status(code).body(Full::new(answer)).unwrap())
        }
    }));
    (client, requests)
}

fn about(name: String) -> ObjectReference {
    ObjectReference { name: Some(name), ..ObjectReference::default() }
}

async fn next(requests: &mut UnboundedReceiver<(Method, Value)>) -> (Method, Value) {
    tokio::time::timeout(DEADLINE, requests.recv()).await.expect("nothing was sent").unwrap()
}

#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().extend_from_slice(bytes);
        Ok(bytes.len())
    }
    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl Log {
    /// The numbers of lost events, as said.
    fn lost(&self) -> Vec<usize> {
        let text = String::from_utf8(self.0.lock().clone()).unwrap();
        let numbers = text.lines().filter_map(|line| line.split_once("events=")?.1.split(' ').next());
        numbers.map(|number| number.trim().parse().unwrap()).collect()
    }
    async fn until_said(&self, times: usize) {
        let said = async {
            while self.lost().len() < times {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(DEADLINE, said).await.expect("nothing was said");
    }
}

#[tokio::test]
async fn what_finds_no_room_is_lost_and_that_is_said_once_in_a_while() {
    let log = Log::default();
    let writer = log.clone();
    let subscriber = tracing_subscriber::fmt().with_ansi(false).with_writer(move || writer.clone()).finish();
    let _logging = tracing::subscriber::set_default(subscriber);
    let shut = Arc::new(Semaphore::new(0));
    let (client, mut requests) = server(&[200], &shut);
    let recorder = EventRecorder::new(client, "test", None);
    let fill = |from: usize| {
        for number in from..from + WAITING_BYTES / size_of::<Event>() {
            recorder.record(about(format!("p{number}")), "Normal", "Full", "x".repeat(1000));
        }
    };
    fill(0);
    let told = WAITING_BYTES / size_of::<Event>();
    let waiting = told - usize::try_from(recorder.queue.lost.events.load(Ordering::Relaxed)).unwrap();
    let free = recorder.queue.room.available_permits();
    assert!(free < 2 * WAITING_BYTES / waiting, "{free} bytes are free beside {waiting} events");

    log.until_said(1).await;
    fill(told);
    shut.add_permits(1);
    drop(recorder);
    let mut written = 0;
    while requests.recv().await.is_some() {
        written += 1;
    }
    log.until_said(2).await;
    assert_eq!(log.lost().iter().sum::<usize>() + written, 2 * told, "{:?}", log.lost());
    assert_eq!(log.lost().len(), 2, "the second when the recorder ended");
}

#[tokio::test]
async fn an_event_waits_until_the_server_is_back() {
    let open = Arc::new(Semaphore::new(1));
    let (client, mut requests) = server(&[503, 429, 200], &open);
    let recorder = EventRecorder::new(client, "test", None);
    recorder.record(about("p".into()), "Normal", "A", "a".into());
    recorder.record(about("p".into()), "Normal", "B", "b".into());
    let mut reasons = Vec::new();
    for _ in 0..4 {
        reasons.push(next(&mut requests).await.1["reason"].clone());
    }
    assert_eq!(reasons, ["A", "A", "A", "B"]);
}

#[tokio::test]
async fn a_repeat_of_what_is_gone_is_made_anew_with_its_count() {
    let open = Arc::new(Semaphore::new(1));
    let (client, mut requests) = server(&[200, 200, 404, 200], &open);
    let recorder = EventRecorder::new(client, "test", None);
    for _ in 0..3 {
        recorder.record(about("p".into()), "Normal", "A", "a".into());
    }
    let (_, first) = next(&mut requests).await;
    for count in 2..4 {
        let (method, patch) = next(&mut requests).await;
        assert_eq!((method, &patch["count"]), (Method::PATCH, &count.into()));
    }
    let (method, anew) = next(&mut requests).await;
    assert_eq!((method, &anew["count"]), (Method::POST, &3.into()));
    for field in ["metadata", "firstTimestamp", "involvedObject"] {
        assert_eq!(anew[field], first[field]);
    }
}
