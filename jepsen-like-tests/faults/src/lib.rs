//! A FUSE file system whose page cache is its own: what was not synced is gone on command.
//!
//! Owns the model of a volume ([`volume`]), its face to the kernel ([`fs`]), the commands ([`control`]) and the
//! mounting of it by a process of its own ([`mount`]). Refuses to be fast or complete: no links but hard ones, no
//! permissions, no extended attributes; what a database and a log need.

pub mod content;
pub mod control;
pub mod fs;
pub mod mount;
pub mod volume;
