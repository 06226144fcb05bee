//! Claims about what is shown.

use proto::ids::UnixMs;

use super::*;
use crate::alarm::Rule;

fn alarm(rule: Rule) -> Alarm {
    Alarm::new(
        UnixMs(1_000),
        "<o>",
        rule,
        "<script>\"text\"</script>".to_owned(),
    )
}

fn status() -> Status {
    Status {
        now_ms: 1_795_654_800_000,
        keys: vec!["w+00000000+AA==".to_owned()],
        logs: vec![LogStatus {
            origin: "<o>".to_owned(),
            cosigned_size: Some(7),
            cosigned_root: None,
            cosigned_s: None,
            answered: [(200, 3), (409, 1)].into(),
            monitor: Some(MonitorStatus {
                size: 9,
                hashed: 8,
                read: Some(5),
                kinds: [("<open>".to_owned(), 5)].into(),
                ..MonitorStatus::default()
            }),
        }],
        conditions: Vec::new(),
        permanent: Vec::new(),
        recent: vec![alarm(Rule::Watched)],
    }
}

#[test]
fn the_page_says_first_how_it_stands_and_escapes_what_strangers_wrote() {
    let well = status();
    let page = page::html(&well);
    assert!(page.contains("All is well") && !page.contains("class=\"verdict caught\""));
    let held = Status {
        conditions: vec![alarm(Rule::Silence)],
        ..well.clone()
    };
    assert!(page::html(&held).contains("<strong>1 alarm holds.</strong>"));
    let caught = Status {
        permanent: vec![Evidence {
            alarm: alarm(Rule::Fork),
            checkpoints: vec!["<o>\n7\n".to_owned()],
        }],
        ..held.clone()
    };
    let page = page::html(&caught);
    assert!(page.contains("<strong>A log was caught.</strong>"));
    assert!(page.contains("&lt;o&gt;\n7\n"));
    for stranger in ["<o>", "<script>", "<open>"] {
        assert!(!page.contains(stranger), "{stranger}");
    }
    assert!(
        !page.contains("src=") && !page.contains("href="),
        "it loads nothing"
    );
    assert!(well.is_well() && !held.is_well() && !caught.is_well());
    assert!(caught.to_string().starts_with("CAUGHT"));
}

#[test]
fn a_status_comes_back_from_its_json() {
    let text = serde_json::to_string(&status()).expect("JSON");
    assert_eq!(
        serde_json::from_str::<Status>(&text).expect("its own"),
        status()
    );
}

#[test]
fn metrics_have_one_line_a_sample() {
    let mut status = status();
    status.logs[0].origin = "a\"b\\c".to_owned();
    status.conditions = vec![alarm(Rule::Silence)];
    let counts = [(("o".to_owned(), Rule::Rate), 4)].into();
    let text = metrics::exposition(&status, &counts);
    for line in [
        "reduit_witness_cosigned_leaves{origin=\"a\\\"b\\\\c\"} 7",
        "reduit_witness_answers_total{origin=\"a\\\"b\\\\c\",code=\"409\"} 1",
        "reduit_monitor_read_leaves{origin=\"a\\\"b\\\\c\"} 5",
        "reduit_monitor_alarms_total{origin=\"o\",rule=\"rate\"} 4",
        "reduit_monitor_alarm{origin=\"<o>\",rule=\"silence\"} 1",
    ] {
        assert!(text.lines().any(|l| l == line), "{line}\n{text}");
    }
    let samples = text.lines().filter(|line| !line.starts_with('#'));
    assert!(samples.clone().count() > 5);
    assert!(samples.into_iter().all(|line| {
        line.rsplit_once(' ')
            .is_some_and(|(_, n)| n.parse::<u64>().is_ok())
    }));
}
