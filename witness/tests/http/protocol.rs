//! C2SP tlog-witness, status by status, and what a witness remembers.

use std::path::Path;
use std::sync::Arc;

use tlog::{ADD_CHECKPOINT_BYTES_MAX, Note, cosignatures_in, leaf_hash};
use transport::SystemClock;
use transport::testing::ManualClock;
use witness::{StartError, StateError, Witness};

use crate::support::{
    Answer, Connection, ORIGIN, Place, Tree, add, get, key, log_key, read, request, signed,
};

async fn start(place: &Place) -> Witness {
    Witness::start(&place.config(), SystemClock::shared())
        .await
        .expect("starts")
}

fn sized(size: u64) -> Answer {
    Answer {
        status: 409,
        content_type: "text/x.tlog.size".to_owned(),
        body: format!("{size}\n"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_answer_that_the_protocol_names() {
    let (place, tree) = (Place::new(), Tree::of(40));
    let witness = start(&place).await;
    let mut connection = Connection::to(witness.address());
    let mut status = |body: &str| connection.add(body).status;

    // 200: from nothing, by growing, and the same again.
    for (old, new) in [(0, 0), (0, 7), (7, 7), (7, 20)] {
        let answer = add(witness.address(), &tree.request(old, new));
        assert_eq!(answer.status, 200, "{answer:?}");
        let note = signed(ORIGIN, new, tree.roots[new as usize], &log_key());
        let lines = cosignatures_in(answer.body.as_bytes(), &note, &place.keys);
        assert_eq!(lines.expect("both hold").len(), 2);
        assert_eq!(answer.body.lines().count(), 2);
    }
    // 400: no request, one that leads back, one too long.
    for bad in [
        "",
        "old 1\n",
        "old 01\n\n",
        "old 20\n\nhello\n\n\u{2014} a AAAAAAA=\n",
    ] {
        assert_eq!(status(bad), 400, "{bad:?}");
    }
    let note = signed(ORIGIN, 5, tree.roots[5], &log_key());
    assert_eq!(status(&request(20, Vec::new(), note)), 400);
    assert_eq!(status(&"x".repeat(ADD_CHECKPOINT_BYTES_MAX)), 400);
    assert_eq!(
        add(witness.address(), &"x".repeat(ADD_CHECKPOINT_BYTES_MAX + 1)).status,
        400
    );
    let status = |body: &str| add(witness.address(), body).status;
    // 403: nobody known signed, or not this.
    let note = signed(ORIGIN, 30, tree.roots[30], &key(ORIGIN, 9));
    assert_eq!(status(&request(20, tree.proof(20, 30), note)), 403);
    let moved = tree.request(20, 30).replacen("\n30\n", "\n31\n", 1);
    assert_eq!(status(&moved), 403);
    // 404: another log, whoever signed.
    let note = signed("ch-zrh/main/2", 30, tree.roots[30], &log_key());
    assert_eq!(status(&request(0, Vec::new(), note)), 404);
    // 409: from elsewhere; the answer says where the witness is.
    for (old, new) in [(0, 30), (7, 30), (21, 30), (7, 20)] {
        assert_eq!(add(witness.address(), &tree.request(old, new)), sized(20));
    }
    // 409: same size, other root.
    let other = signed(ORIGIN, 20, leaf_hash(b"other"), &log_key());
    assert_eq!(
        add(witness.address(), &request(20, Vec::new(), other)),
        sized(20)
    );
    // 422: a proof that does not hold, and one that is not there.
    let status = |body: &str| add(witness.address(), body).status;
    let note = || signed(ORIGIN, 30, tree.roots[30], &log_key());
    let mut bent = tree.proof(20, 30);
    bent[0].0[0] ^= 1;
    assert_eq!(status(&request(20, bent, note())), 422);
    assert_eq!(status(&request(20, Vec::new(), note())), 422);
    let forked = Tree::forked(15, 30, "fork");
    assert_eq!(status(&forked.request(20, 30)), 422);
    // Nothing refused moved it.
    assert_eq!(status(&tree.request(20, 30)), 200);
    assert_eq!(get(witness.address(), "/sub/add-checkpoint").status, 405);
    assert_eq!(get(witness.address(), "/add-checkpoint").status, 404);
    witness.stop().await;
}

/// A log with many cosigners sends all their signatures; those that nobody here knows mean nothing.
#[tokio::test(flavor = "multi_thread")]
async fn a_request_may_be_as_long_as_the_protocol_lets_it() {
    let (place, tree) = (Place::new(), Tree::of(9));
    let witness = start(&place).await;
    let unknown = |i: u8| tlog::Signature {
        name: format!("replica-{i}.example").parse().expect("a name"),
        id: tlog::KeyId([i; 4]),
        bytes: vec![i; 2_428],
    };
    let note = signed(ORIGIN, 7, tree.roots[7], &log_key());
    let note = (0..99).fold(note, |note, i| note.with(unknown(i)).expect("room"));
    let body = request(0, Vec::new(), note);
    assert!(body.len() > 300_000);
    let answer = add(witness.address(), &body);
    assert_eq!(answer.status, 200, "{answer:?}");
    assert!(
        read(&place.state_file()).len() < 1_000,
        "the log's signature alone is kept"
    );
    witness.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn monitors_get_the_checkpoint_that_was_cosigned_last() {
    let (place, tree) = (Place::new(), Tree::of(9));
    let witness = start(&place).await;
    let hash = hex::encode(tlog::sha256(&[ORIGIN.as_bytes()]).0);
    let path = format!("/mon/{hash}/checkpoint");
    assert_eq!(get(witness.address(), &path).status, 404);
    assert_eq!(get(witness.address(), "/mon/00/checkpoint").status, 404);
    for (old, new) in [(0, 7), (7, 9)] {
        add(witness.address(), &tree.request(old, new));
        let answer = get(witness.address(), &path);
        assert_eq!(answer.content_type, "text/plain; charset=utf-8");
        let note = Note::parse(answer.body.as_bytes()).expect("a note");
        let keys = [&place.keys[..], &[log_key().verifier().clone()]].concat();
        assert_eq!(note.verify(&keys).expect("good").len(), 3);
        assert!(note.text().starts_with(&format!("{ORIGIN}\n{new}\n")));
    }
    witness.stop().await;
    let witness = start(&place).await;
    let answer = get(witness.address(), &path);
    assert!(
        answer.body.starts_with(&format!("{ORIGIN}\n9\n")),
        "after a restart too"
    );
    witness.stop().await;
}

/// Eight histories at once, all from where the witness stands: it takes one of them, and stays with it.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn of_concurrent_histories_one_is_cosigned() {
    const ROUNDS: u64 = 12;
    let place = Place::new();
    let witness = start(&place).await;
    let address = witness.address();
    let mut taken = Tree::of(0);
    let mut word = String::new();
    for round in 0..ROUNDS {
        let (old, new) = (round * 5, round * 5 + 5);
        let barrier = Arc::new(std::sync::Barrier::new(8));
        let askers: Vec<_> = (0..8)
            .map(|i| {
                // Of two that are the same, both are right; the other six differ from there on.
                let fork = format!("{round}-{}", i / 2);
                let barrier = barrier.clone();
                let tree = match round {
                    0 => Tree::forked(0, new, &fork),
                    _ => history(&word, old, new, &fork),
                };
                let body = tree.request(old, new);
                std::thread::spawn(move || {
                    let mut connection = Connection::to(address);
                    barrier.wait();
                    (fork, connection.add(&body))
                })
            })
            .collect();
        let answers: Vec<_> = askers
            .into_iter()
            .map(|a| a.join().expect("answered"))
            .collect();
        let cosigned: Vec<_> = answers.iter().filter(|(_, a)| a.status == 200).collect();
        let others = answers.iter().filter(|(_, a)| a.status != 200);
        assert!(others.clone().all(|(_, a)| *a == sized(new)), "{answers:?}");
        // The second of two equal ones is behind already: it asked from the old size.
        assert_eq!((cosigned.len(), others.count()), (1, 7));
        word = match round {
            0 => cosigned[0].0.clone(),
            _ => format!("{word},{}", cosigned[0].0),
        };
        taken = history(&word, new, new, "");
        let state = read(&place.state_file());
        assert!(state.contains(&taken.roots[new as usize].to_string()));
    }
    assert_eq!(taken.roots.len() as u64, ROUNDS * 5 + 1);
    witness.stop().await;
}

/// The history whose five-leaf steps are told apart by these words, and by `fork` from `old` on.
fn history(words: &str, old: u64, new: u64, fork: &str) -> Tree {
    let words: Vec<_> = words.split(',').collect();
    Tree::by(new, |leaf| match leaf < old {
        true => words[(leaf / 5) as usize].to_owned(),
        false => fork.to_owned(),
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn a_witness_goes_on_from_its_state_and_not_without_it() {
    let (place, tree) = (Place::new(), Tree::of(9));
    let witness = start(&place).await;
    assert_eq!(add(witness.address(), &tree.request(0, 7)).status, 200);
    let second = Witness::start(&place.config(), SystemClock::shared()).await;
    assert!(matches!(
        second.err(),
        Some(StartError::State(StateError::InUse(_)))
    ));
    witness.stop().await;

    let witness = start(&place).await;
    assert_eq!(add(witness.address(), &tree.request(0, 5)), sized(7));
    assert_eq!(
        add(witness.address(), &Tree::forked(3, 9, "x").request(7, 9)).status,
        422
    );
    assert_eq!(add(witness.address(), &tree.request(7, 9)).status, 200);
    witness.stop().await;

    let (file, good) = (place.state_file(), read(&place.state_file()));
    let why = |error: Option<StartError>| match error {
        Some(StartError::State(error)) => error,
        other => panic!("{other:?}"),
    };
    let refused = async |place: &Place| {
        let started = Witness::start(&place.config(), SystemClock::shared()).await;
        why(started.err())
    };
    std::fs::remove_file(&file).expect("gone");
    assert!(matches!(refused(&place).await, StateError::Lost(_)));
    for damaged in ["", "nothing", &good[..good.len() / 2]] {
        std::fs::write(&file, damaged).expect("room");
        assert!(
            matches!(refused(&place).await, StateError::Damaged(_)),
            "{damaged:?}"
        );
    }
    std::fs::write(&file, good.replacen("main/1\n", "main/2\n", 1)).expect("room");
    assert!(matches!(refused(&place).await, StateError::OtherLog(_)));
    std::fs::write(&file, &good).expect("room");
    let origin = file.with_file_name("origin");
    std::fs::remove_file(&origin).expect("gone");
    assert!(matches!(refused(&place).await, StateError::Damaged(_)));
    std::fs::write(&origin, format!("{ORIGIN}\n")).expect("room");
    let witness = start(&place).await;
    assert_eq!(add(witness.address(), &tree.request(0, 5)), sized(9));
    witness.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_signed_that_could_not_be_remembered() {
    let (place, tree) = (Place::new(), Tree::of(9));
    let witness = start(&place).await;
    assert_eq!(add(witness.address(), &tree.request(0, 5)).status, 200);
    let before = read(&place.state_file());
    let in_the_way = place.state_file().with_file_name(".checkpoint.new");
    std::fs::create_dir(&in_the_way).expect("room");
    let answer = add(witness.address(), &tree.request(5, 7));
    assert_eq!(answer.status, 503);
    assert!(
        !answer.body.contains('\u{2014}'),
        "no signature in {answer:?}"
    );
    assert_eq!(read(&place.state_file()), before);
    std::fs::remove_dir(&in_the_way).expect("out of the way");
    // Where it stands is where it stood.
    assert_eq!(add(witness.address(), &tree.request(7, 9)), sized(5));
    assert_eq!(add(witness.address(), &tree.request(5, 9)).status, 200);
    witness.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_clock_that_is_not_set_dates_nothing() {
    let (place, tree) = (Place::new(), Tree::of(9));
    let clock = Arc::new(ManualClock::at(proto::ids::UnixMs(86_400_000)));
    let witness = Witness::start(&place.config(), clock.clone())
        .await
        .expect("starts");
    assert_eq!(add(witness.address(), &tree.request(0, 5)).status, 503);
    assert_eq!(read(&place.state_file()), "nothing cosigned\n");
    clock.set(proto::ids::UnixMs(1_795_683_600_000));
    assert_eq!(add(witness.address(), &tree.request(0, 5)).status, 200);
    witness.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_that_has_two_trees_of_one_size_cosigned_is_kept_as_evidence() {
    let (place, tree) = (Place::new(), Tree::of(9));
    let witness = start(&place).await;
    add(witness.address(), &tree.request(0, 7));
    let other = Tree::forked(3, 7, "x");
    let note = signed(ORIGIN, 7, other.roots[7], &log_key());
    for _ in 0..2 {
        assert_eq!(
            add(witness.address(), &request(7, Vec::new(), note.clone())),
            sized(7)
        );
    }
    let evidence = witness.status().permanent;
    assert_eq!(evidence.len(), 1, "{evidence:#?}");
    let first = signed(ORIGIN, 7, tree.roots[7], &log_key());
    assert_eq!(
        evidence[0].checkpoints,
        [first.to_string(), note.to_string()]
    );
    witness.stop().await;
    let witness = start(&place).await;
    assert_eq!(witness.status().permanent, evidence, "for ever");
    witness.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_and_state_are_their_owner_s_alone() {
    use std::os::unix::fs::PermissionsExt as _;
    let place = Place::new();
    let witness = start(&place).await;
    add(witness.address(), &Tree::of(3).request(0, 3));
    let mode = |path: &Path| std::fs::metadata(path).expect("there").permissions().mode() & 0o777;
    assert_eq!(mode(&place.state_file()), 0o600);
    witness.stop().await;
    let key = place.folder.path().join("w1.key");
    std::fs::set_permissions(&key, std::fs::Permissions::from_mode(0o644)).expect("set");
    let started = Witness::start(&place.config(), SystemClock::shared()).await;
    assert!(matches!(started.err(), Some(StartError::Key(_))));
}
