//! A version that moves here keeps its id, and is sealed anew by each try.

use proto::v1::ArrivalPhase;

use super::*;

fn arriving(region: &Region, phase: ArrivalPhase) {
    let record = v1::ArrivalRecord {
        phase: phase.into(),
        ..Default::default()
    };
    let key = keys::dataset(table::ARRIVAL, &DATASET);
    let mut state = region.replica.state.lock();
    state.put(&key, &record.encode_to_vec());
}

async fn is_conflict(region: &Region, who: &str, block: &[u8]) -> bool {
    match region.upload(who, whole(&[block])).await {
        Ok(_) => false,
        refused => {
            assert_eq!(refusal(refused).0, "block-conflict");
            true
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_an_earlier_try_left_of_a_moved_version_is_replaced_until_it_is_imported() {
    let region = Region::new().await;
    let [first, second, third] = [1, 2, 3].map(|seed| data(seed, 9_000));
    let tried = region.upload("gateway", whole(&[&first])).await;
    assert!(tried.expect("granted").receipt.is_some());
    // No dataset that moves here: the first upload of an id counts, whoever comes.
    assert!(is_conflict(&region, "gateway", &second).await);

    arriving(&region, ArrivalPhase::Copying);
    let again = region.upload("gateway", whole(&[&second])).await;
    let receipt = again.expect("an earlier try's may go").receipt;
    let body = receipt.expect("all is durable").body;
    let body = v1::ReceiptBody::decode(body).expect("a body");
    let list = list_digest([(0, 9_000, &digest(&second).0)]);
    assert_eq!(body.list_digest, list[..]);
    let mut client = region.client("gateway").await;
    let got = read(&mut client, read_request(0))
        .await
        .expect("it is there");
    assert_eq!(got, second);
    assert!(
        is_conflict(&region, "client", &third).await,
        "clients move nothing"
    );

    // Imported: nobody replaces it.
    region.replica.finish(VERSION, EPOCH, &[second]);
    assert!(is_conflict(&region, "gateway", &third).await);

    arriving(&region, ArrivalPhase::Hold);
    assert!(is_conflict(&region, "gateway", &third).await);
}
