//! `/healthz`, `/livez` and `/readyz`: named checks, each also under its own path, as a word or,
//! with `?verbose`, a line each.

use crate::http::path::Query;

/// One check's outcome; the reason is for the log, clients are told only that it failed.
pub struct Check {
    pub name: &'static str,
    pub failure: Option<String>,
}

impl Check {
    pub fn new(name: &'static str, failure: Option<String>) -> Self {
        Check { name, failure }
    }
}

/// Which of the three documents a path means, and which single check.
pub fn parse(path: &str) -> Option<(&'static str, &str)> {
    let rest = path.trim_start_matches('/');
    let (endpoint, check) = rest.split_once('/').unwrap_or((rest, ""));
    let endpoint = ["healthz", "livez", "readyz"].into_iter().find(|known| *known == endpoint)?;
    Some((endpoint, check))
}

/// Status code and text. An unknown single check is `None`: a 404.
pub fn answer(endpoint: &str, only: &str, query: &Query, checks: &[Check]) -> Option<(u16, String)> {
    let excluded: Vec<&str> = query.all("exclude").collect();
    if !only.is_empty() {
        let check = checks.iter().find(|c| c.name == only)?;
        return Some(match &check.failure {
            None => (200, "ok".to_owned()),
            Some(_) => (500, format!("internal server error: {} failed: reason withheld\n", check.name)),
        });
    }
    let mut text = String::new();
    let mut failed = false;
    for check in checks {
        if excluded.contains(&check.name) {
            text.push_str(&format!("[+]{} excluded: ok\n", check.name));
        } else if check.failure.is_some() {
            failed = true;
            text.push_str(&format!("[-]{} failed: reason withheld\n", check.name));
        } else {
            text.push_str(&format!("[+]{} ok\n", check.name));
        }
    }
    let unknown: Vec<String> =
        excluded.iter().filter(|e| !checks.iter().any(|c| c.name == **e)).map(|e| format!("{e:?}")).collect();
    if !unknown.is_empty() {
        text.push_str(&format!(
            "warn: some health checks cannot be excluded: no matches for {}\n",
            unknown.join(",")
        ));
    }
    if failed {
        return Some((500, format!("{text}{endpoint} check failed\n")));
    }
    let verbose = query.contains("verbose");
    Some((200, if verbose { format!("{text}{endpoint} check passed\n") } else { "ok".to_owned() }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_worded_as_upstream() {
        let checks = [Check::new("ping", None), Check::new("etcd", Some("full".into()))];
        let ask = |only: &str, query: &str| answer("readyz", only, &Query::parse(Some(query)), &checks);
        assert_eq!(
            ask("", "").unwrap(),
            (500, "[+]ping ok\n[-]etcd failed: reason withheld\nreadyz check failed\n".to_owned())
        );
        assert_eq!(ask("", "exclude=etcd").unwrap(), (200, "ok".to_owned()));
        assert_eq!(
            ask("", "exclude=etcd&verbose").unwrap().1,
            "[+]ping ok\n[+]etcd excluded: ok\nreadyz check passed\n"
        );
        assert_eq!(ask("ping", "").unwrap(), (200, "ok".to_owned()));
        assert_eq!(ask("nope", ""), None);
        assert_eq!(parse("/readyz/etcd"), Some(("readyz", "etcd")));
        assert_eq!(parse("/metrics"), None);
    }
}
