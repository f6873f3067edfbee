//! One line an event, for logs and for terminals that cannot do more.

use std::collections::HashMap;
use std::io::Write;
use std::path::Path;
use std::time::Duration;

use super::{Progress, StepDone, StepName, Way, duration, holder_of, shared_line, size};
use crate::digest::ActionKey;

/// Writes plain lines.
pub struct Plain<W> {
    out: W,
    names: HashMap<ActionKey, String>,
    verbose: bool,
}

impl<W: Write> Plain<W> {
    /// Writes to `out`; with `verbose` also what steps print.
    pub fn new(out: W, verbose: bool) -> Self {
        Self { out, names: HashMap::new(), verbose }
    }

    fn say(&mut self, text: &str) {
        // Whoever closed the other end does not want to know any more.
        let _ = writeln!(self.out, "{text}").and_then(|()| self.out.flush());
    }

    fn name(&self, key: ActionKey) -> String {
        self.names.get(&key).cloned().unwrap_or_else(|| key.short())
    }
}

impl<W: Write> Progress for Plain<W> {
    fn planned(&mut self, running: usize, cached: usize) {
        if running > 0 {
            self.say(&format!("{running} to run, {cached} cached"));
        }
    }

    fn started(&mut self, key: ActionKey, step: &StepName, why: &str) {
        let name = format!("{}/{}", step.image, step.label);
        self.say(&format!("run   {name}  {}  ({why})", step.what));
        self.names.insert(key, name);
    }

    fn line(&mut self, key: ActionKey, line: &str) {
        if self.verbose {
            let name = self.name(key);
            self.say(&format!("      {name} | {line}"));
        }
    }

    fn waiting(&mut self, key: ActionKey, holder: Option<&str>) {
        let name = self.name(key);
        self.say(&format!("wait  {name}  {} builds it", holder_of(holder)));
    }

    fn done(&mut self, key: ActionKey, done: &StepDone) {
        let name = self.name(key);
        self.say(&format!("done  {name}  {}, layer {}", duration(done.took), size(done.layer)));
        if let Some(note) = &done.note {
            self.say(&format!("note  {name}  {note}"));
        }
    }

    fn failed(&mut self, key: ActionKey) {
        let name = self.name(key);
        self.say(&format!("FAIL  {name}"));
    }

    fn output(&mut self, image: &str, path: &Path, fresh: bool, note: &str) {
        let what = if fresh { "made " } else { "same " };
        self.say(&format!("{what} {image}  {}{note}", path.display()));
    }

    fn shared(&mut self, step: &str, remote: &str, way: Way, bytes: u64) {
        let word = if way == Way::In { "take " } else { "give " };
        self.say(&format!("{word} {step}  {}", shared_line(remote, way, bytes)));
    }

    fn warning(&mut self, text: &str) {
        self.say(&format!("warning: {text}"));
    }

    fn finished(&mut self, took: Duration) {
        self.say(&format!("ready after {}", duration(took)));
    }
}
