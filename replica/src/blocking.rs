//! Work that blocks, kept away from tasks that must not wait for it.
//!
//! Owns where such work runs. Refuses a second thread on a runtime that has one: only tests and simulations run on
//! such a one, and there another thread would leave the order of events to the machine it runs on.

use std::io;

use tokio::runtime::{Handle, RuntimeFlavor};

/// Runs `work` where blocking is allowed. An error is a panic in it, or a runtime that ends.
pub(crate) async fn away<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> io::Result<T> {
    if Handle::current().runtime_flavor() == RuntimeFlavor::CurrentThread {
        return Ok(work());
    }
    tokio::task::spawn_blocking(work)
        .await
        .map_err(io::Error::other)
}
