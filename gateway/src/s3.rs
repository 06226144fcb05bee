//! The border to S3's wire: `s3s` parses requests, checks signatures and writes XML; here its types become ours.
//!
//! Nothing outside of this module names `s3s`, so that it could be replaced. **Invariant:** no rule of S3 is decided
//! here; what has no counterpart on our side is refused with 501, never ignored.

mod adapter;
mod answers;
mod auth;
mod buckets;
mod convert;
mod cors;
mod errors;
mod lifecycle;
mod listing;
mod locks;
mod multipart;
mod objects;
mod requests;
mod tagging;

use std::error::Error;
use std::sync::Arc;

use bytes::Bytes;
use s3s::config::{S3Config, StaticConfigProvider};
use s3s::host::MultiDomain;
use s3s::service::{S3Service, S3ServiceBuilder};

pub(crate) use auth::Noted;
pub(crate) use errors::answer_of;
#[cfg(feature = "fuzzing")]
pub(crate) use requests::copied_range;
/// What `s3s` answers with.
pub(crate) type AnswerBody = s3s::Body;

use crate::access::HeldKeys;
use crate::front::Shared;
use crate::stall::Course;
use adapter::Adapter;

/// Bytes of an XML body: a request that deletes 1,000 keys of 1024 bytes, escaped.
pub(crate) const XML_BYTES_MAX: usize = 4 << 20;
/// The header that says how a body is signed, and its value where it is not.
const CONTENT_HASH: &str = "x-amz-content-sha256";
const UNSIGNED: &str = "UNSIGNED-PAYLOAD";
/// How far a client's clock may be off.
const CLOCK_SKEW_SECONDS: u32 = 900;

/// Why the domains of a configuration were not taken.
#[derive(Debug, thiserror::Error)]
#[error("a domain for virtual-hosted buckets is not valid")]
pub struct DomainError(#[source] s3s::host::DomainError);

/// S3 as a service over HTTP. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Service {
    s3: S3Service,
    shared: Arc<Shared>,
    domains: Option<Arc<MultiDomain>>,
}

impl Service {
    /// Answers one request. An error is of the answer's writing: the connection cannot go on.
    pub(crate) async fn call<B>(
        &self,
        request: http::Request<B>,
        course: &Course,
    ) -> Result<http::Response<AnswerBody>, Box<dyn Error + Send + Sync>>
    where
        B: http_body::Body<Data = Bytes> + Send + 'static,
        B::Error: Error + Send + Sync + 'static,
    {
        let (parts, body) = request.into_parts();
        let bucket = cors::bucket_of(&parts, self.domains.as_deref());
        if parts.method == http::Method::OPTIONS {
            if let Some(noted) = parts.extensions.get::<Noted>() {
                noted.preflight();
            }
            let answer = cors::preflight(&self.shared, &parts.headers, bucket).await;
            return Ok(answer.unwrap_or_else(answer_of));
        }
        let told = cors::told(&self.shared, &parts.method, &parts.headers, bucket).await;
        let hash = parts.headers.get(CONTENT_HASH);
        let hashed = hash.is_some_and(|hash| hash != UNSIGNED);
        let request = http::Request::from_parts(parts, s3s::Body::http_body_unsync(body));
        let answer = self.s3.call(request).await;
        let answer = answer.map_err(Box::<dyn Error + Send + Sync>::from)?;
        let answer = errors::with_region(answer, self.shared.region_id());
        let mut answer = errors::of_body(answer, course, hashed);
        answer.headers_mut().extend(told);
        if answer.extensions().get::<answers::Partial>().is_some() {
            *answer.status_mut() = http::StatusCode::PARTIAL_CONTENT;
        }
        Ok(answer)
    }
}

/// Refuses domains below which no bucket's name can be a host.
pub(crate) fn check_domains(domains: &[String]) -> Result<(), DomainError> {
    if domains.is_empty() {
        return Ok(());
    }
    MultiDomain::new(domains).map(|_| ()).map_err(DomainError)
}

/// Buckets are named by the path, or by the host under one of `domains`.
pub(crate) fn service(
    shared: Arc<Shared>,
    keys: Arc<HeldKeys>,
    domains: &[String],
) -> Result<Service, DomainError> {
    let mut builder = S3ServiceBuilder::new(Adapter {
        shared: shared.clone(),
        keys: keys.clone(),
    });
    builder.set_auth(auth::Secrets(keys));
    builder.set_access(auth::SignedOnly);
    let hosts = || match domains.is_empty() {
        true => Ok(None),
        false => MultiDomain::new(domains).map(Some).map_err(DomainError),
    };
    if let Some(hosts) = hosts()? {
        builder.set_host(hosts);
    }
    let mut config = S3Config::default();
    config.xml_max_body_size = XML_BYTES_MAX;
    config.presigned_url_max_skew_time_secs = CLOCK_SKEW_SECONDS;
    // Browser forms are refused before they come here.
    config.post_object_max_file_size = 0;
    config.form_max_field_size = 1_024;
    config.form_max_fields_size = 16_384;
    config.form_max_parts = 32;
    builder.set_config(Arc::new(StaticConfigProvider::new(Arc::new(config))));
    let s3 = builder.build();
    Ok(Service {
        s3,
        shared,
        domains: hosts()?.map(Arc::new),
    })
}
