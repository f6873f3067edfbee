//! How cloud-init is installed, enabled and configured.

use serde_json::{Value, json};

use super::boot;
use super::text::write;
use super::units::{self, Tool};
use crate::audit::boot as entries;
use crate::audit::files::matching;
use crate::audit::{Subject, cloud, growth};
use crate::guest::inspect::Init;

const GROW_SCRIPT: &str = include_str!("grow-lvm.sh");
const GROW_UNIT: &str = include_str!("kiln-grow-lvm.service");

fn drop_in(name: &str, content: &str) -> String {
    write(&format!("/etc/cloud/cloud.cfg.d/99_kiln_{name}.cfg"), content)
}

/// The steps that make cloud-init run; `None` where kiln knows no way.
pub(super) fn runs(subject: Subject<'_>) -> Option<String> {
    let mut steps = Vec::new();
    if !cloud::PROGRAMS.iter().any(|path| subject.root.is_file(path)) {
        steps.push(units::installed(subject, "cloud-init")?);
    }
    steps.push("delete \"/etc/cloud/cloud-init.disabled\"".to_owned());
    if matches!(entries::has_anywhere(subject.root, "cloud-init=disabled"), Ok(true)) {
        steps.push(boot::without_switch(subject)?);
    }
    // Only those that the version has.
    if subject.guest.init == Init::Systemd {
        let names = [
            "cloud-init-main.service",
            "cloud-init-local.service",
            "cloud-init.service",
            "cloud-init-network.service",
            "cloud-config.service",
            "cloud-final.service",
        ];
        steps.push(units::enabled(subject, &names)?);
    } else {
        steps.push(units::enabled_early(subject, &["cloud-init-ds-identify", "cloud-init-local"])?);
        steps.push(units::enabled(subject, &["cloud-init", "cloud-config", "cloud-final"])?);
    }
    Some(steps.join("\n"))
}

/// The steps that have cloud-init look for some data sources too; `None` where another program does.
pub(super) fn datasources(subject: Subject<'_>, wanted: &[String]) -> Option<String> {
    if subject.root.is_file(cloud::CONFIG_OF_CIRROS) {
        return None;
    }
    let mut list = cloud::sources(subject).unwrap_or_default();
    list.retain(|name| name != "None");
    let missing: Vec<String> = wanted.iter().filter(|name| !list.contains(name)).cloned().collect();
    list.extend(missing);
    // The last resort, without which an instance on its own waits for nothing.
    list.push("None".to_owned());
    Some(drop_in("datasources", &format!("datasource_list: {}", json!(list))))
}

/// The steps that give cloud-init a default user; JSON is YAML too.
pub(super) fn default_user(subject: Subject<'_>, name: &str) -> String {
    let mut lines = vec![format!("system_info: {}", json!({ "default_user": { "name": name } }))];
    if let Ok(user) = cloud::user(subject) {
        if user.by_user {
            lines.push(format!("user: {}", json!({ "name": name })));
        }
        if let Some(others) = user.others {
            let mut users = vec![Value::from("default")];
            users.extend(others);
            lines.push(format!("users: {}", json!(users)));
        }
    }
    drop_in("user", &lines.join("\n"))
}

/// The steps that keep cloud-init from giving root keys.
pub(super) fn no_root() -> String {
    format!("password \"root\" locked=#true\n{}", drop_in("root", "disable_root: true"))
}

/// Why no step makes a root grow.
pub(super) enum NoGrowth {
    /// cloud-init's configuration has not all modules.
    Modules,
    /// kiln knows no way.
    NoWay,
}

/// The steps that make the root grow at boot.
pub(super) fn grows(subject: Subject<'_>) -> Result<String, NoGrowth> {
    if subject.disk.has_root_on_lvm() {
        let tools = [Tool::Parted, Tool::Gdisk];
        return units::script(subject, "kiln-grow-lvm", GROW_SCRIPT, GROW_UNIT, &tools)
            .ok_or(NoGrowth::NoWay);
    }
    let is_there = cloud::PROGRAMS.iter().any(|path| subject.root.is_file(path));
    for module in ["growpart", "resizefs"] {
        if is_there && !cloud::has_module(subject, module).unwrap_or(false) {
            return Err(NoGrowth::Modules);
        }
    }
    let mut steps = Vec::new();
    let no_way = NoGrowth::NoWay;
    if !growth::GROWPART.iter().any(|path| subject.root.is_file(path)) {
        steps.extend(units::with_tools(subject, &[Tool::Growpart]).ok_or(NoGrowth::NoWay)?);
    }
    steps.push(runs(subject).ok_or(no_way)?);
    steps.push(drop_in("growth", "growpart:\n  mode: auto\n  devices: ['/']\nresize_rootfs: true"));
    Ok(steps.join("\n"))
}

/// The steps that delete what cloud-init wrote for one machine, if that is all of `paths`.
pub(super) fn without_own_network(subject: Subject<'_>, paths: &[String]) -> Option<String> {
    let runs = matches!(cloud::installed(subject), Ok(crate::audit::Verdict::Pass(_)));
    let own = |path: &String| {
        crate::audit::network::OF_CLOUD_INIT.iter().any(|start| path.starts_with(start))
    };
    if !runs || !paths.iter().all(own) {
        return None;
    }
    // A path that was shown may have been escaped; what is deleted is what matches now.
    let there = |path: &String| matching(subject.root, path).is_ok_and(|found| found.len() == 1);
    if !paths.iter().all(there) {
        return None;
    }
    let steps: Vec<String> =
        paths.iter().map(|path| format!("delete {}", super::text::quoted(path))).collect();
    Some(steps.join("\n"))
}
