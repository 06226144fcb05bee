//! Aliases and tags of dataset keys.
//!
//! Owns what a change of them asks of policy, and the look-up of a key by an alias. Refuses what is out of bounds before
//! anything is recorded: a name is for people to read, and everybody who may see the key sees it.

use bytes::Bytes;
use proto::ids::DatasetId;
use proto::store::Reader;
use proto::v1;
use transport::Peer;

use crate::core::Core;
use crate::keys::{KeyError, claim, dataset, named};

impl Core {
    /// Changes the aliases and tags of a key. A retry has effect once.
    pub(crate) async fn label_key(
        &self,
        peer: &Peer,
        request: v1::LabelKeyRequest,
    ) -> Result<v1::KeyInfo, KeyError> {
        self.serving()?;
        self.ledger.leading()?;
        self.at_level(kms_state::LEVEL_LABELS)?;
        let (dataset, request_id) = named(&request.dataset_id, &request.request_id)?;
        if !request.add_aliases.iter().all(|a| kms_state::is_alias(a)) {
            return Err(KeyError::Malformed {
                field: "alias (1 to 64 of a-z 0-9 - _ . and a letter or digit first)",
            });
        }
        if !request.set_tags.iter().all(kms_state::is_tag) {
            return Err(KeyError::Malformed {
                field: "tag (a name of 1 to 64 bytes, a value of at most 256, no control characters)",
            });
        }
        let stated = claim(request.claim, &peer.identity);
        self.change_as_stated(peer, dataset, &stated, "of any state", |_, key| {
            let label = v1::LabelKey {
                dataset_id: dataset.into(),
                state_version: key.state_version,
                add_aliases: request.add_aliases.clone(),
                remove_aliases: request.remove_aliases.clone(),
                set_tags: request.set_tags.clone(),
                remove_tags: request.remove_tags.clone(),
                claim: Some(stated.clone()),
                request_id: Bytes::copy_from_slice(&request_id),
            };
            Ok(v1::kms_command::Command::LabelKey(label))
        })
        .await?;
        self.confirm_shard(dataset).await;
        self.key_info(dataset)
    }

    /// The dataset of a request that names a key by its dataset or by an alias.
    pub(crate) fn dataset_or_alias(
        &self,
        state: &dyn Reader,
        request: &v1::FindKeyRequest,
    ) -> Result<DatasetId, KeyError> {
        if request.alias.is_empty() {
            return dataset(&request.dataset_id);
        }
        if !request.dataset_id.is_empty() {
            return Err(KeyError::Malformed {
                field: "name (a dataset or an alias, not both)",
            });
        }
        kms_state::by_alias(state, &request.alias).ok_or(KeyError::NoSuchAlias)
    }
}
