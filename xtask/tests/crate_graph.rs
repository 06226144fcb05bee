//! DESIGN section 3 as a test: which of our crates may import which.

use std::collections::{BTreeMap, BTreeSet};

use cargo_metadata::{DependencyKind, MetadataCommand};

/// Crate -> ours it may import. `*` is anything.
const MAY: &[(&str, &[&str])] = &[
    ("reduit-proto", &[]),
    ("reduit-envelope", &["reduit-proto"]),
    ("reduit-tlog", &["reduit-proto"]),
    ("reduit-transport", &["reduit-proto"]),
    ("reduit-daemon", &["reduit-transport"]),
    ("reduit-node-state", &["reduit-proto", "reduit-tlog"]),
    ("reduit-kms-state", &["reduit-proto", "reduit-tlog"]),
    ("reduit-policy", &["reduit-proto", "reduit-tlog"]),
    ("reduit-verifier", &["reduit-proto", "reduit-tlog"]),
    ("reduit-replica", &["reduit-proto", "reduit-transport"]),
    (
        "reduit-node",
        &[
            "reduit-daemon",
            "reduit-node-state",
            "reduit-policy",
            "reduit-replica",
            "reduit-proto",
            "reduit-tlog",
            "reduit-transport",
        ],
    ),
    (
        "reduit-kms",
        &[
            "reduit-daemon",
            "reduit-kms-state",
            "reduit-policy",
            "reduit-replica",
            "reduit-proto",
            "reduit-envelope",
            "reduit-tlog",
            "reduit-transport",
        ],
    ),
    (
        "reduit",
        &[
            "reduit-proto",
            "reduit-envelope",
            "reduit-tlog",
            "reduit-policy",
            "reduit-transport",
            "reduit-verifier",
        ],
    ),
    (
        "reduit-gateway",
        &[
            "reduit-daemon",
            "reduit",
            "reduit-proto",
            "reduit-envelope",
            "reduit-tlog",
            "reduit-policy",
            "reduit-transport",
        ],
    ),
    (
        "reduit-witness",
        &["reduit-proto", "reduit-tlog", "reduit-transport"],
    ),
    ("reduit-local", &["*"]),
    ("reduit-sim", &["*"]),
    ("reduit-faults", &["*"]),
    ("reduit-checker", &[]),
    ("reduit-jepsen", &["*"]),
    ("reduit-fuzz", &["*"]),
    ("reduit-relocation-model", &["*"]),
    ("xtask", &[]),
    ("xtask-run", &["*"]),
];

/// Crates that hold thinking alone: no runtime, whatever the way it comes.
const PURE: &[&str] = &[
    "reduit-proto",
    "reduit-envelope",
    "reduit-tlog",
    "reduit-node-state",
    "reduit-kms-state",
    "reduit-policy",
    "reduit-verifier",
];
const RUNTIMES: &[&str] = &[
    "tokio",
    "tokio-stream",
    "tokio-util",
    "async-std",
    "hyper",
    "axum",
];

/// Test and launch crates: nothing that ships imports them.
const LEAVES: &[&str] = &[
    "reduit-local",
    "reduit-sim",
    "reduit-faults",
    "reduit-checker",
    "reduit-jepsen",
    "reduit-fuzz",
    "reduit-relocation-model",
    "xtask",
    "xtask-run",
];

fn direct() -> BTreeMap<String, BTreeSet<String>> {
    let metadata = MetadataCommand::new()
        .manifest_path(
            std::path::PathBuf::from(
                std::env::var_os("CARGO_MANIFEST_DIR").expect("cargo sets it"),
            )
            .join("../Cargo.toml"),
        )
        .no_deps()
        .exec()
        .expect("cargo metadata runs in the repository");
    metadata
        .packages
        .iter()
        .map(|package| {
            let imports = package
                .dependencies
                .iter()
                .filter(|d| d.kind == DependencyKind::Normal || d.kind == DependencyKind::Build)
                .map(|d| d.name.clone())
                .collect();
            (package.name.to_string(), imports)
        })
        .collect()
}

#[test]
fn crates_import_only_what_the_design_allows() {
    let direct = direct();
    let ours: BTreeSet<_> = direct.keys().cloned().collect();
    let listed: BTreeSet<_> = MAY.iter().map(|(name, _)| (*name).to_owned()).collect();
    assert_eq!(
        ours, listed,
        "a crate is new or gone: its room in the table is missing"
    );
    for (name, allowed) in MAY {
        for import in direct[*name].intersection(&ours) {
            let fine = allowed.contains(&"*") || allowed.contains(&import.as_str());
            assert!(
                fine,
                "{name} imports {import}, which DESIGN section 3 forbids"
            );
        }
    }
}

#[test]
fn no_key_crate_is_reachable_from_a_storage_node() {
    let direct = direct();
    let mut seen = BTreeSet::new();
    let mut next = vec!["reduit-node".to_owned()];
    while let Some(name) = next.pop() {
        if seen.insert(name.clone()) {
            next.extend(direct.get(&name).into_iter().flatten().cloned());
        }
    }
    for forbidden in [
        "reduit-envelope",
        "reduit-kms",
        "reduit-kms-state",
        "reduit",
        "hpke",
    ] {
        assert!(!seen.contains(forbidden), "node reaches {forbidden}");
    }
    assert!(
        seen.contains("reduit-replica"),
        "the walk followed the graph"
    );
}

/// What parses S3 for strangers could be replaced, and is linked where keys may be and nowhere else.
#[test]
fn nothing_but_the_gateway_speaks_s3() {
    let speakers = direct().into_iter();
    let speakers: Vec<_> = speakers
        .filter(|(_, imports)| imports.contains("s3s"))
        .map(|(name, _)| name)
        .collect();
    assert_eq!(speakers, ["reduit-gateway"]);
}

/// A PKCS#11 module is foreign code in the process that loads it: that is the KMS alone, never the home of key bytes.
#[test]
fn nothing_but_the_kms_loads_a_tokens_library() {
    let loaders = direct().into_iter();
    let loaders: Vec<_> = loaders
        .filter(|(_, imports)| imports.contains("cryptoki"))
        .map(|(name, _)| name)
        .collect();
    assert_eq!(loaders, ["reduit-kms"]);
}

#[test]
fn pure_crates_have_no_runtime() {
    let direct = direct();
    for name in PURE {
        for runtime in RUNTIMES {
            assert!(
                !direct[*name].contains(*runtime),
                "{name} imports {runtime}"
            );
        }
    }
}

#[test]
fn nothing_that_ships_imports_tests_or_launchers() {
    for (name, imports) in direct() {
        if LEAVES.contains(&name.as_str()) {
            continue;
        }
        for leaf in LEAVES {
            assert!(!imports.contains(*leaf), "{name} imports {leaf}");
        }
    }
}
