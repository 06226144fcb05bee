//! A region that is lost whole, and begins anew.
//!
//! Owns what is lost with it: every disk of its nodes and KMS replicas. Its CA, people's keys, custodians' shares and
//! configurations are kept elsewhere and remain.

use std::path::Path;

use anyhow::{Context as _, Result};

use crate::ceremony;
use crate::federation::{Kind, Service};
use crate::files::{self, Admission};
use crate::launch::Local;
use crate::process;

impl Local {
    /// Every node and KMS replica of a region ends at once, and their disks are gone.
    pub fn lose(&mut self, region_id: &str) -> Result<()> {
        let lost = self.with_disks(region_id)?;
        let running = lost.iter().filter(|service| process::is_running(service));
        let names: Vec<_> = running.map(|service| service.name.clone()).collect();
        self.kill_all_of(&names)?;
        for service in &lost {
            std::fs::remove_dir_all(&service.data)
                .with_context(|| format!("the disk of {}", service.name))?;
        }
        self.federation.region_mut(region_id)?.founded = false;
        self.federation.save()
    }

    /// The region begins anew on empty disks, with its KMS as it was in a backup and storage that holds nothing.
    pub async fn rebuild(&mut self, region_id: &str, kms_backup: &Path) -> Result<()> {
        let region = self.federation.region(region_id)?.clone();
        files::renew_genesis(&region)?;
        let founders = self.with_disks(region_id)?;
        for service in &founders {
            files::write_config(&region, service, Admission::Found)?;
        }
        let names: Vec<_> = founders
            .iter()
            .map(|service| service.name.clone())
            .collect();
        self.start_all_of(&names)?;
        let region = self.federation.region(region_id)?.clone();
        ceremony::restore_kms(&region, kms_backup).await?;
        ceremony::found_storage(&region).await?;
        self.federation.region_mut(region_id)?.founded = true;
        for service in &founders {
            files::write_config(&region, service, Admission::Member)?;
        }
        self.federation.save()?;
        self.wait_ready()
    }

    fn with_disks(&self, region_id: &str) -> Result<Vec<Service>> {
        let region = self.federation.region(region_id)?;
        let kinds = [Kind::Node, Kind::Kms].into_iter();
        Ok(kinds
            .flat_map(|kind| region.living(kind).cloned())
            .collect())
    }
}
