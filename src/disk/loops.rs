//! Loop devices over a door's file, and the kernel's view of their partitions.
//!
//! A device detaches by itself when its last user is gone, so nothing has to be undone after a
//! kill, unless a file system on it was left frozen. Devices carry kiln's name, by which
//! `execute::recover` finds them.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::io::Errno;

use super::partitions::Partition;
use crate::files::{Context, FileError};
use crate::sys::{self, LoopOptions};

/// What every name of a loop device of kiln starts with.
pub const NAME: &str = "kiln:";

/// How long to look for a free device while others take them.
const PATIENCE: Duration = Duration::from_secs(10);

/// An attached loop device.
#[derive(Debug)]
pub struct LoopDevice {
    file: File,
    path: PathBuf,
    partitions: Vec<Partition>,
}

impl LoopDevice {
    /// Attaches a file.
    ///
    /// # Errors
    /// Where the host has no loop devices, or none free.
    pub fn attach(backing: BorrowedFd<'_>, options: LoopOptions<'_>) -> Result<Self, FileError> {
        let control_path = Path::new("/dev/loop-control");
        let control = OpenOptions::new()
            .read(true)
            .write(true)
            .open(control_path)
            .context("open", control_path)?;
        let start = Instant::now();
        loop {
            let number =
                sys::free_loop_device(&control).context("ask for a device at", control_path)?;
            let path = PathBuf::from(format!("/dev/loop{number}"));
            let file = OpenOptions::new().read(true).write(!options.read_only).open(&path);
            let file = file.context("open", &path)?;
            match sys::attach_loop(&file, backing, options) {
                Ok(()) => {
                    // systemd's agreement: whoever holds this lock is not probed by udev.
                    let _ = rustix::fs::flock(
                        &file,
                        rustix::fs::FlockOperation::NonBlockingLockExclusive,
                    );
                    let device = Self { file, path, partitions: Vec::new() };
                    device.forget_partitions()?;
                    return Ok(device);
                }
                // Another process took the device in between.
                Err(error)
                    if error.kind() == io::ErrorKind::ResourceBusy
                        && start.elapsed() < PATIENCE =>
                {
                    std::thread::sleep(Duration::from_millis(2));
                }
                Err(error) => return Err(error).context("attach the disk to", &path),
            }
        }
    }

    /// Takes away the partitions that the kernel knows: those of its own reading of the table, and
    /// those that an earlier user of the device left.
    fn forget_partitions(&self) -> Result<(), FileError> {
        let name = self.path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        for entry in
            fs::read_dir(Path::new("/sys/block").join(&name)).into_iter().flatten().flatten()
        {
            let entry = entry.file_name();
            let number =
                entry.to_str().and_then(|entry| entry.strip_prefix(&name)?.strip_prefix('p'));
            let Some(number) = number.and_then(|number| number.parse().ok()) else { continue };
            self.forget(number)?;
        }
        Ok(())
    }

    /// Takes one partition away.
    fn forget(&self, number: u32) -> Result<(), FileError> {
        let start = Instant::now();
        loop {
            match sys::delete_partition(&self.file, number) {
                // Somebody else took it away.
                Err(error) if error.raw_os_error() == Some(Errno::NXIO.raw_os_error()) => {
                    return Ok(());
                }
                // Something of the host looks at it for a moment.
                Err(error)
                    if error.kind() == io::ErrorKind::ResourceBusy
                        && start.elapsed() < PATIENCE =>
                {
                    std::thread::sleep(Duration::from_millis(5));
                }
                result => return result.context("remove a partition from", &self.path),
            }
        }
    }

    /// The device's node.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Tells the kernel of the partitions; their nodes are there when it returns.
    ///
    /// # Errors
    /// Where the kernel refuses one, or its node does not come.
    pub fn add_partitions(&mut self, partitions: &[Partition]) -> Result<(), FileError> {
        for partition in partitions {
            sys::add_partition(&self.file, partition.number, partition.start, partition.size)
                .context("add a partition to", &self.path)?;
            self.partitions.push(partition.clone());
            let node = self.partition(partition.number);
            let start = Instant::now();
            while !node.exists() {
                if start.elapsed() > PATIENCE {
                    let error = io::Error::from(io::ErrorKind::NotFound);
                    return Err(error).context("find the partition", &node);
                }
                std::thread::sleep(Duration::from_millis(1));
            }
        }
        Ok(())
    }

    /// The node of a partition.
    #[must_use]
    pub fn partition(&self, number: u32) -> PathBuf {
        PathBuf::from(format!("{}p{number}", self.path.display()))
    }

    /// The partitions and their nodes, or the node of the whole device where it has none.
    #[must_use]
    pub fn partitions(&self) -> Vec<(Option<&Partition>, PathBuf)> {
        if self.partitions.is_empty() {
            return vec![(None, self.path.clone())];
        }
        let node = |partition: &Partition| self.partition(partition.number);
        self.partitions.iter().map(|partition| (Some(partition), node(partition))).collect()
    }

    /// The nodes of the device and of all its partitions.
    #[must_use]
    pub fn nodes(&self) -> Vec<PathBuf> {
        let partitions = self.partitions.iter().map(|partition| self.partition(partition.number));
        std::iter::once(self.path.clone()).chain(partitions).collect()
    }

    /// Makes durable what was written to the device and to its partitions.
    ///
    /// # Errors
    /// Where something that was written could not be.
    pub fn sync(&self) -> Result<(), FileError> {
        for node in self.nodes() {
            let file = File::open(&node).context("open", &node)?;
            file.sync_all().context("sync", &node)?;
        }
        Ok(())
    }

    /// Detaches now what would detach at the end, and says if somebody still uses it.
    ///
    /// # Errors
    /// Where a partition is in use.
    pub fn detach(self) -> Result<(), FileError> {
        for partition in &self.partitions {
            self.forget(partition.number)?;
        }
        sys::detach_loop(&self.file).context("detach", &self.path)
    }
}

impl AsFd for LoopDevice {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}
