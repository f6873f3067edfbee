//! Where a store may lie, and whose it is.
//!
//! A store is worth nothing where locks do not hold, or where anybody may write to it. Whether that
//! is so is decided here from what the kernel says; what a store holds is not known.

use std::fs::{self, File, Metadata, Permissions};
use std::io;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::files::{self, Context, FileError, Medium};

const SET_GROUP: u32 = 0o2000;
const OTHERS_WRITE: u32 = 0o002;

/// Why a directory cannot be a store.
#[derive(Debug, thiserror::Error, miette::Diagnostic)]
pub enum SiteError {
    /// Its file system is of a network.
    #[error("the store `{}` lies on a file system of type `{kind}`", path.display())]
    #[diagnostic(
        code(kiln::store::network),
        help(
            "locks there do not hold between hosts: keep the store on a local disk with `--store` \
             or `store` in kiln.kdl, and share results through a `remote`"
        )
    )]
    Network {
        /// The store.
        path: PathBuf,
        /// The type of its file system, as the kernel has it.
        kind: String,
    },
    /// Its file system is mounted without locks between hosts.
    #[error("the store `{}` lies on a `{kind}` that is mounted without `flock`", path.display())]
    #[diagnostic(
        code(kiln::store::mounted_without_locks),
        help("mount it with the option `flock`, or keep the store elsewhere with `--store`")
    )]
    Lockless {
        /// The store.
        path: PathBuf,
        /// The type of its file system.
        kind: String,
    },
    /// Everybody may write to it.
    #[error("everybody may write to `{}`", path.display())]
    #[diagnostic(
        code(kiln::store::world_writable),
        help(
            "what lies there may be anybody's: remove it, or take the right to write from others \
             (`chmod o-w`) if you know who wrote there"
        )
    )]
    WorldWritable {
        /// The directory.
        path: PathBuf,
    },
    /// Somebody else's link leads to it.
    #[error("`{}` is a symbolic link of another user", path.display())]
    #[diagnostic(
        code(kiln::store::foreign_link),
        help("name the directory that it leads to, or remove the link")
    )]
    ForeignLink {
        /// The link.
        path: PathBuf,
    },
}

/// Who may use a store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// Its owner; the group may read what is not everybody's.
    Owner,
    /// Everybody in the group of its directory, which has the set-group-ID bit.
    Group,
}

impl Access {
    /// Who may use the store in a directory, which exists.
    pub(super) fn of(root: &Path) -> Result<Self, FileError> {
        let mode = fs::metadata(root).context("look at", root)?.mode();
        Ok(if mode & SET_GROUP == 0 { Self::Owner } else { Self::Group })
    }

    /// Lets the group do with a file what its owner may, where the store is the group's.
    ///
    /// # Errors
    /// Where a file of one's own cannot be given.
    pub(super) fn give(self, file: &File, mode: u32) -> io::Result<()> {
        if self == Self::Owner {
            return Ok(());
        }
        let meta = file.metadata()?;
        let wanted = mode | 0o060;
        // Another user of the group has given it already.
        if meta.mode() & wanted == wanted || !is_ours(&meta) {
            return Ok(());
        }
        file.set_permissions(Permissions::from_mode(meta.mode() & 0o7777 | wanted))
    }

    /// Makes a directory that is not there, with a mode for a store of its owner.
    pub(super) fn directory(self, path: &Path, mode: u32) -> Result<(), FileError> {
        if path.is_dir() {
            return Ok(());
        }
        files::make_directory(path, mode)?;
        let meta = fs::metadata(path).context("look at", path)?;
        if self == Self::Group && is_ours(&meta) {
            let mode = Permissions::from_mode(mode | 0o070 | SET_GROUP);
            fs::set_permissions(path, mode).context("share", path)?;
        }
        Ok(())
    }

    /// A medium on which new files are the store's.
    pub(super) fn medium(self, medium: Arc<dyn Medium>) -> Arc<dyn Medium> {
        match self {
            Self::Owner => medium,
            Self::Group => Arc::new(OfGroup(medium)),
        }
    }
}

fn is_ours(meta: &Metadata) -> bool {
    meta.uid() == rustix::process::geteuid().as_raw()
}

/// A medium whose new files may be written by the group.
struct OfGroup(Arc<dyn Medium>);

impl Medium for OfGroup {
    fn create(&self, path: &Path, shared: bool) -> io::Result<File> {
        let file = self.0.create(path, shared)?;
        Access::Group.give(&file, if shared { 0o664 } else { 0o660 })?;
        Ok(file)
    }

    fn write(&self, file: &File, path: &Path, bytes: &[u8]) -> io::Result<()> {
        self.0.write(file, path, bytes)
    }

    fn sync(&self, file: &File, path: &Path) -> io::Result<()> {
        self.0.sync(file, path)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.0.rename(from, to)
    }

    fn sync_directory(&self, directory: &Path) -> io::Result<()> {
        self.0.sync_directory(directory)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        self.0.remove(path)
    }
}

/// Why a place cannot hold a store.
#[derive(Debug, thiserror::Error, miette::Diagnostic)]
pub(super) enum Refused {
    #[error(transparent)]
    #[diagnostic(transparent)]
    Site(#[from] SiteError),
    #[error(transparent)]
    #[diagnostic(transparent)]
    File(#[from] FileError),
}

/// Looks whether a directory, which exists, may be a store, with those in it that decide.
pub(super) fn check(root: &Path) -> Result<(), Refused> {
    let link = fs::symlink_metadata(root).context("look at", root)?;
    let meta = fs::metadata(root).context("look at", root)?;
    // A link of the directory's owner leads nobody astray: what lies there is the owner's anyway.
    let trusted = [0, rustix::process::geteuid().as_raw(), meta.uid()];
    if link.is_symlink() && !trusted.contains(&link.uid()) {
        return Err(SiteError::ForeignLink { path: root.to_owned() }.into());
    }
    for path in ["", "objects", "refs", "work"].map(|name| root.join(name)) {
        if fs::metadata(&path).is_ok_and(|meta| meta.mode() & OTHERS_WRITE != 0) {
            return Err(SiteError::WorldWritable { path }.into());
        }
    }
    // A host that does not say what is mounted is taken for one with local disks.
    let Ok(mounts) = fs::read_to_string("/proc/self/mountinfo") else { return Ok(()) };
    let real = fs::canonicalize(root).context("look at", root)?;
    let path = root.to_owned();
    match mounted_at(&mounts, &real).map_or(Locks::Hold, |mounted| locks(&mounted)) {
        Locks::Hold => Ok(()),
        Locks::Local { kind } => Err(SiteError::Network { path, kind }.into()),
        Locks::NotMounted { kind } => Err(SiteError::Lockless { path, kind }.into()),
    }
}

/// The file system that a path lies on.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Mounted {
    /// Its type.
    kind: String,
    /// Its options, of the mount and of the file system, between commas.
    options: String,
}

/// What the locks of a file system are worth.
#[derive(Debug, PartialEq, Eq)]
enum Locks {
    /// They keep out everybody who can write there.
    Hold,
    /// They hold on one host only, and others can write there.
    Local { kind: String },
    /// They would hold everywhere if it were mounted so.
    NotMounted { kind: String },
}

/// The file system of an absolute path without links, from the text of `/proc/self/mountinfo`.
fn mounted_at(mounts: &str, path: &Path) -> Option<Mounted> {
    let mut found: Option<(PathBuf, Mounted)> = None;
    // Source: proc_pid_mountinfo(5): number, parent, device, root, mount point, options, optional
    // fields, `-`, type, source, options of the file system.
    for line in mounts.lines() {
        let Some((left, right)) = line.split_once(" - ") else { continue };
        let mut left = left.split(' ').skip(4);
        let (Some(point), Some(own)) = (left.next(), left.next()) else { continue };
        let mut right = right.split(' ');
        let (Some(kind), all) = (right.next(), right.nth(1).unwrap_or_default()) else { continue };
        let point = PathBuf::from(unescaped(point));
        // What was mounted later lies above what was mounted at the same place before.
        let covers = found.as_ref().is_none_or(|(known, _)| point.starts_with(known));
        if path.starts_with(&point) && covers {
            let mounted = Mounted { kind: kind.to_owned(), options: format!("{own},{all}") };
            found = Some((point, mounted));
        }
    }
    found.map(|(_, mounted)| mounted)
}

/// A path of `mountinfo`, where blanks and backslashes are octal.
fn unescaped(text: &str) -> String {
    let escapes = [("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")];
    escapes.iter().fold(text.to_owned(), |text, (code, plain)| text.replace(code, plain))
}

fn locks(mounted: &Mounted) -> Locks {
    let kind = mounted.kind.clone();
    match kind.as_str() {
        "nfs" | "nfs4" | "cifs" | "smb3" | "smbfs" | "afs" | "coda" | "ncpfs" | "9p"
        | "virtiofs" | "vboxsf" | "fuse.sshfs" | "fuse.rclone" | "fuse.s3fs" | "fuse.gcsfuse"
        | "fuse.glusterfs" | "davfs" | "fuse.davfs2" | "fuse.curlftpfs" => Locks::Local { kind },
        "lustre" if !mounted.options.split(',').any(|option| option == "flock") => {
            Locks::NotMounted { kind }
        }
        _ => Locks::Hold,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MOUNTS: &str = "\
22 27 0:21 / /proc rw,relatime - proc proc rw
27 1 254:0 / / rw,relatime - ext4 /dev/vda rw
30 27 0:50 / /home rw,relatime shared:1 - nfs4 server:/home rw,vers=4.2
31 30 254:1 / /home/me/fast rw shared:2 master:3 - xfs /dev/vdb rw
32 27 0:51 / /mnt/a\\040b rw - cifs //server/share rw
33 27 0:52 / /work rw - lustre 10.0.0.1@tcp:/work rw,flock,lazystatfs
34 27 0:53 / /other rw - lustre 10.0.0.1@tcp:/other rw,localflock
35 27 0:54 / /shared rw - ceph 10.0.0.1:/ rw
36 27 0:55 / /twice rw - nfs server:/a rw
37 36 254:2 / /twice rw - ext4 /dev/vdc rw
38 27 0:56 / /ssh rw - fuse.sshfs me@server: rw
";

    fn of(path: &str) -> Locks {
        locks(&mounted_at(MOUNTS, Path::new(path)).unwrap())
    }

    #[test]
    fn locks_are_believed_where_they_hold_between_hosts() {
        let local = |kind: &str| Locks::Local { kind: kind.to_owned() };
        assert_eq!(of("/var/cache/kiln"), Locks::Hold);
        assert_eq!(of("/home/me/cache"), local("nfs4"));
        assert_eq!(of("/homestead"), Locks::Hold, "a name that starts alike is another");
        assert_eq!(of("/home/me/fast/cache"), Locks::Hold, "the innermost mount counts");
        assert_eq!(of("/mnt/a b/c"), local("cifs"));
        assert_eq!(of("/work/cache"), Locks::Hold);
        assert_eq!(of("/other/cache"), Locks::NotMounted { kind: "lustre".to_owned() });
        assert_eq!(of("/shared/cache"), Locks::Hold);
        assert_eq!(of("/twice/cache"), Locks::Hold, "the later mount lies above");
        assert_eq!(of("/ssh"), local("fuse.sshfs"));
    }

    #[test]
    fn what_is_no_mountinfo_says_nothing() {
        for text in ["", "a\nb c\n", "1 2 3 / / rw\n", "1 2 3 / - ext4\n"] {
            assert_eq!(mounted_at(text, Path::new("/a")), None, "{text}");
        }
    }

    #[test]
    fn a_directory_that_everybody_may_write_to_is_no_store() {
        let directory = tempfile::tempdir().unwrap();
        let objects = directory.path().join("objects");
        fs::create_dir(&objects).unwrap();
        assert!(check(directory.path()).is_ok());
        for path in [objects.as_path(), directory.path()] {
            fs::set_permissions(path, Permissions::from_mode(0o777)).unwrap();
            let refused = check(directory.path());
            let Err(Refused::Site(SiteError::WorldWritable { path: found })) = refused else {
                panic!("{refused:?}");
            };
            assert_eq!(found, path);
            fs::set_permissions(path, Permissions::from_mode(0o755)).unwrap();
        }
    }

    #[test]
    fn a_link_is_followed_if_it_is_the_owners() {
        let directory = tempfile::tempdir().unwrap();
        let (store, link) = (directory.path().join("store"), directory.path().join("link"));
        fs::create_dir(&store).unwrap();
        std::os::unix::fs::symlink(&store, &link).unwrap();
        assert!(check(&link).is_ok());
        // Only root can make somebody else's link.
        assert!(rustix::process::geteuid().is_root(), "run as root");
        std::os::unix::fs::lchown(&link, Some(1234), None).unwrap();
        assert!(matches!(check(&link), Err(Refused::Site(SiteError::ForeignLink { .. }))));
        std::os::unix::fs::chown(&store, Some(1234), None).unwrap();
        assert!(check(&link).is_ok(), "what it leads to is the same user's");
    }

    /// All that another user of the group may not write to.
    fn closed_to_the_group(root: &Path, group: u32) -> String {
        use std::os::unix::process::CommandExt;
        let mut find = std::process::Command::new("find");
        let find = find.arg(root).args(["!", "-writable"]).uid(54_321).gid(group);
        let output = find.output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }

    #[test]
    fn a_store_of_a_group_can_be_written_by_everybody_in_it() {
        use crate::name::ImageName;
        use crate::store::refs::{Built, Pin};
        use crate::store::work::{ActionLock, Work};
        use crate::store::{Store, gc, samples};

        const GROUP: u32 = 54_322;
        let directory = tempfile::tempdir().unwrap();
        fs::set_permissions(directory.path(), Permissions::from_mode(0o755)).unwrap();
        let root = directory.path().join("store");
        fs::create_dir(&root).unwrap();
        std::os::unix::fs::chown(&root, None, Some(GROUP)).unwrap();
        fs::set_permissions(&root, Permissions::from_mode(0o2775)).unwrap();
        let store = Store::open(&root).unwrap();
        let work = Work::new(&store).unwrap();
        let state = samples::layer(&store, &work, 1, None);
        store.pin(&"p".parse().unwrap(), &Pin { state, what: String::new(), at: 7 }).unwrap();
        let image: ImageName = "web".parse().unwrap();
        store.refs().note_build(&image, Built { at: 7, state, sealed: true }).unwrap();
        let _lock = ActionLock::try_take(&store, samples::key(1)).unwrap();
        gc::collect(&store, &crate::recipe::Retention::default(), gc::now()).unwrap();
        assert_eq!(closed_to_the_group(&root, GROUP), "");
        let results = store.results().unwrap();
        let placement = results.placement(state).unwrap();
        let mode = |path: &Path| fs::metadata(path).unwrap().mode() & 0o7777;
        // Others may read what they could read before, and no more.
        assert_eq!(mode(&store.objects().path(placement.data.unwrap())), 0o660);
        assert_eq!(mode(&store.objects().path(placement.index)), 0o664);
        assert_eq!(mode(&root.join("logs")), 0o2770);
        assert_eq!(mode(&store.partial()), 0o2770);
        assert_eq!(mode(work.path()), 0o2770);
        assert_eq!(mode(&root.join("objects")), 0o2775);
    }

    #[test]
    fn a_store_of_its_owner_is_not_given_away() {
        let directory = tempfile::tempdir().unwrap();
        let root = directory.path().join("store");
        let store = crate::store::Store::open(&root).unwrap();
        for entry in walkdir::WalkDir::new(store.root()) {
            let mode = entry.unwrap().metadata().unwrap().mode();
            assert_eq!(mode & 0o022, 0);
        }
    }
}
