use super::*;

fn plan() -> RelocationPlan {
    RelocationPlan {
        relocation: RelocationId([1; 16]),
        dataset: DatasetId([2; 16]),
        name: "cti".parse().expect("a name"),
        source: "ch-zrh".parse().expect("a region"),
        destination: "de-fra".parse().expect("a region"),
        shard: GroupId(4),
        epoch: 1,
        from_version: 0,
        planned_at: UnixMs(1_795_305_599_000),
        objects: 7,
        versions: 9,
        sealed_bytes: 4_096,
    }
}

fn quiet() -> v1::DatasetRecord {
    v1::DatasetRecord {
        status: v1::DatasetStatus::Active.into(),
        key_state: v1::KeyState::Enabled.into(),
        ..Default::default()
    }
}

fn names(found: &[Blocker]) -> Vec<&'static str> {
    found.iter().map(Blocker::name).collect()
}

#[test]
fn a_plan_comes_back_from_its_file() {
    let held = plan();
    assert_eq!(
        RelocationPlan::parse(&held.to_text()).expect("its own"),
        held
    );
}

#[test]
fn other_files_are_no_plans() {
    let text = plan().to_text();
    let later = text.replace("plan\": 1", "plan\": 2");
    let circle = text.replace("de-fra", "ch-zrh");
    let more = text.replacen('{', "{\"more\": 1,", 1);
    let short = text.replace(&"01".repeat(16), "01");
    let other = "[]".to_owned();
    let long = format!("{text}{}", " ".repeat(PLAN_BYTES_MAX));
    for file in [later, circle, more, short, other, long, String::new()] {
        assert!(RelocationPlan::parse(&file).is_err(), "{:.60}", file);
    }
    for length in 0..text.trim_end().len() {
        assert!(RelocationPlan::parse(&text[..length]).is_err(), "{length}");
    }
}

#[test]
fn nothing_of_a_quiet_dataset_is_in_the_way() {
    assert_eq!(of_dataset(&quiet(), v1::KeyState::Enabled), Vec::new());
    // One that was reverted before is as quiet.
    let mut reverted = quiet();
    reverted.authority = Some(v1::AuthorityRecord {
        version: 3,
        ..Default::default()
    });
    assert_eq!(of_dataset(&reverted, v1::KeyState::Enabled), Vec::new());
}

#[test]
fn every_blocker_of_a_dataset_is_named_at_once() {
    let mut dataset = quiet();
    dataset.uploads = 3;
    dataset.status = v1::DatasetStatus::Arriving.into();
    dataset.authority = Some(v1::AuthorityRecord {
        standing: v1::Standing::Unconfirmed.into(),
        departure: Some(v1::Departure {
            relocation_id: vec![9; 16].into(),
            destination: "fr-par".to_owned(),
            ..Default::default()
        }),
        ..Default::default()
    });
    let found = of_dataset(&dataset, v1::KeyState::Disabled);
    let all = [
        "key-not-enabled",
        "dataset-standing",
        "dataset-standing",
        "departure-under-way",
        "uploads-under-way",
    ];
    assert_eq!(names(&found), all);
    assert!(found[3].to_string().contains("fr-par"));
    assert!(found[4].to_string().starts_with("3 uploads"));
}

#[test]
fn a_key_that_the_shard_has_not_heard_of_being_enabled_is_in_the_way() {
    let mut dataset = quiet();
    dataset.key_state = v1::KeyState::Disabled.into();
    let found = of_dataset(&dataset, v1::KeyState::Enabled);
    assert_eq!(names(&found), ["key-not-enabled"]);
}

#[test]
fn a_region_that_is_not_trusted_and_levels_are_named_with_what_it_takes() {
    let regions = v1::ListRegionsReply::default();
    let around = Around {
        regions: &regions,
        kms_level: 9,
        shard_level: 5,
        now: UnixMs(0),
    };
    let to = "de-fra".parse().expect("a region");
    let found = to_leave(&around, &to, (&quiet(), v1::KeyState::Enabled));
    let all = [
        "region-not-trusted",
        "level-too-low",
        "level-too-low",
        "not-reachable",
        "not-reachable",
    ];
    assert_eq!(names(&found), all);
    assert!(found[1].to_string().contains("raise-level 10"));
    let here = around.blockers(&to, false, ARRIVE_LEVEL);
    assert!(here[2].to_string().contains("raise-level 8"));
}

#[test]
fn a_transfer_takes_what_the_rate_gives() {
    assert_eq!(transfer_seconds(1_000, 0), None);
    assert_eq!(transfer_seconds(0, 10), Some(0));
    assert_eq!(transfer_seconds(1_001, 10), Some(101));
    assert_eq!(transfer_seconds(u64::MAX, 1), Some(u64::MAX));
}
