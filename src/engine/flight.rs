//! One flight: of many builds that want an action at one time, one runs it, and the others wait for
//! its result.
//!
//! Leases are a courtesy. They save work where a remote can hold them; two builds that run the same
//! action all the same make twins, which harms nobody. Whether a holder lives is judged by whether its
//! lease changes, by the waiter's own clock.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use crate::digest::ActionKey;
use crate::remote::backend::{Backend, Claim};
use crate::remote::team::{Member, Team};

/// How often a holder writes its lease anew, in the time after which it counts as dead.
const BEATS: u32 = 4;
/// How often a waiter looks, at most and in that time.
const LOOK: Duration = Duration::from_secs(1);
const LOOKS: u32 = 20;
/// After how many times of death nobody waits any more, whatever leases say: whoever writes to a
/// remote could hold a build for ever.
const PATIENCE: u32 = 120;
/// How often the end of the build is looked for.
const GLANCE: Duration = Duration::from_millis(100);

/// What a lease says: for people, and so that each beat differs.
#[derive(Debug, Serialize, Deserialize)]
struct Lease {
    host: String,
    process: u32,
    nonce: String,
    beat: u64,
}

/// All leases of one build.
pub(super) struct Flight<'a> {
    team: &'a Team,
    held: Mutex<BTreeMap<ActionKey, u64>>,
    nonce: String,
    /// After what time without a beat a holder counts as dead.
    death: Duration,
    /// The numbers of builds that turned out to be dead: none of their leases is waited for.
    dead: Mutex<BTreeSet<String>>,
}

/// The right, as far as a remote can give it, to be the one who runs an action; it ends with the
/// value.
pub(super) struct Turn<'a> {
    flight: &'a Flight<'a>,
    key: ActionKey,
}

/// What became of the wish to run an action.
pub(super) enum Wish<'a> {
    /// Run it; with a lease where there can be one.
    Run(Option<Turn<'a>>),
    /// Somebody else has built it meanwhile.
    Built,
    /// The user wants the end.
    CalledOff,
}

impl<'a> Flight<'a> {
    /// The leases of a build whose own number is `nonce`.
    pub(super) fn new(team: &'a Team, nonce: String, death: Duration) -> Self {
        Self { team, held: Mutex::default(), nonce, death, dead: Mutex::default() }
    }

    /// Whether the build that a lease is of is known to be dead; from `now` on it is.
    fn is_dead(&self, lease: &[u8], now: bool) -> bool {
        let lease: Option<Lease> = serde_json::from_slice(lease).ok();
        let Some(Lease { nonce, .. }) = lease else { return now };
        let mut dead = self.dead.lock().unwrap_or_else(PoisonError::into_inner);
        now && dead.insert(nonce.clone()) || dead.contains(&nonce)
    }

    fn held(&self) -> MutexGuard<'_, BTreeMap<ActionKey, u64>> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The remote that holds the leases: the first that results go to.
    fn member(&self, impure: bool) -> Option<&'a Member> {
        self.team.writable(impure).next()
    }

    fn lease(&self, beat: u64) -> Vec<u8> {
        let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
        let lease = Lease { host, process: std::process::id(), nonce: self.nonce.clone(), beat };
        serde_json::to_vec(&lease).expect("plain data")
    }

    /// Writes all leases anew from time to time, until `ended`.
    pub(super) fn keep(&self, ended: &AtomicBool) {
        let mut last = Instant::now();
        while !ended.load(Ordering::SeqCst) {
            std::thread::sleep(GLANCE);
            if last.elapsed() < self.death / BEATS {
                continue;
            }
            last = Instant::now();
            let keys: Vec<ActionKey> = self.held().keys().copied().collect();
            for key in keys {
                let Some(member) = self.member(false) else { return };
                let beat = {
                    let mut held = self.held();
                    let Some(beat) = held.get_mut(&key) else { continue };
                    *beat += 1;
                    *beat
                };
                // One that cannot be renewed runs out, which costs others a run.
                let _ = member.backend.renew(self.team.namespace(), key, &self.lease(beat));
            }
        }
    }

    /// Takes an action's lease, or waits for whoever has it; `waiting` is told once who that is.
    pub(super) fn wish(
        &'a self,
        key: ActionKey,
        impure: bool,
        called_off: &AtomicBool,
        mut waiting: impl FnMut(&str),
    ) -> Wish<'a> {
        let Some(member) = self.member(impure) else { return Wish::Run(None) };
        let namespace = self.team.namespace();
        let mut seen: Option<(Vec<u8>, Instant)> = None;
        let mut tried = false;
        let begun = Instant::now();
        loop {
            match member.backend.claim(namespace, key, &self.lease(0)) {
                Ok(Claim::Taken) => {
                    self.held().insert(key, 0);
                    let turn = Turn { flight: self, key };
                    // Whoever had it may have been done just before.
                    return if self.is_built(key) { Wish::Built } else { Wish::Run(Some(turn)) };
                }
                // Without leases it is built, and a twin is no harm.
                Ok(Claim::Impossible) | Err(_) => return Wish::Run(None),
                Ok(Claim::Held(_)) if begun.elapsed() > self.death * PATIENCE => {
                    return Wish::Run(None);
                }
                Ok(Claim::Held(lease)) => {
                    let known = seen.as_ref().filter(|(known, _)| *known == lease);
                    let late = known.is_some_and(|(_, since)| since.elapsed() > self.death);
                    if self.is_dead(&lease, late) {
                        // One that cannot be taken away holds nobody up either.
                        let freed = member.backend.release(namespace, key).is_ok();
                        if freed && !std::mem::replace(&mut tried, true) {
                            continue;
                        }
                        return Wish::Run(None);
                    }
                    if seen.is_none() {
                        waiting(&holder(&lease));
                    }
                    if known.is_none() {
                        seen = Some((lease, Instant::now()));
                    }
                }
            }
            let pause = Instant::now();
            while pause.elapsed() < LOOK.min(self.death / LOOKS) {
                if called_off.load(Ordering::SeqCst) {
                    return Wish::CalledOff;
                }
                std::thread::sleep(GLANCE.min(self.death / LOOKS));
            }
            if self.is_built(key) {
                return Wish::Built;
            }
        }
    }

    fn is_built(&self, key: ActionKey) -> bool {
        !self.team.find(&[key]).is_empty()
    }
}

/// Who holds a lease, as it says itself.
fn holder(lease: &[u8]) -> String {
    const LONGEST: usize = 64;
    let lease: Option<Lease> = serde_json::from_slice(lease).ok();
    let host = lease.map(|lease| lease.host).filter(|host| host.len() <= LONGEST);
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
    host.filter(|host| host.chars().all(plain)).unwrap_or_else(|| "another host".to_owned())
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        self.flight.held().remove(&self.key);
        if let Some(member) = self.flight.member(false) {
            // One that stays runs out.
            let _ = member.backend.release(self.flight.team.namespace(), self.key);
        }
    }
}

/// A number for a build that no other has.
pub(super) fn nonce() -> String {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let mut bytes = [0; 16];
    // Without random numbers the process and its clock have to do.
    if rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty()).is_err() {
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
        let now = now.map_or(0, |now| now.as_nanos());
        let number = u128::from(NEXT.fetch_add(1, Ordering::Relaxed)) << 64;
        bytes = (now ^ number ^ u128::from(std::process::id())).to_le_bytes();
    }
    crate::digest::Digest::of(&bytes).short()
}
