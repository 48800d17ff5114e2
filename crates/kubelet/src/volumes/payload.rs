//! The files of a config map, secret, downward or projected volume, as data.

use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{ConfigMap, DownwardAPIVolumeFile, KeyToPath, Pod, Secret};

use crate::Error;
use crate::pod::resources::Amounts;
use crate::spec::downward::{self, Addresses};

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct File {
    pub data: Vec<u8>,
    pub mode: u32,
    /// Owner, where it is not root.
    pub uid: Option<u32>,
}

/// Relative path to contents.
pub type Payload = BTreeMap<String, File>;

/// Where keys come from and how to name what is missing.
pub struct Keyed<'a> {
    pub items: Option<&'a [KeyToPath]>,
    pub default_mode: u32,
    pub optional: bool,
}

fn select(
    keyed: &Keyed,
    data: &BTreeMap<String, Vec<u8>>,
    missing: impl Fn(&str) -> String,
) -> Result<Payload, Error> {
    let file = |data: &[u8], mode: Option<i32>| File {
        data: data.to_vec(),
        mode: mode.map_or(keyed.default_mode, i32::cast_unsigned),
        uid: None,
    };
    let Some(items) = keyed.items.filter(|i| !i.is_empty()) else {
        return Ok(data.iter().map(|(key, value)| (key.clone(), file(value, None))).collect());
    };
    let mut payload = Payload::new();
    for item in items {
        match data.get(&item.key) {
            Some(value) => {
                payload.insert(checked(&item.path)?, file(value, item.mode));
            }
            None if keyed.optional => {}
            None => return Err(Error::config(missing(&item.key))),
        }
    }
    Ok(payload)
}

/// Paths stay inside the volume.
fn checked(path: &str) -> Result<String, Error> {
    let bad = path.is_empty()
        || path.starts_with('/')
        || path.split('/').any(|part| part == "..")
        || path.starts_with("..");
    if bad {
        Err(Error::config(format!("invalid path: {path}")))
    } else {
        Ok(path.trim_end_matches('/').to_owned())
    }
}

pub fn config_map(keyed: &Keyed, name: &str, found: Option<&Arc<ConfigMap>>) -> Result<Payload, Error> {
    let Some(map) = found else {
        return absent(keyed.optional, format!("configmap {name:?} not found"));
    };
    let text = map.data.iter().flatten().map(|(k, v)| (k.clone(), v.clone().into_bytes()));
    let binary = map.binary_data.iter().flatten().map(|(k, v)| (k.clone(), v.0.clone()));
    let data: BTreeMap<String, Vec<u8>> = text.chain(binary).collect();
    select(keyed, &data, |key| format!("configmap references non-existent config key: {key}"))
}

pub fn secret(keyed: &Keyed, name: &str, found: Option<&Arc<Secret>>) -> Result<Payload, Error> {
    let Some(secret) = found else {
        return absent(keyed.optional, format!("secret {name:?} not found"));
    };
    let data = secret.data.iter().flatten().map(|(k, v)| (k.clone(), v.0.clone())).collect();
    select(keyed, &data, |key| format!("references non-existent secret key: {key}"))
}

fn absent(optional: bool, message: String) -> Result<Payload, Error> {
    if optional { Ok(Payload::new()) } else { Err(Error::config(message)) }
}

pub fn downward(
    pod: &Pod,
    items: &[DownwardAPIVolumeFile],
    default_mode: u32,
    addresses: &Addresses,
    allocatable: &Amounts,
) -> Result<Payload, Error> {
    let mut payload = Payload::new();
    for item in items {
        let text = match (&item.field_ref, &item.resource_field_ref) {
            (Some(field), _) => downward::field(pod, addresses, &field.field_path)?,
            (None, Some(selector)) => downward::resource(pod, None, selector, allocatable)?,
            (None, None) => continue,
        };
        let mode = item.mode.map_or(default_mode, i32::cast_unsigned);
        payload.insert(checked(&item.path)?, File { data: text.into_bytes(), mode, uid: None });
    }
    Ok(payload)
}

#[cfg(test)]
mod tests {
    use super::*;
    use amphipod_client::Resource;
    use serde_json::json;

    #[test]
    fn keys_paths_and_modes() {
        let map = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {}, "data": {"a": "1", "b": "2"},
            "binaryData": {"c": "AAE="}});
        let map = Arc::new(ConfigMap::decode(map.to_string().as_bytes()).unwrap());
        let all = Keyed { items: None, default_mode: 0o644, optional: false };
        let payload = config_map(&all, "m", Some(&map)).unwrap();
        assert_eq!(payload.keys().collect::<Vec<_>>(), ["a", "b", "c"]);
        assert_eq!(payload["c"].data, [0, 1]);
        let item =
            |key: &str, path: &str| KeyToPath { key: key.into(), path: path.into(), mode: Some(0o400) };
        let cases = [
            (item("a", "x/y"), false, Ok("x/y")),
            (item("z", "x"), true, Ok("")),
            (item("z", "x"), false, Err("configmap references non-existent config key: z")),
            (item("a", "../x"), false, Err("invalid path: ../x")),
        ];
        for (item, optional, expected) in cases {
            let items = [item];
            let keyed = Keyed { items: Some(&items), default_mode: 0o644, optional };
            let got = config_map(&keyed, "m", Some(&map));
            match expected {
                Ok(path) => assert_eq!(got.unwrap().keys().cloned().collect::<String>(), path),
                Err(text) => assert_eq!(got.unwrap_err().to_string(), text),
            }
        }
        assert_eq!(config_map(&all, "m", None).unwrap_err().to_string(), "configmap \"m\" not found");
    }
}
