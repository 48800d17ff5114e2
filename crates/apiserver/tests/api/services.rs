//! Addresses and node ports of services, with one server and with two over one store.

use std::collections::BTreeMap;
use std::sync::Arc;

use amphipod_apiserver::{ApiServer, Config};
use amphipod_store::{Compare, EmbeddedStore, Op, Range, Store, Txn};
use serde_json::{Value, json};

use crate::support::{Server, server};

const SERVICES: &str = "/api/v1/namespaces/default/services";
const ADDRESSES: &str = "/apis/networking.k8s.io/v1/ipaddresses";
const CIDRS: &str = "/apis/networking.k8s.io/v1/servicecidrs";
const ADDRESS_KEYS: &str = "/registry/ipaddresses/";
const PORT_KEYS: &str = "/registry/ranges/servicenodeports/";

fn service(name: &str, kind: &str) -> Value {
    json!({"kind": "Service", "apiVersion": "v1", "metadata": {"name": name},
        "spec": {"type": kind, "selector": {"app": "a"}, "ports": [{"port": 80}]}})
}

fn memory() -> Arc<dyn Store> {
    Arc::new(EmbeddedStore::memory().expect("a store"))
}

async fn serve(store: &Arc<dyn Store>, cidrs: &[&str], node_ports: std::ops::RangeInclusive<u16>) -> Server {
    let config = Config {
        advertise_address: [192, 0, 2, 1].into(),
        service_cidrs: cidrs.iter().map(|cidr| cidr.parse().expect("a block")).collect(),
        node_port_range: node_ports,
        ..Config::default()
    };
    Server::of(ApiServer::start(config, store.clone()).await.expect("a server")).await
}

async fn stored(store: &dyn Store, prefix: &str) -> Vec<(String, Value)> {
    let read = store.range(Range::prefix(prefix)).await.expect("a read");
    let parse = |value: &[u8]| serde_json::from_slice(value).expect("JSON");
    read.items
        .iter()
        .map(|item| (item.key[prefix.len()..].to_owned(), parse(&item.value.contiguous())))
        .collect()
}

/// Every address and node port is one service's, each has its claim and there are no others.
async fn assert_sound(store: &dyn Store) -> usize {
    let mut addresses = BTreeMap::new();
    let mut ports = BTreeMap::new();
    for (key, service) in stored(store, "/registry/services/specs/").await {
        for ip in service["spec"]["clusterIPs"].as_array().into_iter().flatten() {
            if ip != "None" {
                let before = addresses.insert(ip.as_str().expect("text").to_owned(), key.clone());
                assert_eq!(before, None, "{ip} was given twice");
            }
        }
        let spec = &service["spec"];
        let all = spec["ports"].as_array().into_iter().flatten().map(|port| &port["nodePort"]);
        for port in all.chain([&spec["healthCheckNodePort"]]).filter_map(Value::as_u64) {
            let before = ports.insert(port.to_string(), key.clone());
            assert!(before.is_none_or(|before| before == key), "{port} was given twice");
        }
    }
    let owner = |parent: &Value| {
        format!("{}/{}", parent["namespace"].as_str().expect("text"), parent["name"].as_str().expect("text"))
    };
    let claimed = stored(store, ADDRESS_KEYS).await;
    let claimed: BTreeMap<_, _> =
        claimed.into_iter().map(|(key, claim)| (key, owner(&claim["spec"]["parentRef"]))).collect();
    assert_eq!(claimed, addresses);
    let claimed = stored(store, PORT_KEYS).await;
    let claimed: BTreeMap<_, _> =
        claimed.into_iter().map(|(key, claim)| (key, owner(&claim["service"]))).collect();
    assert_eq!(claimed, ports);
    addresses.len()
}

async fn delete_key(store: &dyn Store, key: &str) {
    let then = vec![Op::Delete { key: key.to_owned() }];
    store.txn(Txn { compare: vec![], then }).await.expect("a write");
}

async fn put_new(store: &dyn Store, key: &str, value: &Value) {
    let compare = vec![Compare::ModRevision { key: key.to_owned(), equals: 0 }];
    let value = value.to_string().into();
    let then = vec![Op::Put { key: key.to_owned(), value, stamp: None, lease: None }];
    assert!(store.txn(Txn { compare, then }).await.expect("a write").succeeded);
}

#[tokio::test]
async fn an_address_object_lives_as_long_as_its_service() {
    let store = memory();
    let server = serve(&store, &["10.0.0.0/24"], 30000..=30100).await;
    let made = server.post(SERVICES, &service("a", "NodePort")).await.expect(201);
    let ip = made["spec"]["clusterIP"].as_str().unwrap();
    let address = server.get(&format!("{ADDRESSES}/{ip}")).await.expect(200);
    assert_eq!(
        address["metadata"]["labels"],
        json!({"ipaddress.kubernetes.io/ip-family": "IPv4", "ipaddress.kubernetes.io/managed-by": "ipallocator.k8s.io"})
    );
    assert_eq!(
        address["spec"],
        json!({"parentRef": {"resource": "services", "namespace": "default", "name": "a"}})
    );
    assert_eq!(assert_sound(&*store).await, 2);

    let path = format!("{SERVICES}/a");
    let external = json!({"spec": {"type": "ExternalName", "externalName": "a.example", "ports": null}});
    server.merge(&path, &external).await.expect(200);
    assert_eq!(assert_sound(&*store).await, 1);
    let back = json!({"spec": {"type": "NodePort", "externalName": null, "ports": [{"port": 80}]}});
    server.merge(&path, &back).await.expect(200);
    assert_eq!(assert_sound(&*store).await, 2);
    let moved = json!({"spec": {"ports": [{"port": 80, "nodePort": 30001}, {"name": "b", "port": 81}]}});
    let refused = server.merge(&path, &moved).await;
    assert_eq!(refused.code, 422);
    let moved =
        json!({"spec": {"ports": [{"name": "a", "port": 80, "nodePort": 30001}, {"name": "b", "port": 81}]}});
    server.merge(&path, &moved).await.expect(200);
    assert_eq!(assert_sound(&*store).await, 2);

    server.merge(&path, &json!({"metadata": {"finalizers": ["example.com/held"]}})).await.expect(200);
    server.delete(&path).await.expect(200);
    assert_eq!(assert_sound(&*store).await, 2);
    server.merge(&path, &json!({"metadata": {"finalizers": null}})).await.expect(200);
    assert_eq!(assert_sound(&*store).await, 1);
    server.get(&format!("{ADDRESSES}/{ip}")).await.refused(404, "NotFound");

    for name in ["x", "y", "z"] {
        server.post(SERVICES, &service(name, "NodePort")).await.expect(201);
    }
    server.delete(SERVICES).await.expect(200);
    assert_eq!(assert_sound(&*store).await, 0);
}

#[tokio::test]
async fn what_cannot_be_given_is_refused_in_kubernetes_words() {
    let store = memory();
    let server = serve(&store, &["10.0.0.0/29"], 30000..=30001).await;
    let named = |name: &str, ip: &str| {
        let mut service = service(name, "ClusterIP");
        service["spec"]["clusterIP"] = ip.into();
        service
    };
    let refused = async |ip: &str| server.post(SERVICES, &named("n", ip)).await.refused(422, "Invalid");
    assert_eq!(
        refused("10.0.0.1").await,
        "Service \"n\" is invalid: spec.clusterIPs: Invalid value: [\"10.0.0.1\"]: failed to allocate IP 10.0.0.1: provided IP is already allocated"
    );
    for outside in ["10.0.0.0", "10.0.0.7", "10.9.9.9"] {
        assert_eq!(
            refused(outside).await,
            format!(
                "Service \"n\" is invalid: spec.clusterIPs: Invalid value: [\"{outside}\"]: failed to allocate IP {outside}: the provided network does not match the current range"
            )
        );
    }
    // A dry run shows what would be given, and takes nothing.
    let shown = server.post(&format!("{SERVICES}?dryRun=All"), &service("d", "NodePort")).await.expect(201);
    assert!(shown["spec"]["clusterIP"].is_string() && shown["spec"]["ports"][0]["nodePort"].is_number());
    assert_eq!(assert_sound(&*store).await, 1);
    for i in 0..2 {
        server.post(SERVICES, &service(&format!("p{i}"), "NodePort")).await.expect(201);
    }
    let full = server.post(SERVICES, &service("p2", "NodePort")).await.refused(500, "InternalError");
    assert_eq!(full, "Internal error occurred: failed to allocate a nodePort: range is full");
    for i in 0..3 {
        server.post(SERVICES, &service(&format!("c{i}"), "ClusterIP")).await.expect(201);
    }
    let full = server.post(SERVICES, &service("c3", "ClusterIP")).await.refused(500, "InternalError");
    assert_eq!(full, "Internal error occurred: failed to allocate a serviceIP: range is full");
    assert_eq!(assert_sound(&*store).await, 6);
}

#[tokio::test(flavor = "multi_thread")]
async fn two_servers_give_nothing_twice_and_leak_nothing() {
    const WORKERS: usize = 8;
    const ROUNDS: usize = 40;
    let store = memory();
    // Few addresses for many, so that the two servers meet.
    let servers = [
        Arc::new(serve(&store, &["10.0.0.0/26"], 30000..=30040).await),
        Arc::new(serve(&store, &["10.0.0.0/26"], 30000..=30040).await),
    ];
    let mut workers = tokio::task::JoinSet::new();
    for worker in 0..WORKERS {
        let servers = servers.clone();
        workers.spawn(async move {
            for round in 0..ROUNDS {
                // Made by one server, changed or deleted by the other.
                let (here, there) = (&servers[(worker + round) % 2], &servers[(worker + round + 1) % 2]);
                let name = format!("s{worker}-{}", round % 4);
                let path = format!("{SERVICES}/{name}");
                let made = here.post(SERVICES, &service(&name, "NodePort")).await;
                assert!([201, 409].contains(&made.code), "{}", String::from_utf8_lossy(&made.bytes));
                let external =
                    json!({"spec": {"type": "ExternalName", "externalName": "a.example", "ports": null}});
                let answer = match round % 3 {
                    0 => there.delete(&path).await,
                    1 => there.merge(&path, &external).await,
                    _ => continue,
                };
                assert!(answer.code < 300, "{}", String::from_utf8_lossy(&answer.bytes));
            }
        });
    }
    while let Some(ended) = workers.join_next().await {
        ended.unwrap();
    }
    assert_sound(&*store).await;
    servers[1].delete(SERVICES).await.expect(200);
    assert_eq!(assert_sound(&*store).await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn of_two_that_name_the_same_one_gets_it() {
    let store = memory();
    let servers = [
        Arc::new(serve(&store, &["10.0.0.0/24"], 30000..=30100).await),
        Arc::new(serve(&store, &["10.0.0.0/24"], 30000..=30100).await),
    ];
    for round in 0..20 {
        let mut both = tokio::task::JoinSet::new();
        for (i, server) in servers.iter().cloned().enumerate() {
            both.spawn(async move {
                let mut named = service(&format!("r{round}-{i}"), "NodePort");
                named["spec"]["clusterIP"] = format!("10.0.0.{}", 10 + round).into();
                server.post(SERVICES, &named).await.code
            });
        }
        let mut codes = both.join_all().await;
        codes.sort_unstable();
        assert_eq!(codes, [201, 422]);
    }
    assert_eq!(assert_sound(&*store).await, 21);
}

#[tokio::test]
async fn services_are_given_addresses_of_added_ranges_and_none_of_ending_ones() {
    let store = memory();
    let server = serve(&store, &["10.0.0.0/30"], 30000..=30100).await;
    let own = server.get(&format!("{CIDRS}/kubernetes")).await.expect(200);
    assert_eq!(own["metadata"]["finalizers"], json!(["networking.k8s.io/service-cidr-finalizer"]));
    let ready = &own["status"]["conditions"][0];
    assert_eq!(
        (&ready["type"], &ready["status"], &ready["message"]),
        (&json!("Ready"), &json!("True"), &json!("Kubernetes default Service CIDR is ready"))
    );
    server.post(SERVICES, &service("a", "ClusterIP")).await.expect(201);
    server.post(SERVICES, &service("b", "ClusterIP")).await.refused(500, "InternalError");
    let more = json!({"kind": "ServiceCIDR", "apiVersion": "networking.k8s.io/v1",
        "metadata": {"name": "more", "finalizers": ["networking.k8s.io/service-cidr-finalizer"]},
        "spec": {"cidrs": ["10.1.0.0/24"]}});
    server.post(CIDRS, &more).await.expect(201);
    let b = server.post(SERVICES, &service("b", "ClusterIP")).await.expect(201);
    assert!(b["spec"]["clusterIP"].as_str().unwrap().starts_with("10.1.0."), "{b}");
    server.delete(&format!("{CIDRS}/more")).await.expect(200);
    server.post(SERVICES, &service("c", "ClusterIP")).await.refused(500, "InternalError");
    assert_eq!(assert_sound(&*store).await, 3);
}

#[tokio::test]
async fn a_dual_stack_cluster_gives_two() {
    let store = memory();
    let server = serve(&store, &["10.0.0.0/24", "fd00::/112"], 30000..=30100).await;
    let families = |s: &Value| s["spec"]["ipFamilies"].clone();
    let plain = server.post(SERVICES, &service("plain", "ClusterIP")).await.expect(201);
    assert_eq!(
        (&plain["spec"]["ipFamilyPolicy"], families(&plain)),
        (&json!("SingleStack"), json!(["IPv4"]))
    );
    let mut six = service("six", "ClusterIP");
    six["spec"]["ipFamilies"] = json!(["IPv6"]);
    let six = server.post(SERVICES, &six).await.expect(201);
    assert!(six["spec"]["clusterIP"].as_str().unwrap().starts_with("fd00::"), "{six}");

    let path = format!("{SERVICES}/plain");
    let policy = |policy: &str| json!({"spec": {"ipFamilyPolicy": policy}});
    let two = server.merge(&path, &policy("RequireDualStack")).await.expect(200);
    assert_eq!(families(&two), json!(["IPv4", "IPv6"]));
    assert_eq!(two["spec"]["clusterIPs"][0], plain["spec"]["clusterIP"]);
    assert!(two["spec"]["clusterIPs"][1].as_str().unwrap().starts_with("fd00::"), "{two}");
    assert_eq!(assert_sound(&*store).await, 4);
    let one = server.merge(&path, &policy("SingleStack")).await.expect(200);
    assert_eq!(one["spec"]["clusterIPs"], plain["spec"]["clusterIPs"]);
    assert_eq!(assert_sound(&*store).await, 3);
}

#[tokio::test]
async fn a_single_stack_cluster_refuses_the_other_family() {
    let server = server().await;
    let mut other = service("a", "ClusterIP");
    other["spec"]["ipFamilies"] = json!(["IPv6"]);
    assert_eq!(
        server.post(SERVICES, &other).await.refused(422, "Invalid"),
        "Service \"a\" is invalid: spec.ipFamilies[0]: Invalid value: \"IPv6\": not configured on this cluster"
    );
    let mut preferring = service("b", "ClusterIP");
    preferring["spec"]["ipFamilyPolicy"] = "PreferDualStack".into();
    let given = server.post(SERVICES, &preferring).await.expect(201);
    assert_eq!(given["spec"]["ipFamilies"], json!(["IPv4"]));
    let headless = json!({"kind": "Service", "apiVersion": "v1", "metadata": {"name": "c"},
        "spec": {"clusterIP": "None", "ports": [{"port": 80}]}});
    let given = server.post(SERVICES, &headless).await.expect(201);
    assert_eq!(given["spec"]["ipFamilies"], json!(["IPv4", "IPv6"]));
}

#[tokio::test]
async fn a_cluster_gains_a_family() {
    let store = memory();
    let first = serve(&store, &["10.0.0.0/24"], 30000..=30100).await;
    let mut preferring = service("a", "ClusterIP");
    preferring["spec"]["ipFamilyPolicy"] = "PreferDualStack".into();
    first.post(SERVICES, &preferring).await.expect(201);
    first.api.close();
    let second = serve(&store, &["10.0.0.0/24", "fd00::/112"], 30000..=30100).await;
    let range = second.get(&format!("{CIDRS}/kubernetes")).await.expect(200);
    assert_eq!(range["spec"]["cidrs"], json!(["10.0.0.0/24", "fd00::/112"]));
    // What is there is left alone until somebody asks.
    let path = format!("{SERVICES}/a");
    let same = second.merge(&path, &json!({"metadata": {"labels": {"a": "b"}}})).await.expect(200);
    assert_eq!(same["spec"]["ipFamilies"], json!(["IPv4"]));
    let policy = json!({"spec": {"ipFamilyPolicy": "RequireDualStack"}});
    let two = second.merge(&path, &policy).await.expect(200);
    assert_eq!(two["spec"]["clusterIPs"].as_array().unwrap().len(), 2);
    assert_eq!(assert_sound(&*store).await, 3);
}

#[tokio::test]
async fn a_store_without_claims_is_taken_over() {
    let store = memory();
    let server = serve(&store, &["10.0.0.0/24"], 30000..=30100).await;
    for i in 0..5 {
        server.post(SERVICES, &service(&format!("s{i}"), "NodePort")).await.expect(201);
    }
    server.api.close();
    for prefix in [ADDRESS_KEYS, PORT_KEYS] {
        for (key, _) in stored(&*store, prefix).await {
            delete_key(&*store, &format!("{prefix}{key}")).await;
        }
    }
    // kube-apiserver's bitmap is no claim and no obstacle.
    put_new(
        &*store,
        "/registry/ranges/servicenodeports",
        &json!({"kind": "RangeAllocation", "apiVersion": "v1",
        "metadata": {}, "range": "30000-30100", "data": ""}),
    )
    .await;
    let server = serve(&store, &["10.0.0.0/24"], 30000..=30100).await;
    assert_eq!(assert_sound(&*store).await, 6);
    let events = server.get("/api/v1/events").await.expect(200);
    assert_eq!(events["items"], json!([]));
}

#[tokio::test]
async fn what_disagrees_is_mended_or_told() {
    let store = memory();
    let server = serve(&store, &["10.0.0.0/24"], 30000..=30100).await;
    let mut first = service("first", "NodePort");
    first["spec"]["clusterIP"] = "10.0.0.50".into();
    first["spec"]["ports"][0]["nodePort"] = 30050.into();
    let made = server.post(SERVICES, &first).await.expect(201);
    let ip = "10.0.0.50";
    let port = &made["spec"]["ports"][0]["nodePort"];
    server.api.close();
    // Somebody wrote past the server: the same service under another name.
    let mut twin = made.clone();
    twin["metadata"]["name"] = "second".into();
    twin["metadata"]["uid"] = "uid-of-second".into();
    put_new(&*store, "/registry/services/specs/default/second", &twin).await;
    let leaked = |ip: &str, name: &str, since: &str| {
        json!({"kind": "IPAddress", "apiVersion": "networking.k8s.io/v1",
            "metadata": {"name": ip, "uid": format!("uid-of-{ip}"), "creationTimestamp": since,
                "labels": {"ipaddress.kubernetes.io/managed-by": "ipallocator.k8s.io",
                    "ipaddress.kubernetes.io/ip-family": "IPv4"}},
            "spec": {"parentRef": {"resource": "services", "namespace": "default", "name": name}}})
    };
    let old = "2020-01-01T00:00:00Z";
    let new = jiff_now();
    for (ip, name, since) in
        [("10.0.0.100", "gone", old), ("10.0.0.101", "gone", &new), ("10.0.0.102", "first", old)]
    {
        put_new(&*store, &format!("{ADDRESS_KEYS}{ip}"), &leaked(ip, name, since)).await;
    }
    put_new(
        &*store,
        &format!("{PORT_KEYS}30077"),
        &json!({"metadata": {"name": "30077"},
        "service": {"namespace": "default", "name": "gone"}}),
    )
    .await;

    let server = serve(&store, &["10.0.0.0/24"], 30000..=30100).await;
    let events = server.get("/api/v1/events").await.expect(200);
    let mut told: Vec<String> = events["items"]
        .as_array()
        .unwrap()
        .iter()
        .map(|e| format!("{} {}", e["reason"].as_str().unwrap(), e["message"].as_str().unwrap()))
        .collect();
    told.sort();
    assert_eq!(
        told,
        [
            format!(
                "ClusterIPAlreadyAllocated Cluster IP [IPv4]:{ip} was assigned to multiple services; please recreate service"
            ),
            "IPAddressNotAllocated IPAddress: 10.0.0.100 for Service default/gone appears to have leaked: cleaning up".into(),
            "IPAddressWrongReference IPAddress: 10.0.0.102 for Service default/first has a wrong reference; cleaning up".into(),
            format!("PortAlreadyAllocated Port {port} was assigned to multiple services; please recreate service"),
        ]
    );
    let addresses: Vec<String> =
        stored(&*store, ADDRESS_KEYS).await.into_iter().map(|(key, _)| key).collect();
    assert_eq!(addresses, ["10.0.0.1", "10.0.0.101", "10.0.0.50"]);
    assert!(stored(&*store, PORT_KEYS).await.iter().all(|(key, _)| key != "30077"));
    // The one that has no claim does not take the other's along.
    server.delete(&format!("{SERVICES}/second")).await.expect(200);
    server.get(&format!("{ADDRESSES}/{ip}")).await.expect(200);
    server.delete(&format!("{ADDRESSES}/10.0.0.101")).await.expect(200);
    assert_eq!(assert_sound(&*store).await, 2);
}

fn jiff_now() -> String {
    jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}
