//! The ceremony: whoever asked for it gets the shares, whatever became of the first call.

use crate::common::{Begin, NEEDED, PATIENCE, Region, SHARES};
use proto::v1;

/// Goes red where a call that is given up takes the shares with it: the root key is on record then, the replica serves
/// under it, and nobody could ever unseal it again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn shares_are_there_for_who_asks_again_after_the_call_was_given_up() {
    let mut region = Region::begin(Begin::default()).await;
    // While a founder is away, the ceremony waits for its word after the root key is on record.
    region.kill(2).await;
    let operator = region.caller("op-1");
    let request = v1::InitialiseRequest {
        shares: SHARES as u32,
        needed: NEEDED,
        custodians: Vec::new(),
        genesis: Some(region.genesis.clone()),
    };
    let (mut first, asked) = (operator.operate(0), request.clone());
    let given_up = tokio::spawn(async move { first.initialise(asked).await });
    let recorded = async {
        let group = region.replica(0).group();
        let mut applied = group.watch_applied();
        while kms_state::region(&*group.reader().expect("readable")).is_none() {
            applied.changed().await.expect("running");
        }
    };
    tokio::time::timeout(PATIENCE, recorded)
        .await
        .expect("the root key is on record");
    given_up.abort();
    let mut again = operator.operate(0);
    let reply = again.initialise(request).await.expect("the same shares");
    region.shares = reply.into_inner().shares;
    assert_eq!(region.shares.len(), SHARES);
    // And they are the shares of the root key in force.
    region.kill(0).await;
    region.restart(0).await;
    region.restart(2).await;
    let unsealed = region.unseal_by_custodians(0, NEEDED as usize).await;
    assert!(!unsealed.sealed, "{unsealed:?}");
    region.stop().await;
}
