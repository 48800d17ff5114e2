//! ListOptions: which objects, as of when, and from where on. Pure but for the selector's check.

use std::num::{IntErrorKind, ParseIntError};

use amphipod_api::field::{self, Path};
use amphipod_api::selector::{FieldSelector, LabelSelector};
use amphipod_api::status::Status;
use amphipod_store::Revision;
use base64::engine::DecodePaddingMode;
use base64::engine::general_purpose::{GeneralPurpose, GeneralPurposeConfig, URL_SAFE_NO_PAD};
use base64::{DecodeError, Engine};
use serde::{Deserialize, Serialize};

use crate::cache::{Collection, Selector};
use crate::context::Context;
use crate::http::path::Query;

/// As of when a list is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AsOf {
    /// Reflects every acknowledged write.
    Newest,
    /// Whatever the cache has.
    Any,
    NotOlderThan(Revision),
    Exactly(Revision),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListOptions {
    pub as_of: AsOf,
    /// 0 is no limit.
    pub limit: usize,
    /// Where the page begins: a path below the key prefix.
    pub start: Option<String>,
    /// `continue` was given.
    pub continued: bool,
}

/// The content of a `continue` token; the same as upstream's.
#[derive(Debug, Serialize, Deserialize)]
struct Token {
    v: String,
    rv: i64,
    start: String,
}

const TOKEN_VERSION: &str = "meta.k8s.io/v1";
pub const CONTINUE_EXPIRED: &str = "The provided continue parameter is too old to display a consistent list result. \
You can start a new list without the continue parameter, or use the continue token in this response to retrieve \
the remainder of the results. Continuing with the provided token results in an inconsistent list - objects that \
were created, modified, or deleted between the time the first chunk was returned and now may show up in the list.";

/// `start` is the path the next page begins at; `None` for the revision makes a token that goes on
/// inconsistently.
pub fn continue_token(start: &str, revision: Option<Revision>) -> String {
    let rv = revision.and_then(|r| i64::try_from(r).ok()).unwrap_or(-1);
    let token = Token { v: TOKEN_VERSION.into(), rv, start: start.into() };
    // A struct of strings and a number always serialises.
    URL_SAFE_NO_PAD.encode(serde_json::to_vec(&token).unwrap_or_default())
}

fn parse_token(text: &str) -> Result<Token, Status> {
    let bad =
        |why: &str| Status::bad_request(format!("invalid continue token: continue key is not valid{why}"));
    let bytes = LENIENT.decode(text).map_err(|e| {
        let at = match e {
            DecodeError::InvalidByte(at, _) => at,
            _ => text.len() - text.len() % 4,
        };
        bad(&format!(": illegal base64 data at input byte {at}"))
    })?;
    let token: Token = serde_json::from_slice(&bytes).map_err(|e| bad(&format!(": {e}")))?;
    if token.v != TOKEN_VERSION {
        return Err(bad(&format!(": server does not recognize this encoded version {}", token.v)));
    }
    if token.rv == 0 {
        return Err(bad(": incorrect encoded start resourceVersion (version meta.k8s.io/v1)"));
    }
    if token.start.is_empty() {
        return Err(bad(": encoded start key empty (version meta.k8s.io/v1)"));
    }
    // The start must not lead out of the collection.
    let key = token.start.strip_prefix('/').unwrap_or(&token.start);
    if key.split('/').any(|part| matches!(part, "" | "." | "..")) {
        return Err(bad(&format!(": {}", token.start)));
    }
    Ok(token)
}

/// As Go reads tokens: without padding, unused bits ignored.
const LENIENT: GeneralPurpose = GeneralPurpose::new(
    &base64::alphabet::URL_SAFE,
    GeneralPurposeConfig::new()
        .with_encode_padding(false)
        .with_decode_padding_mode(DecodePaddingMode::RequireNone)
        .with_decode_allow_trailing_bits(true),
);

/// A resourceVersion as a number.
fn parse_revision(text: &str) -> Result<Revision, field::Error> {
    let digits = text.bytes().all(|b| b.is_ascii_digit());
    text.parse().ok().filter(|_| digits).ok_or_else(|| {
        let why = if digits && !text.is_empty() { "value out of range" } else { "invalid syntax" };
        let detail = format!("strconv.ParseUint: parsing {}: {why}", field::go_quote(text));
        field::Error::invalid(&Path::new("resourceVersion"), text, detail)
    })
}

/// The revision a get or a watch names. Upstream takes another for a fault of its own.
pub fn revision(text: &str) -> Result<Revision, Status> {
    parse_revision(text).map_err(|fault| Status::failure(500, "", fault.to_string()))
}

/// The revision a list names.
fn list_revision(text: &str) -> Result<Revision, Status> {
    parse_revision(text).map_err(|fault| Status::bad_request(format!("invalid resource version: {fault}")))
}

/// A whole number among the query's parameters; empty is absent, as upstream.
pub fn integer(query: &Query, key: &str) -> Result<Option<i64>, Status> {
    let text = query.text(key);
    if text.is_empty() {
        return Ok(None);
    }
    text.parse().map(Some).map_err(|error: ParseIntError| {
        let why = match error.kind() {
            IntErrorKind::PosOverflow | IntErrorKind::NegOverflow => "value out of range",
            _ => "invalid syntax",
        };
        Status::bad_request(format!("strconv.ParseInt: parsing {}: {why}", field::go_quote(text)))
    })
}

impl ListOptions {
    pub fn parse(cx: &Context) -> Result<Self, Status> {
        let version = cx.query.text("resourceVersion");
        let matching = cx.query.text("resourceVersionMatch");
        let limit = integer(&cx.query, "limit")?.unwrap_or(0);
        let limit = usize::try_from(limit).unwrap_or(0);
        check_list(cx, version, matching)?;
        let token = cx.query.text("continue");
        if !token.is_empty() {
            return Self::continued(token, version, limit);
        }
        let as_of = match (version, matching) {
            ("", _) => AsOf::Newest,
            ("0", _) => AsOf::Any,
            (text, "Exact") => AsOf::Exactly(list_revision(text)?),
            // Kept from before resourceVersionMatch existed.
            (text, "") if limit > 0 => AsOf::Exactly(list_revision(text)?),
            (text, _) => AsOf::NotOlderThan(list_revision(text)?),
        };
        Ok(ListOptions { as_of, limit, start: None, continued: false })
    }

    fn continued(token: &str, version: &str, limit: usize) -> Result<Self, Status> {
        let token = parse_token(token)?;
        if !matches!(version, "" | "0") {
            return Err(Status::bad_request(
                "specifying resource version is not allowed when using continue",
            ));
        }
        let as_of = u64::try_from(token.rv).map_or(AsOf::Newest, AsOf::Exactly);
        Ok(ListOptions { as_of, limit, start: Some(token.start), continued: true })
    }
}

/// All that a list's options may not say together.
fn check_list(cx: &Context, version: &str, matching: &str) -> Result<(), Status> {
    let path = Path::new("resourceVersionMatch");
    let mut faults = Vec::new();
    let mut forbid = |path: &Path, text: &str| faults.push(field::Error::forbidden(path, text));
    if !matching.is_empty() {
        if version.is_empty() {
            forbid(&path, "resourceVersionMatch is forbidden unless resourceVersion is provided");
        }
        if !cx.query.text("continue").is_empty() {
            forbid(&path, "resourceVersionMatch is forbidden when continue is provided");
        }
    }
    if !matches!(matching, "" | "Exact" | "NotOlderThan") {
        faults.push(unsupported(&path, matching, r#""Exact", "NotOlderThan", """#));
    }
    if matching == "Exact" && version == "0" {
        let text = "resourceVersionMatch \"exact\" is forbidden for resourceVersion \"0\"";
        faults.push(field::Error::forbidden(&path, text));
    }
    if cx.query.contains("sendInitialEvents") {
        let path = Path::new("sendInitialEvents");
        faults.push(field::Error::forbidden(&path, "sendInitialEvents is forbidden for list"));
    }
    cx.refuse_options("ListOptions", &faults)
}

/// Like `field::Error::not_supported`, in an order that is not the alphabet's.
pub fn unsupported(path: &Path, value: &str, supported: &str) -> field::Error {
    let mut fault = field::Error::not_supported::<&str>(path, value, &[]);
    fault.detail = format!("supported values: {supported}");
    fault
}

/// All that a watch's options may not say together.
pub fn check_watch(cx: &Context) -> Result<(), Status> {
    let path = Path::new("resourceVersionMatch");
    let (matching, initial) = (cx.query.text("resourceVersionMatch"), cx.query.contains("sendInitialEvents"));
    let mut faults = Vec::new();
    if initial && matching != "NotOlderThan" {
        let text = "sendInitialEvents requires setting resourceVersionMatch to NotOlderThan";
        faults.push(field::Error::forbidden(&path, text));
    }
    if !matching.is_empty() {
        if !initial {
            let text = "resourceVersionMatch is forbidden for watch unless sendInitialEvents is provided";
            faults.push(field::Error::forbidden(&path, text));
        }
        if matching != "NotOlderThan" {
            faults.push(field::Error::not_supported(&path, matching, &["NotOlderThan"]));
        }
        if !cx.query.text("continue").is_empty() {
            let text = "resourceVersionMatch is forbidden when continue is provided";
            faults.push(field::Error::forbidden(&path, text));
        }
    }
    cx.refuse_options("ListOptions", &faults)
}

/// Whether a watch begins with everything there is: where it asks for that, and where it neither says so nor
/// names a revision to go on from.
pub fn begins_with_state(query: &Query) -> bool {
    match query.contains("sendInitialEvents") {
        true => query.flag("sendInitialEvents"),
        false => matches!(query.text("resourceVersion"), "" | "0"),
    }
}

/// The request's selectors, checked against what the resource selects by. A name in the path
/// (a watch of one object) selects too.
pub fn selector(cx: &Context, collection: &Collection) -> Result<Selector, Status> {
    let labels = LabelSelector::parse(cx.query.text("labelSelector"))
        .map_err(|e| Status::bad_request(e.to_string()))?;
    let mut fields = FieldSelector::parse(cx.query.text("fieldSelector")).map_err(Status::bad_request)?;
    if !cx.name().is_empty() && fields.is_empty() {
        fields.terms.push(amphipod_api::selector::FieldTerm {
            label: "metadata.name".into(),
            value: cx.name().into(),
            equals: true,
        });
    } else if !cx.name().is_empty() && fields.required("metadata.name") != Some(cx.name()) {
        return Err(Status::bad_request("fieldSelector metadata.name doesn't match requested name"));
    }
    Selector::new(&cx.resource, &collection.prefix, &collection.pointers, labels, fields)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_read_as_go_reads_them() {
        let read = |text: &str| integer(&Query::parse(Some(text)), "limit");
        assert_eq!(read("limit=-5").ok(), Some(Some(-5)));
        assert_eq!(read("limit=").ok(), Some(None));
        let refusal = |text: &str| read(text).map_err(|s| s.message).err();
        let text = "strconv.ParseInt: parsing \"abc\": invalid syntax";
        assert_eq!(refusal("limit=abc").as_deref(), Some(text));
        let text = "strconv.ParseInt: parsing \"99999999999999999999\": value out of range";
        assert_eq!(refusal("limit=99999999999999999999").as_deref(), Some(text));
    }

    #[test]
    fn watches_begin_with_the_state_where_they_go_on_from_nowhere() {
        for (query, does) in [
            ("", true),
            ("resourceVersion=0", true),
            ("resourceVersion=7", false),
            ("sendInitialEvents=true", true),
            ("sendInitialEvents", true),
            ("sendInitialEvents=true&resourceVersion=7", true),
            ("sendInitialEvents=false", false),
            ("sendInitialEvents=false&resourceVersion=0", false),
            ("sendInitialEvents=false&resourceVersion=7", false),
        ] {
            assert_eq!(begins_with_state(&Query::parse(Some(query))), does, "{query}");
        }
    }

    #[test]
    fn tokens_round_trip() {
        let token = parse_token(&continue_token("default/a\0", Some(7))).expect("parses");
        assert_eq!((token.rv, token.start.as_str()), (7, "default/a\0"));
        assert_eq!(parse_token(&continue_token("x", None)).map(|t| t.rv).ok(), Some(-1));
        assert_eq!(parse_token("!!").map_err(|s| s.code).err(), Some(400));
    }
}
