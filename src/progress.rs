//! What a build tells while it goes on: a live tree, plain lines, or JSON.
//!
//! The engine calls these from its one loop; none of them can fail a build.

mod fancy;
mod json;
mod plain;

use std::path::Path;
use std::time::Duration;

use crate::digest::ActionKey;

pub use fancy::Fancy;
pub use json::Json;
pub use plain::Plain;

/// A step as it is shown.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StepName {
    /// The image.
    pub image: String,
    /// The step's label in it.
    pub label: String,
    /// What it does, on one line.
    pub what: String,
}

/// How a step that ran has ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StepDone {
    /// How long it took.
    pub took: Duration,
    /// Bytes of its layer.
    pub layer: u64,
    /// Something that its author should know: processes that were left running.
    pub note: Option<String>,
}

/// Which way a result goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// From a remote.
    In,
    /// To a remote.
    Out,
}

/// Gets the events of a build.
pub trait Progress {
    /// The plan is made: how many actions run, and how many are cached.
    fn planned(&mut self, running: usize, cached: usize);
    /// A step starts.
    fn started(&mut self, key: ActionKey, step: &StepName, why: &str);
    /// A step printed a line.
    fn line(&mut self, key: ActionKey, line: &str);
    /// A step waits for another kiln that builds the same; `holder` is its host, if it is another.
    fn waiting(&mut self, key: ActionKey, holder: Option<&str>);
    /// A step is done and cached.
    fn done(&mut self, key: ActionKey, done: &StepDone);
    /// A step failed.
    fn failed(&mut self, key: ActionKey);
    /// An output is in place, or was all along.
    fn output(&mut self, image: &str, path: &Path, fresh: bool, note: &str);
    /// A result was taken from a remote, or given to one; so many bytes went over the network.
    fn shared(&mut self, step: &str, remote: &str, way: Way, bytes: u64);
    /// Something that does not stop the build.
    fn warning(&mut self, text: &str);
    /// The build is over.
    fn finished(&mut self, took: Duration);
}

/// Tells nothing.
#[derive(Debug, Clone, Copy, Default)]
pub struct Silent;

impl Progress for Silent {
    fn planned(&mut self, _: usize, _: usize) {}
    fn started(&mut self, _: ActionKey, _: &StepName, _: &str) {}
    fn line(&mut self, _: ActionKey, _: &str) {}
    fn waiting(&mut self, _: ActionKey, _: Option<&str>) {}
    fn done(&mut self, _: ActionKey, _: &StepDone) {}
    fn failed(&mut self, _: ActionKey) {}
    fn output(&mut self, _: &str, _: &Path, _: bool, _: &str) {}
    fn shared(&mut self, _: &str, _: &str, _: Way, _: u64) {}
    fn warning(&mut self, _: &str) {}
    fn finished(&mut self, _: Duration) {}
}

/// Who builds what a step waits for.
fn holder_of(holder: Option<&str>) -> String {
    holder.map_or_else(|| "another kiln".to_owned(), |host| format!("a kiln on {host}"))
}

/// What is told of a result that went over the network.
fn shared_line(remote: &str, way: Way, bytes: u64) -> String {
    match way {
        Way::In => format!("from {remote}"),
        Way::Out => format!("to {remote}, {} sent", size(bytes)),
    }
}

/// A time as people read it: `0.42 s`, `12.3 s`, `3 min 05 s`.
#[must_use]
pub fn duration(time: Duration) -> String {
    match time.as_secs() {
        0 => format!("{:.2} s", time.as_secs_f64()),
        1..=99 => format!("{:.1} s", time.as_secs_f64()),
        seconds => format!("{} min {:02} s", seconds / 60, seconds % 60),
    }
}

/// A size as people read it: `52 KiB`, `7.3 MiB`.
#[must_use]
pub fn size(bytes: u64) -> String {
    #[expect(clippy::cast_precision_loss, reason = "shown with two digits")]
    let value = bytes as f64;
    match bytes {
        0..=1023 => format!("{bytes} B"),
        1024..=1_048_575 => format!("{:.0} KiB", value / 1024.0),
        1_048_576..=1_073_741_823 => format!("{:.1} MiB", value / 1_048_576.0),
        _ => format!("{:.2} GiB", value / 1_073_741_824.0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_and_sizes_are_short() {
        let times = [4, 420, 12_340, 185_000].map(|ms| duration(Duration::from_millis(ms)));
        assert_eq!(times, ["0.00 s", "0.42 s", "12.3 s", "3 min 05 s"]);
        let sizes = [12, 53_000, 7_600_000, 4 << 30].map(size);
        assert_eq!(sizes, ["12 B", "52 KiB", "7.2 MiB", "4.00 GiB"]);
    }
}
