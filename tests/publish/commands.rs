//! `kiln publish` itself, on images that the fake executor built.

use std::fs;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use kiln::publish::{Images, Record};
use serde_json::Value;

use super::openstack::{CLOUD, Cloud, NOBODY};
use super::space::TestSpace;
use super::{named, unique};

/// A workspace with an image that is published under a name.
fn recipe(name: &str, step: &str, more: &str) -> String {
    format!(
        "image \"web\" {{\n    base file \"base.img\"\n    run-command \"{step}\"\n    output \
         \"raw\"\n    publish \"glance\" {{\n        name \"{name}\"\n        tag \"tested\"\n        \
         property \"hw_disk_bus\" \"virtio\"\n{more}    }}\n}}\n"
    )
}

/// `kiln publish` with these arguments, for whoever logs in to that cloud.
pub(crate) fn command(space: &TestSpace, cloud: &Cloud, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_kiln"));
    command.arg("-C").arg(space.root()).arg("--store").arg(&space.store).arg("publish");
    command.args(arguments).current_dir(space.root());
    for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("OS_")) {
        command.env_remove(name);
    }
    command.envs(cloud.variables());
    command
}

/// What it printed, and its exit code.
fn kiln(space: &TestSpace, cloud: &Cloud, arguments: &[&str]) -> (String, String, i32) {
    let output = command(space, cloud, arguments).output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (text(output.stdout), text(output.stderr), output.status.code().unwrap())
}

/// The JSON about the one image, of a command that must succeed.
fn json(space: &TestSpace, cloud: &Cloud, arguments: &[&str]) -> Value {
    let (out, err, code) = kiln(space, cloud, &[arguments, &["--json"]].concat());
    assert_eq!(code, 0, "{arguments:?}: {err}");
    let value: Value = serde_json::from_str(&out).unwrap();
    value["published"][0].clone()
}

fn clean(images: &dyn Images, name: &str) {
    for record in images.list(name).unwrap() {
        images.delete(&record.id).unwrap();
    }
}

#[test]
fn an_image_is_published_once_and_then_only_compared() {
    let name = unique();
    let space = TestSpace::new(&recipe(&name, "one", ""));
    let glance = CLOUD.images();

    // Nothing is built, and a dry run says so; a run would build, for which there is no guest here.
    let (out, err, code) = kiln(&space, &CLOUD, &["--dry-run"]);
    assert!(code == 0 && out.contains("would be built first"), "{out} {err}");
    assert!(named(&glance, &name).is_empty());

    space.build();
    let planned = json(&space, &CLOUD, &["--dry-run"]);
    let size = fs::metadata(space.output("web")).unwrap().len();
    assert_eq!((&planned["upload"], &planned["id"]), (&size.into(), &Value::Null));
    let (out, _, _) = kiln(&space, &CLOUD, &["web", "--dry-run"]);
    assert!(out.contains("upload     1.0 MiB as raw"), "{out}");
    assert!(named(&glance, &name).is_empty(), "a dry run changes nothing");

    let did = json(&space, &CLOUD, &["web"]);
    assert_eq!(did["uploaded"], true);
    let record = named(&glance, &name).remove(0);
    assert_eq!(did["id"], record.id.as_str());
    assert_eq!(record.size, Some(size));
    assert_eq!(record.own("hw_disk_bus"), Some("virtio"));
    assert_eq!(record.own("os_type"), Some("linux"));
    assert_eq!(record.own("kiln_image"), Some("web"));
    assert_eq!(record.min_disk, 1);
    assert!(record.tags.contains("tested"));
    assert_eq!(downloaded(&record), fs::read(space.output("web")).unwrap());

    let again = json(&space, &CLOUD, &["web"]);
    let none: Vec<Value> = Vec::new();
    assert_eq!((&again["uploaded"], &again["changed"]), (&false.into(), &false.into()));
    assert_eq!(again["acts"], Value::from(none));
    let (out, _, _) = kiln(&space, &CLOUD, &[]);
    assert!(out.trim_end().ends_with("same"), "{out}");

    // Another state takes the name, and the first image stays, hidden.
    space.recipe(&recipe(&name, "two", ""));
    space.build();
    let would = json(&space, &CLOUD, &["--dry-run"]);
    assert_eq!(would["supersede"][0], record.id.as_str());
    let (out, err, code) = kiln(&space, &CLOUD, &[]);
    assert_eq!(code, 0, "{err}");
    assert!(out.contains("uploaded") && err.contains("superseded"), "{out} {err}");
    let new = named(&glance, &name);
    assert!(new.len() == 1 && new[0].id != record.id);
    assert!(glance.get(&record.id).unwrap().unwrap().hidden);
    clean(&glance, &name);
}

/// What the service gives whoever downloads an image.
fn downloaded(record: &Record) -> Vec<u8> {
    CLOUD.download(&record.id)
}

#[test]
fn what_cannot_be_published_says_why() {
    let space = TestSpace::new("image \"web\" { base file \"base.img\"; output \"raw\"; }");
    let (_, err, code) = kiln(&space, &NOBODY, &[]);
    assert!(code == 2 && err.contains("kiln::cli::no_publish"), "{err}");
    let (_, err, code) = kiln(&space, &NOBODY, &["web"]);
    assert!(code == 2 && err.contains("the image `web` has no `publish`"), "{err}");

    let name = unique();
    space.recipe(&recipe(&name, "one", "        cloud \"prod\"\n"));
    space.build();
    let (_, err, code) = kiln(&space, &NOBODY, &["web"]);
    assert!(code == 2 && err.contains("kiln::openstack::no_such_cloud"), "{err}");

    // The entry that the command line names, in a file beside the recipes.
    let endpoint = &NOBODY.variables()[1].1;
    let clouds =
        format!("clouds: {{here: {{auth_type: none, auth: {{endpoint: '{endpoint}'}}}}}}\n");
    fs::write(space.root().join("clouds.yaml"), clouds).unwrap();
    let did = json(&space, &NOBODY, &["web", "--cloud", "here"]);
    assert_eq!((&did["cloud"], &did["uploaded"]), (&"the cloud `here`".into(), &true.into()));
    clean(&NOBODY.images(), &name);

    // Two clouds of the recipe that the command line makes one.
    let both = recipe(
        &name,
        "one",
        "        cloud \"a\"\n    }\n    publish \"glance\" {\n        \
        cloud \"b\"\n",
    );
    space.recipe(&both.replace("cloud \"b\"", &format!("cloud \"b\"\n        name \"{name}\"")));
    let (_, err, code) = kiln(&space, &NOBODY, &["web", "--cloud", "here"]);
    assert!(code == 2 && err.contains("kiln::cli::published_twice"), "{err}");
    assert!(named(&NOBODY.images(), &name).is_empty());
    space.recipe(&recipe(&name, "one", ""));

    // A wrong password is told before anything is built or asked.
    let mut wrong = command(&space, &CLOUD, &["web", "--cloud", "wrong"]);
    let clouds = format!(
        "clouds: {{wrong: {{auth: {{auth_url: '{}', username: ann, password: SECRETIVE, \
         project_name: images}}}}}}\n",
        CLOUD.auth_url()
    );
    fs::write(space.root().join("clouds.yaml"), clouds).unwrap();
    let output = wrong.output().unwrap();
    let err = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(3), "{err}");
    assert!(err.contains("the cloud `wrong` does not let you log in"), "{err}");
    assert!(!err.contains("SECRETIVE"), "{err}");
}

/// Waits until something holds.
fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !holds() {
        assert!(begun.elapsed() < Duration::from_mins(2), "it never came: {what}");
        thread::sleep(Duration::from_millis(5));
    }
}

/// The bytes that an image service has taken in so far.
fn taken(cloud: &Cloud) -> u64 {
    let files = fs::read_dir(cloud.images_directory()).unwrap().flatten();
    files.map(|file| file.metadata().map_or(0, |meta| meta.len())).sum()
}

/// A built image whose file is large enough that an upload can be caught in its middle.
fn large(name: &str) -> (TestSpace, PathBuf) {
    let space = TestSpace::new(&recipe(name, "one", ""));
    space.base_of("base.img", 7, 128 << 20);
    space.build();
    let output = space.output("web");
    (space, output)
}

fn spawn(space: &TestSpace, cloud: &Cloud) -> Child {
    let mut command = command(space, cloud, &["web"]);
    command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()
}

#[test]
fn a_service_or_a_kiln_that_dies_in_the_middle_leaves_nothing_half_done() {
    let name = unique();
    let cloud = Cloud::prepare("dying", false);
    let glance = cloud.start_glance();
    let (space, output) = large(&name);

    // The service dies: kiln tries again, and gives up; the record may still be there.
    let mut kiln_runs = spawn(&space, &cloud);
    until("bytes of an upload", || taken(&cloud) > 0);
    glance.kill(cloud.glance_port());
    assert_eq!(kiln_runs.wait().unwrap().code(), Some(3));
    let glance = cloud.start_glance();
    let images = cloud.images();
    assert!(named(&images, &name).is_empty());
    assert_eq!(images.list(&name).unwrap().len(), 1, "the record of the upload that broke off");

    // kiln dies.
    let mut kiln_runs = spawn(&space, &cloud);
    let before = taken(&cloud);
    until("more bytes", || taken(&cloud) > before);
    kiln_runs.kill().unwrap();
    kiln_runs.wait().unwrap();
    assert!(named(&images, &name).is_empty());

    let did = json(&space, &cloud, &["web"]);
    assert_eq!(did["uploaded"], true);
    let all = images.list(&name).unwrap();
    assert_eq!(all.len(), 1, "{all:?}");
    assert!(all[0].has_name(&name));
    assert_eq!(all[0].size, Some(fs::metadata(output).unwrap().len()));
    glance.kill(cloud.glance_port());
}
