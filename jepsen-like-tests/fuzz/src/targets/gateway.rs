//! What the gateway reads besides S3's wire, which is `s3s`': tokens of listings, tags, what was sealed with an object,
//! its configuration.

use gateway::{Config, fuzzing};
use prost::Message as _;
use proto::v1;

use crate::{Memory, Shape, Source, Target};

pub(super) const LISTING_TOKENS: Target = Target {
    name: "s3-tokens",
    from: Source::Network,
    parses: &[
        "gateway/src/token.rs: parse_continuation",
        "gateway/src/token.rs: VersionMarker::parse",
        "gateway/src/metadata.rs: parse_tags",
        "gateway/src/config.rs: load",
    ],
    shape: Shape::Bytes,
    len_max: 2048,
    memory: Memory {
        fixed: 1 << 20,
        per_byte: 256,
    },
    check: texts,
    seeds: text_seeds,
};

pub(super) const SEALED_HEADERS: Target = Target {
    name: "s3-headers",
    from: Source::Network,
    parses: &["gateway/src/metadata.rs: Described::read"],
    shape: Shape::MESSAGE,
    len_max: 4096,
    memory: Memory::PARSER,
    check: headers,
    seeds: header_seeds,
};

fn texts(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    if let Some((key, token)) = fuzzing::continuation(text) {
        assert!((1..=1024).contains(&key.len()), "a key of {}", key.len());
        // A token has one spelling, but for the bits that base64 leaves over.
        let again = fuzzing::continuation(&token).expect("its own token");
        assert_eq!(again, (key, token));
    }
    if fuzzing::version_marker(text) {
        assert!(text.len() <= 32, "a marker of {}", text.len());
    }
    if let Some(tags) = fuzzing::tags(text) {
        assert!(tags <= 10, "{tags} tags");
    }
    if let Ok(config) = toml::from_str::<Config>(text)
        && let Ok(config) = config.bounded()
    {
        assert!(config.requests_max > 0 && config.connections_max > 0);
    }
}

fn text_seeds() -> Vec<Vec<u8>> {
    let token = b"AWEvYg".to_vec();
    assert!(fuzzing::continuation("AWEvYg").is_some(), "a token");
    let config = gateway::CONFIG_EXAMPLE.split("\n\n").nth(1);
    vec![
        token,
        b"i1f".to_vec(),
        "d5".repeat(16).into_bytes(),
        b"a=1&b+c=%C3%A9".to_vec(),
        config.unwrap_or_default().as_bytes().to_vec(),
    ]
}

fn headers(data: &[u8]) {
    let Ok(sealed) = v1::UserMetadata::decode(data) else {
        return;
    };
    if let Some(same) = fuzzing::metadata(&sealed) {
        assert!(same, "what was read is sealed as something else");
    }
}

fn header_seeds() -> Vec<Vec<u8>> {
    let mut sealed = v1::UserMetadata {
        format: 1,
        content_type: "text/plain".to_owned(),
        ..v1::UserMetadata::default()
    };
    let headers = format!(
        r#"{{"v":1,"cache_control":"no-cache","expires":"x","invocation":"{}"}}"#,
        "07".repeat(16)
    );
    sealed.user.insert("reduit-s3".to_owned(), headers);
    sealed.user.insert("note".to_owned(), "x".to_owned());
    sealed.tags.insert("case".to_owned(), "17".to_owned());
    vec![sealed.encode_to_vec()]
}
