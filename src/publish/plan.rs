//! What has to be done, from what is there: pure, so that `--dry-run` and a run cannot differ.

use std::collections::BTreeMap;

use super::record::{Record, Status};
use super::{PublishError, Wanted, own};

/// After so many seconds without a change, what another run has begun will not be finished.
const ABANDONED: i64 = 6 * 3_600;

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
        && record.own(own::NAME) == Some(&wanted.name)
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
    let is_ours = |record: &Record| record.own(own::NAME) == Some(&wanted.name);
    let named = |record: &&&Record| {
        record.name.as_deref() == Some(&wanted.name) && record.superseded().is_none()
    };
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

    let is_unfinished = |record: &&Record| {
        is_ours(record)
            && (record.status == Status::Unfinished || record.own(own::UNFINISHED).is_some())
    };
    let unfinished = others().filter(is_unfinished).filter(|record| {
        let age = record.updated.map_or(i64::MAX, |at| now.saturating_sub(at));
        record.own(own::STATE) == Some(&wanted.state.to_string()) || age > ABANDONED
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
        (prop::sample::select(status), old, any::<[bool; 5]>(), 0..100_000_i64).prop_map(
            |(status, old, [ours, named, same, state, unfinished], age)| {
                let mut properties = BTreeMap::new();
                let mut set = |key: &str, value: String| properties.insert(key.to_owned(), value);
                if ours {
                    set(own::NAME, NAME.to_owned());
                    set(own::STATE, if state { "22" } else { "33" }.repeat(32));
                    old.map(|old| set(own::SUPERSEDED, utc(NOW - old)));
                    unfinished.then(|| set(own::UNFINISHED, "true".to_owned()));
                }
                Record {
                    id: String::new(),
                    name: Some(if named { NAME } else { "other" }.to_owned()),
                    status,
                    size: Some(7),
                    hash_algorithm: Some("sha512".to_owned()),
                    hash: Some(if same { "aa" } else { "bb" }.to_owned()),
                    visibility: Some(Visibility::Private),
                    hidden: !named,
                    protected: false,
                    owner: None,
                    disk_format: Some("raw".to_owned()),
                    min_disk: 0,
                    min_ram: 0,
                    tags: BTreeSet::new(),
                    properties,
                    updated: Some(NOW - age),
                }
            },
        )
    }

    fn records() -> impl Strategy<Value = Vec<Record>> {
        prop::collection::vec(record(), 0..8).prop_map(|mut records| {
            for (at, record) in records.iter_mut().enumerate() {
                record.id = format!("id-{at}");
            }
            records
        })
    }

    proptest! {
        #[test]
        fn nothing_is_removed_that_may_be_wanted(
            records in records(), keep_old in 1..300_000_u64, keep_last in 0..4_usize,
        ) {
            let wanted = wanted(keep_old, keep_last);
            let hashes = BTreeMap::from([("sha512".to_owned(), "aa".to_owned())]);
            let plan = plan(&records, &wanted, &hashes, NOW).unwrap();
            let is_ours = |record: &Record| record.own(own::NAME) == Some(NAME);
            for record in plan.expired.iter().chain(&plan.unfinished) {
                prop_assert!(is_ours(record), "somebody else's: {record:?}");
                prop_assert!(!record.has_name(NAME) || record.own(own::UNFINISHED).is_some()
                    || record.superseded().is_some(), "the published one: {record:?}");
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
