//! The whole proxy: from an API's watch events to packets.

use std::collections::HashMap;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use amphipod_client::{Client, SharedInformers, Writable};
use bytes::Bytes;
use futures::StreamExt;
use http::{Request, Response};
use http_body_util::StreamBody;
use http_body_util::combinators::UnsyncBoxBody;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use serde_json::{Value, json};
use tokio::sync::mpsc::{UnboundedSender, unbounded_channel};
use tokio_stream::wrappers::UnboundedReceiverStream;
use tokio_util::sync::CancellationToken;

use super::fixture::{Fixture, Place, Services, with_fixture};
use crate::netlink::Socket;
use crate::nft::remove_table;
use crate::run_proxy;

type Frames = UnsyncBoxBody<Bytes, Infallible>;
const PATIENCE: Duration = Duration::from_secs(60);

/// Lists what it was given and streams what it is told; enough of an API for informers.
#[derive(Clone, Default)]
struct FakeApi {
    lists: Arc<HashMap<&'static str, Vec<Value>>>,
    watches: Arc<Mutex<HashMap<String, UnboundedSender<Bytes>>>>,
}

fn json_of<T: Writable>(objects: &[T]) -> Vec<Value> {
    let decode = |(number, object): (usize, &T)| {
        let mut value: Value = serde_json::from_slice(&object.encode()).unwrap();
        value["metadata"]["namespace"] = "default".into();
        value["metadata"]["resourceVersion"] = "1".into();
        if value["metadata"]["name"].is_null() {
            value["metadata"]["name"] = format!("slice-{number}").into();
        }
        value
    };
    objects.iter().enumerate().map(decode).collect()
}

impl FakeApi {
    fn new(services: &Services) -> Self {
        let (services, slices) = services.objects();
        let lists =
            [("services", json_of(&services)), ("endpointslices", json_of(&slices)), ("nodes", vec![])];
        FakeApi { lists: Arc::new(lists.into()), watches: Arc::default() }
    }

    fn answer(&self, uri: &http::Uri) -> Response<Frames> {
        let resource = uri.path().rsplit('/').next().unwrap().to_owned();
        let (sender, receiver) = unbounded_channel();
        if uri.query().is_some_and(|query| query.contains("watch=true")) {
            self.watches.lock().unwrap().insert(resource, sender);
        } else {
            let list = json!({"metadata": {"resourceVersion": "1"}, "items": self.lists[resource.as_str()]});
            sender.send(list.to_string().into()).unwrap();
        }
        let frames = UnboundedReceiverStream::new(receiver).map(|bytes| Ok(http_body::Frame::data(bytes)));
        Response::new(UnsyncBoxBody::new(StreamBody::new(frames)))
    }

    fn client(&self) -> Client {
        let api = self.clone();
        Client::local(tower::service_fn(move |request: Request<_>| {
            let answer = api.answer(request.uri());
            async move { Ok::<_, Infallible>(answer) }
        }))
    }

    /// Tells the watchers that the only slice is now this.
    fn change_slice(&self, slices: &[EndpointSlice], version: u32) {
        let mut object = json_of(slices).remove(0);
        object["metadata"]["resourceVersion"] = version.to_string().into();
        let line = format!("{}\n", json!({"type": "MODIFIED", "object": object}));
        self.watches.lock().unwrap()["endpointslices"].send(line.into()).unwrap();
    }
}

fn wait_until(what: &str, condition: impl Fn() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !condition() {
        assert!(Instant::now() < deadline, "{what}");
        std::thread::yield_now();
    }
}

fn service_for(pods: &[&Place]) -> Services {
    let mut services = Services::default();
    services.service("10.96.0.5", pods);
    services
}

/// Runs the proxy in the node's namespace while `test` looks at it.
fn with_proxy(fixture: &Fixture, api: &FakeApi, test: impl FnOnce()) {
    let cancel = CancellationToken::new();
    let (config, stop) = (fixture.proxy_config(), cancel.clone());
    std::thread::scope(|scope| {
        let proxy = scope.spawn(|| {
            fixture.on_host(|| {
                let runtime = tokio::runtime::Builder::new_multi_thread()
                    .worker_threads(1)
                    .enable_all()
                    .build()
                    .unwrap();
                runtime.block_on(async {
                    let client = api.client();
                    let informers = SharedInformers::new(client.clone(), stop.clone());
                    run_proxy(client, informers, config, stop).await.unwrap();
                });
            });
        });
        let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(test));
        cancel.cancel();
        proxy.join().unwrap();
        if let Err(panic) = outcome {
            std::panic::resume_unwind(panic);
        }
    });
}

#[test]
fn the_proxy_follows_the_api_and_mends_its_table() {
    with_fixture(|fixture| {
        let (a, b, client) = (fixture.pod("a"), fixture.pod("b"), fixture.pod("client"));
        a.serve_tcp(8080);
        b.serve_tcp(8080);
        let service: SocketAddr = "10.96.0.5:80".parse().unwrap();
        let api = FakeApi::new(&service_for(&[&a]));
        let answers = |name: &str| client.connect(service).is_ok_and(|probe| probe.server == name);
        with_proxy(fixture, &api, || {
            wait_until("the service never answered", || answers("a"));
            wait_until("no watch came", || api.watches.lock().unwrap().contains_key("endpointslices"));
            let (_, slices) = service_for(&[&b]).objects();
            api.change_slice(&slices, 2);
            wait_until("the change never arrived", || answers("b"));
            // A change that finds the table flushed writes it anew.
            fixture.on_host(|| remove_table(&mut Socket::netfilter().unwrap(), "test").unwrap());
            let (_, slices) = service_for(&[&a]).objects();
            api.change_slice(&slices, 3);
            wait_until("the table never came back", || answers("a"));
        });
        assert!(answers("a"), "the rules outlive the proxy");
    });
}
