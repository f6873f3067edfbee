//! kiln is killed at each call, and runs again: the name always leads to a whole image, and nothing
//! stays half done.

use kiln::publish::{Act, Images, ImagesError, PublishError, Status, own, publish};

use super::memory::{Memory, Trouble};
use super::{DAY, File, NOW, Notes, at, done, named, wanted, words};

/// Nothing is unfinished, and exactly one image has the name: the one of the file.
fn settled(memory: &Memory, name: &str, file: &File) {
    let all = memory.all();
    let named = named(memory, name);
    assert_eq!(named.len(), 1, "{all:?}");
    assert_eq!(memory.bytes(&named[0].id), file.bytes());
    for record in &all {
        assert_eq!(record.status, Status::Active, "{record:?}");
        assert!(record.own(own::UNFINISHED).is_none(), "{record:?}");
        assert!(record.hidden || record.has_name(name), "{record:?}");
    }
}

#[test]
fn a_kill_at_any_call_is_put_right_by_the_next_run() {
    let [one, two, three] = [1, 2, 3].map(|seed| File::of(seed, 3000));
    let mut runs = 0;
    for trouble in [Trouble::DieBefore, Trouble::DieAfter] {
        for call in 0.. {
            let memory = Memory::new(NOW);
            // Two old ones, of which one is to go.
            done(&memory, &wanted("golden", &one), &one, NOW);
            done(&memory, &wanted("golden", &two), &two, NOW + 1);
            let (last, mut want) = (NOW + 3 * DAY, wanted("golden", &three));
            want.keep_last = 0;
            memory.set_now(last);
            memory.trouble(call, trouble);
            let (result, _) = at(&memory, &want, &three, last);
            if !memory.heal() {
                assert!(result.is_ok());
                break;
            }
            assert!(result.is_err(), "{call}");
            runs += 1;
            let before = memory.all().len();
            let (outcome, acts) = done(&memory, &want, &three, last + 5);
            settled(&memory, "golden", &three);
            let uploads = words(&acts).iter().filter(|word| **word == "uploading").count();
            assert_eq!(outcome.uploaded, uploads == 1, "{before} {acts:?}");
            // The one superseded now stays for a day; the older one went.
            assert_eq!(memory.all().len(), 2, "{:?}", memory.all());
        }
    }
    assert!(runs >= 16, "each of at least eight calls, twice: {runs}");
}

#[test]
fn two_kills_in_a_row_are_put_right_too() {
    let [old, new] = [1, 2].map(|seed| File::of(seed, 2000));
    for first in 0..11 {
        for second in 0..11 {
            let memory = Memory::new(NOW);
            done(&memory, &wanted("golden", &old), &old, NOW);
            for call in [first, second] {
                memory.trouble(call, Trouble::DieAfter);
                let _ = at(&memory, &wanted("golden", &new), &new, NOW + 1);
                memory.heal();
            }
            done(&memory, &wanted("golden", &new), &new, NOW + 2);
            settled(&memory, "golden", &new);
        }
    }
}

#[test]
fn a_fault_of_an_upload_that_passes_is_tried_again_from_a_clean_record() {
    let file = File::of(1, 2_500_000);
    for trouble in [Trouble::Busy, Trouble::Lost] {
        // The list is call 0; then the record is made, filled in two parts, and looked at.
        for call in 1..5 {
            let memory = Memory::new(NOW);
            memory.trouble(call, trouble);
            let (outcome, acts) = done(&memory, &wanted("golden", &file), &file, NOW);
            assert!(memory.heal());
            assert!(outcome.uploaded && words(&acts).contains(&"given up"), "{call} {acts:?}");
            settled(&memory, "golden", &file);
            assert_eq!(memory.all().len(), 1, "{:?}", memory.all());
        }
    }
}

#[test]
fn bytes_that_changed_on_their_way_never_get_the_name() {
    let [old, new] = [1, 2].map(|seed| File::of(seed, 2000));
    let memory = Memory::new(NOW);
    done(&memory, &wanted("golden", &old), &old, NOW);
    memory.flips.set(true);
    let (result, _) = at(&memory, &wanted("golden", &new), &new, NOW + 1);
    assert!(matches!(result, Err(PublishError::Differs { .. })), "{result:?}");
    settled(&memory, "golden", &old);
    assert_eq!(memory.all().len(), 1);
}

#[test]
fn ctrl_c_in_an_upload_leaves_nothing() {
    let file = File::of(1, 3 << 20);
    let memory = Memory::new(NOW);
    let mut notes = Notes { stop: Some(1 << 20), ..Notes::default() };
    let want = wanted("golden", &file);
    let result = publish(&memory, &want, &file.source(), NOW, &mut notes);
    assert!(matches!(result, Err(PublishError::Images(ImagesError::Interrupted))), "{result:?}");
    assert_eq!(memory.all(), []);

    // Where it came before the first byte, nothing at all is done.
    memory.heal();
    let mut notes = Notes { stop: Some(0), ..Notes::default() };
    let result = publish(&memory, &want, &file.source(), NOW, &mut notes);
    assert!(matches!(result, Err(PublishError::Images(ImagesError::Interrupted))), "{result:?}");
    assert_eq!((memory.calls(), notes.acts), (1, Vec::new()));
}

#[test]
fn what_another_run_has_begun_is_left_alone_until_it_is_old() {
    let [one, two] = [1, 2].map(|seed| File::of(seed, 2000));
    let memory = Memory::new(NOW);
    memory.trouble(2, Trouble::DieAfter);
    let _ = at(&memory, &wanted("golden", &one), &one, NOW);
    memory.heal();
    let (_, acts) = done(&memory, &wanted("golden", &two), &two, NOW + 3600);
    assert!(!words(&acts).contains(&"cleared"), "another state, which has its time: {acts:?}");
    assert_eq!(memory.all().len(), 2);
    let (_, acts) = done(&memory, &wanted("golden", &two), &two, NOW + 2 * 3600);
    assert_eq!(words(&acts), ["cleared"]);
    settled(&memory, "golden", &two);
}

#[test]
fn what_may_not_be_removed_stays_and_is_told() {
    let files = [1, 2, 3].map(|seed| File::of(seed, 2000));
    let memory = Memory::new(NOW);
    for (at, file) in files.iter().enumerate() {
        done(&memory, &wanted("golden", file), file, NOW + i64::try_from(at).unwrap());
    }
    let old: Vec<_> = memory.all().into_iter().filter(|r| r.superseded().is_some()).collect();
    assert_eq!(old.len(), 2);
    memory.in_use.borrow_mut().push(old[0].id.clone());
    let change = kiln::publish::Change { protected: Some(true), ..Default::default() };
    memory.update(&old[1].id, &change).unwrap();
    let mut want = wanted("golden", &files[2]);
    want.keep_last = 0;
    let (outcome, acts) = done(&memory, &want, &files[2], NOW + 3 * DAY);
    assert_eq!(words(&acts), ["left", "left"]);
    assert!(!outcome.uploaded && matches!(&acts[0], Act::Left(..)));
    assert_eq!(memory.all().len(), 3);
}

#[test]
fn a_foreign_image_keeps_its_name_unless_the_user_says_otherwise() {
    let file = File::of(1, 2000);
    let memory = Memory::new(NOW);
    memory.put("golden", b"somebody else's");
    let mut want = wanted("golden", &file);
    let (result, _) = at(&memory, &want, &file, NOW);
    assert!(matches!(result, Err(PublishError::Foreign { .. })), "{result:?}");
    assert_eq!(memory.calls(), 1, "nothing was done");
    want.take_over = true;
    let (_, acts) = done(&memory, &want, &file, NOW);
    assert_eq!(words(&acts), ["uploading", "uploaded", "changed", "superseded"]);
    settled(&memory, "golden", &file);

    // It was hidden, and is never removed: it is no image of kiln's.
    want.keep_last = 0;
    let (_, acts) = done(&memory, &want, &file, NOW + 30 * DAY);
    assert_eq!(acts, []);
    assert_eq!(memory.all().len(), 2);
}
