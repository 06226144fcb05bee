//! Claims about the KMS machine: tables of commands, every refusal, and random sequences under all invariants.

mod access_keys;
mod custody;
mod destruction;
mod dual_control;
mod erase;
mod formats;
mod hand_over;
mod key_states;
mod lab;
mod labels;
mod log;
mod membership;
mod policy;
mod queues;
mod random;
mod region_time;
mod regions;
mod restore;
mod restores;
mod retries;
mod rotation;
mod token_seals;
mod use_of_keys;
mod witnesses;
