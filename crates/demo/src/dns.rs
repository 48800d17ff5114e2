//! A DNS client by hand: the C library's resolver cannot be linked statically.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::time::Duration;

const TIMEOUT: Duration = Duration::from_secs(2);
const TRIES: usize = 2;

#[derive(Debug, PartialEq)]
pub struct Record {
    pub name: String,
    pub kind: String,
    pub data: String,
}

struct Config {
    servers: Vec<IpAddr>,
    search: Vec<String>,
    ndots: usize,
}

fn config(text: &str) -> Config {
    let mut config = Config { servers: Vec::new(), search: Vec::new(), ndots: 1 };
    for line in text.lines() {
        let mut words = line.split_whitespace();
        match words.next() {
            Some("nameserver") => config.servers.extend(words.next().and_then(|w| w.parse::<IpAddr>().ok())),
            Some("search") => config.search = words.map(str::to_owned).collect(),
            Some("options") => {
                let ndots = words.find_map(|w| w.strip_prefix("ndots:").and_then(|n| n.parse().ok()));
                config.ndots = ndots.unwrap_or(config.ndots);
            }
            _ => {}
        }
    }
    config
}

fn candidates(name: &str, config: &Config) -> Vec<String> {
    if let Some(absolute) = name.strip_suffix('.') {
        return vec![absolute.to_owned()];
    }
    let mut names: Vec<String> = config.search.iter().map(|domain| format!("{name}.{domain}")).collect();
    let dots = name.matches('.').count();
    if dots >= config.ndots {
        names.insert(0, name.to_owned())
    } else {
        names.push(name.to_owned())
    }
    names
}

fn type_number(kind: &str) -> Option<u16> {
    Some(match kind.to_ascii_uppercase().as_str() {
        "A" => 1,
        "NS" => 2,
        "CNAME" => 5,
        "SOA" => 6,
        "PTR" => 12,
        "MX" => 15,
        "TXT" => 16,
        "AAAA" => 28,
        "SRV" => 33,
        _ => return None,
    })
}

/// Looks a name up as the container's resolv.conf says.
pub fn lookup(name: &str, kind: &str) -> Result<Vec<Record>, String> {
    let text = std::fs::read_to_string("/etc/resolv.conf").map_err(|e| format!("/etc/resolv.conf: {e}"))?;
    let config = config(&text);
    let number = type_number(kind).ok_or_else(|| format!("unknown record type {kind}"))?;
    if config.servers.is_empty() {
        return Err("no nameserver in /etc/resolv.conf".to_owned());
    }
    let mut last = format!("{name}: not found");
    for candidate in candidates(name, &config) {
        match ask(&config.servers, &candidate, number) {
            Ok(records) if !records.is_empty() => return Ok(records),
            Ok(_) => {}
            Err(error) => last = error,
        }
    }
    Err(last)
}

/// An address for a name, from /etc/hosts, the text itself, or DNS.
pub fn resolve(name: &str) -> Result<IpAddr, String> {
    let bare = name.trim_start_matches('[').trim_end_matches(']');
    if let Ok(address) = bare.parse() {
        return Ok(address);
    }
    let hosts = std::fs::read_to_string("/etc/hosts").unwrap_or_default();
    for line in hosts.lines() {
        let mut words = line.split('#').next().unwrap_or("").split_whitespace();
        let address = words.next().and_then(|w| w.parse::<IpAddr>().ok());
        if let (Some(address), true) = (address, words.any(|w| w == name)) {
            return Ok(address);
        }
    }
    let records = lookup(name, "A")?;
    let found = records.iter().find_map(|r| r.data.parse().ok());
    found.ok_or_else(|| format!("{name}: no address"))
}

fn ask(servers: &[IpAddr], name: &str, kind: u16) -> Result<Vec<Record>, String> {
    let query = encode(name, kind)?;
    let mut last = String::new();
    for server in servers.iter().cycle().take(servers.len() * TRIES) {
        match exchange(*server, &query) {
            Ok(answer) => return decode(&answer).ok_or_else(|| format!("{server}: malformed answer"))?,
            Err(error) => last = format!("{server}: {error}"),
        }
    }
    Err(last)
}

fn exchange(server: IpAddr, query: &[u8]) -> std::io::Result<Vec<u8>> {
    let local: SocketAddr = match server {
        IpAddr::V4(_) => (Ipv4Addr::UNSPECIFIED, 0).into(),
        IpAddr::V6(_) => (Ipv6Addr::UNSPECIFIED, 0).into(),
    };
    let socket = UdpSocket::bind(local)?;
    socket.set_read_timeout(Some(TIMEOUT))?;
    socket.connect((server, 53))?;
    socket.send(query)?;
    let mut answer = vec![0; 4096];
    let length = socket.recv(&mut answer)?;
    answer.truncate(length);
    Ok(answer)
}

fn encode(name: &str, kind: u16) -> Result<Vec<u8>, String> {
    let id = (std::process::id() as u16).to_be_bytes();
    let mut query = vec![id[0], id[1], 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    for label in name.split('.').filter(|l| !l.is_empty()) {
        let length = u8::try_from(label.len()).ok().filter(|l| *l < 64).ok_or("a label is too long")?;
        query.push(length);
        query.extend_from_slice(label.as_bytes());
    }
    query.push(0);
    query.extend_from_slice(&kind.to_be_bytes());
    query.extend_from_slice(&[0, 1]);
    Ok(query)
}

fn u16_at(message: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_be_bytes([*message.get(at)?, *message.get(at + 1)?]))
}

fn name_at(message: &[u8], mut at: usize) -> Option<(String, usize)> {
    let mut name = String::new();
    let mut end = None;
    for _ in 0..128 {
        let length = *message.get(at)? as usize;
        match length {
            0 => return Some((name, end.unwrap_or(at + 1))),
            l if l >= 0xc0 => {
                end = end.or(Some(at + 2));
                at = (l & 0x3f) << 8 | *message.get(at + 1)? as usize;
            }
            l => {
                if !name.is_empty() {
                    name.push('.');
                }
                name.push_str(&String::from_utf8_lossy(message.get(at + 1..at + 1 + l)?));
                at += l + 1;
            }
        }
    }
    None
}

fn decode(message: &[u8]) -> Option<Result<Vec<Record>, String>> {
    let code = *message.get(3)? & 0xf;
    if code != 0 {
        let text = match code {
            2 => "SERVFAIL",
            3 => "NXDOMAIN",
            5 => "REFUSED",
            _ => "error",
        };
        return Some(Err(text.to_owned()));
    }
    let (questions, answers) = (u16_at(message, 4)?, u16_at(message, 6)?);
    let mut at = 12;
    for _ in 0..questions {
        at = name_at(message, at)?.1 + 4;
    }
    let mut records = Vec::new();
    for _ in 0..answers {
        let (name, next) = name_at(message, at)?;
        let (kind, length) = (u16_at(message, next)?, u16_at(message, next + 8)? as usize);
        let (kind, data) = record_data(message, kind, next + 10, length)?;
        records.push(Record { name, kind, data });
        at = next + 10 + length;
    }
    Some(Ok(records))
}

fn record_data(message: &[u8], kind: u16, at: usize, length: usize) -> Option<(String, String)> {
    let raw = message.get(at..at + length)?;
    Some(match kind {
        1 => ("A".into(), Ipv4Addr::from(<[u8; 4]>::try_from(raw).ok()?).to_string()),
        28 => ("AAAA".into(), Ipv6Addr::from(<[u8; 16]>::try_from(raw).ok()?).to_string()),
        5 => ("CNAME".into(), name_at(message, at)?.0),
        12 => ("PTR".into(), name_at(message, at)?.0),
        2 => ("NS".into(), name_at(message, at)?.0),
        33 => {
            let [priority, weight, port] = [0, 2, 4].map(|o| u16_at(message, at + o).unwrap_or(0));
            ("SRV".into(), format!("{priority} {weight} {port} {}", name_at(message, at + 6)?.0))
        }
        16 => ("TXT".into(), String::from_utf8_lossy(raw.get(1..)?).into_owned()),
        other => (format!("TYPE{other}"), format!("{length} bytes")),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_search_list_is_followed() {
        let config =
            config("nameserver 10.96.0.10\nsearch ns.svc.cluster.local svc.cluster.local\noptions ndots:5\n");
        assert_eq!(
            candidates("demo", &config),
            ["demo.ns.svc.cluster.local", "demo.svc.cluster.local", "demo"]
        );
        assert_eq!(candidates("a.b.", &config), ["a.b"]);
    }

    #[test]
    fn answers_are_decoded() {
        let mut message = encode("a.b", 1).unwrap();
        message[7] = 1;
        message.extend_from_slice(&[0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 5, 0, 4, 10, 0, 0, 7]);
        let record = Record { name: "a.b".into(), kind: "A".into(), data: "10.0.0.7".into() };
        assert_eq!(decode(&message), Some(Ok(vec![record])));
        assert_eq!(decode(&message[..20]), None);
    }
}
