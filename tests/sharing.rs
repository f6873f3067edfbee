//! Two and more workspaces that share one remote, built by the fake executor.

#[path = "support/fake.rs"]
mod fake;
#[path = "support/remote.rs"]
mod remote;
#[path = "support/space.rs"]
mod space;

#[path = "sharing/faults.rs"]
mod faults;
#[path = "sharing/flight.rs"]
mod flight;
#[path = "sharing/results.rs"]
mod results;
#[path = "sharing/team.rs"]
mod team;
