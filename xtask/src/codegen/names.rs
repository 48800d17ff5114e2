//! The exact JSON names (`podIP`, `clusterIPs`, `$ref`), which protobuf's snake case has lost, and
//! the fields OpenAPI calls required; read from the source of `k8s-openapi`.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use super::proto::Message;

struct Type {
    definition: String,
    keys: Vec<String>,
    required: Vec<String>,
}

pub struct Names {
    /// By lower-cased definition name: the two sources differ in the case of acronyms.
    types: BTreeMap<String, Type>,
    /// Flattened name -> JSON name, where all types agree.
    common: BTreeMap<String, String>,
}

/// Names of types `k8s-openapi` does not carry, where camel case alone goes wrong.
const OVERLAY: &[(&str, &str)] = &[
    ("tlsverify", "insecureSkipTLSVerifyBackend"),
    ("insecureskiptlsverifybackend", "insecureSkipTLSVerifyBackend"),
    ("serveraddressbyclientcidrs", "serverAddressByClientCIDRs"),
];

impl Names {
    pub fn load(source: &Path) -> Result<Self, String> {
        let mut types = BTreeMap::new();
        let mut folders = vec![source.to_path_buf()];
        while let Some(folder) = folders.pop() {
            let entries = std::fs::read_dir(&folder).map_err(|e| format!("{}: {e}", folder.display()))?;
            for entry in entries {
                let path = entry.map_err(|e| e.to_string())?.path();
                if path.is_dir() {
                    folders.push(path);
                    continue;
                }
                let text = std::fs::read_to_string(&path).map_err(|e| format!("{}: {e}", path.display()))?;
                if let Some(found) = read(&text) {
                    types.insert(found.definition.to_lowercase(), found);
                }
            }
        }
        let common = common(&types);
        Ok(Names { types, common })
    }

    fn of(&self, path: &str) -> Option<&Type> {
        let (module, name) = path.split_once("::")?;
        let definition = format!("io.k8s.{}.{name}", module.replace('/', ".")).to_lowercase();
        self.types.get(&definition.replace('_', "-"))
    }

    /// All JSON names of a type.
    pub fn keys(&self, path: &str) -> Option<&[String]> {
        self.of(path).map(|t| t.keys.as_slice())
    }

    /// Replaces a message's snake-case names and fills in what is required.
    pub fn apply(&self, message: &mut Message) {
        let known = self.of(&message.path);
        if let Some(known) = known {
            message.definition = known.definition.clone();
            message.name = known.definition.rsplit('.').next().unwrap_or_default().to_owned();
        }
        for field in &mut message.fields {
            let flat = flatten(&field.json);
            let exact = known.and_then(|t| t.keys.iter().find(|k| flatten(k) == flat));
            let overlay = OVERLAY.iter().find(|(f, _)| *f == flat).map(|(_, json)| (*json).to_owned());
            field.json = exact
                .cloned()
                .or(overlay)
                .or_else(|| self.common.get(&flat).cloned())
                .unwrap_or_else(|| camel(&field.json));
            field.required |= known.is_some_and(|t| t.required.contains(&field.json));
        }
    }
}

fn flatten(name: &str) -> String {
    name.chars().filter(char::is_ascii_alphanumeric).map(|c| c.to_ascii_lowercase()).collect()
}

fn camel(snake: &str) -> String {
    let mut words = snake.split('_');
    let mut out = words.next().unwrap_or_default().to_owned();
    for word in words {
        let mut letters = word.chars();
        out.extend(letters.next().map(|c| c.to_ascii_uppercase()));
        out.push_str(letters.as_str());
    }
    out
}

fn common(types: &BTreeMap<String, Type>) -> BTreeMap<String, String> {
    let mut spellings: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for key in types.values().flat_map(|t| &t.keys) {
        spellings.entry(flatten(key)).or_default().insert(key.clone());
    }
    let agreed = spellings.into_iter().filter(|(_, s)| s.len() == 1);
    agreed.filter_map(|(flat, s)| s.into_iter().next().map(|s| (flat, s))).collect()
}

fn read(text: &str) -> Option<Type> {
    let definition = text.strip_prefix("// Generated from definition ")?.lines().next()?.trim().to_owned();
    let keys = text.split("deserialize_struct(").nth(1).map(quoted_list).unwrap_or_default();
    let required =
        text.split("\"required\": [").nth(1).map(|t| quoted(t.split(']').next().unwrap_or_default()));
    Some(Type { definition, keys, required: required.unwrap_or_default() })
}

fn quoted_list(text: &str) -> Vec<String> {
    let list = text.split("&[").nth(1).and_then(|t| t.split(']').next());
    list.map(quoted).unwrap_or_default()
}

fn quoted(text: &str) -> Vec<String> {
    text.split('"').skip(1).step_by(2).map(str::to_owned).collect()
}
