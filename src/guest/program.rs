//! Programs of the guest: what a step runs in it, with everything that the program may see.
//!
//! It starts nothing; an executor does, and kills whatever is left when the program ends.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fmt;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::error::{GuestError, escaped};
use super::files::read_snapshot;
use super::inspect::Guest;
use super::packages::{self, Operation};
use super::password;
use super::root::GuestRoot;
use crate::name::{GuestPath, SecretName};
use crate::recipe::StepKind;
use crate::secret::SecretValue;

/// Where an executor puts [`Program::script`], on a tmpfs that is not part of the image and allows
/// programs; mode 0755, root's.
pub const SCRIPT_PATH: &str = "/run/kiln/script";
/// Largest script in bytes.
pub(super) const LARGEST_SCRIPT: u64 = 64 << 20;
/// Longest first line that is an interpreter's, in bytes. Source: `BINPRM_BUF_SIZE` of Linux.
const LONGEST_SHEBANG: usize = 256;

/// A host path to kiln's private, hashed copy of a workspace file or tree. Its last component is the
/// name that the file has in the workspace.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Snapshot {
    /// The path on the host.
    pub path: PathBuf,
}

impl Snapshot {
    /// The name that the file or tree has in the workspace.
    ///
    /// # Errors
    /// [`GuestError::Snapshot`] for a path that ends in no name.
    pub fn name(&self) -> Result<&OsStr, GuestError> {
        let none = || GuestError::snapshot("name", &self.path, rustix::io::Errno::INVAL);
        self.path.file_name().ok_or_else(none)
    }
}

/// A program to run in the guest as root, in `/`, without a terminal.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Program {
    /// The program and its arguments; the first is looked up in `PATH` inside the guest.
    pub argv: Vec<String>,
    /// The whole environment: nothing else is inherited.
    pub env: BTreeMap<String, String>,
    /// What it reads; `None` for nothing (`/dev/null`). It may be secret, so `Debug` hides it.
    pub stdin: Option<Vec<u8>>,
    /// A file to put at [`SCRIPT_PATH`].
    pub script: Option<Vec<u8>>,
    /// Guest directories that are replaced by empty scratch directories (root's, 0755) while it
    /// runs, if they exist: what it downloads there stays out of the layer.
    pub scratch: Vec<GuestPath>,
    /// Files that are in place only while it runs.
    pub temporary: Vec<TemporaryFile>,
    /// What whoever builds is told once it has ended well, and what no log may hold. `Debug` hides
    /// it.
    pub announce: Option<String>,
}

/// A file that is put in place, root's, for the time of a program, and only where nothing is there.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TemporaryFile {
    /// Its path.
    pub path: GuestPath,
    /// Its bytes.
    pub content: Vec<u8>,
    /// Its permission bits.
    pub mode: u32,
}

impl fmt::Debug for Program {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { argv, env, stdin, script, scratch, temporary, announce } = self;
        f.debug_struct("Program")
            .field("argv", argv)
            .field("env", env)
            .field("stdin", &stdin.as_ref().map(|bytes| format!("{} bytes", bytes.len())))
            .field("script", &script.as_ref().map(|bytes| format!("{} bytes", bytes.len())))
            .field("scratch", scratch)
            .field("temporary", temporary)
            .field("announce", &announce.as_ref().map(|_| "a line"))
            .finish()
    }
}

impl Program {
    /// A program with the environment that every program gets and nothing put in place.
    pub fn new(argv: impl IntoIterator<Item = impl Into<String>>) -> Self {
        let env = [
            ("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"),
            ("HOME", "/root"),
            ("USER", "root"),
            ("LOGNAME", "root"),
            ("SHELL", "/bin/sh"),
            ("LANG", "C.UTF-8"),
            ("TERM", "dumb"),
        ];
        Self {
            argv: argv.into_iter().map(Into::into).collect(),
            env: env.into_iter().map(|(key, value)| (key.to_owned(), value.to_owned())).collect(),
            stdin: None,
            script: None,
            scratch: Vec::new(),
            temporary: Vec::new(),
            announce: None,
        }
    }
}

/// The program that a step runs in the guest; `None` for a step that needs none, which
/// [`super::apply()`] does. `network` says whether the step may use the network; `secrets` are those
/// of the step, and all that a password may be.
///
/// # Errors
/// Where the guest's programs cannot run on this host, or something that the program needs is
/// missing: its interpreter, a user, the package manager, a secret.
pub fn program_for(
    root: &GuestRoot,
    guest: &Guest,
    kind: &StepKind<Snapshot>,
    network: bool,
    secrets: &[(SecretName, SecretValue)],
) -> Result<Option<Program>, GuestError> {
    let program = match kind {
        StepKind::Install(packages) => manager(guest, Operation::Install(packages), network)?,
        StepKind::Uninstall(packages) => {
            manager(guest, Operation::Uninstall(&packages.names), network)?
        }
        StepKind::Update => manager(guest, Operation::Update, network)?,
        StepKind::Run(run) => {
            script(root, guest, read_snapshot(&run.script, LARGEST_SCRIPT)?, &run.arguments)?
        }
        StepKind::RunCommand(run) => script(root, guest, run.script.clone().into_bytes(), &[])?,
        StepKind::Password(step) => match password::program(root, step, secrets)? {
            Some(program) => program,
            None => return Ok(None),
        },
        StepKind::InjectQemuGa => {
            packages::agent(guest.expect_package_manager()?, guest.init, network)?
        }
        StepKind::Write(_)
        | StepKind::AppendLine(_)
        | StepKind::CopyIn(_)
        | StepKind::Upload(_)
        | StepKind::Mkdir(_)
        | StepKind::Delete(_)
        | StepKind::Move(_)
        | StepKind::Link(_)
        | StepKind::Chmod(_)
        | StepKind::Chown(_)
        | StepKind::Touch(_)
        | StepKind::Truncate(_)
        | StepKind::Hostname(_)
        | StepKind::Timezone(_)
        | StepKind::SshInject(_)
        | StepKind::Firstboot(_)
        | StepKind::FirstbootCommand(_)
        | StepKind::FirstbootInstall(_)
        | StepKind::Edit(_)
        | StepKind::Copy(_)
        | StepKind::TarIn(_)
        | StepKind::TruncateRecursive(_)
        | StepKind::ScrubFile(_)
        | StepKind::Profile(_)
        | StepKind::SelinuxRelabel => return Ok(None),
    };
    guest.check_runs_here()?;
    Ok(Some(program))
}

fn manager(guest: &Guest, operation: Operation<'_>, network: bool) -> Result<Program, GuestError> {
    packages::program(guest.expect_package_manager()?, operation, network)
}

/// A script with its interpreter made explicit, so that a missing one is found before anything runs.
fn script(
    root: &GuestRoot,
    guest: &Guest,
    text: Vec<u8>,
    arguments: &[String],
) -> Result<Program, GuestError> {
    let mut argv = match interpreter(&text)? {
        Interpreter::Shell => vec!["/bin/sh".to_owned(), "-eu".to_owned()],
        Interpreter::Itself => Vec::new(),
        Interpreter::Named(path, argument) => [path].into_iter().chain(argument).collect(),
    };
    if let Some(program) = argv.first().filter(|program| !root.is_file(program.as_str())) {
        return Err(GuestError::NoProgram { program: escaped(program), user: "the script" });
    }
    argv.push(SCRIPT_PATH.to_owned());
    argv.extend_from_slice(arguments);
    let mut program = Program::new(argv);
    program.script = Some(text);
    if let Some(manager) = guest.package_manager {
        packages::prepare(manager, &mut program);
    }
    Ok(program)
}

/// What runs a script.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Interpreter {
    /// `/bin/sh -eu`, as the script names nothing.
    Shell,
    /// The kernel: it is a program.
    Itself,
    /// The path after `#!`, and the rest of the line as one argument.
    Named(String, Option<String>),
}

/// What runs a script, by its first bytes. Source: execve(2), "Interpreter scripts".
pub(super) fn interpreter(script: &[u8]) -> Result<Interpreter, GuestError> {
    let bad = |why| Err(GuestError::Shebang { why });
    if script.starts_with(b"\x7fELF") {
        return Ok(Interpreter::Itself);
    }
    let Some(rest) = script.strip_prefix(b"#!") else {
        return Ok(Interpreter::Shell);
    };
    let line = rest.split(|&byte| byte == b'\n').next().unwrap_or_default();
    if line.len() + 2 > LONGEST_SHEBANG {
        return bad("it is longer than Linux allows, 256 bytes");
    }
    let Ok(line) = std::str::from_utf8(line) else {
        return bad("it is not UTF-8");
    };
    if line.ends_with('\r') {
        return bad("it ends in a carriage return, so no interpreter has that name");
    }
    let line = line.trim_matches([' ', '\t']);
    let (path, argument) = line.split_once([' ', '\t']).unwrap_or((line, ""));
    if !path.starts_with('/') {
        return bad("it names no absolute path");
    }
    let argument = argument.trim_start_matches([' ', '\t']);
    Ok(Interpreter::Named(path.to_owned(), (!argument.is_empty()).then(|| argument.to_owned())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_shebang_is_read_as_the_kernel_does() {
        let named = |path: &str, argument: Option<&str>| {
            Interpreter::Named(path.to_owned(), argument.map(str::to_owned))
        };
        let table: &[(&str, Interpreter)] = &[
            ("echo", Interpreter::Shell),
            ("", Interpreter::Shell),
            (" #!/bin/sh", Interpreter::Shell),
            ("\x7fELF", Interpreter::Itself),
            ("#!/bin/sh", named("/bin/sh", None)),
            ("#! \t/bin/sh -e  -u \nx", named("/bin/sh", Some("-e  -u"))),
            ("#!/usr/bin/env python3\n", named("/usr/bin/env", Some("python3"))),
        ];
        for (text, expected) in table {
            assert_eq!(interpreter(text.as_bytes()).unwrap(), *expected, "{text:?}");
        }
        for text in ["#!\n", "#!sh\n", "#!/bin/sh\r\n", &format!("#!/{}", "a".repeat(300))] {
            assert!(interpreter(text.as_bytes()).is_err(), "{text:?}");
        }
    }

    #[test]
    fn a_program_does_not_show_its_input() {
        let mut program = Program::new(["chpasswd"]);
        program.stdin = Some(b"root:secret\n".to_vec());
        program.announce = Some("secret".to_owned());
        assert!(!format!("{program:?}").contains("secret"));
        let json = serde_json::to_string(&program).unwrap();
        assert_eq!(serde_json::from_str::<Program>(&json).unwrap(), program);
    }
}
