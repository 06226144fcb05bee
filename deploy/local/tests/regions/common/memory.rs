//! Memory of a region's processes, as the kernel counts it.

use anyhow::{Context as _, Result, ensure};
use local::{Kind, Local, Service};

/// What one process takes, in MiB.
#[derive(Debug, Clone)]
pub(crate) struct Taken {
    pub(crate) name: String,
    pub(crate) kind: Kind,
    /// Now.
    pub(crate) mib: u64,
    /// At most so far.
    pub(crate) most_mib: u64,
}

/// What each process of the regions takes.
pub(crate) fn taken(local: &Local) -> Result<Vec<Taken>> {
    local.services().map(of).collect()
}

fn of(service: &Service) -> Result<Taken> {
    let path = format!("/proc/{}/status", service.pid);
    let status = std::fs::read_to_string(path).with_context(|| service.name.clone())?;
    let mib = |field: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(field));
        let kib = line.and_then(|rest| rest.split_whitespace().next()?.parse::<u64>().ok());
        kib.map(|kib| kib >> 10).context("a line of /proc")
    };
    Ok(Taken {
        name: service.name.clone(),
        kind: service.kind,
        mib: mib("VmRSS:")?,
        most_mib: mib("VmHWM:")?,
    })
}

/// Prints it, and holds storage nodes and gateways to a bound.
pub(crate) fn bounded(local: &Local, what: &str, most_mib: u64) -> Result<()> {
    let all = taken(local)?;
    let said = all.iter().map(|one| {
        let (name, mib, most) = (&one.name, one.mib, one.most_mib);
        format!("{name} {mib} (at most {most})")
    });
    println!("{what}, MiB: {}", said.collect::<Vec<_>>().join(", "));
    for one in all.iter().filter(|one| one.kind != Kind::Kms) {
        let (name, most) = (&one.name, one.most_mib);
        ensure!(most < most_mib, "{what}: {name} took {most} MiB");
    }
    Ok(())
}
