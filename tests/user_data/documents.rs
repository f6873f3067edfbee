//! Documents taken apart: every part comes out of cloud-init as it went in.

use std::process::Command;

use kiln::name::GuestPath;
use kiln::recipe::{Config, ConfigFile, Frequency, Part, Text, UserData};
use kiln::user_data::{self, Audience, Document, File};
use proptest::prelude::*;
use serde::Deserialize;

use super::servers::tool;
use super::{decoded, files, load, many, python, read, spanned, tree};

/// What `take_apart.py` says of one document; contents are in Base64.
#[derive(Debug, Deserialize)]
struct Apart {
    parts: Vec<(String, Option<String>, String)>,
    mail: Vec<(String, Option<String>, String)>,
    defects: Vec<String>,
    scripts: Vec<(String, String)>,
}

fn take_apart(documents: &[Document]) -> Vec<Apart> {
    let contents: Vec<_> = documents.iter().map(|document| &document.bytes).collect();
    let directory = files(&contents);
    serde_json::from_str(&python("take_apart.py", &[directory.path()])).unwrap()
}

/// Texts with everything that a message or YAML could stumble over.
fn text() -> impl Strategy<Value = String> {
    let pieces = prop_oneof![
        4 => "[ -~]{0,40}",
        2 => Just("\n".to_owned()),
        1 => Just("\t".to_owned()),
        1 => Just("  \n".to_owned()),
        1 => Just("\n\n\n".to_owned()),
        1 => Just("\nFrom here\n.\n--kiln-\n--\n".to_owned()),
        1 => Just("\nMIME-Version: 1.0\nContent-Type: text/plain\n\n".to_owned()),
        1 => Just("\\u00e9 \\x41 %s ${x} $y `z`".to_owned()),
        1 => Just("=3D =\n".to_owned()),
        1 => "[a-zäöü€𝄞\u{85}\u{2028}\u{feff}]{1,6}",
        1 => Just("\r\n".to_owned()),
        1 => Just("x".repeat(1200)),
        1 => Just("\u{7}\u{c}\u{1b}[0m".to_owned()),
    ];
    prop::collection::vec(pieces, 0..8).prop_map(|pieces| pieces.concat())
}

fn file(
    name: &'static str,
    content: impl Strategy<Value = Vec<u8>>,
) -> impl Strategy<Value = File> {
    content.prop_map(move |bytes| File { name: name.to_owned(), bytes })
}

fn script() -> impl Strategy<Value = String> {
    text().prop_map(|text| format!("#!/bin/sh -ex\n{text}"))
}

fn part() -> impl Strategy<Value = Part<File>> {
    let frequency = prop_oneof![
        4 => Just(Frequency::Default),
        1 => Just(Frequency::Boot),
        1 => Just(Frequency::Instance),
        1 => Just(Frequency::Once),
    ];
    let config = (text(), prop::collection::vec(any::<u8>(), 0..200), "[a-z]{1,9}").prop_map(
        |(written, bytes, package)| {
            let at = |path: &str| path.parse::<GuestPath>().unwrap();
            let config_file = |path, content| ConfigFile {
                path: at(path),
                content,
                mode: Some("0640".parse().unwrap()),
                owner: Some("root:adm".to_owned()),
            };
            Part::Config(Config {
                packages: vec![package],
                files: vec![
                    config_file("/etc/a", Text::Written(written.clone())),
                    config_file("/etc/b", Text::File(File { name: "b".to_owned(), bytes })),
                ],
                commands: vec![vec![format!("x{written}")], vec!["echo".to_owned(), written]],
                ..Config::default()
            })
        },
    );
    prop_oneof![
        3 => (script(), frequency).prop_map(|(text, frequency)| Part::Script {
            text: Text::Written(text), frequency
        }),
        1 => file("set up.sh", script().prop_map(String::into_bytes)).prop_map(|file| Part::Script {
            text: Text::File(file), frequency: Frequency::Default
        }),
        2 => config,
        1 => file("c.yaml", Just(b"#cloud-config\nbootcmd: [a]\n".to_vec())).prop_map(Part::ConfigFile),
        1 => script().prop_map(|text| Part::Boothook(Text::Written(text))),
        1 => Just(Part::Require(vec!["/bin/sh".parse().unwrap(), "/x/it's \"\\ü".parse().unwrap()])),
        1 => file("x.bin", prop::collection::vec(any::<u8>(), 0..300)).prop_map(|file| {
            Part::Other { file, media_type: "application/x-kiln".to_owned() }
        }),
        1 => file("x.txt", text().prop_map(String::into_bytes)).prop_map(|file| {
            Part::Other { file, media_type: "text/x-kiln".to_owned() }
        }),
    ]
}

fn user_data() -> impl Strategy<Value = UserData<File>> {
    (prop::collection::vec(part(), 1..6), any::<bool>()).prop_map(|(parts, gzip)| UserData {
        name: spanned("any".parse().unwrap()),
        gzip,
        parts: parts.into_iter().map(spanned).collect(),
    })
}

#[test]
fn every_part_comes_out_of_cloud_init_as_it_went_in() {
    let all = many(&user_data(), 300);
    let make = |one| user_data::document(one, Audience::Anyone).unwrap();
    let documents: Vec<_> = all.iter().map(make).collect();
    let again: Vec<_> = all.iter().map(make).collect();
    assert_eq!(documents, again, "the same recipe gives the same bytes");
    assert!(documents.iter().filter(|one| one.pieces.len() == 1).count() > 20);
    for (document, apart) in documents.iter().zip(take_apart(&documents)) {
        let shown = String::from_utf8_lossy(&document.bytes);
        assert_eq!(apart.defects, [] as [String; 0], "{shown}");
        assert_eq!(apart.parts.len(), document.pieces.len(), "{shown}");
        for (piece, (kind, name, content)) in document.pieces.iter().zip(&apart.parts) {
            assert_eq!(*kind, piece.media_type, "{shown}");
            let alone = document.pieces.len() == 1 && apart.mail.is_empty();
            let expected = if alone { "part-001" } else { &piece.name };
            assert_eq!(name.as_deref(), Some(expected), "{shown}");
            assert_eq!(decoded(content), piece.content, "{shown}");
        }
        if !apart.mail.is_empty() {
            assert_eq!(apart.mail, apart.parts, "Python's email splits it alike");
        }
        // What is run is what was written, whatever stood around it.
        let scripts = document.pieces.iter().filter(|piece| {
            piece.media_type.starts_with("text/x-shellscript")
                || piece.media_type == "text/cloud-boothook"
        });
        for (piece, (_, content)) in scripts.zip(&apart.scripts) {
            let text = std::str::from_utf8(&piece.content).unwrap();
            let text = text.strip_prefix("#cloud-boothook\n").unwrap_or(text);
            if !text.contains('\r') {
                assert_eq!(decoded(content), text.as_bytes(), "{shown}");
            }
        }
    }
}

const WHOLE: &str = r##"
user-data "web" {
    cloud-config {
        packages "ntp" "wget" update=#true upgrade=#true
        user "ann" groups="sudo, adm" shell="/bin/bash" sudo=#true {
            key "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJ1 ann"
        }
        key "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJ2 bob"
        file "/etc/motd" "Welcome\n  to the web" mode="0640"
        file "/srv/x" "yes" owner="ann"
        file "/srv/logo" source="logo"
        run "systemctl restart ntp"
        run "echo" "a b"
        hostname "web"
        timezone "Europe/Vienna"
        reboot
    }
    cloud-config file="more.yaml"
    script "setup.sh"
    script text="#!/bin/sh -ex\ndate" per="boot"
    boothook text="#!/bin/sh\necho early"
    require "/usr/bin/wget"
    part "template" type="text/jinja2"
}

user-data "alone" {
    script "setup.sh"
}

user-data "small" gzip=#true {
    script "setup.sh"
    cloud-config file="more.yaml"
}
"##;

const BESIDE: &[(&str, &[u8])] = &[
    ("more.yaml", b"#cloud-config\nbootcmd:\n- [echo, hello]\n"),
    ("setup.sh", b"#!/bin/sh -ex\ntest -x /usr/bin/wget\n"),
    ("logo", b"\xff\x00"),
    ("template", b"## template: jinja\n#cloud-config\nfqdn: {{ v1.local_hostname }}.example.org\n"),
];

#[test]
fn a_document_of_every_kind_of_part() {
    let tree = tree(WHOLE, BESIDE);
    let workspace = load(&tree);
    let document = |name| user_data::document(&read(&workspace, name), Audience::Anyone).unwrap();
    let whole = document("web");
    insta::assert_snapshot!(whole.text().unwrap());
    let alone = document("alone");
    assert_eq!(alone.bytes, BESIDE[1].1, "what cloud-init tells by itself is sent as it is");
    let small = document("small");
    assert!(small.bytes.starts_with(b"\x1f\x8b"));
    let apart = take_apart(&[whole, small]);
    let kinds: Vec<_> = apart[0].parts.iter().map(|(kind, ..)| kind.as_str()).collect();
    assert_eq!(
        kinds,
        [
            "text/cloud-config",
            "text/cloud-config",
            "text/x-shellscript",
            "text/x-shellscript-per-boot",
            "text/cloud-boothook",
            "text/x-shellscript",
            "text/jinja2",
        ]
    );
    assert_eq!(apart[1].parts.len(), 2);
}

#[test]
fn cloud_init_knows_every_word_of_a_config() {
    let tree = tree(WHOLE, BESIDE);
    let document = user_data::document(&read(&load(&tree), "web"), Audience::Anyone).unwrap();
    let configs: Vec<_> =
        document.pieces.iter().filter(|piece| piece.media_type == "text/cloud-config").collect();
    assert_eq!(configs.len(), 2);
    let bad = b"#cloud-config\npackages: 7\n".to_vec();
    let directory = files(&[&configs[0].content, &configs[1].content, &bad]);
    let schema = |name: &str| {
        let output = Command::new(tool("cloud-init"))
            .args(["schema", "--config-file"])
            .arg(directory.path().join(name))
            .output()
            .unwrap();
        (output.status.success(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    for name in ["0000", "0001"] {
        let (valid, said) = schema(name);
        assert!(valid, "{said}");
    }
    assert!(!schema("0002").0, "the schema refuses what is wrong");
}

#[test]
fn what_is_included_is_fetched() {
    let fetched = "#!/bin/sh -ex\necho fetched\n";
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        use std::io::{Read, Write};
        for mut stream in listener.incoming().flatten() {
            let _ = stream.read(&mut [0; 4096]);
            let length = fetched.len();
            let _ = write!(
                stream,
                "HTTP/1.1 200 OK\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{fetched}"
            );
        }
    });
    let recipe = format!(
        "user-data \"a\" {{\n  include \"http://{address}/a.sh\" \"http://{address}/b.sh\"\n}}\n\
         user-data \"b\" {{\n  include \"http://{address}/a.sh\" once=#true\n  script text=\"#!/bin/sh -ex\"\n}}\n\
         user-data \"c\" {{\n  script text=\"#!/bin/sh\\n: first\"\n  include \"http://{address}/a.sh\"\n  \
         script text=\"#!/bin/sh\\n: then\"\n  require \"/bin/sh\"\n}}\n"
    );
    let tree = tree(&recipe, &[]);
    let workspace = load(&tree);
    let documents = ["a", "b", "c"]
        .map(|name| user_data::document(&read(&workspace, name), Audience::Anyone).unwrap());
    assert_eq!(
        documents[0].text().unwrap(),
        format!("#include\nhttp://{address}/a.sh\nhttp://{address}/b.sh\n")
    );
    let apart = take_apart(&documents);
    let contents = |apart: &Apart| -> Vec<String> {
        let parts = apart.parts.iter().map(|(_, _, content)| decoded(content));
        parts.map(|content| String::from_utf8(content).unwrap()).collect()
    };
    assert_eq!(contents(&apart[0]), [fetched, fetched]);
    assert_eq!(contents(&apart[1]), [fetched, "#!/bin/sh -ex\n"]);
    // Scripts run in the order of their names.
    let mut scripts = apart[2].scripts.clone();
    scripts.sort();
    let run: Vec<_> =
        scripts.iter().map(|(_, text)| String::from_utf8(decoded(text)).unwrap()).collect();
    assert_eq!(run[..3], ["#!/bin/sh\n: first\n", fetched, "#!/bin/sh\n: then\n"]);
    assert!(run[3].contains("require /bin/sh"), "{run:?}");
}
