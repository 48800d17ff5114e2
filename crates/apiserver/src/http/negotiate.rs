//! Which form an answer takes: JSON, YAML or protobuf; as the kind itself, as a Table or as
//! metadata only. Pure.

use amphipod_api::status::Status;
use http::header::{ACCEPT, USER_AGENT};
use http::{HeaderMap, Request};

use super::path::Query;

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
    /// A Table or metadata in their beta version.
    pub beta: bool,
    /// JSON laid out for people.
    pub pretty: bool,
}

pub const PLAIN_TYPES: &[&str] =
    &["application/json", "application/yaml", "application/vnd.kubernetes.protobuf"];

pub const STREAM_TYPES: &[&str] =
    &["application/json;stream=watch", "application/vnd.kubernetes.protobuf;stream=watch"];

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
    fn covers(&self, media_type: &str) -> bool {
        self.media_type == media_type || matches!(self.media_type, "*/*" | "application/*")
    }
    fn quality(&self) -> f32 {
        self.param("q").and_then(|q| q.parse().ok()).unwrap_or(1.0)
    }
}

/// The clauses of all Accept headers, best first (stable where equal, wildcards last).
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
    let wildcards = |clause: &Clause<'_>| clause.media_type.matches('*').count();
    list.sort_by(|a, b| b.quality().total_cmp(&a.quality()).then(wildcards(a).cmp(&wildcards(b))));
    list
}

/// What an endpoint can answer with.
#[derive(Clone, Copy, Debug, Default)]
pub struct Offer {
    /// Tables and metadata-only are possible.
    pub transforms: bool,
    /// The kind itself has a protobuf form.
    pub protobuf: bool,
    pub shape: Shape,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Shape {
    #[default]
    Single,
    List,
    /// A watch: no YAML.
    Stream,
}

const ENCODINGS: [Encoding; 3] = [Encoding::Json, Encoding::Yaml, Encoding::Protobuf];

/// The form a clause asks for, if it exists in this encoding here.
fn form_of(clause: &Clause<'_>, encoding: Encoding, offer: Offer) -> Option<(Form, bool)> {
    if clause.param("stream").is_some_and(|s| !s.is_empty() && (s != "watch" || encoding == Encoding::Yaml)) {
        return None;
    }
    let names = ["as", "g", "v"].map(|name| clause.param(name));
    if names.iter().all(Option::is_none) {
        return (encoding != Encoding::Protobuf || offer.protobuf).then_some((Form::Object, false));
    }
    let beta = match names {
        [_, Some("meta.k8s.io"), Some("v1")] => false,
        [_, Some("meta.k8s.io"), Some("v1beta1")] => true,
        _ => return None,
    };
    let form = match names[0]? {
        "Table" if encoding != Encoding::Protobuf => Form::Table,
        // In protobuf the beta's types are not known.
        "PartialObjectMetadata" | "PartialObjectMetadataList" if !beta || encoding != Encoding::Protobuf => {
            Form::PartialMetadata
        }
        _ => return None,
    };
    offer.transforms.then_some((form, beta))
}

/// Chooses the first clause that can be served. `go_type` is what upstream calls the answer's type.
pub fn accept(headers: &HeaderMap, offer: Offer, go_type: impl Fn() -> String) -> Result<Accepted, Status> {
    let list = clauses(headers);
    if list.is_empty() {
        return Ok(Accepted::default());
    }
    for clause in &list {
        for encoding in ENCODINGS.into_iter().filter(|e| clause.covers(e.media_type())) {
            let Some((form, beta)) = form_of(clause, encoding, offer) else { continue };
            check_shape(clause, offer.shape, &go_type)?;
            if offer.shape == Shape::Stream && encoding == Encoding::Yaml {
                return Err(Status::not_acceptable(STREAM_TYPES));
            }
            let pretty = clause.param("pretty") == Some("1");
            return Ok(Accepted { encoding, form, beta, pretty });
        }
    }
    Err(Status::not_acceptable(PLAIN_TYPES))
}

/// A list cannot be one object's metadata, nor the other way round.
fn check_shape(clause: &Clause<'_>, shape: Shape, go_type: impl Fn() -> String) -> Result<(), Status> {
    let wrong = |text: &str| Err(Status::failure(406, "NotAcceptable", format!("{text} ({})", go_type())));
    match (clause.param("as"), shape) {
        (Some("PartialObjectMetadata"), Shape::List) => {
            wrong("you requested PartialObjectMetadata, but the requested object is a list")
        }
        (Some("PartialObjectMetadataList"), Shape::Single) => {
            wrong("you requested PartialObjectMetadataList, but the requested object is not a list")
        }
        _ => Ok(()),
    }
}

/// How a refusal is written, whatever was asked for.
pub fn for_status<B>(request: &Request<B>) -> Accepted {
    let offer = Offer { protobuf: true, ..Offer::default() };
    let accepted = accept(request.headers(), offer, String::new).unwrap_or_default();
    accepted.prettied(&Query::parse(request.uri().query()), request.headers())
}

/// User agents behind which people sit.
const HUMANS: [&str; 3] = ["curl", "Wget", "Mozilla/5.0"];

impl Accepted {
    /// `pretty=true`, or a client that people read along with.
    pub fn prettied(mut self, query: &Query, headers: &HeaderMap) -> Self {
        let agent = headers.get(USER_AGENT).and_then(|v| v.to_str().ok()).unwrap_or("");
        self.pretty |= match query.text("pretty") {
            "" => HUMANS.iter().any(|human| agent.starts_with(human)),
            text => matches!(text, "1" | "t" | "T" | "true" | "True" | "TRUE"),
        };
        self
    }

    /// The version Tables and metadata-only objects are answered in.
    pub fn meta_version(self) -> &'static str {
        if self.beta { "meta.k8s.io/v1beta1" } else { "meta.k8s.io/v1" }
    }
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
            let offer = Offer { transforms, ..Offer::default() };
            let got = accept(&headers(text), offer, String::new).ok().map(|a| (a.encoding, a.form));
            assert_eq!(got, want, "{text}");
        }
    }
}
