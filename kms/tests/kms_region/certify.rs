//! What a KMS refuses to sign of a relocation, on real replicas.

use crate::common::{Begin, Caller, DATASET, Region, reason};
use proto::v1;
use tlog::certificate::{
    DescriptorNamed, DestinationSide, LIMITS, OpenedBy, Party, Relocation, SourceSide, Statement,
};

fn party(region: &str) -> Party {
    Party {
        region: region.to_owned(),
        jurisdiction: "CH".to_owned(),
        descriptor: named(),
        log: format!("{region}/main/1"),
        pseudonym: hex::encode([1; 16]),
        kek: hex::encode([2; 16]),
    }
}

fn named() -> DescriptorNamed {
    DescriptorNamed {
        version: 1,
        fingerprint: hex::encode([3; 32]),
    }
}

/// A well-formed statement of what never happened.
fn made_up(source: &str, destination: &str) -> Vec<u8> {
    let said = Relocation {
        relocation: hex::encode([7; 16]),
        dataset: hex::encode(DATASET),
        opened: OpenedBy::Moved,
        epoch_from: 1,
        epoch_to: 2,
        fence: 9,
        catalog_root: hex::encode([4; 32]),
        hand_over_key: hex::encode([5; 16]),
        issued_ms: 0,
        source: SourceSide {
            party: party(source),
            approved: named(),
            grant_leaf: 1,
            released_objects: 0,
            released_through: None,
            shred_leaf: 2,
            destroyed_leaf: None,
            erased_leaf: None,
        },
        destination: DestinationSide {
            party: party(destination),
            approved: named(),
            key_leaf: 1,
            key_destroyed_leaf: None,
        },
        limits: LIMITS.iter().map(|limit| (*limit).to_owned()).collect(),
    };
    Statement::new(said).expect("a statement").encode()
}

async fn refused(caller: &Caller, statement: Vec<u8>) -> String {
    let request = v1::CertifyRelocationRequest {
        statement: statement.into(),
    };
    let signed = caller.at_leader(|at| {
        let (mut kms, request) = (caller.kms(at), request.clone());
        async move { Ok(kms.certify_relocation(request).await?.into_inner()) }
    });
    reason(&signed.await.expect_err("refused")).to_owned()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_signed_that_is_not_on_record() {
    let region = Region::initialised(Begin::default()).await;
    let (operator, app) = (region.caller("op-1"), region.caller("app"));
    let here = || made_up("ch-zrh", "de-fra");
    assert_eq!(refused(&app, here()).await, "role-asks-no-certificate");
    assert_eq!(refused(&operator, b"{}".to_vec()).await, "bad-statement");
    let elsewhere = made_up("fr-par", "de-fra");
    assert_eq!(refused(&operator, elsewhere).await, "other-regions");
    // No key, then a key and no descriptor.
    assert_eq!(refused(&operator, here()).await, "not-certified-yet");
    app.create_key(DATASET).await.expect("a key");
    assert_eq!(refused(&operator, here()).await, "not-certified-yet");
    // No node of this region says that it serves it.
    let there = made_up("de-fra", "ch-zrh");
    assert_eq!(refused(&operator, there).await, "too-few-words");
}
