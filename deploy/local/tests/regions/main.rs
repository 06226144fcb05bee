//! Whole regions of real daemons. One program, so that it is linked once.

mod backup_bucket;
mod common;
mod evidence;
mod federation;
mod locks;
mod parts;
mod people;
mod principals;
mod region;
mod relocation;
mod repair;
mod s3;
mod settings;
mod storage_backup;
mod storage_restore;
mod telemetry;
mod tools;
mod witness;
