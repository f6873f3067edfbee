//! kiln end to end: the real program on a real Debian, with real mounts, processes, kills and qemu.
//!
//! Needs root, the network for the first build of the base, and the programs that the tests name
//! when they miss them.

#[path = "support/guest_space.rs"]
mod guest_space;
#[allow(dead_code, reason = "other tests let it go wrong")]
#[path = "support/server.rs"]
mod server;

#[path = "e2e/boot.rs"]
mod boot;
#[path = "e2e/boots.rs"]
mod boots;
#[path = "e2e/disks.rs"]
mod disks;
#[path = "e2e/import.rs"]
mod import;
#[path = "e2e/kill.rs"]
mod kill;
#[path = "e2e/lost.rs"]
mod lost;
#[path = "e2e/peers.rs"]
mod peers;
#[path = "e2e/profiles.rs"]
mod profiles;
#[path = "e2e/recipes.rs"]
mod recipes;
#[path = "e2e/seal.rs"]
mod seal;
#[path = "e2e/secrets.rs"]
mod secrets;
#[path = "e2e/story.rs"]
mod story;
