//! Finds the guest's own policy and reads it.
//!
//! It opens files below the guest's root and nowhere else; it does not know which file systems the
//! guest has.

use std::collections::HashSet;
use std::fmt;
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::BorrowedFd;

use rustix::fs::{Mode, OFlags, ResolveFlags};
use rustix::io::Errno;

use super::contexts::{
    ContextsError, FileKind, MAX_FILE, Specs, SpecsBuilder, customizable_types, type_of,
};
use super::matcher::{Expected, LookupError, Matcher};
use crate::digest::{Digest, Hasher};

const CONFIG: &str = "/etc/selinux/config";
/// Upstream's policy, which libselinux takes where the configuration names none.
const DEFAULT_TYPE: &str = "targeted";

/// Why a guest is not relabelled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NotApplicable {
    /// There is no `/etc/selinux/config`.
    NoConfig,
    /// It says `SELINUX=disabled`.
    Disabled,
    /// Neither `/usr/sbin/load_policy` nor a policy store is there.
    NoTools,
}

impl fmt::Display for NotApplicable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NoConfig => "the guest has no /etc/selinux/config",
            Self::Disabled => "/etc/selinux/config says SELINUX=disabled",
            Self::NoTools => "the guest has neither /usr/sbin/load_policy nor a policy store",
        })
    }
}

/// What was found in a guest.
#[derive(Debug)]
pub enum Found {
    /// Its policy.
    Policy(Box<Policy>),
    /// The guest does not use SELinux, and why.
    NotApplicable(NotApplicable),
}

/// Why the policy of an SELinux guest cannot be used.
#[derive(Debug, thiserror::Error, miette::Diagnostic)]
pub enum PolicyError {
    /// A file could not be read.
    #[error("cannot read {path} in the guest")]
    #[diagnostic(
        code(kiln::selinux::policy_io),
        help("the policy's files must be regular files that stay inside the guest")
    )]
    Io {
        /// The path in the guest.
        path: String,
        /// What the system said.
        source: io::Error,
    },
    /// `SELINUXTYPE` is not one component of a path.
    #[error("{CONFIG}: `{found}` is not the name of a policy")]
    #[diagnostic(
        code(kiln::selinux::policy_type),
        help("SELINUXTYPE is the name of a directory in /etc/selinux, such as `targeted`")
    )]
    Type {
        /// What stands there.
        found: String,
    },
    /// The policy that the configuration names is not there.
    #[error("the guest's policy `{policy}` has no {path}")]
    #[diagnostic(
        code(kiln::selinux::policy_missing),
        help("install the policy's package in the guest, or set SELINUX=disabled")
    )]
    Missing {
        /// `SELINUXTYPE`.
        policy: String,
        /// The path in the guest.
        path: String,
    },
    /// A file of the policy is not valid.
    #[error("the guest's policy `{policy}` is not valid")]
    #[diagnostic(code(kiln::selinux::policy_invalid), help("the cause names the line"))]
    Contexts {
        /// `SELINUXTYPE`.
        policy: String,
        /// Why.
        #[source]
        #[diagnostic_source]
        source: ContextsError,
    },
}

/// A guest's policy, as far as labels of files go. It may be used from many threads.
pub struct Policy {
    name: String,
    specs: Specs,
    matcher: Matcher,
    customizable: HashSet<Vec<u8>>,
    digest: Digest,
}

impl fmt::Debug for Policy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (specs, digest) = (self.specs.specs().len(), self.digest);
        f.debug_struct("Policy")
            .field("name", &self.name)
            .field("specs", &specs)
            .field("digest", &digest)
            .finish_non_exhaustive()
    }
}

impl Policy {
    /// Looks for a policy in a guest, given its root directory with its file systems mounted.
    ///
    /// # Errors
    /// An SELinux guest whose policy is missing or not valid.
    pub fn find(root: BorrowedFd<'_>) -> Result<Found, PolicyError> {
        let Some(config) = read(root, CONFIG)? else {
            return Ok(Found::NotApplicable(NotApplicable::NoConfig));
        };
        if is_disabled(&config) {
            return Ok(Found::NotApplicable(NotApplicable::Disabled));
        }
        let name = policy_type(&config)?;
        let tools = [
            "/usr/sbin/load_policy".to_owned(),
            "/sbin/load_policy".to_owned(),
            format!("/var/lib/selinux/{name}"),
            format!("/etc/selinux/{name}/policy"),
        ];
        let mut is_guest = false;
        for path in &tools {
            is_guest |= exists(root, path)?;
        }
        if !is_guest {
            return Ok(Found::NotApplicable(NotApplicable::NoTools));
        }
        Self::load(root, name, &config).map(|policy| Found::Policy(Box::new(policy)))
    }

    fn load(root: BorrowedFd<'_>, name: String, config: &[u8]) -> Result<Self, PolicyError> {
        let base = format!("/etc/selinux/{name}/contexts/files/file_contexts");
        let mut hasher = Hasher::new("kiln 2026 selinux policy v1");
        hasher.bytes(config);
        let mut take = |path: &str| {
            let bytes = read(root, path)?;
            hasher.bytes(path.as_bytes()).number(u64::from(bytes.is_some()));
            hasher.bytes(bytes.as_deref().unwrap_or_default());
            Ok(bytes)
        };
        let invalid =
            |source: ContextsError| PolicyError::Contexts { policy: name.clone(), source };
        let mut builder = SpecsBuilder::new();
        let Some(main) = take(&base)? else {
            return Err(PolicyError::Missing { policy: name, path: base });
        };
        builder.contexts(&base, &main).map_err(invalid)?;
        for ending in ["homedirs", "local"] {
            let path = format!("{base}.{ending}");
            if let Some(bytes) = take(&path)? {
                builder.contexts(&path, &bytes).map_err(invalid)?;
            }
        }
        for (ending, dist) in [("subs", false), ("subs_dist", true)] {
            let path = format!("{base}.{ending}");
            if let Some(bytes) = take(&path)? {
                builder.subs(&path, &bytes, dist).map_err(invalid)?;
            }
        }
        let path = format!("/etc/selinux/{name}/contexts/customizable_types");
        let types = take(&path)?.unwrap_or_default();
        let customizable = customizable_types(&path, &types).map_err(invalid)?;
        let specs = builder.finish();
        let matcher = Matcher::new(&specs).map_err(invalid)?;
        let digest = hasher.finish();
        Ok(Self { specs, matcher, customizable: customizable.into_iter().collect(), digest, name })
    }

    /// What the policy says of a path, absolute as in the running guest.
    ///
    /// # Errors
    /// A path that is none, and a match that costs too much.
    pub fn lookup(&self, path: &[u8], kind: FileKind) -> Result<Expected<'_>, LookupError> {
        self.matcher.lookup(&self.specs, path, kind)
    }

    /// Whether a stored context has a type that relabelling leaves alone.
    #[must_use]
    pub fn is_customizable(&self, stored: &[u8]) -> bool {
        type_of(stored).is_some_and(|kind| self.customizable.contains(kind))
    }

    /// Its specifications, for a second reading.
    #[must_use]
    pub fn specs(&self) -> &Specs {
        &self.specs
    }

    /// Its name: `SELINUXTYPE`.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Names the configuration and every file of the policy that was read, or was not there.
    #[must_use]
    pub fn digest(&self) -> Digest {
        self.digest
    }
}

/// Opens a path in the guest; its links stay inside. `None` if it is not there.
fn open(root: BorrowedFd<'_>, path: &str, flags: OFlags) -> Result<Option<File>, PolicyError> {
    let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
    match rustix::fs::openat2(root, path, flags | OFlags::CLOEXEC, Mode::empty(), resolve) {
        Ok(fd) => Ok(Some(fd.into())),
        Err(Errno::NOENT | Errno::NOTDIR) => Ok(None),
        Err(error) => Err(PolicyError::Io { path: path.to_owned(), source: error.into() }),
    }
}

fn exists(root: BorrowedFd<'_>, path: &str) -> Result<bool, PolicyError> {
    Ok(open(root, path, OFlags::PATH)?.is_some())
}

fn read(root: BorrowedFd<'_>, path: &str) -> Result<Option<Vec<u8>>, PolicyError> {
    // Without blocking: the guest may have put a fifo there.
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY;
    let Some(file) = open(root, path, flags)? else { return Ok(None) };
    let fault = |source| PolicyError::Io { path: path.to_owned(), source };
    if !file.metadata().map_err(fault)?.is_file() {
        return Err(fault(io::Error::other("it is not a regular file")));
    }
    let mut bytes = Vec::new();
    // One byte more than is allowed, so that the parser sees that there is more.
    file.take(MAX_FILE as u64 + 1).read_to_end(&mut bytes).map_err(fault)?;
    Ok(Some(bytes))
}

/// Whether the first line that says a mode says `disabled`, as libselinux reads it.
fn is_disabled(config: &[u8]) -> bool {
    config
        .split(|&byte| byte == b'\n')
        .filter_map(|line| line.strip_prefix(b"SELINUX="))
        .map(|value| value.trim_ascii_start().to_ascii_lowercase())
        .find_map(|value| {
            let modes: [(&[u8], bool); 3] =
                [(b"enforcing", false), (b"permissive", false), (b"disabled", true)];
            modes.iter().find(|(mode, _)| value.starts_with(mode)).map(|&(_, disabled)| disabled)
        })
        .unwrap_or(false)
}

/// The last `SELINUXTYPE`.
fn policy_type(config: &[u8]) -> Result<String, PolicyError> {
    const TAG: &[u8] = b"SELINUXTYPE=";
    let found = config
        .split(|&byte| byte == b'\n')
        .map(<[u8]>::trim_ascii_start)
        .filter(|line| line.len() >= TAG.len() && line[..TAG.len()].eq_ignore_ascii_case(TAG))
        .map(|line| line[TAG.len()..].trim_ascii())
        .next_back();
    let Some(found) = found else { return Ok(DEFAULT_TYPE.to_owned()) };
    let text = String::from_utf8_lossy(found).into_owned();
    let fits = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.+".contains(&byte);
    if found.is_empty() || found.len() > 255 || found[0] == b'.' || !found.iter().all(|&b| fits(b))
    {
        return Err(PolicyError::Type { found: text.escape_default().to_string() });
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::fd::AsFd;

    fn guest(files: &[(&str, &str)]) -> tempfile::TempDir {
        let root = tempfile::tempdir().unwrap();
        for (path, text) in files {
            let path = root.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        root
    }

    fn find(root: &tempfile::TempDir) -> Result<Found, PolicyError> {
        Policy::find(File::open(root.path()).unwrap().as_fd())
    }

    const FC: &str = "etc/selinux/default/contexts/files/file_contexts";
    const TYPES: &str = "etc/selinux/default/contexts/customizable_types";

    #[test]
    fn a_guest_without_selinux_is_told_apart() {
        let config = "etc/selinux/config";
        let cases: [(&[(&str, &str)], NotApplicable); 3] = [
            (&[("etc/hostname", "")], NotApplicable::NoConfig),
            (
                &[(config, "SELINUX=disabled\n"), ("usr/sbin/load_policy", "")],
                NotApplicable::Disabled,
            ),
            (&[(config, "#SELINUX=disabled\nSELINUX=enforcing\n")], NotApplicable::NoTools),
        ];
        for (files, expected) in cases {
            let Found::NotApplicable(why) = find(&guest(files)).unwrap() else {
                panic!("{files:?}")
            };
            assert_eq!(why, expected);
        }
    }

    #[test]
    fn a_policy_is_read_with_its_companions() {
        let mut files = vec![
            ("etc/selinux/config", "SELINUX=permissive\nSELINUXTYPE=default \n"),
            ("usr/sbin/load_policy", ""),
            (FC, "/home/.* u:r:base_t\n/x u:r:x_t\n"),
            (TYPES, "kept_t\n"),
        ];
        let Found::Policy(before) = find(&guest(&files)).unwrap() else { panic!() };
        let homedirs = format!("{FC}.homedirs");
        files.push((&homedirs, "/home/me u:r:home_t\n"));
        let Found::Policy(policy) = find(&guest(&files)).unwrap() else { panic!() };
        assert_eq!(policy.name(), "default");
        assert_ne!(policy.digest(), before.digest());
        assert!(policy.is_customizable(b"u:r:kept_t:s0\0"));
        assert!(!policy.is_customizable(b"kept_t"));
        let label = policy.lookup(b"/home/me", FileKind::Directory).unwrap();
        assert_eq!(label, Expected::Label(b"u:r:home_t"));
    }

    #[test]
    fn a_guest_cannot_lead_outside_or_hang() {
        let config = ("etc/selinux/config", "SELINUXTYPE=../../etc\n");
        let tools = ("usr/sbin/load_policy", "");
        assert!(matches!(find(&guest(&[config, tools])), Err(PolicyError::Type { .. })));
        let config = ("etc/selinux/config", "SELINUXTYPE=default\n");
        let root = guest(&[config, tools]);
        assert!(matches!(find(&root), Err(PolicyError::Missing { .. })));
        // The link's target exists outside, and not in the guest.
        let outside = guest(&[("fc", "/ u:r:t\n")]);
        let directory = root.path().join(FC);
        fs::create_dir_all(directory.parent().unwrap()).unwrap();
        std::os::unix::fs::symlink(outside.path().join("fc"), &directory).unwrap();
        assert!(matches!(find(&root), Err(PolicyError::Missing { .. })));
        fs::remove_file(&directory).unwrap();
        let mode = Mode::RUSR | Mode::WUSR;
        rustix::fs::mknodat(rustix::fs::CWD, &directory, rustix::fs::FileType::Fifo, mode, 0)
            .unwrap();
        assert!(matches!(find(&root), Err(PolicyError::Io { .. })));
    }
}
