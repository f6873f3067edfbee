//! cloud-init in a guest: whether it runs, where it looks, and whom it lets in.
//!
//! Sources: cloud-init's documentation, "Base configuration", "How to disable cloud-init", and the
//! module reference for `ssh` and `users-groups`; `src/etc` of `CirrOS`.

use serde_json::{Map, Value};

use super::files::{Look, Unclear, matching, some, text};
use super::units::{Unit, unit};
use super::{Subject, Verdict, boot};
use crate::guest::inspect::Init;
use crate::yaml::lay_over;

pub(super) const CONFIG: &str = "/etc/cloud/cloud.cfg";
const MORE: &str = "/etc/cloud/cloud.cfg.d/*.cfg";
const DISABLED: &str = "/etc/cloud/cloud-init.disabled";
/// The program.
pub(super) const PROGRAMS: [&str; 2] = ["/usr/bin/cloud-init", "/usr/local/bin/cloud-init"];
/// The units that do its work. The second is `cloud-init-network` since 24.3.
const UNITS: [&[&str]; 4] = [
    &["cloud-init-local.service"],
    &["cloud-init.service", "cloud-init-network.service"],
    &["cloud-config.service"],
    &["cloud-final.service"],
];
/// The one process that the others wait for since 24.3.
const MAIN: &str = "cloud-init-main.service";
/// Where `CirrOS` says where its own program looks, by names of its own.
pub(super) const CONFIG_OF_CIRROS: &str = "/etc/cirros-init/config";

/// Whether it is installed, enabled and not switched off.
pub(super) fn installed(subject: Subject<'_>) -> Look<Verdict> {
    let Subject { root, guest, .. } = subject;
    let Some(program) = PROGRAMS.iter().find(|path| root.is_file(path)) else {
        return Ok(Verdict::Fail("there is no `/usr/bin/cloud-init`".to_owned()));
    };
    if root.lstat(DISABLED)?.is_some() {
        return Ok(Verdict::Fail(format!("`{DISABLED}` switches it off")));
    }
    if boot::has_anywhere(root, "cloud-init=disabled")? {
        return Ok(Verdict::Fail("a boot entry has `cloud-init=disabled`".to_owned()));
    }
    let mut any_starts = false;
    for names in UNITS {
        let mut states = Vec::new();
        for name in names {
            states.push((*name, unit(subject, name)?));
        }
        if states.iter().any(|(_, state)| state.starts()) {
            any_starts = true;
            continue;
        }
        match states.iter().find(|(_, state)| *state != Unit::Absent) {
            Some((name, state)) => return Ok(idle(name, *state)),
            None if guest.init == Init::Systemd => {
                return Ok(Verdict::Fail(format!("there is no unit `{}`", names[0])));
            }
            // Other init systems have fewer scripts, under other names.
            None => {}
        }
    }
    let main = unit(subject, MAIN)?;
    if main != Unit::Absent && !main.starts() {
        return Ok(idle(MAIN, main));
    }
    Ok(if any_starts {
        Verdict::Pass(format!("`{program}`, and its units are enabled"))
    } else {
        Verdict::Fail(format!("`{program}` is there, and nothing starts it"))
    })
}

fn idle(name: &str, state: Unit) -> Verdict {
    Verdict::Fail(match state {
        Unit::Masked => format!("`{name}` is masked"),
        _ => format!("nothing starts `{name}`"),
    })
}

/// What its configuration says: `cloud.cfg`, with the files beside it laid over it by their names.
/// One that is YAML and no mapping says nothing, as for cloud-init itself.
pub(super) fn config(subject: Subject<'_>) -> Look<Map<String, Value>> {
    let mut files = vec![CONFIG.to_owned()];
    files.extend(matching(subject.root, MORE)?);
    let mut merged = Map::new();
    for path in files {
        let Some(text) = text(subject.root, &path)? else { continue };
        match yaml(&text) {
            Some(Value::Object(object)) => lay_over(&mut merged, object),
            Some(_) => {}
            // cloud-init's parser may take what this one does not, so it cannot be left out.
            None => return Err(Unclear::Meaning(format!("`{path}` cannot be read as YAML"))),
        }
    }
    Ok(merged)
}

/// A guest's YAML, within the bounds of the parser on depth, aliases and size. Of two equal keys the
/// last one holds, as for `PyYAML`, which cloud-init uses.
fn yaml(text: &str) -> Option<Value> {
    let options = serde_saphyr::options! {
        duplicate_keys: serde_saphyr::DuplicateKeyPolicy::LastWins,
    };
    serde_saphyr::from_str_with_options(text, options).ok()
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
pub(super) fn has_module(subject: Subject<'_>, name: &str) -> Look<bool> {
    let config = config(subject)?;
    let lists = ["cloud_init_modules", "cloud_config_modules", "cloud_final_modules"];
    Ok(lists
        .iter()
        .any(|list| texts(config.get(*list)).iter().any(|module| module.replace('-', "_") == name)))
}

/// Its data sources, in its order; empty where it tries all that it knows.
pub(super) fn sources(subject: Subject<'_>) -> Look<Vec<String>> {
    Ok(texts(config(subject)?.get("datasource_list")))
}

pub(super) fn datasources(subject: Subject<'_>, wanted: &[String]) -> Look<Verdict> {
    if !subject.root.is_file(CONFIG) {
        if let Some(text) = text(subject.root, CONFIG_OF_CIRROS)? {
            return Ok(sources_of_cirros(&text, wanted));
        }
        return Ok(Verdict::Fail(format!("there is no `{CONFIG}`")));
    }
    let list = sources(subject)?;
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

/// `CirrOS` asks the metadata service in the way of EC2.
fn sources_of_cirros(text: &str, wanted: &[String]) -> Verdict {
    let value =
        text.lines().filter_map(|line| line.trim().strip_prefix("DATASOURCE_LIST=")).next_back();
    let value = value.unwrap_or_default().trim_matches(['"', '\'']);
    let known: Vec<&str> = value.split_whitespace().collect();
    let name = |source: &str| match source {
        "OpenStack" | "Ec2" => "ec2".to_owned(),
        other => other.to_ascii_lowercase(),
    };
    let missing: Vec<String> =
        wanted.iter().filter(|source| !known.contains(&name(source).as_str())).cloned().collect();
    let seen = format!("`{CONFIG_OF_CIRROS}` has `{}`", value.escape_debug());
    match missing.as_slice() {
        [] => Verdict::Pass(seen),
        missing => Verdict::Fail(format!("{seen}, without {}", some(missing))),
    }
}

/// What cloud-init's configuration says about its default user.
pub(super) struct DefaultUser {
    /// The name, of `user:` where there is one, which cloud-init prefers.
    pub(super) name: Option<String>,
    /// Whether that is where it stands.
    pub(super) by_user: bool,
    /// The users of `users:` where they do not include the default one.
    pub(super) others: Option<Vec<Value>>,
}

pub(super) fn user(subject: Subject<'_>) -> Look<DefaultUser> {
    let config = config(subject)?;
    let old =
        config.get("user").and_then(|user| user.as_str().or_else(|| user.get("name")?.as_str()));
    let own =
        config.get("system_info").and_then(|info| info.get("default_user")?.get("name")?.as_str());
    let others = config.get("users").and_then(|users| {
        let users = match users {
            Value::Array(users) => users.clone(),
            // Names between commas.
            Value::String(names) => {
                names.split(',').map(|name| Value::String(name.trim().to_owned())).collect()
            }
            _ => Vec::new(),
        };
        let is_default = |user: &Value| user.as_str() == Some("default");
        (!users.iter().any(is_default)).then_some(users)
    });
    Ok(DefaultUser {
        name: old.or(own).map(str::to_owned),
        by_user: old.is_some(),
        others: if old.is_some() { None } else { others },
    })
}

pub(super) fn default_user(subject: Subject<'_>, wanted: Option<&str>) -> Look<Verdict> {
    if !subject.root.is_file(CONFIG) {
        return Ok(Verdict::Fail(format!("there is no `{CONFIG}`")));
    }
    let user = user(subject)?;
    let Some(name) = user.name else {
        return Ok(Verdict::Fail("cloud-init has no default user".to_owned()));
    };
    let shown = name.escape_debug();
    if user.others.is_some() {
        let seen = format!("`users` has no `default`, so that `{shown}` is not made");
        return Ok(Verdict::Fail(seen));
    }
    Ok(match wanted {
        Some(wanted) if wanted != name => {
            Verdict::Fail(format!("the default user is `{shown}`, and `{wanted}` is wanted"))
        }
        _ => Verdict::Pass(format!("keys go to `{shown}`")),
    })
}
