//! The engine, the plan and the store together, with an executor that lives in memory.
//!
//! Knows what a build promises, and nothing of guests, mounts or processes.

#[path = "support/fake.rs"]
mod fake;
#[expect(dead_code, reason = "tests of backends use what these do not")]
#[path = "support/remote.rs"]
mod remote;
#[path = "support/space.rs"]
mod space;

#[path = "engine/attest.rs"]
mod attest;
#[path = "engine/boots.rs"]
mod boots;
#[path = "engine/builds.rs"]
mod builds;
#[path = "engine/collect.rs"]
mod collect;
#[path = "engine/commands.rs"]
mod commands;
#[path = "engine/damage.rs"]
mod damage;
#[path = "engine/edits.rs"]
mod edits;
#[path = "engine/profiles.rs"]
mod profiles;
#[path = "engine/properties.rs"]
mod properties;
#[path = "engine/secrets.rs"]
mod secrets;
#[path = "engine/stress.rs"]
mod stress;
#[path = "engine/together.rs"]
mod together;
#[path = "engine/twins.rs"]
mod twins;
#[path = "engine/why.rs"]
mod why;

#[path = "sharing/faults.rs"]
mod sharing_faults;
#[path = "sharing/flight.rs"]
mod sharing_flight;
#[path = "sharing/results.rs"]
mod sharing_results;
#[path = "sharing/team.rs"]
mod team;
