//! The policy text at storage nodes: learnt with the enrolments, asked for every use of the catalog, and closed where it
//! cannot be read.

mod region;

use proto::ids::GroupId;
use proto::v1;
use proto::v1::shard_client::ShardClient;
use region::{DATASET, Region, SHARD, put, reason};
use tonic::Status;
use transport::Stated;

/// One client with everything, another with what concerns a case.
fn text() -> String {
    format!(
        r#"
@id("c1")
permit (principal == Identity::"spiffe://ch-zrh/client/c1", action, resource == Dataset::"{DATASET}")
when {{ context.purpose == "service" }};

@id("c2")
permit (principal == Identity::"spiffe://ch-zrh/client/c2", action == Action::"read", resource)
when {{ context.purpose == "research" && context has case && context.case == "Zürich 17" }};
"#
    )
}

fn stated(purpose: &str, case: &str) -> Stated {
    Stated {
        purpose: purpose.to_owned(),
        case: case.to_owned(),
    }
}

async fn get(region: &Region, caller: &str, stated: &Stated) -> Result<v1::GetObjectReply, Status> {
    region
        .on_leader(caller, GroupId(SHARD), |channel| {
            let request = stated.of(v1::GetObjectRequest {
                shard: SHARD,
                dataset_id: DATASET.into(),
                key: "a".to_owned(),
                ..Default::default()
            });
            async move {
                let got = ShardClient::new(channel).get_object(request).await?;
                Ok(got.into_inner())
            }
        })
        .await
}

/// Red with `ignore_policy`.
#[tokio::test(flavor = "multi_thread")]
async fn the_catalog_is_used_as_the_policy_text_says_purpose_and_case_included() {
    let region = Region::with_dataset(3).await;
    region.put("c1", put("a", 1)).await.expect("granted");
    let nothing = Stated::default();
    get(&region, "c2", &nothing).await.expect("granted");

    region.set_policy(&text());
    let reads = async || get(&region, "c2", &nothing).await.is_ok();
    region
        .until("the text is learnt", async || !reads().await)
        .await;
    assert_eq!(reason(get(&region, "c2", &nothing).await), "not-granted");
    get(&region, "c2", &stated("research", "Zürich 17"))
        .await
        .expect("permitted for this case");
    for other in [
        stated("research", ""),
        stated("research", "Zürich 18"),
        stated("service", "Zürich 17"),
        stated("No Purpose", "Zürich 17"),
    ] {
        let denied = get(&region, "c2", &other).await;
        assert_eq!(reason(denied), "not-granted", "{other:?}");
    }
    region.put("c1", put("a", 2)).await.expect("permitted");
    assert_eq!(reason(region.put("c2", put("a", 3)).await), "not-granted");

    // A text of a later build, say: nobody may do anything until this one can read it.
    region.set_policy("permit (principal, action, resource) when { context.nonesuch == 1 };");
    let reads = async || get(&region, "c1", &nothing).await.is_ok();
    region
        .until("the text is learnt", async || !reads().await)
        .await;
    assert_eq!(reason(get(&region, "c1", &nothing).await), "not-granted");
    region.set_policy(&text());
    region.until("a text is learnt", reads).await;
    region.stop().await;
}
