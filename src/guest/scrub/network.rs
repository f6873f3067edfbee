//! What ties the configuration of networks to one machine: hardware addresses and host names.

use std::ops::ControlFlow;

use rustix::fs::FileType;

use super::{LIMIT, SCRUB, TiedFile, Work};
use crate::guest::error::{GuestError, shown};
use crate::guest::root::{FileAttributes, GuestRoot};

const IFCFG: &str = "/etc/sysconfig/network-scripts/ifcfg-*";
const IFCFG_OF_SUSE: &str = "/etc/sysconfig/network/ifcfg-*";
const KEYFILES: [&str; 2] = [
    "/etc/NetworkManager/system-connections/*",
    "/usr/lib/NetworkManager/system-connections/*.nmconnection",
];
const NETWORKD: [&str; 3] = [
    "/etc/systemd/network/*.network",
    "/etc/systemd/network/*.network.d/*.conf",
    "/etc/systemd/network/*.link",
];
const NETPLAN: [&str; 2] = ["/etc/netplan/*.yaml", "/etc/netplan/*.yml"];

/// Files that may tie a network to a hardware address.
struct Tie {
    /// Where they are.
    patterns: &'static [&'static str],
    /// Such a file without addresses; `None` where that would change what else it means.
    untie: fn(&[u8]) -> Option<Vec<u8>>,
    /// Why a file at a path is left as it is.
    kept: fn(&str) -> String,
}

const TIES: [Tie; 4] = [
    Tie {
        patterns: &[IFCFG, IFCFG_OF_SUSE],
        untie: |text| Some(without_lines(text, |line| is_assignment(line, b"HWADDR"))),
        kept: |_| String::new(),
    },
    Tie {
        patterns: &KEYFILES,
        untie: |text| Some(without_address_of_keyfile(text)),
        kept: |_| String::new(),
    },
    Tie {
        patterns: &NETWORKD,
        untie: without_match_on_address,
        kept: |path| format!("{path} applies to nothing but a hardware address"),
    },
    Tie {
        patterns: &NETPLAN,
        untie: without_netplan_address,
        kept: |path| format!("a `macaddress` of {path} stands alone in its `match`"),
    },
];

/// The configuration files that tie a network to a hardware address, in the order of their kinds.
pub(super) fn tied(root: &GuestRoot) -> Result<Vec<TiedFile>, GuestError> {
    let mut found = Vec::new();
    for Tie { patterns, untie, kept: _ } in &TIES {
        for pattern in *patterns {
            root.glob(SCRUB, pattern, &mut |place| {
                if root.is_file(place.path()) {
                    let text = root.read(place.path(), LIMIT)?;
                    let untied = untie(&text);
                    if untied.as_deref() != Some(&text) {
                        let path = shown(place.path());
                        found.push(TiedFile { path, stays: untied.is_none() });
                    }
                }
                Ok(())
            })?;
        }
    }
    Ok(found)
}

impl Work<'_> {
    /// An empty rules file keeps old generators of udev from writing another one.
    pub(super) fn persistent_net(&mut self) -> Result<(), GuestError> {
        let rules = "/etc/udev/rules.d/70-persistent-net.rules";
        if let Some(place) = self.place(rules)?
            && place.meta(SCRUB)?.is_none()
        {
            place.replace(SCRUB, FileAttributes::default(), false, |_| Ok(()))?;
            self.report.emptied.push(rules.to_owned());
        }
        let generator = "75-persistent-net-generator.rules";
        for path in [
            rules.to_owned(),
            format!("/etc/udev/rules.d/{generator}"),
            format!("/lib/udev/rules.d/{generator}"),
            format!("/usr/lib/udev/rules.d/{generator}"),
        ] {
            // A link to /dev/null does what an empty file does.
            if self.root.lstat(&path)?.is_some_and(|meta| meta.kind == FileType::RegularFile) {
                let place = self.root.place(SCRUB, &path)?;
                self.empty(&place)?;
            }
        }
        Ok(())
    }

    pub(super) fn hostnames(&mut self) -> Result<(), GuestError> {
        self.edit_all(&[IFCFG], |_, _, before| {
            without_lines(before, |line| {
                is_assignment(line, b"HOSTNAME") || is_assignment(line, b"DHCP_HOSTNAME")
            })
        })
    }

    pub(super) fn hardware_addresses(&mut self) -> Result<(), GuestError> {
        for Tie { patterns, untie, kept } in &TIES {
            self.edit_all(patterns, |work, place, before| {
                untie(before).unwrap_or_else(|| {
                    work.keep(&kept(&shown(place.path())));
                    before.to_vec()
                })
            })?;
        }
        Ok(())
    }
}

fn lines(text: &[u8]) -> impl Iterator<Item = &[u8]> {
    text.split_inclusive(|&byte| byte == b'\n')
}

fn without_lines(text: &[u8], goes: impl Fn(&[u8]) -> bool) -> Vec<u8> {
    lines(text).filter(|line| !goes(line)).flatten().copied().collect()
}

/// The key and the value of a line, without blanks around them.
fn assignment(line: &[u8]) -> Option<(&[u8], &[u8])> {
    let at = line.iter().position(|&byte| byte == b'=')?;
    Some((line[..at].trim_ascii(), line[at + 1..].trim_ascii()))
}

/// Whether a line of a shell's file sets a variable, however its name is spelled.
fn is_assignment(line: &[u8], variable: &[u8]) -> bool {
    let key = assignment(line).map_or(&b""[..], |(key, _)| key);
    let key = key.strip_prefix(b"export ").unwrap_or(key).trim_ascii_start();
    key.eq_ignore_ascii_case(variable)
}

/// The name of the section that a line starts.
fn section(line: &[u8]) -> Option<&[u8]> {
    line.trim_ascii().strip_prefix(b"[")?.strip_suffix(b"]")
}

/// A keyfile of `NetworkManager` without the address that ties an Ethernet or Wi-Fi connection to one
/// device. Source: nm-settings-keyfile(5), `802-3-ethernet.mac-address`.
fn without_address_of_keyfile(text: &[u8]) -> Vec<u8> {
    let mut inside = false;
    let mut after = Vec::with_capacity(text.len());
    for line in lines(text) {
        if let Some(name) = section(line) {
            inside = matches!(name, b"ethernet" | b"wifi" | b"802-3-ethernet" | b"802-11-wireless");
        }
        let address = assignment(line).is_some_and(|(key, _)| key == b"mac-address");
        if !(inside && address) {
            after.extend_from_slice(line);
        }
    }
    after
}

/// A file of networkd or udev without the addresses that its `[Match]` sections want; `None` where
/// such a section would want nothing then, and so match every interface or none. Source:
/// systemd.network(5), systemd.link(5).
fn without_match_on_address(text: &[u8]) -> Option<Vec<u8>> {
    let (mut inside, mut wants_address, mut wants_more) = (false, false, false);
    let mut after = Vec::with_capacity(text.len());
    for line in lines(text) {
        if let Some(name) = section(line) {
            inside = name == b"Match";
        } else if inside && !line.trim_ascii_start().starts_with(b"#") {
            match assignment(line) {
                // An empty value takes back what an earlier file wants.
                Some((b"MACAddress" | b"PermanentMACAddress", value)) if !value.is_empty() => {
                    wants_address = true;
                    continue;
                }
                Some((_, value)) => wants_more |= !value.is_empty(),
                None => {}
            }
        }
        after.extend_from_slice(line);
    }
    if !wants_address {
        return Some(text.to_vec());
    }
    wants_more.then_some(after)
}

/// A file of netplan without the addresses in its `match` blocks; `None` where one stands in a block
/// of one line, or alone, so that no interface would be named without it.
///
/// A block is seen by its indentation, as it is written by people and by cloud-init; in all other
/// forms of YAML the word `macaddress` is found and nothing is changed. Addresses outside of `match`
/// are those that an interface is to have.
fn without_netplan_address(text: &[u8]) -> Option<Vec<u8>> {
    let all: Vec<&[u8]> = lines(text).collect();
    let mut goes = vec![false; all.len()];
    for (at, line) in all.iter().enumerate() {
        let said = content(line);
        let Some(rest) = said.strip_prefix(b"match:") else { continue };
        if !rest.trim_ascii().is_empty() {
            if rest.windows(10).any(|word| word == b"macaddress") {
                return None;
            }
            continue;
        }
        let (mut addresses, mut others) = (Vec::new(), 0);
        let mut depth = None;
        let _ = all.iter().enumerate().skip(at + 1).try_for_each(|(number, line)| {
            if content(line).is_empty() {
                return ControlFlow::Continue(());
            }
            let indent = indent(line);
            if indent <= self::indent(all[at]) {
                return ControlFlow::Break(());
            }
            if content(line).starts_with(b"macaddress:") && *depth.get_or_insert(indent) == indent {
                addresses.push(number);
            } else {
                depth.get_or_insert(indent);
                others += 1;
            }
            ControlFlow::Continue(())
        });
        if addresses.is_empty() {
            continue;
        }
        if others == 0 {
            return None;
        }
        for number in addresses {
            goes[number] = true;
        }
    }
    let kept = all.iter().zip(goes).filter(|(_, goes)| !goes);
    Some(kept.flat_map(|(line, _)| line.iter().copied()).collect())
}

/// What a line of YAML says, without its indentation and without a comment that is all it holds.
fn content(line: &[u8]) -> &[u8] {
    let said = line.trim_ascii();
    if said.starts_with(b"#") { b"" } else { said }
}

fn indent(line: &[u8]) -> usize {
    line.iter().take_while(|&&byte| byte == b' ').count()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(bytes: Vec<u8>) -> String {
        String::from_utf8(bytes).unwrap()
    }

    #[test]
    fn variables_go_however_they_are_written() {
        let goes = |line: &str| is_assignment(line.as_bytes(), b"HWADDR");
        for line in [
            "HWADDR=00:11\n",
            " HWADDR=\"00:11\"\n",
            "HWADDR='00:11'",
            "hwaddr=00:11",
            "export HWADDR=00:11",
        ] {
            assert!(goes(line), "{line}");
        }
        for line in ["# HWADDR=00:11", "MACADDR=00:11", "HWADDR_POLICY=x", "HWADDR", "=HWADDR"] {
            assert!(!goes(line), "{line}");
        }
    }

    #[test]
    fn a_connection_is_untied_from_its_device() {
        let before = "[connection]\nid=a\nmac-address=no\n[ethernet]\nmac-address=00:11\n\
            cloned-mac-address=random\n[wifi]\nmac-address = 00:11\nssid=x\n[ipv4]\nmac-address=y\n";
        let after = text(without_address_of_keyfile(before.as_bytes()));
        let wanted = "[connection]\nid=a\nmac-address=no\n[ethernet]\ncloned-mac-address=random\n\
            [wifi]\nssid=x\n[ipv4]\nmac-address=y\n";
        assert_eq!(after, wanted);
    }

    #[test]
    fn a_match_loses_its_address_only_if_more_is_left() {
        let after = |before: &str| without_match_on_address(before.as_bytes()).map(text);
        let both = "[Match]\nName=en*\nMACAddress=00:11\n[Link]\nMACAddress=00:22\n";
        let wanted = "[Match]\nName=en*\n[Link]\nMACAddress=00:22\n";
        assert_eq!(after(both).as_deref(), Some(wanted));
        assert_eq!(after("[Match]\nPermanentMACAddress=00:11\n[Network]\nDHCP=yes\n"), None);
        for same in ["[Match]\nMACAddress=\n", "[Link]\nMACAddress=00:11", "# MACAddress=x\n", ""] {
            assert_eq!(after(same).as_deref(), Some(same));
        }
    }

    #[test]
    fn netplan_is_changed_only_where_that_is_safe() {
        let after = |before: &str| without_netplan_address(before.as_bytes()).map(text);
        let both = "network:\n  ethernets:\n    a:\n      match:\n        name: en*\n\n        \
            macaddress: 00:11\n      macaddress: 00:22\n";
        let wanted = "network:\n  ethernets:\n    a:\n      match:\n        name: en*\n\n      \
            macaddress: 00:22\n";
        assert_eq!(after(both).as_deref(), Some(wanted));
        let alone = "a:\n  match:\n    # the first card\n    macaddress: 00:11\n  set-name: a\n";
        assert_eq!(after(alone), None);
        assert_eq!(after("a:\n  match: {macaddress: 00:11}\n"), None);
        for same in ["a:\n  macaddress: 00:11\n", "a:\n  match: {name: x}\n", "match:", "", "\t- ["]
        {
            assert_eq!(after(same).as_deref(), Some(same));
        }
    }

    proptest::proptest! {
        #[test]
        fn edits_take_lines_away_and_settle(text: Vec<u8>, words in "([ \\n=:#\\[\\]]|Match|match|macaddress|MACAddress|x){0,40}") {
            for before in [text, words.into_bytes()] {
                let keyfile = without_address_of_keyfile(&before);
                proptest::prop_assert_eq!(&without_address_of_keyfile(&keyfile), &keyfile);
                if let Some(after) = without_match_on_address(&before) {
                    proptest::prop_assert!(after.len() <= before.len());
                    proptest::prop_assert_eq!(without_match_on_address(&after), Some(after));
                }
                if let Some(after) = without_netplan_address(&before) {
                    proptest::prop_assert!(after.len() <= before.len());
                    proptest::prop_assert_eq!(without_netplan_address(&after), Some(after));
                }
            }
        }
    }
}
