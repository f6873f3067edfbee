//! The door: a process that serves one working disk as one regular file through FUSE.
//!
//! It opens nothing on or above its own mount, starts no process, holds the only descriptor of its
//! FUSE connection, and aborts on panic, so that killing it always ends every wait on its file. It
//! knows nothing of partitions, mounts or guests.

use std::fs::OpenOptions;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};

use fuser::{
    Config, Errno, FileAttr, FileHandle, FileType, Filesystem, FopenFlags, INodeNo, InitFlags,
    KernelConfig, LockOwner, OpenFlags, ReplyAttr, ReplyData, ReplyEmpty, ReplyLseek, ReplyOpen,
    ReplyStatfs, ReplyWrite, Request, Session, SessionACL, WriteFlags,
};
use rustix::mount::{FsMountFlags, FsOpenFlags, MountAttrFlags};
use serde::{Deserialize, Serialize};

use super::layer::BLOCK;
use super::overlay::{Changed, Overlay};
use super::state::DiskState;
use super::working::{Lost, WorkingDisk};
use crate::causes;
use crate::link::Link;
use crate::store::LayerFiles;

/// Largest read or write request in bytes.
const MAX_REQUEST: u32 = 1 << 20;
/// How long the kernel may keep the file's attributes, which never change.
const FOREVER: Duration = Duration::from_secs(1 << 30);

/// What a door serves.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Serve {
    /// The layers of the state, base first; none for a disk of zeros.
    pub chain: Vec<LayerFiles>,
    /// Size in bytes; `None` for that of the state. What lies behind the state's end are zeros.
    pub size: Option<u64>,
    /// The file for what is written, which must not exist; `None` for a read-only disk.
    pub overlay: Option<PathBuf>,
}

/// What the holder of a door asks of it.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Ask {
    /// Make everything durable and end the epoch.
    Swap,
    /// End all writing.
    Seal,
    /// Tell how the disk is.
    Status,
}

/// What a door answers.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Answer {
    /// The mount's descriptor follows.
    Ready,
    /// The state cannot be opened: what each cause says, outermost first.
    Unusable(Vec<String>),
    /// The host does not let a disk be served: what each cause says, outermost first.
    Refused(Vec<String>),
    /// The epoch ended: runs as (start, length, slot) in ascending order, no slot for a hole.
    Swapped(Vec<(u64, u64, Option<u64>)>),
    /// Writing has ended.
    Sealed,
    /// How the disk is.
    Status(Status),
    /// The question could not be carried out; the latch says more.
    Lost(Option<Lost>),
}

/// How a working disk is.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// The first operation that was lost.
    pub lost: Option<Lost>,
    /// Writes that came after the end of writing.
    pub late_writes: u64,
    /// Bytes written for the first time in this epoch.
    pub changed_bytes: u64,
}

/// Why a door cannot be used.
#[derive(Debug, thiserror::Error, miette::Diagnostic)]
pub enum DoorError {
    /// The process that serves the disk is gone.
    #[error("the process that serves the disk ended")]
    #[diagnostic(
        code(kiln::disk::door_gone),
        help("it was killed, or crashed; the next build starts from the last finished step")
    )]
    Gone {
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// The state cannot be opened.
    #[error("the disk cannot be opened: {}", .0.join(": "))]
    #[diagnostic(
        code(kiln::disk::unusable),
        help("layers that are damaged are built again; a cause of the host stands above")
    )]
    Unusable(Vec<String>),
    /// The host does not let a disk be served.
    #[error("the disk cannot be served: {}", .0.join(": "))]
    #[diagnostic(
        code(kiln::disk::refused),
        help("`kiln doctor` looks at what this host lacks; check also that the store has room")
    )]
    Refused(Vec<String>),
    /// An operation was lost.
    #[error("{}", .0.as_ref().map_or_else(|| "an operation was lost".to_owned(), ToString::to_string))]
    #[diagnostic(
        code(kiln::disk::lost),
        help("free some space for the store, or check the host's disk; then build again")
    )]
    Lost(Option<Lost>),
    /// It answered something else.
    #[error("the process that serves the disk gave a wrong answer")]
    #[diagnostic(code(kiln::disk::door_confused), help("this is a bug in kiln; build again"))]
    Confused,
}

/// The end of a door that asks.
pub struct Door {
    link: Link,
}

impl Door {
    /// Opens a disk in the process at the other end; gives a descriptor of its detached mount,
    /// whose root is the disk's file.
    ///
    /// # Errors
    /// Where the state cannot be opened or the process is gone.
    pub fn open(mut link: Link, serve: &Serve) -> Result<(Self, OwnedFd), DoorError> {
        link.send(serve).map_err(gone)?;
        let mut door = Self { link };
        match door.receive()? {
            Answer::Ready => {
                let mount = door.link.receive_descriptor().map_err(gone)?;
                Ok((door, mount))
            }
            Answer::Unusable(causes) => Err(DoorError::Unusable(causes)),
            Answer::Refused(causes) => Err(DoorError::Refused(causes)),
            _ => Err(DoorError::Confused),
        }
    }

    fn receive(&mut self) -> Result<Answer, DoorError> {
        match self.link.receive() {
            Ok(Some(answer)) => Ok(answer),
            Ok(None) => Err(gone(io::Error::from(io::ErrorKind::UnexpectedEof))),
            Err(error) => Err(gone(error)),
        }
    }

    fn ask(&mut self, ask: Ask) -> Result<Answer, DoorError> {
        self.link.send(&ask).map_err(gone)?;
        match self.receive()? {
            Answer::Lost(lost) => Err(DoorError::Lost(lost)),
            answer => Ok(answer),
        }
    }

    /// Makes everything durable and ends the epoch: what it changed, in ascending order.
    ///
    /// # Errors
    /// Where something was lost, now or earlier, or the process is gone.
    pub fn swap(&mut self) -> Result<Vec<Changed>, DoorError> {
        match self.ask(Ask::Swap)? {
            Answer::Swapped(runs) => Ok(runs
                .into_iter()
                .map(|(start, len, slot)| Changed { start, len, slot })
                .collect()),
            _ => Err(DoorError::Confused),
        }
    }

    /// Ends all writing.
    ///
    /// # Errors
    /// Where the process is gone.
    pub fn seal(&mut self) -> Result<(), DoorError> {
        match self.ask(Ask::Seal)? {
            Answer::Sealed => Ok(()),
            _ => Err(DoorError::Confused),
        }
    }

    /// Tells how the disk is.
    ///
    /// # Errors
    /// Where the process is gone.
    pub fn status(&mut self) -> Result<Status, DoorError> {
        match self.ask(Ask::Status)? {
            Answer::Status(status) => Ok(status),
            _ => Err(DoorError::Confused),
        }
    }
}

fn gone(source: io::Error) -> DoorError {
    DoorError::Gone { source }
}

/// The life of the door's process: opens one disk, serves it, answers until the other end is gone.
///
/// # Errors
/// Where the connection breaks or the host has no FUSE.
pub fn run(mut link: Link) -> io::Result<()> {
    let default = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        default(info);
        // Half a door is worse than none: whoever waits on the disk must get an error now.
        std::process::abort();
    }));
    // Blocks are served below the page cache: an allocation must never wait for this very disk.
    match rustix::process::configure_io_flusher_behavior(true) {
        // Root of a container may lack the capability, which `kiln doctor` tells: the risk is a
        // wait under extreme lack of memory, never a wrong block.
        Ok(()) | Err(rustix::io::Errno::PERM) => {}
        Err(error) => return Err(error.into()),
    }

    let Some(serve) = link.receive::<Serve>()? else { return Ok(()) };
    let disk = match open(&serve) {
        Ok(disk) => Arc::new(disk),
        Err(answer) => return link.send(&answer),
    };
    let device = OpenOptions::new()
        .read(true)
        .write(true)
        .custom_flags(rustix::fs::OFlags::CLOEXEC.bits().cast_signed())
        .open("/dev/fuse");
    let device = match device {
        Ok(device) => OwnedFd::from(device),
        Err(error) => {
            let causes = vec!["cannot open `/dev/fuse`".to_owned(), error.to_string()];
            return link.send(&Answer::Refused(causes));
        }
    };
    let mount = mount(&device, serve.overlay.is_none())?;
    let mut config = Config::default();
    config.acl = SessionACL::All;
    config.n_threads = Some(2);
    config.clone_fd = true;
    let served = Served { disk: Arc::clone(&disk) };
    let session = Session::from_fd(served, device, SessionACL::All, config)?;
    std::thread::Builder::new().name("fuse".into()).spawn(move || {
        if let Err(error) = session.run() {
            eprintln!("the FUSE session ended: {error}");
        }
    })?;
    link.send(&Answer::Ready)?;
    link.send_descriptor(mount.as_fd())?;
    drop(mount);
    while let Some(ask) = link.receive::<Ask>()? {
        link.send(&answer(&disk, ask))?;
    }
    Ok(())
}

fn open(serve: &Serve) -> Result<WorkingDisk, Answer> {
    let mut base =
        DiskState::open(&serve.chain).map_err(|error| Answer::Unusable(causes::list(&error)))?;
    if let Some(size) = serve.size {
        base.grow(size);
    }
    let file = match &serve.overlay {
        Some(path) => {
            OpenOptions::new().read(true).write(true).create_new(true).mode(0o600).open(path)
        }
        None => OpenOptions::new().read(true).open("/dev/null"),
    };
    let file = file.map_err(|error| {
        Answer::Refused(vec!["cannot make the overlay".to_owned(), error.to_string()])
    })?;
    Ok(WorkingDisk::new(base, Overlay::new(file), serve.overlay.is_some()))
}

fn answer(disk: &WorkingDisk, ask: Ask) -> Answer {
    match ask {
        Ask::Swap => match disk.swap() {
            Ok(changed) => match disk.lost() {
                // What was lost before the swap is lost for this epoch, whatever came after it.
                Some(lost) => Answer::Lost(Some(lost)),
                None => Answer::Swapped(
                    changed.into_iter().map(|run| (run.start, run.len, run.slot)).collect(),
                ),
            },
            Err(_) => Answer::Lost(disk.lost()),
        },
        Ask::Seal => {
            disk.seal();
            Answer::Sealed
        }
        Ask::Status => Answer::Status(Status {
            lost: disk.lost(),
            late_writes: disk.late_writes(),
            changed_bytes: disk.changed_bytes(),
        }),
    }
}

/// Makes a FUSE file system whose root is a regular file, mounted nowhere yet.
fn mount(device: &OwnedFd, read_only: bool) -> io::Result<OwnedFd> {
    use rustix::mount::{fsconfig_create, fsconfig_set_flag, fsconfig_set_string, fsmount, fsopen};
    use std::os::fd::AsRawFd;
    let context = fsopen("fuse", FsOpenFlags::FSOPEN_CLOEXEC)?;
    fsconfig_set_string(context.as_fd(), "source", "kiln")?;
    fsconfig_set_string(context.as_fd(), "fd", device.as_raw_fd().to_string())?;
    fsconfig_set_string(context.as_fd(), "rootmode", "100600")?;
    fsconfig_set_string(context.as_fd(), "user_id", "0")?;
    fsconfig_set_string(context.as_fd(), "group_id", "0")?;
    fsconfig_set_flag(context.as_fd(), "allow_other")?;
    if read_only {
        fsconfig_set_flag(context.as_fd(), "ro")?;
    }
    fsconfig_create(context.as_fd())?;
    let attributes = MountAttrFlags::MOUNT_ATTR_NODEV
        | MountAttrFlags::MOUNT_ATTR_NOSUID
        | MountAttrFlags::MOUNT_ATTR_NOEXEC;
    Ok(fsmount(context.as_fd(), FsMountFlags::FSMOUNT_CLOEXEC, attributes)?)
}

/// The file system of one file.
struct Served {
    disk: Arc<WorkingDisk>,
}

impl Served {
    fn attributes(&self) -> FileAttr {
        FileAttr {
            ino: INodeNo::ROOT,
            size: self.disk.size(),
            blocks: self.disk.size().div_ceil(512),
            atime: UNIX_EPOCH,
            mtime: UNIX_EPOCH,
            ctime: UNIX_EPOCH,
            crtime: UNIX_EPOCH,
            kind: FileType::RegularFile,
            perm: 0o600,
            nlink: 1,
            uid: 0,
            gid: 0,
            rdev: 0,
            blksize: u32::try_from(BLOCK).expect("a small number"),
            flags: 0,
        }
    }
}

fn errno(error: &io::Error) -> Errno {
    Errno::from_i32(error.raw_os_error().unwrap_or(rustix::io::Errno::IO.raw_os_error()))
}

impl Filesystem for Served {
    fn init(&mut self, _: &Request, config: &mut KernelConfig) -> io::Result<()> {
        // What a kernel lacks of these costs speed, not correctness.
        for capability in [
            InitFlags::FUSE_ASYNC_READ,
            InitFlags::FUSE_BIG_WRITES,
            InitFlags::FUSE_MAX_PAGES,
            InitFlags::FUSE_ASYNC_DIO,
        ] {
            let _ = config.add_capabilities(capability);
        }
        let _ = config.set_max_write(MAX_REQUEST);
        let _ = config.set_max_readahead(MAX_REQUEST);
        Ok(())
    }

    fn getattr(&self, _: &Request, _: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        reply.attr(&FOREVER, &self.attributes());
    }

    fn setattr(
        &self,
        _: &Request,
        _: INodeNo,
        _: Option<u32>,
        _: Option<u32>,
        _: Option<u32>,
        size: Option<u64>,
        _: Option<fuser::TimeOrNow>,
        _: Option<fuser::TimeOrNow>,
        _: Option<std::time::SystemTime>,
        _: Option<FileHandle>,
        _: Option<std::time::SystemTime>,
        _: Option<std::time::SystemTime>,
        _: Option<std::time::SystemTime>,
        _: Option<fuser::BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        // Times are of no use here; a disk does not change its size.
        if size.is_some_and(|size| size != self.disk.size()) {
            return reply.error(Errno::EPERM);
        }
        reply.attr(&FOREVER, &self.attributes());
    }

    fn open(&self, _: &Request, _: INodeNo, _: OpenFlags, reply: ReplyOpen) {
        reply.opened(FileHandle(0), FopenFlags::FOPEN_KEEP_CACHE);
    }

    fn read(
        &self,
        _: &Request,
        _: INodeNo,
        _: FileHandle,
        offset: u64,
        size: u32,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyData,
    ) {
        match self.disk.read(offset, size.into()) {
            Ok(bytes) => reply.data(&bytes),
            Err(error) => reply.error(errno(&error)),
        }
    }

    fn write(
        &self,
        _: &Request,
        _: INodeNo,
        _: FileHandle,
        offset: u64,
        data: &[u8],
        _: WriteFlags,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        match self.disk.write(offset, data) {
            Ok(()) => reply.written(u32::try_from(data.len()).expect("at most a request")),
            Err(error) => reply.error(errno(&error)),
        }
    }

    fn flush(&self, _: &Request, _: INodeNo, _: FileHandle, _: LockOwner, reply: ReplyEmpty) {
        reply.ok();
    }

    fn fsync(&self, _: &Request, _: INodeNo, _: FileHandle, _: bool, reply: ReplyEmpty) {
        // A guest's flush orders nothing here: the overlay dies with the build. What counts is made
        // durable by the swap, whose error is latched.
        reply.ok();
    }

    fn fallocate(
        &self,
        _: &Request,
        _: INodeNo,
        _: FileHandle,
        offset: u64,
        length: u64,
        mode: i32,
        reply: ReplyEmpty,
    ) {
        const KEEP_SIZE: i32 = 1;
        const PUNCH_HOLE: i32 = 2;
        const ZERO_RANGE: i32 = 16;
        if mode & (PUNCH_HOLE | ZERO_RANGE) == 0
            || mode & !(KEEP_SIZE | PUNCH_HOLE | ZERO_RANGE) != 0
        {
            return reply.error(Errno::EOPNOTSUPP);
        }
        match self.disk.discard(offset, length) {
            Ok(()) => reply.ok(),
            Err(error) => reply.error(errno(&error)),
        }
    }

    fn lseek(
        &self,
        _: &Request,
        _: INodeNo,
        _: FileHandle,
        offset: i64,
        whence: i32,
        reply: ReplyLseek,
    ) {
        const SEEK_DATA: i32 = 3;
        const SEEK_HOLE: i32 = 4;
        let Ok(from) = u64::try_from(offset) else { return reply.error(Errno::EINVAL) };
        let found = match whence {
            SEEK_DATA | SEEK_HOLE if from >= self.disk.size() => return reply.error(Errno::ENXIO),
            SEEK_DATA => match self.disk.seek(from, false) {
                end if end >= self.disk.size() => return reply.error(Errno::ENXIO),
                data => data,
            },
            SEEK_HOLE => self.disk.seek(from, true),
            _ => return reply.error(Errno::EINVAL),
        };
        reply.offset(found.cast_signed());
    }

    fn statfs(&self, _: &Request, _: INodeNo, reply: ReplyStatfs) {
        // The loop driver takes the block size as the granularity of discards.
        let block = u32::try_from(BLOCK).expect("a small number");
        reply.statfs(self.disk.size() / BLOCK, 0, 0, 1, 0, block, 255, block);
    }
}
