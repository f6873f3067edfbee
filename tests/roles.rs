//! kiln's own processes, each started alone.

use std::fs;
use std::os::fd::OwnedFd;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use kiln::link::Link;

/// What they make on a guest's disk has the modes that it is made with.
#[test]
fn the_umask_of_whoever_runs_kiln_does_not_matter() {
    let (ours, theirs) = Link::pair().unwrap();
    let mut door = Command::new("sh")
        .args(["-c", "umask 077; exec \"$0\" --kiln-role door", env!("CARGO_BIN_EXE_kiln")])
        .stdin(Stdio::from(OwnedFd::from(theirs)))
        .spawn()
        .unwrap();
    let status = format!("/proc/{}/status", door.id());
    let deadline = Instant::now() + Duration::from_secs(30);
    loop {
        let text = fs::read_to_string(&status).unwrap();
        if text.lines().any(|line| line == "Umask:\t0022") && text.starts_with("Name:\tkiln\n") {
            break;
        }
        assert!(Instant::now() < deadline, "{text}");
        std::thread::sleep(Duration::from_millis(10));
    }
    drop(ours);
    assert!(door.wait().unwrap().success());
}
