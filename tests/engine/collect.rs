//! Collections while builds run, and what the next build finds.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use kiln::digest::ActionKey;
use kiln::engine::last_build;
use kiln::progress::{Progress, StepDone, StepName};
use kiln::recipe::Retention;
use kiln::store::survey::Survey;
use kiln::store::{Store, gc};

use super::fake::{Gate, Misdeed};
use super::space::TestSpace;

/// Two images on a common one.
const FAMILY: &str = r#"
image "common" { base file "base.img"; run-command "one"; run-command "two"; output "raw"; }
image "left" { base image "common"; run-command "left one"; run-command "left two"; output "raw"; }
image "right" { base image "common"; run-command "right"; output "raw"; }
"#;

/// Keeps so many builds of each image, and nothing else that need not be kept.
fn keep(keep_builds: usize) -> Retention {
    Retention { size: Some(0), keep_builds, ..Retention::default() }
}

/// Later than everything that was written.
fn later() -> u64 {
    gc::now() + 1_000_000
}

fn collect(store: &Store, retention: &Retention) {
    gc::collect(store, retention, later()).unwrap();
}

/// Removes the outputs: they would keep what they were made from.
fn remove_outputs(space: &TestSpace) {
    for image in ["common", "left", "right"] {
        let _ = std::fs::remove_file(space.output(image));
    }
}

/// Collects whenever a build tells something.
struct Collects<'a> {
    store: &'a Store,
    collections: usize,
}

impl Collects<'_> {
    fn collect(&mut self) {
        self.collections += 1;
        collect(self.store, &keep(0));
    }
}

impl Progress for Collects<'_> {
    fn planned(&mut self, _: usize, _: usize) {
        // What was planned is taken away before it is used; else nothing would ever be planned.
        if self.collections < 5 {
            self.collect();
        }
    }

    fn started(&mut self, _: ActionKey, _: &StepName, _: &str) {
        self.collect();
    }

    fn line(&mut self, _: ActionKey, _: &str) {
        self.collect();
    }

    fn waiting(&mut self, _: ActionKey, _: Option<&str>) {}

    fn done(&mut self, _: ActionKey, _: &StepDone) {
        self.collect();
    }

    fn failed(&mut self, _: ActionKey) {
        self.collect();
    }

    fn output(&mut self, _: &str, _: &Path, _: bool, _: &str) {
        self.collect();
    }

    fn shared(&mut self, _: &str, _: &str, _: kiln::progress::Way, _: u64) {}

    fn warning(&mut self, text: &str) {
        panic!("{text}");
    }

    fn finished(&mut self, _: Duration) {}
}

#[test]
fn a_build_comes_to_its_end_whatever_is_collected_meanwhile() {
    for jobs in [1, 3] {
        let mut space = TestSpace::new(FAMILY);
        space.options.jobs = jobs;
        let store = space.open();
        for recipe in [FAMILY.to_owned(), FAMILY.replace("left two", "left 2"), FAMILY.to_owned()] {
            space.recipe(&recipe);
            let mut collects = Collects { store: &store, collections: 0 };
            space.build_with(&mut collects).unwrap();
            assert!(collects.collections > 5);
            space.check();
            remove_outputs(&space);
        }
    }
}

#[test]
fn nothing_waits_while_a_step_runs() {
    let space = TestSpace::new(FAMILY);
    space.build();
    space.recipe(&FAMILY.replace("\"right\"", "\"wait\""));
    let gate = Arc::new(Gate::default());
    space.executor.misbehave("wait", Misdeed::Wait(Arc::clone(&gate)));
    std::thread::scope(|scope| {
        let builds = scope.spawn(|| space.try_build());
        gate.wait_for(1);
        let (sender, receiver) = std::sync::mpsc::channel();
        scope.spawn(|| {
            let sender = sender;
            let store = space.open();
            let workspace = space.workspace();
            // As plan, log, ls, du, verify, gc and a second build of something else do.
            space.plan();
            assert!(!last_build(&workspace, &store, 0).steps.is_empty());
            assert!(Survey::read(&store, 1).unwrap().usage(&store).layers.count > 0);
            assert!(kiln::store::verify::verify(&store, &|_| {}).unwrap().is_good());
            gc::preview(&store, &keep(0), later()).unwrap();
            collect(&store, &keep(0));
            let mut other = TestSpace::new(
                "image \"o\" { base file \"base.img\"; run-command \"o\"; output \"raw\"; }",
            );
            other.store.clone_from(&space.store);
            other.try_build().unwrap();
            sender.send(()).unwrap();
        });
        let done = receiver.recv_timeout(Duration::from_mins(2));
        gate.permit(1);
        builds.join().unwrap().unwrap();
        assert!(done.is_ok(), "something waits for the step");
    });
    space.check();
}

#[test]
fn the_last_build_is_kept_with_all_that_it_stands_on() {
    let space = TestSpace::new(FAMILY);
    space.build();
    let changed = FAMILY.replace("left two", "left 2");
    space.recipe(&changed);
    space.build();
    remove_outputs(&space);
    collect(&space.open(), &keep(1));
    let summary = space.build();
    assert_eq!((summary.ran.len(), summary.written), (0, 3));
    remove_outputs(&space);
    collect(&space.open(), &keep(1));
    // The build before is gone, but for what the last one shares with it.
    space.recipe(FAMILY);
    assert_eq!(space.ran(), ["left/run-command#2", "left/seal"]);
    // Two builds are kept where that is wanted.
    remove_outputs(&space);
    collect(&space.open(), &keep(2));
    for recipe in [&changed, FAMILY] {
        space.recipe(recipe);
        assert_eq!(space.build().ran, Vec::<String>::new());
    }
}

#[test]
fn how_far_a_failed_build_came_is_kept() {
    let space = TestSpace::new(
        "image \"web\" { base file \"base.img\"; run-command \"one\"; run-command \"two\"; output \"raw\"; }",
    );
    space.executor.misbehave("two", Misdeed::Fail);
    space.try_build().unwrap_err();
    collect(&space.open(), &keep(1));
    space.executor.behave();
    assert_eq!(space.ran(), ["web/run-command#2", "web/seal"]);
}

#[test]
fn an_output_that_is_there_keeps_what_it_was_made_from() {
    let space = TestSpace::new(FAMILY);
    space.build();
    collect(&space.open(), &keep(0));
    assert_eq!(space.build().ran, Vec::<String>::new());
    std::fs::remove_file(space.output("right")).unwrap();
    collect(&space.open(), &keep(0));
    assert_eq!(space.ran(), ["right/run-command", "right/seal"]);
    space.check();
}
