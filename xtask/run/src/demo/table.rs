//! The demo's table: what was done, how fast, what was refused.

use std::time::{Duration, Instant};

pub(crate) struct Table {
    started: Instant,
    rows: Vec<(String, String)>,
}

impl Table {
    pub(crate) fn start() -> Self {
        Self {
            started: Instant::now(),
            rows: Vec::new(),
        }
    }

    /// Says what comes next.
    pub(crate) fn step(&mut self, what: &str) {
        println!("[{:>5.1} s] {what}", self.started.elapsed().as_secs_f64());
    }

    pub(crate) fn row(&mut self, what: &str, value: String) {
        self.rows.push((what.to_owned(), value));
    }

    pub(crate) fn rate(&mut self, what: &str, count: u64, bytes: u64, took: Duration) {
        let seconds = took.as_secs_f64().max(1e-9);
        let rate = if count > 1 {
            format!("{:.0} objects/s, ", count as f64 / seconds)
        } else {
            String::new()
        };
        let megabytes = bytes as f64 / 1e6 / seconds;
        self.rows.push((
            what.to_owned(),
            format!("{rate}{megabytes:.1} MB/s, {seconds:.1} s"),
        ));
    }

    pub(crate) fn print(&self) {
        let width = self
            .rows
            .iter()
            .map(|(what, _)| what.len())
            .max()
            .unwrap_or(0);
        println!();
        for (what, value) in &self.rows {
            println!("  {what:<width$}  {value}");
        }
        println!(
            "  {:<width$}  {:.1} s\n",
            "in all",
            self.started.elapsed().as_secs_f64()
        );
    }
}
