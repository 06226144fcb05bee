//! Who may speak to whom, over real TLS. One program, so that it is linked once.

extern crate reduit_transport as transport;

mod enrolments;
mod federation;
mod live;
mod refusals;
mod region;
