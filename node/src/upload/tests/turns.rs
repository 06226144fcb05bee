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
    // Whoever gave its turn up is told that it has not all; who still had it reads to the end once there is room on the way.
    stalled.truncate(READING_MAX / 2);
    let read = stalled.into_iter().map(async |mut one| {
        let mut bytes = 0;
        loop {
            match one.message().await {
                Ok(Some(piece)) => bytes += piece.data.len(),
                Ok(None) => return (bytes, None),
                Err(refused) => return (bytes, Some(refused)),
            }
        }
    });
    let mut gave_up = 0;
    for (bytes, refused) in futures::future::join_all(read).await {
        match refused {
            None => assert_eq!(bytes, block.len(), "it looks like all of it"),
            Some(refused) => {
                assert!(bytes < block.len());
                assert_eq!(reason(&refused), Some("read-stalled"));
                gave_up += 1;
            }
        }
    }
    assert!(gave_up > 0, "others had turns");
}
