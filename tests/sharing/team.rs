//! Workspaces of one team: the same recipe, stores of their own, a key that both trust.

use kiln::name::Namespace;
use kiln::progress::Way;
use kiln::recipe::TrustedKey;
use kiln::remote::backend::Backend;
use kiln::remote::signing::{NewKey, Signer, generate};
use kiln::remote::team::{Member, Team};
use kiln::remote::trust::Trust;
use kiln::remote::{Guarded, Patience};
use kiln::source::{Sources, Spanned};

use super::space::{TestSpace, Watch};

/// A key of a team.
pub(crate) struct Key(NewKey);

impl Key {
    pub(crate) fn new() -> Self {
        Self(generate(None).unwrap())
    }

    pub(crate) fn signer(&self) -> Signer {
        let secret = self.secret().to_owned();
        let variables =
            move |name: &str| (name == "KILN_SIGNING_KEY").then(|| secret.clone().into());
        Signer::find(&variables, &|_| unreachable!("it has no password")).unwrap().unwrap()
    }

    /// What stands in its secret file.
    pub(crate) fn secret(&self) -> &str {
        &self.0.secret
    }

    pub(crate) fn trusted(&self, revoked: bool) -> TrustedKey {
        let file = Sources::default().add("kiln.kdl".into(), String::new());
        let span = kiln::source::Span { file, offset: 0, len: 0 };
        let key = Spanned { value: self.0.public.to_string(), span };
        TrustedKey { key, name: Some("ci".to_owned()), revoked }
    }

    /// The line of `kiln.kdl` that trusts it.
    pub(crate) fn line(&self) -> String {
        format!("trust \"{}\" name=\"ci\"\n", self.0.public)
    }
}

/// How a workspace uses a remote.
pub(crate) struct How<'a> {
    pub(crate) signs: Option<&'a Key>,
    pub(crate) trusts: Vec<&'a Key>,
    pub(crate) read_only: bool,
    pub(crate) impure: bool,
    pub(crate) namespace: &'a str,
}

impl<'a> How<'a> {
    /// Signs with a key and trusts it.
    pub(crate) fn with(key: &'a Key) -> Self {
        let trusts = vec![key];
        Self { signs: Some(key), trusts, read_only: false, impure: true, namespace: "main" }
    }
}

/// The team of a workspace.
pub(crate) fn team(remotes: Vec<Box<dyn Backend>>, how: &How<'_>) -> Team {
    let patience = Patience::default();
    let member = |backend| Member {
        backend: Guarded::new(backend, &patience),
        read_only: how.read_only,
        impure: how.impure,
    };
    let trusted: Vec<TrustedKey> = how.trusts.iter().map(|key| key.trusted(false)).collect();
    let namespace: Namespace = how.namespace.parse().unwrap();
    let signer = how.signs.map(Key::signer);
    Team::new(remotes.into_iter().map(member).collect(), namespace, Trust::new(&trusted), signer)
}

/// A workspace with a recipe that uses a remote.
pub(crate) fn space(recipe: &str, remote: impl Backend + 'static, how: &How<'_>) -> TestSpace {
    over(recipe, Box::new(remote), how)
}

/// The same with a remote of whatever kind.
pub(crate) fn over(recipe: &str, remote: Box<dyn Backend>, how: &How<'_>) -> TestSpace {
    let mut space = TestSpace::new(recipe);
    let lines: String = how.trusts.iter().map(|key| key.line()).collect();
    std::fs::write(space.root().join("kiln.kdl"), lines).unwrap();
    space.team = team(vec![remote], how);
    space.options.verify_layers = false;
    space
}

/// Builds, checks what was built, and tells what happened.
pub(crate) fn build(space: &TestSpace) -> (Vec<String>, Watch<'static>) {
    let mut watch = Watch::default();
    let built = space.build_with(&mut watch);
    let summary = built.unwrap_or_else(|error| panic!("{error:?}: {:?}", watch.warnings));
    space.check_outputs();
    (summary.ran, watch)
}

/// The steps that went one way.
pub(crate) fn went<'a>(watch: &'a Watch<'_>, way: Way) -> Vec<&'a str> {
    let steps = watch.shared.iter().filter(|(_, of_step)| *of_step == way);
    steps.map(|(step, _)| step.as_str()).collect()
}
