//! Where a text came from: files of a workspace, and spans in them.
//!
//! Every value of a recipe carries a [`Span`], so that no error is without a place.

use std::path::PathBuf;
use std::sync::Arc;

/// A file of the workspace, by its number in [`Sources`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FileId(pub u32);

/// A range of bytes in one source file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Span {
    /// The file.
    pub file: FileId,
    /// First byte.
    pub offset: usize,
    /// Number of bytes.
    pub len: usize,
}

impl Span {
    /// From the start of this one to the end of a later one of the same file; this one alone if the
    /// other is of another file, or before it.
    #[must_use]
    pub fn to(self, end: Self) -> Self {
        if self.file != end.file || end.offset < self.offset {
            return self;
        }
        Self { len: (end.offset + end.len - self.offset).max(self.len), ..self }
    }
}

impl From<Span> for miette::SourceSpan {
    fn from(span: Span) -> Self {
        (span.offset, span.len).into()
    }
}

/// A value and the place where it was written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Spanned<T> {
    /// What was written.
    pub value: T,
    /// Where.
    pub span: Span,
}

/// One source file: its path as shown to people, and its text.
#[derive(Debug, Clone)]
pub struct SourceFile {
    /// Path relative to the workspace root, or as given.
    pub path: PathBuf,
    /// The whole text.
    pub text: Arc<str>,
}

/// All source files of a run, in the order in which they were read.
#[derive(Debug, Clone, Default)]
pub struct Sources {
    files: Vec<SourceFile>,
}

impl Sources {
    /// Adds a file and gives its number.
    ///
    /// # Panics
    /// Past 2³² files, which the workspace's own limit excludes.
    pub fn add(&mut self, path: PathBuf, text: impl Into<Arc<str>>) -> FileId {
        let id = FileId(u32::try_from(self.files.len()).expect("fewer than 2^32 source files"));
        self.files.push(SourceFile { path, text: text.into() });
        id
    }

    /// The file with that number.
    ///
    /// # Panics
    /// If the number is from another `Sources`.
    #[must_use]
    pub fn file(&self, id: FileId) -> &SourceFile {
        &self.files[id.0 as usize]
    }

    /// The text that a span covers.
    #[must_use]
    pub fn text(&self, span: Span) -> &str {
        let text = &self.file(span.file).text;
        text.get(span.offset..span.offset + span.len).unwrap_or_default()
    }

    /// Path and line of a span, such as `recipes/web.kdl:12`.
    #[must_use]
    pub fn place(&self, span: Span) -> String {
        let file = self.file(span.file);
        let before = &file.text.as_bytes()[..span.offset.min(file.text.len())];
        let line = before.split(|&byte| byte == b'\n').count();
        format!("{}:{line}", file.path.display())
    }

    /// A file as miette shows it in a report.
    #[must_use]
    pub fn named(&self, id: FileId) -> miette::NamedSource<Arc<str>> {
        let file = self.file(id);
        miette::NamedSource::new(file.path.to_string_lossy(), Arc::clone(&file.text))
    }
}
