//! Kills and stops, at points spread over a build: the next build puts everything right.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde_json::Value;

use crate::guest_space::{
    Done, KILN, Mounted, Run, Space, differences, eventually, kept, signal, state,
};

/// How long kiln may take to come to an end after one of its processes was killed or stopped.
const END: Duration = Duration::from_mins(1);

/// Each run of it makes the same files. `quick` fails at once: a build of it does no more than put
/// the host in order.
const VICTIM: &str = r#"image "victim" {
    base image "golden"
    write "/etc/one" "1"
    run-command """
        seq 1 2000000 >/srv/a
        echo half
        sleep 0.5
        cp /srv/a /srv/b; cp /srv/a /srv/c; cp /srv/a /srv/d
        rm /srv/c
        echo whole
        """ name="big"
    run-command "for i in 1 2 3 4 5 6 7 8 9 10; do echo tick >>/srv/ticks; echo tick; sleep 0.1; done" name="slow"
    copy-in "tree" "/srv"
    install "wget"
    hostname "victim"
    output "raw"
    output "qcow2"
}

image "quick" {
    base image "golden"
    run-command "exit 5"
}
"#;

fn victim() -> Space {
    // Not while this test has its turn.
    reference();
    undisturbed()
}

fn undisturbed() -> Space {
    let space = Space::new(VICTIM);
    for number in 0..300 {
        let path = format!("recipes/tree/{}/{number}", number % 7);
        space.file(&path, format!("{number}\n").repeat(number));
    }
    space
}

/// Where a signal hits a build.
#[derive(Debug, Clone, Copy)]
enum At {
    /// So many milliseconds after the start.
    Time(u64),
    /// So many milliseconds after a step started, or when it is done.
    Started(&'static str, u64),
    /// So many milliseconds after a step printed a line.
    Line(&'static str, &'static str, u64),
    /// So many milliseconds after a step was done.
    Done(&'static str, u64),
    /// When the process is there.
    Opening,
    /// While the disk is frozen behind a step.
    Frozen(&'static str),
    /// While an output is being written.
    Writing(&'static str),
}

fn key_of(run: &Run, step: &str) -> Value {
    run.events()
        .iter()
        .find(|event| event["event"] == "started" && event["step"] == step)
        .map_or(Value::Null, |event| event["key"].clone())
}

/// Bytes that a process has asked to read.
fn read_bytes(pid: u32) -> u64 {
    let text = fs::read_to_string(format!("/proc/{pid}/io")).unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix("rchar: "));
    line.and_then(|number| number.parse().ok()).unwrap_or(0)
}

impl At {
    /// Waits for that moment of a build.
    fn wait(self, space: &Space, run: &mut Run) {
        let rest = match self {
            Self::Time(rest) => rest,
            Self::Started(step, rest) => {
                run.wait_for_step(step);
                let key = key_of(run, step);
                // A quick machine may be done with the step before that: then it is now.
                run.wait_at_most(Duration::from_millis(rest), |e| {
                    e["event"] == "done" && e["key"] == key
                });
                0
            }
            Self::Line(step, line, rest) => {
                run.wait_for_step(step);
                let key = key_of(run, step);
                let said = |e: &Value| e["event"] == "line" && e["key"] == key && e["line"] == line;
                assert!(run.wait_for(said), "`{line}` was not printed: {:#?}", run.events());
                rest
            }
            Self::Done(step, rest) => {
                run.wait_for_step(step);
                let key = key_of(run, step);
                assert!(run.wait_for(|e| e["event"] == "done" && e["key"] == key));
                rest
            }
            Self::Opening => {
                let there = || {
                    ["launcher", "keeper", "door"].iter().all(|role| !space.role(role).is_empty())
                };
                assert!(eventually(END, there), "no process was started");
                0
            }
            Self::Frozen(step) => {
                // With `--verify-layers` the whole disk is read while it is frozen. The keeper reads
                // nothing like that much at any other time.
                run.wait_for_step(step);
                let before = space.role("keeper").first().map_or(0, |&pid| read_bytes(pid));
                let reading = || {
                    space
                        .role("keeper")
                        .first()
                        .is_some_and(|&pid| read_bytes(pid) > before + (64 << 20))
                };
                assert!(eventually(END, reading), "the frozen disk was not read");
                0
            }
            Self::Writing(format) => {
                let (out, start) = (space.path("out"), format!(".victim.{format}."));
                let begun = || {
                    let entries = fs::read_dir(&out).into_iter().flatten().flatten();
                    entries.map(|entry| entry.file_name()).any(|name| {
                        let name = name.to_string_lossy().into_owned();
                        name.strip_prefix(&start).is_some_and(|rest| !rest.starts_with("json"))
                    })
                };
                assert!(eventually(END * 4, begun), "no output was begun: {:#?}", run.events());
                0
            }
        };
        std::thread::sleep(Duration::from_millis(rest));
    }

    fn arguments(self) -> &'static [&'static str] {
        match self {
            Self::Frozen(_) => &["victim", "--verify-layers"],
            _ => &["victim"],
        }
    }
}

/// What an undisturbed build makes; kept for other processes that run this very program.
fn reference() -> &'static BTreeMap<String, String> {
    static TREE: OnceLock<BTreeMap<String, String>> = OnceLock::new();
    TREE.get_or_init(|| {
        let made = fs::metadata(KILN).unwrap().mtime();
        let digest = kiln::digest::Digest::of(format!("{made} {VICTIM}").as_bytes());
        let path = kept().join(format!("victim-{digest}"));
        if let Ok(text) = fs::read(&path) {
            return serde_json::from_slice(&text).unwrap();
        }
        let space = undisturbed();
        let started = Instant::now();
        space.build_ok(&["victim"]);
        println!("an undisturbed build took {:.1?}", started.elapsed());
        space.assert_clean("after an undisturbed build");
        let tree = tree_of(&space);
        for entry in fs::read_dir(kept()).unwrap().flatten() {
            if entry.file_name().to_string_lossy().starts_with("victim-") {
                fs::remove_file(entry.path()).unwrap();
            }
        }
        fs::write(path, serde_json::to_vec(&tree).unwrap()).unwrap();
        tree
    })
}

fn tree_of(space: &Space) -> BTreeMap<String, String> {
    let mut tree = Mounted::root_of(&space.path("out/victim.raw")).tree();
    // Holds the times of the libraries it is about.
    tree.remove("var/cache/ldconfig/aux-cache");
    tree
}

/// The build after a disturbed one: good, with the same files, and nothing is left of either.
fn assert_recovers(space: &Space, what: &str) -> Done {
    let done = space.build(&["victim"]);
    assert_eq!(done.code, Some(0), "{what}: {done}");
    let different = differences(reference(), &tree_of(space));
    assert!(different.is_empty(), "{what}: {different:#?}");
    assert!(space.path("out/victim.qcow2").exists(), "{what}");
    space.assert_clean(what);
    done
}

/// Kills one build after the other, each further on than the last: each has to put right what the
/// one before it left, and what all of them left is put right at the end.
fn kill_kiln(points: &[At]) {
    let space = victim();
    for &at in points {
        let started = Instant::now();
        let mut run = space.start(at.arguments());
        at.wait(&space, &mut run);
        run.signal(Signal::KILL);
        let killed = run.finish();
        assert_eq!(killed.code, None, "kiln was to be killed at {at:?}, too late: {killed}");
        println!("killed at {at:?} after {:.1?}", started.elapsed());
    }
    assert_recovers(&space, &format!("kiln was killed at {points:?}"));
}

#[test]
fn kiln_killed_while_it_opens_the_disk_and_in_steps() {
    kill_kiln(&[
        At::Time(15),
        At::Opening,
        At::Started("write", 0),
        At::Time(200),
        At::Line("big", "half", 0),
        At::Line("big", "half", 150),
        At::Frozen("big"),
        At::Line("big", "whole", 10),
    ]);
}

#[test]
fn kiln_killed_behind_steps_in_an_installation_and_in_the_seal() {
    kill_kiln(&[
        At::Line("big", "whole", 120),
        At::Line("slow", "tick", 0),
        At::Done("slow", 5),
        At::Started("install", 700),
        At::Started("install", 4000),
        At::Started("seal", 0),
        At::Started("seal", 200),
    ]);
}

#[test]
fn kiln_killed_once_something_is_recorded_and_while_it_writes_outputs() {
    kill_kiln(&[At::Done("big", 0), At::Done("seal", 0), At::Writing("raw"), At::Writing("qcow2")]);
}

#[test]
fn an_interrupt_ends_the_build_and_keeps_what_was_done() {
    let space = victim();
    let mut run = space.start(&["victim"]);
    At::Line("slow", "tick", 0).wait(&space, &mut run);
    run.signal(Signal::INT);
    let done = run.finish();
    assert_eq!(done.code, Some(130), "{done}");
    assert!(done.said().contains("what was finished stays cached"), "{done}");
    space.assert_clean("after an interrupt");
    let next = assert_recovers(&space, "after an interrupt");
    let ran =
        ["slow", "copy-in", "install", "hostname", "seal"].map(|step| format!("victim/{step}"));
    assert_eq!(next.ran(), ran);
}

/// What happens to one of kiln's processes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Blow {
    Killed,
    /// Stopped for good, and then the user interrupts kiln.
    Stopped,
}

const PHASES: [At; 5] = [
    At::Opening,
    At::Line("big", "half", 100),
    At::Frozen("big"),
    At::Started("seal", 30),
    At::Writing("raw"),
];

/// Waits until kiln has ended, however it ended.
fn ended_in_time(run: Run, what: &str, space: &Space) -> Done {
    let pid = run.pid;
    let ended = eventually(END, || matches!(state(pid), None | Some('Z')));
    let left = space.leftovers();
    assert!(ended, "{what}: kiln does not end; there are:\n{}", left.join("\n"));
    run.finish()
}

fn strike(role: &str, blow: Blow) {
    let space = victim();
    for at in PHASES {
        let started = Instant::now();
        let what = format!("the {role} was {blow:?} at {at:?}");
        let mut run = space.start(at.arguments());
        at.wait(&space, &mut run);
        let struck = space.role(role);
        assert!(!struck.is_empty(), "{what}: there is none");
        for &pid in &struck {
            signal(pid, if blow == Blow::Killed { Signal::KILL } else { Signal::STOP });
        }
        if blow == Blow::Stopped {
            std::thread::sleep(Duration::from_millis(100));
            run.signal(Signal::INT);
        }
        let done = ended_in_time(run, &what, &space);
        let ended = started.elapsed();
        let expected = if blow == Blow::Killed { 3 } else { 130 };
        assert_eq!(done.code, Some(expected), "{what}: {done}");
        let next = space.build(&["quick"]);
        assert_eq!(next.code, Some(1), "{what}: the next run: {next}");
        let waiting = space.uninterruptible();
        assert!(waiting.is_empty(), "{what}: {waiting:?}");
        space.assert_clean(&what);
        println!("{what}: ended after {ended:.1?}, all right after {:.1?}", started.elapsed());
    }
    assert_recovers(&space, &format!("the {role} was {blow:?} at every phase"));
}

#[test]
fn the_launcher_killed() {
    strike("launcher", Blow::Killed);
}

#[test]
fn the_keeper_killed() {
    strike("keeper", Blow::Killed);
}

#[test]
fn the_door_killed() {
    strike("door", Blow::Killed);
}

#[test]
fn the_launcher_stopped() {
    strike("launcher", Blow::Stopped);
}

#[test]
fn the_keeper_stopped() {
    strike("keeper", Blow::Stopped);
}

#[test]
fn the_door_stopped() {
    strike("door", Blow::Stopped);
}

/// All three are stopped inside the freeze, kiln is killed: nobody is left who could thaw.
#[test]
fn everything_stopped_inside_the_freeze_and_kiln_killed() {
    let space = victim();
    let at = At::Frozen("big");
    let mut run = space.start(at.arguments());
    at.wait(&space, &mut run);
    for role in ["launcher", "keeper", "door"] {
        space.role(role).into_iter().for_each(|pid| signal(pid, Signal::STOP));
    }
    run.signal(Signal::KILL);
    run.finish();
    assert_recovers(&space, "everything was stopped inside the freeze and kiln killed");
}

/// A build that was killed leaves its temporary output to the next one, which replaces it.
#[test]
fn an_output_is_whole_or_as_it_was() {
    let space = victim();
    space.build_ok(&["victim"]);
    let output = space.path("out/victim.raw");
    let stamp = |path: &Path| {
        fs::metadata(path).map(|meta| (meta.len(), meta.modified().unwrap())).unwrap()
    };
    let before = stamp(&output);
    space.recipe(&VICTIM.replace("hostname \"victim\"", "hostname \"other\""));
    let mut run = space.start(&["victim"]);
    At::Writing("raw").wait(&space, &mut run);
    run.signal(Signal::KILL);
    run.finish();
    assert_eq!(stamp(&output), before, "the old output is there until the new one is whole");
    space.build_ok(&["victim"]);
    assert_eq!(Mounted::root_of(&output).read("/etc/hostname"), "other\n");
    space.assert_clean("after an output that was cut short");
}
