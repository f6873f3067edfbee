//! What `kiln check` finds in user data and templates: mistakes, and what may be meant otherwise.

use std::collections::BTreeMap;

use super::document;
use crate::graph::BuildGraph;
use crate::mistake::Mistake;
use crate::name::{DocumentName, ImageName};
use crate::recipe::{Base, Heat, Image, Part, StepKind, UserData, Wait};
use crate::source::Spanned;
use crate::user_data::{self, Audience, File, NOTIFY};
use crate::workspace::Workspace;

/// What may be meant otherwise in a template.
#[must_use]
pub fn lint(heat: &Heat, user_data: Option<&UserData<File>>, graph: &BuildGraph) -> Vec<Mistake> {
    let mut lints = Vec::new();
    match (heat.wait, user_data) {
        (Some(wait), None) => lints.push(nobody_signals(wait)),
        (Some(wait), Some(user_data)) => {
            lints.extend(always_succeeds(wait, user_data));
            lints.extend(no_curl(heat, wait, user_data, graph));
        }
        (None, Some(user_data)) => lints.extend(not_waiting(heat, user_data)),
        (None, None) => {}
    }
    if let (Some(user_data), Some(image)) = (user_data, &heat.server.image) {
        lints.extend(needs_subscription(image, user_data, graph));
    }
    lints
}

fn nobody_signals(wait: Wait) -> Mistake {
    let message = "the server has no user data that could say that it is done";
    Mistake::at(wait.span, "kiln::heat::nobody_signals", message, "waits until its end")
        .help("give the server `user-data`, or remove `wait`")
        .warning()
}

/// kiln's own signal of success says nothing about scripts: cloud-init goes on behind one that failed.
fn always_succeeds(wait: Wait, user_data: &UserData<File>) -> Option<Mistake> {
    let runs = |part: &Part<File>| matches!(part, Part::Script { .. } | Part::Boothook(_));
    let requires = |part: &Part<File>| matches!(part, Part::Require(_));
    let script = user_data.parts.iter().find(|part| runs(&part.value))?;
    if user_data::is_given(user_data) || user_data.parts.iter().any(|part| requires(&part.value)) {
        return None;
    }
    let message = "this stack is complete also where a script fails";
    let help = format!(
        "end the script with `{NOTIFY} --data-binary '{{\"status\": \"SUCCESS\"}}'`, or write \
         `require` with what it must have made"
    );
    Some(
        Mistake::at(wait.span, "kiln::heat::always_succeeds", message, "waits for cloud-init only")
            .and(script.span, "nobody asks how it ends")
            .help(help)
            .warning(),
    )
}

/// The image of a name, and those that it stands on.
fn chain<'a>(name: &Spanned<ImageName>, graph: &'a BuildGraph) -> Vec<&'a Image> {
    let mut next = graph.find(name.value.as_str());
    let mut images = Vec::new();
    while let Some(at) = next {
        images.push(&graph.images[at].image);
        next = graph.images[at].base;
    }
    images
}

/// A guest that is made of packages, none of which is `curl`.
fn no_curl(
    heat: &Heat,
    wait: Wait,
    user_data: &UserData<File>,
    graph: &BuildGraph,
) -> Option<Mistake> {
    let name = heat.server.image.as_ref()?;
    let images = chain(name, graph);
    // What else is in a disk that others made is not known.
    let Base::Bootstrap(bootstrap) = &images.last()?.base.value else { return None };
    let is_curl = |package: &String| package.starts_with("curl");
    let brings = |kind: &StepKind<_>| match kind {
        StepKind::Install(packages) | StepKind::FirstbootInstall(packages) => {
            packages.names.iter().any(is_curl)
        }
        StepKind::RunCommand(run) | StepKind::FirstbootCommand(run) => run.script.contains("curl"),
        _ => false,
    };
    let mut steps = images.iter().flat_map(|image| &image.steps);
    if bootstrap.packages.iter().any(is_curl)
        || steps.any(|step| brings(&step.kind))
        || user_data::packages(user_data).iter().any(is_curl)
    {
        return None;
    }
    let message = format!("no step installs `curl` into `{}`, and signals need it", name.value);
    Some(
        Mistake::at(name.span, "kiln::heat::no_curl", message, "this server")
            .and(wait.span, "waits for its signal")
            .help("write `install \"curl\"` in the image")
            .warning(),
    )
}

fn not_waiting(heat: &Heat, user_data: &UserData<File>) -> Option<Mistake> {
    let name = heat.server.user_data.as_ref()?;
    if !user_data::is_given(user_data) {
        return None;
    }
    let message = format!("`{}` calls `{NOTIFY}`, and this stack puts nothing there", name.value);
    Some(
        Mistake::at(name.span, "kiln::heat::not_waiting", message, "for this server")
            .help("add `wait` to the template")
            .warning(),
    )
}

fn needs_subscription(
    name: &Spanned<ImageName>,
    user_data: &UserData<File>,
    graph: &BuildGraph,
) -> Option<Mistake> {
    let images = chain(name, graph);
    let subscription = images.iter().find_map(|image| image.subscription.as_ref())?;
    let packages = user_data::packages(user_data);
    let package = packages.first()?.escape_debug();
    let message = format!(
        "`{}` needs a subscription, which its instances do not have: `{package}` may not come",
        name.value
    );
    Some(
        Mistake::at(name.span, "kiln::heat::needs_subscription", message, "this server")
            .and(subscription.span, "registered for the build only")
            .help("install the packages into the image, with `install … subscription=#true`")
            .warning(),
    )
}

/// What `kiln check` finds in the user data and the templates of a workspace: mistakes, warnings too.
#[must_use]
pub fn check(workspace: &Workspace) -> Vec<Mistake> {
    let mut found = Vec::new();
    let mut sound = BTreeMap::new();
    let documents = &workspace.documents;
    let is_started = |name: &DocumentName| {
        let used = documents.templates.iter().filter_map(|one| one.server.user_data.as_ref());
        used.into_iter().any(|used| used.value == *name)
    };
    for user_data in &documents.user_data {
        let name = &user_data.name.value;
        let files = match user_data::read(workspace, user_data) {
            Ok(files) => files,
            Err(mistakes) => {
                found.extend(mistakes);
                continue;
            }
        };
        match user_data::document(&files, Audience::Anyone) {
            Ok(document) => {
                // Of what a stack starts its template tells; a seed has no limit.
                if !is_started(name) {
                    let large = user_data::too_large(&files, &document, 0);
                    found.extend(large.map(Mistake::warning));
                }
                found.extend(user_data::lint(&files, &document.pieces));
                sound.insert(name, files);
            }
            Err(mistakes) => found.extend(mistakes),
        }
    }
    for template in &documents.templates {
        let name = template.server.user_data.as_ref();
        let user_data = name.and_then(|name| sound.get(&name.value));
        if let Some(user_data) = user_data {
            found.extend(document(template, user_data).err().unwrap_or_default());
        }
        // What is wrong by itself has been told.
        if name.is_none() || user_data.is_some() {
            found.extend(lint(template, user_data, &workspace.graph));
        }
    }
    found
}
