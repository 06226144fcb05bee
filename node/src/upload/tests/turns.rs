//! Reads have turns: who takes nothing gives its own up.

use std::time::Duration;

use super::super::READING_MAX;
use super::*;

/// Reads that are more than turns: the first few fit into what HTTP/2 takes of a connection.
const STALLED: usize = READING_MAX + 8;

#[tokio::test(flavor = "multi_thread")]
async fn readers_that_take_nothing_do_not_keep_others_from_reading() {
    let region = Region::new().await;
    let block = data(1, 8 << 20);
    let uploaded = region.upload("client", whole(&[&block])).await;
    uploaded.expect("granted");
    let mut slow = region.client("gateway").await;
    let opened = async {
        let mut stalled = Vec::new();
        for _ in 0..STALLED {
            let read = slow.read(read_request(0)).await.expect("a turn");
            stalled.push(read.into_inner());
        }
        let mut other = region.client("n2").await;
        let got = read(&mut other, read_request(0)).await.expect("a turn");
        assert_eq!(got, block);
        stalled
    };
    let opened = tokio::time::timeout(Duration::from_secs(30), opened).await;
    let mut stalled = opened.expect("turns are given up");
    // What it had is whole, and it is told that it has not all. What came for the others keeps it from coming.
    let mut early = stalled.swap_remove(READING_MAX / 2);
    drop(stalled);
    let mut bytes = 0;
    let refused = loop {
        match early.message().await {
            Ok(Some(piece)) => bytes += piece.data.len(),
            Ok(None) => panic!("{bytes} bytes look like all of it"),
            Err(refused) => break refused,
        }
    };
    assert!(bytes < block.len());
    assert_eq!(reason(&refused), Some("read-stalled"));
}
