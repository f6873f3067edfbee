//! What is installed in a guest: the package list of an image's record.
//!
//! It reads the databases of dpkg, apk and pacman itself; rpm's has changed its format four times,
//! so the guest's own `rpm` is asked. It does not know which package a step asked for.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::error::GuestError;
use super::inspect::{Guest, PackageManager};
use super::program::Program;
use super::root::GuestRoot;
use crate::digest::{Digest, Hasher};

/// Largest database that is read, in bytes.
const LIMIT: u64 = 256 << 20;

/// One installed package. The order is that of the fields.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Package {
    /// Its name.
    pub name: String,
    /// Its version as the package manager writes it, with epoch and release.
    pub version: String,
    /// Its architecture as the package manager writes it.
    pub architecture: String,
}

impl std::fmt::Display for Package {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {} {}", self.name, self.version, self.architecture)
    }
}

/// Whose packages they are.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Distribution {
    /// `ID` of os-release, such as `debian`.
    pub id: String,
    /// `VERSION_ID`, such as `12`.
    pub version: String,
    /// What installs its packages.
    pub manager: Option<PackageManager>,
}

impl Distribution {
    /// The distribution of a guest.
    #[must_use]
    pub fn of(guest: &Guest) -> Self {
        let (id, version) = (guest.id.clone(), guest.version.clone());
        Self { id, version, manager: guest.package_manager }
    }
}

/// Everything that is installed in a guest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Inventory {
    /// Whose packages they are.
    pub distribution: Distribution,
    /// They, sorted, without duplicates.
    pub packages: Vec<Package>,
}

/// Where the list is found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Installed {
    /// Here: sorted, without duplicates.
    List(Vec<Package>),
    /// In the output of a guest program; give it to [`parse_rpm`].
    Ask(Program),
}

/// The packages of a guest; an empty list where there is no package manager.
///
/// # Errors
/// Where a database is there and cannot be read.
pub fn installed(root: &GuestRoot, guest: &Guest) -> Result<Installed, GuestError> {
    let list = match guest.package_manager {
        None => Vec::new(),
        Some(PackageManager::Apt) => {
            parse_dpkg(&root.read_if_there("/var/lib/dpkg/status", LIMIT)?.unwrap_or_default())
        }
        Some(PackageManager::Apk) => {
            let mut database = root.read_if_there("/lib/apk/db/installed", LIMIT)?;
            if database.is_none() {
                database = root.read_if_there("/usr/lib/apk/db/installed", LIMIT)?;
            }
            parse_apk(&database.unwrap_or_default())
        }
        Some(PackageManager::Pacman) => {
            let mut packages = Vec::new();
            root.glob("read", "/var/lib/pacman/local/*/desc", &mut |place| {
                packages.extend(parse_pacman(&root.read(place.path(), LIMIT)?));
                Ok(())
            })?;
            packages
        }
        Some(PackageManager::Dnf | PackageManager::Yum | PackageManager::Zypper) => {
            guest.check_runs_here()?;
            return Ok(Installed::Ask(Program::new(["rpm", "-qa", "--queryformat", RPM_FORMAT])));
        }
    };
    Ok(Installed::List(sorted(list)))
}

/// A digest of the database that only a guest's own program can read; `None` where there is none.
///
/// # Errors
/// Where it is there and cannot be read.
pub fn database_digest(root: &GuestRoot) -> Result<Option<Digest>, GuestError> {
    let mut hasher = Hasher::plain();
    let mut found = false;
    // Sources: rpm's own names for its Berkeley, NDB and SQLite databases, where RHEL and where
    // Fedora and SUSE keep them.
    for directory in ["/var/lib/rpm", "/usr/lib/sysimage/rpm"] {
        for name in ["Packages", "Packages.db", "rpmdb.sqlite", "rpmdb.sqlite-wal"] {
            let database = root.read_if_there(format!("{directory}/{name}"), LIMIT)?;
            found |= database.is_some();
            hasher.bytes(&database.unwrap_or_default());
        }
    }
    Ok(found.then(|| hasher.finish()))
}

/// One line per package; an absent epoch is `(none)`.
const RPM_FORMAT: &str = "%{NAME} %{EPOCH}:%{VERSION}-%{RELEASE} %{ARCH}\\n";

fn sorted(mut packages: Vec<Package>) -> Vec<Package> {
    packages.sort_unstable();
    packages.dedup();
    packages
}

/// A value of a database as it may be shown: these files come from the guest.
fn clean(value: &str) -> String {
    super::error::escaped(value.trim()).chars().take(200).collect()
}

/// Paragraphs of `Key: value` lines. Source: deb822(5); the file: dpkg(1), `/var/lib/dpkg/status`.
#[must_use]
pub fn parse_dpkg(status: &[u8]) -> Vec<Package> {
    let text = String::from_utf8_lossy(status);
    let packages = text.split("\n\n").filter_map(|paragraph| {
        let values: BTreeMap<&str, &str> =
            paragraph.lines().filter_map(|line| line.split_once(": ")).collect();
        // The third word is the state; "config-files" and others are of removed packages.
        if values.get("Status")?.split(' ').nth(2) != Some("installed") {
            return None;
        }
        let value = |key| values.get(key).map(|value| clean(value));
        Some(Package {
            name: value("Package")?,
            version: value("Version")?,
            architecture: value("Architecture")?,
        })
    });
    sorted(packages.collect())
}

/// Paragraphs of `P:`, `V:` and `A:` lines. Source: apk(5), "installed database".
#[must_use]
pub fn parse_apk(database: &[u8]) -> Vec<Package> {
    let text = String::from_utf8_lossy(database);
    let packages = text.split("\n\n").filter_map(|paragraph| {
        let value =
            |key: &str| paragraph.lines().find_map(|line| line.strip_prefix(key)).map(clean);
        Some(Package { name: value("P:")?, version: value("V:")?, architecture: value("A:")? })
    });
    sorted(packages.collect())
}

/// One package: `%KEY%` lines, each before its value. Source: pacman's `be_local.c`, file `desc`.
#[must_use]
pub fn parse_pacman(desc: &[u8]) -> Option<Package> {
    let text = String::from_utf8_lossy(desc);
    let value = |key: &str| {
        let mut lines = text.lines().skip_while(|line| *line != key);
        lines.next().and_then(|_| lines.next()).map(clean)
    };
    Some(Package {
        name: value("%NAME%")?,
        version: value("%VERSION%")?,
        architecture: value("%ARCH%")?,
    })
}

/// The output of the program that [`installed`] asks for. Keys that rpm keeps as packages
/// (`gpg-pubkey`) are left out.
#[must_use]
pub fn parse_rpm(output: &[u8]) -> Vec<Package> {
    let text = String::from_utf8_lossy(output);
    let packages = text.lines().filter_map(|line| {
        let mut words = line.split(' ');
        let (name, version, architecture) = (words.next()?, words.next()?, words.next()?);
        let version = version.strip_prefix("(none):").unwrap_or(version);
        let package = Package {
            name: clean(name),
            version: clean(version),
            architecture: clean(architecture),
        };
        (name != "gpg-pubkey").then_some(package)
    });
    sorted(packages.collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn lines(packages: &[Package]) -> Vec<String> {
        packages.iter().map(Package::to_string).collect()
    }

    #[test]
    fn databases_are_read() {
        let dpkg = b"Package: zlib1g\nStatus: install ok installed\nArchitecture: amd64\nVersion: 1:1.2\nDescription: x\n Package: no\n\n\
            Package: gone\nStatus: deinstall ok config-files\nArchitecture: amd64\nVersion: 1\n\n\
            Package: adduser\nStatus: hold ok installed\nArchitecture: all\nVersion: 3.134\n";
        assert_eq!(lines(&parse_dpkg(dpkg)), ["adduser 3.134 all", "zlib1g 1:1.2 amd64"]);
        let apk =
            b"C:Q1\nP:musl\nV:1.2.5-r0\nA:x86_64\nF:lib\n\nP:busybox\nV:1.36-r1\nA:x86_64\n\n";
        assert_eq!(lines(&parse_apk(apk)), ["busybox 1.36-r1 x86_64", "musl 1.2.5-r0 x86_64"]);
        let pacman = b"%NAME%\nbash\n\n%VERSION%\n5.2-1\n\n%ARCH%\nx86_64\n";
        assert_eq!(parse_pacman(pacman).unwrap().to_string(), "bash 5.2-1 x86_64");
        let rpm = b"zlib (none):1.2-1.el9 x86_64\ngpg-pubkey (none):1-2 (none)\nacl 2:2.3-1 x86_64\nodd\n";
        assert_eq!(lines(&parse_rpm(rpm)), ["acl 2:2.3-1 x86_64", "zlib 1.2-1.el9 x86_64"]);
    }

    proptest! {
        #[test]
        fn no_bytes_panic(text: Vec<u8>) {
            let _ = (parse_dpkg(&text), parse_apk(&text), parse_pacman(&text), parse_rpm(&text));
        }
    }
}
