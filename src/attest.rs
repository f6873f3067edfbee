//! What is said about a state for others than kiln: its packages, and how it came to be.
//!
//! Both are documents in the forms that other tools read, are objects of the store of their own, and
//! travel with a result. They are made of what a result has anyway, and say the same whenever they
//! are made: no random number and no clock is in them. Nothing in kiln reads them back to decide
//! anything.

pub mod packages;
pub mod provenance;
