//! The zone's own facts: its name, its SOA and NS records, and how names inside it are made.

use std::net::IpAddr;

use hickory_proto::rr::rdata::{self, SOA, TXT};
use hickory_proto::rr::{Name, RData, Record};
use ipnet::IpNet;

use crate::Error;

/// Seconds an answer may be kept: short, because endpoints come and go.
pub const TTL_SECONDS: u32 = 5;
const REFRESH_SECONDS: i32 = 7200;
const RETRY_SECONDS: i32 = 1800;
const EXPIRE_SECONDS: i32 = 86_400;

/// What is fixed about the cluster's zone.
#[derive(Clone, Debug)]
pub struct Zone {
    /// `cluster.local.`
    pub origin: Name,
    /// The address clients know the server by.
    pub service_ip: IpAddr,
    /// Of the SOA record; grows from one start to the next.
    pub serial: u32,
    /// Reverse names of addresses in here are never asked upstream.
    pub networks: Vec<IpNet>,
}

impl Zone {
    pub fn new(domain: &str, service_ip: IpAddr, networks: Vec<IpNet>, serial: u32) -> Result<Self, Error> {
        let mut origin = Name::from_ascii(domain)
            .map_err(|error| Error::Domain { domain: domain.to_owned(), why: error.to_string() })?
            .to_lowercase();
        origin.set_fqdn(true);
        Ok(Zone { origin, service_ip, serial, networks })
    }

    /// The labels in front of the zone's name, in lower case; `None` for names of others.
    pub fn labels_of(&self, name: &Name) -> Option<Vec<String>> {
        if !self.origin.zone_of(name) {
            return None;
        }
        let count = usize::from(name.num_labels() - self.origin.num_labels());
        Some(name.iter().take(count).map(|label| String::from_utf8_lossy(label).to_lowercase()).collect())
    }

    /// A name in the zone. `None` where a part cannot be a label: then nobody can ask for it.
    pub fn name(&self, labels: &[&str]) -> Option<Name> {
        Name::from_labels(labels.iter().map(|label| label.as_bytes())).ok()?.append_domain(&self.origin).ok()
    }

    pub fn soa(&self) -> Record {
        let server = self.name(&["ns", "dns"]).unwrap_or_else(|| self.origin.clone());
        let mailbox = self.name(&["hostmaster"]).unwrap_or_else(|| self.origin.clone());
        let soa = SOA::new(
            server,
            mailbox,
            self.serial,
            REFRESH_SECONDS,
            RETRY_SECONDS,
            EXPIRE_SECONDS,
            TTL_SECONDS,
        );
        record(&self.origin, RData::SOA(soa))
    }

    pub fn ns(&self) -> Record {
        let server = self.name(&["ns", "dns"]).unwrap_or_else(|| self.origin.clone());
        record(&self.origin, RData::NS(rdata::NS(server)))
    }

    /// The version of the DNS specification that the zone follows.
    pub fn version(&self, name: &Name) -> Record {
        record(name, RData::TXT(TXT::new(vec!["1.1.0".to_owned()])))
    }
}

pub fn record(name: &Name, data: RData) -> Record {
    Record::from_rdata(name.clone(), TTL_SECONDS, data)
}

pub fn address_record(name: &Name, address: IpAddr) -> Record {
    let data = match address {
        IpAddr::V4(address) => RData::A(address.into()),
        IpAddr::V6(address) => RData::AAAA(address.into()),
    };
    record(name, data)
}
