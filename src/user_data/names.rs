//! Outermost names of cloud-config: those that cloud-init knows, and what becomes of one that two
//! parts have.
//!
//! Sources: cloud-init, `cloudinit/config/schemas/schema-cloud-config-v1.json` and "Module reference";
//! `cloudinit/handlers/cloud_config.py` and `cloudinit/mergers`.

use std::collections::BTreeMap;

use serde_json::Value;

use super::Piece;
use super::part::CONFIG;
use crate::mistake::{Mistake, nearest};
use crate::source::Span;
use crate::yaml;

/// How a part is merged so that the lists of both parts count.
const BOTH: &str = "list(append)+dict(recurse_array)+str()";
/// The names. cloud-init takes any other too, and does nothing about it. Two are written with `-` as
/// well, and no others: `package-update` is none.
const NAMES: [&str; 106] = [
    "allow_public_ssh_keys",
    "ansible",
    "apk_repos",
    "apt",
    "apt_pipelining",
    "apt_reboot_if_required",
    "apt_update",
    "apt_upgrade",
    "authkey_hash",
    "autoinstall",
    "bootcmd",
    "byobu_by_default",
    "ca-certs",
    "ca_certs",
    "chef",
    "chpasswd",
    "cloud_config_modules",
    "cloud_final_modules",
    "cloud_init_modules",
    "create_hostname_file",
    "datasource",
    "datasource_list",
    "device_aliases",
    "disable_ec2_metadata",
    "disable_root",
    "disable_root_opts",
    "disk_setup",
    "drivers",
    "fan",
    "final_message",
    "fqdn",
    "fs_setup",
    "groups",
    "growpart",
    "grub-dpkg",
    "grub_dpkg",
    "hostname",
    "keyboard",
    "landscape",
    "launch-index",
    "locale",
    "locale_configfile",
    "lxd",
    "manage_etc_hosts",
    "manage_resolv_conf",
    "mcollective",
    "merge_how",
    "merge_type",
    "migrate",
    "mount_default_fields",
    "mounts",
    "network",
    "no_ssh_fingerprints",
    "ntp",
    "output",
    "package_reboot_if_required",
    "package_update",
    "package_upgrade",
    "packages",
    "password",
    "phone_home",
    "power_state",
    "prefer_fqdn_over_hostname",
    "preserve_hostname",
    "puppet",
    "random_seed",
    "reporting",
    "resize_rootfs",
    "resolv_conf",
    "rh_subscription",
    "rpi",
    "rsyslog",
    "runcmd",
    "salt_minion",
    "snap",
    "spacewalk",
    "ssh",
    "ssh_authorized_keys",
    "ssh_deletekeys",
    "ssh_fp_console_blacklist",
    "ssh_genkeytypes",
    "ssh_import_id",
    "ssh_key_console_blacklist",
    "ssh_keys",
    "ssh_publish_hostkeys",
    "ssh_pwauth",
    "ssh_quiet_keygen",
    "sudo",
    "swap",
    "syslog_fix_perms",
    "system_info",
    "timezone",
    "ubuntu_advantage",
    "ubuntu_autoinstall",
    "ubuntu_pro",
    "unverified_modules",
    "updates",
    "user",
    "users",
    "vendor_data",
    "vendor_data2",
    "wireguard",
    "write_files",
    "yum_repo_dir",
    "yum_repos",
    "zypper",
];

/// A name that cloud-init does not know, and nearly does.
pub(super) fn unknown(text: &str) -> Option<(String, String)> {
    let pairs = yaml::pairs(text)?;
    pairs.keys().filter(|name| !NAMES.contains(&name.as_str())).find_map(|name| {
        let near = nearest(name, NAMES.iter().copied())?;
        Some((
            format!("cloud-init knows no `{}`, and says nothing about that", name.escape_debug()),
            format!("did you mean `{near}`?"),
        ))
    })
}

/// How a part is merged with those before it, as it says itself.
#[derive(Debug, Default)]
struct Merging {
    /// Of lists, which stay as they are where nothing is said of them.
    lists: Option<Vec<String>>,
    maps: Vec<String>,
    texts: Vec<String>,
}

impl Merging {
    /// What `merge_how` or `merge_type` says: a text such as `list(append)+dict()`, or a list of names
    /// and settings.
    fn of(pairs: &BTreeMap<String, Value>) -> Option<Self> {
        let said = pairs.get("merge_how").or_else(|| pairs.get("merge_type"))?;
        let mut merging = Self::default();
        let mut set = |name: &str, options: Vec<String>| match name.trim() {
            "list" => merging.lists = Some(options),
            "dict" => merging.maps = options,
            "str" => merging.texts = options,
            _ => {}
        };
        match said {
            Value::String(text) => {
                for merger in text.split('+') {
                    let (name, rest) = merger.split_once('(').unwrap_or((merger, ""));
                    let options = rest.trim_end().trim_end_matches(')').split(',');
                    set(name, options.map(|option| option.trim().to_owned()).collect());
                }
            }
            Value::Array(mergers) => {
                for merger in mergers {
                    let (name, settings) = match merger {
                        Value::Array(pair) => (pair.first(), pair.get(1)),
                        other => (other.get("name"), other.get("settings")),
                    };
                    let settings = settings.and_then(Value::as_array).into_iter().flatten();
                    let options = settings.filter_map(Value::as_str).map(str::to_owned).collect();
                    set(name.and_then(Value::as_str).unwrap_or_default(), options);
                }
            }
            _ => return None,
        }
        Some(merging)
    }

    /// Which of two values cloud-init keeps, where one is lost that somebody did not ask for.
    fn kept(&self, value: &Value) -> Option<&'static str> {
        let has = |options: &[String], wanted: &[&str]| {
            options.iter().any(|option| wanted.contains(&option.as_str()))
        };
        if has(&self.maps, &["replace"]) {
            return None;
        }
        match (value, &self.lists) {
            (Value::Object(_), _) => None,
            (Value::Array(_), Some(lists))
                if has(&self.maps, &["recurse_array", "recurse_list"]) =>
            {
                let whole = has(lists, &["append", "prepend"]);
                let first = has(lists, &["no_replace"]);
                (!whole).then_some(if first { "first" } else { "last" })
            }
            (Value::String(_), _)
                if has(&self.maps, &["recurse_str"]) && has(&self.texts, &["append"]) =>
            {
                None
            }
            _ => Some("first"),
        }
    }
}

/// Names that two parts give, of which cloud-init takes one: the last, as one text of YAML would have
/// it; the first where the second says how to merge, and not this name.
pub(super) fn lost(pieces: &[Piece]) -> Vec<Mistake> {
    let mut seen: BTreeMap<String, (Value, Span)> = BTreeMap::new();
    let mut lints = Vec::new();
    for piece in pieces.iter().filter(|piece| piece.media_type == CONFIG) {
        let text = str::from_utf8(&piece.content).unwrap_or_default();
        let pairs = yaml::pairs(text).unwrap_or_default();
        let merging = Merging::of(&pairs);
        for (name, value) in pairs {
            if matches!(name.as_str(), "merge_how" | "merge_type") {
                continue;
            }
            let Some((earlier, first)) = seen.insert(name.clone(), (value.clone(), piece.span))
            else {
                continue;
            };
            let kept = merging.as_ref().map_or(Some("last"), |merging| merging.kept(&value));
            if let Some(kept) = kept.filter(|_| earlier != value) {
                lints.push(lost_name(&name, kept, value.is_array(), piece.span, first));
            }
        }
    }
    lints
}

fn lost_name(name: &str, kept: &str, is_list: bool, span: Span, first: Span) -> Mistake {
    let message = format!("two parts have `{}`: cloud-init keeps the {kept}", name.escape_debug());
    let help = if is_list {
        format!("write them in one part, or add `merge_how: {BOTH}` to the second")
    } else {
        "write it in one of them".to_owned()
    };
    Mistake::at(span, "kiln::user_data::lost_name", message, "the second")
        .and(first, "the first")
        .help(help)
        .warning()
}
