//! `kiln lock`, `kiln bases`, and what the other commands do with names that were not looked up.

use std::env::consts::ARCH;
use std::fs;
use std::path::Path;
use std::process::{Command, Output};

use kiln::resolve::host_arch;

use super::downloads::sum;
use super::server::Server;

struct Place {
    directory: tempfile::TempDir,
    server: Server,
}

impl Place {
    fn new(base: &str) -> Self {
        let place = Self { directory: tempfile::tempdir().unwrap(), server: Server::new() };
        place.write("kiln.kdl", "");
        place.write(
            "recipes/web.kdl",
            &format!("image \"web\" {{ base {base}; output \"raw\"; }}\n"),
        );
        place
    }

    fn root(&self) -> &Path {
        self.directory.path()
    }

    fn write(&self, name: &str, text: &str) {
        let path = self.root().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    fn lock(&self) -> String {
        fs::read_to_string(self.root().join("kiln.lock")).unwrap_or_default()
    }

    /// Puts a catalogue whose `os` has this checksum.
    fn catalog(&self, digit: &str) {
        let (arch, url) = (host_arch(), &self.server.url);
        self.server.file("/SUMS", format!("{}  os.img\n", digit.repeat(64)));
        let sums =
            self.server.put("/none", super::server::Page::default()).replace("/none", "/SUMS");
        let text = format!(
            "image \"os\" arch=\"{arch}\" url=\"{url}/os.img\" sums=\"{sums}\" format=\"raw\"\n"
        );
        self.write("catalog.kdl", &text);
    }

    fn kiln(&self, arguments: &[&str]) -> (i32, String) {
        let Output { status, stdout, stderr } = Command::new(env!("CARGO_BIN_EXE_kiln"))
            .args(arguments)
            .current_dir(self.root())
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap())
            .env("HOME", self.root())
            .env("XDG_CONFIG_DIRS", self.root().join("none"))
            .output()
            .unwrap();
        let text = [stdout, stderr].concat();
        (status.code().unwrap(), String::from_utf8(text).unwrap())
    }
}

#[test]
fn a_name_is_looked_up_once_and_again_when_that_is_asked_for() {
    let place = Place::new("catalog \"os\"");
    place.catalog("a");
    let (code, text) = place.kiln(&["plan", "web"]);
    assert!(code == 2 && text.contains("kiln::plan::not_locked"), "{text}");
    let (code, text) = place.kiln(&["plan"]);
    assert!(code == 0 && text.contains("web\n  unknown  `catalog os`"), "{text}");
    let (code, text) = place.kiln(&["check"]);
    assert!(code == 0 && text.contains("1 base to be looked up"), "{text}");
    let (code, text) = place.kiln(&["build", "--locked"]);
    assert!(code == 2 && text.contains("kiln::plan::not_locked"), "{text}");
    assert!(place.server.asked().is_empty());

    let (code, text) = place.kiln(&["lock"]);
    assert_eq!((code, text), (0, format!("locked catalog os {ARCH}: sha256:aaaaaaaaaaaa…\n")));
    let line = format!(
        "resolved \"catalog os {ARCH}\" url=\"{}/os.img\" sha256=\"{}\" format=\"raw\"\n",
        place.server.url,
        "a".repeat(64)
    );
    assert!(place.lock().ends_with(&line), "{}", place.lock());
    assert_eq!(place.kiln(&["plan"]).0, 0);

    place.catalog("b");
    assert_eq!(place.kiln(&["lock"]), (0, "nothing to look up\n".to_owned()));
    assert!(place.lock().ends_with(&line));
    let (code, text) = place.kiln(&["lock", "--update", "other"]);
    assert!(code == 2 && text.contains("kiln::cli::no_such_base"), "{text}");
    let (_, text) = place.kiln(&["lock", "--update", "os"]);
    assert_eq!(
        text,
        format!("updated catalog os {ARCH}: sha256:aaaaaaaaaaaa… → sha256:bbbbbbbbbbbb…\n")
    );
    let (_, text) = place.kiln(&["lock", "web", "--update"]);
    assert_eq!(text, format!("unchanged catalog os {ARCH}: sha256:bbbbbbbbbbbb…\n"));
}

#[test]
fn an_address_is_locked_by_what_came_first() {
    let place = Place::new("template \"none\"");
    let url = place.server.file("/disk", "the disk");
    place.write(
        "recipes/web.kdl",
        &format!("image \"web\" {{ base url \"{url}\"; output \"raw\"; }}"),
    );
    let (code, text) = place.kiln(&["lock"]);
    assert_eq!(code, 0, "{text}");
    let digits = sum(b"the disk").to_string().replace("sha256:", "");
    assert!(
        place.lock().contains(&format!("resolved \"url {url}\" url=\"{url}\" sha256=\"{digits}\""))
    );
    // The lock file is the whole truth from then on: what nobody names is taken out.
    place.write(
        "recipes/web.kdl",
        &format!("image \"web\" {{ base url \"{url}?2\"; output \"raw\"; }}"),
    );
    place.server.file("/disk?2", "other");
    let (_, text) = place.kiln(&["lock", "--update"]);
    assert!(text.starts_with(&format!("removed url {url}: no recipe names it\n")), "{text}");
}

#[test]
fn a_template_comes_from_the_workspaces_own_source() {
    let place = Place::new("template \"os-1\"");
    let (arch, sum) = (host_arch(), "c".repeat(128));
    let index =
        format!("[os-1]\nname=OS one\narch={arch}\nfile=a.xz\nsize=1048576\nchecksum={sum}\n");
    let uri = place.server.file("/sub/index", index);
    let source = format!("[own]\nuri={uri}\ncheck-signature=no\n");
    place.write("virt-builder/repos.d/own.conf", &source);
    let (code, text) = place.kiln(&["lock"]);
    assert_eq!(
        (code, text),
        (0, format!("locked template os-1 {ARCH}: revision 1, sha512:cccccccccccc…\n"))
    );
    assert!(place.lock().contains(&format!("url=\"{}/sub/a.xz\"", place.server.url)));

    place.write(
        "virt-builder/repos.d/bad.conf",
        "[bad]\nuri=http://127.0.0.1:1/index\nformat=simplestreams\n",
    );
    let (code, text) = place.kiln(&["bases"]);
    assert_eq!(code, 0, "{text}");
    let line = text.lines().find(|line| line.starts_with("template")).unwrap();
    let words: Vec<_> = line.split_whitespace().collect();
    assert_eq!(words, ["template", "os-1", &arch, "1.0", "MiB", "OS", "one"]);
    assert!(text.contains("warning: the source `bad` is left out"), "{text}");
    assert!(text.lines().any(|line| line.starts_with("image") && line.ends_with("web")), "{text}");

    place.server.asked();
    let (_, text) = place.kiln(&["bases", "--offline", "--json"]);
    let list: serde_json::Value = serde_json::from_str(&text).unwrap();
    let kinds: std::collections::BTreeSet<_> = list["bases"]
        .as_array()
        .unwrap()
        .iter()
        .map(|base| base["kind"].as_str().unwrap())
        .collect();
    assert_eq!(kinds.into_iter().collect::<Vec<_>>(), ["catalog", "image"]);
    assert!(place.server.asked().is_empty());
}
