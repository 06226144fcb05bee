//! The arguments of the `reduit` command.
//!
//! Owns what holds besides no panic: who is refused is told why, and a location is written as it was read.

use client::fuzzing;

use crate::{Memory, Shape, Source, Target};

pub(super) const COMMAND: Target = Target {
    name: "command",
    from: Source::Person,
    parses: &[
        "client/src/cli.rs: Arguments",
        "client/src/cli/data.rs: range",
        "client/src/cli/data.rs: pair",
        "client/src/cli/location.rs: FromStr",
    ],
    shape: Shape::Bytes,
    len_max: 512,
    memory: Memory {
        // Every subcommand with its help.
        fixed: 4 << 20,
        per_byte: 256,
    },
    check,
    seeds,
};

/// Words, one a line.
fn check(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    let words: Vec<&str> = text.lines().collect();
    if let Err(why) = fuzzing::arguments(&words) {
        assert!(!why.is_empty(), "refused without a word");
    }
    for word in words {
        let Some((dataset, key)) = fuzzing::location(word) else {
            continue;
        };
        match key {
            Some(key) => assert_eq!(format!("{dataset}/{}", key.as_str()), word, "one spelling"),
            None => assert!(word.starts_with(dataset.as_str())),
        }
    }
}

fn seeds() -> Vec<Vec<u8>> {
    let of = |words: &[&str]| words.join("\n").into_bytes();
    let version = "d5d5d5d5d5d5d5d5d5d5d5d5d5d5d5d5";
    vec![
        of(&[
            "put",
            "-r",
            "./samples",
            "cti/samples",
            "--meta",
            "a=b",
            "--if-none-match",
        ]),
        of(&[
            "put",
            "f",
            "cti/f",
            "--if-match",
            version,
            "--content-type",
            "text/plain",
        ]),
        of(&[
            "get",
            "cti/f",
            "-",
            "--range",
            "0-4095",
            "--purpose",
            "service",
            "--case",
            "7",
        ]),
        of(&["ls", "cti/", "--json", "--versions"]),
        of(&["rm", "cti/f", "--version", version]),
        of(&[
            "context",
            "set",
            "zrh",
            "--region",
            "ch-zrh",
            "--node",
            "127.0.0.1:7001",
            "--ca",
            "ca",
            "--certificate",
            "c",
            "--key",
            "k",
        ]),
        of(&["log", "leaves", "--openings"]),
        of(&["operator", "status"]),
        of(&["completions", "bash"]),
    ]
}
