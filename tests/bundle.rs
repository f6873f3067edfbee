//! Bundles between two stores, with an executor that lives in memory: what is carried over, what
//! counts, and what a damaged file does.
//!
//! Knows what an export and an import promise. How a bundle looks is `remote.rs`'s.

#[path = "support/failing.rs"]
mod failing;
#[expect(dead_code, reason = "tests of the engine use what these do not")]
#[path = "support/fake.rs"]
mod fake;
#[expect(dead_code, reason = "tests of backends use what these do not")]
#[path = "support/remote.rs"]
mod remote;
#[expect(dead_code, reason = "tests of the engine use what these do not")]
#[path = "support/space.rs"]
mod space;

#[path = "bundle/commands.rs"]
mod commands;
#[path = "bundle/damage.rs"]
mod damage;
#[path = "bundle/sites.rs"]
mod sites;
#[expect(dead_code, reason = "tests of the engine use what these do not")]
#[path = "sharing/team.rs"]
mod team;
#[path = "bundle/trusted.rs"]
mod trusted;
