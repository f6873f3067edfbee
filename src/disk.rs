//! Virtual disks: extent tables, layers, the FUSE door, loop devices, partitions, mounts.

pub mod capture;
pub mod door;
pub mod fetching;
mod fstab;
pub mod ids;
pub mod import;
pub mod layer;
pub mod loops;
pub mod mounts;
pub mod overlay;
pub mod partitions;
pub mod places;
pub mod ranges;
pub mod state;
pub mod working;
