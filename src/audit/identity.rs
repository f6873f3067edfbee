//! What no two machines may share.

use rustix::fs::FileType;

use super::files::{Look, matching, some, text};
use super::{Subject, Verdict};
use crate::guest::scrub;
use crate::recipe::ScrubItem;

pub(super) fn machine_id(subject: Subject<'_>) -> Look<Verdict> {
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

/// The host keys of a guest, and whether something makes new ones of each kind that it has.
pub(super) struct HostKeys {
    keys: Vec<String>,
    /// What makes new ones, for people.
    maker: Option<String>,
    /// Whether the seal removes all that are there.
    pub(super) go: bool,
}

impl HostKeys {
    /// Whether there are any.
    pub(super) fn has_keys(&self) -> bool {
        !self.keys.is_empty()
    }
}

pub(super) fn keys(subject: Subject<'_>) -> Look<HostKeys> {
    let Subject { root, guest, .. } = subject;
    let mut keys = Vec::new();
    for pattern in scrub::HOST_KEYS {
        keys.extend(matching(root, pattern)?);
    }
    keys.sort();
    keys.dedup();
    let dropbear = matching(root, scrub::DROPBEAR_KEYS)?;
    let maker = scrub::maker_of_host_keys(root, guest)?;
    let by_dropbear = scrub::makes_dropbear_keys(root)?;
    let go = (keys.is_empty() || maker.is_some()) && (dropbear.is_empty() || by_dropbear);
    keys.extend(dropbear);
    let maker = maker.or_else(|| by_dropbear.then(|| "Dropbear".to_owned()));
    Ok(HostKeys { keys, maker, go })
}

pub(super) fn host_keys(subject: Subject<'_>) -> Look<Verdict> {
    let HostKeys { keys, maker, go } = keys(subject)?;
    if !keys.is_empty() {
        let more = if go { "" } else { ", and nothing would make new ones" };
        return Ok(Verdict::Fail(format!("there are {}{more}", some(&keys))));
    }
    let root = subject.root;
    if !root.is_directory("/etc/ssh") && !root.is_directory("/etc/dropbear") {
        return Ok(Verdict::NotApplicable("there is no `/etc/ssh`".to_owned()));
    }
    Ok(match maker {
        Some(maker) => Verdict::Pass(format!("there are none, and {maker} makes new ones")),
        None => Verdict::Fail("there are none, and nothing makes new ones at boot".to_owned()),
    })
}

/// What the seal removes of these is left by a machine, or by whoever made the image.
const LEFT: [ScrubItem; 5] = [
    ScrubItem::RandomSeed,
    ScrubItem::DhcpClientState,
    ScrubItem::PackageManagerCache,
    ScrubItem::RhSubscriptionManager,
    ScrubItem::BuildLeftovers,
];
/// What makes a guest label its files at the next boot, which the seal has done.
const RELABEL: &str = "/.autorelabel";

pub(super) fn leftovers(subject: Subject<'_>) -> Look<Verdict> {
    let mut found = matching(subject.root, RELABEL)?;
    for item in LEFT {
        found.extend(scrub::left(subject.root, item)?);
    }
    Ok(match found.as_slice() {
        [] => Verdict::Pass("nothing is left".to_owned()),
        found => Verdict::Fail(format!("there are {}", some(found))),
    })
}
