//! What is signed and what keys are bound to: the exact bytes, in one place for both ends.
//!
//! Owns labels and encodings. A label is versioned and used for one purpose; a field is length-prefixed where its
//! length is not fixed, so that two messages cannot share bytes.

use bytes::Bytes;
use prost::Message as _;

use crate::v1;

/// Ed25519 label of a signed enrolment set.
pub const LABEL_ENROLMENT_SET: &str = "reduit/v1/enrolment-set";
/// Ed25519 label of a lease token, over [`lease_token`].
pub const LABEL_LEASE_TOKEN: &str = "reduit/v1/lease-token";
/// Ed25519 label of a block receipt, over the encoded body.
pub const LABEL_RECEIPT: &str = "reduit/v1/receipt";
/// Ed25519 label of a statement on stream commitments, over the encoded `HeaderStatement`.
pub const LABEL_ATTEST_HEADERS: &str = "reduit/v1/attest-headers";
/// Ed25519 label of an approval, over the encoded body.
pub const LABEL_APPROVAL: &str = "reduit/v1/approval";
/// Ed25519 label of a session offer, over [`session_offer`].
pub const LABEL_SESSION_OFFER: &str = "reduit/v1/session-offer";
/// Ed25519 label of a session answer, over [`session_answer`].
pub const LABEL_SESSION: &str = "reduit/v1/session";
/// Ed25519 label of a sealed replica's request to be unsealed, over [`unseal_offer`].
pub const LABEL_UNSEAL_OFFER: &str = "reduit/v1/unseal-offer";
/// Ed25519 label of the answer to it, over [`unseal_answer`].
pub const LABEL_UNSEAL: &str = "reduit/v1/unseal";

/// Ed25519 label of a custodian's word that a share is erased, over [`share_erased`].
pub const LABEL_SHARE_ERASED: &str = "reduit/v1/share-erased";
/// Ed25519 label of a replica's request for the root key under way, over [`root_offer`].
pub const LABEL_ROOT_OFFER: &str = "reduit/v1/root-offer";

/// Ed25519 label of a batch of keys that are handed over, over [`hand_over_batch`].
pub const LABEL_HAND_OVER: &str = "reduit/v1/hand-over";
/// Ed25519 label of a hand-over key's public half, over [`hand_over_key`].
pub const LABEL_HAND_OVER_KEY: &str = "reduit/v1/hand-over-key";
/// Ed25519 label of a KMS replica's word on a relocation, over the encoded `HandOverState`.
pub const LABEL_HAND_OVER_STATE: &str = "reduit/v1/hand-over-state";

/// Ed25519 label of a node's word on a relocation out of its shard, over the encoded `DepartureState`.
pub const LABEL_DEPARTURE_STATE: &str = "reduit/v1/departure-state";
/// Ed25519 label of a node's word on a relocation into its shard, over the encoded `ArrivalState`.
pub const LABEL_ARRIVAL_STATE: &str = "reduit/v1/arrival-state";

/// Ed25519 label of an operator's notice of a relocation that is planned, over the statement's bytes.
pub const LABEL_RELOCATION_NOTICE: &str = "reduit/v1/relocation-notice";

/// Label of an access key's id, over [`access_key_id`].
pub const LABEL_ACCESS_KEY_ID: &str = "reduit/v1/access-key-id";

/// Ed25519 label of what a region says of itself, over the encoded descriptor.
pub const LABEL_REGION_DESCRIPTOR: &str = "reduit/v1/region-descriptor";
/// Label of a descriptor's fingerprint, over [`region_fingerprint`].
pub const LABEL_REGION_FINGERPRINT: &str = "reduit/v1/region-fingerprint";

/// Label of the proof that a holder of a root key made a backup, over [`backup_made`].
pub const LABEL_BACKUP_MADE: &str = "reduit/v1/backup-made";

/// Ed25519 label of a warrant for a restore of datasets, over the encoded body.
pub const LABEL_RESTORE_WARRANT: &str = "reduit/v1/restore-warrant";

/// First parts of `SessionInfo::of` between a caller and a KMS replica.
pub const SESSION_PURPOSE: &[u8] = b"reduit/v1/kms-session";
/// First part of `SessionInfo::of` between a sealed and an unsealed KMS replica.
pub const UNSEAL_PURPOSE: &[u8] = b"reduit/v1/kms-unseal";

/// First part of `SessionInfo::of` of a batch of keys that are handed over.
pub const HAND_OVER_PURPOSE: &[u8] = b"reduit/v1/hand-over-batch";

/// First part of `HpkeInfo::of` of a share sealed to its custodian.
pub const CUSTODIAN_SHARE_PURPOSE: &[u8] = b"reduit/v1/custodian-share";
/// First part of `HpkeInfo::of` of a share sealed to a sealed replica.
pub const UNSEAL_SHARE_PURPOSE: &[u8] = b"reduit/v1/unseal-share";
/// First part of `HpkeInfo::of` of a share shown to the leader.
pub const CONFIRM_SHARE_PURPOSE: &[u8] = b"reduit/v1/confirm-share";
/// First part of `HpkeInfo::of` of a half sealed to its holder.
pub const HOLDER_HALF_PURPOSE: &[u8] = b"reduit/v1/holder-half";
/// First part of `HpkeInfo::of` of a half sealed to a sealed replica.
pub const UNSEAL_HALF_PURPOSE: &[u8] = b"reduit/v1/unseal-half";
/// First part of `SessionInfo::of` between a replica that asks for the root key under way and the leader.
pub const ROOT_PURPOSE: &[u8] = b"reduit/v1/kms-root";

fn fields(parts: &[&[u8]]) -> Vec<u8> {
    let mut out = Vec::with_capacity(parts.iter().map(|part| part.len() + 4).sum());
    for part in parts {
        let length = u32::try_from(part.len()).expect("parts of a transcript are small");
        out.extend_from_slice(&length.to_be_bytes());
        out.extend_from_slice(part);
    }
    out
}

/// What the proof of a backup covers: label and record.
pub fn backup_made(region: &str, backup: &v1::BackupRecord) -> Vec<u8> {
    fields(&[
        LABEL_BACKUP_MADE.as_bytes(),
        region.as_bytes(),
        &backup.encode_to_vec(),
    ])
}

/// What a lease token's signature covers: header and wrapped key, each length-prefixed.
pub fn lease_token(header: &[u8], wrapped: &[u8]) -> Vec<u8> {
    fields(&[header, wrapped])
}

/// What a caller signs when it offers a session to the replica of that identity.
pub fn session_offer(offer: &[u8], replica: &str) -> Vec<u8> {
    fields(&[offer, replica.as_bytes()])
}

/// What the replica signs: the offer it answers, and its answer.
pub fn session_answer(offer: &[u8], answer: &v1::OpenSessionReply) -> Vec<u8> {
    let expires = answer.expires_at_ms.to_be_bytes();
    fields(&[
        offer,
        &answer.session_id,
        &answer.encapsulated,
        &expires,
        &answer.share_key,
    ])
}

/// The parts of `SessionInfo::of` for a session: everything it is for.
pub fn session_info<'a>(
    region: &'a str,
    caller_key: &'a [u8],
    replica: &'a str,
    offer: &'a [u8],
) -> [&'a [u8]; 5] {
    [
        SESSION_PURPOSE,
        region.as_bytes(),
        caller_key,
        replica.as_bytes(),
        offer,
    ]
}

/// What a sealed replica signs when it asks to be unsealed.
pub fn unseal_offer(offer: &[u8], boot_id: &[u8], replica: &str) -> Vec<u8> {
    fields(&[offer, boot_id, replica.as_bytes()])
}

/// What the unsealed replica signs in its answer.
pub fn unseal_answer(offer: &[u8], answer: &v1::UnsealMeReply) -> Vec<u8> {
    fields(&[
        offer,
        &answer.encapsulated,
        &answer.sealed_root,
        &answer.leaf_index.to_be_bytes(),
    ])
}

/// The parts of `SessionInfo::of` for a peer unseal.
pub fn unseal_info<'a>(
    region: &'a str,
    sealed: &'a str,
    unsealed: &'a str,
    boot_id: &'a [u8],
    offer: &'a [u8],
) -> [&'a [u8]; 6] {
    [
        UNSEAL_PURPOSE,
        region.as_bytes(),
        sealed.as_bytes(),
        unsealed.as_bytes(),
        boot_id,
        offer,
    ]
}

/// The parts of `HpkeInfo::of` for a custodian's share as the init ceremony seals it to the custodian's enrolled
/// key: the region, the public record of the split (which holds the root epoch), the share's index and whose it is.
pub fn custodian_share_info<'a>(
    region: &'a str,
    share_set: &'a [u8],
    index: &'a [u8; 4],
    custodian: &'a str,
) -> [&'a [u8]; 5] {
    [
        CUSTODIAN_SHARE_PURPOSE,
        region.as_bytes(),
        share_set,
        index,
        custodian.as_bytes(),
    ]
}

/// The parts of `HpkeInfo::of` for a custodian's share on its way into a sealed replica, sealed to the `share_key`
/// of the session's answer; the additional data is [`session_aad`].
pub fn unseal_share_info<'a>(
    region: &'a str,
    custodian: &'a str,
    replica: &'a str,
    session_id: &'a [u8],
) -> [&'a [u8]; 5] {
    [
        UNSEAL_SHARE_PURPOSE,
        region.as_bytes(),
        custodian.as_bytes(),
        replica.as_bytes(),
        session_id,
    ]
}

/// The parts of `HpkeInfo::of` for a share of the split under way that its custodian shows to the leader: as
/// [`unseal_share_info`], for another purpose, and naming the split.
pub fn confirm_share_info<'a>(
    region: &'a str,
    custodian: &'a str,
    replica: &'a str,
    session_id: &'a [u8],
    set_id: &'a [u8],
) -> [&'a [u8]; 6] {
    [
        CONFIRM_SHARE_PURPOSE,
        region.as_bytes(),
        custodian.as_bytes(),
        replica.as_bytes(),
        session_id,
        set_id,
    ]
}

/// The parts of `HpkeInfo::of` for the person's half of a token's seal, as it is handed out: the region, the seal and
/// whose it is.
pub fn holder_half_info<'a>(region: &'a str, seal_id: &'a [u8], holder: &'a str) -> [&'a [u8]; 4] {
    [
        HOLDER_HALF_PURPOSE,
        region.as_bytes(),
        seal_id,
        holder.as_bytes(),
    ]
}

/// The parts of `HpkeInfo::of` for that half on its way into a sealed replica, as [`unseal_share_info`] for a share.
pub fn unseal_half_info<'a>(
    region: &'a str,
    holder: &'a str,
    replica: &'a str,
    session_id: &'a [u8],
    seal_id: &'a [u8],
) -> [&'a [u8]; 6] {
    [
        UNSEAL_HALF_PURPOSE,
        region.as_bytes(),
        holder.as_bytes(),
        replica.as_bytes(),
        session_id,
        seal_id,
    ]
}

/// What a custodian signs once its share of a split is erased, every copy of it included.
pub fn share_erased(
    region: &str,
    custodian: &str,
    root_epoch: u32,
    set_id: &[u8],
    index: u32,
) -> Vec<u8> {
    fields(&[
        region.as_bytes(),
        custodian.as_bytes(),
        &root_epoch.to_be_bytes(),
        set_id,
        &index.to_be_bytes(),
    ])
}

/// What a replica signs when it asks for the root key under way.
pub fn root_offer(offer: &[u8], boot_id: &[u8], replica: &str, set_id: &[u8]) -> Vec<u8> {
    fields(&[offer, boot_id, replica.as_bytes(), set_id])
}

/// The parts of `SessionInfo::of` for sending the root key under way.
pub fn root_info<'a>(
    region: &'a str,
    asker: &'a str,
    sender: &'a str,
    boot_id: &'a [u8],
    offer: &'a [u8],
    set_id: &'a [u8],
) -> [&'a [u8]; 7] {
    [
        ROOT_PURPOSE,
        region.as_bytes(),
        asker.as_bytes(),
        sender.as_bytes(),
        boot_id,
        offer,
        set_id,
    ]
}

/// What a hand-over asks for: the SHA-256 of this names its batch.
pub fn hand_over_asked(request: &v1::HandOverRequest) -> Vec<u8> {
    fields(&[b"reduit/v1/hand-over-asked", &request.encode_to_vec()])
}

/// The parts of `SessionInfo::of` for a batch of keys that are handed over: everything it is for. `asked` is the SHA-256
/// of [`hand_over_asked`].
pub fn hand_over_info<'a>(
    source: &'a str,
    destination: &'a str,
    request: &'a v1::HandOverRequest,
    asked: &'a [u8],
) -> [&'a [u8]; 7] {
    [
        HAND_OVER_PURPOSE,
        source.as_bytes(),
        destination.as_bytes(),
        &request.relocation_id,
        &request.dataset_id,
        &request.hand_over_key_id,
        asked,
    ]
}

/// Additional data of a key that is handed over: the batch that it is of.
pub fn hand_over_aad(asked: &[u8]) -> Vec<u8> {
    fields(&[b"reduit/v1/handed-over-key", asked])
}

/// What the source's replica signs of a batch: what was asked, by its SHA-256, and all that it answers.
pub fn hand_over_batch(
    source: &str,
    destination: &str,
    asked: &[u8],
    batch: &v1::HandOverBatch,
) -> Vec<u8> {
    let leaf = batch.leaf_index.to_be_bytes();
    let mut parts: Vec<&[u8]> = vec![
        source.as_bytes(),
        destination.as_bytes(),
        asked,
        &batch.encapsulated[..],
        &leaf[..],
    ];
    parts.extend(batch.keys.iter().map(|key| &key.sealed_dek[..]));
    let versions: Vec<_> = batch
        .metadata_keys
        .iter()
        .map(|key| key.version.to_be_bytes())
        .collect();
    for (key, version) in batch.metadata_keys.iter().zip(&versions) {
        parts.extend([&b"metadata"[..], &version[..], &key.sealed[..]]);
    }
    fields(&parts)
}

/// What a destination's replica signs of a hand-over key: for whom and for what it was made, and its public half.
pub fn hand_over_key(destination: &str, key: &v1::HandOverKeyRecord) -> Vec<u8> {
    fields(&[
        destination.as_bytes(),
        key.source.as_bytes(),
        &key.relocation_id,
        &key.dataset_id,
        &key.hand_over_key_id,
        &key.public_key,
    ])
}

/// What an approval's `request_hash` is the SHA-256 of: the method's name and the request's encoding with its
/// approvals left out, so that an approval of one method is none of another.
pub fn approved_request(method: &str, request_without_approvals: &[u8]) -> Vec<u8> {
    fields(&[
        b"reduit/v1/approved-request",
        method.as_bytes(),
        request_without_approvals,
    ])
}

/// What an approval of an open is of: who asks, and everything asked for. Not the session, which a retry at another
/// replica has anew.
pub fn approved_open(actor: &str, request: &v1::OpenRequest) -> Vec<u8> {
    let claim = v1::Claim {
        actor: actor.to_owned(),
        ..request.claim.clone().unwrap_or_default()
    };
    let bound = v1::OpenRequest {
        session_id: Bytes::new(),
        approvals: Vec::new(),
        claim: Some(claim),
        ..request.clone()
    };
    approved_request("Open", &bound.encode_to_vec())
}

/// What an approval of a new access key is of: who asks, to whom alone its secret is shown, and everything asked for. Not
/// the session, which a retry at another replica has anew.
pub fn approved_access_key(actor: &str, request: &v1::CreateAccessKeyRequest) -> Vec<u8> {
    let claim = v1::Claim {
        actor: actor.to_owned(),
        ..request.claim.clone().unwrap_or_default()
    };
    let bound = v1::CreateAccessKeyRequest {
        session_id: Bytes::new(),
        approvals: Vec::new(),
        claim: Some(claim),
        ..request.clone()
    };
    approved_request("CreateAccessKey", &bound.encode_to_vec())
}

/// What an access key's id is hashed from: the single-use id of the request that makes it, which serves once and is kept
/// for ever. So what was decided about one access key is never found to be about another of its id.
pub fn access_key_id(single_use_id: &[u8]) -> Vec<u8> {
    fields(&[LABEL_ACCESS_KEY_ID.as_bytes(), single_use_id])
}

/// What the approval of a peer unseal hashes: which replica, in which life, with which offer (by its SHA-256).
pub fn approved_unseal(replica: &str, boot_id: &[u8], offer_hash: &[u8]) -> Vec<u8> {
    fields(&[
        b"reduit/v1/approved-unseal",
        replica.as_bytes(),
        boot_id,
        offer_hash,
    ])
}

/// What a DSSE signature is over (DSSE v1, PAE): `DSSEv1 <length> <type> <length> <payload>`. No label of this module begins
/// so, and no handshake does: an enrolled key may sign all three.
pub fn dsse(payload_type: &str, payload: &[u8]) -> Vec<u8> {
    let (of_type, of_payload) = (payload_type.len(), payload.len());
    let mut encoded = format!("DSSEv1 {of_type} {payload_type} {of_payload} ").into_bytes();
    encoded.extend_from_slice(payload);
    encoded
}

/// What a region's descriptor is known by among people: the SHA-256 of this. Its signature is no part of it, so that two
/// signatures of one statement are one fingerprint.
pub fn region_fingerprint(descriptor: &[u8]) -> Vec<u8> {
    fields(&[LABEL_REGION_FINGERPRINT.as_bytes(), descriptor])
}

/// What operators approve for an unseal by a token: which replica, in which life, by which seal.
pub fn approved_token_unseal(replica: &str, boot_id: &[u8], seal_id: &[u8]) -> Vec<u8> {
    fields(&[
        b"reduit/v1/approved-token-unseal",
        replica.as_bytes(),
        boot_id,
        seal_id,
    ])
}

/// Additional data of a key sent in a session: the session's id, so that a key of one is not taken in another.
pub fn session_aad(session_id: &[u8]) -> Vec<u8> {
    fields(&[b"reduit/v1/session-key", session_id])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_length_prefixed_so_that_no_two_lists_share_bytes() {
        assert_eq!(fields(&[b"a", b"bc"]), b"\0\0\0\x01a\0\0\0\x02bc");
        assert_ne!(fields(&[b"ab", b"c"]), fields(&[b"a", b"bc"]));
        assert_eq!(lease_token(b"h", b"w"), b"\0\0\0\x01h\0\0\0\x01w");
    }

    /// What is signed of a batch says where it comes from and goes, and every key in its place.
    #[test]
    fn a_batch_is_signed_with_both_regions_and_each_key_in_its_place() {
        let key = |byte: u8| v1::OpenedKey {
            sealed_dek: vec![byte; 2].into(),
        };
        let batch = v1::HandOverBatch {
            encapsulated: Bytes::from_static(b"e"),
            keys: vec![key(1), key(2)],
            leaf_index: 3,
            ..v1::HandOverBatch::default()
        };
        let signed = |batch: &v1::HandOverBatch| hand_over_batch("s", "d", b"a", batch);
        assert_eq!(
            signed(&batch),
            b"\0\0\0\x01s\0\0\0\x01d\0\0\0\x01a\0\0\0\x01e\0\0\0\x08\0\0\0\0\0\0\0\x03\
              \0\0\0\x02\x01\x01\0\0\0\x02\x02\x02"
        );
        let swapped = v1::HandOverBatch {
            keys: vec![key(2), key(1)],
            ..batch.clone()
        };
        assert_ne!(signed(&batch), signed(&swapped));
        assert_ne!(signed(&batch), hand_over_batch("d", "s", b"a", &batch));
        let metadata = |version| v1::HandOverBatch {
            metadata_keys: vec![v1::SealedMetadataKey {
                version,
                sealed: Bytes::from_static(b"s"),
            }],
            ..batch.clone()
        };
        assert_ne!(signed(&metadata(1)), signed(&batch));
        assert_ne!(signed(&metadata(1)), signed(&metadata(2)));
    }

    /// Approved for one operator, it shows the secret to no other; a retry in another session is the same request.
    #[test]
    fn an_approved_access_key_is_bound_to_who_asks_and_to_no_session() {
        let request = v1::CreateAccessKeyRequest {
            principal: "spiffe://ch-zrh/service/backup".to_owned(),
            ..v1::CreateAccessKeyRequest::default()
        };
        let approved = approved_access_key("a", &request);
        assert_ne!(approved, approved_access_key("b", &request));
        let again = v1::CreateAccessKeyRequest {
            session_id: Bytes::from_static(b"another"),
            approvals: vec![v1::Approval::default()],
            ..request.clone()
        };
        assert_eq!(approved, approved_access_key("a", &again));
        let other = v1::CreateAccessKeyRequest {
            principal: "spiffe://ch-zrh/service/other".to_owned(),
            ..request
        };
        assert_ne!(approved, approved_access_key("a", &other));
    }
}
