//! Facts neither source carries, by definition name and JSON field name.

/// Defaults of list keys: items are told apart by these keys even where a client leaves them out.
const KEY_DEFAULTS: &[(&str, &str, &str)] = &[
    ("io.k8s.api.core.v1.ContainerPort", "protocol", "\"TCP\""),
    ("io.k8s.api.core.v1.ServicePort", "protocol", "\"TCP\""),
];

pub(super) fn key_default(message: &str, field: &str) -> Option<&'static str> {
    KEY_DEFAULTS.iter().find(|(m, f, _)| *m == message && *f == field).map(|(_, _, d)| *d)
}
