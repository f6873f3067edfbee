//! cloud-init in a guest: whether it runs, where it looks, whom it lets in, and how the root grows.
//!
//! Sources: cloud-init's documentation, "Base configuration", "How to disable cloud-init", and the
//! module reference for `growpart`, `resizefs` and `ssh`.

use serde_json::{Map, Value};

use super::units::{Unit, unit};
use super::{Subject, Verdict, boot, matching, some, text};
use crate::guest::GuestError;
use crate::guest::inspect::Init;

const CONFIG: &str = "/etc/cloud/cloud.cfg";
const MORE: &str = "/etc/cloud/cloud.cfg.d/*.cfg";
const DISABLED: &str = "/etc/cloud/cloud-init.disabled";
/// The units that do its work. The second is `cloud-init-network` since 24.3.
const UNITS: [&[&str]; 4] = [
    &["cloud-init-local.service"],
    &["cloud-init.service", "cloud-init-network.service"],
    &["cloud-config.service"],
    &["cloud-final.service"],
];

/// Whether it is installed, enabled and not switched off.
pub(super) fn installed(subject: Subject<'_>) -> Result<Verdict, GuestError> {
    let Subject { root, guest, .. } = subject;
    let program = ["/usr/bin/cloud-init", "/usr/local/bin/cloud-init"];
    let Some(program) = program.iter().find(|path| root.is_file(path)) else {
        return Ok(Verdict::Fail("there is no `/usr/bin/cloud-init`".to_owned()));
    };
    if root.lstat(DISABLED)?.is_some() {
        return Ok(Verdict::Fail(format!("`{DISABLED}` switches it off")));
    }
    if boot::has_anywhere(root, "cloud-init=disabled")? {
        return Ok(Verdict::Fail("a boot entry has `cloud-init=disabled`".to_owned()));
    }
    for names in UNITS {
        let mut states = Vec::new();
        for name in names {
            states.push((name, unit(root, guest, name)?));
        }
        if states.iter().any(|(_, state)| *state == Unit::Enabled) {
            continue;
        }
        let seen = match states.iter().find(|(_, state)| *state != Unit::Absent) {
            Some((name, Unit::Masked)) => format!("`{name}` is masked"),
            Some((name, _)) => format!("nothing starts `{name}`"),
            None if guest.init == Init::Systemd => format!("there is no unit `{}`", names[0]),
            // Other init systems have fewer scripts, under other names.
            None => continue,
        };
        return Ok(Verdict::Fail(seen));
    }
    Ok(Verdict::Pass(format!("`{program}`, and its units are enabled")))
}

/// What its configuration says: `cloud.cfg`, with the files beside it laid over it by their names.
/// A file that is no YAML mapping says nothing, as for cloud-init itself.
pub(super) fn config(subject: Subject<'_>) -> Result<Map<String, Value>, GuestError> {
    let mut files = vec![CONFIG.to_owned()];
    files.extend(matching(subject.root, MORE)?);
    let mut merged = Map::new();
    for path in files {
        let text = text(subject.root, &path)?.unwrap_or_default();
        if let Some(Value::Object(object)) = yaml(&text) {
            lay_over(&mut merged, object);
        }
    }
    Ok(merged)
}

/// A guest's YAML, within the bounds of the parser on depth, aliases and size.
fn yaml(text: &str) -> Option<Value> {
    serde_saphyr::from_str(text).ok()
}

fn lay_over(below: &mut Map<String, Value>, above: Map<String, Value>) {
    for (key, value) in above {
        match (below.get_mut(&key), value) {
            (Some(Value::Object(below)), Value::Object(above)) => lay_over(below, above),
            (_, value) => {
                below.insert(key, value);
            }
        }
    }
}

/// What YAML 1.1, which cloud-init reads, takes for false.
pub(super) fn is_false(value: &Value) -> bool {
    match value {
        Value::Bool(flag) => !flag,
        Value::String(text) => {
            matches!(text.to_ascii_lowercase().as_str(), "false" | "no" | "off" | "0")
        }
        Value::Number(number) => number.as_i64() == Some(0),
        _ => false,
    }
}

fn texts(value: Option<&Value>) -> Vec<String> {
    let list = value.and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    let text = |value: &Value| match value {
        // A module may have its frequency beside it.
        Value::Array(pair) => pair.first().and_then(Value::as_str).map(str::to_owned),
        value => value.as_str().map(str::to_owned),
    };
    list.iter().filter_map(text).collect()
}

/// Whether one of its lists of modules has a module.
pub(super) fn has_module(subject: Subject<'_>, name: &str) -> Result<bool, GuestError> {
    let config = config(subject)?;
    let lists = ["cloud_init_modules", "cloud_config_modules", "cloud_final_modules"];
    Ok(lists
        .iter()
        .any(|list| texts(config.get(*list)).iter().any(|module| module.replace('-', "_") == name)))
}

pub(super) fn datasources(subject: Subject<'_>, wanted: &[String]) -> Result<Verdict, GuestError> {
    if !subject.root.is_file(CONFIG) {
        return Ok(Verdict::Fail(format!("there is no `{CONFIG}`")));
    }
    let config = config(subject)?;
    let list = texts(config.get("datasource_list"));
    if list.is_empty() {
        return Ok(Verdict::Pass("no list is set: cloud-init tries all it knows".to_owned()));
    }
    let missing: Vec<_> = wanted.iter().filter(|name| !list.contains(name)).cloned().collect();
    let seen = format!("`datasource_list` is {}", some(&list));
    Ok(match missing.as_slice() {
        [] => Verdict::Pass(seen),
        missing => Verdict::Fail(format!("{seen}, without {}", some(missing))),
    })
}

pub(super) fn default_user(
    subject: Subject<'_>,
    wanted: Option<&str>,
) -> Result<Verdict, GuestError> {
    if !subject.root.is_file(CONFIG) {
        return Ok(Verdict::Fail(format!("there is no `{CONFIG}`")));
    }
    let config = config(subject)?;
    let old =
        config.get("user").and_then(|user| user.as_str().or_else(|| user.get("name")?.as_str()));
    let own =
        config.get("system_info").and_then(|info| info.get("default_user")?.get("name")?.as_str());
    let Some(name) = old.or(own) else {
        return Ok(Verdict::Fail("cloud-init has no default user".to_owned()));
    };
    let shown = name.escape_debug();
    Ok(match wanted {
        Some(wanted) if wanted != name => {
            Verdict::Fail(format!("the default user is `{shown}`, and `{wanted}` is wanted"))
        }
        _ => Verdict::Pass(format!("keys go to `{shown}`")),
    })
}

/// Where an initramfs is told to make the root partition larger.
const INITRAMFS: [&str; 3] = [
    "/usr/share/initramfs-tools/hooks/growroot",
    "/usr/share/initramfs-tools/scripts/local-bottom/growroot",
    "/usr/lib/dracut/modules.d/50growroot/module-setup.sh",
];
/// Where a script for LVM may stand.
const SCRIPTS: [&str; 5] = [
    "/etc/rc.local",
    "/etc/rc.d/rc.local",
    "/usr/local/sbin/*",
    "/usr/local/bin/*",
    "/etc/init.d/*",
];

pub(super) fn growth(subject: Subject<'_>) -> Result<Verdict, GuestError> {
    let root = subject.root;
    if subject.disk.partitions.iter().any(|part| part.kind.as_deref() == Some("LVM2_member")) {
        for pattern in SCRIPTS {
            for path in matching(root, pattern)? {
                let Ok(Some(text)) = text(root, &path) else { continue };
                let does = ["pvcreate", "vgextend", "lvextend"];
                if does.iter().all(|word| text.contains(word)) {
                    return Ok(Verdict::Pass(format!("`{path}` gives LVM what is free")));
                }
            }
        }
        return Ok(Verdict::Fail("the root is on LVM, and no script makes it larger".to_owned()));
    }
    if let Some(path) = INITRAMFS.iter().find(|path| root.is_file(path)) {
        return Ok(Verdict::Pass(format!("the initramfs does it: `{path}`")));
    }
    let growpart = ["/usr/bin/growpart", "/usr/sbin/growpart"];
    let Some(growpart) = growpart.iter().find(|path| root.is_file(path)) else {
        return Ok(Verdict::Fail("there is no program `growpart`".to_owned()));
    };
    let cloud = installed(subject)?;
    if !matches!(cloud, Verdict::Pass(_)) {
        return Ok(Verdict::Fail(format!(
            "`{growpart}` is there, and cloud-init does not run: {}",
            cloud.seen()
        )));
    }
    for module in ["growpart", "resizefs"] {
        if !has_module(subject, module)? {
            return Ok(Verdict::Fail(format!("cloud-init's module `{module}` is not enabled")));
        }
    }
    let config = config(subject)?;
    let mode = config.get("growpart").and_then(|grow| grow.get("mode"));
    if mode.is_some_and(|mode| is_false(mode) || mode.as_str() == Some("off")) {
        return Ok(Verdict::Fail("cloud-init has `growpart: {mode: off}`".to_owned()));
    }
    if config.get("resize_rootfs").is_some_and(is_false) {
        return Ok(Verdict::Fail("cloud-init has `resize_rootfs: false`".to_owned()));
    }
    Ok(Verdict::Pass(format!("cloud-init, with `{growpart}`")))
}
