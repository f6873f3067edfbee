//! kiln beside the tools that it replaces: the same operations on one Debian by kiln and by the real
//! virt-customize and virt-sysprep, and every difference between the two trees.
//!
//! A difference is right only where a page of the book says so: its sentence is part of the table.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;
use std::process::Command;

use kiln::recipe::ScrubItem;

use crate::guest_space::{Mounted, Space, golden_raw, need, run};

const TOOLS: &[(&str, &str)] = &[
    ("virt-customize", "guestfs-tools"),
    ("virt-sysprep", "guestfs-tools"),
    ("supermin", "supermin"),
];

/// A command of libguestfs, whose appliance is emulated: here and there KVM only claims to work.
fn guestfs(program: &str) -> Command {
    let mut command = Command::new(program);
    command
        .env("LIBGUESTFS_BACKEND", "direct")
        .env("LIBGUESTFS_BACKEND_SETTINGS", "force_tcg")
        .env("LC_ALL", "C.UTF-8");
    command
}

/// A difference that is meant: the path or its beginning, and the sentence of the book.
type Meant<'a> = (&'a str, &'a str);

/// Requires that two trees differ only where a page says so, and that everything which is said to
/// differ does.
fn assert_only_meant(
    page: &str,
    peer: &BTreeMap<String, String>,
    ours: &BTreeMap<String, String>,
    meant: &[Meant<'_>],
) {
    let text = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(page)).unwrap();
    let words = |text: &str| text.split_whitespace().collect::<Vec<_>>().join(" ");
    let text = words(&text);
    let covers = |start: &str, path: &str| {
        path.strip_prefix(start).is_some_and(|rest| {
            rest.is_empty() || rest.starts_with('/') || start.ends_with(['-', '/'])
        })
    };
    let names: BTreeSet<_> = peer.keys().chain(ours.keys()).collect();
    let mut used = BTreeSet::new();
    let mut wrong = Vec::new();
    for name in names.into_iter().filter(|name| peer.get(*name) != ours.get(*name)) {
        match meant.iter().position(|(start, _)| covers(start, name)) {
            Some(place) => _ = used.insert(place),
            None => wrong.push(format!("{name}: {:?} / {:?}", peer.get(name), ours.get(name))),
        }
    }
    assert!(wrong.is_empty(), "theirs / ours:\n{}", wrong.join("\n"));
    for (place, (start, sentence)) in meant.iter().enumerate() {
        assert!(used.contains(&place), "nothing differs at `{start}`: {sentence}");
        assert!(text.contains(&words(sentence)), "{page} does not say: {sentence}");
    }
}

/// Every default item, so that a seal scrubs nothing.
fn keep_all() -> String {
    let items = ScrubItem::ALL.into_iter().filter(|item| item.is_default());
    let items: Vec<_> = items.map(|item| format!("\"{}\"", item.keyword())).collect();
    format!("scrub {{ keep {} }}", items.join(" "))
}

/// What virt-customize says of itself.
fn version() -> String {
    let output = run(guestfs("virt-customize").arg("--version"));
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}

const KEY: &str =
    "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIAABAgMEBQYHCAkKCwwNDg8QERITFBUWFxgZGhscHR4f me@here";

fn prepare(space: &Space) {
    space.file("recipes/files/tree/sub/f", "in\n");
    space.file("recipes/files/up.conf", "uploaded\n");
    space.file("recipes/files/first.sh", "#!/bin/sh\necho hi\n");
    space.file("recipes/files/key.pub", format!("{KEY}\n"));
    space.file("recipes/files/edits", "#!/bin/sh\n");
    for (path, mode) in [("recipes/files/up.conf", 0o640), ("recipes/files/first.sh", 0o755)] {
        use std::os::unix::fs::PermissionsExt;
        fs::set_permissions(space.path(path), fs::Permissions::from_mode(mode)).unwrap();
    }
    let tar = space.path("recipes/files/tree.tar");
    run(Command::new("tar")
        .arg("-C")
        .arg(space.path("recipes/files"))
        .arg("-cf")
        .arg(&tar)
        .arg("tree"));
    fs::copy(golden_raw(), space.path("recipes/start.raw")).unwrap();
}

/// Options of virt-customize, and the steps that say the same.
const SAME: &[(&[&str], &str)] = &[
    (&["--write", "/etc/motd:Hello"], "write \"/etc/motd\" \"Hello\" newline=#false"),
    (
        &["--append-line", "/etc/hosts:192.0.2.1 build"],
        "append-line \"/etc/hosts\" \"192.0.2.1 build\"",
    ),
    (&["--mkdir", "/srv/www/deep"], "mkdir \"/srv/www/deep\""),
    (&["--chmod", "0750:/srv/www"], "chmod \"0750\" \"/srv/www\""),
    (&["--copy-in", "files/tree:/srv"], "copy-in \"files/tree\" \"/srv\""),
    (&["--upload", "files/up.conf:/etc/up.conf"], "upload \"files/up.conf\" \"/etc/up.conf\""),
    (&["--upload", "files/up.conf:/etc/gone"], "upload \"files/up.conf\" \"/etc/gone\""),
    (&["--copy", "/etc/skel:/srv/skel"], "copy \"/etc/skel\" \"/srv/skel\""),
    (&["--move", "/srv/tree/sub/f:/srv/moved"], "move \"/srv/tree/sub/f\" \"/srv/moved\""),
    (
        &["--link", "/srv/moved:/srv/link1:/srv/link2"],
        "link \"/srv/moved\" \"/srv/link1\" \"/srv/link2\"",
    ),
    (&["--delete", "/usr/share/doc/bash*"], "delete \"/usr/share/doc/bash*\""),
    (
        &["--edit", "/etc/ssh/sshd_config:s/^#?UseDNS .*/UseDNS no/"],
        "edit \"/etc/ssh/sshd_config\" \"s/^#?UseDNS .*/UseDNS no/\"",
    ),
    (&["--hostname", "peers"], "hostname \"peers\""),
    (&["--timezone", "Europe/Vienna"], "timezone \"Europe/Vienna\""),
    (&["--touch", "/etc/touched"], "touch \"/etc/touched\""),
    (&["--truncate", "/etc/issue"], "truncate \"/etc/issue\""),
    (&["--truncate-recursive", "/etc/apt"], "truncate-recursive \"/etc/apt\""),
    (&["--scrub", "/etc/gone"], "scrub-file \"/etc/gone\""),
    (&["--run-command", "echo ran >/etc/ran"], "run-command \"echo ran >/etc/ran\""),
    (&["--firstboot", "files/first.sh"], "firstboot \"files/first.sh\""),
    (&["--firstboot-command", "echo two"], "firstboot-command \"echo two\""),
    (&["--ssh-inject", "root:file:files/key.pub"], "ssh-inject \"root\" file=\"files/key.pub\""),
    (&["--password", "root:locked"], "password \"root\" locked=#true"),
    (&["--password", "daemon:disabled"], "password \"daemon\" disabled=#true"),
];

/// Where the two differ after [`SAME`].
const CUSTOMIZE: &[Meant<'_>] = &[
    ("etc/hosts", "`/etc/hosts` keeps `localhost`"),
    ("etc/shadow", "`!` before the hash, as `passwd -l` does"),
    ("etc/localtime", "both say the same; the link is relative"),
    ("etc/timezone", "both say the same; the link is relative"),
    ("etc/up.conf", "of the mode only what no umask decides"),
    ("etc/init.d/guestfs-firstboot", "They lie in `/usr/lib/kiln`"),
    ("etc/rc2.d/S99guestfs-firstboot", "They lie in `/usr/lib/kiln`"),
    ("etc/rc3.d/S99guestfs-firstboot", "They lie in `/usr/lib/kiln`"),
    ("etc/rc5.d/S99guestfs-firstboot", "They lie in `/usr/lib/kiln`"),
    (
        "etc/systemd/system/multi-user.target.wants/guestfs-firstboot.service",
        "They lie in `/usr/lib/kiln`",
    ),
    (
        "etc/systemd/system/multi-user.target.wants/kiln-firstboot.service",
        "They lie in `/usr/lib/kiln`",
    ),
    ("usr/lib/kiln", "They lie in `/usr/lib/kiln`"),
    ("usr/lib/systemd/system/guestfs-firstboot.service", "They lie in `/usr/lib/kiln`"),
    ("usr/lib/systemd/system/kiln-firstboot.service", "They lie in `/usr/lib/kiln`"),
    ("usr/lib/virt-sysprep", "They lie in `/usr/lib/kiln`"),
];

#[test]
fn the_same_operations_as_virt_customize() {
    need(TOOLS);
    let space = Space::new("");
    prepare(&space);
    let theirs = space.path("theirs.raw");
    fs::copy(golden_raw(), &theirs).unwrap();
    let mut command = guestfs("virt-customize");
    command.current_dir(space.path("recipes")).args(["--format", "raw", "-a"]).arg(&theirs);
    command.args(["--no-network", "--no-logfile", "-q"]);
    command.args(SAME.iter().flat_map(|(option, _)| option.iter()));
    run(&mut command);
    let steps: Vec<_> = SAME.iter().map(|(_, step)| format!("    {step}\n")).collect();
    space.recipe(&format!(
        "image \"ours\" {{\n    base file \"start.raw\" format=\"raw\"\n{}    {}\n    output \"raw\"\n}}\n",
        steps.concat(),
        keep_all()
    ));
    space.build_ok(&["ours"]);
    println!("{} operations beside {}", SAME.len(), version());
    let (theirs, ours) =
        (Mounted::root_of(&theirs).tree(), Mounted::root_of(&space.path("out/ours.raw")).tree());
    assert_only_meant("book/src/reference/from-virt-customize.md", &theirs, &ours, CUSTOMIZE);
    space.assert_clean("after the comparison");
}

/// What a machine leaves behind that has run for a while: a path, and what is in it.
const USED: &[(&str, &str)] = &[
    ("/etc/machine-id", "0123456789abcdef0123456789abcdef\n"),
    ("/root/.bash_history", "ls\n"),
    ("/etc/fstab.bak", "old\n"),
    ("/root/notes~", "old\n"),
    ("/var/crash/core", "x"),
    ("/var/spool/cron/crontabs/root", "* * * * * true\n"),
    ("/var/lib/dhcp/dhclient.leases", "lease {}\n"),
    ("/var/log/syslog", "a line\n"),
    ("/var/log/syslog.1", "a line\n"),
    ("/var/log/apt/term.log", "a line\n"),
    ("/var/log/journal/0123/system.journal", "x"),
    ("/var/mail/root", "From x\n"),
    ("/etc/passwd-", "old\n"),
    ("/etc/shadow-", "old\n"),
    ("/tmp/left", "x"),
    ("/var/tmp/left", "x"),
    ("/etc/udev/rules.d/70-persistent-net.rules", "SUBSYSTEM==\"net\"\n"),
    ("/etc/krb5.keytab", "x"),
    ("/var/lib/systemd/random-seed", "seed"),
    ("/var/cache/apt/archives/x_1_all.deb", "x"),
    ("/root/.ssh/authorized_keys", KEY),
    ("/etc/NetworkManager/system-connections/a.nmconnection", "[connection]\nid=a\n"),
    ("/var/lib/sss/db/cache.ldb", "x"),
    ("/var/lib/samba/wins.tdb", "x"),
    ("/etc/blkid.tab", "x"),
    ("/var/run/utmp", "x"),
    ("/var/log/wtmp", "x"),
    ("/var/log/lastlog", "x"),
    ("/etc/ssh/ssh_host_ed25519_key", "x"),
    ("/etc/ssh/ssh_host_ed25519_key.pub", "x"),
];

/// Where the two differ on a machine that was [`USED`].
const SYSPREP: &[Meant<'_>] = &[
    ("etc/machine-id", "`uninitialized` where systemd takes it, and nothing can bake a new one"),
    (
        "etc/udev/rules.d/70-persistent-net.rules",
        "emptied and not deleted; the generator's rules too",
    ),
    ("root/.ssh", "it would remove the keys that `ssh-inject` put there"),
    (
        "var/lib/systemd/random-seed",
        "All three tools write a new random seed into the image where kiln removes it",
    ),
    ("var/log/apt", "live logs are emptied and not deleted"),
    ("var/log/btmp", "live logs are emptied and not deleted"),
    ("var/log/faillog", "live logs are emptied and not deleted"),
    ("var/log/lastlog", "live logs are emptied and not deleted"),
    ("var/log/syslog", "live logs are emptied and not deleted"),
    ("var/log/wtmp", "live logs are emptied and not deleted"),
];

#[test]
fn the_default_set_of_virt_sysprep() {
    need(TOOLS);
    let space = Space::new("");
    prepare(&space);
    let writes: Vec<_> = USED
        .iter()
        .map(|(path, content)| {
            let directory = Path::new(path).parent().unwrap().display();
            format!("    mkdir \"{directory}\"\n    write \"{path}\" {content:?} newline=#false\n")
        })
        .collect();
    let used = format!(
        "image \"used\" {{\n    base file \"start.raw\" format=\"raw\"\n{}    {}\n    output \"raw\"\n}}\n",
        writes.concat(),
        keep_all()
    );
    space.recipe(&used);
    space.build_ok(&["used"]);
    let used = space.path("out/used.raw");
    let theirs = space.path("theirs.raw");
    fs::copy(&used, &theirs).unwrap();
    fs::rename(&used, space.path("recipes/used.raw")).unwrap();
    run(guestfs("virt-sysprep").args(["--format", "raw", "-q", "-a"]).arg(&theirs));
    space.recipe(
        "image \"ours\" {\n    base file \"used.raw\" format=\"raw\"\n    output \"raw\"\n}\n",
    );
    space.build_ok(&["ours"]);
    println!("beside {}", version());
    let (theirs, ours) =
        (Mounted::root_of(&theirs).tree(), Mounted::root_of(&space.path("out/ours.raw")).tree());
    assert_only_meant("book/src/reference/from-virt-sysprep.md", &theirs, &ours, SYSPREP);
    space.assert_clean("after the comparison");
}
