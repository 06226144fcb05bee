//! Backups in a bucket of an S3 store, over HTTPS: as in a folder, and changed by one at a time.

use crate::common::grants::grant;
use crate::common::reduit::Reduit;
use crate::common::s3::{access_key, gateway_of};
use crate::common::{key, with_plan};
use anyhow::{Context as _, Result, ensure};
use bytes::Bytes;
use client::storage_backup::{BACKUP, DRILL};
use client::{CreateOptions, PutOptions};
use http_body_util::BodyExt as _;
use local::files::CLIENTS;
use local::s3::{Client, Credentials, Endpoint, Method, Request, StatusCode};
use local::{Local, ceremony};
use proto::v1::Action::{List, Read, Write};

const DRILLER: &str = CLIENTS[0];
const BACKER: &str = CLIENTS[1];
const DATASET: &str = "northwatch";
const BUCKET: &str = "backups";
const CREATE: &str =
    "backup create --to s3://backups/ch-zrh --operator op-1 --dataset northwatch --json";
const VERIFY: &str = "backup verify --from s3://backups/ch-zrh --json";
const IN_USE: i32 = 4;
const DENIED: i32 = 5;
const DAMAGED: i32 = 8;

/// The bucket as its owner sees it, beside the command under test.
struct Bucket(Client);

impl Bucket {
    async fn ask(&mut self, request: Request) -> Result<(StatusCode, Bytes)> {
        let answer = self.0.ask(&request).await?;
        let status = answer.status();
        Ok((status, answer.into_body().collect().await?.to_bytes()))
    }

    async fn put(&mut self, name: &str, body: impl Into<Bytes>) -> Result<()> {
        let body: Bytes = body.into();
        let (status, said) = self.ask(Request::new(Method::Put, name).body(body)).await?;
        ensure!(status.is_success(), "{status}: {said:?}");
        Ok(())
    }

    /// Keys under a prefix.
    async fn keys(&mut self, prefix: &str) -> Result<Vec<String>> {
        let list = Request::new(Method::Get, "")
            .query("list-type", "2")
            .query("prefix", prefix);
        let (status, listed) = self.ask(list).await?;
        ensure!(status.is_success(), "{status}: {listed:?}");
        let text = String::from_utf8(listed.to_vec())?;
        let keys = text.split("<Key>").skip(1);
        Ok(keys
            .filter_map(|rest| Some(rest.split_once('<')?.0.to_owned()))
            .collect())
    }
}

fn words(text: &str) -> Vec<&str> {
    text.split_whitespace().collect()
}

fn json(reduit: &Reduit, who: &str, text: &str) -> Result<serde_json::Value> {
    Ok(serde_json::from_str(&reduit.said(who, &words(text))?)?)
}

async fn filled(local: &Local) -> Result<()> {
    let region = local.federation.region("ch-zrh")?;
    let app = ceremony::connect(region, DRILLER).await?;
    let dataset = app
        .create_dataset(&DATASET.parse()?, &CreateOptions::default())
        .await?;
    let options = PutOptions::default();
    for n in 0..20 {
        let body = vec![b'a' + n; 3_000];
        dataset
            .put(&key(&format!("observed/{n}")), body, &options)
            .await?;
    }
    let large = vec![b'l'; 9 << 20];
    dataset.put(&key("large"), large, &options).await?;
    Ok(())
}

#[test]
fn a_backup_goes_into_a_bucket_and_comes_back_whole() {
    with_plan(&[("ch-zrh", "CH", 1)], 1, async |local| {
        filled(local).await?;
        grant(local, BACKER, &[List, Write], BACKUP).await?;
        grant(local, DRILLER, &[Read], DRILL).await?;
        let gateway = gateway_of(local)?;
        let access = access_key(local, "backups").await?;
        let (id, secret) = (access.secret.id().to_string(), access.secret.text());
        let endpoint = Endpoint {
            address: gateway.endpoint.clone(),
            region: "ch-zrh".to_owned(),
            credentials: Credentials::new(id.clone(), secret.as_str()),
        };
        let mut bucket = Bucket(Client::new(&endpoint, BUCKET)?);
        let mut reduit = Reduit::new(local)?;
        // Nothing is guessed.
        let why = reduit.refused(BACKER, &words(CREATE), 2)?;
        ensure!(why.contains("AWS_ACCESS_KEY_ID"), "{why}");
        let authority = local.federation.region("ch-zrh")?.dir.join("ca.pem");
        let environment = [
            (
                "AWS_ENDPOINT_URL",
                format!("https://{}", gateway.https).as_str(),
            ),
            ("AWS_REGION", "ch-zrh"),
            ("AWS_ACCESS_KEY_ID", &id),
            ("AWS_SECRET_ACCESS_KEY", secret.as_str()),
            ("SSL_CERT_FILE", authority.to_str().context("a path")?),
        ]
        .map(|(name, value)| (name.to_owned(), value.to_owned()));
        reduit.environment = environment.into();
        ceremony::until("the store says that there is no bucket", async || {
            let output = reduit.run(BACKER, &words(CREATE))?;
            let why = String::from_utf8_lossy(&output.stderr).into_owned();
            ensure!(why.contains("NoSuchBucket"), "{why}");
            Ok(())
        })
        .await?;
        bucket.put("", Bytes::new()).await?;

        let first = json(&reduit, BACKER, CREATE)?;
        ensure!(first["copied"]["blocks"] == 2, "{first}");
        let again = json(&reduit, BACKER, CREATE)?;
        let copied = &again["copied"];
        ensure!(
            copied["blocks"] == 0 && copied["pages"] == 0 && copied["blocks_there"] == 2,
            "{again}"
        );
        let listed = reduit.said(BACKER, &words("backup ls --from s3://backups/ch-zrh"))?;
        ensure!(listed.lines().count() == 2, "{listed}");
        whole(&reduit)?;
        let drill = "backup drill --from s3://backups/ch-zrh --all --json";
        let drilled = json(&reduit, DRILLER, drill)?;
        ensure!(drilled["opened"] == 21, "{drilled}");

        damage_is_found_and_mended(&reduit, &mut bucket).await?;
        one_at_a_time(&reduit, &mut bucket).await?;
        let prune = "backup prune --from s3://backups/ch-zrh --keep 1 --json";
        let pruned = json(&reduit, BACKER, prune)?;
        ensure!(
            pruned["kept"] == 1 && pruned["backups"].as_u64() > Some(1),
            "{pruned}"
        );
        whole(&reduit)?;
        let indexes = bucket.keys("ch-zrh/index/").await?;
        ensure!(indexes.len() == 1, "{indexes:?}");
        // A signature that does not hold is the store's to refuse, and told in its words.
        reduit.environment[3].1 = "another".to_owned();
        let why = reduit.refused(BACKER, &words(VERIFY), DENIED)?;
        ensure!(why.contains("SignatureDoesNotMatch"), "{why}");
        Ok(())
    });
}

fn whole(reduit: &Reduit) -> Result<()> {
    let seen = json(reduit, BACKER, VERIFY)?;
    ensure!(
        seen["whole"] == true && seen["blocks"] == 2 && seen["kms"] == true,
        "{seen}"
    );
    Ok(())
}

async fn damage_is_found_and_mended(reduit: &Reduit, bucket: &mut Bucket) -> Result<()> {
    let blocks = bucket.keys("ch-zrh/blocks/").await?;
    let block = blocks.first().context("a block")?;
    bucket.put(block, "something else").await?;
    let aside = format!("{VERIFY} --set-aside");
    let output = reduit.run(BACKER, &words(&aside))?;
    ensure!(output.status.code() == Some(DAMAGED), "{output:?}");
    let seen: serde_json::Value = serde_json::from_slice(&output.stdout)?;
    ensure!(seen["set_aside"] == 1, "{seen}");
    let kept = bucket.keys("ch-zrh/damaged/").await?;
    ensure!(kept.len() == 1, "{kept:?}");
    let mended = json(reduit, BACKER, CREATE)?;
    ensure!(mended["copied"]["blocks"] == 1, "{mended}");
    whole(reduit)
}

/// Another command's lock is respected while it is good, and not longer.
async fn one_at_a_time(reduit: &Reduit, bucket: &mut Bucket) -> Result<()> {
    let locks = bucket.keys("ch-zrh/lock").await?;
    ensure!(locks.is_empty(), "a command has left its lock: {locks:?}");
    let until = |seconds: u64| {
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH)?;
        let ms = now.as_millis() as u64 + seconds * 1_000;
        anyhow::Ok(format!("00ff {ms}\n"))
    };
    bucket.put("ch-zrh/lock", until(600)?).await?;
    let why = reduit.refused(BACKER, &words(CREATE), IN_USE)?;
    ensure!(why.contains("at work"), "{why}");
    bucket.put("ch-zrh/lock", until(0)?).await?;
    json(reduit, BACKER, CREATE)?;
    let locks = bucket.keys("ch-zrh/lock").await?;
    ensure!(locks.is_empty(), "{locks:?}");
    Ok(())
}
