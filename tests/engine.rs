//! The engine, the plan and the store together, with an executor that lives in memory.
//!
//! Knows what a build promises, and nothing of guests, mounts or processes.

#[path = "support/fake.rs"]
mod fake;
#[path = "support/space.rs"]
mod space;

#[path = "engine/attest.rs"]
mod attest;
#[path = "engine/builds.rs"]
mod builds;
#[path = "engine/damage.rs"]
mod damage;
#[path = "engine/properties.rs"]
mod properties;
#[path = "engine/secrets.rs"]
mod secrets;
#[path = "engine/together.rs"]
mod together;
#[path = "engine/twins.rs"]
mod twins;
