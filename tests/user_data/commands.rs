//! The commands of kiln, and those that it writes: a shell finds every word as it was meant.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Output};

use super::tree;

const RECIPE: &str = r##"
image "web" {
    base bootstrap "bookworm" size="3G"
    output "raw"
    publish "glance" {
        keep-old "48h"
        keep-last 2
    }
}

user-data "web" {
    script text="#!/bin/sh -ex\ndate"
}

heat "web" {
    server image-name="it's a $(touch no) `web`" flavor="m1 \"small\"" network="a;b" user-data="web"
    security-group "de fault" "web"
}

heat "id" {
    server network="6e9ab5b5-9a1f-4f2b-8d5e-0a6b7d3c2e11" user-data="web"
}

heat "comma" {
    server network="a,b" user-data="web"
}

heat "silent" {
    server image="web" user-data="web"
    wait
}

heat "waits" {
    server image="web" user-data="calls"
    wait
}

user-data "calls" {
    script text="#!/bin/sh -ex\nwc_notify"
}
"##;

fn kiln(at: &Path, arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_kiln")).current_dir(at).args(arguments).output().unwrap()
}

fn text(output: &Output) -> String {
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    String::from_utf8(output.stdout.clone()).unwrap()
}

/// The words that the program of a command gets, one a line.
fn words(at: &Path, program: &str, script: &str, key: Option<&str>) -> Option<Vec<String>> {
    let fake = at.join(program);
    fs::write(&fake, "#!/bin/sh\nprintf '%s\\n' \"$@\"\n").unwrap();
    fs::set_permissions(&fake, fs::Permissions::from_mode(0o755)).unwrap();
    let path = format!("{}:{}", at.display(), std::env::var("PATH").unwrap());
    let mut shell = Command::new("sh");
    shell.current_dir(at).args(["-c", script]).env("PATH", path).env_remove("KEY_NAME");
    let output = shell.envs(key.map(|key| ("KEY_NAME", key))).output().unwrap();
    let said = String::from_utf8(output.stdout).unwrap();
    output.status.success().then(|| said.lines().map(str::to_owned).collect())
}

#[test]
fn a_shell_finds_every_word_of_a_command() {
    let tree = tree(RECIPE, &[]);
    let at = tree.path();
    let script = text(&kiln(at, &["heat", "web", "--commands", "openstack"]));
    let words_of = |script: &str, program| words(at, program, script, Some("my key")).unwrap();
    assert_eq!(
        words_of(&script, "openstack"),
        [
            "server",
            "create",
            "--image",
            "it's a $(touch no) `web`",
            "--flavor",
            "m1 \"small\"",
            "--key-name",
            "my key",
            "--network",
            "a;b",
            "--security-group",
            "de fault",
            "--security-group",
            "web",
            "--user-data",
            "web.user-data",
            "web",
        ]
    );
    assert!(!at.join("no").exists());
    assert_eq!(fs::read_to_string(at.join("web.user-data")).unwrap(), "#!/bin/sh -ex\ndate\n");
    // What nobody said is asked for by the shell.
    assert_eq!(words(at, "openstack", &script, None), None);
    text(&kiln(at, &["heat", "web", "--commands", "nova", "-o", "out/start"]));
    let script = fs::read_to_string(at.join("out/start")).unwrap();
    let nova = words_of(&script, "nova");
    assert_eq!(nova[0], "boot");
    assert!(nova.contains(&"net-name=a;b".to_owned()) && nova.contains(&"de fault,web".to_owned()));
    assert!(at.join("out/web.user-data").exists());
    let script = text(&kiln(at, &["heat", "id", "--commands", "nova"]));
    assert!(script.contains("--nic net-id=6e9ab5b5-9a1f-4f2b-8d5e-0a6b7d3c2e11 "), "{script}");
    let refused = kiln(at, &["heat", "comma", "--commands", "nova"]);
    assert_eq!(refused.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&refused.stderr).contains("kiln::heat::comma"));
    text(&kiln(at, &["heat", "comma", "--commands", "openstack"]));
    let warned = kiln(at, &["heat", "silent"]);
    assert!(text(&warned).contains("kiln-signal.sh"));
    let said = String::from_utf8_lossy(&warned.stderr);
    assert!(said.contains("always_succeeds") && said.contains("no_curl"), "{said}");
}

#[test]
fn a_seed_has_the_user_data_and_the_keys() {
    let tree = tree(RECIPE, &[]);
    let at = tree.path();
    fs::write(at.join("id.pub"), "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJ1 ann\n").unwrap();
    text(&kiln(at, &["seed", "web", "-o", "seed.img", "--hostname", "web-1", "--key", "id.pub"]));
    let file = |name: &str| {
        let output = Command::new("mtype")
            .arg("-i")
            .arg(at.join("seed.img"))
            .arg(format!("::{name}"))
            .output()
            .expect("mtools; see `kiln doctor --tests`");
        text(&output)
    };
    assert_eq!(file("user-data"), "#!/bin/sh -ex\ndate\n");
    let meta_data: serde_json::Value = serde_json::from_str(&file("meta-data")).unwrap();
    assert_eq!(meta_data["local-hostname"], "web-1");
    assert_eq!(meta_data["public-keys"][0], "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJ1 ann");
    fs::write(at.join("id"), "-----BEGIN OPENSSH PRIVATE KEY-----\n").unwrap();
    let refused = kiln(at, &["seed", "web", "-o", "seed.img", "--key", "id"]);
    assert_eq!(refused.status.code(), Some(2));
    let refused = kiln(at, &["seed", "web", "-o", "seed.img", "--hostname", "a_b"]);
    assert_eq!(refused.status.code(), Some(2));
}

#[test]
fn what_only_heat_can_give_is_told() {
    let tree = tree(RECIPE, &[]);
    let at = tree.path();
    let output = kiln(at, &["user-data", "calls"]);
    assert_eq!(text(&output), "#!/bin/sh -ex\nwc_notify\n");
    assert!(String::from_utf8_lossy(&output.stderr).contains("only a stack of Heat"));
    assert!(text(&kiln(at, &["heat", "waits"])).contains("OS::Heat::SwiftSignal"));
    let checked = text(&kiln(at, &["check"]));
    assert!(checked.contains("2 user data, 5 templates: no mistakes"), "{checked}");
    for command in [&["user-data", "wbe"][..], &["heat", "none"], &["advise", "nova", "none"]] {
        assert_eq!(kiln(at, command).status.code(), Some(2), "{command:?}");
    }
}

#[test]
fn nova_is_advised_about_the_images_that_there_are() {
    let tree = tree(RECIPE, &[]);
    let at = tree.path();
    let before = text(&kiln(at, &["advise", "nova", "web"]));
    assert!(before.contains("web: its disk is 3.0 GiB\n"), "{before}");
    let deleted =
        "web: `kiln publish` deletes it 2 days after it was superseded, once 2 others were";
    assert!(before.contains(deleted), "{before}");
    fs::create_dir(at.join("out")).unwrap();
    fs::File::create(at.join("out/web.raw")).unwrap().set_len(5 << 30).unwrap();
    fs::write(at.join("nova.conf"), "[image_cache]\nremove_unused_base_images = no\n").unwrap();
    let after = text(&kiln(at, &["advise", "nova", "--config", "nova.conf", "--every", "1d"]));
    assert!(after.contains("web: its disk is 5.0 GiB, of which 0 MiB are stored"), "{after}");
    assert!(after.contains("remove_unused_base_images = False"), "{after}");
    fs::write(at.join("nova.conf"), "preallocate_images = all\n").unwrap();
    let refused = kiln(at, &["advise", "nova", "--config", "nova.conf"]);
    assert_eq!(refused.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&refused.stderr).contains("line 1"));
}
