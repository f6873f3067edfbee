//! What a step is given beside the guest, and that nothing of it stays: secrets, by twelve ways on
//! which they could get out, attachments, and a registration with a stand-in for
//! `subscription-manager`.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::SystemTime;

use kiln::secret::{Scanner, SecretValue};
use rustix::process::Signal;

use crate::guest_space::{Done, Mounted, Space, processes, run, signal};

/// Holds what encodings and shells change.
const TOKEN: &str = "t0ken/'with \"all\" of+it=";
const SETTINGS: &str = r#"
secret "token" file="token"
secret "key" { command "cat" "key"; }
"#;

fn scanner() -> Scanner {
    Scanner::new(&[("token".parse().unwrap(), SecretValue(TOKEN.as_bytes().to_vec()))])
}

/// Fails if a text holds the value in any form.
#[track_caller]
fn assert_clean(what: &str, bytes: &[u8]) {
    assert_eq!(scanner().find(bytes), None, "the secret is in {what}");
    // By an eye of its own, too.
    let text = String::from_utf8_lossy(bytes);
    for form in [TOKEN, "dDBrZW4vJ3dpdGgg", "74306b656e2f27", "t0ken%2F%27with"] {
        assert!(!text.contains(form), "the secret is in {what} as {form}");
    }
}

/// The files below a directory that were written since.
fn written(directory: &Path, since: SystemTime) -> Vec<PathBuf> {
    let entries = walkdir::WalkDir::new(directory).into_iter().map(Result::unwrap);
    let new = entries.filter(|entry| {
        let meta = entry.metadata().unwrap();
        meta.is_file() && meta.modified().unwrap() >= since
    });
    new.map(walkdir::DirEntry::into_path).collect()
}

/// Looks for the value in every file that was written since, other than the one that holds it
/// rightly.
fn assert_no_file_has_it(space: &Space, since: SystemTime) {
    let files = written(&space.root, since);
    assert!(files.len() > 10, "only {} files", files.len());
    for path in files.iter().filter(|path| !path.ends_with("token")) {
        assert_clean(&path.display().to_string(), &fs::read(path).unwrap());
    }
}

/// Looks for the value in the command lines and environments of all processes.
fn assert_no_process_shows_it() {
    for pid in processes() {
        for name in ["cmdline", "environ", "comm"] {
            let bytes = fs::read(format!("/proc/{pid}/{name}")).unwrap_or_default();
            assert_clean(&format!("{name} of process {pid}"), &bytes);
        }
    }
}

fn space(recipe: &str) -> Space {
    let space = Space::new(recipe);
    space.file("kiln.kdl", SETTINGS);
    space.file("token", format!("{TOKEN}\n"));
    space.file("key", "activation-key-1");
    space
}

const USES: &str = r##"image "uses" {
    base image "golden"
    run-command #"""
        #!/bin/bash
        set -eu
        file=/run/kiln/secrets/token
        stat -c '%n %a %u' /run/kiln/secrets "$file"
        findmnt -n -o FSTYPE,OPTIONS /run/kiln/secrets
        ls /run/kiln/secrets
        value=$(cat "$file")
        echo "$(wc -c <"$file") token's bytes"
        echo "$value"
        base64 -w0 "$file"; echo
        printf 'user:%s' "$value" | base64 -w0; echo
        od -An -v -tx1 "$file" | tr -d ' \n'; echo
        python3 -c 'import json, sys, urllib.parse as u; v = open(sys.argv[1]).read(); print(json.dumps(v), u.quote(v), repr(v))' "$file"
        for part in 1 2 3; do printf '%s' "$value" | head -c $((part * 7)) | tail -c 7; sleep 0.1; done; printf '%s' "$value" | tail -c +22; echo
        set -x
        : "$value"
        set +x
        export HISTFILE=/root/.bash_history
        printf 'x=$(cat %s)\necho "${#x}"\n' "$file" | bash -i 2>/dev/null
        bash -c 'x=$(cat "$0"); kill -SEGV $$' "$file" || echo "crashed $?"
        touch "$file" 2>/dev/null || echo "cannot be written"
        echo ready
        sleep 3
        """# name="use" { secret "token"; }
    run-command "ls -A /run/kiln; ls /core* /root/core* 2>/dev/null || echo no cores" name="behind"
    output "qcow2"
}
"##;

#[test]
fn a_secret_is_given_and_gets_nowhere() {
    let since = SystemTime::now();
    let space = space(USES);
    let plan = run(&mut space.command(&["plan", "uses"]));
    assert_clean("the plan", &plan.stdout);
    assert!(String::from_utf8_lossy(&plan.stdout).contains("use"));

    let mut build = space.start(&["uses"]);
    build.wait_for_line("ready");
    assert_no_process_shows_it();
    for role in ["launcher", "keeper"] {
        let pids = space.role(role);
        assert_eq!(pids.len(), 1);
        for pid in pids.into_iter().chain([build.pid]) {
            let limits = fs::read_to_string(format!("/proc/{pid}/limits")).unwrap();
            let core = limits.lines().find(|line| line.starts_with("Max core file size")).unwrap();
            assert_eq!(core.split_whitespace().nth(4), Some("0"), "{core}");
        }
    }
    let done = build.finish();
    assert_eq!(done.code, Some(0), "{done}");
    let lines = done.lines("use");
    println!("{}", lines.join("\n"));
    assert_eq!(lines[0], "/run/kiln/secrets 700 0");
    assert_eq!(lines[1], "/run/kiln/secrets/token 400 0");
    assert!(lines[2].starts_with("tmpfs") && lines[2].contains("ro,"), "{}", lines[2]);
    assert_eq!(lines[3], "token");
    assert_eq!(lines[4], format!("{} token's bytes", TOKEN.len()));
    assert_eq!(lines[5], "[secret token]");
    assert_eq!(lines[6], "[secret token]");
    assert!(lines[7].starts_with("dXNlcj") && lines[7].contains("[secret token]"), "{}", lines[7]);
    assert_eq!(lines[8], "[secret token]");
    assert_eq!(lines[9], "\"[secret token]\" [secret token] '[secret token]'");
    assert_eq!(lines[10], "[secret token]", "it was printed in four parts");
    assert!(lines.iter().any(|line| line.starts_with("+ :") && line.contains("[secret token]")));
    assert!(lines.contains(&"24"), "the length that the shell with a history found");
    assert!(lines.contains(&"crashed 139") && lines.contains(&"cannot be written"));
    assert_eq!(done.lines("behind"), ["go", "script", "status", "no cores"]);
    assert_clean("the events and errors", done.to_string().as_bytes());

    let log = run(&mut space.command(&["log", "uses"]));
    assert!(String::from_utf8_lossy(&log.stdout).contains("[secret token]"));
    assert_clean("the log", &log.stdout);
    assert!(space.path("out/uses.qcow2.json").exists());
    // Layers, logs, manifests, results, the output and its description.
    assert_no_file_has_it(&space, since);

    fs::remove_file(space.path("token")).unwrap();
    assert_eq!(space.build_ok(&["uses"]).ran(), [""; 0], "a cached step needs no value");
    space.recipe(&USES.replace("sleep 3", "sleep 2"));
    space.build(&["uses"]).assert_fails(3, &["the secret `token`", "kiln.kdl", "uses/use"]);
    space.assert_clean("after secrets");
}

#[test]
fn a_secret_on_the_disk_fails_the_step() {
    let leak = |command: &str| {
        format!(
            "image \"leak\" {{\n    base image \"golden\"\n    run-command #\"\"\"\n        {command}\n        \
             \"\"\"# name=\"copy\" {{ secret \"token\"; }}\n    output \"qcow2\"\n}}\n"
        )
    };
    let since = SystemTime::now();
    let space = space("");
    let cases = [
        "cp /run/kiln/secrets/token /root/t; sync; rm /root/t; sync",
        "mkdir /root/d; ln -s \"$(tr / _ </run/kiln/secrets/token | base64 -w0)\" /root/d/l; base64 -w0 /run/kiln/secrets/token >/root/d/b",
        "python3 -c 'open(\"/root/u\", \"wb\").write(open(\"/run/kiln/secrets/token\").read().encode(\"utf-16\"))'",
    ];
    for command in cases {
        space.recipe(&leak(command));
        for _ in 0..2 {
            let done = space.build(&["leak"]);
            done.assert_fails(1, &["the secret `token` is on the image's disk", "leak/copy"]);
            assert_eq!(done.ran(), ["leak/copy"], "nothing was recorded");
        }
    }
    space.recipe(&leak("cat /run/kiln/secrets/token >&2; exit 7"));
    let failed = space.build(&["leak"]);
    failed.assert_fails(1, &["status 7", "[secret token]"]);
    assert_clean("the error", failed.to_string().as_bytes());
    assert_no_file_has_it(&space, since);
    space.assert_clean("after leaks");
}

#[test]
fn attachments_are_read_and_leave_nothing() {
    let recipe = r#"image "attached" {
    base image "golden"
    mkdir "/opt/tools"
    write "/opt/note" "the guest's own"
    run-command """
        cat /opt/tools/inside/a /opt/note /run/kiln/attached/b.txt /run/kiln/attached/disk.qcow2/c
        /run/kiln/attached/disk.qcow2/program
        for path in /opt/tools/x /opt/note /run/kiln/attached/disk.qcow2/x; do
            sh -c "echo >$path" 2>/dev/null || echo "read-only $path"
        done
        """ name="use" {
        attach "tools" at="/opt/tools"
        attach "b.txt" at="/opt/note"
        attach "b.txt"
        attach "disk.qcow2" disk=#true
    }
    run-command "ls /opt/tools; cat /opt/note; ls -A /run/kiln" name="behind"
    output "raw"
}
"#;
    let space = Space::new(recipe);
    space.file("recipes/tools/inside/a", "a\n");
    space.file("recipes/b.txt", "b\n");
    let tree = space.path("tree");
    space.file("tree/c", "c\n");
    space.file("tree/program", "#!/bin/sh\necho it runs\n");
    run(Command::new("chmod").args(["755"]).arg(tree.join("program")));
    let raw = space.path("disk.raw");
    fs::File::create(&raw).unwrap().set_len(32 << 20).unwrap();
    run(Command::new("mkfs.ext4").args(["-q", "-F", "-d"]).arg(&tree).arg(&raw));
    run(Command::new("qemu-img")
        .args(["convert", "-f", "raw", "-O", "qcow2"])
        .arg(&raw)
        .arg(space.path("recipes/disk.qcow2")));

    let done = space.build_ok(&["attached"]);
    assert_eq!(
        done.lines("use"),
        [
            "a",
            "b",
            "b",
            "c",
            "it runs",
            "read-only /opt/tools/x",
            "read-only /opt/note",
            "read-only /run/kiln/attached/disk.qcow2/x",
        ]
    );
    assert_eq!(done.lines("behind"), ["the guest's own", "go", "script", "status"]);
    space.assert_clean("after attachments");

    space.recipe(&recipe.replace("at=\"/opt/tools\"", "at=\"/opt/other\""));
    space.build(&["attached"]).assert_fails(1, &["`/opt/other` is no directory of the guest"]);
    space.recipe(recipe);
    // Two partitions, of which none holds a file system.
    let empty = space.path("recipes/disk.qcow2");
    run(Command::new("qemu-img").args(["create", "-q", "-f", "qcow2"]).arg(&empty).arg("8M"));
    space.build(&["attached"]).assert_fails(1, &["`disk.qcow2` has none", "one file system"]);
    space.assert_clean("after attachments that failed");
}

const REGISTERED: &str = r#"image "registered" {
    base image "golden"
    subscription organization="acme" activation-key="key" {
        pool "auto"
    }
    mkdir "/etc/pki/consumer" name="consumer"
    mkdir "/etc/pki/entitlement"
    mkdir "/etc/yum.repos.d"
    mkdir "/var/lib/rhsm"
    mkdir "/var/log/rhsm"
    mkdir "/etc/rhsm"
    write "/etc/rhsm/rhsm.conf" "hostname = own"
    upload "subscription-manager" "/usr/sbin/subscription-manager" mode="0755"
    run-command "cat /etc/pki/consumer/cert.pem; cat /etc/yum.repos.d/redhat.repo /etc/rhsm/rhsm.conf; ls -A /run/kiln" name="one" network=#true subscription=#true
    run-command "cat /etc/yum.repos.d/redhat.repo" name="two" network=#true subscription=#true
    run-command "ls -A /etc/pki/consumer /etc/pki/entitlement /etc/yum.repos.d /etc/pki" name="without"
    run-command "echo last" name="last" network=#true subscription=#true
    output "raw"
}
"#;

fn registered() -> Space {
    let space = space(REGISTERED);
    space.file("recipes/subscription-manager", include_str!("files/subscription-manager"));
    space
}

/// The calls of the stand-in in a step's output.
fn calls<'a>(done: &'a Done, step: &str) -> Vec<&'a str> {
    let lines = done.lines(step).into_iter();
    lines.filter_map(|line| line.strip_prefix("called ")?.split(' ').next()).collect()
}

#[test]
fn a_registration_lasts_as_long_as_it_is_asked_for() {
    let since = SystemTime::now();
    let space = registered();
    let done = space.build_ok(&["registered"]);
    let one = done.lines("one");
    println!("{}", one.join("\n"));
    assert_eq!(calls(&done, "one"), ["register", "--help", "attach"]);
    assert!(one.contains(&"options ['--org=acme', '--activationkey=[secret key]']"));
    assert!(one.contains(&"attached ['--auto']"));
    for line in ["the consumer's certificate[rhel]", "hostname = changed"] {
        assert!(one.contains(&line), "{line}");
    }
    for line in one.iter().filter(|line| line.starts_with("called") || line.starts_with("env")) {
        assert!(!line.contains("activation-key-1") && !line.contains("[secret"), "{line}");
    }
    assert_eq!(calls(&done, "two"), [""; 0]);
    assert_eq!(done.lines("two"), ["[rhel]"]);
    assert_eq!(calls(&done, "without"), ["unregister", "clean"]);
    assert!(!done.lines("without").iter().any(|line| line.contains("pem") || line.contains("old")));
    assert_eq!(calls(&done, "last"), ["register", "--help", "attach"]);
    assert_eq!(calls(&done, "seal"), ["unregister", "clean"]);

    let mounted = Mounted::root_of(&space.path("out/registered.raw"));
    assert_eq!(mounted.read("/etc/rhsm/rhsm.conf"), "hostname = own\n");
    for path in ["/etc/pki/consumer", "/etc/pki/entitlement", "/etc/yum.repos.d", "/var/lib/rhsm"] {
        let left: Vec<_> = fs::read_dir(mounted.join(path)).unwrap().collect();
        assert!(left.is_empty(), "{path}: {left:?}");
    }
    assert!(!mounted.join("/etc/pki/consumer.old").exists());
    drop(mounted);
    for text in ["the consumer's certificate", "an entitlement of it", "activation-key-1"] {
        let name = "text".parse().unwrap();
        let scanner = Scanner::new(&[(name, SecretValue(text.as_bytes().to_vec()))]);
        for path in written(&space.store.join("objects"), since) {
            assert_eq!(scanner.find(&fs::read(&path).unwrap()), None, "{}", path.display());
        }
    }
    space.assert_clean("after a registration");
}

#[test]
fn a_registration_ends_with_a_step_that_fails_and_is_told_after_a_kill() {
    let space = registered();
    let fails = "cat /etc/yum.repos.d/redhat.repo\" name=\"two\"";
    space.recipe(&REGISTERED.replace(fails, "echo failing; exit 5\" name=\"two\""));
    let failed = space.build(&["registered"]);
    failed.assert_fails(1, &["status 5", "registered/two"]);
    assert_eq!(calls(&failed, "two"), ["unregister", "clean"]);
    let log = run(&mut space.command(&["log", "registered/two"]));
    assert!(String::from_utf8_lossy(&log.stdout).starts_with("failing\ncalled unregister"));
    space.assert_clean("after a step that failed");

    // Called off in the middle of a step: kiln's processes unregister before they go.
    space.recipe(&REGISTERED.replace(fails, "echo ready; sleep 60\" name=\"two\""));
    let mut build = space.start(&["registered"]);
    build.wait_for_line("ready");
    build.signal(Signal::KILL);
    assert_eq!(build.finish().code, None);
    let mut build = space.start(&["registered"]);
    build.wait_for_line("ready");
    let before: Vec<_> =
        build.events().iter().filter(|event| event["event"] == "warning").collect();
    assert!(before.is_empty(), "the keeper unregistered by itself: {before:?}");
    for pid in space.role("keeper") {
        signal(pid, Signal::KILL);
    }
    build.signal(Signal::KILL);
    build.finish();
    space.recipe(REGISTERED);
    let said = |done: &Done| {
        let warnings = done.events.iter().filter(|event| event["event"] == "warning");
        let texts: Vec<String> = warnings.map(ToString::to_string).collect();
        texts.join("\n")
    };
    let told = space.build_ok(&["registered"]);
    for part in ["registered", "6d7eb9a2-94d1-4bd3-a1b2-0b3d1f7a9c55", "`acme`"] {
        assert!(said(&told).contains(part), "{part}: {told}");
    }
    space.recipe(&REGISTERED.replace("echo last", "echo very last"));
    assert_eq!(said(&space.build_ok(&["registered"])), "");
    space.assert_clean("after a kill");
}
