//! Strangers, spoilt clients and attackers in front of a real gateway, byte by byte: `tests/s3/hostile.py`.
//!
//! Owns what is looked at from outside: the gateway is the same process at the end, no log tells of a panic, and what
//! clients sent is in none. Python is `REDUIT_S3_PYTHON`; without it, or without the daemons, the test says that it skips.

use std::path::Path;
use std::process::Command;

use anyhow::ensure;
use local::process;

use crate::common::s3::{access_key, gateway_of, session};
use crate::common::{contains, with_plan};

/// Seconds that the gateway waits for a client here: the session waits for as long, several times.
const STALL_SECONDS: u32 = 3;
/// Lines that no log has.
const NEVER: [&str; 3] = ["panicked", "RUST_BACKTRACE", "stack overflow"];

#[test]
fn whatever_clients_send_is_answered_as_s3_does_and_nothing_breaks() {
    let Some(python) = std::env::var_os("REDUIT_S3_PYTHON") else {
        println!("skipped: REDUIT_S3_PYTHON names no Python");
        return;
    };
    with_plan(&[("ch-zrh", "CH", 1)], 1, async |local| {
        let gateway = gateway_of(local)?;
        let config = std::fs::read_to_string(&gateway.config)?;
        let config = format!("stall_seconds = {STALL_SECONDS}\n{config}");
        std::fs::write(&gateway.config, config)?;
        local.restart(&gateway.name).await?;
        let key = access_key(local, "hostile").await?;
        let gateway = gateway_of(local)?;
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/s3/hostile.py");
        let mut command = Command::new(&python);
        command
            .arg("-u")
            .arg(script)
            .env("PYTHONDONTWRITEBYTECODE", "1")
            .env("S3_GATEWAY_PID", gateway.pid.to_string())
            .env("S3_STALL_SECONDS", STALL_SECONDS.to_string());
        print!("{}", session(command, local, &key).await?);

        let now = gateway_of(local)?;
        ensure!(
            now.pid == gateway.pid && process::is_running(&now),
            "the gateway is not the process that it was"
        );
        let secret = key.secret.text();
        for service in local.services() {
            for text in NEVER
                .into_iter()
                .chain(["0123456789012345", secret.as_str()])
            {
                let found = contains(&service.log, text.as_bytes())?;
                ensure!(found.is_none(), "{text:?} in {found:?}");
            }
        }
        Ok(())
    });
}
