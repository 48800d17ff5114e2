//! Tests against the kernel: real packets between network namespaces that each test makes for
//! itself and that vanish with it. Without the right to make namespaces they are skipped.

mod fixture;
mod proxy;

use std::io::ErrorKind;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use fixture::{Fixture, Probe, Services, with_fixture};

use crate::proxy::diff::diff;
use crate::proxy::stale::stale;

fn names(answers: &[Probe]) -> Vec<&str> {
    let mut names: Vec<&str> = answers.iter().map(|probe| probe.server.as_str()).collect();
    names.sort_unstable();
    names.dedup();
    names
}

fn address(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

#[test]
fn pods_reach_each_other_and_the_outside() {
    with_fixture(|fixture| {
        let (a, b) = (fixture.pod("a"), fixture.pod("b"));
        a.serve_tcp(8080);
        b.serve_tcp(8080);
        assert_eq!(a.connect(b.at(8080)).unwrap(), Probe::new("b", a.ip));
        assert_eq!(b.connect(a.at(8080)).unwrap(), Probe::new("a", b.ip));
        assert_eq!(fixture.host.connect(a.at(8080)).unwrap(), Probe::new("a", fixture.gateway()));
        fixture.outside.serve_tcp(8080);
        let masqueraded = a.connect(fixture.outside.at(8080)).unwrap();
        assert_eq!(masqueraded, Probe::new("outside", fixture.host.ip), "the node's address");
        a.check().unwrap();
        a.delete();
        a.delete();
        assert!(a.check().is_err());
        assert!(fixture.host.connect_within(a.at(8080), Duration::from_millis(200)).is_err());
    });
}

#[test]
fn adding_twice_gives_the_same_address() {
    with_fixture(|fixture| {
        let pod = fixture.pod("a");
        pod.delete_link();
        assert_eq!(pod.add(&[]), pod.ip);
    });
}

#[test]
fn pods_do_not_reach_the_loopback_of_the_node() {
    with_fixture(|fixture| {
        let pod = fixture.pod("a");
        fixture.host.serve_tcp_on(address("127.0.0.1:7777"));
        assert!(fixture.host.connect(address("127.0.0.1:7777")).is_ok());
        pod.route_loopback_to_gateway(fixture.gateway());
        let denied = pod.connect_within(address("127.0.0.2:7777"), Duration::from_millis(300));
        assert!(denied.is_err());
    });
}

#[test]
fn cluster_ips_spread_over_endpoints_from_pods_and_the_node() {
    with_fixture(|fixture| {
        let (a, b, client) = (fixture.pod("a"), fixture.pod("b"), fixture.pod("client"));
        a.serve_tcp(8080);
        b.serve_tcp(8080);
        let mut services = Services::default();
        services.service("10.96.0.5", &[&a, &b]);
        fixture.replace(&services);
        let service = address("10.96.0.5:80");
        for from in [&client, &fixture.host] {
            let answers: Vec<Probe> = (0..40).map(|_| from.connect(service).unwrap()).collect();
            assert_eq!(names(&answers), ["a", "b"]);
        }
        assert_eq!(client.connect(service).unwrap().client, client.ip, "the pod's own address");
        let closed = client.connect(address("10.96.0.5:81")).unwrap_err();
        assert_eq!(closed.kind(), ErrorKind::ConnectionRefused);
        let unknown = fixture.host.connect(address("10.96.0.77:80")).unwrap_err();
        assert_eq!(unknown.kind(), ErrorKind::ConnectionRefused);
    });
}

#[test]
fn services_lead_to_servers_on_the_node_itself() {
    with_fixture(|fixture| {
        let client = fixture.pod("client");
        let gateway = fixture.host.at_address(fixture.gateway());
        fixture.host.serve_tcp_on(gateway.at(8080));
        let mut services = Services::default();
        services.service("10.96.0.10", &[&gateway]);
        fixture.replace(&services);
        for from in [&client, &fixture.host] {
            assert_eq!(from.connect(address("10.96.0.10:80")).unwrap().server, "host", "{}", from.name);
        }
    });
}

#[test]
fn a_pod_reaches_itself_through_its_service() {
    with_fixture(|fixture| {
        let pod = fixture.pod("a");
        pod.serve_tcp(8080);
        let mut services = Services::default();
        services.service("10.96.0.5", &[&pod]);
        fixture.replace(&services);
        for bridge_netfilter in ["0", "1"] {
            fixture.set_bridge_netfilter(bridge_netfilter);
            let answer = pod.connect(address("10.96.0.5:80")).unwrap();
            assert_eq!(answer, Probe::new("a", fixture.gateway()), "bridge netfilter {bridge_netfilter}");
        }
    });
}

#[test]
fn services_work_with_and_without_bridge_netfilter() {
    with_fixture(|fixture| {
        let (server, client) = (fixture.pod("server"), fixture.pod("client"));
        server.serve_tcp(8080);
        let mut services = Services::default();
        services.service("10.96.0.5", &[&server]);
        fixture.replace(&services);
        for bridge_netfilter in ["0", "1"] {
            fixture.set_bridge_netfilter(bridge_netfilter);
            for _ in 0..20 {
                let answer = client.connect(address("10.96.0.5:80")).unwrap();
                assert_eq!(answer, Probe::new("server", client.ip));
            }
        }
    });
}

#[test]
fn nothing_to_send_to_is_refused_at_once() {
    with_fixture(|fixture| {
        let client = fixture.pod("client");
        let mut services = Services::default();
        services.service("10.96.0.5", &[]).node_port(30080);
        fixture.replace(&services);
        let node_port = SocketAddr::new(fixture.host.ip.into(), 30080);
        for (from, to) in [
            (&client, address("10.96.0.5:80")),
            (&fixture.host, address("10.96.0.5:80")),
            (&client, node_port),
            (&fixture.host, node_port),
            (&fixture.outside, node_port),
        ] {
            let error = from.connect(to).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::ConnectionRefused, "{} to {to}", from.name);
        }
    });
}

#[test]
fn node_ports_answer_on_every_address_of_the_node() {
    with_fixture(|fixture| {
        let (pod, client) = (fixture.pod("a"), fixture.pod("client"));
        pod.serve_tcp(8080);
        let mut services = Services::default();
        services.service("10.96.0.5", &[&pod]).node_port(30080).external_ip("192.0.2.200");
        fixture.replace(&services);
        let node_port = SocketAddr::new(fixture.host.ip.into(), 30080);
        for (from, to) in [
            (&fixture.outside, node_port),
            (&fixture.host, node_port),
            (&client, node_port),
            (&pod, node_port),
            (&fixture.host, address("127.0.0.1:30080")),
            (&client, SocketAddr::new(fixture.gateway().into(), 30080)),
            (&client, address("192.0.2.200:80")),
        ] {
            let answer = from.connect(to).unwrap_or_else(|e| panic!("{} to {to}: {e}", from.name));
            assert_eq!(answer.server, "a");
        }
        let outer = fixture.outside.connect(node_port).unwrap();
        assert_eq!(outer.client, fixture.gateway(), "masqueraded");
    });
}

#[test]
fn a_local_external_policy_keeps_the_client_address() {
    with_fixture(|fixture| {
        let pod = fixture.pod("a");
        pod.serve_tcp(8080);
        let mut services = Services::default();
        services.service("10.96.0.5", &[&pod]).node_port(30080).external_local();
        fixture.replace(&services);
        let node_port = SocketAddr::new(fixture.host.ip.into(), 30080);
        let answer = fixture.outside.connect(node_port).unwrap();
        assert_eq!(answer, Probe::new("a", fixture.outside.ip));
        assert_eq!(fixture.host.connect(node_port).unwrap().server, "a");

        let mut elsewhere = Services::default();
        elsewhere.service("10.96.0.5", &[&pod]).node_port(30080).external_local().on_another_node();
        fixture.replace(&elsewhere);
        assert!(fixture.outside.connect_within(node_port, Duration::from_millis(300)).is_err());
        assert_eq!(fixture.host.connect(node_port).unwrap().server, "a", "from inside the cluster");
    });
}

#[test]
fn affinity_holds_until_the_endpoint_goes() {
    with_fixture(|fixture| {
        let pods = ["a", "b", "c"].map(|name| fixture.pod(name));
        let client = fixture.pod("client");
        pods.iter().for_each(|pod| pod.serve_tcp(8080));
        let sticky = |pods: &[&fixture::Place]| {
            let mut services = Services::default();
            services.service("10.96.0.5", pods).sticky().node_port(30080);
            services
        };
        let all: Vec<&fixture::Place> = pods.iter().collect();
        fixture.replace(&sticky(&all));
        let service = address("10.96.0.5:80");
        let node_port = SocketAddr::new(fixture.host.ip.into(), 30080);
        for to in [service, node_port] {
            let answers: Vec<Probe> = (0..20).map(|_| client.connect(to).unwrap()).collect();
            assert_eq!(names(&answers).len(), 1);
        }
        let chosen = client.connect(service).unwrap().server;
        let rest: Vec<&fixture::Place> = pods.iter().filter(|pod| pod.name != chosen).collect();
        fixture.update(&sticky(&all), &sticky(&rest));
        let answers: Vec<Probe> = (0..20).map(|_| client.connect(service).unwrap()).collect();
        assert_eq!(names(&answers).len(), 1);
        assert_ne!(answers[0].server, chosen);

        let mut plain = Services::default();
        plain.service("10.96.0.5", &all);
        fixture.update(&sticky(&rest), &plain);
        let answers: Vec<Probe> = (0..60).map(|_| client.connect(service).unwrap()).collect();
        assert_eq!(names(&answers), ["a", "b", "c"]);
    });
}

#[test]
fn established_connections_survive_a_replaced_table() {
    with_fixture(|fixture| {
        let (pod, client) = (fixture.pod("a"), fixture.pod("client"));
        pod.serve_tcp(8080);
        let mut services = Services::default();
        services.service("10.96.0.5", &[&pod]);
        fixture.replace(&services);
        let mut conversation = client.converse(address("10.96.0.5:80")).unwrap();
        assert_eq!(conversation.ask().unwrap(), "a");
        fixture.replace(&services);
        assert_eq!(conversation.ask().unwrap(), "a");
    });
}

#[test]
fn udp_flows_follow_their_endpoints() {
    with_fixture(|fixture| {
        let (a, b, client) = (fixture.pod("a"), fixture.pod("b"), fixture.pod("client"));
        a.serve_udp(8080);
        b.serve_udp(8080);
        let service = |pods: &[&fixture::Place]| {
            let mut services = Services::default();
            services.service("10.96.0.5", pods).udp();
            services
        };
        let (first, second) = (service(&[&a]), service(&[&b]));
        fixture.replace(&first);
        let flow = client.udp(address("10.96.0.5:80"));
        assert_eq!(flow.ask().unwrap(), "a");
        fixture.update(&first, &second);
        assert_eq!(flow.ask().unwrap(), "a", "still pinned by the kernel");
        let flows = fixture.on_host(|| crate::netlink::Socket::netfilter().unwrap().udp_flows().unwrap());
        let lost = stale(&first.rules(), &second.rules(), &flows);
        assert_eq!(lost.len(), 1, "{flows:?}");
        fixture.on_host(|| crate::netlink::Socket::netfilter().unwrap().forget_flow(&lost[0]).unwrap());
        assert_eq!(flow.ask().unwrap(), "b");
    });
}

#[test]
fn no_connection_fails_while_endpoints_change() {
    with_fixture(|fixture| {
        let pods = ["a", "b", "c", "d"].map(|name| fixture.pod(name));
        let client = fixture.pod("client");
        pods.iter().for_each(|pod| pod.serve_tcp(8080));
        let with = |range: std::ops::Range<usize>| {
            let mut services = Services::default();
            services.service("10.96.0.5", &pods[range].iter().collect::<Vec<_>>());
            services
        };
        let states = [with(0..2), with(0..4), with(1..3), with(3..4)];
        fixture.replace(&states[0]);
        let done = Arc::new(AtomicBool::new(false));
        let (stop, from) = (done.clone(), client.clone());
        let hammer = std::thread::spawn(move || {
            let mut count = 0;
            while !stop.load(Ordering::Relaxed) {
                from.connect(address("10.96.0.5:80")).unwrap();
                count += 1;
            }
            count
        });
        for round in 0..400 {
            fixture.update(&states[round % 4], &states[(round + 1) % 4]);
        }
        done.store(true, Ordering::Relaxed);
        assert!(hammer.join().unwrap() > 0);
    });
}

#[test]
fn host_ports_lead_to_their_pod_until_it_goes() {
    with_fixture(|fixture| {
        let port = |host_ip: &str, protocol: &str| serde_json::json!({"hostPort": 8000, "containerPort": 8080, "protocol": protocol, "hostIP": host_ip});
        let any = fixture.pod_with("any", &[port("", "udp"), port("127.0.0.1", "TCP")]);
        let one = fixture.pod_with("one", &[port(&fixture.host.ip.to_string(), "tcp")]);
        any.serve_tcp(8080);
        any.serve_udp(8080);
        one.serve_tcp(8080);
        let node = SocketAddr::new(fixture.host.ip.into(), 8000);
        assert_eq!(fixture.host.connect(address("127.0.0.1:8000")).unwrap().server, "any");
        assert_eq!(fixture.outside.connect(node).unwrap(), Probe::new("one", fixture.outside.ip));
        assert_eq!(one.connect(node).unwrap().server, "one", "hairpin");
        assert_eq!(any.connect(node).unwrap().server, "one");
        assert_eq!(fixture.outside.udp(node).ask().unwrap(), "any");
        let from_node = fixture.host.connect_from(fixture.host.ip, address("127.0.0.1:8000"));
        assert_eq!(from_node.unwrap().server, "any");
        one.delete();
        assert!(fixture.outside.connect_within(node, Duration::from_millis(300)).is_err());
        assert_eq!(fixture.host.connect(address("127.0.0.1:8000")).unwrap().server, "any");
    });
}

#[test]
fn setting_up_again_disturbs_nobody_and_teardown_leaves_nothing() {
    with_fixture(|fixture: &Fixture| {
        let (pod, client) = (
            fixture.pod_with("a", &[serde_json::json!({"hostPort": 8000, "containerPort": 8080})]),
            fixture.pod("b"),
        );
        pod.serve_tcp(8080);
        let mut conversation = client.converse(pod.at(8080)).unwrap();
        fixture.setup();
        assert_eq!(conversation.ask().unwrap(), "a");
        let node = SocketAddr::new(fixture.host.ip.into(), 8000);
        assert_eq!(fixture.outside.connect(node).unwrap().server, "a");
        fixture.teardown();
        fixture.teardown();
        let left = fixture.on_host(|| crate::netlink::Socket::route().unwrap().links().unwrap());
        assert!(left.iter().all(|link| link.name != "test0" && !link.name.starts_with("veth0")));
    });
}

/// Prints what the plugin costs; run it by name with `--ignored --nocapture`.
#[test]
#[ignore = "a measurement"]
fn how_long_adding_a_pod_takes() {
    with_fixture(|fixture| {
        for number in 0..5 {
            let started = std::time::Instant::now();
            let pod = fixture.pod(&format!("p{number}"));
            let added = started.elapsed();
            let started = std::time::Instant::now();
            pod.delete();
            println!("ADD {added:?} (with making the namespace), DEL {:?}", started.elapsed());
        }
    });
}

/// Prints what the dataplane costs; run it by name with `--ignored --nocapture`.
#[test]
#[ignore = "a measurement"]
fn how_long_ten_thousand_services_take() {
    with_fixture(|fixture| {
        let big = Services::many(10_000, 10, 0);
        let started = std::time::Instant::now();
        let rules = big.rules();
        println!("computing {} entries: {:?}", rules.entries.len(), started.elapsed());
        let started = std::time::Instant::now();
        fixture.replace(&big);
        println!("loading (and computing): {:?}", started.elapsed());
        let changed = Services::many(10_000, 10, 1);
        let rules_changed = changed.rules();
        let changes = diff(&rules, &rules_changed);
        let started = std::time::Instant::now();
        fixture.update(&big, &changed);
        println!("{} changes (and computing twice): {:?}", changes.len(), started.elapsed());
    });
}
