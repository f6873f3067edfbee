//! Operations on a mounted guest: what kiln learns from a guest's tree and does to it.
//!
//! It knows directories and files, not disks: how the tree got mounted, and who runs a guest's
//! programs, is the executor's business.

pub mod apply;
pub mod architecture;
pub mod copy;
pub mod edit;
pub mod error;
pub mod files;
pub mod firstboot;
pub mod hostname;
pub mod inspect;
pub mod installed;
pub mod packages;
pub mod password;
pub mod program;
pub mod root;
pub mod scrub;
pub mod selinux;
pub mod ssh;
pub mod tar_in;
pub mod timezone;
pub mod users;

pub use apply::apply;
pub use error::GuestError;
pub use inspect::Guest;
pub use program::{Program, Snapshot, program_for};
pub use root::GuestRoot;
pub use scrub::{DiskFacts, ScrubReport, scrub};
