//! Whose results count, and that nothing else does.
//!
//! Knows what `remote::accept`, `remote::signing` and `kiln key` promise. The judge of keys and
//! signatures is minisign itself.

#[path = "support/fake.rs"]
#[expect(dead_code, reason = "shared with the engine's own tests")]
mod fake;
#[path = "support/space.rs"]
#[expect(dead_code, reason = "shared with the engine's own tests")]
mod space;

#[path = "trust/commands.rs"]
mod commands;
#[path = "trust/damage.rs"]
mod damage;
#[path = "trust/keys.rs"]
mod keys;
#[path = "trust/minisign.rs"]
mod minisign;
#[path = "trust/records.rs"]
mod records;
#[path = "trust/refused.rs"]
mod refused;
#[path = "trust/revoked.rs"]
mod revoked;
