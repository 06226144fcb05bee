//! Every storage node and every KMS replica replaced by a new one, under load.

use anyhow::{Result, ensure};
use local::Local;

use super::load::Load;

pub(crate) async fn run(local: &mut Local) -> Result<()> {
    let load = Load::start(local).await?;
    load.progress(50).await?;
    let names: Vec<_> = local
        .services()
        .map(|service| service.name.clone())
        .collect();
    for name in &names {
        let fresh = local.replace(name).await?;
        println!("  {name} replaced by {fresh}");
        load.progress(10).await?;
    }
    let checked = load.check().await?;
    ensure!(
        local
            .services()
            .all(|service| !names.contains(&service.name)),
        "an old member is still there"
    );
    println!(
        "  {} members replaced; {} acknowledged writes over {} keys, 0 lost; longest wait of one writer {} ms",
        names.len(),
        checked.acknowledged,
        checked.keys,
        checked.longest_pause.as_millis()
    );
    Ok(())
}
