//! The seal by the judgement of others: the distribution's own `setfiles`, the raw bytes of what
//! was written, and the disk as it was when it was frozen.

use std::fs::{self, File};
use std::io::{Read, Seek, SeekFrom};
use std::path::Path;
use std::process::Command;

use serde_json::Value;

use crate::guest_space::{Mounted, Space, need, partition, run};

const POLICY: &str = "/etc/selinux/default/contexts/files/file_contexts";

/// What `setfiles` finds wrong with a mounted guest, line by line. Its exit code says nothing.
fn wrong_labels(mounted: &Mounted) -> String {
    let output = Command::new("setfiles")
        .args(["-n", "-v", "-F", "-r"])
        .arg(&mounted.path)
        .arg(mounted.join(POLICY))
        .arg(&mounted.path)
        .output()
        .unwrap();
    String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned()
}

/// The guest's paths whose inode has no label.
fn unlabelled(mounted: &Mounted) -> Vec<String> {
    let mut found = Vec::new();
    for entry in walkdir::WalkDir::new(&mounted.path) {
        let entry = entry.unwrap();
        let mut label = [0; 256];
        match rustix::fs::lgetxattr(entry.path(), "security.selinux", &mut label) {
            Ok(len) => assert!(len > 0, "{}", entry.path().display()),
            Err(rustix::io::Errno::NODATA) => {
                let path = entry.path().strip_prefix(&mounted.path).unwrap();
                found.push(format!("/{}", path.display()));
            }
            Err(error) => panic!("{}: {error}", entry.path().display()),
        }
    }
    found
}

fn description(output: &Path) -> Value {
    let name = format!("{}.json", output.display());
    serde_json::from_slice(&fs::read(name).unwrap()).unwrap()
}

#[test]
fn every_label_is_that_of_the_policy() {
    need(&[
        ("setfiles", "policycoreutils"),
        ("matchpathcon", "selinux-utils"),
        ("losetup", "mount"),
    ]);
    let space = Space::new(
        r#"image "selinux" {
    base image "golden"
    run-command """
        export DEBIAN_FRONTEND=noninteractive
        apt-get -q update
        apt-get -q -y --no-install-recommends install selinux-policy-default policycoreutils
        apt-get clean
        """ network=#true
    write "/etc/selinux/config" """
        SELINUX=permissive
        SELINUXTYPE=default
        """
    // Names, kinds and links that a relabelling may miss.
    run-command """
        mkdir -p /srv/odd/.hidden '/srv/odd/two words'
        printf 'x' >"/srv/odd/$(printf 'line\\nbreak')"
        printf 'x' >"/srv/odd/$(printf '\\303\\274\\377')"
        mkfifo /srv/odd/pipe
        ln -s /nowhere /srv/odd/dangling
        printf x >/srv/odd/one; ln /srv/odd/one /srv/odd/two
        mknod /srv/odd/null c 1 3
        """
    touch "/.autorelabel"
    output "raw"
}
"#,
    );
    let done = space.build_ok(&["selinux"]);
    let note = done.done("seal")["note"].as_str().unwrap();
    assert!(note.contains(" 0 mismatches, policy default"), "{note}");
    println!("seal: {note}, {} ms, layer {} B", done.done("seal")["ms"], done.layer("seal"));

    let output = space.path("out/selinux.raw");
    let labels = &description(&output)["report"]["labels"]["relabelled"];
    assert_eq!(labels["verified"]["mismatches"], 0, "{labels}");
    assert_eq!(labels["verified"]["files"], labels["files"], "{labels}");
    assert!(labels["files"].as_u64().unwrap() > 15_000, "{labels}");

    {
        let mounted = Mounted::root_of(&output);
        assert!(!mounted.join("/.autorelabel").exists());
        assert_eq!(wrong_labels(&mounted), "");
        let bare = unlabelled(&mounted);
        println!("without a label, as the policy wants: {bare:?}");
        let mut asked = Command::new("matchpathcon");
        asked.args(["-N", "-f"]).arg(mounted.join(POLICY)).args(&bare);
        if !bare.is_empty() {
            let answers = String::from_utf8(run(&mut asked).stdout).unwrap();
            let wrong: Vec<_> =
                answers.lines().filter(|line| !line.ends_with("<<none>>")).collect();
            assert!(wrong.is_empty(), "no label: {wrong:?}");
        }
        assert!(bare.len() as u64 <= labels["none"].as_u64().unwrap(), "{labels} {bare:?}");
    }

    // The judge is awake: one wrong label, and one that is gone, are found by it.
    let (start, size) = partition(&output, 2);
    let mounted = Mounted::at(&output, start, size, false);
    let wrong = b"system_u:object_r:shadow_t:s0\0";
    let flags = rustix::fs::XattrFlags::empty();
    rustix::fs::lsetxattr(mounted.join("/etc/passwd"), "security.selinux", wrong, flags).unwrap();
    rustix::fs::lremovexattr(mounted.join("/etc/group"), "security.selinux").unwrap();
    let said = wrong_labels(&mounted);
    assert!(said.contains("/etc/passwd") && said.contains("/etc/group"), "{said}");
    assert_eq!(said.lines().count(), 2, "{said}");
    assert!(unlabelled(&mounted).contains(&"/etc/group".to_owned()));
}

/// Where a file holds some bytes.
fn positions(path: &Path, wanted: &str) -> Vec<u64> {
    const CHUNK: usize = 32 << 20;
    let pattern = pcre2::bytes::RegexBuilder::new()
        .jit_if_available(true)
        .build(&format!("\\Q{wanted}\\E"))
        .unwrap();
    let mut file = File::open(path).unwrap();
    let size = file.seek(SeekFrom::End(0)).unwrap();
    let mut buffer = vec![0; CHUNK + wanted.len()];
    let mut found = Vec::new();
    for at in (0..size).step_by(CHUNK) {
        file.seek(SeekFrom::Start(at)).unwrap();
        let len = usize::try_from((size - at).min(buffer.len() as u64)).unwrap();
        file.read_exact(&mut buffer[..len]).unwrap();
        for hit in pattern.find_iter(&buffer[..len]) {
            found.push(at + hit.unwrap().start() as u64);
        }
    }
    found.dedup();
    found
}

#[test]
fn what_was_scrubbed_is_not_in_the_bytes() {
    let space = Space::new("");
    let random = fs::read_to_string("/proc/sys/kernel/random/uuid").unwrap();
    // 32 hexadecimal digits, as a machine-id has them.
    let secret = random.trim().replace('-', "");
    let kept: String = secret.chars().rev().collect();
    // More than once for each file, and over many blocks, so that no chance hides it.
    space.recipe(&format!(
        r#"image "scrubbed" {{
    base image "golden"
    run-command """
        s={secret}
        many() {{ i=0; while [ $i -lt 3000 ]; do echo "$i $s"; i=$((i+1)); done; }}
        echo $s >/etc/machine-id
        many >/var/log/x.log
        mkdir -p /var/log/deep/er
        many >/var/log/deep/er/y.log
        echo $s >/var/log/small.log
        many >/var/tmp/z
        echo $s >/root/.bash_history
        echo "lease {{ $s }}" >/var/lib/dhcp/dhclient.eth0.leases
        echo "$s$s$s$s$s$s$s$s" >/var/lib/systemd/random-seed
        many >/var/cache/apt/archives/x.deb
        echo $s >/etc/ssh/ssh_host_rsa_key.pub
        echo {kept} >/srv/kept
        sync
        """
    output "raw"
}}
"#
    ));
    let done = space.build_ok(&["scrubbed"]);
    let output = space.path("out/scrubbed.raw");
    let report = description(&output)["report"]["scrub"].to_string();
    assert!(report.contains("/var/log/x.log"), "{report}");
    let found = positions(&output, &secret);
    let kept_at = positions(&output, &kept);
    assert!(!kept_at.is_empty(), "the search finds nothing at all");
    let (start, _) = partition(&output, 2);
    let blocks: Vec<_> =
        found.iter().map(|at| (at.checked_sub(start).unwrap_or(*at)) / 4096).collect();
    let mounted = Mounted::root_of(&output);
    let holders: Vec<_> = mounted
        .tree()
        .into_keys()
        .filter(|path| {
            // A guest's device nodes are read without end.
            let path = mounted.join(path);
            let file = fs::symlink_metadata(&path).is_ok_and(|meta| meta.is_file());
            file && fs::read(path).is_ok_and(|b| String::from_utf8_lossy(&b).contains(&secret))
        })
        .collect();
    assert!(
        found.is_empty(),
        "{} places, blocks {blocks:?} of the root; files that hold it: {holders:?}; scrubbed: {report}\n{done}",
        found.len()
    );
}

#[test]
fn a_frozen_disk_equals_its_stored_state() {
    let space = Space::new(
        r#"image "verified" {
    base image "golden"
    install "wget"
    run-command "cp -a /usr/lib/python3 /srv/a; rm -rf /usr/share/doc; fallocate -l 64M /srv/b; dd if=/dev/urandom of=/srv/c bs=1M count=50; rm /srv/c"
    uninstall "wget"
    write "/etc/motd" "The end."
    output "raw"
}
"#,
    );
    let done = space.build_ok(&["verified", "--verify-layers"]);
    let steps =
        ["verified/install", "verified/run-command", "verified/uninstall", "verified/write"];
    assert_eq!(done.ran()[..4], steps);
    assert_eq!(done.ran().len(), 5, "the seal is verified too: {done}");
    space.assert_clean("after a verified build");
}
