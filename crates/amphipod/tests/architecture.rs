//! ARCHITECTURE.md tells the truth about the crates.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::path::Path;

#[test]
fn the_code_map_names_every_crate_and_no_other() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let text = std::fs::read_to_string(root.join("ARCHITECTURE.md")).unwrap();
    let mut crates: Vec<String> = std::fs::read_dir(root.join("crates"))
        .unwrap()
        .flatten()
        .filter(|entry| entry.path().join("Cargo.toml").exists())
        .map(|entry| format!("crates/{}", entry.file_name().to_string_lossy()))
        .collect();
    crates.extend(["bench".to_owned(), "xtask".to_owned()]);
    let headings: Vec<&str> =
        text.lines().filter_map(|line| line.strip_prefix("### `")?.strip_suffix('`')).collect();
    for name in &crates {
        assert!(headings.contains(&name.as_str()), "ARCHITECTURE.md has no section on {name}");
    }
    for heading in headings {
        assert!(
            crates.iter().any(|name| name == heading),
            "ARCHITECTURE.md speaks of {heading}, which is not there"
        );
    }
}
