//! The files that a lane makes of a sealed state.

use std::path::Path;
use std::time::Instant;

use super::Event;
use super::lane::{Lane, Stop, host};
use crate::digest::StateId;
use crate::execute::SealedDisk;
use crate::files;
use crate::output::{self, Description, Layer, Wanted};
use crate::progress::size;
use crate::seal::SealReport;
use crate::store::LayerFiles;

impl Lane<'_, '_> {
    /// Opens a sealed state afresh.
    pub(super) fn open_sealed(
        &self,
        chain: &[LayerFiles],
        directory: &Path,
    ) -> Result<Box<dyn SealedDisk>, Stop> {
        let disk = directory.join("sealed");
        files::make_directory(&disk, 0o700).map_err(|error| host(&error))?;
        Ok(self.engine.executor.open_sealed(chain, &disk)?)
    }

    /// Writes outputs of a seal that is cached.
    pub(super) fn cached_outputs(
        &self,
        seal: usize,
        state: StateId,
        directory: &Path,
    ) -> Result<(), Stop> {
        let store = self.engine.store;
        // Two kilns must not write one file at a time.
        let _lock = self.wait_for_lock(&self.actions.nodes[seal])?;
        self.hold(state)?;
        let results = store.results().map_err(|error| host(&error))?;
        let key = self.actions.nodes[seal].key;
        let result = results.of_action(key).iter().find(|result| result.state == state);
        let report = result.and_then(|result| result.report).ok_or(Stop::Replan)?;
        let bytes = store.objects().read(report, 1 << 30);
        let report = bytes.ok().and_then(|bytes| serde_json::from_slice(&bytes).ok());
        let Some(report) = report else {
            // A seal whose report is gone or damaged is made again.
            store.drop_state(state).map_err(|error| host(&error))?;
            return Err(Stop::Replan);
        };
        let mut sealed = self.open_sealed(&self.chain(state)?, directory)?;
        self.write_outputs(seal, state, &report, &mut *sealed)?;
        Ok(sealed.close()?)
    }

    /// Writes the outputs of every image that has this seal.
    pub(super) fn write_outputs(
        &self,
        seal: usize,
        state: StateId,
        report: &SealReport,
        sealed: &mut dyn SealedDisk,
    ) -> Result<(), Stop> {
        let key = self.actions.nodes[seal].key;
        let trust = self.engine.trust();
        let results = self.engine.store.results().map_err(|error| host(&error))?;
        let signers = results.signers(key, state);
        for &number in &self.stale {
            let wanted = &self.outputs[number];
            if wanted.seal != key || wanted.is_current(self.engine.store, &trust) {
                continue;
            }
            let start = Instant::now();
            let temporary = wanted.temporary().map_err(|error| host(&error))?;
            let path = temporary.path.clone();
            let result = sealed.convert(wanted.format, &path).map_err(Stop::from).and_then(|()| {
                let description = self.describe(wanted, state, report)?;
                wanted
                    .finish(self.engine.store, temporary, &description, signers.clone())
                    .map_err(|error| host(&error))
            });
            if result.is_err() {
                let _ = std::fs::remove_file(&path);
            }
            result?;
            let bytes = std::fs::metadata(&wanted.path).map_or(0, |meta| meta.len());
            let took = crate::progress::duration(start.elapsed());
            let note = format!("  ({}, {took})", size(bytes));
            self.tell(Event::Written { output: number, note });
        }
        Ok(())
    }

    fn describe<'a>(
        &'a self,
        wanted: &Wanted,
        state: StateId,
        report: &'a SealReport,
    ) -> Result<Description<'a>, Stop> {
        let chain = self.actions.chains.iter().find(|chain| chain.image == wanted.image);
        let chain = chain.ok_or(Stop::Replan)?;
        let nodes = chain.nodes.iter().chain([&chain.seal]).map(|&node| &self.actions.nodes[node]);
        let layers = self
            .chain(state)?
            .into_iter()
            .map(|files| Layer { state: files.state, data: files.data.map(|data| data.object) });
        Ok(Description {
            image: self.engine.image(wanted.image),
            format: wanted.format.extension(),
            kiln: env!("CARGO_PKG_VERSION"),
            seal: wanted.seal,
            state,
            steps: nodes.map(|node| output::Step { name: &node.name, key: node.key }).collect(),
            layers: layers.collect(),
            report,
        })
    }
}
