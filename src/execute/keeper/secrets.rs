//! Secrets as files for one program, in memory and nowhere else.

use std::fs;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};

use crate::execute::container::Bind;
use crate::files::{self, Context, FileError};
use crate::name::SecretName;
use crate::secret::SecretValue;

/// Where a program finds its secrets.
pub(super) const IN_GUEST: &str = "/run/kiln/secrets";

/// A file system in memory that only the keeper sees; it goes with the value.
#[derive(Debug)]
pub(super) struct Memory {
    path: PathBuf,
}

impl Memory {
    /// Mounts one of so many bytes on a new directory, which only root may enter.
    pub(super) fn mount(path: PathBuf, size: usize) -> Result<Self, FileError> {
        files::make_directory(&path, 0o700)?;
        let flags = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
        let options = |more: &str| {
            let text = format!("mode=0700,size={size}{more}");
            std::ffi::CString::new(text).expect("no byte of it is 0")
        };
        // Kernels before 6.4 cannot keep it out of the swap.
        let kept = mount("kiln", &path, "tmpfs", flags, &*options(",noswap"));
        kept.or_else(|_| mount("kiln", &path, "tmpfs", flags, &*options("")))
            .context("mount a tmpfs on", &path)?;
        Ok(Self { path })
    }

    /// Where it is mounted.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        // The programs that saw it are dead; what else there is goes with the keeper's mounts.
        let _ = unmount(&self.path, UnmountFlags::DETACH);
        let _ = fs::remove_dir(&self.path);
    }
}

/// Puts each secret into a file of its name that only root may read, and gives what lets a program
/// see them.
pub(super) fn place<'a>(
    directory: PathBuf,
    secrets: impl IntoIterator<Item = &'a (SecretName, SecretValue)>,
) -> Result<(Memory, Bind), FileError> {
    let secrets: Vec<_> = secrets.into_iter().collect();
    let pages: usize = secrets.iter().map(|(_, value)| value.0.len() / 4096 + 2).sum();
    let memory = Memory::mount(directory, (pages + 16) * 4096)?;
    for (name, value) in secrets {
        let path = memory.path().join(name.as_str());
        let mut file = fs::OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o400)
            .open(&path)
            .context("create", &path)?;
        file.write_all(&value.0).context("write", &path)?;
    }
    let (source, target) = (memory.path().to_owned(), PathBuf::from(IN_GUEST));
    Ok((memory, Bind { source, target, read_only: true }))
}
