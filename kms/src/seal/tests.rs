use envelope::{HpkePublicKey, establish, hpke_seal};

use super::*;

const AAD: &[u8] = b"session";

struct Split {
    set: ShareSet,
    shares: Vec<Share>,
    check: RootCheck,
}

fn split() -> Split {
    let root = RootKey::generate(RootEpoch(1)).expect("room");
    let (set, shares) = root.split(2, 3).expect("2 of 3");
    Split {
        set,
        shares,
        check: root.check_value(),
    }
}

fn info(custodian: &str) -> HpkeInfo {
    HpkeInfo::of(&[b"share", custodian.as_bytes()])
}

fn sealed_to(seal: &Seal, share: &Share, custodian: &str) -> Vec<u8> {
    let key = HpkePublicKey::try_from(&seal.share_public()[..]).expect("a public key");
    hpke_seal(&key, &info(custodian), AAD, &share.to_bytes()).expect("seals")
}

fn take(seal: &Seal, split: &Split, at: usize) -> Result<Posture, UnsealError> {
    let sealed = sealed_to(seal, &split.shares[at], "c");
    seal.take_share(
        &[(split.set.clone(), split.shares[at].index())],
        &info("c"),
        AAD,
        &sealed,
    )
}

#[test]
fn k_shares_bring_the_root_and_it_serves_only_once_recorded() {
    let (seal, split) = (Seal::new().expect("room"), split());
    assert_eq!(seal.root().err(), Some(Sealed));
    assert_eq!(
        take(&seal, &split, 0).expect("taken"),
        Posture::Sealed { have: 1 }
    );
    assert_eq!(
        take(&seal, &split, 0).expect("again"),
        Posture::Sealed { have: 1 }
    );
    assert_eq!(
        take(&seal, &split, 2).expect("the second"),
        Posture::Unrecorded
    );
    assert_eq!(seal.root().err(), Some(Sealed), "not before the record");
    assert!(
        !seal.recorded([0; 16]),
        "a record of another life does not count"
    );
    assert!(seal.recorded(seal.boot_id()));
    assert_eq!(seal.root().expect("unsealed").check_value(), split.check);
    assert!(matches!(
        take(&seal, &split, 1),
        Err(UnsealError::NotSealed)
    ));

    let before = (seal.boot_id(), seal.share_public(), seal.offer_hash());
    seal.seal().expect("room for a new life");
    assert_eq!(seal.root().err(), Some(Sealed));
    assert_eq!(seal.posture(), Posture::Sealed { have: 0 });
    assert_ne!(seal.boot_id(), before.0);
    assert_ne!(seal.share_public(), before.1);
    assert_ne!(seal.offer_hash(), before.2);
}

#[test]
fn a_share_of_another_split_holder_session_or_boot_is_refused() {
    let (seal, good, other) = (Seal::new().expect("room"), split(), split());
    let sealed = sealed_to(&seal, &other.shares[0], "c");
    let wrong_set = seal.take_share(&[(good.set.clone(), 1)], &info("c"), AAD, &sealed);
    assert!(matches!(
        wrong_set,
        Err(UnsealError::Share(ShareError::WrongSet { index: 1 }))
    ));
    let sealed = sealed_to(&seal, &good.shares[0], "c");
    let lent = seal.take_share(&[(good.set.clone(), 2)], &info("c"), AAD, &sealed);
    assert!(matches!(lent, Err(UnsealError::NotTheHolders)));
    let stranger = seal.take_share(&[(good.set.clone(), 1)], &info("d"), AAD, &sealed);
    assert!(matches!(stranger, Err(UnsealError::NotAuthentic)));
    let replayed = seal.take_share(
        &[(good.set.clone(), 1)],
        &info("c"),
        b"other session",
        &sealed,
    );
    assert!(matches!(replayed, Err(UnsealError::NotAuthentic)));
    seal.seal().expect("a new life");
    let old_boot = seal.take_share(&[(good.set.clone(), 1)], &info("c"), AAD, &sealed);
    assert!(matches!(old_boot, Err(UnsealError::NotAuthentic)));
    assert_eq!(seal.posture(), Posture::Sealed { have: 0 });
}

#[test]
fn a_peers_answer_unseals_once_and_only_with_the_regions_root() {
    let info = SessionInfo::of(&[b"unseal"]);
    let epoch = RootEpoch(1);
    let answer = |seal: &Seal, root: &RootKey| {
        let (_, offer) = seal.offer();
        let offer = envelope::OfferPublic::try_from(&offer[..]).expect("an offer");
        let (encapsulated, sender) = establish(&offer, &info).expect("answered");
        (encapsulated, sender.send_root(root, AAD).expect("sealed"))
    };
    let seal = Seal::new().expect("room");
    let root = RootKey::generate(epoch).expect("room");
    let check = root.check_value();
    let (encapsulated, sealed) = answer(&seal, &root);
    let unsealed = seal.take_answer(&encapsulated, &info, &sealed, epoch, AAD, check);
    assert_eq!(unsealed.expect("unsealed"), Posture::Unsealed);
    assert_eq!(seal.root().expect("here").check_value(), check);

    let seal = Seal::new().expect("room");
    let other = RootKey::generate(epoch).expect("room");
    let (encapsulated, sealed) = answer(&seal, &other);
    let wrong = seal.take_answer(&encapsulated, &info, &sealed, epoch, AAD, check);
    assert!(matches!(wrong, Err(UnsealError::NotTheRoot)));
    let again = seal.take_answer(&encapsulated, &info, &sealed, epoch, AAD, check);
    assert!(
        matches!(again, Err(UnsealError::OfferUsed)),
        "an offer is answered once"
    );
}

/// A region that dies while one split takes another's place is unsealed by the shares of either, never by a mixture.
#[test]
fn shares_of_the_split_in_force_and_of_the_next_are_counted_apart() {
    let (seal, old, new) = (Seal::new().expect("room"), split(), split());
    let give = |split: &Split, at: usize| {
        let sealed = sealed_to(&seal, &split.shares[at], "c");
        let index = split.shares[at].index();
        let either = [(old.set.clone(), index), (new.set.clone(), index)];
        seal.take_share(&either, &info("c"), AAD, &sealed)
    };
    assert_eq!(give(&old, 0).expect("taken"), Posture::Sealed { have: 1 });
    assert_eq!(give(&new, 1).expect("taken"), Posture::Sealed { have: 1 });
    assert_eq!(give(&new, 2).expect("taken"), Posture::Unrecorded);
    assert!(seal.recorded(seal.boot_id()));
    assert_eq!(seal.root().expect("unsealed").check_value(), new.check);
}

#[test]
fn the_root_key_under_way_takes_over_when_it_is_in_force_and_no_other_does() {
    let seal = Seal::new().expect("room");
    let key = |epoch| Arc::new(RootKey::generate(RootEpoch(epoch)).expect("room"));
    let (first, next) = (key(1), key(2));
    assert!(!seal.set_next(next.clone()), "sealed");
    seal.take_made(first.clone());
    assert!(!seal.advance(next.check_value()), "not here");
    assert!(seal.set_next(next.clone()));
    assert_eq!(seal.root().expect("held").epoch(), RootEpoch(1));
    assert!(seal.root_of(RootEpoch(2)).is_ok());
    assert!(seal.advance(next.check_value()));
    assert_eq!(seal.root().expect("held").epoch(), RootEpoch(2));
    assert!(
        seal.root_of(RootEpoch(1)).is_ok(),
        "for what began under it"
    );
    seal.forget_former(Duration::ZERO);
    assert_eq!(seal.root_of(RootEpoch(1)).err(), Some(Sealed));
    assert!(seal.set_next(key(3)));
    assert!(!seal.advance(first.check_value()), "another's check value");
    seal.seal().expect("a new life");
    assert!(seal.next().is_none() && seal.held_epoch().is_none());
    drop(next);
    assert_eq!(Arc::strong_count(&first), 1, "nothing is left of it");
}

#[test]
fn a_root_key_under_way_that_came_meanwhile_is_not_dropped_for_an_older_one() {
    let seal = Seal::new().expect("room");
    let key = |epoch| Arc::new(RootKey::generate(RootEpoch(epoch)).expect("room"));
    seal.take_made(key(1));
    // The state shows none under way, and one is begun before that is acted on.
    let seen = seal.next();
    let begun = key(2);
    assert!(seal.set_next(begun.clone()));
    assert!(!seal.replace_next(seen.as_ref(), None));
    assert!(
        !seal.replace_next(seen.as_ref(), Some(key(2))),
        "a late answer"
    );
    assert!(seal.next().is_some_and(|next| Arc::ptr_eq(&next, &begun)));
    // Seen, and its split was given up since.
    let seen = seal.next();
    assert!(seal.replace_next(seen.as_ref(), None));
    assert!(seal.next().is_none());
}
