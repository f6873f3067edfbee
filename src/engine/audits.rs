//! Disks held against what is required of them: sealed ones of a build, and foreign ones.

use std::fs::File;
use std::io::Write;
use std::path::Path;

use super::Event;
use super::lane::{Lane, Stop, host};
use crate::audit::{AuditReport, LEFT_TO_SEAL};
use crate::digest::{Digest, ObjectId};
use crate::disk::{capture, import, layer};
use crate::execute::{Fault, FaultKind};
use crate::files::{self, Context};
use crate::recipe::{DiskFormat, Requirement};
use crate::seal::SealReport;
use crate::store::{Data, LayerFiles};

impl Lane<'_, '_> {
    /// Holds a sealed disk against its requirements; one of severity `error` that fails is a fault,
    /// and the others are told.
    pub(super) fn audit(
        &self,
        image: usize,
        chain: &[LayerFiles],
        requirements: &[Requirement],
        report: &SealReport,
        directory: &Path,
    ) -> Result<AuditReport, Stop> {
        let disk = directory.join("audit");
        files::make_directory(&disk, 0o700).map_err(|error| host(&error))?;
        let packages = report.packages.as_deref();
        let audit = self.engine.executor.audit(chain, requirements, packages, &disk)?;
        let failures: Vec<String> = audit
            .failures()
            .map(|finding| format!("\n  {}: {}", finding.name, finding.verdict.seen()))
            .collect();
        if failures.is_empty() {
            for finding in audit.findings.iter().filter(|found| found.result() == "warning") {
                let (name, seen) = (&finding.name, finding.verdict.seen());
                let image = self.engine.image(image);
                self.tell(Event::Warning { text: format!("{image}: {name}: {seen}") });
            }
            return Ok(audit);
        }
        let count = failures.len();
        let message = format!(
            "the sealed image does not meet {count} of its requirements:{}",
            failures.concat()
        );
        let fault = Fault::new(FaultKind::Step, "kiln::engine::requirements", message);
        // The seal is what just happened.
        let mut advice = audit.failures().filter_map(|finding| finding.advice.clone());
        let advice = advice.find(|advice| advice != LEFT_TO_SEAL);
        Err(fault
            .with_help(advice.unwrap_or_else(|| {
                "repair it in a step behind `profile`, or write a profile of your own that has the \
                 requirement `without`"
                    .to_owned()
            }))
            .into())
    }
}

/// Takes a disk image of any format in, as a state that lies in a directory and in no store.
///
/// # Errors
/// Where it is no disk image, or cannot be read or copied.
pub fn foreign(
    image: &Path,
    format: Option<DiskFormat>,
    directory: &Path,
) -> Result<LayerFiles, Fault> {
    let raw = import::raw_disk(image, format, directory);
    let raw = raw.map_err(|error| Fault::of(FaultKind::Host, &error))?;
    let of_host = |error: &files::FileError| Fault::of(FaultKind::Host, error);
    let disk = File::open(&raw.path).context("open", &raw.path).map_err(|error| of_host(&error))?;
    let path = directory.join("layer");
    let data = File::create_new(&path).context("create", &path);
    let mut data = std::io::BufWriter::new(data.map_err(|error| of_host(&error))?);
    let mut written = 0;
    let index = capture::import_raw(&disk, &raw.path, raw.size, &mut |bytes| {
        written += bytes.len();
        data.write_all(bytes).context("write", &path)
    });
    let index = index.map_err(|error| Fault::of(FaultKind::Host, &error))?;
    data.flush().context("write", &path).map_err(|error| of_host(&error))?;
    if raw.path != image {
        std::fs::remove_file(&raw.path)
            .context("remove", &raw.path)
            .map_err(|error| of_host(&error))?;
    }
    let encoded = index.encode();
    let index = directory.join("index");
    std::fs::write(&index, &encoded).context("write", &index).map_err(|error| of_host(&error))?;
    // Nothing looks it up by that name: it lies here only as long as it is looked at.
    let object = ObjectId(Digest::of(&encoded));
    Ok(LayerFiles {
        state: layer::state_id(&encoded),
        index,
        data: (written > 0).then_some(Data { object, path, fetched_at: None }),
    })
}
