//! What others do with images of kiln's: copies, changes by hand, and changes while an upload lasts.

use std::fs::{self, File as Handle};
use std::time::{Duration, SystemTime};

use kiln::publish::{Act, Change, Images, PublishError, Watcher, own, publish, utc};

use super::memory::Memory;
use super::{DAY, File, NOW, done, named, wanted, words};

/// Does something else as soon as the bytes are there.
struct Between<'a> {
    then: &'a dyn Fn(),
    acts: Vec<Act>,
}

impl Watcher for Between<'_> {
    fn act(&mut self, act: &Act) {
        if matches!(act, Act::Uploaded(..)) {
            (self.then)();
        }
        self.acts.push(act.clone());
    }

    fn sent(&self, _: u64) -> bool {
        true
    }

    fn goes_on(&self) -> bool {
        true
    }

    fn pause(&self, _: u32) {}
}

fn files<const N: usize>() -> [File; N] {
    std::array::from_fn(|seed| File::of(100 + seed as u64, 2000))
}

#[test]
fn a_snapshot_of_an_instance_is_its_users_own() {
    let [one, two, three] = files();
    let memory = Memory::new(NOW);
    let (first, _) = done(&memory, &wanted("golden", &one), &one, NOW);
    let live = memory.copy(&first.id, "backup", b"what a user did");
    done(&memory, &wanted("golden", &two), &two, NOW + 1);
    // An instance may have been started from any image that kiln has marked.
    let old = memory.copy(&first.id, "backup of old", b"what another user did");
    let mark = Change {
        set: [(own::UNFINISHED.to_owned(), utc(NOW))].into(),
        hidden: Some(true),
        ..Change::default()
    };
    let begun = memory.copy(&live, "backup of begun", b"more");
    memory.update(&begun, &mark).unwrap();
    let before = [&live, &old, &begun].map(|id| memory.get(id).unwrap());
    let mut want = wanted("golden", &three);
    want.keep_last = 0;
    done(&memory, &want, &three, NOW + 30 * DAY);
    let (_, acts) = done(&memory, &want, &three, NOW + 60 * DAY);
    assert_eq!(words(&acts), ["expired"]);
    assert_eq!([&live, &old, &begun].map(|id| memory.get(id).unwrap()), before);

    // One that is called like the image is somebody else's, also for the same bytes.
    let copy = memory.copy(&named(&memory, "golden")[0].id, "golden", &three.bytes());
    let mut notes = super::Notes::default();
    let result = publish(&memory, &want, &three.source(), NOW + 61 * DAY, &mut notes);
    assert!(matches!(&result, Err(PublishError::Foreign { id, .. }) if *id == copy), "{result:?}");
}

#[test]
fn a_rollback_by_hand_is_one() {
    let [one, two, three] = files();
    let memory = Memory::new(NOW);
    let (old, _) = done(&memory, &wanted("golden", &one), &one, NOW);
    let (new, _) = done(&memory, &wanted("golden", &two), &two, NOW + 1);
    let by_hand = |name: &str, hidden| Change {
        name: Some(name.to_owned()),
        hidden: Some(hidden),
        ..Change::default()
    };
    memory.update(&old.id, &by_hand("golden", false)).unwrap();
    memory.update(&new.id, &by_hand("golden (broken)", true)).unwrap();
    // Long after the time that its mark says, the image that has the name again is no old one.
    let mut want = wanted("golden", &three);
    want.keep_last = 0;
    let later = NOW + 30 * DAY;
    let (third, acts) = done(&memory, &want, &three, later);
    assert_eq!(words(&acts), ["uploading", "uploaded", "changed", "superseded"]);
    assert_eq!(named(&memory, "golden")[0].id, third.id);
    assert_eq!(named(&memory, "golden").len(), 1);
    assert_eq!(memory.get(&old.id).unwrap().unwrap().superseded(), Some(later));
}

#[test]
fn what_changed_while_an_upload_lasted_is_not_undone() {
    let [one, two, three] = files();
    let memory = Memory::forgetful(NOW);
    let (old, _) = done(&memory, &wanted("golden", &one), &one, NOW);
    let (live, _) = done(&memory, &wanted("golden", &two), &two, NOW + 1);
    let mut want = wanted("golden", &three);
    want.keep_last = 0;
    // Somebody shows the old image, which was to be removed, and renames the one that had the name.
    let then = || {
        let shown = Change { hidden: Some(false), ..Change::default() };
        memory.update(&old.id, &shown).unwrap();
        let renamed = Change { name: Some("silver".to_owned()), ..Change::default() };
        memory.update(&live.id, &renamed).unwrap();
    };
    let mut between = Between { then: &then, acts: Vec::new() };
    publish(&memory, &want, &three.source(), NOW + 30 * DAY, &mut between).unwrap();
    assert_eq!(words(&between.acts), ["uploading", "uploaded", "changed", "left", "left"]);
    assert_eq!(memory.bytes(&old.id), one.bytes());
    let live = memory.get(&live.id).unwrap().unwrap();
    assert!(live.has_name("silver") && live.superseded().is_none(), "{live:?}");
}

#[test]
fn a_file_that_somebody_writes_into_is_not_published() {
    let [one, two] = files();
    let memory = Memory::new(NOW);
    done(&memory, &wanted("golden", &one), &one, NOW);
    let path = two.file.path();
    // Long enough ago for any clock of a file system.
    let old = SystemTime::now() - Duration::from_secs(10);
    Handle::options().write(true).open(path).unwrap().set_modified(old).unwrap();
    let then = || fs::write(path, [7; 2000]).unwrap();
    let mut between = Between { then: &then, acts: Vec::new() };
    let result = publish(&memory, &wanted("golden", &two), &two.source(), NOW + 1, &mut between);
    assert!(matches!(result, Err(PublishError::Changed { .. })), "{result:?}");
    let all = memory.all();
    assert!(all.len() == 1 && all[0].has_name("golden"), "{all:?}");
}

#[test]
fn protection_is_lifted_by_whoever_made_it() {
    let [one, two, three] = files();
    let memory = Memory::new(NOW);
    let mut want = wanted("golden", &one);
    want.protected = true;
    let (first, _) = done(&memory, &want, &one, NOW);
    // The recipe protects no more: what kiln protected goes with the name all the same.
    let (second, _) = done(&memory, &wanted("golden", &two), &two, NOW + 1);
    assert!(!memory.get(&first.id).unwrap().unwrap().protected);
    // What an operator protected stays, also where the recipe protects.
    let protect = Change { protected: Some(true), ..Change::default() };
    memory.update(&second.id, &protect).unwrap();
    let mut want = wanted("golden", &three);
    want.protected = true;
    done(&memory, &want, &three, NOW + 2);
    let second = memory.get(&second.id).unwrap().unwrap();
    assert!(second.protected && second.superseded().is_some(), "{second:?}");
}
