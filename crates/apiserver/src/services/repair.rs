//! Compares services with what says that their addresses and ports are theirs, mends what disagrees
//! and reports what it cannot mend. An older data directory, and an etcd that kube-apiserver filled
//! (whose node ports are one bitmap), are taken over so.

use std::collections::{BTreeMap, HashSet};
use std::net::IpAddr;
use std::ops::RangeInclusive;
use std::time::Duration;

use amphipod_api::object;
use amphipod_api::status::Status;
use amphipod_store::{Revision, Txn};
use amphipod_strategy::addresses::lenient_ip;
use amphipod_strategy::json::{items, text};
use ipnet::IpNet;
use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};
use tracing::{info, warn};
use uuid::Uuid;

use super::claims::{self, Owner};
use super::{Given, addresses, addresses_of, blocks, network, port_key, ports};
use crate::bootstrap::Loopback;
use crate::cache::{Collection, storage_status};
use crate::context::time_text;
use crate::registry::Beside;
use crate::registry::encode::{self, decode};
use crate::server::ApiServer;

/// As upstream.
const INTERVAL: Duration = Duration::from_secs(180);
/// How long an address may be without its service: another kind of server sharing the store makes the
/// address first and the service in a request of its own.
const LEAK_GRACE: SignedDuration = SignedDuration::from_secs(60);
/// Mending one thing can show another; what then is left is told.
const ROUNDS: usize = 3;

const ADDRESS_REPORTER: &str = "ipallocator-repair-controller";
const PORT_REPORTER: &str = "portallocator-repair-controller";

/// An object as it was seen.
struct Seen {
    key: String,
    revision: Revision,
    value: Value,
}

/// Everything the comparison needs.
struct State {
    /// By namespace and name.
    services: BTreeMap<(String, String), Seen>,
    /// What any service holds.
    held_addresses: HashSet<IpAddr>,
    held_ports: HashSet<u16>,
    addresses: BTreeMap<IpAddr, Seen>,
    ports: BTreeMap<u16, Seen>,
    /// Of all ServiceCIDRs, ready or not.
    blocks: Vec<IpNet>,
    node_ports: RangeInclusive<u16>,
}

#[derive(Debug)]
enum Cure {
    None,
    /// Holds only while all is as it was seen.
    Write(Beside),
    /// By the API, because finalizers may hold it.
    Delete {
        name: String,
        uid: String,
        resource_version: String,
    },
}

#[derive(Debug)]
struct Finding {
    about: Value,
    reporter: &'static str,
    /// Empty: worth a line in the log, no event.
    reason: &'static str,
    action: &'static str,
    message: String,
    cure: Cure,
}

fn seen(collection: &Collection) -> Result<Vec<Seen>, Status> {
    let snapshot = collection.snapshot();
    let all = snapshot.values().map(|entry| {
        Ok(Seen {
            key: entry.key.to_string(),
            revision: entry.revision,
            value: decode(&entry.text.contiguous())?,
        })
    });
    all.collect()
}

impl State {
    /// Claims are read first: a service that was not there when its claim was seen is there when the
    /// services are read.
    async fn read(server: &ApiServer) -> Result<Self, Status> {
        let given = Given::read(server).await?;
        let (addresses, ports) = (seen(&given.addresses)?, seen(&given.ports)?);
        let services = server.catalog.load().stored("", "services").ok_or_else(Status::no_such_path)?;
        let services = server.cache.collection(&services).await?;
        let cidrs = server.cache.collection(&*network(server, "servicecidrs")?).await?;
        server.cache.fresh().await?;
        let mut all_blocks = Vec::new();
        for entry in cidrs.snapshot().values() {
            all_blocks.extend(
                blocks(&decode(&entry.text.contiguous())?, entry).into_iter().map(|range| range.block),
            );
        }
        let services = seen(&services)?;
        let named = |seen: Seen| Some((object::name(&seen.value).parse().ok()?, seen));
        let numbered = |seen: Seen| Some((object::name(&seen.value).parse().ok()?, seen));
        let key = |seen: Seen| {
            let owner = Owner::of(&seen.value);
            ((owner.namespace.to_owned(), owner.name.to_owned()), seen)
        };
        Ok(State {
            held_addresses: services.iter().flat_map(|service| addresses_of(&service.value)).collect(),
            held_ports: services.iter().flat_map(|service| ports::held(&service.value)).collect(),
            services: services.into_iter().map(key).collect(),
            addresses: addresses.into_iter().filter_map(named).collect(),
            ports: ports.into_iter().filter_map(numbered).collect(),
            blocks: all_blocks,
            node_ports: server.config.node_port_range.clone(),
        })
    }

    fn service(&self, owner: Owner<'_>) -> Option<&Seen> {
        self.services.get(&(owner.namespace.to_owned(), owner.name.to_owned()))
    }

    fn findings(&self, now: Timestamp) -> Result<Vec<Finding>, Status> {
        let now_text = time_text(now);
        let mut found = Vec::new();
        for service in self.services.values() {
            self.check_addresses(service, &now_text, &mut found)?;
            self.check_ports(service, &now_text, &mut found)?;
        }
        for (address, seen) in &self.addresses {
            found.extend(self.check_address(*address, seen, now));
        }
        for (port, seen) in &self.ports {
            found.extend(self.check_port(*port, seen));
        }
        Ok(found)
    }

    fn check_addresses(&self, service: &Seen, now: &str, found: &mut Vec<Finding>) -> Result<(), Status> {
        for ip in items(&service.value["spec"]["clusterIPs"]).iter().map(text).filter(|ip| *ip != "None") {
            let about = |reason, action, message, cure| Finding {
                about: service.value.clone(),
                reporter: ADDRESS_REPORTER,
                reason,
                action,
                message,
                cure,
            };
            let Some(address) = lenient_ip(ip) else {
                let message = format!("Cluster IP {ip} is not a valid IP; please recreate Service");
                found.push(about("ClusterIPNotValid", "ClusterIPValidation", message, Cure::None));
                continue;
            };
            if let Some((reason, message, mend)) = self.judge_address(service, address) {
                let cure = if mend { self.claim_address(service, address, now)? } else { Cure::None };
                found.push(about(reason, "ClusterIPAllocation", message, cure));
            }
        }
        Ok(())
    }

    /// What is wrong with a service's address, and whether it can be mended.
    fn judge_address(&self, service: &Seen, address: IpAddr) -> Option<(&'static str, String, bool)> {
        let family = addresses::family(address);
        let owner = Owner::of(&service.value);
        if !self.blocks.iter().any(|block| block.contains(&address)) {
            let message = format!(
                "Cluster IP [{family}]: {address} is not within any configured Service CIDR; please recreate service"
            );
            return Some(("ClusterIPOutOfRange", message, false));
        }
        let Some(claim) = self.addresses.get(&address) else {
            let message = format!("Cluster IP [{family}]: {address} is not allocated; repairing");
            return Some(("ClusterIPNotAllocated", message, true));
        };
        let holder = Owner::of_address(&claim.value);
        if holder == Some(owner) {
            // Without its labels nobody would find it; that is mended without a word.
            let labelled = claims::is_labelled(&claim.value, address);
            return (!labelled)
                .then(|| ("", format!("IPAddress {address} lost its labels; repairing"), true));
        }
        let other = holder.and_then(|holder| self.service(holder));
        if other.is_some_and(|other| addresses_of(&other.value).contains(&address)) {
            let message = format!(
                "Cluster IP [{family}]:{address} was assigned to multiple services; please recreate service"
            );
            return Some(("ClusterIPAlreadyAllocated", message, false));
        }
        let message = format!(
            "the ClusterIP [{family}]: {address} for Service {}/{} has a wrong reference; repairing",
            owner.namespace, owner.name
        );
        Some(("ClusterIPNotAllocated", message, true))
    }

    fn claim_address(&self, service: &Seen, address: IpAddr, now: &str) -> Result<Cure, Status> {
        let mut beside = Beside::default();
        beside.expect(&service.key, service.revision);
        let claim = encode::object(&claims::ip_address(address, Owner::of(&service.value), now))?;
        let there = self.addresses.get(&address);
        let key = match there {
            Some(there) => there.key.clone(),
            None => format!("{}ipaddresses/{address}", crate::cache::ROOT),
        };
        beside.put(&key, there.map_or(0, |there| there.revision), claim);
        Ok(Cure::Write(beside))
    }

    fn check_ports(&self, service: &Seen, now: &str, found: &mut Vec<Finding>) -> Result<(), Status> {
        let owner = Owner::of(&service.value);
        for port in ports::held(&service.value) {
            let claim = self.ports.get(&port);
            let holder = claim.map(|claim| Owner::of_port(&claim.value));
            let other = holder.filter(|holder| *holder != owner).and_then(|holder| self.service(holder));
            let (reason, message, mend) = if !self.node_ports.contains(&port) {
                let (start, end) = (self.node_ports.start(), self.node_ports.end());
                let message = format!(
                    "Port {port} is not within the port range {start}-{end}; please recreate service"
                );
                ("PortOutOfRange", message, false)
            } else if holder == Some(owner) {
                continue;
            } else if other.is_some_and(|other| ports::held(&other.value).contains(&port)) {
                let message =
                    format!("Port {port} was assigned to multiple services; please recreate service");
                ("PortAlreadyAllocated", message, false)
            } else {
                ("PortNotAllocated", format!("Port {port} is not allocated; repairing"), true)
            };
            let mut cure = Cure::None;
            if mend {
                let mut beside = Beside::default();
                beside.expect(&service.key, service.revision);
                let value = encode::object(&claims::node_port(port, owner, now))?;
                beside.put(&port_key(port), claim.map_or(0, |claim| claim.revision), value);
                cure = Cure::Write(beside);
            }
            let about = service.value.clone();
            found.push(Finding { about, reporter: PORT_REPORTER, reason, action: "", message, cure });
        }
        Ok(())
    }

    /// An address no service stands behind (any more).
    fn check_address(&self, address: IpAddr, seen: &Seen, now: Timestamp) -> Option<Finding> {
        let held = self.held_addresses.contains(&address);
        if !claims::is_ours(&seen.value) || held || object::deletion_timestamp(&seen.value).is_some() {
            return None;
        }
        let (reason, message) = match Owner::of_address(&seen.value) {
            None => {
                let parent = parent_text(&seen.value["spec"]["parentRef"]);
                let message = format!(
                    "IPAddress {address} appears to have been modified, not referencing a Service {parent}: cleaning up"
                );
                ("IPAddressNotAllocated", message)
            }
            Some(Owner { namespace, name }) if self.service(Owner { namespace, name }).is_some() => (
                "IPAddressWrongReference",
                format!(
                    "IPAddress: {address} for Service {namespace}/{name} has a wrong reference; cleaning up"
                ),
            ),
            Some(Owner { namespace, name }) => {
                let made = text(&seen.value["metadata"]["creationTimestamp"]).parse::<Timestamp>();
                if made.is_ok_and(|made| now.duration_since(made) <= LEAK_GRACE) {
                    return None;
                }
                let message = format!(
                    "IPAddress: {address} for Service {namespace}/{name} appears to have leaked: cleaning up"
                );
                ("IPAddressNotAllocated", message)
            }
        };
        let cure = Cure::Delete {
            name: object::name(&seen.value).to_owned(),
            uid: object::uid(&seen.value).to_owned(),
            resource_version: seen.revision.to_string(),
        };
        let (about, reporter, action) = (seen.value.clone(), ADDRESS_REPORTER, "IPAddressAllocation");
        Some(Finding { about, reporter, reason, action, message, cure })
    }

    fn check_port(&self, port: u16, seen: &Seen) -> Option<Finding> {
        if self.held_ports.contains(&port) {
            return None;
        }
        let mut beside = Beside::default();
        beside.delete(&seen.key, seen.revision);
        Some(Finding {
            about: seen.value.clone(),
            reporter: PORT_REPORTER,
            reason: "",
            action: "",
            message: format!("the node port {port} appears to have leaked: cleaning up"),
            cure: Cure::Write(beside),
        })
    }
}

/// As Go shows the reference.
fn parent_text(parent: &Value) -> String {
    let part = |key: &str| text(&parent[key]).to_owned();
    format!(
        "&ParentReference{{Group:{},Resource:{},Namespace:{},Name:{},}}",
        part("group"),
        part("resource"),
        part("namespace"),
        part("name")
    )
}

/// The comparison, and what it has told already.
#[derive(Default)]
pub struct Repair {
    told: HashSet<(String, String)>,
}

impl Repair {
    /// Compares and mends. At `start` missing claims are no event each: a store that somebody else
    /// filled has none at all.
    pub async fn run(&mut self, server: &ApiServer, api: &dyn Loopback, start: bool) -> Result<(), Status> {
        let mut taken_over = 0;
        let mut left = Vec::new();
        for _ in 0..ROUNDS {
            left.clear();
            let mut mended = 0;
            for finding in State::read(server).await?.findings(server.now())? {
                match cure(server, api, &finding).await? {
                    Some(true) => {
                        mended += 1;
                        if start && ["ClusterIPNotAllocated", "PortNotAllocated"].contains(&finding.reason) {
                            taken_over += 1;
                        } else {
                            tell(api, &finding, server.now()).await;
                        }
                    }
                    Some(false) => {}
                    None => left.push(finding),
                }
            }
            if mended == 0 {
                break;
            }
        }
        if taken_over > 0 {
            info!(count = taken_over, "addresses and ports of stored services are taken over");
        }
        self.tell_once(api, left, server.now()).await;
        Ok(())
    }

    /// What cannot be mended is told once, not every round.
    async fn tell_once(&mut self, api: &dyn Loopback, left: Vec<Finding>, now: Timestamp) {
        let told = std::mem::take(&mut self.told);
        for finding in left {
            let key = (object::uid(&finding.about).to_owned(), finding.message.clone());
            if !told.contains(&key) {
                tell(api, &finding, now).await;
            }
            self.told.insert(key);
        }
    }
}

/// Whether it was mended; `None` where it cannot be. What changed meanwhile is left to the next round.
async fn cure(server: &ApiServer, api: &dyn Loopback, finding: &Finding) -> Result<Option<bool>, Status> {
    match &finding.cure {
        Cure::None => Ok(None),
        Cure::Write(beside) => {
            let txn = Txn { compare: beside.compare.clone(), then: beside.then.clone() };
            let outcome = server.cache.store().txn(txn).await.map_err(storage_status)?;
            if outcome.succeeded {
                server.cache.note_written(outcome.revision);
            }
            Ok(Some(outcome.succeeded))
        }
        Cure::Delete { name, uid, resource_version } => {
            let options = json!({"kind": "DeleteOptions", "apiVersion": "v1",
                "preconditions": {"uid": uid, "resourceVersion": resource_version}});
            let path = format!("/apis/{}/v1/ipaddresses/{name}", claims::GROUP);
            let (code, _) = api.call("DELETE", &path, Some(&options)).await;
            Ok(Some((200..300).contains(&code)))
        }
    }
}

async fn tell(api: &dyn Loopback, finding: &Finding, now: Timestamp) {
    let about = &finding.about;
    warn!(namespace = object::namespace(about), name = object::name(about), "{}", finding.message);
    if finding.reason.is_empty() {
        return;
    }
    let event = event(finding, &time_text(now));
    let path = format!("/api/v1/namespaces/{}/events", object::namespace(&event));
    let (code, answer) = api.call("POST", &path, Some(&event)).await;
    if !(200..300).contains(&code) {
        warn!(code, answer = %String::from_utf8_lossy(&answer), "an event could not be written");
    }
}

fn event(finding: &Finding, now: &str) -> Value {
    let about = &finding.about;
    let namespace = Some(object::namespace(about)).filter(|n| !n.is_empty()).unwrap_or("default");
    let name = format!("{}.{}", object::name(about).replace(':', "-"), Uuid::new_v4().simple());
    let mut event = json!({
        "kind": "Event", "apiVersion": "v1",
        "metadata": {"namespace": namespace, "name": name},
        "involvedObject": {
            "kind": object::kind(about), "apiVersion": object::api_version(about),
            "namespace": object::namespace(about), "name": object::name(about), "uid": object::uid(about),
            "resourceVersion": object::resource_version(about),
        },
        "reason": finding.reason, "message": finding.message, "type": "Warning",
        "source": {"component": finding.reporter}, "reportingComponent": finding.reporter,
        "firstTimestamp": now, "lastTimestamp": now, "count": 1,
    });
    if !finding.action.is_empty() {
        event["action"] = finding.action.into();
    }
    event
}

/// Until the server ends.
pub async fn repair_periodically(server: &ApiServer, api: &dyn Loopback, mut repair: Repair) {
    loop {
        tokio::select! {
            () = server.shutdown.cancelled() => return,
            () = tokio::time::sleep(INTERVAL) => {}
        }
        if let Err(error) = repair.run(server, api, false).await {
            warn!(%error, "addresses and ports of services could not be compared");
        }
    }
}
