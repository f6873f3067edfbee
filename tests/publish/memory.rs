//! An image service in memory, which dies or fails at a call that a test chooses, and checks after
//! each call what every moment must hold: a name that led to a whole image still does.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::fmt::Write as _;

use kiln::publish::{Change, Draft, Images, ImagesError, Record, Sent, Source, Status, own};
use kiln::recipe::Visibility;
use sha2::{Digest as _, Sha512};

/// What goes wrong with a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Trouble {
    /// kiln is killed before the call reaches the service. Nothing is called any more.
    DieBefore,
    /// kiln is killed when the call is done, without the answer.
    DieAfter,
    /// The call fails, and might succeed another time.
    Busy,
    /// The call is done, and its answer is lost.
    Lost,
}

/// The service.
pub(crate) struct Memory {
    images: RefCell<BTreeMap<String, (Record, Vec<u8>)>>,
    /// The names that led to a whole image.
    taken: RefCell<Vec<String>>,
    calls: Cell<u64>,
    trouble: Cell<Option<(u64, Trouble)>>,
    is_dead: Cell<bool>,
    /// Whether bytes are kept as they came.
    pub(crate) flips: Cell<bool>,
    /// Images that are in use.
    pub(crate) in_use: RefCell<Vec<String>>,
    now: Cell<i64>,
    /// Whether published images may be removed by hand.
    forgets: bool,
}

impl Memory {
    pub(crate) fn new(now: i64) -> Self {
        Self {
            images: RefCell::default(),
            taken: RefCell::default(),
            calls: Cell::new(0),
            trouble: Cell::new(None),
            is_dead: Cell::new(false),
            flips: Cell::new(false),
            in_use: RefCell::default(),
            now: Cell::new(now),
            forgets: false,
        }
    }

    /// One whose published images may be removed by hand.
    pub(crate) fn forgetful(now: i64) -> Self {
        Self { forgets: true, ..Self::new(now) }
    }

    /// From now on the call of that number, counted from nought, goes wrong.
    pub(crate) fn trouble(&self, call: u64, trouble: Trouble) {
        self.calls.set(0);
        self.trouble.set(Some((call, trouble)));
    }

    /// kiln is started anew, and all is well. Whether the trouble had come.
    pub(crate) fn heal(&self) -> bool {
        let struck = self.trouble.take().is_some_and(|(call, _)| call < self.calls.get());
        self.is_dead.set(false);
        self.calls.set(0);
        struck
    }

    pub(crate) fn set_now(&self, now: i64) {
        self.now.set(now);
    }

    /// How many calls came since all was well.
    pub(crate) fn calls(&self) -> u64 {
        self.calls.get()
    }

    /// All images.
    pub(crate) fn all(&self) -> Vec<Record> {
        self.images.borrow().values().map(|(record, _)| record.clone()).collect()
    }

    /// The bytes of an image.
    pub(crate) fn bytes(&self, id: &str) -> Vec<u8> {
        self.images.borrow()[id].1.clone()
    }

    /// Puts an image of somebody else's making there.
    pub(crate) fn put(&self, name: &str, bytes: &[u8]) {
        let mut record = blank(&format!("foreign-{name}"), name, self.now.get());
        fill(&mut record, bytes);
        record.hidden = false;
        self.images.borrow_mut().insert(record.id.clone(), (record, bytes.to_vec()));
        self.check();
    }

    /// Copies an image as Nova does for a snapshot of an instance: with all its properties, and with
    /// another id, name and bytes.
    pub(crate) fn copy(&self, id: &str, name: &str, bytes: &[u8]) -> String {
        let mut record = self.images.borrow()[id].0.clone();
        record.id = format!("{name}-of-{id}");
        record.name = Some(name.to_owned());
        record.hidden = false;
        record.protected = false;
        fill(&mut record, bytes);
        let id = record.id.clone();
        self.images.borrow_mut().insert(id.clone(), (record, bytes.to_vec()));
        id
    }

    /// Does a call, with what goes wrong with it.
    fn call<T>(&self, work: impl FnOnce() -> Result<T, ImagesError>) -> Result<T, ImagesError> {
        let dead = || ImagesError::Wrong {
            cloud: "memory".into(),
            doing: "go on".into(),
            source: "kiln is dead".into(),
        };
        let busy = || ImagesError::Unavailable {
            cloud: "memory".into(),
            doing: "answer".into(),
            source: "busy".into(),
        };
        if self.is_dead.get() {
            return Err(dead());
        }
        let number = self.calls.replace(self.calls.get() + 1);
        let trouble = self.trouble.get().filter(|(call, _)| *call == number);
        match trouble.map(|(_, trouble)| trouble) {
            None => {
                let result = work();
                self.check();
                result
            }
            Some(Trouble::DieBefore) => {
                self.is_dead.set(true);
                Err(dead())
            }
            Some(Trouble::DieAfter) => {
                let _ = work();
                self.check();
                self.is_dead.set(true);
                Err(dead())
            }
            Some(Trouble::Busy) => Err(busy()),
            Some(Trouble::Lost) => {
                let _ = work();
                self.check();
                Err(busy())
            }
        }
    }

    /// What every moment must hold.
    fn check(&self) {
        let images = self.images.borrow();
        let mut taken = self.taken.borrow_mut();
        for (record, bytes) in images.values() {
            let name = record.name.clone().unwrap_or_default();
            if !record.hidden {
                let whole = record.status == Status::Active
                    && record.size == Some(bytes.len() as u64)
                    && record.own(own::UNFINISHED).is_none();
                assert!(whole, "half of an image can be seen: {record:?}");
                if !taken.contains(&name) {
                    taken.push(name);
                }
            }
        }
        for name in &*taken {
            let leads = images.values().any(|(record, _)| record.has_name(name));
            assert!(leads || self.forgets, "`{name}` leads nowhere");
        }
    }

    fn conflict(doing: &str) -> ImagesError {
        ImagesError::Conflict { cloud: "memory".into(), doing: doing.into(), source: "409".into() }
    }
}

fn blank(id: &str, name: &str, now: i64) -> Record {
    Record {
        id: id.to_owned(),
        name: Some(name.to_owned()),
        status: Status::Unfinished,
        size: None,
        hash_algorithm: None,
        hash: None,
        visibility: Some(Visibility::Private),
        hidden: true,
        protected: false,
        owner: None,
        disk_format: Some("raw".to_owned()),
        min_disk: 0,
        min_ram: 0,
        tags: std::collections::BTreeSet::new(),
        properties: BTreeMap::new(),
        updated: Some(now),
    }
}

fn fill(record: &mut Record, bytes: &[u8]) {
    record.status = Status::Active;
    record.size = Some(bytes.len() as u64);
    record.hash_algorithm = Some("sha512".to_owned());
    let mut hash = String::new();
    for byte in Sha512::digest(bytes) {
        write!(hash, "{byte:02x}").unwrap();
    }
    record.hash = Some(hash);
}

impl Images for Memory {
    fn cloud(&self) -> &'static str {
        "memory"
    }

    fn list(&self, name: &str) -> Result<Vec<Record>, ImagesError> {
        self.call(|| {
            let fits = |record: &Record| {
                record.name.as_deref() == Some(name) || record.own(own::NAME) == Some(name)
            };
            Ok(self.all().into_iter().filter(fits).collect())
        })
    }

    fn get(&self, id: &str) -> Result<Option<Record>, ImagesError> {
        self.call(|| Ok(self.images.borrow().get(id).map(|(record, _)| record.clone())))
    }

    fn create(&self, draft: &Draft) -> Result<(), ImagesError> {
        self.call(|| {
            let mut record = blank(&draft.id, &draft.name, self.now.get());
            record.properties = draft.properties.clone();
            record.disk_format = Some(draft.disk_format.to_owned());
            self.images.borrow_mut().insert(draft.id.clone(), (record, Vec::new()));
            Ok(())
        })
    }

    fn upload(
        &self,
        id: &str,
        file: &Source,
        go_on: &dyn Fn(u64) -> bool,
    ) -> Result<Sent, ImagesError> {
        // Half of it is there first, as a call of its own that may be the last one.
        self.call(|| {
            let half = file.piece(0)?;
            let mut images = self.images.borrow_mut();
            let (_, bytes) = images.get_mut(id).ok_or_else(|| Self::conflict("upload"))?;
            *bytes = half[..half.len() / 2].to_vec();
            Ok(())
        })?;
        self.call(|| {
            let mut all = Vec::new();
            while (all.len() as u64) < file.size() {
                if !go_on(all.len() as u64) {
                    return Err(ImagesError::Interrupted);
                }
                all.extend(file.piece(all.len() as u64)?);
            }
            let sent = Sent {
                bytes: all.len() as u64,
                sha512: file.hash("sha512")?.expect("a known hash"),
            };
            if self.flips.get() {
                all[0] ^= 1;
            }
            let mut images = self.images.borrow_mut();
            let (record, bytes) = images.get_mut(id).ok_or_else(|| Self::conflict("upload"))?;
            fill(record, &all);
            *bytes = all;
            Ok(sent)
        })
    }

    fn update(&self, id: &str, change: &Change) -> Result<(), ImagesError> {
        self.call(|| {
            let mut images = self.images.borrow_mut();
            let (record, _) = images.get_mut(id).ok_or_else(|| Self::conflict("change"))?;
            if change.is_done(record) {
                return Ok(());
            }
            let Change { name, hidden, visibility, protected, min_disk, min_ram, tags, set, unset } =
                change.clone();
            record.name = name.or(record.name.take());
            record.hidden = hidden.unwrap_or(record.hidden);
            record.visibility = visibility.or(record.visibility);
            record.protected = protected.unwrap_or(record.protected);
            record.min_disk = min_disk.unwrap_or(record.min_disk);
            record.min_ram = min_ram.unwrap_or(record.min_ram);
            record.tags = tags.unwrap_or_else(|| record.tags.clone());
            record.properties.extend(set);
            for key in unset {
                assert!(record.properties.remove(&key).is_some(), "`{key}` is there");
            }
            record.updated = Some(self.now.get());
            Ok(())
        })
    }

    fn delete(&self, id: &str) -> Result<(), ImagesError> {
        self.call(|| {
            if self.in_use.borrow().iter().any(|used| used == id) {
                return Err(Self::conflict("remove an image in use"));
            }
            let mut images = self.images.borrow_mut();
            if images.get(id).is_some_and(|(record, _)| record.protected) {
                return Err(ImagesError::Refused {
                    cloud: "memory".into(),
                    doing: "remove it".into(),
                    source: "403".into(),
                });
            }
            images.remove(id);
            Ok(())
        })
    }
}
