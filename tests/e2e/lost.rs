//! Stores without room, damaged objects, hosts and bases that are not what they should be.

use std::collections::BTreeSet;
use std::fs::{self, File, OpenOptions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::Command;

use kiln::digest::Digest;
use serde_json::Value;

use crate::guest_space::{KILN, Mounted, Space, eventually, loop_names, need, run};

/// A small file system under a store, which can be filled.
struct SmallStore<'a> {
    space: &'a Space,
}

impl<'a> SmallStore<'a> {
    /// Moves the store of a space to a file system of its own, with so many bytes left in it.
    fn new(space: &'a Space, room: u64) -> Self {
        let used: u64 = walkdir::WalkDir::new(&space.store)
            .into_iter()
            .map(|entry| entry.unwrap().metadata().unwrap().blocks() * 512)
            .sum();
        let aside = space.path("store-aside");
        fs::rename(&space.store, &aside).unwrap();
        fs::create_dir(&space.store).unwrap();
        let size = format!("mode=0755,size={}", used + room);
        run(Command::new("mount")
            .args(["-t", "tmpfs", "-o", &size, "kiln-test"])
            .arg(&space.store));
        let small = Self { space };
        run(Command::new("cp")
            .args(["-a", "--sparse=always"])
            .arg(aside.join("."))
            .arg(&space.store));
        small
    }

    /// Fills it to the last byte; gives the file to remove.
    fn fill(&self) -> PathBuf {
        let path = self.space.store.join("ballast");
        let mut file = File::create(&path).unwrap();
        for size in [1 << 20, 4096, 1] {
            let bytes = vec![1; size];
            while file.write_all(&bytes).is_ok() {}
        }
        path
    }
}

impl Drop for SmallStore<'_> {
    fn drop(&mut self) {
        let _ = Command::new("umount").args(["-l".as_ref(), self.space.store.as_os_str()]).status();
    }
}

/// The last partition of the one disk of a build that runs now.
fn partition_of(pid: u32) -> PathBuf {
    let prefix = format!("kiln:{pid}-");
    let found = loop_names().into_iter().find(|(_, name)| name.starts_with(&prefix));
    let (device, _) = found.expect("the build has a loop device");
    PathBuf::from(format!("{}p2", device.display()))
}

#[test]
fn a_store_that_was_full_for_a_moment_gives_no_layer() {
    need(&[("blockdev", "util-linux")]);
    let space = Space::new(
        r#"image "full" {
    base image "golden"
    write "/etc/one" "1"
    run-command """
        seq 1 6000000 >/srv/much
        echo written
        sleep 8
        echo on
        """ name="much"
    write "/etc/two" "2"
    output "qcow2"
}
"#,
    );
    let small = SmallStore::new(&space, 1500 << 20);
    let mut build = space.start(&["full"]);
    build.wait_for_line("written");
    let ballast = small.fill();
    // What the host's kernel does by itself some seconds later: it writes back dirty pages.
    let flushed = Command::new("blockdev").arg("--flushbufs").arg(partition_of(build.pid)).status();
    println!("write-back while the store is full: {flushed:?}");
    fs::remove_file(ballast).unwrap();
    build.wait_for_line("on");
    let done = build.finish();
    done.assert_fails(
        3,
        &[
            "full/much",
            "was lost: No space left on device",
            "recipes/test.kdl:4:5",
            "free some space",
        ],
    );
    assert!(!done.step("much").any(|event| event["event"] == "done"), "{done}");
    space.assert_clean("after a full store");

    let next = space.build_ok(&["full"]);
    assert_eq!(next.ran(), ["full/much", "full/write#2", "full/seal"]);
    let raw = space.path("full.raw");
    run(Command::new("qemu-img")
        .args(["convert", "-f", "qcow2", "-O", "raw"])
        .arg(space.path("out/full.qcow2"))
        .arg(&raw));
    let text = Mounted::root_of(&raw).read("/srv/much");
    assert!(text.lines().zip(1..).all(|(line, number)| line.parse() == Ok(number)), "wrong bytes");
    assert_eq!(text.lines().count(), 6_000_000);
    space.assert_clean("after the build that had room");
}

#[test]
fn a_store_that_stays_full_fails_and_loses_nothing() {
    let space = Space::new(
        r#"image "full" {
    base image "golden"
    write "/etc/one" "1"
    run-command "seq 1 12000000 >/srv/much; sync" name="much"
    output "qcow2"
}
"#,
    );
    let small = SmallStore::new(&space, 48 << 20);
    let done = space.build(&["full"]);
    done.assert_fails(3, &["full/much", "No space left on device", "free some space"]);
    space.assert_clean("after a full store");
    drop(small);
    // The store of before, without what was recorded meanwhile.
    fs::remove_dir(&space.store).unwrap();
    fs::rename(space.path("store-aside"), &space.store).unwrap();
    space.build_ok(&["full"]);
}

#[test]
fn without_root_nothing_is_built() {
    need(&[("setpriv", "util-linux")]);
    let space = Space::new("image \"any\" {\n    base image \"golden\"\n}\n");
    for path in [&space.root, &space.store] {
        fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
    }
    let plain = space.command(&["build", "any", "--progress", "json"]);
    let mut command = Command::new("setpriv");
    command.args(["--reuid=65534", "--regid=65534", "--clear-groups", KILN]);
    command.args(plain.get_args()).env("NO_COLOR", "1");
    let done = space.start_command(command).finish();
    done.assert_fails(
        3,
        &["building needs root", "sudo", "`kiln check` and `kiln plan` need no root"],
    );

    let mut as_nobody = Command::new("setpriv");
    as_nobody.args(["--reuid=65534", "--regid=65534", "--clear-groups", KILN]);
    let planned = run(as_nobody.args(space.command(&["plan", "any"]).get_args()));
    let text = String::from_utf8_lossy(&planned.stdout).into_owned();
    assert!(planned.status.success() && text.contains("out/any.qcow2"), "{text}");
}

#[test]
fn a_missing_program_is_named() {
    let space = Space::new("image \"any\" {\n    base image \"golden\"\n}\n");
    for tool in ["runc", "qemu-img"] {
        let places =
            ["/usr/sbin", "/usr/bin", "/sbin", "/bin", "/usr/local/sbin", "/usr/local/bin"];
        let found: BTreeSet<PathBuf> = places
            .iter()
            .filter_map(|directory| fs::canonicalize(Path::new(directory).join(tool)).ok())
            .collect();
        // In a mount namespace of its own the program is no file any more.
        let hide: Vec<String> = found
            .iter()
            .map(|path| format!("mount --bind /dev/null '{}'", path.display()))
            .collect();
        let mut command = Command::new("unshare");
        command.args([
            "--mount",
            "sh",
            "-ec",
            &format!("{}; exec \"$@\"", hide.join("; ")),
            "sh",
            KILN,
        ]);
        command.args(space.command(&["build", "any", "--progress", "json"]).get_args());
        command.env("NO_COLOR", "1");
        let done = space.start_command(command).finish();
        done.assert_fails(3, &["this host lacks", &format!("`{tool}`"), "`kiln doctor --fix`"]);
        assert_eq!(done.ran(), [""; 0]);
    }
    space.assert_clean("after builds that did not begin");
}

/// A disk without partitions whose ext4 holds a tree.
fn disk_of(space: &Space, name: &str, make: impl FnOnce(&Path)) -> PathBuf {
    let tree = space.path(&format!("{name}-tree"));
    fs::create_dir_all(&tree).unwrap();
    make(&tree);
    let disk = space.path(&format!("recipes/{name}.raw"));
    File::create(&disk).unwrap().set_len(64 << 20).unwrap();
    run(Command::new("mkfs.ext4").args(["-q", "-F", "-b", "4096", "-d"]).arg(&tree).arg(&disk));
    fs::remove_dir_all(&tree).unwrap();
    disk
}

/// The least that is a guest: an os-release, and a shell for a machine.
fn guest(tree: &Path, machine: u16) {
    for directory in ["etc", "usr/lib", "bin", "tmp", "run", "dev", "proc", "sys"] {
        fs::create_dir_all(tree.join(directory)).unwrap();
    }
    fs::write(tree.join("etc/os-release"), "ID=tiny\nVERSION_ID=1\nPRETTY_NAME=\"Tiny 1\"\n")
        .unwrap();
    fs::write(tree.join("etc/passwd"), "root:x:0:0::/root:/bin/sh\n").unwrap();
    let mut program = fs::read("/bin/true").unwrap();
    // Source: elf(5): e_machine.
    program[18..20].copy_from_slice(&machine.to_le_bytes());
    fs::write(tree.join("bin/sh"), program).unwrap();
    fs::set_permissions(tree.join("bin/sh"), fs::Permissions::from_mode(0o755)).unwrap();
}

const EM_X86_64: u16 = 62;
const EM_AARCH64: u16 = 183;

#[test]
fn a_base_that_cannot_be_used_is_told_with_its_place() {
    let space = Space::new("");
    disk_of(&space, "empty", |_| {});
    disk_of(&space, "arm", |tree| guest(tree, EM_AARCH64));
    let backing = space.path("recipes/backing.qcow2");
    run(Command::new("qemu-img")
        .args(["create", "-q", "-f", "qcow2", "-F", "raw", "-b", "empty.raw"])
        .arg(&backing));
    space.file("recipes/broken.qcow2", [b"QFI\xfb\0\0\0\x03".as_slice(), &[0; 1016]].concat());
    space.file("recipes/disk.vmdk", [b"KDMV".as_slice(), &[0; 1020]].concat());
    let cases: [(&str, &str, i32, &[&str]); 6] = [
        (
            "empty.raw",
            "run-command \"true\"",
            1,
            &["holds a Linux root", "ext4", "recipes/test.kdl:2:5"],
        ),
        ("arm.raw", "run-command \"true\"", 1, &["aarch64", "recipes/test.kdl:3:5"]),
        ("backing.qcow2", "touch \"/x\"", 1, &["refers to a backing file", "recipes/test.kdl:2:5"]),
        ("broken.qcow2", "touch \"/x\"", 1, &["broken.qcow2", "recipes/test.kdl:2:5"]),
        ("disk.vmdk", "touch \"/x\"", 1, &["extents in other files", "recipes/test.kdl:2:5"]),
        ("missing.raw", "touch \"/x\"", 2, &["missing.raw", "recipes/test.kdl:2:"]),
    ];
    let mut wrong = Vec::new();
    for (file, step, code, said) in cases {
        space.recipe(&format!(
            "image \"any\" {{\n    base file \"{file}\"\n    {step}\n    output \"raw\"\n}}\n"
        ));
        let done = space.build(&["any"]);
        let missing: Vec<_> = said.iter().filter(|part| !done.said().contains(**part)).collect();
        if done.code != Some(code) || !missing.is_empty() || !done.errors.contains("help") {
            wrong.push(format!("{file}: wanted {code} and {missing:?}: {done}"));
        }
        space.assert_clean(file);
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn a_missing_input_is_told_with_its_place() {
    let space = Space::new(
        "image \"any\" {\n    base image \"golden\"\n    copy-in \"nothing\" \"/srv\"\n    run \"gone.sh\"\n}\n",
    );
    let done = space.build(&["any"]);
    done.assert_fails(2, &["nothing", "recipes/test.kdl:3:13", "gone.sh", "recipes/test.kdl:4:9"]);
    assert_eq!(done.ran(), [""; 0]);
}

/// The data objects of an output's layers, base first.
fn layers(output: &Path) -> Vec<String> {
    let text = fs::read(format!("{}.json", output.display())).unwrap();
    let description: Value = serde_json::from_slice(&text).unwrap();
    let layers = description["layers"].as_array().unwrap();
    layers.iter().filter_map(|layer| layer["data"].as_str().map(str::to_owned)).collect()
}

/// Changes one byte of an object, in a copy that no other store shares.
fn damage(space: &Space, object: &str, at: impl FnOnce(u64) -> u64) {
    let path = space.store.join("objects").join(&object[..2]).join(&object[2..]);
    let copy = space.path("damaged");
    fs::copy(&path, &copy).unwrap();
    let mut file = OpenOptions::new().read(true).write(true).open(&copy).unwrap();
    let size = file.seek(SeekFrom::End(0)).unwrap();
    let at = at(size);
    let mut byte = [0];
    file.seek(SeekFrom::Start(at)).unwrap();
    file.read_exact(&mut byte).unwrap();
    file.seek(SeekFrom::Start(at)).unwrap();
    file.write_all(&[byte[0] ^ 1]).unwrap();
    fs::rename(copy, path).unwrap();
}

#[test]
fn a_damaged_layer_of_debian_is_built_again() {
    let recipe = r#"image "damaged" {
    base image "golden"
    run-command "seq 1 400000 >/srv/numbers" name="numbers"
    run-command "sha256sum /srv/numbers; echo round" name="sum"
    output "raw"
}
"#;
    let space = Space::new(recipe);
    space.build_ok(&["damaged"]);
    let output = space.path("out/damaged.raw");
    let before = Mounted::root_of(&output).read("/srv/numbers");
    let number = layers(&output)[1].clone();
    damage(&space, &number, |size| size - 5000);

    // What is cached above it is not touched by this recipe's change: the new step reads through it.
    space.recipe(&recipe.replace("echo round", "echo again"));
    let again = space.build_ok(&["damaged"]);
    assert!(again.ran().contains(&"damaged/numbers".to_owned()), "{again}");
    assert_eq!(Mounted::root_of(&output).read("/srv/numbers"), before);
    space.assert_clean("after a damaged layer");
}

#[test]
fn a_damaged_base_is_built_again() {
    let space = Space::new(
        r#"image "tiny" {
    base file "tiny.raw"
    write "/etc/one" "1"
    output "raw"
}
"#,
    );
    disk_of(&space, "tiny", |tree| guest(tree, EM_X86_64));
    let first = space.build_ok(&["tiny"]);
    assert_eq!(first.ran(), ["tiny/base", "tiny/write", "tiny/seal"]);
    let output = space.path("out/tiny.raw");
    let base = layers(&output)[0].clone();
    // A block of a program, which no later layer hides.
    let object = fs::read(space.store.join("objects").join(&base[..2]).join(&base[2..])).unwrap();
    let program =
        object.chunks(4096).position(|block| block.starts_with(b"\x7fELF")).unwrap() as u64;
    let places = [program * 4096, program * 4096 + 4095, 1030, object.len() as u64 - 1];
    for (number, place) in places.into_iter().enumerate() {
        let before = Digest::of(&fs::read(&output).unwrap());
        damage(&space, &base, |_| place);
        fs::remove_file(&output).unwrap();
        let again = space.build_ok(&["tiny"]);
        if again.ran().is_empty() {
            // Hidden by a later layer, so that nothing of it was used.
            assert!(number >= 2, "used as it was: {again}");
            assert_eq!(Digest::of(&fs::read(&output).unwrap()), before, "byte {place}");
        } else {
            // The same bytes make the same state, so what stood on it is whole again.
            assert_eq!(again.ran(), ["tiny/base"]);
        }
        let size = fs::metadata(&output).unwrap().len();
        assert_eq!(Mounted::at(&output, 0, size, true).read("/etc/one"), "1\n");
    }
    assert!(eventually(std::time::Duration::from_secs(1), || space.leftovers().is_empty()));
}
