//! What differs from run to run in kubectl's output, made equal by a handful of rules.

use regex::Regex;

/// The letters of generated names: no vowels, and no digits that look like them.
const NAME: &str = "[bcdfghjklmnpqrstvwxz2456789]";

pub struct Rules(Vec<(Regex, String)>);

impl Rules {
    /// `server` is the API server's address, `work` the directory the commands run in.
    pub fn new(server: &str, work: &str) -> Self {
        let rule = |pattern: String, with: &str| (Regex::new(&pattern).unwrap(), with.to_owned());
        Rules(vec![
            rule(regex::escape(server), "<server>"),
            rule(regex::escape(work), "<work>"),
            rule(r"/tmp/[A-Za-z0-9./_-]*/?(LIVE|MERGED)-\d+".into(), "<$1>"),
            rule(r"(<LIVE>|<MERGED>)(\S*)\t.*".into(), "$1$2"),
            rule(r"/tmp/kubectl-edit-\w+\.yaml".into(), "<edited>"),
            rule(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}".into(), "<uid>"),
            rule(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z".into(), "<time>"),
            rule(r"(Mon|Tue|Wed|Thu|Fri|Sat|Sun), \d\d \w{3} \d{4} \d\d:\d\d:\d\d \+0000".into(), "<time>"),
            rule(r#"(resourceVersion"?: "?|Resource Version: +)\d+"#.into(), "$1<rv>"),
            rule(r"(resource version to be 1, was )\d+".into(), "$1<rv>"),
            rule(r"\b10\.(?:244|128)\.\d+\.\d+\b".into(), "<pod-ip>"),
            rule(r"\b10\.96\.\d+\.\d+\b".into(), "<cluster-ip>"),
            rule(r"(:|NodePort: +\S+ +|nodePort: )3[0-2]\d{3}\b".into(), "$1<node-port>"),
            rule(format!(r"([-=]|-hash: ){NAME}{{8,10}}\b"), "$1<hash>"),
            rule(format!(r"-{NAME}{{5}}\b"), "-<id>"),
            rule(r"X509SHA256=[0-9a-f]{64}".into(), "X509SHA256=<sum>"),
            rule(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d \+0000 UTC".into(), "<time>"),
            rule(r"(\w)\.[0-9a-f]{16}\b".into(), "$1.<stamp>"),
            // Ages: alone in a cell, or "5s ago", "(2m3s ago)"; never the "for 300s" of a toleration or
            // the "100m" of a quantity.
            rule(
                r"(?m)((?:^|  |\(|Duration: ) *)(?:\d+s|\d{1,2}m|\d+m\d+s|\d+h\d*m?)( ago|\)| over|  |$)"
                    .into(),
                "$1<age>$2",
            ),
            rule(r"\(x\d+ over <age>\)".into(), "(repeated)"),
            // Columns are as wide as what stood in them.
            rule(r"(?m)([^\s+-]) {3,}".into(), "$1   "),
            rule(r"(?m)[ \t]+$".into(), ""),
            rule(r"\n{3,}".into(), "\n\n"),
        ])
    }
    pub fn apply(&self, text: &str) -> String {
        let mut text = text.to_owned();
        for (pattern, with) in &self.0 {
            text = pattern.replace_all(&text, with.as_str()).into_owned();
        }
        text.trim_matches('\n').to_owned()
    }
}
