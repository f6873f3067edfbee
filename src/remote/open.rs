//! Which backend an address means, and with whose credentials.
//!
//! Credentials come from the host's own configuration, and go only to where that configuration sends
//! them: `kiln.kdl` is a file of a repository, and must not be able to lead a token elsewhere. So an
//! endpoint that it names is taken only where requests are signed and no secret is sent.

use std::path::{Path, PathBuf};
use std::sync::Mutex;

use opendal::services::{Azblob, Fs, Gcs, Http, S3, Webdav};
use opendal::{Builder, HttpTransport, HttpTransporter, OperationContext, Operator};

use super::backend::{Backend, RemoteError};
use super::call::Caller;
use super::objects::{Leases, Objects};
use super::read_only::ReadOnly;
use super::registry::{Registry, Repository};
use super::swift::Account;
use super::{directory, swift, transport};
use crate::environment::Environment;
use crate::files;
use crate::openstack::CloudError;
use crate::recipe::RemoteSource;
use crate::wire::{Cause, Patience, Redirects, Wire};

/// Largest file with credentials.
const MAX_NETRC: u64 = 1 << 20;
/// What is told where nothing says which Swift is meant.
const NOBODY: &str = "who you are is not known: set `OS_CLOUD`, `OS_AUTH_URL` and its like, \
    `OS_STORAGE_URL` with `OS_AUTH_TOKEN`, or `ST_AUTH`, `ST_USER` and `ST_KEY`";

/// Opens a remote. Nothing is asked of it yet.
///
/// # Errors
/// [`RemoteError::Unusable`] where the address, its settings or the credentials cannot be right.
pub fn open(source: &RemoteSource, patience: &Patience) -> Result<Box<dyn Backend>, RemoteError> {
    open_in(source, patience, &Environment::of_process())
}

/// Opens a remote with the credentials of another environment.
///
/// # Errors
/// As [`open`].
pub fn open_in(
    source: &RemoteSource,
    patience: &Patience,
    environment: &Environment,
) -> Result<Box<dyn Backend>, RemoteError> {
    let remote = source.name.value.to_string();
    let caller = Caller { remote: remote.clone(), patience: *patience };
    let opening = Opening { source, environment, caller };
    match opening.backend() {
        Ok(backend) if source.read_only => Ok(Box::new(ReadOnly(backend))),
        Ok(backend) => Ok(backend),
        Err(Hitch::Why(why)) => Err(RemoteError::Unusable { remote, why }),
        Err(Hitch::Cause(doing, source)) => {
            Err(RemoteError::Unavailable { remote, doing: doing.to_owned(), source })
        }
    }
}

/// Why a remote is not opened.
enum Hitch {
    /// What was said of it cannot be right.
    Why(String),
    /// The host failed in doing something.
    Cause(&'static str, Cause),
}

impl From<String> for Hitch {
    fn from(why: String) -> Self {
        Self::Why(why)
    }
}

impl From<&str> for Hitch {
    fn from(why: &str) -> Self {
        Self::Why(why.to_owned())
    }
}

/// What became of opening one.
type Opened = Result<Box<dyn Backend>, Hitch>;

/// An address in its parts.
#[derive(Debug, PartialEq, Eq)]
struct Address<'a> {
    scheme: &'a str,
    /// A bucket, a container, or a server with its port.
    place: &'a str,
    /// What comes behind it, without slashes at its ends.
    path: &'a str,
}

impl<'a> Address<'a> {
    /// `None` where it is a path.
    fn parse(text: &'a str) -> Result<Option<Self>, String> {
        let Some((scheme, rest)) = text.split_once("://") else { return Ok(None) };
        let (place, path) = rest.split_once('/').unwrap_or((rest, ""));
        if place.contains('@') {
            return Err("credentials do not belong in an address, which others read".into());
        }
        let odd = |c: char| c.is_control() || c.is_whitespace() || matches!(c, '?' | '#' | '\\');
        if text.chars().any(odd) {
            return Err("there is a character in its address that means nothing there".into());
        }
        if place.is_empty() && scheme != "file" {
            return Err("its address names no place".into());
        }
        Ok(Some(Self { scheme, place, path: path.trim_matches('/') }))
    }
}

struct Opening<'a> {
    source: &'a RemoteSource,
    environment: &'a Environment,
    caller: Caller,
}

impl Opening<'_> {
    fn backend(self) -> Opened {
        let text = &self.source.address.value;
        let Some(address) = Address::parse(text)? else {
            return self.directory(Path::new(text));
        };
        match address.scheme {
            "s3" => self.s3(&address),
            "gs" => self.gcs(&address),
            "azblob" => self.azblob(&address),
            "swift" => self.swift(&address),
            "webdav" => self.webdav(&address, "https"),
            "webdav+http" => self.webdav(&address, "http"),
            "https" | "http" => self.web(&address),
            "oci" => self.registry(&address, "https"),
            "oci+http" => self.registry(&address, "http"),
            "file" => self.directory(Path::new(&format!("/{}", address.path))),
            other => Err(format!("kiln knows no remotes of the kind `{other}://`").into()),
        }
    }

    fn s3(self, address: &Address<'_>) -> Opened {
        let get = |names: &[&str]| self.environment.get(names);
        let mut builder = S3::default().bucket(address.place).root(address.path);
        let endpoint = self.source.endpoint.clone();
        let endpoint = endpoint.or_else(|| get(&["AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL"]));
        let region = self.source.region.clone();
        let region = region.or_else(|| get(&["AWS_REGION", "AWS_DEFAULT_REGION"]));
        // Servers of one's own have no regions, but a signature names one.
        let region = region.or_else(|| endpoint.as_ref().map(|_| "us-east-1".to_owned()));
        let Some(region) = region else {
            return Err("its region is not known: write `region=`, or set `AWS_REGION`".into());
        };
        builder = builder.region(&region);
        if let Some(endpoint) = &endpoint {
            builder = builder.endpoint(endpoint);
        }
        if let (Some(id), Some(secret)) =
            (get(&["AWS_ACCESS_KEY_ID"]), get(&["AWS_SECRET_ACCESS_KEY"]))
        {
            builder = builder.access_key_id(&id).secret_access_key(&secret);
            if let Some(token) = get(&["AWS_SESSION_TOKEN"]) {
                builder = builder.session_token(&token);
            }
        }
        let wire = self.wire(Redirects::Within)?;
        self.store(builder, wire, Leases::Conditional(Mutex::default()))
    }

    fn gcs(self, address: &Address<'_>) -> Opened {
        self.no_endpoint()?;
        let mut builder = Gcs::default().bucket(address.place).root(address.path);
        if let Some(file) = self.environment.get(&["GOOGLE_APPLICATION_CREDENTIALS"]) {
            builder = builder.credential_path(&file);
        }
        let wire = self.wire(Redirects::Within)?;
        self.store(builder, wire, Leases::Conditional(Mutex::default()))
    }

    fn azblob(self, address: &Address<'_>) -> Opened {
        self.no_endpoint()?;
        let get = |names: &[&str]| self.environment.get(names);
        let mut builder = if let Some(text) = get(&["AZURE_STORAGE_CONNECTION_STRING"]) {
            // What it holds is not repeated, as it holds the key.
            Azblob::from_connection_string(&text)
                .map_err(|_| "`AZURE_STORAGE_CONNECTION_STRING` cannot be read")?
        } else {
            let account = get(&["AZURE_STORAGE_ACCOUNT_NAME", "AZURE_STORAGE_ACCOUNT"]);
            let account = account.ok_or("its account is not known: set `AZURE_STORAGE_ACCOUNT`")?;
            let mut builder = Azblob::default()
                .endpoint(&format!("https://{account}.blob.core.windows.net"))
                .account_name(&account);
            if let Some(key) = get(&["AZURE_STORAGE_ACCOUNT_KEY", "AZURE_STORAGE_KEY"]) {
                builder = builder.account_key(&key);
            }
            if let Some(token) = get(&["AZURE_STORAGE_SAS_TOKEN"]) {
                builder = builder.sas_token(&token);
            }
            builder
        };
        builder = builder.container(address.place).root(address.path);
        let wire = self.wire(Redirects::Within)?;
        self.store(builder, wire, Leases::Conditional(Mutex::default()))
    }

    fn swift(self, address: &Address<'_>) -> Opened {
        self.no_endpoint()?;
        let why = |error: CloudError| match error {
            CloudError::Nothing => Hitch::Why(NOBODY.to_owned()),
            error => Hitch::Cause("find who you are", Box::new(error)),
        };
        let account = Account::of(self.environment, self.source.region.clone()).map_err(why)?;
        let builder = swift::builder().container(address.place).root(address.path);
        let wire =
            swift::Transport::new(account.wire(&self.caller.patience).map_err(why)?, account);
        self.store(builder, wire, Leases::Never)
    }

    fn webdav(self, address: &Address<'_>, scheme: &str) -> Opened {
        self.no_endpoint()?;
        let mut builder =
            Webdav::default().endpoint(&format!("{scheme}://{}", address.place)).root(address.path);
        if let Some((user, password)) = self.netrc(address.place)? {
            builder = builder.username(&user).password(&password);
        }
        let wire = self.wire(Redirects::Within)?;
        self.store(builder, wire, Leases::Never)
    }

    fn web(self, address: &Address<'_>) -> Opened {
        self.no_endpoint()?;
        if !self.source.read_only {
            return Err("a web server is only read: write `read-only=#true`".into());
        }
        let mut builder = Http::default()
            .endpoint(&format!("{}://{}", address.scheme, address.place))
            .root(address.path);
        if let Some((user, password)) = self.netrc(address.place)? {
            builder = builder.username(&user).password(&password);
        }
        let wire = self.wire(Redirects::Anywhere)?;
        self.store(builder, wire, Leases::Never)
    }

    fn directory(self, path: &Path) -> Opened {
        self.no_endpoint()?;
        if !path.is_absolute() {
            return Err("a directory is written with its whole path".into());
        }
        // Where a file system is not mounted, its empty place must not be filled.
        if !path.is_dir() {
            return Err(format!("there is no directory `{}`", path.display()).into());
        }
        let root = path.to_str().ok_or("its path is no text")?;
        let mut builder = Fs::default().root(root);
        if !self.source.read_only {
            directory::prepare(path)
                .map_err(|error| Hitch::Cause("prepare its directory", Box::new(error)))?;
            let incoming = path.join(directory::INCOMING);
            builder = builder.atomic_write_dir(incoming.to_str().unwrap_or(root));
        }
        let operator = Operator::new(builder).map_err(not_set_up)?;
        let leases = Leases::Links(path.to_owned());
        Ok(Box::new(Objects { caller: self.caller, operator, leases, in_place: false }))
    }

    fn registry(self, address: &Address<'_>, scheme: &str) -> Opened {
        self.no_endpoint()?;
        let repository = Repository::new(scheme, address.place, address.path)?;
        let wire = self.wire(Redirects::Anywhere)?;
        Ok(Box::new(Registry::new(self.caller, wire, repository, self.environment.clone())))
    }

    fn wire(&self, redirects: Redirects) -> Result<Wire, Hitch> {
        Wire::new(&self.caller.patience, redirects)
            .map_err(|error| Hitch::Cause("speak HTTP", Box::new(error)))
    }

    fn store(self, builder: impl Builder, transport: impl HttpTransport, leases: Leases) -> Opened {
        let operator = Operator::new(builder).map_err(not_set_up)?;
        let transport = HttpTransporter::new(transport);
        let context = OperationContext::from_parts(transport, opendal::Executor::default());
        let operator = operator.with_context(context);
        // Servers of `WebDAV` write their files as they come.
        let in_place = operator.info().scheme() == "webdav";
        Ok(Box::new(Objects { caller: self.caller, operator, leases, in_place }))
    }

    fn no_endpoint(&self) -> Result<(), Hitch> {
        match &self.source.endpoint {
            None => Ok(()),
            Some(_) => Err("`endpoint` is for `s3://` only; others know their servers \
                from the address or the environment"
                .into()),
        }
    }

    /// Name and password for a server, from the user's `netrc`.
    fn netrc(&self, place: &str) -> Result<Option<(String, String)>, Hitch> {
        let named = self.environment.get(&["NETRC"]).map(PathBuf::from);
        let Some(path) = named.or_else(|| self.environment.home(".netrc")) else {
            return Ok(None);
        };
        if !path.exists() {
            return Ok(None);
        }
        let text = files::read_bounded(&path, MAX_NETRC)
            .map_err(|error| Hitch::Cause("read its credentials", Box::new(error)))?;
        let host = place.rsplit_once(':').map_or(place, |(host, _)| host);
        Ok(login(&String::from_utf8_lossy(&text), host))
    }
}

/// The store's own settings do not fit together.
fn not_set_up(error: opendal::Error) -> Hitch {
    Hitch::Cause("be set up", transport::cause(error))
}

/// The login and password that a `netrc` has for a host. Its `default` is for no host that a
/// repository names.
fn login(netrc: &str, host: &str) -> Option<(String, String)> {
    let words = netrc.lines().filter(|line| !line.trim_start().starts_with('#'));
    let mut words = words.flat_map(str::split_whitespace);
    let (mut here, mut user, mut password) = (false, None, None);
    while let Some(word) = words.next() {
        match word {
            "machine" | "default" if here => break,
            "machine" => here = words.next() == Some(host),
            "login" if here => user = words.next(),
            "password" if here => password = words.next(),
            _ => {}
        }
    }
    Some((user?.to_owned(), password?.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_has_a_scheme_a_place_and_a_path() {
        let parse = |text| Address::parse(text).unwrap().unwrap();
        let address = |scheme, place, path| Address { scheme, place, path };
        assert_eq!(parse("s3://bucket"), address("s3", "bucket", ""));
        assert_eq!(parse("s3://bucket/a/b/"), address("s3", "bucket", "a/b"));
        assert_eq!(parse("oci+http://h:5000/team/c"), address("oci+http", "h:5000", "team/c"));
        assert_eq!(parse("file:///srv/c"), address("file", "", "srv/c"));
        assert_eq!(Address::parse("/srv/cache").unwrap(), None);
        for wrong in
            ["s3://", "https://u:p@host/x", "s3://b/a?b", "s3://b/a\nb", "s3://b/a b", "s3://b/#"]
        {
            assert!(Address::parse(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_netrc_is_read_for_one_host() {
        let text = "# machine a login no password no\nmachine b login bob\n  password two\n\
            machine a login ann password one account x\ndefault login d password d\n";
        let found = |host| login(text, host);
        assert_eq!(found("a"), Some(("ann".into(), "one".into())));
        assert_eq!(found("b"), Some(("bob".into(), "two".into())));
        assert_eq!(found("c"), None);
        assert_eq!(login("machine a login ann", "a"), None);
    }
}
