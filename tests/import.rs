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
        "steps.txt" => Some(
            "install vim\nrun-command id\npassword-crypto sha512\npassword ada:random\n\
             frobnicate hunter2\nupload motd:/etc/motd\ncommands-from-file more.txt\n"
                .to_owned(),
        ),
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
        "commands-from-file more.txt",
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

fn imported(text: &str) -> Imported {
    let (_, imported) = run("x.sh", Some(Kind::Virt), text);
    let imported = imported.unwrap_or_else(|mistakes| panic!("{text}: {mistakes:?}"));
    check(&imported);
    imported
}

fn has(imported: &Imported, code: &str) -> bool {
    imported.report.iter().any(|found| found.code == code)
}

#[test]
fn named_accounts_alone_are_removed() {
    let sysprep = "virt-sysprep -a d.qcow2 --operations defaults,user-account";
    let named = imported(&format!("{sysprep} --remove-user-accounts bob,eve --touch /a"));
    let steps = "    run-command \"userdel --remove bob\"\n    \
                 run-command \"userdel --remove eve\"\n    touch \"/a\"\n";
    assert!(named.recipe.contains(steps), "{}", named.recipe);
    assert!(!named.recipe.contains("user-account"), "{}", named.recipe);
    assert!(has(&named, "kiln::import::named_accounts") && !named.is_partial());
    // Those that stay win, as there.
    let both = "--remove-user-accounts bob --remove-user-accounts eve --keep-user-accounts eve";
    let both = imported(&format!("{sysprep} {both}"));
    assert!(both.recipe.contains("userdel --remove bob"), "{}", both.recipe);
    assert!(!both.recipe.contains("eve\""), "{}", both.recipe);
    // A name is never a piece of a script.
    for odd in ["'a;b'", "\"$X\"", "-r", "'a b'"] {
        let odd = imported(&format!("{sysprep} --remove-user-accounts={odd}"));
        assert!(!odd.recipe.contains("run-command \"userdel --"), "{}", odd.recipe);
        assert!(odd.is_partial() && !odd.recipe.contains("user-account\""), "{}", odd.recipe);
    }
    let off = imported("virt-sysprep -a d.qcow2 --remove-user-accounts bob");
    assert!(!off.recipe.contains("userdel") && off.is_partial(), "{}", off.recipe);
}

/// `--password-crypto` is one option of the whole command.
#[test]
fn every_password_has_the_method_of_the_command() {
    let customize = "virt-customize -a d.qcow2";
    let (option, passwords) =
        ("--password-crypto sha512", "--root-password random --password ada:locked:file:pw");
    let before = imported(&format!("{customize} {option} {passwords}"));
    let behind = imported(&format!("{customize} {passwords} {option}"));
    assert_eq!(before.recipe.matches("crypto=\"sha512\"").count(), 2, "{}", before.recipe);
    assert_eq!(before.recipe, behind.recipe);
    let other = imported(&format!("{customize} {option}\n{customize} {passwords}"));
    assert!(!other.recipe.contains("crypto"), "{}", other.recipe);
}

#[test]
fn every_conversion_is_an_output() {
    let script = "virt-customize -a a.img --format raw --touch /a\n\
                  qemu-img convert -c -O qcow2 a.img b.qcow2\nqemu-img convert -O raw a.img c.raw\n";
    let both = imported(script);
    let outputs = "    output \"qcow2\" compress=#true\n    output \"raw\"\n";
    assert!(both.recipe.contains(outputs) && !both.is_partial(), "{}", both.recipe);
    let twice = imported(&format!("{script}qemu-img convert -O qcow2 a.img d.qcow2\n"));
    assert!(twice.recipe.contains(outputs) && twice.is_partial(), "{}", twice.recipe);
}

#[test]
fn a_disk_has_one_name() {
    let script = "virt-builder debian-12 --format qcow2 -o ./out//img.qcow2 --root-password locked\n\
                  virt-customize -a out/./img.qcow2 --touch /a\n\
                  virt-customize -a out/img.qcow2 --touch /b\n\
                  qemu-img resize .//out/img.qcow2 20G\ncp ./out/img.qcow2 two.qcow2\n\
                  virt-customize -a ./two.qcow2 --touch /c\n";
    let images = imported(script).recipe;
    assert_eq!(images.matches("\nimage \"").count(), 2, "{images}");
    assert!(images.contains("touch \"/b\"") && images.contains("size=\"20G\""), "{images}");
    let file = imported("virt-customize -a .//d.qcow2 --upload .//a:/b");
    assert!(file.recipe.contains("base file \"d.qcow2\""), "{}", file.recipe);
    assert!(file.recipe.contains("upload \"a\" \"/b\""), "{}", file.recipe);
}

/// The lines of a file of commands have what its command line has.
#[test]
fn a_named_commands_file_is_read_where_it_stands() {
    let line = "virt-sysprep -a d.qcow2 --touch /a --commands-from-file steps.txt --touch /b";
    let read = imported(&format!("{line} --password-crypto sha256"));
    let steps: Vec<_> = read.recipe.lines().map(str::trim).collect();
    let place = |text: &str| {
        let found = steps.iter().position(|line| *line == text);
        found.unwrap_or_else(|| panic!("{text}: {}", read.recipe))
    };
    assert!(place("touch \"/a\"") < place("install \"vim\" network=#false"));
    assert!(place("run-command \"id\"") < place("touch \"/b\""));
    assert!(place("touch \"/b\"") < place("password \"ada\" random=#true crypto=\"sha256\""));
    place("upload \"motd\" \"/etc/motd\"");
    place("// not imported: frobnicate …");
    place("// not imported: commands-from-file more.txt");
    assert!(!read.recipe.contains("hunter2"), "{}", read.recipe);
    // One that is not there stays a step, and the report says what does not reach it.
    let missing = imported("virt-customize -a d.qcow2 --no-network --commands-from-file no.txt");
    assert!(missing.recipe.contains("commands-from-file \"no.txt\""), "{}", missing.recipe);
    assert!(has(&missing, "kiln::import::commands_file"), "{:?}", missing.report);
}

/// A program that is run on a script with passwords in every place, and what it must not say.
#[test]
fn no_password_reaches_the_recipe_or_the_report() {
    const SCRIPT: &str = "PASS=hunter2a\n\
        virt-builder --root-passwd password:hunter2b debian-12 --bogus=other3c -Zother3d\n\
        virt-customize -a d --root-passwd=password:hunter2e --root-password password:hunter2f \\\n  \
        --password 'ada:password:x hunter2g' --sm-credentials me:password:hunter2h \\\n  \
        --key /dev/sda2:key:hunter2i --root-password hunter2j --hostname not_right\n\
        curl --password hunter2k -a https://images.example\nif\n";
    for (broken, script) in [(true, SCRIPT), (false, SCRIPT.trim_end_matches("if\n"))] {
        let directory = tempfile::tempdir().unwrap();
        std::fs::write(directory.path().join("a.sh"), script).unwrap();
        std::fs::write(
            directory.path().join("b.txt"),
            "install vim\ntouch /a\ntouch /b\nroot-passwd=hunter2l m\nbogus password:hunter2m\n",
        )
        .unwrap();
        let kiln = |arguments: &[&str]| {
            let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_kiln"));
            let done = command.current_dir(directory.path()).args(arguments).output().unwrap();
            let said = [done.stdout, done.stderr].concat();
            (done.status.success(), String::from_utf8(said).unwrap())
        };
        let (rendered, shown) = kiln(&["import", "a.sh", "b.txt"]);
        let (written, json) = kiln(&["import", "--json", "-o", "out.kdl", "a.sh", "b.txt"]);
        assert_eq!([rendered, written], [!broken; 2], "{shown}{json}");
        assert!(!shown.contains("hunter2"), "{shown}");
        assert!(!json.contains("hunter2"), "{json}");
        if broken {
            assert!(shown.contains("kiln::import::syntax"), "{shown}");
        } else {
            // The name says nothing, so only what is written down is without the value.
            let recipe = std::fs::read_to_string(directory.path().join("out.kdl")).unwrap();
            assert!(!recipe.contains("hunter2") && !recipe.contains("other3"), "{recipe}");
            assert!(shown.contains("--password 'ada:password:****"), "{shown}");
            assert!(json.contains("kiln::import::password_in_arguments"), "{json}");
        }
    }
}

#[test]
fn what_changes_its_meaning_is_said() {
    let codes = |text: &str| {
        let imported = imported(text);
        imported.report.iter().map(|found| found.code).collect::<Vec<_>>()
    };
    let count = |codes: &[&str], code: &str| codes.iter().filter(|one| **one == code).count();
    let root = "kiln::import::root_password";
    assert_eq!(count(&codes("virt-builder debian-12 --update"), root), 1);
    for option in ["--root-password locked", "--password root:random"] {
        assert_eq!(count(&codes(&format!("virt-builder debian-12 {option}")), root), 0);
    }
    assert_eq!(count(&codes("virt-customize -a d --update"), root), 0);
    let relabel = "virt-customize -a d --no-selinux-relabel\n".repeat(2);
    assert_eq!(count(&codes(&relabel), "kiln::import::relabelled"), 1);
    let locked =
        "virt-customize -a d --root-password locked --password a:lock --password b:locked:random";
    assert_eq!(count(&codes(locked), "kiln::import::locked"), 2);
    let moved = "kiln::import::changed_directory";
    assert_eq!(count(&codes("cd build\nvirt-customize -a d --touch /a"), moved), 1);
    let here = "cd \"$(dirname \"$0\")\"\nvirt-customize -a d --touch /a";
    assert_eq!(count(&codes(here), moved), 0);
    // A file that a script writes may be one that a step copies.
    let writes = imported("echo hello > motd\nvirt-customize -a d --upload motd:/etc/motd");
    assert!(writes.is_partial(), "{}", writes.recipe);
    let talks = imported("echo hello >&2 2>/dev/null\nvirt-customize -a d --touch /a");
    assert!(!talks.is_partial(), "{}", talks.recipe);
}

#[test]
fn a_provisioner_is_left_out_where_it_says_so() {
    let text = "source \"qemu\" \"a\" {}\nsource \"qemu\" \"b\" {}\nbuild {\n \
                provisioner \"shell\" {\n  except = [\"qemu.a\"]\n  inline = [\"id\"]\n }\n}\n";
    let (_, imported) = run("x.pkr.hcl", None, text);
    let imported = imported.unwrap();
    assert_eq!(imported.recipe.matches("run-command").count(), 1, "{}", imported.recipe);
    let second = imported.recipe.split("image \"b\"").nth(1).unwrap();
    assert!(second.contains("run-command \"id\""), "{}", imported.recipe);
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
        let kiln::workspace::Compiled { graph, .. } = compile_with(&mut sources, files, &reader)
            .unwrap_or_else(|mistakes| {
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
        (Kind::Virt, "A=x\n".to_owned() + &"A=\"$A$A\"\n".repeat(60) + "virt-customize -a \"$A\""),
        (Kind::Virt, "A=(x y)\n".to_owned() + &"A+=(\"${A[@]}\")\n".repeat(60)),
        (
            Kind::Virt,
            format!(
                "A={}\nvirt-customize -a b{}",
                "x".repeat(500_000),
                " --touch $A".repeat(40_000)
            ),
        ),
        (Kind::Virt, format!("A={}\n{}", "x".repeat(400_000), "(B=$A)\n".repeat(60_000))),
        (
            Kind::Virt,
            format!("DIB_A={}\n{}", "x".repeat(400_000), "disk-image-create vm\n".repeat(20_000)),
        ),
        (Kind::Virt, "A+=(x)\n".repeat(140_000)),
        (Kind::Virt, "virt-customize -a b --commands-from-file steps.txt\n".repeat(20_000)),
        (Kind::Virt, "virt-customize -a b --install v\n".repeat(4_000)),
        (Kind::Virt, format!("virt-customize -a b {}", "--touch /a ".repeat(40_000))),
        (Kind::Packer, format!("a = {}", "[".repeat(100_000))),
        (Kind::Packer, format!("a = {}", "-".repeat(100_000))),
        (Kind::Packer, format!("a = {}", "1+".repeat(100_000))),
        (Kind::Packer, format!("{{\"builders\":{}", "[".repeat(100_000))),
        (Kind::Packer, doubling_json()),
        (Kind::Packer, nested_for()),
        (Kind::Packer, large_fields()),
        (Kind::Dockerfile, "FROM a\nENV a=$a$a$a$ax\n".to_owned() + &"ENV a=$a$a$a$a\n".repeat(60)),
        (Kind::Dockerfile, "FROM a\nRUN <<A <<A <<A\n".repeat(3_000)),
        (
            Kind::Dockerfile,
            format!("FROM a\nENV a={}\n{}", "x".repeat(400_000), "RUN id\n".repeat(50_000)),
        ),
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

/// A value that each variable of a template makes twice as long.
fn doubling_json() -> String {
    let variables: Vec<_> = (10..99)
        .map(|n| format!("\"v{n}\": \"{{{{user `v{0}`}}}}{{{{user `v{0}`}}}}\"", n + 1))
        .collect();
    let source = "{\"type\": \"qemu\", \"vm_name\": \"{{user `v10`}}\"}";
    format!("{{\"variables\": {{{}}}, \"builders\": [{source}]}}", variables.join(","))
}

/// `for` in `for`, over a list of sixteen: 16¹² texts.
fn nested_for() -> String {
    let list = "[0,1,2,3,4,5,6,7,8,9,0,1,2,3,4,5]";
    let open = format!("[for a in {list} : ").repeat(12);
    let inside = format!("${{{open}0{}}}", "]".repeat(12));
    let text = format!("%{{ for a in {list} }}{inside}%{{ endfor }}");
    format!(
        "locals {{\n a = {open}0{}\n b = \"{text}\"\n c = [\"{inside}\"]\n}}\n\
         source \"qemu\" \"a\" {{\n vm_name = \"{text}\"\n format = {{ a = \"{inside}\" }}\n}}\n",
        "]".repeat(12)
    )
}

/// One long value in very many places.
fn large_fields() -> String {
    let value = "x".repeat(200_000);
    let places = "${var.a}".repeat(80_000);
    format!(
        "variable \"a\" {{\n default = \"{value}\"\n}}\n\
         source \"qemu\" \"a\" {{\n vm_name = \"{places}\"\n}}\n"
    )
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
