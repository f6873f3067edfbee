//! What makes a requirement met: steps of a recipe, as text, chosen by the guest.
//!
//! The text is what a user would write, goes through the same lowering, and is what `--fix` writes
//! and what the step `profile` performs.

mod boot;
mod cloud;
mod login;
pub(super) mod text;
mod units;

use text::{quoted, write};

use super::{Subject, identity};
use crate::guest::scrub;
use crate::recipe::{Check, KeyWay};

/// What to do about a requirement that is not met.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Remedy {
    /// Steps, one a line or more.
    Steps(String),
    /// No step does it; this says what does.
    Advice(&'static str),
}

/// What to do about a table that does not fit its disk.
pub(super) const TABLE: &str = "give the base a `size` that is larger than the disk: kiln then makes the \
                                table and the last file system fit it";
/// What to do about what every seal removes.
pub const LEFT_TO_SEAL: &str =
    "nothing is to be done in a recipe: the seal of every image removes it";
const DIVIDE: &str =
    "no step divides a disk anew: make the image from `base bootstrap` or another base";
const NO_WAY: &str = "kiln knows no way for the package manager and the init system of this guest: do \
                      it in a `run-command` step";
const NO_LOADER: &str = "no program of GRUB, and no `grubby`, makes boot entries in this guest: edit the \
                         configuration of its boot loader in a step";
const ADDRESSES: &str = "the seal leaves these files, as they would mean another network without the \
                         address: rewrite them in a step, with names of interfaces such as `en*`, or \
                         delete them";
const HOST_KEYS: &str = "nothing makes new keys at boot, so that the seal leaves those that are there: \
                         install cloud-init, start Dropbear with `-R`, or write a script for the init system that \
                         runs `ssh-keygen -A`";
const EXCEPTION: &str = "a `Match` block of sshd's configuration takes passwords, or the configuration \
                         cannot be read: edit it in a step";
const MODULES: &str =
    "add `growpart` and `resizefs` to `cloud_init_modules` of `/etc/cloud/cloud.cfg`";
const DEFAULT_USER: &str = "name the user: `default-user \"admin\"` in a profile of your own, or write a \
                            file below `/etc/cloud/cloud.cfg.d` whose `users` has `default`";
const CIRROS: &str = "edit `DATASOURCE_LIST` of `/etc/cirros-init/config` in a step";
const GLANCE: &str = "publish the image with the property `auto_disk_config=True`, by which the XenAPI \
                      driver makes its partition fill the disk of the flavor";

/// What to do about a requirement that a guest does not meet.
#[must_use]
pub fn remedy(subject: Subject<'_>, check: &Check) -> Remedy {
    let steps = |text: String| Remedy::Steps(text);
    let or = |text: Option<String>, advice| text.map_or(Remedy::Advice(advice), Remedy::Steps);
    match check {
        Check::CloudInit | Check::SshKey(KeyWay::CloudInit) => or(cloud::runs(subject), NO_WAY),
        Check::Datasources(names) => or(cloud::datasources(subject, names), CIRROS),
        Check::DefaultUser(None) => Remedy::Advice(DEFAULT_USER),
        Check::DefaultUser(Some(user)) => steps(cloud::default_user(subject, user)),
        Check::Growth => match cloud::grows(subject) {
            Ok(text) => Remedy::Steps(text),
            Err(cloud::NoGrowth::Modules) => Remedy::Advice(MODULES),
            Err(cloud::NoGrowth::NoWay) => Remedy::Advice(NO_WAY),
        },
        Check::RootLogin => steps(cloud::no_root()),
        Check::PasswordLogin => or(login::no_passwords(subject), EXCEPTION),
        Check::SshServer => or(login::server(subject), NO_WAY),
        Check::SshKey(KeyWay::Script) => or(login::key_script(subject), NO_WAY),
        Check::Firewall => or(units::disabled(subject, &super::access::FIREWALLS), NO_WAY),
        Check::PartitionTable | Check::RootFills => Remedy::Advice(TABLE),
        Check::RootLast | Check::OnePartition => Remedy::Advice(DIVIDE),
        Check::PersistentNet => steps(write("/etc/udev/rules.d/70-persistent-net.rules", "")),
        Check::NetGenerator => {
            steps(write("/etc/udev/rules.d/75-persistent-net-generator.rules", ""))
        }
        Check::Console(device) => {
            let argument = super::console(subject, device.as_deref());
            or(boot::kernel_argument(subject, &argument), NO_LOADER)
        }
        Check::KernelArgument(argument) => or(boot::kernel_argument(subject, argument), NO_LOADER),
        Check::BootEntries => or(boot::entries(subject), NO_LOADER),
        Check::XenKernel => {
            Remedy::Advice("install a kernel for guests of Xen, such as `kernel-xen`")
        }
        Check::AutoDiskConfig => Remedy::Advice(GLANCE),
        Check::HardwareAddresses => hardware_addresses(subject),
        Check::HostKeys => host_keys(subject),
        Check::MachineId | Check::Leftovers => Remedy::Advice(LEFT_TO_SEAL),
        Check::Package(name) => or(units::installed(subject, name), NO_WAY),
        Check::NoPackage(name) => {
            let known = subject.guest.package_manager.is_some();
            or(known.then(|| format!("uninstall {}", quoted(name))), NO_WAY)
        }
        Check::File { .. } => {
            Remedy::Advice("write the file in a step, or give the requirement a `remedy`")
        }
        Check::NoFile(pattern) => steps(format!("delete {}", quoted(pattern.as_str()))),
        Check::Unit(name) => or(units::enabled(subject, &[name.as_str()]), NO_WAY),
        Check::NoUnit(name) => or(units::disabled(subject, &[name.as_str()]), NO_WAY),
    }
}

/// Keys go with the seal where something makes new ones; else something has to.
fn host_keys(subject: Subject<'_>) -> Remedy {
    let maker = scrub::maker_of_host_keys(subject.root, subject.guest);
    match identity::keys(subject) {
        Ok(found) if found.go && found.has_keys() => Remedy::Advice(LEFT_TO_SEAL),
        // OpenSSH has what it needs: Dropbear's keys are the matter.
        _ if matches!(maker, Ok(Some(_))) => Remedy::Advice(HOST_KEYS),
        _ => login::host_keys(subject).map_or(Remedy::Advice(HOST_KEYS), Remedy::Steps),
    }
}

/// What the seal leaves of hardware addresses is for a step; the rest is the seal's.
fn hardware_addresses(subject: Subject<'_>) -> Remedy {
    let found = scrub::with_hardware_address(subject.root).unwrap_or_default();
    let stay: Vec<String> =
        found.into_iter().filter(|file| file.stays).map(|file| file.path).collect();
    if stay.is_empty() {
        return Remedy::Advice(LEFT_TO_SEAL);
    }
    match cloud::without_own_network(subject, &stay) {
        Some(text) => Remedy::Steps(text),
        None => Remedy::Advice(ADDRESSES),
    }
}
