//! Reads prost-generated source: structs, their fields' tags and types, and the `+marker` lines of
//! their comments. The source is machine-made and regular, so a line reader is enough.

#[derive(Clone, Debug, PartialEq)]
pub enum Scalar {
    Bool,
    Int32,
    Int64,
    Double,
    Text,
    Bytes,
    /// The module path and name of another message: `api/core/v1::Pod`.
    Message(String),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    Single,
    List,
    Map,
}

#[derive(Clone, Debug)]
pub struct Field {
    pub json: String,
    pub tag: u32,
    pub scalar: Scalar,
    pub shape: Shape,
    pub markers: Vec<(String, String)>,
    pub required: bool,
    pub inline: bool,
}

#[derive(Clone, Debug)]
pub struct Message {
    pub path: String,
    pub name: String,
    pub definition: String,
    pub group: String,
    pub version: String,
    pub fields: Vec<Field>,
    pub markers: Vec<(String, String)>,
    /// Served under a URL.
    pub resource: bool,
    /// Carries apiVersion and kind.
    pub root: bool,
}

impl Field {
    pub fn marker(&self, name: &str) -> Option<&str> {
        self.markers.iter().find(|(n, _)| n == name).map(|(_, v)| v.as_str())
    }
    pub fn markers<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a str> {
        self.markers.iter().filter(move |(n, _)| n == name).map(|(_, v)| v.as_str())
    }
}

pub fn parse(module: &str, group: &str, text: &str) -> Result<Vec<Message>, String> {
    let version = module.rsplit('/').next().unwrap_or_default().to_owned();
    let mut messages: Vec<Message> = Vec::new();
    let mut markers = Vec::new();
    let mut lines = text.lines().peekable();
    while let Some(line) = lines.next() {
        let line = line.trim();
        if let Some(comment) = line.strip_prefix("///") {
            markers.extend(marker(comment.trim()));
        } else if let Some(kind) = line.strip_prefix("impl crate::Resource for ") {
            let name = kind.trim_end_matches(['{', ' ']);
            if let Some(message) = messages.iter_mut().find(|m| m.name == name) {
                message.resource = true;
            }
        } else if let Some(rest) = line.strip_prefix("pub struct ") {
            let name = rest.split([' ', '{']).next().unwrap_or_default().to_owned();
            let mut message = Message {
                path: format!("{module}::{name}"),
                definition: definition(module, &name),
                name,
                group: group.to_owned(),
                version: version.clone(),
                fields: Vec::new(),
                markers: std::mem::take(&mut markers),
                resource: false,
                root: false,
            };
            if !rest.ends_with("{}") {
                message.fields = fields(module, &mut lines)?;
            }
            messages.push(message);
        } else if !line.starts_with('#') {
            markers.clear();
        }
    }
    Ok(messages)
}

fn definition(module: &str, name: &str) -> String {
    let path = module.replace('/', ".").replace("kube_aggregator", "kube-aggregator");
    format!("io.k8s.{}.{name}", path.replace("apiextensions_apiserver", "apiextensions-apiserver"))
}

/// `+listType=map` gives a pair, other comment lines nothing.
fn marker(comment: &str) -> Option<(String, String)> {
    let body = comment.strip_prefix('+')?;
    let (name, value) = body.split_once('=').unwrap_or((body, ""));
    let wanted = ["optional", "required", "default", "listType", "listMapKey", "patchMergeKey"];
    let also = ["patchStrategy", "structType", "mapType"];
    (wanted.contains(&name) || also.contains(&name)).then(|| (name.to_owned(), value.trim().to_owned()))
}

fn fields<'a>(
    module: &str,
    lines: &mut std::iter::Peekable<impl Iterator<Item = &'a str>>,
) -> Result<Vec<Field>, String> {
    let mut found = Vec::new();
    let mut markers = Vec::new();
    let mut attribute = String::new();
    while let Some(line) = lines.next() {
        let line = line.trim();
        if line == "}" {
            return Ok(found);
        }
        if let Some(comment) = line.strip_prefix("///") {
            markers.extend(marker(comment.trim()));
        } else if line.starts_with("#[prost") {
            attribute = line.to_owned();
        } else if let Some(rest) = line.strip_prefix("pub ") {
            let mut declaration = rest.to_owned();
            while !declaration.ends_with(',')
                || declaration.matches('<').count() != declaration.matches('>').count()
            {
                declaration.push_str(lines.next().ok_or("a field ends nowhere")?.trim());
            }
            found.push(field(module, &declaration, &attribute, std::mem::take(&mut markers))?);
        }
    }
    Err(format!("a struct of {module} ends nowhere"))
}

fn field(
    module: &str,
    declaration: &str,
    attribute: &str,
    markers: Vec<(String, String)>,
) -> Result<Field, String> {
    let (name, kind) = declaration.split_once(':').ok_or("a field without type")?;
    let name = name.trim_start_matches("r#").to_owned();
    let tag = attribute.split("tag = \"").nth(1).and_then(|t| t.split('"').next());
    let tag = tag.and_then(|t| t.parse().ok()).ok_or_else(|| format!("no tag in {attribute}"))?;
    let inner = attribute.trim_start_matches("#[prost(");
    let (shape, word) = match inner.strip_prefix("btree_map = \"string, ") {
        Some(rest) => (Shape::Map, rest),
        None if inner.contains(", repeated") => (Shape::List, inner),
        None => (Shape::Single, inner),
    };
    let word = word.split([',', '"', '=']).next().unwrap_or_default().trim();
    let scalar = match word {
        "bool" => Scalar::Bool,
        "int32" => Scalar::Int32,
        "int64" => Scalar::Int64,
        "double" => Scalar::Double,
        "string" => Scalar::Text,
        "bytes" => Scalar::Bytes,
        "message" => Scalar::Message(message_path(module, kind)),
        other => return Err(format!("{name}: unknown type {other}")),
    };
    let required = markers.iter().any(|(n, _)| n == "required");
    Ok(Field { json: name, tag, scalar, shape, markers, required, inline: false })
}

/// The innermost type of a declaration, resolved against the module it stands in.
fn message_path(module: &str, kind: &str) -> String {
    let kind: String = kind.chars().filter(|c| !c.is_whitespace()).collect();
    let trimmed = kind.trim_end_matches([',', '>']);
    let innermost = trimmed.rsplit(['<', ',']).next().unwrap_or_default();
    let mut folders: Vec<&str> = module.split('/').collect();
    let mut parts: Vec<&str> = innermost.split("::").collect();
    let name = parts.pop().unwrap_or_default();
    for part in parts {
        if part == "super" {
            folders.pop();
        } else {
            folders.push(part);
        }
    }
    format!("{}::{name}", folders.join("/"))
}
