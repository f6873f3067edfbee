//! What lies in a store, and how much room it takes: for people who look at it.
//!
//! Nothing is locked or changed.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use super::inventory::{Inventory, on_disk};
use super::results::{Placement, Results};
use super::roots::{Roots, Why};
use super::{Store, StoreError, lease, retention, work};
use crate::digest::{ObjectId, StateId};
use crate::name::ImageName;

/// All of a store at one moment.
pub struct Survey {
    /// The results.
    pub results: Results,
    /// The objects.
    pub inventory: Inventory,
    /// When each state was last used, in seconds since 1970 in UTC.
    pub used: HashMap<StateId, u64>,
    /// Why states are kept; what these stand on is kept with them.
    pub kept: BTreeMap<StateId, BTreeSet<Why>>,
    /// Objects of running builds.
    held: BTreeSet<ObjectId>,
}

/// How many of something there are, and their bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize)]
pub struct Amount {
    /// How many.
    pub count: usize,
    /// Bytes.
    pub bytes: u64,
}

/// What takes how much.
#[derive(Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct Usage {
    /// Layers on nothing.
    pub bases: Amount,
    /// All other layers.
    pub layers: Amount,
    /// Manifests, reports, lists of packages, statements, lists of packed data.
    pub records: Amount,
    /// Objects that nothing names.
    pub unreferenced: Amount,
    /// Layers that were fetched in part, on disk.
    pub partial: Amount,
    /// Running builds, and what killed ones left, on disk.
    pub work: u64,
    /// Downloads on their way, on disk.
    pub downloads: u64,
    /// Logs, on disk.
    pub logs: u64,
}

/// What an image takes.
#[derive(Debug, PartialEq, Eq, serde::Serialize)]
pub struct ImageUsage {
    /// The image.
    pub image: ImageName,
    /// Bytes of the layers of its noted builds, with all that they stand on.
    pub bytes: u64,
    /// Bytes of these that no other image's builds have.
    pub alone: u64,
}

impl Survey {
    /// Looks at everything.
    ///
    /// # Errors
    /// Where something cannot be read.
    pub fn read(store: &Store, keep_builds: usize) -> Result<Self, StoreError> {
        let inventory = Inventory::read(store)?;
        let roots = Roots::read(store, keep_builds, lease::visible(store)?)?;
        let results = store.results()?;
        let used = retention::last_uses(&results, &inventory, &roots.used);
        Ok(Self { results, inventory, used, kept: roots.states, held: roots.objects })
    }

    /// Bytes of a layer that are in the store.
    #[must_use]
    pub fn layer_bytes(&self, placement: &Placement) -> u64 {
        let partial = self.inventory.partial.get(&placement.state).copied().unwrap_or_default();
        self.inventory.bytes(std::iter::once(placement.index).chain(placement.data)) + partial
    }

    /// What takes how much. An object that several layers name counts once, for a base if it is one's.
    #[must_use]
    pub fn usage(&self, store: &Store) -> Usage {
        let mut usage = Usage::default();
        let mut seen = HashSet::new();
        let mut layers: Vec<&Placement> = self.results.placements().collect();
        layers.sort_by_key(|placement| (placement.parent.is_some(), placement.state));
        for placement in layers {
            let new = placement.objects().filter(|id| Some(*id) != placement.pack);
            let new: Vec<ObjectId> = new.filter(|id| seen.insert(*id)).collect();
            let amount =
                if placement.parent.is_none() { &mut usage.bases } else { &mut usage.layers };
            amount.count += 1;
            amount.bytes += self.inventory.bytes(new);
        }
        let packs = self.results.placements().filter_map(|placement| placement.pack);
        let of_results = self.results.iter().flat_map(super::results::ActionResult::objects);
        for object in packs.chain(of_results) {
            if seen.insert(object) {
                usage.records.count += 1;
                usage.records.bytes += self.inventory.bytes([object]);
            }
        }
        for (id, stored) in &self.inventory.objects {
            if !seen.contains(id) && !self.held.contains(id) {
                usage.unreferenced.count += 1;
                usage.unreferenced.bytes += stored.bytes;
            }
        }
        let partial = &self.inventory.partial;
        usage.partial = Amount { count: partial.len(), bytes: partial.values().sum() };
        usage.downloads = on_disk(&work::downloads(store));
        usage.work = on_disk(&store.work()).saturating_sub(usage.downloads);
        usage.logs = on_disk(&store.root().join("logs"));
        usage
    }

    /// What each image's noted builds take, the largest first.
    ///
    /// # Errors
    /// Where the refs cannot be read.
    pub fn images(&self, store: &Store) -> Result<Vec<ImageUsage>, StoreError> {
        let mut of_images: Vec<(ImageName, HashSet<ObjectId>)> = Vec::new();
        let mut images_of: HashMap<ObjectId, usize> = HashMap::new();
        for image in store.refs().images()? {
            let builds = store.refs().builds(&image);
            let chains = builds.iter().flat_map(|built| self.results.ancestry(built.state));
            let objects: HashSet<ObjectId> =
                chains.flat_map(|layer| std::iter::once(layer.index).chain(layer.data)).collect();
            for object in &objects {
                *images_of.entry(*object).or_default() += 1;
            }
            of_images.push((image, objects));
        }
        let mut usages: Vec<_> = of_images
            .into_iter()
            .filter(|(_, objects)| !objects.is_empty())
            .map(|(image, objects)| {
                let alone = objects.iter().filter(|id| images_of[*id] == 1).copied();
                let alone = self.inventory.bytes(alone);
                ImageUsage { image, bytes: self.inventory.bytes(objects), alone }
            })
            .collect();
        usages.sort_by(|a, b| (b.bytes, &a.image).cmp(&(a.bytes, &b.image)));
        Ok(usages)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::layer::BLOCK_LEN;
    use crate::store::objects::Readers;
    use crate::store::refs::Built;
    use crate::store::samples::layer;
    use crate::store::work::Work;

    #[test]
    fn each_object_counts_once_and_each_image_for_itself() {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::open(directory.path()).unwrap();
        let running = Work::new(&store).unwrap();
        let base = layer(&store, &running, 1, None);
        let left = layer(&store, &running, 3, Some(base));
        let right = layer(&store, &running, 5, Some(base));
        // The same data as the base's, at another place.
        let twin = layer(&store, &running, 1, Some(left));
        store.objects().put(running.lease(), running.path(), b"in use", Readers::All).unwrap();
        let over = Work::new(&store).unwrap();
        store.objects().put(over.lease(), over.path(), b"garbage", Readers::All).unwrap();
        drop(over);
        for (image, state) in [("left", twin), ("right", right)] {
            let built = Built { at: 4_000_000_000, state, sealed: true };
            store.refs().note_build(&image.parse().unwrap(), built).unwrap();
        }
        let survey = Survey::read(&store, 1).unwrap();
        let usage = survey.usage(&store);
        // An index of one data block has 112 bytes.
        let (block, index) = (BLOCK_LEN as u64, 112);
        assert_eq!(usage.bases, Amount { count: 1, bytes: block + index });
        assert_eq!(usage.layers, Amount { count: 3, bytes: 2 * block + 3 * index });
        assert_eq!(usage.unreferenced, Amount { count: 1, bytes: 7 });
        assert_eq!(usage.records.count, 3);
        let images = survey.images(&store).unwrap();
        let images: Vec<_> = images.iter().map(|u| (u.image.as_str(), u.bytes, u.alone)).collect();
        assert_eq!(
            images,
            [
                ("left", 2 * block + 3 * index, block + 2 * index),
                ("right", 2 * block + 2 * index, block + index),
            ]
        );
        assert_eq!(survey.used[&base], 4_000_000_000, "what stands on it was used");
        assert!(survey.kept[&right].iter().any(|why| matches!(why, Why::Build(_))));
    }
}
