//! `kiln publish`.

mod teller;

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::SystemTime;

use clap::Args;
use serde_json::{Value, json};

use self::teller::{Teller, described, shown};
use super::build::Build;
use super::{CliError, Place, Wanted};
use crate::engine::outputs;
use crate::environment::Environment;
use crate::graph::BuildGraph;
use crate::openstack::Choice;
use crate::output;
use crate::plan::Actions;
use crate::progress::size;
use crate::publish::{
    self, Change, ConnectError, Glance, Images, ImagesError, Outcome, Plan, PublishError, Record,
    Source, Subject, utc,
};
use crate::recipe::{self, Base, Firmware};
use crate::remote::trust::Trust;
use crate::seal::SealReport;
use crate::store::Store;
use crate::workspace::Workspace;

/// Largest report of a seal, in bytes.
const LIMIT: u64 = 1 << 30;
const GIB: u64 = 1 << 30;

/// Put images into an image service, building them first where that is needed.
#[derive(Debug, Args)]
#[command(mut_arg("images", |arg| arg
    .help("The images; all of the workspace that have a `publish` if none is named")))]
pub(super) struct Publish {
    #[command(flatten)]
    build: Build,
    /// Show what would be done; build, upload and change nothing.
    #[arg(long)]
    dry_run: bool,
    /// Publish to that entry of `clouds.yaml`, whatever the recipes say.
    #[arg(long, value_name = "NAME")]
    cloud: Option<String>,
    /// Take names over from images that kiln has not made: those are hidden, and never removed.
    #[arg(long)]
    take_over: bool,
    /// Print what was done as JSON.
    #[arg(long)]
    json: bool,
}

/// The clouds that are open, each by what chose it.
#[derive(Default)]
struct Clouds {
    /// The one that all goes to, whatever the recipes say.
    cloud: Option<String>,
    open: Vec<(Choice, Glance)>,
}

/// One `publish` of one image.
struct Target<'a> {
    /// The image's place in the graph.
    image: usize,
    /// What the recipe says.
    said: &'a recipe::Publish,
    /// Where it goes.
    glance: &'a Glance,
}

impl Publish {
    pub(super) fn run(self, place: &Place) -> Result<(), CliError> {
        let Self { mut build, dry_run, cloud, take_over, json } = self;
        let mut wanted = Wanted::read(place, &build.images)?;
        let graph = &wanted.workspace.graph;
        let images = published(graph, &wanted.images, !build.images.is_empty())?;
        // A wrong password is told before anything is built.
        let mut clouds = Clouds { cloud, ..Clouds::default() };
        clouds.open(graph, &images)?;
        clouds.targets(graph, &images)?;
        if dry_run {
            wanted.images.clone_from(&images);
            wanted.find_actions()?;
            let (workspace, actions) = (&wanted.workspace, &wanted.actions);
            let store = Store::open_existing(&place.store_path(workspace))?;
            let mut done = Vec::new();
            for target in clouds.targets(&workspace.graph, &images)? {
                done.push(
                    Job { workspace, actions, target, take_over }.plan(store.as_ref(), json)?,
                );
            }
            tell(&done, true, json);
            return Ok(());
        }
        build.images = names(graph, &images);
        build.then(place, false, |built| {
            // The recipes were read again: what counts is what was built.
            let (workspace, actions) = (built.engine.workspace, built.actions);
            let graph = &workspace.graph;
            let found = built.options.images.iter().filter_map(|name| graph.find(name));
            let images = published(graph, &found.collect::<Vec<_>>(), true)?;
            clouds.open(graph, &images)?;
            let mut done = Vec::new();
            for target in clouds.targets(graph, &images)? {
                let job = Job { workspace, actions, target, take_over };
                done.push(job.publish(built.engine.store, built.engine.interrupted, json)?);
            }
            tell(&done, false, json);
            Ok(())
        })
    }
}

/// Those of some images that are published, by their places in the graph; all of them where each was
/// named.
fn published(graph: &BuildGraph, images: &[usize], named: bool) -> Result<Vec<usize>, CliError> {
    let is_published = |&&place: &&usize| !graph.images[place].image.publish.is_empty();
    if let Some(&other) = images.iter().find(|place| named && !is_published(place)) {
        let what = format!("the image `{}`", graph.images[other].image.name.value);
        return Err(CliError::NoPublish { what });
    }
    let found: Vec<usize> = images.iter().filter(is_published).copied().collect();
    if found.is_empty() {
        return Err(CliError::NoPublish { what: "no image of this workspace".to_owned() });
    }
    Ok(found)
}

fn names(graph: &BuildGraph, images: &[usize]) -> Vec<String> {
    images.iter().map(|&image| graph.images[image].image.name.value.to_string()).collect()
}

fn tell(done: &[Value], dry_run: bool, json: bool) {
    if json {
        println!("{}", json!({ "published": done, "dry_run": dry_run }));
    }
}

impl Clouds {
    /// What chooses the cloud of a `publish`.
    fn choice(&self, said: &recipe::Publish) -> Choice {
        let cloud = self.cloud.clone().or_else(|| said.cloud.clone());
        Choice { cloud, region: said.region.clone() }
    }

    /// Logs in wherever images go to and nobody has logged in yet.
    fn open(&mut self, graph: &BuildGraph, images: &[usize]) -> Result<(), CliError> {
        for said in images.iter().flat_map(|&image| &graph.images[image].image.publish) {
            let choice = self.choice(said);
            if self.open.iter().all(|(known, _)| *known != choice) {
                let opening = Glance::cloud(&Environment::of_process(), &choice);
                let opening = opening.map_err(ConnectError::from)?;
                self.open.push((choice, opening.connect(publish::PATIENCE)?));
            }
        }
        Ok(())
    }

    /// Where images go, all of them to clouds that are open; no two under one name.
    fn targets<'a>(
        &'a self,
        graph: &'a BuildGraph,
        images: &[usize],
    ) -> Result<Vec<Target<'a>>, CliError> {
        let mut targets: Vec<Target<'_>> = Vec::new();
        for &image in images {
            for said in &graph.images[image].image.publish {
                let choice = self.choice(said);
                let found = self.open.iter().find(|(known, _)| *known == choice);
                let (_, glance) = found.expect("each cloud was opened");
                let is_same = |other: &&Target<'_>| {
                    other.said.name.value == said.name.value && other.glance.is_same(glance)
                };
                if let Some(other) = targets.iter().find(is_same) {
                    let name_of = |at: usize| graph.images[at].image.name.value.to_string();
                    return Err(CliError::PublishedTwice {
                        one: name_of(other.image),
                        other: name_of(image),
                        name: said.name.value.clone(),
                        cloud: glance.cloud().to_owned(),
                    });
                }
                targets.push(Target { image, said, glance });
            }
        }
        Ok(targets)
    }
}

/// A target with what it is about.
struct Job<'a> {
    workspace: &'a Workspace,
    actions: &'a Actions,
    target: Target<'a>,
    take_over: bool,
}

impl Job<'_> {
    fn image(&self) -> &recipe::Image {
        &self.workspace.graph.images[self.target.image].image
    }

    fn said(&self) -> &recipe::Publish {
        self.target.said
    }

    fn cloud(&self) -> &str {
        self.target.glance.cloud()
    }

    /// The output that is uploaded.
    fn output(&self) -> output::Wanted {
        let own = &self.image().outputs[self.said().output];
        let path = self.workspace.root.join(own.file(&self.image().name.value));
        let all = outputs(self.workspace, self.actions);
        let found = all.into_iter().find(|output| output.path == path);
        found.expect("every output of a wanted image is among those of its actions")
    }

    /// The file and what is to be published of it; `None` where it is not as it would be built now.
    fn current(&self, store: &Store) -> Result<Option<(Source, publish::Wanted)>, CliError> {
        let output = self.output();
        let trust = Trust::new(&self.workspace.settings.sharing.trusted);
        if !output.is_current(store, &trust) {
            return Ok(None);
        }
        // A build beside this one may put another file in place: what is said is said of the file
        // that is open.
        let file = Source::open(&output.path)?;
        let record = output.record(store, &trust).filter(|record| record.stamp == file.stamp());
        let Some(record) = record else { return Ok(None) };
        let results = store.results()?;
        let result = results.of_action(record.seal).iter().find(|r| r.state == record.state);
        let Some(report) = result.and_then(|result| result.report) else { return Ok(None) };
        let bytes = store.objects().read(report, LIMIT)?;
        let Ok(report) = serde_json::from_slice::<SealReport>(&bytes) else { return Ok(None) };
        let said = self.said();
        let mut properties = if said.automatic {
            publish::automatic(&report, self.firmware())
        } else {
            BTreeMap::new()
        };
        properties
            .extend(said.properties.iter().map(|(key, value)| (key.clone(), value.value.clone())));
        let min_disk = match said.min_disk {
            Some(size) => size,
            None => file.virtual_size()?.div_ceil(GIB),
        };
        let published = publish::Wanted {
            name: said.name.value.clone(),
            image: self.image().name.value.to_string(),
            seal: record.seal,
            state: record.state,
            format: output.format.extension(),
            size: file.size(),
            visibility: said.visibility,
            protected: said.protected,
            tags: said.tags.clone(),
            properties,
            min_disk,
            min_ram: said.min_ram.unwrap_or(0),
            keep_old: said.keep_old.as_secs(),
            keep_last: said.keep_last,
            take_over: self.take_over,
        };
        Ok(Some((file, published)))
    }

    /// What starts the disk, where kiln divided it.
    fn firmware(&self) -> Option<Firmware> {
        let graph = &self.workspace.graph;
        let mut at = self.target.image;
        while let Some(base) = graph.images[at].base {
            at = base;
        }
        match &graph.images[at].image.base.value {
            Base::Bootstrap(base) => Some(base.layout.firmware),
            Base::Scratch(base) => Some(base.layout.firmware),
            Base::File(_) | Base::Fetch(_) | Base::Image(_) => None,
        }
    }

    /// What the answer starts with.
    fn head(&self) -> Value {
        json!({
            "image": self.image().name.value.as_str(), "name": self.said().name.value,
            "cloud": self.cloud(),
        })
    }

    fn not_built(&self, json: bool) -> Value {
        let path = self.output().path;
        if !json {
            println!(
                "{}  {} would be built first; what of it is there already is not known before",
                self.image().name.value,
                path.display()
            );
        }
        with(self.head(), json!({ "built": false }))
    }

    /// Tells what would be done.
    fn plan(&self, store: Option<&Store>, json: bool) -> Result<Value, CliError> {
        let current = match store {
            Some(store) => self.current(store)?,
            None => None,
        };
        let Some((file, published)) = current else { return Ok(self.not_built(json)) };
        let plan = publish::prepare(self.target.glance, &published, &file, now())?;
        if !json {
            print!("{}", self.planned(&plan, &published));
        }
        let ids = |records: &[Record]| -> Vec<String> {
            records.iter().map(|record| record.id.clone()).collect()
        };
        let there = match &plan.subject {
            Subject::There(record) => Some(record.id.clone()),
            Subject::Upload => None,
        };
        let changes = match &plan.subject {
            Subject::There(record) => Change::to_published(record, &published).words(),
            Subject::Upload => Vec::new(),
        };
        Ok(with(
            self.head(),
            json!({
                "built": true, "id": there, "upload": there.is_none().then_some(published.size),
                "changes": changes, "clear": ids(&plan.unfinished),
                "supersede": ids(&plan.superseded), "expire": ids(&plan.expired),
            }),
        ))
    }

    fn planned(&self, plan: &Plan, published: &publish::Wanted) -> String {
        let (name, cloud) = (&published.name, self.cloud());
        let mut text = format!("{}  → `{name}` in {cloud}\n", published.image);
        let mut line = |word: &str, what: String| {
            let _ = writeln!(text, "  {word:<9}  {what}");
        };
        for record in &plan.unfinished {
            line("clear", format!("{}, which a run before did not finish", record.id));
        }
        match &plan.subject {
            Subject::Upload => {
                line("upload", format!("{} as {}", size(published.size), published.format));
            }
            Subject::There(record) => {
                let words = Change::to_published(record, published).words();
                if words.is_empty() {
                    line("same", record.id.clone());
                } else {
                    line("change", format!("{}: {}", record.id, shown(&words)));
                }
            }
        }
        for record in &plan.superseded {
            line("supersede", described(record));
        }
        for record in &plan.expired {
            line("remove", described(record));
        }
        for left in &plan.left {
            let until = left.until.map_or("as one of the last".to_owned(), |at| {
                format!("until {} at least", utc(at))
            });
            line("keep", format!("{}, {until}", described(&left.record)));
        }
        text
    }

    /// Publishes what was built.
    fn publish(
        &self,
        store: &Store,
        interrupted: &AtomicBool,
        json: bool,
    ) -> Result<Value, CliError> {
        if interrupted.load(Ordering::Relaxed) {
            return Err(PublishError::Images(ImagesError::Interrupted).into());
        }
        let Some((file, published)) = self.current(store)? else {
            return Err(CliError::OutputChanged { path: self.output().path });
        };
        let mut teller = Teller::new(&published.image, file.size(), interrupted);
        let outcome = publish::publish(self.target.glance, &published, &file, now(), &mut teller);
        let acts = teller.end();
        let Outcome { id, uploaded, changed } = outcome?;
        if !json {
            let word = if uploaded {
                "uploaded"
            } else if changed {
                "changed"
            } else {
                "same"
            };
            println!(
                "{}  → `{}` in {}  {id}  {word}",
                published.image,
                published.name,
                self.cloud()
            );
        }
        let done = json!({ "id": id, "uploaded": uploaded, "changed": changed, "acts": acts });
        Ok(with(self.head(), done))
    }
}

/// An object with the members of another one.
fn with(mut object: Value, more: Value) -> Value {
    if let (Some(object), Value::Object(more)) = (object.as_object_mut(), more) {
        object.extend(more);
    }
    object
}

fn now() -> i64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_secs()).unwrap_or(i64::MAX)
}
