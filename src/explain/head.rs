//! What a remote says an image's newest shared build was made of.
//!
//! It is only ever shown: whoever can write to the remote can write this. It names no bytes, decides
//! nothing, and its names hold nothing that could command a terminal.

use serde::{Deserialize, Serialize};

use super::Built;
use crate::name::ImageName;

/// Largest encoded head in bytes.
pub const MAX_HEAD: usize = 4 << 20;
/// Most steps, and most values of one step.
const MAX_COUNT: usize = 4096;
/// Longest name of a step or value, in bytes.
const MAX_NAME: usize = 512;

/// The actions of one build of an image.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Head {
    /// The image.
    pub image: ImageName,
    /// When it was built, in seconds since 1970 in UTC.
    pub at: u64,
    /// Its actions, base first and seal last.
    pub steps: Vec<Built>,
}

/// Why some bytes are no head.
#[derive(Debug, thiserror::Error)]
pub enum HeadError {
    /// They are too many.
    #[error("it has more than {MAX_HEAD} bytes")]
    TooLarge,
    /// They are no JSON of that shape.
    #[error("it is not what kiln writes there")]
    Shape(#[from] serde_json::Error),
    /// It tells of another image than it should.
    #[error("it tells of the image `{found}`")]
    Image {
        /// The image.
        found: ImageName,
    },
    /// There is more of something than a build has, or a name that no step has.
    #[error("it has {what}")]
    Bounds {
        /// What is wrong.
        what: &'static str,
    },
}

impl Head {
    /// Its bytes; `None` where they would be more than anybody reads.
    #[must_use]
    pub fn encode(&self) -> Option<Vec<u8>> {
        let bytes = serde_json::to_vec(self).expect("a head has only string keys");
        (bytes.len() <= MAX_HEAD && self.check().is_ok()).then_some(bytes)
    }

    /// What bytes from a remote say of an image.
    ///
    /// # Errors
    /// Where they are too many, or are not the head of that image.
    pub fn decode(bytes: &[u8], image: &ImageName) -> Result<Self, HeadError> {
        if bytes.len() > MAX_HEAD {
            return Err(HeadError::TooLarge);
        }
        let head: Self = serde_json::from_slice(bytes)?;
        if head.image != *image {
            return Err(HeadError::Image { found: head.image });
        }
        head.check()?;
        Ok(head)
    }

    fn check(&self) -> Result<(), HeadError> {
        let wrong = |what| Err(HeadError::Bounds { what });
        if self.steps.len() > MAX_COUNT {
            return wrong("too many steps");
        }
        for step in &self.steps {
            if step.manifest.fields.len() > MAX_COUNT {
                return wrong("too many values");
            }
            let mut names = step.manifest.fields.iter().map(|(name, _)| name.as_str());
            if !is_name(&step.name) || !names.all(is_name) {
                return wrong("a name that is too long or cannot be shown");
            }
        }
        Ok(())
    }
}

fn is_name(name: &str) -> bool {
    !name.is_empty() && name.len() <= MAX_NAME && name.escape_debug().eq(name.chars())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::digest::{ActionKey, Digest};
    use crate::key::{Manifest, Value};
    use proptest::prelude::*;

    fn head() -> Head {
        let secret = Value::Secret(Some(Digest::of(b"correct horse")));
        let fields = vec![
            ("operation".to_owned(), Value::Text("write".to_owned())),
            ("plain".to_owned(), secret),
        ];
        Head {
            image: "web".parse().unwrap(),
            at: 1_800_000_000,
            steps: vec![Built {
                name: "web/write".to_owned(),
                key: ActionKey(Digest::of(b"key")),
                manifest: Manifest { fields },
            }],
        }
    }

    #[test]
    fn what_is_encoded_is_decoded_without_secrets() {
        let head = head();
        let bytes = head.encode().unwrap();
        let secret = Digest::of(b"correct horse").to_string();
        assert!(!String::from_utf8_lossy(&bytes).contains(&secret));
        let again = Head::decode(&bytes, &head.image).unwrap();
        assert_eq!(again.steps[0].manifest.fields[1].1, Value::Secret(None));
        assert_eq!((again.at, &again.steps[0].name), (head.at, &head.steps[0].name));
    }

    #[test]
    fn a_hostile_head_is_refused() {
        let good = head();
        let other: ImageName = "db".parse().unwrap();
        let refuse = |bytes: &[u8], image| Head::decode(bytes, image).unwrap_err();
        assert!(matches!(refuse(&vec![b' '; MAX_HEAD + 1], &good.image), HeadError::TooLarge));
        assert!(matches!(refuse(&good.encode().unwrap(), &other), HeadError::Image { .. }));
        let spoil: [&dyn Fn(&mut Head); 6] = [
            &|head| head.steps[0].name = "web/\u{1b}[2J".to_owned(),
            &|head| head.steps[0].name = "web/\u{202e}".to_owned(),
            &|head| head.steps[0].name = "x".repeat(MAX_NAME + 1),
            &|head| head.steps[0].manifest.fields[0].0 = "a\nb".to_owned(),
            &|head| head.steps = vec![head.steps[0].clone(); MAX_COUNT + 1],
            &|head| {
                let field = head.steps[0].manifest.fields[0].clone();
                head.steps[0].manifest.fields = vec![field; MAX_COUNT + 1];
            },
        ];
        for spoil in spoil {
            let mut head = good.clone();
            spoil(&mut head);
            assert_eq!(head.encode(), None);
            let bytes = serde_json::to_vec(&head).unwrap();
            assert!(matches!(refuse(&bytes, &good.image), HeadError::Bounds { .. }));
        }
    }

    proptest! {
        #[test]
        fn no_bytes_harm(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let image = "web".parse().unwrap();
            let _ = Head::decode(&bytes, &image);
        }

        #[test]
        fn no_flipped_byte_shows_what_cannot_be_shown(at in any::<prop::sample::Index>(), to: u8) {
            let mut bytes = head().encode().unwrap();
            let at = at.index(bytes.len());
            bytes[at] = to;
            if let Ok(head) = Head::decode(&bytes, &"web".parse().unwrap()) {
                prop_assert!(head.steps.iter().all(|step| is_name(&step.name)));
            }
        }
    }
}
