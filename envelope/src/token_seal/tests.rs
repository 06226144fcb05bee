//! Root keys under two halves: both open, nothing less does, and the format stays.

use super::*;

const ID: TokenSealId = TokenSealId([0x5E; 16]);

fn region() -> RegionId {
    "ch-zrh".parse().expect("a valid region")
}

fn token(byte: u8) -> TokenHalf {
    TokenHalf::take(vec![byte; HALF_BYTES]).expect("room")
}

fn sealed(root: &RootKey) -> (SealedRoot, PersonHalf) {
    let made = root.seal_under_token(&region(), ID, &token(1));
    made.expect("sealed")
}

#[test]
fn both_halves_open_the_root_key_and_no_other_pair_does() {
    let root = RootKey::generate(RootEpoch(3)).expect("room");
    let (one, half) = sealed(&root);
    let (two, other_half) = sealed(&root);
    let again = SealedRoot::from_bytes(&one.to_bytes()).expect("parses");
    let opened = again.open(&token(1), &half).expect("opens");
    assert_eq!(opened.check_value(), root.check_value());
    assert_eq!((opened.epoch(), again.id()), (RootEpoch(3), ID));
    for (sealed, token, half) in [
        (&one, token(2), &half),
        (&one, token(1), &other_half),
        (&two, token(1), &half),
    ] {
        let refused = sealed.open(&token, half).err();
        assert_eq!(refused, Some(TokenSealError::NotAuthentic));
    }
    // Halves do not change places: what a person holds is not what a token answers.
    let swapped = TokenHalf::take(half.0.bytes().to_vec()).expect("room");
    let person = PersonHalf(
        KeySlot::try_new::<KeyError>(|b| {
            b.fill(1);
            Ok(())
        })
        .expect("room"),
    );
    assert!(one.open(&swapped, &person).is_err());
}

/// Everything that is said in the clear is authenticated.
#[test]
fn a_sealed_root_key_that_was_changed_in_any_byte_does_not_open() {
    let root = RootKey::generate(RootEpoch(1)).expect("room");
    let (sealed, half) = sealed(&root);
    let bytes = sealed.to_bytes();
    for at in 0..bytes.len() {
        let mut changed = bytes.clone();
        changed[at] ^= 1;
        let opened = SealedRoot::from_bytes(&changed).and_then(|s| s.open(&token(1), &half));
        assert!(opened.is_err(), "byte {at}");
    }
    assert!(SealedRoot::from_bytes(&bytes[1..]).is_err());
    assert!(SealedRoot::from_bytes(&[&bytes[..], b"x"].concat()).is_err());
}

#[test]
fn an_unknown_format_or_suite_is_refused_by_name() {
    let root = RootKey::generate(RootEpoch(1)).expect("room");
    let bytes = sealed(&root).0.to_bytes();
    let with = |at: usize, byte| {
        let mut bytes = bytes.clone();
        bytes[at] = byte;
        SealedRoot::from_bytes(&bytes).err()
    };
    assert_eq!(with(0, 2), Some(TokenSealError::UnknownFormat(2)));
    assert_eq!(with(1, 9), Some(TokenSealError::UnknownSuite(9)));
}

#[test]
fn a_token_answers_32_bytes_or_it_is_no_half() {
    for length in [0, 20, 31, 33, 64] {
        let refused = TokenHalf::take(vec![7; length]).err();
        assert_eq!(refused, Some(TokenSealError::NotAHalf), "{length}");
    }
}

#[test]
fn a_persons_half_travels_sealed_to_one_key_for_one_purpose() {
    let root = RootKey::generate(RootEpoch(1)).expect("room");
    let (sealed, half) = sealed(&root);
    let holder = HpkePrivateKey::generate().expect("room");
    let info = HpkeInfo::of(&[b"to a holder"]);
    let out = half
        .seal_to(&holder.public(), &info, b"aad")
        .expect("sealed");
    let back = PersonHalf::open(&holder, &info, b"aad", &out).expect("opens");
    assert!(sealed.open(&token(1), &back).is_ok());
    for (info, aad) in [(HpkeInfo::of(&[b"else"]), &b"aad"[..]), (info, b"other")] {
        let refused = PersonHalf::open(&holder, &info, aad, &out).err();
        assert_eq!(refused, Some(TokenSealError::Half(HpkeError::NotAuthentic)));
    }
}

#[test]
fn the_format_and_the_challenge_have_these_golden_bytes() {
    let sealed = SealedRoot {
        id: ID,
        region: region(),
        epoch: RootEpoch(0x0102_0304),
        check: RootCheck([0xCC; 16]),
        body: [0xBB; BODY_BYTES],
    };
    let expected = [
        &[1, 1][..],
        &[0x5E; 16],
        b"\0\x06ch-zrh",
        &[1, 2, 3, 4],
        &[0xCC; 16],
        &[0xBB; 104],
    ]
    .concat();
    assert_eq!(sealed.to_bytes(), expected);
    assert_eq!(SealedRoot::from_bytes(&expected), Ok(sealed.clone()));
    let challenge = [
        b"\0\x19reduit/v1/token-challenge\0\x06ch-zrh",
        &[1, 2, 3, 4][..],
        &[0x5E; 16],
    ]
    .concat();
    assert_eq!(sealed.challenge(), challenge);
}
