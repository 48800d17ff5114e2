//! What FlowSchemas and PriorityLevelConfigurations say, read into what is obeyed: which levels
//! there are, which schemas send requests there, and what is to be written about them. Pure.

use amphipod_api::field::go_quote;
use amphipod_api::object;
use serde::Deserialize;
use serde_json::Value;

use super::dealer::Dealer;
use super::matching::{Matcher, RuleSpec};

pub const EXEMPT: &str = "exempt";
pub const CATCH_ALL: &str = "catch-all";
/// More queues than these are not made: of hands from so many even two flows seldom share a queue, and
/// an object of a few bytes may ask for ten million.
const MAX_QUEUES: usize = 1024;

/// What a level does with requests it has no seats for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Response {
    /// It has seats for all.
    Exempt,
    Reject,
    Queue {
        dealer: Dealer,
        /// Requests in one queue.
        length_limit: usize,
    },
}

impl Response {
    pub fn queues(&self) -> usize {
        self.dealer().map_or(0, |dealer| dealer.deck())
    }
    pub fn hand(&self) -> Option<usize> {
        self.dealer().map(|dealer| dealer.hand())
    }
    pub fn length_limit(&self) -> usize {
        match self {
            Response::Queue { length_limit, .. } => *length_limit,
            _ => 0,
        }
    }
    fn dealer(&self) -> Option<&Dealer> {
        match self {
            Response::Queue { dealer, .. } => Some(dealer),
            _ => None,
        }
    }
}

/// A priority level.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LevelSpec {
    pub name: String,
    /// Empty: there is no such object, but there must be such a level.
    pub uid: String,
    pub shares: u32,
    pub lendable_percent: u32,
    /// `None`: as much as there is.
    pub borrowing_limit_percent: Option<u32>,
    pub response: Response,
}

/// What tells the flows of a schema apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Distinguisher {
    Nothing,
    User,
    Namespace,
}

#[derive(Clone, Debug)]
pub struct SchemaSpec {
    pub name: String,
    pub uid: String,
    pub precedence: i64,
    pub level: String,
    pub distinguisher: Distinguisher,
    pub matcher: Matcher,
}

/// What a FlowSchema's `Dangling` condition is to say, where it does not say so yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verdict {
    pub schema: String,
    pub status: &'static str,
    pub reason: &'static str,
    pub message: String,
}

#[derive(Debug)]
pub struct Digest {
    pub levels: Vec<LevelSpec>,
    /// In the order in which they are tried. One of them means every request.
    pub schemas: Vec<SchemaSpec>,
    pub verdicts: Vec<Verdict>,
}

/// Reads all objects together. Broken levels count as missing; a schema without its level is not
/// obeyed. `mandatory` are the objects that are imagined where they are missing.
pub fn digest(levels: &[Value], schemas: &[Value], mandatory: &[Value]) -> Digest {
    let (imagined_levels, imagined_schemas): (Vec<&Value>, Vec<&Value>) =
        mandatory.iter().partition(|object| object::kind(object) == "PriorityLevelConfiguration");
    let mut found: Vec<LevelSpec> = levels.iter().filter_map(level).collect();
    for missing in imagined_levels.into_iter().filter_map(level) {
        if !found.iter().any(|level| level.name == missing.name) {
            found.push(missing);
        }
    }
    let mut verdicts = Vec::new();
    let mut obeyed = Vec::new();
    for object in schemas {
        let Some(spec) = schema(object) else { continue };
        let is_found = found.iter().any(|level| level.name == spec.level);
        verdicts.extend(verdict(object, &spec, is_found));
        if is_found {
            obeyed.push(spec);
        }
    }
    for missing in imagined_schemas.into_iter().filter_map(schema) {
        if !obeyed.iter().any(|schema| schema.name == missing.name) {
            obeyed.push(missing);
        }
    }
    obeyed.sort_by(|a, b| (a.precedence, &a.name).cmp(&(b.precedence, &b.name)));
    Digest { levels: found, schemas: obeyed, verdicts }
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct LevelObject {
    r#type: String,
    limited: Option<Limited>,
    exempt: Option<Shares>,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Shares {
    nominal_concurrency_shares: u32,
    lendable_percent: u32,
    borrowing_limit_percent: Option<u32>,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Limited {
    #[serde(flatten)]
    shares: Shares,
    limit_response: LimitResponse,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct LimitResponse {
    r#type: String,
    queuing: Option<Queuing>,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Queuing {
    queues: usize,
    hand_size: usize,
    queue_length_limit: usize,
}

/// `None`: it is broken in a way that validation does not let in.
fn level(object: &Value) -> Option<LevelSpec> {
    let spec = LevelObject::deserialize(&object["spec"]).ok()?;
    let name = object::name(object);
    let (shares, response) = match (spec.r#type.as_str(), spec.limited, spec.exempt) {
        ("Exempt", None, shares) if name == EXEMPT => (shares.unwrap_or_default(), Response::Exempt),
        ("Limited", Some(limited), None) if name != EXEMPT => {
            (limited.shares, response(&limited.limit_response)?)
        }
        _ => return None,
    };
    Some(LevelSpec {
        name: name.to_owned(),
        uid: object::uid(object).to_owned(),
        shares: shares.nominal_concurrency_shares,
        lendable_percent: shares.lendable_percent,
        borrowing_limit_percent: shares.borrowing_limit_percent,
        response,
    })
}

fn response(spec: &LimitResponse) -> Option<Response> {
    match (spec.r#type.as_str(), &spec.queuing) {
        ("Reject", None) => Some(Response::Reject),
        ("Queue", Some(queuing)) => {
            let deck = queuing.queues.min(MAX_QUEUES.max(queuing.hand_size));
            let dealer = Dealer::new(deck, queuing.hand_size)?;
            Some(Response::Queue { dealer, length_limit: queuing.queue_length_limit })
        }
        _ => None,
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct SchemaObject {
    priority_level_configuration: Reference,
    #[serde(default)]
    matching_precedence: i64,
    #[serde(default)]
    distinguisher_method: Option<Method>,
    #[serde(default)]
    rules: Vec<RuleSpec>,
}

#[derive(Deserialize)]
struct Reference {
    name: String,
}

#[derive(Deserialize)]
struct Method {
    r#type: String,
}

fn schema(object: &Value) -> Option<SchemaSpec> {
    let spec = SchemaObject::deserialize(&object["spec"]).ok()?;
    let distinguisher = match spec.distinguisher_method.as_ref().map(|method| method.r#type.as_str()) {
        Some("ByUser") => Distinguisher::User,
        Some("ByNamespace") => Distinguisher::Namespace,
        _ => Distinguisher::Nothing,
    };
    Some(SchemaSpec {
        name: object::name(object).to_owned(),
        uid: object::uid(object).to_owned(),
        precedence: spec.matching_precedence,
        level: spec.priority_level_configuration.name,
        distinguisher,
        matcher: Matcher::new(spec.rules),
    })
}

fn verdict(object: &Value, spec: &SchemaSpec, is_found: bool) -> Option<Verdict> {
    let (status, reason, outcome) = match is_found {
        true => ("False", "Found", "and it exists"),
        false => ("True", "NotFound", "but there is no such object"),
    };
    let level = go_quote(&spec.level);
    let message =
        format!("This FlowSchema references the PriorityLevelConfiguration object named {level} {outcome}");
    let conditions = object["status"]["conditions"].as_array().into_iter().flatten();
    let is_said = conditions.into_iter().any(|condition| {
        condition["type"] == "Dangling"
            && condition["status"] == status
            && condition["reason"] == reason
            && condition["message"] == message.as_str()
    });
    (!is_said).then(|| Verdict { schema: spec.name.clone(), status, reason, message })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::bootstrap::flow_control;

    fn mandatory() -> Vec<Value> {
        flow_control::mandatory()
    }

    fn schema_of(name: &str, precedence: i64, level: &str, status: Value) -> Value {
        json!({"kind": "FlowSchema", "metadata": {"name": name, "uid": format!("uid-{name}")}, "status": status,
            "spec": {"matchingPrecedence": precedence, "priorityLevelConfiguration": {"name": level}}})
    }

    fn level_of(name: &str, spec: Value) -> Value {
        json!({"kind": "PriorityLevelConfiguration", "metadata": {"name": name, "uid": "u"}, "spec": spec})
    }

    fn names(digest: &Digest) -> Vec<&str> {
        digest.schemas.iter().map(|schema| schema.name.as_str()).collect()
    }

    #[test]
    fn what_every_cluster_has_is_obeyed_in_order() {
        let all = flow_control::objects();
        let of = |kind: &str| all.iter().filter(|o| o["kind"] == kind).cloned().collect::<Vec<_>>();
        let digest = digest(&of("PriorityLevelConfiguration"), &of("FlowSchema"), &mandatory());
        assert_eq!((digest.levels.len(), digest.schemas.len(), digest.verdicts.len()), (8, 13, 13));
        assert_eq!(names(&digest)[..3], ["exempt", "probes", "system-leader-election"]);
        let same = ["kube-controller-manager", "kube-scheduler"];
        assert_eq!(names(&digest)[7..9], same, "names decide between equal precedences");
        assert_eq!(names(&digest).last(), Some(&"catch-all"));
        let high = digest.levels.iter().find(|level| level.name == "workload-high").expect("there");
        let dealer = Dealer::new(128, 6).expect("possible");
        assert_eq!(high.response, Response::Queue { dealer, length_limit: 50 });
        assert_eq!((high.shares, high.lendable_percent, high.borrowing_limit_percent), (40, 50, None));
    }

    #[test]
    fn without_any_object_everybody_is_served_still() {
        let digest = digest(&[], &[], &mandatory());
        assert_eq!(names(&digest), ["exempt", "catch-all"]);
        assert_eq!(
            digest.levels.iter().map(|l| l.name.as_str()).collect::<Vec<_>>(),
            ["exempt", "catch-all"]
        );
        assert_eq!(digest.verdicts, []);
    }

    #[test]
    fn schemas_without_their_level_are_told_and_not_obeyed() {
        let good = json!({"type": "Limited", "limited": {"nominalConcurrencyShares": 7, "borrowingLimitPercent": 50,
            "limitResponse": {"type": "Reject"}}});
        let said = json!({"conditions": [{"type": "Dangling", "status": "False", "reason": "Found",
            "message": "This FlowSchema references the PriorityLevelConfiguration object named \"good\" and it exists"}]});
        let schemas = [
            schema_of("lost", 5, "nowhere", json!({})),
            schema_of("right", 9, "good", said.clone()),
            schema_of("was-right", 5, "nowhere", said),
            schema_of("first", 5, "good", json!({})),
        ];
        let digest = digest(&[level_of("good", good)], &schemas, &mandatory());
        assert_eq!(names(&digest), ["exempt", "first", "right", "catch-all"]);
        assert_eq!(digest.levels[0].borrowing_limit_percent, Some(50));
        let told: Vec<_> = digest.verdicts.iter().map(|v| (v.schema.as_str(), v.status, v.reason)).collect();
        let expected =
            [("lost", "True", "NotFound"), ("was-right", "True", "NotFound"), ("first", "False", "Found")];
        assert_eq!(told, expected);
        assert_eq!(
            digest.verdicts[0].message,
            "This FlowSchema references the PriorityLevelConfiguration object named \"nowhere\" but there is no such object"
        );
    }

    #[test]
    fn broken_levels_count_as_missing() {
        let limited = |response: Value| json!({"type": "Limited", "limited": {"limitResponse": response}});
        let queue = |queues: u64, hand: u64| {
            limited(
                json!({"type": "Queue", "queuing": {"queues": queues, "handSize": hand, "queueLengthLimit": 9}}),
            )
        };
        for (name, spec, expected) in [
            ("l", limited(json!({"type": "Reject"})), true),
            ("l", queue(4, 4), true),
            ("l", queue(10_000_000, 4), true),
            ("l", limited(json!({"type": "Queue"})), false),
            ("l", limited(json!({"type": "Reject", "queuing": {}})), false),
            ("l", queue(4, 5), false),
            ("l", queue(0, 0), false),
            ("l", json!({"type": "Exempt", "exempt": {}}), false),
            ("l", json!({"type": "Limited", "exempt": {}}), false),
            ("exempt", limited(json!({"type": "Reject"})), false),
            ("exempt", json!({"type": "Exempt", "exempt": {"nominalConcurrencyShares": 3}}), true),
            ("exempt", json!({"type": "Exempt"}), true),
        ] {
            let found = level(&level_of(name, spec.clone()));
            assert_eq!(found.is_some(), expected, "{name} {spec}");
            assert!(found.is_none_or(|level| level.response.queues() <= MAX_QUEUES));
        }
    }
}
