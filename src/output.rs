//! Files made from a sealed state: written under a temporary name, renamed, described beside.
//!
//! An output never sees a working disk. Whether one has to be made is told by its record in the
//! store, without a look at anything below it.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use serde::Serialize;

use crate::digest::{ActionKey, ObjectId, StateId};
use crate::files::{self, Context, FileError, Host, Stamp};
use crate::recipe::OutputFormat;
use crate::remote::trust::Trust;
use crate::seal::SealReport;
use crate::store::Store;
use crate::store::refs::OutputRecord;

/// An output of an image, with everything that decides its bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wanted {
    /// The image's place in the graph.
    pub image: usize,
    /// Where it goes: an absolute path.
    pub path: PathBuf,
    /// The format.
    pub format: OutputFormat,
    /// The seal that it is made from.
    pub seal: ActionKey,
}

/// What the file beside an output says, for people and their scripts.
#[derive(Debug, Serialize)]
pub struct Description<'a> {
    /// The image.
    pub image: &'a str,
    /// The output's format.
    pub format: &'a str,
    /// The version of kiln that made it.
    pub kiln: &'a str,
    /// The key of its seal.
    pub seal: ActionKey,
    /// The sealed state.
    pub state: StateId,
    /// The actions, base first.
    pub steps: Vec<Step<'a>>,
    /// The layers of the sealed state, base first.
    pub layers: Vec<Layer>,
    /// What the seal did and found, with the packages installed.
    pub report: &'a SealReport,
}

/// One action of an image.
#[derive(Debug, Serialize)]
pub struct Step<'a> {
    /// `IMAGE/STEP`.
    pub name: &'a str,
    /// Its key.
    pub key: ActionKey,
}

/// One layer of a state.
#[derive(Debug, Serialize)]
pub struct Layer {
    /// The state that it leads to.
    pub state: StateId,
    /// The object with its blocks.
    pub data: Option<ObjectId>,
}

/// The file that becomes an output.
#[derive(Debug)]
pub struct Temporary {
    /// Where it is until then.
    pub path: PathBuf,
    /// The same, open: what is put in place is this file and no other.
    file: File,
}

impl Wanted {
    /// Whether the file is there as it was made, from this seal and in this format, on the word of
    /// nobody whose key was revoked.
    #[must_use]
    pub fn is_current(&self, store: &Store, trust: &Trust) -> bool {
        self.record(store, trust).is_some_and(|record| Stamp::of(&self.path) == Some(record.stamp))
    }

    /// What is noted of the file, where it was made from this seal and in this format, on the word of
    /// nobody whose key was revoked. Whether that file is still there is told by its stamp.
    #[must_use]
    pub fn record(&self, store: &Store, trust: &Trust) -> Option<OutputRecord> {
        store.refs().output(&self.path).filter(|record| {
            record.seal == self.seal
                && record.format == format_text(self.format)
                && record.signers.iter().all(|signer| trust.allows(Some(signer)))
        })
    }

    /// The path of the description.
    #[must_use]
    pub fn description(&self) -> PathBuf {
        let mut name = self.path.file_name().unwrap_or_default().to_owned();
        name.push(".json");
        self.path.with_file_name(name)
    }

    /// Makes the temporary file into which the output is written, in the directory where it goes,
    /// readable by nobody else: it will hold the guest's `/etc/shadow`.
    ///
    /// # Errors
    /// Where it, or its directory, cannot be made.
    pub fn temporary(&self) -> Result<Temporary, FileError> {
        use std::os::unix::fs::OpenOptionsExt;
        use std::sync::atomic::{AtomicU64, Ordering};
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let directory = self.path.parent().unwrap_or(Path::new("/"));
        make_beside(directory)?;
        files::sweep(directory)?;
        let name = self.path.file_name().unwrap_or_default().to_string_lossy();
        let (pid, number) = (std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let path = directory.join(format!(".{name}.{pid}-{number}{}", files::TEMPORARY));
        let file = fs::OpenOptions::new()
            .read(true)
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&path)
            .context("create", &path)?;
        Ok(Temporary { path, file })
    }

    /// Gives a file to whoever owns the directory that it goes to, and to nobody else.
    fn give_away(&self, file: &File, temporary: &Path) -> Result<(), FileError> {
        use std::os::unix::fs::{MetadataExt, PermissionsExt, fchown};
        let directory = self.path.parent().unwrap_or(Path::new("/"));
        let meta = fs::metadata(directory).context("look at", directory)?;
        // A file system of a network may not let it be given; it then stays root's.
        let _ = fchown(file, Some(meta.uid()), Some(meta.gid()));
        file.set_permissions(fs::Permissions::from_mode(0o640)).context("give away", temporary)
    }

    /// Puts a temporary file that has been written in place, then its description, then the record
    /// in the store. `signers` are the keys on whose word the state rests.
    ///
    /// # Errors
    /// Where one of them cannot be written.
    pub fn finish(
        &self,
        store: &Store,
        temporary: Temporary,
        description: &Description<'_>,
        signers: BTreeSet<String>,
    ) -> Result<(), FileError> {
        let Temporary { path: temporary, file } = temporary;
        self.give_away(&file, &temporary)?;
        file.sync_all().context("sync", &temporary)?;
        fs::rename(&temporary, &self.path).context("rename into place", &self.path)?;
        let text = serde_json::to_vec_pretty(description).expect("plain data");
        files::replace(&Host, &self.description(), &text)?;
        let stamp = Stamp::of(&self.path).ok_or_else(|| FileError {
            doing: "look at",
            path: self.path.clone(),
            source: io::ErrorKind::NotFound.into(),
        })?;
        store.refs().set_output(&OutputRecord {
            path: self.path.clone(),
            seal: self.seal,
            state: description.state,
            format: format_text(self.format),
            stamp,
            signers,
        })
    }
}

/// Makes a directory, owned like the nearest one that is there: `kiln` may run under `sudo` in
/// somebody's workspace.
fn make_beside(directory: &Path) -> Result<(), FileError> {
    use std::os::unix::fs::{MetadataExt, chown};
    if directory.exists() {
        return Ok(());
    }
    let there = directory.ancestors().find(|path| path.exists()).unwrap_or(Path::new("/"));
    let meta = fs::metadata(there).context("look at", there)?;
    files::make_directory(directory, 0o755)?;
    for made in directory.ancestors().take_while(|path| *path != there) {
        chown(made, Some(meta.uid()), Some(meta.gid())).context("give away", made)?;
    }
    Ok(())
}

/// The format and its options as the record has them.
#[must_use]
pub fn format_text(format: OutputFormat) -> String {
    match format {
        OutputFormat::Qcow2 { compress: true } => "qcow2, compressed".to_owned(),
        OutputFormat::Qcow2 { compress: false } => "qcow2".to_owned(),
        OutputFormat::Raw => "raw".to_owned(),
    }
}
