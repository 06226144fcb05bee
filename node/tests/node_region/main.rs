//! What a region's nodes promise, all in one process. One program, so that it is linked once.

mod backup;
mod clocks;
mod moves;
mod policy;
mod promises;
mod region;
mod relocation;
mod restores;
