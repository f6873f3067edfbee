//! The commands of the documents that kiln grew out of, imported and built as they stand.

use std::fs;
use std::process::Command;

use kiln::digest::Digest;

use crate::guest_space::{Mounted, Space, golden_raw, need, run};
use crate::server::Server;

/// Imports a command line as a recipe of the space.
fn import(space: &Space, name: &str, words: &[&str]) -> String {
    let recipe = space.path(&format!("recipes/{name}.kdl"));
    let mut command = space.command(&["import", "--name", name, "-o"]);
    run(command.arg(&recipe).arg("--").args(words));
    fs::read_to_string(recipe).unwrap()
}

/// A virt-builder source with one template: the golden image, under another name.
fn template(space: &Space, server: &Server) {
    let packed = space.path("packed.xz");
    let target = fs::File::create(&packed).unwrap();
    run(Command::new("xz").args(["-0", "-T0", "-c"]).arg(golden_raw()).stdout(target));
    let sum = run(Command::new("sha512sum").arg(&packed)).stdout;
    let sum = String::from_utf8(sum).unwrap();
    let size = fs::metadata(golden_raw()).unwrap().len();
    server.file("/centos-7.2.xz", fs::read(&packed).unwrap());
    fs::remove_file(packed).unwrap();
    let index = format!(
        "[centos-7.2]\nname=A system by that name\narch={}\nfile=centos-7.2.xz\nformat=raw\n\
         size={size}\nexpand=/dev/sda2\nchecksum[sha512]={}\nrevision=3\n",
        std::env::consts::ARCH,
        &sum[..128]
    );
    let uri = server.file("/index", index);
    space.file("virt-builder/repos.d/own.conf", format!("[own]\nuri={uri}\ncheck-signature=no\n"));
}

#[test]
fn the_two_commands_import_and_build() {
    need(&[("xz", "xz-utils"), ("sha512sum", "coreutils")]);
    let space = Space::new("");
    let server = Server::new();
    template(&space, &server);
    let recipe = import(
        &space,
        "centos",
        &[
            "virt-builder",
            "centos-7.2",
            "--format",
            "qcow2",
            "--install",
            "cloud-init",
            "--selinux-relabel",
        ],
    );
    assert!(recipe.contains("base template \"centos-7.2\""), "{recipe}");
    let first = space.build_ok(&["centos"]);
    assert_eq!(first.ran(), ["centos/base", "centos/install", "centos/seal"]);
    let lock = fs::read_to_string(space.path("kiln.lock")).unwrap();
    assert!(lock.contains("revision=3"), "{lock}");
    let sent = server.sent();
    assert!(space.build_ok(&["centos"]).ran().is_empty());
    assert_eq!(server.sent(), sent, "a template in the lock file is not looked up again");
    run(Command::new("qemu-img")
        .args(["check", "-q", "-f", "qcow2"])
        .arg(space.path("out/centos.qcow2")));

    let mine = space.path("recipes/myImage");
    fs::copy(golden_raw(), &mine).unwrap();
    let before = Digest::of(&fs::read(&mine).unwrap());
    let recipe = import(
        &space,
        "mine",
        &["virt-customize", "-a", "myImage", "--install", "wget,ntp", "--selinux-relabel"],
    );
    assert!(recipe.contains("install \"wget\" \"ntp\""), "{recipe}");
    let recipe = recipe.replace("output \"qcow2\"", "output \"raw\"");
    space.file("recipes/mine.kdl", recipe);
    let done = space.build_ok(&["mine"]);
    assert_eq!(done.ran(), ["mine/base", "mine/install", "mine/seal"]);
    assert_eq!(Digest::of(&fs::read(&mine).unwrap()), before, "the old disk stays as it was");
    let root = Mounted::root_of(&space.path("out/mine.raw"));
    assert!(root.join("/usr/bin/wget").exists());
    drop(root);
    space.assert_clean("after both commands");
}
