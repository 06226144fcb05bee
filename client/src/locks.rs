//! Object lock and settings of a dataset.
//!
//! Owns their types on this side. Refuses nothing: what may be locked, ended or changed is the shard's to say.

use bytes::Bytes;
use prost::Message as _;
use proto::ids::{ObjectKey, ObjectVersionId, UnixMs};
use proto::v1;

use crate::dataset::{Dataset, Deleted, Invocation, Precondition};
use crate::error::Error;
use crate::region::random;

/// Who may end a retention earlier.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RetentionMode {
    /// Who may change keys in the dataset.
    Governance,
    /// Nobody: it is extended alone.
    Compliance,
}

impl RetentionMode {
    fn wire(self) -> v1::RetentionMode {
        match self {
            Self::Governance => v1::RetentionMode::Governance,
            Self::Compliance => v1::RetentionMode::Compliance,
        }
    }
}

/// Until when a version is not removed, by the region's time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Retention {
    /// Who may end it earlier.
    pub mode: RetentionMode,
    /// When it ends.
    pub until: UnixMs,
}

impl Retention {
    pub(crate) fn wire(self) -> v1::Retention {
        v1::Retention {
            mode: self.mode.wire().into(),
            until_ms: self.until.0,
        }
    }

    /// What is held of a version, if it is of a kind this build knows.
    pub(crate) fn of(held: v1::Retention) -> Option<Self> {
        let mode = match held.mode() {
            v1::RetentionMode::Governance => RetentionMode::Governance,
            v1::RetentionMode::Compliance => RetentionMode::Compliance,
            v1::RetentionMode::Unspecified => return None,
        };
        Some(Self {
            mode,
            until: UnixMs(held.until_ms),
        })
    }
}

/// One setting of a dataset, as it was written.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Setting {
    /// Its version: 0 where it was never set.
    pub version: u64,
    /// Its content; empty where it was removed.
    pub content: Bytes,
    /// When it was changed.
    pub changed_at: UnixMs,
}

impl Dataset {
    /// Turns object lock on, and versioning with it, for ever; `default` is how versions put without a retention are
    /// kept from now on: how, and for how many days.
    pub async fn set_object_lock(
        &self,
        default: Option<(RetentionMode, u32)>,
    ) -> Result<(), Error> {
        let lock = match default {
            Some((mode, days)) => v1::ObjectLock {
                default_mode: mode.wire().into(),
                default_days: days,
            },
            None => v1::ObjectLock::default(),
        };
        let request = v1::SetObjectLockRequest {
            shard: self.shard().0,
            dataset_id: self.id().into(),
            lock: Some(lock),
        };
        self.write(|mut shard| {
            let request = request.clone();
            async move { Ok(shard.set_object_lock(request).await?.into_inner()) }
        })
        .await
        .map(drop)
    }

    /// Sets a version's retention, or ends it. To end it earlier takes `bypass_governance`, and who may.
    pub async fn set_retention(
        &self,
        key: &ObjectKey,
        version: ObjectVersionId,
        retention: Option<Retention>,
        bypass_governance: bool,
    ) -> Result<(), Error> {
        let request = v1::SetRetentionRequest {
            shard: self.shard().0,
            request_id: Bytes::new(),
            dataset_id: self.id().into(),
            key: key.as_str().to_owned(),
            version_id: version.into(),
            retention: retention.map(Retention::wire),
            bypass_governance,
        };
        self.write_once(&mut self.request_id(None)?, |mut shard, request_id| {
            let request = v1::SetRetentionRequest {
                request_id,
                ..request.clone()
            };
            async move { Ok(shard.set_retention(request).await?.into_inner()) }
        })
        .await
        .map(drop)
    }

    /// Puts a version under a legal hold, or lifts it.
    pub async fn set_legal_hold(
        &self,
        key: &ObjectKey,
        version: ObjectVersionId,
        on: bool,
    ) -> Result<(), Error> {
        let request = v1::SetLegalHoldRequest {
            shard: self.shard().0,
            request_id: Bytes::new(),
            dataset_id: self.id().into(),
            key: key.as_str().to_owned(),
            version_id: version.into(),
            on,
        };
        self.write_once(&mut self.request_id(None)?, |mut shard, request_id| {
            let request = v1::SetLegalHoldRequest {
                request_id,
                ..request.clone()
            };
            async move { Ok(shard.set_legal_hold(request).await?.into_inner()) }
        })
        .await
        .map(drop)
    }

    /// Removes a version though governance retention keeps it, for who may. The request id is of the caller's own retries,
    /// where it names them.
    pub async fn delete_bypassing_governance(
        &self,
        key: &ObjectKey,
        version: ObjectVersionId,
        precondition: Precondition,
        invocation: Option<Invocation>,
    ) -> Result<Deleted, Error> {
        let invocation = match invocation {
            Some(invocation) => invocation,
            None => Invocation(random()?),
        };
        let how = (invocation, true);
        self.delete_with(key, Some(version), precondition, how)
            .await
    }

    /// A setting as it stands.
    pub async fn setting(&self, kind: v1::ConfigKind) -> Result<Setting, Error> {
        let request = v1::ReadConfigRequest {
            shard: self.shard().0,
            dataset_id: self.id().into(),
            kind: kind.into(),
        };
        let reply = self
            .ask_shard(|mut shard| {
                let request = self.0.stated.of(request.clone());
                async move { Ok(shard.read_config(request).await?.into_inner()) }
            })
            .await?;
        let held = reply.config.unwrap_or_default();
        Ok(Setting {
            version: held.version,
            content: held.content,
            changed_at: UnixMs(held.changed_at_ms),
        })
    }

    /// Changes a setting, where it is of version `from`, or whatever it is; empty content removes it.
    pub async fn set_setting(
        &self,
        kind: v1::ConfigKind,
        content: impl Into<Bytes>,
        from: Option<u64>,
    ) -> Result<(), Error> {
        let request = v1::SetConfigRequest {
            shard: self.shard().0,
            dataset_id: self.id().into(),
            kind: kind.into(),
            content: content.into(),
            from_version: from.unwrap_or_default(),
            any_version: from.is_none(),
        };
        self.write(|mut shard| {
            let request = request.clone();
            async move { Ok(shard.set_config(request).await?.into_inner()) }
        })
        .await
        .map(drop)
    }

    /// The lifecycle rules of the dataset, those that are off among them.
    pub async fn lifecycle(&self) -> Result<v1::Lifecycle, Error> {
        let held = self.setting(v1::ConfigKind::Lifecycle).await?;
        v1::Lifecycle::decode(held.content).map_err(|_| Error::Protocol {
            what: "a lifecycle of an unknown format",
        })
    }

    /// Sets the lifecycle rules, by which the shard ends versions, markers and uploads; none ends them.
    pub async fn set_lifecycle(&self, rules: &v1::Lifecycle) -> Result<(), Error> {
        let kind = v1::ConfigKind::Lifecycle;
        self.set_setting(kind, rules.encode_to_vec(), None).await
    }

    /// Bounds what the dataset may hold; 0 is no bound.
    pub async fn set_quota(&self, objects_max: u64, sealed_bytes_max: u64) -> Result<(), Error> {
        let request = v1::SetQuotaRequest {
            shard: self.shard().0,
            dataset_id: self.id().into(),
            quota: Some(v1::Quota {
                objects_max,
                sealed_bytes_max,
            }),
        };
        self.write(|mut shard| {
            let request = request.clone();
            async move { Ok(shard.set_quota(request).await?.into_inner()) }
        })
        .await
        .map(drop)
    }
}
