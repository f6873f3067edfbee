//! Programs of the host that work on a guest's disk, and what is said where one is missing.

use std::fs::File;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use super::host;
use super::steps::Log;
use crate::execute::{Fault, FaultKind};
use crate::files::{Context, FileError};
use crate::host::{Installer, tool_of};
use crate::link::Link;

/// Runs the host's programs for one action.
pub(super) struct Tools<'a> {
    /// How long each may take.
    timeout: Duration,
    /// Gets what they print.
    pub(super) log: &'a mut Log,
    /// Gets it too, and calls them off.
    pub(super) engine: &'a mut Link,
}

/// Makes sure that programs are installed.
///
/// # Errors
/// Names those that are not, with their packages.
pub(super) fn require(programs: &[&str]) -> Result<(), Fault> {
    let lacking = |program: &&str| tool_of(program).is_some_and(|tool| tool.find().is_none());
    let missing: Vec<&str> = programs.iter().copied().filter(lacking).collect();
    if missing.is_empty() { Ok(()) } else { Err(lacks(&missing)) }
}

fn lacks(programs: &[&str]) -> Fault {
    let message = format!("this host lacks `{}`", programs.join("`, `"));
    let installer = Installer::of_host();
    let package = |program: &&str| Some(tool_of(program)?.package(installer?));
    let mut packages: Vec<_> = programs.iter().filter_map(package).collect();
    packages.dedup();
    let help = match packages.as_slice() {
        [] => "install it; `kiln doctor --fix` installs what is missing".to_owned(),
        packages => format!("install {}; `kiln doctor --fix` does it", packages.join(" ")),
    };
    Fault::new(FaultKind::Host, "kiln::execute::lacks", message).with_help(help)
}

impl<'a> Tools<'a> {
    pub(super) fn new(timeout: Duration, log: &'a mut Log, engine: &'a mut Link) -> Self {
        Self { timeout, log, engine }
    }

    /// Runs a program to its end; what it prints goes to the log.
    ///
    /// # Errors
    /// Where it cannot be started, takes too long, or ends with another status than 0.
    pub(super) fn run(&mut self, command: Command, input: &[u8]) -> Result<(), Fault> {
        self.run_with(command, input, &[0])
    }

    /// The same, with the exit statuses that are good ones.
    ///
    /// # Errors
    /// As [`Tools::run`].
    pub(super) fn run_with(
        &mut self,
        mut command: Command,
        input: &[u8],
        good: &[i32],
    ) -> Result<(), Fault> {
        let Self { timeout, log, engine } = self;
        let timeout = *timeout;
        let name = command.get_program().to_string_lossy().into_owned();
        let path = PathBuf::from(&name);
        let missing = |error: FileError| {
            if error.source.kind() == std::io::ErrorKind::NotFound {
                return lacks(&[&name]);
            }
            host(&error)
        };
        let (reader, writer) =
            std::io::pipe().context("make", Path::new("a pipe")).map_err(missing)?;
        let errors = writer.try_clone().context("make", Path::new("a pipe")).map_err(missing)?;
        let child = command.stdin(Stdio::piped()).stdout(writer).stderr(errors).spawn();
        let mut child = child.context("run", &path).map_err(missing)?;
        // The command keeps the writing ends, and with them the pipe, open.
        drop(command);
        if let Some(mut stdin) = child.stdin.take() {
            // A program that does not read all of it says why in its own words.
            let _ = stdin.write_all(input);
        }
        let mut reader = File::from(std::os::fd::OwnedFd::from(reader));
        let mut buffer = [0; 16384];
        let deadline = Instant::now() + timeout;
        loop {
            if let Some(fault) = wait_for(&reader, engine, deadline, &name, timeout) {
                // Whatever it started dies with the keeper, which the engine ends after a fault.
                let _ = child.kill();
                let _ = child.wait();
                return Err(fault);
            }
            match reader.read(&mut buffer) {
                Ok(0) => break,
                Ok(read) => log.bytes(engine, &buffer[..read]),
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error).context("read", &path).map_err(missing),
            }
        }
        let status = child.wait().context("wait for", &path).map_err(missing)?;
        if status.code().is_some_and(|code| good.contains(&code)) {
            return Ok(());
        }
        let message = format!("`{name}` failed ({status}){}", log.excerpt());
        let fault = Fault::new(FaultKind::Step, "kiln::execute::host_program", message);
        Err(fault.with_help(help_for(&name)))
    }
}

/// What to do about a program that failed.
fn help_for(program: &str) -> &'static str {
    match program {
        // It is run on a file system that is there already, and puts right what it may.
        "e2fsck" => {
            "the base's file system is damaged: repair it with `e2fsck -f` on a copy, or leave \
             `size` out"
        }
        "resize2fs" | "xfs_growfs" | "btrfs" => {
            "the base's file system did not grow: check it on a copy, or leave `size` out"
        }
        "mmdebstrap" => {
            "what it printed says why: check the suite, the mirrors and the packages of the base, \
             and that this host reaches the mirrors"
        }
        _ => "what it printed says why: check the layout and the `size` of the base",
    }
}

/// Waits until a program printed something or ended; a fault where its time is over or the build
/// was called off.
fn wait_for(
    reader: &File,
    engine: &Link,
    deadline: Instant,
    name: &str,
    timeout: Duration,
) -> Option<Fault> {
    use rustix::event::{PollFd, PollFlags, Timespec, poll};
    let left = deadline.saturating_duration_since(Instant::now());
    let mut fds = [PollFd::new(reader, PollFlags::IN), PollFd::new(engine, PollFlags::RDHUP)];
    let timespec = Timespec::try_from(left).ok();
    let ready = poll(&mut fds, timespec.as_ref());
    if !fds[1].revents().is_empty() {
        return Some(Fault::new(
            FaultKind::Interrupted,
            "kiln::execute::interrupted",
            "interrupted",
        ));
    }
    (ready == Ok(0)).then(|| {
        let message = format!("`{name}` did not end within {} s", timeout.as_secs());
        Fault::new(FaultKind::Step, "kiln::execute::timed_out", message)
    })
}

/// The first line of what a program says about its version.
pub(super) fn version(program: &str) -> String {
    let output = Command::new(program).arg("--version").output();
    let text = output.map(|output| String::from_utf8_lossy(&output.stdout).into_owned());
    text.unwrap_or_default().lines().next().unwrap_or_default().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_that_fails_says_what_to_do() {
        let directory = tempfile::tempdir().unwrap();
        let mut log = Log::open(&directory.path().join("log")).unwrap();
        let (mut engine, _other) = Link::pair().unwrap();
        let mut tools = Tools::new(Duration::from_mins(1), &mut log, &mut engine);
        let mut command = Command::new("sh");
        command.args(["-c", "echo broken; exit 4"]);
        let fault = tools.run(command, b"").unwrap_err();
        assert_eq!(fault.code_text(), Some("kiln::execute::host_program"));
        assert!(fault.to_string().ends_with("\n  | broken"), "{fault}");
        let help = miette::Diagnostic::help(&fault).unwrap().to_string();
        assert!(help.starts_with("what it printed says why"), "{help}");
        assert!(help_for("e2fsck").contains("`e2fsck -f` on a copy"));
    }
}
