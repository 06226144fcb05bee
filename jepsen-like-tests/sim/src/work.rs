//! What clients do to the group, and the judgement of what they were told, for each of the machines.
//!
//! Owns the clients of a run. Refuses to know about faults.

use std::time::Duration;

use replica::Group;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use crate::client::{Client, TURN_TO_ANOTHER, insist};
use crate::cluster::{self, AGREE_MAX};
use crate::load::{self, History, Outcome};
use crate::logbook::Logbook;
use crate::machine::{SHARD_LEVEL_MAX, Which};
use crate::roster::Roster;
use crate::{Broken, judge, records};

const LOAD: &str = "replica load";
/// Clients of a run.
const CLIENTS: u64 = 4;

/// The clients of a run, and what they remember.
pub(crate) enum Work {
    /// Of a shard.
    Shard {
        clients: Vec<Client>,
        history: History,
    },
    /// Of the KMS.
    Kms {
        clients: Vec<records::Client>,
        told: records::Book,
        clock: records::Clock,
    },
}

impl Work {
    pub(crate) fn new(which: Which, seed: u64, think_max: Duration) -> Self {
        match which {
            Which::Shard => {
                let history = History::default();
                let client = |number| Client::new(number, seed, history.clone(), think_max);
                Self::Shard {
                    clients: (0..CLIENTS).map(client).collect(),
                    history,
                }
            }
            Which::Kms => {
                let (told, clock) = (records::Book::default(), records::Clock::default());
                let client = |number| {
                    records::Client::new(number, seed, told.clone(), clock.clone(), think_max)
                };
                Self::Kms {
                    clients: (0..CLIENTS).map(client).collect(),
                    told,
                    clock,
                }
            }
        }
    }

    /// A boot begins.
    pub(crate) fn begin(&self) {
        if let Self::Kms { clock, .. } = self {
            clock.start();
        }
    }

    /// It ends.
    pub(crate) fn end(&self, away: Duration) {
        if let Self::Kms { clock, .. } = self {
            clock.stop(away);
        }
    }

    /// What there is before any client comes.
    pub(crate) async fn found(&self, roster: &Roster) -> Result<(), Broken> {
        let late = |_| Broken("the group is not given what it begins with".to_owned());
        match self {
            Self::Shard { .. } => {
                for command in load::founding() {
                    let answer = timeout(AGREE_MAX, insist(roster, &command)).await;
                    load::outcome(&answer.map_err(late)?)?;
                }
                timeout(AGREE_MAX, raise(roster)).await.map_err(late)
            }
            Self::Kms { clock, .. } => {
                let founding = async {
                    loop {
                        let Some(member) = roster.groups().into_iter().next() else {
                            return;
                        };
                        if member.read_index().await.is_err() {
                            continue;
                        }
                        let Ok(reader) = member.reader() else {
                            continue;
                        };
                        match records::founding(reader.as_ref(), clock.now()) {
                            Some(command) => drop(insist(roster, &command).await),
                            None => return,
                        }
                    }
                };
                timeout(AGREE_MAX, founding).await.map_err(late)
            }
        }
    }

    /// Lets every client go on until it is aborted or a promise is broken.
    pub(crate) fn run(&self, roster: &Roster) -> JoinSet<Result<(), Broken>> {
        let mut running = JoinSet::new();
        match self {
            Self::Shard { clients, .. } => {
                for client in clients {
                    let (client, roster) = (client.clone(), roster.clone());
                    running.spawn(async move { client.run(&roster).await });
                }
            }
            Self::Kms { clients, .. } => {
                for client in clients {
                    let (client, roster) = (client.clone(), roster.clone());
                    running.spawn(async move { client.run(&roster).await });
                }
            }
        }
        running
    }

    /// Everything that has to hold once the voters are back and nothing fails.
    pub(crate) async fn judge(
        &self,
        voters: &[Group],
        roster: &Roster,
        book: &Logbook,
    ) -> Result<(), Broken> {
        match self {
            Self::Shard { clients, history } => {
                let judged = judge_all(voters, roster, clients, history).await?;
                book.count_by(LOAD, "acknowledged writes found", judged.acknowledged);
                book.count_by(LOAD, "answers given again", judged.repeated);
                book.count_by(LOAD, "requests of unknown outcome", judged.unknown);
                judge::invariants_hold(voters)
            }
            Self::Kms { clients, told, .. } => {
                let settled = async {
                    for client in clients {
                        client.settle(roster).await?;
                    }
                    Ok(())
                };
                let late = |_| Broken("uses of keys are not answered".to_owned());
                timeout(AGREE_MAX, settled).await.map_err(late)??;
                judge::same_everywhere(voters).await?;
                cluster::agree(voters).await?;
                for member in voters {
                    let reader = reader(member)?;
                    let judged = records::judge(member, reader.as_ref(), told)?;
                    book.count_by(LOAD, "leaves that were told of, found", judged.found);
                    book.count_by(LOAD, "leaves read", judged.leaves);
                }
                Ok(())
            }
        }
    }

    /// What the whole run came to.
    pub(crate) fn count(&self, book: &Logbook) {
        let reads = match self {
            Self::Shard { clients, history } => {
                let all = history.all();
                let done = |outcome: &Outcome| matches!(outcome, Outcome::Done { .. });
                let acknowledged = all.iter().filter(|r| done(&r.outcome)).count();
                let in_parts = |r: &&load::Request| matches!(r.kind, load::Kind::Complete(_));
                let completed = all.iter().filter(in_parts).filter(|r| done(&r.outcome));
                let what = "completions of uploads acknowledged";
                book.count_by(LOAD, what, completed.count() as u64);
                book.count_by(LOAD, "requests of shard clients", all.len() as u64);
                book.count_by(LOAD, "of these acknowledged", acknowledged as u64);
                clients.iter().map(Client::reads).sum()
            }
            Self::Kms { clients, .. } => clients.iter().map(records::Client::reads).sum(),
        };
        book.count_by(LOAD, "linearizable reads compared", reads);
    }
}

/// The group goes by the newest level, as an operator of a region raises it.
async fn raise(roster: &Roster) {
    loop {
        for member in roster.groups() {
            if member.raise_level(SHARD_LEVEL_MAX).await.is_ok() {
                return;
            }
        }
        sleep(TURN_TO_ANOTHER).await;
    }
}

fn reader(group: &Group) -> Result<Box<dyn proto::store::Reader + Send + Sync>, Broken> {
    group
        .reader()
        .map_err(|e| Broken(format!("no reader: {e}")))
}

/// Everything that has to hold of a shard once its voters are back.
pub async fn judge_all(
    voters: &[Group],
    roster: &Roster,
    clients: &[Client],
    history: &History,
) -> Result<judge::Judged, Broken> {
    let mut judged = judge::survived(reader(&voters[0])?.as_ref(), history)?;
    judge::same_everywhere(voters).await?;
    let settled = async {
        for client in clients {
            client.settle(roster).await?;
        }
        judge::repeat(roster, history).await
    };
    let settled = timeout(AGREE_MAX, settled).await;
    judged.repeated = settled.map_err(|_| Broken("requests are not answered".to_owned()))??;
    judge::same_everywhere(voters).await?;
    for group in voters {
        judge::exact(reader(group)?.as_ref(), history)?;
    }
    Ok(judged)
}
