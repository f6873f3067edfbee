//! Answers that a real service rarely gives: short pages, addresses with nothing behind them, and a
//! login that lasts as long as somebody needs to edit a recipe.

use std::fs;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpListener;
use std::thread;

use kiln::openstack::CloudError;
use kiln::publish::{ConnectError, Images, ImagesError};
use serde_json::{Value, json};

use super::openstack::{NOBODY, images_of};
use super::space::TestSpace;
use super::{named, unique};

/// A status and a body.
type Answer = (u16, Value);

/// A server that answers by the first line of a request, as long as the tests run; its address.
fn server(answer: impl Fn(&str) -> Answer + Send + 'static) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap());
    thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = BufReader::new(stream.unwrap());
            let (mut first, mut length) = (String::new(), 0);
            stream.read_line(&mut first).unwrap();
            loop {
                let mut line = String::new();
                stream.read_line(&mut line).unwrap();
                if let Some(value) = line.to_lowercase().strip_prefix("content-length:") {
                    length = value.trim().parse().unwrap();
                }
                if line.trim().is_empty() {
                    break;
                }
            }
            let mut body = Vec::new();
            stream.by_ref().take(length).read_to_end(&mut body).unwrap();
            let (status, body) = answer(first.trim());
            let body = body.to_string();
            let head = format!(
                "HTTP/1.1 {status} Said\r\nContent-Length: {}\r\nX-Subject-Token: t\r\nConnection: \
                 close\r\n\r\n",
                body.len()
            );
            let _ = stream.get_mut().write_all(format!("{head}{body}").as_bytes());
        }
    });
    address
}

fn image(id: &str) -> Value {
    json!({ "id": id, "name": "golden", "status": "active", "tags": [] })
}

#[test]
fn a_page_is_the_last_one_where_the_service_says_so() {
    // The service gives one image at a time, however many are asked for.
    let glance = server(|line| {
        if line.contains("kiln_name") || line.contains("os_hidden=true") {
            return (200, json!({ "images": [] }));
        }
        assert!(line.contains("name=eq%3Agolden"), "{line}");
        let page = match line {
            line if line.contains("marker=one") => json!({ "images": [image("two")] }),
            _ => json!({ "images": [image("one")], "next": "/v2/images?marker=one" }),
        };
        (200, page)
    });
    let images = images_of(&[("OS_AUTH_TYPE", "none"), ("OS_ENDPOINT", &glance)]).unwrap();
    let ids: Vec<_> = images.list("golden").unwrap().into_iter().map(|record| record.id).collect();
    assert_eq!(ids, ["one", "two"]);
}

#[test]
fn a_list_without_an_end_is_none() {
    let glance = server(|_| (200, json!({ "images": [], "next": "/v2/images" })));
    let images = images_of(&[("OS_AUTH_TYPE", "none"), ("OS_ENDPOINT", &glance)]).unwrap();
    let result = images.list("golden");
    assert!(matches!(result, Err(ImagesError::Damaged { .. })), "{result:?}");
}

#[test]
fn an_address_with_something_else_behind_it_is_told_as_one() {
    let nothing = server(|_| (404, json!({})));
    let result = images_of(&[
        ("OS_AUTH_URL", &nothing),
        ("OS_USERNAME", "ann"),
        ("OS_PASSWORD", "SECRETIVE"),
        ("OS_PROJECT_NAME", "images"),
    ]);
    let Err(ConnectError::Cloud(error @ CloudError::NoKeystone { .. })) = result else {
        panic!("{:?}", result.err())
    };
    let told = error.to_string();
    assert!(told.contains(&format!("no Keystone of version 3 at `{nothing}/`")), "{told}");
    assert!(!format!("{told} {error:?}").contains("SECRETIVE"));

    let images = images_of(&[("OS_AUTH_TYPE", "none"), ("OS_ENDPOINT", &nothing)]).unwrap();
    let result = images.list("golden");
    assert!(matches!(result, Err(ImagesError::Damaged { .. })), "{result:?}");
}

/// A recipe with an image that is published, behind some other text.
fn recipe(before: &str, name: &str) -> String {
    format!(
        "{before}image \"web\" {{\n    base file \"base.img\"\n    run-command \"one\"\n    output \
         \"raw\"\n    publish \"glance\" {{\n        name \"{name}\"\n    }}\n}}\n"
    )
}

#[test]
fn a_recipe_that_is_edited_meanwhile_is_published_as_it_was_built() {
    let name = unique();
    let space = TestSpace::new(&recipe("", &name));
    space.build();
    // While kiln logs in somebody writes another image before it.
    let file = space.root().join("recipes/main.kdl");
    let other = "image \"api\" {\n    base file \"base.img\"\n    output \"raw\"\n}\n";
    let (edited, glance) = (recipe(other, &name), NOBODY.variables()[1].1.clone());
    let keystone = server(move |line| {
        assert!(line.starts_with("POST /v3/auth/tokens"), "{line}");
        fs::write(&file, &edited).unwrap();
        let endpoint = json!({ "interface": "public", "url": glance });
        let catalog = json!([{ "type": "image", "endpoints": [endpoint] }]);
        (201, json!({ "token": { "catalog": catalog } }))
    });
    let mut kiln = super::commands::command(&space, &NOBODY, &["web"]);
    kiln.env_remove("OS_AUTH_TYPE").env_remove("OS_ENDPOINT").env("OS_AUTH_URL", keystone);
    kiln.env("OS_USERNAME", "ann").env("OS_PASSWORD", "ann").env("OS_PROJECT_NAME", "images");
    let output = kiln.output().unwrap();
    let err = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(0), "{err}");
    let images = NOBODY.images();
    let found = named(&images, &name);
    assert_eq!(found.len(), 1, "{err}");
    assert_eq!(found[0].own("kiln_image"), Some("web"));
    assert_eq!(NOBODY.download(&found[0].id), fs::read(space.output("web")).unwrap());
    images.delete(&found[0].id).unwrap();
}
