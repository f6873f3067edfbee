//! kiln, a declarative build engine for virtual-machine disk images.
//!
//! # The life of a step
//!
//! The modules are the verbs of a step's way. They stand here in groups, in its order: a module uses
//! only its own group and those above it, and `cli` uses them all.
//!
//! ```text
//! text ─parse→ KDL tree ─lower→ Recipe ─graph→ BuildGraph ─key→ Action ─plan→ hit | run(reason)
//!      ─schedule→ lanes ─execute→ dirty disk ─capture→ layer ─store→ result ─output→ the user's file
//! ```
//!
//! A recipe's words are [`name`]s and [`recipe`] types; [`parse`] and [`lower`] make them of text,
//! [`graph`] gives them an order, and [`workspace`] does all of that for a directory. [`import`] makes recipes of what other
//! tools read. [`inputs`] are
//! hashed, and [`key`] makes of a step with nothing left to look up its identity; [`explain`] tells
//! two of them apart; a [`secret`] is in it by name only. The [`store`] keeps bytes and results under such ids, a [`disk`] is made of
//! stored layers and what is written over them, and [`guest`] knows what lies on one. [`execute`]
//! performs tasks on a disk, [`seal`] ends it. [`plan`] decides, [`schedule`] orders, and [`engine`]
//! makes it true, telling [`progress`]; [`output`] is what the user gets.

// Words.
pub mod causes;
pub mod compression;
pub mod digest;
pub mod environment;
pub mod expression;
pub mod files;
pub mod host;
pub mod link;
pub mod mistake;
pub mod name;
pub mod seed;
pub mod source;
pub mod sys;
mod wire;
pub mod yaml;

// Text to meaning.
pub mod graph;
pub mod import;
pub mod lock;
pub mod lower;
pub mod parse;
pub mod recipe;
pub mod workspace;

// Identity.
pub mod explain;
pub mod inputs;
pub mod key;
pub mod secret;

// Bytes.
pub mod disk;
pub mod fetch;
pub mod openstack;
pub mod pack;
pub mod remote;
pub mod resolve;
pub mod store;

// Doing.
pub mod attest;
pub mod audit;
pub mod boot;
pub mod execute;
pub mod guest;
pub mod seal;

// What users of images are given.
pub mod advise;
pub mod heat;
pub mod user_data;

// The build.
pub mod engine;
pub mod output;
pub mod plan;
pub mod progress;
pub mod publish;
pub mod schedule;

// The user.
pub mod cli;
