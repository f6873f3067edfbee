//! `kiln import` from text to text: recipes and reports of every kind of input, that every recipe
//! compiles, and that no input makes it stumble.
//!
//! Knows nothing of how inputs are read. The snapshots show what users get.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use kiln::import::{Imported, Kind, detect, import};
use kiln::mistake::Mistake;
use kiln::source::Sources;
use kiln::workspace::{compile, compile_with};
use proptest::prelude::*;

fn run(name: &str, kind: Option<Kind>, text: &str) -> (Sources, Result<Imported, Vec<Mistake>>) {
    let mut sources = Sources::default();
    let kind = kind.or_else(|| detect(Path::new(name), text)).expect("a known kind");
    let file = sources.add(PathBuf::from(name), text);
    let files = |path: &str| match path {
        "setup.py" => Some("#!/usr/bin/python3\nimport os\n".to_owned()),
        "setup.sh" => Some("apt-get -y install nginx\nsystemctl enable nginx\n".to_owned()),
        _ => None,
    };
    let imported = import(&sources, &[(file, kind)], None, &files);
    (sources, imported)
}

/// Compiles what was imported with kiln's own front-end.
fn check(imported: &Imported) {
    let mut sources = Sources::default();
    let settings = (PathBuf::from("kiln.kdl"), imported.settings.clone().into_bytes());
    let recipe = (PathBuf::from("recipes/a.kdl"), imported.recipe.clone().into_bytes());
    let commands = |_: &Path| Ok(b"install vim\n".to_vec());
    if let Err(mistakes) = compile_with(&mut sources, [settings, recipe], &commands) {
        let said: Vec<_> = mistakes.iter().map(|mistake| &mistake.message).collect();
        panic!("{}\n{said:#?}", imported.recipe);
    }
}

fn shown(name: &str, kind: Option<Kind>, text: &str) -> String {
    let (sources, imported) = run(name, kind, text);
    let mut out = format!("{text}\n──── recipe\n");
    match imported {
        Ok(imported) => {
            check(&imported);
            out.push_str(&imported.recipe);
            if !imported.settings.is_empty() {
                let _ = write!(out, "──── kiln.kdl\n{}", imported.settings);
            }
            out.push_str("──── report\n");
            for found in &imported.report {
                let label = &found.labels[0];
                let place = sources.place(label.span);
                let at = sources.text(label.span).lines().next().unwrap_or_default();
                let _ = writeln!(out, "{} {place} `{at}`", found.code);
                let _ = writeln!(out, "  {}; {}", found.message, label.text);
                let _ = writeln!(out, "  → {}", found.help.as_deref().unwrap_or("?"));
            }
        }
        Err(mistakes) => {
            for found in mistakes {
                let place = sources.place(found.labels[0].span);
                let _ = writeln!(out, "{} {place} {}", found.code, found.message);
            }
        }
    }
    out
}

macro_rules! snapshots {
    ($($test:ident: $file:literal),* $(,)?) => {
        $(#[test]
        fn $test() {
            let text = include_str!(concat!("import/", $file));
            insta::assert_snapshot!(stringify!($test), shown($file, None, text));
        })*
    };
}

snapshots! {
    the_blog: "blog.sh",
    a_script: "build.sh",
    a_sysprep: "sysprep.sh",
    every_option: "options.sh",
    secrets_stay_outside: "secrets.sh",
    a_file_of_commands: "steps.txt",
    elements: "elements.list",
    disk_image_create: "dib.sh",
    packer_hcl: "web.pkr.hcl",
    packer_json: "old.pkr.json",
    a_dockerfile: "Dockerfile",
}

/// Section 1.1 of the manual: the options of virt-customize that change a guest, in 1.48 to 1.56.
#[test]
fn every_option_is_known() {
    let with_value = [
        "append-line /f:l",
        "chmod 0644:/f",
        "chown 1:1:/f",
        "copy /a:/b",
        "copy-in a:/b",
        "delete /f",
        "edit /f:s/a/b/",
        "firstboot a.sh",
        "firstboot-command 'id'",
        "firstboot-install vim",
        "hostname web",
        "inject-blnsvr m",
        "inject-qemu-ga m",
        "inject-virtio-win m",
        "install vim",
        "link /a:/b",
        "mkdir /d",
        "move /a:/b",
        "password u:locked",
        "password-crypto sha512",
        "root-password locked",
        "run a.sh",
        "run-command id",
        "scrub /f",
        "sm-attach auto",
        "sm-credentials u:password:p",
        "ssh-inject root:file:k.pub",
        "tar-in a.tar:/d",
        "timezone UTC",
        "touch /f",
        "truncate /f",
        "truncate-recursive /d",
        "uninstall vim",
        "upload a:/b",
        "write /f:t",
        "commands-from-file steps.txt",
        "attach a.iso",
        "attach-format raw",
        "format qcow2",
        "connect qemu:///system",
        "memsize 2048",
        "smp 2",
        "key k",
    ];
    let flags = [
        "no-logfile",
        "no-selinux-relabel",
        "selinux-relabel",
        "sm-register",
        "sm-remove",
        "sm-unregister",
        "update",
        "network",
        "no-network",
        "quiet",
        "verbose",
        "echo-keys",
        "keys-from-stdin",
        "wrap",
        "colors",
        "colours",
        "dry-run",
        "dryrun",
        "machine-readable",
    ];
    for option in with_value.iter().chain(&flags) {
        let text = format!("virt-customize -a disk.qcow2 --{option}");
        let (_, imported) = run("x.sh", Some(Kind::Virt), &text);
        let imported = imported.unwrap_or_else(|_| panic!("{option}"));
        let unknown = imported.report.iter().any(|one| one.code == "kiln::import::bad_option");
        assert!(!unknown, "{option}: {:?}", imported.report);
        check(&imported);
    }
    let unknown = "virt-customize -a d --no-such --in vim --s x";
    let (_, imported) = run("x.sh", Some(Kind::Virt), unknown);
    let codes: Vec<_> = imported.unwrap().report.iter().map(|one| one.message.clone()).collect();
    assert!(codes.iter().any(|text| text.contains("`--no-such`")), "{codes:?}");
    assert!(codes.iter().any(|text| text.contains("may be")), "{codes:?}");
}

/// Section 1.6: the operations of virt-sysprep.
#[test]
fn every_operation_is_known() {
    let operations = "abrt-data,backup-files,bash-history,blkid-tab,ca-certificates,crash-data,\
        cron-spool,customize,dhcp-client-state,dhcp-server-state,dovecot-data,firewall-rules,\
        flag-reconfiguration,fs-uuids,ipa-client,kerberos-data,kerberos-hostkeytab,logfiles,\
        lvm-system-devices,lvm-uuids,machine-id,mail-spool,net-hostname,net-hwaddr,net-nmconn,\
        package-manager-cache,pacct-log,pam-data,passwd-backups,puppet-data-log,\
        rh-subscription-manager,rhn-systemid,rpm-db,samba-db-log,script,smolt-uuid,ssh-hostkeys,\
        ssh-userdir,sssd-db-log,tmp-files,udev-persistent-net,user-account,utmp,yum-uuid,\
        zsh-history";
    let text = format!("virt-sysprep -a disk.qcow2 --enable {operations}");
    let (_, imported) = run("x.sh", Some(Kind::Virt), &text);
    let imported = imported.unwrap();
    assert!(!imported.is_partial(), "{:?}", imported.report);
    check(&imported);
    for item in ["ca-certificates", "user-account", "fs-uuids"] {
        assert!(imported.recipe.contains(&format!("\"{item}\"")), "{}", imported.recipe);
    }
}

#[test]
fn abbreviations_and_both_forms_of_values_are_taken() {
    let long = "virt-customize --add=disk.qcow2 --install=vim --selinux-relabel --hostname web";
    let short = "virt-customize -adisk.qcow2 --inst vim --selinux --host=web";
    let steps = |text: &str| {
        let (_, imported) = run("x.sh", Some(Kind::Virt), text);
        imported.unwrap().recipe
    };
    assert_eq!(steps(long), steps(short));
}

/// A file of commands in a recipe is the same as its steps written by hand.
#[test]
fn a_commands_file_stands_for_its_steps() {
    let build = |recipe: &str, commands: &'static str| {
        let mut sources = Sources::default();
        let files = [(PathBuf::from("recipes/a.kdl"), recipe.as_bytes().to_vec())];
        let reader = |path: &Path| {
            assert_eq!(path, Path::new("recipes/files/steps.txt"));
            Ok(commands.as_bytes().to_vec())
        };
        let (_, graph) = compile_with(&mut sources, files, &reader).unwrap_or_else(|mistakes| {
            panic!("{:?}", mistakes.iter().map(|one| &one.message).collect::<Vec<_>>())
        });
        let image = &graph.images[0].image;
        let what = |step: &kiln::recipe::Step| {
            format!("{:?} {} {:?}", step.kind, step.network, step.aids.subscription)
        };
        let steps: Vec<_> = image.steps.iter().map(what).collect();
        let names: Vec<_> = image
            .steps
            .iter()
            .map(|step| step.name.as_ref().map(|name| name.value.as_str().to_owned()))
            .collect();
        (steps, names)
    };
    let (imported, names) = build(
        "image \"a\" { base scratch; commands-from-file \"files/steps.txt\" name=\"old\"; }",
        "# what the image has\n\ninstall wget,\\\n ntp\nrun-command id\nwrite /etc/motd:hello\nlink /a:/b:/c\n",
    );
    let (written, _) = build(
        "image \"a\" { base scratch; install \"wget\" \"ntp\"; run-command \"id\" network=#true; \
         write \"/etc/motd\" \"hello\" newline=#false; link \"/a\" \"/b\" \"/c\"; }",
        "",
    );
    assert_eq!(imported, written);
    let names: Vec<_> = names.into_iter().map(Option::unwrap_or_default).collect();
    assert_eq!(names, ["old-1", "old-2", "old-3", "old"]);
}

#[test]
fn mistakes_point_into_the_commands_file_and_at_its_use() {
    let recipe = "image \"a\" {\n base scratch\n commands-from-file \"steps.txt\"\n}";
    let commands = "instal vim\nhostname not_right\nsm-register\n";
    let mut sources = Sources::default();
    let files = [(PathBuf::from("recipes/a.kdl"), recipe.as_bytes().to_vec())];
    let reader = |_: &Path| Ok(commands.as_bytes().to_vec());
    let mistakes = compile_with(&mut sources, files, &reader).unwrap_err();
    assert_eq!(mistakes.len(), 3, "{mistakes:#?}");
    for mistake in &mistakes {
        let places: Vec<_> = mistake.labels.iter().map(|one| sources.place(one.span)).collect();
        assert!(places[0].starts_with("recipes/steps.txt:"), "{places:?}");
        assert_eq!(places[1], "recipes/a.kdl:3");
    }
    let mut sources = Sources::default();
    let files = [(PathBuf::from("recipes/a.kdl"), recipe.as_bytes().to_vec())];
    let missing = compile(&mut sources, files).unwrap_err();
    assert_eq!(missing[0].code, "kiln::workspace::commands_file");
    assert_eq!(sources.text(missing[0].labels[0].span), "\"steps.txt\"");
}

#[test]
fn kinds_are_found() {
    for (name, text, kind) in [
        ("a.pkr.hcl", "", Kind::Packer),
        ("x.json", "{\"builders\": []}", Kind::Packer),
        ("Dockerfile", "", Kind::Dockerfile),
        ("web.dockerfile", "", Kind::Dockerfile),
        ("x", "# syntax\nFROM debian:12\n", Kind::Dockerfile),
        ("x", "# c\ninstall vim\nwrite /a:b\n", Kind::Commands),
        ("build.sh", "make\n", Kind::Virt),
        ("x", "virt-customize -a b\n", Kind::Virt),
        ("x", "ubuntu vm cloud-init\n", Kind::Dib),
    ] {
        assert_eq!(detect(Path::new(name), text), Some(kind), "{name} {text}");
    }
    assert_eq!(detect(Path::new("x"), "Dear reader,\n"), None);
}

#[test]
fn a_broken_script_is_an_error_with_its_place() {
    for (name, text, line) in [
        ("a.sh", "echo a\nif true; then\n  virt-customize -a b\n", 3),
        ("a.sh", "echo 'open\n", 2),
        ("a.pkr.hcl", "source \"qemu\" \"a\" {\n  x = = 1\n}\n", 2),
        ("a.pkr.json", "{\n \"builders\": [,]\n}", 2),
    ] {
        let (sources, imported) = run(name, None, text);
        let mistakes = imported.unwrap_err();
        assert_eq!(mistakes[0].code, "kiln::import::syntax", "{text}");
        let place = sources.place(mistakes[0].labels[0].span);
        assert_eq!(place, format!("{name}:{line}"), "{text}");
    }
}

#[test]
fn hostile_inputs_end_soon() {
    let deep = |open: &str, count: usize| format!("virt-customize -a b {}", open.repeat(count));
    let inputs = [
        (Kind::Virt, deep("$(", 100_000)),
        (Kind::Virt, deep("((", 12)),
        (Kind::Virt, deep("${a:-", 12)),
        (Kind::Virt, deep("\"$(\"", 11)),
        (Kind::Virt, deep("if ", 100_000)),
        (Kind::Virt, format!("{}virt-customize -a b\n", "if true; then\n".repeat(90))),
        (Kind::Virt, "a=x; a=$a$a$a$a$a$a$a$a\n".repeat(40) + "virt-customize -a \"$a\""),
        (Kind::Virt, "virt-customize -a b --install v\n".repeat(4_000)),
        (Kind::Virt, format!("virt-customize -a b {}", "--touch /a ".repeat(40_000))),
        (Kind::Packer, format!("a = {}", "[".repeat(100_000))),
        (Kind::Packer, format!("a = {}", "-".repeat(100_000))),
        (Kind::Packer, format!("a = {}", "1+".repeat(100_000))),
        (Kind::Packer, format!("{{\"builders\":{}", "[".repeat(100_000))),
        (Kind::Dockerfile, "FROM a\nENV a=$a$a$a$ax\n".to_owned() + &"ENV a=$a$a$a$a\n".repeat(60)),
        (Kind::Dockerfile, "FROM a\nRUN <<A <<A <<A\n".repeat(3_000)),
        (Kind::Dib, "ubuntu ".repeat(100_000)),
        (Kind::Commands, "install a\n".repeat(100_000)),
        (Kind::Commands, "\\\n".repeat(400_000)),
    ];
    for (kind, text) in inputs {
        let start = Instant::now();
        let (_, imported) = run("x", Some(kind), &text);
        if let Ok(imported) = imported {
            check(&imported);
        }
        let took = start.elapsed();
        assert!(took < Duration::from_secs(20), "{kind:?} {took:?} {text:.60}");
    }
}

const KINDS: [Kind; 5] = [Kind::Virt, Kind::Commands, Kind::Dib, Kind::Packer, Kind::Dockerfile];

/// Words that make inputs in which much may go wrong.
fn pieces() -> impl Strategy<Value = String> {
    let piece = prop::sample::select(vec![
        "virt-customize",
        "virt-builder",
        "virt-sysprep",
        "disk-image-create",
        " -a ",
        " disk.img ",
        " centos-7 ",
        " --install ",
        " vim,",
        "--write ",
        "/etc/a:b\\\"c",
        " --chmod ",
        "700:/f",
        " --password ",
        "root:password:x",
        "u:random",
        "locked:file:x",
        " --edit ",
        "/f:s/a/b/",
        " --run-command ",
        "'a\nb'",
        "\"$X\"",
        "$(id)",
        "X=y",
        "\n",
        "\n",
        ";",
        " && ",
        "{",
        "}",
        "(",
        ")",
        "if",
        "then",
        "fi",
        "\\",
        "\\\n",
        "'",
        "\"",
        "#",
        "FROM ",
        "debian:12",
        "\nRUN ",
        "\nCOPY ",
        "a b",
        "--chown=a:b ",
        "<<E\n",
        "E\n",
        "source \"qemu\" \"x\" {",
        "= ",
        "[",
        "]",
        "build",
        "provisioner \"shell\"",
        "inline",
        ":",
        ",",
        "ubuntu",
        " vm",
        "-p ",
        "ä",
        "\u{2028}",
        "\u{1b}",
        "\t",
        " --operations ",
        "defaults,-x",
        "write ",
        "install ",
        " --ssh-inject ",
        "root",
        ":string:",
        "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJ",
        "\u{feff}",
        " --sm-credentials ",
        " --sm-register",
        " --upload ",
        "/abs/x:/etc/",
        "../x:/a",
        "\r\n",
    ]);
    prop::collection::vec(piece, 0..24).prop_map(|pieces| pieces.concat())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1_500))]

    #[test]
    fn what_is_imported_compiles(text in pieces(), kind in prop::sample::select(&KINDS[..])) {
        let (_, imported) = run("x", Some(kind), &text);
        if let Ok(imported) = imported {
            check(&imported);
        }
    }

    #[test]
    fn any_text_is_an_answer(text in "(\\PC|[\u{0}-\u{20}]|[ \n$(){}\"'`\\\\:;&|<>-]){0,80}",
                             kind in prop::sample::select(&KINDS[..])) {
        let (_, imported) = run("x", Some(kind), &text);
        if let Ok(imported) = imported {
            check(&imported);
        }
        let _ = detect(Path::new("x"), &text);
    }
}

/// The report never names a code twice for one place, and every finding says what to do.
#[test]
fn findings_are_whole() {
    let (_, imported) = run("options.sh", None, include_str!("import/options.sh"));
    let imported = imported.unwrap();
    let mut seen = BTreeSet::new();
    for found in &imported.report {
        assert!(found.help.is_some() && !found.labels[0].text.is_empty(), "{found:?}");
        let span = found.labels[0].span;
        assert!(
            seen.insert((found.code, span.offset, span.len, found.message.clone())),
            "{found:?}"
        );
    }
}

/// The page that walks a script to a recipe shows what kiln really writes.
#[test]
fn the_book_shows_what_is_written() {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("book/src/from-a-shell-script");
    let script = std::fs::read_to_string(directory.join("images.sh")).unwrap();
    let (_, imported) = run("images.sh", None, &script);
    let imported = imported.unwrap();
    check(&imported);
    let shown = std::fs::read_to_string(directory.join("images.kdl")).unwrap();
    assert_eq!(imported.recipe, shown);
    let page = std::fs::read_to_string(directory.with_extension("md")).unwrap();
    assert!(!imported.recipe.contains("secret:"), "{}", imported.recipe);
    for found in &imported.report {
        assert!(page.contains(&format!("`{}`", found.code)), "{}", found.code);
    }
}
