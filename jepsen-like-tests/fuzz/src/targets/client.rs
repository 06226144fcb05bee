//! What the client and the launcher read: contexts, what a region says of a dataset, records of what runs, plans,
//! answers of a health port.

use std::io::{Read as _, Write as _};
use std::net::TcpListener;
use std::sync::{Mutex, OnceLock, mpsc};

use client::{ContextFile, DatasetInfo};
use local::federation::Federation;
use local::plan::FederationPlan;
use prost::Message as _;
use proto::v1;

use crate::known::DATASET;
use crate::{Memory, Shape, Source, Target};

pub(super) const CONTEXTS: Target = Target {
    name: "contexts",
    from: Source::Person,
    parses: &[
        "client/src/settings.rs: load",
        "deploy/local/src/federation.rs: load",
        "deploy/local/src/plan.rs: parse",
    ],
    shape: Shape::Bytes,
    len_max: 2048,
    memory: Memory {
        fixed: 1 << 20,
        per_byte: 256,
    },
    check: contexts,
    seeds: contexts_seeds,
};

pub(super) const DATASET_INFO: Target = Target {
    name: "dataset-info",
    from: Source::Network,
    parses: &["client/src/dataset.rs: TryFrom<v1::DatasetInfo>"],
    shape: Shape::MESSAGE,
    len_max: 1024,
    memory: Memory::PARSER,
    check: dataset_info,
    seeds: dataset_info_seeds,
};

pub(super) const HEALTH_ANSWER: Target = Target {
    name: "health-answer",
    from: Source::Network,
    parses: &["deploy/local/src/launch.rs: http"],
    shape: Shape::Bytes,
    len_max: 512,
    memory: Memory::PARSER,
    check: health_answer,
    seeds: || {
        vec![
            b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok".to_vec(),
            b"HTTP/1.1 503 \r\n\r\n".to_vec(),
        ]
    },
};

fn contexts(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    if let Ok(file) = toml::from_str::<ContextFile>(text) {
        let written = toml::to_string_pretty(&file).expect("contexts are plain tables");
        let again: ContextFile = toml::from_str(&written).expect("own text");
        let names = |file: &ContextFile| file.contexts.keys().cloned().collect::<Vec<_>>();
        assert_eq!(
            (names(&again), &again.current),
            (names(&file), &file.current)
        );
        for name in file.contexts.keys() {
            assert!(file.choose(Some(name)).is_ok());
        }
    }
    if let Ok(federation) = serde_json::from_str::<Federation>(text) {
        let written = serde_json::to_string(&federation).expect("plain values");
        let again: Federation = serde_json::from_str(&written).expect("own text");
        assert_eq!(again.regions.len(), federation.regions.len());
        for region in &federation.regions {
            assert!(federation.region(region.region.as_str()).is_ok());
            drop(region.context("app-1"));
        }
    }
    if let Ok(plan) = FederationPlan::parse(&[text.to_owned()]) {
        let [region] = &plan.regions[..] else {
            panic!("one text is one region");
        };
        let said = format!(
            "{}:{}:{}:{}",
            region.region, region.jurisdiction, region.nodes, region.kms
        );
        let again = FederationPlan::parse(&[said]).expect("own text");
        assert_eq!(again.regions[0].nodes, region.nodes);
    }
}

fn contexts_seeds() -> Vec<Vec<u8>> {
    let toml = r#"current = "ch-zrh"

[contexts.ch-zrh]
region = "ch-zrh"
nodes = ["127.0.0.1:7001"]
kms = []
ca = "/etc/reduit/ca.pem"
certificate = "app.pem"
key = "app.key"
"#;
    let json = r#"{"format":1,"dir":"/tmp/r","contexts":"/tmp/r/c.toml","regions":[{"region":"ch-zrh","jurisdiction":"CH",
"dir":"/tmp/r/ch","shards":2,"shares_needed":3,"founded":true,"services":[{"name":"ch-zrh/n1","kind":"node","node_id":1,
"identity":"spiffe://ch-zrh/node/n1","endpoint":"127.0.0.1:1","health":"127.0.0.1:2","config":"c","data":"d","log":"l",
"pid":7,"removed":false}],"identities":["op-1"]}]}"#;
    vec![toml.into(), json.into(), b"ch-zrh:CH:3:3".to_vec()]
}

fn dataset_info(data: &[u8]) {
    let Ok(message) = v1::DatasetInfo::decode(data) else {
        return;
    };
    let record = message.dataset.clone();
    if let Ok(info) = DatasetInfo::try_from(message) {
        let record = record.expect("it was read");
        assert_eq!(info.name.as_str(), record.name);
        assert_eq!(info.id.as_bytes()[..], record.dataset_id[..]);
    }
}

fn dataset_info_seeds() -> Vec<Vec<u8>> {
    let record = v1::DatasetRecord {
        dataset_id: DATASET.into(),
        name: "cti".to_owned(),
        kek_id: vec![7; 16].into(),
        ..Default::default()
    };
    let info = v1::DatasetInfo {
        dataset: Some(record),
        shard: 16,
        ..Default::default()
    };
    vec![info.encode_to_vec()]
}

/// A port of this process that answers what it is told to, once a connection.
struct Port {
    address: String,
    answers: Mutex<mpsc::SyncSender<Vec<u8>>>,
}

fn port() -> &'static Port {
    static PORT: OnceLock<Port> = OnceLock::new();
    PORT.get_or_init(|| {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("bound").to_string();
        let (answers, told) = mpsc::sync_channel::<Vec<u8>>(1);
        std::thread::spawn(move || {
            for (answer, stream) in told.iter().zip(listener.incoming()) {
                let mut stream = stream.expect("this process connects");
                // The request first: a close with bytes unread would reset the connection.
                let mut request = [0; 256];
                let read = stream.read(&mut request);
                drop(read.and_then(|_| stream.write_all(&answer)));
            }
        });
        Port {
            address,
            answers: Mutex::new(answers),
        }
    })
}

fn health_answer(data: &[u8]) {
    let port = port();
    let told = port.answers.lock().expect("no other user panicked");
    told.send(data.to_vec()).expect("the port answers");
    let answer = local::launch::http(&port.address, "/readyz");
    drop(told);
    let Ok(text) = std::str::from_utf8(data) else {
        assert!(answer.is_err());
        return;
    };
    if let Ok((status, body)) = answer {
        let (head, rest) = text.split_once("\r\n\r\n").expect("it was read");
        assert_eq!(body, rest);
        assert!(head.contains(&status.to_string()) || head.contains('+') || head.contains('0'));
    }
}
