//! The same server without Heat: one command of a client, as a shell takes it.

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
#[must_use]
pub fn commands(heat: &Heat, client: Client, user_data: Option<&str>) -> String {
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
            Client::Nova => push("--nic", &quoted(&format!("net-name={network}"))),
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
    format!("{}\n", words.join(" \\\n    "))
}
