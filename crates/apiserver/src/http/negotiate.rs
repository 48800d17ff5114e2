//! Which form an answer takes: JSON, YAML or protobuf; as the kind itself, as a Table or as
//! metadata only. Pure.

use amphipod_api::status::Status;
use http::HeaderMap;
use http::header::ACCEPT;

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Encoding {
    #[default]
    Json,
    Yaml,
    Protobuf,
}

impl Encoding {
    pub fn media_type(self) -> &'static str {
        match self {
            Encoding::Json => "application/json",
            Encoding::Yaml => "application/yaml",
            Encoding::Protobuf => "application/vnd.kubernetes.protobuf",
        }
    }
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Form {
    #[default]
    Object,
    Table,
    PartialMetadata,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Accepted {
    pub encoding: Encoding,
    pub form: Form,
    /// `application/yaml` was asked for prettily; or `pretty=true`, or a browser.
    pub pretty: bool,
}

pub const PLAIN_TYPES: &[&str] =
    &["application/json", "application/yaml", "application/vnd.kubernetes.protobuf"];

/// One clause of an Accept header.
pub struct Clause<'a> {
    pub media_type: &'a str,
    params: &'a str,
}

impl<'a> Clause<'a> {
    pub fn param(&self, name: &str) -> Option<&'a str> {
        self.params
            .split(';')
            .filter_map(|p| p.split_once('='))
            .find(|(k, _)| k.trim() == name)
            .map(|(_, v)| v.trim())
    }
    fn quality(&self) -> f32 {
        self.param("q").and_then(|q| q.parse().ok()).unwrap_or(1.0)
    }
}

/// The clauses of all Accept headers, best first (stable where equal).
pub fn clauses(headers: &HeaderMap) -> Vec<Clause<'_>> {
    let texts = headers.get_all(ACCEPT).iter().filter_map(|v| v.to_str().ok());
    let mut list: Vec<Clause<'_>> = texts
        .flat_map(|text| text.split(','))
        .map(|clause| {
            let (media_type, params) = clause.split_once(';').unwrap_or((clause, ""));
            Clause { media_type: media_type.trim(), params }
        })
        .filter(|clause| !clause.media_type.is_empty())
        .collect();
    list.sort_by(|a, b| b.quality().total_cmp(&a.quality()));
    list
}

fn encoding_of(media_type: &str, protobuf: bool) -> Option<Encoding> {
    match media_type {
        "application/json" | "*/*" | "application/*" => Some(Encoding::Json),
        "application/yaml" => Some(Encoding::Yaml),
        "application/vnd.kubernetes.protobuf" if protobuf => Some(Encoding::Protobuf),
        _ => None,
    }
}

fn form_of(clause: &Clause<'_>, transforms: bool) -> Option<Form> {
    let Some(wanted) = clause.param("as") else { return Some(Form::Object) };
    let meta = clause.param("g") == Some("meta.k8s.io");
    let version = matches!(clause.param("v"), Some("v1" | "v1beta1"));
    if !(transforms && meta && version) {
        return None;
    }
    match wanted {
        "Table" => Some(Form::Table),
        "PartialObjectMetadata" | "PartialObjectMetadataList" => Some(Form::PartialMetadata),
        _ => None,
    }
}

/// Chooses the first clause that can be served. `transforms`: Tables and metadata-only are
/// possible here; `protobuf`: this kind can be encoded so.
pub fn accept(headers: &HeaderMap, transforms: bool, protobuf: bool) -> Result<Accepted, Status> {
    let list = clauses(headers);
    if list.is_empty() {
        return Ok(Accepted::default());
    }
    for clause in &list {
        let Some(encoding) = encoding_of(clause.media_type, protobuf) else { continue };
        let Some(form) = form_of(clause, transforms) else { continue };
        // Tables and metadata exist in JSON (and YAML) only.
        if encoding == Encoding::Protobuf && form != Form::Object {
            continue;
        }
        let pretty = clause.param("pretty") == Some("1");
        return Ok(Accepted { encoding, form, pretty });
    }
    Err(Status::not_acceptable(PLAIN_TYPES))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(text: &str) -> HeaderMap {
        let mut headers = HeaderMap::new();
        headers.insert(ACCEPT, text.parse().expect("header"));
        headers
    }

    #[test]
    fn the_first_servable_clause_wins() {
        let kubectl = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json";
        let typed = "application/vnd.kubernetes.protobuf,application/json";
        let table_only = "application/json;as=Table;v=v1;g=meta.k8s.io";
        let cases = [
            (kubectl, true, Some((Encoding::Json, Form::Table))),
            (kubectl, false, Some((Encoding::Json, Form::Object))),
            (typed, true, Some((Encoding::Json, Form::Object))),
            ("*/*", true, Some((Encoding::Json, Form::Object))),
            ("application/json;q=0.1, application/yaml", true, Some((Encoding::Yaml, Form::Object))),
            (table_only, false, None),
            ("text/html", true, None),
        ];
        for (text, transforms, want) in cases {
            let got = accept(&headers(text), transforms, false).ok().map(|a| (a.encoding, a.form));
            assert_eq!(got, want, "{text}");
        }
    }
}
