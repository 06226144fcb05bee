//! The lifecycle of a bucket: rules that the shard goes by itself, whichever gateways run.

use client::ids::DatasetName;
use proto::v1;

use super::Front;
use crate::error::ApiError;

impl Front {
    /// The rules, those that are off among them.
    pub(crate) async fn lifecycle(&self, name: &DatasetName) -> Result<v1::Lifecycle, ApiError> {
        let bucket = self.bucket(name).await?;
        let rules = bucket.dataset.lifecycle().await;
        let rules = self.answer(name, rules).await?;
        match rules.rules.is_empty() {
            true => Err(ApiError::NoSuchLifecycleConfiguration),
            false => Ok(rules),
        }
    }

    /// Sets the rules in place of those there are; none ends them.
    pub(crate) async fn set_lifecycle(
        &self,
        name: &DatasetName,
        rules: &v1::Lifecycle,
    ) -> Result<(), ApiError> {
        let bucket = self.bucket(name).await?;
        let done = bucket.dataset.set_lifecycle(rules).await;
        self.answer(name, done).await
    }
}
