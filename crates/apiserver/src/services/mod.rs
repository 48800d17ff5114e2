//! Addresses and node ports of services. Each that is given is a key in the store, made in the very
//! transaction that writes the service and deleted in the one that writes it without or deletes it:
//! two servers cannot give the same twice, and a crash leaks none. What is free is read from the
//! cache; where another writer was faster the transaction fails and the choice is made anew.

pub mod addresses;
mod claims;
mod ports;
mod repair;

use std::net::IpAddr;
use std::sync::Arc;

use amphipod_api::field::{self, Path};
use amphipod_api::object;
use amphipod_api::resource::Resource;
use amphipod_api::status::Status;
use amphipod_strategy::addresses::{lenient_cidr, lenient_ip};
use amphipod_strategy::json::{items, text};
use amphipod_strategy::service::{is_headless, settle_families};
use serde_json::Value;

use crate::cache::{Collection, Entry, storage_status};
use crate::context::Context;
use crate::registry::encode::{self, decode};
use crate::registry::{Beside, object_key, refuse_faults};
use crate::server::ApiServer;
use addresses::Range;
use claims::{NODE_PORTS, Owner};
use ports::{Refusal, Settling};

pub use repair::{Repair, repair_periodically};

fn is_service(resource: &Resource) -> bool {
    resource.group.is_empty() && resource.plural == "services"
}

/// Whether anything is written beside what this request writes.
pub fn goes_with(cx: &Context) -> bool {
    is_service(&cx.resource) && cx.subresource().is_empty()
}

/// Fills in what a service lacks. What comes back makes it the service's own, and frees what the
/// service had and no longer has. Other kinds need nothing.
pub async fn allocate(
    server: &ApiServer,
    cx: &Context,
    service: &mut Value,
    old: Option<&Value>,
) -> Result<Beside, Status> {
    let mut beside = Beside::default();
    if !goes_with(cx) {
        return Ok(beside);
    }
    let faults = settle_families(service, old, &families(server));
    refuse_faults(cx, service, &faults)?;
    let given = Given::read(server).await?;
    let mine = old.map(addresses_of).unwrap_or_default();
    let seed = rand::random();
    let taken = given.settle_addresses(service, &mine, seed).or_else(|why| refuse(cx, service, why))?;
    // A claim that cannot be read is one.
    let is_taken = |port: u16| !matches!(given.port(port), Ok(None));
    let settling = Settling::new(server.config.node_port_range.clone(), old, seed, &is_taken);
    let ports = settling.settle(service, old).or_else(|why| refuse(cx, service, why))?;
    let owner = Owner { namespace: cx.namespace(), name: object::name(service) };
    for (range, address) in taken {
        // A range that ends at this moment gives nothing any more.
        beside.expect(&range.key, range.revision);
        let claim = claims::ip_address(address, owner, &cx.now_text);
        beside.put(&given.address_key(address), 0, encode::object(&claim)?);
    }
    for port in ports {
        let claim = claims::node_port(port, owner, &cx.now_text);
        beside.put(&port_key(port), 0, encode::object(&claim)?);
    }
    if let Some(old) = old {
        let (addresses, ports) = (addresses_of(service), ports::held(service));
        let left: Vec<IpAddr> = mine.into_iter().filter(|a| !addresses.contains(a)).collect();
        let free: Vec<u16> = ports::held(old).into_iter().filter(|p| !ports.contains(p)).collect();
        given.give_up(&mut beside, Owner::of(old), &left, &free)?;
    }
    Ok(beside)
}

/// What goes with the deletion of an object: a service's addresses and ports.
pub async fn release(server: &ApiServer, resource: &Resource, old: &Value) -> Result<Beside, Status> {
    let mut beside = Beside::default();
    if is_service(resource) {
        let given = Given::read(server).await?;
        given.give_up(&mut beside, Owner::of(old), &addresses_of(old), &ports::held(old))?;
    }
    Ok(beside)
}

fn refuse<T>(cx: &Context, service: &Value, why: Refusal) -> Result<T, Status> {
    Err(match why {
        Refusal::Invalid(fault) => {
            Status::invalid(&cx.resource.group, &cx.resource.kind, object::name(service), &[fault])
        }
        Refusal::Failed(why) => Status::internal(why),
    })
}

/// The cluster's address families, the preferred one first.
fn families(server: &ApiServer) -> Vec<&'static str> {
    let mut families = Vec::new();
    for block in &server.config.service_cidrs {
        let family = addresses::family(block.addr());
        if !families.contains(&family) {
            families.push(family);
        }
    }
    families
}

/// The addresses a service holds.
fn addresses_of(service: &Value) -> Vec<IpAddr> {
    let spec = &service["spec"];
    let list = items(&spec["clusterIPs"]);
    let single = list.is_empty().then_some(&spec["clusterIP"]);
    let mut found: Vec<IpAddr> =
        list.iter().chain(single).filter_map(|text_of| lenient_ip(text(text_of))).collect();
    found.dedup();
    found
}

fn port_key(port: u16) -> String {
    object_key(&NODE_PORTS, "", &port.to_string())
}

/// What is given already, and what can be.
struct Given {
    addresses: Arc<Collection>,
    ports: Arc<Collection>,
    ranges: Vec<Range>,
}

impl Given {
    /// Reflects every write acknowledged before.
    async fn read(server: &ApiServer) -> Result<Self, Status> {
        let addresses = server.cache.collection(&*network(server, "ipaddresses")?).await?;
        let cidrs = server.cache.collection(&*network(server, "servicecidrs")?).await?;
        let ports = server.cache.collection(&NODE_PORTS).await?;
        server.cache.fresh().await?;
        let mut ranges = Vec::new();
        for entry in cidrs.snapshot().values() {
            let cidr = decode(&entry.text.contiguous())?;
            if gives(&cidr) {
                ranges.extend(blocks(&cidr, entry));
            }
        }
        Ok(Given { addresses, ports, ranges })
    }

    fn address_key(&self, address: IpAddr) -> String {
        format!("{}{address}", self.addresses.prefix)
    }
    fn address(&self, address: IpAddr) -> Result<Option<Arc<Entry>>, Status> {
        self.addresses.get(&self.address_key(address)).map_err(storage_status)
    }
    fn port(&self, port: u16) -> Result<Option<Arc<Entry>>, Status> {
        self.ports.get(&port_key(port)).map_err(storage_status)
    }

    /// One address for each family; answers those that are new to the service.
    fn settle_addresses(
        &self,
        service: &mut Value,
        mine: &[IpAddr],
        seed: u64,
    ) -> Result<Vec<(&Range, IpAddr)>, Refusal> {
        let mut taken = Vec::new();
        let Some(spec) = service.get_mut("spec").filter(|spec| spec.is_object()) else { return Ok(taken) };
        if text(&spec["type"]) == "ExternalName" || is_headless(spec) {
            return Ok(taken);
        }
        let mut ips = items(&spec["clusterIPs"]).to_vec();
        for (i, family) in items(&spec["ipFamilies"]).iter().enumerate() {
            match ips.get(i).map(text).filter(|asked| !asked.is_empty()) {
                Some(asked) => match lenient_ip(asked) {
                    Some(address) if !mine.contains(&address) => {
                        let named = self.named(address);
                        let named = named.map_err(|why| not_given(&spec["clusterIPs"], asked, why))?;
                        taken.push((named, address));
                    }
                    // It has it already; or validation says what is wrong with it.
                    _ => {}
                },
                None => {
                    let (range, address) = self.any(text(family), seed)?;
                    ips.truncate(i);
                    ips.push(address.to_string().into());
                    taken.push((range, address));
                }
            }
        }
        if let Some(first) = ips.first() {
            spec["clusterIP"] = first.clone();
            spec["clusterIPs"] = ips.into();
        }
        Ok(taken)
    }

    fn named(&self, address: IpAddr) -> Result<&Range, &'static str> {
        let range = self.ranges.iter().find(|range| range.gives(address));
        let range = range.ok_or("the provided network does not match the current range")?;
        match self.address(address) {
            Ok(None) => Ok(range),
            _ => Err("provided IP is already allocated"),
        }
    }

    fn any(&self, family: &str, seed: u64) -> Result<(&Range, IpAddr), Refusal> {
        let is_taken = |address| !matches!(self.address(address), Ok(None));
        addresses::choose(&self.ranges, family, seed, self.addresses.len(), &is_taken)
            .ok_or_else(|| Refusal::Failed("failed to allocate a serviceIP: range is full".to_owned()))
    }

    /// Deletes the owner's claims. One that is not seen must not be there, lest it be left behind; an
    /// address somebody else holds by a finalizer is left to the repair.
    fn give_up(
        &self,
        beside: &mut Beside,
        owner: Owner<'_>,
        addresses: &[IpAddr],
        ports: &[u16],
    ) -> Result<(), Status> {
        for address in addresses {
            let key = self.address_key(*address);
            match self.address(*address)? {
                None => beside.expect(&key, 0),
                Some(entry) => {
                    let claim = decode(&entry.text.contiguous())?;
                    let ours = Owner::of_address(&claim) == Some(owner) && claims::is_ours(&claim);
                    if ours && object::finalizers(&claim).is_empty() {
                        beside.delete(&key, entry.revision);
                    }
                }
            }
        }
        for port in ports {
            let key = port_key(*port);
            match self.port(*port)? {
                None => beside.expect(&key, 0),
                Some(entry) if Owner::of_port(&decode(&entry.text.contiguous())?) == owner => {
                    beside.delete(&key, entry.revision);
                }
                Some(_) => {}
            }
        }
        Ok(())
    }
}

fn not_given(all: &Value, asked: &str, why: &str) -> Refusal {
    let path = Path::new("spec").child("clusterIPs");
    let detail = format!("failed to allocate IP {asked}: {why}");
    Refusal::Invalid(field::Error::invalid(&path, all.clone(), detail))
}

fn network(server: &ApiServer, plural: &str) -> Result<Arc<Resource>, Status> {
    server.catalog.load().stored(claims::GROUP, plural).ok_or_else(Status::no_such_path)
}

/// Ready, or not yet judged, and not on its way out.
fn gives(cidr: &Value) -> bool {
    let conditions = items(&cidr["status"]["conditions"]);
    let ready = conditions.iter().find(|c| text(&c["type"]) == "Ready");
    ready.is_none_or(|c| text(&c["status"]) == "True") && object::deletion_timestamp(cidr).is_none()
}

fn blocks(cidr: &Value, entry: &Entry) -> Vec<Range> {
    let parsed = items(&cidr["spec"]["cidrs"]).iter().filter_map(|block| lenient_cidr(text(block)));
    parsed.map(|(_, block)| Range { block, key: entry.key.to_string(), revision: entry.revision }).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn ranges_give_until_they_end() {
        let cidr = |extra: Value| {
            let mut cidr = json!({"metadata": {"name": "c"}, "spec": {"cidrs": ["10.0.0.0/24"]}});
            for (key, value) in extra.as_object().unwrap() {
                cidr[key] = value.clone();
            }
            cidr
        };
        let ready = |status: &str| json!({"status": {"conditions": [{"type": "Ready", "status": status}]}});
        assert!(gives(&cidr(json!({}))) && gives(&cidr(ready("True"))));
        assert!(!gives(&cidr(ready("False"))));
        assert!(!gives(&cidr(json!({"metadata": {"deletionTimestamp": "2026-01-01T00:00:00Z"}}))));
    }

    #[test]
    fn addresses_are_read_however_they_are_written() {
        let of = |spec: Value| {
            addresses_of(&json!({ "spec": spec })).iter().map(ToString::to_string).collect::<Vec<_>>()
        };
        assert_eq!(of(json!({"clusterIP": "10.0.0.1"})), ["10.0.0.1"]);
        assert_eq!(
            of(json!({"clusterIP": "010.0.0.1", "clusterIPs": ["010.0.0.1", "FD00::1"]})),
            ["10.0.0.1", "fd00::1"]
        );
        assert!(of(json!({"clusterIP": "None", "clusterIPs": ["None"]})).is_empty());
    }
}
