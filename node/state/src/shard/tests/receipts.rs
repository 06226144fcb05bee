//! What an entry and its receipts have to add up to.

use super::*;

#[test]
fn a_command_over_the_entry_bound_is_malformed() {
    let mut shard = Shard::new();
    let mut command = shard.command(Command::PutObject(put("a", version(1))));
    if let Some(Command::PutObject(put)) = &mut command.command {
        put.key = "k".repeat(limits::COMMAND_BYTES_MAX);
    }
    assert_eq!(reason(shard.apply(command)), Refusal::Malformed);
}

#[test]
fn an_entry_whose_parts_do_not_add_up_is_malformed() {
    let mut shard = Shard::new();
    fn entry(put: &mut v1::PutObject) -> &mut v1::ObjectEntry {
        put.entry.as_mut().expect("the fixture has one")
    }
    let spoils: [Spoil<v1::PutObject>; 23] = [
        |p| p.key = String::new(),
        |p| p.key = "k".repeat(1025),
        |p| p.dataset_id = Bytes::from_static(b"short"),
        |p| p.holder = Bytes::from_static(b"short"),
        |p| p.entry = None,
        |p| {
            p.precondition = Some(v1::Precondition {
                if_match: Bytes::from_static(b"x"),
                ..Default::default()
            })
        },
        |p| {
            let if_match = Bytes::from_static(&[1; 16]);
            p.precondition = Some(v1::Precondition {
                if_none_match_any: true,
                if_match,
            });
        },
        |p| entry(p).format = 2,
        |p| entry(p).version_id = Bytes::new(),
        |p| entry(p).lease_id = Bytes::from_static(&[1; 15]),
        |p| entry(p).finished_index = 1,
        |p| entry(p).finished_at_ms = 1,
        |p| entry(p).delete_marker = true,
        |p| entry(p).versioned = true,
        |p| entry(p).dek_salt = Bytes::from_static(&[1; 31]),
        |p| entry(p).name_salt = Bytes::new(),
        |p| entry(p).plain_bytes = 14,
        |p| entry(p).placement = 2,
        |p| entry(p).sealed_manifest = Bytes::from(vec![0; limits::MANIFEST_BYTES_MAX + 1]),
        |p| entry(p).sealed_metadata = Bytes::from(vec![0; limits::METADATA_BYTES_MAX + 1]),
        |p| entry(p).inline = Bytes::new(),
        |p| {
            entry(p).inline = Bytes::from(vec![0; limits::INLINE_BYTES_MAX + 1]);
            entry(p).sealed_bytes = entry(p).inline.len() as u64;
        },
        |p| entry(p).blocks = vec![v1::BlockRef::default()],
    ];
    for (at, spoil) in spoils.into_iter().enumerate() {
        let mut asked = put("a", version(1));
        spoil(&mut asked);
        assert_eq!(
            reason(shard.run(Command::PutObject(asked))),
            Refusal::Malformed,
            "case {at}"
        );
    }
    done(shard.run(Command::PutObject(put("a", version(1)))));
}

#[test]
fn blocks_or_receipts_that_do_not_add_up_are_malformed() {
    let mut shard = Shard::new();
    fn entry(finish: &mut v1::FinishObject) -> &mut v1::ObjectEntry {
        finish.entry.as_mut().expect("the fixture has one")
    }
    let spoils: [Spoil<v1::FinishObject>; 13] = [
        |f| entry(f).blocks.clear(),
        |f| entry(f).sealed_bytes = 99,
        |f| entry(f).inline = Bytes::from_static(b"x"),
        |f| entry(f).blocks[0].digest = Bytes::from_static(b"short"),
        |f| entry(f).blocks[0].bytes = 0,
        |f| {
            entry(f).blocks[0].bytes = limits::BLOCK_BYTES_MAX + 1;
            entry(f).sealed_bytes = u64::from(limits::BLOCK_BYTES_MAX) + 51;
        },
        |f| {
            entry(f).blocks = vec![entry(f).blocks[0].clone(); limits::BLOCKS_MAX + 1];
            entry(f).sealed_bytes = 50 * (limits::BLOCKS_MAX as u64 + 1);
        },
        |f| entry(f).upload_epoch = 1,
        |f| f.receipts[0] = receipt(1, &[(0, 0), (0, 2)]),
        |f| f.receipts[0] = receipt(1, &[(0, 3)]),
        |f| f.receipts[0] = receipt(1, &[(1, 1), (0, 1)]),
        |f| f.receipts[0] = receipt(1, &[(0, 1), (0, 1)]),
        |f| f.receipts[0] = receipt(1, &[(1, u32::MAX)]),
    ];
    for (at, spoil) in spoils.into_iter().enumerate() {
        let mut asked = finish("a", version(1), &[1, 2]);
        spoil(&mut asked);
        assert_eq!(
            reason(shard.run(Command::FinishObject(asked))),
            Refusal::Malformed,
            "case {at}"
        );
    }
    let many = (0..=limits::RECEIPTS_MAX as u64).collect::<Vec<_>>();
    let asked = finish("a", version(1), &many);
    assert_eq!(
        reason(shard.run(Command::FinishObject(asked))),
        Refusal::Malformed
    );
    done(shard.run(Command::FinishObject(finish("a", version(1), &[1, 2]))));
}

#[test]
fn one_receipt_is_no_majority() {
    let mut shard = Shard::new();
    for nodes in [&[][..], &[1], &[1, 1], &[1, 7], &[7, 8, 9]] {
        let asked = finish("a", version(1), nodes);
        assert_eq!(
            reason(shard.run(Command::FinishObject(asked))),
            Refusal::NotOnMajority,
            "{nodes:?}"
        );
    }
    assert_eq!(shard.current_id("a"), None);
    done(shard.run(Command::FinishObject(finish("a", version(1), &[1, 3]))));
}

#[test]
fn every_block_needs_a_majority_of_its_own() {
    let mut shard = Shard::new();
    let with = |receipts: Vec<v1::ReceiptClaim>| {
        Command::FinishObject(v1::FinishObject {
            receipts,
            ..finish("a", version(1), &[])
        })
    };
    let thin = with(vec![
        receipt(1, &[(0, 2)]),
        receipt(2, &[(0, 1)]),
        receipt(7, &[(1, 1)]),
    ]);
    assert_eq!(reason(shard.run(thin)), Refusal::NotOnMajority);
    // No node but one has both, and yet each block is on two.
    let woven = with(vec![
        receipt(1, &[(0, 2)]),
        receipt(2, &[(0, 1)]),
        receipt(3, &[(1, 1)]),
    ]);
    done(shard.run(woven));
}

#[test]
fn while_membership_is_joint_both_majorities_count() {
    let mut shard = Shard::new();
    shard.voters = vec![BTreeSet::from([1, 2, 3]), BTreeSet::from([3, 4, 5])];
    for nodes in [&[1, 2, 3][..], &[3, 4, 5]] {
        let asked = finish("a", version(1), nodes);
        assert_eq!(
            reason(shard.run(Command::FinishObject(asked))),
            Refusal::NotOnMajority
        );
    }
    done(shard.run(Command::FinishObject(finish("a", version(1), &[1, 3, 4]))));
}

#[test]
fn an_upload_more_than_24_epochs_old_is_refused() {
    let mut shard = Shard::new();
    shard.now_ms = 1000;
    shard.advance_epochs(limits::EPOCHS_KEPT);
    let at =
        |n, epoch| Command::FinishObject(finish_at("a", version(n), &[1, 2], UploadEpoch(epoch)));
    done(shard.run(at(1, 0)));
    shard.advance_epoch();
    assert_eq!(reason(shard.run(at(2, 0))), Refusal::UploadTooOld);
    done(shard.run(at(2, 1)));
}
