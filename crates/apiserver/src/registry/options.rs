//! ListOptions: which objects, as of when, and from where on. Pure but for the selector's check.

use amphipod_api::field::{self, Path};
use amphipod_api::selector::{FieldSelector, LabelSelector};
use amphipod_api::status::Status;
use amphipod_store::Revision;
use base64::Engine;
use base64::engine::general_purpose::{STANDARD_NO_PAD, URL_SAFE_NO_PAD};
use serde::{Deserialize, Serialize};

use crate::cache::{Collection, Selector};
use crate::context::Context;

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
    let bad = |why: &str| Status::bad_request(format!("continue key is not valid: {why}"));
    let text = text.trim_end_matches('=');
    let bytes = URL_SAFE_NO_PAD.decode(text).or_else(|_| STANDARD_NO_PAD.decode(text));
    let bytes = bytes.map_err(|e| bad(&e.to_string()))?;
    let token: Token = serde_json::from_slice(&bytes).map_err(|e| bad(&e.to_string()))?;
    if token.v != TOKEN_VERSION {
        return Err(bad(&format!(
            "server does not recognize this encoded version {}",
            field::go_quote(&token.v)
        )));
    }
    if token.rv == 0 {
        return Err(bad("incorrect encoded start resourceVersion (version meta.k8s.io/v1)"));
    }
    Ok(token)
}

pub fn revision(text: &str) -> Result<Revision, Status> {
    text.parse().map_err(|_| {
        let fault = field::Error::invalid(
            &Path::new("resourceVersion"),
            text,
            format!("strconv.ParseUint: parsing {}: invalid syntax", field::go_quote(text)),
        );
        Status::bad_request(format!("Invalid value: {fault}"))
    })
}

impl ListOptions {
    pub fn parse(cx: &Context) -> Result<Self, Status> {
        let version = cx.query.text("resourceVersion");
        let matching = cx.query.text("resourceVersionMatch");
        let limit = match cx.query.text("limit") {
            "" => 0,
            text => text.parse::<i64>().map_err(|e| Status::bad_request(format!("invalid limit: {e}")))?,
        };
        let limit = usize::try_from(limit).unwrap_or(0);
        check_match(cx, version, matching)?;
        let token = cx.query.text("continue");
        if !token.is_empty() {
            return Self::continued(token, version, limit);
        }
        let as_of = match (version, matching) {
            ("", _) => AsOf::Newest,
            ("0", _) => AsOf::Any,
            (text, "Exact") => AsOf::Exactly(revision(text)?),
            // Kept from before resourceVersionMatch existed.
            (text, "") if limit > 0 => AsOf::Exactly(revision(text)?),
            (text, _) => AsOf::NotOlderThan(revision(text)?),
        };
        Ok(ListOptions { as_of, limit, start: None, continued: false })
    }

    fn continued(token: &str, version: &str, limit: usize) -> Result<Self, Status> {
        if !matches!(version, "" | "0") {
            return Err(Status::bad_request(
                "specifying resource version is not allowed when using continue",
            ));
        }
        let token = parse_token(token)?;
        let as_of = u64::try_from(token.rv).map_or(AsOf::Newest, AsOf::Exactly);
        Ok(ListOptions { as_of, limit, start: Some(token.start), continued: true })
    }
}

fn check_match(cx: &Context, version: &str, matching: &str) -> Result<(), Status> {
    if matching.is_empty() {
        return Ok(());
    }
    let path = Path::new("resourceVersionMatch");
    let refuse = |fault: field::Error| Err(cx.invalid_options(&fault));
    if !matches!(matching, "Exact" | "NotOlderThan") {
        return refuse(field::Error::not_supported(&path, matching, &["Exact", "NotOlderThan", ""]));
    }
    if version.is_empty() && !cx.query.contains("sendInitialEvents") {
        return refuse(field::Error::forbidden(
            &path,
            "resourceVersionMatch is forbidden unless resourceVersion is provided",
        ));
    }
    if !cx.query.text("continue").is_empty() {
        return refuse(field::Error::forbidden(
            &path,
            "resourceVersionMatch is forbidden when continue is provided",
        ));
    }
    if version == "0" && matching == "Exact" {
        return refuse(field::Error::forbidden(
            &path,
            "resourceVersionMatch \"Exact\" is forbidden for resourceVersion \"0\"",
        ));
    }
    Ok(())
}

/// The request's selectors, checked against what the resource selects by. A name in the path
/// (a watch of one object) selects too.
pub fn selector(cx: &Context, collection: &Collection) -> Result<Selector, Status> {
    let labels = LabelSelector::parse(cx.query.text("labelSelector"))
        .map_err(|e| Status::bad_request(format!("unable to parse requirement: {e}")))?;
    let mut fields = FieldSelector::parse(cx.query.text("fieldSelector")).map_err(Status::bad_request)?;
    if !cx.name().is_empty() {
        fields.terms.push(amphipod_api::selector::FieldTerm {
            label: "metadata.name".into(),
            value: cx.name().into(),
            equals: true,
        });
    }
    Selector::new(&cx.resource, &collection.prefix, &collection.pointers, labels, fields)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_round_trip() {
        let token = parse_token(&continue_token("default/a\0", Some(7))).expect("parses");
        assert_eq!((token.rv, token.start.as_str()), (7, "default/a\0"));
        assert_eq!(parse_token(&continue_token("x", None)).map(|t| t.rv).ok(), Some(-1));
        assert_eq!(parse_token("!!").map_err(|s| s.code).err(), Some(400));
    }
}
