//! Several builds on one store at once.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use kiln::execute::recover::recover;
use kiln::store::Store;
use kiln::store::work::Work;

use super::fake::{Gate, Misdeed};
use super::space::{TestSpace, Watch};

/// Two spaces with the same recipe on one store.
fn two(recipe: &str) -> (TestSpace, TestSpace) {
    let (first, mut second) = (TestSpace::new(recipe), TestSpace::new(recipe));
    second.store.clone_from(&first.store);
    first.open();
    (first, second)
}

fn traces(first: &TestSpace, second: &TestSpace) -> Vec<String> {
    let mut both = first.executor.trace();
    both.extend(second.executor.trace());
    both.sort();
    both
}

#[test]
fn one_builds_and_the_other_waits_and_both_have_the_image() {
    let (first, second) = two(r#"image "web" {
            base file "base.img"
            run-command "one"
            run-command "two"
            output "raw"
        }"#);
    let gate = Arc::new(Gate::default());
    first.executor.misbehave("one", Misdeed::Wait(Arc::clone(&gate)));
    std::thread::scope(|scope| {
        let builds = scope.spawn(|| first.try_build().unwrap());
        gate.wait_for(1);
        let mut watch = Watch::on_waiting(|| gate.permit(1));
        let waited = second.build_with(&mut watch).unwrap();
        assert!(watch.waited >= 1);
        let built = builds.join().unwrap();
        assert!(built.ran.iter().any(|name| name == "web/run-command"));
        assert_eq!(built.ran.len() + waited.ran.len(), 4, "{built:?} {waited:?}");
        assert_eq!((built.written, waited.written), (1, 1));
    });
    let both = traces(&first, &second);
    assert_eq!(both.len(), 3, "each task once: {both:?}");
    assert_eq!(first.content("web"), second.content("web"));
    first.check();
}

#[test]
fn waiting_for_many_steps_is_no_reason_to_give_up() {
    let steps: Vec<_> = (0..24).map(|n| format!("run-command \"step {n}\"")).collect();
    let steps = steps.join("\n");
    let (first, second) =
        two(&format!("image \"web\" {{\nbase file \"base.img\"\n{steps}\noutput \"raw\"\n}}"));
    // Each step is held until the other build waits for it.
    let gate = Arc::new(Gate::default());
    first.executor.misbehave("step", Misdeed::Wait(Arc::clone(&gate)));
    std::thread::scope(|scope| {
        let builds = scope.spawn(|| first.try_build());
        gate.wait_for(1);
        let mut watch = Watch::on_waiting(|| gate.permit(1));
        let waited = second.build_with(&mut watch);
        drop(watch);
        gate.permit(100);
        builds.join().unwrap().unwrap();
        waited.unwrap();
    });
    assert_eq!(traces(&first, &second).len(), 25);
    assert_eq!(first.content("web"), second.content("web"));
}

#[test]
fn the_one_that_waits_builds_what_the_other_could_not() {
    let (first, second) =
        two("image \"web\" { base file \"base.img\"; run-command \"one\"; output \"raw\"; }");
    let gate = Arc::new(Gate::default());
    first.executor.misbehave("one", Misdeed::Wait(Arc::clone(&gate)));
    first.executor.misbehave("one", Misdeed::Fail);
    std::thread::scope(|scope| {
        let fails = scope.spawn(|| first.try_build());
        gate.wait_for(1);
        let mut watch = Watch::on_waiting(|| gate.permit(1));
        assert_eq!(second.build_with(&mut watch).unwrap().ran, ["web/run-command", "web/seal"]);
        assert!(fails.join().unwrap().is_err());
    });
    second.check();
}

#[test]
fn one_that_waits_can_be_interrupted() {
    let (first, second) =
        two("image \"web\" { base file \"base.img\"; run-command \"one\"; output \"raw\"; }");
    let gate = Arc::new(Gate::default());
    first.executor.misbehave("one", Misdeed::Wait(Arc::clone(&gate)));
    std::thread::scope(|scope| {
        let builds = scope.spawn(|| first.try_build());
        gate.wait_for(1);
        let mut watch = Watch::on_waiting(|| second.interrupted.store(true, Ordering::SeqCst));
        let error = second.build_with(&mut watch).unwrap_err();
        assert!(matches!(error, kiln::engine::BuildError::Interrupted), "{error:?}");
        gate.permit(1);
        builds.join().unwrap().unwrap();
    });
    assert!(second.executor.trace().is_empty());
}

#[test]
fn builds_of_different_images_on_one_store_do_not_disturb_each_other() {
    let mut spaces: Vec<_> = (0..4)
        .map(|n| {
            TestSpace::new(&format!(
                "image \"i{n}\" {{ base file \"base.img\"; run-command \"one\"; run-command \"{n}\"; output \"raw\"; }}"
            ))
        })
        .collect();
    let store = spaces[0].store.clone();
    for space in &mut spaces {
        space.store.clone_from(&store);
    }
    let summaries: Vec<_> = std::thread::scope(|scope| {
        let builds: Vec<_> =
            spaces.iter().map(|space| scope.spawn(|| space.try_build().unwrap())).collect();
        builds.into_iter().map(|build| build.join().unwrap()).collect()
    });
    let ran: usize = summaries.iter().map(|summary| summary.ran.len()).sum();
    assert_eq!(ran, 2 + 2 * 4, "base and the common step once, the rest each for itself");
    for space in &spaces {
        space.check();
    }
}

#[test]
fn a_build_that_starts_or_ends_is_never_taken_for_an_abandoned_one() {
    let directory = tempfile::tempdir().unwrap();
    let store = Store::open(directory.path()).unwrap();
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !over.load(Ordering::SeqCst) {
                assert_eq!(recover(&store, &mut |_| {}).unwrap(), 0);
            }
        });
        for _ in 0..300 {
            let work = Work::new(&store);
            let whole = work.as_ref().is_ok_and(|work| work.path().join("lease").exists());
            if !whole {
                over.store(true, Ordering::SeqCst);
            }
            assert!(whole, "{:?}", work.err());
        }
        over.store(true, Ordering::SeqCst);
    });
}
