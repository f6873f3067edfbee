//! Facts about a guest, read from its tree: distribution, architecture, package manager, init.
//!
//! It runs nothing and changes nothing, and does not know the recipe.

use std::collections::BTreeMap;
use std::io::Read;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::architecture::Architecture;
use super::error::{GuestError, escaped};
use super::root::GuestRoot;

/// Largest os-release that is read, in bytes; real ones have less than 1 KiB.
const LARGEST_OS_RELEASE: u64 = 64 << 10;
/// Longest value of os-release that is kept, in characters.
const LONGEST_VALUE: usize = 200;

/// What is known of a guest. Texts are escaped and short; they may be shown as they are.
///
/// The facts are those of one moment: a step may install systemd or another package manager, so they
/// are read anew for each step and for the seal.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Guest {
    /// `ID` of os-release, such as `debian`; empty where there is none.
    pub id: String,
    /// `VERSION_ID`, such as `12`; empty where there is none.
    pub version: String,
    /// `PRETTY_NAME`, else id and version.
    pub pretty_name: String,
    /// The family of distributions.
    pub family: Family,
    /// What its programs are compiled for; `None` for a disk that holds no programs yet.
    pub architecture: Option<Architecture>,
    /// Its package manager, if it is one that kiln drives.
    pub package_manager: Option<PackageManager>,
    /// Its first process.
    pub init: Init,
    /// The version of systemd, where it could be told from the name of its library.
    pub systemd: Option<u32>,
}

/// A family of distributions that keep their files in the same places.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Family {
    /// Debian, Ubuntu and what is made from them.
    Debian,
    /// Fedora and RHEL, with all rebuilds.
    RedHat,
    /// openSUSE and SLES.
    Suse,
    /// Alpine.
    Alpine,
    /// Arch Linux.
    Arch,
    /// Any other.
    Other,
}

/// A package manager that kiln drives.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PackageManager {
    /// Debian's.
    Apt,
    /// Fedora's and RHEL's since 8, version 4 or 5.
    Dnf,
    /// RHEL's up to 7.
    Yum,
    /// SUSE's.
    Zypper,
    /// Alpine's, version 2 or 3.
    Apk,
    /// Arch Linux's.
    Pacman,
}

impl PackageManager {
    /// All of them.
    pub const ALL: [Self; 6] =
        [Self::Apt, Self::Dnf, Self::Yum, Self::Zypper, Self::Apk, Self::Pacman];
}

/// What starts a guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Init {
    /// systemd.
    Systemd,
    /// `OpenRC`.
    OpenRc,
    /// System V init, or busybox's.
    SysV,
    /// Something else or nothing.
    Unknown,
}

impl Init {
    /// Its name in a message.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Systemd => "systemd",
            Self::OpenRc => "OpenRC",
            Self::SysV => "System V init",
            Self::Unknown => "an unknown init system",
        }
    }
}

impl Guest {
    /// Reads the facts.
    ///
    /// # Errors
    /// [`GuestError::NotARoot`] where no Linux system is; [`GuestError::TooLarge`] and the kernel's.
    pub fn inspect(root: &GuestRoot) -> Result<Self, GuestError> {
        let missing = |missing| Err(GuestError::NotARoot { missing });
        if !root.is_directory("/etc") {
            return missing("it has no directory `/etc`");
        }
        let architecture = architecture(root)?;
        // An empty disk that is to become a system has an fstab before it has programs.
        if architecture.is_none() && !root.is_file("/etc/fstab") {
            return missing(
                "it has no program `/bin/sh`, `/usr/bin/env`, `/bin/busybox` or `/sbin/init`, and no `/etc/fstab`",
            );
        }
        let release = os_release(root)?;
        let value = |key: &str| release.get(key).cloned().unwrap_or_default();
        let (id, version) = (value("ID"), value("VERSION_ID"));
        let family = family(root, &id, &value("ID_LIKE"));
        let pretty_name = match value("PRETTY_NAME") {
            name if name.is_empty() && id.is_empty() => "an unnamed Linux system".to_owned(),
            name if name.is_empty() => format!("{id} {version}").trim_end().to_owned(),
            name => name,
        };
        let init = init(root)?;
        let package_manager = package_manager(root, family, &id, &version);
        let systemd = systemd_version(root)?;
        Ok(Self { id, version, pretty_name, family, architecture, package_manager, init, systemd })
    }

    /// The package manager.
    ///
    /// # Errors
    /// [`GuestError::NoPackageManager`] where none was found that kiln drives.
    pub fn expect_package_manager(&self) -> Result<PackageManager, GuestError> {
        let none = || GuestError::NoPackageManager { system: self.pretty_name.clone() };
        self.package_manager.ok_or_else(none)
    }

    /// Makes sure that the guest's programs can run on this host.
    ///
    /// # Errors
    /// [`GuestError::Architecture`], and [`GuestError::NoPrograms`].
    pub fn check_runs_here(&self) -> Result<(), GuestError> {
        let host = Architecture::host();
        match self.architecture {
            Some(guest) if host.runs(guest) => Ok(()),
            Some(guest) => Err(GuestError::Architecture { guest: guest.name(), host: host.name() }),
            None => Err(GuestError::NoPrograms),
        }
    }
}

fn architecture(root: &GuestRoot) -> Result<Option<Architecture>, GuestError> {
    let programs = [
        "/bin/sh",
        "/usr/bin/env",
        "/bin/busybox",
        "/usr/bin/bash",
        "/sbin/init",
        "/usr/lib/systemd/systemd",
    ];
    for path in programs {
        if !root.is_file(path) {
            continue;
        }
        let mut header = Vec::new();
        let file = root.open_file("read", path)?;
        file.take(20)
            .read_to_end(&mut header)
            .map_err(|error| GuestError::path("read", path, error))?;
        if let Some(architecture) = Architecture::of_elf(&header) {
            return Ok(Some(architecture));
        }
    }
    Ok(None)
}

/// os-release(5) of a guest; no entry where neither file is.
fn os_release(root: &GuestRoot) -> Result<BTreeMap<String, String>, GuestError> {
    for path in ["/etc/os-release", "/usr/lib/os-release"] {
        if root.is_file(path) {
            return Ok(parse_os_release(&root.read(path, LARGEST_OS_RELEASE)?));
        }
    }
    Ok(BTreeMap::new())
}

/// Takes an os-release(5) apart. It comes from the guest, so it is data: no shell sees it, values
/// are cut to 200 characters, and what could drive a terminal is escaped.
#[must_use]
pub fn parse_os_release(text: &[u8]) -> BTreeMap<String, String> {
    let mut values = BTreeMap::new();
    for line in String::from_utf8_lossy(text).split('\n') {
        let line = line.trim();
        let Some((key, value)) = line.split_once('=') else { continue };
        if key.is_empty()
            || !key.bytes().all(|c| c.is_ascii_uppercase() || c.is_ascii_digit() || c == b'_')
        {
            continue;
        }
        let value: String = unquoted(value).chars().take(LONGEST_VALUE).collect();
        values.insert(key.to_owned(), escaped(&value));
    }
    values
}

/// A value without its shell quotes.
fn unquoted(value: &str) -> String {
    let quote = value.chars().next().filter(|c| matches!(c, '"' | '\''));
    let Some(quote) = quote else { return value.to_owned() };
    let mut out = String::new();
    let mut chars = value.chars().skip(1);
    while let Some(c) = chars.next() {
        match c {
            c if c == quote => break,
            '\\' if quote == '"' => out.extend(chars.next()),
            c => out.push(c),
        }
    }
    out
}

fn family(root: &GuestRoot, id: &str, like: &str) -> Family {
    for word in std::iter::once(id).chain(like.split_whitespace()) {
        match word {
            "debian" | "ubuntu" => return Family::Debian,
            "fedora" | "rhel" | "centos" | "rocky" | "almalinux" | "ol" | "amzn" => {
                return Family::RedHat;
            }
            "suse" | "opensuse" | "sles" => return Family::Suse,
            "alpine" => return Family::Alpine,
            "arch" => return Family::Arch,
            word if word.starts_with("opensuse-") => return Family::Suse,
            _ => {}
        }
    }
    let marks = [
        ("/etc/debian_version", Family::Debian),
        ("/etc/redhat-release", Family::RedHat),
        ("/etc/SuSE-release", Family::Suse),
        ("/etc/alpine-release", Family::Alpine),
        ("/etc/arch-release", Family::Arch),
    ];
    marks.iter().find(|(path, _)| root.is_file(path)).map_or(Family::Other, |(_, family)| *family)
}

/// The package manager, by family and by what is installed: RHEL before 8 has yum even where
/// somebody added dnf.
fn package_manager(
    root: &GuestRoot,
    family: Family,
    id: &str,
    version: &str,
) -> Option<PackageManager> {
    use PackageManager::{Apk, Apt, Dnf, Pacman, Yum, Zypper};
    let installed = |manager: &PackageManager| {
        let paths: &[&str] = match manager {
            Apt => &["/usr/bin/apt-get"],
            Dnf => &["/usr/bin/dnf", "/usr/bin/dnf5"],
            Yum => &["/usr/bin/yum"],
            Zypper => &["/usr/bin/zypper"],
            Apk => &["/sbin/apk", "/usr/bin/apk"],
            Pacman => &["/usr/bin/pacman"],
        };
        paths.iter().any(|path| root.is_file(path))
    };
    let major: u32 =
        version.split('.').next().and_then(|major| major.parse().ok()).unwrap_or(u32::MAX);
    let order: &[PackageManager] = match family {
        Family::Debian => &[Apt],
        Family::RedHat if id != "fedora" && id != "amzn" && major < 8 => &[Yum],
        Family::RedHat => &[Dnf, Yum],
        Family::Suse => &[Zypper],
        Family::Alpine => &[Apk],
        Family::Arch => &[Pacman],
        // A Debian or Fedora may hold another family's tool, never the reverse of its own.
        Family::Other => &[Apt, Dnf, Yum, Zypper, Apk, Pacman],
    };
    order.iter().copied().find(installed)
}

fn init(root: &GuestRoot) -> Result<Init, GuestError> {
    let systemd =
        ["/usr/lib/systemd/systemd", "/lib/systemd/systemd"].iter().any(|path| root.is_file(path));
    let there = root.lstat("/sbin/init")?.is_some();
    let target = root.read_link("/sbin/init")?;
    let leads_to =
        |name: &str| target.as_deref().and_then(Path::file_name).is_some_and(|file| file == name);
    if systemd && (leads_to("systemd") || !there) {
        return Ok(Init::Systemd);
    }
    if root.is_file("/sbin/openrc") || root.is_file("/usr/bin/openrc") || leads_to("openrc-init") {
        return Ok(Init::OpenRc);
    }
    // A program of its own, or busybox; a directory of scripts alone starts nothing.
    let own = target.is_none() || leads_to("busybox");
    if there && own && (root.is_file("/etc/inittab") || root.is_directory("/etc/init.d")) {
        return Ok(Init::SysV);
    }
    Ok(Init::Unknown)
}

/// systemd's version from the name of its library, `libsystemd-shared-252.so`, `…-252.22-1.fc37.so`.
fn systemd_version(root: &GuestRoot) -> Result<Option<u32>, GuestError> {
    let mut version = None;
    for directory in
        ["/usr/lib/systemd", "/lib/systemd", "/usr/lib/*/systemd", "/usr/lib64/systemd"]
    {
        root.glob("look for", &format!("{directory}/libsystemd-shared-*.so"), &mut |place| {
            let name = place.name().to_string_lossy();
            let digits: String = name["libsystemd-shared-".len()..]
                .chars()
                .take_while(char::is_ascii_digit)
                .collect();
            version = version.max(digits.parse().ok());
            Ok(())
        })?;
    }
    Ok(version)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn os_release_is_data() {
        let text = b"# c\nID=debian\nPRETTY_NAME=\"a \\\"b\\\" $(rm -rf /) \x1b[31m\xe2\x80\xae\"\nNAME='x\\'y\nlower=1\n=2\nVERSION_ID=\"12\"\r\n";
        let values = parse_os_release(text);
        assert_eq!(values["ID"], "debian");
        assert_eq!(values["PRETTY_NAME"], "a \"b\" $(rm -rf /) \\u{1b}[31m\\u{202e}");
        assert_eq!(values["NAME"], "x\\");
        assert_eq!(values["VERSION_ID"], "12");
        assert_eq!(values.len(), 4);
    }

    #[test]
    fn an_empty_disk_is_a_guest_without_programs() {
        let directory = tempfile::tempdir().unwrap();
        let root = GuestRoot::open(directory.path()).unwrap();
        std::fs::create_dir(directory.path().join("etc")).unwrap();
        assert!(matches!(Guest::inspect(&root), Err(GuestError::NotARoot { .. })));
        std::fs::write(directory.path().join("etc/fstab"), "").unwrap();
        let guest = Guest::inspect(&root).unwrap();
        assert_eq!((guest.architecture, guest.package_manager), (None, None));
        assert!(matches!(guest.check_runs_here(), Err(GuestError::NoPrograms)));
    }

    proptest! {
        #[test]
        fn no_bytes_panic(text: Vec<u8>) {
            let _ = parse_os_release(&text);
        }
    }
}
