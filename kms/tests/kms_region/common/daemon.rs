//! The shipped program as a process of its own, in the place of a replica.

use std::ffi::OsStr;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

/// A daemon; ended with the test.
pub(crate) struct Daemon {
    pub child: Child,
    pub folder: PathBuf,
}

impl Drop for Daemon {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Daemon {
    /// Starts one with what `tables` adds to its configuration, and variables of its environment.
    pub(crate) fn start(config: &kms::Config, tables: &str, env: &[(&str, &OsStr)]) -> Self {
        let folder = config.data_dir.parent().expect("a folder").to_path_buf();
        let shown = |path: &Path| path.display().to_string();
        let text = format!(
            "region = \"{}\"\njurisdiction = \"{}\"\nnode_id = {}\ndata_dir = {:?}\nlisten = \"{}\"\ncertificate = {:?}\n\
             key = {:?}\nca = {:?}\ngenesis = {:?}\nfound = true\n{tables}",
            config.region,
            config.jurisdiction,
            config.node_id,
            shown(&config.data_dir),
            config.listen,
            shown(&config.certificate),
            shown(&config.key),
            shown(&config.ca),
            shown(&config.genesis),
        );
        let path = folder.join("kms.toml");
        std::fs::write(&path, text).expect("written");
        let log = File::options()
            .create(true)
            .append(true)
            .open(folder.join("kms.log"))
            .expect("a file");
        // A shell raises the limit, then becomes the daemon.
        let child = Command::new("sh")
            .args(["-c", "ulimit -c unlimited; exec \"$0\" --config \"$1\""])
            .arg(env!("CARGO_BIN_EXE_reduit-kms"))
            .arg(&path)
            .current_dir(&folder)
            .envs(env.iter().copied())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .expect("a daemon");
        Self { child, folder }
    }
}
