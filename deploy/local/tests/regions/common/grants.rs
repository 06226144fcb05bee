//! What people of a region are allowed, beyond what its ceremony gave them.

use anyhow::Result;
use local::files::OPERATORS;
use local::{Local, ceremony};
use proto::v1;

/// Allows one identity something for one purpose.
pub(crate) async fn grant(
    local: &Local,
    who: &str,
    actions: &[v1::Action],
    purpose: &str,
) -> Result<()> {
    let region = local.federation.region("ch-zrh")?;
    let operator = ceremony::connect(region, OPERATORS[0]).await?;
    let approvers = ceremony::approvers(region)?;
    let grant = v1::Grant {
        principal: format!("spiffe://ch-zrh/client/{who}"),
        dataset: "*".to_owned(),
        actions: actions.iter().map(|action| i32::from(*action)).collect(),
        purposes: vec![purpose.to_owned()],
    };
    operator
        .change_grants(vec![grant], Vec::new(), &approvers)
        .await?;
    Ok(())
}
