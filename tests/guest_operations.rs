//! Contracts of guest operations: a tree before, an operation, every difference after.
//!
//! Trees are made here; real guests and programs are the business of other tests. Runs as root.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown, lchown, symlink};
use std::path::{Path, PathBuf};

use kiln::guest::inspect::{Family, Init, PackageManager};
use kiln::guest::installed::{Installed, installed};
use kiln::guest::root::{FileAttributes, GuestRoot};
use kiln::guest::{Guest, GuestError, Snapshot, apply, program_for};
use kiln::name::{GuestPath, Mode};
use kiln::recipe::{
    AppendLine, Attributes, Chmod, Chown, CopyIn, Crypto, Delete, Edit, Firstboot, Link, Mkdir,
    Move, Packages, Password, PasswordSecret, Paths, Run, RunCommand, SshInject, SshKey, StepKind,
    Write,
};
use kiln::secret::SecretValue;
use rustix::fs::{CWD, FileType, RenameFlags};

#[path = "support/tree.rs"]
mod tree;

use tree::{difference, state};

const KEY: &str =
    "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIAABAgMEBQYHCAkKCwwNDg8QERITFBUWFxgZGhscHR4f me@here";

/// A guest's tree, and beside it things of the host that no operation may touch.
struct Fixture {
    _top: tempfile::TempDir,
    guest: PathBuf,
    host: PathBuf,
}

impl Fixture {
    fn new() -> Self {
        rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o027));
        let top = tempfile::tempdir().unwrap();
        let fixture =
            Self { guest: top.path().join("guest"), host: top.path().join("host"), _top: top };
        fixture.file("host/canary", "host", 0o600);
        fixture.file("host/script.sh", "#!/bin/sh\necho hello\n", 0o4750);
        fixture.file("host/site/index.html", "<p>\n", 0o640);
        fixture.file("host/site/bin/tool", "x", 0o755);
        symlink("../index.html", fixture.host.join("site/bin/link")).unwrap();
        for path in ["host/script.sh", "host/site", "host/site/index.html"] {
            chown(fixture.top(path), Some(1234), Some(1234)).unwrap();
        }
        fixture.file(
            "guest/etc/os-release",
            "ID=debian\nVERSION_ID=\"12\"\nPRETTY_NAME=\"Debian 12\"\n",
            0o644,
        );
        fixture.file(
            "guest/etc/passwd",
            "root:x:0:0:root:/root:/bin/sh\nweb:x:1000:1000::/home/web:/bin/sh\nhomeless:x:9:9::/nowhere:/bin/sh\n",
            0o644,
        );
        fixture.file("guest/etc/group", "root:x:0:\nweb:x:1000:\nwww-data:x:33:\n", 0o644);
        fixture.file("guest/etc/shadow", "root:$6$a$b:19000:0:99999:7:::\nweb:!:1::::::\n", 0o640);
        fixture.file("guest/etc/hostname", "old\n", 0o644);
        fixture.file(
            "guest/etc/hosts",
            "127.0.0.1 localhost\n127.0.1.1 old.example.org old\n",
            0o644,
        );
        fixture.file("guest/usr/share/zoneinfo/Europe/Vienna", "TZif2", 0o644);
        fixture.file("guest/usr/share/zoneinfo/zone.tab", "# no zone", 0o644);
        fixture.file("guest/usr/bin/apt-get", "", 0o755);
        fixture.file("guest/usr/lib/systemd/systemd", "", 0o755);
        fixture.file("guest/usr/lib/systemd/libsystemd-shared-252.so", "", 0o644);
        fixture.file("guest/usr/sbin/chpasswd", "", 0o755);
        fixture.file("guest/home/web/.profile", "", 0o644);
        fixture.file("guest/srv/keep", "keep", 0o644);
        fixture.file("guest/root/.bashrc", "", 0o644);
        fs::create_dir_all(fixture.guest.join("usr/sbin")).unwrap();
        symlink("usr/bin", fixture.guest.join("bin")).unwrap();
        symlink("usr/sbin", fixture.guest.join("sbin")).unwrap();
        symlink("/lib/systemd/systemd", fixture.guest.join("usr/sbin/init")).unwrap();
        symlink("usr/lib", fixture.guest.join("lib")).unwrap();
        let mut header = fs::read("/proc/self/exe").unwrap();
        header.truncate(64);
        fs::write(fixture.guest.join("usr/bin/dash"), header).unwrap();
        symlink("dash", fixture.guest.join("usr/bin/sh")).unwrap();
        fixture
    }

    fn top(&self, path: &str) -> PathBuf {
        self.guest.parent().unwrap().join(path)
    }

    fn file(&self, path: &str, content: impl AsRef<[u8]>, mode: u32) {
        let path = self.top(path);
        let missing = path.ancestors().skip(1).take_while(|parent| !parent.exists());
        let missing: Vec<_> = missing.map(Path::to_owned).collect();
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        for parent in missing {
            fs::set_permissions(parent, fs::Permissions::from_mode(0o755)).unwrap();
        }
        fs::write(&path, content).unwrap();
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    }

    fn root(&self) -> GuestRoot {
        GuestRoot::open(&self.guest).unwrap()
    }

    fn snapshot(&self, path: &str) -> Snapshot {
        Snapshot { path: self.host.join(path) }
    }

    fn apply(&self, kind: &StepKind<Snapshot>) -> Result<(), GuestError> {
        let root = self.root();
        apply(&root, &Guest::inspect(&root).unwrap(), kind)
    }

    fn state(&self) -> BTreeMap<String, String> {
        state(self.guest.parent().unwrap())
    }
}

fn path(text: &str) -> GuestPath {
    text.parse().unwrap()
}

fn attributes(owner: &str, group: &str, mode: &str) -> Attributes {
    let account = |text: &str| (!text.is_empty()).then(|| text.parse().unwrap());
    Attributes { owner: account(owner), group: account(group), mode: mode.parse::<Mode>().ok() }
}

fn rendered(error: &GuestError) -> String {
    let mut text = String::new();
    miette::NarratableReportHandler::new().render_report(&mut text, error).unwrap();
    text
}

/// Applies a step twice on a fresh tree; gives every difference of each time.
fn contract(
    prepare: impl FnOnce(&Fixture),
    kind: impl FnOnce(&Fixture) -> StepKind<Snapshot>,
) -> String {
    let fixture = Fixture::new();
    prepare(&fixture);
    let kind = kind(&fixture);
    let json = serde_json::to_string(&kind).unwrap();
    assert_eq!(serde_json::from_str::<StepKind<Snapshot>>(&json).unwrap(), kind);
    let mut text = String::new();
    let mut before = fixture.state();
    for time in ["first", "again"] {
        let result = fixture.apply(&kind);
        let after = fixture.state();
        let changed = difference(&before, &after);
        assert!(!changed.contains(" host/"), "{changed}");
        writeln!(text, "[{time}]\n{changed}").unwrap();
        if let Err(error) = result {
            write!(text, "{}", rendered(&error)).unwrap();
        }
        before = after;
    }
    text.replace(&format!("{}", fixture.guest.parent().unwrap().display()), "TOP")
}

fn nothing(_: &Fixture) {}

fn write(at: &str, attributes: Attributes) -> StepKind<Snapshot> {
    StepKind::Write(Write { path: path(at), content: "new\n".into(), attributes })
}

macro_rules! contracts {
    ($($name:ident: $prepare:expr, $kind:expr;)*) => {$(
        #[test]
        fn $name() {
            insta::assert_snapshot!(stringify!($name), contract($prepare, $kind));
        }
    )*};
}

fn with_attributes(fixture: &Fixture) {
    fixture.file("guest/etc/motd", "old\n", 0o4711);
    let file = fixture.guest.join("etc/motd");
    rustix::fs::setxattr(&file, "user.kept", b"1", rustix::fs::XattrFlags::empty()).unwrap();
    chown(&file, Some(7), Some(8)).unwrap();
    fs::set_permissions(&file, fs::Permissions::from_mode(0o4711)).unwrap();
}

fn link_to(target: &'static str, link: &'static str) -> impl Fn(&Fixture) {
    move |fixture| symlink(target, fixture.guest.join(link)).unwrap()
}

fn fifo(at: &'static str) -> impl Fn(&Fixture) {
    move |fixture| {
        let mode = rustix::fs::Mode::from_raw_mode(0o644);
        rustix::fs::mknodat(CWD, fixture.guest.join(at), FileType::Fifo, mode, 0).unwrap();
    }
}

fn edited(at: &str, expressions: &[&str], required: bool) -> StepKind<Snapshot> {
    let expressions = expressions.iter().map(|&text| text.to_owned()).collect();
    StepKind::Edit(Edit { path: path(at), expressions, required })
}

fn copy(from: &str, to: &str) -> StepKind<Snapshot> {
    StepKind::Copy(Move { from: path(from), to: path(to) })
}

fn paths(all: &[&str]) -> Paths {
    Paths { paths: all.iter().map(|text| path(text)).collect() }
}

fn set_xattr(at: &Path, name: &str, value: &[u8]) {
    rustix::fs::lsetxattr(at, name, value, rustix::fs::XattrFlags::empty()).unwrap();
}

/// A tree below `/srv/rich` with everything that a file can have.
fn rich_tree(fixture: &Fixture) {
    fixture.file("guest/srv/rich/dir/file", "text", 0o640);
    fixture.file("guest/srv/rich/tool", "tool", 0o755);
    let rich = fixture.guest.join("srv/rich");
    fs::hard_link(rich.join("tool"), rich.join("dir/same")).unwrap();
    symlink("../../keep", rich.join("dir/link")).unwrap();
    lchown(rich.join("dir/link"), Some(5), Some(6)).unwrap();
    fifo("srv/rich/fifo")(fixture);
    let null = rustix::fs::makedev(1, 3);
    let mode = rustix::fs::Mode::from_raw_mode(0o666);
    rustix::fs::mknodat(CWD, rich.join("null"), FileType::CharacterDevice, mode, null).unwrap();
    chown(rich.join("dir"), Some(1000), Some(33)).unwrap();
    chown(rich.join("tool"), Some(7), Some(8)).unwrap();
    for (name, mode) in [("tool", 0o4755), ("dir", 0o2570), ("fifo", 0o620), ("null", 0o606)] {
        fs::set_permissions(rich.join(name), fs::Permissions::from_mode(mode)).unwrap();
    }
    set_xattr(&rich.join("tool"), "user.kept", b"1\n2");
    set_xattr(
        &rich.join("tool"),
        "security.capability",
        b"\x01\0\0\x02\0\x04\0\0\0\0\0\0\0\0\0\0\0\0\0\0",
    );
    set_xattr(&rich.join("dir"), "user.kept", b"2");
    set_xattr(&rich.join("dir/link"), "security.selinux", b"system_u:object_r:etc_t:s0\0");
    set_xattr(&rich.join("null"), "trusted.kept", b"3");
}

/// A tar archive of entries: a path, what it is, and its content or target.
fn archive(entries: &[(&[u8], &str, &str)]) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    for (name, kind, content) in entries {
        let mut header = tar::Header::new_ustar();
        let data = if *kind == "file" { content.as_bytes() } else { b"" };
        // As it is written, where the safe way would refuse what is tested here.
        header.as_old_mut().name[..name.len()].copy_from_slice(name);
        header.set_entry_type(match *kind {
            "file" => tar::EntryType::Regular,
            "directory" => tar::EntryType::Directory,
            "link" => tar::EntryType::Symlink,
            "hard" => tar::EntryType::Link,
            "fifo" => tar::EntryType::Fifo,
            other => tar::EntryType::new(other.as_bytes()[0]),
        });
        if data.is_empty() {
            header.as_old_mut().linkname[..content.len()].copy_from_slice(content.as_bytes());
        }
        header.set_size(data.len() as u64);
        header.set_mode(if *kind == "directory" { 0o750 } else { 0o4711 });
        header.set_uid(1000);
        header.set_gid(33);
        header.set_mtime(5);
        header.set_cksum();
        builder.append(&header, data).unwrap();
    }
    builder.into_inner().unwrap()
}

/// The step that unpacks entries into `/srv`.
fn unpack(
    fixture: &Fixture,
    entries: &[(&[u8], &str, &str)],
    attributes: Attributes,
) -> StepKind<Snapshot> {
    fixture.file("host/site.tar", archive(entries), 0o644);
    let source = fixture.snapshot("site.tar");
    StepKind::TarIn(CopyIn { source, destination: path("/srv"), attributes })
}

contracts! {
    edit: |f| { f.file("guest/etc/conf", b"#UseDNS yes\r\nPort 22\n\xff # x\nlast", 0o4640); let at = f.guest.join("etc/conf"); chown(&at, Some(7), Some(8)).unwrap(); fs::set_permissions(&at, fs::Permissions::from_mode(0o4640)).unwrap(); set_xattr(&at, "user.kept", b"1"); set_xattr(&at, "security.selinux", b"l\0"); }, |_| edited("/etc/conf", &["s/^#?UseDNS .*/UseDNS no/", "s/22/2222/ if /^Port/; /#/d", "s/$/!/"], false);
    edit_required: nothing, |_| edited("/etc/hostname", &["s/old/new/"], true);
    edit_nothing: nothing, |_| edited("/etc/hostname", &["s/none/new/"], false);
    edit_missing: nothing, |_| edited("/etc/none", &["s/a/b/"], false);
    edit_directory: nothing, |_| edited("/etc", &["s/a/b/"], false);
    edit_through_climbing_link: link_to("../../../../../../host/canary", "etc/motd"), |_| edited("/etc/motd", &["s/host/guest/"], false);
    edit_through_link: link_to("/srv/keep", "etc/motd"), |_| edited("/etc/motd", &["s/keep/kept/"], true);
    edit_no_pattern: nothing, |_| edited("/etc/hostname", &["s/(old/new/"], false);
    edit_no_group: nothing, |_| edited("/etc/hostname", &["s/old/$1/"], false);
    edit_too_costly: |f| f.file("guest/etc/motd", format!("ok\n{}!\n", "a".repeat(64)), 0o644), |_| edited("/etc/motd", &["s/(a+)+$/x/"], false);
    copy_tree: rich_tree, |_| copy("/srv/rich", "/new");
    copy_into_directory: rich_tree, |_| copy("/srv/rich/dir", "/home");
    copy_file_over_link: link_to("/srv/keep", "srv/l"), |_| copy("/etc/hostname", "/srv/l");
    copy_link: link_to("/srv/keep", "l"), |_| copy("/l", "/l2");
    copy_merges: |f| { rich_tree(f); f.file("guest/new/rich/dir/old", "", 0o600); f.file("guest/new/rich/tool", "old", 0o600); }, |_| copy("/srv/rich", "/new");
    copy_directory_over_file: |f| { rich_tree(f); f.file("guest/new/rich/dir", "", 0o600); }, |_| copy("/srv/rich", "/new");
    copy_file_over_directory: |f| { rich_tree(f); f.file("guest/new/rich/tool/x", "", 0o600); }, |_| copy("/srv/rich", "/new");
    copy_through_link_in_target: |f| { rich_tree(f); f.file("guest/new/rich/x", "", 0o600); link_to("/etc", "new/rich/dir")(f); }, |_| copy("/srv/rich", "/new");
    copy_into_itself_by_link: |f| { rich_tree(f); link_to("/srv/rich/dir", "l")(f); }, |_| copy("/srv/rich", "/l");
    copy_onto_itself: |f| { fs::hard_link(f.guest.join("srv/keep"), f.guest.join("srv/same")).unwrap(); }, |_| copy("/srv/keep", "/srv/same");
    copy_missing: nothing, |_| copy("/srv/none", "/srv/new");
    copy_without_directory: nothing, |_| copy("/srv/keep", "/none/new");
    tar_in: |f| f.file("guest/srv/site/old", "", 0o600), |f| unpack(f, &[(b"./", "directory", ""), (b"site/", "directory", ""), (b"site/new/", "directory", ""), (b"site/new/file", "file", "text"), (b"site/implied/file", "file", ""), (b"site/old", "link", "../keep"), (b"site/hard", "hard", "site/new/file"), (b"site/fifo", "fifo", ""), (b"keep", "file", "new")], Attributes::default());
    tar_in_owned: nothing, |f| unpack(f, &[(b"site/new/", "directory", ""), (b"site/new/file", "file", "text"), (b"site/l", "link", "x")], attributes("web", "www-data", ""));
    tar_in_follows_links_of_the_guest: link_to("/home/web", "srv/site"), |f| unpack(f, &[(b"site/", "directory", ""), (b"site/file", "file", "text")], Attributes::default());
    tar_in_through_climbing_link: link_to("../../../../host", "srv/site"), |f| unpack(f, &[(b"site/canary", "file", "text")], Attributes::default());
    tar_in_absolute: nothing, |f| unpack(f, &[(b"/etc/passwd", "file", "text")], Attributes::default());
    tar_in_climbs: nothing, |f| unpack(f, &[(b"a/../../etc/passwd", "file", "text")], Attributes::default());
    tar_in_through_own_link: nothing, |f| unpack(f, &[(b"a", "link", "/etc"), (b"b", "hard", "a"), (b"b/passwd", "file", "text")], Attributes::default());
    tar_in_climbing_hard_link: nothing, |f| unpack(f, &[(b"a", "hard", "../etc/shadow")], Attributes::default());
    tar_in_missing_hard_link: nothing, |f| unpack(f, &[(b"a", "hard", "none")], Attributes::default());
    tar_in_file_over_directory: |f| f.file("guest/srv/site/x", "", 0o600), |f| unpack(f, &[(b"site", "file", "text")], Attributes::default());
    tar_in_through_file: nothing, |f| unpack(f, &[(b"keep/file", "file", "text")], Attributes::default());
    tar_in_unknown_type: nothing, |f| unpack(f, &[(b"odd", "Z", "")], Attributes::default());
    tar_in_without_directory: nothing, |f| { f.file("host/a.tar", archive(&[]), 0o644); StepKind::TarIn(CopyIn { source: f.snapshot("a.tar"), destination: path("/none"), attributes: Attributes::default() }) };
    truncate_recursive: |f| { f.file("guest/srv/log/a/b", "text", 0o640); f.file("guest/srv/log/c", "", 0o640); link_to("/srv/keep", "srv/log/link")(f); fifo("srv/log/fifo")(f); set_xattr(&f.guest.join("srv/log/a/b"), "user.kept", b"1"); }, |_| StepKind::TruncateRecursive(paths(&["/srv/log"]));
    truncate_recursive_missing: nothing, |_| StepKind::TruncateRecursive(paths(&["/srv/none"]));
    truncate_recursive_file: nothing, |_| StepKind::TruncateRecursive(paths(&["/srv/keep"]));
    truncate_recursive_link_out: link_to("/../../host", "srv/out"), |_| StepKind::TruncateRecursive(paths(&["/srv/out"]));
    scrub_file: |f| f.file("guest/srv/key", "secret", 0o600), |_| StepKind::ScrubFile(paths(&["/srv/key", "/srv/keep"]));
    scrub_file_link: link_to("/srv/keep", "srv/l"), |_| StepKind::ScrubFile(paths(&["/srv/keep", "/srv/l"]));
    scrub_file_directory: nothing, |_| StepKind::ScrubFile(paths(&["/srv"]));
    scrub_file_of_two_names: |f| { fs::hard_link(f.guest.join("srv/keep"), f.guest.join("srv/same")).unwrap(); }, |_| StepKind::ScrubFile(paths(&["/srv/same"]));
    firstboot_command: nothing, |_| StepKind::FirstbootCommand(RunCommand { script: "echo hello".into() });
    firstboot_command_shebang: nothing, |_| StepKind::FirstbootCommand(RunCommand { script: "#!python\n".into() });
    firstboot_install: nothing, |_| StepKind::FirstbootInstall(Packages { names: BTreeSet::from(["nginx".into()]), recommends: true });
    firstboot_install_bad_name: nothing, |_| StepKind::FirstbootInstall(Packages { names: BTreeSet::from(["nginx-".into()]), recommends: true });
    firstboot_install_without_manager: |f| fs::remove_file(f.guest.join("usr/bin/apt-get")).unwrap(), |_| StepKind::FirstbootInstall(Packages { names: BTreeSet::from(["nginx".into()]), recommends: true });
    write_new: nothing, |_| write("/etc/motd", Attributes::default());
    write_new_owned: nothing, |_| write("/etc/motd", attributes("web", "www-data", "0600"));
    write_keeps_attributes: with_attributes, |_| write("/etc/motd", Attributes::default());
    write_sets_mode_only: with_attributes, |_| write("/etc/motd", attributes("", "", "0600"));
    write_without_directory: nothing, |_| write("/none/motd", Attributes::default());
    write_on_directory: nothing, |_| write("/etc", Attributes::default());
    write_on_root: nothing, |_| write("/", Attributes::default());
    write_on_fifo: fifo("etc/motd"), |_| write("/etc/motd", Attributes::default());
    write_through_absolute_link: link_to("/srv/keep", "etc/motd"), |_| write("/etc/motd", Attributes::default());
    write_through_climbing_link: link_to("../../../../../../host/canary", "etc/motd"), |_| write("/etc/motd", Attributes::default());
    write_through_dangling_link: link_to("../srv/made", "etc/motd"), |_| write("/etc/motd", Attributes::default());
    write_through_chain_of_links: |f| { link_to("/a/x", "etc/motd")(f); link_to("../../../srv", "a")(f); }, |_| write("/etc/motd", Attributes::default());
    write_through_loop: link_to("motd", "etc/motd"), |_| write("/etc/motd", Attributes::default());
    write_through_magic_link: link_to("/proc/self/root", "out"), |_| write("/out/canary", Attributes::default());
    write_unknown_user: nothing, |_| write("/etc/motd", attributes("wbe", "", ""));
    write_unknown_group: nothing, |_| write("/etc/motd", attributes("", "nobody-knows", ""));
    append_new: nothing, |_| StepKind::AppendLine(AppendLine { path: path("/etc/new"), line: "a".into() });
    append_crlf: |f| f.file("guest/etc/dos", "a\r\nb", 0o600), |_| StepKind::AppendLine(AppendLine { path: path("/etc/dos"), line: "c".into() });
    copy_in_tree: nothing, |f| StepKind::CopyIn(CopyIn { source: f.snapshot("site"), destination: path("/srv"), attributes: Attributes::default() });
    copy_in_tree_owned: nothing, |f| StepKind::CopyIn(CopyIn { source: f.snapshot("site"), destination: path("/srv"), attributes: attributes("web", "web", "") });
    copy_in_merges: |f| { f.file("guest/srv/site/old", "", 0o600); symlink("/home", f.guest.join("srv/site/bin")).unwrap(); fs::set_permissions(f.guest.join("srv/site"), fs::Permissions::from_mode(0o711)).unwrap(); }, |f| StepKind::CopyIn(CopyIn { source: f.snapshot("site"), destination: path("/srv"), attributes: Attributes::default() });
    copy_in_file: nothing, |f| StepKind::CopyIn(CopyIn { source: f.snapshot("script.sh"), destination: path("/srv"), attributes: Attributes::default() });
    copy_in_without_directory: nothing, |f| StepKind::CopyIn(CopyIn { source: f.snapshot("site"), destination: path("/none"), attributes: Attributes::default() });
    copy_in_over_file: |f| f.file("guest/srv/site", "", 0o644), |f| StepKind::CopyIn(CopyIn { source: f.snapshot("site"), destination: path("/srv"), attributes: Attributes::default() });
    copy_in_special: |f| rustix::fs::mknodat(CWD, f.host.join("site/fifo"), FileType::Fifo, rustix::fs::Mode::from_raw_mode(0o644), 0).unwrap(), |f| StepKind::CopyIn(CopyIn { source: f.snapshot("site/fifo"), destination: path("/srv"), attributes: Attributes::default() });
    upload: nothing, |f| StepKind::Upload(CopyIn { source: f.snapshot("script.sh"), destination: path("/usr/bin/tool"), attributes: Attributes::default() });
    upload_with_mode: nothing, |f| StepKind::Upload(CopyIn { source: f.snapshot("script.sh"), destination: path("/usr/bin/tool"), attributes: attributes("", "", "4755") });
    mkdir: nothing, |_| StepKind::Mkdir(Mkdir { path: path("/srv/a/b"), attributes: attributes("web", "", "0700") });
    mkdir_there: nothing, |_| StepKind::Mkdir(Mkdir { path: path("/srv"), attributes: Attributes::default() });
    mkdir_over_file: nothing, |_| StepKind::Mkdir(Mkdir { path: path("/srv/keep/a"), attributes: Attributes::default() });
    mkdir_through_link_out: link_to("/../../host", "out"), |_| StepKind::Mkdir(Mkdir { path: path("/out/made"), attributes: Attributes::default() });
    delete_glob: |f| { f.file("guest/srv/a/b/c", "", 0o644); f.file("guest/srv/.hidden", "", 0o644); link_to("/root", "srv/link")(f); fs::write(f.guest.join("srv").join(std::ffi::OsStr::from_bytes(b"\xff")), "").unwrap(); }, |_| StepKind::Delete(Delete { patterns: vec![path("/srv/*"), path("/none/*"), path("/none")] });
    delete_root: nothing, |_| StepKind::Delete(Delete { patterns: vec![path("/")] });
    move_into: nothing, |_| StepKind::Move(Move { from: path("/srv/keep"), to: path("/home") });
    move_over: nothing, |_| StepKind::Move(Move { from: path("/srv"), to: path("/opt") });
    link: |f| f.file("guest/srv/file", "", 0o644), |_| StepKind::Link(Link { target: "../keep".into(), links: vec![path("/srv/a"), path("/srv/file")] });
    link_over_directory: nothing, |_| StepKind::Link(Link { target: "x".into(), links: vec![path("/srv")] });
    chmod_through_link: |f| { link_to("/srv/keep", "l")(f); link_to("/srv", "d")(f); fifo("p")(f); }, |_| StepKind::Chmod(Chmod { mode: "0710".parse().unwrap(), paths: vec![path("/l"), path("/d"), path("/p")] });
    chmod_missing: nothing, |_| StepKind::Chmod(Chmod { mode: "0700".parse().unwrap(), paths: vec![path("/none")] });
    chown_tree: |f| { f.file("guest/srv/a/b", "", 0o4755); link_to("/etc/passwd", "srv/l")(f); }, |_| StepKind::Chown(Chown { owner: Some("web".parse().unwrap()), group: Some("33".parse().unwrap()), paths: vec![path("/srv")], recursive: true });
    chown_link: link_to("/etc/passwd", "l"), |_| StepKind::Chown(Chown { owner: None, group: Some("www-data".parse().unwrap()), paths: vec![path("/l")], recursive: false });
    touch: nothing, |_| StepKind::Touch(Paths { paths: vec![path("/etc/new"), path("/etc/hosts"), path("/srv")] });
    truncate: with_attributes, |_| StepKind::Truncate(Paths { paths: vec![path("/etc/motd")] });
    truncate_missing: nothing, |_| StepKind::Truncate(Paths { paths: vec![path("/none")] });
    hostname: nothing, |_| StepKind::Hostname("web.example.net".into());
    hostname_wrong: nothing, |_| StepKind::Hostname("a b\u{1b}".into());
    timezone: |f| f.file("guest/etc/localtime", "old", 0o644), |_| StepKind::Timezone("Europe/Vienna".into());
    timezone_unknown: nothing, |_| StepKind::Timezone("zone.tab".into());
    timezone_climbs: nothing, |_| StepKind::Timezone("../../../etc/passwd".into());
    password_locked: nothing, |_| StepKind::Password(Password { user: "root".into(), secret: PasswordSecret::Locked, crypto: None  });
    password_disabled: nothing, |_| StepKind::Password(Password { user: "web".into(), secret: PasswordSecret::Disabled, crypto: None  });
    password_hash: nothing, |_| StepKind::Password(Password { user: "web".into(), secret: PasswordSecret::Hash("$6$s$h".into()), crypto: None  });
    password_bad_hash: nothing, |_| StepKind::Password(Password { user: "web".into(), secret: PasswordSecret::Hash("secret".into()), crypto: None  });
    password_missing_user: nothing, |_| StepKind::Password(Password { user: "rot".into(), secret: PasswordSecret::Locked, crypto: None  });
    password_without_shadow: nothing, |_| StepKind::Password(Password { user: "homeless".into(), secret: PasswordSecret::Locked, crypto: None  });
    ssh_inject: nothing, |_| StepKind::SshInject(SshInject { user: "web".into(), key: SshKey::Text(KEY.into()) });
    ssh_inject_known_key: |f| f.file("guest/home/web/.ssh/authorized_keys", KEY.replace("me@here", "other"), 0o644), |_| StepKind::SshInject(SshInject { user: "web".into(), key: SshKey::Text(KEY.into()) });
    ssh_inject_through_link: link_to("/etc", "home/web/.ssh"), |_| StepKind::SshInject(SshInject { user: "web".into(), key: SshKey::Text(KEY.into()) });
    ssh_inject_without_home: nothing, |_| StepKind::SshInject(SshInject { user: "homeless".into(), key: SshKey::Text(KEY.into()) });
    ssh_inject_no_key: nothing, |f| StepKind::SshInject(SshInject { user: "web".into(), key: SshKey::File(f.snapshot("canary")) });
    firstboot: nothing, |f| StepKind::Firstboot(Firstboot { script: f.snapshot("script.sh") });
    firstboot_without_systemd: |f| { f.file("guest/etc/inittab", "", 0o644); fs::remove_file(f.guest.join("usr/sbin/init")).unwrap(); f.file("guest/usr/sbin/init", "", 0o755); }, |f| StepKind::Firstboot(Firstboot { script: f.snapshot("script.sh") });
    relabel_is_the_seals: nothing, |_| StepKind::SelinuxRelabel;
}

#[test]
fn facts_of_a_guest() {
    let fixture = Fixture::new();
    fixture.file(
        "guest/var/lib/dpkg/status",
        "Package: dash\nStatus: install ok installed\nVersion: 0.5\nArchitecture: amd64\n",
        0o644,
    );
    let root = fixture.root();
    let guest = Guest::inspect(&root).unwrap();
    assert_eq!((guest.id.as_str(), guest.version.as_str()), ("debian", "12"));
    assert_eq!((guest.family, guest.init), (Family::Debian, Init::Systemd));
    assert_eq!((guest.package_manager, guest.systemd), (Some(PackageManager::Apt), Some(252)));
    guest.check_runs_here().unwrap();
    let Installed::List(list) = installed(&root, &guest).unwrap() else {
        panic!("dpkg's list is a file")
    };
    assert_eq!(list[0].to_string(), "dash 0.5 amd64");
    let json = serde_json::to_string(&guest).unwrap();
    assert_eq!(serde_json::from_str::<Guest>(&json).unwrap(), guest);
}

#[test]
fn guests_that_are_refused() {
    let mut text = String::new();
    let empty = tempfile::tempdir().unwrap();
    text += &rendered(&Guest::inspect(&GuestRoot::open(empty.path()).unwrap()).unwrap_err());

    let fixture = Fixture::new();
    fixture.file("guest/etc/os-release", vec![b'#'; 10 << 20], 0o644);
    text += &rendered(&Guest::inspect(&fixture.root()).unwrap_err());

    let fixture = Fixture::new();
    let mut header = fs::read(fixture.guest.join("usr/bin/dash")).unwrap();
    header[18..20].copy_from_slice(&[243, 0]);
    fs::write(fixture.guest.join("usr/bin/dash"), header).unwrap();
    fs::remove_file(fixture.guest.join("usr/bin/apt-get")).unwrap();
    fixture.file("guest/etc/os-release", "PRETTY_NAME='\x1b[31mred'\n", 0o644);
    let root = fixture.root();
    let guest = Guest::inspect(&root).unwrap();
    let run = |script: &str| StepKind::RunCommand(RunCommand { script: script.into() });
    text += &rendered(&program_for(&root, &guest, &run("true"), false, &[]).unwrap_err());
    text += &rendered(&program_for(&root, &guest, &StepKind::Update, true, &[]).unwrap_err());
    insta::assert_snapshot!(text);
}

#[test]
fn programs_of_steps() {
    let fixture = Fixture::new();
    fixture.file("host/password.txt", "secret\r\nrest\n", 0o600);
    let root = fixture.root();
    let guest = Guest::inspect(&root).unwrap();
    let run = |script: &str| StepKind::RunCommand(RunCommand { script: script.into() });
    let hashed = |user: &str, secret, crypto| {
        StepKind::Password(Password { user: user.into(), secret, crypto })
    };
    let password = |user: &str, secret| hashed(user, secret, None);
    let secrets = [("web".parse().unwrap(), SecretValue(b"of the vault".to_vec()))];
    let steps = [
        run("echo hello"),
        run("#!/usr/bin/python3 -I\nprint()"),
        run("#!/bin/sh\r\ntrue\r\n"),
        StepKind::Run(Run { script: fixture.snapshot("script.sh"), arguments: vec!["a b".into()] }),
        StepKind::Install(Packages { names: BTreeSet::from(["nginx".into()]), recommends: true }),
        StepKind::Install(Packages { names: BTreeSet::from(["-o=x".into()]), recommends: true }),
        password("root", PasswordSecret::Plain("pass:word".into())),
        password("web", PasswordSecret::File(fixture.snapshot("password.txt"))),
        password("nobody", PasswordSecret::Plain("x".into())),
        password("web", PasswordSecret::Plain("a\nroot:b".into())),
        password("web", PasswordSecret::Locked),
        password("web", PasswordSecret::Secret),
        hashed("web", PasswordSecret::Plain("x".into()), Some(Crypto::Yescrypt)),
        hashed("web", PasswordSecret::Plain("x".into()), Some(Crypto::Md5)),
        StepKind::InjectQemuGa,
    ];
    let mut text = String::new();
    for step in &steps {
        match program_for(&root, &guest, step, true, &secrets) {
            Ok(program) => {
                writeln!(text, "{program:#?}").unwrap();
                if let Some(stdin) = program.and_then(|program| program.stdin) {
                    writeln!(text, "{:?}", String::from_utf8(stdin).unwrap()).unwrap();
                }
            }
            Err(error) => text += &rendered(&error),
        }
    }
    insta::assert_snapshot!(text);
}

#[test]
fn a_random_password_is_told_and_not_shown() {
    let fixture = Fixture::new();
    let root = fixture.root();
    let guest = Guest::inspect(&root).unwrap();
    let random = |crypto| {
        let secret = PasswordSecret::Random;
        let step = StepKind::Password(Password { user: "web".into(), secret, crypto });
        program_for(&root, &guest, &step, false, &[]).unwrap().unwrap()
    };
    let program = random(None);
    let stdin = String::from_utf8(program.stdin.clone().unwrap()).unwrap();
    let text = stdin.strip_prefix("web:").and_then(|text| text.strip_suffix('\n')).unwrap();
    assert_eq!(text.len(), 16);
    assert!(text.bytes().all(|byte| byte.is_ascii_alphanumeric()));
    assert_eq!(program.announce.clone().unwrap(), format!("the password of `web` is {text}"));
    assert!(!format!("{program:?}").contains(text));
    assert_ne!(random(None).stdin, program.stdin);
    // As Alpine has it.
    fs::remove_file(fixture.guest.join("usr/sbin/chpasswd")).unwrap();
    fixture.file("guest/usr/bin/busybox", "", 0o755);
    symlink("/bin/busybox", fixture.guest.join("usr/sbin/chpasswd")).unwrap();
    let argv = random(Some(Crypto::Sha512)).argv;
    assert_eq!(argv, ["/usr/sbin/chpasswd", "-c", "sha512"]);
}

#[test]
fn a_secret_that_is_not_there_or_no_password() {
    let fixture = Fixture::new();
    let root = fixture.root();
    let guest = Guest::inspect(&root).unwrap();
    let secret = PasswordSecret::Secret;
    let step = StepKind::Password(Password { user: "web".into(), secret, crypto: None });
    let named = |text: &str| ("web".parse().unwrap(), SecretValue(text.as_bytes().to_vec()));
    let mut text = String::new();
    for secrets in [vec![], vec![named("a"), named("b")], vec![named("")], vec![named("a\nroot:b")]]
    {
        text += &rendered(&program_for(&root, &guest, &step, false, &secrets).unwrap_err());
    }
    insta::assert_snapshot!(text);
}

/// A time long ago, so that what keeps it is told from what does not.
const LONG_AGO: i64 = 1_000_000_000;

fn age(at: &Path) {
    let time = rustix::fs::Timespec { tv_sec: LONG_AGO, tv_nsec: 5 };
    let times = rustix::fs::Timestamps { last_access: time, last_modification: time };
    let nofollow = rustix::fs::AtFlags::SYMLINK_NOFOLLOW;
    rustix::fs::utimensat(CWD, at, &times, nofollow).unwrap();
}

#[test]
fn a_copy_keeps_times_and_holes() {
    let fixture = Fixture::new();
    rich_tree(&fixture);
    let rich = fixture.guest.join("srv/rich");
    let sparse = fs::File::create(rich.join("sparse")).unwrap();
    sparse.set_len(64 << 20).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&sparse, b"end", 32 << 20).unwrap();
    for entry in walkdir::WalkDir::new(&rich).contents_first(true) {
        age(entry.unwrap().path());
    }
    let step = Move { from: path("/srv/rich"), to: path("/copy") };
    fixture.apply(&StepKind::Copy(step)).unwrap();
    for entry in walkdir::WalkDir::new(&rich) {
        let entry = entry.unwrap();
        let copy = fixture.guest.join("copy").join(entry.path().strip_prefix(&rich).unwrap());
        let meta = copy.symlink_metadata().unwrap();
        assert_eq!((meta.mtime(), meta.mtime_nsec()), (LONG_AGO, 5), "{}", copy.display());
    }
    let (one, other) = (rich.join("sparse"), fixture.guest.join("copy/sparse"));
    assert!(fs::read(&one).unwrap() == fs::read(&other).unwrap());
    assert!(other.metadata().unwrap().blocks() * 512 < 1 << 20);
}

#[test]
fn a_scrubbed_file_is_zeros_before_it_goes() {
    let fixture = Fixture::new();
    let secret = fixture.guest.join("root/key");
    fixture.file("guest/root/key", vec![b's'; 100_000], 0o600);
    let mut held = fs::File::open(&secret).unwrap();
    fixture.apply(&StepKind::ScrubFile(Paths { paths: vec![path("/root/key")] })).unwrap();
    assert!(!secret.exists());
    let mut left = Vec::new();
    std::io::Read::read_to_end(&mut held, &mut left).unwrap();
    assert!(left == vec![0; 100_000]);
}

#[test]
fn an_archive_is_unpacked_as_it_was_packed() {
    let fixture = Fixture::new();
    rich_tree(&fixture);
    let rich = fixture.guest.join("srv/rich");
    for entry in walkdir::WalkDir::new(&rich).contents_first(true) {
        age(entry.unwrap().path());
    }
    // What is unpacked into a directory must not inherit its default ACL: a user more.
    let entries = [(1_u16, 7_u16, u32::MAX), (2, 7, 5), (4, 5, u32::MAX), (16, 7, u32::MAX)];
    let acl = entries.iter().chain(&[(32, 5, u32::MAX)]).flat_map(|(tag, rights, id)| {
        [&tag.to_le_bytes()[..], &rights.to_le_bytes(), &id.to_le_bytes()].concat()
    });
    let acl: Vec<u8> = 2_u32.to_le_bytes().into_iter().chain(acl).collect();
    set_xattr(&rich.join("dir"), "system.posix_acl_default", &acl);
    fs::create_dir(fixture.guest.join("opt")).unwrap();
    for (format, packer) in [("gnu", ""), ("ustar", "-z"), ("posix", "-J"), ("v7", "-j")] {
        let archive = fixture.host.join("rich.tar");
        let mut command = std::process::Command::new("tar");
        command.args(["-C", fixture.guest.join("srv").to_str().unwrap()]);
        command
            .args(["--format", format, "--numeric-owner"])
            .args(Some(packer).filter(|it| !it.is_empty()));
        if format == "posix" {
            command.args(["--xattrs", "--xattrs-include=*"]);
        }
        if format == "v7" {
            // It knows no devices.
            command.args(["--exclude=null", "--exclude=fifo"]);
        }
        let done = command.arg("-cf").arg(&archive).arg("rich").status().unwrap();
        assert!(done.success(), "{format}");
        let source = fixture.snapshot("rich.tar");
        let step = CopyIn { source, destination: path("/opt"), attributes: Attributes::default() };
        fixture.apply(&StepKind::TarIn(step)).unwrap();
        let unpacked = fixture.guest.join("opt/rich");
        let (packed, found) = (state(&rich), state(&unpacked));
        for (name, wanted) in &packed {
            if format == "v7" && ["null", "fifo"].contains(&name.as_str()) {
                continue;
            }
            // Only a pax header has xattrs.
            let wanted = if format == "posix" {
                wanted.as_str()
            } else {
                wanted.split(" [").next().unwrap()
            };
            assert_eq!(found.get(name).map(String::as_str), Some(wanted), "{format} {name}");
            let meta = unpacked.join(name).symlink_metadata().unwrap();
            assert_eq!(meta.mtime(), LONG_AGO, "{format} {name}");
        }
        fs::remove_dir_all(unpacked).unwrap();
    }
}

#[test]
fn an_archive_that_is_cut_off_or_none() {
    let fixture = Fixture::new();
    let mut bytes = archive(&[(b"a/b", "file", "content"), (b"c", "file", "more")]);
    bytes.truncate(3 * 512 + 3);
    fixture.file("host/cut.tar", &bytes, 0o644);
    bytes.truncate(512 + 3);
    fixture.file("host/short.tar", &bytes, 0o644);
    fixture.file("host/zip.tar", vec![b'P'; 1024], 0o644);
    fixture.file("host/broken.tar.gz", b"\x1f\x8b\x08\0broken", 0o644);
    fixture.file("host/empty.tar", b"", 0o644);
    let mut text = String::new();
    for name in ["cut.tar", "short.tar", "zip.tar", "broken.tar.gz", "empty.tar"] {
        let source = fixture.snapshot(name);
        let step = CopyIn { source, destination: path("/srv"), attributes: Attributes::default() };
        text += &rendered(&fixture.apply(&StepKind::TarIn(step)).unwrap_err());
    }
    insta::assert_snapshot!(text.replace(&format!("{}", fixture.host.display()), "HOST"));
}

#[test]
fn first_boots_run_in_the_order_of_their_steps() {
    let fixture = Fixture::new();
    let packages = Packages { names: BTreeSet::from(["nginx".into()]), recommends: false };
    for step in [
        StepKind::FirstbootCommand(RunCommand { script: "one".into() }),
        StepKind::FirstbootInstall(packages),
        StepKind::Firstboot(Firstboot { script: fixture.snapshot("script.sh") }),
        StepKind::FirstbootCommand(RunCommand { script: "two".into() }),
    ] {
        fixture.apply(&step).unwrap();
    }
    let waiting = fs::read_dir(fixture.guest.join("usr/lib/kiln/firstboot.d")).unwrap();
    let names: BTreeSet<_> =
        waiting.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    let names: Vec<_> = names.iter().map(String::as_str).collect();
    assert_eq!(names, ["0001-command", "0002-install", "0003-script.sh", "0004-command"]);
}

#[test]
fn a_swapped_component_never_leads_out() {
    let fixture = Fixture::new();
    fs::create_dir_all(fixture.guest.join("srv/dir/sub")).unwrap();
    symlink(&fixture.host, fixture.guest.join("srv/evil")).unwrap();
    symlink("../../../host", fixture.guest.join("srv/evil2")).unwrap();
    let host = state(&fixture.host);
    let root = fixture.root();
    let done = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        let srv = fs::File::open(fixture.guest.join("srv")).unwrap();
        let done = &done;
        scope.spawn(move || {
            for swap in 0..20_000 {
                let evil = if swap % 2 == 0 { "evil" } else { "evil2" };
                rustix::fs::renameat_with(&srv, "dir", &srv, evil, RenameFlags::EXCHANGE).unwrap();
                rustix::fs::renameat_with(&srv, "dir", &srv, evil, RenameFlags::EXCHANGE).unwrap();
            }
            done.store(true, std::sync::atomic::Ordering::Relaxed);
        });
        while !done.load(std::sync::atomic::Ordering::Relaxed) {
            // Each may fail, as the tree changes under it; none may touch the host.
            let _ = root.write_atomic("/srv/dir/canary", b"guest", FileAttributes::root(0o666));
            let _ = root.make_directories("/srv/dir/sub/a", FileAttributes::root(0o777));
            let _ = root.read("/srv/dir/canary", 100).map(|bytes| assert_ne!(bytes, b"host"));
            let _ = root.place("t", "/srv/dir").and_then(|place| {
                place.walk("t", &mut |place, _| place.chown("t", Some(7), Some(7)))
            });
            let _ = root.place("t", "/srv/dir/sub").and_then(|place| place.remove("t"));
        }
    });
    assert_eq!(difference(&host, &state(&fixture.host)), "");
}

/// A file system mounted in a fixture; gone when this is dropped, also by a failed test.
struct Mounted(PathBuf);

impl Drop for Mounted {
    fn drop(&mut self) {
        rustix::mount::unmount(&self.0, rustix::mount::UnmountFlags::DETACH).unwrap();
    }
}

#[test]
fn a_mount_in_a_tree_is_not_crossed() {
    let fixture = Fixture::new();
    let inside = fixture.guest.join("srv/a/mounted");
    fs::create_dir_all(&inside).unwrap();
    rustix::mount::mount("none", &inside, "tmpfs", rustix::mount::MountFlags::empty(), None)
        .unwrap();
    let _mounted = Mounted(inside.clone());
    fixture.file("guest/srv/a/mounted/b/c", "", 0o644);
    let delete = |at: &str| fixture.apply(&StepKind::Delete(Delete { patterns: vec![path(at)] }));
    let chown = |at: &str| {
        let owner = Some("web".parse().unwrap());
        fixture.apply(&StepKind::Chown(Chown {
            owner,
            group: None,
            paths: vec![path(at)],
            recursive: true,
        }))
    };
    let mut text = String::new();
    text += &rendered(&delete("/srv/a").unwrap_err());
    text += &rendered(&delete("/srv/a/mounted").unwrap_err());
    text += &rendered(&chown("/srv").unwrap_err());
    let step = Move { from: path("/srv/keep"), to: path("/srv/a/mounted") };
    let moved = fixture.apply(&StepKind::Move(step));
    assert!(inside.join("b/c").exists());
    // Named itself, it is worked in.
    chown("/srv/a/mounted").unwrap();
    assert_eq!(fs::metadata(inside.join("b/c")).unwrap().uid(), 1000);
    text += &match moved {
        Err(error) => rendered(&error),
        Ok(()) => "moved\n".to_owned(),
    };
    delete("/srv/a/mounted/*").unwrap();
    assert!(!inside.join("b").exists());
    insta::assert_snapshot!(text);
}

#[test]
fn a_snapshot_that_is_gone() {
    let fixture = Fixture::new();
    let source = Snapshot { path: "/nonexistent/file".into() };
    let step = CopyIn { source, destination: path("/srv"), attributes: Attributes::default() };
    let error = fixture.apply(&StepKind::Upload(step)).unwrap_err();
    insta::assert_snapshot!(rendered(&error));
}

#[test]
fn a_name_that_is_not_utf8_is_handled() {
    let fixture = Fixture::new();
    let odd = fixture.guest.join("srv").join(std::ffi::OsStr::from_bytes(b"\xff\n"));
    fs::write(&odd, "").unwrap();
    lchown(&odd, Some(5), Some(5)).unwrap();
    let chown = Chown {
        owner: Some("web".parse().unwrap()),
        group: None,
        paths: vec![path("/srv")],
        recursive: true,
    };
    fixture.apply(&StepKind::Chown(chown)).unwrap();
    assert_eq!(fs::metadata(odd).unwrap().uid(), 1000);
}

#[test]
fn firstboot_runs_each_once_and_keeps_what_failed() {
    let fixture = Fixture::new();
    fs::create_dir_all(fixture.guest.join("var/log")).unwrap();
    for (name, script) in [
        ("ok.sh", "#!/bin/sh\necho one; sleep 100 &\n"),
        ("bad.sh", "echo two\nfalse\necho never\n"),
        ("last.sh", "echo three\n"),
    ] {
        fixture.file(&format!("host/{name}"), script, 0o644);
        fixture.apply(&StepKind::Firstboot(Firstboot { script: fixture.snapshot(name) })).unwrap();
    }
    let run = || {
        let runner = fixture.guest.join("usr/lib/kiln/firstboot.sh");
        let output =
            std::process::Command::new("/bin/sh").arg(runner).arg(&fixture.guest).output().unwrap();
        assert_eq!(String::from_utf8_lossy(&output.stderr), "");
        (output.status.code(), String::from_utf8(output.stdout).unwrap())
    };
    let (code, said) = run();
    assert_eq!(code, Some(1));
    let said = said.replace(fixture.guest.to_str().unwrap(), "");
    insta::assert_snapshot!(said);
    let left = |directory: &str| {
        let entries = fs::read_dir(fixture.guest.join(directory)).unwrap();
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect::<Vec<_>>()
    };
    assert_eq!(left("usr/lib/kiln/firstboot.d"), Vec::<String>::new());
    assert_eq!(left("usr/lib/kiln/firstboot-failed.d"), ["0002-bad.sh"]);
    assert_eq!(run(), (Some(0), String::new()));
}
