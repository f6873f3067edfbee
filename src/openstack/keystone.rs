//! Keystone, version 3: what it is asked, and what its catalog says.
//!
//! Source: the Identity API v3 reference, "Authentication and token management".

use serde::Deserialize;
use serde_json::{Value, json};

use super::CloudError;
use super::clouds::Settings;
use crate::wire::{Fault, MAX_TEXT, Wire};

/// How one logs in.
pub(super) enum Login {
    /// Not at all: the service believes everybody.
    Nobody,
    /// With a request to Keystone.
    Keystone {
        /// Where tokens are made.
        url: String,
        /// What is asked. It holds secrets.
        request: Value,
    },
}

/// What a login gave.
#[derive(Clone)]
pub(crate) struct Session {
    /// The token; none where nobody asks for one.
    pub(crate) token: Option<String>,
    /// The project that it is for.
    pub(crate) project: Option<String>,
    catalog: Vec<Service>,
}

#[derive(Deserialize)]
struct Granted {
    token: Token,
}

#[derive(Deserialize)]
struct Token {
    #[serde(default)]
    catalog: Vec<Service>,
    #[serde(default)]
    project: Option<Project>,
}

#[derive(Deserialize)]
struct Project {
    id: String,
}

#[derive(Clone, Deserialize)]
struct Service {
    #[serde(rename = "type")]
    kind: String,
    #[serde(default)]
    endpoints: Vec<Endpoint>,
}

#[derive(Clone, Deserialize)]
struct Endpoint {
    interface: String,
    #[serde(default)]
    region: Option<String>,
    url: String,
}

impl Login {
    pub(super) fn of(settings: &Settings) -> Result<Self, CloudError> {
        let has = |name: &str| settings.auth.contains_key(name);
        let guess = || match () {
            () if has("application_credential_secret") => "v3applicationcredential",
            () if has("token") && !has("password") => "token",
            () => "password",
        };
        let kind = settings.kind.as_deref().unwrap_or_else(guess);
        let identity = match kind {
            "none" => {
                need(settings, "endpoint")?;
                return Ok(Self::Nobody);
            }
            "password" | "v3password" => password(settings)?,
            "v3applicationcredential" => application_credential(settings)?,
            "token" | "v3token" => {
                json!({ "methods": ["token"], "token": { "id": need(settings, "token")? } })
            }
            other => {
                let (cloud, kind) = (settings.name.clone(), other.to_owned());
                return Err(CloudError::Login { cloud, kind });
            }
        };
        let url = format!("{}/auth/tokens", versioned(need(settings, "auth_url")?));
        let mut request = json!({ "auth": { "identity": identity } });
        // An application credential is of one project, and may name no other.
        if kind != "v3applicationcredential" {
            request["auth"]["scope"] = json!({ "project": project(settings)? });
        }
        Ok(Self::Keystone { url, request })
    }

    pub(super) async fn log_in(&self, wire: &Wire) -> Result<Session, Fault> {
        let Self::Keystone { url, request } = self else {
            return Ok(Session { token: None, project: None, catalog: Vec::new() });
        };
        let asked = wire.client().post(url).header("content-type", "application/json");
        let answer = Wire::send(asked.body(request.to_string()), MAX_TEXT).await?;
        if !answer.status.is_success() {
            return Err(answer.fault());
        }
        let token = answer.headers.get("x-subject-token").and_then(|token| token.to_str().ok());
        let token = token.ok_or(Fault::Damaged)?.to_owned();
        Session::of(token, &answer.body)
    }
}

impl Session {
    fn of(token: String, body: &[u8]) -> Result<Self, Fault> {
        let granted: Granted = serde_json::from_slice(body).map_err(|_| Fault::Damaged)?;
        let project = granted.token.project.map(|project| project.id);
        Ok(Self { token: Some(token), project, catalog: granted.token.catalog })
    }

    /// Where the catalog says that a service is.
    pub(super) fn endpoint(
        &self,
        service: &str,
        region: Option<&str>,
        interface: &str,
    ) -> Result<String, Fault> {
        let fits = |endpoint: &&Endpoint| {
            endpoint.interface == interface
                && region.is_none_or(|region| endpoint.region.as_deref() == Some(region))
        };
        let services = self.catalog.iter().filter(|known| known.kind == service);
        let found = services.flat_map(|service| &service.endpoints).find(fits);
        found.map(|endpoint| endpoint.url.clone()).ok_or_else(|| {
            let place = region.map_or(String::new(), |region| format!(" in the region `{region}`"));
            Fault::Lasting(
                format!(
                    "its catalog has no `{interface}` endpoint of the service `{service}`{place}"
                )
                .into(),
            )
        })
    }
}

/// The address of version 3 of Keystone, with which many environments end theirs already.
fn versioned(url: &str) -> String {
    let url = url.trim_end_matches('/');
    if url.ends_with("/v3") { url.to_owned() } else { format!("{url}/v3") }
}

/// Something that has to be said.
fn need<'a>(settings: &'a Settings, what: &str) -> Result<&'a str, CloudError> {
    settings.auth.get(what).map(String::as_str).ok_or_else(|| {
        let variable = format!("OS_{}", what.to_uppercase());
        CloudError::Incomplete {
            cloud: settings.name.clone(),
            what: what.to_owned(),
            help: format!("write `{what}` below `auth` in `clouds.yaml`, or set `{variable}`"),
        }
    })
}

/// The domain of a user or a project.
fn domain(settings: &Settings, of: &str) -> Value {
    let get = |name: String| settings.auth.get(&name);
    let id = get(format!("{of}_domain_id")).or_else(|| get("domain_id".to_owned()));
    let name = get(format!("{of}_domain_name")).or_else(|| get("domain_name".to_owned()));
    match (id, name) {
        (Some(id), _) => json!({ "id": id }),
        (None, Some(name)) => json!({ "name": name }),
        (None, None) => {
            json!({ "id": get("default_domain".to_owned()).map_or("default", String::as_str) })
        }
    }
}

/// A user, by id or by name.
fn user(settings: &Settings) -> Result<Value, CloudError> {
    if let Some(id) = settings.auth.get("user_id") {
        return Ok(json!({ "id": id }));
    }
    Ok(json!({ "name": need(settings, "username")?, "domain": domain(settings, "user") }))
}

fn password(settings: &Settings) -> Result<Value, CloudError> {
    let mut user = user(settings)?;
    user["password"] = need(settings, "password")?.into();
    Ok(json!({ "methods": ["password"], "password": { "user": user } }))
}

fn application_credential(settings: &Settings) -> Result<Value, CloudError> {
    let secret = need(settings, "application_credential_secret")?;
    let credential = match settings.auth.get("application_credential_id") {
        Some(id) => json!({ "id": id, "secret": secret }),
        // A name is one of a user's own.
        None => json!({
            "name": need(settings, "application_credential_name")?,
            "secret": secret,
            "user": user(settings)?,
        }),
    };
    Ok(json!({
        "methods": ["application_credential"], "application_credential": credential,
    }))
}

fn project(settings: &Settings) -> Result<Value, CloudError> {
    if let Some(id) = settings.auth.get("project_id") {
        return Ok(json!({ "id": id }));
    }
    Ok(json!({ "name": need(settings, "project_name")?, "domain": domain(settings, "project") }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::environment::Environment;

    fn login(pairs: &[(&str, &str)]) -> Result<Login, CloudError> {
        Login::of(&Settings::of_environment(&Environment::of(pairs)))
    }

    fn request(pairs: &[(&str, &str)]) -> (String, Value) {
        match login(pairs) {
            Ok(Login::Keystone { url, request }) => (url, request),
            Ok(Login::Nobody) => panic!("a login"),
            Err(error) => panic!("{error}"),
        }
    }

    #[test]
    fn a_password_is_of_a_user_for_a_project() {
        let (url, request) = request(&[
            ("OS_AUTH_URL", "https://k/"),
            ("OS_USERNAME", "u"),
            ("OS_PASSWORD", "p"),
            ("OS_PROJECT_NAME", "images"),
            ("OS_USER_DOMAIN_NAME", "Default"),
        ]);
        assert_eq!(url, "https://k/v3/auth/tokens");
        let user = &request["auth"]["identity"]["password"]["user"];
        assert_eq!(*user, json!({ "name": "u", "password": "p", "domain": { "name": "Default" } }));
        let project = &request["auth"]["scope"]["project"];
        assert_eq!(*project, json!({ "name": "images", "domain": { "id": "default" } }));
    }

    #[test]
    fn an_application_credential_has_no_scope() {
        let secret = ("OS_APPLICATION_CREDENTIAL_SECRET", "s");
        let url = ("OS_AUTH_URL", "https://k/v3");
        let (_, by_id) = request(&[url, secret, ("OS_APPLICATION_CREDENTIAL_ID", "i")]);
        assert_eq!(
            by_id["auth"],
            json!({ "identity": {
                "methods": ["application_credential"],
                "application_credential": { "id": "i", "secret": "s" },
            } })
        );
        let named = ("OS_APPLICATION_CREDENTIAL_NAME", "n");
        let (_, by_name) = request(&[url, secret, named, ("OS_USER_ID", "u")]);
        let credential = &by_name["auth"]["identity"]["application_credential"];
        assert_eq!(*credential, json!({ "name": "n", "secret": "s", "user": { "id": "u" } }));
        assert!(login(&[url, secret, named]).is_err(), "a name alone is nobody's");
    }

    #[test]
    fn what_is_not_said_is_named() {
        let Err(CloudError::Incomplete { what, help, .. }) =
            login(&[("OS_AUTH_URL", "https://k"), ("OS_USERNAME", "u")])
        else {
            panic!("something is missing")
        };
        assert_eq!(what, "password");
        assert!(help.contains("`OS_PASSWORD`"), "{help}");
        assert!(matches!(login(&[("OS_AUTH_TYPE", "v3oidc")]), Err(CloudError::Login { .. })));
        assert!(login(&[("OS_AUTH_TYPE", "none")]).is_err());
        let nobody = login(&[("OS_AUTH_TYPE", "none"), ("OS_ENDPOINT", "http://g")]);
        assert!(matches!(nobody, Ok(Login::Nobody)));
    }

    #[test]
    fn the_catalog_says_where_a_service_is() {
        let body = json!({ "token": { "project": { "id": "p" }, "catalog": [
            { "type": "image", "endpoints": [{ "interface": "public", "url": "https://g" }] },
            { "type": "object-store", "endpoints": [
                { "interface": "internal", "region": "one", "url": "https://i" },
                { "interface": "public", "region": "one", "url": "https://one/v1/A" },
                { "interface": "public", "region": "two", "url": "https://two/v1/A" },
            ] },
        ] } });
        let session = Session::of("t".into(), body.to_string().as_bytes()).ok().unwrap();
        let find = |region| session.endpoint("object-store", region, "public");
        assert_eq!(session.project.as_deref(), Some("p"));
        assert_eq!(find(None).unwrap(), "https://one/v1/A");
        assert_eq!(find(Some("two")).unwrap(), "https://two/v1/A");
        assert!(matches!(find(Some("three")), Err(Fault::Lasting(_))));
        assert!(matches!(Session::of("t".into(), b"<html>"), Err(Fault::Damaged)));
    }
}
