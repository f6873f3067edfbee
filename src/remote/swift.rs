//! `OpenStack` Swift: who one is, and where one's objects lie.
//!
//! It knows the old way to log in, which is Swift's own; Keystone's is [`crate::openstack`]'s. Objects are moved by
//! `opendal`, which knows neither. So its requests go to a place that does not exist, and here they
//! get the account's address and its token, and a new token where the old one has run out.

use std::sync::Arc;

use opendal::services::Swift;
use opendal::{Buffer, ErrorKind, HttpBody, HttpTransport};
use tokio::sync::Mutex;

use crate::environment::Environment;
use crate::openstack::{Choice, Cloud, CloudError};
use crate::wire::{self, Fault, MAX_TEXT, Patience, Redirects, Wire};

/// What stands for the account's address until it is known.
const NOWHERE: &str = "http://account.invalid";
const TOKEN: &str = "x-auth-token";

/// A builder whose requests [`Transport`] completes.
pub(super) fn builder() -> Swift {
    Swift::default().endpoint(NOWHERE)
}

/// How one logs in.
pub(super) enum Account {
    /// Somebody has done so already.
    Done(Session),
    /// `TempAuth` and its like.
    Old { url: String, user: String, key: String },
    /// Keystone, whose catalog knows where objects are.
    Cloud(Box<Cloud>),
}

/// Where an account's objects are, and the token for them.
#[derive(Clone)]
pub(super) struct Session {
    storage: String,
    token: String,
}

impl Account {
    /// The account that the environment names, as `openstack` and `swift` read it.
    pub(super) fn of(
        environment: &Environment,
        region: Option<String>,
    ) -> Result<Self, CloudError> {
        let get = |name: &str| environment.get(&[name]);
        if let (Some(storage), Some(token)) =
            (get("OS_STORAGE_URL"), environment.get(&["OS_AUTH_TOKEN", "OS_TOKEN"]))
        {
            return Ok(Self::Done(Session { storage, token }));
        }
        if let (Some(url), Some(user), Some(key)) = (get("ST_AUTH"), get("ST_USER"), get("ST_KEY"))
        {
            return Ok(Self::Old { url, user, key });
        }
        Cloud::find(environment, &Choice { cloud: None, region })
            .map(|cloud| Self::Cloud(Box::new(cloud)))
    }

    /// A client of the account's servers.
    pub(super) fn wire(&self, patience: &Patience) -> Result<Wire, CloudError> {
        match self {
            Self::Cloud(cloud) => cloud.wire(patience),
            Self::Done(_) | Self::Old { .. } => Wire::new(patience, Redirects::Within)
                .map_err(|error| CloudError::Tls { cloud: "Swift".into(), source: error.into() }),
        }
    }

    async fn log_in(&self, wire: &Wire) -> Result<Session, Fault> {
        match self {
            Self::Done(session) => Ok(session.clone()),
            Self::Old { url, user, key } => {
                let request = wire.client().get(url).header("x-auth-user", user);
                let answer = Wire::send(request.header("x-auth-key", key), MAX_TEXT).await?;
                if !answer.status.is_success() {
                    return Err(answer.fault());
                }
                let header =
                    |name: &str| answer.headers.get(name)?.to_str().ok().map(str::to_owned);
                let storage = header("x-storage-url").ok_or(Fault::Damaged)?;
                let token = header(TOKEN).ok_or(Fault::Damaged)?;
                Ok(Session { storage, token })
            }
            Self::Cloud(cloud) => {
                let session = cloud.log_in(wire).await?;
                let storage = cloud.endpoint(&session, "object-store")?;
                Ok(Session { storage, token: session.token.unwrap_or_default() })
            }
        }
    }
}

/// Sends the requests of one account.
pub(super) struct Transport {
    wire: Wire,
    account: Account,
    session: Mutex<Option<Arc<Session>>>,
}

impl Transport {
    pub(super) fn new(wire: Wire, account: Account) -> Self {
        Self { wire, account, session: Mutex::default() }
    }

    /// The session, which is a new one where the present one is `stale`.
    async fn session(&self, stale: Option<&Arc<Session>>) -> opendal::Result<Arc<Session>> {
        let mut session = self.session.lock().await;
        if let Some(session) = &*session
            && !stale.is_some_and(|stale| Arc::ptr_eq(stale, session))
        {
            return Ok(Arc::clone(session));
        }
        let fresh = self.account.log_in(&self.wire).await.map_err(not_logged_in)?;
        Ok(Arc::clone(session.insert(Arc::new(fresh))))
    }

    async fn send(
        &self,
        request: &http::Request<Buffer>,
        session: &Session,
    ) -> opendal::Result<http::Response<HttpBody>> {
        let wrong = |_| opendal::Error::new(ErrorKind::ConfigInvalid, "its address is none");
        let url = request.uri().to_string();
        let path = url.strip_prefix(NOWHERE).unwrap_or_default();
        let mut own = request.clone();
        let url = format!("{}{path}", session.storage.trim_end_matches('/'));
        *own.uri_mut() = url.parse().map_err(wrong)?;
        let token = http::HeaderValue::from_str(&session.token);
        let mut token = token
            .map_err(|_| opendal::Error::new(ErrorKind::ConfigInvalid, "its token is none"))?;
        token.set_sensitive(true);
        own.headers_mut().insert(TOKEN, token);
        self.wire.fetch(own).await
    }
}

impl HttpTransport for Transport {
    async fn fetch(
        &self,
        request: http::Request<Buffer>,
    ) -> opendal::Result<http::Response<HttpBody>> {
        let session = self.session(None).await?;
        let answer = self.send(&request, &session).await?;
        if answer.status() != http::StatusCode::UNAUTHORIZED {
            return Ok(answer);
        }
        let session = self.session(Some(&session)).await?;
        self.send(&request, &session).await
    }
}

/// A login that failed, as `opendal` passes it on.
fn not_logged_in(fault: Fault) -> opendal::Error {
    let (kind, cause) = match fault {
        Fault::Refused(cause) => (ErrorKind::PermissionDenied, Some(cause)),
        Fault::Passing(cause, _) => {
            let error = opendal::Error::new(ErrorKind::Unexpected, "it let nobody log in");
            return error.set_temporary().set_source(Caused(cause));
        }
        Fault::Absent(cause) | Fault::Condition(cause) | Fault::Lasting(cause) => {
            (ErrorKind::ConfigInvalid, Some(cause))
        }
        Fault::Damaged | Fault::Silent => (ErrorKind::Unexpected, None),
    };
    let error = opendal::Error::new(kind, "it did not let you log in");
    match cause {
        Some(cause) => error.set_source(Caused(cause)),
        None => error,
    }
}

/// A boxed cause as an error of its own.
#[derive(Debug, thiserror::Error)]
#[error(transparent)]
struct Caused(wire::Cause);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_environment_says_who_one_is() {
        let of = |pairs: &[(&str, &str)]| Account::of(&Environment::of(pairs), None);
        assert!(matches!(
            of(&[("OS_STORAGE_URL", "https://s/v1/A"), ("OS_AUTH_TOKEN", "t")]),
            Ok(Account::Done(_))
        ));
        assert!(matches!(
            of(&[("ST_AUTH", "http://s/auth/v1.0"), ("ST_USER", "a:b"), ("ST_KEY", "k")]),
            Ok(Account::Old { .. })
        ));
        assert!(of(&[("OS_AUTH_URL", "https://k"), ("OS_USERNAME", "u")]).is_err());
        let account = of(&[
            ("OS_AUTH_URL", "https://k/"),
            ("OS_USERNAME", "u"),
            ("OS_PASSWORD", "p"),
            ("OS_PROJECT_NAME", "images"),
        ]);
        assert!(matches!(account, Ok(Account::Cloud(_))));
    }
}
