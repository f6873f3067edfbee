//! One JSON object a line, for programs.
//!
//! Every object has `event`, and what the event says under names of its own.

use std::io::Write;
use std::path::Path;
use std::time::Duration;

use serde_json::{Value, json};

use super::{Progress, StepDone, StepName, Way};
use crate::digest::ActionKey;

/// Writes JSON lines.
pub struct Json<W> {
    out: W,
}

impl<W: Write> Json<W> {
    /// Writes to `out`.
    pub fn new(out: W) -> Self {
        Self { out }
    }

    fn say(&mut self, value: &Value) {
        // Whoever closed the other end does not want to know any more.
        let _ = writeln!(self.out, "{value}").and_then(|()| self.out.flush());
    }
}

fn milliseconds(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

impl<W: Write> Progress for Json<W> {
    fn planned(&mut self, running: usize, cached: usize) {
        self.say(&json!({ "event": "planned", "run": running, "cached": cached }));
    }

    fn started(&mut self, key: ActionKey, step: &StepName, why: &str) {
        self.say(&json!({
            "event": "started", "key": key, "image": step.image, "step": step.label,
            "what": step.what, "why": why,
        }));
    }

    fn line(&mut self, key: ActionKey, line: &str) {
        self.say(&json!({ "event": "line", "key": key, "line": line }));
    }

    fn waiting(&mut self, key: ActionKey, holder: Option<&str>) {
        self.say(&json!({ "event": "waiting", "key": key, "holder": holder }));
    }

    fn done(&mut self, key: ActionKey, done: &StepDone) {
        self.say(&json!({
            "event": "done", "key": key, "ms": milliseconds(done.took), "layer": done.layer,
            "note": done.note,
        }));
    }

    fn failed(&mut self, key: ActionKey) {
        self.say(&json!({ "event": "failed", "key": key }));
    }

    fn output(&mut self, image: &str, path: &Path, fresh: bool, note: &str) {
        self.say(&json!({
            "event": "output", "image": image, "path": path.to_string_lossy(), "fresh": fresh,
            "note": note.trim(),
        }));
    }

    fn shared(&mut self, step: &str, remote: &str, way: Way, bytes: u64) {
        let event = match way {
            Way::In => "taken",
            Way::Out => "given",
        };
        self.say(&json!({ "event": event, "step": step, "remote": remote, "bytes": bytes }));
    }

    fn warning(&mut self, text: &str) {
        self.say(&json!({ "event": "warning", "text": text }));
    }

    fn finished(&mut self, took: Duration) {
        self.say(&json!({ "event": "finished", "ms": milliseconds(took) }));
    }
}
