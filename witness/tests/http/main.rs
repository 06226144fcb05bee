//! The witness over real HTTP, in this process and as the shipped binary.

mod crash;
mod foreign;
mod protocol;
mod status;
mod support;
