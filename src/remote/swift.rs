//! `OpenStack` Swift: who one is, and where one's objects lie.
//!
//! It knows the two ways to log in, Keystone's and the old one of Swift itself; objects are moved by
//! `opendal`, which knows neither. So its requests go to a place that does not exist, and here they
//! get the account's address and its token, and a new token where the old one has run out.

use std::sync::Arc;

use opendal::services::Swift;
use opendal::{Buffer, ErrorKind, HttpBody, HttpTransport};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::sync::Mutex;

use crate::environment::Environment;
use crate::wire::{self, Fault, MAX_TEXT, Wire};

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
    /// Keystone, version 3: the request, and which catalog entry is wanted.
    Keystone { url: String, request: Value, region: Option<String>, interface: String },
}

/// Where an account's objects are, and the token for them.
#[derive(Clone)]
pub(super) struct Session {
    storage: String,
    token: String,
}

impl Account {
    /// The account that the environment names, as `openstack` and `swift` read it.
    pub(super) fn of(environment: &Environment, region: Option<String>) -> Result<Self, String> {
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
        let Some(url) = get("OS_AUTH_URL") else {
            return Err("who you are is not known: set `OS_AUTH_URL` and its like, \
                `OS_STORAGE_URL` with `OS_AUTH_TOKEN`, or `ST_AUTH`, `ST_USER` and `ST_KEY`"
                .into());
        };
        Ok(Self::Keystone {
            url: format!("{}/auth/tokens", versioned(&url)),
            request: keystone_request(environment)?,
            region: region.or_else(|| get("OS_REGION_NAME")),
            interface: get("OS_INTERFACE").unwrap_or_else(|| "public".to_owned()),
        })
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
            Self::Keystone { url, request, region, interface } => {
                let body = request.to_string();
                let request = wire.client().post(url).header("content-type", "application/json");
                let answer = Wire::send(request.body(body), MAX_TEXT).await?;
                if !answer.status.is_success() {
                    return Err(answer.fault());
                }
                let token = answer.headers.get("x-subject-token");
                let token = token.and_then(|token| token.to_str().ok()).ok_or(Fault::Damaged)?;
                let storage = storage_of(&answer.body, region.as_deref(), interface)?;
                Ok(Session { storage, token: token.to_owned() })
            }
        }
    }
}

/// The address of version 3 of Keystone, with which many environments end theirs already.
fn versioned(url: &str) -> String {
    let url = url.trim_end_matches('/');
    if url.ends_with("/v3") { url.to_owned() } else { format!("{url}/v3") }
}

/// What Keystone is asked: by password or application credential, for a project.
fn keystone_request(environment: &Environment) -> Result<Value, String> {
    let get = |names: &[&str]| environment.get(names);
    let secret = get(&["OS_APPLICATION_CREDENTIAL_SECRET"]);
    if let (Some(id), Some(secret)) = (get(&["OS_APPLICATION_CREDENTIAL_ID"]), secret) {
        let credential = json!({ "id": id, "secret": secret });
        return Ok(json!({ "auth": { "identity": {
            "methods": ["application_credential"], "application_credential": credential,
        } } }));
    }
    let domain = |id: &[&str], name: &[&str]| match (get(id), get(name)) {
        (Some(id), _) => json!({ "id": id }),
        (None, Some(name)) => json!({ "name": name }),
        (None, None) => json!({ "id": "default" }),
    };
    let user = get(&["OS_USERNAME"]).ok_or("`OS_AUTH_URL` is set, but `OS_USERNAME` is not")?;
    let password = get(&["OS_PASSWORD"]).ok_or("`OS_AUTH_URL` is set, but `OS_PASSWORD` is not")?;
    let user = json!({
        "name": user,
        "password": password,
        "domain": domain(&["OS_USER_DOMAIN_ID"], &["OS_USER_DOMAIN_NAME"]),
    });
    let project = match (get(&["OS_PROJECT_ID"]), get(&["OS_PROJECT_NAME", "OS_TENANT_NAME"])) {
        (Some(id), _) => json!({ "id": id }),
        (None, Some(name)) => json!({
            "name": name,
            "domain": domain(&["OS_PROJECT_DOMAIN_ID"], &["OS_PROJECT_DOMAIN_NAME"]),
        }),
        (None, None) => return Err("`OS_AUTH_URL` is set, but `OS_PROJECT_NAME` is not".into()),
    };
    Ok(json!({ "auth": {
        "identity": { "methods": ["password"], "password": { "user": user } },
        "scope": { "project": project },
    } }))
}

#[derive(Deserialize)]
struct Granted {
    token: Token,
}

#[derive(Deserialize)]
struct Token {
    #[serde(default)]
    catalog: Vec<Service>,
}

#[derive(Deserialize)]
struct Service {
    #[serde(rename = "type")]
    kind: String,
    #[serde(default)]
    endpoints: Vec<Endpoint>,
}

#[derive(Deserialize)]
struct Endpoint {
    interface: String,
    #[serde(default)]
    region: Option<String>,
    url: String,
}

/// Where Keystone's catalog says that objects are.
fn storage_of(body: &[u8], region: Option<&str>, interface: &str) -> Result<String, Fault> {
    let granted: Granted = serde_json::from_slice(body).map_err(|_| Fault::Damaged)?;
    let stores = granted.token.catalog.into_iter().filter(|service| service.kind == "object-store");
    let fits = |endpoint: &Endpoint| {
        endpoint.interface == interface
            && region.is_none_or(|region| endpoint.region.as_deref() == Some(region))
    };
    let found = stores.flat_map(|service| service.endpoints).find(fits);
    let none = || Fault::Lasting("its catalog has no object store for you there".into());
    found.map(|endpoint| endpoint.url).ok_or_else(none)
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
        assert!(of(&[]).is_err());
        assert!(of(&[("OS_AUTH_URL", "https://k"), ("OS_USERNAME", "u")]).is_err());
        let account = of(&[
            ("OS_AUTH_URL", "https://k/"),
            ("OS_USERNAME", "u"),
            ("OS_PASSWORD", "p"),
            ("OS_PROJECT_NAME", "images"),
            ("OS_USER_DOMAIN_NAME", "Default"),
        ]);
        let Ok(Account::Keystone { url, request, .. }) = account else { panic!("Keystone") };
        assert_eq!(url, "https://k/v3/auth/tokens");
        let user = &request["auth"]["identity"]["password"]["user"];
        assert_eq!(user["domain"], json!({ "name": "Default" }));
        let project = &request["auth"]["scope"]["project"];
        assert_eq!(*project, json!({ "name": "images", "domain": { "id": "default" } }));
    }

    #[test]
    fn the_catalog_says_where_objects_are() {
        let body = json!({ "token": { "catalog": [
            { "type": "image", "endpoints": [{ "interface": "public", "url": "https://g" }] },
            { "type": "object-store", "endpoints": [
                { "interface": "internal", "region": "one", "url": "https://i" },
                { "interface": "public", "region": "one", "url": "https://one/v1/A" },
                { "interface": "public", "region": "two", "url": "https://two/v1/A" },
            ] },
        ] } });
        let body = body.to_string();
        let find = |region| storage_of(body.as_bytes(), region, "public");
        assert_eq!(find(None).unwrap(), "https://one/v1/A");
        assert_eq!(find(Some("two")).unwrap(), "https://two/v1/A");
        assert!(matches!(find(Some("three")), Err(Fault::Lasting(_))));
        assert!(matches!(storage_of(b"<html>", None, "public"), Err(Fault::Damaged)));
    }
}
