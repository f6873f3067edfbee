//! Results that travel in one file: to a site without a network, and back.
//!
//! An export gives what a store has to a file as a build gives it to a remote, signed by whoever
//! exports. An import believes of a file what a build believes of a remote, and reads all of it at
//! once: afterwards the file is not needed any more. Neither needs a recipe.

mod export;
mod import;

use std::path::PathBuf;
use std::time::Duration;

use crate::files::FileError;
use crate::name::ImageName;
use crate::remote::BundleError;
use crate::remote::fetcher::FetchError;
use crate::remote::signing::SigningError;
use crate::store::StoreError;

pub use export::Export;
pub use import::{Import, Imported, Told};

/// A result that went into a bundle, or came out of one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Moved {
    /// `IMAGE/STEP` where that is known, else the start of the action's key. Nothing else is made of
    /// it than a line for people.
    pub name: String,
    /// Bytes that it took in the bundle, packed: what other results brought is not counted again.
    pub bytes: u64,
    /// How long it took.
    pub took: Duration,
}

/// Why there is no bundle.
#[derive(Debug, thiserror::Error, miette::Diagnostic)]
pub enum ExportError {
    /// A file of that name is there.
    #[error("`{}` is there already", path.display())]
    #[diagnostic(code(kiln::bundle::exists), help("write over it with `--force`"))]
    Exists {
        /// The file.
        path: PathBuf,
    },
    /// An image was not built here, or what was built is gone or does not count any more.
    #[error("there is no build of the image `{image}` here")]
    #[diagnostic(
        code(kiln::bundle::not_built),
        help("build it first; `kiln cache ls` lists what is there")
    )]
    NotBuilt {
        /// The image.
        image: ImageName,
    },
    /// There is nothing at all.
    #[error("the store has no result to export")]
    #[diagnostic(code(kiln::bundle::empty), help("build something first"))]
    Empty,
    /// A layer is elsewhere.
    #[error("a layer of {name} is not here, and could not be fetched")]
    #[diagnostic(
        code(kiln::bundle::no_layer),
        help(
            "no bundle was written; let it be fetched, without `--offline` and from the remote that \
             it came from, or export another image"
        )
    )]
    Layer {
        /// `IMAGE/STEP`.
        name: String,
        /// What went wrong.
        source: FetchError,
    },
    /// There is nobody to give results to.
    #[error("no remote of `kiln.kdl` takes results")]
    #[diagnostic(
        code(kiln::bundle::no_remote),
        help("write one there, `remote \"team\" \"…\"`, without `read-only`; it must answer, too")
    )]
    NoRemote,
    /// A result cannot be packed.
    #[error("{name} could not be exported")]
    #[diagnostic(
        code(kiln::bundle::not_exported),
        help("what comes behind it was not exported either; the cause stands above")
    )]
    Result {
        /// `IMAGE/STEP`.
        name: String,
        /// What went wrong.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The user wants the end.
    #[error("interrupted; no bundle was written")]
    #[diagnostic(code(kiln::bundle::export_interrupted))]
    Interrupted,
    /// It cannot be signed.
    #[error(transparent)]
    #[diagnostic(transparent)]
    Signing(#[from] SigningError),
    /// The store.
    #[error(transparent)]
    #[diagnostic(transparent)]
    Store(#[from] StoreError),
    /// The bundle's file, or one of the store.
    #[error(transparent)]
    #[diagnostic(transparent)]
    File(#[from] FileError),
}

/// Why a bundle, or a part of it, was not taken over.
#[derive(Debug, thiserror::Error, miette::Diagnostic)]
pub enum ImportError {
    /// It is no whole bundle.
    #[error(transparent)]
    #[diagnostic(transparent)]
    Bundle(#[from] BundleError),
    /// Nothing in it counts.
    #[error("nothing in `{}` counts in this workspace", path.display())]
    #[diagnostic(
        code(kiln::bundle::nothing),
        help(
            "`kiln.kdl` must list the key that signed it, which `kiln key trust` does, and have the \
             same `namespace` as where it was made"
        )
    )]
    Nothing {
        /// The bundle.
        path: PathBuf,
    },
    /// Some of what counts is not what was signed.
    #[error("{results} of the results in `{}` are damaged", path.display())]
    #[diagnostic(
        code(kiln::bundle::damaged),
        help(
            "nothing of them was used, and all others were taken; copy it again, and import it again"
        )
    )]
    Damaged {
        /// The bundle.
        path: PathBuf,
        /// How many.
        results: usize,
    },
    /// The user wants the end.
    #[error("interrupted; what was imported stays")]
    #[diagnostic(code(kiln::bundle::import_interrupted), help("import it again to go on"))]
    Interrupted,
    /// The store.
    #[error(transparent)]
    #[diagnostic(transparent)]
    Store(#[from] StoreError),
    /// A file of the store.
    #[error(transparent)]
    #[diagnostic(transparent)]
    File(#[from] FileError),
}
