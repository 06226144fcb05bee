//! Kill -9 of every process, many times, under load: no acknowledged write lost, none resurrected.

use anyhow::Result;
use local::Local;

use super::load::Load;

pub(crate) async fn run(local: &mut Local, rounds: u32) -> Result<()> {
    let load = Load::start(local).await?;
    load.progress(50).await?;
    let names: Vec<_> = local
        .services()
        .map(|service| service.name.clone())
        .collect();
    for round in 1..=rounds {
        for name in &names {
            local.kill(name)?;
            load.progress(3).await?;
            local.restart(name).await?;
        }
        println!(
            "  round {round} of {rounds}: {} processes killed",
            names.len()
        );
    }
    load.progress(20).await?;
    let checked = load.check().await?;
    println!(
        "  {} kills; {} acknowledged writes over {} keys, 0 lost, 0 resurrected; longest wait of one writer {} ms",
        rounds as usize * names.len(),
        checked.acknowledged,
        checked.keys,
        checked.longest_pause.as_millis()
    );
    Ok(())
}
