//! What storage nodes and the KMS say of a dataset's sealed objects, for an evidence folder.
//!
//! Owns asking: the list from the shard's leader, roots and pieces from its replicas in turn, commitments from the KMS.
//! Refuses nothing it is told but what cannot be written down: an object that no node has whole is listed without a
//! root, and a piece that nobody shows is left empty, for the verifier to say so. A version that is removed while it is
//! read is not listed.

use std::collections::BTreeMap;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use envelope::{HEADER_BYTES, NameCommitment, NameSalt, STREAM_SALT_BYTES};
use prost::Message as _;
use proto::ids::{LeaseId, NodeId, ObjectKey, ObjectVersionId};
use proto::v1;
use tlog::{HASH_BYTES, Hash};
use tonic::Status;
use transport::Lane;
use verifier::{HeaderLine, ObjectLine, PartLine, StorageAnswer, StorageAnswers, challenges};

use crate::dataset::{Dataset, shard_client};
use crate::error::Error;
use crate::kms::Keys;

/// Versions of one page and of one question to a node or the KMS.
const VERSIONS_MAX: usize = 256;
/// Sealed bytes that one question has a node read, about.
const BYTES_MAX: u64 = 1 << 30;
/// How long a node may say nothing: while it reads a large object it says so every few seconds.
const SILENCE_MAX: Duration = Duration::from_secs(600);

/// One version, as the catalog has it and as a node has its bytes.
pub(super) struct Sealed {
    key: ObjectKey,
    line: ObjectLine,
    dek_salt: Bytes,
    token: Bytes,
}

impl Sealed {
    /// What the folder lists of it.
    pub(super) fn line(&self) -> &ObjectLine {
        &self.line
    }
}

fn odd(what: &'static str) -> Error {
    Error::Protocol { what }
}

impl Dataset {
    /// Every version of the dataset, by ascending id.
    pub(super) async fn sealed_objects(&self) -> Result<Vec<Sealed>, Error> {
        let mut all = Vec::new();
        let mut asked = v1::ListVersionsRequest {
            shard: self.shard().0,
            dataset_id: self.id().into(),
            limit: VERSIONS_MAX as u32,
            ..Default::default()
        };
        loop {
            let page = self
                .ask_shard(|mut shard| {
                    let asked = asked.clone();
                    async move { Ok(shard.list_versions(asked).await?.into_inner()) }
                })
                .await?;
            let mut entries: Vec<(ObjectKey, v1::ObjectEntry)> = Vec::new();
            for listed in page.versions {
                let entry = listed.entry.ok_or(odd("a listed version without entry"))?;
                if !entry.delete_marker {
                    entries.push((listed.key.parse()?, entry));
                }
            }
            for batch in in_batches(entries) {
                all.extend(self.hashed(batch).await?);
            }
            if !page.truncated {
                break;
            }
            asked.start_after_key = page.next_key;
            asked.start_after_index = page.next_index;
        }
        all.sort_by(|a, b| a.line.version.cmp(&b.line.version));
        Ok(all)
    }

    async fn hashed(
        &self,
        entries: Vec<(ObjectKey, v1::ObjectEntry)>,
    ) -> Result<Vec<Sealed>, Error> {
        let ask = |(key, entry): &(ObjectKey, v1::ObjectEntry)| v1::StoredAsked {
            key: key.as_str().to_owned(),
            version_id: entry.version_id.clone(),
            pieces: Vec::new(),
        };
        let asked: Vec<_> = entries.iter().map(ask).collect();
        let whole = |found: &v1::StoredVersion| !found.root.is_empty() || found.gone;
        let mut stored = self.ask_replicas(asked, 0, whole).await?;
        let sealed =
            entries
                .into_iter()
                .filter_map(|(key, entry)| match stored.remove(&entry.version_id) {
                    Some(found) if found.gone => None,
                    Some(found) => Some(sealed(key, entry, found)),
                    None => Some(Err(odd("no node knows a version that the shard lists"))),
                });
        sealed.collect()
    }

    /// Asks the shard's voters in turn, from the `first` on, until for each version one gave an answer that is good, or
    /// all have been asked: then the last answer counts.
    async fn ask_replicas(
        &self,
        mut asked: Vec<v1::StoredAsked>,
        first: usize,
        is_good: impl Fn(&v1::StoredVersion) -> bool,
    ) -> Result<BTreeMap<Bytes, v1::StoredVersion>, Error> {
        let mut replicas = self.replicas().await?;
        let turn = first % replicas.len().max(1);
        replicas.rotate_left(turn);
        let mut found = BTreeMap::new();
        let mut failed = None;
        for replica in replicas {
            if asked.is_empty() {
                break;
            }
            match self.ask_replica(replica, asked.clone()).await {
                Ok(answers) => {
                    let good = |version: &Bytes| {
                        let answer: Option<&v1::StoredVersion> = answers.get(version);
                        answer.is_some_and(&is_good)
                    };
                    asked.retain(|one| !good(&one.version_id));
                    for (version, answer) in answers {
                        let known = !answer.token.is_empty();
                        if known || !found.contains_key(&version) {
                            found.insert(version, answer);
                        }
                    }
                }
                Err(error) => {
                    tracing::warn!(replica = replica.0, %error, "a node shows nothing of what it stores");
                    failed = Some(error);
                }
            }
        }
        match failed {
            Some(error) if found.is_empty() && !asked.is_empty() => Err(error),
            _ => Ok(found),
        }
    }

    async fn ask_replica(
        &self,
        replica: NodeId,
        versions: Vec<v1::StoredAsked>,
    ) -> Result<BTreeMap<Bytes, v1::StoredVersion>, Error> {
        let nodes = &self.0.region.0.nodes;
        let member = nodes
            .member(replica)
            .ok_or(odd("a voter that is no node"))?;
        let channel = nodes.channel(&member, Lane::Data, 0)?;
        let mut shard = shard_client(self.acting().over(channel));
        let request = v1::ProveStoredRequest {
            shard: self.shard().0,
            dataset_id: self.id().into(),
            versions,
        };
        let late = |_| Status::deadline_exceeded("a node that reads an object says nothing");
        let asked = async move {
            let mut answers = BTreeMap::new();
            let opened = tokio::time::timeout(SILENCE_MAX, shard.prove_stored(request));
            let mut stream = opened.await.map_err(late)??.into_inner();
            while let Some(answer) = tokio::time::timeout(SILENCE_MAX, stream.message())
                .await
                .map_err(late)??
            {
                if answer.read_bytes == 0 {
                    answers.insert(answer.version_id.clone(), answer);
                }
            }
            Ok::<_, Status>(answers)
        };
        asked.await.map_err(|status| Error::from_status(&status))
    }

    /// What the nodes answer to the nonce. Each piece is asked of a voter, and of the next where it does not fit.
    pub(super) async fn challenged(
        &self,
        nonce: &[u8; 32],
        sealed: &[Sealed],
    ) -> Result<StorageAnswers, Error> {
        let lines: Vec<ObjectLine> = sealed.iter().map(|sealed| sealed.line.clone()).collect();
        let chosen = challenges(nonce, &lines);
        let mut asked: BTreeMap<usize, v1::StoredAsked> = BTreeMap::new();
        for challenge in &chosen {
            let one = &sealed[challenge.object];
            // A node that lacks some of it cannot prove the rest.
            if one.line.sealed_root.is_none() {
                continue;
            }
            let of_object = asked.entry(challenge.object).or_default();
            of_object.key = one.key.as_str().to_owned();
            of_object.version_id = version_of(&one.line)?.into();
            of_object.pieces.push(challenge.piece);
        }
        let roots: BTreeMap<Bytes, Bytes> = asked
            .iter()
            .filter_map(|(at, one)| {
                let root = sealed[*at].line.sealed_root?;
                Some((one.version_id.clone(), Bytes::copy_from_slice(&root.0)))
            })
            .collect();
        let good = |answer: &v1::StoredVersion| roots.get(&answer.version_id) == Some(&answer.root);
        // Not the one that was asked for the roots, where there are others.
        let found = self
            .ask_replicas(asked.into_values().collect(), 1, good)
            .await?;
        let answer = |challenge: &verifier::Challenge| {
            let version = version_of(&lines[challenge.object]).ok()?;
            let pieces = &found.get(version.as_bytes().as_slice())?.pieces;
            let piece = pieces.iter().find(|piece| piece.piece == challenge.piece)?;
            let proof = piece.proof.iter().map(|hash| hash_of(hash));
            Some(StorageAnswer {
                piece: STANDARD.encode(&piece.sealed),
                proof: proof.collect::<Result<_, _>>().ok()?,
            })
        };
        let nothing = || StorageAnswer {
            piece: String::new(),
            proof: Vec::new(),
        };
        let answers = chosen.iter();
        Ok(StorageAnswers {
            nonce: hex::encode(nonce),
            answers: answers.map(|c| answer(c).unwrap_or_else(nothing)).collect(),
        })
    }
}

impl Keys {
    /// What the KMS signs of the streams of these versions, as far as a node could read them.
    pub(super) async fn attested(
        &self,
        dataset: &Dataset,
        sealed: &[Sealed],
    ) -> Result<Vec<HeaderLine>, Error> {
        // Of every part: that one is keyed as listed says nothing of the others.
        let mut read: Vec<(&Sealed, u32, &str)> = Vec::new();
        for one in sealed {
            match one.line.parts.as_slice() {
                [] => read.extend(one.line.header.as_deref().map(|header| (one, 0, header))),
                parts => read.extend(
                    parts
                        .iter()
                        .filter_map(|part| Some((one, part.part, part.header.as_deref()?))),
                ),
            }
        }
        let mut lines = Vec::new();
        for batch in read.chunks(VERSIONS_MAX) {
            let headers = batch.iter().map(|(one, part, header)| {
                let header = STANDARD.decode(header).map_err(|_| odd("a header"))?;
                Ok(v1::HeaderAsked {
                    token: one.token.clone(),
                    version_id: version_of(&one.line)?.into(),
                    dek_salt: one.dek_salt.clone(),
                    name_commitment: Bytes::copy_from_slice(&one.line.name.0),
                    stream_salt: Bytes::copy_from_slice(&header[..STREAM_SALT_BYTES]),
                    part: *part,
                })
            });
            let request = v1::AttestHeadersRequest {
                dataset_id: dataset.id().into(),
                headers: headers.collect::<Result<_, Error>>()?,
            };
            let reply = self
                .call(|mut kms| {
                    let request = request.clone();
                    async move { Ok(kms.attest_headers(request).await?.into_inner()) }
                })
                .await?;
            lines.push(HeaderLine {
                statement: STANDARD.encode(&reply.statement),
                public_key: hex::encode(&reply.signer),
                signature: hex::encode(&reply.signature),
            });
        }
        Ok(lines)
    }
}

/// Few enough, and of few enough bytes, for one question each; a larger object alone.
fn in_batches(
    entries: Vec<(ObjectKey, v1::ObjectEntry)>,
) -> Vec<Vec<(ObjectKey, v1::ObjectEntry)>> {
    let mut batches: Vec<Vec<_>> = Vec::new();
    let mut room = 0;
    for (key, entry) in entries {
        let full = batches
            .last()
            .is_none_or(|batch| batch.len() == VERSIONS_MAX);
        if full || entry.sealed_bytes > room {
            batches.push(Vec::new());
            room = BYTES_MAX;
        }
        room = room.saturating_sub(entry.sealed_bytes);
        if let Some(batch) = batches.last_mut() {
            batch.push((key, entry));
        }
    }
    batches
}

fn sealed(
    key: ObjectKey,
    entry: v1::ObjectEntry,
    found: v1::StoredVersion,
) -> Result<Sealed, Error> {
    if found.token.is_empty() {
        return Err(odd(
            "no node has the token of a version that the shard lists",
        ));
    }
    let name_salt: [u8; 32] = (entry.name_salt.as_ref().try_into()).map_err(|_| odd("a salt"))?;
    let name = NameCommitment::of(&NameSalt(name_salt), &key);
    let token = v1::LeaseToken::decode(found.token.clone()).map_err(|_| odd("a token"))?;
    let token = v1::LeaseHeader::decode(token.header).map_err(|_| odd("a token's header"))?;
    let version = ObjectVersionId::try_from(entry.version_id.as_ref())?;
    if found.parts.len() != entry.parts as usize {
        return Err(odd("another number of parts than the shard lists"));
    }
    let mut headers = found.parts.iter().map(|part| &part.header);
    let whole = !found.root.is_empty()
        && found.header.len() == HEADER_BYTES
        && headers.all(|header| header.len() == HEADER_BYTES);
    let root = whole.then(|| hash_of(&found.root)).transpose()?;
    let parts = found.parts.iter().map(|part| PartLine {
        part: part.number,
        bytes: part.plain_bytes,
        sealed_bytes: part.sealed_bytes,
        header: root.map(|_| STANDARD.encode(&part.header)),
    });
    let line = ObjectLine {
        version: version.to_string(),
        name: Hash(name.0),
        lease: LeaseId::try_from(entry.lease_id.as_ref())?.to_string(),
        kek_version: token.kek_version,
        bytes: entry.plain_bytes,
        sealed_bytes: entry.sealed_bytes,
        sealed_root: root,
        header: root.map(|_| STANDARD.encode(&found.header)),
        parts: parts.collect(),
    };
    Ok(Sealed {
        key,
        line,
        dek_salt: entry.dek_salt,
        token: found.token,
    })
}

fn version_of(line: &ObjectLine) -> Result<ObjectVersionId, Error> {
    Ok(line.version.parse()?)
}

fn hash_of(bytes: &[u8]) -> Result<Hash, Error> {
    let bytes: [u8; HASH_BYTES] = bytes.try_into().map_err(|_| odd("a hash"))?;
    Ok(Hash(bytes))
}
