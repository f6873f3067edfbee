//! What one builds, the other takes.

use kiln::progress::Way;
use kiln::remote::backend::Backend;

use super::remote::{Call, MemoryRemote};
use super::space::{TestSpace, Watch};
use super::team::{How, Key, build, space, team, went};

pub(crate) const RECIPE: &str = r#"image "web" {
    base file "base.img"
    run-command "one"
    run-command "two"
    run-command "three"
    output "raw"
}"#;

/// The same with another last step.
const OTHER: &str = r#"image "web" {
    base file "base.img"
    run-command "one"
    run-command "two"
    run-command "four"
    output "raw"
}"#;

#[test]
fn the_second_builds_nothing_and_has_the_same_image() {
    let (remote, key) = (MemoryRemote::new(), Key::new());
    let how = How::with(&key);
    let here = space(RECIPE, remote.clone(), &how);
    let (ran, watch) = build(&here);
    assert_eq!(ran.len(), 5);
    assert_eq!(went(&watch, Way::Out).len(), 5, "{:?}", watch.warnings);

    let there = space(RECIPE, remote.clone(), &how);
    let (ran, watch) = build(&there);
    assert_eq!((ran, watch.warnings.as_slice()), (vec![], &[][..]));
    assert_eq!(went(&watch, Way::In), ["web/seal"], "only the deepest");
    assert_eq!(there.content("web"), here.content("web"));
    there.check_states();
    // What was taken is in the store from then on.
    std::fs::remove_file(there.output("web")).unwrap();
    remote.counts();
    let (ran, _) = build(&there);
    assert_eq!((ran, remote.counts().of(Call::ReadBlob)), (vec![], 0));
}

#[test]
fn a_boot_test_that_somebody_passed_is_not_done_again() {
    let (key, remote) = (Key::new(), MemoryRemote::new());
    let how = How::with(&key);
    let booted = |space: &TestSpace| {
        let trace = space.executor.trace();
        trace.iter().filter(|task| task.starts_with("BOOT")).count()
    };
    let here = space(RECIPE, remote.clone(), &how);
    build(&here);
    let tested = here.test_with(false, &mut Watch::default()).unwrap();
    assert_eq!((tested[0].cached, booted(&here)), (false, 2));

    let there = space(RECIPE, remote.clone(), &how);
    build(&there);
    let shared = there.test_with(false, &mut Watch::default()).unwrap();
    assert_eq!((shared[0].cached, booted(&there)), (true, 0));
    assert_eq!(shared[0].report, tested[0].report);

    // What is built anew is another state, though its keys are the same.
    let own = space(RECIPE, MemoryRemote::new(), &how);
    build(&own);
    let mut apart = own;
    apart.team = team(vec![Box::new(remote)], &how);
    let tested = apart.test_with(false, &mut Watch::default()).unwrap();
    assert_eq!((tested[0].cached, booted(&apart)), (false, 2));
}

#[test]
fn a_build_goes_on_from_the_deepest_shared_step() {
    let (remote, key) = (MemoryRemote::new(), Key::new());
    let how = How::with(&key);
    build(&space(RECIPE, remote.clone(), &how));
    let there = space(OTHER, remote.clone(), &how);
    let (ran, watch) = build(&there);
    assert_eq!(ran, ["web/run-command#3", "web/seal"]);
    assert_eq!(went(&watch, Way::In), ["web/run-command#2"]);
    // And what it made is there for the next.
    let (ran, _) = build(&space(OTHER, remote, &how));
    assert!(ran.is_empty(), "{ran:?}");
}

#[test]
fn a_plan_for_a_remote_needs_no_layer() {
    let (remote, key) = (MemoryRemote::new(), Key::new());
    let how = How::with(&key);
    build(&space(RECIPE, remote.clone(), &how));
    remote.counts();
    let there = space(RECIPE, remote.clone(), &how);
    let keys: Vec<_> = there.keys().into_values().collect();
    assert_eq!(there.team.find(&keys).len(), 5);
    let counts = remote.counts();
    assert_eq!((counts.of(Call::ReadBlob), counts.of(Call::PutRecord)), (0, 0));
}

#[test]
fn who_does_not_trust_the_key_builds() {
    let (remote, key, other) = (MemoryRemote::new(), Key::new(), Key::new());
    build(&space(RECIPE, remote.clone(), &How::with(&key)));
    let there =
        space(RECIPE, remote, &How { trusts: vec![&other], signs: None, ..How::with(&key) });
    let (ran, watch) = build(&there);
    assert_eq!(ran.len(), 5);
    assert!(watch.warnings.iter().all(|text| text.contains("is not used")), "{:?}", watch.warnings);
    assert!(!watch.warnings.is_empty());
}

#[test]
fn namespaces_do_not_serve_each_other() {
    let (remote, key) = (MemoryRemote::new(), Key::new());
    build(&space(RECIPE, remote.clone(), &How::with(&key)));
    let there = space(RECIPE, remote.clone(), &How { namespace: "pr-7", ..How::with(&key) });
    let (ran, _) = build(&there);
    assert_eq!(ran.len(), 5);
    let namespaces: std::collections::BTreeSet<_> =
        remote.records().into_iter().map(|name| name.namespace.to_string()).collect();
    assert_eq!(namespaces.into_iter().collect::<Vec<_>>(), ["main", "pr-7"]);
}

#[test]
fn nothing_is_written_without_a_key_or_to_a_read_only_remote() {
    let (remote, key) = (MemoryRemote::new(), Key::new());
    for how in [How { signs: None, ..How::with(&key) }, How { read_only: true, ..How::with(&key) }]
    {
        build(&space(RECIPE, remote.clone(), &how));
        assert!(remote.blobs().is_empty() && remote.records().is_empty());
    }
}

#[test]
fn impure_results_are_shared_only_where_that_is_said() {
    const IMPURE: &str = r#"image "web" {
        base file "base.img"
        run-command "one"
        run-command "two" network=#true
        output "raw"
    }"#;
    let (remote, key) = (MemoryRemote::new(), Key::new());
    let pure = How { impure: false, ..How::with(&key) };
    let (_, watch) = build(&space(IMPURE, remote.clone(), &pure));
    assert_eq!(went(&watch, Way::Out), ["web/base", "web/run-command"]);
    let (_, watch) = build(&space(IMPURE, remote.clone(), &How::with(&key)));
    assert_eq!(went(&watch, Way::Out), ["web/run-command#2", "web/seal"]);
    // What is there all the same is not taken by who wants no impure results.
    let (ran, _) = build(&space(IMPURE, remote, &pure));
    assert_eq!(ran, ["web/run-command#2", "web/seal"]);
}

#[test]
fn what_a_remote_lost_is_built_again_and_given_again() {
    let (remote, key) = (MemoryRemote::new(), Key::new());
    let how = How::with(&key);
    build(&space(RECIPE, remote.clone(), &how));
    for seed in 0..12 {
        let lost = remote.lose_some(seed, 3);
        let there = space(RECIPE, remote.clone(), &how);
        let (ran, watch) = build(&there);
        assert!(lost.is_empty() || !ran.is_empty() || watch.warnings.is_empty(), "{seed}");
        there.check_states();
        // By then all is there again.
        let (ran, watch) = build(&space(RECIPE, remote.clone(), &how));
        assert_eq!((ran, watch.warnings.as_slice()), (vec![], &[][..]), "{seed}");
    }
}

#[test]
fn a_rebuilt_layer_sends_little() {
    let (remote, key) = (MemoryRemote::new(), Key::new());
    let how = How::with(&key);
    let here = space(RECIPE, remote.clone(), &how);
    build(&here);
    let first = remote.counts().written;
    here.recipe(OTHER);
    build(&here);
    assert!(remote.counts().written < first);
}

#[test]
fn one_store_may_mix_local_and_shared_layers() {
    let (remote, key) = (MemoryRemote::new(), Key::new());
    let how = How::with(&key);
    // Somebody has built the first steps alone, and somebody else all of them.
    let short = RECIPE.replace("    run-command \"three\"\n", "");
    let mut there = space(&short, MemoryRemote::new(), &how);
    build(&there);
    build(&space(RECIPE, remote.clone(), &how));
    there.team = super::team::team(vec![boxed(remote)], &how);
    there.recipe(RECIPE);
    there.options.verify_layers = true;
    let (ran, _) = build(&there);
    assert!(ran.is_empty(), "{ran:?}");
    there.check_states();
}

fn boxed(remote: MemoryRemote) -> Box<dyn Backend> {
    Box::new(remote)
}
