//! Time of a relabelling from nothing, beside `setfiles` on the same tree.
//!
//! It copies the directories named on the command line (default: `/usr/lib /usr/share /etc`, up to
//! 20,000 entries) into a fresh ext4 image; it judges no label.

#[path = "../support/selinux.rs"]
mod support;

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use kiln::guest::selinux::{RelabelOptions, relabel, verify};
use support::{Disk, file_contexts, need, policy, run};

const ENTRIES: usize = 20_000;
const RUNS: usize = 5;

/// Copies names and kinds; the files stay empty, for labels do not depend on what is in them.
fn copy(from: &Path, root: &Path, left: &mut usize) {
    for entry in walkdir::WalkDir::new(from).same_file_system(true).into_iter().flatten() {
        if *left == 0 {
            return;
        }
        let to = root.join(entry.path().strip_prefix("/").unwrap());
        fs::create_dir_all(to.parent().unwrap()).unwrap();
        let kind = entry.file_type();
        let made = if kind.is_dir() {
            fs::create_dir_all(&to)
        } else if kind.is_symlink() {
            symlink(fs::read_link(entry.path()).unwrap(), &to)
        } else {
            fs::write(&to, "")
        };
        if made.is_ok() {
            *left -= 1;
        }
    }
}

fn strip(root: &Path) {
    for entry in walkdir::WalkDir::new(root).into_iter().flatten() {
        let _ = rustix::fs::lremovexattr(entry.path(), "security.selinux");
    }
}

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort();
    times[times.len() / 2]
}

fn measure(
    disk: &mut Disk,
    label: &str,
    mut work: impl FnMut(&Disk),
    from_nothing: bool,
) -> Duration {
    let mut times = Vec::new();
    for _ in 0..RUNS {
        if from_nothing {
            strip(&disk.path());
            disk.remount("noatime");
        }
        let start = Instant::now();
        work(disk);
        times.push(start.elapsed());
    }
    let median = median(times.clone());
    println!("{label:<28} {median:>10.3?}  of {times:.3?}");
    median
}

fn main() {
    need(&[("setfiles", "policycoreutils")]);
    let args: Vec<PathBuf> =
        std::env::args_os().skip(1).map(PathBuf::from).filter(|arg| arg.is_absolute()).collect();
    let tops = if args.is_empty() {
        ["/etc", "/usr/lib", "/usr/share"].map(PathBuf::from).to_vec()
    } else {
        args
    };
    let mut disk = Disk::new(512);
    let mut left = ENTRIES;
    for top in &tops {
        copy(top, &disk.path(), &mut left);
    }
    println!("{} entries; medians of {RUNS} runs", ENTRIES - left);

    let options = RelabelOptions::default();
    let load = measure(&mut disk, "kiln: read the policy", |_| drop(policy()), false);
    let kiln = measure(
        &mut disk,
        "kiln: policy and relabel",
        |disk| drop(relabel(&policy(), &[disk.labelled("/")], &options).unwrap()),
        true,
    );
    let again = measure(
        &mut disk,
        "kiln: policy, nothing to do",
        |disk| drop(relabel(&policy(), &[disk.labelled("/")], &options).unwrap()),
        false,
    );
    let second = measure(
        &mut disk,
        "kiln: policy and verify",
        |disk| drop(verify(&policy(), &[disk.labelled("/")], &options, 20).unwrap()),
        false,
    );
    let setfiles = |disk: &Disk, flags: &[&str]| {
        let root = disk.path();
        run(Command::new("setfiles")
            .args(flags)
            .arg("-r")
            .arg(&root)
            .arg(file_contexts())
            .arg(&root));
    };
    let theirs = measure(&mut disk, "setfiles -F", |disk| setfiles(disk, &["-F"]), true);
    let checked =
        measure(&mut disk, "setfiles -n -v -F", |disk| setfiles(disk, &["-n", "-v", "-F"]), false);
    let ratio = |ours: Duration, theirs: Duration| theirs.as_secs_f64() / ours.as_secs_f64();
    println!("relabel: setfiles takes {:.1} times kiln's time", ratio(kiln, theirs));
    println!("verify:  setfiles takes {:.1} times kiln's time", ratio(second, checked));
    println!(
        "of kiln's relabelling {:.0} % is reading the policy",
        100.0 * load.as_secs_f64() / kiln.as_secs_f64()
    );
    println!(
        "with nothing to do it takes {:.0} % of it",
        100.0 * again.as_secs_f64() / kiln.as_secs_f64()
    );
}
