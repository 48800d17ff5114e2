//! The older text format of Prometheus, the one that Kubernetes' components serve, from the newer one: both
//! say the same, but name a counter's family differently, and only the newer one has an end.

/// Counters that Kubernetes named before the rule that they end in `_total`.
const BARE: [&str; 2] = ["authentication_attempts", "authenticated_user_requests"];

/// OpenMetrics text as text format 0.0.4.
pub fn classic(open: &str) -> String {
    let mut out = String::with_capacity(open.len());
    // A family's help comes before its type, which decides its name.
    let mut help: Option<&str> = None;
    let mut bare: Option<&str> = None;
    for line in open.lines() {
        if line == "# EOF" || line.starts_with("# UNIT ") {
            continue;
        }
        if let Some(text) = line.strip_prefix("# HELP ") {
            help = Some(text);
            continue;
        }
        let Some(family) = line.strip_prefix("# TYPE ") else {
            let sample = bare.and_then(|name| Some((name, line.strip_prefix(name)?.strip_prefix("_total")?)));
            match sample {
                Some((name, rest)) => out.extend([name, rest]),
                None => out.push_str(line),
            }
            out.push('\n');
            continue;
        };
        let (name, kind) = family.split_once(' ').unwrap_or((family, "untyped"));
        bare = BARE.into_iter().find(|bare| *bare == name);
        let total = if kind == "counter" && bare.is_none() { "_total" } else { "" };
        if let Some(text) = help.take().and_then(|help| help.strip_prefix(name)) {
            out.push_str(&format!("# HELP {name}{total}{text}\n"));
        }
        let kind = if kind == "unknown" { "untyped" } else { kind };
        out.push_str(&format!("# TYPE {name}{total} {kind}\n"));
    }
    out
}

#[cfg(test)]
mod tests {
    #[test]
    fn counters_are_named_by_their_samples() {
        let attempts = "authentication_attempts";
        let named =
            format!("# HELP {attempts} Tried.\n# TYPE {attempts} counter\n{attempts}_total{{a=\"b\"}} 1\n");
        assert_eq!(super::classic(&named), named.replace("_total", ""));
        let open = "# HELP a Requests.\n# TYPE a counter\na_total{x=\"# EOF\"} 1\n# HELP b_bytes Size.\n\
                    # TYPE b_bytes gauge\n# UNIT b_bytes bytes\nb_bytes 2\n# EOF\n";
        let classic = "# HELP a_total Requests.\n# TYPE a_total counter\na_total{x=\"# EOF\"} 1\n\
                       # HELP b_bytes Size.\n# TYPE b_bytes gauge\nb_bytes 2\n";
        assert_eq!(super::classic(open), classic);
    }
}
