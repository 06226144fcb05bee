//! The witness of another organisation as it ships: its own keys, its own state, its own port.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use proto::v1;
use tlog::VerifierKey;
use transport::SystemClock;
use witness::{Algorithm, Config, Witness};

use super::{PATIENCE, Region};

/// A place for a witness; the process in it can be stopped and started again.
pub(crate) struct OutsideWitness {
    folder: PathBuf,
    log_key: String,
    key: VerifierKey,
    listen: SocketAddr,
    running: Option<Witness>,
}

impl OutsideWitness {
    /// Makes its key and starts it, for the log of this region.
    pub(crate) async fn start(region: &Region) -> Self {
        let folder = region.dir.path().join("witness");
        std::fs::create_dir_all(&folder).expect("a folder");
        let name = "witness.example/w1".parse().expect("a name");
        let key = witness::generate(&name, Algorithm::Ed25519, &folder.join("w1.key"));
        let leader = region.leader().await;
        let mut kms = region.caller("app").kms(leader);
        let found = kms.find_checkpoint(v1::FindCheckpointRequest {}).await;
        let mut outside = Self {
            folder,
            log_key: found.expect("found").into_inner().log_key,
            key: key.expect("a key"),
            listen: SocketAddr::from(([127, 0, 0, 1], 0)),
            running: None,
        };
        outside.resume().await;
        outside
    }

    fn config(&self) -> Config {
        let (folder, listen, log_key) = (quoted(&self.folder), self.listen, &self.log_key);
        let key = quoted(&self.folder.join("w1.key"));
        let text = format!(
            "state_dir = {folder}\nkeys = [{key}]\nlisten = \"{listen}\"\n\
             [[logs]]\norigin = \"ch-zrh/main/1\"\nkeys = [\"{log_key}\"]\n"
        );
        toml::from_str(&text).expect("a configuration")
    }

    /// Starts it again, at the address it had.
    pub(crate) async fn resume(&mut self) {
        let started = Witness::start(&self.config(), SystemClock::shared()).await;
        let running = started.expect("a witness starts");
        self.listen = running.address();
        self.running = Some(running);
    }

    /// Ends the process.
    pub(crate) async fn stop(&mut self) {
        let running = self.running.take().expect("running");
        running.stop().await;
    }

    /// As it stands in a policy.
    pub(crate) fn line(&self) -> (String, String) {
        (self.key.to_string(), format!("http://{}", self.listen))
    }

    /// Puts a policy in force that asks for its word, as soon as there is a checkpoint to begin with.
    pub(crate) async fn vouches(&self, region: &Region, unwitnessed_max_ms: u64) -> v1::KmsDone {
        let (key, url) = self.line();
        let text = super::log::policy_of(region, &[(key, url)]).await;
        let changed = async {
            loop {
                let request = region.witness_change(&text, unwitnessed_max_ms);
                match region.change_witnesses(request, &["op-2", "op-3"]).await {
                    Ok(done) => return done,
                    Err(status) => assert_eq!(super::reason(&status), "no-checkpoint", "{status}"),
                }
                tokio::time::sleep(std::time::Duration::from_millis(20)).await;
            }
        };
        tokio::time::timeout(PATIENCE, changed)
            .await
            .expect("in time")
    }
}

fn quoted(path: &Path) -> String {
    format!("{:?}", path.display().to_string())
}
