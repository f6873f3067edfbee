//! The kinds of value that a recipe holds, and how each is called and written.
//!
//! How a value is checked is `value`'s.

/// What a value must be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Any text without NUL.
    Text,
    /// A text of any characters: the content of a file.
    Content,
    /// A script: a text that is not empty.
    Script,
    /// A text of one line.
    Line,
    /// `#true` or `#false`.
    Flag,
    /// A whole number of at least one.
    Count,
    /// One of these words.
    Choice(&'static [&'static str]),
    /// The name of an image.
    ImageName,
    /// The name of a step.
    StepName,
    /// The name of a profile, or of a requirement of one.
    ProfileName,
    /// The name of user data or of a Heat template.
    DocumentName,
    /// A media type such as "text/jinja2".
    MediaType,
    /// The name of a secret of `kiln.kdl`.
    SecretName,
    /// The name of a remote.
    RemoteName,
    /// A namespace of results.
    Namespace,
    /// Where a remote is: a scheme and what belongs to it, or a directory.
    Address,
    /// A public key of minisign.
    SigningKey,
    /// An absolute path in the guest.
    GuestPath,
    /// An absolute path in the guest other than `/`.
    GuestFile,
    /// An absolute path in the guest whose components may hold wildcards.
    Pattern,
    /// A file or directory of the workspace, relative to the recipe's directory.
    LocalPath,
    /// A path relative to the workspace root, inside it.
    WorkspacePath,
    /// A path on the host.
    HostPath,
    /// Permission bits: an octal text such as "0644".
    Mode,
    /// A user or a group, by name or number.
    Owner,
    /// "user", "user:group" or ":group".
    Owners,
    /// The name of a user.
    User,
    /// The name of a package.
    Package,
    /// The address of a package mirror.
    Mirror,
    /// The address of a disk image: `https://…`.
    Url,
    /// A SHA-256 checksum: 64 hexadecimal digits.
    Sha256,
    /// A SHA-512 checksum: 128 hexadecimal digits.
    Sha512,
    /// The name of a template or of an image of the catalogue.
    TemplateName,
    /// An expression on the lines of a file.
    Expression,
    /// The name of a suite or of an archive's component.
    ArchiveWord,
    /// A number of bytes such as "4G", a multiple of 1 MiB.
    Size,
    /// A period such as "24h".
    Period,
    /// A host name.
    Hostname,
    /// A time zone such as "Europe/Vienna".
    Timezone,
    /// A hashed password.
    PasswordHash,
    /// A password.
    Password,
    /// An SSH public key.
    PublicKey,
    /// What a symbolic link points to.
    LinkTarget,
}

impl Kind {
    /// What is expected, with its article.
    #[must_use]
    pub fn expected(self) -> &'static str {
        match self {
            Self::Text | Self::Content => "a text",
            Self::Line => "a line of text",
            Self::Script => "the text of a script",
            Self::Flag => "`#true` or `#false`",
            Self::Count => "a number of at least 1",
            Self::Choice(_) => "one of some words",
            Self::ImageName => "the name of an image",
            Self::StepName => "the name of a step",
            Self::ProfileName => "the name of a profile or a requirement",
            Self::DocumentName => "the name of user data or a template",
            Self::MediaType => "a media type",
            Self::SecretName => "the name of a secret",
            Self::RemoteName => "the name of a remote",
            Self::Namespace => "a namespace",
            Self::Address => "the address of a remote",
            Self::SigningKey => "a public key of minisign",
            Self::Url => "the address of a file",
            Self::Sha256 => "a SHA-256 checksum",
            Self::Sha512 => "a SHA-512 checksum",
            Self::TemplateName => "the name of a template",
            Self::Expression => "an expression",
            Self::GuestPath | Self::GuestFile => "an absolute path in the guest",
            Self::Pattern => "an absolute path in the guest, perhaps with wildcards",
            Self::LocalPath => "a path relative to the recipe",
            Self::WorkspacePath => "a path relative to the workspace",
            Self::HostPath => "a path",
            Self::Mode => "an octal mode in quotes",
            Self::Owner => "a user or group",
            Self::Owners => "a user, a group, or both",
            Self::User => "the name of a user",
            Self::Package => "the name of a package",
            Self::Mirror => "the address of a mirror",
            Self::ArchiveWord => "the name of a suite or component",
            Self::Size => "a size in quotes",
            Self::Period => "a period in quotes",
            Self::Hostname => "a host name",
            Self::Timezone => "a time zone",
            Self::PasswordHash => "a hashed password",
            Self::Password => "a password",
            Self::PublicKey => "an SSH public key",
            Self::LinkTarget => "the target of a link",
        }
    }

    /// How such a value is written.
    #[must_use]
    pub fn example(self) -> &'static str {
        match self {
            Self::Text | Self::Content | Self::Line => "\"text\"",
            Self::Script => "\"systemctl enable nginx\"",
            Self::Flag => "#true",
            Self::Count => "2",
            Self::Choice(words) => words.first().copied().unwrap_or_default(),
            Self::ImageName => "\"debian-web\"",
            Self::StepName => "\"base-tools\"",
            Self::ProfileName => "\"openstack\"",
            Self::MediaType => "\"text/jinja2\"",
            Self::SecretName => "\"registry-token\"",
            Self::RemoteName => "\"team\"",
            Self::Namespace | Self::ArchiveWord => "\"main\"",
            Self::Address => "\"s3://kiln-cache/team\"",
            Self::SigningKey => "\"RWQf6LRC…\"",
            Self::Url => "\"https://images.example/disk.qcow2\"",
            Self::Sha256 | Self::Sha512 => "\"9f86d08…\"",
            Self::TemplateName => "\"debian-12\"",
            Self::Expression => "\"s/^#?UseDNS .*/UseDNS no/\"",
            Self::GuestPath => "\"/srv\"",
            Self::GuestFile => "\"/etc/motd\"",
            Self::Pattern => "\"/tmp/*\"",
            Self::LocalPath => "\"files/nginx.conf\"",
            Self::WorkspacePath => "\"out/web.qcow2\"",
            Self::HostPath => "\"cache\"",
            Self::Mode => "\"0644\"",
            Self::Owner | Self::User => "\"www-data\"",
            Self::Owners => "\"www-data:www-data\"",
            Self::Package => "\"nginx\"",
            Self::Mirror => "\"http://deb.debian.org/debian\"",
            Self::Size => "\"4G\"",
            Self::Period => "\"24h\"",
            Self::Hostname | Self::DocumentName => "\"web\"",
            Self::Timezone => "\"Europe/Vienna\"",
            Self::PasswordHash => "\"$6$…\"",
            Self::Password => "\"correct horse\"",
            Self::PublicKey => "\"ssh-ed25519 AAAA… admin\"",
            Self::LinkTarget => "\"/usr/bin/vim\"",
        }
    }
}
