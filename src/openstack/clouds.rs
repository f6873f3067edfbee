//! What the user's own configuration says of a cloud: `OS_*` variables, `clouds.yaml`, `secure.yaml`.
//!
//! It knows where they are looked for and how they are laid over each other. A `secure.yaml` counts
//! beside the `clouds.yaml` that was found, and one that the environment names counts for a
//! `clouds.yaml` of the user's own: else a repository that one stands in could lead passwords
//! elsewhere.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde_json::{Map, Value};

use super::CloudError;
use crate::environment::Environment;
use crate::files;
use crate::mistake::nearest;
use crate::yaml::lay_over;

/// Largest configuration file in bytes.
const MAX_FILE: u64 = 1 << 20;
/// What an endpoint of one service is called behind its type.
const OVERRIDE: &str = "_endpoint_override";

/// The variables that say who one is, with their names in `clouds.yaml`.
const AUTH: &[(&str, &str)] = &[
    ("OS_AUTH_URL", "auth_url"),
    ("OS_USERNAME", "username"),
    ("OS_USER_ID", "user_id"),
    ("OS_PASSWORD", "password"),
    ("OS_USER_DOMAIN_ID", "user_domain_id"),
    ("OS_USER_DOMAIN_NAME", "user_domain_name"),
    ("OS_PROJECT_ID", "project_id"),
    ("OS_TENANT_ID", "project_id"),
    ("OS_PROJECT_NAME", "project_name"),
    ("OS_TENANT_NAME", "project_name"),
    ("OS_PROJECT_DOMAIN_ID", "project_domain_id"),
    ("OS_PROJECT_DOMAIN_NAME", "project_domain_name"),
    ("OS_DEFAULT_DOMAIN", "default_domain"),
    ("OS_APPLICATION_CREDENTIAL_ID", "application_credential_id"),
    ("OS_APPLICATION_CREDENTIAL_NAME", "application_credential_name"),
    ("OS_APPLICATION_CREDENTIAL_SECRET", "application_credential_secret"),
    ("OS_TOKEN", "token"),
    ("OS_ENDPOINT", "endpoint"),
];

/// What was said of one cloud.
pub(crate) struct Settings {
    /// What was read, for people: ``the cloud `prod` ``.
    pub(crate) name: String,
    /// Who one is, by the names of `clouds.yaml`.
    pub(crate) auth: BTreeMap<String, String>,
    /// How one logs in; told by what `auth` has where it is not said.
    pub(crate) kind: Option<String>,
    pub(crate) region: Option<String>,
    pub(crate) interface: Option<String>,
    /// Where single services are, by their types with `_`.
    pub(crate) endpoints: BTreeMap<String, String>,
    /// A file with the certificates of whom to trust beside the host's own authorities.
    pub(crate) authority: Option<PathBuf>,
    /// Whether certificates are checked at all.
    pub(crate) verify: bool,
}

impl Settings {
    /// What is said of the cloud of that name, else of the one that the environment means.
    pub(crate) fn find(environment: &Environment, cloud: Option<&str>) -> Result<Self, CloudError> {
        Self::find_from(Path::new("."), environment, cloud)
    }

    /// The same for whoever stands in that directory.
    fn find_from(
        here: &Path,
        environment: &Environment,
        cloud: Option<&str>,
    ) -> Result<Self, CloudError> {
        let named = cloud.map(str::to_owned).or_else(|| environment.get(&["OS_CLOUD"]));
        if named.is_none() && environment.get(&["OS_AUTH_URL", "OS_AUTH_TYPE"]).is_some() {
            return Ok(Self::of_environment(environment));
        }
        let Some(file) = File::find(here, environment) else {
            return Err(match named {
                Some(name) => {
                    let help =
                        "no `clouds.yaml` was found: it is looked for in this directory, in \
                                `~/.config/openstack` and in `/etc/openstack`"
                            .to_owned();
                    CloudError::Unknown { name, help }
                }
                None => CloudError::Nothing,
            });
        };
        let clouds = clouds(&file, environment)?;
        let path = &file.path;
        let name = match named {
            Some(name) => name,
            None if clouds.len() == 1 => clouds.keys().cloned().collect(),
            None => return Err(CloudError::Nothing),
        };
        let Some(entry) = clouds.get(&name) else {
            let near = nearest(&name, clouds.keys().map(String::as_str));
            let help = match near {
                Some(near) => format!("did you mean `{near}`? `{}` was read", path.display()),
                None => format!("`{}` was read, which does not have it", path.display()),
            };
            return Err(CloudError::Unknown { name, help });
        };
        Ok(Self::of_entry(&name, entry, path))
    }

    /// What the variables say.
    pub(crate) fn of_environment(environment: &Environment) -> Self {
        let mut auth = BTreeMap::new();
        for (variable, name) in AUTH {
            if let Some(value) = environment.get(&[variable]) {
                auth.entry((*name).to_owned()).or_insert(value);
            }
        }
        let get = |names: &[&str]| environment.get(names);
        let services = [("image", "OS_IMAGE"), ("object_store", "OS_OBJECT_STORE")];
        let endpoints = services.iter().filter_map(|(service, prefix)| {
            let url = get(&[&format!("{prefix}_ENDPOINT_OVERRIDE")])?;
            Some(((*service).to_owned(), url))
        });
        Self {
            name: "the environment".to_owned(),
            auth,
            kind: get(&["OS_AUTH_TYPE"]),
            region: get(&["OS_REGION_NAME"]),
            interface: get(&["OS_INTERFACE", "OS_ENDPOINT_TYPE"]).map(|text| interface(&text)),
            endpoints: endpoints.collect(),
            authority: get(&["OS_CACERT"]).map(PathBuf::from),
            verify: true,
        }
    }

    fn of_entry(name: &str, entry: &Value, path: &Path) -> Self {
        let get = |key: &str| text(entry.get(key)?);
        let mut auth = BTreeMap::new();
        if let Some(said) = entry.get("auth").and_then(Value::as_object) {
            for (key, value) in said {
                let key = key.replace("tenant_", "project_");
                auth.extend(text(value).map(|value| (key, value)));
            }
        }
        let only = |regions: &Vec<Value>| match regions.as_slice() {
            [Value::Object(region)] => text(region.get("name")?),
            [region] => text(region),
            _ => None,
        };
        let regions = || entry.get("regions").and_then(Value::as_array).and_then(only);
        let overrides = entry.as_object().into_iter().flatten().filter_map(|(key, value)| {
            Some((key.strip_suffix(OVERRIDE)?.to_owned(), text(value)?))
        });
        let flag = |key: &str| entry.get(key).and_then(Value::as_bool);
        Self {
            name: format!("the cloud `{name}`"),
            auth,
            kind: get("auth_type"),
            region: get("region_name").or_else(regions),
            interface: get("interface").or_else(|| get("endpoint_type")).map(|t| interface(&t)),
            endpoints: overrides.collect(),
            authority: get("cacert").map(|file| beside(path, &file)),
            verify: flag("verify").unwrap_or(true) && !flag("insecure").unwrap_or(false),
        }
    }
}

/// `publicURL`, as it was once called, and `public`.
fn interface(text: &str) -> String {
    text.strip_suffix("URL").unwrap_or(text).to_owned()
}

/// A path of a configuration file: one that is relative is meant from where the file is.
fn beside(file: &Path, path: &str) -> PathBuf {
    file.parent().unwrap_or(Path::new("")).join(path)
}

/// A scalar as it was meant: a password may look like a number.
fn text(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.clone()),
        Value::Number(number) => Some(number.to_string()),
        Value::Bool(flag) => Some(flag.to_string()),
        _ => None,
    }
}

/// The `clouds.yaml` that counts.
struct File {
    path: PathBuf,
    /// Whether it is the user's own, and not of whoever made the directory that one stands in.
    is_own: bool,
}

impl File {
    /// The one that the environment names, else the first that is there.
    fn find(here: &Path, environment: &Environment) -> Option<Self> {
        let said = environment.get(&["OS_CLIENT_CONFIG_FILE"]).map(PathBuf::from);
        let first = |directory: PathBuf| {
            let names = ["clouds.yaml", "clouds.yml"];
            names.map(|name| directory.join(name)).into_iter().find(|path| path.is_file())
        };
        let own = |path| Self { path, is_own: true };
        said.map(own)
            .or_else(|| first(here.to_owned()).map(|path| Self { path, is_own: false }))
            .or_else(|| directories(environment).find_map(first).map(own))
    }
}

/// Where the user and the host keep such files.
fn directories(environment: &Environment) -> impl Iterator<Item = PathBuf> {
    let config = environment.get(&["XDG_CONFIG_HOME"]).map(PathBuf::from);
    let config = config.filter(|path| path.is_absolute()).or_else(|| environment.home(".config"));
    let config = config.map(|config| config.join("openstack"));
    config.into_iter().chain([PathBuf::from("/etc/openstack")])
}

/// The clouds of a file, with what the file of secrets adds.
fn clouds(file: &File, environment: &Environment) -> Result<Map<String, Value>, CloudError> {
    let mut clouds = read(&file.path)?;
    let said = environment.get(&["OS_CLIENT_SECURE_FILE"]).filter(|_| file.is_own);
    let names = ["secure.yaml", "secure.yml"].map(|name| file.path.with_file_name(name));
    let beside = || names.into_iter().find(|path| path.is_file());
    if let Some(secure) = said.map(PathBuf::from).or_else(beside) {
        lay_over(&mut clouds, read(&secure)?);
    }
    Ok(clouds)
}

/// The part of a file in which nothing is a number or a flag, whatever it looks like.
#[derive(Deserialize)]
struct Spelled {
    clouds: BTreeMap<String, Option<Entry>>,
}

#[derive(Deserialize)]
struct Entry {
    #[serde(default)]
    auth: Option<BTreeMap<String, Option<String>>>,
}

impl Spelled {
    /// Writes what was said over what it was taken for: a password `0123` is not the number 83.
    fn correct(self, clouds: &mut Map<String, Value>) {
        for (name, entry) in self.clouds {
            let Some(auth) = entry.and_then(|entry| entry.auth) else { continue };
            if let Some(Value::Object(cloud)) = clouds.get_mut(&name) {
                let said = auth.into_iter().filter_map(|(key, value)| Some((key, value?.into())));
                cloud.insert("auth".to_owned(), Value::Object(said.collect()));
            }
        }
    }
}

fn read(path: &Path) -> Result<Map<String, Value>, CloudError> {
    let bytes = files::read_bounded(path, MAX_FILE)?;
    let malformed = |place: String| CloudError::Malformed { path: path.to_owned(), place };
    let text = std::str::from_utf8(&bytes).map_err(|_| malformed(String::new()))?;
    let placed = |error: serde_saphyr::Error| {
        malformed(error.location().map_or(String::new(), |at| format!(" in line {}", at.line())))
    };
    let value: Value = serde_saphyr::from_str(text).map_err(placed)?;
    let Some(Value::Object(mut clouds)) = value.get("clouds").cloned() else {
        return Err(malformed(String::new()));
    };
    let spelled: Spelled = serde_saphyr::from_str(text).map_err(placed)?;
    spelled.correct(&mut clouds);
    Ok(clouds)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    const CLOUDS: &str = "
clouds:
  prod:
    auth:
      auth_url: https://k.example
      username: ann
      tenant_name: images
    region_name: two
    interface: internalURL
    cacert: authority.pem
    verify: false
    image_endpoint_override: https://g.example
  here:
    auth_type: none
    auth: {endpoint: 'http://127.0.0.1:9292'}
";

    fn find(directory: &Path, cloud: Option<&str>) -> Result<Settings, CloudError> {
        let file = directory.join("clouds.yaml");
        let pairs = [("OS_CLIENT_CONFIG_FILE", file.to_str().unwrap())];
        Settings::find(&Environment::of(&pairs), cloud)
    }

    #[test]
    fn a_cloud_is_read_with_its_secrets() {
        let directory = tempfile::tempdir().unwrap();
        fs::write(directory.path().join("clouds.yaml"), CLOUDS).unwrap();
        let secure = "clouds:\n  prod:\n    auth:\n      password: 0123\n";
        fs::write(directory.path().join("secure.yaml"), secure).unwrap();
        let prod = find(directory.path(), Some("prod")).ok().unwrap();
        assert_eq!(prod.name, "the cloud `prod`");
        assert_eq!(prod.auth["username"], "ann");
        assert_eq!(prod.auth["project_name"], "images");
        assert_eq!(prod.auth["password"], "0123", "as it is spelt in the file of secrets");
        assert_eq!(prod.region.as_deref(), Some("two"));
        assert_eq!(prod.interface.as_deref(), Some("internal"));
        assert_eq!(prod.endpoints["image"], "https://g.example");
        assert_eq!(prod.authority, Some(directory.path().join("authority.pem")));
        assert!(!prod.verify);
    }

    #[test]
    fn who_one_is_is_taken_as_it_is_spelt() {
        let directory = tempfile::tempdir().unwrap();
        let spelt =
            ["0123", "1.10", "1e5", "0x1F", "1_000", "true", "no", "null-", "12", "2026-11-26"];
        for text in spelt {
            let clouds = format!("clouds: {{c: {{auth: {{auth_url: k, password: {text}}}}}}}\n");
            fs::write(directory.path().join("clouds.yaml"), clouds).unwrap();
            let found = find(directory.path(), None).ok().unwrap();
            assert_eq!(found.auth.get("password").map(String::as_str), Some(text));
        }
        for text in ["", "null", "~"] {
            let clouds = format!("clouds:\n  c:\n    auth:\n      password: {text}\n");
            fs::write(directory.path().join("clouds.yaml"), clouds).unwrap();
            let found = find(directory.path(), None).ok().unwrap();
            assert_eq!(found.auth.get("password"), None, "{text}");
        }
        let clouds = "clouds: {c: {auth: {password: [SECRETIVE]}}}\n";
        fs::write(directory.path().join("clouds.yaml"), clouds).unwrap();
        let error = find(directory.path(), None).err().unwrap();
        assert!(matches!(error, CloudError::Malformed { .. }));
        assert!(!format!("{error} {error:?}").contains("SECRETIVE"));
    }

    #[test]
    fn passwords_do_not_go_where_a_repository_says() {
        let [here, own] = [(); 2].map(|()| tempfile::tempdir().unwrap());
        let clouds = "clouds: {prod: {auth: {auth_url: 'https://evil.example'}}}\n";
        fs::write(here.path().join("clouds.yaml"), clouds).unwrap();
        let secure = own.path().join("secrets.yaml");
        fs::write(&secure, "clouds: {prod: {auth: {password: mine}}}\n").unwrap();
        let secure = ("OS_CLIENT_SECURE_FILE", secure.to_str().unwrap());
        let find = |pairs: &[_]| {
            let environment = Environment::of(pairs);
            Settings::find_from(here.path(), &environment, Some("prod"))
        };
        let found = find(&[secure]).ok().unwrap();
        assert_eq!(found.auth["auth_url"], "https://evil.example");
        assert_eq!(found.auth.get("password"), None);

        // The user's own words lead both where they say.
        let file = here.path().join("clouds.yaml");
        let named = ("OS_CLIENT_CONFIG_FILE", file.to_str().unwrap());
        assert_eq!(find(&[secure, named]).ok().unwrap().auth["password"], "mine");
        fs::remove_file(&file).unwrap();
        fs::create_dir(own.path().join("openstack")).unwrap();
        fs::write(own.path().join("openstack/clouds.yaml"), clouds).unwrap();
        let config = ("XDG_CONFIG_HOME", own.path().to_str().unwrap());
        assert_eq!(find(&[secure, config]).ok().unwrap().auth["password"], "mine");

        // A file that is named and is not there is no reason to take another one.
        let missing = find(&[config, named]);
        assert!(matches!(missing, Err(CloudError::File(_))));
        let missing = find(&[config, ("OS_CLIENT_SECURE_FILE", "/nowhere/secure.yaml")]);
        assert!(matches!(missing, Err(CloudError::File(_))));
    }

    #[test]
    fn a_cloud_that_is_not_there_is_told_with_a_near_one() {
        let directory = tempfile::tempdir().unwrap();
        fs::write(directory.path().join("clouds.yaml"), CLOUDS).unwrap();
        let Err(CloudError::Unknown { help, .. }) = find(directory.path(), Some("prd")) else {
            panic!("an unknown cloud")
        };
        assert!(help.starts_with("did you mean `prod`?"), "{help}");
        // Of two clouds none is meant where nothing says which.
        assert!(matches!(find(directory.path(), None), Err(CloudError::Nothing)));
    }

    #[test]
    fn what_cannot_be_read_is_not_repeated() {
        let directory = tempfile::tempdir().unwrap();
        for text in ["clouds:\n  a: {auth: [SECRETIVE\n", "- SECRETIVE", "clouds: SECRETIVE"] {
            fs::write(directory.path().join("clouds.yaml"), text).unwrap();
            let error = find(directory.path(), None).err().unwrap();
            let shown = format!("{error} {error:?}");
            assert!(matches!(error, CloudError::Malformed { .. }), "{shown}");
            assert!(!shown.contains("SECRETIVE"), "{shown}");
        }
    }

    #[test]
    fn the_environment_counts_where_no_cloud_is_named() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("clouds.yaml");
        fs::write(&file, CLOUDS).unwrap();
        let mut pairs = vec![
            ("OS_CLIENT_CONFIG_FILE", file.to_str().unwrap()),
            ("OS_AUTH_URL", "https://other.example"),
            ("OS_TENANT_NAME", "old"),
            ("OS_PROJECT_NAME", "images"),
            ("OS_ENDPOINT_TYPE", "publicURL"),
        ];
        let of = |pairs: &[_]| Settings::find(&Environment::of(pairs), None).ok().unwrap();
        let found = of(&pairs);
        assert_eq!(found.auth["auth_url"], "https://other.example");
        assert_eq!(found.auth["project_name"], "images");
        assert_eq!(found.interface.as_deref(), Some("public"));
        pairs.push(("OS_CLOUD", "here"));
        assert_eq!(of(&pairs).auth["endpoint"], "http://127.0.0.1:9292");
    }
}
