use super::*;

const DAY: u64 = 24 * 3_600_000;
const ISSUED: u64 = 1_795_000_000_000;

fn key(byte: u8) -> Bytes {
    [&SPKI_PREFIX[..], &[byte; 32]].concat().into()
}

fn stated() -> RegionDescriptor {
    let member = |name: &str, byte, endpoint: &str| RegionMember {
        identity: format!("spiffe://de-fra/{name}"),
        public_key: key(byte),
        endpoint: endpoint.to_owned(),
    };
    RegionDescriptor {
        format: 1,
        region: "de-fra".to_owned(),
        jurisdiction: "DE".to_owned(),
        version: 7,
        issued_at_ms: ISSUED,
        expires_at_ms: ISSUED + 90 * DAY,
        ca_certificate: Bytes::from_static(b"ca"),
        members: vec![
            member("gateway/g1", 1, ""),
            member("kms/k1", 2, "kms-1.fra.example:7200"),
            member("node/n1", 3, "[2001:db8::1]:7201"),
        ],
        log_origin: "de-fra/main/1".to_owned(),
        log_key: "de-fra/main/1+0a0b0c0d+AQ==".to_owned(),
        witness_policy: Bytes::from_static(b"quorum none\n"),
    }
}

fn signed(stated: &RegionDescriptor) -> SignedRegionDescriptor {
    SignedRegionDescriptor {
        descriptor: stated.encode_to_vec().into(),
        signer: key(2),
        signature: vec![9; 64].into(),
    }
}

fn refused(change: impl FnOnce(&mut RegionDescriptor)) -> DescriptorError {
    let mut stated = stated();
    change(&mut stated);
    Descriptor::parse(&signed(&stated)).expect_err("it cannot be")
}

#[test]
fn a_descriptor_says_what_it_states() {
    let descriptor = Descriptor::parse_at(&signed(&stated()), UnixMs(ISSUED)).expect("well formed");
    assert_eq!(descriptor.region().as_str(), "de-fra");
    assert_eq!(descriptor.jurisdiction().as_str(), "DE");
    assert_eq!(descriptor.version(), 7);
    let kms: Vec<_> = descriptor.of_role(Role::Kms).collect();
    assert_eq!(kms.len(), 1);
    assert_eq!(kms[0].endpoint, "kms-1.fra.example:7200");
    assert!(descriptor.may_sign(&key(2)));
    assert!(!descriptor.may_sign(&key(1)), "a gateway signs none");
    assert!(!descriptor.may_sign(&key(9)));
    let again = RegionDescriptor {
        version: 8,
        issued_at_ms: ISSUED + 1,
        expires_at_ms: ISSUED + 2,
        ..stated()
    };
    assert!(descriptor.states_the_same(&again));
    let other = RegionDescriptor {
        log_key: "de-fra/main/1+0a0b0c0d+AA==".to_owned(),
        ..stated()
    };
    assert!(!descriptor.states_the_same(&other));
}

/// Protobuf by hand: tag, length, value.
#[test]
fn golden_bytes_of_a_signed_descriptor() {
    let stated = RegionDescriptor {
        members: vec![RegionMember {
            identity: "spiffe://de-fra/kms/k1".to_owned(),
            public_key: key(2),
            endpoint: "a:1".to_owned(),
        }],
        ..stated()
    };
    let signed = signed(&stated);
    Descriptor::parse(&signed).expect("well formed");
    let text = |text: &str| format!("{:02x}{}", text.len(), hex::encode(text));
    let spki = format!("302a300506032b6570032100{}", "02".repeat(32));
    let member = format!(
        "0a{}122c{spki}1a{}",
        text("spiffe://de-fra/kms/k1"),
        text("a:1")
    );
    let golden = format!(
        "080112{}1a{}2007 2880bcd9f29e34 3080eccaeebb34 3a{} 42{:02x}{member} 4a{} 52{} 5a{}",
        text("de-fra"),
        text("DE"),
        text("ca"),
        member.len() / 2,
        text("de-fra/main/1"),
        text("de-fra/main/1+0a0b0c0d+AQ=="),
        text("quorum none\n"),
    )
    .replace(' ', "");
    assert_eq!(hex::encode(&signed.descriptor), golden);
    let whole = format!(
        "0a{}01{golden}122c{spki}1a40{}",
        {
            // Lengths over 127 take two bytes, the lower seven bits first.
            let length = golden.len() / 2;
            assert!((128..256).contains(&length), "{length}");
            format!("{:02x}", (length & 0x7F) | 0x80)
        },
        "09".repeat(64)
    );
    assert_eq!(hex::encode(signed.encode_to_vec()), whole);
    let fingerprint = crate::transcript::region_fingerprint(b"d");
    let golden = "0000001c7265647569742f76312f726567696f6e2d66696e6765727072696e740000000164";
    assert_eq!(hex::encode(fingerprint), golden);
}

#[test]
fn a_descriptor_is_good_from_its_issue_to_its_expiry() {
    let descriptor = Descriptor::parse(&signed(&stated())).expect("well formed");
    let expires = UnixMs(ISSUED + 90 * DAY);
    assert_eq!(descriptor.good_at(UnixMs(expires.0 - 1)), Ok(()));
    let over = Err(DescriptorError::Expired { expires });
    assert_eq!(descriptor.good_at(expires), over);
    assert_eq!(descriptor.good_at(UnixMs(ISSUED - AHEAD_MS_MAX)), Ok(()));
    let early = descriptor.good_at(UnixMs(ISSUED - AHEAD_MS_MAX - 1_000));
    assert_eq!(early, Err(DescriptorError::FromTheFuture { ahead_s: 601 }));
    assert!(Descriptor::parse_at(&signed(&stated()), expires).is_err());
}

#[test]
fn what_is_at_odds_with_itself_is_refused() {
    let contradicts: [fn(&mut RegionDescriptor); 7] = [
        |d| d.expires_at_ms = d.issued_at_ms,
        |d| d.log_origin = "ch-zrh/main/1".to_owned(),
        |d| d.log_key = "de-fra/main/2+0a0b0c0d+AQ==".to_owned(),
        |d| d.members[0].identity = "spiffe://ch-zrh/gateway/g1".to_owned(),
        |d| d.members.reverse(),
        |d| d.members[2].public_key = key(1),
        |d| {
            // Signed by a key that it does not name as a KMS replica's.
            d.members[1].public_key = key(8);
        },
    ];
    for (at, change) in contradicts.into_iter().enumerate() {
        let error = refused(change);
        assert!(
            matches!(error, DescriptorError::Contradiction(_)),
            "{at}: {error}"
        );
    }
}

#[test]
fn every_field_that_cannot_be_is_refused() {
    let fields: [fn(&mut RegionDescriptor); 15] = [
        |d| d.region = "DE".to_owned(),
        |d| d.jurisdiction = "de".to_owned(),
        |d| d.version = 0,
        |d| d.expires_at_ms = d.issued_at_ms + LIFE_MS_MAX + 1,
        |d| d.ca_certificate.clear(),
        |d| d.ca_certificate = vec![1; CA_BYTES_MAX + 1].into(),
        |d| d.log_origin.clear(),
        |d| d.log_key = "de-fra/main/1+ 0a0b0c0d+AQ==".to_owned(),
        |d| d.witness_policy = Bytes::from_static(&[0xFF]),
        |d| d.members[0].identity = "spiffe://de-fra/operator/o1".to_owned(),
        |d| d.members[0].identity = "g1".to_owned(),
        |d| d.members[0].public_key = Bytes::from_static(&[1; 44]),
        |d| d.members[0].endpoint = "nowhere".to_owned(),
        |d| d.members[0].endpoint = "host:0".to_owned(),
        |d| {
            d.members = (0..=MEMBERS_MAX)
                .map(|n| RegionMember {
                    identity: format!("spiffe://de-fra/kms/k{n:04}"),
                    ..d.members[1].clone()
                })
                .collect();
        },
    ];
    for (at, change) in fields.into_iter().enumerate() {
        let error = refused(change);
        assert!(matches!(error, DescriptorError::Field(_)), "{at}: {error}");
    }
    assert_eq!(refused(|d| d.format = 2), DescriptorError::Format(2));
    let mut short = signed(&stated());
    short.signature = vec![9; 63].into();
    assert_eq!(
        Descriptor::parse(&short),
        Err(DescriptorError::Field("signature"))
    );
}

#[test]
fn one_encoding_alone_is_taken_and_nothing_that_is_too_long() {
    let good = signed(&stated());
    let with = |bytes: Vec<u8>| SignedRegionDescriptor {
        descriptor: bytes.into(),
        ..good.clone()
    };
    let unknown = [&good.descriptor[..], &[0xF8, 0x3F, 0x01]].concat();
    // The version once more, as protobuf allows: the last one counts, and the bytes are others.
    let twice = [&good.descriptor[..], &[0x20, 0x07]].concat();
    for bytes in [unknown, twice, vec![0xFF; 9]] {
        let refused = Descriptor::parse(&with(bytes));
        assert_eq!(refused, Err(DescriptorError::Encoding));
    }
    let long = vec![0; DESCRIPTOR_BYTES_MAX + 1];
    let length = long.len();
    let refused = Descriptor::parse(&with(long));
    assert_eq!(refused, Err(DescriptorError::TooLong(length)));
}

#[test]
fn a_file_reads_back_and_another_files_bytes_are_refused() {
    let good = signed(&stated());
    let file = to_file(&good);
    let read = from_file(&file).expect("its own file");
    assert_eq!(*read.signed(), good);
    for cut in 0..file.len() {
        assert!(from_file(&file[..cut]).is_err(), "{cut}");
    }
    let longer = [&file[..], b"x"].concat();
    assert_eq!(from_file(&longer), Err(DescriptorError::Encoding));
    let later = String::from_utf8_lossy(FILE_HEADER).replace('1', "2");
    let later = [later.as_bytes(), &file[FILE_HEADER.len()..]].concat();
    assert_eq!(from_file(&later), Err(DescriptorError::Encoding));
    let huge = vec![b'r'; 1 << 20];
    assert_eq!(from_file(&huge), Err(DescriptorError::TooLong(1 << 20)));
}
