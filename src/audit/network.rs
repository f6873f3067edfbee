//! What ties a guest's network to one machine's hardware.

use super::files::{Look, is_hidden, matching, some, text};
use super::{Subject, Verdict};
use crate::guest::scrub;

const RULES: &str = "/etc/udev/rules.d/70-persistent-net.rules";
const GENERATOR: &str = "75-persistent-net-generator.rules";

/// Where the generator is: what udev runs, unless a file of its name in `/etc` hides it.
fn generators(subject: Subject<'_>) -> Look<Vec<String>> {
    let mut there = Vec::new();
    for directory in ["/usr/lib/udev/rules.d", "/lib/udev/rules.d"] {
        let path = format!("{directory}/{GENERATOR}");
        if is_hidden(subject.root, &path)? {
            continue;
        }
        if text(subject.root, &path)?.is_some_and(|text| !text.trim().is_empty()) {
            there.push(path);
            // Where `/lib` is a link, the other one is the same file.
            break;
        }
    }
    Ok(there)
}

pub(super) fn persistent(subject: Subject<'_>) -> Look<Verdict> {
    // A link to it is a mask, as for the generator.
    if is_hidden(subject.root, RULES)? {
        return Ok(Verdict::Pass(format!("`{RULES}` is hidden")));
    }
    match text(subject.root, RULES)? {
        Some(text) => Ok(if text.trim().is_empty() {
            Verdict::Pass(format!("`{RULES}` is empty"))
        } else {
            Verdict::Fail(format!("`{RULES}` ties names to hardware addresses"))
        }),
        None if generators(subject)?.is_empty() => {
            Ok(Verdict::Pass("there are no such rules, and nothing writes them".to_owned()))
        }
        None => Ok(Verdict::Fail(format!("`{RULES}` is not there: udev would write it anew"))),
    }
}

pub(super) fn generator(subject: Subject<'_>) -> Look<Verdict> {
    let generators = generators(subject)?;
    if generators.is_empty() {
        return Ok(Verdict::Pass("nothing writes such rules".to_owned()));
    }
    let hidden = format!("/etc/udev/rules.d/{GENERATOR}");
    let null = is_hidden(subject.root, &hidden)?;
    let empty = !null && text(subject.root, &hidden)?.is_some_and(|text| text.trim().is_empty());
    Ok(if null || empty {
        Verdict::Pass(format!("`{hidden}` hides it"))
    } else {
        Verdict::Fail(format!("{} writes names and hardware addresses", some(&generators)))
    })
}

/// What cloud-init writes for the machine on which it runs, and writes anew on another.
pub(super) const OF_CLOUD_INIT: [&str; 2] =
    ["/etc/netplan/50-cloud-init.yaml", "/etc/systemd/network/10-cloud-init-"];

pub(super) fn hardware_addresses(subject: Subject<'_>) -> Look<Verdict> {
    let found = scrub::with_hardware_address(subject.root)?;
    for pattern in ["/etc/sysconfig/network-scripts/ifcfg-*", "/etc/netplan/*.y*ml"] {
        // Whether there is anything to look at is worth saying.
        if found.is_empty() && !matching(subject.root, pattern)?.is_empty() {
            return Ok(Verdict::Pass(format!("no hardware address in `{pattern}`")));
        }
    }
    let paths: Vec<String> = found.into_iter().map(|file| file.path).collect();
    Ok(match paths.as_slice() {
        [] => Verdict::Pass("no configuration names a hardware address".to_owned()),
        paths => Verdict::Fail(format!("hardware addresses stand in {}", some(paths))),
    })
}
