//! Heat templates: a server with its user data, and the wait for the script that sets it up.
//!
//! Source: the HOT specification of Heat's documentation, version 2016-10-14 (Newton), which every
//! Heat since knows; the resources `OS::Nova::Server`, `OS::Heat::SwiftSignal` and
//! `OS::Heat::WaitCondition` of its resource reference.

mod commands;

use std::collections::BTreeMap;

use crate::mistake::Mistake;
use crate::recipe::{Heat, Image, Server, Through, UserData, Wait};
use crate::user_data::{self, Audience, Document, File, NOTIFY};
use crate::workspace::Workspace;
use crate::yaml::Yaml;

pub use commands::{Client, commands};

const VERSION: &str = "2016-10-14";

/// Whom the user data of a template is for.
#[must_use]
pub fn audience(heat: &Heat) -> Audience {
    match heat.wait {
        Some(Wait { count, span, .. }) => Audience::Waiting { count, span },
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
    match user_data::too_large(user_data, &document) {
        Some(mistake) => Err(vec![mistake]),
        None => Ok(document),
    }
}

/// What may be meant otherwise: `images` are those of the workspace.
#[must_use]
pub fn lint(heat: &Heat, user_data: Option<&UserData<File>>, images: &[&Image]) -> Vec<Mistake> {
    let mut lints = Vec::new();
    if let (Some(wait), None) = (heat.wait, user_data) {
        let message = "the server has no user data that could say that it is done";
        lints.push(
            Mistake::at(wait.span, "kiln::heat::nobody_signals", message, "waits until its end")
                .help("give the server `user-data`, or remove `wait`")
                .warning(),
        );
    }
    if let (None, Some(name), Some(files)) = (heat.wait, &heat.server.user_data, user_data)
        && document(heat, files).is_ok_and(|document| document.notifies())
    {
        let message =
            format!("`{}` calls `{NOTIFY}`, and this stack puts nothing there", name.value);
        lints.push(
            Mistake::at(name.span, "kiln::heat::not_waiting", message, "for this server")
                .help("add `wait` to the template")
                .warning(),
        );
    }
    let (Some(user_data), Some(name)) = (user_data, &heat.server.image) else { return lints };
    let image = images.iter().find(|image| image.name.value == name.value);
    let subscription = image.and_then(|image| image.subscription.as_ref());
    if let (Some(subscription), Some(package)) = (subscription, user_data.packages().next()) {
        let message = format!(
            "`{}` needs a subscription, which its instances do not have: `{package}` may not come",
            name.value
        );
        lints.push(
            Mistake::at(name.span, "kiln::heat::needs_subscription", message, "this server")
                .and(subscription.span, "registered for the build only")
                .help("install the packages into the image, with `install … subscription=#true`")
                .warning(),
        );
    }
    lints
}

/// What `kiln check` finds in the user data and the templates of a workspace: mistakes, warnings too.
#[must_use]
pub fn check(workspace: &Workspace) -> Vec<Mistake> {
    let mut found = Vec::new();
    let mut read = BTreeMap::new();
    let documents = &workspace.documents;
    for user_data in &documents.user_data {
        match user_data::read(workspace, user_data) {
            Ok(files) => {
                let document = user_data::document(&files, Audience::Anyone);
                if let Ok(document) = &document {
                    found.extend(user_data::too_large(&files, document));
                    found.extend(user_data::lint(&files, &document.pieces));
                }
                found.extend(document.err().unwrap_or_default());
                read.insert(user_data.name.value.clone(), files);
            }
            Err(mistakes) => found.extend(mistakes),
        }
    }
    let images: Vec<&Image> = workspace.graph.images.iter().map(|node| &node.image).collect();
    for template in &documents.templates {
        let name = template.server.user_data.as_ref();
        let user_data = name.and_then(|name| read.get(&name.value));
        if let Some(user_data) = user_data {
            found.extend(document(template, user_data).err().unwrap_or_default());
        }
        // What could not be read has been told.
        if name.is_none() || user_data.is_some() {
            found.extend(lint(template, user_data, &images));
        }
    }
    found
}
