//! Remotes that are repositories of an OCI registry.
//!
//! It knows the distribution protocol and how a record looks in it. A record is a manifest: its tag
//! is the record's name, its config the record's bytes, its layers the blobs that the record needs,
//! so that a registry keeps, copies and deletes a result as the one thing that it is. Version 1.0 of
//! the protocol is enough. Leases need conditions, which registries do not have.

mod access;
mod manifest;

use std::ops::Range;

use bytes::Bytes;
use reqwest::header::{ACCEPT, AUTHORIZATION, CONTENT_LENGTH, CONTENT_TYPE, LOCATION, RANGE};
use reqwest::{Client, Method, RequestBuilder, StatusCode, Url};

use self::access::{Access, Scope};
use super::backend::{Backend, Claim, MAX_BLOB, MAX_RECORD, RemoteError};
use super::call::Caller;
use super::{BlobId, BlobRef, RecordName};
use crate::digest::ActionKey;
use crate::environment::Environment;
use crate::name::Namespace;
use crate::wire::{Answer, Fault, MAX_TEXT, Wire};

/// Longest manifest in bytes, which is what registries take.
const MAX_MANIFEST: u64 = 4 << 20;

/// Where a repository is.
#[derive(Debug, Clone)]
pub(super) struct Repository {
    scheme: &'static str,
    host: String,
    name: String,
}

impl Repository {
    /// The repository of an address; tells what is wrong with it.
    pub(super) fn new(scheme: &str, host: &str, name: &str) -> Result<Self, String> {
        let fits = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || "-_.".contains(c);
        let part = |part: &str| {
            let ends = |c: Option<char>| c.is_some_and(|c| c.is_ascii_alphanumeric());
            part.chars().all(fits) && ends(part.chars().next()) && ends(part.chars().last())
        };
        if name.is_empty() || name.len() > 200 || !name.split('/').all(part) {
            return Err("its address names no repository: `oci://REGISTRY/REPOSITORY`, \
                in lowercase"
                .into());
        }
        let scheme = if scheme == "http" { "http" } else { "https" };
        let repository = Self { scheme, host: host.to_owned(), name: name.to_owned() };
        match Url::parse(&repository.base()) {
            Ok(_) => Ok(repository),
            Err(error) => Err(format!("its address is none: {error}")),
        }
    }

    fn base(&self) -> String {
        // Docker's own registry has another name on the wire.
        let host = if self.host == "docker.io" { "registry-1.docker.io" } else { &self.host };
        format!("{}://{host}/v2/{}", self.scheme, self.name)
    }
}

/// A repository as a remote.
pub(super) struct Registry {
    caller: Caller,
    wire: Wire,
    repository: Repository,
    access: Access,
}

impl Registry {
    pub(super) fn new(
        caller: Caller,
        wire: Wire,
        repository: Repository,
        environment: Environment,
    ) -> Self {
        let access = Access::new(repository.clone(), environment);
        Self { caller, wire, repository, access }
    }

    fn url(&self, below: &str) -> String {
        format!("{}/{below}", self.repository.base())
    }

    /// Sends a request, with what gives access where the registry asks for it.
    async fn send(
        &self,
        scope: Scope,
        limit: u64,
        request: impl Fn(&Client) -> RequestBuilder,
    ) -> Result<Answer, Fault> {
        let with = |header: Option<String>| {
            let request = request(self.wire.client());
            match header {
                Some(header) => request.header(AUTHORIZATION, header),
                None => request,
            }
        };
        let known = self.access.header(scope);
        let answer = Wire::send(with(known.clone()), limit).await?;
        if answer.status != StatusCode::UNAUTHORIZED {
            return Ok(answer);
        }
        let header = self.access.gain(&self.wire, scope, &answer).await?;
        if known.as_ref() == Some(&header) {
            return Ok(answer);
        }
        Wire::send(with(Some(header)), limit).await
    }

    async fn upload(&self, id: BlobId, bytes: Bytes) -> Result<(), Fault> {
        let start = self.url("blobs/uploads/");
        let begun = |client: &Client| client.post(&start).header(CONTENT_LENGTH, 0);
        let answer = self.send(Scope::Push, MAX_TEXT, begun).await?;
        if answer.status != StatusCode::ACCEPTED {
            return Err(answer.fault());
        }
        let place = answer.headers.get(LOCATION).and_then(|place| place.to_str().ok());
        let base = Url::parse(&start).map_err(|_| Fault::Damaged)?;
        let mut place = place.and_then(|place| base.join(place).ok()).ok_or(Fault::Damaged)?;
        place.query_pairs_mut().append_pair("digest", &digest(id));
        let put = |client: &Client| {
            client
                .put(place.clone())
                .header(CONTENT_TYPE, "application/octet-stream")
                .body(bytes.clone())
        };
        let answer = if place.origin() == base.origin() {
            self.send(Scope::Push, MAX_TEXT, put).await?
        } else if place.scheme() == "https" || self.repository.scheme == "http" {
            // Another server takes the bytes, and no credentials.
            Wire::send(put(self.wire.client()), MAX_TEXT).await?
        } else {
            return Err(Fault::Lasting("it wants bytes to go over an insecure address".into()));
        };
        if answer.status == StatusCode::CREATED { Ok(()) } else { Err(answer.fault()) }
    }

    /// Reads a range of a blob of a length; `None` where there is none.
    async fn download(&self, blob: BlobRef, range: &Range<u64>) -> Result<Vec<u8>, Fault> {
        let url = self.url(&format!("blobs/{}", digest(blob.id)));
        let whole = *range == (0..blob.len);
        let get = |client: &Client| {
            let request = client.get(&url);
            if whole {
                return request;
            }
            request.header(RANGE, format!("bytes={}-{}", range.start, range.end.saturating_sub(1)))
        };
        let answer = self.send(Scope::Pull, blob.len, get).await?;
        let bytes = match answer.status {
            StatusCode::PARTIAL_CONTENT if !whole => answer.body,
            StatusCode::OK if whole => answer.body,
            // Where ranges are not known, all of it comes.
            StatusCode::OK if answer.body.len() as u64 == blob.len => {
                let at = |at: u64| usize::try_from(at).unwrap_or(usize::MAX);
                let part = answer.body.get(at(range.start)..at(range.end));
                part.ok_or(Fault::Damaged)?.to_vec()
            }
            StatusCode::OK | StatusCode::PARTIAL_CONTENT => return Err(Fault::Damaged),
            _ => return Err(answer.fault()),
        };
        let wanted = range.end.saturating_sub(range.start);
        if bytes.len() as u64 == wanted { Ok(bytes) } else { Err(Fault::Damaged) }
    }
}

impl Backend for Registry {
    fn name(&self) -> &str {
        &self.caller.remote
    }

    fn read_blob(&self, blob: BlobRef, range: Range<u64>) -> Result<Vec<u8>, RemoteError> {
        let wanted = range.end.saturating_sub(range.start);
        if wanted == 0 {
            return Ok(Vec::new());
        }
        let read = self.caller.run(wanted, async || self.download(blob, &range).await);
        read.map_err(|fault| match fault {
            Fault::Absent(_) => {
                RemoteError::Missing { remote: self.name().to_owned(), blob: blob.id.to_string() }
            }
            fault => self.caller.tell(("read", digest(blob.id)), wanted, fault),
        })
    }

    fn has_blob(&self, blob: BlobRef) -> Result<bool, RemoteError> {
        let url = self.url(&format!("blobs/{}", digest(blob.id)));
        self.caller.call(("look for", digest(blob.id)), 0, async || {
            let head = |client: &Client| client.request(Method::HEAD, &url);
            let answer = self.send(Scope::Pull, MAX_BLOB, head).await?;
            let len = answer.headers.get(CONTENT_LENGTH).and_then(|len| len.to_str().ok());
            match answer.status {
                StatusCode::NOT_FOUND => Ok(false),
                status if status.is_success() => {
                    let len: u64 = len.and_then(|len| len.parse().ok()).ok_or(Fault::Damaged)?;
                    Ok(len == blob.len)
                }
                _ => Err(answer.fault()),
            }
        })
    }

    fn put_blob(&self, blob: BlobRef, bytes: &[u8]) -> Result<(), RemoteError> {
        debug_assert!(bytes.len() as u64 == blob.len && blob.len <= MAX_BLOB);
        let bytes = Bytes::copy_from_slice(bytes);
        self.caller.call(("write", digest(blob.id)), blob.len, async || {
            self.upload(blob.id, bytes.clone()).await
        })
    }

    fn record(&self, name: &RecordName) -> Result<Option<Vec<u8>>, RemoteError> {
        let url = self.url(&format!("manifests/{}", tag(name)));
        let read = self.caller.run(MAX_TEXT, async || {
            let get = |client: &Client| client.get(&url).header(ACCEPT, manifest::MEDIA_TYPE);
            let answer = self.send(Scope::Pull, MAX_MANIFEST, get).await?;
            if !answer.status.is_success() {
                return Err(answer.fault());
            }
            let config = manifest::config(&answer.body).ok_or(Fault::Damaged)?;
            let bytes = match self.download(config, &(0..config.len)).await {
                // A manifest without its config is half of a record.
                Err(Fault::Absent(_)) => Err(Fault::Damaged),
                result => result,
            }?;
            if BlobId::of(&bytes) == config.id { Ok(bytes) } else { Err(Fault::Damaged) }
        });
        match read {
            Ok(bytes) => Ok(Some(bytes)),
            Err(Fault::Absent(_)) => Ok(None),
            Err(fault) => Err(self.caller.tell(("read", name), MAX_TEXT, fault)),
        }
    }

    fn put_record(
        &self,
        name: &RecordName,
        bytes: &[u8],
        needs: &[BlobRef],
    ) -> Result<(), RemoteError> {
        debug_assert!(bytes.len() as u64 <= MAX_RECORD);
        let record = BlobRef::of(bytes);
        let manifest = manifest::of(record, needs);
        if manifest.len() as u64 > MAX_MANIFEST {
            let why = format!("{name} names too many blobs for a registry");
            return Err(RemoteError::Unusable { remote: self.name().to_owned(), why });
        }
        let (bytes, manifest) = (Bytes::copy_from_slice(bytes), Bytes::from(manifest));
        let url = self.url(&format!("manifests/{}", tag(name)));
        let len = (bytes.len() + manifest.len()) as u64;
        self.caller.call(("write", name), len, async || {
            self.upload(record.id, bytes.clone()).await?;
            if needs.is_empty() {
                let nothing = Bytes::from_static(manifest::EMPTY);
                self.upload(BlobId::of(manifest::EMPTY), nothing).await?;
            }
            let put = |client: &Client| {
                client.put(&url).header(CONTENT_TYPE, manifest::MEDIA_TYPE).body(manifest.clone())
            };
            let answer = self.send(Scope::Push, MAX_TEXT, put).await?;
            if answer.status == StatusCode::CREATED { Ok(()) } else { Err(answer.fault()) }
        })
    }

    fn claim(
        &self,
        _namespace: &Namespace,
        _key: ActionKey,
        _lease: &[u8],
    ) -> Result<Claim, RemoteError> {
        Ok(Claim::Impossible)
    }

    fn renew(
        &self,
        _namespace: &Namespace,
        _key: ActionKey,
        _lease: &[u8],
    ) -> Result<(), RemoteError> {
        let why = "a registry holds no leases".to_owned();
        Err(RemoteError::Unusable { remote: self.name().to_owned(), why })
    }

    fn release(&self, _namespace: &Namespace, _key: ActionKey) -> Result<(), RemoteError> {
        Ok(())
    }
}

fn digest(id: BlobId) -> String {
    format!("sha256:{id}")
}

/// The tag of a record: at most 32, 7 and 64 characters with two dots, where 128 are allowed.
fn tag(name: &RecordName) -> String {
    format!("{}.{}.{}", name.namespace, name.kind.word(), name.name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_repository_has_a_name_that_registries_take() {
        let base = |host, name| Repository::new("https", host, name).map(|it| it.base());
        assert_eq!(base("r:5000", "team/cache").unwrap(), "https://r:5000/v2/team/cache");
        let hub = base("docker.io", "team/cache").unwrap();
        assert_eq!(hub, "https://registry-1.docker.io/v2/team/cache");
        for wrong in ["", "Team", "a//b", "a/../b", "a/.", "-a", "a:tag"] {
            assert!(base("r", wrong).is_err(), "{wrong}");
        }
        assert!(base("r:port", "a").is_err());
    }
}
