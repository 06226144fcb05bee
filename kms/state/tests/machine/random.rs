//! Claims under random commands: every invariant after each, and the same log gives the same state.

use kms_state::prepare;
use kms_state::{At, LEVEL_MAX, LEVEL_QUEUE_HEADS, apply, layout};
use proptest::prelude::*;
use proto::ids::{FeatureLevel, LogIndex, UnixMs};
use proto::store::{MemoryStore, Reader as _, Writer as _};
use proto::v1::set_hand_over::Step as SetTo;
use proto::v1::{
    AccessKeyState, Action, ChangeEnrolment, ChangeGrants, KeyState, KmsCommand, Record, UnsealHow,
    kms_answer,
};

use crate::access_keys;
use crate::hand_over;
use crate::lab::{DATASET, Lab, OTHER, enrolment, grant, id, item};
use crate::regions;

/// A command, chosen by small numbers so that ids collide, versions go stale and retries happen.
#[derive(Debug, Clone)]
enum Step {
    Create {
        request: u8,
        other: bool,
    },
    Rotate {
        request: u8,
    },
    State {
        to: u8,
        days: u8,
        approvals: Option<u8>,
    },
    Shard {
        shard: u8,
    },
    Confirm,
    Records {
        uses: Vec<(u8, u8, u8)>,
        behind: u8,
    },
    Enrol {
        name: u8,
        remove: bool,
        approvals: u8,
    },
    Grant {
        purpose: u8,
        remove: bool,
        approvals: u8,
    },
    Unseal {
        boot: u8,
        peer: bool,
        approvals: u8,
    },
    Allocate {
        name: u8,
    },
    AccessKey {
        name: u8,
        principal: u8,
    },
    AccessKeyState {
        name: u8,
        enable: bool,
        approvals: u8,
    },
    AccessKeyEnd {
        name: u8,
    },
    HandOver {
        name: u8,
    },
    SetHandOver {
        name: u8,
        to: u8,
        fence: u8,
    },
    Shred {
        request: u8,
    },
    HandOverKey {
        name: u8,
    },
    HandOverKeyEnd {
        name: u8,
    },
    Publish {
        version: u8,
    },
    Trust {
        region: u8,
        version: u8,
        signer: u8,
        approvals: Option<u8>,
    },
    Distrust {
        region: u8,
    },
    Time {
        minutes: u16,
        clocks: u8,
    },
    Again {
        back: u8,
    },
}

/// Of the single-use ids that make access keys, apart from those of other steps.
const ACCESS_KEYS: std::ops::Range<u8> = 40..43;
/// The single-use ids of relocations, from these on.
const HAND_OVERS: u8 = 90;
const HAND_OVER_KEYS: u8 = 93;
const SHREDS: u8 = 96;

fn step() -> impl Strategy<Value = Step> {
    let small = 0_u8..6;
    prop_oneof![
        2 => (small.clone(), any::<bool>())
            .prop_map(|(request, other)| Step::Create { request, other }),
        1 => (0_u8..12).prop_map(|request| Step::Rotate { request }),
        4 => (1_u8..6, 5_u8..9, proptest::option::of(small.clone()))
            .prop_map(|(to, days, approvals)| Step::State { to, days, approvals }),
        1 => (15_u8..18).prop_map(|shard| Step::Shard { shard }),
        1 => Just(Step::Confirm),
        6 => (proptest::collection::vec((0_u8..7, 0_u8..8, 0_u8..8), 0..5), 0_u8..8)
            .prop_map(|(uses, behind)| Step::Records { uses, behind }),
        1 => (small.clone(), any::<bool>(), small.clone())
            .prop_map(|(name, remove, approvals)| Step::Enrol { name, remove, approvals }),
        1 => (small.clone(), any::<bool>(), small.clone())
            .prop_map(|(purpose, remove, approvals)| Step::Grant { purpose, remove, approvals }),
        1 => (small.clone(), any::<bool>(), small.clone())
            .prop_map(|(boot, peer, approvals)| Step::Unseal { boot, peer, approvals }),
        1 => small.clone().prop_map(|name| Step::Allocate { name }),
        2 => (ACCESS_KEYS, 0_u8..2)
            .prop_map(|(name, principal)| Step::AccessKey { name, principal }),
        1 => (ACCESS_KEYS, any::<bool>(), 0_u8..30)
            .prop_map(|(name, enable, approvals)| Step::AccessKeyState { name, enable, approvals }),
        2 => ACCESS_KEYS.prop_map(|name| Step::AccessKeyEnd { name }),
        2 => (1_u8..3).prop_map(|name| Step::HandOver { name }),
        2 => (1_u8..3, 0_u8..6, 9_u8..11)
            .prop_map(|(name, to, fence)| Step::SetHandOver { name, to, fence }),
        1 => (0_u8..4).prop_map(|request| Step::Shred { request }),
        1 => (1_u8..3).prop_map(|name| Step::HandOverKey { name }),
        1 => (1_u8..3).prop_map(|name| Step::HandOverKeyEnd { name }),
        1 => (1_u8..5).prop_map(|version| Step::Publish { version }),
        2 => (0_u8..2, 1_u8..5, 1_u8..3, proptest::option::of(50_u8..90))
            .prop_map(|(region, version, signer, approvals)| Step::Trust {
                region, version, signer, approvals,
            }),
        1 => (0_u8..2).prop_map(|region| Step::Distrust { region }),
        2 => (0_u16..12_000, 0_u8..5).prop_map(|(minutes, clocks)| Step::Time { minutes, clocks }),
        2 => (0_u8..4).prop_map(|back| Step::Again { back }),
    ]
}

/// The command a step stands for; `None` where the leader itself would refuse.
fn command(lab: &mut Lab, step: &Step, sent: &[KmsCommand]) -> Option<KmsCommand> {
    let authority = lab.authority();
    Some(match step {
        Step::Create { request, other } => lab
            .create(if *other { OTHER } else { DATASET }, *request)
            .ok()?,
        Step::Rotate { request } => {
            kms_state::key(&lab.state, &DATASET)?;
            lab.rotate_as(&DATASET, [*request; 16]).ok()?
        }
        Step::State {
            to,
            days,
            approvals,
        } => {
            let target = KeyState::try_from(i32::from(*to)).ok()?;
            let days = if target == KeyState::PendingDestruction {
                *days
            } else {
                0
            };
            lab.change(target, days.into(), *approvals).ok()?
        }
        Step::Shard { shard } => {
            let asked = lab.asked("kms/r1");
            prepare::register_shard(&authority, asked, &DATASET, (*shard).into())
        }
        Step::Confirm => {
            let version = kms_state::key(&lab.state, &DATASET)?.state_version;
            prepare::confirm_shard(&authority, lab.asked("kms/r2"), &DATASET, version)
        }
        Step::Records { uses, behind } => {
            let mut records: Vec<Record> = uses.iter().filter_map(|u| record(lab, *u)).collect();
            if let Some(first) = records.first_mut().filter(|_| *behind == 0) {
                first.state_version = first.state_version.wrapping_sub(1);
            }
            let version = authority.version() - u64::from(*behind == 1);
            prepare::batch(lab.asked("kms/r1"), version, records)
        }
        Step::Enrol {
            name,
            remove,
            approvals,
        } => {
            let text = if *name < 3 {
                format!("gateway/x{name}")
            } else {
                format!("operator/o{name}")
            };
            let change = if *remove {
                ChangeEnrolment {
                    remove: vec![id(&text).to_string()],
                    ..ChangeEnrolment::default()
                }
            } else {
                ChangeEnrolment {
                    add: vec![enrolment(&text, 0)],
                    ..ChangeEnrolment::default()
                }
            };
            prepare::change_enrolment(&authority, lab.approved("operator/o1", *approvals), change)
        }
        Step::Grant {
            purpose,
            remove,
            approvals,
        } => {
            let one = grant("role:client", &[Action::Read], &[&format!("p{purpose}")]);
            let change = if *remove {
                ChangeGrants {
                    remove: vec![one],
                    ..ChangeGrants::default()
                }
            } else {
                ChangeGrants {
                    add: vec![one],
                    ..ChangeGrants::default()
                }
            };
            prepare::change_grants(&authority, lab.approved("operator/o1", *approvals), change)
        }
        Step::Unseal {
            boot,
            peer,
            approvals,
        } => {
            let how = if *peer {
                UnsealHow::Peer
            } else {
                UnsealHow::Custodians
            };
            let asked = if *peer {
                lab.approved("kms/r2", *approvals)
            } else {
                lab.asked("kms/r2")
            };
            prepare::record_unseal(&authority, asked, &id("kms/r2"), [*boot; 16], how)
        }
        Step::Allocate { name } => {
            let asked = lab.asked("operator/o1");
            prepare::allocate_kms_id(&authority, asked, &id(&format!("kms/y{name}")))
        }
        Step::AccessKey { name, principal } => {
            let principal = format!("spiffe://ch-zrh/service/p{principal}");
            let new = access_keys::new_key(*name, &principal, *name);
            access_keys::create(lab, lab.approved("operator/o1", *name), new)
        }
        Step::AccessKeyState {
            name,
            enable,
            approvals,
        } => {
            let target = match enable {
                true => AccessKeyState::Enabled,
                false => AccessKeyState::Disabled,
            };
            let asked = lab.approved("operator/o1", *approvals);
            access_keys::set_state(lab, *name, asked, target).ok()?
        }
        Step::AccessKeyEnd { name } => access_keys::delete(lab, *name, "operator/o1").ok()?,
        Step::HandOver { name } => {
            let asked = lab.approved("operator/o1", HAND_OVERS + *name);
            let granting = hand_over::granting(lab, *name, hand_over::terms(lab, *name));
            hand_over::grant(lab, asked, granting)
        }
        Step::SetHandOver { name, to, fence } => {
            let to = match to {
                0..=2 => SetTo::Pause((*fence).into()),
                3..=4 => SetTo::Resume((*fence).into()),
                _ => hand_over::close(),
            };
            hand_over::set(lab, "kms/r2", *name, to)
        }
        Step::Shred { request } => {
            hand_over::shred(lab, SHREDS + *request, hand_over::shredding(lab, *request))
        }
        Step::HandOverKey { name } => {
            let asked = lab.approved("operator/o1", HAND_OVER_KEYS + *name);
            hand_over::create(lab, asked, hand_over::creating(lab, *name, DATASET))
        }
        Step::HandOverKeyEnd { name } => hand_over::end(lab, "kms/r1", *name),
        Step::Publish { version } => regions::publish(lab, u64::from(*version)),
        Step::Trust {
            region,
            version,
            signer,
            approvals,
        } => {
            let name = ["de-fra", "fr-par"][usize::from(*region)];
            let told = regions::Told {
                version: (*version).into(),
                signer: *signer,
                ..regions::Told::at(name, lab.now)
            };
            match approvals {
                Some(id) => regions::trust(lab, *id, &told.signed()),
                None => regions::update(lab, &told.signed()),
            }
        }
        Step::Distrust { region } => {
            let name = ["de-fra", "fr-par"][usize::from(*region)];
            regions::distrust(lab, "operator/o1", name)
        }
        Step::Time { minutes, clocks } => {
            lab.now += u64::from(*minutes) * 60_000;
            let clocks = vec![UnixMs(lab.now); (*clocks).into()];
            prepare::advance_time(lab.approved("kms/r1", *minutes as u8), &clocks)
        }
        Step::Again { back } => sent.iter().rev().nth((*back).into())?.clone(),
    })
}

fn record(lab: &Lab, (kind, request, other): (u8, u8, u8)) -> Option<Record> {
    if kind == 4 {
        return access_keys::given(lab, ACCESS_KEYS.start + other % 3, "gateway/g1", request).ok();
    }
    kms_state::key(&lab.state, &DATASET)?;
    match kind {
        0 => lab.lease(request, other).ok(),
        1 => lab.metadata_lease(request, other).ok(),
        2 => lab.open(request).ok(),
        5 => Some(hand_over::release(
            lab,
            1 + other % 2,
            request,
            vec![item(other, 7)],
        )),
        6 => Some(hand_over::receive(lab, 1 + other % 2, request)),
        _ => {
            let items = vec![item(other, 7), item(request, 9)];
            Some(
                lab.open_as("gateway/g2", request, "reseal", items)
                    .ok()?
                    .record,
            )
        }
    }
}

/// Region time catches up with the clock where the gap is what one tick covers.
fn follow_clock(lab: &mut Lab) {
    let behind = kms_state::region_time(&lab.state).0;
    if lab.now > behind + kms_state::IDLE_JUMP_MS_MAX {
        lab.now = behind;
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn every_invariant_holds_and_the_same_log_gives_the_same_state(
        steps in proptest::collection::vec(step(), 1..40)
    ) {
        let mut lab = Lab::new();
        let mut sent = Vec::new();
        for step in &steps {
            let Some(command) = command(&mut lab, step, &sent) else { continue };
            // All invariants are checked in here, and that a refusal changes nothing.
            lab.apply(&command);
            sent.push(command);
            follow_clock(&mut lab);
        }
        let mut replayed = MemoryStore::default();
        for (index, bytes) in (1..).zip(&lab.log) {
            let at = At { index: LogIndex(index), voters: 3, level: LEVEL_MAX };
            apply(at, bytes, &mut replayed).expect("known");
        }
        prop_assert_eq!(&replayed, &lab.state);

        // Where a queue begins is remembered, and nothing else comes of it.
        let at_level = |level| {
            let mut state = MemoryStore::default();
            for (index, bytes) in (1..).zip(&lab.log) {
                let at = At { index: LogIndex(index), voters: 3, level };
                apply(at, bytes, &mut state).expect("known");
            }
            state
        };
        let without = at_level(FeatureLevel(LEVEL_QUEUE_HEADS.0 - 1));
        let mut replayed = at_level(LEVEL_QUEUE_HEADS);
        for head in [layout::LEASE_QUEUE_HEAD, layout::REQUEST_QUEUE_HEAD] {
            prop_assert_eq!(without.value(head), None);
            replayed.delete(head);
        }
        prop_assert_eq!(replayed, without);
    }

    #[test]
    fn any_bytes_are_answered_or_unknown_and_never_a_panic(
        bytes in proptest::collection::vec(any::<u8>(), 0..200), at in any::<usize>(), flip in 1..=255_u8
    ) {
        let mut lab = Lab::with_key();
        let record = lab.open(1).expect("granted");
        let mut bent = prost::Message::encode_to_vec(&prepare::batch(lab.asked("kms/r1"), 1, vec![record]));
        let at = at % bent.len();
        bent[at] ^= flip;
        for bytes in [bytes, bent] {
            let before = lab.state.clone();
            let known = apply(lab.at(), &bytes, &mut lab.state);
            if known.is_err() {
                prop_assert_eq!(&lab.state, &before);
            }
            prop_assert_eq!(kms_state::invariant::all(&lab.state), Ok(()));
        }
    }
}

/// The random steps reach what they are meant to reach: without this, a generator gone blind would stay green.
#[test]
fn the_random_steps_reach_accepted_and_refused_commands_of_every_kind() {
    use proptest::strategy::ValueTree;
    let mut runner = proptest::test_runner::TestRunner::deterministic();
    let strategy = proptest::collection::vec(step(), 30..40);
    let mut reached = std::collections::BTreeSet::new();
    for _ in 0..400 {
        let steps = strategy.new_tree(&mut runner).expect("a tree").current();
        let (mut lab, mut sent) = (Lab::new(), Vec::new());
        for step in &steps {
            let Some(command) = command(&mut lab, step, &sent) else {
                continue;
            };
            let kind = format!("{step:?}")
                .split([' ', '{'])
                .next()
                .unwrap_or_default()
                .to_owned();
            let good = match lab.apply(&command) {
                kms_answer::Answer::Done(_) => true,
                kms_answer::Answer::Refused(_) => false,
                kms_answer::Answer::Records(answers) => {
                    answers.answers.iter().any(|answer| answer.refused == 0)
                }
            };
            reached.insert((kind, good));
            sent.push(command);
            follow_clock(&mut lab);
        }
    }
    let kinds = [
        "Create",
        "Rotate",
        "State",
        "Shard",
        "Confirm",
        "Records",
        "Enrol",
        "Grant",
        "Unseal",
        "Allocate",
        "AccessKey",
        "AccessKeyState",
        "AccessKeyEnd",
        "HandOver",
        "SetHandOver",
        "HandOverKey",
        "HandOverKeyEnd",
        "Publish",
        "Trust",
        "Distrust",
        "Time",
        "Again",
    ];
    for kind in kinds {
        assert!(
            reached.contains(&(kind.to_owned(), true)),
            "{kind} is never accepted"
        );
    }
    for kind in [
        "Create",
        "State",
        "Shard",
        "Records",
        "Enrol",
        "Grant",
        "Unseal",
        "AccessKey",
        "AccessKeyEnd",
        "HandOver",
        "SetHandOver",
        "Shred",
        "HandOverKey",
        "Publish",
        "Trust",
        "Distrust",
        "Time",
        "Again",
    ] {
        assert!(
            reached.contains(&(kind.to_owned(), false)),
            "{kind} is never refused"
        );
    }
}
