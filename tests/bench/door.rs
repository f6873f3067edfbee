//! The door beside a raw loop file: the same work on ext4 over each, in turns, and the ratios.
//!
//! Needs root. Run it with `cargo bench --bench door`; `ROUNDS=5` sets how often, and `DIRECT=1`
//! passes the page cache of the disk's file by.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use kiln::disk::door::{Door, Serve};
use kiln::disk::loops::LoopDevice;
use kiln::link::Link;
use kiln::sys::LoopOptions;
use rustix::mount::{MountFlags, MoveMountFlags, UnmountFlags, mount, move_mount, unmount};

const DISK: u64 = 6 << 30;

/// One ext4 file system to work on.
struct Bench {
    name: &'static str,
    directory: PathBuf,
    device: Option<LoopDevice>,
    door: Option<(Door, Child, PathBuf)>,
}

impl Bench {
    fn raw(root: &Path, direct: bool) -> Self {
        let path = root.join("raw.img");
        let file = File::options().read(true).write(true).create_new(true).open(&path).unwrap();
        file.set_len(DISK).unwrap();
        let device = attach(&file, "kiln-bench:raw", direct);
        Self::mounted("raw", root, device, None)
    }

    fn door(root: &Path, direct: bool) -> Self {
        let (ours, theirs) = Link::pair().unwrap();
        let child = Command::new(env!("CARGO_BIN_EXE_kiln"))
            .args(["--kiln-role", "door"])
            .stdin(Stdio::from(std::os::fd::OwnedFd::from(theirs)))
            .spawn()
            .unwrap();
        let overlay = Some(root.join("overlay"));
        let serve = Serve { chain: Vec::new(), size: Some(DISK), overlay };
        let (door, detached) = Door::open(ours, &serve).unwrap();
        let disk = root.join("disk");
        File::create(&disk).unwrap();
        let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH;
        move_mount(detached.as_fd(), "", rustix::fs::CWD, &disk, flags).unwrap();
        let file = File::options().read(true).write(true).open(&disk).unwrap();
        let device = attach(&file, "kiln-bench:door", direct);
        Self::mounted("door", root, device, Some((door, child, disk)))
    }

    fn mounted(
        name: &'static str,
        root: &Path,
        device: LoopDevice,
        door: Option<(Door, Child, PathBuf)>,
    ) -> Self {
        let status = Command::new("mkfs.ext4")
            .args(["-q", "-F", "-E", "lazy_itable_init=0,lazy_journal_init=0"])
            .arg(device.path())
            .status()
            .unwrap();
        assert!(status.success());
        let directory = root.join(name);
        fs::create_dir(&directory).unwrap();
        let flags = MountFlags::NOATIME | MountFlags::NODEV;
        mount(device.path(), &directory, "ext4", flags, c"noinit_itable").unwrap();
        Self { name, directory, device: Some(device), door }
    }
}

impl Drop for Bench {
    fn drop(&mut self) {
        let _ = unmount(&self.directory, UnmountFlags::empty());
        drop(self.device.take());
        if let Some((door, mut child, disk)) = self.door.take() {
            let _ = unmount(&disk, UnmountFlags::empty());
            drop(door);
            let _ = child.wait();
        }
    }
}

fn attach(file: &File, name: &str, direct: bool) -> LoopDevice {
    LoopDevice::attach(file.as_fd(), LoopOptions { name, read_only: false, direct }).unwrap()
}

fn sync(directory: &Path) {
    rustix::fs::syncfs(File::open(directory).unwrap()).unwrap();
}

fn drop_caches() {
    fs::write("/proc/sys/vm/drop_caches", "3").unwrap();
}

fn large_write(directory: &Path) {
    let mut file = File::create(directory.join("large")).unwrap();
    let block: Vec<u8> =
        (0..1u32 << 20).map(|n| n.wrapping_mul(2_654_435_761).to_le_bytes()[2]).collect();
    for _ in 0..600 {
        file.write_all(&block).unwrap();
    }
    file.sync_all().unwrap();
}

fn large_read(directory: &Path) {
    let mut file = File::open(directory.join("large")).unwrap();
    let mut buffer = vec![0; 1 << 20];
    while file.read(&mut buffer).unwrap() > 0 {}
}

fn small_files(directory: &Path) {
    let root = directory.join("small");
    let bytes = [7; 8192];
    for number in 0..8000 {
        let place = root.join(format!("{}", number / 100));
        if number % 100 == 0 {
            fs::create_dir_all(&place).unwrap();
        }
        fs::write(place.join(format!("{number}")), bytes).unwrap();
    }
    sync(directory);
}

fn read_tree(directory: &Path) {
    for entry in walkdir::WalkDir::new(directory) {
        let entry = entry.unwrap();
        if entry.file_type().is_file() {
            fs::read(entry.path()).unwrap();
        }
    }
}

/// A package installation's kind of work: a real tree is unpacked, synced, read and removed in part.
fn mixed(directory: &Path) {
    let target = directory.join("tree");
    let status = Command::new("cp")
        .args([
            "-a",
            "/usr/share/perl",
            "/usr/lib/python3",
            "/usr/share/doc",
            "/usr/lib/x86_64-linux-gnu/perl",
        ])
        .args(["/usr/share/zoneinfo", "/usr/bin"])
        .arg({
            fs::create_dir_all(&target).unwrap();
            &target
        })
        .status()
        .unwrap();
    assert!(status.success(), "cp");
    sync(directory);
    read_tree(&target);
    fs::remove_dir_all(target.join("doc")).unwrap();
    sync(directory);
}

fn median(mut times: Vec<Duration>) -> f64 {
    times.sort();
    times[times.len() / 2].as_secs_f64()
}

/// A kind of work: its name, what is done first and not timed, what is timed.
type Work = (&'static str, fn(&Path), fn(&Path));

fn main() {
    let rounds: usize =
        std::env::var("ROUNDS").ok().and_then(|text| text.parse().ok()).unwrap_or(5);
    let direct = std::env::var_os("DIRECT").is_some();
    let scratch = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let raw_root = scratch.path().join("r");
    let door_root = scratch.path().join("d");
    fs::create_dir(&raw_root).unwrap();
    fs::create_dir(&door_root).unwrap();
    let benches = [Bench::raw(&raw_root, direct), Bench::door(&door_root, direct)];
    let works: [Work; 5] = [
        ("600 MB written, fsync", |d| drop(fs::remove_file(d.join("large"))), large_write),
        ("600 MB read cold", |_| drop_caches(), large_read),
        ("8,000 files of 8 KiB, sync", |d| drop(fs::remove_dir_all(d.join("small"))), small_files),
        ("those read cold", |_| drop_caches(), |d| read_tree(&d.join("small"))),
        ("a tree unpacked, read, cut", |d| drop(fs::remove_dir_all(d.join("tree"))), mixed),
    ];
    println!("{rounds} rounds, medians; loop {}", if direct { "direct" } else { "buffered" });
    let mut sums = [0.0, 0.0];
    for (name, prepare, work) in works {
        let mut times = [Vec::new(), Vec::new()];
        for _ in 0..rounds {
            for (bench, times) in benches.iter().zip(&mut times) {
                prepare(&bench.directory);
                sync(&bench.directory);
                let start = Instant::now();
                work(&bench.directory);
                times.push(start.elapsed());
            }
        }
        let [raw, door] = times.map(median);
        sums[0] += raw;
        sums[1] += door;
        println!("{name:<28} raw {raw:6.2} s   door {door:6.2} s   ratio {:.2}", door / raw);
    }
    println!(
        "{:<28} raw {:6.2} s   door {:6.2} s   ratio {:.2}",
        "all of it",
        sums[0],
        sums[1],
        sums[1] / sums[0]
    );
    println!("({} and {} are on one disk of the host)", benches[0].name, benches[1].name);
}
