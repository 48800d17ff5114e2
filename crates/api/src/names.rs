//! What names, labels and keys may look like. Every check returns Kubernetes' own sentences, so
//! that validation only has to attach the field path. An empty list means the value is fine.

pub const DNS1123_LABEL_MAX: usize = 63;
pub const DNS1123_SUBDOMAIN_MAX: usize = 253;
pub const LABEL_VALUE_MAX: usize = 63;
const QUALIFIED_NAME_MAX: usize = 63;
const PORT_NAME_MAX: usize = 15;
/// All annotations of an object together, keys and values.
pub const TOTAL_ANNOTATION_BYTES_MAX: usize = 256 * 1024;

const DNS1123_LABEL_PATTERN: &str = "[a-z0-9]([-a-z0-9]*[a-z0-9])?";
const DNS1123_SUBDOMAIN_PATTERN: &str = r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*";
const DNS1035_LABEL_PATTERN: &str = "[a-z]([-a-z0-9]*[a-z0-9])?";
const NAME_PATTERN: &str = "([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]";
const NAME_TEXT: &str = "must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character";

pub fn max_length_text(length: usize) -> String {
    format!("must be no more than {length} characters")
}

pub fn inclusive_range_text(low: i64, high: i64) -> String {
    format!("must be between {low} and {high}, inclusive")
}

fn pattern_text(text: &str, pattern: &str, examples: &[&str]) -> String {
    if examples.is_empty() {
        return format!("{text} (regex used for validation is '{pattern}')");
    }
    let quoted: Vec<String> = examples.iter().map(|e| format!("'{e}', ")).collect();
    format!("{text} (e.g. {}regex used for validation is '{pattern}')", quoted.join(" or "))
}

fn lower_alphanumeric(byte: u8) -> bool {
    byte.is_ascii_lowercase() || byte.is_ascii_digit()
}

/// First and last byte satisfy `edge`, all between satisfy `edge` or `inner`; never empty.
fn framed(text: &str, edge: fn(u8) -> bool, inner: fn(u8) -> bool) -> bool {
    match text.as_bytes() {
        [] => false,
        [only] => edge(*only),
        [first, middle @ .., last] => {
            edge(*first) && edge(*last) && middle.iter().all(|b| edge(*b) || inner(*b))
        }
    }
}

fn label_shape(text: &str) -> bool {
    framed(text, lower_alphanumeric, |b| b == b'-')
}

fn subdomain_shape(text: &str) -> bool {
    text.split('.').all(label_shape)
}

fn name_shape(text: &str) -> bool {
    framed(text, |b| b.is_ascii_alphanumeric(), |b| matches!(b, b'-' | b'_' | b'.'))
}

pub fn dns1123_label(value: &str) -> Vec<String> {
    let mut faults = Vec::new();
    if value.len() > DNS1123_LABEL_MAX {
        faults.push(max_length_text(DNS1123_LABEL_MAX));
    }
    if !label_shape(value) {
        if subdomain_shape(value) {
            faults.push("must not contain dots".to_owned());
        } else {
            let text = "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', \
                        and must start and end with an alphanumeric character";
            faults.push(pattern_text(text, DNS1123_LABEL_PATTERN, &["my-name", "123-abc"]));
        }
    }
    faults
}

pub fn dns1123_subdomain(value: &str) -> Vec<String> {
    let mut faults = Vec::new();
    if value.len() > DNS1123_SUBDOMAIN_MAX {
        faults.push(max_length_text(DNS1123_SUBDOMAIN_MAX));
    }
    if !subdomain_shape(value) {
        let text = "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or \
                    '.', and must start and end with an alphanumeric character";
        faults.push(pattern_text(text, DNS1123_SUBDOMAIN_PATTERN, &["example.com"]));
    }
    faults
}

pub fn dns1035_label(value: &str) -> Vec<String> {
    let mut faults = Vec::new();
    if value.len() > DNS1123_LABEL_MAX {
        faults.push(max_length_text(DNS1123_LABEL_MAX));
    }
    if !label_shape(value) || !value.starts_with(|c: char| c.is_ascii_lowercase()) {
        let text = "a DNS-1035 label must consist of lower case alphanumeric characters or '-', start with an \
                    alphabetic character, and end with an alphanumeric character";
        faults.push(pattern_text(text, DNS1035_LABEL_PATTERN, &["my-name", "abc-123"]));
    }
    faults
}

/// `*.example.com`
pub fn wildcard_dns1123_subdomain(value: &str) -> Vec<String> {
    let mut faults = Vec::new();
    if value.len() > DNS1123_SUBDOMAIN_MAX {
        faults.push(max_length_text(DNS1123_SUBDOMAIN_MAX));
    }
    if !value.strip_prefix("*.").is_some_and(subdomain_shape) {
        let text = "a wildcard DNS-1123 subdomain must start with '*.', followed by a valid DNS subdomain, \
                    which must consist of lower case alphanumeric characters, '-' or '.' and end with an \
                    alphanumeric character";
        let pattern = format!(r"\*\.{DNS1123_SUBDOMAIN_PATTERN}");
        faults.push(pattern_text(text, &pattern, &["*.example.com"]));
    }
    faults
}

/// A label or annotation key, a finalizer, an extended resource: `[prefix/]name`.
pub fn qualified_name(value: &str) -> Vec<String> {
    let examples = ["MyName", "my.name", "123-abc"];
    let mut faults = Vec::new();
    let mut parts = value.split('/');
    let name = match (parts.next(), parts.next(), parts.next()) {
        (Some(name), None, _) => name,
        (Some(prefix), Some(name), None) => {
            if prefix.is_empty() {
                faults.push("prefix part must be non-empty".to_owned());
            } else {
                faults.extend(dns1123_subdomain(prefix).into_iter().map(|f| format!("prefix part {f}")));
            }
            name
        }
        _ => {
            return vec![format!(
                "a valid label key {} with an optional DNS subdomain prefix and '/' (e.g. 'example.com/MyName')",
                pattern_text(NAME_TEXT, NAME_PATTERN, &examples)
            )];
        }
    };
    if name.is_empty() {
        faults.push("name part must be non-empty".to_owned());
    } else if name.len() > QUALIFIED_NAME_MAX {
        faults.push(format!("name part {}", max_length_text(QUALIFIED_NAME_MAX)));
    }
    if !name_shape(name) {
        faults.push(format!("name part {}", pattern_text(NAME_TEXT, NAME_PATTERN, &examples)));
    }
    faults
}

pub fn label_value(value: &str) -> Vec<String> {
    let mut faults = Vec::new();
    if value.len() > LABEL_VALUE_MAX {
        faults.push(max_length_text(LABEL_VALUE_MAX));
    }
    if !value.is_empty() && !name_shape(value) {
        let text =
            format!("a valid label must be an empty string or {}", NAME_TEXT.trim_start_matches("must "));
        let pattern = format!("({NAME_PATTERN})?");
        faults.push(pattern_text(&text, &pattern, &["MyValue", "my_value", "12345"]));
    }
    faults
}

/// Any name that can stand in a URL path: what RBAC kinds use.
pub fn path_segment_name(value: &str) -> Vec<String> {
    match value {
        "." | ".." => return vec![format!("may not be '{value}'")],
        _ => {}
    }
    path_segment_prefix(value)
}

/// The part of a path segment that holds for a `generateName` too.
pub fn path_segment_prefix(value: &str) -> Vec<String> {
    ['/', '%'].into_iter().filter(|c| value.contains(*c)).map(|c| format!("may not contain '{c}'")).collect()
}

pub fn port_name(value: &str) -> Vec<String> {
    let mut faults = Vec::new();
    if value.len() > PORT_NAME_MAX {
        faults.push(max_length_text(PORT_NAME_MAX));
    }
    if value.is_empty() || !value.bytes().all(|b| lower_alphanumeric(b) || b == b'-') {
        faults.push("must contain only alpha-numeric characters (a-z, 0-9), and hyphens (-)".to_owned());
    }
    if !value.bytes().any(|b| b.is_ascii_lowercase()) {
        faults.push("must contain at least one letter (a-z)".to_owned());
    }
    if value.contains("--") {
        faults.push("must not contain consecutive hyphens".to_owned());
    }
    if value.starts_with('-') || value.ends_with('-') {
        faults.push("must not begin or end with a hyphen".to_owned());
    }
    faults
}

pub fn port_number(port: i64) -> Vec<String> {
    if (1..=65535).contains(&port) { Vec::new() } else { vec![inclusive_range_text(1, 65535)] }
}

/// Environment variable names since they were relaxed: printable ASCII without `=`.
pub fn env_var_name(value: &str) -> Vec<String> {
    if value.is_empty() {
        return vec!["environment variable name must be non-empty".to_owned()];
    }
    if value.bytes().all(|b| (0x20..0x7f).contains(&b) && b != b'=') {
        return Vec::new();
    }
    let text =
        "a valid environment variable name must consist only of printable ASCII characters other than '='";
    vec![text.to_owned()]
}

/// A key of a ConfigMap or Secret.
pub fn config_map_key(value: &str) -> Vec<String> {
    let mut faults = Vec::new();
    if value.len() > DNS1123_SUBDOMAIN_MAX {
        faults.push(max_length_text(DNS1123_SUBDOMAIN_MAX));
    }
    let fits = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_');
    if value.is_empty() || !value.bytes().all(fits) {
        let text = "a valid config key must consist of alphanumeric characters, '-', '_' or '.'";
        faults.push(pattern_text(text, "[-._a-zA-Z0-9]+", &["key.name", "KEY_NAME", "key-name"]));
    }
    match value {
        "." | ".." => faults.push(format!("must not be '{value}'")),
        _ if value.starts_with("..") => faults.push("must not start with '..'".to_owned()),
        _ => {}
    }
    faults
}

pub fn http_header_name(value: &str) -> Vec<String> {
    if !value.is_empty() && value.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-') {
        return Vec::new();
    }
    let text = "a valid HTTP header must consist of alphanumeric characters or '-'";
    vec![pattern_text(text, "[-A-Za-z0-9]+", &["X-Header-Name"])]
}

pub fn percent(value: &str) -> Vec<String> {
    let digits = value.strip_suffix('%').unwrap_or_default();
    if !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit()) {
        return Vec::new();
    }
    let text = "a valid percent string must be a numeric string followed by an ending '%'";
    vec![pattern_text(text, "[0-9]+%", &["1%", "93%"])]
}

/// A name check applied to a `generateName`: a trailing dash is masked, as the suffix follows it.
pub fn as_prefix(check: fn(&str) -> Vec<String>, prefix: &str) -> Vec<String> {
    match prefix.strip_suffix('-') {
        Some(stem) if !stem.is_empty() => check(&format!("{stem}a")),
        _ => check(prefix),
    }
}

const SUFFIX_LENGTH: usize = 5;
const SUFFIX_ALPHABET: &[u8; 27] = b"bcdfghjklmnpqrstvwxz2456789";
const GENERATED_PREFIX_MAX: usize = DNS1123_LABEL_MAX - SUFFIX_LENGTH;

/// The name made from a `generateName` and a random number, as Kubernetes makes it.
pub fn generated_name(prefix: &str, random: u64) -> String {
    let mut end = prefix.len().min(GENERATED_PREFIX_MAX);
    while !prefix.is_char_boundary(end) {
        end -= 1;
    }
    format!("{}{}", &prefix[..end], random_suffix(random))
}

/// Five characters without vowels, so that no words come out.
pub fn random_suffix(mut random: u64) -> String {
    let mut suffix = String::with_capacity(SUFFIX_LENGTH);
    for _ in 0..SUFFIX_LENGTH {
        suffix.push(char::from(SUFFIX_ALPHABET[(random % 27) as usize]));
        random /= 27;
    }
    suffix
}

/// Kubernetes' "safe encoding" of a number or hash as used in pod-template-hash and the like.
pub fn safe_encode(text: &str) -> String {
    text.bytes().map(|b| char::from(SUFFIX_ALPHABET[usize::from(b) % SUFFIX_ALPHABET.len()])).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shapes() {
        for good in ["a", "a-b", "0a", "a.b-c.d0"] {
            assert!(dns1123_subdomain(good).is_empty(), "{good}");
        }
        for bad in ["", "-a", "a-", "A", "a..b", "a_b", "ä"] {
            assert_eq!(dns1123_subdomain(bad).len(), 1, "{bad}");
        }
        assert_eq!(dns1123_label("a.b"), ["must not contain dots"]);
        assert_eq!(dns1123_label(&"a".repeat(64)), ["must be no more than 63 characters"]);
        assert!(dns1035_label("1a").len() == 1 && dns1035_label("a1").is_empty());
        assert!(label_value("").is_empty() && label_value("a_b.C").is_empty());
        assert_eq!(path_segment_name("a/b"), ["may not contain '/'"]);
        assert!(path_segment_name("system:node").is_empty());
        assert_eq!(generated_name("web-", 0), "web-bbbbb");
        assert!(as_prefix(dns1123_label, "web-").is_empty());
    }

    #[test]
    fn texts() {
        assert_eq!(
            dns1123_label("A b"),
            [
                "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must \
             start and end with an alphanumeric character (e.g. 'my-name',  or '123-abc', regex used for \
             validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?')"
            ]
        );
        assert_eq!(
            label_value("a b"),
            [
                "a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.', and \
              must start and end with an alphanumeric character (e.g. 'MyValue',  or 'my_value',  or '12345', \
              regex used for validation is '(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?')"
            ]
        );
    }
}
