//! Keeps `docs/conformance.md` true: what it lists as covered is what tests carry the names of.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// The names that tests in a folder carry; each stands right above a test that runs.
fn carried(folder: &str) -> Vec<String> {
    let mut names = Vec::new();
    for entry in fs::read_dir(root().join(folder)).unwrap() {
        let path = entry.unwrap().path();
        let text = fs::read_to_string(&path).unwrap();
        let lines: Vec<&str> = text.lines().collect();
        for (number, line) in lines.iter().enumerate() {
            let Some(name) = line.strip_prefix("/// [sig-") else { continue };
            let test = lines[number + 1].starts_with("#[tokio::test");
            let runs = lines[number + 2].starts_with("async fn ");
            assert!(test && runs, "{}:{}: no test below the name", path.display(), number + 1);
            names.push(format!("[sig-{name}"));
        }
    }
    names
}

/// The names below a heading of the page, up to the next of its rank.
fn listed(page: &str, heading: &str) -> Vec<String> {
    let section = page.split("\n## ").find(|section| section.starts_with(heading)).expect("the section");
    section
        .lines()
        .filter_map(|line| line.strip_prefix("- [sig-"))
        .map(|name| format!("[sig-{name}"))
        .collect()
}

fn unique(names: Vec<String>) -> BTreeSet<String> {
    let mut set = BTreeSet::new();
    for name in names {
        assert!(set.insert(name.clone()), "twice: {name}");
    }
    set
}

#[test]
fn the_page_lists_what_tests_carry() {
    let page = fs::read_to_string(root().join("docs/conformance.md")).unwrap();
    let mut names = carried("crates/apiserver/tests/conformance");
    names.append(&mut carried("crates/controllers/tests/conformance"));
    let (carried, covered) = (unique(names), unique(listed(&page, "Covered")));
    assert_eq!(
        covered.difference(&carried).collect::<Vec<_>>(),
        Vec::<&String>::new(),
        "listed, but no test"
    );
    assert_eq!(
        carried.difference(&covered).collect::<Vec<_>>(),
        Vec::<&String>::new(),
        "a test, but not listed"
    );
    let deferred = unique(listed(&page, "Deferred"));
    assert!(!deferred.is_empty());
    assert_eq!(
        deferred.intersection(&covered).collect::<Vec<_>>(),
        Vec::<&String>::new(),
        "covered after all"
    );
}
