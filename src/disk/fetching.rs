//! Asks kiln's own side for blocks of a layer that is here in part.
//!
//! Whoever reads a disk asks over a socket of the build's directory, and waits. What is fetched, and
//! from where, is not known here: when the answer is there, so are the blocks, in the layer's file,
//! and they are checked like all others.

use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use rustix::fs::{Mode, OFlags};
use serde::{Deserialize, Serialize};

use crate::digest::StateId;
use crate::link::Link;

/// Blocks that somebody needs.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub struct Ask {
    /// The state whose layer holds them.
    pub state: StateId,
    /// The first one's number among the layer's data blocks.
    pub start: u64,
    /// Their number.
    pub len: u64,
}

/// What came of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Reply {
    /// They are in the file.
    Here,
    /// They cannot be had: what each cause says, outermost first.
    Lost(Vec<String>),
}

/// Connections to whoever fetches.
pub struct Fetching {
    socket: PathBuf,
    /// As many as ask at one time.
    idle: Mutex<Vec<Link>>,
}

impl Fetching {
    /// Asks at a socket, when there is something to ask.
    #[must_use]
    pub fn at(socket: PathBuf) -> Self {
        Self { socket, idle: Mutex::default() }
    }

    /// Waits until some blocks are in their layer's file.
    ///
    /// # Errors
    /// Where nobody is there to fetch them. That they cannot be had is a [`Reply`].
    pub fn ask(&self, ask: Ask) -> io::Result<Reply> {
        let idle = || self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        let known = idle().pop();
        let mut link = match known {
            Some(link) => link,
            None => connect(&self.socket)?,
        };
        link.send(&ask)?;
        let reply = link.receive()?;
        idle().push(link);
        reply.ok_or_else(|| io::ErrorKind::UnexpectedEof.into())
    }
}

/// Connects to a socket whose path may be longer than the kernel's limit of some hundred bytes: it
/// is named from its directory.
fn connect(socket: &Path) -> io::Result<Link> {
    let directory = socket.parent().unwrap_or(Path::new("."));
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let directory = rustix::fs::open(directory, flags, Mode::empty())?;
    let name = socket.file_name().unwrap_or_default();
    let short = Path::new("/proc/self/fd").join(directory.as_raw_fd().to_string()).join(name);
    UnixStream::connect(short).map(|stream| Link::from(std::os::fd::OwnedFd::from(stream)))
}
