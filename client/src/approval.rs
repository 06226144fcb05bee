//! Requests that others approve first: a file that travels to the approvers, and their signed words that travel back.
//!
//! Owns the form of both files and which bytes an approver signs. Refuses a file that does not say what it asks: an
//! approver is shown what the request itself holds, and an object's name only where the request commits to it.

use bytes::Bytes;
use envelope::{NameCommitment, NameSalt};
use prost::Message as _;
use proto::descriptor::Descriptor;
use proto::ids::{AccessKeyId, DatasetName, Identity, ObjectKey, ObjectVersionId, RegionId, Role};
use proto::transcript;
use proto::v1;
use serde::{Deserialize, Serialize};
use transport::LocalIdentity;

use crate::access_keys;
use crate::error::Error;
use crate::moving::MoveAsked;
use crate::operator::{approve_until, request_hash, sha256};
use crate::peering;
use crate::region::random_id;

const FORMAT: u32 = 1;
/// How long an approval lasts unless its approver says otherwise.
pub const APPROVAL_MINUTES: u32 = 60;
/// Longest life of an approval: who approved is still the one to ask.
pub const APPROVAL_MINUTES_MAX: u32 = 7 * 24 * 60;

/// Something that takes approvals, as its approvers see it.
#[derive(Debug, Clone, PartialEq)]
pub struct ApprovalRequest {
    /// Of which region.
    pub region: RegionId,
    /// Who asks.
    pub requester: Identity,
    /// For what.
    pub what: Approvable,
}

/// What can be approved apart from where it is asked for.
#[derive(Debug, Clone, PartialEq)]
pub enum Approvable {
    /// Opening one object for a person's purpose.
    Open {
        /// Without session and approvals.
        request: v1::OpenRequest,
        /// The dataset's name, as the requester knows it; the request holds its id.
        dataset: DatasetName,
        /// The object's key, which the request commits to.
        key: ObjectKey,
        /// What its commitment is salted with.
        name_salt: NameSalt,
    },
    /// A policy text in the place of the one in force.
    Policy {
        /// Without approvals.
        request: v1::ChangePolicyRequest,
    },
    /// A new access key, whose secret is shown to the requester alone.
    AccessKey {
        /// Without session and approvals.
        request: v1::CreateAccessKeyRequest,
    },
    /// A disabled access key to be enabled again.
    EnableAccessKey {
        /// Without approvals.
        request: v1::SetAccessKeyStateRequest,
    },
    /// Datasets to be restored from a backup, or confirmed after it.
    Restore {
        /// Without approvals.
        request: v1::ApproveRestoreRequest,
    },
    /// Another region to be trusted by its descriptor's fingerprint.
    TrustRegion {
        /// Without approvals.
        request: v1::TrustRegionRequest,
    },
    /// A step of a dataset's move between regions.
    Relocation {
        /// Which.
        asked: MoveAsked,
    },
    /// Unsealing a replica by its token and the requester's half.
    TokenUnseal {
        /// Which replica, in which life, by which seal.
        asked: v1::TokenUnsealAsked,
    },
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct RequestFile {
    reduit_approval_request: u32,
    method: String,
    region: RegionId,
    requester: String,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    object: Option<ObjectNamed>,
    request: String,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct ObjectNamed {
    dataset: String,
    key: String,
    name_salt: String,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct ApprovalFile {
    reduit_approval: u32,
    approver: String,
    body: String,
    signature: String,
}

fn malformed(what: &str) -> Error {
    Error::Caller {
        reason: "bad-approval-file".to_owned(),
        message: what.to_owned(),
    }
}

fn unhex(text: &str, what: &str) -> Result<Bytes, Error> {
    let bytes = hex::decode(text).map_err(|_| malformed(what))?;
    Ok(bytes.into())
}

impl ApprovalRequest {
    /// Asks for another policy text.
    pub fn policy(requester: &Identity, text: String) -> Result<Self, Error> {
        let claim = v1::Claim {
            actor: requester.to_string(),
            ..v1::Claim::default()
        };
        let request = v1::ChangePolicyRequest {
            text,
            single_use_id: random_id()?,
            claim: Some(claim),
            approvals: Vec::new(),
        };
        Ok(Self {
            region: requester.region().clone(),
            requester: requester.clone(),
            what: Approvable::Policy { request },
        })
    }

    /// Asks to trust a region by its descriptor, with the fingerprint that was given apart from it.
    pub fn trust_region(
        requester: &Identity,
        descriptor: &Descriptor,
        fingerprint: [u8; 32],
    ) -> Result<Self, Error> {
        Ok(Self {
            region: requester.region().clone(),
            requester: requester.clone(),
            what: Approvable::TrustRegion {
                request: peering::trust_request(requester, descriptor.signed(), fingerprint)?,
            },
        })
    }

    /// Asks for an unseal of a replica in its present life, by a token's seal of which the requester holds a half.
    pub fn token_unseal(
        requester: &Identity,
        status: &v1::KmsStatusReply,
        seal_id: Bytes,
    ) -> Result<Self, Error> {
        let asked = v1::TokenUnsealAsked {
            replica: status.identity.clone(),
            boot_id: status.boot_id.clone(),
            seal_id,
            single_use_id: random_id()?,
        };
        Ok(Self {
            region: requester.region().clone(),
            requester: requester.clone(),
            what: Approvable::TokenUnseal { asked },
        })
    }

    /// Asks for an access key of a service principal.
    pub fn access_key(requester: &Identity, principal: &Identity) -> Result<Self, Error> {
        Ok(Self {
            region: requester.region().clone(),
            requester: requester.clone(),
            what: Approvable::AccessKey {
                request: access_keys::new_request(requester, principal)?,
            },
        })
    }

    /// Asks to enable a disabled access key as it stands: see [`crate::Region::access_key`].
    pub fn enable_access_key(
        requester: &Identity,
        record: &v1::AccessKeyRecord,
    ) -> Result<Self, Error> {
        Ok(Self {
            region: requester.region().clone(),
            requester: requester.clone(),
            what: Approvable::EnableAccessKey {
                request: access_keys::enable_request(requester, record)?,
            },
        })
    }

    /// Asks for a step of a dataset's move between regions.
    pub fn relocation(requester: &Identity, asked: MoveAsked) -> Self {
        Self {
            region: requester.region().clone(),
            requester: requester.clone(),
            what: Approvable::Relocation { asked },
        }
    }

    /// Asks for a restore of datasets from a backup, or to confirm them after it.
    pub fn restore(requester: &Identity, terms: v1::DatasetRestore) -> Result<Self, Error> {
        let claim = v1::Claim {
            actor: requester.to_string(),
            ..v1::Claim::default()
        };
        let request = v1::ApproveRestoreRequest {
            terms: Some(terms),
            single_use_id: random_id()?,
            claim: Some(claim),
            approvals: Vec::new(),
        };
        Ok(Self {
            region: requester.region().clone(),
            requester: requester.clone(),
            what: Approvable::Restore { request },
        })
    }

    /// As a file.
    pub fn to_text(&self) -> String {
        let (method, request, object) = match &self.what {
            Approvable::Open {
                request,
                dataset,
                key,
                name_salt,
            } => {
                let object = ObjectNamed {
                    dataset: dataset.to_string(),
                    key: key.as_str().to_owned(),
                    name_salt: hex::encode(name_salt.as_bytes()),
                };
                ("Open", request.encode_to_vec(), Some(object))
            }
            Approvable::Policy { request } => ("ChangePolicy", request.encode_to_vec(), None),
            Approvable::AccessKey { request } => ("CreateAccessKey", request.encode_to_vec(), None),
            Approvable::EnableAccessKey { request } => {
                ("SetAccessKeyState", request.encode_to_vec(), None)
            }
            Approvable::Restore { request } => ("ApproveRestore", request.encode_to_vec(), None),
            Approvable::TrustRegion { request } => ("TrustRegion", request.encode_to_vec(), None),
            Approvable::Relocation { asked } => (asked.method(), asked.encode(), None),
            Approvable::TokenUnseal { asked } => ("UnsealByToken", asked.encode_to_vec(), None),
        };
        let file = RequestFile {
            reduit_approval_request: FORMAT,
            method: method.to_owned(),
            region: self.region.clone(),
            requester: self.requester.to_string(),
            object,
            request: hex::encode(request),
        };
        let mut text = serde_json::to_string_pretty(&file).expect("text and numbers always encode");
        text.push('\n');
        text
    }

    /// From a file. The name of an object is what the request commits to, or the file is refused.
    pub fn parse(text: &str) -> Result<Self, Error> {
        let none = "that file is no request for approvals";
        let file: RequestFile = serde_json::from_str(text).map_err(|_| malformed(none))?;
        if file.reduit_approval_request != FORMAT {
            return Err(malformed("a request for approvals of a later format"));
        }
        let requester: Identity = file.requester.parse()?;
        let bytes = unhex(&file.request, none)?;
        let what = match (file.method.as_str(), file.object) {
            ("ChangePolicy", None) => {
                let request = v1::ChangePolicyRequest::decode(bytes);
                let request = request.map_err(|_| malformed(none))?;
                Approvable::Policy { request }
            }
            ("CreateAccessKey", None) => {
                let request = v1::CreateAccessKeyRequest::decode(bytes);
                let request = request.map_err(|_| malformed(none))?;
                // Approved for one requester, it would show another the secret.
                let claim = request.claim.clone().unwrap_or_default();
                if claim.actor != requester.to_string() {
                    return Err(malformed(
                        "the file names another requester than the request",
                    ));
                }
                let id = AccessKeyId::try_from(&request.access_key_id[..])?;
                if id != access_keys::id_of(&request.single_use_id) {
                    return Err(malformed("the access key's id is of another request"));
                }
                Approvable::AccessKey { request }
            }
            ("SetAccessKeyState", None) => {
                let request = v1::SetAccessKeyStateRequest::decode(bytes);
                let request = request.map_err(|_| malformed(none))?;
                AccessKeyId::try_from(&request.access_key_id[..])?;
                request.principal.parse::<Identity>()?;
                if request.state() != v1::AccessKeyState::Enabled {
                    return Err(malformed("it asks for what takes no approval"));
                }
                Approvable::EnableAccessKey { request }
            }
            ("ApproveRestore", None) => {
                let request = v1::ApproveRestoreRequest::decode(bytes);
                let request = request.map_err(|_| malformed(none))?;
                let terms = request.terms.clone().unwrap_or_default();
                if terms.what() == v1::RestoreWhat::Unspecified || terms.datasets.is_empty() {
                    return Err(malformed("it asks for no restore that this build knows"));
                }
                Approvable::Restore { request }
            }
            ("TrustRegion", None) => {
                let request = v1::TrustRegionRequest::decode(bytes).map_err(|_| malformed(none))?;
                let descriptor = described(&request)?;
                if request.fingerprint[..] != fingerprint_of(&descriptor) {
                    return Err(malformed(
                        "the fingerprint in the file is of another descriptor",
                    ));
                }
                Approvable::TrustRegion { request }
            }
            ("UnsealByToken", None) => {
                let asked = v1::TokenUnsealAsked::decode(bytes).map_err(|_| malformed(none))?;
                Approvable::TokenUnseal { asked }
            }
            ("Open", Some(named)) => {
                let request = v1::OpenRequest::decode(bytes).map_err(|_| malformed(none))?;
                let key: ObjectKey = named.key.parse()?;
                let salt = unhex(&named.name_salt, none)?;
                let name_salt = NameSalt::try_from(&salt[..]).map_err(|_| malformed(none))?;
                let committed = NameCommitment::of(&name_salt, &key);
                let [item] = request.items.as_slice() else {
                    return Err(malformed("it asks for other than one object"));
                };
                if item.name_commitment[..] != committed.as_bytes()[..] {
                    return Err(malformed(
                        "the file names another object than the request opens",
                    ));
                }
                Approvable::Open {
                    request,
                    dataset: named.dataset.parse()?,
                    key,
                    name_salt,
                }
            }
            (method, None) => {
                let asked = MoveAsked::decode(method, bytes);
                let unknown = || malformed("a kind of request this build cannot approve");
                Approvable::Relocation {
                    asked: asked.ok_or_else(unknown)??,
                }
            }
            _ => return Err(malformed("a kind of request this build cannot approve")),
        };
        Ok(Self {
            region: file.region,
            requester,
            what,
        })
    }

    /// What its approvers sign.
    pub fn hash(&self) -> [u8; 32] {
        match &self.what {
            Approvable::Open { request, .. } => {
                let actor = self.requester.to_string();
                sha256(&transcript::approved_open(&actor, request))
            }
            Approvable::Policy { request } => request_hash("ChangePolicy", request),
            Approvable::AccessKey { request } => access_keys::new_hash(&self.requester, request),
            Approvable::EnableAccessKey { request } => request_hash("SetAccessKeyState", request),
            Approvable::Restore { request } => request_hash("ApproveRestore", request),
            Approvable::TrustRegion { request } => request_hash("TrustRegion", request),
            Approvable::Relocation { asked } => asked.hash(),
            Approvable::TokenUnseal { asked } => sha256(&transcript::approved_token_unseal(
                &asked.replica,
                &asked.boot_id,
                &asked.seal_id,
            )),
        }
    }

    fn single_use_id(&self) -> Bytes {
        match &self.what {
            Approvable::Open { request, .. } => request.single_use_id.clone(),
            Approvable::Policy { request } => request.single_use_id.clone(),
            Approvable::AccessKey { request } => request.single_use_id.clone(),
            Approvable::EnableAccessKey { request } => request.single_use_id.clone(),
            Approvable::Restore { request } => request.single_use_id.clone(),
            Approvable::TrustRegion { request } => request.single_use_id.clone(),
            Approvable::Relocation { asked } => asked.single_use_id(),
            Approvable::TokenUnseal { asked } => asked.single_use_id.clone(),
        }
    }

    /// What it asks for, as names and values in the order in which an approver reads them.
    pub fn shown(&self) -> Vec<(&'static str, String)> {
        let mut shown = vec![
            ("region", self.region.to_string()),
            ("requester", self.requester.to_string()),
        ];
        match &self.what {
            Approvable::Open {
                request,
                dataset,
                key,
                ..
            } => {
                let claim = request.claim.clone().unwrap_or_default();
                let item = request.items.first().cloned().unwrap_or_default();
                let version = ObjectVersionId::try_from(&item.version_id[..]);
                let version = version.map(|version| version.to_string());
                shown.extend([
                    ("asks to", "open one object".to_owned()),
                    ("object", format!("{dataset}/{}", key.as_str())),
                    ("dataset id", hex::encode(&request.dataset_id)),
                    ("version", version.unwrap_or_default()),
                    ("bytes", item.bytes.to_string()),
                ]);
                shown.extend(stated(claim));
            }
            Approvable::Policy { request } => {
                let digest = hex::encode(sha256(request.text.as_bytes()));
                shown.extend([
                    ("asks to", "replace the policy text".to_owned()),
                    ("SHA-256", digest),
                    ("text", format!("\n{}", request.text.trim_end())),
                ]);
            }
            Approvable::AccessKey { request } => {
                let what = "make an access key: the requester is shown its secret";
                shown.extend([
                    ("asks to", what.to_owned()),
                    ("principal", request.principal.clone()),
                    ("access key", text_of(&request.access_key_id)),
                ]);
                shown.extend(stated(request.claim.clone().unwrap_or_default()));
            }
            Approvable::EnableAccessKey { request } => {
                shown.extend([
                    ("asks to", "enable a disabled access key".to_owned()),
                    ("principal", request.principal.clone()),
                    ("access key", text_of(&request.access_key_id)),
                    ("as of state", request.state_version.to_string()),
                ]);
                shown.extend(stated(request.claim.clone().unwrap_or_default()));
            }
            Approvable::Restore { request } => {
                shown.extend(restore_shown(&request.terms.clone().unwrap_or_default()));
                shown.extend(stated(request.claim.clone().unwrap_or_default()));
            }
            Approvable::TrustRegion { request } => {
                shown.push(("asks to", "trust another region".to_owned()));
                shown.extend(described(request).map_or_else(|_| Vec::new(), |told| about(&told)));
            }
            Approvable::Relocation { asked } => shown.extend(asked.shown()),
            Approvable::TokenUnseal { asked } => {
                shown.extend([
                    ("asks to", "unseal a KMS replica by its token".to_owned()),
                    ("replica", asked.replica.clone()),
                    ("its life", hex::encode(&asked.boot_id)),
                    ("seal", hex::encode(&asked.seal_id)),
                ]);
            }
        }
        shown.retain(|(_, value)| !value.is_empty());
        shown
    }

    /// Signs it. Refuses the requester, and who is of another region.
    pub fn approve(&self, approver: &LocalIdentity, minutes: u32) -> Result<v1::Approval, Error> {
        if *approver.identity() == self.requester {
            return Err(Error::Caller {
                reason: "self-approval".to_owned(),
                message: "nobody approves what they asked for: this request is your own".to_owned(),
            });
        }
        if *approver.identity().region() != self.region {
            return Err(malformed("the request is of another region than yours"));
        }
        let minutes = u64::from(minutes.clamp(1, APPROVAL_MINUTES_MAX));
        let (hash, id) = (self.hash(), self.single_use_id());
        Ok(approve_until(approver, hash, id, minutes * 60_000))
    }
}

fn described(request: &v1::TrustRegionRequest) -> Result<Descriptor, Error> {
    let signed = request.descriptor.as_ref();
    let descriptor = signed.and_then(|signed| Descriptor::parse(signed).ok());
    descriptor.ok_or_else(|| malformed("the request holds no region descriptor"))
}

fn fingerprint_of(descriptor: &Descriptor) -> [u8; 32] {
    peering::region_fingerprint(&descriptor.signed().descriptor)
}

/// What an approver compares with what the other region's people say.
fn about(told: &Descriptor) -> Vec<(&'static str, String)> {
    let sha256_of = |bytes: &[u8]| hex::encode(sha256(bytes));
    let of_role = |role| told.of_role(role).count();
    vec![
        ("other region", told.region().to_string()),
        ("jurisdiction", told.jurisdiction().to_string()),
        ("version", told.version().to_string()),
        ("fingerprint", hex::encode(fingerprint_of(told))),
        ("CA SHA-256", sha256_of(told.ca_certificate())),
        ("log", told.log_key().to_owned()),
        (
            "names",
            format!(
                "{} KMS replicas, {} nodes, {} gateways",
                of_role(Role::Kms),
                of_role(Role::Node),
                of_role(Role::Gateway)
            ),
        ),
    ]
}

/// What a claim states besides who asks.
fn stated(claim: v1::Claim) -> [(&'static str, String); 4] {
    [
        ("purpose", claim.purpose),
        ("case", claim.case_id),
        ("on behalf of", claim.on_behalf_of),
        ("legal basis", claim.legal_basis),
    ]
}

/// Of which backup, and what becomes of which datasets.
fn restore_shown(terms: &v1::DatasetRestore) -> [(&'static str, String); 4] {
    let what = match terms.what() {
        v1::RestoreWhat::Restore => "restore datasets from a backup",
        v1::RestoreWhat::Confirm => {
            "let restored datasets take changes: they are still this region's, in these epochs"
        }
        v1::RestoreWhat::Unspecified => "",
    };
    let one = |target: &v1::RestoreTarget| {
        let epoch = match target.epoch {
            0 => String::new(),
            epoch => format!(", epoch {epoch}"),
        };
        let id = hex::encode(&target.dataset_id);
        format!("\n  {} ({id}{epoch})", target.name)
    };
    [
        ("asks to", what.to_owned()),
        ("backup", hex::encode(&terms.backup_id)),
        ("index BLAKE3", hex::encode(&terms.index_digest)),
        ("datasets", terms.datasets.iter().map(one).collect()),
    ]
}

fn text_of(id: &[u8]) -> String {
    String::from_utf8_lossy(id).into_owned()
}

/// An approval as a file.
pub fn approval_to_text(approval: &v1::Approval) -> String {
    let body = v1::ApprovalBody::decode(approval.body.clone()).unwrap_or_default();
    let file = ApprovalFile {
        reduit_approval: FORMAT,
        approver: body.approver,
        body: hex::encode(&approval.body),
        signature: hex::encode(&approval.signature),
    };
    let mut text = serde_json::to_string_pretty(&file).expect("text and numbers always encode");
    text.push('\n');
    text
}

/// An approval from a file. Whether it holds is the region's to say.
pub fn approval_from_text(text: &str) -> Result<v1::Approval, Error> {
    let none = "that file is no approval";
    let file: ApprovalFile = serde_json::from_str(text).map_err(|_| malformed(none))?;
    if file.reduit_approval != FORMAT {
        return Err(malformed("an approval of a later format"));
    }
    Ok(v1::Approval {
        body: unhex(&file.body, none)?,
        signature: unhex(&file.signature, none)?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn open() -> ApprovalRequest {
        let key: ObjectKey = "cases/7.json".parse().expect("a key");
        let name_salt = NameSalt::try_from(&[3; 32][..]).expect("a salt");
        let commitment = NameCommitment::of(&name_salt, &key);
        let request = v1::OpenRequest {
            request_id: vec![1; 16].into(),
            dataset_id: vec![2; 16].into(),
            claim: Some(v1::Claim {
                purpose: "investigation".to_owned(),
                case_id: "2026-17".to_owned(),
                ..v1::Claim::default()
            }),
            items: vec![v1::OpenItem {
                name_commitment: commitment.as_bytes().to_vec().into(),
                version_id: vec![4; 16].into(),
                bytes: 9,
                ..v1::OpenItem::default()
            }],
            single_use_id: vec![5; 16].into(),
            ..v1::OpenRequest::default()
        };
        ApprovalRequest {
            region: "ch-zrh".parse().expect("a region"),
            requester: "spiffe://ch-zrh/auditor/anna".parse().expect("an identity"),
            what: Approvable::Open {
                request,
                dataset: "cti".parse().expect("a name"),
                key,
                name_salt,
            },
        }
    }

    #[test]
    fn a_request_travels_as_a_file_and_says_what_it_asks() {
        let request = open();
        let again = ApprovalRequest::parse(&request.to_text()).expect("its own file");
        assert_eq!(again, request);
        assert_eq!(again.hash(), request.hash());
        let shown = again.shown();
        assert!(shown.contains(&("object", "cti/cases/7.json".to_owned())));
        assert!(shown.contains(&("case", "2026-17".to_owned())));
    }

    #[test]
    fn an_unseal_by_a_token_says_which_replica_life_and_seal_and_all_of_them_are_signed() {
        let holder: Identity = "spiffe://ch-zrh/custodian/anna"
            .parse()
            .expect("an identity");
        let status = v1::KmsStatusReply {
            identity: "spiffe://ch-zrh/kms/kms-1".to_owned(),
            boot_id: vec![0xB0; 16].into(),
            ..v1::KmsStatusReply::default()
        };
        let request = ApprovalRequest::token_unseal(&holder, &status, vec![0x5E; 16].into());
        let request = request.expect("random");
        let again = ApprovalRequest::parse(&request.to_text()).expect("its own file");
        assert_eq!((&again, again.hash()), (&request, request.hash()));
        assert!(again.shown().contains(&("seal", "5e".repeat(16))));
        type Change = fn(&mut v1::TokenUnsealAsked);
        let changes: [Change; 3] = [
            |asked| asked.replica.push('2'),
            |asked| asked.boot_id = vec![1; 16].into(),
            |asked| asked.seal_id = vec![1; 16].into(),
        ];
        for change in changes {
            let mut other = request.clone();
            if let Approvable::TokenUnseal { asked } = &mut other.what {
                change(asked);
            }
            assert_ne!(other.hash(), request.hash());
        }
    }

    /// Approved for the state in which its approvers saw it, it does not undo an alarm of later.
    #[test]
    fn enabling_an_access_key_shows_its_principal_and_claim_and_is_signed_for_one_state_of_it() {
        let asks: Identity = "spiffe://ch-zrh/operator/anna"
            .parse()
            .expect("an identity");
        let record = v1::AccessKeyRecord {
            access_key_id: AccessKeyId::from_bits(7).as_str().to_owned().into(),
            principal: "spiffe://ch-zrh/service/backup".to_owned(),
            state_version: 4,
            ..v1::AccessKeyRecord::default()
        };
        let mut request = ApprovalRequest::enable_access_key(&asks, &record).expect("random");
        let change = |request: &ApprovalRequest,
                      change: &dyn Fn(&mut v1::SetAccessKeyStateRequest)| {
            let mut other = request.clone();
            if let Approvable::EnableAccessKey { request } = &mut other.what {
                change(request);
            }
            other
        };
        request = change(&request, &|request| {
            request.claim.get_or_insert_default().case_id = "2026-17".to_owned();
        });
        let again = ApprovalRequest::parse(&request.to_text()).expect("its own file");
        assert_eq!((&again, again.hash()), (&request, request.hash()));
        for (name, value) in [
            ("principal", &record.principal[..]),
            ("as of state", "4"),
            ("case", "2026-17"),
        ] {
            assert!(again.shown().contains(&(name, value.to_owned())), "{name}");
        }
        let other = change(&request, &|request| request.state_version += 2);
        assert_ne!(other.hash(), request.hash());
        let other = change(&request, &|request| request.principal.push('2'));
        assert_ne!(other.hash(), request.hash());
        let none = change(&request, &|request| request.principal.clear());
        ApprovalRequest::parse(&none.to_text()).expect_err("of no principal");
    }

    #[test]
    fn an_access_key_of_another_id_than_its_request_makes_is_refused() {
        let asks: Identity = "spiffe://ch-zrh/operator/anna"
            .parse()
            .expect("an identity");
        let principal = "spiffe://ch-zrh/service/backup".parse().expect("one");
        let mut request = ApprovalRequest::access_key(&asks, &principal).expect("random");
        ApprovalRequest::parse(&request.to_text()).expect("its own file");
        if let Approvable::AccessKey { request } = &mut request.what {
            request.single_use_id = vec![5; 16].into();
        }
        let refused = ApprovalRequest::parse(&request.to_text()).expect_err("another id");
        assert!(refused.to_string().contains("another request"), "{refused}");
    }

    #[test]
    fn a_file_that_names_another_object_than_it_opens_is_refused() {
        let text = open().to_text().replace("cases/7.json", "cases/8.json");
        let refused = ApprovalRequest::parse(&text).expect_err("another name");
        assert!(refused.to_string().contains("another object"), "{refused}");
    }

    #[test]
    fn whatever_is_asked_changes_what_is_signed() {
        let request = open();
        let hash = request.hash();
        let mut other = request.clone();
        other.requester = "spiffe://ch-zrh/auditor/bert".parse().expect("an identity");
        assert_ne!(other.hash(), hash);
        let change = |change: &dyn Fn(&mut v1::OpenRequest)| {
            let mut other = request.clone();
            if let Approvable::Open { request, .. } = &mut other.what {
                change(request);
            }
            other.hash()
        };
        let claimed = |claim: &dyn Fn(&mut v1::Claim)| {
            change(&|request| claim(request.claim.as_mut().expect("there")))
        };
        assert_ne!(claimed(&|claim| claim.purpose = "support".to_owned()), hash);
        assert_ne!(claimed(&|claim| claim.case_id = "2026-18".to_owned()), hash);
        assert_ne!(
            change(&|request| request.request_id = vec![9; 16].into()),
            hash
        );
        assert_ne!(
            change(&|request| request.dataset_id = vec![9; 16].into()),
            hash
        );
        assert_ne!(
            change(&|request| request.single_use_id = vec![9; 16].into()),
            hash
        );
        assert_ne!(
            change(&|request| request.recipient_region = "de-fra".to_owned()),
            hash
        );
        let item = |request: &mut v1::OpenRequest| request.items[0].version_id = vec![9; 16].into();
        assert_ne!(change(&item), hash);
        // A retry at another replica is the same request.
        assert_eq!(
            change(&|request| request.session_id = vec![9; 16].into()),
            hash
        );
    }
}
