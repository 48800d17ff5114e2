//! `proxy` of pods, services and nodes: which address a name like `https:web:http` leads to.
//! Pure; `passage` goes there.

pub mod passage;
mod rewrite;

use amphipod_api::field::go_quote;
use amphipod_api::status::Status;
use serde_json::Value;

/// `[scheme:]name[:port]`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Name {
    pub tls: bool,
    pub name: String,
    pub port: String,
}

impl Name {
    /// `what` is named where this is no name: `pod`, `service` or `node`.
    pub fn parse(what: &str, text: &str) -> Result<Self, Status> {
        let refuse = || Err(Status::bad_request(format!("invalid {what} request {}", go_quote(text))));
        let parts: Vec<&str> = text.split(':').collect();
        let (scheme, name, port) = match parts.as_slice() {
            [name] => ("", *name, ""),
            [name, port] => ("", *name, *port),
            [scheme, name, port] => (*scheme, *name, *port),
            _ => return refuse(),
        };
        match scheme {
            "" | "http" | "https" if !name.is_empty() => {
                Ok(Name { tls: scheme == "https", name: name.to_owned(), port: port.to_owned() })
            }
            _ => refuse(),
        }
    }
}

/// Where a pod's proxy leads.
pub fn pod_address(pod: &Value, name: &Name) -> Result<(String, u16), Status> {
    let ip = pod.pointer("/status/podIP").and_then(Value::as_str).filter(|ip| !ip.is_empty());
    let ip = ip.ok_or_else(|| Status::bad_request("address not allowed"))?;
    let containers = || pod.pointer("/spec/containers").and_then(Value::as_array).into_iter().flatten();
    let mut ports = containers().flat_map(|c| c["ports"].as_array().into_iter().flatten());
    let number = match name.port.as_str() {
        // The first declared port, or 80 of http.
        "" => {
            ports.next().and_then(|p| p["containerPort"].as_u64()).unwrap_or(if name.tls { 443 } else { 80 })
        }
        text => match text.parse::<u64>() {
            Ok(number) => number,
            Err(_) => {
                ports.find(|p| p["name"] == text).and_then(|p| p["containerPort"].as_u64()).ok_or_else(
                    || Status::bad_request(format!("pod {} has no port named {text:?}", name.name)),
                )?
            }
        },
    };
    let port = u16::try_from(number).map_err(|_| Status::bad_request(format!("invalid port {number}")))?;
    Ok((ip.to_owned(), port))
}

/// Where a service's proxy leads: a ready endpoint of the port meant; `choice` picks one.
pub fn service_address(
    service: &Value,
    slices: &[Value],
    name: &Name,
    choice: usize,
) -> Result<(String, u16), Status> {
    let (quoted, number) = (go_quote(&name.name), name.port.parse::<u64>().ok());
    let no_endpoints = || Status::unavailable(format!("no endpoints available for service {quoted}"));
    let no_port = || match number {
        Some(number) => Status::unavailable(format!("no service port {number} found for service {quoted}")),
        None => no_endpoints(),
    };
    let ports: Vec<&Value> =
        service.pointer("/spec/ports").and_then(Value::as_array).into_iter().flatten().collect();
    let meant = match (name.port.as_str(), ports.as_slice()) {
        ("", [only]) => Some(*only),
        ("", many) => many.iter().copied().find(|p| p["name"].as_str().unwrap_or("").is_empty()),
        (text, many) => many
            .iter()
            .copied()
            .find(|p| p["name"] == text || (number.is_some() && number == p["port"].as_u64())),
    };
    let port_name = meant.ok_or_else(no_port)?["name"].as_str().unwrap_or("").to_owned();
    let mut found = Vec::new();
    for slice in slices {
        let number = slice["ports"].as_array().into_iter().flatten();
        let number = number.into_iter().find(|p| p["name"].as_str().unwrap_or("") == port_name);
        let Some(port) = number.and_then(|p| p["port"].as_u64()).and_then(|p| u16::try_from(p).ok()) else {
            continue;
        };
        for endpoint in slice["endpoints"].as_array().into_iter().flatten() {
            let ready = endpoint.pointer("/conditions/ready") != Some(&Value::Bool(false));
            if let (true, Some(address)) = (ready, endpoint["addresses"][0].as_str()) {
                found.push((address.to_owned(), port));
            }
        }
    }
    if found.is_empty() {
        return Err(no_endpoints());
    }
    let index = choice % found.len();
    Ok(found.swap_remove(index))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn names_lead_to_addresses() {
        assert_eq!(
            Name::parse("pod", "https:web:8443").unwrap(),
            Name { tls: true, name: "web".into(), port: "8443".into() }
        );
        assert!(Name::parse("pod", "ftp:web:1").is_err());
        let pod = json!({"status": {"podIP": "10.0.0.2"}, "spec": {"containers": [{"ports": [{"name": "w", "containerPort": 8080}]}]}});
        let at = |text: &str| pod_address(&pod, &Name::parse("pod", text).unwrap()).map(|(_, port)| port);
        assert_eq!([at("p").unwrap(), at("p:w").unwrap(), at("p:9").unwrap()], [8080, 8080, 9]);
        let service = json!({"metadata": {"name": "s"}, "spec": {"ports": [{"name": "a", "port": 80}, {"name": "b", "port": 81}]}});
        let slice = json!({"ports": [{"name": "b", "port": 9}], "endpoints": [
            {"addresses": ["10.0.0.1"], "conditions": {"ready": false}}, {"addresses": ["10.0.0.2"]}]});
        let to = |text: &str| {
            service_address(&service, std::slice::from_ref(&slice), &Name::parse("pod", text).unwrap(), 5)
        };
        assert_eq!(to("s:b").unwrap(), ("10.0.0.2".to_owned(), 9));
        assert_eq!(to("s:81").unwrap(), ("10.0.0.2".to_owned(), 9));
        assert_eq!(to("s:a").unwrap_err().code, 503);
        assert_eq!(to("s:x").unwrap_err().code, 503);
    }
}
