//! Claims about what a configuration may say.

use tlog::{Kind, SignerKey};

use super::*;

fn key(kind: SignatureType) -> String {
    let name = "ch-zrh/main/1".parse().expect("a name");
    let key = SignerKey::from_seed(name, kind, &[1; 32]).expect("a key");
    key.verifier().to_string()
}

/// The example of `--help`, with a key that is one.
fn example() -> String {
    let text: Vec<&str> = CONFIG_EXAMPLE
        .lines()
        .skip(2)
        .map(|line| line.strip_prefix("  ").unwrap_or(line))
        .collect();
    text.join("\n")
        .replace("ch-zrh/main/1+1a2b3c4d+AQ...", &key(SignatureType::Ed25519))
}

#[test]
fn the_example_of_the_help_is_a_configuration() {
    let config = Config::parse(&example()).expect("valid");
    let monitor = config.logs[0].monitor.as_ref().expect("followed");
    assert_eq!(
        monitor.url.join("tile/0/000"),
        "http://log.ch-zrh.example:7102/tile/0/000"
    );
    assert_eq!(monitor.rules.silence_minutes, 15);
    assert!(monitor.rules.watches(Kind::GrantsChanged) && !monitor.rules.watches(Kind::Open));
    // Everything that is commented out is a key too.
    let all = example().replace("\n# ", "\n");
    let config = Config::parse(&all).expect("valid");
    assert_eq!(config.submission_prefix.as_str(), "/w1");
    let rules = &config.logs[0].monitor.as_ref().expect("followed").rules;
    assert!(!rules.watches(Kind::EnrolmentChanged) && rules.watches(Kind::Unsealed));
}

#[test]
fn values_out_of_their_bounds_are_refused_by_name() {
    let ed25519 = key(SignatureType::Ed25519);
    let cases = [
        (
            ed25519.as_str(),
            key(SignatureType::Ed25519Cosignature),
            "is a witness's",
        ),
        (
            "[\"/var/lib/reduit-witness/w1.key\"]",
            "[]".to_owned(),
            "keys must be",
        ),
        (
            "http://log",
            "https://log".to_owned(),
            "configuration is not valid",
        ),
        ("7102/\"", "7102\"".to_owned(), "configuration is not valid"),
        (
            "# poll_seconds = 10",
            "poll_seconds = 0".to_owned(),
            "poll_seconds must be",
        ),
        (
            "silence_minutes = 15",
            "silence_minutes = 0".to_owned(),
            "silence_minutes must be",
        ),
        ("= 60", "= 1441".to_owned(), "utc_offset_minutes must be"),
        (
            "\"open\"",
            "\"opened\"".to_owned(),
            "configuration is not valid",
        ),
        (
            "Mon-Fri",
            "Fri-Mon".to_owned(),
            "configuration is not valid",
        ),
        (
            "state_dir",
            "state_folder".to_owned(),
            "configuration is not valid",
        ),
        (
            "# submission_prefix = \"/w1\"",
            "submission_prefix = \"w1/\"".to_owned(),
            "not valid",
        ),
    ];
    for (from, to, says) in cases {
        let text = example().replacen(from, &to, 1);
        assert_ne!(text, example(), "{from} is there");
        let error = Config::parse(&text).expect_err(from).to_string();
        assert!(error.contains(says), "{error}");
    }
    let log = "\n[[logs]]\norigin = \"ch-zrh/main/1\"\n";
    let twice = format!("{}{log}keys = [\"{ed25519}\"]\n", example());
    assert!(matches!(
        Config::parse(&twice),
        Err(ConfigError::LogTwice(_))
    ));
    let none = format!("{}{}keys = []\n", example(), log.replace("/1", "/2"));
    assert!(matches!(
        Config::parse(&none),
        Err(ConfigError::Value {
            key: "logs.keys",
            ..
        })
    ));
}
