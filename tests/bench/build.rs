//! Whole commands on the real image: the unchanged build, and one changed `write` step.
//!
//! Needs root. Run it with `cargo bench --bench build`; `ROUNDS=10` sets how often. It works in a
//! copy of this workspace's recipes, on this workspace's own store, so that a golden image that was
//! built before is not built again.

use std::fs;
use std::path::Path;
use std::process::{Command, Output};
use std::time::{Duration, Instant};

const KILN: &str = env!("CARGO_BIN_EXE_kiln");

fn kiln(root: &Path, arguments: &[&str]) -> Output {
    let store = Path::new(env!("CARGO_MANIFEST_DIR")).join("cache");
    let output = Command::new(KILN)
        .arg("-C")
        .arg(root)
        .arg("--store")
        .arg(store)
        .args(arguments)
        .output()
        .expect("kiln runs");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{arguments:?}: {said}");
    output
}

fn copy_tree(from: &Path, to: &Path) {
    for entry in walkdir::WalkDir::new(from) {
        let entry = entry.expect("a readable tree");
        let target = to.join(entry.path().strip_prefix(from).expect("below the tree"));
        if entry.file_type().is_dir() {
            fs::create_dir_all(target).expect("a directory");
        } else {
            fs::copy(entry.path(), target).expect("a copy");
        }
    }
}

fn show(what: &str, mut times: Vec<Duration>) {
    times.sort();
    let ms = |time: Duration| time.as_secs_f64() * 1000.0;
    let (least, median, most) = (times[0], times[times.len() / 2], times[times.len() - 1]);
    println!("{what:<44} median {:8.1} ms   ({:.1} to {:.1})", ms(median), ms(least), ms(most));
}

/// The events of one kind in the output of `--progress json`.
fn events(output: &Output, kind: &str) -> Vec<serde_json::Value> {
    String::from_utf8_lossy(&output.stdout)
        .lines()
        .filter_map(|line| serde_json::from_str(line).ok())
        .filter(|event: &serde_json::Value| event["event"] == kind)
        .collect()
}

fn main() {
    let rounds: usize =
        std::env::var("ROUNDS").ok().and_then(|text| text.parse().ok()).unwrap_or(10);
    let scratch = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a directory");
    let root = scratch.path();
    copy_tree(&Path::new(env!("CARGO_MANIFEST_DIR")).join("recipes"), &root.join("recipes"));
    kiln(root, &["build", "debian-web"]);

    let times = (0..rounds).map(|_| {
        let start = Instant::now();
        kiln(root, &["build", "debian-web"]);
        start.elapsed()
    });
    show("unchanged build of debian-web", times.collect());
    let times = (0..rounds).map(|_| {
        let start = Instant::now();
        kiln(root, &["plan", "debian-web"]);
        start.elapsed()
    });
    show("plan of debian-web", times.collect());

    // Two steps: the first opens the disk, the second shows what a step costs by itself.
    let (mut steps, mut wholes, mut sizes) = (Vec::new(), Vec::new(), Vec::new());
    for round in 0..rounds {
        let stamp = format!("{:?}", Instant::now());
        let recipe = format!(
            "image \"bench\" {{\n    base image \"debian-golden\"\n    write \"/etc/first\" {stamp:?}\n    \
             write \"/etc/motd\" \"round {round} {}\"\n    output \"raw\"\n}}\n",
            stamp.replace('"', "")
        );
        fs::write(root.join("recipes/bench.kdl"), recipe).expect("a recipe");
        let start = Instant::now();
        let output = kiln(root, &["build", "bench", "--progress", "json"]);
        wholes.push(start.elapsed());
        let done = events(&output, "done");
        let second = &done[done.len() - 2];
        steps.push(Duration::from_millis(second["ms"].as_u64().unwrap_or_default()));
        sizes.push(second["layer"].as_u64().unwrap_or_default());
    }
    show("a `write` step with its layer", steps);
    show("the build: two such steps, seal, raw output", wholes);
    sizes.sort_unstable();
    println!(
        "{:<44} median {:8} KiB",
        "layer of a one-line `write`",
        sizes[sizes.len() / 2] / 1024
    );
}
