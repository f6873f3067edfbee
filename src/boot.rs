//! Booted machines: what they are told of who they are, and whether what they showed is what a boot
//! must show.
//!
//! All of it is data. Who starts machines is `execute`'s, who watches them `engine`'s.

mod console;
mod instance;
mod judge;
mod service;

pub use console::Console;
pub use instance::Instance;
pub use judge::{Facts, KEY, Labels, Login, Observed, Ran, Subject, checks, judge};
pub use service::serve;

/// The address at which every cloud of `OpenStack` and EC2 serves metadata.
pub const SERVICE_ADDRESS: &str = "169.254.169.254";
