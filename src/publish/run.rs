//! Makes a plan true, one call at a time, so that every moment is one that the next run can go on
//! from.

use std::collections::BTreeMap;
use std::time::Instant;

use super::plan::{self, Plan, Subject};
use super::record::{Change, Draft, Record, Status};
use super::{Images, ImagesError, PATIENCE, PublishError, Sent, Source, Wanted};

/// How often an image is uploaded anew where a fault may pass.
const TRIES: u32 = 3;
/// Seconds that an upload has for all that is not its bytes, before others take it for given up.
const MARGIN: i64 = 3600;
/// Why an image of a plan was left alone.
const MEANWHILE: &str = "somebody has changed it meanwhile";

/// What was done, as it is done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Act {
    /// What an earlier run left was removed.
    Cleared(Record),
    /// The upload begins, with the new image's id; the number counts the tries.
    Uploading(String, u32),
    /// A try was given up, and why.
    GivenUp(String),
    /// The image with that id has all its bytes, and they are right.
    Uploaded(String, Sent),
    /// The image got what it lacked of name, properties and the rest.
    Changed(String, Vec<String>),
    /// An image lost the name.
    Superseded(Record),
    /// A superseded image was removed.
    Expired(Record),
    /// An image could not be removed, or was left alone; why.
    Left(Record, String),
}

/// Is told what goes on.
pub trait Watcher {
    /// Something was done.
    fn act(&mut self, act: &Act);
    /// So many bytes of the file went to the service. Whether to go on.
    fn sent(&self, bytes: u64) -> bool;
    /// Whether to go on, where no bytes move.
    fn goes_on(&self) -> bool;
    /// Waits before another try, after so many.
    fn pause(&self, tries: u32);
}

/// What became of publishing an image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outcome {
    /// The id of the image that has the name.
    pub id: String,
    /// Whether its bytes were uploaded.
    pub uploaded: bool,
    /// Whether anything of it changed.
    pub changed: bool,
}

/// Looks at what is there, and plans. Changes nothing.
///
/// # Errors
/// Where the service does not say, the file cannot be read, or the name is somebody else's.
pub fn prepare(
    images: &dyn Images,
    wanted: &Wanted,
    file: &Source,
    now: i64,
) -> Result<Plan, PublishError> {
    let records = images.list(&wanted.name)?;
    let mut hashes = BTreeMap::new();
    for algorithm in plan::algorithms(&records, wanted) {
        if let Some(hash) = file.hash(&algorithm)? {
            hashes.insert(algorithm, hash);
        }
    }
    plan::plan(&records, wanted, &hashes, now)
}

/// Publishes: does what [`prepare`] plans.
///
/// # Errors
/// As [`prepare`], and where a call fails that has to succeed. The name then leads to where it did
/// before, or to the new image.
pub fn publish(
    images: &dyn Images,
    wanted: &Wanted,
    file: &Source,
    now: i64,
    watcher: &mut dyn Watcher,
) -> Result<Outcome, PublishError> {
    let clock = Clock { now, begun: Instant::now() };
    let plan = prepare(images, wanted, file, now)?;
    go_on(watcher)?;
    for record in plan.unfinished {
        remove(images, record, Act::Cleared, watcher)?;
    }
    let (record, uploaded) = match plan.subject {
        Subject::Upload => (upload(images, wanted, file, &clock, watcher)?, true),
        Subject::There(record) => (*record, false),
    };
    if !file.is_untouched()? {
        if uploaded {
            // What is left of it is told by its properties, where this fails.
            let _ = images.delete(&record.id);
        }
        return Err(PublishError::Changed { path: file.path().to_owned() });
    }
    let change = Change::to_published(&record, wanted);
    if !change.is_empty() {
        images.update(&record.id, &change)?;
        watcher.act(&Act::Changed(record.id.clone(), change.words()));
    }
    let changed = uploaded || !change.is_empty() || !plan.superseded.is_empty();
    for old in plan.superseded {
        supersede(images, old, &wanted.name, clock.now(), watcher)?;
    }
    for old in plan.expired {
        remove(images, old, Act::Expired, watcher)?;
    }
    Ok(Outcome { id: record.id, uploaded, changed })
}

/// What time it is, from the time that a run was given.
struct Clock {
    now: i64,
    begun: Instant,
}

impl Clock {
    /// Seconds since 1970.
    fn now(&self) -> i64 {
        let since = i64::try_from(self.begun.elapsed().as_secs()).unwrap_or(i64::MAX);
        self.now.saturating_add(since)
    }
}

fn go_on(watcher: &dyn Watcher) -> Result<(), ImagesError> {
    if watcher.goes_on() { Ok(()) } else { Err(ImagesError::Interrupted) }
}

/// Hides an image whose name another one has now. The plan may be as old as an upload takes: one that
/// has lost the name meanwhile is left alone, and so is one that has become somebody else's.
fn supersede(
    images: &dyn Images,
    planned: Record,
    name: &str,
    now: i64,
    watcher: &mut dyn Watcher,
) -> Result<(), ImagesError> {
    let Some(record) = images.get(&planned.id)? else { return Ok(()) };
    let is_planned = record.name == planned.name
        && record.is_made_for(name) == planned.is_made_for(name)
        && record.status != Status::Gone;
    let act = if is_planned {
        images.update(&record.id, &Change::to_superseded(&record, name, now))?;
        Act::Superseded(planned)
    } else {
        Act::Left(record, MEANWHILE.to_owned())
    };
    watcher.act(&act);
    Ok(())
}

/// Removes an image; one that is protected, in use or not as planned any more stays, which is told.
fn remove(
    images: &dyn Images,
    record: Record,
    done: fn(Record) -> Act,
    watcher: &mut dyn Watcher,
) -> Result<(), ImagesError> {
    let Some(there) = images.get(&record.id)? else { return Ok(()) };
    if there != record {
        watcher.act(&Act::Left(there, MEANWHILE.to_owned()));
        return Ok(());
    }
    let act = match images.delete(&record.id) {
        Ok(()) => done(record),
        Err(error @ (ImagesError::Refused { .. } | ImagesError::Conflict { .. })) => {
            Act::Left(record, crate::causes::in_one_line(&error))
        }
        Err(error) => return Err(error),
    };
    watcher.act(&act);
    Ok(())
}

/// A new image with all the bytes of the file, compared with it; hidden still.
fn upload(
    images: &dyn Images,
    wanted: &Wanted,
    file: &Source,
    clock: &Clock,
    watcher: &mut dyn Watcher,
) -> Result<Record, PublishError> {
    let time = i64::try_from(PATIENCE.deadline(wanted.size).as_secs()).unwrap_or(i64::MAX);
    let mut tries = 0;
    loop {
        tries += 1;
        let until = clock.now().saturating_add(time).saturating_add(MARGIN);
        let draft = Draft::of(wanted, new_id(), until);
        match try_upload(images, &draft, file, tries, watcher) {
            Ok(record) => return Ok(record),
            Err(error) => {
                // What is left of it is told by its properties, where this fails too.
                let _ = images.delete(&draft.id);
                match &error {
                    PublishError::Images(fault) if fault.may_pass() && tries < TRIES => {
                        watcher.act(&Act::GivenUp(crate::causes::in_one_line(&error)));
                        watcher.pause(tries);
                        go_on(watcher)?;
                    }
                    _ => return Err(error),
                }
            }
        }
    }
}

fn try_upload(
    images: &dyn Images,
    draft: &Draft,
    file: &Source,
    tries: u32,
    watcher: &mut dyn Watcher,
) -> Result<Record, PublishError> {
    images.create(draft)?;
    watcher.act(&Act::Uploading(draft.id.clone(), tries));
    let sent = images.upload(&draft.id, file, &|bytes| watcher.sent(bytes))?;
    let differs = |what: String| PublishError::Differs { id: draft.id.clone(), what };
    let Some(record) = images.get(&draft.id)? else {
        return Err(differs("it is gone".to_owned()));
    };
    if record.status != Status::Active {
        return Err(differs("it is not active".to_owned()));
    }
    if sent.bytes != file.size() || record.size != Some(sent.bytes) {
        let there = record.size.map_or("no".to_owned(), |size| size.to_string());
        let (sent, size) = (sent.bytes, file.size());
        return Err(differs(format!("it has {there} bytes, {sent} were sent of {size}")));
    }
    let algorithm = record.hash_algorithm.as_deref().unwrap_or("none");
    let hash = match algorithm {
        "sha512" => Some(sent.sha512.clone()),
        other => file.hash(other)?,
    };
    let Some(hash) = hash else {
        let algorithm = algorithm.escape_debug().to_string();
        return Err(PublishError::Hash { algorithm });
    };
    if record.hash.as_deref() != Some(&hash) {
        return Err(differs(format!("its {algorithm} is not that of the file")));
    }
    watcher.act(&Act::Uploaded(draft.id.clone(), sent));
    Ok(record)
}

/// A random UUID: version 4 of RFC 9562.
fn new_id() -> String {
    use std::fmt::Write;
    let mut bytes = [0; 16];
    let filled = rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty());
    assert_eq!(filled, Ok(bytes.len()), "the kernel has random bytes for everybody");
    bytes[6] = bytes[6] & 0x0f | 0x40;
    bytes[8] = bytes[8] & 0x3f | 0x80;
    let mut id = String::new();
    for (at, byte) in bytes.iter().enumerate() {
        let dash = if matches!(at, 4 | 6 | 8 | 10) { "-" } else { "" };
        let _ = write!(id, "{dash}{byte:02x}");
    }
    id
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_is_a_uuid() {
        let id = new_id();
        let parts: Vec<_> = id.split('-').map(str::len).collect();
        assert_eq!(parts, [8, 4, 4, 4, 12]);
        assert_eq!(&id[14..15], "4");
        assert!("89ab".contains(&id[19..20]), "{id}");
        assert_ne!(id, new_id());
    }
}
