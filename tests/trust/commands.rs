//! `kiln key`.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use kiln::remote::signing::{self, PASSWORD_VARIABLE};
use kiln::remote::trust::VerifyingKey;
use kiln::source::Sources;

/// A workspace, and the home of who works in it.
struct Place {
    directory: tempfile::TempDir,
}

impl Place {
    fn new(settings: &str) -> Self {
        let place = Self { directory: tempfile::tempdir().unwrap() };
        fs::create_dir_all(place.root().join("recipes")).unwrap();
        if !settings.is_empty() {
            fs::write(place.root().join("kiln.kdl"), settings).unwrap();
        }
        place
    }

    fn root(&self) -> PathBuf {
        self.directory.path().join("space")
    }

    fn key_file(&self) -> PathBuf {
        self.directory.path().join(".config").join(signing::KEY_FILE)
    }

    fn settings(&self) -> String {
        fs::read_to_string(self.root().join("kiln.kdl")).unwrap_or_default()
    }

    fn run(&self, arguments: &[&str], password: Option<&str>) -> (i32, String, String) {
        let mut command = Command::new(env!("CARGO_BIN_EXE_kiln"));
        command.args([&["key"], arguments].concat()).current_dir(self.root()).env_clear();
        command.env("HOME", self.directory.path()).stdin(Stdio::null());
        if let Some(password) = password {
            command.env(PASSWORD_VARIABLE, password);
        }
        let Output { status, stdout, stderr } = command.output().unwrap();
        let text = |bytes| String::from_utf8(bytes).unwrap();
        (status.code().unwrap(), text(stdout), text(stderr))
    }

    fn kiln(&self, arguments: &[&str]) -> String {
        let (code, out, err) = self.run(arguments, None);
        assert_eq!(code, 0, "{arguments:?}: {err}");
        out
    }

    /// The code of the error that a command ends with, which wrote nothing.
    fn fails(&self, arguments: &[&str]) -> String {
        let before = self.settings();
        let (code, _, err) = self.run(arguments, None);
        assert_eq!((code, self.settings()), (2, before), "{arguments:?}: {err}");
        let code = err.split_whitespace().find(|word| word.starts_with("kiln::"));
        code.unwrap_or_else(|| panic!("{err}")).to_owned()
    }
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o7777
}

#[test]
fn a_key_is_made_and_trusted_and_revoked() {
    let place = Place::new("jobs 2 // two\n");
    let line = place.kiln(&["generate", "--no-password", "--name", "Ann \"A.\""]);
    let secret = fs::read_to_string(place.key_file()).unwrap();
    assert_eq!(mode(&place.key_file()), 0o600);
    assert_eq!(mode(place.key_file().parent().unwrap()), 0o700);
    let file = place.key_file().with_extension("pub");
    let public = VerifyingKey::from_file(&fs::read_to_string(&file).unwrap()).unwrap();
    assert_eq!(line, format!("trust \"{public}\" name=\"Ann \\\"A.\\\"\"\n"));
    assert!(place.kiln(&["list"]).contains("which `kiln.kdl` does not list"));
    // From the file, and again from its text.
    let file = file.to_str().unwrap();
    place.kiln(&["trust", file, "--name", "Ann \"A.\""]);
    let trusted = format!("jobs 2 // two\n{line}");
    assert_eq!(place.settings(), trusted);
    place.kiln(&["trust", &public.to_string()]);
    assert_eq!(place.settings(), trusted, "a second time changes nothing");
    let list = place.kiln(&["list"]);
    assert!(
        list.starts_with(&format!("trusted  {}  {public}  Ann \"A.\"  (yours)\n", public.id()))
    );
    place.kiln(&["revoke", "Ann \"A.\""]);
    let revoked = trusted.replace(" name=", " revoked=#true name=");
    assert_eq!(place.settings(), revoked);
    place.kiln(&["revoke", &public.id().to_string().to_lowercase()]);
    assert_eq!(place.settings(), revoked);
    assert!(place.kiln(&["list"]).starts_with("revoked  "));
    assert_eq!(place.fails(&["trust", file]), "kiln::key::revoked");
    assert!(!place.settings().contains(secret.lines().nth(1).unwrap()));
}

#[test]
fn the_settings_are_made_where_there_are_none() {
    let place = Place::new("");
    let key = signing::generate(None).unwrap().public.to_string();
    place.kiln(&["trust", &key]);
    assert_eq!(place.settings(), format!("trust \"{key}\"\n"));
}

#[test]
fn a_key_is_not_written_over_unasked() {
    let place = Place::new("");
    place.kiln(&["generate", "--no-password"]);
    let first = fs::read_to_string(place.key_file()).unwrap();
    assert_eq!(place.fails(&["generate", "--no-password"]), "kiln::key::already_there");
    assert_eq!(fs::read_to_string(place.key_file()).unwrap(), first);
    place.kiln(&["generate", "--no-password", "--force"]);
    assert_ne!(fs::read_to_string(place.key_file()).unwrap(), first);
    let names: Vec<_> = fs::read_dir(place.key_file().parent().unwrap()).unwrap().collect();
    assert_eq!(names.len(), 2, "{names:?}");
}

#[test]
fn a_key_with_a_password_needs_one() {
    let place = Place::new("");
    // There is no terminal to ask on.
    assert_eq!(place.fails(&["generate"]), "kiln::key::no_password");
    assert!(!place.key_file().exists());
    let (code, out, _) = place.run(&["generate"], Some("correct horse"));
    assert_eq!(code, 0);
    assert!(out.starts_with("trust \"RW"), "{out}");
    let secret = fs::read_to_string(place.key_file()).unwrap();
    assert!(secret.lines().nth(1).unwrap().starts_with("RWRTY0Iy"), "it is encrypted");
    // The number is known without the password.
    let public = fs::read_to_string(place.key_file().with_extension("pub")).unwrap();
    let public = VerifyingKey::from_file(&public).unwrap();
    assert!(place.kiln(&["list"]).contains(&public.id().to_string()));
    let (code, _, err) = place.run(&["generate", "--force"], Some(""));
    assert_eq!(code, 2, "{err}");
    assert_eq!(fs::read_to_string(place.key_file()).unwrap(), secret);
}

#[test]
fn what_cannot_be_done_says_why_and_changes_nothing() {
    let [one, two] = [(); 2].map(|()| signing::generate(None).unwrap());
    let (one_text, two_text) = (one.public.to_string(), two.public.to_string());
    let place =
        Place::new(&format!("trust \"{one_text}\" name=\"a\"\ntrust \"{two_text}\" name=\"a\"\n"));
    assert_eq!(place.fails(&["revoke", "a"]), "kiln::key::ambiguous");
    assert_eq!(place.fails(&["revoke", "b"]), "kiln::key::unknown");
    assert_eq!(place.fails(&["revoke", "0123456789ABCDEF"]), "kiln::key::unknown");
    assert_eq!(place.fails(&["trust", "RWabc"]), "kiln::key::not_a_key");
    assert_eq!(place.fails(&["trust", "/etc/passwd"]), "kiln::key::not_a_key");
    let encoded = one.secret.lines().nth(1).unwrap();
    assert_eq!(place.fails(&["trust", encoded]), "kiln::key::not_a_key");
    let (_, _, err) = place.run(&["trust", encoded], None);
    assert!(!err.contains(&encoded[60..120]), "{err}");
    place.kiln(&["revoke", &two_text]);
    assert!(
        place.settings().ends_with(&format!("trust \"{two_text}\" revoked=#true name=\"a\"\n"))
    );
    // A line that goes on at the end of the file would take the new one into it.
    let place = Place::new("jobs 2 \\");
    assert_eq!(place.fails(&["trust", &one_text]), "kiln::key::not_changed");
    let place = Place::new("jobs two\n");
    assert_eq!(place.fails(&["trust", &one_text]), "kiln::lower::wrong_type");
    let outside = tempfile::NamedTempFile::new().unwrap();
    let place = Place::new("");
    std::os::unix::fs::symlink(outside.path(), place.root().join("kiln.kdl")).unwrap();
    assert_eq!(place.fails(&["trust", &one_text]), "kiln::workspace::leads_out");
}

#[test]
fn recipes_with_mistakes_do_not_keep_a_key_from_being_revoked() {
    let key = signing::generate(None).unwrap().public.to_string();
    let place = Place::new(&format!("trust \"{key}\"\n"));
    fs::write(place.root().join("recipes/bad.kdl"), "image {").unwrap();
    place.kiln(&["revoke", &key]);
    assert_eq!(place.settings(), format!("trust \"{key}\" revoked=#true\n"));
}

#[test]
fn keys_that_are_one_are_a_mistake_at_both_places() {
    const KEY: &str = "RWQf6LRCGA9i53mlYecO4IzT51TGPpvWucNSCh1CBM0QTaLn73Y7GFO3";
    // The same key under another number, and another key under the same number.
    let changed = |at: usize| {
        let mut bytes = STANDARD.decode(KEY).unwrap();
        bytes[at] ^= 1;
        STANDARD.encode(bytes)
    };
    let (other_number, other_key) = (changed(2), changed(41));
    for (twin, message) in [
        (KEY, "this key is trusted twice"),
        (&*other_number, "this key is trusted twice"),
        (&*other_key, "there are two keys with one number"),
    ] {
        let text = format!("trust \"{KEY}\"\njobs 2\ntrust \"{twin}\" revoked=#true\n");
        let mut sources = Sources::default();
        let file = (PathBuf::from("kiln.kdl"), text.clone().into_bytes());
        let mistakes = kiln::workspace::compile(&mut sources, [file]).unwrap_err();
        let [mistake] = &mistakes[..] else { panic!("{mistakes:?}") };
        assert_eq!((mistake.code, &*mistake.message), ("kiln::lower::duplicate_node", message));
        let places = mistake.labels.iter().map(|label| {
            let start = label.span.offset;
            text[start..start + label.span.len].trim_matches('"').to_owned()
        });
        assert_eq!(places.collect::<Vec<_>>(), [twin, KEY]);
    }
}
