//! A live view for terminals: what runs, with its last line, above it what is done.

use std::collections::HashMap;
use std::path::Path;
use std::time::Duration;

use indicatif::{MultiProgress, ProgressBar, ProgressStyle};

use super::{Progress, StepDone, StepName, Way, duration, holder_of, shared_line, size};
use crate::digest::ActionKey;

const TICK: Duration = Duration::from_millis(120);

/// Draws on the terminal at standard error.
pub struct Fancy {
    all: MultiProgress,
    bars: HashMap<ActionKey, (ProgressBar, String)>,
    bold: console::Bold,
}

mod console {
    //! The three marks in front of a line, in colour where the terminal's user wants it.

    /// Whether colours are wanted; see <https://no-color.org>.
    #[derive(Clone, Copy)]
    pub(super) struct Bold(pub(super) bool);

    impl Bold {
        pub(super) fn paint(self, colour: u8, text: &str) -> String {
            if self.0 { format!("\x1b[{colour}m{text}\x1b[0m") } else { text.to_owned() }
        }
    }
}

const GREEN: u8 = 32;
const RED: u8 = 31;
const YELLOW: u8 = 33;
const FAINT: u8 = 2;

impl Default for Fancy {
    fn default() -> Self {
        let bold = console::Bold(std::env::var_os("NO_COLOR").is_none());
        Self { all: MultiProgress::new(), bars: HashMap::new(), bold }
    }
}

impl Fancy {
    fn say(&self, text: &str) {
        // A terminal that is gone is no reason to stop.
        let _ = self.all.println(text);
    }

    fn end(&mut self, key: ActionKey) -> String {
        match self.bars.remove(&key) {
            Some((bar, name)) => {
                bar.finish_and_clear();
                name
            }
            None => key.short(),
        }
    }
}

impl Progress for Fancy {
    fn planned(&mut self, running: usize, cached: usize) {
        if running > 0 {
            self.say(&self.bold.paint(FAINT, &format!("{running} to run, {cached} cached")));
        }
    }

    fn started(&mut self, key: ActionKey, step: &StepName, why: &str) {
        let name = format!("{}/{}", step.image, step.label);
        let style = ProgressStyle::with_template("{spinner} {prefix}  {elapsed}  {wide_msg:.dim}")
            .unwrap_or_else(|_| ProgressStyle::default_spinner());
        let bar = self.all.add(ProgressBar::new_spinner().with_style(style));
        bar.set_prefix(format!("{name}  {}", step.what));
        bar.set_message(why.to_owned());
        bar.enable_steady_tick(TICK);
        self.bars.insert(key, (bar, name));
    }

    fn line(&mut self, key: ActionKey, line: &str) {
        if let Some((bar, _)) = self.bars.get(&key) {
            bar.set_message(line.to_owned());
        }
    }

    fn waiting(&mut self, key: ActionKey, holder: Option<&str>) {
        if let Some((bar, _)) = self.bars.get(&key) {
            bar.set_message(format!("{} builds it; waiting", holder_of(holder)));
        }
    }

    fn done(&mut self, key: ActionKey, done: &StepDone) {
        let name = self.end(key);
        let detail = format!("{}, layer {}", duration(done.took), size(done.layer));
        let mark = self.bold.paint(GREEN, "✓");
        self.say(&format!("{mark} {name}  {}", self.bold.paint(FAINT, &detail)));
        if let Some(note) = &done.note {
            self.say(&format!("  {} {note}", self.bold.paint(YELLOW, "note")));
        }
    }

    fn failed(&mut self, key: ActionKey) {
        let name = self.end(key);
        self.say(&format!("{} {name}", self.bold.paint(RED, "✗")));
    }

    fn output(&mut self, image: &str, path: &Path, fresh: bool, note: &str) {
        let mark = self.bold.paint(GREEN, if fresh { "→" } else { "=" });
        let note = self.bold.paint(FAINT, note);
        self.say(&format!("{mark} {image}  {}{note}", path.display()));
    }

    fn shared(&mut self, step: &str, remote: &str, way: Way, bytes: u64) {
        self.say(&self.bold.paint(FAINT, &format!("{step}  {}", shared_line(remote, way, bytes))));
    }

    fn warning(&mut self, text: &str) {
        self.say(&format!("{} {text}", self.bold.paint(YELLOW, "warning:")));
    }

    fn finished(&mut self, took: Duration) {
        let text = format!("ready after {}", duration(took));
        self.say(&self.bold.paint(FAINT, &text));
    }
}
