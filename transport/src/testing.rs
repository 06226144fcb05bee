//! Faulty networks and settable clocks for tests, here and in the crates that depend on this one.
//!
//! Never in a shipped build: it is behind `cfg(test)` and the feature `testing`.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use proto::ids::UnixMs;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{ReadHalf, WriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};

use crate::clock::Clock;

/// A clock that moves when told.
#[derive(Debug)]
pub struct ManualClock(AtomicU64);

impl ManualClock {
    /// Starts at `now`.
    pub fn at(now: UnixMs) -> Self {
        Self(AtomicU64::new(now.0))
    }

    /// Moves on.
    pub fn advance(&self, by: Duration) {
        let by = u64::try_from(by.as_millis()).expect("a test's time fits");
        self.0.fetch_add(by, Ordering::SeqCst);
    }

    /// Moves to a time, earlier or later.
    pub fn set(&self, now: UnixMs) {
        self.0.store(now.0, Ordering::SeqCst);
    }
}

impl Clock for ManualClock {
    fn now(&self) -> UnixMs {
        UnixMs(self.0.load(Ordering::SeqCst))
    }
}

/// What the proxy does to bytes and connections right now.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
struct Weather {
    /// Bytes from client to server wait.
    cut_to_server: bool,
    /// Bytes from server to client wait.
    cut_to_client: bool,
    /// New connections are closed at once.
    refuse: bool,
    /// Each piece read waits this long before it goes on.
    delay: Duration,
    /// Connections older than this count are reset.
    resets: u64,
}

/// A TCP proxy on 127.0.0.1 that can cut, reset and delay what goes through it.
#[derive(Debug)]
pub struct FlakyProxy {
    address: SocketAddr,
    weather: watch::Sender<Weather>,
    task: JoinHandle<()>,
}

impl FlakyProxy {
    /// Listens on a free port and forwards to `target`.
    pub async fn to(target: SocketAddr) -> std::io::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let weather = watch::Sender::new(Weather::default());
        let task = tokio::spawn(accept(listener, target, weather.subscribe()));
        Ok(Self {
            address,
            weather,
            task,
        })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// `host:port` of where it listens.
    pub fn endpoint(&self) -> String {
        self.address.to_string()
    }

    /// Nothing passes either way; connections stay open and bytes wait, as behind a dropped route.
    pub fn cut(&self) {
        self.change(|w| (w.cut_to_server, w.cut_to_client) = (true, true));
    }

    /// Nothing passes to the server; answers still pass.
    pub fn cut_to_server(&self) {
        self.change(|w| w.cut_to_server = true);
    }

    /// Nothing passes to the client; requests still pass.
    pub fn cut_to_client(&self) {
        self.change(|w| w.cut_to_client = true);
    }

    /// New connections are closed as soon as they are made.
    pub fn refuse(&self) {
        self.change(|w| w.refuse = true);
    }

    /// Every piece of up to 16 KiB is held back this long.
    pub fn delay(&self, delay: Duration) {
        self.change(|w| w.delay = delay);
    }

    /// All is well again; bytes that waited go on.
    pub fn heal(&self) {
        self.change(|w| {
            *w = Weather {
                resets: w.resets,
                ..Weather::default()
            }
        });
    }

    /// Resets (RST) every living connection. New ones are not touched.
    pub fn reset(&self) {
        self.change(|w| w.resets += 1);
    }

    fn change(&self, change: impl FnOnce(&mut Weather)) {
        self.weather.send_modify(change);
    }
}

impl Drop for FlakyProxy {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn accept(listener: TcpListener, target: SocketAddr, weather: watch::Receiver<Weather>) {
    let mut connections = JoinSet::new();
    while let Ok((client, _)) = listener.accept().await {
        while connections.try_join_next().is_some() {}
        if weather.borrow().refuse {
            drop(client);
            continue;
        }
        connections.spawn(carry(client, target, weather.clone()));
    }
}

async fn carry(mut client: TcpStream, target: SocketAddr, mut weather: watch::Receiver<Weather>) {
    let born = weather.borrow_and_update().resets;
    let Ok(mut server) = TcpStream::connect(target).await else {
        return;
    };
    if client.set_nodelay(true).is_err() || server.set_nodelay(true).is_err() {
        return;
    }
    // Borrowed halves: owned ones send a FIN when dropped, and a reset is to be a reset.
    let (from_client, to_client) = client.split();
    let (from_server, to_server) = server.split();
    let up = pump(from_client, to_server, weather.clone(), |w| w.cut_to_server);
    let down = pump(from_server, to_client, weather.clone(), |w| w.cut_to_client);
    let reset = tokio::select! {
        biased;
        // A sender that has gone is the proxy's end: a reset too.
        _ = weather.wait_for(|w| w.resets > born) => true,
        () = up => false,
        () = down => false,
    };
    if reset {
        for stream in [&client, &server] {
            // With zero linger a close is a reset. Failing means the connection is gone already.
            drop(stream.set_zero_linger());
        }
    }
}

async fn pump(
    mut from: ReadHalf<'_>,
    mut to: WriteHalf<'_>,
    mut weather: watch::Receiver<Weather>,
    cut: fn(&Weather) -> bool,
) {
    let mut buffer = vec![0; 16 * 1024];
    loop {
        let Ok(len @ 1..) = from.read(&mut buffer).await else {
            return;
        };
        let delay = weather.borrow().delay;
        if !delay.is_zero() {
            tokio::time::sleep(delay).await;
        }
        let passes = weather.wait_for(|w| !cut(w)).await.is_ok();
        if !passes || to.write_all(&buffer[..len]).await.is_err() {
            return;
        }
    }
}
