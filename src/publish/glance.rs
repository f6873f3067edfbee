//! Glance: [`Images`] over its API, version 2.
//!
//! It knows requests and answers. A token that has run out is replaced by a new one, once a call. An
//! upload is streamed from the file, and is given up where no byte moves any more; nothing of it can
//! be gone on with, as the API has no such call.
//!
//! Source: Image service API v2 of `OpenStack`.

use std::cell::Cell;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use futures::future::{Either, select};
use reqwest::header::{CONTENT_LENGTH, CONTENT_TYPE};
use reqwest::{Body, Method, RequestBuilder, StatusCode, Url};
use serde_json::{Map, Value};

use super::record::{Change, Draft, Record};
use super::source::{PIECE, Source, Tally};
use super::{Images, ImagesError, Sent, own};
use crate::environment::Environment;
use crate::openstack::{Choice, Cloud, CloudError, Session};
use crate::wire::{self, Answer, Fault, MAX_TEXT, Patience, Wire};

/// The service's type in the catalog.
const SERVICE: &str = "image";
const TOKEN: &str = "x-auth-token";
/// The form of changes. Source: "Update image" of the API.
const PATCH: &str = "application/openstack-images-v2.1-json-patch";
/// Images that are asked for at once.
const PAGE: usize = 100;
/// Most pages of a list; more images than that of one name are no list to work on.
const MAX_PAGES: usize = 100;
/// Longest page in bytes.
const MAX_PAGE: u64 = 16 << 20;
/// How often an upload is looked at.
const TICK: Duration = Duration::from_millis(100);
/// Longest time in which no byte of an upload moves.
const STANDSTILL: Duration = Duration::from_mins(1);
/// Longest time until the answer behind its last byte: the service then moves the image to where it
/// keeps it.
const SETTLING: Duration = Duration::from_mins(10);
/// How long a cloud is waited for: longer than a remote, as nothing goes on without it.
pub const PATIENCE: Patience = Patience {
    connect: Duration::from_secs(10),
    idle: Duration::from_secs(30),
    call: Duration::from_mins(1),
    rate: 128 << 10,
    retries: 2,
    pause: Duration::from_millis(300),
    budget: Duration::from_mins(1),
};

/// A Glance, and who one is there.
pub struct Glance {
    cloud: Cloud,
    patience: Patience,
    wire: Wire,
    /// For uploads: an answer may come much later than a request began.
    slow: Wire,
    session: Mutex<Session>,
    /// Where images are, and of which project: what makes two clouds one.
    place: (String, Option<String>),
}

impl Glance {
    /// Whether another one has the same images.
    #[must_use]
    pub fn is_same(&self, other: &Self) -> bool {
        self.place == other.place
    }

    /// Finds the cloud that is meant.
    ///
    /// # Errors
    /// Where nothing says which, or its configuration cannot be used.
    pub fn cloud(environment: &Environment, choice: &Choice) -> Result<Opening, CloudError> {
        Ok(Opening(Cloud::find(environment, choice)?))
    }

    /// Makes a call until it is done or its fault lasts.
    fn call<T>(
        &self,
        doing: impl Into<String>,
        attempt: &impl AsyncFn(&Session) -> Result<T, Fault>,
    ) -> Result<T, ImagesError> {
        let result = wire::attempt(&self.patience, 0, async || self.entered(attempt).await);
        result.map_err(|fault| told(&self.cloud.name, doing.into(), fault))
    }

    /// Makes one try, and another one with a new token where it is refused the first time.
    async fn entered<T>(
        &self,
        attempt: &impl AsyncFn(&Session) -> Result<T, Fault>,
    ) -> Result<T, Fault> {
        let session = self.session.lock().unwrap_or_else(PoisonError::into_inner).clone();
        match attempt(&session).await {
            Err(Fault::Refused(_)) if session.token.is_some() => {}
            result => return result,
        }
        let fresh = self.cloud.log_in(&self.wire).await.map_err(|fault| match fault {
            // It is not what was asked for that is not there.
            Fault::Absent(cause) => Fault::Lasting(cause),
            other => other,
        })?;
        *self.session.lock().unwrap_or_else(PoisonError::into_inner) = fresh.clone();
        attempt(&fresh).await
    }

    fn request(
        &self,
        session: &Session,
        wire: &Wire,
        method: Method,
        path: &str,
    ) -> Result<RequestBuilder, Fault> {
        let endpoint = self.cloud.endpoint(session, SERVICE)?;
        let request = wire.client().request(method, format!("{}/v2/images{path}", base(&endpoint)));
        Ok(match &session.token {
            Some(token) => request.header(TOKEN, token),
            None => request,
        })
    }

    /// The pages of one question, as far as there are any.
    fn pages(&self, query: &[(&str, &str)]) -> Result<Vec<Record>, ImagesError> {
        const DOING: &str = "list images";
        let mut records = Vec::new();
        let mut marker: Option<String> = None;
        for _ in 0..MAX_PAGES {
            let page = self.call(DOING, &async |session: &Session| {
                let path = format!("?{}", encoded(query, marker.as_deref()));
                let request = self.request(session, &self.wire, Method::GET, &path)?;
                match fine(Wire::send(request, MAX_PAGE).await?) {
                    // A list may be empty, but an image service has one.
                    Err(Fault::Absent(_)) => Err(Fault::Damaged),
                    answer => object(&answer?),
                }
            })?;
            // A page may be shorter than was asked for, by the bound of the service itself.
            let more = page.get("next").is_some_and(Value::is_string);
            let images = page.get("images").and_then(Value::as_array);
            let page: Option<Vec<Record>> = images.and_then(|images| {
                images.iter().map(|image| Record::of(image.as_object()?)).collect()
            });
            let page = page.ok_or_else(|| self.damaged(DOING))?;
            marker = page.last().map(|record| record.id.clone());
            records.extend(page);
            if !more {
                return Ok(records);
            }
            if marker.is_none() {
                break;
            }
        }
        Err(self.damaged(DOING))
    }

    fn damaged(&self, doing: &str) -> ImagesError {
        ImagesError::Damaged { cloud: self.cloud.name.clone(), doing: doing.to_owned() }
    }

    async fn send_file(
        &self,
        session: &Session,
        id: &str,
        file: &Source,
        go_on: &dyn Fn(u64) -> bool,
    ) -> Result<Sent, Fault> {
        let tally = Arc::new(Mutex::new(Tally::new()));
        let count = || tally.lock().unwrap_or_else(PoisonError::into_inner).bytes();
        let path = format!("/{id}/file");
        let request = self
            .request(session, &self.slow, Method::PUT, &path)?
            .header(CONTENT_TYPE, "application/octet-stream")
            .header(CONTENT_LENGTH, file.size())
            .body(body(file.clone(), Arc::clone(&tally)));
        let mut sending = Box::pin(Wire::send(request, MAX_TEXT));
        let (mut at, mut moved) = (0, Instant::now());
        let answer = loop {
            let tick = Box::pin(tokio::time::sleep(TICK));
            sending = match select(sending, tick).await {
                Either::Left((answer, _)) => break answer,
                Either::Right(((), sending)) => sending,
            };
            let now = count();
            if now > at {
                (at, moved) = (now, Instant::now());
            }
            if !go_on(now) {
                return Err(Fault::Lasting("it was not to go on".into()));
            }
            let patience = if at < file.size() { STANDSTILL } else { SETTLING };
            if moved.elapsed() > patience {
                return Err(Fault::Silent);
            }
        };
        go_on(count());
        fine(answer?)?;
        Ok(tally.lock().unwrap_or_else(PoisonError::into_inner).sent())
    }
}

/// A cloud whose images one is about to ask for.
pub struct Opening(Cloud);

impl Opening {
    /// Logs in.
    ///
    /// # Errors
    /// Where the cloud does not let one in, or has no images.
    pub fn connect(self, patience: Patience) -> Result<Glance, ConnectError> {
        let Self(cloud) = self;
        let wire = cloud.wire(&patience)?;
        let slow = cloud.wire(&Patience { idle: Duration::from_hours(24), ..patience })?;
        let entered = wire::attempt(&patience, 0, async || {
            let session = cloud.log_in(&wire).await?;
            cloud.endpoint(&session, SERVICE).map(|_| session)
        });
        let session = entered.map_err(|fault| match fault {
            Fault::Absent(source) => ConnectError::Cloud(CloudError::NoKeystone {
                cloud: cloud.name.clone(),
                url: cloud.keystone().map_or(String::new(), bare),
                source,
            }),
            fault => logged_in(told(&cloud.name, "let you log in".into(), fault)).into(),
        })?;
        let endpoint = cloud.endpoint(&session, SERVICE);
        let endpoint = endpoint.map_err(|fault| told(&cloud.name, "find images".into(), fault))?;
        let place = (base(&endpoint).to_owned(), session.project.clone());
        Ok(Glance { session: Mutex::new(session), cloud, patience, wire, slow, place })
    }
}

/// Why there is no talk with a cloud.
#[derive(Debug, thiserror::Error, miette::Diagnostic)]
pub enum ConnectError {
    /// What is said of it cannot be used.
    #[error(transparent)]
    #[diagnostic(transparent)]
    Cloud(#[from] CloudError),
    /// It does not answer as it should.
    #[error(transparent)]
    #[diagnostic(transparent)]
    Images(#[from] ImagesError),
}

/// The words for a login are not those for a call that one makes.
fn logged_in(error: ImagesError) -> ImagesError {
    match error {
        ImagesError::Refused { cloud, source, .. } => {
            ImagesError::Refused { cloud, doing: "log in".to_owned(), source }
        }
        other => other,
    }
}

/// The address of the service without its version, with which many catalogs end it.
fn base(endpoint: &str) -> &str {
    let endpoint = endpoint.trim_end_matches('/');
    match endpoint.rsplit_once('/') {
        Some((base, version)) if version == "v2" || version.starts_with("v2.") => base,
        _ => endpoint,
    }
}

/// An address for people, without what somebody may have written into it to log in with.
fn bare(url: &str) -> String {
    let Ok(mut url) = Url::parse(url) else { return "an address that is none".to_owned() };
    let _ = url.set_username("");
    let _ = url.set_password(None);
    url.set_query(None);
    url.into()
}

/// The parameters of a list.
fn encoded(query: &[(&str, &str)], marker: Option<&str>) -> String {
    // Only the parameters are taken from it; `Url` knows how they are written.
    let mut url = Url::parse("http://images.invalid").expect("an address");
    url.query_pairs_mut()
        .extend_pairs(query)
        .append_pair("limit", &PAGE.to_string())
        .extend_pairs(marker.map(|marker| ("marker", marker)));
    url.query().unwrap_or_default().to_owned()
}

/// An answer of use.
fn fine(answer: Answer) -> Result<Answer, Fault> {
    match answer.status {
        status if status.is_success() => Ok(answer),
        // Unlike a store of objects it means what it says by that, and not that one come again.
        StatusCode::CONFLICT => match answer.fault() {
            Fault::Passing(cause, _) => Err(Fault::Condition(cause)),
            other => Err(other),
        },
        _ => Err(answer.fault()),
    }
}

fn object(answer: &Answer) -> Result<Map<String, Value>, Fault> {
    match serde_json::from_slice(&answer.body) {
        Ok(Value::Object(object)) => Ok(object),
        _ => Err(Fault::Damaged),
    }
}

/// A fault as it is told of what was to be done.
fn told(cloud: &str, doing: String, fault: Fault) -> ImagesError {
    let cloud = cloud.to_owned();
    match fault {
        Fault::Refused(source) => ImagesError::Refused { cloud, doing, source },
        // An image that is gone was removed by somebody else meanwhile.
        Fault::Condition(source) | Fault::Absent(source) => {
            ImagesError::Conflict { cloud, doing, source }
        }
        Fault::Passing(source, _) => ImagesError::Unavailable { cloud, doing, source },
        Fault::Silent => ImagesError::TooSlow { cloud, doing },
        Fault::Lasting(source) => ImagesError::Wrong { cloud, doing, source },
        Fault::Damaged => ImagesError::Damaged { cloud, doing },
    }
}

/// The bytes of a file, counted and hashed as they go.
fn body(file: Source, tally: Arc<Mutex<Tally>>) -> Body {
    let pieces = futures::stream::unfold(0, move |at| {
        let (file, tally) = (file.clone(), Arc::clone(&tally));
        async move {
            let piece = wire::blocking(move || {
                let piece = file.piece(at)?;
                tally.lock().unwrap_or_else(PoisonError::into_inner).add(&piece);
                Ok::<_, crate::files::FileError>(piece)
            });
            match piece.await {
                Ok(piece) if piece.is_empty() => None,
                Ok(piece) => Some((Ok(piece), at + PIECE)),
                Err(error) => Some((Err(error), u64::MAX)),
            }
        }
    });
    Body::wrap_stream(pieces)
}

impl Images for Glance {
    fn cloud(&self) -> &str {
        &self.cloud.name
    }

    fn list(&self, name: &str) -> Result<Vec<Record>, ImagesError> {
        let owner = self.session.lock().unwrap_or_else(PoisonError::into_inner).project.clone();
        let mut found: Vec<Record> = Vec::new();
        // Of a name, what stands before a `:` is an operator; of other properties it is not.
        let exactly = format!("eq:{name}");
        for key in [("name", exactly.as_str()), (own::NAME, name)] {
            for hidden in ["false", "true"] {
                let mut query = vec![key, ("os_hidden", hidden)];
                query.extend(owner.as_deref().map(|owner| ("owner", owner)));
                found.extend(self.pages(&query)?);
            }
        }
        // Whoever may see all projects is shown all, and others' public images are shown anyway.
        found.retain(|record| owner.is_none() || record.owner == owner);
        found.retain(|record| {
            record.name.as_deref() == Some(name) || record.own(own::NAME) == Some(name)
        });
        found.sort_by(|one, other| one.id.cmp(&other.id));
        found.dedup_by(|one, other| one.id == other.id);
        Ok(found)
    }

    fn get(&self, id: &str) -> Result<Option<Record>, ImagesError> {
        let doing = format!("show the image {id}");
        let found = self.call(&doing, &async |session: &Session| {
            let path = format!("/{id}");
            let request = self.request(session, &self.wire, Method::GET, &path)?;
            match fine(Wire::send(request, MAX_TEXT).await?) {
                Ok(answer) => Ok(Some(object(&answer)?)),
                Err(Fault::Absent(_)) => Ok(None),
                Err(fault) => Err(fault),
            }
        })?;
        let Some(found) = found else { return Ok(None) };
        Record::of(&found).map(Some).ok_or_else(|| self.damaged(&doing))
    }

    fn create(&self, draft: &Draft) -> Result<(), ImagesError> {
        let body = draft.body().to_string();
        let done = self.call("make an image", &async |session: &Session| {
            let request = self.request(session, &self.wire, Method::POST, "")?;
            let request = request.header(CONTENT_TYPE, "application/json").body(body.clone());
            fine(Wire::send(request, MAX_TEXT).await?)
        });
        match done {
            // The answer of a try before this one was lost.
            Err(ImagesError::Conflict { .. }) if self.get(&draft.id)?.is_some() => Ok(()),
            done => done.map(|_| ()),
        }
    }

    fn upload(
        &self,
        id: &str,
        file: &Source,
        go_on: &dyn Fn(u64) -> bool,
    ) -> Result<Sent, ImagesError> {
        // A token that has run out is noticed before the bytes are on their way.
        if self.get(id)?.is_none() {
            let (cloud, doing) = (self.cloud.name.clone(), format!("find the image {id} again"));
            return Err(ImagesError::Conflict { cloud, doing, source: "it is gone".into() });
        }
        let stopped = Cell::new(false);
        let go_on = |bytes| {
            let go = go_on(bytes);
            stopped.set(!go);
            go
        };
        let once = Patience { retries: 0, ..self.patience };
        let session = self.session.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let done = wire::attempt(&once, file.size(), async || {
            self.send_file(&session, id, file, &go_on).await
        });
        done.map_err(|fault| match fault {
            _ if stopped.get() => ImagesError::Interrupted,
            fault => told(&self.cloud.name, format!("take the bytes of the image {id}"), fault),
        })
    }

    fn update(&self, id: &str, change: &Change) -> Result<(), ImagesError> {
        let body = change.body().to_string();
        let done = self.call(format!("change the image {id}"), &async |session: &Session| {
            let path = format!("/{id}");
            let request = self.request(session, &self.wire, Method::PATCH, &path)?;
            let request = request.header(CONTENT_TYPE, PATCH).body(body.clone());
            fine(Wire::send(request, MAX_TEXT).await?)
        });
        match done {
            // What the patch removes is gone already.
            Err(error @ ImagesError::Conflict { .. }) => match self.get(id)? {
                Some(record) if change.is_done(&record) => Ok(()),
                _ => Err(error),
            },
            done => done.map(|_| ()),
        }
    }

    fn delete(&self, id: &str) -> Result<(), ImagesError> {
        self.call(format!("remove the image {id}"), &async |session: &Session| {
            let path = format!("/{id}");
            let request = self.request(session, &self.wire, Method::DELETE, &path)?;
            match fine(Wire::send(request, MAX_TEXT).await?) {
                Err(Fault::Absent(_)) => Ok(()),
                done => done.map(|_| ()),
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_of_the_catalog_may_end_with_the_version() {
        for endpoint in
            ["http://g/image", "http://g/image/", "http://g/image/v2", "http://g/image/v2.9/"]
        {
            assert_eq!(base(endpoint), "http://g/image");
        }
    }

    #[test]
    fn an_address_is_shown_without_secrets() {
        assert_eq!(bare("https://ann:secret@k:5000/v3?x=secret"), "https://k:5000/v3");
        assert_eq!(bare("k.example"), "an address that is none");
    }

    #[test]
    fn names_are_encoded_in_a_list() {
        let query = encoded(&[("name", "a b&c=ä"), ("os_hidden", "true")], Some("1f"));
        assert_eq!(query, "name=a+b%26c%3D%C3%A4&os_hidden=true&limit=100&marker=1f");
    }
}
