//! A node in a network namespace, with pods made by the plugin, and a machine outside the cluster.

use std::fs::File;
use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::{AsFd, AsRawFd};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::{Service, ServicePort, ServiceSpec};
use k8s_openapi::api::discovery::v1::{Endpoint, EndpointPort, EndpointSlice};
use nix::sched::{CloneFlags, unshare};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::netlink::Socket;
use crate::netlink::route::{Veth, mac_of};
use crate::proxy::desired::desired;
use crate::proxy::diff::diff;
use crate::proxy::layout::Layout;
use crate::proxy::{Node, Ruleset};
use crate::{NodeNetwork, ProxyConfig, cni, setup_node, teardown_node};

const PATIENCE: Duration = Duration::from_secs(30);
const THIS_NODE: &str = "here";
const BRIDGE: &str = "test0";
const OUTSIDE_BRIDGE: &str = "out0";

/// What a server saw and said.
#[derive(Debug, PartialEq)]
pub struct Probe {
    pub server: String,
    pub client: Ipv4Addr,
}

impl Probe {
    pub fn new(server: &str, client: Ipv4Addr) -> Self {
        Probe { server: server.into(), client }
    }
}

fn in_namespace<T: Send>(namespace: &File, work: impl FnOnce() -> T + Send) -> T {
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network)).unwrap();
            work()
        });
        thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

fn new_namespace() -> Option<File> {
    let made = std::thread::spawn(|| {
        unshare(CloneFlags::CLONE_NEWNET).ok()?;
        let mut route = Socket::route().unwrap();
        let loopback = route.link("lo").unwrap().unwrap();
        route.set_up(loopback.index).unwrap();
        Some(File::open("/proc/thread-self/ns/net").unwrap())
    });
    made.join().unwrap()
}

/// A network namespace with an address.
pub struct Place {
    pub name: String,
    pub ip: Ipv4Addr,
    namespace: Arc<File>,
    host: Arc<File>,
    configuration: String,
}

impl Clone for Place {
    fn clone(&self) -> Self {
        Place {
            name: self.name.clone(),
            ip: self.ip,
            namespace: self.namespace.clone(),
            host: self.host.clone(),
            configuration: self.configuration.clone(),
        }
    }
}

fn serve_connection(mut stream: TcpStream, name: &str) -> io::Result<()> {
    let SocketAddr::V4(peer) = stream.peer_addr()? else { return Ok(()) };
    let mut question = [0];
    while stream.read(&mut question)? > 0 {
        stream.write_all(format!("{name} {}\n", peer.ip()).as_bytes())?;
    }
    Ok(())
}

/// An open connection.
pub struct Conversation(TcpStream);

impl Conversation {
    fn line(&mut self) -> io::Result<String> {
        self.0.write_all(b"?")?;
        let (mut line, mut byte) = (String::new(), [0]);
        loop {
            self.0.read_exact(&mut byte)?;
            if byte[0] == b'\n' {
                return Ok(line);
            }
            line.push(byte[0] as char);
        }
    }
    /// The server's name.
    pub fn ask(&mut self) -> io::Result<String> {
        Ok(self.line()?.split(' ').next().unwrap().to_owned())
    }
}

pub struct Flow(UdpSocket);

impl Flow {
    pub fn ask(&self) -> io::Result<String> {
        self.0.send(b"?")?;
        let mut answer = [0; 64];
        let length = self.0.recv(&mut answer)?;
        Ok(String::from_utf8_lossy(&answer[..length]).into_owned())
    }
}

impl Place {
    /// The node itself under one of its other addresses.
    pub fn at_address(&self, ip: Ipv4Addr) -> Place {
        Place { ip, ..self.clone() }
    }
    pub fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        in_namespace(&self.namespace, work)
    }
    pub fn at(&self, port: u16) -> SocketAddr {
        SocketAddr::new(self.ip.into(), port)
    }
    pub fn serve_tcp(&self, port: u16) {
        self.serve_tcp_on(SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), port));
    }
    pub fn serve_tcp_on(&self, at: SocketAddr) {
        let listener = self.run(|| TcpListener::bind(at).unwrap());
        let name = self.name.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let name = name.clone();
                std::thread::spawn(move || serve_connection(stream, &name));
            }
        });
    }
    pub fn serve_udp(&self, port: u16) {
        let socket = self.run(|| UdpSocket::bind((Ipv4Addr::UNSPECIFIED, port)).unwrap());
        let name = self.name.clone();
        std::thread::spawn(move || {
            let mut buffer = [0; 64];
            while let Ok((_, from)) = socket.recv_from(&mut buffer) {
                let _ = socket.send_to(name.as_bytes(), from);
            }
        });
    }
    pub fn udp(&self, to: SocketAddr) -> Flow {
        let socket = self.run(|| UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).unwrap());
        socket.connect(to).unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        Flow(socket)
    }
    pub fn converse(&self, to: SocketAddr) -> io::Result<Conversation> {
        let stream = self.run(|| TcpStream::connect_timeout(&to, PATIENCE))?;
        stream.set_read_timeout(Some(PATIENCE))?;
        Ok(Conversation(stream))
    }
    pub fn connect(&self, to: SocketAddr) -> io::Result<Probe> {
        self.connect_within(to, PATIENCE)
    }
    pub fn connect_within(&self, to: SocketAddr, patience: Duration) -> io::Result<Probe> {
        let stream = self.run(|| TcpStream::connect_timeout(&to, patience))?;
        stream.set_read_timeout(Some(PATIENCE))?;
        let line = Conversation(stream).line()?;
        let (server, client) = line.split_once(' ').unwrap();
        Ok(Probe::new(server, client.parse().unwrap()))
    }
    /// Connects with a given source address.
    pub fn connect_from(&self, source: Ipv4Addr, to: SocketAddr) -> io::Result<Probe> {
        use rustix::net::{AddressFamily, SocketType, bind, connect, socket};
        let stream = self.run(|| -> io::Result<TcpStream> {
            let fd = socket(AddressFamily::INET, SocketType::STREAM, None)?;
            bind(&fd, &SocketAddr::new(source.into(), 0))?;
            connect(&fd, &to)?;
            Ok(fd.into())
        })?;
        stream.set_read_timeout(Some(PATIENCE))?;
        let line = Conversation(stream).line()?;
        let (server, client) = line.split_once(' ').unwrap();
        Ok(Probe::new(server, client.parse().unwrap()))
    }

    fn call(&self, command: &str, mappings: &[Value]) -> Result<String, cni::types::Failure> {
        let mut configuration: Value = serde_json::from_str(&self.configuration).unwrap();
        configuration["runtimeConfig"]["portMappings"] = mappings.into();
        let path = format!("/proc/self/fd/{}", self.namespace.as_raw_fd());
        let environment = |name: &str| {
            Some(match name {
                "CNI_COMMAND" => command.to_owned(),
                "CNI_CONTAINERID" => self.name.clone(),
                "CNI_IFNAME" => "eth0".to_owned(),
                "CNI_NETNS" => path.clone(),
                _ => return None,
            })
        };
        in_namespace(&self.host, || cni::run(&environment, configuration.to_string().as_bytes()))
    }
    pub fn add(&self, mappings: &[Value]) -> Ipv4Addr {
        let answer = self.call("ADD", mappings).unwrap();
        let answer: Value = serde_json::from_str(&answer).unwrap();
        let address = answer["ips"][0]["address"].as_str().unwrap();
        address.strip_suffix("/32").unwrap().parse().unwrap()
    }
    pub fn check(&self) -> Result<String, cni::types::Failure> {
        self.call("CHECK", &[])
    }
    pub fn delete(&self) {
        assert_eq!(self.call("DEL", &[]).unwrap(), "");
    }
    pub fn delete_link(&self) {
        self.run(|| Socket::route().unwrap().delete_link("eth0").unwrap());
    }
    pub fn route_loopback_to_gateway(&self, gateway: Ipv4Addr) {
        self.run(|| {
            let mut route = Socket::route().unwrap();
            let inside = route.link("eth0").unwrap().unwrap();
            std::fs::write("/proc/sys/net/ipv4/conf/eth0/route_localnet", "1").unwrap();
            route.delete_link("lo").ok();
            let to = "127.0.0.2/32".parse().unwrap();
            route.add_route(to, Some(gateway), inside.index).unwrap();
        });
    }
}

pub struct Fixture {
    pub host: Place,
    pub outside: Place,
    network: NodeNetwork,
    layout: Layout,
    _dir: TempDir,
}

/// Runs a test with a fresh node; skips it without the rights.
pub fn with_fixture(test: impl FnOnce(&Fixture)) {
    match Fixture::new() {
        Some(fixture) => test(&fixture),
        None => {
            eprintln!("skipped: no right to make network namespaces");
            assert!(std::env::var_os("CI").is_none(), "in CI this test must run");
        }
    }
}

impl Fixture {
    fn new() -> Option<Self> {
        let host_namespace = Arc::new(new_namespace()?);
        let dir = tempfile::tempdir().unwrap();
        let pod_cidr = "10.244.0.0/16".parse().unwrap();
        let network = NodeNetwork {
            bridge: BRIDGE.into(),
            pod_cidr,
            gateway: NodeNetwork::first_address(pod_cidr),
            service_cidr: "10.96.0.0/16".parse().unwrap(),
            masquerade: true,
            mtu: None,
            table: "test".into(),
            state_dir: dir.path().join("state"),
            conf_dir: dir.path().join("net.d"),
            bin_dir: dir.path().join("bin"),
            binary: PathBuf::from("/bin/true"),
        };
        let layout = Layout {
            table: "test".into(),
            pod_cidr,
            service_cidr: network.service_cidr,
            bridge: Some(BRIDGE.into()),
        };
        let place = |name: &str, ip: [u8; 4], namespace: Arc<File>| Place {
            name: name.into(),
            ip: ip.into(),
            namespace,
            host: host_namespace.clone(),
            configuration: String::new(),
        };
        let host = place("host", [192, 0, 2, 1], host_namespace.clone());
        let outside = place("outside", [192, 0, 2, 2], Arc::new(new_namespace()?));
        connect_outside(&host, &outside);
        let fixture = Fixture { host, outside, network, layout, _dir: dir };
        fixture.setup();
        Some(fixture)
    }

    pub fn gateway(&self) -> Ipv4Addr {
        self.network.gateway
    }
    pub fn on_host<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        self.host.run(work)
    }
    pub fn setup(&self) {
        self.on_host(|| setup_node(&self.network).unwrap());
    }
    /// What the proxy is to be run with here.
    pub fn proxy_config(&self) -> ProxyConfig {
        ProxyConfig {
            node_name: THIS_NODE.into(),
            table: self.layout.table.clone(),
            pod_cidr: self.layout.pod_cidr,
            service_cidr: self.layout.service_cidr,
            bridge: self.layout.bridge.clone(),
        }
    }
    pub fn teardown(&self) {
        self.on_host(|| teardown_node(&self.network).unwrap());
    }
    pub fn set_bridge_netfilter(&self, value: &str) {
        // Not there where the kernel has no bridge netfilter: nothing to switch then.
        let _ = self.on_host(|| std::fs::write("/proc/sys/net/bridge/bridge-nf-call-iptables", value));
    }
    pub fn pod(&self, name: &str) -> Place {
        self.pod_with(name, &[])
    }
    pub fn pod_with(&self, name: &str, mappings: &[Value]) -> Place {
        let file = self.network.conf_dir.join("10-amphipod.conflist");
        let list: Value = serde_json::from_slice(&std::fs::read(file).unwrap()).unwrap();
        let mut configuration = list["plugins"][0].clone();
        configuration["cniVersion"] = list["cniVersion"].clone();
        configuration["name"] = list["name"].clone();
        let mut pod = Place {
            name: name.into(),
            ip: Ipv4Addr::UNSPECIFIED,
            namespace: Arc::new(new_namespace().unwrap()),
            host: self.host.namespace.clone(),
            configuration: configuration.to_string(),
        };
        pod.ip = pod.add(mappings);
        pod
    }
    /// Puts the whole table in place.
    pub fn replace(&self, services: &Services) {
        let rules = services.rules();
        self.on_host(|| self.layout.replace(&mut Socket::netfilter().unwrap(), &rules).unwrap());
    }
    /// Applies the difference.
    pub fn update(&self, old: &Services, new: &Services) {
        let changes = diff(&old.rules(), &new.rules());
        self.on_host(|| self.layout.apply(&mut Socket::netfilter().unwrap(), &changes).unwrap());
    }
}

/// A bridge on the host stands for the wire between the two machines.
fn connect_outside(host: &Place, outside: &Place) {
    let with = |ip| ipnet::Ipv4Net::new(ip, 24).unwrap();
    host.run(|| {
        let mut route = Socket::route().unwrap();
        route.create_bridge(OUTSIDE_BRIDGE, mac_of(host.ip), 1500).unwrap();
        let bridge = route.link(OUTSIDE_BRIDGE).unwrap().unwrap();
        route.add_address(bridge.index, with(host.ip)).unwrap();
        let veth = Veth {
            host_name: "out1",
            bridge: bridge.index,
            mtu: 1500,
            pod_name: "eth0",
            pod_mac: mac_of(outside.ip),
            pod_namespace: outside.namespace.as_fd(),
        };
        route.create_veth(&veth).unwrap();
        route.set_up(bridge.index).unwrap();
        let everywhere = "0.0.0.0/0".parse().unwrap();
        route.add_route(everywhere, Some(outside.ip), bridge.index).unwrap();
    });
    outside.run(|| {
        let mut route = Socket::route().unwrap();
        let inside = route.link("eth0").unwrap().unwrap();
        route.add_address(inside.index, with(outside.ip)).unwrap();
        route.set_up(inside.index).unwrap();
        route.add_route("192.0.2.200/32".parse().unwrap(), Some(host.ip), inside.index).unwrap();
    });
}

/// Services and their slices, as the API would give them.
#[derive(Default)]
pub struct Services {
    services: Vec<Service>,
    slices: Vec<EndpointSlice>,
}

fn slice_of(name: &str, addresses: impl Iterator<Item = Ipv4Addr>, node: &str) -> EndpointSlice {
    let mut slice = EndpointSlice { address_type: "IPv4".into(), ..Default::default() };
    slice.metadata.labels = Some([("kubernetes.io/service-name".to_owned(), name.to_owned())].into());
    slice.ports = Some(vec![EndpointPort { port: Some(8080), ..Default::default() }]);
    slice.endpoints = addresses
        .map(|address| Endpoint {
            addresses: vec![address.to_string()],
            node_name: Some(node.into()),
            ..Default::default()
        })
        .collect();
    slice
}

fn service_of(name: &str, ip: &str) -> Service {
    let mut service = Service::default();
    service.metadata.name = Some(name.into());
    service.spec = Some(ServiceSpec {
        cluster_ip: Some(ip.into()),
        cluster_ips: Some(vec![ip.into()]),
        ports: Some(vec![ServicePort { port: 80, ..Default::default() }]),
        ..Default::default()
    });
    service
}

impl Services {
    pub fn service(&mut self, ip: &str, pods: &[&Place]) -> &mut Self {
        self.services.push(service_of(ip, ip));
        self.slices.push(slice_of(ip, pods.iter().map(|pod| pod.ip), THIS_NODE));
        self
    }
    pub fn many(services: u32, endpoints: u32, shift: u32) -> Self {
        let mut all = Services::default();
        for number in 0..services {
            let ip = Ipv4Addr::from(0x0a60_0000 + number).to_string();
            let first = 0x0af4_0000 + number * endpoints + if number == 7 { shift } else { 0 };
            all.services.push(service_of(&ip, &ip));
            all.slices.push(slice_of(&ip, (first..first + endpoints).map(Ipv4Addr::from), "there"));
        }
        all
    }
    fn spec(&mut self) -> &mut ServiceSpec {
        self.services.last_mut().unwrap().spec.as_mut().unwrap()
    }
    fn port(&mut self) -> &mut ServicePort {
        &mut self.spec().ports.as_mut().unwrap()[0]
    }
    pub fn node_port(&mut self, port: i32) -> &mut Self {
        self.port().node_port = Some(port);
        self
    }
    pub fn udp(&mut self) -> &mut Self {
        self.port().protocol = Some("UDP".into());
        self
    }
    pub fn external_ip(&mut self, ip: &str) -> &mut Self {
        self.spec().external_ips = Some(vec![ip.into()]);
        self
    }
    pub fn external_local(&mut self) -> &mut Self {
        self.spec().external_traffic_policy = Some("Local".into());
        self
    }
    pub fn sticky(&mut self) -> &mut Self {
        self.spec().session_affinity = Some("ClientIP".into());
        self
    }
    pub fn on_another_node(&mut self) -> &mut Self {
        for endpoint in &mut self.slices.last_mut().unwrap().endpoints {
            endpoint.node_name = Some("there".into());
        }
        self
    }
    pub fn objects(&self) -> (Vec<Service>, Vec<EndpointSlice>) {
        (self.services.clone(), self.slices.clone())
    }
    pub fn rules(&self) -> Ruleset {
        let services: Vec<Arc<Service>> = self.services.iter().cloned().map(Arc::new).collect();
        let slices: Vec<Arc<EndpointSlice>> = self.slices.iter().cloned().map(Arc::new).collect();
        desired(&services, &slices, &Node { name: THIS_NODE.into(), zone: None })
    }
}

/// The plugin's answer to VERSION needs no namespace.
#[test]
fn version_is_answered_and_nonsense_refused() {
    let run = |command: &str, input: &str| {
        let command = command.to_owned();
        cni::run(&move |name: &str| (name == "CNI_COMMAND").then(|| command.clone()), input.as_bytes())
    };
    let versions: Value = serde_json::from_str(&run("VERSION", "{}").unwrap()).unwrap();
    assert!(versions["supportedVersions"].as_array().unwrap().contains(&json!("1.0.0")));
    assert_eq!(run("DANCE", "{}").unwrap_err().code, 4);
    assert_eq!(run("ADD", "{").unwrap_err().code, 6);
    let old = r#"{"cniVersion":"0.1.0","bridge":"b","podCIDR":"10.0.0.0/8","gateway":"10.0.0.1","stateDir":"/s","hostPortTable":"t"}"#;
    assert_eq!(run("ADD", old).unwrap_err().code, 1);
}
