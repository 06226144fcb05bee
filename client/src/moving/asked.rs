//! What of a relocation takes approvals, as its approvers see it.
//!
//! Owns which request each is, under which name it is approved, and what a person is shown of it. Refuses a request that names
//! no relocation.

use bytes::Bytes;
use prost::Message;
use proto::relocation::Named;
use proto::v1;

use crate::error::Error;
use crate::operator::request_hash;

/// A step of a relocation that takes approvals.
#[derive(Debug, Clone, PartialEq)]
pub enum MoveAsked {
    /// In the destination: a key to receive keys under.
    HandOverKey(v1::CreateHandOverKeyRequest),
    /// In the source: keys may be handed over to that key.
    Grant(Box<v1::GrantHandOverRequest>),
    /// In the destination: the source's keys may be destroyed.
    Shred(v1::ArrivalStepRequest),
    /// In the source: the end of its key.
    ShredKey(v1::ShredKeyRequest),
}

impl MoveAsked {
    /// The name under which approvers sign it.
    pub(crate) fn method(&self) -> &'static str {
        match self {
            Self::HandOverKey(_) => "CreateHandOverKey",
            Self::Grant(_) => "GrantHandOver",
            Self::Shred(_) => "ShredRelocation",
            Self::ShredKey(_) => "ShredKey",
        }
    }

    pub(crate) fn encode(&self) -> Vec<u8> {
        match self {
            Self::HandOverKey(request) => request.encode_to_vec(),
            Self::Grant(request) => request.encode_to_vec(),
            Self::Shred(request) => request.encode_to_vec(),
            Self::ShredKey(request) => request.encode_to_vec(),
        }
    }

    /// `None` of a method that is none of these.
    pub(crate) fn decode(method: &str, bytes: Bytes) -> Option<Result<Self, Error>> {
        fn decoded<M: Message + Default>(bytes: Bytes) -> Result<M, Error> {
            M::decode(bytes).map_err(|_| super::malformed("that file is no request for approvals"))
        }
        let asked = match method {
            "CreateHandOverKey" => decoded(bytes).map(Self::HandOverKey),
            "GrantHandOver" => decoded(bytes).map(|request| Self::Grant(Box::new(request))),
            "ShredRelocation" => decoded(bytes).and_then(|request: v1::ArrivalStepRequest| {
                let shreds = matches!(request.step, Some(v1::arrival_step_request::Step::Shred(_)));
                let none = "it asks for a step that takes no approvals";
                let asked = shreds.then_some(Self::Shred(request));
                asked.ok_or_else(|| super::malformed(none))
            }),
            "ShredKey" => decoded(bytes).map(Self::ShredKey),
            _ => return None,
        };
        Some(asked.and_then(|asked| asked.named().map(|_| asked)))
    }

    pub(crate) fn hash(&self) -> [u8; 32] {
        match self {
            Self::HandOverKey(request) => request_hash(self.method(), request),
            Self::Grant(request) => request_hash(self.method(), &**request),
            Self::Shred(request) => request_hash(self.method(), request),
            Self::ShredKey(request) => request_hash(self.method(), request),
        }
    }

    pub(crate) fn single_use_id(&self) -> Bytes {
        match self {
            Self::HandOverKey(request) => request.single_use_id.clone(),
            Self::Grant(request) => request.single_use_id.clone(),
            Self::Shred(request) => request.single_use_id.clone(),
            Self::ShredKey(request) => request.single_use_id.clone(),
        }
    }

    /// Of which relocation it is.
    pub fn named(&self) -> Result<Named, Error> {
        let (dataset, relocation) = match self {
            Self::HandOverKey(request) => (&request.dataset_id, &request.relocation_id),
            Self::Grant(request) => {
                let key = request.key.as_ref().and_then(|signed| signed.key.as_ref());
                let none = || super::malformed("it grants keys to no hand-over key");
                let key = key.ok_or_else(none)?;
                (&key.dataset_id, &key.relocation_id)
            }
            Self::Shred(request) => {
                let none = || super::malformed("it names no relocation");
                let of = request.of.as_ref().ok_or_else(none)?;
                (&of.dataset_id, &of.relocation_id)
            }
            Self::ShredKey(request) => (&request.dataset_id, &request.relocation_id),
        };
        Ok(Named::parse(dataset, relocation)?)
    }

    /// As names and values in the order in which an approver reads them.
    pub(crate) fn shown(&self) -> Vec<(&'static str, String)> {
        let named = self.named().ok();
        let of = named.map(|named| (named.dataset.to_string(), named.relocation.to_string()));
        let (dataset, relocation) = of.unwrap_or_default();
        let asks = |what: &str| {
            vec![
                ("asks to", what.to_owned()),
                ("dataset id", dataset.clone()),
                ("relocation", relocation.clone()),
            ]
        };
        match self {
            Self::HandOverKey(request) => {
                let what = "let a dataset of another region move here, and make the key that it comes under";
                let mut shown = asks(what);
                shown.extend([
                    ("from region", request.source.clone()),
                    ("version", request.descriptor_version.to_string()),
                    ("fingerprint", hex::encode(&request.descriptor_fingerprint)),
                ]);
                shown
            }
            Self::Grant(request) => {
                let what = "let a dataset move to another region, with every key of its objects";
                let mut shown = asks(what);
                let signed = request.key.clone().unwrap_or_default();
                let key = signed.key.unwrap_or_default();
                shown.extend([
                    ("to region", signed.destination),
                    ("version", request.descriptor_version.to_string()),
                    ("fingerprint", hex::encode(&request.descriptor_fingerprint)),
                    ("hand-over key", hex::encode(&key.hand_over_key_id)),
                ]);
                shown
            }
            Self::Shred(_) => {
                asks("let the other region destroy its keys of a dataset that moved here")
            }
            Self::ShredKey(request) => {
                let mut shown = asks(
                    "destroy the key of a dataset that moved: what is left here opens never again",
                );
                shown.extend([
                    ("in days", request.days.to_string()),
                    (
                        "on words of",
                        format!("{} nodes there", request.served.len()),
                    ),
                ]);
                shown
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::approval::{Approvable, ApprovalRequest};

    fn all() -> Vec<MoveAsked> {
        let id: Bytes = vec![1; 16].into();
        let single_use_id: Bytes = vec![7; 16].into();
        let key = v1::HandOverKeyRecord {
            relocation_id: id.clone(),
            dataset_id: id.clone(),
            ..Default::default()
        };
        vec![
            MoveAsked::HandOverKey(v1::CreateHandOverKeyRequest {
                relocation_id: id.clone(),
                dataset_id: id.clone(),
                source: "ch-zrh".to_owned(),
                single_use_id: single_use_id.clone(),
                ..Default::default()
            }),
            MoveAsked::Grant(Box::new(v1::GrantHandOverRequest {
                key: Some(v1::SignedHandOverKey {
                    destination: "de-fra".to_owned(),
                    key: Some(key),
                    ..Default::default()
                }),
                single_use_id: single_use_id.clone(),
                ..Default::default()
            })),
            MoveAsked::Shred(v1::ArrivalStepRequest {
                of: Some(v1::Relocated {
                    shard: 4,
                    dataset_id: id.clone(),
                    relocation_id: id.clone(),
                }),
                single_use_id: single_use_id.clone(),
                step: Some(v1::arrival_step_request::Step::Shred(
                    v1::ShredRelocation::default(),
                )),
                ..Default::default()
            }),
            MoveAsked::ShredKey(v1::ShredKeyRequest {
                relocation_id: id.clone(),
                dataset_id: id,
                days: 7,
                single_use_id,
                ..Default::default()
            }),
        ]
    }

    #[test]
    fn each_step_comes_back_from_its_file_with_the_hash_that_its_approvers_sign() {
        for asked in all() {
            let request = ApprovalRequest {
                region: "ch-zrh".parse().expect("a region"),
                requester: "spiffe://ch-zrh/operator/anna".parse().expect("one"),
                what: Approvable::Relocation {
                    asked: asked.clone(),
                },
            };
            let again = ApprovalRequest::parse(&request.to_text()).expect("its own file");
            assert_eq!((&again, again.hash()), (&request, request.hash()));
            assert_eq!(asked.single_use_id()[..], [7; 16]);
            let shown = again.shown();
            assert!(shown.iter().any(|(name, _)| *name == "relocation"));
        }
    }

    #[test]
    fn a_step_that_names_no_relocation_or_takes_no_approval_is_refused() {
        let id: Bytes = vec![1; 16].into();
        let named = v1::Relocated {
            shard: 0,
            dataset_id: id.clone(),
            relocation_id: id,
        };
        let step = |step| v1::ArrivalStepRequest {
            of: Some(named.clone()),
            step: Some(step),
            ..Default::default()
        };
        let abort = step(v1::arrival_step_request::Step::Abort(true));
        let abort = MoveAsked::decode("ShredRelocation", abort.encode_to_vec().into());
        assert!(abort.expect("that method").is_err());
        for method in ["CreateHandOverKey", "GrantHandOver", "ShredKey"] {
            let none = MoveAsked::decode(method, Bytes::new());
            assert!(none.expect("that method").is_err(), "{method}");
        }
        assert!(MoveAsked::decode("Open", Bytes::new()).is_none());
    }
}
