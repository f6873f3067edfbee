//! The same server without Heat: one command of a client, as a shell takes it.

use crate::mistake::Mistake;
use crate::recipe::Heat;
use crate::user_data::quoted;

/// Whose command it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Client {
    /// `openstack server create`.
    OpenStack,
    /// `nova boot`, for clouds whose clients are older.
    Nova,
}

/// The command that starts the server. `user_data` is the file that it gives it. What the recipe
/// does not say is a variable of the shell, which ends the command where it is not set.
///
/// # Errors
/// A name with a comma, which `nova` takes for two.
pub fn commands(heat: &Heat, client: Client, user_data: Option<&str>) -> Result<String, Mistake> {
    if client == Client::Nova {
        whole_names(heat)?;
    }
    let server = &heat.server;
    let known = |value: Option<&str>, variable: &str| {
        value.map_or_else(|| format!("\"${{{variable}:?}}\""), quoted)
    };
    let mut words = vec![match client {
        Client::OpenStack => "openstack server create".to_owned(),
        Client::Nova => "nova boot".to_owned(),
    }];
    let mut push = |flag: &str, value: &str| words.push(format!("{flag} {value}"));
    push("--image", &known(server.glance_name(), "IMAGE"));
    push("--flavor", &known(server.flavor.as_deref(), "FLAVOR"));
    push("--key-name", &known(server.key_name.as_deref(), "KEY_NAME"));
    if let Some(network) = &server.network {
        match client {
            Client::OpenStack => push("--network", &quoted(network)),
            // Nova looks a name up among names only.
            Client::Nova => {
                let word = if is_id(network) { "net-id" } else { "net-name" };
                push("--nic", &quoted(&format!("{word}={network}")));
            }
        }
    }
    match client {
        Client::OpenStack => {
            for group in &heat.security_groups {
                push("--security-group", &quoted(group));
            }
        }
        Client::Nova if !heat.security_groups.is_empty() => {
            push("--security-groups", &quoted(&heat.security_groups.join(",")));
        }
        Client::Nova => {}
    }
    if let Some(path) = user_data {
        push("--user-data", &quoted(path));
    }
    words.push(quoted(heat.name.value.as_str()));
    Ok(format!("{}\n", words.join(" \\\n    ")))
}

/// Whether every name of a list that `nova` splits at commas is without one.
fn whole_names(heat: &Heat) -> Result<(), Mistake> {
    let names = heat.server.network.iter().chain(&heat.security_groups);
    let Some(name) = names.into_iter().find(|name| name.contains(',')) else { return Ok(()) };
    let message = format!("`nova` takes `{}` for two, as it has a comma", name.escape_debug());
    let span = heat.name.span;
    Err(Mistake::at(span, "kiln::heat::comma", message, "in this template")
        .help("write its id, or use `--commands openstack`"))
}

/// Whether a text is the id of something in a cloud: a UUID with its hyphens.
fn is_id(text: &str) -> bool {
    let mut groups = text.split('-');
    let is_hex = |group: &str| group.bytes().all(|c| c.is_ascii_hexdigit());
    [8, 4, 4, 4, 12]
        .into_iter()
        .all(|length| groups.next().is_some_and(|group| group.len() == length && is_hex(group)))
        && groups.next().is_none()
}
