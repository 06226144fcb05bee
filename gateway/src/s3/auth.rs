//! Who signs: secrets for `s3s`, and who the signer is for us.

use std::sync::{Arc, OnceLock};

use s3s::access::{S3Access, S3AccessContext};
use s3s::auth::{S3Auth, SecretKey};
use s3s::{S3Request, S3Result};

use super::adapter::Adapter;
use crate::access::HeldKeys;
use crate::error::ApiError;
use crate::front::Caller;
use crate::signing;

/// What SDKs of S3 name all tries of one request by.
const INVOCATION_ID: &str = "amz-sdk-invocation-id";
/// Bytes of such a name at most.
const INVOCATION_ID_MAX: usize = 128;

/// Gives `s3s` the secrets that signatures are checked with.
pub(super) struct Secrets(pub(super) Arc<HeldKeys>);

#[async_trait::async_trait]
impl S3Auth for Secrets {
    async fn get_secret_key(&self, access_key: &str) -> S3Result<SecretKey> {
        let grant = self.0.grant(access_key).await.map_err(ApiError::from)?;
        Ok(SecretKey::from(grant.secret.text().as_str()))
    }
}

/// What becomes known of a request on its way, for the access log and the metrics.
#[derive(Debug, Clone, Default)]
pub(crate) struct Noted(Arc<OnceLock<(String, String)>>);

impl Noted {
    /// A preflight, which nobody signs.
    pub(super) fn preflight(&self) {
        let _ = self.0.set(("Preflight".to_owned(), String::new()));
    }

    /// Operation and access key id, once the signature was checked.
    pub(crate) fn known(&self) -> Option<(&str, &str)> {
        self.0.get().map(|(op, key)| (op.as_str(), key.as_str()))
    }
}

/// Refuses whatever is not signed, or not signed whole.
pub(super) struct SignedOnly;

#[async_trait::async_trait]
impl S3Access for SignedOnly {
    async fn check(&self, cx: &mut S3AccessContext<'_>) -> S3Result<()> {
        let Some(credentials) = cx.credentials() else {
            return Err(ApiError::AccessDenied.into());
        };
        signing::covers(cx.uri(), cx.headers())?;
        let known = (cx.s3_op().name().to_owned(), credentials.access_key.clone());
        if let Some(noted) = cx.extensions_mut().get::<Noted>() {
            let _ = noted.0.set(known);
        }
        Ok(())
    }
}

impl Adapter {
    /// Who asks. Refused where the signature is for another region: S3 says which one it should be.
    pub(super) async fn caller<T>(&self, request: &S3Request<T>) -> Result<Caller, ApiError> {
        let credentials = request.credentials.as_ref().ok_or(ApiError::AccessDenied)?;
        let region = self.shared.region_id();
        let scope = request.region.as_ref().map(|region| region.as_str());
        if scope != Some(region.as_str()) || request.service.as_deref() != Some("s3") {
            return Err(ApiError::AuthorizationHeaderMalformed(region.clone()));
        }
        let grant = self.keys.grant(&credentials.access_key).await?;
        let id = request.headers.get(INVOCATION_ID);
        let id = id
            .and_then(|id| id.to_str().ok())
            .filter(|id| (1..=INVOCATION_ID_MAX).contains(&id.len()));
        Ok(Caller {
            principal: grant.principal.clone(),
            invocation_id: id.map(str::to_owned),
        })
    }
}
