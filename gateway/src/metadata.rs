//! What is sealed with an object besides its bytes, as this gateway writes it into the SDK's metadata.
//!
//! Owns the encoding of S3's own headers: JSON, versioned, under one reserved name of the user metadata (docs/S3.md).
//! User metadata, content type, tags and checksums lie where every client of the SDK finds them. Refuses what does not
//! fit, before a byte of the object is sealed, and to read a version that it does not know.

use std::collections::{BTreeMap, BTreeSet};

use client::{Invocation, PutOptions};
use prost::Message as _;
use proto::v1;
use serde::{Deserialize, Serialize};

use crate::checksum::{Algorithm, Kind, Summed};
use crate::error::ApiError;

/// The name under which S3's headers lie in the user metadata; no client may set it.
pub(crate) const RESERVED: &str = "reduit-s3";
const VERSION: u32 = 1;
/// Bytes of user metadata, names and values, as S3 bounds them.
const USER_BYTES_MAX: usize = 2_048;
/// Bytes that are sealed at most (docs/ARCHITECTURE.md, limits), without room for every checksum.
const SEALED_BYTES_MAX: usize = 16_383 - 256;
/// Tags of an object, and of a bucket; characters of a tag's name and value, as S3 bounds them.
pub(crate) const TAGS_MAX: usize = 10;
pub(crate) const BUCKET_TAGS_MAX: usize = 50;
const TAG_NAME_MAX: usize = 128;
const TAG_VALUE_MAX: usize = 256;

/// Headers that S3 keeps with an object and gives back as they were.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Headers {
    pub(crate) content_type: Option<String>,
    pub(crate) cache_control: Option<String>,
    pub(crate) content_disposition: Option<String>,
    pub(crate) content_encoding: Option<String>,
    pub(crate) content_language: Option<String>,
    /// As an HTTP date.
    pub(crate) expires: Option<String>,
    /// `x-amz-meta-…`, without the prefix.
    pub(crate) user: BTreeMap<String, String>,
}

/// Everything S3 keeps with an object, checksums apart.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Described {
    pub(crate) headers: Headers,
    pub(crate) tags: BTreeMap<String, String>,
    /// The try that made this version, as its client names it.
    pub(crate) invocation: Option<Invocation>,
    /// How the upload that made it said it is summed.
    pub(crate) summed: Option<Summed>,
}

#[derive(Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Encoded {
    v: u32,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    cache_control: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    content_disposition: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    content_encoding: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    content_language: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    expires: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    invocation: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    checksum_algorithm: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    checksum_type: Option<String>,
}

impl Described {
    /// As the SDK seals it. Refused where it is larger than what is sealed.
    pub(crate) fn options(&self) -> Result<PutOptions, ApiError> {
        let headers = &self.headers;
        let user_bytes: usize = headers.user.iter().map(|(k, v)| k.len() + v.len()).sum();
        if user_bytes > USER_BYTES_MAX {
            return Err(ApiError::MetadataTooLarge);
        }
        if headers.user.contains_key(RESERVED) {
            return Err(ApiError::InvalidArgument(
                "x-amz-meta-reduit-s3 is this service's own",
            ));
        }
        let tags: Vec<_> = self.tags.clone().into_iter().collect();
        check_tags(&tags, TAGS_MAX)?;
        let encoded = Encoded {
            v: VERSION,
            cache_control: headers.cache_control.clone(),
            content_disposition: headers.content_disposition.clone(),
            content_encoding: headers.content_encoding.clone(),
            content_language: headers.content_language.clone(),
            expires: headers.expires.clone(),
            invocation: self.invocation.map(|invocation| hex::encode(invocation.0)),
            checksum_algorithm: self.summed.map(|s| s.algorithm.name().to_owned()),
            checksum_type: self.summed.map(|s| s.kind.name().to_owned()),
        };
        let text = serde_json::to_string(&encoded).expect("plain strings are JSON");
        let mut user = headers.user.clone();
        user.insert(RESERVED.to_owned(), text);
        let sealed = v1::UserMetadata {
            format: 1,
            content_type: headers.content_type.clone().unwrap_or_default(),
            user: user.clone().into_iter().collect(),
            tags: self.tags.clone().into_iter().collect(),
            ..v1::UserMetadata::default()
        };
        if sealed.encoded_len() > SEALED_BYTES_MAX {
            return Err(ApiError::MetadataTooLarge);
        }
        Ok(PutOptions {
            content_type: headers.content_type.clone(),
            metadata: user,
            tags: self.tags.clone(),
            invocation: self.invocation,
            ..PutOptions::default()
        })
    }

    /// What was sealed. An object that another client of the SDK put has none of S3's headers.
    pub(crate) fn read(sealed: &v1::UserMetadata) -> Result<Self, ApiError> {
        let mut user: BTreeMap<String, String> = sealed.user.clone().into_iter().collect();
        let encoded = match user.remove(RESERVED) {
            Some(text) => serde_json::from_str(&text)
                .ok()
                .filter(|encoded: &Encoded| encoded.v == VERSION)
                .ok_or_else(unreadable)?,
            None => Encoded::default(),
        };
        let invocation = match encoded.invocation {
            Some(digits) => {
                let mut bytes = [0; 16];
                hex::decode_to_slice(digits, &mut bytes).map_err(|_| unreadable())?;
                Some(Invocation(bytes))
            }
            None => None,
        };
        let summed = match (encoded.checksum_algorithm, encoded.checksum_type) {
            (None, None) => None,
            (Some(algorithm), Some(kind)) => Some(Summed {
                algorithm: Algorithm::named(&algorithm).ok_or_else(unreadable)?,
                kind: Kind::named(&kind).ok_or_else(unreadable)?,
            }),
            _ => return Err(unreadable()),
        };
        Ok(Self {
            headers: Headers {
                content_type: Some(sealed.content_type.clone()).filter(|text| !text.is_empty()),
                cache_control: encoded.cache_control,
                content_disposition: encoded.content_disposition,
                content_encoding: encoded.content_encoding,
                content_language: encoded.content_language,
                expires: encoded.expires,
                user,
            },
            tags: sealed.tags.clone().into_iter().collect(),
            invocation,
            summed,
        })
    }

    /// What the object's checksum is over.
    pub(crate) fn kind(&self) -> Kind {
        self.summed.unwrap_or_default().kind
    }
}

fn unreadable() -> ApiError {
    tracing::error!("an object's sealed headers are of a format that this gateway does not know");
    ApiError::Internal
}

/// Tags as the `x-amz-tagging` header states them: a query string.
pub(crate) fn parse_tags(header: &str) -> Result<BTreeMap<String, String>, ApiError> {
    let tags = form_urlencoded::parse(header.as_bytes()).into_owned();
    let tags: Vec<_> = tags.collect();
    check_tags(&tags, TAGS_MAX)?;
    Ok(tags.into_iter().collect())
}

/// Refuses tags that S3 has not: too many or too long ones, one of a name twice, S3's own.
pub(crate) fn check_tags(tags: &[(String, String)], many: usize) -> Result<(), ApiError> {
    if tags.len() > many {
        return Err(ApiError::InvalidTag(
            "an object has at most 10 tags, a bucket 50",
        ));
    }
    let mut names = BTreeSet::new();
    for (name, value) in tags {
        if !names.insert(name) {
            return Err(ApiError::InvalidTag("a tag is named twice"));
        }
        if name.to_ascii_lowercase().starts_with("aws:") {
            return Err(ApiError::InvalidTag(
                "names that begin with aws: are S3's own",
            ));
        }
        if name.is_empty() || name.chars().count() > TAG_NAME_MAX {
            return Err(ApiError::InvalidTag("a tag's name has 1 to 128 characters"));
        }
        if value.chars().count() > TAG_VALUE_MAX {
            return Err(ApiError::InvalidTag(
                "a tag's value has at most 256 characters",
            ));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn sealed(described: &Described) -> v1::UserMetadata {
        let options = described.options().expect("it fits");
        v1::UserMetadata {
            format: 1,
            content_type: options.content_type.unwrap_or_default(),
            user: options.metadata.into_iter().collect(),
            tags: options.tags.into_iter().collect(),
            ..v1::UserMetadata::default()
        }
    }

    proptest! {
        #[test]
        fn what_is_sealed_is_read_back(
            texts in prop::collection::vec(prop::option::of("[ -~]{1,40}"), 6),
            user in prop::collection::btree_map("[a-z-]{1,12}", "[ -~]{0,24}", 0..8),
            tags in prop::collection::btree_map(".{1,12}", ".{0,24}", 0..=TAGS_MAX),
            invocation in prop::option::of(any::<[u8; 16]>()),
            summed in prop::option::of((0..Algorithm::ALL.len(), any::<bool>())),
        ) {
            let summed = summed.map(|(at, full)| Summed {
                algorithm: Algorithm::ALL[at],
                kind: if full { Kind::FullObject } else { Kind::Composite },
            });
            let described = Described {
                headers: Headers {
                    content_type: texts[0].clone(),
                    cache_control: texts[1].clone(),
                    content_disposition: texts[2].clone(),
                    content_encoding: texts[3].clone(),
                    content_language: texts[4].clone(),
                    expires: texts[5].clone(),
                    user,
                },
                tags,
                invocation: invocation.map(Invocation),
                summed,
            };
            prop_assert_eq!(Described::read(&sealed(&described)).ok(), Some(described));
        }
    }

    #[test]
    fn the_encoding_is_the_documented_one() {
        let described = Described {
            headers: Headers {
                cache_control: Some("no-cache".to_owned()),
                ..Headers::default()
            },
            invocation: Some(Invocation([1; 16])),
            ..Described::default()
        };
        let text = sealed(&described).user[RESERVED].clone();
        let invocation = "01".repeat(16);
        let expected =
            format!(r#"{{"v":1,"cache_control":"no-cache","invocation":"{invocation}"}}"#);
        assert_eq!(text, expected);
    }

    #[test]
    fn another_version_is_not_guessed_at() {
        let half = r#"{"v":1,"checksum_type":"COMPOSITE"}"#;
        let other = r#"{"v":1,"checksum_type":"COMPOSITE","checksum_algorithm":"MD5"}"#;
        let later = r#"{"v":1,"later":"x"}"#;
        for text in [r#"{"v":2}"#, later, half, other, "{}", "", "[]"] {
            let mut metadata = v1::UserMetadata::default();
            metadata.user.insert(RESERVED.to_owned(), text.to_owned());
            assert!(Described::read(&metadata).is_err(), "{text}");
        }
    }

    #[test]
    fn what_does_not_fit_is_refused_before_anything_is_sealed() {
        let with =
            |user: BTreeMap<String, String>, tags: BTreeMap<String, String>, cache: usize| {
                let described = Described {
                    headers: Headers {
                        cache_control: Some("c".repeat(cache)),
                        user,
                        ..Headers::default()
                    },
                    tags,
                    ..Described::default()
                };
                described
                    .options()
                    .map(|_| ())
                    .map_err(|error| error.code())
            };
        let one = |name: &str, value: String| BTreeMap::from([(name.to_owned(), value)]);
        let none = BTreeMap::new;
        let fits = with(one("k", "v".repeat(2_047)), none(), 1);
        assert_eq!(fits, Ok(()));
        let user = with(one("k", "v".repeat(2_048)), none(), 1);
        assert_eq!(user, Err("MetadataTooLarge"));
        let headers = with(none(), none(), SEALED_BYTES_MAX);
        assert_eq!(headers, Err("MetadataTooLarge"));
        let reserved = with(one(RESERVED, String::new()), none(), 1);
        assert_eq!(reserved, Err("InvalidArgument"));
        let eleven = (0..11).map(|n| (n.to_string(), String::new())).collect();
        assert_eq!(with(none(), eleven, 1), Err("InvalidTag"));
        let value = one("k", "v".repeat(257));
        assert_eq!(with(none(), value, 1), Err("InvalidTag"));
        let name = one("", String::new());
        assert_eq!(with(none(), name, 1), Err("InvalidTag"));
    }

    #[test]
    fn tags_of_the_header_are_a_query_string() {
        let tags = parse_tags("a=1&b+c=%C3%A9&d=").expect("tags");
        let expected = [("a", "1"), ("b c", "é"), ("d", "")];
        assert_eq!(
            tags,
            expected.map(|(k, v)| (k.to_owned(), v.to_owned())).into()
        );
        assert!(parse_tags("").expect("none").is_empty());
        assert!(parse_tags("a=1&a=2").is_err());
    }
}
