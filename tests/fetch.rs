//! Downloads and what their names mean, against a server of the tests' own.
//!
//! Knows what `fetch` and `resolve` promise; bases in builds are at the end, with an executor that
//! lives in memory.

#[path = "support/fake.rs"]
#[expect(dead_code, reason = "shared with the engine's own tests")]
mod fake;
#[path = "support/server.rs"]
mod server;
#[path = "support/space.rs"]
#[expect(dead_code, reason = "shared with the engine's own tests")]
mod space;

#[path = "fetch/bases.rs"]
mod bases;
#[path = "fetch/commands.rs"]
mod commands;
#[path = "fetch/downloads.rs"]
mod downloads;
#[path = "fetch/names.rs"]
mod names;
