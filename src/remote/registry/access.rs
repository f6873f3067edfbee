//! How a registry lets one in: a password, or a token that one gets for it.
//!
//! It knows challenges, and where Docker and its relatives keep credentials. A registry says itself
//! where its tokens come from; it gets there over TLS if it is spoken to over TLS. Answers of
//! credential helpers are never shown.

use std::fs::File;
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use docker_credential::{CredentialRetrievalError, DockerCredential};
use reqwest::Url;
use reqwest::header::{CONTENT_TYPE, WWW_AUTHENTICATE};
use serde::Deserialize;

use super::Repository;
use crate::environment::Environment;
use crate::wire::{Answer, Fault, MAX_TEXT, Wire, blocking};

/// What one wants to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Scope {
    Pull,
    Push,
}

impl Scope {
    fn words(self) -> &'static str {
        match self {
            Self::Pull => "pull",
            Self::Push => "pull,push",
        }
    }
}

/// What lets one into a repository.
pub(super) struct Access {
    repository: Repository,
    environment: Environment,
    /// The header for each scope, as long as the registry takes it.
    known: Mutex<[Option<String>; 2]>,
}

/// What a registry asks for.
#[derive(Debug, PartialEq, Eq)]
enum Challenge {
    Basic,
    Bearer { realm: String, service: Option<String> },
}

#[derive(Deserialize)]
struct Granted {
    #[serde(alias = "access_token")]
    token: String,
}

impl Access {
    pub(super) fn new(repository: Repository, environment: Environment) -> Self {
        Self { repository, environment, known: Mutex::default() }
    }

    /// The header that the registry took last.
    pub(super) fn header(&self, scope: Scope) -> Option<String> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)[scope as usize].clone()
    }

    /// Gets a header for what a registry has refused.
    pub(super) async fn gain(
        &self,
        wire: &Wire,
        scope: Scope,
        refused: &Answer,
    ) -> Result<String, Fault> {
        let challenges = refused.headers.get_all(WWW_AUTHENTICATE);
        let challenge = challenges.iter().find_map(|text| Challenge::parse(text.to_str().ok()?));
        let Some(challenge) = challenge else { return Err(refused.fault()) };
        let credential = self.credential().await?;
        let header = match (challenge, credential) {
            (Challenge::Basic, Some(DockerCredential::UsernamePassword(user, password))) => {
                basic(&user, &password)
            }
            (Challenge::Basic, _) => return Err(refused.fault()),
            (Challenge::Bearer { realm, service }, credential) => {
                let token = self.token(wire, scope, &realm, service, credential).await?;
                format!("Bearer {token}")
            }
        };
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        known[scope as usize] = Some(header.clone());
        Ok(header)
    }

    async fn token(
        &self,
        wire: &Wire,
        scope: Scope,
        realm: &str,
        service: Option<String>,
        credential: Option<DockerCredential>,
    ) -> Result<String, Fault> {
        let mut url = Url::parse(realm).map_err(|_| Fault::Damaged)?;
        if url.scheme() != "https" && self.repository.scheme == "https" {
            return Err(Fault::Lasting("its tokens come from an insecure address".into()));
        }
        let scope = format!("repository:{}:{}", self.repository.name, scope.words());
        let mut asked = vec![("scope", scope)];
        asked.extend(service.map(|service| ("service", service)));
        let request = if let Some(DockerCredential::IdentityToken(token)) = &credential {
            asked.push(("grant_type", "refresh_token".to_owned()));
            asked.push(("client_id", "kiln".to_owned()));
            asked.push(("refresh_token", token.clone()));
            let mut form = url.clone();
            form.query_pairs_mut().clear().extend_pairs(&asked);
            let form = form.query().unwrap_or_default().to_owned();
            let request = wire.client().post(url);
            request.header(CONTENT_TYPE, "application/x-www-form-urlencoded").body(form)
        } else {
            url.query_pairs_mut().extend_pairs(&asked);
            match &credential {
                Some(DockerCredential::UsernamePassword(user, password)) => {
                    wire.client().get(url).basic_auth(user, Some(password))
                }
                _ => wire.client().get(url),
            }
        };
        let answer = Wire::send(request, MAX_TEXT).await?;
        if !answer.status.is_success() {
            return Err(answer.fault());
        }
        let granted: Granted = serde_json::from_slice(&answer.body).map_err(|_| Fault::Damaged)?;
        Ok(granted.token)
    }

    /// What the user's container tools know of the registry. Their helpers are programs, so they are
    /// waited for elsewhere.
    async fn credential(&self) -> Result<Option<DockerCredential>, Fault> {
        let server = match self.repository.host.as_str() {
            "docker.io" => "https://index.docker.io/v1/".to_owned(),
            host => host.to_owned(),
        };
        let files = files(&self.environment);
        blocking(move || lookup(&files, &server)).await
    }
}

/// The files in which credentials of registries are kept, the first one first.
fn files(environment: &Environment) -> Vec<PathBuf> {
    let get = |name: &str| environment.get(&[name]).map(PathBuf::from);
    let docker = get("DOCKER_CONFIG").or_else(|| environment.home(".docker"));
    let files = [
        get("REGISTRY_AUTH_FILE"),
        docker.map(|directory| directory.join("config.json")),
        get("XDG_RUNTIME_DIR").map(|directory| directory.join("containers/auth.json")),
    ];
    files.into_iter().flatten().collect()
}

fn lookup(files: &[PathBuf], server: &str) -> Result<Option<DockerCredential>, Fault> {
    for path in files {
        let Ok(file) = File::open(path) else { continue };
        match docker_credential::get_credential_from_reader(file, server) {
            Ok(credential) => return Ok(Some(credential)),
            Err(CredentialRetrievalError::NoCredentialConfigured) => {}
            Err(error) => {
                let why =
                    format!("`{}` has no usable credentials: {}", path.display(), why(&error));
                return Err(Fault::Refused(why.into()));
            }
        }
    }
    Ok(None)
}

/// What is wrong with credentials, without anything that may be one.
fn why(error: &CredentialRetrievalError) -> &'static str {
    match error {
        CredentialRetrievalError::HelperCommunicationError => "their helper cannot be run",
        CredentialRetrievalError::HelperFailure { .. } => "their helper failed",
        CredentialRetrievalError::MalformedHelperResponse => "their helper answers nonsense",
        _ => "it cannot be read",
    }
}

fn basic(user: &str, password: &str) -> String {
    format!("Basic {}", STANDARD.encode(format!("{user}:{password}")))
}

impl Challenge {
    fn parse(text: &str) -> Option<Self> {
        let (scheme, rest) = text.trim().split_once(' ').unwrap_or((text.trim(), ""));
        if scheme.eq_ignore_ascii_case("basic") {
            return Some(Self::Basic);
        }
        if !scheme.eq_ignore_ascii_case("bearer") {
            return None;
        }
        let (mut realm, mut service) = (None, None);
        for (name, value) in parameters(rest) {
            match name {
                "realm" => realm = Some(value.to_owned()),
                "service" => service = Some(value.to_owned()),
                _ => {}
            }
        }
        Some(Self::Bearer { realm: realm?, service })
    }
}

/// The parameters of a challenge: `name="value"`, with commas between them and in them.
fn parameters(mut text: &str) -> Vec<(&str, &str)> {
    let mut found = Vec::new();
    while let Some((name, rest)) = text.split_once('=') {
        let (value, rest) = match rest.strip_prefix('"') {
            Some(quoted) => quoted.split_once('"').unwrap_or((quoted, "")),
            None => rest.split_once(',').unwrap_or((rest, "")),
        };
        found.push((name.trim_matches([' ', ',']), value.trim()));
        text = rest;
    }
    found
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn a_challenge_says_where_tokens_are() {
        let text = "Bearer realm=\"https://auth.a/token\",service=\"reg\",\
            scope=\"repository:a/b:pull,push\"";
        let realm = "https://auth.a/token".to_owned();
        let bearer = Challenge::Bearer { realm: realm.clone(), service: Some("reg".into()) };
        assert_eq!(Challenge::parse(text), Some(bearer));
        let bare = Challenge::parse("bearer realm=https://auth.a/token, error=x");
        assert_eq!(bare, Some(Challenge::Bearer { realm, service: None }));
        assert_eq!(Challenge::parse("Basic realm=\"x\""), Some(Challenge::Basic));
        assert_eq!(Challenge::parse("Basic"), Some(Challenge::Basic));
        assert_eq!(Challenge::parse("Bearer service=\"x\""), None);
        assert_eq!(Challenge::parse("Negotiate"), None);
        assert_eq!(
            Challenge::parse("Bearer realm=\""),
            Some(Challenge::Bearer { realm: String::new(), service: None })
        );
    }

    #[test]
    fn credentials_are_those_of_container_tools() {
        let home = tempfile::tempdir().unwrap();
        let config = home.path().join("config.json");
        let auth = STANDARD.encode("ann:pass");
        fs::write(&config, format!(r#"{{"auths":{{"reg:5000":{{"auth":"{auth}"}}}}}}"#)).unwrap();
        let directory = home.path().to_str().unwrap();
        let files = files(&Environment::of(&[("DOCKER_CONFIG", directory)]));
        assert_eq!(files, std::slice::from_ref(&config));
        let found = |server| lookup(&files, server).unwrap();
        let ann = DockerCredential::UsernamePassword("ann".into(), "pass".into());
        assert_eq!(found("reg:5000"), Some(ann));
        assert_eq!(found("other"), None);
        fs::write(&config, "{").unwrap();
        let Err(Fault::Refused(cause)) = lookup(&files, "reg:5000") else { panic!("refused") };
        assert!(cause.to_string().ends_with("it cannot be read"), "{cause}");
        let said = || "the password is secret".to_owned();
        let failed = CredentialRetrievalError::HelperFailure {
            helper: "pass".into(),
            stdout: said(),
            stderr: said(),
        };
        assert_eq!(why(&failed), "their helper failed");
    }
}
