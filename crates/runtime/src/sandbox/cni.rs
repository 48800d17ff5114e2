//! Pod networks by the CNI protocol: plugins are executables that read JSON and answer JSON.

use std::{
    collections::BTreeMap,
    io,
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use serde::Deserialize;
use serde_json::{Map, Value, json};
use tokio::{io::AsyncWriteExt, process::Command};

use crate::error::Error;

/// Name of the interface inside the sandbox.
const INTERFACE: &str = "eth0";
/// A plugin that takes longer is killed.
const PLUGIN_TIMEOUT: Duration = Duration::from_secs(60);
/// Version spoken when a list names none.
const DEFAULT_VERSION: &str = "0.2.0";

/// One network: a chain of plugins.
#[derive(Debug, Clone, PartialEq)]
pub struct NetworkList {
    pub name: String,
    version: String,
    plugins: Vec<Map<String, Value>>,
}

/// Reads the first usable configuration in `directory`, in file name order.
pub fn load(directory: &Path) -> Result<NetworkList, Error> {
    let missing = || Error::Cni(format!("no network configuration in {}", directory.display()));
    let entries = std::fs::read_dir(directory).map_err(|_| missing())?;
    let mut files: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
    files.sort();
    for file in files {
        let extension = file.extension().and_then(|extension| extension.to_str()).unwrap_or_default();
        if !["conflist", "conf", "json"].contains(&extension) {
            continue;
        }
        let parsed = std::fs::read(&file)
            .map_err(|error| error.to_string())
            .and_then(|bytes| serde_json::from_slice(&bytes).map_err(|error| error.to_string()))
            .and_then(parse);
        match parsed {
            Ok(list) => return Ok(list),
            Err(error) => tracing::warn!(file = %file.display(), %error, "skipping a CNI configuration"),
        }
    }
    Err(missing())
}

fn parse(document: Value) -> Result<NetworkList, String> {
    let Value::Object(document) = document else { return Err("not a JSON object".into()) };
    let text = |key: &str| document.get(key).and_then(Value::as_str).map(str::to_string);
    let name = text("name").ok_or("it has no name")?;
    let version = text("cniVersion").unwrap_or_else(|| DEFAULT_VERSION.into());
    let plugins: Vec<Map<String, Value>> = match document.get("plugins") {
        Some(Value::Array(plugins)) => {
            plugins.iter().filter_map(|plugin| plugin.as_object().cloned()).collect()
        }
        _ => vec![document.clone()],
    };
    if plugins.is_empty() || plugins.iter().any(|plugin| plugin_type(plugin).is_none()) {
        return Err("a plugin has no type".into());
    }
    Ok(NetworkList { name, version, plugins })
}

fn plugin_type(plugin: &Map<String, Value>) -> Option<&str> {
    // A type is a file name, never a path out of the plugin directory.
    plugin.get("type").and_then(Value::as_str).filter(|kind| !kind.is_empty() && !kind.contains('/'))
}

/// The sandbox a plugin works for.
#[derive(Debug, Clone)]
pub struct Attachment {
    pub sandbox_id: String,
    /// Pinned network namespace; empty once it is gone.
    pub namespace: String,
    pub pod_namespace: String,
    pub pod_name: String,
    pub pod_uid: String,
    /// Values for capabilities a plugin may declare (`portMappings` and others).
    pub capabilities: BTreeMap<String, Value>,
}

/// What the chain set up.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Addresses {
    pub ips: Vec<String>,
}

/// Runs plugins.
#[derive(Debug, Clone)]
pub struct Cni {
    pub conf_dir: PathBuf,
    pub bin_dir: PathBuf,
}

impl Cni {
    /// Adds the sandbox to the network; returns the chain's raw result and the addresses in it. What was
    /// done is undone when a plugin fails.
    pub async fn add(&self, attachment: &Attachment) -> Result<(Value, Addresses), Error> {
        let list = load(&self.conf_dir)?;
        let mut previous: Option<Value> = None;
        for plugin in &list.plugins {
            let config = plugin_config(&list, plugin, attachment, previous.as_ref());
            match self.invoke("ADD", plugin, &config, attachment).await {
                Ok(result) => previous = result.or(previous),
                Err(error) => {
                    if let Err(cleanup) = self.delete(attachment, previous.as_ref()).await {
                        tracing::warn!(%cleanup, sandbox = attachment.sandbox_id, "undoing a failed network ADD");
                    }
                    return Err(error);
                }
            }
        }
        let result = previous.unwrap_or_else(|| json!({}));
        let addresses = addresses(&result)?;
        Ok((result, addresses))
    }

    /// Takes the sandbox off the network. Plugins must accept that everything is gone already.
    pub async fn delete(&self, attachment: &Attachment, previous: Option<&Value>) -> Result<(), Error> {
        let list = load(&self.conf_dir)?;
        let mut outcome = Ok(());
        for plugin in list.plugins.iter().rev() {
            let config = plugin_config(&list, plugin, attachment, previous);
            if let Err(error) = self.invoke("DEL", plugin, &config, attachment).await {
                outcome = Err(error);
            }
        }
        outcome
    }

    async fn invoke(
        &self,
        command: &str,
        plugin: &Map<String, Value>,
        config: &Value,
        attachment: &Attachment,
    ) -> Result<Option<Value>, Error> {
        let kind = plugin_type(plugin).unwrap_or_default();
        let executable = self.bin_dir.join(kind);
        let fail = |what: String| Error::Cni(format!("plugin {kind} {command}: {what}"));
        let input = serde_json::to_vec(config).map_err(|error| fail(error.to_string()))?;
        let run = execute(&executable, command, &self.bin_dir, attachment, &input);
        let output = tokio::time::timeout(PLUGIN_TIMEOUT, run)
            .await
            .map_err(|_| fail(format!("no answer within {} s", PLUGIN_TIMEOUT.as_secs())))?
            .map_err(|error| fail(format!("{}: {error}", executable.display())))?;
        if !output.status.success() {
            return Err(fail(plugin_error(&output)));
        }
        if output.stdout.iter().all(u8::is_ascii_whitespace) {
            return Ok(None);
        }
        serde_json::from_slice(&output.stdout).map(Some).map_err(|error| fail(format!("bad answer: {error}")))
    }
}

async fn execute(
    executable: &Path,
    command: &str,
    bin_dir: &Path,
    attachment: &Attachment,
    input: &[u8],
) -> io::Result<std::process::Output> {
    let arguments = format!(
        "IgnoreUnknown=1;K8S_POD_NAMESPACE={};K8S_POD_NAME={};K8S_POD_INFRA_CONTAINER_ID={};K8S_POD_UID={}",
        attachment.pod_namespace, attachment.pod_name, attachment.sandbox_id, attachment.pod_uid
    );
    let mut child = Command::new(executable)
        .env("CNI_COMMAND", command)
        .env("CNI_CONTAINERID", &attachment.sandbox_id)
        .env("CNI_NETNS", &attachment.namespace)
        .env("CNI_IFNAME", INTERFACE)
        .env("CNI_ARGS", arguments)
        .env("CNI_PATH", bin_dir)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()?;
    if let Some(mut stdin) = child.stdin.take() {
        // A plugin that needs no input may be gone before it is written.
        match stdin.write_all(input).await {
            Err(error) if error.kind() != io::ErrorKind::BrokenPipe => return Err(error),
            _ => {}
        }
    }
    child.wait_with_output().await
}

fn plugin_error(output: &std::process::Output) -> String {
    #[derive(Deserialize)]
    struct Failure {
        #[serde(default)]
        msg: String,
        #[serde(default)]
        details: String,
    }
    match serde_json::from_slice::<Failure>(&output.stdout) {
        Ok(failure) if failure.details.is_empty() => failure.msg,
        Ok(failure) => format!("{}: {}", failure.msg, failure.details),
        Err(_) => format!("{}: {}", output.status, String::from_utf8_lossy(&output.stderr).trim()),
    }
}

/// The configuration one plugin reads: its own entry with name, version, capabilities and the result so far.
fn plugin_config(
    list: &NetworkList,
    plugin: &Map<String, Value>,
    attachment: &Attachment,
    previous: Option<&Value>,
) -> Value {
    let mut config = plugin.clone();
    config.insert("name".into(), json!(list.name));
    config.insert("cniVersion".into(), json!(list.version));
    if let Some(Value::Object(declared)) = config.remove("capabilities") {
        let enabled = declared.iter().filter(|(_, on)| on.as_bool() == Some(true));
        let values: Map<String, Value> = enabled
            .filter_map(|(name, _)| Some((name.clone(), attachment.capabilities.get(name)?.clone())))
            .collect();
        if !values.is_empty() {
            config.insert("runtimeConfig".into(), Value::Object(values));
        }
    }
    if let Some(previous) = previous {
        config.insert("prevResult".into(), previous.clone());
    }
    Value::Object(config)
}

/// Addresses in a result of version 0.3 and later (`ips`) or older (`ip4`, `ip6`).
fn addresses(result: &Value) -> Result<Addresses, Error> {
    let mut found = Vec::new();
    if let Some(Value::Array(ips)) = result.get("ips") {
        found.extend(ips.iter().filter_map(|ip| ip.get("address").and_then(Value::as_str)));
    }
    for family in ["ip4", "ip6"] {
        found.extend(result.pointer(&format!("/{family}/ip")).and_then(Value::as_str));
    }
    let ips: Vec<String> =
        found.into_iter().map(|cidr| cidr.split('/').next().unwrap_or(cidr).to_string()).collect();
    if ips.is_empty() {
        Err(Error::Cni("the plugins assigned no address".into()))
    } else {
        Ok(Addresses { ips })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn attachment() -> Attachment {
        let mappings = json!([{"hostPort": 80, "containerPort": 8080, "protocol": "tcp", "hostIP": ""}]);
        Attachment {
            sandbox_id: "s1".into(),
            namespace: "/ns/net".into(),
            pod_namespace: "default".into(),
            pod_name: "web".into(),
            pod_uid: "u1".into(),
            capabilities: BTreeMap::from([("portMappings".to_string(), mappings)]),
        }
    }

    #[test]
    fn plugins_read_their_part_of_the_list() {
        let list = parse(json!({"cniVersion": "1.0.0", "name": "pods", "plugins": [
            {"type": "bridge", "mtu": 1400},
            {"type": "portmap", "capabilities": {"portMappings": true, "bandwidth": true}}]}))
        .unwrap();
        let first = plugin_config(&list, &list.plugins[0], &attachment(), None);
        assert_eq!(first, json!({"type": "bridge", "mtu": 1400, "name": "pods", "cniVersion": "1.0.0"}));
        let previous = json!({"ips": []});
        let second = plugin_config(&list, &list.plugins[1], &attachment(), Some(&previous));
        assert_eq!(second["prevResult"], previous);
        assert_eq!(second["runtimeConfig"]["portMappings"][0]["hostPort"], 80);
        assert!(second["runtimeConfig"].get("bandwidth").is_none());
    }

    #[test]
    fn configurations_without_a_usable_plugin_are_refused() {
        for document in
            [json!([]), json!({"plugins": []}), json!({"name": "x", "plugins": [{"type": "../sh"}]})]
        {
            assert!(parse(document).is_err());
        }
    }

    #[test]
    fn addresses_of_both_result_forms() {
        let new =
            addresses(&json!({"ips": [{"address": "10.1.0.2/24"}, {"address": "fd00::2/64"}]})).unwrap();
        assert_eq!(new.ips, ["10.1.0.2", "fd00::2"]);
        assert_eq!(addresses(&json!({"ip4": {"ip": "10.1.0.3/24"}})).unwrap().ips, ["10.1.0.3"]);
        assert!(addresses(&json!({})).is_err());
    }

    #[tokio::test]
    async fn a_chain_runs_in_order_and_is_undone_on_failure() {
        use std::os::unix::fs::PermissionsExt;
        let dir = tempfile::tempdir().unwrap();
        let log = dir.path().join("log");
        let script = |name: &str, body: &str| {
            let path = dir.path().join(name);
            let text =
                format!("#!/bin/sh\necho {name} $CNI_COMMAND $CNI_IFNAME >> {}\n{body}\n", log.display());
            std::fs::write(&path, text).unwrap();
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
        };
        script("one", r#"cat >/dev/null; echo '{"ips":[{"address":"10.9.0.2/16"}]}'"#);
        script(
            "two",
            r#"cat >/dev/null; [ $CNI_COMMAND = DEL ] || { echo '{"code":7,"msg":"no"}'; exit 1; }"#,
        );
        std::fs::write(
            dir.path().join("10-net.conflist"),
            r#"{"cniVersion":"1.0.0","name":"n","plugins":[{"type":"one"},{"type":"two"}]}"#,
        )
        .unwrap();
        let cni = Cni { conf_dir: dir.path().into(), bin_dir: dir.path().into() };
        let error = cni.add(&attachment()).await.unwrap_err().to_string();
        assert_eq!(error, "network of pod sandbox: plugin two ADD: no");
        let calls = std::fs::read_to_string(&log).unwrap();
        assert_eq!(calls, "one ADD eth0\ntwo ADD eth0\ntwo DEL eth0\none DEL eth0\n");
        script("two", "cat >/dev/null");
        let (_, addresses) = cni.add(&attachment()).await.unwrap();
        assert_eq!(addresses.ips, ["10.9.0.2"]);
    }
}
