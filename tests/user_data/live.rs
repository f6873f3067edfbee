//! A live Heat with Keystone and Swift: scripts that kiln wrote tell it that they are done.

use std::fs;
use std::process::Command;

use kiln::heat;
use serde_json::Value;

use super::servers::{Started, directory, free_port, repository, servers, start, tool};
use super::{load, python, read, tree};

/// Debian's Keystone, Swift and Heat, which know each other; the address is Keystone's.
static HEAT: Started = Started::new(|| {
    for program in ["keystone-manage", "uwsgi", "sqlite3", "swift-proxy-server", "heat-manage"] {
        tool(program);
    }
    let openstack = repository("tests/servers/openstack");
    let made =
        Command::new(openstack.join("fixture")).arg(servers().join("openstack")).output().unwrap();
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    let fixture = String::from_utf8(made.stdout).unwrap();
    let keystone_files = directory("keystone");
    let mut copy = Command::new("cp");
    copy.arg("-a").arg(format!("{}/.", fixture.trim())).arg(&keystone_files);
    assert!(copy.status().unwrap().success(), "the fixture is copied");
    let ports: Vec<_> = (0..6).map(|_| free_port()).collect();
    let [keystone, heat, swift @ ..] = ports.as_slice() else { unreachable!("six ports") };
    let mut configure = Command::new(openstack.join("configure"));
    configure.arg(&keystone_files).args([keystone.to_string(), "1".to_owned()]);
    assert!(configure.status().unwrap().success(), "Keystone is configured");
    let mut command = Command::new(openstack.join("keystone"));
    command.arg(&keystone_files).arg(keystone.to_string());
    let server = start(&command, keystone_files, *keystone);
    let files = directory("heat-swift");
    let mut command = Command::new(repository("tests/servers/swift"));
    command.arg(&files).args(swift.iter().map(u16::to_string)).arg(keystone.to_string());
    start(&command, files, swift[0]);
    let files = directory("heat");
    let mut command = Command::new(repository("tests/servers/heat/heat"));
    command.arg(&files).args([keystone, heat, &swift[0]].map(u16::to_string));
    command.arg(servers().join("heat"));
    start(&command, files, *heat);
    server
});

const RECIPE: &str = r##"
user-data "own" {
    script text="#!/bin/sh -ex\ntrue\nwc_notify --silent --fail --data-binary '{\"status\": \"SUCCESS\", \"data\": \"Script execution succeeded\"}'"
}

user-data "required" {
    cloud-config {
        packages "coreutils"
    }
    script text="#!/bin/sh -ex\ntrue"
    require "/bin/sh" "/usr/bin/env"
}

user-data "missing" {
    cloud-config {
        packages "coreutils"
    }
    require "/bin/sh" "/usr/bin/it's \"not\" there"
}

user-data "silent" {
    script text="#!/bin/sh -ex\ntrue"
}

heat "own" {
    server user-data="own"
    wait timeout="120s"
}
heat "required" {
    server user-data="required"
    wait timeout="120s"
}
heat "missing" {
    server user-data="missing"
    wait timeout="120s"
}
heat "silent" {
    server user-data="silent"
    wait timeout="120s"
}
"##;

/// What becomes of the stack of a template, once its scripts have run.
fn stack(name: &str) -> Value {
    let tree = tree(RECIPE, &[]);
    let workspace = load(&tree);
    let templates = &workspace.documents.templates;
    let template = templates.iter().find(|one| one.name.value.as_str() == name).unwrap();
    let document = heat::document(template, &read(&workspace, name)).unwrap();
    let path = tree.path().join(format!("{name}.yaml"));
    fs::write(&path, heat::template(template, Some(&document))).unwrap();
    let keystone = format!("http://{}", HEAT.address);
    let scratch = tree.path().join("scratch");
    fs::create_dir(&scratch).unwrap();
    let said = python("stack.py", &[keystone.as_ref(), &path, &scratch]);
    serde_json::from_str(&said).unwrap()
}

#[test]
fn a_script_tells_heat_that_it_is_done() {
    tool("curl");
    for (name, data) in [
        ("own", "Script execution succeeded"),
        ("required", "everything that was required is there"),
        ("silent", "cloud-init has run every script"),
    ] {
        let said = stack(name);
        assert_eq!(said["before"], "CREATE_IN_PROGRESS", "{said}");
        assert_eq!(said["after"], "CREATE_COMPLETE", "{said}");
        let ran = said["ran"].as_object().unwrap();
        assert!(ran.values().all(|script| script[0] == 0), "{said}");
        assert!(said["signal"].as_str().unwrap().contains(data), "{said}");
    }
}

#[test]
fn a_script_tells_heat_what_is_missing() {
    let said = stack("missing");
    assert_eq!(said["after"], "CREATE_FAILED", "{said}");
    let reason = said["reason"].as_str().unwrap();
    assert!(reason.contains("missing: /usr/bin/it's \"not\" there"), "{reason}");
    let script = &said["ran"]["002-require.sh"];
    assert_eq!(script[0], 1);
    assert!(script[1].as_str().unwrap().contains("kiln: /usr/bin/it's \"not\" there is missing"));
}
