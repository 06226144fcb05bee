//! Where `unsafe` stands: the modules named here and nowhere else.

use std::path::{Path, PathBuf};

/// File below the repository's root -> why.
const ALLOWED: &[(&str, &str)] = &[
    (
        "envelope/src/locked.rs",
        "locked memory: mmap, mlock, memfd_secret",
    ),
    (
        "jepsen-like-tests/sim/src/entropy.rs",
        "a test program's getrandom, so that a seed replays exactly",
    ),
];

fn sources(dir: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(dir)
        .expect("a folder of the repository")
        .flatten()
    {
        let path = entry.path();
        let name = entry.file_name();
        if path.is_dir() && name != "target" && name != ".git" {
            sources(&path, found);
        } else if path.extension().is_some_and(|e| e == "rs") {
            found.push(path);
        }
    }
}

#[test]
fn unsafe_code_stands_only_where_it_is_named() {
    // At run time: a shared target folder may hold what another checkout has built.
    let manifest = std::env::var_os("CARGO_MANIFEST_DIR").expect("cargo sets it");
    let root = &Path::new(&manifest).join("..");
    let mut files = Vec::new();
    sources(root, &mut files);
    assert!(files.len() > 20, "the walk found the sources");
    for file in files {
        let text = std::fs::read_to_string(&file).expect("a source file");
        let relative = file
            .strip_prefix(root)
            .expect("below the root")
            .to_string_lossy()
            .into_owned();
        let here = text.lines().any(|line| {
            let code = line.split("//").next().unwrap_or_default();
            code.contains("unsafe {") || code.contains("unsafe fn") || code.contains("unsafe impl")
        });
        if here && relative != "xtask/tests/unsafe_code.rs" {
            assert!(
                ALLOWED
                    .iter()
                    .any(|(path, _)| relative.starts_with(path.trim_end_matches(".rs"))),
                "{relative} holds unsafe code that nobody gave a reason for"
            );
        }
    }
}
