//! The seal by a PKCS#11 token and a person, on real daemons with SoftHSM's token: it opens a cold region, follows the
//! root key, ends with its epoch, and does not open for one person. Skips, and says so, where there is no SoftHSM.

use std::ffi::OsStr;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::common::{BODY, Begin, Daemon, PATIENCE, REPLICAS, Region, random, reason};
use bytes::Bytes;
use kms::approvals::{approve, request_hash, token_unseal_hash};
use proto::ids::{Identity, UnixMs};
use proto::v1;
use tonic::Status;

const DATASET: [u8; 16] = [0x70; 16];
const LABEL: &str = "reduit-ch-zrh";
const PIN: &str = "4711-user";
const BOTH: [&str; 2] = ["op-2", "op-3"];
const HOLDERS: [&str; 2] = ["custodian-1", "custodian-2"];

/// Where Debian puts it.
fn module() -> Option<PathBuf> {
    let usual = [
        "/usr/lib/softhsm/libsofthsm2.so",
        "/usr/lib/x86_64-linux-gnu/softhsm/libsofthsm2.so",
        "/usr/lib/aarch64-linux-gnu/softhsm/libsofthsm2.so",
    ];
    usual.iter().map(PathBuf::from).find(|path| path.is_file())
}

/// A folder with tokens in it, and what daemons are told of the one that is meant.
struct SoftToken {
    module: PathBuf,
    folder: PathBuf,
}

impl SoftToken {
    /// `None`, and says why, where SoftHSM is not installed.
    fn make(folder: &Path) -> Option<Self> {
        let Some(module) = module() else {
            println!("skips: no libsofthsm2.so; install it with: apt-get install softhsm2");
            return None;
        };
        let token = Self {
            module,
            folder: folder.join("tokens"),
        };
        let conf = format!(
            "directories.tokendir = {}\nobjectstore.backend = file\nlog.level = ERROR\n",
            token.folder.display()
        );
        std::fs::write(token.conf(), conf).expect("written");
        std::fs::create_dir_all(&token.folder).expect("a folder");
        let made = token.init(LABEL);
        if !made {
            println!("skips: no softhsm2-util; install it with: apt-get install softhsm2");
            return None;
        }
        token.set_pin(PIN);
        Some(token)
    }

    fn conf(&self) -> PathBuf {
        self.folder.with_extension("conf")
    }

    fn pin_file(&self) -> PathBuf {
        self.folder.with_extension("pin")
    }

    fn init(&self, label: &str) -> bool {
        let mut command = Command::new("softhsm2-util");
        command.args(["--init-token", "--free", "--label", label]);
        command.args(["--pin", PIN, "--so-pin", "0815-so"]);
        command.env("SOFTHSM2_CONF", self.conf());
        command.output().is_ok_and(|out| out.status.success())
    }

    /// A new file each time, as an operator writes one.
    fn set_pin(&self, pin: &str) {
        let file = self.pin_file();
        let new = file.with_extension("new");
        std::fs::write(&new, format!("{pin}\n")).expect("written");
        self.mode(&new, 0o600);
        std::fs::rename(&new, &file).expect("in place");
    }

    fn mode(&self, file: &Path, mode: u32) {
        let mode = std::fs::Permissions::from_mode(mode);
        std::fs::set_permissions(file, mode).expect("its mode");
    }

    fn table(&self) -> String {
        format!(
            "[seal.pkcs11]\nmodule = {:?}\ntoken = \"{LABEL}\"\nkey = \"reduit-root\"\npin_file = {:?}\n",
            self.module.display().to_string(),
            self.pin_file().display().to_string(),
        )
    }

    /// Keys in every token of the folder.
    fn keys(&self) -> usize {
        let tokens = std::fs::read_dir(&self.folder).expect("a folder");
        let objects = tokens.flat_map(|token| {
            let entries = std::fs::read_dir(token.expect("an entry").path());
            entries.into_iter().flatten().flatten()
        });
        let named = objects.filter(|entry| {
            let name = entry.file_name();
            let name = name.to_string_lossy();
            name.ends_with(".object") && name != "token.object"
        });
        named.count()
    }
}

/// A region of daemons, each told of the same token.
struct WithToken {
    region: Region,
    token: SoftToken,
    daemons: Vec<Daemon>,
}

impl WithToken {
    async fn begin() -> Option<Self> {
        let region = Region::begin(Begin {
            elsewhere: true,
            ..Begin::default()
        })
        .await;
        let token = SoftToken::make(region.dir.path())?;
        let mut this = Self {
            region,
            token,
            daemons: Vec::new(),
        };
        this.start().await;
        this.region.initialise().await;
        for at in 1..REPLICAS {
            this.region.unseal_by_peer(at).await.expect("by a peer");
        }
        this.region.raise_level(4).await;
        Some(this)
    }

    async fn start(&mut self) {
        let table = self.token.table();
        let conf = self.token.conf();
        let env = [("SOFTHSM2_CONF", conf.as_os_str() as &OsStr)];
        let configs = self.region.places.iter().map(|place| &place.config);
        self.daemons = configs.map(|c| Daemon::start(c, &table, &env)).collect();
        let operator = self.region.caller("op-1");
        let deadline = tokio::time::Instant::now() + PATIENCE;
        for at in 0..REPLICAS {
            let request = || v1::KmsStatusRequest {};
            while operator.kms(at).status(request()).await.is_err() {
                let late = tokio::time::Instant::now() >= deadline;
                assert!(!late, "daemon {at} does not answer");
                tokio::time::sleep(std::time::Duration::from_millis(50)).await;
            }
        }
    }

    /// Every daemon is killed, and starts again sealed.
    async fn cold(&mut self) {
        self.daemons.clear();
        self.start().await;
    }

    async fn provision(
        &self,
        next: bool,
        approvers: &[&str],
    ) -> Result<v1::ProvisionSealReply, Status> {
        let holders = HOLDERS.iter();
        let mut request = v1::ProvisionSealRequest {
            next,
            holders: holders.map(|n| self.region.people.enrolment(n)).collect(),
            single_use_id: Bytes::copy_from_slice(&random::<16>()),
            claim: None,
            approvals: Vec::new(),
        };
        let hash = request_hash("ProvisionSeal", &request);
        request.approvals = self.approvals(hash, &request.single_use_id, approvers);
        let operator = self.region.caller("op-1");
        operator
            .at_leader(|at| {
                let (mut operate, request) = (operator.operate(at), request.clone());
                async move { Ok(operate.provision_seal(request).await?.into_inner()) }
            })
            .await
    }

    async fn drop_seal(&self, seal_id: &Bytes, lost: bool) -> Result<v1::KmsDone, Status> {
        let mut request = v1::DropSealRequest {
            seal_id: seal_id.clone(),
            lost,
            single_use_id: Bytes::copy_from_slice(&random::<16>()),
            claim: None,
            approvals: Vec::new(),
        };
        let hash = request_hash("DropSeal", &request);
        request.approvals = self.approvals(hash, &request.single_use_id, &BOTH);
        let operator = self.region.caller("op-1");
        operator
            .at_leader(|at| {
                let (mut operate, request) = (operator.operate(at), request.clone());
                async move { Ok(operate.drop_seal(request).await?.into_inner()) }
            })
            .await
    }

    fn approvals(&self, hash: [u8; 32], id: &Bytes, approvers: &[&str]) -> Vec<v1::Approval> {
        let id: [u8; 16] = id.as_ref().try_into().expect("16 bytes");
        let until = UnixMs(crate::common::now().0 + 60_000);
        let by = |name: &&str| approve(self.region.people.local(name), hash, id, until);
        approvers.iter().map(by).collect()
    }

    /// As a holder, with what that one's half is and these operators' approvals of an unseal of the replica in the life
    /// `boot`, or in the one it is in.
    async fn unseal(
        &self,
        at: usize,
        who: &str,
        half: (&[u8], &Bytes),
        approvers: &[&str],
        boot: Option<&Bytes>,
    ) -> Result<v1::UnsealReply, Status> {
        let (half, seal_id) = half;
        let status = self.region.status(at).await;
        let replica: Identity = status.identity.parse().expect("an identity");
        let hash = token_unseal_hash(&replica, boot.unwrap_or(&status.boot_id), seal_id);
        let single_use_id = Bytes::copy_from_slice(&random::<16>());
        let caller = self.region.caller(who);
        let session = caller.session(at).await?;
        let request = v1::UnsealByTokenRequest {
            session_id: session.id.clone(),
            sealed_half: session.seal_half(&caller, half, seal_id).into(),
            seal_id: seal_id.clone(),
            approvals: self.approvals(hash, &single_use_id, approvers),
            single_use_id,
        };
        let reply = caller.operate(at).unseal_by_token(request).await?;
        Ok(reply.into_inner())
    }

    /// Where the leader is: it has made durable what it answered.
    async fn leader(&self) -> usize {
        let deadline = tokio::time::Instant::now() + PATIENCE;
        loop {
            let leader = self.region.status(0).await.leader;
            let mut places = self.region.places.iter();
            if let Some(at) = places.position(|place| place.config.node_id == leader) {
                return at;
            }
            assert!(tokio::time::Instant::now() < deadline, "nobody leads");
        }
    }

    /// A replica's refusal of an unseal with everything that it takes.
    async fn refuses(&self, at: usize, half: &v1::SealedHalf) -> (String, String) {
        let opened = self.region.people.open_half(half);
        let parts = (&opened[..], &half.seal_id);
        let refused = self.unseal(at, HOLDERS[0], parts, &BOTH, None).await;
        let status = refused.expect_err("refused");
        (reason(&status).to_owned(), status.message().to_owned())
    }

    /// Unseals every replica by the token, the one that led last first: the others may have to catch up.
    async fn unseal_all(&self, led: usize, half: &v1::SealedHalf) {
        let opened = self.region.people.open_half(half);
        let deadline = tokio::time::Instant::now() + PATIENCE;
        for at in (0..REPLICAS).map(|step| (led + step) % REPLICAS) {
            loop {
                let parts = (&opened[..], &half.seal_id);
                match self.unseal(at, HOLDERS[0], parts, &BOTH, None).await {
                    Ok(_) => break,
                    Err(status) => {
                        let behind = at != led && reason(&status) == "no-such-seal";
                        let late = tokio::time::Instant::now() >= deadline;
                        assert!(behind && !late, "replica {at}: {status:?}");
                    }
                }
            }
        }
        for at in 0..REPLICAS {
            while self.region.status(at).await.sealed {
                let late = tokio::time::Instant::now() >= deadline;
                assert!(!late, "replica {at} is sealed");
            }
        }
    }

    async fn reads(&self, object: &crate::common::Sealed) {
        let app = self.region.caller("app");
        assert_eq!(app.get_object(object).await.expect("opens"), BODY);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cold_region_opens_by_its_token_a_holder_and_two_operators_and_for_nobody_alone() {
    let Some(mut kms) = WithToken::begin().await else {
        return;
    };
    let app = kms.region.caller("app");
    app.create_key(DATASET).await.expect("a key");
    let object = app.put_object(DATASET).await.expect("sealed");

    let one = kms.provision(false, &["op-2"]).await;
    let refused = one.expect_err("one approver");
    assert_eq!(reason(&refused), "too-few-approvals");
    assert_eq!(kms.token.keys(), 0, "the token was asked for nothing");
    let made = kms.provision(false, &BOTH).await.expect("provisioned");
    assert_eq!((made.halves.len(), kms.token.keys()), (2, 1));
    let half = &made.halves[0];

    let led = kms.leader().await;
    kms.cold().await;
    let (opened, seal_id) = (kms.region.people.open_half(half), &half.seal_id);
    let parts = (&opened[..], seal_id);
    let stale = Bytes::copy_from_slice(&random::<16>());
    for (what, who, parts, approvers, boot, expected) in [
        (
            "a holder alone",
            HOLDERS[0],
            parts,
            &BOTH[..0],
            None,
            "too-few-approvals",
        ),
        (
            "one operator",
            HOLDERS[0],
            parts,
            &BOTH[..1],
            None,
            "too-few-approvals",
        ),
        (
            "one, twice",
            HOLDERS[0],
            parts,
            &["op-2", "op-2"],
            None,
            "too-few-approvals",
        ),
        ("no holder", "custodian-3", parts, &BOTH, None, "not-holder"),
        ("an operator", "op-1", parts, &BOTH, None, "not-holder"),
        (
            "another half",
            HOLDERS[0],
            (&[7; 32], seal_id),
            &BOTH,
            None,
            "bad-half",
        ),
        (
            "another life",
            HOLDERS[0],
            parts,
            &BOTH,
            Some(&stale),
            "approval-of-other-request",
        ),
        (
            "no such seal",
            HOLDERS[0],
            (&opened[..], &stale),
            &BOTH,
            None,
            "no-such-seal",
        ),
    ] {
        let refused = kms.unseal(led, who, parts, approvers, boot).await;
        let status = refused.expect_err(what);
        assert_eq!(reason(&status), expected, "{what}: {status:?}");
        assert!(kms.region.status(led).await.sealed, "{what}");
    }
    kms.unseal_all(led, half).await;
    kms.reads(&object).await;

    // Given up, its key is gone from the token, and it opens nothing.
    kms.drop_seal(&half.seal_id, false).await.expect("dropped");
    assert_eq!(kms.token.keys(), 0);
    let led = kms.leader().await;
    kms.cold().await;
    // Not on record any more, or not in the token: the leader's record of it may be younger than its disk's state.
    let (refused, _) = kms.refuses(led, half).await;
    assert!(
        ["no-such-seal", "no-token-key"].contains(&refused.as_str()),
        "{refused}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_token_that_is_gone_is_another_or_refuses_the_pin_is_said_so_and_never_locked() {
    let Some(mut kms) = WithToken::begin().await else {
        return;
    };
    let made = kms.provision(false, &BOTH).await.expect("provisioned");
    let half = &made.halves[0];
    let led = kms.leader().await;
    kms.cold().await;

    kms.token.set_pin("wrong-pin");
    let (first, said) = kms.refuses(led, half).await;
    assert_eq!(first, "wrong-pin");
    assert!(said.contains("refuses the PIN"), "{said}");
    let (again, said) = kms.refuses(led, half).await;
    assert_eq!(again, "wrong-pin");
    assert!(said.contains("not tried"), "tried again: {said}");
    kms.token.mode(&kms.token.pin_file(), 0o644);
    assert_eq!(kms.refuses(led, half).await.0, "pin-file-open");
    std::fs::remove_file(kms.token.pin_file()).expect("removed");
    assert_eq!(kms.refuses(led, half).await.0, "no-pin");
    kms.token.set_pin(PIN);

    // The token is taken away, and another one with its label put in its place.
    let away = kms.token.folder.with_extension("away");
    std::fs::rename(&kms.token.folder, &away).expect("moved");
    std::fs::create_dir(&kms.token.folder).expect("a folder");
    let (absent, said) = kms.refuses(led, half).await;
    assert_eq!(absent, "token-absent");
    assert!(said.contains(LABEL), "{said}");
    assert!(kms.token.init(LABEL), "another token");
    let (other, said) = kms.refuses(led, half).await;
    assert_eq!(other, "other-token");
    let serial = &made.seal.as_ref().expect("a seal").token_serial;
    assert!(said.contains(serial), "{said}");
    std::fs::remove_dir_all(&kms.token.folder).expect("gone");
    std::fs::rename(&away, &kms.token.folder).expect("back");

    let look = kms.region.caller("op-1");
    let seen = look.operate(led).find_seals(v1::FindSealsRequest {}).await;
    let seen = seen.expect("answers").into_inner();
    assert_eq!((&seen.token_serial, seen.problem.as_str()), (serial, ""));
    kms.unseal_all(led, half).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_root_key_has_its_own_seal_and_retiring_the_old_one_deletes_the_tokens_key() {
    let Some(mut kms) = WithToken::begin().await else {
        return;
    };
    let app = kms.region.caller("app");
    app.create_key(DATASET).await.expect("a key");
    let object = app.put_object(DATASET).await.expect("sealed");
    let shares = kms.region.shares.clone();
    let first = kms.provision(false, &BOTH).await.expect("provisioned");
    let nothing = kms.provision(true, &BOTH).await;
    assert_eq!(reason(&nothing.expect_err("no next")), "no-such-split");

    // A change that is given up leaves nothing in the token.
    let begun = kms.region.begin_custody(&[], 3, true).await.expect("begun");
    kms.provision(true, &BOTH).await.expect("provisioned");
    assert_eq!(kms.token.keys(), 2);
    kms.abandon(&begun.set_id).await.expect("given up");
    assert_eq!(kms.token.keys(), 1);

    let begun = kms.region.begin_custody(&[], 3, true).await.expect("begun");
    for share in &begun.shares {
        kms.region.confirm_share(share).await.expect("shown");
    }
    let missing = kms.finish(&begun.set_id).await;
    assert_eq!(reason(&missing.expect_err("no seal")), "seal-missing");
    let second = kms.provision(true, &BOTH).await.expect("provisioned");
    assert_eq!(second.seal.as_ref().map(|seal| seal.root_epoch), Some(2));
    kms.finish(&begun.set_id).await.expect("in force");
    // A replica takes the new root key once it is durable that it is in force.
    for at in 0..REPLICAS {
        let deadline = tokio::time::Instant::now() + PATIENCE;
        while kms.region.status(at).await.held_epoch != 2 {
            assert!(tokio::time::Instant::now() < deadline, "replica {at}");
        }
    }
    let led = kms.leader().await;
    kms.cold().await;
    let (refused, _) = kms.refuses(led, &first.halves[0]).await;
    assert_eq!(refused, "no-such-seal");
    kms.unseal_all(led, &second.halves[0]).await;
    kms.reads(&object).await;

    // Not before its shares are erased: the token's half is not given up for an epoch that stays.
    let early = kms.region.retire_epoch(1).await;
    assert_eq!(reason(&early.expect_err("shares are left")), "not-erased");
    assert_eq!(kms.token.keys(), 2);
    for share in &shares[..3] {
        kms.region.erase_share(share).await.expect("erased");
    }
    let early = kms.region.retire_epoch(1).await;
    assert_eq!(reason(&early.expect_err("no backup")), "not-backed-up");
    assert_eq!(kms.token.keys(), 2);
    kms.region.backup().await;
    kms.token.mode(&kms.token.pin_file(), 0o644);
    let kept = kms.region.retire_epoch(1).await;
    assert_eq!(reason(&kept.expect_err("no token")), "pin-file-open");
    kms.token.mode(&kms.token.pin_file(), 0o600);
    kms.region.retire_epoch(1).await.expect("retired");
    assert_eq!(kms.token.keys(), 1, "the key of the root key in force");
    let led = kms.leader().await;
    kms.cold().await;
    kms.unseal_all(led, &second.halves[0]).await;
    kms.reads(&object).await;
}

impl WithToken {
    async fn abandon(&self, set_id: &Bytes) -> Result<v1::KmsDone, Status> {
        let operator = self.region.caller("op-1");
        operator
            .at_leader(|at| {
                let (mut operate, set_id) = (operator.operate(at), set_id.clone());
                async move {
                    let request = v1::AbandonCustodyRequest {
                        set_id,
                        claim: None,
                    };
                    Ok(operate.abandon_custody(request).await?.into_inner())
                }
            })
            .await
    }

    /// Asks until every replica that serves has the new root key.
    async fn finish(&self, set_id: &Bytes) -> Result<v1::KmsDone, Status> {
        let deadline = tokio::time::Instant::now() + PATIENCE;
        loop {
            match self.region.finish_custody(set_id).await {
                Err(status)
                    if reason(&status) == "peers-without-new-root"
                        && tokio::time::Instant::now() < deadline => {}
                outcome => return outcome,
            }
        }
    }
}
