use super::*;

fn party(region: &str, byte: u8) -> Party {
    Party {
        region: region.to_owned(),
        jurisdiction: region[..2].to_uppercase(),
        descriptor: named(byte),
        log: format!("{region}/main/1"),
        pseudonym: hex::encode([byte; 16]),
        kek: hex::encode([byte + 1; 16]),
    }
}

fn named(byte: u8) -> DescriptorNamed {
    DescriptorNamed {
        version: 3,
        fingerprint: hex::encode([byte; 32]),
    }
}

fn predicate() -> Relocation {
    Relocation {
        relocation: hex::encode([7; 16]),
        dataset: hex::encode([8; 16]),
        opened: OpenedBy::Moved,
        epoch_from: 1,
        epoch_to: 2,
        fence: 20,
        catalog_root: hex::encode([9; 32]),
        hand_over_key: hex::encode([10; 16]),
        issued_ms: 1_795_000_000_000,
        source: SourceSide {
            party: party("ch-zrh", 1),
            approved: named(2),
            grant_leaf: 4,
            released_objects: 3,
            released_through: Some(6),
            shred_leaf: 8,
            destroyed_leaf: Some(9),
            erased_leaf: None,
        },
        destination: DestinationSide {
            party: party("de-fra", 3),
            approved: named(1),
            key_leaf: 2,
            key_destroyed_leaf: Some(5),
        },
        limits: LIMITS.iter().map(|limit| (*limit).to_owned()).collect(),
    }
}

#[test]
fn a_statement_has_one_encoding() {
    let statement = Statement::new(predicate()).expect("a statement");
    let bytes = statement.encode();
    assert_eq!(Statement::parse(&bytes), Ok(statement));
    let text = String::from_utf8(bytes).expect("text");
    for (from, to) in [
        ("{\"_type\"", "{ \"_type\""),
        ("\"epochTo\":2", "\"epochTo\":3"),
        ("\"opened\":\"moved\"", "\"opened\":\"stolen\""),
        ("\"fence\":20", "\"fence\":20,\"more\":1"),
        ("\"region\":\"ch-zrh\"", "\"region\":\"de-fra\""),
        ("Statement/v1", "Statement/v0.1"),
        ("relocation/v1", "relocation/v2"),
        ("\"reduitCatalogRoot\":\"09", "\"reduitCatalogRoot\":\"08"),
        ("\"catalogRoot\":\"09", "\"catalogRoot\":\"08"),
        ("\"catalogRoot\":\"09", "\"catalogRoot\":\"0"),
        ("are not excluded", "are excluded"),
        (
            "\"destroyedLeaf\":9,\"erasedLeaf\":null",
            "\"destroyedLeaf\":null,\"erasedLeaf\":9",
        ),
    ] {
        assert!(text.contains(from), "{from}");
        let bent = text.replacen(from, to, 1);
        assert!(Statement::parse(bent.as_bytes()).is_err(), "{to}");
    }
    assert_eq!(
        Statement::parse(&vec![b' '; STATEMENT_BYTES_MAX + 1]),
        Err(CertificateError::TooLong)
    );
}

/// The example of the DSSE protocol.
#[test]
fn what_is_signed_is_the_published_encoding() {
    let encoded = transcript::dsse("http://example.com/HelloWorld", b"hello world");
    assert_eq!(
        encoded,
        b"DSSEv1 29 http://example.com/HelloWorld 11 hello world"
    );
}

#[test]
fn an_envelope_opens_to_what_was_put_into_it() {
    let statement = Statement::new(predicate()).expect("a statement");
    let signature = EnvelopeSignature::new(&[1; 44], &[2; 64]);
    assert_eq!(signature.bytes(), Some([2; 64]));
    let envelope = DsseEnvelope::new(&statement, vec![signature]);
    let (opened, signed) = envelope.open().expect("opens");
    assert_eq!(opened, statement);
    assert!(signed.ends_with(&statement.encode()));
    let other = DsseEnvelope {
        payload_type: "text/plain".to_owned(),
        ..envelope.clone()
    };
    assert!(other.open().is_err());
    let crowded = DsseEnvelope {
        signatures: vec![envelope.signatures[0].clone(); DSSE_SIGNATURES_MAX + 1],
        ..envelope
    };
    assert!(crowded.open().is_err());
}
