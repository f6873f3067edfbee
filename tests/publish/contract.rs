//! What every image service does, and what publishing makes of it: the same for the one in memory
//! and for Debian's Glance.

use std::collections::BTreeMap;
use std::slice::from_ref;

use kiln::publish::{Change, Draft, Images, ImagesError, PublishError, Status, own};
use kiln::recipe::Visibility;

use super::memory::Memory;
use super::{DAY, File, NOW, at, done, named, unique, wanted, words};
use crate::openstack;

/// Each call does what [`Images`] says.
fn calls(images: &dyn Images) {
    let (name, file) = (unique(), File::of(7, 300_000));
    let wanted = wanted(&name, &file);
    let id = fresh_id();
    let draft = Draft::of(&wanted, id.clone(), NOW);
    assert_eq!(images.get(&id).unwrap(), None);
    images.create(&draft).unwrap();
    let made = images.get(&id).unwrap().unwrap();
    assert_eq!((made.status, made.hidden, made.size), (Status::Unfinished, true, None));
    assert_eq!(made.own(own::NAME), Some(name.as_str()));
    assert!(made.is_made_for(&name) && made.unfinished() == Some(NOW), "{made:?}");
    assert_eq!(made.visibility, Some(Visibility::Private));

    let sent = images.upload(&id, &file.source(), &|_| true).unwrap();
    let whole = images.get(&id).unwrap().unwrap();
    assert_eq!((whole.status, whole.size), (Status::Active, Some(sent.bytes)));
    assert_eq!(whole.hash_algorithm.as_deref(), Some("sha512"));
    assert_eq!(whole.hash.as_deref(), Some(sent.sha512.as_str()));

    // Hidden images are found by kiln's property, and by a name too.
    assert_eq!(images.list(&name).unwrap(), from_ref(&whole));
    assert_eq!(images.list(&draft.name).unwrap(), from_ref(&whole));
    assert_eq!(images.list(&unique()).unwrap(), []);

    let change = Change::to_published(&whole, &wanted);
    images.update(&id, &change).unwrap();
    // The same again, as where an answer was lost.
    images.update(&id, &change).unwrap();
    let published = images.get(&id).unwrap().unwrap();
    assert!(published.has_name(&name), "{published:?}");
    assert!(Change::to_published(&published, &wanted).is_empty(), "{published:?}");
    assert_eq!((published.min_disk, published.min_ram), (1, 64));
    assert!(published.tags.contains("tested") && published.own(own::UNFINISHED).is_none());

    let protect = |protected| Change { protected: Some(protected), ..Change::default() };
    images.update(&id, &protect(true)).unwrap();
    let refused = images.delete(&id);
    assert!(matches!(refused, Err(ImagesError::Refused { .. })), "{refused:?}");
    images.update(&id, &protect(false)).unwrap();
    images.delete(&id).unwrap();
    images.delete(&id).unwrap();
    assert_eq!(images.list(&name).unwrap(), []);
}

/// An id that no image has.
fn fresh_id() -> String {
    let hex = blake3::hash(unique().as_bytes()).to_hex();
    let hex = hex.as_str();
    [&hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..32]].join("-")
}

/// The life of a name: published, again, changed, superseded, gone back, removed.
fn life(images: &dyn Images) {
    let name = unique();
    let [one, two] = [11, 12].map(|seed| File::of(seed, 100_000));
    let mut first = wanted(&name, &one);
    first.properties.insert("hw_disk_bus".into(), "virtio".into());
    let (outcome, acts) = done(images, &first, &one, NOW);
    assert_eq!(words(&acts), ["uploading", "uploaded", "changed"]);
    let id = outcome.id.clone();
    assert_eq!(named(images, &name)[0].id, id);

    // The same again does nothing at all.
    let (outcome, acts) = done(images, &first, &one, NOW + 1);
    assert_eq!((outcome.uploaded, outcome.changed, acts), (false, false, Vec::new()));

    // What others have set stays; what the recipe has no more goes; nothing is uploaded.
    let foreign = Change {
        set: BTreeMap::from([("owner_specified".into(), "yes".into())]),
        ..Change::default()
    };
    images.update(&id, &foreign).unwrap();
    first.properties.remove("hw_disk_bus");
    first.visibility = Visibility::Shared;
    let (outcome, acts) = done(images, &first, &one, NOW + 2);
    assert!(!outcome.uploaded && outcome.changed && outcome.id == id);
    assert_eq!(words(&acts), ["changed"]);
    let record = named(images, &name).remove(0);
    assert_eq!(record.own("owner_specified"), Some("yes"));
    assert_eq!(record.own("hw_disk_bus"), None);
    assert_eq!(record.visibility, Some(Visibility::Shared));

    // A new one takes the name; the old one is hidden and stays.
    let second = wanted(&name, &two);
    let (outcome, acts) = done(images, &second, &two, NOW + 3);
    assert_eq!(words(&acts), ["uploading", "uploaded", "changed", "superseded"]);
    assert_eq!(named(images, &name).len(), 1);
    assert_eq!(named(images, &name)[0].id, outcome.id);
    let old = images.get(&id).unwrap().unwrap();
    assert!(old.hidden && old.name.as_deref().unwrap().starts_with(&format!("{name} (superseded")));
    // When it happened, which is after the run began.
    assert!((NOW + 3..NOW + 600).contains(&old.superseded().unwrap()), "{old:?}");

    // Back to the first: it is there, and nothing is uploaded.
    let (outcome, acts) = done(images, &first, &one, NOW + 4);
    assert_eq!((outcome.id.as_str(), outcome.uploaded), (id.as_str(), false));
    assert_eq!(words(&acts), ["changed", "superseded"]);

    // A day later the other one may go, where it need not stay as one of the last.
    let (_, acts) = done(images, &first, &one, NOW + 2 * DAY);
    assert_eq!(acts, []);
    first.keep_last = 0;
    let (_, acts) = done(images, &first, &one, NOW + 3600);
    assert_eq!(acts, [], "it is too young");
    let (_, acts) = done(images, &first, &one, NOW + 2 * DAY);
    assert_eq!(words(&acts), ["expired"]);
    assert_eq!(images.list(&name).unwrap().len(), 1);
    images.delete(&id).unwrap();
}

/// Protection that came with the recipe ends when the image loses its name.
fn protection(images: &dyn Images) {
    let name = unique();
    let [one, two] = [21, 22].map(|seed| File::of(seed, 10_000));
    for (file, now) in [(&one, NOW), (&two, NOW + 1)] {
        let mut want = wanted(&name, file);
        want.protected = true;
        want.keep_last = 0;
        done(images, &want, file, now);
    }
    let mut want = wanted(&name, &two);
    want.protected = true;
    want.keep_last = 0;
    let (_, acts) = done(images, &want, &two, NOW + 2 * DAY);
    assert_eq!(words(&acts), ["expired"]);
    want.protected = false;
    let (outcome, acts) = done(images, &want, &two, NOW + 2 * DAY);
    assert_eq!(words(&acts), ["changed"]);
    // What somebody else protects is no business of the recipe.
    let protect = |protected| Change { protected: Some(protected), ..Change::default() };
    images.update(&outcome.id, &protect(true)).unwrap();
    let (_, acts) = done(images, &want, &two, NOW + 2 * DAY);
    assert_eq!(acts, []);
    images.update(&outcome.id, &protect(false)).unwrap();
    images.delete(&outcome.id).unwrap();
}

/// Names that mean something else where a list is asked for.
fn names(images: &dyn Images) {
    for name in ["debian:12", "in:a,b", "neq:x", "eq:", "50%_?&=#"] {
        let (name, file) = (format!("{name} {}", unique()), File::of(41, 1000));
        let want = wanted(&name, &file);
        let (outcome, _) = done(images, &want, &file, NOW);
        let (again, acts) = done(images, &want, &file, NOW + 1);
        assert_eq!((again.uploaded, acts), (false, Vec::new()), "{name}");
        // One that kiln has not made is found too, which has nothing but its name.
        assert_eq!(named(images, &name).len(), 1, "{name}");
        let bare =
            Change { unset: [own::NAME, own::ID].map(str::to_owned).into(), ..Change::default() };
        images.update(&outcome.id, &bare).unwrap();
        let (result, _) = at(images, &want, &file, NOW + 2);
        assert!(matches!(result, Err(PublishError::Foreign { .. })), "{name}: {result:?}");
        images.delete(&outcome.id).unwrap();
    }
}

#[test]
fn the_service_in_memory() {
    // It would say that names lead nowhere where a test removes what is published.
    for part in [calls, life, protection, names] {
        part(&Memory::forgetful(NOW));
    }
}

#[test]
fn debians_glance_without_keystone() {
    let glance = openstack::NOBODY.images();
    calls(&glance);
    life(&glance);
    protection(&glance);
    names(&glance);
}

#[test]
fn debians_glance_with_keystone() {
    let glance = openstack::CLOUD.images();
    calls(&glance);
    life(&glance);
}

#[test]
fn what_everybody_sees_needs_an_administrator() {
    let glance = openstack::CLOUD.images();
    let (name, file) = (unique(), File::of(31, 10_000));
    let mut want = wanted(&name, &file);
    want.visibility = Visibility::Public;
    let (result, _) = at(&glance, &want, &file, NOW);
    let error = result.unwrap_err();
    assert!(error.to_string().contains("does not let you change the image"), "{error}");
    assert_eq!(named(&glance, &name), []);
    // What was uploaded is not uploaded again.
    want.visibility = Visibility::Community;
    let (outcome, acts) = done(&glance, &want, &file, NOW);
    assert_eq!((outcome.uploaded, words(&acts)), (false, vec!["changed"]));
    assert_eq!(named(&glance, &name).len(), 1);
    glance.delete(&outcome.id).unwrap();
}
