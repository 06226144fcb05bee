//! The policy text at storage nodes: learnt with the enrolments, asked for every use of the catalog, and closed where it
//! cannot be read.

use crate::region::{DATASET, Region, SHARD, put, reason};
use proto::ids::GroupId;
use proto::v1;
use proto::v1::shard_client::ShardClient;
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
        ..Stated::default()
    }
}

fn on_behalf_of(whom: &str) -> Stated {
    Stated {
        on_behalf_of: whom.to_owned(),
        ..Stated::default()
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

/// What a gateway asks on behalf of a service principal is permitted to both, or to nobody. Red with `gateway_alone`.
#[tokio::test(flavor = "multi_thread")]
async fn a_gateway_widens_nothing_that_its_principal_may_and_is_not_widened_by_it() {
    let region = Region::with_dataset(3).await;
    region.put("c1", put("a", 1)).await.expect("granted");
    // The gateway may read and list, `backup` read, `analysis` write: no two of them the same.
    region.set_policy(&format!(
        r#"
permit (principal in Role::"gateway", action in [Action::"read", Action::"list"], resource);
permit (principal == Identity::"spiffe://ch-zrh/service/backup", action == Action::"read", resource == Dataset::"{DATASET}");
permit (principal == Identity::"spiffe://ch-zrh/service/analysis", action == Action::"write", resource);
permit (principal == Identity::"spiffe://ch-zrh/client/c1", action, resource);
"#
    ));
    region.set_service_principals(&["analysis", "backup"]);
    let backup = on_behalf_of("spiffe://ch-zrh/service/backup");
    let reads = async || get(&region, "g1", &backup).await.is_ok();
    region.until("the text is learnt", reads).await;
    get(&region, "g1", &Stated::default())
        .await
        .expect("permitted, for nobody else");
    get(&region, "g1", &on_behalf_of("the night shift"))
        .await
        .expect("words are recorded, and nobody is asked about them");
    for whom in [
        // May write, and not read.
        "spiffe://ch-zrh/service/analysis",
        // Of no enabled access key.
        "spiffe://ch-zrh/service/other",
        // Another region's, and none at all.
        "spiffe://de-fra/service/backup",
        "spiffe://ch-zrh/service/Backup",
    ] {
        let denied = get(&region, "g1", &on_behalf_of(whom)).await;
        assert_eq!(reason(denied), "not-granted", "{whom}");
    }
    // Who is no gateway acts for itself: the client may read, and so may the principal.
    get(&region, "c1", &Stated::default())
        .await
        .expect("granted");
    assert_eq!(reason(get(&region, "c1", &backup).await), "not-granted");

    // Its last access key is disabled.
    region.set_service_principals(&["analysis"]);
    region
        .until("the principal is taken out", async || !reads().await)
        .await;
    assert_eq!(reason(get(&region, "g1", &backup).await), "not-granted");
    get(&region, "g1", &Stated::default())
        .await
        .expect("the gateway's own rights are what they were");
    region.stop().await;
}
