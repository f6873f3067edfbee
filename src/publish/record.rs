//! Images as the service has them, and what is changed of one, in the forms of its API.
//!
//! Source: Image service API v2, "Images"; RFC 6902 and 6901 for changes.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Map, Value, json};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::{Wanted, own};
use crate::recipe::Visibility;

/// Longest name without what kiln puts behind it.
const LONGEST: usize = 200;

/// An image of the service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// Its id.
    pub id: String,
    /// Its name; several images may have one.
    pub name: Option<String>,
    /// How far it is.
    pub status: Status,
    /// Its bytes, once it has them.
    pub size: Option<u64>,
    /// How it was hashed.
    pub hash_algorithm: Option<String>,
    /// Its hash, in hexadecimal digits.
    pub hash: Option<String>,
    /// Who sees it.
    pub visibility: Option<Visibility>,
    /// Whether it is left out of lists.
    pub hidden: bool,
    /// Whether nobody can delete it.
    pub protected: bool,
    /// Whose it is.
    pub owner: Option<String>,
    /// The format of its bytes.
    pub disk_format: Option<String>,
    /// Smallest disk of an instance in GiB.
    pub min_disk: u64,
    /// Smallest memory of an instance in MiB.
    pub min_ram: u64,
    /// Its tags.
    pub tags: BTreeSet<String>,
    /// Everything else that is a text.
    pub properties: BTreeMap<String, String>,
    /// When it was last changed, in seconds since 1970.
    pub updated: Option<i64>,
}

/// How far an image is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Status {
    /// It has all its bytes.
    Active,
    /// The same, and an administrator lets nobody have them.
    Deactivated,
    /// It is still there, and will not be.
    Gone,
    /// It has not all of its bytes.
    Unfinished,
}

impl Status {
    fn of(word: &str) -> Self {
        match word {
            "active" => Self::Active,
            "deactivated" => Self::Deactivated,
            "deleted" | "pending_delete" => Self::Gone,
            _ => Self::Unfinished,
        }
    }
}

/// A record to be made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Draft {
    /// Its id: a UUID of kiln's own choice.
    pub id: String,
    /// Its name until it is whole.
    pub name: String,
    /// The format of its bytes.
    pub disk_format: &'static str,
    /// Its properties.
    pub properties: BTreeMap<String, String>,
}

/// What changes of an image. What is `None` or empty stays.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Change {
    /// Its name.
    pub name: Option<String>,
    /// Whether it is left out of lists.
    pub hidden: Option<bool>,
    /// Who sees it.
    pub visibility: Option<Visibility>,
    /// Whether nobody can delete it.
    pub protected: Option<bool>,
    /// Smallest disk in GiB.
    pub min_disk: Option<u64>,
    /// Smallest memory in MiB.
    pub min_ram: Option<u64>,
    /// All its tags.
    pub tags: Option<BTreeSet<String>>,
    /// Properties with new values.
    pub set: BTreeMap<String, String>,
    /// Properties that go; each is there.
    pub unset: BTreeSet<String>,
}

impl Record {
    /// Reads one of an answer; `None` where it is no image.
    #[must_use]
    pub fn of(object: &Map<String, Value>) -> Option<Self> {
        let text = |key: &str| object.get(key).and_then(Value::as_str).map(str::to_owned);
        let flag = |key: &str| object.get(key).and_then(Value::as_bool).unwrap_or(false);
        let number = |key: &str| object.get(key).and_then(Value::as_u64);
        let visibility = text("visibility");
        let tags = object.get("tags").and_then(Value::as_array).into_iter().flatten();
        let properties = object.iter().filter_map(|(key, value)| {
            let own = BASE.contains(&key.as_str());
            value.as_str().filter(|_| !own).map(|value| (key.clone(), value.to_owned()))
        });
        Some(Self {
            id: text("id").filter(|id| is_id(id))?,
            name: text("name"),
            status: Status::of(&text("status")?),
            size: number("size"),
            hash_algorithm: text("os_hash_algo"),
            hash: text("os_hash_value"),
            visibility: Visibility::ALL
                .into_iter()
                .find(|known| Some(known.keyword()) == visibility.as_deref()),
            hidden: flag("os_hidden"),
            protected: flag("protected"),
            owner: text("owner"),
            disk_format: text("disk_format"),
            min_disk: number("min_disk").unwrap_or(0),
            min_ram: number("min_ram").unwrap_or(0),
            tags: tags.filter_map(Value::as_str).map(str::to_owned).collect(),
            properties: properties.collect(),
            updated: text("updated_at").and_then(|at| seconds(&at)),
        })
    }

    /// One of kiln's own properties.
    #[must_use]
    pub fn own(&self, property: &str) -> Option<&str> {
        self.properties.get(property).map(String::as_str)
    }

    /// Whether the name leads to it, for whoever looks for a name.
    #[must_use]
    pub fn has_name(&self, name: &str) -> bool {
        self.name.as_deref() == Some(name) && !self.hidden && self.status == Status::Active
    }

    /// Whether kiln made it for that name. Whoever copies an image copies its properties, as Nova
    /// does for a snapshot of an instance; but a copy has an id of its own.
    #[must_use]
    pub fn is_made_for(&self, name: &str) -> bool {
        self.own(own::NAME) == Some(name) && self.own(own::ID) == Some(&self.id)
    }

    /// When a newer image took its name, in seconds since 1970. One that somebody shows again, or
    /// gives the name back, is not superseded, whatever was noted of it.
    #[must_use]
    pub fn superseded(&self) -> Option<i64> {
        let counts = self.hidden && self.name.as_deref() != self.own(own::NAME);
        let at = self.own(own::SUPERSEDED).filter(|_| counts)?;
        Some(seconds(at).unwrap_or(i64::MAX))
    }

    /// When its upload will not be finished any more, in seconds since 1970; `None` where it was
    /// finished, or somebody shows it as it is.
    #[must_use]
    pub fn unfinished(&self) -> Option<i64> {
        let until = self.own(own::UNFINISHED).filter(|_| self.hidden)?;
        Some(seconds(until).unwrap_or(i64::MAX))
    }
}

/// What the service says of an image that is no property of it.
const BASE: &[&str] = &[
    "checksum",
    "container_format",
    "created_at",
    "direct_url",
    "disk_format",
    "file",
    "id",
    "name",
    "os_hash_algo",
    "os_hash_value",
    "owner",
    "schema",
    "self",
    "status",
    "stores",
    "updated_at",
    "visibility",
];

/// Whether a text of the service may be part of an address.
fn is_id(text: &str) -> bool {
    let fits = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
    !text.is_empty() && text.len() <= 64 && text.chars().all(fits)
}

/// A time of the service.
fn seconds(text: &str) -> Option<i64> {
    OffsetDateTime::parse(text, &Rfc3339).ok().map(OffsetDateTime::unix_timestamp)
}

/// Seconds since 1970 as a time in UTC, such as `2026-11-26T13:00:00Z`.
#[must_use]
pub fn utc(at: i64) -> String {
    let time = OffsetDateTime::from_unix_timestamp(at).unwrap_or(OffsetDateTime::UNIX_EPOCH);
    time.format(&Rfc3339).unwrap_or_default()
}

impl Draft {
    /// The record that an image has until it is whole, which it will be until then or never; in
    /// seconds since 1970.
    #[must_use]
    pub fn of(wanted: &Wanted, id: String, until: i64) -> Self {
        let mut properties = own_properties(wanted, &id);
        properties.insert(own::UNFINISHED.to_owned(), utc(until));
        let name = format!("{}.kiln-{}", shortened(&wanted.name), wanted.state.short());
        Self { id, name, disk_format: wanted.format, properties }
    }

    /// The body of the request that makes it.
    #[must_use]
    pub fn body(&self) -> Value {
        let mut body = json!({
            "id": self.id, "name": self.name, "disk_format": self.disk_format,
            "container_format": "bare", "visibility": Visibility::Private.keyword(),
            "os_hidden": true,
        });
        for (key, value) in &self.properties {
            body[key] = value.as_str().into();
        }
        body
    }
}

/// By what kiln finds an image again.
fn own_properties(wanted: &Wanted, id: &str) -> BTreeMap<String, String> {
    let pairs = [
        (own::NAME, wanted.name.clone()),
        (own::ID, id.to_owned()),
        (own::IMAGE, wanted.image.clone()),
        (own::SEAL, wanted.seal.to_string()),
        (own::STATE, wanted.state.to_string()),
        (own::FORMAT, wanted.format.to_owned()),
    ];
    pairs.into_iter().map(|(key, value)| (key.to_owned(), value)).collect()
}

/// A name that something is put behind.
fn shortened(name: &str) -> String {
    name.chars().take(LONGEST).collect()
}

impl Change {
    /// What makes an image the published one. Protection that kiln has not made stays.
    #[must_use]
    pub fn to_published(record: &Record, wanted: &Wanted) -> Self {
        let mut properties = own_properties(wanted, &record.id);
        properties.extend(wanted.properties.clone());
        let names: Vec<&str> = wanted.properties.keys().map(String::as_str).collect();
        properties.insert(own::PROPERTIES.to_owned(), names.join(","));
        // What kiln once set and the recipe has no more goes; what others have set stays.
        let before = record.own(own::PROPERTIES).unwrap_or_default().split(',');
        let gone = before.filter(|name| !name.is_empty() && !properties.contains_key(*name));
        let noted = (!wanted.protected).then_some(own::PROTECTED);
        let gone = gone.chain([own::UNFINISHED, own::SUPERSEDED]).chain(noted).map(str::to_owned);
        let unset = gone.filter(|name| record.properties.contains_key(name)).collect();
        let tags: BTreeSet<_> = record.tags.union(&wanted.tags).cloned().collect();
        let protected = match (wanted.protected, record.protected) {
            (true, false) => Some(true),
            (false, true) if record.own(own::PROTECTED).is_some() => Some(false),
            _ => None,
        };
        if protected == Some(true) {
            properties.insert(own::PROTECTED.to_owned(), "true".to_owned());
        }
        properties.retain(|key, value| record.properties.get(key) != Some(value));
        Self {
            name: differing(record.name.as_deref() == Some(&wanted.name), wanted.name.clone()),
            hidden: differing(!record.hidden, false),
            visibility: differing(record.visibility == Some(wanted.visibility), wanted.visibility),
            protected,
            min_disk: differing(record.min_disk == wanted.min_disk, wanted.min_disk),
            min_ram: differing(record.min_ram == wanted.min_ram, wanted.min_ram),
            tags: differing(record.tags == tags, tags),
            set: properties,
            unset,
        }
    }

    /// What hides an image whose name another one has got. Protection that kiln made goes; what
    /// somebody else protected stays so. One that kiln has not made does not become kiln's by that.
    #[must_use]
    pub fn to_superseded(record: &Record, name: &str, now: i64) -> Self {
        let at = utc(now);
        let is_noted = record.is_made_for(name) && record.own(own::PROTECTED).is_some();
        let noted = [(own::PROTECTED, is_noted), (own::UNFINISHED, record.is_made_for(name))];
        let unset = noted
            .into_iter()
            .filter(|(property, goes)| *goes && record.own(property).is_some())
            .map(|(property, _)| property.to_owned());
        Self {
            name: Some(format!("{} (superseded {at})", shortened(name))),
            hidden: differing(record.hidden, true),
            protected: differing(!(record.protected && is_noted), false),
            set: BTreeMap::from([(own::SUPERSEDED.to_owned(), at)]),
            unset: unset.collect(),
            ..Self::default()
        }
    }

    /// Whether an image is as the change makes it: by a call whose answer was lost, say.
    #[must_use]
    pub fn is_done(&self, record: &Record) -> bool {
        fn is<T: PartialEq>(wanted: Option<&T>, there: Option<&T>) -> bool {
            wanted.is_none() || wanted == there
        }
        let Self { name, hidden, visibility, protected, min_disk, min_ram, tags, set, unset } =
            self;
        is(name.as_ref(), record.name.as_ref())
            && is(hidden.as_ref(), Some(&record.hidden))
            && is(visibility.as_ref(), record.visibility.as_ref())
            && is(protected.as_ref(), Some(&record.protected))
            && is(min_disk.as_ref(), Some(&record.min_disk))
            && is(min_ram.as_ref(), Some(&record.min_ram))
            && is(tags.as_ref(), Some(&record.tags))
            && set.iter().all(|(key, value)| record.own(key) == Some(value))
            && unset.iter().all(|key| record.own(key).is_none())
    }

    /// Whether nothing changes.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// What changes, for people.
    #[must_use]
    pub fn words(&self) -> Vec<String> {
        let Self { name, hidden, visibility, protected, min_disk, min_ram, tags, set, unset } =
            self;
        let fields = [
            ("name", name.is_some()),
            ("os_hidden", hidden.is_some()),
            ("visibility", visibility.is_some()),
            ("protected", protected.is_some()),
            ("min_disk", min_disk.is_some()),
            ("min_ram", min_ram.is_some()),
            ("tags", tags.is_some()),
        ];
        let fields = fields.into_iter().filter(|(_, changes)| *changes).map(|(name, _)| name);
        fields
            .chain(set.keys().map(String::as_str))
            .chain(unset.iter().map(String::as_str))
            .map(str::to_owned)
            .collect()
    }

    /// The body of the request that makes the change: a JSON patch.
    #[must_use]
    pub fn body(&self) -> Value {
        let Self { name, hidden, visibility, protected, min_disk, min_ram, tags, set, unset } =
            self;
        let replaced = [
            ("name", name.as_ref().map(|name| json!(name))),
            ("os_hidden", hidden.map(Value::from)),
            ("visibility", visibility.map(|who| json!(who.keyword()))),
            ("protected", protected.map(Value::from)),
            ("min_disk", min_disk.map(Value::from)),
            ("min_ram", min_ram.map(Value::from)),
            ("tags", tags.as_ref().map(|tags| json!(tags))),
        ];
        let replaced = replaced.into_iter().filter_map(|(key, value)| {
            Some(json!({ "op": "replace", "path": pointer(key), "value": value? }))
        });
        // Of a property, `add` writes over what is there.
        let set = set
            .iter()
            .map(|(key, value)| json!({ "op": "add", "path": pointer(key), "value": value }));
        let unset = unset.iter().map(|key| json!({ "op": "remove", "path": pointer(key) }));
        replaced.chain(set).chain(unset).collect()
    }
}

fn differing<T>(same: bool, value: T) -> Option<T> {
    (!same).then_some(value)
}

/// A member as RFC 6901 points at it.
fn pointer(key: &str) -> String {
    format!("/{}", key.replace('~', "~0").replace('/', "~1"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_image_is_read_as_the_service_writes_it() {
        let answer = json!({
            "id": "71c6", "name": "golden", "status": "active", "size": 12, "os_hidden": true,
            "os_hash_algo": "sha512", "os_hash_value": "cf83", "visibility": "shared",
            "protected": false, "owner": null, "disk_format": "raw", "min_disk": 1, "min_ram": 0,
            "tags": ["b", "a"], "kiln_name": "golden", "updated_at": "2026-11-26T13:00:00Z",
            "self": "/v2/images/71c6", "schema": "/v2/schemas/image", "locations": [],
        });
        let record = Record::of(answer.as_object().unwrap()).unwrap();
        assert_eq!(record.updated.map(utc).as_deref(), Some("2026-11-26T13:00:00Z"));
        assert_eq!(record.visibility, Some(Visibility::Shared));
        assert!(record.hidden && record.owner.is_none() && !record.has_name("golden"));
        let properties = BTreeMap::from([("kiln_name".to_owned(), "golden".to_owned())]);
        assert_eq!(record.properties, properties);
        for id in ["", "../x", "a/b", "a?b"] {
            let mut odd = answer.clone();
            odd["id"] = id.into();
            assert_eq!(Record::of(odd.as_object().unwrap()), None, "{id}");
        }
    }

    #[test]
    fn a_change_is_a_patch() {
        let change = Change {
            name: Some("golden".into()),
            hidden: Some(false),
            set: BTreeMap::from([("a/b~c".into(), "1".into())]),
            unset: BTreeSet::from(["kiln_unfinished".into()]),
            ..Change::default()
        };
        assert_eq!(
            change.body(),
            json!([
                { "op": "replace", "path": "/name", "value": "golden" },
                { "op": "replace", "path": "/os_hidden", "value": false },
                { "op": "add", "path": "/a~1b~0c", "value": "1" },
                { "op": "remove", "path": "/kiln_unfinished" },
            ])
        );
        assert!(Change::default().is_empty() && !change.is_empty());
    }
}
