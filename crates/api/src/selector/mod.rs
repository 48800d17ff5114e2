//! Label selectors (their string and their object form) and field selectors.

mod fields;
mod labels;

pub use fields::{FieldSelector, FieldTerm, field_value};
pub use labels::{LabelSelector, Operator, Requirement};

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    #[test]
    fn label_selectors() {
        let labels = json!({"app": "web", "tier": "a", "n": "5"});
        let cases = [
            ("", true),
            ("app=web", true),
            ("app==web,tier in (a, b)", true),
            ("app!=web", false),
            ("missing!=x", true),
            ("!missing", true),
            ("app,!tier", false),
            ("tier notin (a)", false),
            ("n>4,n<6", true),
            ("app in ()", false),
            ("in in (in)", false),
        ];
        for (text, expected) in cases {
            let selector = LabelSelector::parse(text).expect(text);
            assert_eq!(selector.matches_labels(labels.as_object()), expected, "{text}");
        }
        assert_eq!(LabelSelector::parse("b in (y,x),a").expect("ok").to_string(), "a,b in (x,y)");
    }

    #[test]
    fn label_selector_refusals() {
        for (text, error) in [
            ("a,", "found '', expected: identifier after ','"),
            ("=a", "found '=', expected: !, identifier, or 'end of string'"),
            ("a in b", "unable to parse requirement: found 'b' expected: '('"),
            ("a b", "unable to parse requirement: found 'b', expected: in, notin, =, ==, !=, gt, lt"),
        ] {
            assert_eq!(LabelSelector::parse(text).expect_err(text), error);
        }
        let bad = LabelSelector::parse("a/b/c=d").expect_err("bad key");
        assert!(
            bad.starts_with(
                "unable to parse requirement: <nil>: Invalid value: \"a/b/c\": a valid label key"
            )
        );
    }

    #[test]
    fn object_form() {
        assert!(LabelSelector::from_object(&Value::Null).expect("ok").is_nothing());
        assert!(LabelSelector::from_object(&json!({})).expect("ok").is_everything());
        let selector =
            json!({"matchLabels": {"a": "b"}, "matchExpressions": [{"key": "c", "operator": "Exists"}]});
        assert_eq!(LabelSelector::from_object(&selector).expect("ok").to_string(), "a=b,c");
        let selector = json!({"matchExpressions": [{"key": "c", "operator": "Is"}]});
        let error = LabelSelector::from_object(&selector).expect_err("operator");
        assert_eq!(error, "\"Is\" is not a valid label selector operator");
    }

    #[test]
    fn field_selectors() {
        let pods = crate::resource::find("", "v1", "pods").expect("pods");
        let pod = json!({"metadata": {"name": "x"}, "spec": {"nodeName": "n1"}});
        for (text, expected) in [
            ("spec.nodeName=n1,metadata.name==x", true),
            ("spec.nodeName!=n1", false),
            ("status.phase=", true),
            ("spec.hostNetwork=false", true),
        ] {
            let selector = FieldSelector::parse(text).expect(text);
            selector.check(pods).expect("known labels");
            assert_eq!(selector.matches_object(pods, &pod), expected, "{text}");
        }
        let unknown = FieldSelector::parse("spec.foo=1").expect("parses");
        assert_eq!(unknown.check(pods).expect_err("unknown").message, "field label not supported: spec.foo");
        assert!(FieldSelector::parse("nonsense").is_err());
        let escaped = FieldSelector::parse("metadata.name=a\\,b").expect("parses");
        assert_eq!(escaped.terms[0].value, "a,b");
    }
}
