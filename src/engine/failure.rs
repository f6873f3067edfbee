//! How a failed build is told: each step with its place in the recipe.

use std::sync::Arc;

use miette::{Diagnostic, LabeledSpan, NamedSource, SourceCode};

use crate::execute::{Fault, FaultKind};
use crate::files::FileError;
use crate::plan::Node;
use crate::source::Sources;
use crate::store::StoreError;

/// Why a build did not come to its end.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    /// Steps failed.
    #[error("{}", headline(steps, skipped))]
    Steps {
        /// The failures.
        steps: Vec<StepFailure>,
        /// The steps that did not run because of them, as `IMAGE/STEP`.
        skipped: Vec<String>,
    },
    /// The host cannot build.
    #[error(transparent)]
    Fault(Fault),
    /// The store.
    #[error(transparent)]
    Store(StoreError),
    /// A file of the host.
    #[error(transparent)]
    File(FileError),
    /// The user ended it.
    #[error("interrupted; what was finished stays cached")]
    Interrupted,
}

fn headline(steps: &[StepFailure], skipped: &[String]) -> String {
    let failed = match steps.len() {
        1 => "a step failed".to_owned(),
        count => format!("{count} steps failed"),
    };
    match skipped.len() {
        0 => failed,
        1 => format!("{failed}, and 1 did not run"),
        count => format!("{failed}, and {count} did not run"),
    }
}

impl BuildError {
    /// Who is at fault, which decides the exit code.
    #[must_use]
    pub fn kind(&self) -> FaultKind {
        match self {
            Self::Steps { steps, .. } => {
                let host = steps.iter().find(|step| step.fault.kind != FaultKind::Step);
                host.map_or(FaultKind::Step, |step| step.fault.kind)
            }
            Self::Fault(fault) => fault.kind,
            Self::Store(_) | Self::File(_) => FaultKind::Host,
            Self::Interrupted => FaultKind::Interrupted,
        }
    }
}

impl Diagnostic for BuildError {
    fn code<'a>(&'a self) -> Option<Box<dyn std::fmt::Display + 'a>> {
        match self {
            Self::Steps { .. } => Some(Box::new("kiln::engine::failed")),
            Self::Interrupted => Some(Box::new("kiln::engine::interrupted")),
            Self::Fault(fault) => fault.code(),
            Self::Store(error) => error.code(),
            Self::File(error) => error.code(),
        }
    }

    fn help<'a>(&'a self) -> Option<Box<dyn std::fmt::Display + 'a>> {
        match self {
            Self::Steps { .. } => {
                Some(Box::new("steps before a failed one are cached: the next build goes on there"))
            }
            Self::Interrupted => None,
            Self::Fault(fault) => fault.help(),
            Self::Store(error) => error.help(),
            Self::File(error) => error.help(),
        }
    }

    fn related<'a>(&'a self) -> Option<Box<dyn Iterator<Item = &'a dyn Diagnostic> + 'a>> {
        match self {
            Self::Steps { steps, .. } => {
                Some(Box::new(steps.iter().map(|step| step as &dyn Diagnostic)))
            }
            _ => None,
        }
    }
}

/// A step that failed, with its place in the recipe.
#[derive(Debug)]
pub struct StepFailure {
    name: Option<String>,
    fault: Fault,
    source: Option<NamedSource<Arc<str>>>,
    span: Option<miette::SourceSpan>,
}

impl StepFailure {
    /// Puts a fault and the place of its node together.
    #[must_use]
    pub fn new(node: Option<&Node>, fault: Fault, sources: &Sources) -> Self {
        Self {
            name: node.map(|node| node.name.clone()),
            fault,
            source: node.map(|node| sources.named(node.span.file)),
            span: node.map(|node| first_line(node, sources)),
        }
    }
}

/// The span of a node's first line: a long script is not repeated.
fn first_line(node: &Node, sources: &Sources) -> miette::SourceSpan {
    let text = sources.text(node.span);
    let len = text.find('\n').unwrap_or(text.len());
    (node.span.offset, len).into()
}

impl std::fmt::Display for StepFailure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match &self.name {
            Some(name) => write!(f, "{name}: {}", self.fault),
            None => self.fault.fmt(f),
        }
    }
}

impl std::error::Error for StepFailure {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.fault.source()
    }
}

impl Diagnostic for StepFailure {
    fn code<'a>(&'a self) -> Option<Box<dyn std::fmt::Display + 'a>> {
        self.fault.code()
    }

    fn help<'a>(&'a self) -> Option<Box<dyn std::fmt::Display + 'a>> {
        let printed =
            self.fault.code_text().is_some_and(|code| code.starts_with("kiln::execute::"));
        match (&self.name, self.fault.help()) {
            (Some(name), None) if printed => {
                Some(Box::new(format!("its whole output: `kiln log {name}`")))
            }
            (_, help) => help,
        }
    }

    fn source_code(&self) -> Option<&dyn SourceCode> {
        self.source.as_ref().map(|source| source as &dyn SourceCode)
    }

    fn labels(&self) -> Option<Box<dyn Iterator<Item = LabeledSpan> + '_>> {
        let span = self.span?;
        let label = LabeledSpan::new_with_span(Some("this step".to_owned()), span);
        Some(Box::new(std::iter::once(label)))
    }
}
