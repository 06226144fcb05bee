//! What the consensus host promises, its members in one process. One program, so that it is linked once.

mod cluster;
mod linear;
mod members;
mod power;
mod support;
