use super::*;
use crate::testing::{info, ok};

fn line(op: &Op) -> String {
    serde_json::to_string(op).expect("an operation is plain data")
}

fn read(text: &str) -> Result<Vec<Op>, HistoryError> {
    Reader::new(text.as_bytes()).collect()
}

#[test]
fn what_was_written_is_read_back() {
    let ops = [ok(1, F::Cas, 3, 10, 20), info(2, F::DeleteIf, 4, 11)];
    let text = format!("{}\n{}\n", line(&ops[0]), line(&ops[1]));
    assert_eq!(read(&text).expect("well formed"), ops);
}

#[test]
fn the_line_in_the_documentation_is_one() {
    let text = r#"{"client":3,"workload":"register","key":"r/7","f":"cas","value":12,"old":9,"call":81000,"ret":95000,"type":"ok"}"#;
    let ops = read(text).expect("well formed");
    assert_eq!((ops[0].f, ops[0].outcome), (F::Cas, Outcome::Ok));
    assert_eq!(ops[0].old, serde_json::json!(9));
}

#[test]
fn a_damaged_line_is_refused_by_its_number() {
    let good = line(&ok(1, F::Read, 3, 10, 20));
    for bad in ["{", "[]", "", r#"{"client":1}"#] {
        let error = read(&format!("{good}\n{bad}\n")).expect_err("damaged");
        assert!(error.to_string().contains("line 2"), "{error}");
    }
    let unknown = good.replace(r#""key""#, r#""extra":1,"key""#);
    assert!(read(&unknown).is_err(), "an unknown field is refused");
}

#[test]
fn an_endless_line_is_refused_without_being_read_whole() {
    let endless = "x".repeat(3 * LINE_BYTES_MAX);
    let mut reader = Reader::new(endless.as_bytes());
    assert!(matches!(
        reader.next(),
        Some(Err(HistoryError::TooLong { line: 1 }))
    ));
    assert!(reader.buffer.capacity() < 3 * LINE_BYTES_MAX);
}

#[test]
fn what_cannot_be_is_refused() {
    let mut clients = Clients::default();
    let backwards = ok(1, F::Read, 1, 20, 10);
    assert_eq!(clients.admit(&backwards), Err(Impossible::Backwards));
    let endless = Op {
        ret: None,
        ..ok(1, F::Read, 1, 20, 30)
    };
    assert_eq!(clients.admit(&endless), Err(Impossible::NoEnd));
    assert_eq!(clients.admit(&ok(1, F::Read, 1, 20, 30)), Ok(()));
    let overlaps = ok(1, F::Read, 1, 25, 40);
    assert_eq!(clients.admit(&overlaps), Err(Impossible::Overlaps));
    assert_eq!(clients.admit(&info(1, F::Write, 1, 35)), Ok(()));
    let retired = ok(1, F::Read, 1, 50, 60);
    assert_eq!(clients.admit(&retired), Err(Impossible::Retired));
}
