//! `OpenStack`: who one is in a cloud, and where its services are.
//!
//! It knows the environment and the `clouds.yaml` of whoever runs kiln, Keystone's version 3 and its
//! catalog; what the services themselves are asked is their clients' own. Where credentials go is
//! said by the user's own configuration alone: a recipe may name a cloud of it, and nothing else.
//!
//! Sources: "Configuring `OpenStack` SDK Applications" of openstacksdk for files and variables; the
//! Identity API v3 reference for requests and answers.

mod clouds;
mod keystone;

use std::path::PathBuf;

use crate::files::{self, FileError};
use crate::wire::{Fault, Patience, Redirects, Tls, Wire};
pub(crate) use clouds::Settings;
pub(crate) use keystone::Session;

/// Largest file of certificates in bytes.
const MAX_AUTHORITY: u64 = 4 << 20;

/// Which cloud is wanted, where something says it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Choice {
    /// The name of an entry of `clouds.yaml`.
    pub cloud: Option<String>,
    /// The region, in place of the configuration's own.
    pub region: Option<String>,
}

/// Why a cloud's configuration cannot be used.
#[derive(Debug, thiserror::Error, miette::Diagnostic)]
pub enum CloudError {
    /// Nothing says which cloud.
    #[error("it is not known which cloud is meant, and who you are there")]
    #[diagnostic(
        code(kiln::openstack::no_login),
        help(
            "set `OS_CLOUD` to a name in `clouds.yaml`, or `OS_AUTH_URL` and its like, as for the \
             `openstack` command"
        )
    )]
    Nothing,
    /// No file has that cloud.
    #[error("there is no cloud `{name}` in `clouds.yaml`")]
    #[diagnostic(code(kiln::openstack::no_such_cloud))]
    Unknown {
        /// The name that was asked for.
        name: String,
        /// What there is.
        #[help]
        help: String,
    },
    /// A file cannot be read.
    #[error(transparent)]
    #[diagnostic(transparent)]
    File(#[from] FileError),
    /// A file is no YAML, or not of this form. What it holds is not repeated: it holds passwords.
    #[error("`{}` cannot be understood{place}", path.display())]
    #[diagnostic(
        code(kiln::openstack::bad_clouds),
        help("it is YAML, with a mapping `clouds` of names to their settings")
    )]
    Malformed {
        /// The file.
        path: PathBuf,
        /// Where in it, such as ` in line 3`.
        place: String,
    },
    /// Something is not said.
    #[error("{cloud} says no `{what}`")]
    #[diagnostic(code(kiln::openstack::incomplete))]
    Incomplete {
        /// What was read, such as ``the cloud `prod` ``.
        cloud: String,
        /// What is missing.
        what: String,
        /// What to do.
        #[help]
        help: String,
    },
    /// A way to log in that kiln does not know.
    #[error("{cloud} wants the login `{kind}`, which kiln does not know")]
    #[diagnostic(
        code(kiln::openstack::unknown_login),
        help("it knows `password`, `v3applicationcredential`, `token` and `none`")
    )]
    Login {
        /// What was read.
        cloud: String,
        /// The `auth_type`.
        kind: String,
    },
    /// Its address is not that of a Keystone.
    #[error("there is no Keystone of version 3 at `{url}`, where {cloud} says it is")]
    #[diagnostic(
        code(kiln::openstack::no_keystone),
        help("check `auth_url`, or `OS_AUTH_URL`: the address of Keystone, with or without `/v3`")
    )]
    NoKeystone {
        /// What was read.
        cloud: String,
        /// The address, without secrets.
        url: String,
        /// What answers there.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The certificates of its authority are none, or TLS cannot be had.
    #[error("TLS cannot be spoken with {cloud}")]
    #[diagnostic(
        code(kiln::openstack::tls),
        help("check `cacert`: a file with certificates in PEM form")
    )]
    Tls {
        /// What was read.
        cloud: String,
        /// What is wrong.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

/// A cloud, and who one is there. Nothing was asked of it yet.
pub(crate) struct Cloud {
    /// What people call it.
    pub(crate) name: String,
    login: keystone::Login,
    region: Option<String>,
    interface: String,
    settings: Settings,
}

impl Cloud {
    /// The cloud that is meant: the one chosen, that of `OS_CLOUD`, that of the environment, or the
    /// only one of `clouds.yaml`.
    pub(crate) fn find(
        environment: &crate::environment::Environment,
        choice: &Choice,
    ) -> Result<Self, CloudError> {
        let settings = Settings::find(environment, choice.cloud.as_deref())?;
        Self::of(settings, choice.region.clone())
    }

    fn of(settings: Settings, region: Option<String>) -> Result<Self, CloudError> {
        Ok(Self {
            name: settings.name.clone(),
            login: keystone::Login::of(&settings)?,
            region: region.or_else(|| settings.region.clone()),
            interface: settings.interface.clone().unwrap_or_else(|| "public".to_owned()),
            settings,
        })
    }

    /// A client of this cloud's servers, which trusts whom the configuration trusts.
    pub(crate) fn wire(&self, patience: &Patience) -> Result<Wire, CloudError> {
        let authority = match &self.settings.authority {
            Some(path) => Some(files::read_bounded(path, MAX_AUTHORITY)?),
            None => None,
        };
        let tls = Tls { authority, verify: self.settings.verify };
        Wire::trusting(patience, Redirects::Within, &tls)
            .map_err(|error| CloudError::Tls { cloud: self.name.clone(), source: Box::new(error) })
    }

    /// Where Keystone is, with all that is written into its address; `None` where nobody logs in.
    pub(crate) fn keystone(&self) -> Option<&str> {
        match &self.login {
            keystone::Login::Nobody => None,
            keystone::Login::Keystone { .. } => self.settings.auth.get("auth_url"),
        }
        .map(String::as_str)
    }

    /// Logs in. [`Fault::Absent`] is that there is no Keystone.
    pub(crate) async fn log_in(&self, wire: &Wire) -> Result<Session, Fault> {
        self.login.log_in(wire).await
    }

    /// Where a service is, by its type in the catalog, such as `image`.
    pub(crate) fn endpoint(&self, session: &Session, service: &str) -> Result<String, Fault> {
        let own = self.settings.endpoints.get(&service.replace('-', "_"));
        let alone = || match self.login {
            keystone::Login::Nobody => self.settings.auth.get("endpoint"),
            keystone::Login::Keystone { .. } => None,
        };
        let own = own.or_else(alone).cloned();
        own.map_or_else(|| session.endpoint(service, self.region.as_deref(), &self.interface), Ok)
    }
}
