//! Heat templates: a server with its user data, and the wait for the script that sets it up.
//!
//! Source: the HOT specification of Heat's documentation, version 2016-10-14 (Newton), which every
//! Heat since knows; the resources `OS::Nova::Server`, `OS::Heat::SwiftSignal` and
//! `OS::Heat::WaitCondition` of its resource reference.

mod commands;
mod lint;

use crate::mistake::Mistake;
use crate::recipe::{Heat, Server, Through, UserData, Wait};
use crate::user_data::{self, Audience, Document, File, NOTIFY};
use crate::yaml::Yaml;

pub use commands::{Client, commands};
pub use lint::{check, lint};

const VERSION: &str = "2016-10-14";
/// Most that a command of Heat's takes in place of the word that stands for it, in bytes: an address
/// with a signature, or a token of Keystone.
const COMMAND: usize = 512;

/// Whom the user data of a template is for.
#[must_use]
pub fn audience(heat: &Heat) -> Audience {
    match heat.wait {
        Some(Wait { count, through, span, .. }) => Audience::Waiting { count, through, span },
        None => Audience::Stack,
    }
}

/// The template.
#[must_use]
pub fn template(heat: &Heat, document: Option<&Document>) -> String {
    let description = heat.description.clone();
    let description =
        description.unwrap_or_else(|| format!("The server of `{}`, by kiln", heat.name.value));
    Yaml::map([
        // The version is a text: unquoted it would be a date.
        ("heat_template_version", Yaml::text(VERSION)),
        ("description", Yaml::text(description)),
        ("parameters", parameters(&heat.server)),
        ("resources", resources(heat, document)),
        ("outputs", outputs(heat)),
    ])
    .document()
}

fn parameters(server: &Server) -> Yaml {
    let mut pairs = vec![
        parameter("image", "The image that the server boots", server.glance_name(), "glance.image"),
        parameter("flavor", "The size of the server", server.flavor.as_deref(), "nova.flavor"),
        parameter(
            "key_name",
            "The key pair of whoever logs in",
            server.key_name.as_deref(),
            "nova.keypair",
        ),
    ];
    if let Some(network) = &server.network {
        let doc = "The network that the server is on";
        pairs.push(parameter("network", doc, Some(network), "neutron.network"));
    }
    Yaml::Map(pairs)
}

fn parameter(name: &str, doc: &str, default: Option<&str>, constraint: &str) -> (String, Yaml) {
    let mut pairs = vec![
        ("type".to_owned(), Yaml::text("string")),
        ("description".to_owned(), Yaml::text(doc)),
    ];
    if let Some(default) = default {
        pairs.push(("default".to_owned(), Yaml::text(default)));
    }
    let constraint = Yaml::map([("custom_constraint", Yaml::text(constraint))]);
    pairs.push(("constraints".to_owned(), Yaml::List(vec![constraint])));
    (name.to_owned(), Yaml::Map(pairs))
}

/// A function of HOT.
fn call(name: &str, arguments: Yaml) -> Yaml {
    Yaml::Inline(Box::new(Yaml::map([(name, arguments)])))
}

fn get_param(name: &str) -> Yaml {
    call("get_param", Yaml::text(name))
}

fn get_attr(resource: &str, attribute: &str) -> Yaml {
    call("get_attr", Yaml::texts([resource, attribute]))
}

fn resources(heat: &Heat, document: Option<&Document>) -> Yaml {
    let mut pairs = Vec::new();
    if let Some(wait) = heat.wait {
        let (handle, condition) = match wait.through {
            Through::Swift => ("OS::Heat::SwiftSignalHandle", "OS::Heat::SwiftSignal"),
            Through::Heat => ("OS::Heat::WaitConditionHandle", "OS::Heat::WaitCondition"),
        };
        pairs.push(("signal_handle".to_owned(), Yaml::map([("type", Yaml::text(handle))])));
        let properties = Yaml::map([
            ("handle", call("get_resource", Yaml::text("signal_handle"))),
            ("count", Yaml::Number(wait.count)),
            ("timeout", Yaml::Number(wait.timeout)),
        ]);
        let resource = Yaml::map([("type", Yaml::text(condition)), ("properties", properties)]);
        pairs.push(("wait_on_server".to_owned(), resource));
    }
    pairs.push((
        "server".to_owned(),
        Yaml::map([
            ("type", Yaml::text("OS::Nova::Server")),
            ("properties", server(heat, document)),
        ]),
    ));
    Yaml::Map(pairs)
}

fn server(heat: &Heat, document: Option<&Document>) -> Yaml {
    let mut pairs = vec![
        ("image".to_owned(), get_param("image")),
        ("flavor".to_owned(), get_param("flavor")),
        ("key_name".to_owned(), get_param("key_name")),
    ];
    let mut push = |name: &str, value: Yaml| pairs.push((name.to_owned(), value));
    if heat.server.network.is_some() {
        let network = Yaml::map([("network", get_param("network"))]);
        push("networks", Yaml::List(vec![network]));
    }
    if !heat.security_groups.is_empty() {
        push("security_groups", Yaml::texts(&heat.security_groups));
    }
    if let Some(document) = document {
        // As it is: by default Heat would pack it into a message of its own.
        push("user_data_format", Yaml::text("RAW"));
        let text = Yaml::text(document.text().expect("a template's user data is a text"));
        push("user_data", if heat.wait.is_some() { replaced(text) } else { text });
    }
    Yaml::Map(pairs)
}

/// A text in which Heat puts the command that tells it.
fn replaced(text: Yaml) -> Yaml {
    let params = Yaml::map([(NOTIFY, get_attr("signal_handle", "curl_cli"))]);
    Yaml::map([("str_replace", Yaml::map([("params", params), ("template", text)]))])
}

fn outputs(heat: &Heat) -> Yaml {
    let output =
        |doc: &str, value: Yaml| Yaml::map([("description", Yaml::text(doc)), ("value", value)]);
    let mut pairs = vec![(
        "addresses".to_owned(),
        output("The addresses of the server, by network", get_attr("server", "networks")),
    )];
    if heat.wait.is_some() {
        let doc = "What the script said when it was done, as JSON";
        pairs.push(("signal".to_owned(), output(doc, get_attr("wait_on_server", "data"))));
    }
    Yaml::Map(pairs)
}

/// The user data of a template, as it goes into it.
///
/// # Errors
/// As [`user_data::document`]; where nova would refuse it.
pub fn document(heat: &Heat, user_data: &UserData<File>) -> Result<Document, Vec<Mistake>> {
    let document = user_data::document(user_data, audience(heat))?;
    let text = document.text().unwrap_or_default();
    let calls = if heat.wait.is_some() { text.matches(NOTIFY).count() } else { 0 };
    match user_data::too_large(user_data, &document, calls * COMMAND) {
        Some(mistake) => Err(vec![mistake]),
        None => Ok(document),
    }
}
