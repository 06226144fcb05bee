//! Splitting and combining: any k shares, no fewer, and every bad share by its name.

use proptest::prelude::*;

use super::*;

fn root() -> RootKey {
    RootKey::generate(RootEpoch(3)).expect("room")
}

fn copy(share: &Share) -> Share {
    Share::from_bytes(&share.to_bytes()).expect("a share")
}

fn pick(shares: &[Share], indices: &[usize]) -> Vec<Share> {
    indices.iter().map(|index| copy(&shares[*index])).collect()
}

/// The same share with other bytes in it, consistent in itself: what a dishonest custodian would
/// bring.
fn forged(share: &Share) -> Share {
    let value = KeySlot::random().expect("room");
    Share {
        value,
        ..copy(share)
    }
}

#[test]
fn any_k_shares_in_any_order_give_the_root_key() {
    let root = root();
    let (set, shares) = root.split(3, 5).expect("splits");
    for indices in [&[0, 1, 2][..], &[4, 2, 0], &[1, 3, 4], &[4, 3, 2, 1, 0]] {
        let chosen = pick(&shares, indices);
        for combined in [set.combine(&chosen), combine(&chosen)] {
            let combined = combined.expect("combines");
            assert_eq!(combined.key.bytes(), root.key.bytes());
            assert_eq!(
                (combined.epoch(), combined.check_value()),
                (RootEpoch(3), set.root_check())
            );
        }
    }
}

#[test]
fn fewer_than_k_shares_are_refused() {
    let (set, shares) = root().split(3, 5).expect("splits");
    let error = Some(ShareError::TooFew { have: 2, need: 3 });
    assert_eq!(combine(&shares[..2]).err(), error);
    assert_eq!(set.combine(&shares[..2]).err(), error);
    assert_eq!(
        set.combine(&[]).err(),
        Some(ShareError::TooFew { have: 0, need: 3 })
    );
    assert!(combine(&[]).is_err());
}

/// One share too few interpolates to a key that has nothing to do with the root key, for every
/// guess of k.
#[test]
fn k_minus_one_shares_say_nothing_of_the_root() {
    let root = root();
    let (_, shares) = root.split(3, 3).expect("splits");
    let points: Vec<_> = shares[..2]
        .iter()
        .map(|share| (share.index, share.value.bytes()))
        .collect();
    let mut guess = [0; 32];
    gf256::interpolate_at_zero(&points, &mut guess);
    assert_ne!(&guess, root.key.bytes());
}

#[test]
fn a_share_given_twice_is_named() {
    let (set, shares) = root().split(2, 3).expect("splits");
    let twice = [copy(&shares[1]), copy(&shares[1])];
    assert_eq!(
        combine(&twice).err(),
        Some(ShareError::Repeated { index: 2 })
    );
    assert_eq!(
        set.combine(&twice).err(),
        Some(ShareError::Repeated { index: 2 })
    );
}

#[test]
fn a_share_of_another_split_is_named() {
    let root = root();
    let (set, shares) = root.split(2, 3).expect("splits");
    let (_, others) = root.split(2, 3).expect("splits");
    let mixed = [copy(&shares[0]), copy(&others[1])];
    assert_eq!(
        combine(&mixed).err(),
        Some(ShareError::WrongSet { index: 2 })
    );
    assert_eq!(
        set.combine(&mixed).err(),
        Some(ShareError::WrongSet { index: 2 })
    );
    assert_eq!(
        set.verify(&others[0]),
        Err(ShareError::WrongSet { index: 1 })
    );
    for change in [
        |share: &mut Share| share.k = 3,
        |share: &mut Share| share.n = 4,
        |share: &mut Share| share.epoch = RootEpoch(9),
        |share: &mut Share| share.root_check.0[0] ^= 1,
    ] {
        let mut share = copy(&shares[2]);
        change(&mut share);
        assert_eq!(set.verify(&share), Err(ShareError::WrongSet { index: 3 }));
        assert_eq!(
            combine(&[copy(&shares[0]), share]).err(),
            Some(ShareError::WrongSet { index: 3 })
        );
    }
}

#[test]
fn a_forged_share_is_named_by_the_set_and_never_combines() {
    let (set, shares) = root().split(2, 3).expect("splits");
    let with_forged = [copy(&shares[0]), forged(&shares[1])];
    assert_eq!(
        set.combine(&with_forged).err(),
        Some(ShareError::Forged { index: 2 })
    );
    assert_eq!(combine(&with_forged).err(), Some(ShareError::NotTheRoot));
    let mut renumbered = copy(&shares[0]);
    renumbered.index = 3;
    assert_eq!(
        set.verify(&renumbered),
        Err(ShareError::Forged { index: 3 })
    );
    renumbered.index = 0;
    assert_eq!(
        set.verify(&renumbered),
        Err(ShareError::Forged { index: 0 })
    );
}

#[test]
fn thresholds_that_protect_nothing_are_refused() {
    for (k, n) in [(0, 0), (0, 5), (1, 1), (1, 5), (6, 5)] {
        assert_eq!(
            root().split(k, n).err(),
            Some(ShareError::Threshold { k, n })
        );
    }
    assert_eq!(root().split(2, 255).expect("splits").1.len(), 255);
}

#[test]
fn a_share_and_its_set_have_these_golden_bytes() {
    let value = KeySlot::try_new::<KeyError>(|value| {
        value.fill(0xdd);
        Ok(())
    })
    .expect("room");
    let share = Share {
        set: SetId([0xaa; 16]),
        epoch: RootEpoch(3),
        k: 2,
        n: 3,
        index: 1,
        root_check: RootCheck([0xcc; 16]),
        value,
    };
    let head = format!(
        "01{}00000003020301{}{}",
        "aa".repeat(16),
        "cc".repeat(16),
        "dd".repeat(32)
    );
    let sum = kdf::sha256(&[
        b"\0\x18reduit/v1/share-checksum",
        &hex::decode(&head).expect("hexadecimal"),
    ]);
    assert_eq!(
        hex::encode(&share.to_bytes()[..]),
        head.clone() + &hex::encode(&sum[..8])
    );
    assert_eq!(
        share.to_text().as_str(),
        "reduit-share-agvkvkvk-vkvkvkvk-vkvkvkvk-vkvaaaaa-ambagaom-ztgmztgm-ztgmztgm-ztgmztgm-3xo53xo5-3xo53xo5-3xo53xo5-3xo53xo5-3xo53xo5-3xo53xo5-3xovrvoz-6snipraf"
    );
    let set = ShareSet {
        set: SetId([0xaa; 16]),
        epoch: RootEpoch(3),
        k: 2,
        root_check: RootCheck([0xcc; 16]),
        share_checks: vec![[0xee; 32]; 3],
    };
    let expected = format!(
        "01{}000000030203{}{}",
        "aa".repeat(16),
        "cc".repeat(16),
        "ee".repeat(96)
    );
    assert_eq!(hex::encode(set.to_bytes()), expected);
    assert_eq!(ShareSet::from_bytes(&set.to_bytes()), Ok(set));
}

#[test]
fn text_survives_people() {
    let (set, shares) = root().split(2, 3).expect("splits");
    let text = shares[0].to_text();
    assert_eq!(text.len(), "reduit-share".len() + 16 * 9);
    let spaced = text
        .replace('-', " ")
        .replacen("reduit share", "reduit-share", 1);
    let wrapped: String = text
        .chars()
        .flat_map(|c| if c == '-' { vec![c, '\n'] } else { vec![c] })
        .collect();
    let wrapped = wrapped.replacen("-\nshare", "-share", 1);
    for text in [
        text.to_string(),
        text.to_uppercase(),
        spaced,
        wrapped,
        format!("  {}\n", text.as_str()),
    ] {
        let share = Share::from_text(&text).expect("a share");
        assert_eq!(set.verify(&share), Ok(()));
    }
}

#[test]
fn every_mistyped_or_lost_character_is_found() {
    let (_, shares) = root().split(2, 3).expect("splits");
    let text = shares[0].to_text();
    let start = "reduit-share-".len();
    for at in start..text.len() {
        if text.as_bytes()[at] == b'-' {
            continue;
        }
        let mut typed = text.as_bytes().to_vec();
        typed[at] = if typed[at] == b'a' { b'b' } else { b'a' };
        let typed = String::from_utf8(typed).expect("ascii");
        assert!(Share::from_text(&typed).is_err(), "character {at}");
        let mut lost = text.to_string();
        lost.remove(at);
        assert_eq!(
            Share::from_text(&lost).err(),
            Some(ShareError::Checksum),
            "character {at}"
        );
    }
    assert_eq!(
        Share::from_text(&format!("{}a", text.as_str())).err(),
        Some(ShareError::Checksum)
    );
    assert_eq!(
        Share::from_text(&format!("{}aaaaaaaa", text.as_str())).err(),
        Some(ShareError::Checksum)
    );
    let foreign = text.replacen("reduit", "vault1", 1);
    assert_eq!(
        Share::from_text(&foreign).err(),
        Some(ShareError::Malformed)
    );
    assert_eq!(Share::from_text("").err(), Some(ShareError::Malformed));
    let digit_one = format!("{}1{}", &text[..start], &text[start + 1..]);
    assert_eq!(
        Share::from_text(&digit_one).err(),
        Some(ShareError::Malformed),
        "1 is not base32"
    );
}

#[test]
fn bytes_that_are_no_share_are_refused() {
    let (set, shares) = root().split(2, 3).expect("splits");
    let bytes = shares[0].to_bytes();
    assert_eq!(Share::from_bytes(&[]).err(), Some(ShareError::Malformed));
    assert_eq!(
        Share::from_bytes(&bytes[..79]).err(),
        Some(ShareError::Malformed)
    );
    assert_eq!(
        Share::from_bytes(&[2]).err(),
        Some(ShareError::UnknownFormat(2))
    );
    let mut zero = copy(&shares[0]);
    zero.index = 0;
    assert_eq!(
        Share::from_bytes(&zero.to_bytes()).err(),
        Some(ShareError::Malformed)
    );
    zero.index = 4;
    assert_eq!(
        Share::from_bytes(&zero.to_bytes()).err(),
        Some(ShareError::Malformed)
    );
    (zero.index, zero.k) = (1, 1);
    assert_eq!(
        Share::from_bytes(&zero.to_bytes()).err(),
        Some(ShareError::Threshold { k: 1, n: 3 })
    );

    let bytes = set.to_bytes();
    for length in 0..bytes.len() {
        assert!(
            ShareSet::from_bytes(&bytes[..length]).is_err(),
            "cut to {length}"
        );
    }
    assert!(ShareSet::from_bytes(&[&bytes[..], &[0]].concat()).is_err());
    let with = |at: usize, value: u8| {
        let mut changed = bytes.clone();
        changed[at] = value;
        ShareSet::from_bytes(&changed).err()
    };
    assert_eq!(with(0, 2), Some(ShareError::UnknownFormat(2)));
    assert_eq!(with(21, 1), Some(ShareError::Threshold { k: 1, n: 3 }));
    assert_eq!(with(21, 4), Some(ShareError::Threshold { k: 4, n: 3 }));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    #[test]
    fn every_choice_of_k_of_n_gives_the_root_key(n in 2..20u8, k_seed in any::<u8>(), order in any::<u64>()) {
        let k = 2 + k_seed % (n - 1);
        let root = root();
        let (set, mut shares) = root.split(k, n).expect("splits");
        // A different choice for each seed: sort by a hash of index and seed.
        shares.sort_by_key(|share| kdf::sha256(&[&order.to_be_bytes(), &[share.index()]]));
        shares.truncate(k.into());
        prop_assert_eq!(set.combine(&shares).expect("combines").check_value(), root.check_value());
        shares.pop();
        let refused = matches!(set.combine(&shares), Err(ShareError::TooFew { .. }));
        prop_assert!(refused);
    }
}
