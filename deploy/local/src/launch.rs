//! `up`, `down`, `status`, `kill`, `restart`, `add-node`, `replace-node`.
//!
//! Owns the order in which processes come and go. Every change is in `federation.json` before it is waited for.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use client::ContextFile;
use proto::ids::{Identity, NodeId};

use crate::ceremony;
use crate::federation::{Federation, Kind, RegionEntry, Service};
use crate::files::{self, Admission, OPERATORS};
use crate::place::{Loopback, Places};
use crate::plan::{FederationPlan, RegionPlan};
use crate::process;

/// How long a process may take to answer on its health port.
const START_MAX: Duration = Duration::from_secs(60);
/// How long the region may take to be ready as a whole.
const READY_MAX: Duration = Duration::from_secs(60);
/// How long a process told to end may take.
const END_MAX: Duration = Duration::from_secs(20);
const POLL: Duration = Duration::from_millis(25);

/// The regions of one folder.
#[derive(Debug)]
pub struct Local {
    /// What runs.
    pub federation: Federation,
    bin: PathBuf,
    places: Arc<dyn Places>,
}

/// What `status` says of one service.
#[derive(Debug, Clone, serde::Serialize)]
pub struct ServiceStatus {
    /// `<region>/<name>`.
    pub name: String,
    /// Its process id, 0 if it is not running.
    pub pid: u32,
    /// Whether it runs.
    pub running: bool,
    /// Whether `/readyz` says so.
    pub ready: bool,
    /// What `/readyz` says.
    pub says: String,
}

impl Local {
    /// Makes and starts everything, and waits until it is ready.
    pub async fn up(dir: &Path, plan: &FederationPlan) -> Result<Self> {
        Self::up_with(dir, plan, &process::binaries()?).await
    }

    /// As [`Local::up`], with the daemons of that folder.
    pub async fn up_with(dir: &Path, plan: &FederationPlan, bin: &Path) -> Result<Self> {
        Self::up_in(dir, plan, bin, Arc::new(Loopback::default())).await
    }

    /// As [`Local::up_with`], with services that live in `places`.
    pub async fn up_in(
        dir: &Path,
        plan: &FederationPlan,
        bin: &Path,
        places: Arc<dyn Places>,
    ) -> Result<Self> {
        std::fs::create_dir_all(dir)?;
        let dir = dir.canonicalize()?;
        if dir.join("federation.json").exists() {
            bail!(
                "{} holds regions already; `down --delete` removes them",
                dir.display()
            );
        }
        let regions = plan
            .regions
            .iter()
            .map(|region| entry(&dir, region, plan.regions.len() > 1, &*places))
            .collect::<Result<_>>()?;
        places.settled();
        let contexts = dir.join("contexts.toml");
        let federation = Federation {
            format: 1,
            dir,
            contexts,
            regions,
        };
        let mut local = Self {
            federation,
            bin: bin.to_owned(),
            places,
        };
        let epochs = plan.upload_epoch_seconds;
        for (at, plan) in plan.regions.iter().enumerate() {
            let region = &mut local.federation.regions[at];
            region.upload_epoch_seconds = epochs;
            files::make_region(region, plan.custodians.0)?;
            for service in region.services.clone() {
                files::write_config(region, &service, Admission::Found)?;
            }
        }
        local.federation.save()?;
        local.write_contexts()?;
        local.start_all()?;
        for at in 0..local.federation.regions.len() {
            let region = local.federation.regions[at].clone();
            ceremony::found(&region)
                .await
                .with_context(|| format!("founding {}", region.region))?;
            let region = &mut local.federation.regions[at];
            region.founded = true;
            for service in region.services.clone() {
                files::write_config(region, &service, Admission::Member)?;
            }
            local.federation.save()?;
        }
        local.wait_ready()?;
        Ok(local)
    }

    /// The regions of a folder that `up` made.
    pub fn load(dir: &Path) -> Result<Self> {
        Ok(Self {
            federation: Federation::load(dir)?,
            bin: process::binaries()?,
            places: Arc::new(Loopback::default()),
        })
    }

    /// The folder of the daemons that services are started from.
    pub fn binaries(&self) -> &Path {
        &self.bin
    }

    /// From now on services are started from the daemons of that folder, as an upgrade does it.
    pub fn use_binaries(&mut self, bin: &Path) {
        bin.clone_into(&mut self.bin);
    }

    /// Starts what does not run, unseals what is sealed, waits until all is ready.
    pub async fn resume(&mut self) -> Result<()> {
        self.start_all()?;
        for region in &self.federation.regions {
            ceremony::unseal(region).await?;
        }
        self.wait_ready()
    }

    /// Ends every process: asks first, then insists.
    pub fn down(&mut self) -> Result<()> {
        let running: Vec<_> = self
            .services()
            .filter(|s| process::is_running(s))
            .cloned()
            .collect();
        for service in &running {
            process::signal(service, "TERM").ok();
        }
        for service in &running {
            if process::wait_gone(service, END_MAX).is_err() {
                tracing::warn!(service = %service.name, "did not end when asked: killed");
                process::signal(service, "KILL").ok();
                process::wait_gone(service, END_MAX)?;
            }
            self.federation.service_mut(&service.name)?.pid = 0;
        }
        self.federation.save()
    }

    /// What runs and what it says of itself.
    pub fn status(&self) -> Vec<ServiceStatus> {
        self.services().map(ask).collect()
    }

    /// Kill -9.
    pub fn kill(&mut self, name: &str) -> Result<()> {
        self.kill_all_of(&[name.to_owned()])
    }

    /// Kill -9 of several, as nearly at once as signals go.
    pub fn kill_all_of(&mut self, names: &[String]) -> Result<()> {
        let services = names
            .iter()
            .map(|name| self.federation.service(name).cloned())
            .collect::<Result<Vec<_>>>()?;
        for service in &services {
            process::signal(service, "KILL")?;
        }
        for service in &services {
            process::wait_gone(service, END_MAX)?;
            self.federation.service_mut(&service.name)?.pid = 0;
        }
        self.federation.save()
    }

    /// Starts a service again (ending it first, if it runs) and, for a KMS replica, has it unsealed.
    pub async fn restart(&mut self, name: &str) -> Result<()> {
        let service = self.federation.service(name)?.clone();
        if process::is_running(&service) {
            process::end(&service, END_MAX)?;
        }
        self.start(name)?;
        if service.kind == Kind::Kms {
            let region = self.region_of(name)?.clone();
            if region.founded {
                ceremony::unseal(&region).await?;
            }
        }
        Ok(())
    }

    /// Starts a service and waits until it answers on its health port.
    pub fn start(&mut self, name: &str) -> Result<()> {
        self.spawn(name)?;
        let service = self.federation.service(name)?;
        wait_alive(service)
    }

    /// Adds a storage node: id, enrolment by dual control, start, blocks, vote. Returns its name.
    pub async fn add_node(&mut self, region_id: &str) -> Result<String> {
        self.add(region_id, Kind::Node).await
    }

    /// Adds a KMS replica. Returns its name.
    pub async fn add_kms(&mut self, region_id: &str) -> Result<String> {
        self.add(region_id, Kind::Kms).await
    }

    async fn add(&mut self, region_id: &str, kind: Kind) -> Result<String> {
        let name = self.enrol(region_id, kind).await?;
        self.admit(&name).await?;
        Ok(name)
    }

    /// The first half of adding a member: an id, keys, its enrolment by dual control, a configuration. Returns its
    /// name.
    pub async fn enrol(&mut self, region_id: &str, kind: Kind) -> Result<String> {
        let region = self.federation.region(region_id)?.clone();
        let prefix = prefix(kind);
        // One that was begun and whose outcome nobody heard of may be enrolled: its name and key are not used again.
        let identities = region.dir.join("identities");
        let short = (1..)
            .map(|number| format!("{prefix}{number}"))
            .find(|short| !identities.join(format!("{short}.pem")).exists())
            .context("a name that is free")?;
        let identity = Identity::new(region.region.clone(), kind.role(), &short)?;
        let operator = ceremony::connect(&region, OPERATORS[0]).await?;
        let id = match kind {
            Kind::Node => operator.allocate_node_id(&identity).await?,
            Kind::Kms => operator.allocate_kms_id(&identity).await?,
            Kind::Gateway => bail!("gateways are made by `up` alone"),
        };
        let mut service = service(
            &self.federation.dir,
            &region,
            kind,
            &short,
            id.0,
            &*self.places,
        )?;
        service.joining = true;
        self.places.settled();
        let enrolment = files::make_member(&region, &service)?;
        operator
            .change_enrolment(vec![enrolment], Vec::new(), &ceremony::approvers(&region)?)
            .await?;
        let name = service.name.clone();
        self.federation
            .region_mut(region_id)?
            .services
            .push(service.clone());
        files::write_config(
            self.federation.region(region_id)?,
            &service,
            Admission::Join,
        )?;
        self.give_enrolments(region_id, &service)?;
        self.federation.save()?;
        Ok(name)
    }

    /// Gives a new member the newest enrolment set that a living one holds. From the first set alone it can follow no
    /// further than the replicas that signed then: with all of them replaced it would know nobody.
    fn give_enrolments(&self, region_id: &str, to: &Service) -> Result<()> {
        let region = self.federation.region(region_id)?;
        let mut replicas = region.living(Kind::Kms);
        if let Some(from) = replicas.find(|replica| process::is_running(replica)) {
            let fresh = to.data.join("enrolments");
            std::fs::copy(from.data.join("enrolments"), &fresh)
                .with_context(|| format!("the enrolments of {}", from.name))?;
            std::fs::File::open(&fresh)?.sync_all()?;
        }
        Ok(())
    }

    /// The second half: started, with every block, voting. Where it failed midway it can be done again.
    pub async fn admit(&mut self, name: &str) -> Result<()> {
        let service = self.federation.service(name)?.clone();
        if !process::is_running(&service) {
            self.start(name)?;
        }
        let region = self.region_of(name)?.clone();
        let operator = ceremony::connect(&region, OPERATORS[0]).await?;
        let id = NodeId(service.node_id);
        match service.kind {
            Kind::Node => operator.add_node(id).await?,
            Kind::Kms => operator.add_kms(id, &ceremony::approvers(&region)?).await?,
            // Enrolled is all that a gateway has to be.
            Kind::Gateway => {}
        }
        self.federation.service_mut(name)?.joining = false;
        self.federation.save()?;
        if service.kind == Kind::Kms {
            ceremony::unseal(self.region_of(name)?).await?;
        }
        // From now on an empty folder is a lost disk.
        files::write_config(&region, &service, Admission::Member)?;
        self.write_contexts()
    }

    /// Adds a member and removes the old one, its enrolment and its process. Returns the new one's name.
    pub async fn replace(&mut self, name: &str) -> Result<String> {
        let old = self.federation.service(name)?.clone();
        let region = self.region_of(name)?.region.to_string();
        if process::is_running(&old) {
            let fresh = self.add(&region, old.kind).await?;
            self.remove(name).await?;
            return Ok(fresh);
        }
        // A learner is promoted on the word of all voters, so one that cannot give it any more has to go first.
        self.remove(name).await?;
        self.add(&region, old.kind).await
    }

    /// Removes a member, its enrolment and its process. It may be dead.
    pub async fn remove(&mut self, name: &str) -> Result<()> {
        let old = self.federation.service(name)?.clone();
        let region = self.region_of(name)?.clone();
        let operator = ceremony::connect(&region, OPERATORS[0]).await?;
        let approvers = ceremony::approvers(&region)?;
        match old.kind {
            Kind::Node => operator.remove_node(NodeId(old.node_id), false).await?,
            Kind::Kms => operator.remove_kms(NodeId(old.node_id), &approvers).await?,
            Kind::Gateway => {}
        }
        operator
            .change_enrolment(Vec::new(), vec![old.identity.clone()], &approvers)
            .await?;
        if process::is_running(&old) {
            process::end(&old, END_MAX)?;
        }
        self.places.vacated(&old)?;
        let gone = self.federation.service_mut(name)?;
        (gone.pid, gone.removed) = (0, true);
        self.federation.save()?;
        self.write_contexts()
    }

    /// Every service that has not been removed.
    pub fn services(&self) -> impl Iterator<Item = &Service> {
        self.federation
            .regions
            .iter()
            .flat_map(|region| &region.services)
            .filter(|s| !s.removed)
    }

    /// The region a service belongs to.
    pub fn region_of(&self, name: &str) -> Result<&RegionEntry> {
        self.federation
            .region(name.split('/').next().unwrap_or_default())
    }

    fn start_all(&mut self) -> Result<()> {
        let names: Vec<_> = self
            .services()
            .filter(|s| !process::is_running(s))
            .map(|s| s.name.clone())
            .collect();
        self.start_all_of(&names)
    }

    /// Starts services at once, and waits until all answer on their health ports.
    pub fn start_all_of(&mut self, names: &[String]) -> Result<()> {
        for name in names {
            self.spawn(name)?;
        }
        names
            .iter()
            .try_for_each(|name| wait_alive(self.federation.service(name)?))
    }

    fn spawn(&mut self, name: &str) -> Result<()> {
        let service = self.federation.service(name)?;
        if process::is_running(service) {
            bail!("{name} is running already");
        }
        let binary = process::binary_in(&self.bin, service.kind)?;
        let pid = process::start(service, self.places.command(service, &binary))?;
        self.federation.service_mut(name)?.pid = pid;
        self.federation.save()
    }

    pub(crate) fn wait_ready(&self) -> Result<()> {
        let end = Instant::now() + READY_MAX;
        loop {
            let waiting: Vec<_> = self
                .status()
                .into_iter()
                .filter(|status| !status.ready)
                .collect();
            let Some(first) = waiting.first() else {
                return Ok(());
            };
            if Instant::now() > end {
                bail!("{} is not ready: {}", first.name, first.says);
            }
            std::thread::sleep(POLL);
        }
    }

    fn write_contexts(&self) -> Result<()> {
        let mut file = ContextFile::default();
        for region in &self.federation.regions {
            let name = region.region.to_string();
            file.current.get_or_insert_with(|| name.clone());
            file.contexts
                .insert(name, region.context(files::CLIENTS[0]));
        }
        file.save(&self.federation.contexts)?;
        Ok(())
    }
}

fn prefix(kind: Kind) -> &'static str {
    match kind {
        Kind::Node => "n",
        Kind::Kms => "k",
        Kind::Gateway => "g",
    }
}

fn entry(
    dir: &Path,
    plan: &RegionPlan,
    federated: bool,
    places: &dyn Places,
) -> Result<RegionEntry> {
    let mut region = RegionEntry {
        region: plan.region.clone(),
        jurisdiction: plan.jurisdiction.clone(),
        dir: dir.join(plan.region.as_str()),
        shards: plan.shards,
        shares_needed: plan.custodians.1,
        upload_epoch_seconds: None,
        federated,
        founded: false,
        services: Vec::new(),
        identities: Vec::new(),
    };
    for (kind, count) in Kind::ALL
        .into_iter()
        .zip([plan.nodes, plan.kms, plan.gateways])
    {
        for number in 1..=count {
            let short = format!("{}{number}", prefix(kind));
            let id = if kind == Kind::Gateway { 0 } else { number };
            region
                .services
                .push(service(dir, &region, kind, &short, id.into(), places)?);
        }
    }
    Ok(region)
}

fn service(
    dir: &Path,
    region: &RegionEntry,
    kind: Kind,
    short: &str,
    node_id: u64,
    places: &dyn Places,
) -> Result<Service> {
    let base: PathBuf = dir.join(region.region.as_str()).join(short);
    let name = format!("{}/{short}", region.region);
    let place = places.make(&name, &base)?;
    Ok(Service {
        name,
        kind,
        node_id,
        identity: Identity::new(region.region.clone(), kind.role(), short)?.to_string(),
        endpoint: place.endpoint,
        health: place.health,
        log_http: if kind == Kind::Kms {
            place.log_http
        } else {
            String::new()
        },
        https: if kind == Kind::Gateway {
            place.https
        } else {
            String::new()
        },
        federation: if region.federated && kind != Kind::Gateway {
            place.federation
        } else {
            String::new()
        },
        config: base.with_extension("toml"),
        data: place.data,
        log: base.with_extension("log"),
        pid: 0,
        joining: false,
        removed: false,
    })
}

/// Asks a service how it is.
pub fn ask(service: &Service) -> ServiceStatus {
    let (ready, says) = match http(&service.health, "/readyz") {
        Ok((200, body)) => (true, body),
        Ok((_, body)) => (false, body),
        Err(error) => (false, error.to_string()),
    };
    ServiceStatus {
        name: service.name.clone(),
        pid: service.pid,
        running: process::is_running(service),
        ready,
        says,
    }
}

fn wait_alive(service: &Service) -> Result<()> {
    let end = Instant::now() + START_MAX;
    loop {
        if matches!(http(&service.health, "/healthz"), Ok((200, _))) {
            return Ok(());
        }
        if !process::is_running(service) {
            let log = std::fs::read_to_string(&service.log).unwrap_or_default();
            let tail: Vec<_> = log.lines().rev().take(5).collect();
            let tail: Vec<_> = tail.into_iter().rev().collect();
            bail!(
                "{} ended at once; its log ends with:\n{}",
                service.name,
                tail.join("\n")
            );
        }
        if Instant::now() > end {
            bail!("{} does not answer on {}", service.name, service.health);
        }
        std::thread::sleep(POLL);
    }
}

/// One GET of a health port: status and body.
pub fn http(address: &str, path: &str) -> Result<(u16, String)> {
    const PATIENCE: Duration = Duration::from_secs(5);
    const BODY_MAX: u64 = 4 << 20;
    let mut stream = TcpStream::connect_timeout(&address.parse()?, PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    write!(
        stream,
        "GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n"
    )?;
    let mut text = String::new();
    stream.take(BODY_MAX).read_to_string(&mut text)?;
    let (head, body) = text.split_once("\r\n\r\n").context("no HTTP answer")?;
    let status = head
        .split_whitespace()
        .nth(1)
        .and_then(|code| code.parse().ok());
    Ok((status.context("no HTTP status")?, body.to_owned()))
}
