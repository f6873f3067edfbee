//! virt-builder's index: which templates a source has.
//!
//! Source: `virt-builder(1)`, "INDEX FORMAT", and libguestfs, `builder/index_parser.ml`. Fields that
//! are not known are passed over, as the format asks for.

use super::ini::{self, Fault, Field, Section};
use crate::fetch::checksum;
use crate::recipe::{Checksum, DiskFormat};

/// One disk image of a source.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Template {
    /// What a recipe calls it, such as `centos-7.2`.
    pub name: String,
    /// Other names.
    pub aliases: Vec<String>,
    /// What people call it.
    pub title: Option<String>,
    /// Its architecture.
    pub arch: String,
    /// Where it lies, relative to the index.
    pub file: String,
    /// The checksum of that file.
    pub checksum: Option<Checksum>,
    /// Raised with every new version.
    pub revision: u64,
    /// The format of the disk, unpacked.
    pub format: Option<DiskFormat>,
    /// Bytes of the virtual disk.
    pub size: u64,
    /// Bytes of the file.
    pub compressed_size: Option<u64>,
    /// Whether it is left out of lists.
    pub hidden: bool,
}

impl Template {
    /// Whether it goes by a name.
    #[must_use]
    pub fn is_called(&self, name: &str) -> bool {
        self.name == name || self.aliases.iter().any(|alias| alias == name)
    }
}

/// Reads an index, without its signature.
///
/// # Errors
/// The first line that makes no sense.
pub fn parse(text: &str) -> Result<Vec<Template>, Fault> {
    let mut templates: Vec<Template> = Vec::new();
    for section in ini::parse(text)? {
        let template = template(&section)?;
        let twin = |other: &Template| other.name == template.name && other.arch == template.arch;
        if templates.iter().any(twin) {
            let why = format!("`{}` for {} is there twice", template.name, template.arch);
            return Err(Fault::at(section.line, why));
        }
        templates.push(template);
    }
    Ok(templates)
}

fn template(section: &Section) -> Result<Template, Fault> {
    let required = |key: &str| {
        let field = section.get(key).filter(|field| !field.value.is_empty());
        field.ok_or_else(|| Fault::at(section.line, format!("`{}` has no `{key}`", section.name)))
    };
    let text = |key: &str| section.get(key).map(|field| field.value.clone());
    let file = required("file")?;
    if let Some(why) = path_fault(&file.value) {
        return Err(Fault::at(file.line, why));
    }
    let arch = required("arch")?;
    if !arch.value.bytes().all(|c| c.is_ascii_alphanumeric() || c == b'_' || c == b'-') {
        return Err(Fault::at(arch.line, "this is no architecture"));
    }
    Ok(Template {
        name: section.name.clone(),
        aliases: text("aliases")
            .map(|names| names.split_whitespace().map(str::to_owned).collect())
            .unwrap_or_default(),
        title: text("name"),
        arch: arch.value.clone(),
        file: file.value.clone(),
        checksum: sum(section)?,
        revision: section.get("revision").map_or(Ok(1), number)?,
        format: section.get("format").map_or(Ok(None), format)?,
        size: number(required("size")?)?,
        compressed_size: section.get("compressed_size").map(number).transpose()?,
        hidden: section.get("hidden").is_some_and(|field| field.value != "false"),
    })
}

/// The strongest checksum that is there; one without a name is SHA-512.
fn sum(section: &Section) -> Result<Option<Checksum>, Fault> {
    let mut best = None;
    for field in section.fields.iter().filter(|field| field.key == "checksum") {
        let kind = field.sub.as_deref().unwrap_or("sha512");
        if kind != "sha512" && kind != "sha256" {
            continue;
        }
        let sum = checksum::parse(&field.value).filter(|sum| match sum {
            Checksum::Sha256(_) => kind == "sha256",
            Checksum::Sha512(_) => kind == "sha512",
        });
        let sum =
            sum.ok_or_else(|| Fault::at(field.line, format!("this is no {kind} checksum")))?;
        best = best.max(Some(sum));
    }
    Ok(best)
}

fn number(field: &Field) -> Result<u64, Fault> {
    field.value.parse().map_err(|_| Fault::at(field.line, "this is no number"))
}

fn format(field: &Field) -> Result<Option<DiskFormat>, Fault> {
    if field.value == "auto" {
        return Ok(None);
    }
    let found = DiskFormat::ALL.into_iter().find(|format| format.keyword() == field.value);
    found.map(Some).ok_or_else(|| Fault::at(field.line, "this format is not known"))
}

/// Why a template's file is not one of its source's own.
fn path_fault(path: &str) -> Option<&'static str> {
    if path.contains("://") || path.starts_with('/') {
        Some("a file of another place is not taken: only a path relative to the index is")
    } else if path.split('/').any(|part| part == ".." || part.is_empty()) {
        Some("`..` and empty parts may not stand in a file's path")
    } else {
        let odd = |c: char| c.is_whitespace() || c.is_control() || "?#\\%:".contains(c);
        path.contains(odd).then_some("there is a character in the path that may not be there")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn index(fields: &str) -> String {
        format!("[os-1]\narch=x86_64\nfile=os-1.xz\nsize=6442450944\n{fields}")
    }

    #[test]
    fn a_whole_entry_is_read() {
        let sum = "0f".repeat(64);
        let text = index(&format!(
            "name=OS 1\nosinfo=os1\nchecksum[sha512]={sum}\nrevision=7\nformat=raw\n\
             compressed_size=100\nexpand=/dev/sda3\nnotes=one\n two\nnotes[de]=eins\nhidden=true\n\
             aliases=os-latest  other\nnew_field=x\nchecksum[b3]=12\n"
        ));
        let templates = parse(&text).unwrap();
        assert_eq!(
            templates,
            [Template {
                name: "os-1".to_owned(),
                aliases: vec!["os-latest".to_owned(), "other".to_owned()],
                title: Some("OS 1".to_owned()),
                arch: "x86_64".to_owned(),
                file: "os-1.xz".to_owned(),
                checksum: Some(Checksum::Sha512(sum)),
                revision: 7,
                format: Some(DiskFormat::Raw),
                size: 6 << 30,
                compressed_size: Some(100),
                hidden: true,
            }]
        );
        assert!(templates[0].is_called("other") && !templates[0].is_called("os"));
    }

    #[test]
    fn what_is_not_said_has_its_default() {
        let templates = parse(&index("format=auto\nhidden=false\n")).unwrap();
        let template = &templates[0];
        assert_eq!((template.revision, template.format, template.hidden), (1, None, false));
        assert_eq!(template.checksum, None);
        let unnamed = parse(&index(&format!("checksum={}\n", "A0".repeat(64)))).unwrap();
        assert_eq!(unnamed[0].checksum, Some(Checksum::Sha512("a0".repeat(64))));
    }

    #[test]
    fn a_name_may_come_once_for_each_architecture() {
        let other = "[os-1]\narch=aarch64\nfile=a\nsize=1\n";
        assert_eq!(parse(&format!("{}{other}", index(""))).unwrap().len(), 2);
        let fault = parse(&format!("{}{}", index(""), index(""))).unwrap_err();
        assert_eq!((fault.line, fault.why.contains("twice")), (5, true));
    }

    #[test]
    fn only_files_of_the_source_are_taken() {
        for file in [
            "https://evil.example/a.xz",
            "//evil.example/a",
            "/etc/passwd",
            "../a",
            "a/../../b",
            "a//b",
            "a?b",
            "a%2e%2e/b",
            "a\\b",
            "file:a",
        ] {
            let text = format!("[a]\narch=x\nsize=1\nfile={file}\n");
            assert_eq!(parse(&text).map_err(|fault| fault.line), Err(4), "{file}");
        }
        assert!(parse("[a]\narch=x\nsize=1\nfile=sub/a..b.xz\n").is_ok());
    }

    #[test]
    fn every_fault_has_its_line() {
        for (fields, line) in [
            ("size=2\n", 5),
            ("revision=x\n", 5),
            ("revision=-1\n", 5),
            ("format=iso\n", 5),
            ("name=a\ncompressed_size=\n", 6),
            ("checksum[sha512]=12\n", 5),
            ("checksum[sha256]=zz\n", 5),
        ] {
            assert_eq!(parse(&index(fields)).map_err(|fault| fault.line), Err(line), "{fields}");
        }
        for missing in ["[a]\nfile=a\nsize=1", "[a]\narch=x\nsize=1", "[a]\narch=x\nfile=a"] {
            assert_eq!(parse(missing).map_err(|fault| fault.line), Err(1), "{missing}");
        }
        assert_eq!(parse("[a]\narch=x y\nfile=a\nsize=1").map_err(|fault| fault.line), Err(2));
    }
}
