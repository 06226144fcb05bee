//! The witness and monitor of another organisation: entries of a log that lies, its own file, its configuration.
//!
//! Owns what holds besides no panic: bytes that are no leaf are never passed over, leaves in their order never break a
//! chain, the same leaves give the same findings, and a position is taken only as it would be written again. Requests
//! to the witness, notes, tiles and proofs are `c2sp`'s.

use std::sync::OnceLock;

use ::witness::{CONFIG_EXAMPLE, Config, Rate, Reader, Rule, Rules, parse_position};
use proto::ids::{LeafIndex, UnixMs};
use tlog::{
    DatasetLink, Frontier, Hash, Kind, Leaf, OriginLine, Private, Pseudonym, Public, Purpose,
    SaltSeed, SaltedLeaf, SignatureType, SignerKey, leaf_hash,
};

use crate::input::{Input, edited};
use crate::known::NOW;
use crate::{Memory, Shape, Source, Target};

pub(super) const ENTRIES: Target = Target {
    name: "monitored-entries",
    from: Source::Network,
    parses: &["witness/src/monitor/reader.rs: read"],
    shape: Shape::Bytes,
    len_max: 2048,
    memory: Memory {
        fixed: 2 << 20,
        per_byte: 512,
    },
    check: entries,
    seeds: || {
        vec![
            vec![1, 1, 1],
            vec![1, 2, 3, 0, 0, 9, 1, 1],
            b"\0\x02{}\0\x1f{\"schema\":2,\"kind\":\"exported\"}\0".to_vec(),
        ]
    },
};

pub(super) const POSITION: Target = Target {
    name: "monitor-position",
    from: Source::Disk,
    parses: &["witness/src/monitor/position.rs: parse"],
    shape: Shape::Bytes,
    len_max: 4096,
    memory: Memory {
        fixed: 2 << 20,
        per_byte: 256,
    },
    check: position,
    seeds: || vec![valid_position().as_bytes().to_vec(), b"{}".to_vec()],
};

pub(super) const CONFIG: Target = Target {
    name: "witness-config",
    from: Source::Person,
    parses: &[
        "witness/src/config.rs: parse",
        "witness/src/config/hours.rs: from_str",
    ],
    shape: Shape::Bytes,
    len_max: 4096,
    memory: Memory {
        fixed: 4 << 20,
        per_byte: 512,
    },
    check: config,
    seeds: || vec![vec![1], [&[0], valid_config().as_bytes()].concat()],
};

/// Leaves of one dataset, each of which names the one before.
fn chain() -> &'static [Vec<u8>] {
    static CHAIN: OnceLock<Vec<Vec<u8>>> = OnceLock::new();
    CHAIN.get_or_init(|| {
        let mut previous: Option<Hash> = None;
        let leaf = |sequence| {
            let public = Public {
                kind: Kind::Open,
                time_ms: NOW,
                purpose: Purpose::service(),
                dataset: Some(DatasetLink {
                    pseudonym: Pseudonym([5; 16]),
                    sequence,
                    previous,
                }),
            };
            let made = SaltedLeaf::build(public, Private::default(), &SaltSeed::new(&[4; 32]), 0);
            let bytes = made.expect("small").bytes;
            previous = Some(leaf_hash(&bytes));
            bytes
        };
        (0..64).map(leaf).collect()
    })
}

fn rules() -> Rules {
    Rules {
        open_hours: Some(vec!["Mon-Fri 07:00-19:00".parse().expect("hours")]),
        rates: vec![Rate {
            kind: Kind::Open,
            per_hour_max: 3,
        }],
        ..Rules::default()
    }
}

/// Good leaves in their order, good ones out of it, changed ones, and anything.
fn entries(data: &[u8]) {
    let (rules, mut input) = (rules(), Input::new(data));
    let (mut reader, mut again) = (Reader::default(), Reader::default());
    let (mut next, mut in_order, mut index) = (0, true, 0);
    while !input.is_empty() && index < 256 {
        let bytes = match input.u8() % 4 {
            0 => input.short().to_vec(),
            1 => {
                next += 1;
                chain()[(next - 1) % chain().len()].clone()
            }
            2 => chain()[usize::from(input.u8()) % chain().len()].clone(),
            _ => edited(&chain()[next % chain().len()], input.short()),
        };
        let at = LeafIndex(index);
        let found = reader.read(&rules, at, &bytes, NOW);
        assert_eq!(again.read(&rules, at, &bytes, NOW), found);
        assert!(found.iter().all(|finding| finding.leaf == at));
        let is_leaf = Leaf::parse(&bytes).is_ok();
        let is_strange = |rule| matches!(rule, Rule::LeafMalformed | Rule::LeafUnknown);
        let strange = found.iter().filter(|f| is_strange(f.rule)).count();
        assert_eq!(strange, usize::from(!is_leaf), "passed over, or told twice");
        in_order &= bytes == chain()[(index as usize) % chain().len()] && index < 64;
        if in_order {
            assert!(
                found
                    .iter()
                    .all(|finding| finding.rule != Rule::ChainBroken)
            );
        }
        index += 1;
    }
    let kept = serde_json::to_vec(&reader).expect("JSON");
    let read: Reader = serde_json::from_slice(&kept).expect("its own bytes");
    assert_eq!(read, reader);
}

fn origin() -> OriginLine {
    "ch-zrh/main/1".parse().expect("an origin")
}

fn valid_position() -> &'static str {
    static VALID: OnceLock<String> = OnceLock::new();
    VALID.get_or_init(|| {
        let mut reader = Reader::default();
        for (index, leaf) in (0..).zip(&chain()[..2]) {
            reader.read(&rules(), LeafIndex(index), leaf, UnixMs(NOW.0));
        }
        format!(
            "{{\"format\":1,\"origin\":\"{}\",\"held\":null,\"frontier\":\"{}\",\"read\":0,\"copied\":0,\
             \"cosigned_s\":0,\"is_stopped\":false,\"reader\":{}}}",
            origin(),
            frontier_hex(),
            serde_json::to_string(&reader).expect("JSON"),
        )
    })
}

fn frontier_hex() -> String {
    let bytes = Frontier::default().to_bytes();
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn position(data: &[u8]) {
    let valid = valid_position().as_bytes();
    assert_eq!(parse_position(valid, &origin()).expect("valid"), valid);
    for bytes in [data.to_vec(), edited(valid, data)] {
        let Ok(written) = parse_position(&bytes, &origin()) else {
            continue;
        };
        let again = parse_position(&written, &origin());
        assert_eq!(again.expect("its own bytes"), written);
    }
}

fn valid_config() -> &'static str {
    static VALID: OnceLock<String> = OnceLock::new();
    VALID.get_or_init(|| {
        let name = "ch-zrh/main/1".parse().expect("a name");
        let key = SignerKey::from_seed(name, SignatureType::Ed25519, &[1; 32]).expect("a key");
        let lines = CONFIG_EXAMPLE.lines().skip(2);
        let text: Vec<_> = lines
            .map(|line| line.strip_prefix("  ").unwrap_or(line))
            .collect();
        text.join("\n")
            .replace("ch-zrh/main/1+1a2b3c4d+AQ...", &key.verifier().to_string())
            .replace("\n# ", "\n")
    })
}

fn config(data: &[u8]) {
    let Some((how, data)) = data.split_first() else {
        return;
    };
    let bytes = match how % 2 {
        0 => data.to_vec(),
        _ => edited(valid_config().as_bytes(), data),
    };
    let Ok(text) = std::str::from_utf8(&bytes) else {
        return;
    };
    let Ok(config) = Config::parse(text) else {
        return;
    };
    for log in &config.logs {
        assert!(!log.keys.is_empty(), "nobody could sign for it");
        let Some(monitor) = &log.monitor else {
            continue;
        };
        let url: http::Uri = monitor.url.join("tile/0/000").parse().expect("an address");
        assert_eq!(url.scheme_str(), Some("http"));
        let hours = monitor.rules.open_hours.iter().flatten();
        for hours in hours {
            // Any moment is within or not.
            for time in [0, NOW.0, u64::MAX] {
                let _ = hours.contains(UnixMs(time), monitor.rules.utc_offset_minutes);
            }
        }
    }
}
