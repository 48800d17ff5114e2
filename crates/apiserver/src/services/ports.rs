//! Which node ports a service gets. Pure: what is taken is asked of the caller.

use std::ops::RangeInclusive;

use amphipod_api::field::{self, Path};
use amphipod_strategy::json::{items, number, text};
use amphipod_strategy::service::{needs_health_check, needs_node_port};
use serde_json::Value;

/// Of the range, the lower part that is given automatically only when the upper is full (KEP-3668).
const STATIC_MIN: u32 = 16;
const STATIC_MAX: u32 = 128;
const STATIC_SHARE: u32 = 32;

/// The node ports a service holds, each once.
pub fn held(service: &Value) -> Vec<u16> {
    let spec = &service["spec"];
    let all = items(&spec["ports"]).iter().map(|p| &p["nodePort"]).chain([&spec["healthCheckNodePort"]]);
    let mut ports: Vec<u16> = all.filter_map(|p| u16::try_from(number(p)).ok()).filter(|p| *p != 0).collect();
    ports.sort_unstable();
    ports.dedup();
    ports
}

/// Why a service does not get its ports.
#[derive(Debug, PartialEq)]
pub enum Refusal {
    Invalid(field::Error),
    Failed(String),
}

/// One service's ports being settled.
pub struct Settling<'a> {
    pub range: RangeInclusive<u16>,
    pub is_taken: &'a dyn Fn(u16) -> bool,
    /// What the stored service holds already.
    pub mine: Vec<u16>,
    pub seed: u64,
    /// What this write takes.
    claimed: Vec<u16>,
}

impl<'a> Settling<'a> {
    pub fn new(
        range: RangeInclusive<u16>,
        old: Option<&Value>,
        seed: u64,
        is_taken: &'a dyn Fn(u16) -> bool,
    ) -> Self {
        Settling { range, is_taken, mine: old.map(held).unwrap_or_default(), seed, claimed: Vec::new() }
    }

    /// Fills in the ports the service wants and does not name; answers what it takes.
    pub fn settle(mut self, service: &mut Value, old: Option<&Value>) -> Result<Vec<u16>, Refusal> {
        let Some(spec) = service.get_mut("spec").filter(|spec| spec.is_object()) else {
            return Ok(self.claimed);
        };
        if ["NodePort", "LoadBalancer"].contains(&text(&spec["type"])) {
            match old {
                None => self.fill_new(spec)?,
                Some(_) => self.fill_changed(spec)?,
            }
        }
        if needs_health_check(spec) && !old.is_some_and(|old| needs_health_check(&old["spec"])) {
            self.fill_health_check(spec)?;
        }
        Ok(self.claimed)
    }

    /// In a new service one number serves a port in all its protocols.
    fn fill_new(&mut self, spec: &mut Value) -> Result<(), Refusal> {
        let wants = needs_node_port(spec);
        let named: Vec<(i64, i64)> =
            items(&spec["ports"]).iter().map(|p| (number(&p["port"]), number(&p["nodePort"]))).collect();
        let mut given: Vec<(i64, i64)> = Vec::new();
        for (index, (port, own)) in named.iter().copied().enumerate() {
            if own == 0 && !wants {
                continue;
            }
            let shared = given.iter().find(|(p, _)| *p == port).map(|(_, node_port)| *node_port);
            let node_port = match shared {
                Some(shared) if own == 0 || own == shared => shared,
                Some(_) => self.take(index, own)?,
                None => match named.iter().find(|(p, node_port)| *p == port && *node_port != 0) {
                    Some((_, asked)) => self.take(index, *asked)?,
                    None => self.choose("nodePort")?,
                },
            };
            if shared.is_none() {
                given.push((port, node_port));
            }
            let own = if own == 0 || shared.is_none() { node_port } else { own };
            spec["ports"][index]["nodePort"] = own.into();
        }
        Ok(())
    }

    fn fill_changed(&mut self, spec: &mut Value) -> Result<(), Refusal> {
        let wants = needs_node_port(spec);
        for index in 0..items(&spec["ports"]).len() {
            let own = number(&spec["ports"][index]["nodePort"]);
            let kept = |taken: &[u16]| taken.iter().any(|p| i64::from(*p) == own);
            if own == 0 && wants {
                spec["ports"][index]["nodePort"] = self.choose("nodePort")?.into();
            } else if own != 0 && !kept(&self.mine) && !kept(&self.claimed) {
                self.take(index, own)?;
            }
        }
        Ok(())
    }

    fn fill_health_check(&mut self, spec: &mut Value) -> Result<(), Refusal> {
        let asked = number(&spec["healthCheckNodePort"]);
        if asked == 0 {
            spec["healthCheckNodePort"] = self.choose("HealthCheck NodePort 0")?.into();
            return Ok(());
        }
        self.reserve(asked).map_err(|why| {
            Refusal::Failed(format!("failed to allocate requested HealthCheck NodePort {asked}: {why}"))
        })
    }

    fn take(&mut self, index: usize, asked: i64) -> Result<i64, Refusal> {
        let path = Path::new("spec").child("ports").index(index).child("nodePort");
        let refused = |why: String| Refusal::Invalid(field::Error::invalid(&path, asked, why));
        self.reserve(asked).map_err(refused)?;
        Ok(asked)
    }

    fn reserve(&mut self, asked: i64) -> Result<(), String> {
        let Some(port) = u16::try_from(asked).ok().filter(|p| self.range.contains(p)) else {
            let (start, end) = (self.range.start(), self.range.end());
            return Err(format!(
                "provided port is not in the valid range. The range of valid ports is {start}-{end}"
            ));
        };
        if self.claimed.contains(&port) || (self.is_taken)(port) {
            return Err("provided port is already allocated".to_owned());
        }
        self.claimed.push(port);
        Ok(())
    }

    fn choose(&mut self, noun: &str) -> Result<i64, Refusal> {
        let (first, size) = (u32::from(*self.range.start()), self.range.len() as u32);
        let reserved =
            if size <= STATIC_MIN { 0 } else { (size / STATIC_SHARE).clamp(STATIC_MIN, STATIC_MAX) };
        let is_free = |port: u16| !self.claimed.contains(&port) && !(self.is_taken)(port);
        for (start, count) in [(reserved, size - reserved), (0, reserved)] {
            let begin = if count == 0 { 0 } else { (self.seed % u64::from(count)) as u32 };
            // Within the range, which is one of u16.
            let mut candidates =
                (0..count).map(|step| (first + start + begin.wrapping_add(step) % count) as u16);
            if let Some(port) = candidates.find(|port| is_free(*port)) {
                self.claimed.push(port);
                return Ok(port.into());
            }
        }
        Err(Refusal::Failed(format!("failed to allocate a {noun}: range is full")))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn settle(spec: Value, old: Option<Value>, taken: &[u16]) -> Result<(Value, Vec<u16>), Refusal> {
        let mut service = json!({ "spec": spec });
        let is_taken = |port: u16| taken.contains(&port);
        let settling = Settling::new(30000..=30099, old.as_ref(), 3, &is_taken);
        let claimed = settling.settle(&mut service, old.as_ref())?;
        let ports = items(&service["spec"]["ports"]).iter().map(|p| p["nodePort"].clone()).collect();
        Ok((ports, claimed))
    }

    fn refused(spec: Value, taken: &[u16]) -> String {
        match settle(spec, None, taken) {
            Err(Refusal::Invalid(fault)) => fault.to_string(),
            Err(Refusal::Failed(why)) => why,
            Ok(given) => panic!("{given:?}"),
        }
    }

    #[test]
    fn a_new_service_shares_a_number_between_protocols() {
        let dns = json!({"type": "NodePort", "ports": [{"port": 53, "protocol": "UDP"}, {"port": 80},
            {"port": 53, "protocol": "TCP"}]});
        assert_eq!(settle(dns, None, &[30019]).unwrap(), (json!([30020, 30021, 30020]), vec![30020, 30021]));
        let asked = json!({"type": "NodePort", "ports": [{"port": 53, "protocol": "UDP"},
            {"port": 53, "protocol": "TCP", "nodePort": 30005}]});
        assert_eq!(settle(asked, None, &[]).unwrap(), (json!([30005, 30005]), vec![30005]));
        let declined = json!({"type": "LoadBalancer", "allocateLoadBalancerNodePorts": false,
            "ports": [{"port": 1}, {"port": 2, "nodePort": 30001}]});
        assert_eq!(settle(declined, None, &[]).unwrap(), (json!([null, 30001]), vec![30001]));
    }

    #[test]
    fn what_cannot_be_given_is_refused() {
        let one = |port: u16| json!({"type": "NodePort", "ports": [{"port": 1, "nodePort": port}]});
        assert_eq!(
            refused(one(30001), &[30001]),
            "spec.ports[0].nodePort: Invalid value: 30001: provided port is already allocated"
        );
        assert_eq!(
            refused(one(80), &[]),
            "spec.ports[0].nodePort: Invalid value: 80: provided port is not in the valid range. The range of valid ports is 30000-30099"
        );
        let all: Vec<u16> = (30000..=30099).collect();
        let any = json!({"type": "NodePort", "ports": [{"port": 1}]});
        assert_eq!(refused(any.clone(), &all), "failed to allocate a nodePort: range is full");
        // The lower part is given when the upper is full.
        assert_eq!(settle(any, None, &all[1..]).unwrap().1, [30000]);
        let health = json!({"type": "LoadBalancer", "externalTrafficPolicy": "Local",
            "allocateLoadBalancerNodePorts": false, "healthCheckNodePort": 30002});
        assert_eq!(
            refused(health, &[30002]),
            "failed to allocate requested HealthCheck NodePort 30002: provided port is already allocated"
        );
    }

    #[test]
    fn an_update_takes_only_what_is_new() {
        let old = json!({"spec": {"type": "NodePort", "ports": [{"port": 1, "nodePort": 30001}]}});
        let spec = json!({"type": "LoadBalancer", "externalTrafficPolicy": "Local",
            "ports": [{"port": 1, "nodePort": 30001}, {"port": 2}]});
        let (ports, claimed) = settle(spec, Some(old), &[30001]).unwrap();
        assert_eq!((ports, claimed), (json!([30001, 30019]), vec![30019, 30020]));
    }
}
