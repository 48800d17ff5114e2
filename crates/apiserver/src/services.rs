//! Addresses and node ports of services: reserved before the service is written, kept when it is,
//! given back when it is not or when the service no longer wants them.

use std::net::IpAddr;
use std::ops::RangeInclusive;
use std::sync::Arc;

use amphipod_api::field::{self, Path};
use ipnet::IpNet;
use serde_json::{Value, json};

use crate::allocator::{Addresses, Error, Ports};

pub struct Allocations {
    addresses: Vec<Addresses>,
    ports: Ports,
}

/// What one write took and what it no longer needs. Dropped without `keep`, the taken goes back.
#[must_use]
pub struct Reservation {
    allocations: Arc<Allocations>,
    taken_addresses: Vec<IpAddr>,
    taken_ports: Vec<u16>,
    released_addresses: Vec<IpAddr>,
    released_ports: Vec<u16>,
}

impl Reservation {
    /// The service is written: what it took is its own, what it gave up is free.
    pub fn keep(mut self) {
        self.taken_addresses.clear();
        self.taken_ports.clear();
        for address in std::mem::take(&mut self.released_addresses) {
            self.allocations.give_back(address);
        }
        for port in std::mem::take(&mut self.released_ports) {
            self.allocations.ports.give_back(port);
        }
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        for address in &self.taken_addresses {
            self.allocations.give_back(*address);
        }
        for port in &self.taken_ports {
            self.allocations.ports.give_back(*port);
        }
    }
}

fn addresses_of(service: &Value) -> Vec<IpAddr> {
    let list = service.pointer("/spec/clusterIPs").and_then(Value::as_array);
    let single = service.pointer("/spec/clusterIP");
    let all = list.into_iter().flatten().chain(single).filter_map(Value::as_str);
    let mut found: Vec<IpAddr> = all.filter_map(|text| text.parse().ok()).collect();
    found.dedup();
    found
}

fn node_ports_of(service: &Value) -> Vec<u16> {
    let ports = service.pointer("/spec/ports").and_then(Value::as_array).into_iter().flatten();
    let number = |value: &Value| value.as_u64().and_then(|n| u16::try_from(n).ok()).filter(|n| *n != 0);
    let mut found: Vec<u16> = ports.filter_map(|p| number(&p["nodePort"])).collect();
    found.extend(service.pointer("/spec/healthCheckNodePort").and_then(number));
    found.sort_unstable();
    found.dedup();
    found
}

fn kind(service: &Value) -> &str {
    service.pointer("/spec/type").and_then(Value::as_str).unwrap_or("ClusterIP")
}

/// NodePort always, LoadBalancer unless it declines.
fn wants_node_ports(service: &Value) -> bool {
    let declined = service.pointer("/spec/allocateLoadBalancerNodePorts") == Some(&Value::Bool(false));
    kind(service) == "NodePort" || (kind(service) == "LoadBalancer" && !declined)
}

fn wants_health_port(service: &Value) -> bool {
    kind(service) == "LoadBalancer"
        && service.pointer("/spec/externalTrafficPolicy").and_then(Value::as_str) == Some("Local")
}

impl Allocations {
    pub fn new(ranges: &[IpNet], node_ports: RangeInclusive<u16>) -> Self {
        Allocations {
            addresses: ranges.iter().copied().map(Addresses::new).collect(),
            ports: Ports::new(node_ports),
        }
    }

    /// Counts a stored service in, at start. What it holds it keeps, even twice.
    pub fn fill(&self, service: &Value) {
        for address in addresses_of(service) {
            for range in &self.addresses {
                let _ = range.take(address);
            }
        }
        for port in node_ports_of(service) {
            let _ = self.ports.take(port);
        }
    }

    /// A service is gone.
    pub fn release(&self, service: &Value) {
        addresses_of(service).into_iter().for_each(|address| self.give_back(address));
        node_ports_of(service).into_iter().for_each(|port| self.ports.give_back(port));
    }

    fn give_back(&self, address: IpAddr) {
        self.addresses.iter().for_each(|range| range.give_back(address));
    }

    /// Fills in what the service lacks and reserves what it names. `seed` spreads the choice.
    pub fn reserve(
        self: &Arc<Self>,
        service: &mut Value,
        old: Option<&Value>,
        seed: u64,
    ) -> Result<Reservation, Vec<field::Error>> {
        let mut reservation = Reservation {
            allocations: self.clone(),
            taken_addresses: Vec::new(),
            taken_ports: Vec::new(),
            released_addresses: Vec::new(),
            released_ports: Vec::new(),
        };
        let mut faults = Vec::new();
        self.reserve_addresses(service, old, seed, &mut reservation, &mut faults);
        self.reserve_ports(service, old, seed, &mut reservation, &mut faults);
        let (now, ports) = (addresses_of(service), node_ports_of(service));
        if let Some(old) = old {
            reservation.released_addresses =
                addresses_of(old).into_iter().filter(|a| !now.contains(a)).collect();
            reservation.released_ports =
                node_ports_of(old).into_iter().filter(|p| !ports.contains(p)).collect();
        }
        if faults.is_empty() { Ok(reservation) } else { Err(faults) }
    }

    fn reserve_addresses(
        &self,
        service: &mut Value,
        old: Option<&Value>,
        seed: u64,
        reservation: &mut Reservation,
        faults: &mut Vec<field::Error>,
    ) {
        if kind(service) == "ExternalName" || service.pointer("/spec/clusterIP") == Some(&json!("None")) {
            return;
        }
        let path = Path::new("spec").child("clusterIPs");
        let mine = old.map(addresses_of).unwrap_or_default();
        let wanted = addresses_of(service);
        if wanted.is_empty() {
            let Some(range) = self.addresses.first() else { return };
            match range.take_any(seed) {
                Ok(address) => {
                    reservation.taken_addresses.push(address);
                    service["spec"]["clusterIP"] = address.to_string().into();
                    service["spec"]["clusterIPs"] = json!([address.to_string()]);
                }
                Err(error) => faults
                    .push(field::Error::internal(&path, format!("failed to allocate a serviceIP: {error}"))),
            }
            return;
        }
        for (index, address) in wanted.into_iter().enumerate().filter(|(_, a)| !mine.contains(a)) {
            let range =
                self.addresses.iter().find(|r| r.range().contains(&address)).or(self.addresses.first());
            match range.map(|r| r.take(address)) {
                Some(Ok(())) => reservation.taken_addresses.push(address),
                Some(Err(error)) => faults.push(field::Error::invalid(
                    &path.index(index),
                    json!([address.to_string()]),
                    format!("failed to allocate IP {address}: {error}"),
                )),
                None => {}
            }
        }
    }

    fn reserve_ports(
        &self,
        service: &mut Value,
        old: Option<&Value>,
        seed: u64,
        reservation: &mut Reservation,
        faults: &mut Vec<field::Error>,
    ) {
        let mine = old.map(node_ports_of).unwrap_or_default();
        let (wants, health) = (wants_node_ports(service), wants_health_port(service));
        let path = Path::new("spec").child("ports");
        let mut named: Vec<u16> = Vec::new();
        for (index, port) in service["spec"]["ports"].as_array_mut().into_iter().flatten().enumerate() {
            let at = path.index(index).child("nodePort");
            self.one_port(port, "nodePort", wants, &mine, seed, &at, &mut named, reservation, faults);
        }
        let at = Path::new("spec").child("healthCheckNodePort");
        if health && let Some(spec) = service.get_mut("spec") {
            self.one_port(
                spec,
                "healthCheckNodePort",
                true,
                &mine,
                seed,
                &at,
                &mut named,
                reservation,
                faults,
            );
        }
    }

    #[expect(clippy::too_many_arguments, reason = "one step of the loop above, not an interface")]
    fn one_port(
        &self,
        holder: &mut Value,
        key: &str,
        wants: bool,
        mine: &[u16],
        seed: u64,
        at: &Path,
        named: &mut Vec<u16>,
        reservation: &mut Reservation,
        faults: &mut Vec<field::Error>,
    ) {
        let number = holder[key].as_u64().and_then(|n| u16::try_from(n).ok()).unwrap_or(0);
        if number == 0 {
            if wants {
                match self.ports.take_any(seed) {
                    Ok(port) => {
                        reservation.taken_ports.push(port);
                        holder[key] = port.into();
                    }
                    Err(error) => faults
                        .push(field::Error::internal(at, format!("failed to allocate a nodePort: {error}"))),
                }
            }
            return;
        }
        // One number may serve two protocols of one service.
        if mine.contains(&number) || named.contains(&number) {
            return;
        }
        named.push(number);
        match self.ports.take(number) {
            Ok(()) => reservation.taken_ports.push(number),
            Err(error @ (Error::PortTaken | Error::PortOutside(_))) => {
                faults.push(field::Error::invalid(at, number, error.to_string()));
            }
            Err(error) => faults.push(field::Error::internal(at, error.to_string())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn allocations() -> Arc<Allocations> {
        Arc::new(Allocations::new(&["10.96.0.0/24".parse().unwrap()], 30000..=30010))
    }
    fn service(kind: &str) -> Value {
        json!({"spec": {"type": kind, "ports": [{"port": 80}]}})
    }

    #[test]
    fn a_reservation_not_kept_goes_back() {
        let allocations = allocations();
        let mut first = service("NodePort");
        let reservation = allocations.reserve(&mut first, None, 1).unwrap();
        let (address, port) = (addresses_of(&first), node_ports_of(&first));
        assert_eq!((address.len(), port.len()), (1, 1));
        let mut same = first.clone();
        assert_eq!(allocations.reserve(&mut same, None, 1).err().map(|f| f.len()), Some(2), "both are taken");
        drop(reservation);
        allocations.reserve(&mut same, None, 1).unwrap().keep();
        let mut other = first.clone();
        let text = allocations.reserve(&mut other, None, 1).err().unwrap()[1].to_string();
        assert!(text.ends_with("provided port is already allocated"), "{text}");
    }

    #[test]
    fn an_update_keeps_its_own_and_frees_what_it_gives_up() {
        let allocations = allocations();
        let mut old = service("NodePort");
        allocations.reserve(&mut old, None, 1).unwrap().keep();
        let mut new = old.clone();
        new["spec"]["type"] = "ClusterIP".into();
        new["spec"]["ports"] = json!([{"port": 80}]);
        allocations.reserve(&mut new, Some(&old), 2).unwrap().keep();
        assert_eq!(addresses_of(&new), addresses_of(&old));
        let mut again = service("NodePort");
        again["spec"]["ports"][0]["nodePort"] = node_ports_of(&old)[0].into();
        allocations.reserve(&mut again, None, 3).unwrap().keep();
        allocations.release(&again);
        assert!(allocations.ports.take(node_ports_of(&old)[0]).is_ok());
    }

    #[test]
    fn headless_and_external_services_take_nothing() {
        let allocations = allocations();
        let mut headless =
            json!({"spec": {"clusterIP": "None", "clusterIPs": ["None"], "ports": [{"port": 1}]}});
        allocations.reserve(&mut headless, None, 1).unwrap().keep();
        let mut external = json!({"spec": {"type": "ExternalName", "externalName": "x.example"}});
        allocations.reserve(&mut external, None, 1).unwrap().keep();
        assert_eq!(allocations.addresses[0].taken_count(), 0);
    }
}
