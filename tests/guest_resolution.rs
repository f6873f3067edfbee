//! Paths of a guest lead where they lead in the guest: random trees of links, against chroot(2).
//!
//! What operations do at the end of a path is the business of `guest_operations`.

use std::collections::BTreeSet;
use std::fs;
use std::io::Read;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::Command;

use kiln::guest::root::{FileAttributes, GuestRoot};
use kiln::guest::{DiskFacts, Guest, scrub};
use kiln::recipe::ScrubItem;
use proptest::prelude::*;

/// Names the root in which the reference reads; set only in the process that proptest starts.
const REFERENCE: &str = "KILN_TEST_CHROOT";

/// What reading a path gives: the content, or the number of the error.
fn outcome(result: std::io::Result<String>) -> String {
    match result {
        Ok(text) => text,
        Err(error) => format!("errno {:?}", error.raw_os_error()),
    }
}

/// Not a test by itself: the reference, in a process of its own, as chroot(2) is for good.
#[test]
fn reference() {
    let Ok(root) = std::env::var(REFERENCE) else { return };
    let mut paths = String::new();
    std::io::stdin().read_to_string(&mut paths).unwrap();
    rustix::process::chroot(root.as_str()).unwrap();
    rustix::process::chdir("/").unwrap();
    for path in paths.lines() {
        println!("=> {}", outcome(fs::read_to_string(path)));
    }
}

fn by_reference(root: &Path, paths: &[String]) -> Vec<String> {
    let mut list = tempfile::tempfile().unwrap();
    std::io::Write::write_all(&mut list, paths.join("\n").as_bytes()).unwrap();
    std::io::Seek::rewind(&mut list).unwrap();
    let output = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "reference", "--nocapture", "--test-threads=1"])
        .env(REFERENCE, root)
        .stdin(list)
        .output()
        .unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    text.lines()
        .filter_map(|line| line.split_once("=> "))
        .map(|(_, said)| said.to_owned())
        .collect()
}

fn component() -> impl Strategy<Value = String> {
    prop_oneof![4 => "[abc]", 1 => Just("..".to_owned()), 1 => Just("file".to_owned())]
}

fn some_path() -> impl Strategy<Value = String> {
    (any::<bool>(), prop::collection::vec(component(), 1..6)).prop_map(|(absolute, parts)| {
        format!("{}{}", if absolute { "/" } else { "" }, parts.join("/"))
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    #[test]
    fn a_path_leads_where_it_leads_in_the_guest(
        links in prop::collection::vec((prop::collection::vec("[abc]", 1..4), some_path()), 0..12),
        paths in prop::collection::vec(some_path(), 1..20),
    ) {
        let top = tempfile::tempdir().unwrap();
        fs::write(top.path().join("file"), "host").unwrap();
        let guest = top.path().join("guest");
        for directory in ["", "a", "a/b", "b", "c/a"] {
            fs::create_dir_all(guest.join(directory)).unwrap();
            fs::write(guest.join(directory).join("file"), format!("in /{directory}")).unwrap();
        }
        for (at, target) in links {
            // Names that are taken, or are below a link that leads out, are passed over.
            let at = guest.join(at.join("/"));
            if at.parent().unwrap().canonicalize().is_ok_and(|parent| parent.starts_with(&guest)) {
                let _ = symlink(target, at);
            }
        }
        let root = GuestRoot::open(&guest).unwrap();
        let expected = by_reference(&guest, &paths);
        prop_assert_eq!(expected.len(), paths.len());
        for (path, expected) in paths.iter().zip(&expected) {
            let file = root.open_fd("read", path, rustix::fs::OFlags::RDONLY).map(fs::File::from);
            let said = match file {
                Ok(file) => outcome(std::io::read_to_string(file)),
                Err(error) => format!("errno {:?}", error.errno().map(rustix::io::Errno::raw_os_error)),
            };
            prop_assert_eq!(&said, expected, "{}", path);
        }
        // A write lands where the reference then reads it, or fails; the host's file never changes.
        for path in &paths {
            let place = root.write_atomic(path, b"written", FileAttributes::default());
            if place.is_ok() {
                prop_assert_eq!(&by_reference(&guest, std::slice::from_ref(path)), &["written"], "{}", path);
            }
        }
        prop_assert_eq!(fs::read_to_string(top.path().join("file")).unwrap(), "host");
    }
}

#[test]
fn magic_links_are_not_followed() {
    let own = fs::File::open("/").unwrap();
    let number = std::os::fd::AsRawFd::as_raw_fd(&own);
    let root = GuestRoot::open(Path::new("/")).unwrap();
    for at in
        ["/proc/self/root/etc/passwd".to_owned(), format!("/proc/self/fd/{number}/etc/passwd")]
    {
        let errno = root.read(&at, 1 << 20).unwrap_err().errno();
        assert_eq!(errno, Some(rustix::io::Errno::LOOP), "{at}");
    }
}

#[test]
fn trees_of_any_depth_are_removed() {
    let top = tempfile::tempdir().unwrap();
    fs::create_dir(top.path().join("deep")).unwrap();
    let mut directory = fs::File::open(top.path().join("deep")).unwrap();
    for _ in 0..3000 {
        rustix::fs::mkdirat(&directory, "abcd", rustix::fs::Mode::from_raw_mode(0o755)).unwrap();
        let flags = rustix::fs::OFlags::DIRECTORY;
        let mode = rustix::fs::Mode::empty();
        directory = rustix::fs::openat(&directory, "abcd", flags, mode).unwrap().into();
    }
    drop(directory);
    let root = GuestRoot::open(top.path()).unwrap();
    root.glob("remove", "/d*", &mut |place| place.remove("remove").map(drop)).unwrap();
    assert!(!top.path().join("deep").exists());
}

/// Paths and contents.
type Files<'a> = &'a [(&'a str, &'a str)];

/// Whether host keys are scrubbed from a tree of these files, where `->` starts a link's target.
fn scrubs_host_keys(files: Files) -> bool {
    let top = tempfile::tempdir().unwrap();
    let put = |path: &str, content: &[u8]| {
        let path = top.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        match content.strip_prefix(b"->") {
            Some(target) => symlink(std::str::from_utf8(target).unwrap(), path).unwrap(),
            None => fs::write(path, content).unwrap(),
        }
    };
    let mut header = fs::read("/proc/self/exe").unwrap();
    header.truncate(64);
    put("bin/sh", &header);
    put("etc/ssh/ssh_host_rsa_key", b"key");
    for (path, content) in files {
        put(path, content.as_bytes());
    }
    let root = GuestRoot::open(top.path()).unwrap();
    let guest = Guest::inspect(&root).unwrap();
    let report = scrub(
        &root,
        &guest,
        &kiln::recipe::Scrub {
            items: BTreeSet::from([ScrubItem::SshHostkeys]),
            ..Default::default()
        },
        &DiskFacts::default(),
    )
    .unwrap();
    let gone = !top.path().join("etc/ssh/ssh_host_rsa_key").exists();
    assert_eq!(report[0].kept.is_none(), gone);
    gone
}

#[test]
fn host_keys_go_only_where_something_enabled_makes_new_ones() {
    const SYSTEMD: (&str, &str) = ("usr/lib/systemd/systemd", "");
    const SSHD: (&str, &str) = (
        "usr/lib/systemd/system/sshd.service",
        "[Unit]\nAfter=network.target sshd-keygen.target\nWants=sshd-keygen.target\n[Service]\nExecStart=/usr/sbin/sshd -D\n",
    );
    const KEYGEN: (&str, &str) =
        ("usr/lib/systemd/system/sshd-keygen.target", "[Unit]\nWants=sshd-keygen@rsa.service\n");
    const ENABLED: (&str, &str) = (
        "etc/systemd/system/multi-user.target.wants/sshd.service",
        "->/usr/lib/systemd/system/sshd.service",
    );
    const CONFIG: (&str, &str) =
        ("etc/cloud/cloud.cfg", "cloud_init_modules:\n  - migrator\n  - ssh\n");
    const GENERATOR: (&str, &str) = ("usr/lib/systemd/system-generators/cloud-init-generator", "");
    let debian = (
        "usr/lib/systemd/system/ssh.service",
        "[Service]\nExecStartPre=/usr/sbin/sshd -t\nExecStart=/usr/sbin/sshd -D\n",
    );
    let debian_enabled = (
        "etc/systemd/system/multi-user.target.wants/ssh.service",
        "->/usr/lib/systemd/system/ssh.service",
    );
    let drop_in = (
        "etc/systemd/system/ssh.service.d/keys.conf",
        "[Service]\nExecStartPre=/usr/bin/ssh-keygen -A\n",
    );
    let large = "# nothing\n".repeat(200_000);
    let large_unit = (debian.0, large.as_str());
    let large_drop_in = format!("{}{large}", drop_in.1);
    let table: &[(&str, bool, Files)] = &[
        ("nothing", false, &[SYSTEMD]),
        ("a unit of 2 MB", false, &[SYSTEMD, large_unit, debian_enabled]),
        (
            "a drop-in of 2 MB",
            true,
            &[SYSTEMD, large_unit, debian_enabled, (drop_in.0, &large_drop_in)],
        ),
        ("Fedora, enabled", true, &[SYSTEMD, SSHD, KEYGEN, ENABLED]),
        ("Fedora, not enabled", false, &[SYSTEMD, SSHD, KEYGEN]),
        ("Fedora, helper missing", false, &[SYSTEMD, SSHD, ENABLED]),
        (
            "Fedora, helper masked",
            false,
            &[
                SYSTEMD,
                SSHD,
                KEYGEN,
                ENABLED,
                ("etc/systemd/system/sshd-keygen.target", "->/dev/null"),
            ],
        ),
        ("cloud-init", true, &[SYSTEMD, CONFIG, GENERATOR]),
        (
            "cloud-init, switched off",
            false,
            &[SYSTEMD, CONFIG, GENERATOR, ("etc/cloud/cloud-init.disabled", "")],
        ),
        (
            "cloud-init without its module",
            false,
            &[SYSTEMD, GENERATOR, ("etc/cloud/cloud.cfg", "# - ssh\nx: ssh\n")],
        ),
        ("Debian", false, &[SYSTEMD, debian, debian_enabled]),
        ("Debian with a drop-in", true, &[SYSTEMD, debian, debian_enabled, drop_in]),
        (
            "a comment only",
            false,
            &[SYSTEMD, debian, debian_enabled, (drop_in.0, "# ssh-keygen -A\n")],
        ),
        (
            "first boot, when sshd may have failed",
            false,
            &[
                SYSTEMD,
                ("usr/lib/systemd/system/kiln-firstboot.service", "[Service]\n"),
                (
                    "etc/systemd/system/multi-user.target.wants/kiln-firstboot.service",
                    "->/usr/lib/systemd/system/kiln-firstboot.service",
                ),
                ("usr/lib/kiln/firstboot.d/0001-keys", "#!/bin/sh\nssh-keygen -A\n"),
            ],
        ),
        (
            "Alpine",
            true,
            &[
                ("sbin/openrc", ""),
                ("etc/init.d/sshd", "ssh-keygen -A\n"),
                ("etc/runlevels/default/sshd", "->/etc/init.d/sshd"),
            ],
        ),
        (
            "Alpine, not enabled",
            false,
            &[("sbin/openrc", ""), ("etc/init.d/sshd", "ssh-keygen -A\n")],
        ),
    ];
    for (name, expected, files) in table {
        assert_eq!(scrubs_host_keys(files), *expected, "{name}");
    }
}
