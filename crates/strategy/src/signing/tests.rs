use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use rcgen::{CertificateParams, DnType, DnValue, KeyPair};
use serde_json::{Value, json};

use crate::testing::named::{created, merge, patched, stored};

const GROUP: &str = "certificates.k8s.io";
const PLURAL: &str = "certificatesigningrequests";
const NO_REQUEST: &str = "PEM block type must be CERTIFICATE REQUEST";

const REQUEST: &str = "CERTIFICATE REQUEST";
const UNREADABLE: &str = "PEM blocks must be base64 ";

fn text(kind: &str, der: &[u8]) -> String {
    let content = STANDARD.encode(der);
    format!("-----BEGIN {kind}-----\n{content}\n-----END {kind}-----\n")
}

fn pem(kind: &str, der: &[u8]) -> String {
    STANDARD.encode(text(kind, der))
}

fn together(texts: &[&str]) -> String {
    STANDARD.encode(texts.concat())
}

/// A good block beside one that not every reader of PEM sees, or sees alike.
fn damaged(kind: &str, der: &[u8]) -> Vec<String> {
    let good = text(kind, der);
    let begin = format!("-----BEGIN {kind}-----\n");
    let other = [
        good.replace(&begin, &format!("{begin}a: b\n\n")),
        good.replace(&begin, &format!("{begin}?\n")),
        good.replace("-----END ", "-----END X "),
        good.replace(&begin, &format!("{begin}-----END X-----\n")),
        format!("text {good}"),
        begin,
    ];
    let beside = other.iter().flat_map(|other| [together(&[other, &good]), together(&[&good, other])]);
    beside.chain([together(&[&other[0]]), together(&[&other[2]])]).collect()
}

/// A request in DER, signed by its own key.
fn signed() -> Vec<u8> {
    let key = KeyPair::generate().expect("a key");
    let params = CertificateParams::new(["a.b".to_owned()]).expect("names");
    params.serialize_request(&key).expect("a request").der().to_vec()
}

fn certificate() -> Vec<u8> {
    let key = KeyPair::generate().expect("a key");
    let params = CertificateParams::new(["a.b".to_owned()]).expect("names");
    params.self_signed(&key).expect("a certificate").der().to_vec()
}

fn request(patch: Value) -> Value {
    let base = json!({"spec": {"signerName": "a.b/c", "usages": ["client auth"],
        "request": pem("CERTIFICATE REQUEST", &signed())}});
    merge(base, json!({"spec": patch}))
}

#[test]
fn requests() {
    assert_eq!(created(GROUP, PLURAL, request(json!({}))), [""; 0]);
    assert_eq!(created(GROUP, PLURAL, request(json!({"usages": null}))), ["spec.usages: Required value"]);
    let bad = json!({"signerName": "kubernetes.io/legacy-unknown", "usages": ["x", "any", "any"], "request": "eA==", "expirationSeconds": 1});
    let faults = created(GROUP, PLURAL, request(bad));
    assert!(
        faults[1].starts_with(
            "spec.usages[0]: Unsupported value: \"x\": supported values: \"any\", \"cert sign\""
        )
    );
    let others: Vec<&str> =
        faults.iter().enumerate().filter(|(i, _)| *i != 1).map(|(_, f)| f.as_str()).collect();
    assert_eq!(
        others,
        [
            "spec.request: Invalid value: \"eA==\": PEM block type must be CERTIFICATE REQUEST",
            "spec.usages[2]: Duplicate value: \"any\"",
            "spec.signerName: Invalid value: \"kubernetes.io/legacy-unknown\": the legacy signerName is not allowed via this API version",
            "spec.expirationSeconds: Invalid value: 1: may not specify a duration less than 600 seconds (10 minutes)",
        ]
    );
}

#[test]
fn what_is_asked_for_is_a_request_its_own_key_signed() {
    let good = signed();
    let mut forged = good.clone();
    *forged.last_mut().expect("a signature") ^= 1;
    let mut longer = good.clone();
    longer.push(0);
    let preface = format!(
        "about: it\n{}",
        String::from_utf8_lossy(&STANDARD.decode(pem("CERTIFICATE REQUEST", &good)).expect("base64"))
    );
    let cases = [
        (pem("CERTIFICATE REQUEST", &good), Ok(())),
        (STANDARD.encode(preface), Ok(())),
        (String::new(), Err(NO_REQUEST)),
        ("?".into(), Err(NO_REQUEST)),
        (pem("CERTIFICATE", &good), Err(NO_REQUEST)),
        (pem("CERTIFICATE REQUEST", &[0]), Err("asn1: structure error: ")),
        (pem("CERTIFICATE REQUEST", &longer), Err("asn1: syntax error: trailing data")),
        (pem("CERTIFICATE REQUEST", &forged), Err("x509: signature verification failure")),
        (together(&[&text(REQUEST, &good), "after it"]), Ok(())),
        (together(&[&text(REQUEST, &good), &text(REQUEST, &good)]), Err("must contain one ")),
        (together(&[&text(REQUEST, &good), &text("X", &good)]), Err("must contain one ")),
        (together(&[&text("X", &good), &text(REQUEST, &good)]), Err(NO_REQUEST)),
    ];
    let broken = damaged(REQUEST, &good).into_iter().map(|encoded| (encoded, Err(UNREADABLE)));
    let cases = cases.into_iter().chain(broken);
    for (encoded, expected) in cases {
        match (super::pem::request(&encoded), expected) {
            (Ok(()), Ok(())) => {}
            (Err(why), Err(start)) => assert!(why.starts_with(start), "{why}"),
            (found, wanted) => panic!("{found:?} where {wanted:?} was expected: {encoded}"),
        }
    }
}

#[test]
fn certificates_are_told_from_other_things() {
    let der = certificate();
    let cases = [
        (String::new(), Ok(())),
        (pem("CERTIFICATE", &der), Ok(())),
        (pem("CERTIFICATE", &[der.clone(), der.clone()].concat()), Ok(())),
        ("eA==".into(), Err("must contain at least one CERTIFICATE PEM block")),
        (pem("KEY", &der), Err("only CERTIFICATE PEM blocks are allowed, found \"KEY\"")),
        (pem("CERTIFICATE", &[]), Err("found CERTIFICATE PEM block containing 0 certificates")),
        (pem("CERTIFICATE", &[0]), Err("x509: malformed certificate: ")),
        (together(&[&text("CERTIFICATE", &der), "then\n", &text("CERTIFICATE", &der)]), Ok(())),
    ];
    let broken = damaged("CERTIFICATE", &der).into_iter().map(|encoded| (encoded, Err(UNREADABLE)));
    let cases = cases.into_iter().chain(broken);
    for (encoded, expected) in cases {
        match (super::pem::certificates(&encoded), expected) {
            (Ok(()), Ok(())) => {}
            (Err(why), Err(start)) => assert!(why.starts_with(start), "{why}"),
            (found, wanted) => panic!("{found:?} where {wanted:?} was expected: {encoded}"),
        }
    }
}

#[test]
fn what_a_request_asks_to_belong_to_is_read_whole() {
    let asked = |organization: Option<DnValue>| {
        let key = KeyPair::generate().expect("a key");
        let mut params = CertificateParams::new(["a.b".to_owned()]).expect("names");
        if let Some(organization) = organization {
            params.distinguished_name.push(DnType::OrganizationName, organization);
        }
        let request = params.serialize_request(&key).expect("a request");
        super::organizations(&pem(REQUEST, request.der()))
    };
    assert_eq!(asked(None), Ok(vec![]));
    assert_eq!(asked(Some("b".into())), Ok(vec!["b".to_owned()]));
    for hidden in [
        DnValue::TeletexString("c".try_into().expect("text")),
        DnValue::BmpString("c".try_into().expect("text")),
    ] {
        assert!(asked(Some(hidden)).is_err_and(|why| why.contains("an organization")));
    }
    for encoded in damaged(REQUEST, &signed()) {
        assert!(super::organizations(&encoded).is_err_and(|why| why.starts_with(UNREADABLE)), "{encoded}");
    }
    assert!(super::organizations(&pem(REQUEST, &[0])).is_err());
}

fn condition(kind: &str) -> Value {
    json!({"type": kind, "status": "True"})
}

#[test]
fn who_may_write_what() {
    let old = stored(GROUP, PLURAL, request(json!({})));
    let approve = json!({"spec": {"signerName": "x.y/z"}, "status": {"conditions": [condition("Approved")], "certificate": "eA=="}});
    let (approved, faults) = patched(GROUP, PLURAL, "approval", &old, approve.clone());
    assert_eq!(faults, [""; 0]);
    assert_eq!((&approved["spec"], &approved["status"]["certificate"]), (&old["spec"], &Value::Null));
    assert_eq!(approved["status"]["conditions"][0]["lastUpdateTime"], "2026-01-01T00:00:00Z");
    let (plain, faults) = patched(GROUP, PLURAL, "", &old, approve);
    assert_eq!((&plain["status"], faults), (&old["status"], vec![]), "a plain update leaves the status");
    let both = json!([condition("Approved"), {"type": "Denied", "status": "False"}]);
    let mut reasoned = condition("Approved");
    reasoned["reason"] = "Because".into();
    let remove = "status.conditions: Forbidden: updates may not remove a condition of type \"Approved\"";
    let cases: [(&str, &Value, Value, &[&str]); 8] = [
        ("approval", &approved, json!([]), &[remove]),
        ("status", &approved, json!([]), &[remove]),
        ("approval", &approved, json!([reasoned]), &[]),
        ("approval", &old, json!([condition("Failed")]), &[]),
        ("status", &old, json!([condition("Failed")]), &[]),
        (
            "status",
            &old,
            json!([condition("Denied")]),
            &["status.conditions: Forbidden: updates may not add a condition of type \"Denied\""],
        ),
        (
            "approval",
            &old,
            both,
            &[
                "status.conditions[1].status: Unsupported value: \"False\": supported values: \"True\"",
                "status.conditions: Invalid value: \"Denied\": Approved and Denied conditions are mutually exclusive",
            ],
        ),
        (
            "approval",
            &old,
            json!([condition("a"), condition("a"), {"status": "True"}, {"type": "b"}, condition("a")]),
            &[
                "status.conditions[1].type: Duplicate value: \"a\"",
                "status.conditions[2].type: Required value",
                "status.conditions[3].status: Required value",
                "status.conditions[4].type: Duplicate value: \"a\"",
            ],
        ),
    ];
    for (subresource, before, conditions, expected) in cases {
        let patch = json!({"status": {"conditions": conditions}});
        let (_, faults) = patched(GROUP, PLURAL, subresource, before, patch);
        assert_eq!(faults, expected, "{subresource} {conditions}");
    }
}

#[test]
fn certificates_are_given_once() {
    let old = stored(GROUP, PLURAL, request(json!({})));
    let (approved, _) =
        patched(GROUP, PLURAL, "approval", &old, json!({"status": {"conditions": [condition("Approved")]}}));
    // The verdict is the approver's, whatever a signer sends of it.
    let sign = json!({"status": {"conditions": [{"type": "Approved", "status": "False"}],
        "certificate": pem("CERTIFICATE", &certificate())}});
    let (issued, faults) = patched(GROUP, PLURAL, "status", &approved, sign);
    assert_eq!(faults, [""; 0]);
    assert_eq!(issued["status"]["conditions"], approved["status"]["conditions"]);
    let other = json!({"status": {"certificate": pem("CERTIFICATE", &certificate())}});
    let (_, faults) = patched(GROUP, PLURAL, "status", &issued, other);
    assert_eq!(
        faults,
        ["status.certificate: Forbidden: updates may not modify existing certificate content"]
    );
    let nonsense = json!({"status": {"certificate": "eA=="}});
    let (_, faults) = patched(GROUP, PLURAL, "status", &approved, nonsense);
    assert_eq!(
        faults,
        [
            "status.certificate: Invalid value: \"<certificate data>\": must contain at least one CERTIFICATE PEM block"
        ]
    );
    // One that was stored before such was refused does not stand in the way of anything else.
    let mut odd = approved;
    odd["status"]["certificate"] = "eA==".into();
    let (_, faults) = patched(GROUP, PLURAL, "status", &odd, json!({"metadata": {"labels": {"a": "b"}}}));
    assert_eq!(faults, [""; 0]);
}
