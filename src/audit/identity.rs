//! What no two machines may share.

use rustix::fs::FileType;

use super::{Subject, Verdict, matching, some, text};
use crate::guest::{GuestError, scrub};

pub(super) fn machine_id(subject: Subject<'_>) -> Result<Verdict, GuestError> {
    let root = subject.root;
    let mut there = Vec::new();
    for path in ["/etc/machine-id", "/var/lib/dbus/machine-id"] {
        // A link leads to the other one.
        let Some(meta) = root.lstat(path)? else { continue };
        if meta.kind != FileType::RegularFile {
            continue;
        }
        let id = text(root, path)?.unwrap_or_default();
        let id = id.trim();
        if !id.is_empty() && id != "uninitialized" {
            there.push(path.to_owned());
        }
    }
    Ok(match there.as_slice() {
        [] => Verdict::Pass("no machine id is set".to_owned()),
        there => Verdict::Fail(format!("a machine id stands in {}", some(there))),
    })
}

pub(super) fn host_keys(subject: Subject<'_>) -> Result<Verdict, GuestError> {
    let Subject { root, guest, .. } = subject;
    let keys = matching(root, "/etc/ssh/ssh_host_*_key*")?;
    let maker = scrub::maker_of_host_keys(root, guest)?;
    if !keys.is_empty() {
        return Ok(Verdict::Fail(format!("there are {}", some(&keys))));
    }
    if !root.is_directory("/etc/ssh") {
        return Ok(Verdict::NotApplicable("there is no `/etc/ssh`".to_owned()));
    }
    Ok(match maker {
        Some(maker) => Verdict::Pass(format!("there are none, and {maker} makes new ones")),
        None => Verdict::Fail("there are none, and nothing makes new ones at boot".to_owned()),
    })
}

/// What a machine, or whoever made the image, may have left. Source: the operations of
/// virt-sysprep(1).
const LEFTOVERS: [&str; 9] = [
    "/var/lib/systemd/random-seed",
    "/var/lib/urandom/random-seed",
    "/var/lib/dhcp/*.leases",
    "/var/lib/dhclient/*.leases",
    "/var/lib/NetworkManager/*.lease",
    "/tmp/builder.log",
    "/etc/pki/entitlement/*.pem",
    "/etc/pki/consumer/*.pem",
    "/.autorelabel",
];

pub(super) fn leftovers(subject: Subject<'_>) -> Result<Verdict, GuestError> {
    let mut found = Vec::new();
    for pattern in LEFTOVERS {
        for path in matching(subject.root, pattern)? {
            // An empty file of leases says nothing.
            let leases = path.ends_with(".leases");
            let empty = subject.root.lstat(&path)?.is_some_and(|meta| meta.size == 0);
            if !(leases && empty) {
                found.push(path);
            }
        }
    }
    Ok(match found.as_slice() {
        [] => Verdict::Pass("nothing is left".to_owned()),
        found => Verdict::Fail(format!("there are {}", some(found))),
    })
}
