//! Signed texts: what `gpgv` says is signed, and nothing else.
//!
//! The text comes from gpgv's own output, so that what stands around a signed part is never read.

use std::fs::{self, DirBuilder};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use super::{LARGEST_INDEX, ResolveError};
use crate::files::{Context, FileError, read_bounded};

/// Largest file of keys.
const LARGEST_KEY: u64 = 1 << 20;
const SIGNED: &str = "-----BEGIN PGP SIGNED MESSAGE-----";
const SIGNATURE: &str = "-----BEGIN PGP SIGNATURE-----";

/// The signed text of a document, whose signature is one of the keys in a file.
///
/// # Errors
/// Where the key cannot be used, `gpgv` is not there, or there is not one good signature, of the key
/// with the fingerprint where one is wanted.
pub(super) fn verify(
    url: &str,
    document: &[u8],
    key: &Path,
    fingerprint: Option<&str>,
) -> Result<String, ResolveError> {
    let bad = |why: &str| ResolveError::Signature { url: url.to_owned(), why: why.to_owned() };
    let keyring = keys(key)?;
    // gpgv also takes packets, and unpacks compressed ones without a bound before it judges.
    if !document.starts_with(SIGNED.as_bytes()) {
        return Err(bad("it is no text with a signature"));
    }
    let room = Room::new()?;
    let (ring, signed, text) = (room.file("ring.gpg"), room.file("signed"), room.file("text"));
    fs::write(&ring, keyring).context("write", &ring)?;
    fs::write(&signed, document).context("write", &signed)?;
    let output = Command::new("gpgv")
        .arg("--homedir")
        .arg(&room.0)
        .arg("--keyring")
        .arg(&ring)
        .args(["--status-fd", "1", "--output"])
        .arg(&text)
        .arg("--")
        .arg(&signed)
        .stdin(Stdio::null())
        .env("LC_ALL", "C")
        .output();
    let output = match output {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            return Err(ResolveError::NoVerifier);
        }
        output => output.context("run", Path::new("gpgv"))?,
    };
    let status = String::from_utf8_lossy(&output.stdout);
    judge(&status, output.status.success(), fingerprint).map_err(|why| bad(&why))?;
    let bytes = read_bounded(&text, LARGEST_INDEX)?;
    String::from_utf8(bytes).map_err(|_| bad("the signed text is not UTF-8"))
}

/// What gpgv's status lines say.
///
/// Source: `GnuPG`'s doc/DETAILS, "Format of the --status-fd output".
fn judge(status: &str, success: bool, fingerprint: Option<&str>) -> Result<(), String> {
    let lines: Vec<Vec<&str>> = status
        .lines()
        .filter_map(|line| Some(line.strip_prefix("[GNUPG:] ")?.split(' ').collect()))
        .collect();
    let all = |word: &str| lines.iter().filter(|line| line[0] == word).collect::<Vec<_>>();
    for (word, why) in [
        ("BADSIG", "the text was changed after it was signed"),
        ("NO_PUBKEY", "it is signed by another key"),
        ("EXPSIG", "the signature has expired"),
        ("EXPKEYSIG", "the key has expired"),
        ("REVKEYSIG", "the key was revoked"),
    ] {
        if !all(word).is_empty() {
            return Err(why.to_owned());
        }
    }
    let [valid] = all("VALIDSIG")[..] else {
        return Err("it has no good signature".to_owned());
    };
    if !success || all("GOODSIG").len() != 1 {
        return Err("it has no good signature".to_owned());
    }
    // The signing key's own, and last the primary key's.
    let found = [valid.get(1), valid.last()];
    match fingerprint {
        Some(wanted) if !found.contains(&Some(&wanted)) => {
            let found = valid.last().copied().unwrap_or_default();
            Err(format!("it is signed by the key {found}, not by {wanted}"))
        }
        _ => Ok(()),
    }
}

/// The keys of a file as the binary keyring that gpgv reads.
///
/// Source: RFC 9580, section 6: base64 between two lines, behind headers and an empty line, with a
/// checksum behind `=` that need not be looked at.
fn keys(path: &Path) -> Result<Vec<u8>, ResolveError> {
    let bytes = read_bounded(path, LARGEST_KEY)?;
    let fault = |why| ResolveError::Key { path: path.to_owned(), why };
    // Source: RFC 9580, section 4.2: the first byte of a packet has its highest bit set.
    if bytes.first().is_some_and(|byte| byte & 0x80 != 0) {
        return Ok(bytes);
    }
    let text =
        std::str::from_utf8(&bytes).map_err(|_| fault("it is neither armored nor binary"))?;
    let mut keys = Vec::new();
    for block in text.split("-----BEGIN PGP PUBLIC KEY BLOCK-----").skip(1) {
        let (block, _) = block
            .split_once("-----END PGP PUBLIC KEY BLOCK-----")
            .ok_or_else(|| fault("its end is missing"))?;
        let lines: Vec<&str> = block.lines().map(str::trim).collect();
        let empty = lines.iter().skip(1).position(|line| line.is_empty());
        let body = empty.map_or(&[][..], |at| &lines[at + 2..]);
        let digits: String =
            body.iter().take_while(|line| !line.starts_with('=')).copied().collect();
        let decoded = STANDARD.decode(digits).map_err(|_| fault("its base64 is damaged"))?;
        keys.extend(decoded);
    }
    if keys.is_empty() { Err(fault("there is no public key in it")) } else { Ok(keys) }
}

/// The text of a document whose signature, if it has one, is not looked at.
pub(super) fn unwrapped(document: &str) -> String {
    let Some(rest) = document.strip_prefix(SIGNED) else { return document.to_owned() };
    // Behind the headers and an empty line; lines that start with a dash have `- ` before them.
    let body = rest.split_once("\n\n").or_else(|| rest.split_once("\r\n\r\n"));
    let body = body.map_or("", |(_, body)| body);
    let body = body.split(SIGNATURE).next().unwrap_or_default();
    let lines = body.lines().map(|line| line.strip_prefix("- ").unwrap_or(line));
    lines.flat_map(|line| [line, "\n"]).collect()
}

/// A private directory for one use of gpgv; it goes with the value.
struct Room(PathBuf);

impl Room {
    fn new() -> Result<Self, FileError> {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let nanos = std::time::SystemTime::now()
            .duration_since(std::time::UNIX_EPOCH)
            .map_or(0, |now| now.as_nanos());
        let name = format!("kiln-gpgv-{}-{number}-{nanos:x}", std::process::id());
        let path = std::env::temp_dir().join(name);
        DirBuilder::new().mode(0o700).create(&path).context("make directory", &path)?;
        Ok(Self(path))
    }

    fn file(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }
}

impl Drop for Room {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A key of a test's own, in a home of its own.
    struct Signer {
        home: tempfile::TempDir,
        /// The armored public key.
        key: PathBuf,
        /// Its fingerprint.
        fingerprint: String,
    }

    impl Signer {
        fn new(name: &str) -> Self {
            let home = tempfile::tempdir().unwrap();
            let key = home.path().join("key.asc");
            let mut signer = Self { home, key, fingerprint: String::new() };
            signer.gpg(&["--quick-generate-key", name, "ed25519", "sign", "never"]);
            fs::write(&signer.key, signer.gpg(&["--armor", "--export", name])).unwrap();
            let listed = signer.gpg(&["--with-colons", "--fingerprint", name]);
            let fingerprint = String::from_utf8(listed).unwrap();
            let fingerprint = fingerprint.lines().find(|line| line.starts_with("fpr:")).unwrap();
            fingerprint
                .trim_matches(':')
                .rsplit(':')
                .next()
                .unwrap()
                .clone_into(&mut signer.fingerprint);
            signer
        }

        fn sign(&self, text: &str) -> Vec<u8> {
            let path = self.home.path().join("text");
            fs::write(&path, text).unwrap();
            self.gpg(&["--clearsign", "--output", "-", path.to_str().unwrap()])
        }

        fn gpg(&self, arguments: &[&str]) -> Vec<u8> {
            let output = Command::new("gpg")
                .args(["--batch", "--quiet", "--passphrase", "", "--pinentry-mode", "loopback"])
                .args(arguments)
                .env("GNUPGHOME", self.home.path())
                .stdin(Stdio::null())
                .output()
                .expect("gpg is installed (package gnupg)");
            assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
            output.stdout
        }
    }

    impl Drop for Signer {
        /// Ends the agent that gpg started.
        fn drop(&mut self) {
            let _ = Command::new("gpgconf")
                .args(["--kill", "all"])
                .env("GNUPGHOME", self.home.path())
                .status();
        }
    }

    fn why(result: Result<String, ResolveError>) -> String {
        match result {
            Err(ResolveError::Signature { why, .. }) => why,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn only_what_the_right_key_has_signed_is_read() {
        let (signer, other) = (Signer::new("one@kiln.example"), Signer::new("two@kiln.example"));
        let text = "[os]\narch=x86_64\n- dash\n";
        let signed = signer.sign(text);
        let check = |document: &[u8]| verify("u", document, &signer.key, None);
        assert_eq!(check(&signed).unwrap(), text);
        let right = Some(signer.fingerprint.as_str());
        assert_eq!(verify("u", &signed, &signer.key, right).unwrap(), text);
        let wrong = Some(other.fingerprint.as_str());
        assert!(why(verify("u", &signed, &signer.key, wrong)).contains("not by"));

        assert!(why(check(&other.sign(text))).contains("another key"));
        let as_text = String::from_utf8(signed.clone()).unwrap();
        let tampered = as_text.replace("arch=x86_64", "arch=x86_65");
        assert!(why(check(tampered.as_bytes())).contains("changed"));
        for unsigned in
            [text.as_bytes(), b"", &signed[..signed.len() / 2], &signed[..signed.len() - 60]]
        {
            assert!(!why(check(unsigned)).is_empty());
        }
    }

    #[test]
    fn what_stands_around_the_signed_part_is_not_read() {
        let signer = Signer::new("one@kiln.example");
        let signed = String::from_utf8(signer.sign("[os]\nfile=good\n")).unwrap();
        for document in
            [format!("[evil]\nfile=bad\n{signed}"), format!("{signed}\n[evil]\nfile=bad\n")]
        {
            if let Ok(text) = verify("u", document.as_bytes(), &signer.key, None) {
                assert_eq!(text, "[os]\nfile=good\n");
            }
        }
    }

    #[test]
    fn a_packet_is_not_unpacked() {
        let signer = Signer::new("one@kiln.example");
        let path = signer.home.path().join("zeros");
        fs::write(&path, vec![0; 1 << 20]).unwrap();
        let path = path.to_str().unwrap();
        for options in [&["--store"][..], &["--sign", "--output", "-"]] {
            let packet = signer.gpg(&[options, &["--output", "-", path]].concat());
            assert!(packet.len() < 1 << 16, "gpg compresses");
            assert!(why(verify("u", &packet, &signer.key, None)).contains("no text"));
        }
    }

    #[test]
    fn a_key_file_is_armored_or_binary() {
        let signer = Signer::new("one@kiln.example");
        let binary = keys(&signer.key).unwrap();
        assert!(binary[0] & 0x80 != 0);
        let path = signer.home.path().join("key.gpg");
        fs::write(&path, &binary).unwrap();
        assert_eq!(keys(&path).unwrap(), binary);
        assert_eq!(verify("u", &signer.sign("x\n"), &path, None).unwrap(), "x\n");
        let armored = fs::read_to_string(&signer.key).unwrap();
        let headed = armored.replacen("\n\n", "\nVersion: GnuPG\nComment: two\n\n", 1);
        assert_ne!(headed, armored);
        fs::write(&path, headed.repeat(2)).unwrap();
        assert_eq!(keys(&path).unwrap(), binary.repeat(2));
        for damaged in ["", "text", &armored[..armored.len() / 2], &armored.replace('\n', "\n!")] {
            fs::write(&path, damaged).unwrap();
            assert!(matches!(keys(&path), Err(ResolveError::Key { .. })), "{damaged}");
        }
    }

    #[test]
    fn a_status_is_judged_strictly() {
        let good = "[GNUPG:] GOODSIG AB me\n[GNUPG:] VALIDSIG 12 2026 1 0 4 0 22 10 00 34\n";
        assert_eq!(judge(good, true, None), Ok(()));
        assert_eq!(judge(good, true, Some("12")), Ok(()));
        assert_eq!(judge(good, true, Some("34")), Ok(()));
        assert!(judge(good, true, Some("2026")).is_err());
        assert!(judge(good, false, None).is_err());
        assert!(judge(&good.repeat(2), true, None).is_err());
        assert!(judge("[GNUPG:] GOODSIG AB me\n", true, None).is_err());
        assert!(judge("VALIDSIG 12\nGOODSIG 12\n", true, None).is_err());
        for word in ["BADSIG", "EXPSIG", "EXPKEYSIG", "REVKEYSIG", "NO_PUBKEY"] {
            assert!(judge(&format!("{good}[GNUPG:] {word} x\n"), true, None).is_err(), "{word}");
        }
    }

    #[test]
    fn a_wrapper_is_taken_off_unread() {
        assert_eq!(unwrapped("[a]\n- x\n"), "[a]\n- x\n");
        let wrapped = format!("{SIGNED}\nHash: SHA512\n\n[a]\n- -x\n\n{SIGNATURE}\nabc\n");
        assert_eq!(unwrapped(&wrapped), "[a]\n-x\n\n");
    }
}
