//! What has to be done, from what is there: pure, so that `--dry-run` and a run cannot differ.

use std::collections::BTreeMap;

use super::record::{Record, Status};
use super::{PublishError, Wanted, own};

/// What a run does, in this order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    /// What earlier runs began and did not finish; it is removed.
    pub unfinished: Vec<Record>,
    /// The image that gets the name, or has it.
    pub subject: Subject,
    /// The images that lose the name then.
    pub superseded: Vec<Record>,
    /// Superseded images that nobody wants any more; they are removed.
    pub expired: Vec<Record>,
    /// Superseded images that stay, and until when.
    pub left: Vec<Left>,
}

/// Where the published image comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Subject {
    /// It is uploaded.
    Upload,
    /// It is there with these very bytes.
    There(Box<Record>),
}

/// A superseded image that stays.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Left {
    /// The image.
    pub record: Record,
    /// When its time is over, in seconds since 1970; `None` where it stays as one of the last.
    pub until: Option<i64>,
}

/// The algorithms by which images are hashed that may have the bytes of the file: who knows these
/// hashes of it can plan.
pub(super) fn algorithms(records: &[Record], wanted: &Wanted) -> Vec<String> {
    let alike = records.iter().filter(|record| may_be(record, wanted));
    let mut found: Vec<_> = alike.filter_map(|record| record.hash_algorithm.clone()).collect();
    found.sort();
    found.dedup();
    found
}

fn may_be(record: &Record, wanted: &Wanted) -> bool {
    record.status == Status::Active
        && record.size == Some(wanted.size)
        && record.disk_format.as_deref() == Some(wanted.format)
        && record.is_made_for(&wanted.name)
}

/// Plans. `hashes` are those of the file by algorithm; `now` is in seconds since 1970.
///
/// # Errors
/// [`PublishError::Foreign`] where somebody else's image has the name and may keep it.
pub fn plan(
    records: &[Record],
    wanted: &Wanted,
    hashes: &BTreeMap<String, String>,
    now: i64,
) -> Result<Plan, PublishError> {
    let there = |record: &&Record| record.status != Status::Gone;
    let records: Vec<&Record> = records.iter().filter(there).collect();
    let is_ours = |record: &Record| record.is_made_for(&wanted.name);
    let named = |record: &&&Record| record.name.as_deref() == Some(&wanted.name);
    if let Some(other) = records.iter().filter(named).find(|record| !is_ours(record))
        && !wanted.take_over
    {
        return Err(PublishError::Foreign { id: other.id.clone(), name: wanted.name.clone() });
    }
    let same = |record: &&&Record| {
        let hash = record.hash_algorithm.as_ref().and_then(|name| hashes.get(name));
        may_be(record, wanted) && hash.is_some() && hash == record.hash.as_ref()
    };
    // The one that has the name already, else one that only lacks it, else one that once had it.
    let rank = |record: &&&Record| {
        (!record.has_name(&wanted.name), record.superseded().is_some(), record.id.clone())
    };
    let subject = records.iter().filter(same).min_by_key(rank).copied();
    let others = || records.iter().copied().filter(|record| Some(*record) != subject);

    let is_unfinished = |record: &&Record| is_ours(record) && record.unfinished().is_some();
    let unfinished = others().filter(is_unfinished).filter(|record| {
        let is_over = record.unfinished().is_some_and(|until| until < now);
        record.own(own::STATE) == Some(&wanted.state.to_string()) || is_over
    });
    let superseded: Vec<Record> =
        others().filter(|record| named(&record) && !is_unfinished(record)).cloned().collect();

    let mut old: Vec<(i64, &Record)> = others()
        .filter(|record| is_ours(record) && !is_unfinished(record))
        .filter_map(|record| Some((record.superseded()?, record)))
        .collect();
    old.sort_by_key(|(at, record)| (-at, record.id.clone()));
    // Those that are superseded now are the last ones.
    let last = wanted.keep_last.saturating_sub(superseded.len()).min(old.len());
    let (kept, rest) = old.split_at(last);
    let keep_old = i64::try_from(wanted.keep_old).unwrap_or(i64::MAX);
    let mut expired = Vec::new();
    let mut left: Vec<Left> =
        kept.iter().map(|(_, record)| Left { record: (*record).clone(), until: None }).collect();
    for (at, record) in rest {
        let until = at.saturating_add(keep_old);
        if until <= now {
            expired.push((*record).clone());
        } else {
            left.push(Left { record: (*record).clone(), until: Some(until) });
        }
    }
    Ok(Plan {
        unfinished: unfinished.cloned().collect(),
        subject: subject.map_or(Subject::Upload, |found| Subject::There(Box::new(found.clone()))),
        superseded,
        expired,
        left,
    })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;
    use crate::publish::record::utc;
    use crate::recipe::Visibility;

    const NOW: i64 = 1_800_000_000;
    const NAME: &str = "golden";

    fn wanted(keep_old: u64, keep_last: usize) -> Wanted {
        Wanted {
            name: NAME.to_owned(),
            image: NAME.to_owned(),
            seal: "11".repeat(32).parse().unwrap(),
            state: "22".repeat(32).parse().unwrap(),
            format: "raw",
            size: 7,
            visibility: Visibility::Private,
            protected: false,
            tags: BTreeSet::new(),
            properties: BTreeMap::new(),
            min_disk: 1,
            min_ram: 0,
            keep_old,
            keep_last,
            take_over: true,
        }
    }

    /// An image as one run or another may have left it.
    fn record() -> impl Strategy<Value = Record> {
        let status =
            [Status::Active, Status::Deactivated, Status::Gone, Status::Unfinished].as_slice();
        let old = prop::option::of(0..400_000_i64);
        (prop::sample::select(status), old, any::<[bool; 7]>(), -100_000..100_000_i64).prop_map(
            |(status, old, [ours, copied, named, hidden, same, state, unfinished], age)| {
                let mut properties = BTreeMap::new();
                let mut set = |key: &str, value: String| properties.insert(key.to_owned(), value);
                if ours || copied {
                    set(own::NAME, NAME.to_owned());
                    set(own::ID, if copied { "another" } else { "" }.to_owned());
                    set(own::STATE, if state { "22" } else { "33" }.repeat(32));
                    old.map(|old| set(own::SUPERSEDED, utc(NOW - old)));
                    unfinished.then(|| set(own::UNFINISHED, utc(NOW - age)));
                }
                Record {
                    id: String::new(),
                    name: Some(if named { NAME } else { "other" }.to_owned()),
                    status,
                    size: Some(7),
                    hash_algorithm: Some("sha512".to_owned()),
                    hash: Some(if same { "aa" } else { "bb" }.to_owned()),
                    visibility: Some(Visibility::Private),
                    hidden,
                    protected: false,
                    owner: None,
                    disk_format: Some("raw".to_owned()),
                    min_disk: 0,
                    min_ram: 0,
                    tags: BTreeSet::new(),
                    properties,
                    updated: Some(NOW - age.abs()),
                }
            },
        )
    }

    fn records() -> impl Strategy<Value = Vec<Record>> {
        prop::collection::vec(record(), 0..8).prop_map(|mut records| {
            for (at, record) in records.iter_mut().enumerate() {
                record.id = format!("id-{at}");
                if record.own(own::ID) == Some("") {
                    record.properties.insert(own::ID.to_owned(), record.id.clone());
                }
            }
            records
        })
    }

    /// One that kiln made, hidden, with these properties beside.
    fn made(name: &str, more: &[(&str, String)]) -> Record {
        let own = [(own::NAME, NAME.to_owned()), (own::ID, "id".to_owned())];
        let properties = own.iter().chain(more).map(|(key, value)| ((*key).into(), value.clone()));
        Record {
            id: "id".to_owned(),
            name: Some(name.to_owned()),
            status: Status::Active,
            size: Some(7),
            hash_algorithm: Some("sha512".to_owned()),
            hash: Some("bb".to_owned()),
            visibility: Some(Visibility::Private),
            hidden: true,
            protected: false,
            owner: None,
            disk_format: Some("raw".to_owned()),
            min_disk: 0,
            min_ram: 0,
            tags: BTreeSet::new(),
            properties: properties.collect(),
            updated: Some(NOW - 30 * 86_400),
        }
    }

    fn planned(record: &Record) -> Plan {
        plan(std::slice::from_ref(record), &wanted(1, 0), &BTreeMap::new(), NOW).unwrap()
    }

    #[test]
    fn an_upload_has_the_time_that_it_gave_itself() {
        let until = |at| made("golden.kiln-33", &[(own::UNFINISHED, utc(at))]);
        assert_eq!(planned(&until(NOW + 1)).unfinished, [], "it may still be finished");
        assert_eq!(planned(&until(NOW - 1)).unfinished.len(), 1);
        let odd = made("golden.kiln-33", &[(own::UNFINISHED, "true".to_owned())]);
        assert_eq!(planned(&odd).unfinished, [], "nobody knows when");
    }

    #[test]
    fn an_image_that_somebody_made_the_published_one_again_is_not_an_old_one() {
        let old = utc(NOW - 30 * 86_400);
        let mut record = made("golden (superseded)", &[(own::SUPERSEDED, old)]);
        assert_eq!(planned(&record).expired.len(), 1);
        record.hidden = false;
        assert_eq!(planned(&record).expired, [], "somebody shows it");
        record.name = Some(NAME.to_owned());
        let plan = planned(&record);
        assert_eq!((plan.expired.len(), plan.superseded.len()), (0, 1));
        assert_eq!(plan.superseded[0].superseded(), None);
    }

    proptest! {
        #[test]
        fn nothing_is_removed_that_may_be_wanted(
            records in records(), keep_old in 1..300_000_u64, keep_last in 0..4_usize,
        ) {
            let wanted = wanted(keep_old, keep_last);
            let hashes = BTreeMap::from([("sha512".to_owned(), "aa".to_owned())]);
            let plan = plan(&records, &wanted, &hashes, NOW).unwrap();
            for record in plan.expired.iter().chain(&plan.unfinished) {
                prop_assert_eq!(record.own(own::ID), Some(record.id.as_str()), "a copy");
                prop_assert!(record.hidden, "somebody may use it: {:?}", record);
            }
            for record in &plan.expired {
                prop_assert!(record.name.as_deref() != Some(NAME), "it has the name: {record:?}");
            }
            for record in &plan.expired {
                let age = NOW - record.superseded().expect("it was superseded");
                prop_assert!(age >= i64::try_from(keep_old).unwrap(), "too young: {record:?}");
            }
            // As many as are to stay do, where there are as many.
            let old = plan.expired.len() + plan.left.len();
            prop_assert!(plan.left.len() + plan.superseded.len() >= keep_last.min(old));
            // Nothing is in two lists, and the subject is in none.
            let mut ids: Vec<&str> = plan.expired.iter().map(|record| record.id.as_str())
                .chain(plan.unfinished.iter().map(|record| record.id.as_str()))
                .chain(plan.superseded.iter().map(|record| record.id.as_str()))
                .chain(plan.left.iter().map(|left| left.record.id.as_str()))
                .collect();
            if let Subject::There(record) = &plan.subject {
                prop_assert_eq!(record.hash.as_deref(), Some("aa"));
                prop_assert_eq!(record.status, Status::Active);
                ids.push(&record.id);
            }
            let once: BTreeSet<_> = ids.iter().collect();
            prop_assert_eq!(once.len(), ids.len());
        }
    }
}
