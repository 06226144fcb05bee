//! Coverage for the crates of the workspace: this program in place of rustc.
//!
//! Owns the flags that libFuzzer needs, which are those of `cargo fuzz --sanitizer none`, all stable. Refuses to touch
//! build scripts: they run here and now and are linked with no libFuzzer. Cargo keeps what was built through a wrapper
//! apart from what was built without, so that no other build is done again.

use std::ffi::OsString;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

/// What this program is called when it stands for rustc. Cargo does not see the flags below: a change of them changes
/// this name, so that everything is built again.
const NAME: &str = "rustc-with-coverage-1";
/// As `cargo fuzz` has them.
const FLAGS: &[&str] = &[
    "-Cpasses=sancov-module",
    "-Cllvm-args=-sanitizer-coverage-level=4",
    "-Cllvm-args=-sanitizer-coverage-inline-8bit-counters",
    "-Cllvm-args=-sanitizer-coverage-pc-table",
    "-Cllvm-args=-sanitizer-coverage-trace-compares",
    "-Ccodegen-units=1",
];

/// Where this process was started in rustc's place: becomes it, with the flags. Returns only otherwise, or with why it
/// could not.
pub(crate) fn as_rustc() -> Option<anyhow::Error> {
    let mut arguments = std::env::args_os();
    let called = PathBuf::from(arguments.next()?);
    if called.file_name()? != NAME {
        return None;
    }
    let rustc = arguments.next()?;
    let arguments: Vec<OsString> = arguments.collect();
    let mut command = Command::new(rustc);
    command.args(&arguments);
    if covered(&arguments) {
        command.args(FLAGS);
    }
    Some(anyhow::Error::new(command.exec()).context("cannot start rustc"))
}

/// Whether a call of rustc compiles something that ends up in the fuzzer.
fn covered(arguments: &[OsString]) -> bool {
    let after = |flag: &str| {
        arguments
            .windows(2)
            .find(|pair| pair[0] == flag)
            .map(|pair| &pair[1])
    };
    let compiles = after("--crate-name").is_some_and(|name| name != "build_script_build");
    compiles && after("--crate-type").is_some_and(|kind| kind != "proc-macro")
}

/// Builds the fuzzer.
pub(super) fn build(root: &Path, target: &Path) -> Result<PathBuf> {
    let folder = target.join("fuzz");
    std::fs::create_dir_all(&folder).context("a folder for the fuzzer")?;
    let own = std::env::current_exe().context("where this program is")?;
    let wrapper = folder.join(NAME);
    let part = folder.join(format!("{NAME}.{}", std::process::id()));
    std::os::unix::fs::symlink(own, &part)
        .and_then(|()| std::fs::rename(&part, &wrapper))
        .context("a link to this program")?;
    let mut build = crate::cargo(root, target);
    build.env("RUSTC_WORKSPACE_WRAPPER", wrapper);
    build.args(["build", "--package", "reduit-fuzz", "--bin", "reduit-fuzz"]);
    crate::call(build.args(["--features", "libfuzzer"]))?;
    // The place is shared with builds for other targets; what runs is a copy, so that a build meanwhile does not end it.
    let program = folder.join("reduit-fuzz");
    std::fs::copy(target.join("debug/reduit-fuzz"), &part)
        .and_then(|_| std::fs::rename(&part, &program))
        .context("placing the fuzzer")?;
    Ok(program)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn libraries_are_covered_and_build_scripts_are_not() {
        let call = |text: &str| {
            let arguments: Vec<OsString> = text.split(' ').map(OsString::from).collect();
            covered(&arguments)
        };
        assert!(call(
            "--crate-name proto --edition=2024 src/lib.rs --crate-type lib"
        ));
        assert!(call(
            "--crate-name reduit_fuzz src/main.rs --crate-type bin"
        ));
        assert!(!call(
            "--crate-name build_script_build build.rs --crate-type bin"
        ));
        assert!(!call(
            "--crate-name macros src/lib.rs --crate-type proc-macro"
        ));
        assert!(!call("-vV"));
    }
}
