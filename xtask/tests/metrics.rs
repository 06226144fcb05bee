//! Numbers that daemons keep are documented, and dashboard and alarms ask for none that nobody keeps.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

const SOURCES: [&str; 6] = [
    "daemon/src",
    "gateway/src",
    "kms/src",
    "node/src",
    "replica/src",
    "witness/src",
];
/// What Prometheus' format adds to a histogram's name.
const PARTS: [&str; 3] = ["_bucket", "_sum", "_count"];

fn root() -> PathBuf {
    let here = std::env::var_os("CARGO_MANIFEST_DIR").expect("cargo sets it");
    Path::new(&here).join("..")
}

/// Words of a text that start with `prefix`.
fn words(text: &str, prefix: &str) -> BTreeSet<String> {
    let words = text.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_'));
    let words = words.filter(|word| word.starts_with(prefix) && word.len() > prefix.len());
    words.map(str::to_owned).collect()
}

fn read(path: &str) -> String {
    std::fs::read_to_string(root().join(path)).expect("a file of the repository")
}

fn kept_in(folder: &Path, kept: &mut BTreeSet<String>) {
    for entry in std::fs::read_dir(folder).expect("a folder of the repository") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            kept_in(&path, kept);
        } else if path.extension().is_some_and(|ext| ext == "rs") {
            let text = std::fs::read_to_string(&path).expect("a source");
            // Names are whole texts: other words of ours are not.
            for quoted in text.split('"').skip(1).step_by(2) {
                kept.extend(words(quoted, "reduit_").into_iter().filter(|w| w == quoted));
            }
        }
    }
}

fn kept() -> BTreeSet<String> {
    let mut kept = BTreeSet::new();
    for folder in SOURCES {
        kept_in(&root().join(folder), &mut kept);
    }
    kept
}

#[test]
fn every_number_is_documented_and_none_else() {
    let kept = kept();
    assert!(kept.len() > 50, "{kept:?}");
    let documented = words(&read("docs/METRICS.md"), "reduit_");
    assert_eq!(kept, documented);
}

#[test]
fn dashboard_and_alarms_ask_for_numbers_that_there_are() {
    let documented = read("docs/METRICS.md");
    for file in [
        "deploy/monitoring/grafana-reduit.json",
        "deploy/monitoring/reduit.rules.yml",
    ] {
        let text = read(file);
        let asked: Vec<_> = ["reduit_", "process_"]
            .into_iter()
            .flat_map(|prefix| words(&text, prefix))
            .collect();
        assert!(asked.len() > 15, "{file}: {asked:?}");
        for name in asked {
            let whole = PARTS.iter().find_map(|part| name.strip_suffix(part));
            let known = |name: &str| documented.contains(&format!("`{name}`"));
            assert!(
                known(&name) || whole.is_some_and(known),
                "{file} asks for {name}, which nobody keeps"
            );
        }
    }
}

#[test]
fn the_dashboard_is_one() {
    let dashboard: serde_json::Value =
        serde_json::from_str(&read("deploy/monitoring/grafana-reduit.json")).expect("JSON");
    let panels = dashboard["panels"].as_array().expect("panels");
    let mut ids = BTreeSet::new();
    for panel in panels {
        assert!(ids.insert(panel["id"].as_u64()), "an id twice: {panel}");
        let asks = panel["type"] == "row" || panel["targets"].as_array().is_some();
        assert!(asks, "{panel}");
    }
}
