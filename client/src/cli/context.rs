//! `reduit context`: as kubectl has it.

use std::path::PathBuf;

use clap::Subcommand;
use client::Context;
use client::ids::RegionId;

use super::failure::Failure;
use super::output::line;
use super::{Session, output};

#[derive(Subcommand)]
pub(crate) enum Command {
    /// Every context; the current one is marked.
    List,
    /// Makes a context the current one.
    Use {
        /// Its name.
        name: String,
    },
    /// What a context says.
    Show {
        /// Its name; default: the current one.
        name: Option<String>,
    },
    /// Adds or replaces a context.
    Set {
        /// Its name.
        name: String,
        /// The region.
        #[arg(long)]
        region: RegionId,
        /// A storage node, host:port; may be repeated.
        #[arg(long = "node", required = true)]
        nodes: Vec<String>,
        /// A KMS replica, host:port; may be repeated.
        #[arg(long = "kms")]
        kms: Vec<String>,
        /// The region's CA certificate (PEM).
        #[arg(long)]
        ca: PathBuf,
        /// Your certificate (PEM).
        #[arg(long)]
        certificate: PathBuf,
        /// Your private key (PEM, mode 0600).
        #[arg(long)]
        key: PathBuf,
    },
    /// Forgets a context; nothing else is touched.
    Rm {
        /// Its name.
        name: String,
    },
}

pub(crate) fn run(session: &Session, command: Command) -> Result<(), Failure> {
    let mut file = session.contexts()?;
    match command {
        Command::List => {
            if session.json {
                let contexts = &file.contexts;
                line(serde_json::json!({ "current": file.current, "contexts": contexts }));
            }
            for (name, context) in file.contexts.iter().filter(|_| !session.json) {
                let mark = if file.current.as_ref() == Some(name) {
                    '*'
                } else {
                    ' '
                };
                output::line(format!(
                    "{mark} {name:<16} {:<12} {}",
                    context.region,
                    context.nodes.join(",")
                ));
            }
            Ok(())
        }
        Command::Use { name } => {
            file.choose(Some(&name))?;
            file.current = Some(name);
            Ok(file.save(&session.file)?)
        }
        Command::Show { name } => {
            let name = name.or_else(|| session.context.clone());
            let (name, context) = file.choose(name.as_deref())?;
            line(serde_json::json!({ "name": name, "context": context }));
            Ok(())
        }
        Command::Set {
            name,
            region,
            nodes,
            kms,
            ca,
            certificate,
            key,
        } => {
            file.current.get_or_insert_with(|| name.clone());
            file.contexts.insert(
                name,
                Context {
                    region,
                    nodes,
                    kms,
                    ca,
                    certificate,
                    key,
                },
            );
            Ok(file.save(&session.file)?)
        }
        Command::Rm { name } => {
            file.choose(Some(&name))?;
            file.contexts.remove(&name);
            file.current.take_if(|current| *current == name);
            Ok(file.save(&session.file)?)
        }
    }
}
