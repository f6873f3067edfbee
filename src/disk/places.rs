//! Where a guest has its file systems: its root, by what a root holds, and the rest by its `fstab`.
//!
//! Each file system is mounted for a moment to be looked at; what stays mounted is `mounts`'.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use rustix::fs::OFlags;

use super::fstab;
use super::mounts::{FileSystem, MountError, Mounted, Place, Rest, mount_one, open_in, unmount};
use crate::files::Context;
use crate::name::GuestPath;

/// Largest `fstab` that is read, in bytes.
const MAX_FSTAB: u64 = 1 << 20;

/// What of a disk is mounted, and what is not though its fstab has it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Places {
    /// The file systems and their places: root first, each before those that are mounted below it.
    pub mounted: Vec<Place>,
    /// EFI system partitions for which the host's kernel has no file system: a guest's files are
    /// whole without them.
    pub left_out: Vec<GuestPath>,
}

/// Finds the root among the file systems of a disk, and all that its `fstab` has on the same disk.
/// `scratch` is an empty directory of the host, on which each is mounted for a moment, read-only.
///
/// # Errors
/// Where there is no root or more than one, or the `fstab` names what the disk does not hold.
pub fn find(systems: &[FileSystem], scratch: &Path) -> Result<Places, MountError> {
    let slash = GuestPath::root();
    let mut candidates = Vec::new();
    for system in systems.iter().filter(|system| Rest::of(&system.kind) == Some(Rest::Freeze)) {
        let subvolumes: &[Option<&str>] =
            if system.kind == "btrfs" { &[None, Some("@"), Some("root")] } else { &[None] };
        for subvolume in subvolumes {
            let place = Place {
                system: system.clone(),
                target: slash.clone(),
                subvolume: subvolume.map(str::to_owned),
            };
            match mount_one(&place, scratch, true) {
                Ok(()) => {}
                // Only the first attempt says whether the file system as such can be mounted.
                Err(_) if subvolume.is_some() => continue,
                Err(error) => return Err(error),
            }
            let others = looks_like_a_root(scratch).then(|| from_fstab(systems, scratch));
            unmount(scratch, &slash)?;
            if let Some(others) = others {
                candidates.push((place, others));
                break;
            }
        }
    }
    let describe = |system: &FileSystem| match system.partition {
        Some(number) => format!("partition {number} ({})", system.kind),
        None => format!("the whole disk ({})", system.kind),
    };
    match candidates.len() {
        1 => {
            let (root, others) = candidates.remove(0);
            let mut places = others?;
            places.mounted.insert(0, root);
            Ok(places)
        }
        0 => {
            let mut found: Vec<_> = systems.iter().map(describe).collect();
            if found.is_empty() {
                found.push("it has no file system at all".to_owned());
            }
            Err(MountError::NoRoot { found })
        }
        _ => {
            let found = candidates.iter().map(|(place, _)| describe(&place.system)).collect();
            Err(MountError::ManyRoots { found })
        }
    }
}

/// What the fstab of a mounted root has on its disk beside the root, in the order of mounting.
fn from_fstab(systems: &[FileSystem], root: &Path) -> Result<Places, MountError> {
    let path: GuestPath = "/etc/fstab".parse().expect("a path");
    let file = match open_in(root, &path, OFlags::RDONLY | OFlags::NONBLOCK) {
        Ok(file) => File::from(file),
        Err(rustix::io::Errno::NOENT) => return Ok(Places::default()),
        Err(error) => return Err(error).context("open", Path::new("/etc/fstab"))?,
    };
    let mut bytes = Vec::new();
    file.take(MAX_FSTAB).read_to_end(&mut bytes).context("read", Path::new("/etc/fstab"))?;
    of_fstab(systems, &String::from_utf8_lossy(&bytes), &kernel_has)
}

/// What an fstab has on its disk beside the root. `has` tells whether a kind can be mounted at all.
fn of_fstab(
    systems: &[FileSystem],
    text: &str,
    has: &dyn Fn(&str) -> bool,
) -> Result<Places, MountError> {
    let mut places = Places::default();
    for entry in fstab::parse(text) {
        let Ok(target) = entry.target.parse::<GuestPath>() else { continue };
        if target.as_str() == "/" || entry.is_elsewhere() {
            continue;
        }
        let may_lack = entry.has("nofail") || entry.has("noauto");
        match fstab::find(systems, &entry.spec) {
            Some(system) if Rest::of(&system.kind).is_none() && may_lack => {}
            Some(system) if Rest::of(&system.kind).is_none() => {
                let kind = system.kind.clone();
                return Err(MountError::Unsupported { kind, target });
            }
            Some(system) if is_esp(system, &target, may_lack) && !has(&system.kind) => {
                places.left_out.push(target);
            }
            Some(system) => places.mounted.push(Place {
                system: system.clone(),
                target,
                subvolume: entry.option("subvol"),
            }),
            None if may_lack => {}
            None => return Err(MountError::NoDevice { spec: entry.spec, target }),
        }
    }
    places.mounted.sort_by_key(|place| place.target.components().count());
    Ok(places)
}

/// Whether a file system is an EFI system partition, by its kind and place. On `/boot` it holds
/// kernels too, so that only the guest's own word lets it be missing.
fn is_esp(system: &FileSystem, target: &GuestPath, may_lack: bool) -> bool {
    system.kind == "vfat"
        && match target.as_str() {
            "/boot/efi" | "/efi" => true,
            "/boot" => may_lack,
            _ => false,
        }
}

/// Whether a guest's fstab has the same on the disk as is mounted; `false` where it cannot be told any
/// more.
#[must_use]
pub fn is_current(mounted: &Mounted, systems: &[FileSystem]) -> bool {
    let now = from_fstab(systems, mounted.root());
    now.is_ok_and(|now| now.mounted.iter().eq(mounted.places().skip(1)))
}

/// Whether the host's kernel has a kind of file system, if need be as a module.
fn kernel_has(kind: &str) -> bool {
    let context = rustix::mount::fsopen(kind, rustix::mount::FsOpenFlags::FSOPEN_CLOEXEC);
    !matches!(context, Err(rustix::io::Errno::NODEV))
}

fn looks_like_a_root(root: &Path) -> bool {
    let has = |path: &str| {
        let path = path.parse().expect("a path");
        open_in(root, &path, OFlags::PATH).is_ok()
    };
    let config = has("/etc/os-release") || has("/usr/lib/os-release") || has("/etc/fstab");
    config && has("/etc") && (has("/usr") || has("/bin"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn system(number: u32, kind: &str) -> FileSystem {
        FileSystem {
            device: format!("/dev/loop0p{number}").into(),
            kind: kind.to_owned(),
            uuid: Some(format!("id-{number}")),
            label: None,
            partition_uuid: None,
            partition_label: None,
            partition: Some(number),
        }
    }

    #[test]
    fn an_fstab_is_followed() {
        let systems = [system(1, "ext4"), system(2, "vfat"), system(3, "xfs"), system(4, "swap")];
        let shown = |text: &str, has_fat: bool| match of_fstab(&systems, text, &|_| has_fat) {
            Ok(places) => {
                let mounted: Vec<_> =
                    places.mounted.iter().map(|place| place.target.to_string()).collect();
                let left_out: Vec<_> = places.left_out.iter().map(ToString::to_string).collect();
                format!("{} - {}", mounted.join(" "), left_out.join(" "))
            }
            Err(error) => error.to_string(),
        };
        let text = "UUID=id-1 / ext4 defaults 0 1\nUUID=id-2 /boot/efi vfat umask=0077 0 1\n\
                    UUID=id-4 none swap sw 0 0\nUUID=id-3 /srv xfs defaults 0 0\n";
        assert_eq!(shown(text, true), "/srv /boot/efi - ");
        assert_eq!(shown(text, false), "/srv - /boot/efi");
        // Only an EFI system partition can be missed.
        let data = text.replace("/boot/efi", "/data");
        assert_eq!(shown(&data, false), "/data /srv - ");
        let boot = "UUID=id-2 /boot vfat defaults 0 2\n";
        assert_eq!(shown(boot, false), "/boot - ");
        assert_eq!(shown(&boot.replace("defaults", "nofail"), false), " - /boot");
        let swap = "UUID=id-4 /data ext4 defaults 0 0\n";
        assert_eq!(shown(swap, true), "`/etc/fstab` mounts a swap file system on `/data`");
        assert_eq!(shown(&swap.replace("defaults", "nofail"), true), " - ");
        let other = "UUID=id-9 /data ext4 defaults 0 0\n";
        let missing = "`/etc/fstab` mounts `UUID=id-9` on `/data`, which this disk does not hold";
        assert_eq!(shown(other, true), missing);
    }
}
