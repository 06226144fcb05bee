//! What the gateway reads besides S3's wire, which is `s3s`': tokens of listings, tags, what was sealed with an object,
//! the framing of bodies in S3's coding, what a signature covers, small values of headers, its configuration.

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

pub(super) const CHUNKED: Target = Target {
    name: "s3-chunked",
    from: Source::Network,
    parses: &["gateway/src/chunked.rs: Framing::take"],
    shape: Shape::Bytes,
    len_max: 4096,
    memory: Memory {
        fixed: 1 << 20,
        per_byte: 1024,
    },
    check: framing,
    seeds: framing_seeds,
};

pub(super) const VALUES: Target = Target {
    name: "s3-values",
    from: Source::Network,
    parses: &[
        "gateway/src/s3/requests.rs: copied_range",
        "gateway/src/checksum.rs: Algorithm::parse",
        "gateway/src/checksum.rs: parse_md5",
        "gateway/src/conditions.rs: version_of",
        "gateway/src/signing.rs: covers",
    ],
    shape: Shape::Bytes,
    len_max: 1024,
    memory: Memory::PARSER,
    check: values,
    seeds: value_seeds,
};

/// Payload, trailers, and the largest chunk that nobody signed: read as simply as can be.
fn decoded(mut body: &[u8]) -> Option<(Vec<u8>, Vec<u8>, usize)> {
    let (mut payload, mut unsigned) = (Vec::new(), 0);
    loop {
        let end = body.windows(2).position(|two| two == b"\r\n")?;
        let line = std::str::from_utf8(&body[..end]).ok()?;
        let size = usize::from_str_radix(line.split(';').next()?, 16).ok()?;
        body = &body[end + 2..];
        if size == 0 {
            return Some((payload, body.to_vec(), unsigned));
        }
        if !line.contains(';') {
            unsigned = unsigned.max(size);
        }
        payload.extend_from_slice(body.get(..size)?);
        body = body.get(size..)?.strip_prefix(b"\r\n")?;
    }
}

fn framing(data: &[u8]) {
    let whole = fuzzing::chunked(data, data.len());
    for piece in [1, 7] {
        let pieces = fuzzing::chunked(data, piece);
        assert_eq!(pieces.is_some(), whole.is_some(), "pieces of {piece}");
        let Some(pieces) = pieces else { continue };
        let (payload, trailers, unsigned) = decoded(&pieces).expect("the decoder's framing");
        assert!(unsigned <= 16, "a chunk of {unsigned} that nobody signed");
        let (stated, after, _) = decoded(data).expect("the client's framing");
        assert!(payload == stated && trailers == after, "another body");
    }
}

fn framing_seeds() -> Vec<Vec<u8>> {
    let signature = "0".repeat(64);
    let signed =
        format!("3;chunk-signature={signature}\r\nabc\r\n0;chunk-signature={signature}\r\n\r\n");
    let seeds = vec![
        b"3\r\nabc\r\n0\r\nx-amz-checksum-crc32:AAAAAA==\r\n\r\n".to_vec(),
        [b"18\r\n", &[b'x'; 0x18][..], b"\r\n0\r\n\r\n"].concat(),
        signed.into_bytes(),
    ];
    for seed in &seeds {
        assert!(fuzzing::chunked(seed, 5).is_some(), "a body");
    }
    seeds
}

fn values(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    if let Some((first, last)) = fuzzing::range_to_copy(text) {
        assert!(first <= last, "{first}-{last}");
    }
    fuzzing::value(text);
    // A link, or a header, of whatever text: it covers a header that it names, or none.
    let (target, authorization) = text.split_once('\n').unwrap_or((text, ""));
    let steals = fuzzing::covers(target, authorization, "x-amz-copy-source");
    assert!(
        steals != Some(true) || text.contains("copy-source") || target.contains('%'),
        "a header that nobody signed"
    );
}

fn value_seeds() -> Vec<Vec<u8>> {
    let header = "AWS4-HMAC-SHA256 Credential=i, SignedHeaders=host;x-amz-copy-source, Signature=0";
    let link = "/b?X-Amz-Expires=1&X-Amz-SignedHeaders=host%3Bx-amz-copy-source&X-Amz-Signature=0";
    for (target, authorization) in [("/", header), (link, "")] {
        let covered = fuzzing::covers(target, authorization, "x-amz-copy-source");
        assert_eq!(covered, Some(true), "{target}");
    }
    assert_eq!(fuzzing::range_to_copy("bytes=3-7"), Some((3, 7)));
    assert!(fuzzing::value("AAAAAA=="), "a CRC");
    vec![
        b"bytes=3-7".to_vec(),
        b"AAAAAA==".to_vec(),
        [&b"d5"[..]; 16].concat(),
        format!("/\n{header}").into_bytes(),
        format!("{link}\n").into_bytes(),
    ]
}
