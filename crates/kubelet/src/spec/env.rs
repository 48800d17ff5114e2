//! A container's environment: services, `envFrom`, `env`, in upstream's order of precedence.

use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{ConfigMap, Container, EnvVar, Pod, Secret, Service};

use amphipod_client::Resource;

use super::downward::{self, Addresses};
use super::expand::expand;
use crate::Error;
use crate::pod::resources::Amounts;
use crate::pod::spec;

/// The config maps and secrets the environment draws on, by name; absent ones are missing.
#[derive(Clone, Debug, Default)]
pub struct Sources {
    pub config_maps: BTreeMap<String, Arc<ConfigMap>>,
    pub secrets: BTreeMap<String, Arc<Secret>>,
}

pub struct EnvView<'a> {
    pub pod: &'a Pod,
    pub container: &'a Container,
    pub sources: &'a Sources,
    pub services: &'a [Arc<Service>],
    pub addresses: &'a Addresses,
    pub allocatable: &'a Amounts,
}

/// What a container's environment refers to.
#[derive(Debug, Default, PartialEq)]
pub struct Needs {
    pub config_maps: Vec<String>,
    pub secrets: Vec<String>,
}

pub fn needs(container: &Container) -> Needs {
    let mut needs = Needs::default();
    for from in container.env_from.iter().flatten() {
        needs.config_maps.extend(from.config_map_ref.as_ref().map(|r| r.name.clone()));
        needs.secrets.extend(from.secret_ref.as_ref().map(|r| r.name.clone()));
    }
    for source in container.env.iter().flatten().filter_map(|e| e.value_from.as_ref()) {
        needs.config_maps.extend(source.config_map_key_ref.as_ref().map(|r| r.name.clone()));
        needs.secrets.extend(source.secret_key_ref.as_ref().map(|r| r.name.clone()));
    }
    needs
}

/// Names to values, each name once, in the order they first appear.
#[derive(Clone, Debug, Default)]
pub struct Environment {
    pub variables: Vec<(String, String)>,
}

impl Environment {
    pub fn get(&self, name: &str) -> Option<&String> {
        self.variables.iter().find(|(n, _)| n == name).map(|(_, v)| v)
    }
    fn set(&mut self, name: &str, value: String) {
        match self.variables.iter_mut().find(|(n, _)| n == name) {
            Some(entry) => entry.1 = value,
            None => self.variables.push((name.to_owned(), value)),
        }
    }
}

pub fn environment(view: &EnvView) -> Result<Environment, Error> {
    let services = service_variables(view);
    let mut env = Environment::default();
    for from in view.container.env_from.iter().flatten() {
        let prefix = from.prefix.as_deref().unwrap_or("");
        if let Some(source) = &from.config_map_ref {
            let found = view.sources.config_maps.get(&source.name);
            let data = found.map(|map| map.data.clone().unwrap_or_default());
            add_all(&mut env, prefix, data, source.optional, || missing("configmap", &source.name))?;
        }
        if let Some(source) = &from.secret_ref {
            let found = view.sources.secrets.get(&source.name);
            let data = found.map(|secret| {
                let entries = secret.data.iter().flatten();
                entries.map(|(k, v)| (k.clone(), String::from_utf8_lossy(&v.0).into_owned())).collect()
            });
            add_all(&mut env, prefix, data, source.optional, || missing("secret", &source.name))?;
        }
    }
    for variable in view.container.env.iter().flatten() {
        if let Some(value) = value_of(view, variable, &env, &services)? {
            env.set(&variable.name, value);
        }
    }
    for (name, value) in services {
        if env.get(&name).is_none() {
            env.set(&name, value);
        }
    }
    Ok(env)
}

fn missing(kind: &str, name: &str) -> Error {
    Error::config(format!("{kind} {name:?} not found"))
}

fn add_all(
    env: &mut Environment,
    prefix: &str,
    data: Option<BTreeMap<String, String>>,
    optional: Option<bool>,
    error: impl Fn() -> Error,
) -> Result<(), Error> {
    let Some(data) = data else {
        return if optional == Some(true) { Ok(()) } else { Err(error()) };
    };
    for (key, value) in data {
        let name = format!("{prefix}{key}");
        // Any printable ASCII but `=` (KEP-4369); others cannot be set and are skipped.
        if name.bytes().all(|b| (0x20..0x7f).contains(&b) && b != b'=') {
            env.set(&name, value);
        }
    }
    Ok(())
}

fn value_of(
    view: &EnvView,
    variable: &EnvVar,
    env: &Environment,
    services: &BTreeMap<String, String>,
) -> Result<Option<String>, Error> {
    let Some(source) = &variable.value_from else {
        let lookup = |name: &str| env.get(name).or_else(|| services.get(name)).cloned();
        return Ok(Some(expand(variable.value.as_deref().unwrap_or(""), lookup)));
    };
    if let Some(field) = &source.field_ref {
        return downward::field(view.pod, view.addresses, &field.field_path).map(Some);
    }
    if let Some(selector) = &source.resource_field_ref {
        return downward::resource(view.pod, Some(view.container), selector, view.allocatable).map(Some);
    }
    let at = |kind: &str, key: &str, name: &str| {
        let namespace = view.pod.namespace();
        Error::config(format!("couldn't find key {key} in {kind} {namespace}/{name}"))
    };
    if let Some(r) = &source.config_map_key_ref {
        let map = view.sources.config_maps.get(&r.name);
        let value = map.and_then(|m| m.data.as_ref()?.get(&r.key).cloned());
        let error =
            || if map.is_none() { missing("configmap", &r.name) } else { at("ConfigMap", &r.key, &r.name) };
        return required(value, r.optional, error);
    }
    if let Some(r) = &source.secret_key_ref {
        let secret = view.sources.secrets.get(&r.name);
        let value =
            secret.and_then(|s| Some(String::from_utf8_lossy(&s.data.as_ref()?.get(&r.key)?.0).into_owned()));
        let error =
            || if secret.is_none() { missing("secret", &r.name) } else { at("Secret", &r.key, &r.name) };
        return required(value, r.optional, error);
    }
    Ok(Some(String::new()))
}

fn required(
    value: Option<String>,
    optional: Option<bool>,
    error: impl Fn() -> Error,
) -> Result<Option<String>, Error> {
    if value.is_none() && optional != Some(true) { Err(error()) } else { Ok(value) }
}

/// Variables for the services of the pod's namespace, and always for the API server's own.
fn service_variables(view: &EnvView) -> BTreeMap<String, String> {
    let links = spec(view.pod).enable_service_links.unwrap_or(true);
    let mut variables = BTreeMap::new();
    for service in view.services {
        let master = service.namespace() == "default" && service.name() == "kubernetes";
        let linked = links && service.namespace() == view.pod.namespace();
        if master || linked {
            add_service(&mut variables, service);
        }
    }
    variables
}

fn add_service(variables: &mut BTreeMap<String, String>, service: &Service) {
    let Some(spec) = &service.spec else { return };
    let Some(ip) = spec.cluster_ip.as_deref().filter(|ip| !ip.is_empty() && *ip != "None") else { return };
    let ports = spec.ports.as_deref().unwrap_or_default();
    let Some(first) = ports.first() else { return };
    let prefix = variable_name(service.name());
    let host = if ip.contains(':') { format!("[{ip}]") } else { ip.to_owned() };
    variables.insert(format!("{prefix}_SERVICE_HOST"), ip.to_owned());
    variables.insert(format!("{prefix}_SERVICE_PORT"), first.port.to_string());
    for (index, port) in ports.iter().enumerate() {
        let protocol = port.protocol.as_deref().unwrap_or("TCP");
        if let Some(name) = port.name.as_deref().filter(|n| !n.is_empty()) {
            variables.insert(format!("{prefix}_SERVICE_PORT_{}", variable_name(name)), port.port.to_string());
        }
        let url = format!("{}://{host}:{}", protocol.to_lowercase(), port.port);
        if index == 0 {
            variables.insert(format!("{prefix}_PORT"), url.clone());
        }
        let this = format!("{prefix}_PORT_{}_{}", port.port, protocol.to_uppercase());
        variables.insert(this.clone(), url);
        variables.insert(format!("{this}_PROTO"), protocol.to_lowercase());
        variables.insert(format!("{this}_PORT"), port.port.to_string());
        variables.insert(format!("{this}_ADDR"), ip.to_owned());
    }
}

fn variable_name(name: &str) -> String {
    name.replace('-', "_").to_uppercase()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pod::testing::pod;
    use serde_json::{Value, json};

    fn decode<T: Resource>(kind: &str, mut object: Value) -> Arc<T> {
        object["apiVersion"] = "v1".into();
        object["kind"] = kind.into();
        Arc::new(T::decode(object.to_string().as_bytes()).unwrap())
    }

    fn compute(container: Value) -> Result<Environment, Error> {
        let map =
            decode("ConfigMap", json!({"metadata": {"name": "m"}, "data": {"k": "v", "x": "from map"}}));
        let secret = decode("Secret", json!({"metadata": {"name": "s"}, "data": {"k": "c2VjcmV0"}}));
        let service = |ns: &str, name: &str| {
            decode(
                "Service",
                json!({"metadata": {"name": name, "namespace": ns},
                "spec": {"clusterIP": "10.96.0.1", "ports": [{"name": "web", "port": 443, "protocol": "TCP"}]}}),
            )
        };
        let pod = pod(json!({"nodeName": "n", "containers": [container]}));
        environment(&EnvView {
            pod: &pod,
            container: &spec(&pod).containers[0],
            sources: &Sources {
                config_maps: [("m".to_owned(), map)].into(),
                secrets: [("s".to_owned(), secret)].into(),
            },
            services: &[service("default", "kubernetes"), service("ns", "foo-bar"), service("other", "no")],
            addresses: &Addresses::default(),
            allocatable: &Amounts::new(),
        })
    }

    #[test]
    fn sources_and_precedence() {
        let env = compute(json!({"name": "a",
            "envFrom": [{"prefix": "P_", "configMapRef": {"name": "m"}}, {"configMapRef": {"name": "none", "optional": true}}],
            "env": [
                {"name": "A", "value": "1"}, {"name": "B", "value": "$(A)-$(P_k)-$(C)-$(FOO_BAR_SERVICE_HOST)"},
                {"name": "P_x", "value": "own"},
                {"name": "N", "valueFrom": {"fieldRef": {"fieldPath": "spec.nodeName"}}},
                {"name": "S", "valueFrom": {"secretKeyRef": {"name": "s", "key": "k"}}},
                {"name": "O", "valueFrom": {"secretKeyRef": {"name": "gone", "key": "k", "optional": true}}}]}))
        .unwrap();
        let get = |name: &str| env.get(name).map(String::as_str);
        assert_eq!(get("B"), Some("1-v-$(C)-10.96.0.1"));
        assert_eq!(get("P_x"), Some("own"));
        assert_eq!((get("N"), get("S"), get("O")), (Some("n"), Some("secret"), None));
        assert_eq!(get("FOO_BAR_PORT_443_TCP"), Some("tcp://10.96.0.1:443"));
        assert_eq!(get("KUBERNETES_SERVICE_PORT_WEB"), Some("443"));
        assert_eq!(get("NO_SERVICE_HOST"), None);
    }

    #[test]
    fn what_is_missing_is_named() {
        let cases = [
            (json!({"secretKeyRef": {"name": "gone", "key": "k"}}), "secret \"gone\" not found"),
            (json!({"configMapKeyRef": {"name": "m", "key": "z"}}), "couldn't find key z in ConfigMap ns/m"),
        ];
        for (source, expected) in cases {
            let result = compute(json!({"name": "a", "env": [{"name": "X", "valueFrom": source}]}));
            assert_eq!(result.unwrap_err().to_string(), expected);
        }
    }
}
