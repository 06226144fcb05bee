//! Cross-origin rules: operations on them, and what browsers are answered by them.
//!
//! Owns which rules S3 takes. A preflight is answered before anything is signed, by the rules alone; an answer to a request
//! of a page says what they let its browser show, whatever the answer is.

use client::ids::DatasetName;
use http::request::Parts;
use http::{HeaderMap, HeaderValue, Method};
use proto::v1;
use s3s::dto::*;
use s3s::host::{MultiDomain, S3Host as _};
use s3s::{S3Request, S3Response};

use super::buckets::owned;
use super::{AnswerBody, convert};
use crate::cors::Asked;
use crate::error::ApiError;
use crate::front::{Front, Shared};

type Answer<T> = Result<S3Response<T>, ApiError>;

/// Rules of one configuration, as S3 bounds them.
const RULES_MAX: usize = 100;
/// Characters of a rule's id.
const ID_MAX: usize = 255;
/// Bytes of all rules together, as they are kept.
const BYTES_MAX: usize = 64 << 10;
/// What S3 lets pages ask for.
const METHODS: [&str; 5] = ["GET", "PUT", "POST", "DELETE", "HEAD"];

pub(super) async fn get_bucket_cors(
    front: &Front,
    request: S3Request<GetBucketCorsInput>,
) -> Answer<GetBucketCorsOutput> {
    let input = request.input;
    owned(front, input.expected_bucket_owner.as_deref())?;
    let rules = front.cors(&convert::bucket(&input.bucket)?).await?;
    Ok(S3Response::new(GetBucketCorsOutput {
        cors_rules: Some(rules.into_iter().map(shown).collect()),
    }))
}

pub(super) async fn put_bucket_cors(
    front: &Front,
    request: S3Request<PutBucketCorsInput>,
) -> Answer<PutBucketCorsOutput> {
    let input = request.input;
    owned(front, input.expected_bucket_owner.as_deref())?;
    let rules = stated(input.cors_configuration.cors_rules)?;
    let name = convert::bucket(&input.bucket)?;
    front.set_cors(&name, rules).await?;
    Ok(S3Response::new(PutBucketCorsOutput {}))
}

pub(super) async fn delete_bucket_cors(
    front: &Front,
    request: S3Request<DeleteBucketCorsInput>,
) -> Answer<DeleteBucketCorsOutput> {
    let input = request.input;
    owned(front, input.expected_bucket_owner.as_deref())?;
    let name = convert::bucket(&input.bucket)?;
    front.set_cors(&name, Vec::new()).await?;
    Ok(S3Response::new(DeleteBucketCorsOutput {}))
}

/// The bucket that a request names by its host, under one of the domains, or by its path.
pub(super) fn bucket_of(parts: &Parts, domains: Option<&MultiDomain>) -> Option<DatasetName> {
    let host = parts.headers.get(http::header::HOST);
    let host = host.and_then(|host| host.to_str().ok());
    let by_host = domains.zip(host).and_then(|(domains, host)| {
        let host = domains.parse_host_header(host).ok()?;
        host.bucket().map(str::to_owned)
    });
    let by_path = || parts.uri.path().split('/').nth(1).map(str::to_owned);
    by_host.or_else(by_path)?.parse().ok()
}

/// Answers a preflight.
pub(super) async fn preflight(
    shared: &Shared,
    headers: &HeaderMap,
    bucket: Option<DatasetName>,
) -> Result<http::Response<AnswerBody>, ApiError> {
    let asked = Asked::before(headers)?;
    let rules = match bucket {
        Some(bucket) => shared.cors_rules(&bucket).await?,
        None => Vec::new().into(),
    };
    if rules.is_empty() {
        return Err(ApiError::AccessForbidden(
            "CORSResponse: CORS is not enabled for this bucket.",
        ));
    }
    let said = asked.answer(&rules);
    let said = said.ok_or(ApiError::AccessForbidden(
        "CORSResponse: This CORS request is not allowed: no rule of the bucket has its origin, method and headers.",
    ))?;
    let mut answer = http::Response::new(AnswerBody::empty());
    answer.headers_mut().extend(said);
    let none = HeaderValue::from_static("0");
    answer
        .headers_mut()
        .insert(http::header::CONTENT_LENGTH, none);
    Ok(answer)
}

/// What a page's browser is told with the answer to its request.
pub(super) async fn told(
    shared: &Shared,
    method: &Method,
    headers: &HeaderMap,
    bucket: Option<DatasetName>,
) -> HeaderMap {
    let Some((asked, bucket)) = Asked::made(method.as_str(), headers).zip(bucket) else {
        return HeaderMap::new();
    };
    // Without them the page does not see the answer, and asks again.
    let rules = shared.cors_rules(&bucket).await;
    let told = rules.ok().and_then(|rules| asked.answer(&rules));
    told.unwrap_or_default()
}

fn stated(rules: Vec<CORSRule>) -> Result<Vec<v1::CorsRule>, ApiError> {
    if rules.is_empty() {
        return Err(ApiError::MalformedXml("it has 1 to 100 rules"));
    }
    if rules.len() > RULES_MAX {
        return Err(ApiError::InvalidRequest(
            "The number of CORS rules should not exceed allowed limit of 100 rules.",
        ));
    }
    let rules: Vec<_> = rules.into_iter().map(rule).collect::<Result<_, _>>()?;
    let whole = v1::Cors { format: 1, rules };
    match prost::Message::encoded_len(&whole) > BYTES_MAX {
        true => Err(ApiError::InvalidRequest(
            "the rules are larger than 64 KiB together",
        )),
        false => Ok(whole.rules),
    }
}

fn rule(stated: CORSRule) -> Result<v1::CorsRule, ApiError> {
    let id = stated.id.unwrap_or_default();
    if id.chars().count() > ID_MAX {
        return Err(ApiError::InvalidRequest(
            "a rule's id has at most 255 characters",
        ));
    }
    let (origins, methods) = (stated.allowed_origins, stated.allowed_methods);
    if origins.is_empty() || methods.is_empty() {
        return Err(ApiError::MalformedXml(
            "a rule has an AllowedOrigin and an AllowedMethod",
        ));
    }
    if methods.iter().any(|method| !METHODS.contains(&&**method)) {
        return Err(ApiError::InvalidRequest(
            "Found unsupported HTTP method in CORS config: a method is GET, PUT, POST, DELETE or HEAD.",
        ));
    }
    let headers = stated.allowed_headers.unwrap_or_default();
    let exposed = stated.expose_headers.unwrap_or_default();
    if origins.iter().any(|origin| stars(origin) > 1) {
        return Err(ApiError::InvalidRequest(
            "AllowedOrigin can not have more than one wildcard.",
        ));
    }
    if headers.iter().any(|header| stars(header) > 1) {
        return Err(ApiError::InvalidRequest(
            "AllowedHeader can not have more than one wildcard.",
        ));
    }
    if exposed.iter().any(|header| stars(header) > 0) {
        return Err(ApiError::InvalidRequest(
            "ExposeHeader contains wildcard. We currently do not support wildcard for ExposeHeader.",
        ));
    }
    let mut texts = origins.iter().chain(&headers).chain(&exposed);
    if !texts.all(|text| is_header_text(text)) {
        return Err(ApiError::InvalidRequest(
            "an origin or header of a rule is no text of a header",
        ));
    }
    let max_age_s = stated.max_age_seconds.map(u32::try_from).transpose();
    let negative = |_| ApiError::InvalidRequest("MaxAgeSeconds is not negative");
    Ok(v1::CorsRule {
        id,
        origins,
        methods,
        headers,
        exposed,
        max_age_s: max_age_s.map_err(negative)?,
    })
}

fn stars(text: &str) -> usize {
    text.matches('*').count()
}

fn is_header_text(text: &str) -> bool {
    let fits = |byte: u8| byte.is_ascii_graphic() && byte != b',';
    !text.is_empty() && text.bytes().all(fits)
}

fn shown(rule: v1::CorsRule) -> CORSRule {
    let some = |texts: Vec<String>| (!texts.is_empty()).then_some(texts);
    CORSRule {
        allowed_headers: some(rule.headers),
        allowed_methods: rule.methods,
        allowed_origins: rule.origins,
        expose_headers: some(rule.exposed),
        id: Some(rule.id).filter(|id| !id.is_empty()),
        max_age_seconds: rule.max_age_s.and_then(|age| i32::try_from(age).ok()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plain() -> CORSRule {
        shown(v1::CorsRule {
            origins: vec!["https://*.example".to_owned()],
            methods: vec!["GET".to_owned()],
            ..v1::CorsRule::default()
        })
    }

    fn code(rules: Vec<CORSRule>) -> &'static str {
        stated(rules).err().map_or("ok", |error| error.code())
    }

    #[test]
    fn a_rule_is_shown_as_it_was_stated() {
        let whole = v1::CorsRule {
            id: "one".to_owned(),
            origins: vec!["*".to_owned()],
            methods: METHODS.map(str::to_owned).to_vec(),
            headers: vec!["x-amz-*".to_owned()],
            exposed: vec!["ETag".to_owned()],
            max_age_s: Some(0),
        };
        let again = stated(vec![shown(whole.clone()), plain()]).expect("rules");
        assert_eq!(again[0], whole);
        assert_eq!(again.len(), 2);
    }

    #[test]
    fn a_rule_that_is_none_is_refused_by_s3s_codes() {
        let one = |text: &str| vec![text.to_owned()];
        assert_eq!(code(Vec::new()), "MalformedXML");
        assert_eq!(code((0..100).map(|_| plain()).collect()), "ok");
        assert_eq!(code((0..101).map(|_| plain()).collect()), "InvalidRequest");
        let with = |change: &dyn Fn(&mut CORSRule)| {
            let mut rule = plain();
            change(&mut rule);
            rule
        };
        let table = [
            (with(&|r| r.allowed_origins.clear()), "MalformedXML"),
            (with(&|r| r.allowed_methods.clear()), "MalformedXML"),
            (
                with(&|r| r.allowed_origins = one("http://*.*")),
                "InvalidRequest",
            ),
            (with(&|r| r.allowed_origins = one("a b")), "InvalidRequest"),
            (
                with(&|r| r.allowed_methods = one("OPTIONS")),
                "InvalidRequest",
            ),
            (with(&|r| r.allowed_methods = one("get")), "InvalidRequest"),
            (
                with(&|r| r.allowed_headers = Some(one("x-*-*"))),
                "InvalidRequest",
            ),
            (with(&|r| r.allowed_headers = Some(one("*"))), "ok"),
            (
                with(&|r| r.expose_headers = Some(one("x-*"))),
                "InvalidRequest",
            ),
            (
                with(&|r| r.expose_headers = Some(one("a\r\nb"))),
                "InvalidRequest",
            ),
            (with(&|r| r.id = Some("i".repeat(256))), "InvalidRequest"),
            (with(&|r| r.max_age_seconds = Some(-1)), "InvalidRequest"),
            (with(&|r| r.max_age_seconds = Some(0)), "ok"),
            (
                with(&|r| r.allowed_origins = vec!["o".repeat(70_000)]),
                "InvalidRequest",
            ),
        ];
        for (rule, expected) in table {
            let text: String = format!("{rule:?}").chars().take(200).collect();
            assert_eq!(code(vec![rule]), expected, "{text}");
        }
    }

    #[test]
    fn a_bucket_is_named_by_the_host_or_the_path() {
        let domains = MultiDomain::new(["s3.example"]).expect("a domain");
        let of = |host: &str, uri: &str, domains: Option<&MultiDomain>| {
            let request = http::Request::builder().uri(uri).header("host", host);
            let (parts, ()) = request.body(()).expect("a request").into_parts();
            bucket_of(&parts, domains).map(|name| name.to_string())
        };
        let some = |name: &str| Some(name.to_owned());
        let under = Some(&domains);
        assert_eq!(of("127.0.0.1:80", "/bucket/key?x", None), some("bucket"));
        assert_eq!(of("bucket.s3.example", "/key", under), some("bucket"));
        assert_eq!(of("s3.example", "/bucket/key", under), some("bucket"));
        assert_eq!(of("s3.example", "/", under), None);
        assert_eq!(of("127.0.0.1", "/B%20/key", None), None);
    }
}
