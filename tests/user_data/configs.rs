//! Parts of `cloud-config`, as cloud-init's own code merges, knows and runs them.

use kiln::heat;
use kiln::recipe::Through;
use kiln::user_data::{self, Audience, Document};
use serde_json::{Value, json};

use super::{files, load, nowhere, python, read, tree};

/// What `kiln check` says, by code.
fn found(recipe: &str, beside: &[(&str, &[u8])]) -> Vec<(&'static str, String)> {
    let tree = tree(recipe, beside);
    let found = heat::check(&load(&tree));
    found.into_iter().map(|mistake| (mistake.code, mistake.message)).collect()
}

/// The document that whoever waits for signals gets.
fn waiting(recipe: &str, through: Through) -> Document {
    let tree = tree(recipe, &[]);
    let audience = Audience::Waiting { count: 1, through, span: nowhere() };
    user_data::document(&read(&load(&tree), "a"), audience).unwrap()
}

#[test]
fn what_is_lost_is_what_cloud_init_drops() {
    let recipe = "user-data \"a\" {
    cloud-config file=\"one.yaml\"
    cloud-config file=\"two.yaml\"
    require \"/bin/sh\"
}
";
    let first: &[u8] = b"#cloud-config\npackages: [ntp]\n";
    let (both, kept_first, kept_last) = (json!(["ntp", "wget"]), json!(["ntp"]), json!(["wget"]));
    let cases = [
        ("", &kept_last, Some("last")),
        ("merge_how: 'list(append)+dict()+str()'\n", &kept_first, Some("first")),
        ("merge_how: 'dict(recurse_array)+str()'\n", &kept_first, Some("first")),
        ("merge_how: 'list()+dict(recurse_array)+str()'\n", &kept_last, Some("last")),
        ("merge_how: 'list(append)+dict(recurse_array)+str()'\n", &both, None),
        ("merge_type: list(append)+dict(recurse_list)+str()\n", &both, None),
        (
            "merge_how:\n- name: list\n  settings: [append]\n- name: dict\n  settings: \
             [no_replace, recurse_list]\n",
            &both,
            None,
        ),
        ("merge_how: 'dict(replace)+list()+str()'\n", &kept_last, None),
    ];
    let mut documents = Vec::new();
    for (how, _, lost) in &cases {
        let second = format!("#cloud-config\n{how}packages: [wget]\n");
        let beside: &[(&str, &[u8])] = &[("one.yaml", first), ("two.yaml", second.as_bytes())];
        let said = found(recipe, beside);
        let expected: Vec<_> = lost
            .iter()
            .map(|kept| format!("two parts have `packages`: cloud-init keeps the {kept}"))
            .map(|message| ("kiln::user_data::lost_name", message))
            .collect();
        assert_eq!(said, expected, "{how}");
        let tree = tree(recipe, beside);
        let document = user_data::document(&read(&load(&tree), "a"), Audience::Anyone).unwrap();
        documents.push(document.bytes);
    }
    let directory = files(&documents);
    let merged: Vec<Value> =
        serde_json::from_str(&python("merge.py", &[directory.path()])).unwrap();
    for ((how, expected, _), merged) in cases.iter().zip(&merged) {
        assert_eq!(merged["packages"], **expected, "{how}: {merged}");
    }
}

#[test]
fn names_that_cloud_init_knows_are_left_alone() {
    let schema =
        "/usr/lib/python3/dist-packages/cloudinit/config/schemas/schema-cloud-config-v1.json";
    let text = std::fs::read_to_string(schema).expect("cloud-init; see `kiln doctor --tests`");
    let schema: Value = serde_json::from_str(&text).unwrap();
    let definitions = schema["$defs"].as_object().unwrap();
    let of_modules = definitions.iter().filter(|(name, _)| name.starts_with("cc_"));
    let properties = of_modules.filter_map(|(_, module)| module["properties"].as_object());
    let names: Vec<_> = properties.flat_map(|properties| properties.keys()).collect();
    assert!(names.len() > 60, "{names:?}");
    for name in names {
        let text = format!("#cloud-config\n{name}: x\n");
        let recipe = "user-data \"a\" {\n    cloud-config file=\"a.yaml\"\n    require \"/a\"\n}\n";
        let said = found(recipe, &[("a.yaml", text.as_bytes())]);
        let unknown = said.iter().find(|(code, _)| *code == "kiln::user_data::unknown_name");
        assert_eq!(unknown, None);
    }
    let mangled: &[u8] = b"#cloud-config\npackage-update: true\n";
    let recipe = "user-data \"a\" {\n    cloud-config file=\"a.yaml\"\n}\n";
    assert_eq!(found(recipe, &[("a.yaml", mangled)]).len(), 1, "cloud-init knows no such name");
}

#[test]
fn owners_are_those_that_cloud_init_finds() {
    let written = |owner: &str| {
        let recipe = format!(
            "user-data \"a\" {{\n cloud-config {{\n file \"/a\" \"x\" owner={owner}\n }}\n}}\n"
        );
        let tree = tree(&recipe, &[]);
        let document = user_data::document(&read(&load(&tree), "a"), Audience::Anyone).unwrap();
        let text = document.text().unwrap().to_owned();
        text.lines().find_map(|line| Some(line.trim().strip_prefix("owner: ")?.to_owned())).unwrap()
    };
    let owners = [written("\"0\""), written("\"0:0\""), written("\"daemon\"")];
    assert_eq!(owners, ["root", "root:root", "daemon"]);
    let [a, b, c] = owners.each_ref().map(String::as_str);
    let directory = files(&[a, b, c, "0", "1000:1000", "daemon:nothing"]);
    let said = python("owners.py", &[directory.path()]);
    assert_eq!(said, "[true, true, true, false, false, false]");
}

/// The commands that Heat 19 puts there, in its own words.
const COMMANDS: [&str; 2] = [
    "curl -i -X PUT 'http://10.0.0.1:8080/v1/AUTH_a/b/c?temp_url_sig=d&temp_url_expires=1'",
    "curl -i -X POST -H 'X-Auth-Token: gAAAA-B_c' -H 'Content-Type: application/json' -H 'Accept: \
     application/json' http://10.0.0.1:8004/v1/a/stacks/b/c/resources/d/signal",
];

#[test]
fn a_signal_in_a_config_is_still_one_when_heat_has_put_it_there() {
    let line = "wc_notify --data-binary '{\"status\": \"SUCCESS\"}'";
    let recipe = "user-data \"a\" {
    cloud-config {
        file \"/usr/bin/done\" \"wc_notify\" mode=\"0755\"
        run \"wc_notify --data-binary '{\\\"status\\\": \\\"SUCCESS\\\"}'\"
        run \"sh\" \"-c\" \"wc_notify --data-binary '{\\\"status\\\": \\\"SUCCESS\\\"}'\"
    }
}
";
    for (command, through) in COMMANDS.into_iter().zip([Through::Swift, Through::Heat]) {
        let document = waiting(recipe, through);
        let directory = files(&[document.text().unwrap().replace("wc_notify", command)]);
        let said: Value =
            serde_json::from_str(&python("read_yaml.py", &[directory.path()])).unwrap();
        let expected = line.replace("wc_notify", command);
        assert_eq!(said[0]["runcmd"], json!([expected, ["sh", "-c", expected]]));
        assert_eq!(said[0]["write_files"][0]["content"], format!("{command}\n"));
    }
}

#[test]
fn signals_that_would_come_to_nothing_are_mistakes() {
    let recipe = |through: &str| {
        format!(
            "user-data \"words\" {{
    cloud-config {{
        run \"wc_notify\" \"--fail\"
        run \"env\" \"A=b\" \"wc_notify\"
        file \"/a\" \"wc_notify \\u{{7}}\"
    }}
}}
user-data \"plain\" {{
    cloud-config file=\"plain.yaml\"
}}
user-data \"block\" {{
    cloud-config file=\"block.yaml\"
}}
heat \"words\" {{
    server user-data=\"words\"
    wait through=\"{through}\"
}}
heat \"plain\" {{
    server user-data=\"plain\"
    wait through=\"{through}\"
}}
heat \"block\" {{
    server user-data=\"block\"
    wait through=\"{through}\"
}}
"
        )
    };
    let beside: &[(&str, &[u8])] = &[
        ("plain.yaml", b"#cloud-config\nruncmd:\n- wc_notify --fail\n"),
        ("block.yaml", b"#cloud-config\nruncmd:\n- |\n  wc_notify --fail\n"),
    ];
    let of_words =
        ["kiln::heat::hidden_signal", "kiln::heat::split_signal", "kiln::heat::split_signal"];
    let codes = |through: &str| -> Vec<_> {
        found(&recipe(through), beside).into_iter().map(|(code, _)| code).collect()
    };
    assert_eq!(codes("swift"), of_words);
    assert_eq!(codes("heat"), [&of_words[..], &["kiln::heat::broken_signal"]].concat());
}

#[test]
fn room_is_left_for_what_heat_puts_there() {
    let padding = "x".repeat(49_000);
    let recipe = format!(
        "user-data \"a\" {{\n    script text=\"#!/bin/sh -ex\\nwc_notify\\n: {padding}\"\n}}\n\
         heat \"a\" {{\n    server user-data=\"a\"\n    wait\n}}\n\
         heat \"b\" {{\n    server user-data=\"a\"\n}}\n"
    );
    let said = found(&recipe, &[]);
    let large: Vec<_> =
        said.iter().filter(|(code, _)| *code == "kiln::user_data::too_large").collect();
    assert_eq!(large.len(), 1, "{large:?}");
    assert!(large[0].1.contains("512 that Heat may put"), "{large:?}");
}

#[test]
fn the_last_script_looks_for_what_all_require() {
    let recipe = "user-data \"a\" {
    require \"/usr/bin/one\"
    script text=\"#!/bin/sh -ex\"
    require \"/usr/bin/two\" \"/usr/bin/one\"
}
";
    let document = waiting(recipe, Through::Swift);
    let text = |at: usize| String::from_utf8(document.pieces[at].content.clone()).unwrap();
    assert!(!text(0).contains("SUCCESS") && !text(0).contains("/usr/bin/two"));
    assert!(text(2).contains("SUCCESS"));
    assert_eq!(text(2).matches("require /usr/bin/one").count(), 1);
    assert_eq!(text(2).matches("require /usr/bin/two").count(), 1);
}

#[test]
fn what_a_part_cannot_be_is_told_once() {
    let recipe = "user-data \"a\" {
    script text=\"echo\"
}
heat \"one\" {
    server user-data=\"a\"
}
heat \"two\" {
    server user-data=\"a\"
    wait
}
";
    let said = found(recipe, &[]);
    assert_eq!(said.len(), 1, "{said:?}");
}
