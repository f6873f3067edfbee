//! The environment variables by which programs of this host find their credentials.

use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Where programs of this host find their credentials: environment variables, by name.
#[derive(Clone)]
pub struct Environment(Arc<Lookup>);

type Lookup = dyn Fn(&str) -> Option<String> + Send + Sync;

impl Environment {
    /// This process's own.
    #[must_use]
    pub fn of_process() -> Self {
        Self(Arc::new(|name| std::env::var(name).ok()))
    }

    /// These variables and no others.
    #[must_use]
    pub fn of(pairs: &[(&str, &str)]) -> Self {
        let pairs: Vec<_> = pairs.iter().map(|&(n, v)| (n.to_owned(), v.to_owned())).collect();
        Self(Arc::new(move |name| {
            pairs.iter().find(|(known, _)| known == name).map(|(_, value)| value.clone())
        }))
    }

    /// The first of some variables that is set and not empty.
    pub(crate) fn get(&self, names: &[&str]) -> Option<String> {
        names.iter().find_map(|name| (self.0)(name).filter(|value| !value.is_empty()))
    }

    /// A path below the user's home.
    pub(crate) fn home(&self, below: &str) -> Option<PathBuf> {
        self.get(&["HOME"]).map(|home| Path::new(&home).join(below))
    }
}
