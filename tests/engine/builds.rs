//! What runs, what does not, and what is left when something fails.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use kiln::engine::BuildError;
use kiln::execute::FaultKind;
use kiln::explain::Reason;
use kiln::plan::Fate;

use super::fake::{Gate, Misdeed};
use super::space::{TestSpace, Watch};

const WEB: &str = r#"
image "web" {
    base file "base.img"
    run-command "one"
    upload "input" "/etc/input"
    write "/etc/motd" "three"
    output "raw"
}
"#;

/// Two images on a common one.
const FAMILY: &str = r#"
image "common" { base file "base.img"; run-command "one"; run-command "two"; output "raw"; }
image "left" { base image "common"; run-command "left one"; run-command "left two"; output "raw"; }
image "right" { base image "common"; run-command "right"; output "raw"; }
"#;

fn web() -> TestSpace {
    let space = TestSpace::new(WEB);
    space.input("input", "a");
    space
}

fn steps_of(error: BuildError) -> (Vec<String>, Vec<String>) {
    match error {
        BuildError::Steps { steps, skipped } => {
            (steps.iter().map(ToString::to_string).collect(), skipped)
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn the_first_build_runs_everything_in_order() {
    let space = web();
    assert_eq!(space.ran(), ["web/base", "web/run-command", "web/upload", "web/write", "web/seal"]);
    let content = space.content("web");
    assert_eq!(content.mark, 7);
    assert_eq!(content.records.len(), 4);
    assert!(content.records[2].task.contains("three"));
    space.check_states();
}

#[test]
fn the_second_build_runs_nothing_and_leaves_the_output_alone() {
    let mut space = web();
    space.options.verify_layers = false;
    space.build();
    let look = |space: &TestSpace| {
        let meta = fs::metadata(space.output("web")).unwrap();
        let times = (meta.mtime(), meta.mtime_nsec(), meta.ctime(), meta.ctime_nsec());
        (fs::read(space.output("web")).unwrap(), times, meta.ino())
    };
    let (before, tasks) = (look(&space), space.executor.trace().len());
    let journal = fs::read(space.store.join("results")).unwrap();
    for verify_layers in [false, true] {
        space.options.verify_layers = verify_layers;
        let mut watch = Watch::default();
        let summary = space.build_with(&mut watch).unwrap();
        assert_eq!((summary.ran.len(), summary.written), (0, 0));
        assert!(watch.started.is_empty());
        assert_eq!(watch.outputs, [("web".to_owned(), false)]);
        assert!(look(&space) == before);
    }
    assert_eq!(space.executor.trace().len(), tasks);
    assert_eq!(fs::read(space.store.join("results")).unwrap(), journal);
}

#[test]
fn a_changed_last_step_runs_alone_with_the_seal() {
    let space = web();
    space.build();
    space.recipe(&WEB.replace("three", "drei"));
    assert!(matches!(space.reason("web/write"), Reason::Changed { .. }));
    assert_eq!(space.reason("web/seal").to_string(), "web/write below it changed");
    assert_eq!(space.ran(), ["web/write", "web/seal"]);
    assert!(space.content("web").records[2].task.contains("drei"));
    // Back again: both results are there still.
    space.recipe(WEB);
    let summary = space.build();
    assert_eq!((summary.ran.len(), summary.written), (0, 1));
    assert!(space.content("web").records[2].task.contains("three"));
}

#[test]
fn comments_formatting_and_names_of_steps_run_nothing() {
    let space = web();
    space.build();
    let before = fs::metadata(space.output("web")).unwrap().mtime_nsec();
    for text in [
        format!("// A comment.\n{WEB}"),
        WEB.replace('\n', "\n\n").replace("    ", "\t"),
        WEB.replace("run-command \"one\"", "/* so */ run-command  \\\n  \"one\" // and so"),
        WEB.replace("\"one\"", "\"one\" name=\"first\" timeout=\"3m\""),
        WEB.replace("\"three\"", "\"three\" name=\"last\" mode=null").replace(" mode=null", ""),
        WEB.replace("/etc/motd", "//etc/./motd/"),
        WEB.replace("output \"raw\"", "selinux-relabel\noutput \"raw\""),
    ] {
        space.recipe(&text);
        let summary = space.build();
        assert_eq!((summary.ran, summary.written), (Vec::<String>::new(), 0), "{text}");
    }
    assert_eq!(fs::metadata(space.output("web")).unwrap().mtime_nsec(), before);
}

#[test]
fn one_byte_of_an_input_runs_the_steps_from_there_on() {
    let space = web();
    space.build();
    space.input("input", "b");
    assert_eq!(space.ran(), ["web/upload", "web/write", "web/seal"]);
    space.input("input", "a");
    assert_eq!(space.build().ran, Vec::<String>::new());
    space.base("base.img", 8);
    assert_eq!(space.ran().len(), 5);
    assert_eq!(space.content("web").mark, 8);
}

#[test]
fn an_input_that_is_rewritten_with_the_same_bytes_runs_nothing() {
    let space = web();
    space.build();
    fs::remove_file(space.root().join("recipes/input")).unwrap();
    space.input("input", "a");
    space.base("base.img", 7);
    assert_eq!(space.build().ran, Vec::<String>::new());
}

#[test]
fn an_edge_that_does_not_change_the_order_changes_no_key() {
    let text = r#"image "web" {
        base file "base.img"
        run-command "one" name="a"
        run-command "two" name="b"
        run-command "three" name="c"
        output "raw"
    }"#;
    let space = TestSpace::new(text);
    let keys = space.keys();
    space.build();
    space.recipe(&text.replace("name=\"c\"", "name=\"c\" after=\"a\""));
    assert_eq!(space.keys(), keys);
    assert_eq!(space.build().ran, Vec::<String>::new());
    // One that does moves the step, and what it jumped over runs again.
    space.recipe(&text.replace("name=\"a\"", "name=\"a\" after=\"b\""));
    assert_ne!(space.keys(), keys);
    assert_eq!(space.ran(), ["web/b", "web/a", "web/c", "web/seal"]);
}

#[test]
fn an_output_that_was_deleted_or_touched_is_written_again_and_nothing_runs() {
    let space = web();
    space.build();
    let whole = fs::read(space.output("web")).unwrap();
    let tasks = space.executor.trace().len();
    let spoil: [&dyn Fn(); 4] = [
        &|| fs::remove_file(space.output("web")).unwrap(),
        &|| fs::write(space.output("web"), &whole).unwrap(),
        &|| fs::write(space.output("web"), "torn").unwrap(),
        &|| {
            let file = fs::File::open(space.output("web")).unwrap();
            file.set_modified(std::time::UNIX_EPOCH).unwrap();
        },
    ];
    for spoil in spoil {
        spoil();
        let summary = space.build();
        assert_eq!((summary.ran.len(), summary.written), (0, 1));
        assert!(fs::read(space.output("web")).unwrap() == whole);
    }
    assert_eq!(space.executor.trace().len(), tasks);
    assert_eq!(space.build().written, 0);
}

#[test]
fn a_new_output_is_written_from_the_cached_seal() {
    let space = web();
    space.build();
    space.recipe(
        &WEB.replace("output \"raw\"", "output \"raw\"\noutput \"raw\" path=\"out/b.raw\""),
    );
    let summary = space.build();
    assert_eq!((summary.ran.len(), summary.written), (0, 1));
    assert!(
        fs::read(space.root().join("out/b.raw")).unwrap() == fs::read(space.output("web")).unwrap()
    );
}

#[test]
fn an_output_that_cannot_be_written_keeps_the_seal() {
    let space = web();
    // A directory lies where the file should go.
    fs::create_dir_all(space.output("web").join("x")).unwrap();
    let error = space.try_build().unwrap_err();
    assert_eq!(error.kind(), FaultKind::Host);
    assert!(!space.root().join("out/.web.raw.kiln-part").exists());
    fs::remove_dir_all(space.output("web")).unwrap();
    let summary = space.build();
    assert_eq!((summary.ran.len(), summary.written), (0, 1));
}

#[test]
fn images_on_a_common_image_share_its_actions() {
    for jobs in [1, 4] {
        let mut space = TestSpace::new(FAMILY);
        space.options.jobs = jobs;
        let mut ran = space.ran();
        ran.sort();
        assert_eq!(
            ran,
            [
                "common/base",
                "common/run-command",
                "common/run-command#2",
                "common/seal",
                "left/run-command",
                "left/run-command#2",
                "left/seal",
                "right/run-command",
                "right/seal",
            ]
        );
        let [common, left, right] =
            ["common", "left", "right"].map(|image| space.content(image).nonces());
        assert_eq!(common[..2], left[..2]);
        assert_eq!(common[..2], right[..2]);
        assert_ne!(common[2], left[2]);
        assert_eq!((common.len(), left.len(), right.len()), (3, 5, 4));
        space.check_states();
        assert_eq!(space.build().ran, Vec::<String>::new());
    }
}

#[test]
fn images_that_say_the_same_share_actions_without_standing_on_each_other() {
    let mut space = TestSpace::new(
        r#"
        image "a" { base file "base.img"; run-command "one"; run-command "a"; output "raw"; }
        image "b" { base file "base.img"; run-command "one"; run-command "b"; output "raw"; }
        image "c" { base file "base.img"; run-command "one"; run-command "a"; output "raw"; }
        "#,
    );
    space.options.jobs = 4;
    let summary = space.build();
    assert_eq!((summary.ran.len(), summary.written), (6, 3));
    assert_eq!(space.content("a"), space.content("c"));
    assert_eq!(space.content("a").nonces()[0], space.content("b").nonces()[0]);
}

#[test]
fn the_next_build_goes_on_behind_a_failed_step() {
    let space = web();
    space.executor.misbehave("three", Misdeed::Fail);
    let error = space.try_build().unwrap_err();
    assert_eq!(error.kind(), FaultKind::Step);
    let (failed, skipped) = steps_of(error);
    assert_eq!(failed, ["web/write: it failed"]);
    assert_eq!(skipped, ["web/seal"]);
    assert!(!space.output("web").exists());
    // It fails again, and again nothing before it runs.
    let tasks = space.executor.trace().len();
    space.try_build().unwrap_err();
    assert_eq!(space.executor.trace().len(), tasks + 1);
    space.executor.behave();
    assert_eq!(space.ran(), ["web/write", "web/seal"]);
}

#[test]
fn other_images_go_on_and_what_was_skipped_is_named() {
    for jobs in [1, 4] {
        let mut space = TestSpace::new(FAMILY);
        space.options.jobs = jobs;
        space.executor.misbehave("left one", Misdeed::Fail);
        let (failed, skipped) = steps_of(space.try_build().unwrap_err());
        assert_eq!(failed, ["left/run-command: it failed"]);
        assert_eq!(skipped, ["left/run-command#2", "left/seal"]);
        assert!(space.output("common").exists() && space.output("right").exists());
        assert!(!space.output("left").exists());
        space.executor.behave();
        assert_eq!(space.ran(), ["left/run-command", "left/run-command#2", "left/seal"]);

        space.recipe(&FAMILY.replace("\"two\"", "\"zwei\""));
        space.executor.misbehave("zwei", Misdeed::Fail);
        let (failed, mut skipped) = steps_of(space.try_build().unwrap_err());
        skipped.sort();
        assert_eq!(failed, ["common/run-command#2: it failed"]);
        assert_eq!(
            skipped,
            [
                "common/seal",
                "left/run-command",
                "left/run-command#2",
                "left/seal",
                "right/run-command",
                "right/seal"
            ]
        );
    }
}

#[test]
fn every_failure_of_a_build_is_told() {
    let space = TestSpace::new(FAMILY);
    space.executor.misbehave("left one", Misdeed::Fail);
    space.executor.misbehave("right", Misdeed::Fail);
    let (mut failed, _) = steps_of(space.try_build().unwrap_err());
    failed.sort();
    assert_eq!(failed, ["left/run-command: it failed", "right/run-command: it failed"]);
}

#[test]
fn what_a_step_left_running_is_told() {
    let space = web();
    space.executor.misbehave("one", Misdeed::Leave("sshd"));
    let mut watch = Watch::default();
    space.build_with(&mut watch).unwrap();
    assert!(watch.notes.iter().any(|note| note.contains("sshd")), "{:?}", watch.notes);
}

#[test]
fn a_panic_ends_the_build_with_an_error() {
    let space = web();
    space.executor.misbehave("three", Misdeed::Panic);
    let error = space.try_build().unwrap_err();
    assert_eq!(error.kind(), FaultKind::Host);
    let (failed, _) = steps_of(error);
    assert!(failed[0].starts_with("web/write: "), "{failed:?}");
    assert!(failed[0].contains("told to panic"), "{failed:?}");
    space.executor.behave();
    assert_eq!(space.ran(), ["web/write", "web/seal"]);
}

#[test]
fn a_lost_write_gives_no_layer_and_says_so() {
    for step in ["three", "RELABEL"] {
        let space = web();
        space.executor.misbehave(step, Misdeed::LoseWrite);
        let error = space.try_build().unwrap_err();
        assert_eq!(error.kind(), FaultKind::Host);
        let (failed, _) = steps_of(error);
        assert!(failed[0].contains("No space left on device"), "{failed:?}");
        space.check_states();
        let cached = space.plan().values().filter(|fate| matches!(fate, Fate::Cached(_))).count();
        assert_eq!(cached, 1);
        space.executor.behave();
        let again = if step == "three" { &["web/write", "web/seal"][..] } else { &["web/seal"] };
        assert_eq!(space.ran(), again);
    }
}

#[test]
fn a_write_behind_the_seal_gives_no_result() {
    let space = web();
    space.executor.misbehave("RELABEL", Misdeed::LateWrite);
    let (failed, _) = steps_of(space.try_build().unwrap_err());
    assert_eq!(failed, ["web/seal: a late write"]);
    assert!(!space.output("web").exists());
    assert!(space.results().of_action(space.keys()["web/seal"]).is_empty());
    space.executor.behave();
    assert_eq!(space.ran(), ["web/seal"]);
}

#[test]
fn an_interrupted_build_keeps_what_was_finished() {
    let space = web();
    let gate = Arc::new(Gate::default());
    space.executor.misbehave("three", Misdeed::Wait(Arc::clone(&gate)));
    std::thread::scope(|scope| {
        let build = scope.spawn(|| space.try_build());
        gate.wait_for(1);
        space.interrupted.store(true, Ordering::SeqCst);
        let error = build.join().unwrap().unwrap_err();
        assert!(matches!(error, BuildError::Interrupted));
        assert_eq!(error.kind(), FaultKind::Interrupted);
    });
    assert!(!space.output("web").exists());
    space.executor.behave();
    assert_eq!(space.ran(), ["web/write", "web/seal"]);
}

#[test]
fn a_guest_that_stays_registered_is_told_of_however_the_build_ends() {
    let told = |watch: &Watch<'_>| {
        let [text] = watch.warnings.as_slice() else { panic!("{:?}", watch.warnings) };
        assert!(text.contains("consumer 0b2f of the user `me` may still be registered"), "{text}");
    };
    let space = web();
    space.executor.misbehave("three", Misdeed::Register);
    space.executor.misbehave("three", Misdeed::Fail);
    let mut watch = Watch::default();
    space.build_with(&mut watch).unwrap_err();
    told(&watch);

    space.executor.behave();
    let gate = Arc::new(Gate::default());
    space.executor.misbehave("three", Misdeed::Register);
    space.executor.misbehave("three", Misdeed::Wait(Arc::clone(&gate)));
    std::thread::scope(|scope| {
        let build = scope.spawn(|| {
            let mut watch = Watch::default();
            let error = space.build_with(&mut watch).unwrap_err();
            assert!(matches!(error, BuildError::Interrupted));
            told(&watch);
        });
        gate.wait_for(1);
        space.interrupted.store(true, Ordering::SeqCst);
        build.join().unwrap();
    });
    // Nothing of it is left for the next build to tell again.
    space.executor.behave();
    let mut watch = Watch::default();
    space.build_with(&mut watch).unwrap();
    assert_eq!(watch.warnings, [""; 0]);
}

const ONLINE: &str = r#"image "web" {
    base file "base.img"
    run-command "one"
    install "nginx"
    run-command "three"
    output "raw"
}"#;

#[test]
fn a_refreshed_step_and_all_behind_it_run_again() {
    let space = TestSpace::new(ONLINE);
    space.build();
    assert_eq!(space.build().ran, Vec::<String>::new());
    let before = space.content("web");
    space.refresh();
    assert_eq!(space.ran(), ["web/install", "web/run-command#2", "web/seal"]);
    let now = space.content("web");
    assert_eq!(before.tasks(), now.tasks());
    assert_eq!(before.nonces()[0], now.nonces()[0]);
    assert!(before.nonces()[1..].iter().zip(&now.nonces()[1..]).all(|(before, now)| before < now));
    assert_eq!(space.build().ran, Vec::<String>::new());
    // Without the lock file it is generation 0, which is still there.
    fs::remove_file(space.root().join("kiln.lock")).unwrap();
    let summary = space.build();
    assert_eq!((summary.ran.len(), summary.written), (0, 1));
    assert_eq!(space.content("web"), before);
}

#[test]
fn what_stands_on_an_impure_step_is_impure() {
    let space = TestSpace::new(ONLINE);
    space.build();
    let keys = space.keys();
    let results = space.results();
    let impure = |name: &str| results.of_action(keys[name])[0].impure;
    let names = ["base", "run-command", "install", "run-command#2", "seal"];
    let impure = names.map(|name| impure(&format!("web/{name}")));
    assert_eq!(impure, [false, false, true, true, true]);
}

#[test]
fn a_refresh_period_follows_the_clock_that_the_plan_is_given() {
    const DAY: u64 = 24 * 3600;
    let mut space =
        TestSpace::new(&ONLINE.replace("install \"nginx\"", "install \"nginx\" refresh=\"24h\""));
    space.now = Duration::from_secs(20_000 * DAY);
    space.build();
    let first = space.keys();
    space.now = Duration::from_secs(20_001 * DAY - 1);
    assert_eq!(space.keys(), first);
    assert_eq!(space.build().ran, Vec::<String>::new());
    space.now = Duration::from_secs(20_001 * DAY);
    let next = space.keys();
    assert_eq!(next["web/run-command"], first["web/run-command"]);
    assert_ne!(next["web/install"], first["web/install"]);
    assert_eq!(space.ran(), ["web/install", "web/run-command#2", "web/seal"]);
    space.now = Duration::from_secs(20_000 * DAY);
    assert_eq!(space.build().ran, Vec::<String>::new());
}

#[test]
fn a_plan_runs_nothing_and_is_kept_by_the_build() {
    let space = web();
    let planned: Vec<_> = space.plan().into_keys().collect();
    assert!(space.executor.trace().is_empty());
    let mut ran = space.ran();
    ran.sort();
    assert_eq!(ran, planned);
    // It needs no layer's bytes.
    fs::remove_dir_all(space.store.join("objects")).unwrap();
    assert!(matches!(space.plan()["web/seal"], Fate::Cached(_)));
}
