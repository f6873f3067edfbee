//! Heat templates, as Heat's own engine validates them.

use std::path::PathBuf;

use kiln::heat;
use kiln::recipe::{Heat, Part, Server, Text, Through, UserData, Wait};
use kiln::user_data::File;
use proptest::prelude::*;
use serde_json::Value;

use super::{files, load, many, nowhere, python, read, spanned, tree};

/// What Heat says of each template, in their order.
fn validate(templates: &[String]) -> Vec<Value> {
    let directory = files(templates);
    let paths: Vec<PathBuf> =
        (0..templates.len()).map(|number| directory.path().join(format!("{number:04}"))).collect();
    let paths: Vec<_> = paths.iter().map(PathBuf::as_path).collect();
    let said = python("validate.py", &paths);
    said.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

const RECIPE: &str = r##"
image "debian-web" {
    base bootstrap "bookworm"
}

user-data "long" {
    script text="#!/bin/sh -ex\n\nmy_command_that --takes-a-really long-time\n\nwc_notify --data-binary '{\"status\": \"SUCCESS\", \"data\": \"Script execution succeeded\"}'"
}

user-data "packages" {
    cloud-config {
        packages "ntp" "wget"
    }
    require "/usr/bin/wget"
}

heat "long" {
    description "Waits, as the blog does"
    server image="debian-web" flavor="m1.small" key-name="myKey" network="private" user-data="long"
    security-group "default" "web"
    wait timeout="2000s"
}

heat "packages" {
    server image-name="centos-7.2" user-data="packages"
    wait through="heat"
}

heat "plain" {
    server image="debian-web" user-data="packages"
}

heat "bare" {
    server
}
"##;

#[test]
fn heat_takes_what_the_recipe_says() {
    let tree = tree(RECIPE, &[]);
    let workspace = load(&tree);
    let mut templates = Vec::new();
    for template in &workspace.documents.templates {
        let document =
            template.server.user_data.as_ref().map(|name| {
                heat::document(template, &read(&workspace, name.value.as_str())).unwrap()
            });
        templates.push(heat::template(template, document.as_ref()));
    }
    insta::assert_snapshot!(templates.join("=====\n"));
    let broken = templates[0].replace("OS::Heat::SwiftSignal\n", "OS::Heat::SwiftSignals\n");
    templates.push(broken);
    templates.push(templates[0].replace("get_resource: signal_handle", "get_resource: nothing"));
    let said = validate(&templates);
    for answer in &said[..4] {
        assert_eq!(answer["error"], Value::Null, "{answer}");
        assert_eq!(answer["resources"]["server"], "OS::Nova::Server");
    }
    assert_eq!(said[0]["resources"]["wait_on_server"], "OS::Heat::SwiftSignal");
    assert_eq!(said[1]["resources"]["signal_handle"], "OS::Heat::WaitConditionHandle");
    for answer in &said[4..] {
        assert!(answer["error"].is_string(), "Heat refuses what is wrong: {answer}");
    }
}

#[test]
fn the_example_of_the_book_is_right() {
    let book = include_str!("../../book/src/reference/user-data/web.kdl");
    let image =
        "image \"debian-web\" {\n    base bootstrap \"bookworm\"\n    install \"curl\"\n}\n";
    let tree = tree(&format!("{image}{book}"), &[]);
    let workspace = load(&tree);
    assert!(heat::check(&workspace).is_empty(), "nothing stands out");
    let template = &workspace.documents.templates[0];
    let document = heat::document(template, &read(&workspace, "web")).unwrap();
    let said = validate(&[heat::template(template, Some(&document))]);
    assert_eq!(said[0]["error"], serde_json::Value::Null);
}

#[test]
fn nothing_stands_out_in_the_recipes_of_the_repository() {
    let workspace = kiln::workspace::load(&super::servers::repository(".")).unwrap();
    assert!(!workspace.documents.templates.is_empty());
    let found = heat::check(&workspace);
    assert!(found.is_empty(), "{found:?}");
}

/// Any template with any user data: Heat finds the text as it was packed.
#[test]
fn every_user_data_stands_in_its_template() {
    let script = "([ -~äöü€\t]{0,20}\n{1,2}){0,6}";
    let server = (".{1,20}", "[a-z ':#&*-]{1,12}", any::<Option<bool>>());
    let any = (prop::collection::vec(script, 1..3), server, prop::option::of("[ -~]{1,30}"));
    let mut templates = Vec::new();
    let mut expected = Vec::new();
    for (scripts, (image, group, wait), description) in many(&any, 60) {
        let parts = scripts.into_iter().map(|text| Part::Script {
            text: Text::<File>::Written(format!("#!/bin/sh -ex\n{text}")),
            frequency: kiln::recipe::Frequency::Default,
        });
        let user_data = UserData {
            name: spanned("any".parse().unwrap()),
            gzip: true,
            parts: parts.map(spanned).collect(),
        };
        let template = Heat {
            name: spanned("any".parse().unwrap()),
            description,
            server: Server {
                image_name: Some(image),
                network: Some(group.clone()),
                ..Server::default()
            },
            security_groups: vec![group],
            wait: wait.map(|swift| Wait {
                timeout: 43_200,
                count: 1,
                through: if swift { Through::Swift } else { Through::Heat },
                span: nowhere(),
            }),
        };
        let document = heat::document(&template, &user_data).unwrap();
        templates.push(heat::template(&template, Some(&document)));
        expected.push(document.text().unwrap().to_owned());
    }
    for ((answer, expected), template) in validate(&templates).iter().zip(expected).zip(templates) {
        assert_eq!(answer["error"], Value::Null, "{template}");
        let found = &answer["user_data"];
        let found = found.pointer("/str_replace/template").unwrap_or(found);
        assert_eq!(*found, expected, "{template}");
    }
}
