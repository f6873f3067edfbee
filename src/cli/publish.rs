//! `kiln publish`.

mod teller;

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::SystemTime;

use clap::Args;
use serde_json::{Value, json};

use self::teller::{Teller, described, shown};
use super::build::{Build, on_interrupt};
use super::{CliError, Place, Wanted};
use crate::engine::outputs;
use crate::environment::Environment;
use crate::openstack::Choice;
use crate::output;
use crate::progress::size;
use crate::publish::{
    self, Change, ConnectError, Glance, Images, Outcome, Plan, Record, Source, Subject, utc,
};
use crate::recipe::{self, Base, Firmware};
use crate::seal::SealReport;
use crate::store::Store;

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
    /// Take names over from images that kiln has not made.
    #[arg(long)]
    take_over: bool,
    /// Print what was done as JSON.
    #[arg(long)]
    json: bool,
}

/// One `publish` of one image.
struct Target {
    /// The image's place in the graph.
    image: usize,
    /// The place among its `publish`es.
    publish: usize,
    /// Where it goes.
    glance: Glance,
}

impl Publish {
    pub(super) fn run(mut self, place: &Place) -> Result<(), CliError> {
        let wanted = Wanted::read(place, &self.build.images)?;
        let images = self.images(&wanted)?;
        // A wrong password is told before anything is built.
        let targets = self.connect(&wanted, &images)?;
        let graph = &wanted.workspace.graph;
        let name = |&image: &usize| graph.images[image].image.name.value.to_string();
        let names: Vec<String> = images.iter().map(name).collect();
        let (dry_run, json, take_over) = (self.dry_run, self.json, self.take_over);
        if !dry_run {
            self.build.images.clone_from(&names);
            self.build.run(place)?;
        }
        // What a build looks up changes keys.
        let wanted = Wanted::find(place, &names)?;
        let store = Store::open_existing(&place.store_path(&wanted.workspace))?;
        let interrupted = on_interrupt();
        let mut done = Vec::new();
        for target in &targets {
            let job = Job { wanted: &wanted, target, take_over };
            let Some((file, published)) = job.current(store.as_ref())? else {
                done.push(job.not_built(json));
                continue;
            };
            done.push(if dry_run {
                job.plan(&file, &published, json)?
            } else {
                job.publish(&file, &published, &interrupted, json)?
            });
        }
        if json {
            println!("{}", json!({ "published": done, "dry_run": dry_run }));
        }
        Ok(())
    }

    /// The images that are published, by their places in the graph.
    fn images(&self, wanted: &Wanted) -> Result<Vec<usize>, CliError> {
        let image = |place: usize| &wanted.workspace.graph.images[place].image;
        let is_published = |&&place: &&usize| !image(place).publish.is_empty();
        let all = self.build.images.is_empty();
        if let Some(&other) = wanted.images.iter().find(|place| !all && !is_published(place)) {
            let what = format!("the image `{}`", image(other).name.value);
            return Err(CliError::NoPublish { what });
        }
        let found: Vec<usize> = wanted.images.iter().filter(is_published).copied().collect();
        if found.is_empty() {
            return Err(CliError::NoPublish { what: "no image of this workspace".to_owned() });
        }
        Ok(found)
    }

    fn connect(&self, wanted: &Wanted, images: &[usize]) -> Result<Vec<Target>, CliError> {
        let mut targets = Vec::new();
        for &image in images {
            let all = &wanted.workspace.graph.images[image].image.publish;
            for (publish, said) in all.iter().enumerate() {
                let cloud = self.cloud.clone().or_else(|| said.cloud.clone());
                let choice = Choice { cloud, region: said.region.clone() };
                let opening = Glance::cloud(&Environment::of_process(), &choice);
                let opening = opening.map_err(ConnectError::from)?;
                let glance = opening.connect(publish::PATIENCE)?;
                targets.push(Target { image, publish, glance });
            }
        }
        Ok(targets)
    }
}

/// A target with what it is about.
struct Job<'a> {
    wanted: &'a Wanted,
    target: &'a Target,
    take_over: bool,
}

impl Job<'_> {
    fn image(&self) -> &recipe::Image {
        &self.wanted.workspace.graph.images[self.target.image].image
    }

    fn said(&self) -> &recipe::Publish {
        &self.image().publish[self.target.publish]
    }

    fn cloud(&self) -> &str {
        self.target.glance.cloud()
    }

    /// The output that is uploaded.
    fn output(&self) -> output::Wanted {
        let workspace = &self.wanted.workspace;
        let own = &self.image().outputs[self.said().output];
        let path = workspace.root.join(own.file(&self.image().name.value));
        let all = outputs(workspace, &self.wanted.actions);
        let found = all.into_iter().find(|output| output.path == path);
        found.expect("every output of a wanted image is among those of its actions")
    }

    /// The file and what is to be published of it; `None` where it is not as it would be built now.
    fn current(
        &self,
        store: Option<&Store>,
    ) -> Result<Option<(Source, publish::Wanted)>, CliError> {
        let output = self.output();
        let trust = self.wanted.trust();
        let Some(store) = store.filter(|store| output.is_current(store, &trust)) else {
            return Ok(None);
        };
        let Some(record) = store.refs().output(&output.path) else { return Ok(None) };
        let results = store.results()?;
        let result = results.of_action(record.seal).iter().find(|r| r.state == record.state);
        let Some(report) = result.and_then(|result| result.report) else { return Ok(None) };
        let bytes = store.objects().read(report, LIMIT)?;
        let Ok(report) = serde_json::from_slice::<SealReport>(&bytes) else { return Ok(None) };
        let file = Source::open(&output.path)?;
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
        let graph = &self.wanted.workspace.graph;
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

    fn plan(
        &self,
        file: &Source,
        published: &publish::Wanted,
        json: bool,
    ) -> Result<Value, CliError> {
        let plan = publish::prepare(&self.target.glance, published, file, now())?;
        if !json {
            print!("{}", self.planned(&plan, published));
        }
        let ids = |records: &[Record]| -> Vec<String> {
            records.iter().map(|record| record.id.clone()).collect()
        };
        let there = match &plan.subject {
            Subject::There(record) => Some(record.id.clone()),
            Subject::Upload => None,
        };
        let changes = match &plan.subject {
            Subject::There(record) => Change::to_published(record, published).words(),
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

    fn publish(
        &self,
        file: &Source,
        published: &publish::Wanted,
        interrupted: &Arc<AtomicBool>,
        json: bool,
    ) -> Result<Value, CliError> {
        let mut teller = Teller::new(&published.image, file.size(), interrupted);
        let outcome = publish::publish(&self.target.glance, published, file, now(), &mut teller);
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
