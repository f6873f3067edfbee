//! Kiln's labels judged by others: libselinux for every lookup, `setfiles` for every inode.
//!
//! It needs root, a network or apt cache for one package, and policycoreutils.

#[path = "support/selinux.rs"]
mod support;

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fmt::Write as _;
use std::fs;
use std::io::Write;
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::{Command, Stdio};

use kiln::guest::selinux::inodes::{EXT4_SUPERBLOCK, inodes_in_use};
use kiln::guest::selinux::relabel::RelabelError;
use kiln::guest::selinux::{
    Expected, FileKind, LabelledFs, Policy, RelabelOptions, relabel, shown, verify,
};
use rayon::prelude::*;
use rustix::fs::{CWD, FileType, Mode, XattrFlags};
use support::{Bind, Disk, file_contexts, need, policy, run};

/// Compares kiln's answer with libselinux's for each path; returns how many have a label.
fn agree(policy: &Policy, paths: &[(Vec<u8>, FileKind)]) -> usize {
    need(&[("python3", "python3")]);
    let mut input = Vec::new();
    for (path, kind) in paths {
        write!(input, "{:o} ", kind.mode()).unwrap();
        input.extend_from_slice(path);
        input.push(0);
    }
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/support/selabel.py");
    let mut python = Command::new("python3")
        .arg(script)
        .arg(file_contexts())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = python.stdin.take().unwrap();
    let feeder = std::thread::spawn(move || stdin.write_all(&input));
    let output = python.wait_with_output().unwrap();
    feeder.join().unwrap().unwrap();
    assert!(output.status.success(), "the reference failed: is libselinux1 installed?");
    let answers: Vec<_> = output.stdout.split(|&byte| byte == 0).collect();
    assert_eq!(answers.len(), paths.len() + 1);
    let wrong: Vec<String> = paths
        .par_iter()
        .zip(&answers[..paths.len()])
        .filter_map(|((path, kind), answer)| {
            let label = match policy.lookup(path, *kind).unwrap() {
                Expected::Label(label) => label,
                Expected::None | Expected::NoMatch => b"",
            };
            let text = || {
                let (path, label, answer) = (shown(path), shown(label), shown(answer));
                format!("{path} {kind:?}: kiln `{label}`, libselinux `{answer}`")
            };
            (label != *answer).then(text)
        })
        .collect();
    assert!(
        wrong.is_empty(),
        "{} differ:\n{}",
        wrong.len(),
        wrong[..wrong.len().min(20)].join("\n")
    );
    answers.iter().filter(|answer| !answer.is_empty()).count()
}

#[test]
fn every_path_of_a_real_tree_is_looked_up_as_by_libselinux() {
    let mut paths = Vec::new();
    for top in ["/usr", "/etc", "/var/lib", "/var/log", "/boot", "/dev", "/run"] {
        let walk = walkdir::WalkDir::new(top).same_file_system(true).into_iter();
        for entry in walk.filter_map(Result::ok).take(20_000) {
            use std::os::unix::fs::MetadataExt;
            let Ok(stat) = entry.metadata() else { continue };
            let path = entry.path().as_os_str().as_bytes().to_vec();
            paths.push((path, FileKind::from_mode(stat.mode()).unwrap()));
        }
    }
    assert!(paths.len() > 5_000, "the host's tree has only {} paths", paths.len());
    let labels = agree(&policy(), &paths);
    assert!(labels > paths.len() / 2, "only {labels} of {} have a label", paths.len());
}

/// xorshift64*: the same paths on every machine.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        let high = self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 33;
        usize::try_from(high).unwrap() % limit
    }

    fn pick<'a, T: ?Sized>(&mut self, from: &[&'a T]) -> &'a T {
        from[self.below(from.len())]
    }
}

/// A path like those that a regular expression matches: its literal text, with choices made up.
fn made_up(regex: &str, random: &mut Random) -> Vec<u8> {
    const FILLERS: [&[u8]; 10] =
        [b"", b"a", b"/x", b"lib64", b"s", b".so.1", b"\n", b"\xff\xc3", b"0", b"/sub/dir"];
    let mut path = Vec::new();
    let mut chars = regex.bytes().peekable();
    while let Some(byte) = chars.next() {
        match byte {
            b'\\' => path.extend(chars.next()),
            b'[' => {
                let inside: Vec<u8> = chars.by_ref().take_while(|&byte| byte != b']').collect();
                path.extend(inside.get(random.below(inside.len().max(1))));
            }
            b'.' | b'*' | b'+' | b'^' | b'$' => path.extend(random.pick(&FILLERS)),
            b'?' => {
                if random.below(2) == 0 {
                    path.pop();
                }
            }
            b'(' | b')' | b'{' | b'}' => {}
            b'|' => {
                if random.below(2) == 0 {
                    break;
                }
            }
            byte => path.push(byte),
        }
    }
    match random.below(12) {
        0 => path.extend(random.pick(&FILLERS)),
        1 => path.truncate(random.below(path.len() + 1)),
        2 if !path.is_empty() => {
            let at = random.below(path.len());
            path[at] = *b"/.ax\n\xff".get(random.below(6)).unwrap();
        }
        3 => path.push(b'/'),
        4 if !path.is_empty() => path.insert(random.below(path.len()), b'/'),
        5 => {
            let aliases: [&[u8]; 8] = [
                b"/lib64",
                b"/usr/lib32",
                b"/var/run",
                b"/etc/init.d",
                b"/run/lock",
                b"/var/lib/private",
                b"/usr/local/lib64",
                b"/bin",
            ];
            path = [random.pick(&aliases), path.as_slice()].concat();
        }
        _ => {}
    }
    path.retain(|&byte| byte != 0);
    if path.first() != Some(&b'/') {
        path.insert(0, b'/');
    }
    path
}

#[test]
fn a_hundred_thousand_made_up_paths_are_looked_up_as_by_libselinux() {
    let policy = policy();
    let specs = policy.specs().specs();
    let mut random = Random(0x6B69_6C6E);
    let paths: Vec<_> = (0..100_000)
        .map(|number| {
            let path = made_up(&specs[number % specs.len()].regex, &mut random);
            (path, FileKind::ALL[random.below(FileKind::ALL.len())])
        })
        .collect();
    let labels = agree(&policy, &paths);
    assert!(labels > 50_000, "only {labels} have a label");
}

/// What `setfiles` would change, and how many inodes have no label.
fn judged(disk: &Disk, prefix: &str) -> (String, usize) {
    // setfiles takes paths from `-r` on: below a prefix the file system is shown at its place.
    let outer = tempfile::tempdir().unwrap();
    let place = outer.path().join(prefix.trim_start_matches('/'));
    fs::create_dir_all(&place).unwrap();
    let bind = Bind::new(&disk.path(), &place);
    let setfiles = Command::new("setfiles")
        .args(["-n", "-v", "-F", "-r"])
        .arg(outer.path())
        .arg(file_contexts())
        .arg(&place)
        .output();
    let unlabelled = walkdir::WalkDir::new(&place)
        .into_iter()
        .filter(|entry| label_of(entry.as_ref().unwrap().path()).is_none())
        .count();
    drop(bind);
    let setfiles = setfiles.unwrap();
    let mut said = String::from_utf8_lossy(&setfiles.stdout).into_owned();
    write!(said, "{}", String::from_utf8_lossy(&setfiles.stderr)).unwrap();
    (said, unlabelled)
}

/// Files of every kind, with names that no shell would like.
fn fill(root: &Path) {
    for directory in [
        "etc/ssh",
        "usr/bin",
        "usr/lib/systemd/system",
        "boot",
        "home/me/.ssh",
        "run",
        "var/log",
        "root",
        "dev",
        "tmp",
        "opt/odd",
    ] {
        fs::create_dir_all(root.join(directory)).unwrap();
    }
    for file in [
        "etc/passwd",
        "etc/shadow",
        "etc/ssh/sshd_config",
        "usr/bin/bash",
        "home/me/.ssh/id",
        "usr/lib/systemd/system/x.service",
        "var/log/messages",
        "opt/odd/line\nbreak",
        "boot/under",
    ] {
        fs::write(root.join(file), file).unwrap();
    }
    let odd = OsStr::from_bytes(b"opt/odd/\xff\xfe not utf-8");
    fs::write(root.join(odd), "").unwrap();
    fs::write(root.join("opt/odd").join("n".repeat(255)), "").unwrap();
    symlink("/etc/passwd", root.join("etc/link")).unwrap();
    symlink("nowhere", root.join(OsStr::from_bytes(b"opt/odd/dangling\xff"))).unwrap();
    fs::hard_link(root.join("usr/bin/bash"), root.join("usr/bin/sh")).unwrap();
    let mode = Mode::RUSR | Mode::WUSR;
    rustix::fs::mknodat(CWD, root.join("run/initctl"), FileType::Fifo, mode, 0).unwrap();
    rustix::fs::mknodat(CWD, root.join("run/socket"), FileType::Socket, mode, 0).unwrap();
    let null = rustix::fs::makedev(1, 3);
    rustix::fs::mknodat(CWD, root.join("dev/null"), FileType::CharacterDevice, mode, null).unwrap();
    let disk = rustix::fs::makedev(7, 200);
    rustix::fs::mknodat(CWD, root.join("dev/sda"), FileType::BlockDevice, mode, disk).unwrap();
    let deep = root.join("opt/odd").join("d/".repeat(300));
    fs::create_dir_all(deep).unwrap();
}

fn label_of(path: &Path) -> Option<String> {
    let mut value = [0; 256];
    let len = rustix::fs::lgetxattr(path, "security.selinux", &mut value[..]).ok()?;
    let stored = value[..len].strip_suffix(b"\0").unwrap_or(&value[..len]);
    Some(String::from_utf8(stored.to_vec()).unwrap())
}

fn set_label(path: &Path, label: &[u8]) {
    rustix::fs::lsetxattr(path, "security.selinux", label, XattrFlags::empty()).unwrap();
}

fn superblock(disk: &Disk) -> [u8; EXT4_SUPERBLOCK] {
    let mut block = [0; EXT4_SUPERBLOCK];
    let image = fs::File::open(disk.image()).unwrap();
    std::os::unix::fs::FileExt::read_exact_at(&image, &mut block, 1024).unwrap();
    block
}

#[test]
fn two_file_systems_are_labelled_as_by_setfiles() {
    let (policy, options) = (policy(), RelabelOptions::default());
    let (mut root, mut boot) = (Disk::new(32), Disk::new(16));
    fill(&root.path());
    fs::create_dir(boot.path().join("grub")).unwrap();
    fs::write(boot.path().join("grub/grub.cfg"), "").unwrap();
    // A stale digest, a wrong user, a customizable type and a label without its NUL.
    let stale = root.path().join("etc");
    rustix::fs::setxattr(&stale, "security.sehash", b"stale", XattrFlags::empty()).unwrap();
    set_label(&root.path().join("etc/passwd"), b"unconfined_u:object_r:etc_t:s0\0");
    set_label(&root.path().join("opt/odd"), b"system_u:object_r:public_content_t:s0\0");
    set_label(&root.path().join("usr/bin"), b"system_u:object_r:bin_t:s0");

    let both = |root: &Disk, boot: &Disk| [root.labelled("/"), boot.labelled("/boot")];
    let first = relabel(&policy, &both(&root, &boot), &options).unwrap();
    assert_eq!(first.customizable, 1);
    assert_eq!(first.sehash, 1);
    assert_eq!(first.right, 1);
    assert_eq!(first.files, first.filesystems.iter().map(|fs| fs.inodes).sum::<u64>() + 1);
    assert_eq!(
        label_of(&root.path().join("opt/odd")).unwrap(),
        "system_u:object_r:public_content_t:s0"
    );
    assert_eq!(label_of(&root.path().join("boot")).unwrap(), "system_u:object_r:boot_t:s0");
    assert_eq!(
        label_of(&boot.path().join("lost+found")).unwrap(),
        "system_u:object_r:lost_found_t:s0"
    );

    // A second run writes nothing.
    root.remount("ro");
    boot.remount("ro");
    let second = relabel(&policy, &both(&root, &boot), &options).unwrap();
    assert_eq!((second.changed, second.sehash), (0, 0));
    assert_eq!(second.right, first.right + first.changed);

    let report = verify(&policy, &both(&root, &boot), &options, 20).unwrap();
    assert_eq!((report.mismatched, report.unlabelled), (0, 0), "{:?}", report.mismatches);
    assert_eq!(report.customizable, 1);
    assert_eq!(report.files, first.files);
    assert_eq!(report.filesystems, first.filesystems);
    for (disk, seen) in [&root, &boot].into_iter().zip(&report.filesystems) {
        let fs = disk.labelled("/");
        let block = superblock(disk);
        let used = inodes_in_use(fs.root.as_fd(), Some(&block)).unwrap();
        assert_eq!(used, Some(seen.inodes));
    }

    // setfiles -F knows no customizable types: it would change that one, and nothing else.
    let (said, unlabelled) = judged(&root, "/");
    let lines: Vec<_> = said.lines().collect();
    assert_eq!(lines.len(), 1, "{said}");
    assert!(lines[0].contains("opt/odd") && lines[0].contains("public_content_t"), "{said}");
    assert_eq!(unlabelled as u64, report.none + report.unmatched);
    let (said, unlabelled) = judged(&boot, "/boot");
    assert_eq!((said.as_str(), unlabelled), ("", 0));
}

#[test]
fn the_second_reading_sees_what_is_wrong() {
    let (policy, options) = (policy(), RelabelOptions::default());
    let mut disk = Disk::new(32);
    fill(&disk.path());
    relabel(&policy, &[disk.labelled("/")], &options).unwrap();
    set_label(&disk.path().join("etc/shadow"), b"system_u:object_r:etc_t:s0\0");
    set_label(&disk.path().join("etc/passwd"), b"unconfined_u:object_r:etc_t:s0\0");
    rustix::fs::lremovexattr(disk.path().join("dev/null"), "security.selinux").unwrap();
    disk.remount("ro");
    let report = verify(&policy, &[disk.labelled("/")], &options, 20).unwrap();
    let paths: Vec<_> = report.mismatches.iter().map(|wrong| shown(&wrong.path)).collect();
    assert_eq!(paths, ["/dev/null", "/etc/passwd", "/etc/shadow"]);
    assert_eq!((report.mismatched, report.unlabelled), (3, 1));
    assert_eq!(report.mismatches[2].found.as_deref(), Some(&b"system_u:object_r:etc_t:s0"[..]));
}

#[test]
fn an_immutable_file_is_named_and_a_right_one_is_no_matter() {
    need(&[("chattr", "e2fsprogs")]);
    let (policy, options) = (policy(), RelabelOptions::default());
    let disk = Disk::new(32);
    fill(&disk.path());
    let (file, log) = (disk.path().join("etc/passwd"), disk.path().join("var/log/messages"));
    run(Command::new("chattr").arg("+i").arg(&file));
    run(Command::new("chattr").arg("+a").arg(&log));
    let error = relabel(&policy, &[disk.labelled("/")], &options).unwrap_err();
    let RelabelError::Several { count: 2, shown: faults } = error else { panic!("{error}") };
    assert_eq!(faults[0].to_string(), "/etc/passwd is immutable and its label is not right");
    assert_eq!(
        faults[1].to_string(),
        "/var/log/messages is append-only and its label is not right"
    );
    run(Command::new("chattr").arg("-a").arg(&log));
    run(Command::new("chattr").arg("-i").arg(&file));
    set_label(&file, b"system_u:object_r:etc_t:s0\0");
    run(Command::new("chattr").arg("+i").arg(&file));
    let report = relabel(&policy, &[disk.labelled("/")], &options);
    run(Command::new("chattr").arg("-i").arg(&file));
    assert_eq!(report.unwrap().unmatched, 0);
}

#[test]
fn a_hard_link_with_two_labels_needs_a_winner() {
    let (policy, mut options) = (policy(), RelabelOptions::default());
    let mut disk = Disk::new(32);
    fill(&disk.path());
    fs::hard_link(disk.path().join("etc/shadow"), disk.path().join("usr/bin/shadow")).unwrap();
    let error = relabel(&policy, &[disk.labelled("/")], &options).unwrap_err();
    let RelabelError::HardLink { first, second, .. } = &error else { panic!("{error}") };
    assert_eq!(
        (first.as_slice(), second.as_slice()),
        (&b"/etc/shadow"[..], &b"/usr/bin/shadow"[..])
    );
    options.winning_paths = BTreeSet::from([b"/etc/shadow".to_vec()]);
    relabel(&policy, &[disk.labelled("/")], &options).unwrap();
    let label = label_of(&disk.path().join("usr/bin/shadow")).unwrap();
    assert_eq!(label, "system_u:object_r:shadow_t:s0");
    disk.remount("ro");
    assert_eq!(verify(&policy, &[disk.labelled("/")], &options, 20).unwrap().mismatched, 0);
    let strict = verify(&policy, &[disk.labelled("/")], &RelabelOptions::default(), 20).unwrap();
    assert_eq!(strict.mismatched, 1);
}

#[test]
fn what_is_mounted_below_is_not_entered() {
    let (policy, options) = (policy(), RelabelOptions::default());
    let (root, boot) = (Disk::new(32), Disk::new(16));
    fill(&root.path());
    let place = root.path().join("boot");
    let bind = Bind::new(&boot.path(), &place);
    let relabelled = relabel(&policy, &[root.labelled("/")], &options);
    let verified = verify(&policy, &[root.labelled("/")], &options, 20);
    let listed = relabel(&policy, &[root.labelled("/"), boot.labelled("/boot")], &options);
    drop(bind);
    assert!(matches!(relabelled, Err(RelabelError::Foreign { path }) if path == b"/boot"));
    assert!(verified.is_err());
    listed.unwrap();
}

#[test]
fn a_read_only_file_system_is_an_error_and_not_a_success() {
    let (policy, options) = (policy(), RelabelOptions::default());
    let mut disk = Disk::new(32);
    fill(&disk.path());
    disk.remount("ro");
    let error = relabel(&policy, &[disk.labelled("/")], &options).unwrap_err();
    let RelabelError::Several { count, shown: faults } = &error else { panic!("{error}") };
    assert!(*count > 300);
    assert_eq!(faults.len(), kiln::guest::selinux::SHOWN);
}

#[test]
fn xfs_is_labelled_and_its_inodes_are_counted() {
    need(&[("mkfs.xfs", "xfsprogs")]);
    let (policy, options) = (policy(), RelabelOptions::default());
    let mut disk = Disk::format(320, &["mkfs.xfs", "-q"]);
    fill(&disk.path());
    relabel(&policy, &[disk.labelled("/")], &options).unwrap();
    disk.remount("ro");
    let fs = disk.labelled("/");
    let used = inodes_in_use(fs.root.as_fd(), None).unwrap();
    let report = verify(&policy, &[fs], &options, 20).unwrap();
    assert_eq!((report.mismatched, used), (0, Some(report.filesystems[0].inodes)));
    let (said, unlabelled) = judged(&disk, "/");
    assert_eq!((said.as_str(), unlabelled as u64), ("", report.none + report.unmatched));
}

#[test]
fn a_subvolume_is_named_unless_its_place_is_known() {
    need(&[("mkfs.btrfs", "btrfs-progs"), ("btrfs", "btrfs-progs")]);
    let (policy, options) = (policy(), RelabelOptions::default());
    let disk = Disk::format(160, &["mkfs.btrfs", "-q"]);
    let home = disk.path().join("home");
    run(Command::new("btrfs").args(["subvolume", "create"]).arg(&home));
    fill(&disk.path());
    let error = relabel(&policy, &[disk.labelled("/")], &options).unwrap_err();
    assert_eq!(error.to_string(), "/home lies in another file system or subvolume");
    let both = || {
        let root = fs::File::open(&home).unwrap().into();
        [disk.labelled("/"), LabelledFs { root, prefix: "/home".parse().unwrap() }]
    };
    let report = relabel(&policy, &both(), &options).unwrap();
    assert_eq!(report.filesystems[1].inodes, 4);
    let second = verify(&policy, &both(), &options, 20).unwrap();
    assert_eq!((second.mismatched, second.files), (0, report.files));
    assert_eq!(second.filesystems, report.filesystems);
    assert_eq!(label_of(&home).unwrap(), "system_u:object_r:home_root_t:s0");
}
