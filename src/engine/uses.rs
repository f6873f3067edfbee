//! What builds used, noted for whoever collects garbage: the last builds of an image are kept, and
//! what they used is not old.

use std::collections::{BTreeMap, BTreeSet};

use super::Engine;
use crate::digest::StateId;
use crate::files::FileError;
use crate::output::Wanted;
use crate::plan::Actions;
use crate::store::gc;
use crate::store::refs::Built;

impl Engine<'_> {
    /// Notes the images whose outputs are as they were made: nothing else is looked at for them.
    pub(super) fn note_current(&self, outputs: &[Wanted], stale: &BTreeSet<usize>) {
        let current = outputs.iter().enumerate().filter(|(at, _)| !stale.contains(at));
        for (_, output) in current {
            let Some(record) = self.store.refs().output(&output.path) else { continue };
            let name = &self.workspace.graph.images[output.image].image.name.value;
            let built = Built { at: gc::now(), state: record.state, sealed: true };
            // Whoever may not write to the store has built nothing there either.
            let _ = self.store.refs().note_build(name, built);
        }
    }

    /// Notes how far each image came.
    pub(super) fn note_builds(
        &self,
        actions: &Actions,
        states: &BTreeMap<usize, StateId>,
    ) -> Result<(), FileError> {
        for chain in &actions.chains {
            let mut nodes = chain.nodes.iter().chain([&chain.seal]).rev();
            let last = nodes.find_map(|node| Some((node, *states.get(node)?)));
            if let Some((node, state)) = last {
                let name = &self.workspace.graph.images[chain.image].image.name.value;
                let built = Built { at: gc::now(), state, sealed: *node == chain.seal };
                self.store.refs().note_build(name, built)?;
            }
        }
        Ok(())
    }
}
