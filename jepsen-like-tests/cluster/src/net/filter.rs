//! What a namespace's packet filter stops: whole senders, a share of packets, live connections.
//!
//! Owns the rules inside each namespace, as one table that is replaced whole. Everything is stopped where it arrives,
//! so that a cut from A to B is a rule of B alone and one way is one way. Refuses to leave a rule without a counter:
//! a fault that stopped nothing was none.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;
use std::process::Command;

use anyhow::{Context as _, Result};
use serde::Deserialize;

use super::{Net, feed, namespace_file};

/// What is stopped on its way into one namespace.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Filter {
    /// Senders of whom nothing arrives.
    pub cut_from: BTreeSet<Ipv4Addr>,
    /// Share of all packets that is lost, in percent.
    pub loss_percent: u8,
    /// Whether segments of connections are answered by a reset, to both ends.
    pub reset: bool,
}

/// Packets stopped so far.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Stopped {
    /// Of senders cut off.
    pub cut: u64,
    /// Lost by share.
    pub lost: u64,
    /// Answered by a reset.
    pub reset: u64,
}

impl Stopped {
    /// All of them.
    pub fn total(self) -> u64 {
        self.cut + self.lost + self.reset
    }

    fn add(&mut self, other: Self) {
        self.cut += other.cut;
        self.lost += other.lost;
        self.reset += other.reset;
    }
}

impl Net {
    /// Changes what is stopped on its way to a service.
    pub fn filter(&self, name: &str, change: impl FnOnce(&mut Filter)) -> Result<()> {
        let mut state = self.state.lock();
        let mut wanted = state.filters.get(name).cloned().unwrap_or_default();
        change(&mut wanted);
        feed(&mut nft(name, &["-f", "-"]), &script(&wanted))?;
        state.filters.insert(name.to_owned(), wanted);
        Ok(())
    }

    /// Cuts what the first sends to the second of each pair.
    pub fn cut(&self, pairs: &[(String, String)]) -> Result<()> {
        let mut by_receiver: BTreeMap<&str, Vec<Ipv4Addr>> = BTreeMap::new();
        for (from, to) in pairs {
            let from = self.address(from)?;
            by_receiver.entry(to).or_default().push(from);
        }
        for (to, senders) in by_receiver {
            self.filter(to, |filter| filter.cut_from.extend(senders))?;
        }
        Ok(())
    }

    /// What the present rules of a service have stopped.
    pub fn stopped(&self, name: &str) -> Result<Stopped> {
        match self.state.lock().filters.contains_key(name) {
            true => counters(name),
            false => Ok(Stopped::default()),
        }
    }

    /// Takes every rule away and answers what they had stopped.
    pub fn unfilter(&self) -> Result<Stopped> {
        let mut all = Stopped::default();
        let mut state = self.state.lock();
        while let Some(name) = state.filters.keys().next().cloned() {
            all.add(counters(&name)?);
            feed(&mut nft(&name, &["-f", "-"]), EMPTY)?;
            state.filters.remove(&name);
        }
        Ok(all)
    }
}

/// Deleting what is not there is an error: it is made first.
const EMPTY: &str = "table inet faults\ndelete table inet faults\n";

fn nft(name: &str, arguments: &[&str]) -> Command {
    let mut command = Command::new("nsenter");
    command.arg(format!("--net={}", namespace_file(name).display()));
    command.arg("nft").args(arguments);
    command
}

fn script(filter: &Filter) -> String {
    // Not the first segment of a connection: it is accepted and then reset, as a middlebox does that forgot it.
    const RESET: &str = "tcp flags & (syn | rst) == 0 counter name n_reset reject with tcp reset\n";
    let mut input = String::new();
    if !filter.cut_from.is_empty() {
        let senders: Vec<_> = filter.cut_from.iter().map(ToString::to_string).collect();
        let senders = senders.join(", ");
        input.push_str(&format!(
            "ip saddr {{ {senders} }} counter name n_cut drop\n"
        ));
    }
    if filter.loss_percent > 0 {
        let share = filter.loss_percent;
        input.push_str(&format!(
            "numgen random mod 100 < {share} counter name n_lost drop\n"
        ));
    }
    let reset = if filter.reset { RESET } else { "" };
    format!(
        "{EMPTY}table inet faults {{\n\
         counter n_cut {{ }}\ncounter n_lost {{ }}\ncounter n_reset {{ }}\n\
         chain input {{\ntype filter hook input priority 0; policy accept;\n\
         iifname lo accept\n{input}{reset}}}\n\
         chain output {{\ntype filter hook output priority 0; policy accept;\n\
         oifname lo accept\n{reset}}}\n}}\n"
    )
}

#[derive(Deserialize)]
struct Listing {
    nftables: Vec<Listed>,
}

#[derive(Deserialize)]
struct Listed {
    counter: Option<Counter>,
}

#[derive(Deserialize)]
struct Counter {
    name: String,
    packets: u64,
}

fn counters(name: &str) -> Result<Stopped> {
    let list = ["-j", "list", "counters", "table", "inet", "faults"];
    let said = feed(&mut nft(name, &list), "")?;
    let listing: Listing = serde_json::from_str(&said).context("what nft lists")?;
    let count = |wanted: &str| {
        let counters = listing
            .nftables
            .iter()
            .filter_map(|one| one.counter.as_ref());
        counters
            .filter(|counter| counter.name == wanted)
            .map(|counter| counter.packets)
            .sum()
    };
    Ok(Stopped {
        cut: count("n_cut"),
        lost: count("n_lost"),
        reset: count("n_reset"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_filter_that_stops_nothing_has_no_rule() {
        let script = script(&Filter::default());
        assert!(
            !script.contains("drop") && !script.contains("reject"),
            "{script}"
        );
    }

    #[test]
    fn each_fault_has_its_rule_and_its_counter() {
        let filter = Filter {
            cut_from: [Ipv4Addr::new(10, 77, 1, 11), Ipv4Addr::new(10, 77, 1, 12)].into(),
            loss_percent: 20,
            reset: true,
        };
        let script = script(&filter);
        let (cut, lost) = (
            "ip saddr { 10.77.1.11, 10.77.1.12 } counter name n_cut drop",
            "numgen random mod 100 < 20 counter name n_lost drop",
        );
        assert!(script.contains(cut) && script.contains(lost), "{script}");
        assert_eq!(
            script.matches("reject with tcp reset").count(),
            2,
            "both ends: {script}"
        );
    }
}
