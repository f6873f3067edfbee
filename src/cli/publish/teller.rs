//! What `kiln publish` tells while it works: a line for each act, and a bar on a terminal.

use std::cell::Cell;
use std::io::IsTerminal;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};
use serde_json::{Value, json};

use crate::guest::error::escaped;
use crate::progress::size;
use crate::publish::{Act, Record, Watcher};

/// Time before the second try of an upload; it doubles.
const PAUSE: Duration = Duration::from_secs(2);

/// Names of the service, with nothing in them that drives a terminal.
pub(super) fn shown(words: &[String]) -> String {
    escaped(&words.join(", "))
}

/// An image of the service, for people.
pub(super) fn described(record: &Record) -> String {
    let bytes = record.size.map_or(String::new(), |bytes| format!(", {}", size(bytes)));
    format!("{} `{}`{bytes}", record.id, escaped(record.name.as_deref().unwrap_or_default()))
}

/// Tells on standard error what goes on.
pub(super) struct Teller<'a> {
    image: String,
    interrupted: &'a AtomicBool,
    /// The bar of the upload that goes on.
    bar: Cell<Option<ProgressBar>>,
    size: u64,
    acts: Vec<Value>,
}

impl<'a> Teller<'a> {
    pub(super) fn new(image: &str, size: u64, interrupted: &'a AtomicBool) -> Self {
        let image = image.to_owned();
        Self { image, interrupted, bar: Cell::new(None), size, acts: Vec::new() }
    }

    /// Everything that was told, for machines.
    pub(super) fn end(mut self) -> Vec<Value> {
        self.end_bar();
        self.acts
    }

    fn end_bar(&mut self) {
        if let Some(bar) = self.bar.take() {
            bar.finish_and_clear();
        }
    }

    fn bar(&self) -> ProgressBar {
        let bar = ProgressBar::new(self.size);
        let style = "{prefix}  {bar:40} {bytes} of {total_bytes}, {bytes_per_sec}";
        let style = ProgressStyle::with_template(style).expect("a template that indicatif knows");
        bar.with_style(style).with_prefix(self.image.clone())
    }
}

impl Watcher for Teller<'_> {
    fn act(&mut self, act: &Act) {
        self.end_bar();
        let (word, id, what) = match act {
            Act::Cleared(record) => ("cleared", Some(&record.id), described(record)),
            Act::Uploading(id, tries) => {
                let again = if *tries > 1 { format!(", try {tries}") } else { String::new() };
                ("uploading", Some(id), format!("{} as {id}{again}", size(self.size)))
            }
            Act::GivenUp(why) => ("given-up", None, escaped(why)),
            Act::Uploaded(id, sent) => (
                "uploaded",
                Some(id),
                format!("{}, compared: sha512 {}…", size(sent.bytes), &sent.sha512[..12]),
            ),
            Act::Changed(id, words) => ("changed", Some(id), format!("{id}: {}", shown(words))),
            Act::Superseded(record) => ("superseded", Some(&record.id), described(record)),
            Act::Expired(record) => ("removed", Some(&record.id), described(record)),
            Act::Left(record, why) => {
                ("left", Some(&record.id), format!("{}: {}", described(record), escaped(why)))
            }
        };
        eprintln!("{}  {word:<10}  {what}", self.image);
        self.acts.push(json!({ "act": word, "id": id, "what": what }));
        if matches!(act, Act::Uploading(..)) && std::io::stderr().is_terminal() {
            self.bar.set(Some(self.bar()));
        }
    }

    fn sent(&self, bytes: u64) -> bool {
        if let Some(bar) = self.bar.take() {
            bar.set_position(bytes);
            self.bar.set(Some(bar));
        }
        self.goes_on()
    }

    fn goes_on(&self) -> bool {
        !self.interrupted.load(Ordering::Relaxed)
    }

    fn pause(&self, tries: u32) {
        thread::sleep(PAUSE * (1 << tries.saturating_sub(1).min(4)));
    }
}
