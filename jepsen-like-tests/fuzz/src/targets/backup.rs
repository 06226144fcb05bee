//! The file of a KMS backup: its start, which is read before anybody can tell who wrote it, and the frames behind it.

use prost::Message as _;
use proto::backup::{Frames, MAGIC, Start, framed};
use proto::v1;
use proto::v1::kms_backup_frame::Frame;

use crate::{Memory, Shape, Source, Target};

pub(super) const BACKUP: Target = Target {
    name: "backup",
    from: Source::Disk,
    parses: &["proto/src/backup.rs: parse", "proto/src/backup.rs: next"],
    shape: Shape::Message { after: 1 },
    len_max: 2048,
    memory: Memory::PARSER,
    check: backup,
    seeds,
};

fn backup(data: &[u8]) {
    let Some((how, rest)) = data.split_first() else {
        return;
    };
    match how % 3 {
        // A header as it is, its length stated.
        0 => {
            let length = u32::try_from(rest.len()).expect("inputs are short");
            start(&[MAGIC, &length.to_be_bytes(), rest].concat());
        }
        1 => start(rest),
        _ => frames(rest),
    }
}

/// What is read is what stands there: the sealed part is bound to these bytes.
fn start(file: &[u8]) {
    let Ok(Some(start)) = Start::parse(file) else {
        return;
    };
    assert!(file.starts_with(&start.bytes));
    let again = Start::new(start.header.clone()).expect("it was read");
    assert_eq!(again, start);
    let longer = [file, b"more"].concat();
    assert_eq!(Start::parse(&longer), Ok(Some(start)));
}

/// Where the plaintext is cut makes no difference.
fn frames(plain: &[u8]) {
    let all = |step: usize| {
        let (mut frames, mut found) = (Frames::default(), Vec::new());
        for part in plain.chunks(step) {
            frames.push(part);
            loop {
                match frames.take() {
                    Ok(Some(frame)) => found.push(frame),
                    Ok(None) => break,
                    Err(error) => return (found, Err(error)),
                }
            }
        }
        (found, Ok(frames.is_empty()))
    };
    let (found, ended) = all(plain.len().max(1));
    assert_eq!(all(7), (found.clone(), ended));
    for frame in found {
        assert!(framed(&frame).is_some(), "it was short enough to be read");
    }
}

fn seeds() -> Vec<Vec<u8>> {
    let holder = |index: u32| v1::ShareHolder {
        identity: format!("spiffe://ch-zrh/custodian/c{index}"),
        share_check: vec![1; 32].into(),
        share_index: index,
    };
    let header = v1::KmsBackupHeader {
        format: 1,
        region: Some(v1::KmsRegion {
            format: 1,
            region: "ch-zrh".to_owned(),
            jurisdiction: "CH".to_owned(),
            root_epoch: 1,
            root_check: vec![2; 32].into(),
            shares_needed: 2,
            custodians: vec![holder(1), holder(2)],
            log_origin: "ch-zrh/main/1".to_owned(),
            share_set: vec![3; 40].into(),
        }),
        tree_size: 3,
        root_hash: vec![4; 32].into(),
        taken_at_ms: 5,
        level: 4,
    };
    let row = v1::StateRow {
        key: vec![b'T'].into(),
        value: vec![0; 8].into(),
    };
    let rows = Frame::Rows(v1::KmsBackupRows { rows: vec![row] });
    let end = Frame::End(v1::KmsBackupEnd {
        rows: 1,
        checkpoint: b"a note".to_vec().into(),
    });
    let plain = [rows, end].map(|frame| {
        let frame = v1::KmsBackupFrame { frame: Some(frame) };
        framed(&frame).expect("short")
    });
    let file = Start::new(header.clone()).expect("a start").bytes;
    vec![
        [&[0], &header.encode_to_vec()[..]].concat(),
        [&[1], &file[..]].concat(),
        [&[2], &plain.concat()[..]].concat(),
    ]
}
