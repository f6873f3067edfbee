//! What runs and what does not when a recipe or its files change, and how steps that misbehave end.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use kiln::digest::Digest;

use crate::guest_space::{Mounted, Space, run};

const WEB: &str = r#"image "web" {
    base image "golden"
    install "wget"
    write "/etc/motd" "Hello."
    copy-in "site" "/srv"
    run-command "cat /srv/site/index.html" name="show"
    output "raw"
}
"#;

/// Everything by which a file that was touched differs from one that was not.
fn stamp(path: &Path) -> (u64, i64, i64, i64, u64, Digest) {
    let meta = fs::metadata(path).unwrap();
    let digest = Digest::of(&fs::read(path.with_extension("raw.json")).unwrap());
    (meta.size(), meta.mtime(), meta.mtime_nsec(), meta.ctime_nsec(), meta.ino(), digest)
}

#[test]
fn only_what_changed_runs() {
    let space = Space::new(WEB);
    space.file("recipes/site/index.html", "<h1>One</h1>\n");
    let output = space.path("out/web.raw");

    let first = space.build_ok(&["web"]);
    let all = ["web/install", "web/write", "web/copy-in", "web/show", "web/seal"];
    assert_eq!(first.ran(), all);
    assert_eq!(first.lines("show"), ["<h1>One</h1>"]);
    println!("layers: write {} B, install wget {} B", first.layer("write"), first.layer("install"));
    assert!(first.layer("write") < 100 << 10, "{first}");
    assert!(first.layer("install") < 10 << 20, "{first}");
    let made = stamp(&output);
    {
        let mounted = Mounted::root_of(&output);
        assert_eq!(mounted.read("/etc/motd"), "Hello.\n");
        assert_eq!(mounted.read("/srv/site/index.html"), "<h1>One</h1>\n");
        assert!(mounted.join("/usr/bin/wget").exists());
    }

    let second = space.build_ok(&["web"]);
    assert_eq!(second.ran(), [""; 0]);
    assert_eq!(stamp(&output), made);

    space.recipe(&WEB.replace(
        "    write \"/etc/motd\" \"Hello.\"",
        "    // A remark.\n\n    write   \"/etc/motd\" /* here too */ #\"Hello.\"#",
    ));
    let reformatted = space.build_ok(&["web"]);
    assert_eq!(reformatted.ran(), [""; 0]);
    assert_eq!(stamp(&output), made);

    space.recipe(&WEB.replace("cat /srv/site/index.html", "cat  /srv/site/index.html"));
    let changed = space.build_ok(&["web"]);
    assert_eq!(changed.ran(), ["web/show", "web/seal"]);
    assert_ne!(stamp(&output), made);

    space.recipe(WEB);
    let back = space.build_ok(&["web"]);
    assert_eq!(back.ran(), [""; 0], "the seal of the first recipe is still in the store");

    space.file("recipes/site/index.html", "<h1>Onf</h1>\n");
    let byte = space.build_ok(&["web"]);
    assert_eq!(byte.ran(), ["web/copy-in", "web/show", "web/seal"]);
    assert_eq!(byte.lines("show"), ["<h1>Onf</h1>"]);
    assert_eq!(Mounted::root_of(&output).read("/srv/site/index.html"), "<h1>Onf</h1>\n");
    space.assert_clean("after good builds");
}

#[test]
fn a_failed_step_is_gone_on_from() {
    let recipe = r#"image "web" {
    base image "golden"
    write "/etc/one" "1"
    run-command "echo before; echo it went wrong >&2; exit 7" name="bad"
    write "/etc/two" "2"
    output "raw"
}
"#;
    let space = Space::new(recipe);
    let failed = space.build(&["web"]);
    failed.assert_fails(1, &["status 7", "it went wrong", "recipes/test.kdl:4:5", "web/bad"]);
    assert_eq!(failed.ran(), ["web/write", "web/bad"]);
    assert!(!space.path("out/web.raw").exists());
    space.assert_clean("after a failed step");

    let log = run(&mut space.command(&["log", "web/bad"]));
    assert_eq!(String::from_utf8_lossy(&log.stdout), "before\nit went wrong\n");

    space.recipe(&recipe.replace("exit 7", "exit 0"));
    let good = space.build_ok(&["web"]);
    assert_eq!(good.ran(), ["web/bad", "web/write#2", "web/seal"]);
}

#[test]
fn the_network_is_there_only_where_it_is_asked_for() {
    let space = Space::new(
        r#"image "net" {
    base image "golden"
    run-command "readlink /proc/self/ns/net; ls /sys/class/net; cut -d: -f1 /proc/net/dev | tail -n +3" name="off"
    run-command "readlink /proc/self/ns/net" name="on" network=#true
    output "raw"
}
"#,
    );
    let done = space.build_ok(&["net"]);
    let host = fs::read_link("/proc/self/ns/net").unwrap();
    let off = done.lines("off");
    assert_ne!(Path::new(off[0]), host);
    assert!(off[1..].iter().all(|line| line.trim() == "lo"), "{off:?}");
    assert_eq!(done.lines("on"), [host.to_str().unwrap()]);
}

#[test]
fn a_daemon_ends_with_its_step() {
    let space = Space::new(
        r#"image "daemon" {
    base image "golden"
    run-command "setsid sleep 86397 </dev/null >/dev/null 2>&1 & sleep 0.3" name="leave"
    run-command "ls -d /proc/[0-9]* | wc -l; ls -A /tmp /run | wc -l" name="look"
    output "raw"
}
"#,
    );
    let done = space.build_ok(&["daemon"]);
    let note = done.done("leave")["note"].as_str().unwrap();
    assert!(note.contains("sleep"), "{note}");
    assert_eq!(done.done("look")["note"], serde_json::Value::Null);
    space.assert_clean("after a daemon");
    let lines = crate::guest_space::processes()
        .filter_map(|pid| fs::read(format!("/proc/{pid}/cmdline")).ok());
    assert!(!lines.into_iter().any(|line| line.starts_with(b"sleep\x0086397\0")), "it lives");
}

/// Builds an image with one bad step, and requires a clean end with the step's place.
fn misbehaves(step: &str, said: &[&str]) {
    let space = Space::new(&format!(
        "image \"bad\" {{\n    base image \"golden\"\n    write \"/etc/one\" \"1\"\n    {step}\n    output \"raw\"\n}}\n"
    ));
    let failed = space.build(&["bad"]);
    failed.assert_fails(1, said);
    failed.assert_fails(1, &["recipes/test.kdl:4:5", "bad/run-command"]);
    space.assert_clean("after a step that misbehaved");
    let again = space.build(&["bad"]);
    again.assert_fails(1, said);
    assert_eq!(again.ran(), ["bad/run-command"], "the step before it is cached");
    space.assert_clean("after it misbehaved again");
}

#[test]
fn a_step_that_starts_too_many_processes_ends() {
    misbehaves(r#"run-command "while true; do sleep 86395 & done""#, &["`run-command`", "ork"]);
}

#[test]
fn a_fork_bomb_ends() {
    // The limit holds it, the time ends it: its processes never stop trying.
    let step = r#"run-command "b() { b | b & b; }; b 2>/dev/null" timeout="5s""#;
    misbehaves(step, &["`run-command`"]);
}

#[test]
fn a_step_that_fills_the_disk_ends() {
    misbehaves(
        r#"run-command "fallocate -l 1400M /a || true; cat /dev/zero >/fill""#,
        &["No space left on device", "the guest's file system `/` is full", "larger `size`"],
    );
}

#[test]
fn a_step_that_hangs_ends() {
    misbehaves(
        r#"run-command "trap '' TERM INT; sleep 86396" timeout="3s""#,
        &["did not end within 3 s", "still running were", "sleep", "longer `timeout`"],
    );
}
