//! What can go wrong with a guest, each with its place in the guest, its cause and what to do.
//!
//! It does not know which step of which recipe asked; the engine adds that.

use std::fmt::Write as _;
use std::io;
use std::path::Path;

use rustix::io::Errno;

/// An operation on a guest that could not be done. Nothing is retried by the caller.
#[derive(Debug, thiserror::Error, miette::Diagnostic)]
pub enum GuestError {
    /// The kernel refused an operation on a path of the guest.
    #[error("cannot {operation} `{path}` in the guest")]
    #[diagnostic(code("kiln::guest::path"))]
    Path {
        /// What was tried, as a verb: `open`, `remove`.
        operation: &'static str,
        /// The path in the guest, with control characters escaped.
        path: String,
        /// The kernel's answer.
        source: io::Error,
        /// What to do, where the answer alone does not say it.
        #[help]
        help: Option<&'static str>,
    },
    /// Something else than the operation works on: a FIFO where a file is expected.
    #[error("cannot {operation} `{path}` in the guest: it is {found}, not {expected}")]
    #[diagnostic(code("kiln::guest::type"))]
    Type {
        /// What was tried, as a verb.
        operation: &'static str,
        /// The path in the guest.
        path: String,
        /// What is there, such as `a directory`.
        found: &'static str,
        /// What the operation works on, such as `a regular file`.
        expected: &'static str,
    },
    /// A file that kiln reads whole is too large to be what its name says.
    #[error("`{path}` in the guest is larger than {limit} bytes")]
    #[diagnostic(
        code("kiln::guest::too_large"),
        help("kiln reads such a file whole; one of this size is damaged or hostile")
    )]
    TooLarge {
        /// The path in the guest.
        path: String,
        /// The limit in bytes.
        limit: u64,
    },
    /// A tree that was to be removed or changed holds the mount point of another file system.
    #[error("cannot {operation} `{path}` in the guest: another file system is mounted there")]
    #[diagnostic(
        code("kiln::guest::other_mount"),
        help(
            "name the paths inside the mounted file system; a tree is never left through a mount"
        )
    )]
    OtherMount {
        /// What was tried, as a verb.
        operation: &'static str,
        /// The mount point in the guest.
        path: String,
    },
    /// The operation works on something in a directory, and `/` is in none.
    #[error("cannot {operation} the root directory of the guest")]
    #[diagnostic(code("kiln::guest::root_directory"), help("name what is in it"))]
    RootDirectory {
        /// What was tried, as a verb.
        operation: &'static str,
    },
    /// A private copy of a workspace file, on the host, could not be read.
    #[error("cannot {operation} `{path}`, kiln's copy of a workspace file")]
    #[diagnostic(code("kiln::guest::snapshot"))]
    Snapshot {
        /// What was tried, as a verb.
        operation: &'static str,
        /// The path on the host.
        path: String,
        /// The cause.
        source: io::Error,
    },
    /// A workspace tree holds something that cannot be carried into a guest.
    #[error(
        "`{path}` of the workspace is {found}; only files, directories and symbolic links can be copied"
    )]
    #[diagnostic(
        code("kiln::guest::snapshot_type"),
        help("take it out of the tree that is copied")
    )]
    SnapshotType {
        /// The path on the host.
        path: String,
        /// What it is.
        found: &'static str,
    },
    /// The mounted tree is no Linux system.
    #[error("the mounted file system is not the root of a Linux system: {missing}")]
    #[diagnostic(
        code("kiln::guest::not_a_root"),
        help(
            "kiln customizes Linux guests; check that the base is a system disk and not a data disk or an installer"
        )
    )]
    NotARoot {
        /// What was looked for.
        missing: &'static str,
    },
    /// The host's processor cannot run the guest's programs.
    #[error("the guest is for {guest} and this host is {host}: its programs cannot run here")]
    #[diagnostic(
        code("kiln::guest::architecture"),
        help(
            "build this image on a {guest} host, or leave the work to a `firstboot` script; steps that only touch files work on any host"
        )
    )]
    Architecture {
        /// The guest's architecture.
        guest: String,
        /// The host's.
        host: String,
    },
    /// The disk holds no programs.
    #[error("the disk holds no programs: there is no `/bin/sh` to run a step with")]
    #[diagnostic(
        code("kiln::guest::no_programs"),
        help(
            "on an empty disk, only steps that touch files work; unpack a system first, for example with `tar-in`"
        )
    )]
    NoPrograms,
    /// No package manager that kiln drives.
    #[error("no package manager was found in the guest ({system})")]
    #[diagnostic(
        code("kiln::guest::no_package_manager"),
        help(
            "kiln drives apt, dnf, yum, zypper, apk and pacman; use a `run` step for another one"
        )
    )]
    NoPackageManager {
        /// What the guest calls itself.
        system: String,
    },
    /// A package name that a package manager would take for something else.
    #[error("`{name}` cannot be a package: {why}")]
    #[diagnostic(code("kiln::guest::package_name"))]
    PackageName {
        /// The name as written, escaped.
        name: String,
        /// What is wrong with it.
        why: &'static str,
    },
    /// A user or group that the guest does not have.
    #[error("the guest has no {kind} `{name}`")]
    #[diagnostic(code("kiln::guest::no_account"))]
    NoAccount {
        /// `user` or `group`.
        kind: &'static str,
        /// The name that was looked up.
        name: String,
        /// The nearest name there is, and where users come from.
        #[help]
        help: String,
    },
    /// A user without a line in the shadow file.
    #[error("user `{user}` has no entry in `/etc/shadow` of the guest")]
    #[diagnostic(
        code("kiln::guest::no_shadow"),
        help("make one first, with a `run-command` step: `pwconv`")
    )]
    NoShadow {
        /// The user.
        user: String,
    },
    /// A password or a hash that cannot be one.
    #[error("the password for `{user}` cannot be set: {why}")]
    #[diagnostic(code("kiln::guest::password"))]
    Password {
        /// The user.
        user: String,
        /// What is wrong, without the password itself.
        why: &'static str,
    },
    /// An expression of `edit` that cannot be done.
    #[error("`{expression}` cannot edit lines")]
    #[diagnostic(
        code("kiln::guest::expression"),
        help(
            "a pattern is one of Perl's regular expressions; write a backslash before a mark that is meant as itself"
        )
    )]
    Expression {
        /// The expression as written, escaped.
        expression: String,
        /// What is wrong with it.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// An expression whose match takes too many steps.
    #[error("`{expression}` takes too long on line {line} of `{path}` in the guest")]
    #[diagnostic(
        code("kiln::guest::expression_cost"),
        help(
            "a repetition inside of a repetition, as in `(a+)+`, tries every way to split a line; write it with one. On a long line, one that can start anywhere, as in `\\s+$`, costs as much; begin with what comes before it, or use `run-command` with the guest's own sed"
        )
    )]
    ExpressionCost {
        /// The expression as written, escaped.
        expression: String,
        /// The file.
        path: String,
        /// The line, counted from 1.
        line: usize,
        /// The limit that was reached.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// An edit that had to change something and did not.
    #[error("no line of `{path}` in the guest changes")]
    #[diagnostic(
        code("kiln::guest::unchanged"),
        help(
            "the file is not as the expressions expect it, or is already as it should be; without `required=#true` that is no error"
        )
    )]
    Unchanged {
        /// The file.
        path: String,
    },
    /// A copy that would lie in what is copied.
    #[error("cannot copy `{from}` in the guest to `{to}`, which is it, or lies in it")]
    #[diagnostic(
        code("kiln::guest::into_itself"),
        help("a link may lead there; name a path outside of it")
    )]
    IntoItself {
        /// What was to be copied.
        from: String,
        /// Where it would have been put.
        to: String,
    },
    /// A file with more names than the one that is to be scrubbed.
    #[error("cannot scrub `{path}` in the guest: the file has {names} names")]
    #[diagnostic(
        code("kiln::guest::hard_linked"),
        help("remove the others first, with `delete`; what they name would be overwritten too")
    )]
    HardLinked {
        /// The path in the guest.
        path: String,
        /// How many hard links there are.
        names: u64,
    },
    /// An archive that cannot be read to its end.
    #[error("cannot read the archive `{path}`")]
    #[diagnostic(
        code("kiln::guest::archive"),
        help("kiln reads tar archives, plain or compressed with gzip, xz, bzip2 or zstd")
    )]
    Archive {
        /// The path on the host, of kiln's copy.
        path: String,
        /// The cause.
        source: io::Error,
    },
    /// An entry of an archive that may not be unpacked.
    #[error("cannot unpack `{entry}` of the archive: {why}")]
    #[diagnostic(
        code("kiln::guest::archive_entry"),
        help("pack it with relative paths, so that everything lies in the directory")
    )]
    ArchiveEntry {
        /// The path of the entry, escaped.
        entry: String,
        /// What is wrong with it.
        why: &'static str,
    },
    /// A guest in which kiln does not know how to start the QEMU guest agent.
    #[error("`inject-qemu-ga` needs systemd or OpenRC in the guest, which starts with {init}")]
    #[diagnostic(
        code("kiln::guest::agent_init"),
        help("use `install \"qemu-guest-agent\"`, and enable it with a `run-command` step")
    )]
    AgentInit {
        /// The guest's init system.
        init: &'static str,
    },
    /// A text that is no public key.
    #[error("line {line} for `{user}` is not an SSH public key: {why}")]
    #[diagnostic(
        code("kiln::guest::ssh_key"),
        help("a public key is one line, as in a `.pub` file: `ssh-ed25519 AAAA… comment`")
    )]
    SshKey {
        /// The user.
        user: String,
        /// The line, counted from 1.
        line: usize,
        /// What is wrong with it.
        why: &'static str,
    },
    /// A text that is no host name.
    #[error("`{name}` is not a host name: {why}")]
    #[diagnostic(code("kiln::guest::hostname"))]
    Hostname {
        /// The name as written, escaped.
        name: String,
        /// What is wrong with it.
        why: &'static str,
    },
    /// A time zone that the guest does not know.
    #[error("the guest has no time zone `{zone}`")]
    #[diagnostic(
        code("kiln::guest::timezone"),
        help(
            "zones are the files below `/usr/share/zoneinfo`, such as `Europe/Vienna`; install `tzdata` in the guest if there are none"
        )
    )]
    Timezone {
        /// The zone as written, escaped.
        zone: String,
    },
    /// A program that a step needs is not in the guest.
    #[error("the guest has no `{program}`, which {user} needs")]
    #[diagnostic(code("kiln::guest::no_program"), help("install it in an earlier step"))]
    NoProgram {
        /// The program.
        program: String,
        /// Who needs it: `the script`, `the password`.
        user: &'static str,
    },
    /// A script whose first line cannot start an interpreter.
    #[error("the first line of the script cannot start it: {why}")]
    #[diagnostic(
        code("kiln::guest::shebang"),
        help(
            "write `#!/bin/sh`, or another absolute path of the guest, and end lines with a plain newline"
        )
    )]
    Shebang {
        /// What is wrong with it.
        why: &'static str,
    },
    /// A guest whose first process is not systemd cannot run `firstboot` scripts.
    #[error("a script for the first boot needs systemd in the guest, which starts with {init}")]
    #[diagnostic(
        code("kiln::guest::firstboot_init"),
        help("write a script of the guest's own init system with an `upload` step instead")
    )]
    FirstbootInit {
        /// The guest's init system.
        init: &'static str,
    },
    /// The seal is to change ids of LVM, which kiln does not open.
    #[error("the disk belongs to LVM in part, and kiln does not change the ids of LVM")]
    #[diagnostic(
        code("kiln::guest::lvm_ids"),
        help(
            "take `lvm-uuids` out of `also`; on a machine made from the image, `vgchange --uuid` and `pvchange --uuid` do it"
        )
    )]
    LvmIds,
}

impl GuestError {
    /// The kernel's refusal of an operation on a path.
    pub(crate) fn path(
        operation: &'static str,
        path: impl AsRef<Path>,
        source: impl Into<io::Error>,
    ) -> Self {
        let source = source.into();
        let path = shown(path);
        let help = match Errno::from_io_error(&source) {
            Some(Errno::NOENT) => {
                Some("nothing is there at this point of the recipe; an earlier step has to make it")
            }
            Some(Errno::LOOP) => {
                Some("links that go in circles, or through `/proc`, are not followed")
            }
            Some(Errno::XDEV) if operation == "move" => {
                Some("the two paths are on different file systems; use `run-command` with `mv`")
            }
            Some(Errno::EXIST) => {
                Some("what is there is no directory; it may be a link that leads nowhere")
            }
            Some(Errno::PERM) => {
                Some("it may carry the immutable or append-only attribute (`lsattr` shows it)")
            }
            Some(Errno::NOSPC) => {
                Some("the disk of the image is full: give the base a larger size")
            }
            Some(Errno::ROFS) => {
                Some("the file system was mounted read-only, so it is damaged or cannot be written")
            }
            _ => None,
        };
        Self::Path { operation, path, source, help }
    }

    /// The kernel's refusal to open the directory of a path.
    pub(crate) fn directory(operation: &'static str, path: impl AsRef<Path>, errno: Errno) -> Self {
        let mut error = Self::path(operation, path, errno);
        if let (Errno::NOENT, Self::Path { help, .. }) = (errno, &mut error) {
            *help = Some(
                "its directory is not there at this point of the recipe; make it with a `mkdir` step",
            );
        }
        error
    }

    /// The errno of the kernel's refusal, where there was one.
    #[must_use]
    pub fn errno(&self) -> Option<Errno> {
        match self {
            Self::Path { source, .. } | Self::Snapshot { source, .. } => {
                Errno::from_io_error(source)
            }
            _ => None,
        }
    }

    pub(crate) fn snapshot(
        operation: &'static str,
        path: impl AsRef<Path>,
        source: impl Into<io::Error>,
    ) -> Self {
        Self::Snapshot { operation, path: shown(path), source: source.into() }
    }
}

/// A path of a guest as people may see it: what could drive a terminal or reorder text is escaped.
#[must_use]
pub fn shown(path: impl AsRef<Path>) -> String {
    use std::os::unix::ffi::OsStrExt;
    let mut text = String::new();
    for chunk in path.as_ref().as_os_str().as_bytes().utf8_chunks() {
        text.push_str(&escaped(chunk.valid()));
        for byte in chunk.invalid() {
            let _ = write!(text, "\\x{byte:02x}");
        }
    }
    text
}

/// A text from a guest as people may see it, on one line.
///
/// Escaped are control characters, and the marks that reorder or hide text (Unicode's `Bidi_Control`
/// and zero-width characters).
#[must_use]
pub fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        let hides = matches!(c, '\u{61c}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{2069}' | '\u{feff}');
        if c.is_control() || hides {
            out.extend(c.escape_default());
        } else {
            out.push(c);
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::ffi::OsStr;
    use std::os::unix::ffi::OsStrExt;

    #[test]
    fn what_drives_a_terminal_is_escaped() {
        assert_eq!(escaped("a\x1b[31m\r\nb\u{202e}ä"), "a\\u{1b}[31m\\r\\nb\\u{202e}ä");
        assert_eq!(shown(OsStr::from_bytes(b"/a\xff\x07b")), "/a\\xff\\u{7}b");
    }
}
