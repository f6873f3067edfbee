//! Ways to log in at Debian's Keystone: passwords, application credentials, `clouds.yaml`.

use std::fs;

use kiln::publish::{ConnectError, Images, ImagesError};

use super::openstack::{CLOUD, images_of};

/// Connects with these variables and lists something.
fn listed(pairs: &[(&str, &str)]) -> Result<(), ConnectError> {
    let glance = images_of(pairs)?;
    assert_eq!(glance.list("nothing of that name").unwrap(), []);
    Ok(())
}

#[test]
fn an_application_credential_logs_in_by_id_and_by_name() {
    let (url, id) = (CLOUD.auth_url(), CLOUD.credential("id"));
    let (secret, user) = (CLOUD.credential("secret"), CLOUD.credential("user"));
    let common = [("OS_AUTH_URL", url.as_str()), ("OS_APPLICATION_CREDENTIAL_SECRET", &secret)];
    listed(&[&common[..], &[("OS_APPLICATION_CREDENTIAL_ID", &id)]].concat()).unwrap();
    let named = ("OS_APPLICATION_CREDENTIAL_NAME", "kiln");
    listed(&[&common[..], &[named, ("OS_USER_ID", &user)]].concat()).unwrap();
    listed(&[&common[..], &[named, ("OS_USERNAME", "ann")]].concat()).unwrap();
}

#[test]
fn a_cloud_of_clouds_yaml_is_found_with_its_secrets() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("clouds.yaml");
    let url = CLOUD.auth_url();
    fs::write(
        &file,
        format!(
            "clouds:\n  tests:\n    auth:\n      auth_url: {url}\n      username: ann\n      \
             project_name: images\n      user_domain_name: Default\n    region_name: one\n  \
             elsewhere:\n    auth: {{auth_url: {url}, username: ann, password: ann, project_name: \
             images}}\n    region_name: two\n"
        ),
    )
    .unwrap();
    fs::write(
        directory.path().join("secure.yaml"),
        "clouds:\n  tests:\n    auth: {password: ann}\n",
    )
    .unwrap();
    let file = ("OS_CLIENT_CONFIG_FILE", file.to_str().unwrap());
    listed(&[file, ("OS_CLOUD", "tests")]).unwrap();
    let error = listed(&[file, ("OS_CLOUD", "elsewhere")]).unwrap_err();
    let ConnectError::Images(error @ ImagesError::Wrong { .. }) = error else {
        panic!("{error:?}")
    };
    let cause = std::error::Error::source(&error).unwrap().to_string();
    assert!(cause.contains("service `image` in the region `two`"), "{cause}");
}

#[test]
fn a_wrong_password_is_told_and_not_repeated() {
    let url = CLOUD.auth_url();
    let error = listed(&[
        ("OS_AUTH_URL", &url),
        ("OS_USERNAME", "ann"),
        ("OS_PASSWORD", "SECRETIVE"),
        ("OS_PROJECT_NAME", "images"),
    ])
    .unwrap_err();
    let shown = format!("{error} {error:?}");
    assert_eq!(error.to_string(), "the environment does not let you log in");
    assert!(shown.contains("401") && !shown.contains("SECRETIVE"), "{shown}");
    let wrong = listed(&[
        ("OS_AUTH_URL", &url),
        ("OS_APPLICATION_CREDENTIAL_ID", &CLOUD.credential("id")),
        ("OS_APPLICATION_CREDENTIAL_SECRET", "SECRETIVE"),
    ]);
    let Err(ConnectError::Images(ImagesError::Refused { .. })) = wrong else { panic!("{wrong:?}") };
}

#[test]
fn a_token_that_has_run_out_is_replaced() {
    let glance = CLOUD.images();
    assert_eq!(glance.list("first").unwrap(), []);
    // All of ann's tokens end here; the next call needs a new one. Tests beside this one too.
    std::thread::sleep(std::time::Duration::from_secs(3));
    CLOUD.end_tokens();
    // So long, and some more, Glance itself remembers them.
    std::thread::sleep(std::time::Duration::from_secs(3));
    assert_eq!(glance.list("second").unwrap(), []);
}
