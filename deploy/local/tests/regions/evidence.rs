//! An evidence folder of a real region: exported by its auditor, judged offline, and bent.
//!
//! The auditor here is the worst exporter there is: every bent folder is signed anew with the auditor's own key.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use client::ids::{NodeId, ObjectKey, UnixMs};
use client::{
    CompleteOptions, CreateOptions, Dataset, EvidenceRequest, Fault, PartOptions, PutOptions,
    Region,
};
use local::files::{AUDITOR, CLIENTS};
use local::{Kind, Local, ceremony};
use proto::v1;
use proto::v1::shard_client::ShardClient;
use tlog::{Note, Policy, sha256};
use tonic::Code;
use transport::LocalIdentity;
use verifier::{
    Asked, ClaimId, FileEntry, Folder, Index, ObjectLine, Report, Verdict, list_root, verify,
};

use crate::common::{connected, find, with_regions};

const NONCE: [u8; 32] = [42; 32];
const PATIENCE: Duration = Duration::from_secs(60);

type Files = BTreeMap<String, Vec<u8>>;

/// A region with a dataset of four objects, one of them in parts, seen by its auditor.
struct Watched {
    auditor: Region,
    identity: LocalIdentity,
    policy: Policy,
    before: Bytes,
    from: UnixMs,
    to: UnixMs,
}

/// Puts an object of three parts: in a block, without bytes, inline.
async fn in_parts(dataset: &Dataset) -> Result<()> {
    let key: ObjectKey = "parts".parse()?;
    let upload = dataset.create_upload(&key, &PutOptions::default()).await?;
    let mut named = Vec::new();
    for (number, body) in [(3, vec![1_u8; 200_000]), (5, vec![]), (9, vec![2; 700])] {
        let options = PartOptions::default();
        let part = dataset.upload_part(&upload, number, body, &options).await?;
        named.push((part.number, part.id));
    }
    dataset
        .complete_upload(&upload, &named, &CompleteOptions::default())
        .await?;
    Ok(())
}

/// When the quorum vouched for a checkpoint.
fn as_of(policy: &Policy, note: &Bytes) -> Result<UnixMs> {
    let cosigned = policy.check(&Note::parse(note)?)?;
    let seconds = cosigned.as_of().context("a checkpoint of no time")?;
    Ok(UnixMs(seconds.get() * 1_000))
}

impl Watched {
    async fn new(local: &Local, region: &str) -> Result<Self> {
        let auditor = connected(local, region, AUDITOR, PATIENCE).await?;
        let entry = local.federation.region(region)?;
        let identity = ceremony::identity(entry, AUDITOR)?;
        let text = auditor.log_keys().await?.policy(&[], 0).context("a key")?;
        let policy = Policy::parse(text.as_bytes())?;
        let before = ceremony::until("a first checkpoint", async || {
            let newest = auditor.keys().checkpoint().await?.newest;
            as_of(&policy, &newest)?;
            Ok(newest)
        })
        .await?;
        let from = as_of(&policy, &before)?;
        let app = connected(local, region, CLIENTS[0], PATIENCE).await?;
        let dataset = app
            .create_dataset(&"cases".parse()?, &CreateOptions::default())
            .await?;
        let large: Vec<u8> = (0..3_000_000_u32).map(|at| (at % 251) as u8).collect();
        for (name, body) in [("large", large), ("small", vec![7; 900]), ("none", vec![])] {
            let key: ObjectKey = name.parse()?;
            dataset.put(&key, body, &PutOptions::default()).await?;
            dataset.get_bytes(&key).await?;
        }
        in_parts(&dataset).await?;
        let covering = async || {
            let size = auditor.keys().tree_head().await?.size;
            let newest = auditor.keys().checkpoint().await?.newest;
            let tree: tlog::Checkpoint = Note::parse(&newest)?.text().parse()?;
            ensure!(tree.size() >= size, "not yet");
            as_of(&policy, &newest)
        };
        let to = ceremony::until("a checkpoint of all this", covering).await?;
        Ok(Self {
            auditor,
            identity,
            policy,
            before,
            from,
            to,
        })
    }

    fn request(&self) -> Result<EvidenceRequest> {
        Ok(EvidenceRequest {
            dataset: "cases".parse()?,
            from: self.from,
            to: self.to,
            checkpoints: vec![self.before.clone()],
            policy: self.policy.clone(),
            objects: true,
            nonce: Some(NONCE),
        })
    }

    async fn export(&self) -> Result<Folder> {
        Ok(self.auditor.export_evidence(self.request()?).await?)
    }

    fn judge(&self, folder: &Folder) -> Report {
        let asked = Asked {
            nonce: Some(NONCE),
            claims: Vec::new(),
        };
        verify(folder, &self.policy, &asked)
    }

    /// The folder of these files and this list, as its auditor would sign it; `change` has the last word on the index.
    fn signed(
        &self,
        mut files: Files,
        list: Vec<ObjectLine>,
        change: impl FnOnce(&mut Index),
    ) -> Result<Folder> {
        let lines = list.iter().map(serde_json::to_string);
        let lines: Vec<String> = lines.collect::<Result<_, _>>()?;
        files.insert("objects.jsonl".to_owned(), (lines.join("\n") + "\n").into());
        let mut index: Index = serde_json::from_slice(&files["folder.json"])?;
        let objects = index.objects.as_mut().context("a list")?;
        objects.count = list.len() as u64;
        objects.bytes = list.iter().map(|line| line.bytes).sum();
        objects.root = list_root(&list);
        index.files.retain(|name, _| files.contains_key(name));
        for (name, entry) in &mut index.files {
            let bytes = &files[name];
            *entry = FileEntry {
                bytes: bytes.len() as u64,
                sha256: sha256(&[bytes]),
            };
        }
        change(&mut index);
        let index = serde_json::to_string(&index)? + "\n";
        let signature = self
            .identity
            .sign(verifier::LABEL_EVIDENCE, index.as_bytes());
        let signature = format!(
            "{{\"public_key\":\"{}\",\"signature\":\"{}\"}}\n",
            hex::encode(self.identity.public_key().as_spki()),
            hex::encode(signature)
        );
        files.insert("folder.json".to_owned(), index.into());
        files.insert("folder.sig".to_owned(), signature.into());
        Ok(Folder::from_files(files)?)
    }
}

fn expect(report: &Report, claims: &[(ClaimId, Verdict)]) -> Result<()> {
    for (id, verdict) in claims {
        let claim = report.claim(*id);
        ensure!(
            claim.verdict == *verdict,
            "{id:?} is {}, not {verdict}: {}",
            claim.verdict,
            claim.statement
        );
    }
    Ok(())
}

fn list_of(folder: &Folder) -> Result<Vec<ObjectLine>> {
    Ok(folder.objects().context("a list")?.to_vec())
}

#[test]
fn what_an_auditor_exports_is_proven_and_what_is_bent_in_it_is_not() {
    with_regions(&[("ch-zrh", "CH", 1), ("de-fra", "DE", 1)], async |local| {
        let here = Watched::new(local, "ch-zrh").await?;
        let folder = here.export().await?;
        let report = here.judge(&folder);
        let proven = ClaimId::ALL.iter().filter(|id| {
            use ClaimId::{O3, W1, X2, X3, X4};
            ![O3, W1, X2, X3, X4].contains(id)
        });
        let proven: Vec<_> = proven.map(|id| (*id, Verdict::Proven)).collect();
        expect(&report, &proven)?;
        ensure!(report.is_proven());
        let list = list_of(&folder)?;
        ensure!(list.len() == 4 && list.iter().all(|line| line.sealed_root.is_some()));
        let parts = list.iter().map(|line| line.parts.len());
        ensure!(parts.sum::<usize>() == 3, "{list:?}");

        left_out_or_swapped(&here, &folder)?;
        of_elsewhere(local, &here, &folder).await?;
        refused_to_others(local, &here).await?;
        flipped(local, &here, &list).await
    });
}

/// What is left out of the list is in the KMS's statement; what is changed in it fits neither that nor the log.
fn left_out_or_swapped(here: &Watched, folder: &Folder) -> Result<()> {
    let (files, list) = (folder.files().clone(), list_of(folder)?);
    let same = here.signed(files.clone(), list.clone(), |_| {})?;
    ensure!(
        here.judge(&same).is_proven(),
        "signing anew changes nothing"
    );
    let keying = |folder: &Folder| here.judge(folder).claim(ClaimId::X1).verdict.clone();
    for at in 0..list.len() {
        let mut shorter = list.clone();
        shorter.remove(at);
        let bent = here.signed(files.clone(), shorter, |_| {})?;
        ensure!(keying(&bent) == Verdict::Contradicted, "{at} left out");
        let mut rewritten = list.clone();
        let header = rewritten[at].header.as_mut().context("a header")?;
        let mut bytes = STANDARD.decode(&*header)?;
        bytes[40] ^= 1;
        *header = STANDARD.encode(bytes);
        let header = header.clone();
        if let Some(first) = rewritten[at].parts.first_mut() {
            first.header = Some(header);
        }
        let bent = here.signed(files.clone(), rewritten, |_| {})?;
        ensure!(keying(&bent) == Verdict::Contradicted, "header {at}");
    }
    // One part's header of an object in parts, which is not the first one's.
    let mut rewritten = list.clone();
    let with_parts = rewritten.iter_mut().find(|line| !line.parts.is_empty());
    let part = &mut with_parts.context("one in parts")?.parts[2];
    let mut bytes = STANDARD.decode(part.header.as_ref().context("a header")?)?;
    bytes[40] ^= 1;
    part.header = Some(STANDARD.encode(bytes));
    let bent = here.signed(files.clone(), rewritten, |_| {})?;
    ensure!(keying(&bent) == Verdict::Contradicted, "a part's header");
    let mut silent = files.clone();
    silent.remove("headers.jsonl");
    let bent = here.signed(silent, list.clone(), |_| {})?;
    ensure!(keying(&bent) == Verdict::NotShown, "without the KMS's word");
    let mut version = list.clone();
    version[1].kek_version += 1;
    let report = here.judge(&here.signed(files.clone(), version, |_| {})?);
    let no = Verdict::Contradicted;
    expect(
        &report,
        &[(ClaimId::O2, no.clone()), (ClaimId::X1, no.clone())],
    )?;
    let bent = here.signed(files, list, |index| index.dataset.kek = "5a".repeat(16))?;
    expect(
        &here.judge(&bent),
        &[(ClaimId::D1, no.clone()), (ClaimId::X1, no)],
    )
}

/// Another region's list, its KMS's statement and its answers, in this region's folder.
async fn of_elsewhere(local: &Local, here: &Watched, folder: &Folder) -> Result<()> {
    let there = Watched::new(local, "de-fra").await?;
    let theirs = there.export().await?;
    ensure!(there.judge(&theirs).is_proven(), "there it is true");
    let mut files = folder.files().clone();
    for name in ["headers.jsonl", "challenge.json"] {
        files.insert(name.to_owned(), theirs.files()[name].clone());
    }
    let bent = here.signed(files, list_of(&theirs)?, |_| {})?;
    let claims = [
        (ClaimId::O2, Verdict::NotShown),
        (ClaimId::X1, Verdict::Contradicted),
    ];
    expect(&here.judge(&bent), &claims)?;
    // The whole of it, under this region's trust policy.
    ensure!(!here.judge(&theirs).is_proven());
    Ok(())
}

/// Who is no auditor gets neither digests nor statements.
async fn refused_to_others(local: &Local, here: &Watched) -> Result<()> {
    let app = connected(local, "ch-zrh", CLIENTS[0], PATIENCE).await?;
    let refused = app.export_evidence(here.request()?).await.err();
    let refused = refused.context("a client exported evidence")?;
    ensure!(refused.fault() == Fault::Denied, "{refused}");
    // And not from the node itself, which a client may well list the dataset at.
    let dataset = app.dataset(&"cases".parse()?).await?;
    let region = local.federation.region("ch-zrh")?;
    let node = region.living(Kind::Node).next().context("a node")?;
    let asked = v1::ProveStoredRequest {
        shard: dataset.shard().0,
        dataset_id: dataset.id().into(),
        versions: Vec::new(),
    };
    let channel = app.node_channel(NodeId(node.node_id))?;
    let answer = ShardClient::new(channel).prove_stored(asked).await;
    let refused = answer.err().context("a node answered a client")?;
    ensure!(refused.code() == Code::PermissionDenied, "{refused}");
    Ok(())
}

/// A bit of a stored block: the node says that it has not all of the object, and nothing of it is proven any more.
async fn flipped(local: &mut Local, here: &Watched, list: &[ObjectLine]) -> Result<()> {
    let large = list.iter().max_by_key(|line| line.bytes).context("one")?;
    let header = STANDARD.decode(large.header.as_ref().context("read")?)?;
    let region = local.federation.region("ch-zrh")?;
    let node = region.living(Kind::Node).next().context("a node")?.clone();
    local.kill(&node.name)?;
    let path = find(&node.data.join("blocks"), "blocks")?;
    let mut bytes = std::fs::read(&path)?;
    let mut places = bytes.windows(header.len());
    let at = places.position(|place| place == header).context("stored")?;
    bytes[at + 100_000] ^= 1;
    std::fs::write(&path, bytes)?;
    local.start(&node.name)?;
    let folder = ceremony::until("exporting again", async || here.export().await).await?;
    let unread: Vec<_> = list_of(&folder)?
        .into_iter()
        .filter(|line| line.sealed_root.is_none())
        .collect();
    ensure!(unread.len() == 1 && unread[0].version == large.version);
    let report = here.judge(&folder);
    expect(
        &report,
        &[
            (ClaimId::O1, Verdict::Proven),
            (ClaimId::O2, Verdict::Proven),
            (ClaimId::O4, Verdict::Contradicted),
            (ClaimId::X1, Verdict::NotShown),
        ],
    )?;
    ensure!(
        report
            .claim(ClaimId::O3)
            .statement
            .contains("1 of them no node")
    );
    Ok(())
}
