//! What people and programs see of a running witness.

use transport::SystemClock;
use witness::Witness;

use crate::support::{Place, Tree, add, get};

#[tokio::test(flavor = "multi_thread")]
async fn the_status_port_says_how_it_stands_and_the_other_port_does_not() {
    let place = Place::new();
    let witness = Witness::start(&place.config(), SystemClock::shared()).await;
    let witness = witness.expect("starts");
    let address = witness.status_address().expect("configured");
    add(witness.address(), &Tree::of(7).request(0, 7));
    add(witness.address(), &Tree::of(7).request(0, 5));
    let page = get(address, "/");
    assert_eq!(page.content_type, "text/html; charset=utf-8");
    for says in ["All is well", "7 leaves", &place.keys[0].to_string()] {
        assert!(page.body.contains(says), "{says}");
    }
    let metrics = get(address, "/metrics").body;
    for line in [
        "reduit_witness_cosigned_leaves{origin=\"ch-zrh/main/1\"} 7",
        "reduit_witness_answers_total{origin=\"ch-zrh/main/1\",code=\"409\"} 1",
    ] {
        assert!(metrics.lines().any(|l| l == line), "{line}\n{metrics}");
    }
    let (status, text) = witness::fetch_status(&address.to_string())
        .await
        .expect("it answers");
    assert!(status.is_well());
    assert_eq!(status.logs[0].cosigned_size, Some(7));
    assert_eq!(get(address, "/status.json").status, 200);
    assert!(text.contains("\"answered\""));
    assert_eq!(get(address, "/healthz").body, "ok\n");
    for path in ["/", "/status.json", "/metrics"] {
        assert_eq!(get(witness.address(), path).status, 404, "{path}");
    }
    witness.stop().await;
    assert!(witness::fetch_status(&address.to_string()).await.is_err());
}
