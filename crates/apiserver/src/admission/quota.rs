//! ResourceQuota: charges what a write takes up to every quota that speaks of it, before the write
//! happens. A quota's status is the ledger and is written with its version as the lock, so that
//! writes at the same time can never use more than there is. The controller gives back.

use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;

use amphipod_api::object;
use amphipod_api::pod_resources::{Amounts, add, amounts};
use amphipod_api::quota::{self, CLAIMS, Kind, PODS, SERVICES};
use amphipod_api::scheduling_review;
use amphipod_api::status::Status;
use jiff::Timestamp;
use serde_json::{Map, Value};
use tokio::sync::Mutex;

use super::{forbidden, read_all};
use crate::seams::{AdmissionRequest, Operation, QuotaLedger, Reader};

/// Lost races before a write is refused, as upstream.
const ATTEMPTS: usize = 4;
/// Namespaces that share a lock wait for each other; nothing else depends on the number.
const LOCKS: usize = 64;
/// Kinds that are not counted: most are not stored, events come in masses.
const IGNORED: [(&str, &str); 10] = [
    ("", "bindings"),
    ("", "componentstatuses"),
    ("", "events"),
    ("events.k8s.io", "events"),
    ("authentication.k8s.io", "tokenreviews"),
    ("authorization.k8s.io", "localsubjectaccessreviews"),
    ("authorization.k8s.io", "selfsubjectaccessreviews"),
    ("authorization.k8s.io", "selfsubjectrulesreviews"),
    ("authorization.k8s.io", "subjectaccessreviews"),
    (scheduling_review::GROUP, scheduling_review::PLURAL),
];

pub struct Quotas {
    ledger: Arc<dyn QuotaLedger>,
    /// Writers in one namespace take turns here rather than losing races in the store.
    turns: [Mutex<()>; LOCKS],
    hasher: RandomState,
}

/// A quota and what it will say is used.
struct Charge {
    quota: Arc<Value>,
    used: Amounts,
}

impl Quotas {
    pub fn new(ledger: Arc<dyn QuotaLedger>) -> Self {
        Quotas { ledger, turns: std::array::from_fn(|_| Mutex::default()), hasher: RandomState::new() }
    }

    pub async fn charge(&self, reader: &dyn Reader, request: &AdmissionRequest<'_>) -> Result<(), Status> {
        let attributes = request.attributes;
        let kind = Kind { group: &attributes.group, plural: &attributes.resource };
        let namespace = attributes.namespace.as_str();
        if namespace.is_empty() || kind == NAMESPACES || !changes_usage(kind, request) {
            return Ok(());
        }
        // Most namespaces have no quota, and most writes cost nothing.
        if charges(quotas(reader, namespace).await?, kind, request)?.is_empty() || request.dry_run {
            return Ok(());
        }
        let turn = usize::try_from(self.hasher.hash_one(namespace)).unwrap_or_default() % LOCKS;
        let _turn = self.turns[turn].lock().await;
        let mut unpaid: Option<Vec<String>> = None;
        for _ in 0..ATTEMPTS {
            let mut found = quotas(reader, namespace).await?;
            if let Some(unpaid) = &unpaid {
                found.retain(|quota| unpaid.iter().any(|name| name == object::name(quota)));
            }
            let mut lost = Vec::new();
            for charge in charges(found, kind, request)? {
                let name = object::name(&charge.quota).to_owned();
                if !self.ledger.record(&charge.quota, texts(&charge.used)).await? {
                    lost.push(name);
                }
            }
            if lost.is_empty() {
                return Ok(());
            }
            unpaid = Some(lost);
        }
        let name = unpaid.and_then(|names| names.into_iter().next()).unwrap_or_default();
        Err(Status::modified("", "resourcequotas", &name))
    }
}

const NAMESPACES: Kind<'static> = Kind { group: "", plural: "namespaces" };

async fn quotas(reader: &dyn Reader, namespace: &str) -> Result<Vec<Arc<Value>>, Status> {
    read_all(reader, "", "resourcequotas", namespace).await
}

fn texts(amounts: &Amounts) -> Map<String, Value> {
    amounts.iter().map(|(name, amount)| (name.clone(), amount.to_string().into())).collect()
}

/// Whether a write of this sort can use more than before.
fn changes_usage(kind: Kind<'_>, request: &AdmissionRequest<'_>) -> bool {
    let creates = request.operation == Operation::Create;
    let updates = request.operation == Operation::Update;
    match (kind, request.attributes.subresource.as_str()) {
        (PODS, "resize") => updates,
        (SERVICES | CLAIMS, "") => creates || updates,
        (CLAIMS, "status") => updates,
        (_, "") => creates && !IGNORED.contains(&(kind.group, kind.plural)),
        _ => false,
    }
}

/// What the request costs each quota that speaks of it; refuses what is too much.
fn charges(
    quotas: Vec<Arc<Value>>,
    kind: Kind<'_>,
    request: &AdmissionRequest<'_>,
) -> Result<Vec<Charge>, Status> {
    let mut concerned = Vec::new();
    for quota in quotas {
        if is_concerned(&quota, kind, request)? {
            concerned.push(quota);
        }
    }
    if concerned.is_empty() {
        return Ok(Vec::new());
    }
    let now = Timestamp::now();
    let usage = kind.usage(&request.object, now);
    let negative: Vec<&str> =
        usage.iter().filter(|(_, amount)| amount.is_negative()).map(|(name, _)| name.as_str()).collect();
    if !negative.is_empty() {
        let why = format!("quota usage is negative for resource(s): {}", negative.join(","));
        return Err(forbidden(request, &why));
    }
    let mut charges = Vec::new();
    for quota in concerned {
        let before = request
            .old
            .filter(|old| request.operation == Operation::Update && kind.is_covered(&quota, old))
            .map(|old| kind.usage(old, now));
        if let Some(used) = used_with(&quota, increase(&usage, before.as_ref()), request)? {
            charges.push(Charge { quota, used });
        }
    }
    Ok(charges)
}

/// The quota limits something of this kind, its scopes take the object in, and the object says what
/// it must.
fn is_concerned(quota: &Value, kind: Kind<'_>, request: &AdmissionRequest<'_>) -> Result<bool, Status> {
    let hard = quota::hard(quota, "status");
    let names: Vec<&str> = hard.keys().map(String::as_str).filter(|name| kind.counts(name)).collect();
    if names.is_empty() || !kind.is_covered(quota, &request.object) {
        return Ok(false);
    }
    if let Some(omission) = kind.omission(names.iter().copied(), &request.object) {
        return Err(forbidden(request, &format!("failed quota: {}: {omission}", object::name(quota))));
    }
    let used = amounts(&quota["status"]["used"]);
    if names.iter().any(|name| !used.contains_key(*name)) {
        let why =
            format!("status unknown for quota: {}, resources: {}", object::name(quota), names.join(","));
        return Err(forbidden(request, &why));
    }
    Ok(true)
}

/// What is used beyond what was: less costs nothing, it is given back when it is gone.
fn increase(usage: &Amounts, before: Option<&Amounts>) -> Amounts {
    let beyond = usage.iter().map(|(name, amount)| {
        let was = before.and_then(|before| before.get(name));
        (name.clone(), was.map_or(*amount, |was| amount.minus(*was)))
    });
    beyond.filter(|(_, amount)| !amount.is_zero() && !amount.is_negative()).collect()
}

/// What the quota's status says once this is charged; `None` where it costs nothing.
fn used_with(
    quota: &Value,
    mut requested: Amounts,
    request: &AdmissionRequest<'_>,
) -> Result<Option<Amounts>, Status> {
    let hard = quota::hard(quota, "status");
    requested.retain(|name, _| hard.contains_key(name));
    if requested.is_empty() {
        return Ok(None);
    }
    let before = amounts(&quota["status"]["used"]);
    let mut used = before.clone();
    requested.iter().for_each(|(name, amount)| add(&mut used, name, *amount));
    let exceeded: Vec<&String> = requested.keys().filter(|name| used[*name] > hard[*name]).collect();
    // What a status reports has happened already.
    if exceeded.is_empty() || request.attributes.subresource == "status" {
        return Ok(Some(used));
    }
    let show = |amounts: &Amounts| {
        let shown = exceeded.iter().filter_map(|name| Some(format!("{name}={}", amounts.get(*name)?)));
        shown.collect::<Vec<_>>().join(",")
    };
    let why = format!(
        "exceeded quota: {}, requested: {}, used: {}, limited: {}",
        object::name(quota),
        show(&requested),
        show(&before),
        show(&hard)
    );
    Err(forbidden(request, &why))
}

#[cfg(test)]
mod tests {
    use amphipod_api::resource;
    use serde_json::json;

    use super::*;
    use crate::seams::Attributes;
    use crate::testing::MemoryReader;

    struct Write<'a> {
        plural: &'a str,
        subresource: &'a str,
        object: Value,
        old: Option<&'a Value>,
        dry_run: bool,
    }

    fn creation(plural: &str, object: Value) -> Write<'_> {
        Write { plural, subresource: "", object, old: None, dry_run: false }
    }

    async fn charge(reader: &Arc<MemoryReader>, write: Write<'_>) -> Result<(), String> {
        let attributes = Attributes {
            resource: write.plural.into(),
            subresource: write.subresource.into(),
            namespace: "n".into(),
            ..Attributes::default()
        };
        let request = AdmissionRequest {
            attributes: &attributes,
            operation: if write.old.is_some() { Operation::Update } else { Operation::Create },
            resource: resource::find("", "v1", write.plural).expect("a core resource"),
            object: write.object,
            old: write.old,
            dry_run: write.dry_run,
            warnings: Vec::new(),
        };
        let outcome = Quotas::new(reader.clone()).charge(reader.as_ref(), &request).await;
        outcome.map_err(|status| status.message)
    }

    fn limited(name: &str, spec: Value, hard: Value, used: Value) -> Arc<MemoryReader> {
        let reader = Arc::new(MemoryReader::default());
        let quota = json!({"metadata": {"name": name, "namespace": "n"}, "spec": spec,
            "status": {"hard": hard, "used": used}});
        reader.put("", "resourcequotas", &quota);
        reader
    }

    async fn used(reader: &MemoryReader) -> Value {
        quotas(reader, "n").await.expect("readable")[0]["status"]["used"].clone()
    }

    fn named(name: &str) -> Value {
        json!({"metadata": {"name": name}, "spec": {}})
    }

    #[tokio::test]
    async fn a_full_quota_refuses() {
        let reader = limited("q", json!({}), json!({"pods": "2"}), json!({"pods": "1"}));
        charge(&reader, Write { dry_run: true, ..creation("pods", named("x")) }).await.expect("fits");
        assert_eq!(used(&reader).await["pods"], "1", "a dry run costs nothing");
        charge(&reader, creation("pods", named("x"))).await.expect("fits");
        assert_eq!(
            charge(&reader, creation("pods", named("x"))).await.expect_err("full"),
            "pods \"x\" is forbidden: exceeded quota: q, requested: pods=1, used: pods=2, limited: pods=2"
        );
        charge(&reader, creation("secrets", named("x"))).await.expect("not limited");
        assert_eq!(used(&reader).await, json!({"pods": "2"}));
    }

    #[tokio::test]
    async fn what_is_not_counted_yet() {
        let reader = limited("q", json!({}), json!({"pods": "2", "count/pods": "3"}), json!({"pods": "1"}));
        assert_eq!(
            charge(&reader, creation("pods", named("x"))).await.expect_err("unknown"),
            "pods \"x\" is forbidden: status unknown for quota: q, resources: count/pods,pods"
        );
        // The controller has not seen it at all: it limits nothing yet.
        let reader = limited("q", json!({"hard": {"pods": "0"}}), Value::Null, Value::Null);
        charge(&reader, creation("pods", named("x"))).await.expect("admitted");
    }

    #[tokio::test]
    async fn updates_cost_their_increase() {
        let claim = |storage: &str| json!({"metadata": {"name": "c"}, "spec": {"resources": {"requests": {"storage": storage}}}});
        let hard = json!({"requests.storage": "10Gi", "persistentvolumeclaims": "1"});
        let reader =
            limited("q", json!({}), hard, json!({"requests.storage": "4Gi", "persistentvolumeclaims": "1"}));
        let old = claim("4Gi");
        let grow =
            |storage: &str| Write { old: Some(&old), ..creation("persistentvolumeclaims", claim(storage)) };
        charge(&reader, grow("9Gi")).await.expect("fits");
        assert_eq!(used(&reader).await, json!({"persistentvolumeclaims": "1", "requests.storage": "9Gi"}));
        charge(&reader, grow("3Gi")).await.expect("less");
        assert_eq!(used(&reader).await["requests.storage"], "9Gi", "the controller gives back");
        assert_eq!(
            charge(&reader, grow("6Gi")).await.expect_err("too much"),
            "persistentvolumeclaims \"c\" is forbidden: exceeded quota: q, requested: requests.storage=2Gi, used: requests.storage=9Gi, limited: requests.storage=10Gi"
        );
        let reported = Write { subresource: "status", ..grow("6Gi") };
        charge(&reader, reported).await.expect("a status is not refused");
        assert_eq!(used(&reader).await["requests.storage"], "11Gi");
    }

    #[tokio::test]
    async fn scopes_and_subresources() {
        let hard = json!({"pods": "0"});
        let reader = limited("q", json!({"scopes": ["Terminating"]}), hard.clone(), hard);
        charge(&reader, creation("pods", named("x"))).await.expect("not in the scope");
        let mut ending = named("x");
        ending["spec"]["activeDeadlineSeconds"] = 5.into();
        charge(&reader, creation("pods", ending.clone())).await.expect_err("in the scope");
        charge(&reader, Write { subresource: "eviction", ..creation("pods", ending) }).await.expect("no pod");
    }
}
