//! The specifications of a policy: `file_contexts`, its companions, and its substitutions.
//!
//! It parses bytes; it does not know where they came from, and it matches nothing.
//!
//! The format is that of `selabel_file(5)`: lines of a regular expression, an optional file type
//! and a context, in ASCII, separated by white space; `#` starts a comment line.

use std::collections::HashMap;
use std::fmt;

/// Longest file of a policy that is read, in bytes. (Debian's `file_contexts` has 0.4 MB.)
pub const MAX_FILE: usize = 16 << 20;
/// Longest line in bytes.
pub const MAX_LINE: usize = 16 << 10;
/// Longest regular expression in bytes, as in libselinux 3.9.
pub const MAX_REGEX: usize = 4095;
/// Longest context in bytes, less its final NUL.
pub const MAX_CONTEXT: usize = 4095;
/// Most specifications in a policy. (Debian's has 6,000.)
pub const MAX_SPECS: usize = 200_000;
/// Bytes that all regular expressions of a policy may take when they are compiled, as estimated from
/// their lengths and counted repeats. (Debian's take 0.2 MB.)
pub const MAX_COMPILED: usize = 64 << 20;
/// What PCRE2 allows one compiled regular expression.
const MAX_COMPILED_REGEX: usize = 64 << 10;
/// Longest line of a file of substitutions in bytes: libselinux reads them in pieces of this size.
pub const MAX_SUB_LINE: usize = 1022;
/// Most substitutions in a file.
pub const MAX_SUBS: usize = 10_000;

/// What an inode is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum FileKind {
    /// `--`
    Regular,
    /// `-d`
    Directory,
    /// `-l`
    Symlink,
    /// `-c`
    CharDevice,
    /// `-b`
    BlockDevice,
    /// `-p`
    Fifo,
    /// `-s`
    Socket,
}

impl FileKind {
    /// Every kind.
    pub const ALL: [Self; 7] = [
        Self::Regular,
        Self::Directory,
        Self::Symlink,
        Self::CharDevice,
        Self::BlockDevice,
        Self::Fifo,
        Self::Socket,
    ];

    /// The kind in an inode's mode (`st_mode`); `None` for one that Linux does not have.
    #[must_use]
    pub const fn from_mode(mode: u32) -> Option<Self> {
        Some(match mode & 0o170_000 {
            0o100_000 => Self::Regular,
            0o040_000 => Self::Directory,
            0o120_000 => Self::Symlink,
            0o020_000 => Self::CharDevice,
            0o060_000 => Self::BlockDevice,
            0o010_000 => Self::Fifo,
            0o140_000 => Self::Socket,
            _ => return None,
        })
    }

    /// The bits of `st_mode` that say this kind.
    #[must_use]
    pub const fn mode(self) -> u32 {
        match self {
            Self::Regular => 0o100_000,
            Self::Directory => 0o040_000,
            Self::Symlink => 0o120_000,
            Self::CharDevice => 0o020_000,
            Self::BlockDevice => 0o060_000,
            Self::Fifo => 0o010_000,
            Self::Socket => 0o140_000,
        }
    }

    fn from_field(field: &str) -> Option<Self> {
        Some(match field {
            "--" => Self::Regular,
            "-d" => Self::Directory,
            "-l" => Self::Symlink,
            "-c" => Self::CharDevice,
            "-b" => Self::BlockDevice,
            "-p" => Self::Fifo,
            "-s" => Self::Socket,
            _ => return None,
        })
    }
}

/// A line of a file of the policy, shown as `file:line`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// Path of the file in the guest.
    pub file: String,
    /// Number of the line, from 1.
    pub line: u32,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.file, self.line)
    }
}

/// Why a file of the policy cannot be used.
#[derive(Debug, thiserror::Error, miette::Diagnostic)]
pub enum ContextsError {
    /// The file is larger than [`MAX_FILE`].
    #[error("{file} is larger than {MAX_FILE} bytes")]
    #[diagnostic(code(kiln::selinux::contexts_too_large), help("no real policy is this large"))]
    TooLarge {
        /// Path of the file in the guest.
        file: String,
    },
    /// More specifications than [`MAX_SPECS`], substitutions than [`MAX_SUBS`], or compiled bytes than
    /// [`MAX_COMPILED`].
    #[error("{place}: the policy has too many entries, or too many counted repeats in them")]
    #[diagnostic(code(kiln::selinux::contexts_too_many), help("no real policy has this many"))]
    TooMany {
        /// The first line too many.
        place: Place,
    },
    /// A line, a regular expression or a context above its limit.
    #[error("{place}: {what} is longer than {limit} bytes")]
    #[diagnostic(
        code(kiln::selinux::contexts_too_long),
        help("remove the line from the guest's policy")
    )]
    TooLong {
        /// The line.
        place: Place,
        /// What is too long.
        what: &'static str,
        /// The limit in bytes.
        limit: usize,
    },
    /// A byte outside ASCII, or NUL, in a field.
    #[error("{place}: a field holds a byte that is not ASCII text")]
    #[diagnostic(
        code(kiln::selinux::contexts_not_ascii),
        help("libselinux refuses such a line too; correct the guest's policy")
    )]
    NotAscii {
        /// The line.
        place: Place,
    },
    /// A line with a regular expression and nothing else.
    #[error("{place}: the context is missing")]
    #[diagnostic(
        code(kiln::selinux::contexts_missing_field),
        help("a line is: regular expression, optional file type, context")
    )]
    MissingField {
        /// The line.
        place: Place,
    },
    /// A file type that is none.
    #[error("{place}: `{found}` is not a file type")]
    #[diagnostic(
        code(kiln::selinux::contexts_bad_type),
        help("it is one of --, -d, -l, -c, -b, -p and -s")
    )]
    BadType {
        /// The line.
        place: Place,
        /// What stands there.
        found: String,
    },
    /// A context without user, role and type.
    #[error("{place}: `{found}` is not a context")]
    #[diagnostic(
        code(kiln::selinux::contexts_bad_context),
        help(
            "a context is user:role:type, with a :range where the policy has levels, or <<none>>"
        )
    )]
    BadContext {
        /// The line.
        place: Place,
        /// What stands there.
        found: String,
    },
    /// A regular expression that PCRE2 does not compile.
    #[error("{place}: the regular expression is not valid")]
    #[diagnostic(
        code(kiln::selinux::contexts_bad_regex),
        help(
            "libselinux fails at the first file for which it tries this line; correct the guest's policy"
        )
    )]
    BadRegex {
        /// The line.
        place: Place,
        /// What PCRE2 says.
        source: pcre2::Error,
    },
}

/// One line: which paths, of which kind, have which context.
#[derive(Debug, Clone)]
pub struct Spec {
    /// The regular expression, in ASCII and without its anchors.
    pub regex: String,
    /// Only inodes of this kind, if any is named.
    pub kind: Option<FileKind>,
    /// Number of the context in [`Specs::contexts`]; `None` for `<<none>>`.
    pub context: Option<u32>,
    /// Whether it is a path without metacharacters, as libselinux counts them.
    pub exact: bool,
    file: u32,
    line: u32,
}

impl Spec {
    /// The first directory of the specification as it is written, without its final `/`: libselinux
    /// tries a specification with such a stem only for paths whose first directory is written the
    /// same, escapes included.
    #[must_use]
    pub fn stem(&self) -> Option<&str> {
        let end = 1 + self.regex.get(1..)?.find('/')?;
        let stem = &self.regex[..end];
        (!stem.contains(['.', '^', '$', '?', '*', '+', '|', '[', '(', '{'])).then_some(stem)
    }
}

/// An alias: paths at or below `from` are looked up as if they were at or below `to`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sub {
    /// The path as it is on disk.
    pub from: Vec<u8>,
    /// The path that is looked up.
    pub to: Vec<u8>,
}

/// All specifications and substitutions of a policy.
#[derive(Debug, Default)]
pub struct Specs {
    lines: Vec<Spec>,
    contexts: Vec<Vec<u8>>,
    files: Vec<String>,
    /// Of `file_contexts.subs`; the first that fits is applied.
    pub subs: Vec<Sub>,
    /// Of `file_contexts.subs_dist`; applied to what the others gave.
    pub subs_dist: Vec<Sub>,
}

impl Specs {
    /// The specifications by precedence: the *last* that matches decides.
    ///
    /// Exact paths stand behind regular expressions, both in the order in which they were read.
    #[must_use]
    pub fn specs(&self) -> &[Spec] {
        &self.lines
    }

    /// A context by its number, without a final NUL.
    ///
    /// # Panics
    /// If the number is from another policy.
    #[must_use]
    pub fn context(&self, number: u32) -> &[u8] {
        &self.contexts[number as usize]
    }

    /// Where a specification was read.
    #[must_use]
    pub fn place(&self, spec: &Spec) -> Place {
        Place { file: self.files[spec.file as usize].clone(), line: spec.line }
    }
}

/// Reads the files of a policy, in the order in which libselinux does: `file_contexts`,
/// `.homedirs`, `.local`.
#[derive(Debug, Default)]
pub struct SpecsBuilder {
    specs: Specs,
    numbers: HashMap<Vec<u8>, u32>,
    compiled: usize,
}

impl SpecsBuilder {
    /// Starts without any.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a file of contexts; `file` is its path as shown in errors.
    ///
    /// RHEL 6's `vdagentd.\pid`, which PCRE2 takes for a malformed property, is read as
    /// `vdagentd\.pid`, as virt-customize does (RHBZ 1374232).
    ///
    /// # Errors
    /// A file above the limits, or a line that libselinux does not read either.
    pub fn contexts(&mut self, file: &str, bytes: &[u8]) -> Result<&mut Self, ContextsError> {
        let number = self.file(file, bytes)?;
        for (line, text) in (1..).zip(bytes.split(|&byte| byte == b'\n')) {
            let place = || Place { file: file.to_owned(), line };
            let Some(fields) = fields::<3>(text, MAX_LINE, place)? else { continue };
            let (regex, kind, context) = match fields {
                [Some(regex), Some(kind), Some(context)] => (regex, Some(kind), context),
                [Some(regex), Some(context), None] => (regex, None, context),
                _ => return Err(ContextsError::MissingField { place: place() }),
            };
            let regex = ascii(regex, "the regular expression", MAX_REGEX, place)?;
            let context = ascii(context, "the context", MAX_CONTEXT, place)?;
            let kind = match kind {
                None => None,
                Some(kind) => {
                    let kind = ascii(kind, "the file type", MAX_LINE, place)?;
                    let fault = || ContextsError::BadType { place: place(), found: kind.into() };
                    Some(FileKind::from_field(kind).ok_or_else(fault)?)
                }
            };
            if self.specs.lines.len() == MAX_SPECS {
                return Err(ContextsError::TooMany { place: place() });
            }
            let context = match context {
                "<<none>>" => None,
                text if is_context(text) => Some(self.number(text)),
                text => {
                    return Err(ContextsError::BadContext { place: place(), found: text.into() });
                }
            };
            let regex = regex.replace(r"vdagentd.\pid", r"vdagentd\.pid");
            self.compiled += compiled_size(&regex);
            if self.compiled > MAX_COMPILED {
                return Err(ContextsError::TooMany { place: place() });
            }
            let exact = is_exact(&regex);
            self.specs.lines.push(Spec { regex, kind, context, exact, file: number, line });
        }
        Ok(self)
    }

    /// Adds `file_contexts.subs`, or with `dist` `file_contexts.subs_dist`.
    ///
    /// # Errors
    /// A file above the limits.
    pub fn subs(
        &mut self,
        file: &str,
        bytes: &[u8],
        dist: bool,
    ) -> Result<&mut Self, ContextsError> {
        self.file(file, bytes)?;
        let subs = if dist { &mut self.specs.subs_dist } else { &mut self.specs.subs };
        for (line, text) in (1..).zip(bytes.split(|&byte| byte == b'\n')) {
            let place = || Place { file: file.to_owned(), line };
            // A line with one field says nothing and is no error: so libselinux reads it.
            let Some([Some(from), Some(to)]) = fields::<2>(text, MAX_SUB_LINE, place)? else {
                continue;
            };
            if subs.len() == MAX_SUBS {
                return Err(ContextsError::TooMany { place: place() });
            }
            if from.contains(&0) || to.contains(&0) {
                return Err(ContextsError::NotAscii { place: place() });
            }
            subs.push(Sub { from: from.to_vec(), to: to.to_vec() });
        }
        // The last line that fits decides.
        subs.reverse();
        Ok(self)
    }

    /// All that was read, by precedence.
    #[must_use]
    pub fn finish(mut self) -> Specs {
        self.specs.lines.sort_by_key(|spec| spec.exact);
        self.specs
    }

    fn file(&mut self, file: &str, bytes: &[u8]) -> Result<u32, ContextsError> {
        if bytes.len() > MAX_FILE {
            return Err(ContextsError::TooLarge { file: file.to_owned() });
        }
        self.specs.files.push(file.to_owned());
        Ok(u32::try_from(self.specs.files.len() - 1).unwrap_or(u32::MAX))
    }

    fn number(&mut self, context: &str) -> u32 {
        let contexts = &mut self.specs.contexts;
        // There are at most MAX_SPECS contexts.
        let next = u32::try_from(contexts.len()).unwrap_or(u32::MAX);
        *self.numbers.entry(context.into()).or_insert_with(|| {
            contexts.push(context.into());
            next
        })
    }
}

/// White space of the C locale.
const fn is_space(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t' | b'\n' | 0x0b | 0x0c | b'\r')
}

/// The first `N` fields of a line; `None` for an empty line or a comment.
fn fields<const N: usize>(
    line: &[u8],
    limit: usize,
    place: impl Fn() -> Place,
) -> Result<Option<[Option<&[u8]>; N]>, ContextsError> {
    if line.len() > limit {
        return Err(ContextsError::TooLong { place: place(), what: "the line", limit });
    }
    let mut parts = line.split(|&byte| is_space(byte)).filter(|part| !part.is_empty());
    let fields = std::array::from_fn(|_| parts.next());
    Ok(match fields[0] {
        None => None,
        Some(first) if first.starts_with(b"#") => None,
        Some(_) => Some(fields),
    })
}

fn ascii<'a>(
    field: &'a [u8],
    what: &'static str,
    limit: usize,
    place: impl Fn() -> Place,
) -> Result<&'a str, ContextsError> {
    if field.len() > limit {
        return Err(ContextsError::TooLong { place: place(), what, limit });
    }
    match std::str::from_utf8(field) {
        Ok(text) if text.is_ascii() && !text.contains('\0') => Ok(text),
        _ => Err(ContextsError::NotAscii { place: place() }),
    }
}

fn is_context(text: &str) -> bool {
    let mut parts = text.splitn(4, ':');
    (0..3).all(|_| parts.next().is_some_and(|part| !part.is_empty())) && parts.next() != Some("")
}

/// Whether libselinux counts a regular expression as a path without metacharacters.
fn is_exact(regex: &str) -> bool {
    let mut bytes = regex.bytes();
    while let Some(byte) = bytes.next() {
        match byte {
            b'.' | b'^' | b'$' | b'?' | b'*' | b'+' | b'|' | b'[' | b'(' | b'{' => return false,
            b'\\' => {
                bytes.next();
            }
            _ => {}
        }
    }
    true
}

/// At most how large a regular expression becomes: each counted repeat may copy all of it.
fn compiled_size(regex: &str) -> usize {
    let counts = regex.split('{').skip(1).map(|text| {
        let inside = text.split('}').next().unwrap_or_default();
        inside.split(',').filter_map(|n| n.trim().parse::<usize>().ok()).max().unwrap_or(1).max(1)
    });
    counts.fold(regex.len(), usize::saturating_mul).min(MAX_COMPILED_REGEX)
}

/// The types of a `customizable_types` file, one a line.
///
/// # Errors
/// A file above the limits.
pub fn customizable_types(file: &str, bytes: &[u8]) -> Result<Vec<Vec<u8>>, ContextsError> {
    if bytes.len() > MAX_FILE {
        return Err(ContextsError::TooLarge { file: file.to_owned() });
    }
    let lines = bytes.split(|&byte| byte == b'\n');
    Ok(lines.map(<[u8]>::trim_ascii).filter(|line| !line.is_empty()).map(<[u8]>::to_vec).collect())
}

/// The type in a context as it is stored on disk; `None` if there is none.
#[must_use]
pub fn type_of(context: &[u8]) -> Option<&[u8]> {
    let context = context.strip_suffix(b"\0").unwrap_or(context);
    context.split(|&byte| byte == b':').nth(2)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn parse(text: &str) -> Result<Specs, ContextsError> {
        let mut builder = SpecsBuilder::new();
        builder.contexts("fc", text.as_bytes())?;
        Ok(builder.finish())
    }

    #[test]
    fn exact_paths_stand_behind_regular_expressions() {
        let specs = parse(
            "# comment\n\n/a/b u:r:b_t:s0\n/a(/.*)?\t-d\tu:r:a_t:s0\n /a\\.c -- <<none>> more\n",
        )
        .unwrap();
        let order: Vec<_> = specs.specs().iter().map(|spec| spec.regex.as_str()).collect();
        assert_eq!(order, ["/a(/.*)?", "/a/b", "/a\\.c"]);
        assert_eq!(specs.specs()[0].kind, Some(FileKind::Directory));
        assert_eq!(specs.specs()[2].context, None);
        assert_eq!(specs.place(&specs.specs()[2]).to_string(), "fc:5");
        assert_eq!(specs.context(specs.specs()[1].context.unwrap()), b"u:r:b_t:s0");
    }

    #[test]
    fn bad_lines_are_named() {
        for text in
            ["/a", "/a -x u:r:t", "/a u:r", "/a u::t", "/ä u:r:t", "/a u:r:t:", "/a\0 u:r:t"]
        {
            let error = parse(&format!("#\n{text}\n")).unwrap_err().to_string();
            assert!(error.starts_with("fc:2: "), "{text}: {error}");
        }
        let long = format!("/{} u:r:t", "a".repeat(MAX_REGEX));
        assert!(parse(&long).unwrap_err().to_string().contains("longer than 4095"));
    }

    #[test]
    fn counted_repeats_cannot_fill_the_memory() {
        assert_eq!(compiled_size("/a{2,3}{,4}{x"), 13 * 12);
        let error = parse(&"/(a{200}){200} u:r:t\n".repeat(2000)).unwrap_err();
        assert!(matches!(error, ContextsError::TooMany { .. }), "{error}");
    }

    #[test]
    fn the_malformed_regex_of_rhel6_is_read() {
        let specs = parse("/var/run/vdagentd.\\pid -- u:r:t\n").unwrap();
        assert_eq!(specs.specs()[0].regex, "/var/run/vdagentd\\.pid");
    }

    #[test]
    fn the_last_substitution_stands_first() {
        let mut builder = SpecsBuilder::new();
        builder.subs("s", b"/a /b\n#/x /y\n/alone\n /a  /c trailing\n", false).unwrap();
        let subs = builder.finish().subs;
        assert_eq!(subs[0], Sub { from: b"/a".to_vec(), to: b"/c".to_vec() });
        assert_eq!(subs.len(), 2);
    }

    #[test]
    fn stems_are_kept_as_written() {
        let stem = |regex: &str| {
            let specs = parse(&format!("{regex} u:r:t")).unwrap();
            specs.specs()[0].stem().map(str::to_owned)
        };
        assert_eq!(stem("/usr/bin/x").as_deref(), Some("/usr"));
        assert_eq!(stem("/a\\-d/x").as_deref(), Some("/a\\-d"));
        assert_eq!(stem("/lost\\+found/.*"), None);
        assert_eq!(stem("/a\\.d/x"), None);
        assert_eq!(stem("/x"), None);
        assert_eq!(stem("x"), None);
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(bytes: Vec<u8>) {
            let mut builder = SpecsBuilder::new();
            let _ = builder.contexts("fc", &bytes);
            let _ = builder.subs("subs", &bytes, true);
            let _ = customizable_types("types", &bytes);
            let _ = type_of(&bytes);
        }
    }
}
