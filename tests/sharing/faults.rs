//! A remote that is slow, absent, full, lying or half written costs time, and never an image.

use std::sync::Mutex;
use std::time::Duration;

use super::remote::{Call, Fault, Faulty, MemoryRemote, When};
use super::sharing_results::RECIPE;
use super::space::TestSpace;
use super::team::{How, Key, build, space};

/// Everything that can go wrong with one call, with how often it does.
fn troubles() -> Vec<(&'static [Call], When, Fault)> {
    let mut troubles = Vec::new();
    let short = Duration::from_millis(3);
    let faults = [
        Fault::Status(403),
        Fault::Status(429),
        Fault::Status(500),
        Fault::Flip,
        Fault::Truncate,
        Fault::Replace(b"<html>it works</html>".to_vec()),
        Fault::Replace(b"{}".to_vec()),
        Fault::Empty,
        Fault::Forget,
        Fault::Delay(short),
        Fault::Hang(short),
        Fault::TakeAnyway,
    ];
    for fault in faults {
        for calls in [Call::READS, Call::WRITES, Call::ALL] {
            for when in [When::Always, When::From(4), When::OneIn { seed: 7, share: 3 }] {
                troubles.push((calls, when, fault.clone()));
            }
        }
    }
    troubles
}

#[test]
fn whatever_a_remote_does_the_images_are_right() {
    const AT_A_TIME: usize = 8;
    let troubles = troubles();
    let next = Mutex::new(troubles.iter());
    std::thread::scope(|scope| {
        for _ in 0..AT_A_TIME {
            scope.spawn(|| {
                loop {
                    let trouble = next.lock().unwrap().next();
                    let Some((calls, when, fault)) = trouble else { return };
                    survives(calls, *when, fault);
                }
            });
        }
    });
}

/// A workspace that does not wait long for the leases of others.
fn hasty(remote: &Faulty, how: &How<'_>) -> TestSpace {
    let mut space = space(RECIPE, remote.clone(), how);
    space.options.lease = Duration::from_millis(300);
    space
}

fn survives(calls: &[Call], when: When, fault: &Fault) {
    let key = Key::new();
    let how = How::with(&key);
    let case = format!("{calls:?} {when:?} {fault:?}");
    let faulty = Faulty::new(MemoryRemote::new());
    faulty.fault(calls, when, fault.clone());
    // Who gives to it.
    let giver = hasty(&faulty, &how);
    build(&giver);
    giver.check_states();
    // Who takes from it while it still misbehaves, from what may be half there.
    let taker = hasty(&faulty, &how);
    build(&taker);
    assert_eq!(taker.content("web").tasks(), giver.content("web").tasks(), "{case}");
    // Who takes from it when it is well again.
    faulty.heal();
    let later = hasty(&faulty, &how);
    build(&later);
    assert_eq!(later.content("web").tasks(), giver.content("web").tasks(), "{case}");
}

#[test]
fn a_remote_that_fails_is_told_once() {
    let (key, faulty) = (Key::new(), Faulty::new(MemoryRemote::new()));
    faulty.fault(Call::ALL, When::Always, Fault::Status(500));
    let (ran, watch) = build(&space(RECIPE, faulty, &How::with(&key)));
    assert_eq!(ran.len(), 5);
    let told = watch.warnings.iter().filter(|text| text.contains("left out")).count();
    assert_eq!(told, 1, "{:?}", watch.warnings);
}

/// Puts faults before a remote after a build has taken a result from it whose blocks it will need.
fn taken_and_then(key: &Key, break_it: impl FnOnce(&MemoryRemote, &Faulty)) -> (TestSpace, Faulty) {
    let memory = MemoryRemote::new();
    let how = How::with(key);
    build(&space(RECIPE, memory.clone(), &how));
    let faulty = Faulty::new(memory.clone());
    let there = hasty(&faulty, &how);
    break_it(&memory, &faulty);
    (there, faulty)
}

#[test]
fn blocks_that_cannot_be_had_are_built_again_in_the_same_build() {
    let key = Key::new();
    for first in 0..24 {
        // The descriptions come, and from some call on nothing more does.
        let (there, _) = taken_and_then(&key, |_, faulty| {
            faulty.fault(&[Call::ReadBlob], When::From(first), Fault::Empty);
        });
        build(&there);
        there.check_states();
        let (there, _) = taken_and_then(&key, |_, faulty| {
            faulty.fault(&[Call::ReadBlob], When::From(first), Fault::Flip);
        });
        build(&there);
        there.check_states();
    }
}
