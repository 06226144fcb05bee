//! `reduit-witness` of another organisation beside a real region: it cosigns the log, follows it over HTTP and its
//! entries over mTLS, alarms by its rules, keeps a copy, and sees no customer data.

use std::collections::BTreeSet;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use client::{GetOptions, OutsideWitness, PutOptions, Region};
use local::files::{AUDITOR, OPERATORS};
use local::{Kind, Local, ceremony};
use proto::v1;
use tlog::{
    Checkpoint, HASH_BYTES, Hash, Note, Tile, TileKind, TileTree, VerifierKey, leaf_hash,
    parse_bundle, tiles_of,
};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::common::{binaries, contains, dataset, key, region_as, with_region};

const PATIENCE: Duration = Duration::from_secs(60);
const NAME: &str = "witness.example/w1";
/// In an object's body and in its name.
const SECRET: &str = "Ruettelfalke-71";
/// Opens in an hour that do not alarm.
const OPENS_MAX: usize = 3;

/// The process, ended with the test.
struct Witness {
    program: PathBuf,
    dir: PathBuf,
    key: String,
    listen: u16,
    status: u16,
    serving: Option<Child>,
}

impl Drop for Witness {
    fn drop(&mut self) {
        if let Some(mut serving) = self.serving.take() {
            // It is gone already, or goes now.
            drop(serving.kill());
            drop(serving.wait());
        }
    }
}

/// A port that is free now.
fn port() -> Result<u16> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?.port())
}

impl Witness {
    /// Makes its key and gives it an address.
    fn new(program: PathBuf, dir: &Path) -> Result<Self> {
        std::fs::create_dir_all(dir)?;
        let mut keygen = Command::new(&program);
        keygen.args(["keygen", "--name", NAME, "--out"]);
        let made = keygen.arg(dir.join("w1.key")).output()?;
        ensure!(made.status.success(), "keygen: {made:?}");
        Ok(Self {
            program,
            dir: dir.to_owned(),
            key: String::from_utf8(made.stdout)?.trim().to_owned(),
            listen: port()?,
            status: port()?,
            serving: None,
        })
    }

    fn outside(&self) -> OutsideWitness {
        OutsideWitness {
            vkey: self.key.clone(),
            url: format!("http://127.0.0.1:{}", self.listen),
        }
    }

    /// Follows the region's log, with rules under which nearly everything that happens here alarms.
    fn serve(&mut self, local: &Local, log_key: &str, policy: &str) -> Result<()> {
        let region = local.federation.region("ch-zrh")?;
        let kms = region.living(Kind::Kms).next().context("a kms")?;
        let (certificate, key) = region.identity_files(AUDITOR);
        let dir = self.dir.display();
        std::fs::write(self.dir.join("trust.policy"), policy)?;
        let config = format!(
            r#"
state_dir = "{dir}/state"
keys = ["{dir}/w1.key"]
listen = "127.0.0.1:{listen}"
status_listen = "127.0.0.1:{status}"

[[logs]]
origin = "ch-zrh/main/1"
keys = ["{log_key}"]

[logs.monitor]
url = "http://{log_http}/"
policy = "{dir}/trust.policy"
poll_seconds = 1
copy_dir = "{dir}/copy"

[logs.monitor.entries]
region = "ch-zrh"
endpoints = ["{endpoint}"]
certificate = "{certificate}"
key = "{key}"
ca = "{ca}"

[logs.monitor.rules]
open_hours = ["{hours}"]
purposes = ["service"]
rates = [{{ kind = "open", per_hour_max = {OPENS_MAX} }}]
silence_minutes = 1
"#,
            listen = self.listen,
            status = self.status,
            log_http = kms.log_http,
            endpoint = kms.endpoint,
            certificate = certificate.display(),
            key = key.display(),
            ca = region.context(AUDITOR).ca.display(),
            hours = other_hours(),
        );
        let path = self.dir.join("witness.toml");
        std::fs::write(&path, config)?;
        let log = std::fs::File::create(self.dir.join("witness.log"))?;
        let mut serve = Command::new(&self.program);
        serve.arg("serve").arg("--config").arg(&path).stderr(log);
        self.serving = Some(serve.stdout(Stdio::null()).spawn()?);
        Ok(())
    }

    /// Alarms so far, as `rule` or, of kinds that are watched, `rule kind`, and `-rule` where a condition has ended.
    fn alarms(&self) -> Result<BTreeSet<String>> {
        let text = std::fs::read_to_string(self.dir.join("state/alarms.jsonl"));
        let mut seen = BTreeSet::new();
        for line in text.unwrap_or_default().lines() {
            let alarm: serde_json::Value = serde_json::from_str(line)?;
            let rule = alarm["rule"].as_str().context("a rule")?;
            let text = alarm["text"].as_str().context("words")?;
            let ended = alarm["ended"].as_bool().unwrap_or_default();
            let sign = if ended { "-" } else { "" };
            seen.insert(format!("{sign}{rule}"));
            for kind in ["witnesses-changed", "grants-changed", "initialised"] {
                if rule == "watched" && text.contains(kind) {
                    seen.insert(format!("watched {kind}"));
                }
            }
        }
        Ok(seen)
    }

    async fn has_alarmed(&self, rules: &[&str]) -> Result<()> {
        let what = format!("alarms {rules:?}");
        let all = async || {
            let seen = self.alarms()?;
            let missing: Vec<_> = rules.iter().filter(|rule| !seen.contains(**rule)).collect();
            ensure!(missing.is_empty(), "{missing:?} not in {seen:?}");
            Ok(())
        };
        ceremony::until(&what, all).await
    }

    async fn page(&self, path: &str) -> Result<String> {
        let mut stream = TcpStream::connect(("127.0.0.1", self.status)).await?;
        let request = format!("GET {path} HTTP/1.1\r\nHost: w\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await?;
        ensure!(answer.starts_with("HTTP/1.1 200"), "{path}: {answer}");
        Ok(answer)
    }
}

/// An hour of every day that is not now.
fn other_hours() -> String {
    let hour = local::files::now().0 / 3_600_000 % 24;
    let other = (hour + 12) % 24;
    format!("Mon-Sun {other:02}:00-{other:02}:01")
}

#[test]
fn a_witness_of_another_organisation_cosigns_follows_and_alarms() {
    let Some(program) = binaries().map(|dir| dir.join("reduit-witness")) else {
        println!("skipped: the daemons are not built and REDUIT_BIN is not set");
        return;
    };
    with_region(1, async |local| {
        let folder = tempfile::tempdir()?;
        let mut witness = Witness::new(program, &folder.path().join("witness"))?;
        let operator = region_as(local, OPERATORS[0], PATIENCE).await?;
        let keys = operator.log_keys().await?;
        let log_key = keys.log.clone().context("an unsealed replica")?;
        let policy = keys.policy(&[witness.outside()], 1).context("a policy")?;
        witness.serve(local, &log_key, &policy)?;
        // The region does not ask it yet: its own word is what the monitor misses.
        witness.has_alarmed(&["cosignatures-missing"]).await?;
        let region = local.federation.region("ch-zrh")?;
        let hour = Duration::from_secs(3_600);
        ceremony::witnessed_by(region, &[witness.outside()], 1, hour).await?;
        witness
            .has_alarmed(&["-cosignatures-missing", "watched witnesses-changed"])
            .await?;
        busy(local, &operator).await?;
        witness
            .has_alarmed(&[
                "outside-hours",
                "new-purpose",
                "rate",
                "watched grants-changed",
                "watched initialised",
            ])
            .await?;
        let seen = witness.alarms()?;
        for caught in ["fork", "chain-broken", "leaf-malformed", "entries-refused"] {
            ensure!(!seen.contains(caught), "{seen:?}");
        }
        shown(&witness).await?;
        copied(&witness, &log_key).await?;
        ensure!(contains(&witness.dir, SECRET.as_bytes())?.is_none());
        silent(local, &witness).await
    });
}

/// Opens beyond the rate, for a purpose never seen, and a change of who may do what.
async fn busy(local: &Local, operator: &Region) -> Result<()> {
    let dataset = dataset(local).await?;
    let object = key(&format!("{SECRET}.txt"));
    dataset
        .put(&object, SECRET.as_bytes().to_vec(), &PutOptions::default())
        .await?;
    for _ in 0..=OPENS_MAX {
        dataset.get_bytes(&object).await?;
    }
    let grant = v1::Grant {
        principal: "role:client".to_owned(),
        dataset: "*".to_owned(),
        actions: vec![v1::Action::Read.into()],
        purposes: vec!["reindex".to_owned()],
    };
    let approvers = ceremony::approvers(local.federation.region("ch-zrh")?)?;
    operator
        .change_grants(vec![grant], Vec::new(), &approvers)
        .await?;
    let reindex = GetOptions {
        purpose: "reindex".to_owned(),
        ..Default::default()
    };
    dataset.get(&object, &reindex).await?;
    Ok(())
}

/// The page for people, the numbers for machines, and the command, which exits with 2 while an alarm holds.
async fn shown(witness: &Witness) -> Result<()> {
    let page = witness.page("/").await?;
    for word in ["ch-zrh/main/1", "outside-hours", "new-purpose"] {
        ensure!(page.contains(word), "no {word} on the page");
    }
    ensure!(witness.page("/metrics").await?.contains("ch-zrh/main/1"));
    let mut command = Command::new(&witness.program);
    command.args(["status", "--config"]);
    let said = command.arg(witness.dir.join("witness.toml")).output()?;
    let said = String::from_utf8(said.stdout)?;
    ensure!(said.contains("ch-zrh/main/1"), "{said}");
    Ok(())
}

/// Its copy is the log: by the checkpoint in it, which the log signed, and by every entry.
async fn copied(witness: &Witness, log_key: &str) -> Result<()> {
    let copy = witness.dir.join("copy");
    let log_key: VerifierKey = log_key.parse()?;
    ceremony::until("a copy that is whole", async || {
        let copy = match std::fs::read(copy.join("checkpoint")) {
            Ok(_) => copy.clone(),
            // One folder a log.
            Err(_) => std::fs::read_dir(&copy)?
                .next()
                .context("a folder")??
                .path(),
        };
        let note = Note::parse(&std::fs::read(copy.join("checkpoint"))?)?;
        let signed = note.verify(std::slice::from_ref(&log_key))?;
        ensure!(signed.len() == 1, "the log's own signature");
        let tree: Checkpoint = note.text().parse()?;
        let tiles = |tile: &Tile| std::fs::read(copy.join(tile.to_string())).ok();
        let hashes = TileTree::open(tree.size(), tree.root(), tiles).context("hash tiles")?;
        let mut index = 0;
        for tile in tiles_of(tree.size()).filter(|tile| tile.kind() == TileKind::Entries) {
            let bundle = std::fs::read(copy.join(tile.to_string()))?;
            let beside = tile.to_string().replacen("entries", "0", 1);
            let row = std::fs::read(copy.join(beside))?;
            let row: Result<Vec<Hash>, _> = row.chunks(HASH_BYTES).map(Hash::try_from).collect();
            for entry in parse_bundle(&bundle, &row?)? {
                let at = proto::ids::LeafIndex(index);
                let proof = hashes.prove_inclusion(at)?;
                let leaf = leaf_hash(entry);
                tlog::verify_inclusion(&leaf, at, tree.size(), &proof, &tree.root())?;
                index += 1;
            }
        }
        ensure!(index == tree.size() && index > 10, "{index} entries");
        Ok(())
    })
    .await
}

/// Nothing newer for a minute: only where tests may take that long.
async fn silent(local: &mut Local, witness: &Witness) -> Result<()> {
    if std::env::var_os("REDUIT_FULL").is_none() {
        return Ok(());
    }
    let region = local.federation.region("ch-zrh")?;
    let kms = region.living(Kind::Kms).next().context("a kms")?;
    let name = kms.name.clone();
    local.kill(&name)?;
    // The rule itself waits for a minute, which is all that one wait has.
    if witness.has_alarmed(&["silence"]).await.is_err() {
        witness.has_alarmed(&["silence"]).await?;
    }
    Ok(())
}
